/* Leases are locks on open file descriptions (OFD): the kernel gives one up when the last descriptor of its description is
 * closed, so for a process that has ended, also for a zombie, and whatever its pid is by then. Through its own description
 * a lock is never in the way; so who asks does it through another one.
 *
 * The bytes that are locked lie beyond the end of any file: locks need no bytes. The first says that somebody holds the
 * segment; each of the others is one participant's, who alone has it. */
#include "internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SET = 37, GET = 36 }; /* F_OFD_SETLK, F_OFD_GETLK: libc's headers hide them from some settings */
#define HELD_AT (1LL << 62)

void cl__fd_path(int fd, char path[CL__FD_PATH])
{
    snprintf(path, CL__FD_PATH, "/proc/self/fd/%d", fd);
}

int cl__fd_is_eventfd(int fd)
{
    static const char name[] = "anon_inode:[eventfd]";
    char path[CL__FD_PATH], target[sizeof name];
    struct stat file;
    cl__fd_path(fd, path);
    ssize_t length = readlink(path, target, sizeof target);
    if (length >= 0)
        return length == sizeof name - 1 && memcmp(target, name, sizeof name - 1) == 0;
    return fstat(fd, &file) == 0 && (file.st_mode & S_IFMT) == 0; /* so are all that are no files */
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
    return own < 0 ? errno == ENOENT ? -ENOTSUP : -errno : own; /* there is no /proc */
}

int64_t cl__lease_open_bare(int fd)
{
    return open_anew(fd, O_RDWR);
}

int64_t cl__lease_open(int fd)
{
    int64_t own = open_anew(fd, O_RDWR); /* a participant's lock needs one for writing; who may only read can be none */
    if (own == -EACCES || own == -EPERM || own == -EROFS)
        own = open_anew(fd, O_RDONLY); /* also refused: to who was passed a descriptor of what he may not open */
    if (own < 0)
        return own;
    int64_t rc = lock((int)own, SET, F_RDLCK, 0, NULL);
    if (rc < 0) {
        close((int)own);
        return rc == -EACCES ? -EAGAIN : rc;
    }
    return own;
}

static int64_t is_held(int fd, int64_t at)
{
    short found = F_UNLCK;
    int64_t rc = lock(fd, GET, F_WRLCK, at, &found);
    return rc < 0 ? rc : found != F_UNLCK;
}

static int64_t take(int fd, int64_t at)
{
    int64_t rc = lock(fd, SET, F_WRLCK, at, NULL);
    return rc == 0 ? 1 : rc == -EAGAIN || rc == -EACCES ? 0 : rc == -EBADF ? -EACCES : rc;
}

int64_t cl__lease_is_held(int fd)
{
    return is_held(fd, 0);
}

int64_t cl__lease_take(int fd)
{
    return take(fd, 0);
}

int64_t cl__lease_part_is_held(int fd, int part)
{
    return is_held(fd, 1 + part);
}

int64_t cl__lease_take_part(int lease, int part)
{
    return take(lease, 1 + part);
}

void cl__lease_drop_part(int lease, int part)
{
    lock(lease, SET, F_UNLCK, 1 + part, NULL);
}
