/* Where there is no clone, posix_spawn is the only strategy. */
#include "internal.h"

int64_t cl__clone_child(cl__job *job, int *strategy, int cgroup_fd, int *pidfd)
{
    (void)job, (void)strategy, (void)cgroup_fd, (void)pidfd;
    return -ENOSYS;
}

int cl__clone_strategy(int wanted)
{
    return wanted == CL_STRATEGY_AUTO || wanted == CL_STRATEGY_POSIX_SPAWN ? CL_STRATEGY_POSIX_SPAWN : -ENOSYS;
}
