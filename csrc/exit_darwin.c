/* macOS: a kqueue with one EVFILT_PROC event is a descriptor that becomes readable when the child ends. */
#include "internal.h"

#include <fcntl.h>
#include <sys/event.h>
#include <unistd.h>

int64_t cl_platform(void)
{
    return CL_PLATFORM_DARWIN;
}

int cl__watch_open(int pid, int pidfd)
{
    (void)pidfd;
    int queue = kqueue();
    if (queue < 0)
        return -1; /* EMFILE: cl__watch_period falls back on looking */
    fcntl(queue, F_SETFD, FD_CLOEXEC);
    struct kevent end;
    EV_SET(&end, pid, EVFILT_PROC, EV_ADD | EV_ONESHOT, NOTE_EXIT, 0, NULL);
    if (kevent(queue, &end, 1, NULL, 0, NULL) < 0) {
        /* ESRCH: it has ended already, and no event will come. A watch that always looks is right for that. */
        close(queue);
        return -1;
    }
    return queue;
}

int cl__watch_end(int *watch)
{
    if (*watch >= 0)
        close(*watch);
    *watch = -1;
    return 0;
}

int64_t cl__watch_period(int watch, int64_t waited_ns)
{
    /* The event comes when the child begins to exit, a moment before it can be reaped: so look again soon, always. */
    if (watch >= 0)
        return 100000000;
    return waited_ns < 20000000 ? 500000 : 10000000;
}
