/* Events: counts that processes share by their descriptor.
 *
 * An eventfd is one by itself. A FIFO holds the count in its bytes: as a semaphore one byte for each unit, else each signal
 * as 8 bytes, which whoever waits adds up. What is written at once stays together (PIPE_BUF), so a read never finds a part
 * of one. It is open for reading and writing: one descriptor is enough, and there is no end of file and no SIGPIPE. Its
 * permission to execute, of no other use, says that it is a semaphore.
 *
 * A thread may close it while others use it; the last of all closes the descriptor, as its number may be another file's at
 * once:
 *
 *     A: about to read 7     B: closes 7     C: opens a file, which is 7     A: reads from it */
#include "atomic.h"
#include "internal.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define CLOSED 0x80000000u
#define SLICE_NS 100000000LL /* a signal may come between the caller's look for signals and the sleep */
#define NAP_NS 1000000LL

enum { RECORD = 8, PIECE = 512 /* at most _POSIX_PIPE_BUF */ };

struct cl_eventfd {
    _Atomic uint32_t users; /* threads that are in a call, and CLOSED */
    int fd;
    int flags;
};

int64_t cl_eventfd_new(cl_eventfd **out)
{
    cl_eventfd *event = calloc(1, sizeof *event);
    if (!event)
        return -ENOMEM;
    event->fd = -1;
    atomic_init(&event->users, CLOSED);
    *out = event;
    return 0;
}

void cl_eventfd_free(cl_eventfd *event)
{
    if (!event)
        return;
    cl_eventfd_close(event);
    free(event);
}

/* ---- who uses it -------------------------------------------------------------------------------------------------- */

static int enter(cl_eventfd *event)
{
    uint32_t users = cl__load_acquire(&event->users); /* partner: the release in begin */
    do {
        if (users & CLOSED)
            return 0;
    } while (!cl__swap_if(&event->users, &users, users + 1)); /* partner: the or in cl_eventfd_close; one of them is first */
    return 1;
}

static void leave(cl_eventfd *event)
{
    if (cl__add(&event->users, UINT32_MAX) == (CLOSED | 1)) /* partner: as above; nobody can enter any more */
        close(event->fd);
}

static void begin(cl_eventfd *event, int fd, int flags)
{
    event->fd = fd;
    event->flags = flags;
    cl__store_release(&event->users, 0); /* partner: the acquire in enter */
}

void cl_eventfd_close(cl_eventfd *event)
{
    if (cl__or(&event->users, CLOSED) == 0) /* partner: enter, leave */
        close(event->fd);
}

void cl_eventfd_forked(cl_eventfd *event)
{
    if (cl__and(&event->users, CLOSED) > CLOSED) /* partner: none, this thread is alone */
        close(event->fd);
}

int64_t cl_eventfd_fd(const cl_eventfd *event)
{
    return cl__load_acquire(&event->users) & CLOSED ? -EBADF : event->fd; /* partner: the release in begin */
}

int64_t cl_eventfd_dup(cl_eventfd *event, cl_opened *out)
{
    if (!enter(event))
        return -EBADF;
    int64_t rc = cl__sys_dup_above(event->fd, 3);
    leave(event);
    out->fd = rc < 0 ? -1 : rc;
    return rc;
}

/* ---- making and attaching ----------------------------------------------------------------------------------------- */

static int64_t open_fifo(const char *directory, int semaphore)
{
    static _Atomic uint32_t names;
    char path[PATH_MAX];
    struct stat file;
    int rc;
    do {
        uint32_t number = cl__add_relaxed(&names, 1); /* partner: none, it is only to be another one */
        int length = snprintf(path, sizeof path, "%s/corelane-event-%lld-%u", directory, (long long)cl__sys_getpid(), number);
        if (length >= (int)sizeof path)
            return -ENAMETOOLONG;
        rc = mkfifo(path, S_IRUSR | S_IWUSR);
    } while (rc < 0 && errno == EEXIST);
    if (rc < 0)
        return -errno;
    int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
    int error = fd < 0 ? errno : 0;
    unlink(path);
    if (fd < 0)
        return -error;
    if (fstat(fd, &file) < 0 || !S_ISFIFO(file.st_mode) || file.st_uid != geteuid() ||
        (semaphore && fchmod(fd, S_IRWXU) < 0)) { /* in a directory of whom else? */
        close(fd);
        return -EPERM;
    }
    return fd;
}

static int64_t put(cl_eventfd *event, uint64_t n, uint64_t *done);

int64_t cl_eventfd_open(cl_eventfd *event, uint64_t initial, int32_t flags, const char *directory)
{
    if (event->fd >= 0)
        return -EBUSY;
    int64_t rc = flags & CL_EVENTFD_FIFO ? -ENOTSUP : cl__sys_eventfd(flags & CL_EVENTFD_SEMAPHORE);
    if (rc == -ENOTSUP) {
        flags |= CL_EVENTFD_FIFO;
        rc = open_fifo(directory, flags & CL_EVENTFD_SEMAPHORE);
    }
    int fd = (int)rc;
    rc = rc < 0 ? rc : cl__lift(&fd);
    if (rc < 0)
        return rc;
    begin(event, fd, flags);
    uint64_t done = 0;
    while (rc >= 0 && done < initial)
        rc = put(event, initial - done, &done);
    if (rc < 0)
        cl_eventfd_close(event);
    return rc < 0 ? rc : 0;
}

