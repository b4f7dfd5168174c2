/* Any POSIX system: nothing tells us of a child's end without a SIGCHLD handler, which belongs to the program, or a
 * thread per child. So look, and sleep between looks: half a millisecond at first, ten when it takes long. */
#include "internal.h"

int64_t cl_platform(void)
{
    return CL_PLATFORM_PORTABLE;
}

int cl__watch_open(int pid, int pidfd)
{
    (void)pid, (void)pidfd;
    return -1;
}

int cl__watch_end(int *watch)
{
    (void)watch;
    return 0;
}

int64_t cl__watch_period(int watch, int64_t waited_ns)
{
    (void)watch;
    return waited_ns < 20000000 ? 500000 : 10000000;
}
