/* Waiting for many descriptors at a price that does not grow with their number: epoll. */
#include "internal.h"
#include "atomic.h"

#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

static const uint64_t TIMER = UINT64_MAX;

int64_t cl__poller_open(cl__poller *poller)
{
    *poller = (cl__poller){.fd = epoll_create1(EPOLL_CLOEXEC), .timer = -1};
    if (poller->fd < 0)
        return -errno;
    return cl__lift(&poller->fd);
}

void cl__poller_close(cl__poller *poller)
{
    if (poller->timer >= 0)
        cl__sys_close(poller->timer);
    if (poller->fd >= 0)
        cl__sys_close(poller->fd);
    poller->fd = poller->timer = -1;
}

int64_t cl__poller_add(cl__poller *poller, int fd, int writes, uint64_t key)
{
    struct epoll_event event = {.events = writes ? EPOLLOUT : EPOLLIN, .data.u64 = key};
    return epoll_ctl(poller->fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

/* Always before the close: a child between its clone and its exec has a copy, which keeps the item alive, and its events
 * would come under a key that is somebody else's by then. */
void cl__poller_remove(cl__poller *poller, int fd)
{
    epoll_ctl(poller->fd, EPOLL_CTL_DEL, fd, NULL);
}

static int64_t wait_exactly(int fd, struct epoll_event *events, int most, int64_t span)
{
    static _Atomic(int) is_missing; /* P3: relaxed; the answer is the same whoever asks */
    if (!cl__load_relaxed(&is_missing)) {
        struct timespec time = {.tv_sec = span / CL__NS_PER_S, .tv_nsec = span % CL__NS_PER_S};
        long rc = syscall(SYS_epoll_pwait2, fd, events, most, span < 0 ? NULL : &time, NULL, 0);
        if (rc >= 0 || (errno != ENOSYS && errno != EPERM))
            return rc < 0 ? -errno : rc;
        cl__store_relaxed(&is_missing, 1); /* before 5.11 */
    }
    int64_t ms = span < 0 ? -1 : span / 1000000 + (span % 1000000 != 0);
    int rc = epoll_wait(fd, events, most, ms > INT32_MAX ? INT32_MAX : (int)ms);
    return rc < 0 ? -errno : rc;
}

int64_t cl__poller_wait(cl__poller *poller, cl__ready *out, int most, int64_t span)
{
    struct epoll_event events[CL__READY_MOST];
    int64_t count = wait_exactly(poller->fd, events, most, span), kept = 0;
    for (int64_t i = 0; i < count; i++) {
        if (events[i].data.u64 == TIMER)
            cl__poller_arm(poller, -1);
        else
            out[kept++] = (cl__ready){.key = events[i].data.u64, .hup = (events[i].events & EPOLLHUP) != 0};
    }
    return count < 0 ? count : kept;
}

int64_t cl__poller_arm(cl__poller *poller, int64_t when)
{
    struct itimerspec time = {.it_value = {0, 0}};
    if (poller->timer < 0) {
        if (when < 0)
            return 0;
        int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        if (fd < 0)
            return -errno;
        int64_t rc = cl__lift(&fd);
        if (rc >= 0 && (rc = cl__poller_add(poller, fd, 0, TIMER)) < 0)
            cl__sys_close(fd);
        if (rc < 0)
            return rc;
        poller->timer = fd;
    }
    if (when >= 0)
        time.it_value = (struct timespec){.tv_sec = when / CL__NS_PER_S, .tv_nsec = when % CL__NS_PER_S + (when == 0)};
    return timerfd_settime(poller->timer, TFD_TIMER_ABSTIME, &time, NULL) < 0 ? -errno : 0;
}
