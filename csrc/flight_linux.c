/* Children that are not waited for: CLONE_VM without CLONE_VFORK. The parent goes on while the child is between clone and
 * exec, in the parent's memory, for as long as its exec takes - on a dead file system for ever.
 *
 * Why nothing that the child touches is shared unsafely:
 *
 *   memory      It reads and writes its flight only: stack, job, and all that the job points to are copies, made before
 *               the clone and not touched by the parent until the child has left them (tid, below).
 *   libc        It calls none of it. Its thread-local storage is that of the thread that cloned it, which uses it at the
 *               same time, or has ended: so no errno (system calls are made by instructions that store none, which only
 *               x86-64 and aarch64 have here: see sys_linux.c) and no stack protector.
 *   signals     All are blocked, so no handler of the parent's runs in it; CLONE_CLEAR_SIGHAND gives it a table of its
 *               own without handlers before it unblocks them.
 *   descriptors It has a copy of the table. The parent's ends of other children's pipes are in it, and would keep those
 *               children from their end of file for as long as this exec takes: so all that is not for the program is
 *               closed at once, and not left to exec. And before its own scheduling is set: the kernel may not let it
 *               run again for long.
 *   oom score   The kernel gives it to all who share the memory, unless vfork holds the parent: that option is held.
 *   oom killer  It judges who shares memory by all of it, unless vfork holds the parent, and kills all who share it: in a
 *               cgroup with a limit, a flight would be the largest, and take its parent along. So no flight into a cgroup.
 *   death       A parent that is killed leaves it the memory, which lives as long as anybody uses it. A fork of the
 *               parent's copies flights that nobody will ever leave: they are dropped with their pool.
 *
 * When it has left: the kernel clears `tid` when the child gives up the address space, at exec or at its end
 * (CLONE_CHILD_CLEARTID). An error of its is in the job before that.
 *
 *     parent                                  child                        kernel
 *     flight filled, tid set; clone3
 *     goes on, and never looks inside         works; fails: writes stage
 *                                             exec, or exit                tid = 0            (N2)
 *     tid == 0 (N1): reads stage, reuses */
#include "internal.h"
#include "atomic.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { GUARD = 64 * 1024, STACK = 64 * 1024, ARENA = 64 * 1024, IDLE_MOST = 256 };

struct cl__flight {
    _Atomic(int) tid;
    cl__flight *next;   /* in the pool: never the child's business */
    void *large;        /* the job's memory where the arena is too small */
    cl__job job;
    cl_command command;
};

/* One mapping: guard, stack, flight, arena. */
static cl__flight *map_flight(void)
{
    char *low = mmap(NULL, GUARD + STACK + ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (low == MAP_FAILED)
        return NULL;
    if (mprotect(low, GUARD, PROT_NONE) != 0) {
        munmap(low, GUARD + STACK + ARENA);
        return NULL;
    }
    return (cl__flight *)(void *)(low + GUARD + STACK);
}

static void unmap_flight(cl__flight *flight)
{
    munmap((char *)flight - STACK - GUARD, GUARD + STACK + ARENA);
}

/* Named by a descriptor, perhaps, that would be closed before it is used: anything below /proc and /dev. */
static int is_by_descriptor(const char *path)
{
    path += strspn(path, "/");
    return strncmp(path, "proc/", 5) == 0 || strncmp(path, "dev/", 4) == 0;
}

static int needs_a_descriptor(const cl__job *job)
{
    if (job->command->cwd && is_by_descriptor(job->command->cwd))
        return 1;
    for (const char **path = job->paths; *path; path++)
        if (is_by_descriptor(*path))
            return 1;
    return 0;
}

int cl__may_fly(const cl__job *job, int cgroup_fd)
{
    const uint64_t held = CL_OPT_FOREGROUND | CL_OPT_OOM_SCORE_ADJ | CL_OPT_KEEP_OTHERS | CL_OPT_UID | CL_OPT_GID |
                          CL_OPT_GROUPS | CL_OPT_CGROUP_V1;
    return cgroup_fd < 0 && !(job->command->options & held) && !needs_a_descriptor(job) && cl__clone3_can_fly();
}

static void lock(cl__flights *pool)
{
    if (pool->lock)
        pthread_mutex_lock(pool->lock);
}

static void unlock(cl__flights *pool)
{
    if (pool->lock)
        pthread_mutex_unlock(pool->lock);
}

/* Caller holds the lock. */
static void keep(cl__flights *pool, cl__flight *flight)
{
    free(flight->large);
    flight->large = NULL;
    if (pool->idle_count >= IDLE_MOST) {
        unmap_flight(flight);
        return;
    }
    flight->next = pool->idle;
    pool->idle = flight;
    pool->idle_count++;
}

static int has_left(cl__flight *flight)
{
    /* N1: pairs with the kernel's store N2, which comes after all that the child did in this memory. */
    return cl__load_acquire(&flight->tid) == 0;
}

/* Caller holds the lock. */
static void look_at_those_adrift(cl__flights *pool)
{
    cl__flight **link = &pool->adrift;
    while (*link) {
        cl__flight *flight = *link;
        if (has_left(flight)) {
            *link = flight->next;
            keep(pool, flight);
        } else {
            link = &flight->next;
        }
    }
}

static cl__flight *take_idle(cl__flights *pool)
{
    lock(pool);
    look_at_those_adrift(pool);
    cl__flight *flight = pool->idle;
    if (flight) {
        pool->idle = flight->next;
        pool->idle_count--;
    }
    unlock(pool);
    return flight;
}

int64_t cl__flight_new(cl__flights *pool, const cl__job *job, cl__flight **out)
{
    cl__flight *flight = take_idle(pool);
    if (!flight)
        flight = map_flight();
    if (!flight)
        return -ENOMEM;
    size_t size = cl__job_size(job);
    size_t room = ARENA - sizeof *flight;
    flight->large = size > room ? malloc(size) : NULL;
    if (size > room && !flight->large) {
        cl__flight_free(pool, flight);
        return -ENOMEM;
    }
    cl__job_copy(job, &flight->job, &flight->command, flight->large ? flight->large : flight + 1);
    flight->job.closes_others = 1;
    *out = flight;
    return 0;
}

void cl__flight_free(cl__flights *pool, cl__flight *flight)
{
    lock(pool);
    keep(pool, flight);
    unlock(pool);
}

void cl__flight_leave(cl__flights *pool, cl__flight *flight)
{
    lock(pool);
    flight->next = pool->adrift;
    pool->adrift = flight;
    unlock(pool);
}

void cl__flights_close(cl__flights *pool)
{
    while (pool->idle) {
        cl__flight *flight = pool->idle;
        pool->idle = flight->next;
        unmap_flight(flight);
    }
    pool->idle_count = 0;
}

int64_t cl__flight_start(cl__flight *flight, int cgroup_fd, int *pidfd)
{
    /* Not CLONE_PARENT_SETTID, which somebody's emulator may ignore: then it would seem to have landed before it began. */
    cl__store_relaxed(&flight->tid, -1);
    return cl__clone3_flight(&flight->job, (char *)flight - STACK, STACK, cgroup_fd, pidfd, (int *)&flight->tid);
}

int cl__flight_has_landed(cl__flight *flight, cl__spawned *out)
{
    if (!has_left(flight))
        return 0;
    cl__flight_is_over(flight, out);
    return 1;
}

void cl__flight_is_over(cl__flight *flight, cl__spawned *out)
{
    out->stage = flight->job.stage;
    out->error = flight->job.error;
    out->not_applied = flight->job.not_applied;
}
