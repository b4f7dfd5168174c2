/* Leases are locks on open file descriptions (OFD): the kernel gives one up when the last descriptor of its description is
 * closed, so for a process that has ended, also for a zombie, and whatever its pid is by then. Through its own description
 * a lock is never in the way; so who asks does it through another one.
 *
 * The bytes that are locked lie beyond the end of any file: locks need no bytes. One says that somebody holds the file; of
 * those behind it each is of one participant, who has it alone. */
#include "internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

enum { SET = 37, GET = 36 }; /* F_OFD_SETLK, F_OFD_GETLK: libc's headers hide them from some settings */
#define HELD_AT (1LL << 62)

void cl__fd_path(int fd, char path[CL__FD_PATH])
{
    snprintf(path, CL__FD_PATH, "/proc/self/fd/%d", fd);
}

static int64_t lock(int fd, int command, short kind, int64_t at, short *found)
{
    struct flock range = {.l_type = kind, .l_whence = SEEK_SET, .l_start = HELD_AT + at, .l_len = 1};
    if (fcntl(fd, command, &range) < 0)
        return -errno;
    if (found)
        *found = range.l_type;
    return 0;
}

static int64_t open_anew(int fd, int access)
{
    char path[CL__FD_PATH];
    cl__fd_path(fd, path);
    int own;
    do
        own = open(path, access | O_CLOEXEC);
    while (own < 0 && errno == EINTR);
    if (own < 0)
        return errno == ENOENT ? -ENOTSUP : -errno; /* there is no /proc */
    return own;
}

int64_t cl__lease_open(int fd)
{
    /* Whoever may only read holds it too; having a byte alone needs a description that could write. */
    int64_t own = cl__lease_open_bare(fd);
    if (own == -EACCES || own == -EPERM || own == -EROFS)
        own = open_anew(fd, O_RDONLY);
    if (own < 0)
        return own;
    int64_t rc = lock((int)own, SET, F_RDLCK, 0, NULL);
    if (rc < 0) {
        close((int)own);
        return rc == -EACCES ? -EAGAIN : rc;
    }
    return own;
}

int64_t cl__lease_open_bare(int fd)
{
    return open_anew(fd, O_RDWR);
}

int64_t cl__lease_is_held(int fd)
{
    short found = F_UNLCK;
    int64_t rc = lock(fd, GET, F_WRLCK, 0, &found);
    return rc < 0 ? rc : found != F_UNLCK;
}

int64_t cl__lease_take(int fd)
{
    int64_t rc = lock(fd, SET, F_WRLCK, 0, NULL);
    return rc == 0 ? 1 : rc == -EAGAIN || rc == -EACCES ? 0 : rc;
}

int64_t cl__lease_join(int lease, int64_t index)
{
    int64_t rc = lock(lease, SET, F_WRLCK, 1 + index, NULL);
    if (rc == -EBADF) /* it can only be read */
        return -EACCES;
    return rc == 0 ? 1 : rc == -EAGAIN || rc == -EACCES ? 0 : rc;
}

int64_t cl__lease_part(int lease, int64_t index)
{
    return lock(lease, SET, F_UNLCK, 1 + index, NULL);
}

int64_t cl__lease_is_joined(int fd, int64_t index)
{
    short found = F_UNLCK;
    int64_t rc = lock(fd, GET, F_WRLCK, 1 + index, &found);
    return rc < 0 ? rc : found != F_UNLCK;
}
