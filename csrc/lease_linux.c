/* Leases are locks on open file descriptions (OFD): the kernel gives one up when the last descriptor of its description is
 * closed, so for a process that has ended, also for a zombie, and whatever its pid is by then. Through its own description
 * a lock is never in the way; so who asks does it through another one.
 *
 * The bytes that are locked lie beyond the end of any file: locks need no bytes. The first says that somebody holds the
 * segment; each of the others is one participant's, who alone has it. */
#include "atomic.h"
#include "internal.h"

#include <fcntl.h>
#include <unistd.h>

enum { SET = 37, GET = 36 }; /* F_OFD_SETLK, F_OFD_GETLK: libc's headers hide them from some settings */
#define HELD_AT (1LL << 62)

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

int64_t cl__lease_open_bare(const cl__lease *lease, int fd)
{
    (void)lease;
    return open_anew(fd, O_RDWR);
}

void cl__lease_close_bare(const cl__lease *lease, int bare)
{
    (void)lease;
    close(bare);
}

const char *cl__lease_magic(void)
{
    return "corelane";
}

static int64_t open_and_hold(int fd)
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

int64_t cl__lease_open(cl__lease *lease, int fd, int makes)
{
    (void)makes;
    int64_t own = open_and_hold(fd);
    lease->own = own < 0 ? -1 : (int)own;
    cl__store_relaxed(&lease->asks, fd); /* partner: cl__lease_part_is_held */
    return own < 0 ? own : 0;
}

void cl__lease_close(cl__lease *lease, int fd)
{
    (void)fd;
    cl__lease_forget(lease);
}

void cl__lease_forget(cl__lease *lease)
{
    if (lease->own >= 0)
        close(lease->own);
    lease->own = -1;
    cl__store_relaxed(&lease->asks, -1); /* partner: as above; what is asked of another file meanwhile does not matter */
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

int64_t cl__lease_take(int fd, int *own)
{
    *own = -1;
    return take(fd, 0);
}

void cl__lease_give_back(int fd, int own)
{
    (void)fd, (void)own; /* it goes with that descriptor */
}

int64_t cl__lease_part_is_held(const cl__lease *lease, int part)
{
    return is_held(cl__load_relaxed(&lease->asks), 1 + part); /* partner: the stores above */
}

int64_t cl__lease_take_part(int lease, int part)
{
    return take(lease, 1 + part);
}

void cl__lease_drop_part(int lease, int part)
{
    lock(lease, SET, F_UNLCK, 1 + part, NULL);
}

int64_t cl_segment_sweep(void)
{
    return 0; /* nothing lies beside a segment */
}