/* Its flags, or -EINVAL. */
static int64_t what_is(int fd)
{
    struct stat file;
    int access = fcntl(fd, F_GETFL);
    if (access < 0 || fstat(fd, &file) < 0)
        return -errno;
    if (cl__fd_is_eventfd(fd))
        return 0;
    if (!S_ISFIFO(file.st_mode) || file.st_nlink != 0 || (access & O_ACCMODE) != O_RDWR)
        return -EINVAL;
    return CL_EVENTFD_FIFO | (file.st_mode & S_IXUSR ? CL_EVENTFD_SEMAPHORE : 0);
}

int64_t cl_eventfd_attach(cl_eventfd *event, int32_t fd)
{
    if (event->fd >= 0)
        return -EBUSY;
    int64_t flags = what_is(fd);
    if (flags < 0)
        return flags;
    int64_t own = cl__sys_dup_above(fd, 3);
    if (own < 0)
        return own;
    int64_t rc = fcntl((int)own, F_GETFL) & O_NONBLOCK ? 0 : cl__sys_set_nonblocking((int)own);
    if (rc < 0) {
        close((int)own);
        return rc;
    }
    begin(event, (int)own, (int)flags);
    return 0;
}

/* ---- the count ---------------------------------------------------------------------------------------------------- */

/* Add n; as a semaphore in a FIFO some of them. -EAGAIN: there is no room. */
static int64_t put(cl_eventfd *event, uint64_t n, uint64_t *done)
{
    static const char ones[PIECE] = {0};
    int by_bytes = event->flags == (CL_EVENTFD_FIFO | CL_EVENTFD_SEMAPHORE);
    size_t piece = n < PIECE ? (size_t)n : PIECE;
    int64_t rc = by_bytes ? cl__sys_write(event->fd, ones, piece) : cl__sys_write(event->fd, &n, sizeof n);
    if (rc < 0)
        return rc;
    *done += by_bytes ? (uint64_t)rc : n;
    return 0;
}

static int64_t add_up(cl_eventfd *event, uint64_t *taken)
{
    uint64_t records[PIECE];
    int64_t got;
    *taken = 0;
    do {
        got = cl__sys_read(event->fd, records, sizeof records);
        if (got < 0)
            return *taken ? 0 : got;
        if (got % RECORD)
            return -EBADMSG;
        for (int64_t i = 0; i < got / RECORD; i++)
            if (__builtin_add_overflow(*taken, records[i], taken))
                *taken = UINT64_MAX - 1; /* as much as an eventfd counts */
    } while (got == sizeof records);
    return *taken ? 0 : -EBADMSG;
}

/* -EAGAIN: there is nothing. */
static int64_t take(cl_eventfd *event, uint64_t *taken)
{
    if (event->flags == CL_EVENTFD_FIFO)
        return add_up(event, taken);
    char unit;
    int64_t rc = event->flags & CL_EVENTFD_FIFO ? cl__sys_read(event->fd, &unit, 1) : cl__sys_read(event->fd, taken, RECORD);
    if (rc == 1)
        *taken = 1;
    return rc < 0 ? rc : 0;
}

/* ---- waiting ------------------------------------------------------------------------------------------------------ */

/* 0: look again; -ETIMEDOUT, -EINTR, -EBADF. `*until` is when the call comes back, 0 before its first sleep. */
static int64_t sleep_for(cl_eventfd *event, short what, int64_t deadline, int64_t *until)
{
    int64_t now = cl__sys_now();
    *until = *until ? *until : now + SLICE_NS;
    int64_t end = deadline >= 0 && deadline < *until ? deadline : *until;
    if (now >= end)
        return end == *until ? -EINTR : -ETIMEDOUT;
    struct pollfd one = {.fd = event->fd, .events = what};
    int64_t rc = cl__sys_poll(&one, 1, end - now);
    if (cl__load(&event->users) & CLOSED) /* partner: the or in cl_eventfd_close */
        return -EBADF;
    return rc < 0 ? rc : 0;
}

int64_t cl_eventfd_signal(cl_eventfd *event, uint64_t n, int64_t deadline, uint64_t *done)
{
    int64_t until = 0, rc = 0;
    if (!enter(event))
        return -EBADF;
    while (*done < n) {
        rc = put(event, n - *done, done);
        if (rc == -EAGAIN) {
            rc = sleep_for(event, POLLOUT, deadline, &until);
            if (rc == 0 && put(event, n - *done, done) == -EAGAIN)
                cl__sys_nap(NAP_NS); /* there is room, but not for as many: poll would not sleep */
        }
        if (rc < 0)
            break;
    }
    leave(event);
    return rc;
}

int64_t cl_eventfd_wait(cl_eventfd *event, int64_t deadline, uint64_t *taken)
{
    int64_t until = 0, rc;
    if (!enter(event))
        return -EBADF;
    /* Of two that are woken by one signal the second finds nothing, and goes on waiting. */
    while ((rc = take(event, taken)) == -EAGAIN)
        if ((rc = sleep_for(event, POLLIN, deadline, &until)) < 0)
            break;
    leave(event);
    return rc;
}
