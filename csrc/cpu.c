/* Affinity, scheduling and memory policy of threads that run: the system calls in api/cpu.h's terms. What a new child is
 * given is done by the child, in spawn_child.c. */
#include "internal.h"

#include <string.h>

int64_t cl_cpu_thread(void)
{
    return cl__sys_gettid();
}

int64_t cl_cpu_get_affinity(int32_t thread, uint8_t *mask, int64_t room)
{
    return room < 0 ? -EINVAL : cl__sys_get_affinity(thread, mask, (size_t)room);
}

static int has_all(const uint8_t *mask, int64_t size, const uint8_t *wanted, int64_t wanted_size)
{
    for (int64_t i = 0; i < wanted_size; i++)
        if (wanted[i] & ~(i < size ? mask[i] : 0))
            return 0;
    return 1;
}

/* Two threads that set the mask of a third at the same time: each may read back what the other has set. The last one to
 * set it wins, as with the plain system call, and the other one may be told that not all was applied. */
int64_t cl_cpu_set_affinity(int32_t thread, const uint8_t *mask, int64_t size, int32_t all_or_nothing, uint8_t *before,
                            uint8_t *after, int64_t room)
{
    int64_t bytes = size < 0 ? -EINVAL : cl_cpu_get_affinity(thread, before, room);
    if (bytes < 0)
        return bytes;
    int64_t rc = cl__sys_set_affinity(thread, mask, (size_t)size);
    if (rc == -EINVAL) { /* none of them is there for it, or it is a kernel thread, which stays where it is */
        memset(after, 0, (size_t)bytes);
        return -ENODEV;
    }
    rc = rc < 0 ? rc : cl_cpu_get_affinity(thread, after, room);
    if (rc < 0 || has_all(after, bytes, mask, size))
        return rc < 0 ? rc : bytes;
    if (all_or_nothing)
        cl__sys_set_affinity(thread, before, (size_t)bytes);
    return -ENODEV;
}

int64_t cl_cpu_get_sched(int32_t thread, cl_sched *out)
{
    return cl__sys_get_sched(thread, out);
}

static int64_t set_policy(int32_t thread, const cl_sched *sched)
{
    if (sched->policy == CL_SCHED_KEEP)
        return 0;
    if (sched->policy == CL_SCHED_DEADLINE)
        return cl__sys_set_deadline(thread, (uint64_t)sched->runtime_ns, (uint64_t)sched->deadline_ns,
                                    (uint64_t)sched->period_ns, sched->reset_on_fork != 0);
    return cl__sys_set_scheduler(thread, (int)sched->policy, (int)sched->priority, sched->reset_on_fork != 0);
}

int64_t cl_cpu_set_sched(int32_t thread, const cl_sched *sched)
{
    int64_t rc = set_policy(thread, sched);
    if (rc < 0 || (sched->util_min < 0 && sched->util_max < 0))
        return rc;
    return cl__sys_set_util(thread, (int)sched->util_min, (int)sched->util_max);
}

int64_t cl_cpu_get_nice(int32_t who, int32_t id)
{
    return cl__sys_get_nice(who, id);
}

int64_t cl_cpu_set_nice(int32_t who, int32_t id, int32_t nice)
{
    return cl__sys_set_nice(who, id, nice);
}

int64_t cl_cpu_get_io_priority(int32_t who, int32_t id)
{
    return cl__sys_get_io_priority(who, id);
}

int64_t cl_cpu_set_io_priority(int32_t who, int32_t id, int32_t value)
{
    return cl__sys_set_io_priority(who, id, value);
}

/* The kernel reads and writes whole words of these masks, whatever it is told: the rest of the last one is not ours. */
static int is_of_words(int64_t bytes)
{
    return bytes >= 0 && bytes % 8 == 0;
}

int64_t cl_cpu_get_memory_policy(uint8_t *nodes, int64_t room)
{
    return room == 0 || !is_of_words(room) ? -EINVAL : cl__sys_get_memory_policy(nodes, (size_t)room);
}

int64_t cl_cpu_set_memory_policy(int32_t policy, const uint8_t *nodes, int64_t size)
{
    return is_of_words(size) ? cl__sys_set_memory_policy(policy, nodes, (size_t)size) : -EINVAL;
}

int64_t cl_cpu_get_qos(void)
{
    return cl__sys_get_qos();
}

int64_t cl_cpu_set_qos(int32_t qos)
{
    return cl__sys_set_qos(qos);
}
