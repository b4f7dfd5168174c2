/* Bells: descriptors that become readable when somebody else publishes, for those who wait in an event loop (CL__POLL).
 *
 * A bell is a pipe of the waiter's. In shared memory is where it is: a process, a number there, an inode. Whoever rings opens
 * it anew through /proc, so nothing has to be passed on, and no name lies around. What is written in shared memory may be a
 * stranger's wish, also of one who may not write to the pipe he names, our stdout: so a byte is written only into a pipe of
 * our own user's that is marked as a bell; any other stays silent, and its owner looks by itself within 100 ms. Nothing else is
 * even opened: of a device that alone may do something.
 *
 * The ringer opens both ends: a pipe that its owner has closed must not raise SIGPIPE. */
#include "atomic.h"
#include "wake.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BELL_PATH = 64 };

/* One page: the kernel makes them with 16, or with 2 for who has too many. It is enough for a bell. */
static void mark(int fd)
{
    cl__sys_set_pipe_size(fd, sysconf(_SC_PAGESIZE));
}

static int is_marked(int fd)
{
    int64_t size = cl__sys_get_pipe_size(fd);
    return size == sysconf(_SC_PAGESIZE) || size == -ENOTSUP; /* where all are alike, none can be told from others */
}

int64_t cl__bell_open(cl__bell *bell, cl__bell_place *place)
{
    struct stat file;
    int ends[2];
    if (bell->ends[0] >= 0)
        return bell->ends[0];
    int64_t rc = cl__sys_pipe(ends);
    if (rc < 0)
        return rc;
    for (int i = 0; i < 2 && rc >= 0; i++)
        rc = cl__sys_set_nonblocking(ends[i]);
    if (rc >= 0 && fstat(ends[0], &file) < 0)
        rc = -errno;
    if (rc < 0) {
        close(ends[0]);
        close(ends[1]);
        return rc;
    }
    bell->ends[0] = ends[0];
    bell->ends[1] = ends[1];
    mark(ends[1]);
    cl__sys_write(ends[1], "", 1); /* whoever waits for it first looks first */
    cl__store_relaxed(&place->number, ends[0]);
    cl__store_relaxed(&place->inode, (int64_t)file.st_ino);
    cl__store_release(&place->pid, cl__sys_getpid()); /* partner: the acquire in cl__bell_ring; POLL comes after it */
    return ends[0];
}

void cl__bell_close(cl__bell *bell)
{
    for (int i = 0; i < 2; i++)
        if (bell->ends[i] >= 0)
            close(bell->ends[i]);
    bell->ends[0] = bell->ends[1] = -1;
}

void cl__bell_silence(cl__bell *bell)
{
    char bytes[64];
    while (bell->ends[0] >= 0 && cl__sys_read(bell->ends[0], bytes, sizeof bytes) == sizeof bytes)
        continue;
}

static int is_ours(int place, int64_t inode)
{
    struct stat file;
    return fstat(place, &file) == 0 && S_ISFIFO(file.st_mode) && (int64_t)file.st_ino == inode && file.st_uid == geteuid();
}

/* The pipe to write to, or -1. It is looked at before it is opened, and what is opened is what was looked at. */
static int open_theirs(int64_t pid, int32_t number, int64_t inode)
{
    char path[BELL_PATH];
    snprintf(path, sizeof path, "/proc/%lld/fd/%d", (long long)pid, number);
    int place = (int)cl__sys_open_place(path), fd = -1;
    if (place < 0)
        return -1;
    if (is_ours(place, inode)) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", place);
        fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    }
    close(place);
    if (fd >= 0 && !is_marked(fd)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

void cl__bell_ring(cl__ringer *ringer, const cl__bell_place *place)
{
    int64_t pid = cl__load_acquire(&place->pid), inode = cl__load_relaxed(&place->inode); /* partner: cl__bell_open */
    int32_t number = cl__load_relaxed(&place->number);
    if (ringer->fd < 0 || ringer->inode != inode) {
        cl__ringer_close(ringer);
        int fd = pid > 0 && number >= 0 ? open_theirs(pid, number, inode) : -1;
        if (fd < 0)
            return;
        ringer->fd = fd;
        ringer->inode = inode;
    }
    cl__sys_write(ringer->fd, "", 1); /* full: it is readable as it is */
}

/* Forgotten first: another thread may fork in between, and in that child the number would be closed a second time, or rung, when
 * it is another file's. */
void cl__ringer_close(cl__ringer *ringer)
{
    int fd = ringer->fd;
    ringer->fd = -1;
    if (fd >= 0)
        close(fd);
    CL_FAULT(134);
}
