/* Linux: the strategies that clone. What each costs and needs is in api/spawn.h. */
#include "internal.h"
#include "atomic.h"

#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x1000
#endif
#define CLONE_CLEARS_HANDLERS 0x100000000ULL
#define CLONE_INTO_A_CGROUP 0x200000000ULL

/* struct clone_args up to `cgroup` (CLONE_ARGS_SIZE_VER2); a kernel without the last fields refuses non-zero ones. */
typedef struct clone_request {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
} clone_request;

/* ---- child stacks ------------------------------------------------------------------------------------------------- */

/* A vfork child of our own frame could overwrite what the parent returns to, and an overflow would be silent: so the
 * child gets a stack with a guard page. Mapping one costs more than a spawn's other bookkeeping, so a few are kept. */
enum { STACK_SIZE = 64 * 1024, STACK_GUARD = 64 * 1024 /* a whole page wherever pages are <= 64 KiB */, STACKS_KEPT = 8 };

static _Atomic(void *) kept_stacks[STACKS_KEPT];

static void *stack_take(void)
{
    for (int i = 0; i < STACKS_KEPT; i++) {
        /* S1: pairs with S2; whoever kept it is done with it. */
        void *stack = cl__exchange_acq_rel(&kept_stacks[i], NULL);
        if (stack)
            return stack;
    }
    void *stack = mmap(NULL, STACK_GUARD + STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stack == MAP_FAILED)
        return NULL;
    if (mprotect(stack, STACK_GUARD, PROT_NONE) != 0) {
        munmap(stack, STACK_GUARD + STACK_SIZE);
        return NULL;
    }
    return stack;
}

static void stack_give(void *stack)
{
    for (int i = 0; i < STACKS_KEPT; i++) {
        void *nothing = NULL;
        /* S2: pairs with S1. */
        if (cl__swap_if(&kept_stacks[i], &nothing, stack))
            return;
    }
    munmap(stack, STACK_GUARD + STACK_SIZE);
}

/* ---- the calls ---------------------------------------------------------------------------------------------------- */

CL__CHILD static int start_job(void *job)
{
    cl__child_main(job);
}

/* `stack` is its low end; `tid`: not held, and cleared when the child has left our memory (flight_linux.c). */
static int64_t clone3_job(cl__job *job, void *stack, size_t size, int cgroup_fd, int *pidfd, int *tid)
{
    clone_request request = {
        .flags = CLONE_VM | CLONE_PIDFD | CLONE_CLEARS_HANDLERS | (tid ? CLONE_CHILD_CLEARTID : CLONE_VFORK),
        .pidfd = (uintptr_t)pidfd,
        .child_tid = (uintptr_t)tid,
        .exit_signal = SIGCHLD,
        .stack = (uintptr_t)stack,
        .stack_size = size,
    };
    if (cgroup_fd >= 0) {
        request.flags |= CLONE_INTO_A_CGROUP;
        request.cgroup = (uint64_t)cgroup_fd;
    }
    job->handlers_cleared = 1;
    job->cgroup_fd = -1;
    return cl__sys_clone3_onto(&request, sizeof request, start_job, job);
}

static int64_t by_clone3(cl__job *job, void *stack, int cgroup_fd, int *pidfd)
{
    return clone3_job(job, (char *)stack + STACK_GUARD, STACK_SIZE, cgroup_fd, pidfd, NULL);
}

int64_t cl__clone3_flight(cl__job *job, void *stack, size_t size, int cgroup_fd, int *pidfd, int *tid)
{
    return clone3_job(job, stack, size, cgroup_fd, pidfd, tid);
}

/* CLONE_PIDFD rather than a pidfd_open afterwards: a child that is gone by then (SIGCHLD ignored by the host, or a
 * foreign waitpid(-1)) would have no pidfd to ask. Before 5.2 the flag is ignored and *pidfd stays -1. */
static int64_t by_vfork(cl__job *job, void *stack, int cgroup_fd, int *pidfd)
{
    int saved = errno;
    job->handlers_cleared = 0;
    job->cgroup_fd = cgroup_fd;
    int pid = clone(start_job, (char *)stack + STACK_GUARD + STACK_SIZE,
                    CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, job, pidfd);
    int64_t rc = pid < 0 ? -errno : pid;
    errno = saved;
    return rc;
}

/* A copied address space, and libc's at-fork hooks are not run: the child does nothing that they would protect. */
static int64_t by_fork(cl__job *job, int cgroup_fd, int *pidfd)
{
    int saved = errno;
    job->handlers_cleared = 0;
    job->cgroup_fd = cgroup_fd;
    int64_t pid = cl__sys_fork_held(CLONE_PIDFD | CLONE_VFORK, pidfd);
    if (pid == 0)
        cl__child_main(job);
    errno = saved;
    return pid;
}

/* ---- what works here ---------------------------------------------------------------------------------------------- */

enum { UNKNOWN = 0, WORKS = 1, MISSING = 2 };
static _Atomic(int) clone3_works, memory_is_shared, flights_work;

/* Does a CLONE_VM|CLONE_VFORK child write in our memory, and are we held until it is gone? Under some emulators it is
 * a plain fork: then what it reports would be lost. Asked once, with a child that fails at once. */
static int shares_memory(void *stack)
{
    /* P1: relaxed; the answer is the same whoever asks. */
    int known = cl__load_relaxed(&memory_is_shared);
    if (known != UNKNOWN)
        return known == WORKS;
    const char *paths[] = {NULL};
    const cl_command nothing = {.argv = paths, .options = CL_OPT_KEEP_OTHERS,
                                .signal_mask = UINT64_MAX}; /* a signal to our group may not look like an answer */
    cl__job probe = {.command = &nothing, .env = paths, .paths = paths, .cgroup_fd = -1, .report_fd = -1};
    int pidfd = -1;
    int64_t pid = by_vfork(&probe, stack, -1, &pidfd);
    if (pid < 0)
        return 1; /* no answer (EAGAIN, ENOMEM): the real attempt will say so, and the next one asks again */
    int shared = probe.stage == CL_STAGE_EXEC;
    if (pidfd >= 0)
        cl__sys_close(pidfd);
    while (waitpid((pid_t)pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    cl__store_relaxed(&memory_is_shared, shared ? WORKS : MISSING);
    return shared;
}

/* Beside clone3: a close_range that closes (5.9), an honest CLONE_VM, and system calls that leave errno alone. */
int cl__clone3_can_fly(void)
{
    int known = cl__load_relaxed(&flights_work); /* P2: relaxed; the answer is the same whoever asks */
    if (known == UNKNOWN) {
        int could = cl__sys_leaves_errno() && cl__sys_close_range(~0U, ~0U) == 0;
        void *stack = could ? stack_take() : NULL;
        if (could && !stack)
            return 0; /* no memory now, which is no answer */
        known = could && shares_memory(stack) ? WORKS : MISSING;
        if (stack)
            stack_give(stack);
        cl__store_relaxed(&flights_work, known);
    }
    return known == WORKS && cl__load_relaxed(&clone3_works) != MISSING;
}

int cl__clone_strategy(int wanted)
{
    if (wanted == CL_STRATEGY_AUTO)
        return cl__load_relaxed(&clone3_works) == MISSING ? CL_STRATEGY_VFORK : CL_STRATEGY_CLONE3;
    return wanted;
}

/* CLONE_VFORK holds us until the child has exec'd or ended, so what it had to say is in the pipe by now. Not end of file:
 * a process that another thread forked meanwhile holds the write end too, for as long as it likes. Only where the hold
 * is not to be trusted (see shares_memory) it has to be waited for. */
static void hear_of_fork(int fd, cl__job *job)
{
    struct pollfd said = {.fd = fd, .events = POLLIN};
    int64_t ready;
    while ((ready = cl__sys_poll(&said, 1, 0)) > 0)
        if (!cl__report_hear(fd, job))
            return;
    if (ready == 0) {
        void *stack = stack_take();
        int held = stack && shares_memory(stack);
        if (stack)
            stack_give(stack);
        if (held)
            return;
    }
    cl__report_listen(fd, job);
}

/* A fork's report comes through a pipe: end of file is success, because exec closes the child's end. */
static int64_t fork_and_listen(cl__job *job, int cgroup_fd, int *pidfd)
{
    int ends[2];
    int64_t rc = cl__sys_pipe(ends);
    if (rc < 0) {
        job->stage = CL_STAGE_PREPARE;
        return rc;
    }
    job->report_fd = ends[1];
    int64_t pid = by_fork(job, cgroup_fd, pidfd);
    cl__sys_close(ends[1]);
    job->report_fd = -1;
    if (pid > 0)
        hear_of_fork(ends[0], job);
    cl__sys_close(ends[0]);
    return pid;
}

static int64_t clone_held(cl__job *job, int *strategy, int cgroup_fd, int *pidfd)
{
    void *stack = stack_take();
    if (!stack) {
        job->stage = CL_STAGE_PREPARE;
        return -ENOMEM;
    }
    int64_t pid = -ENOSYS;
    if (!shares_memory(stack)) {
        *strategy = CL_STRATEGY_FORK;
        pid = fork_and_listen(job, cgroup_fd, pidfd);
    } else if (*strategy == CL_STRATEGY_CLONE3) {
        pid = by_clone3(job, stack, cgroup_fd, pidfd);
    } else {
        pid = by_vfork(job, stack, cgroup_fd, pidfd);
    }
    stack_give(stack);
    return pid;
}

int64_t cl__clone_child(cl__job *job, int *strategy, int cgroup_fd, int *pidfd)
{
    *pidfd = -1;
    if (*strategy == CL_STRATEGY_FORK)
        return fork_and_listen(job, cgroup_fd, pidfd);
    int64_t pid = clone_held(job, strategy, cgroup_fd, pidfd);
    int refused = pid == -ENOSYS || pid == -EPERM || pid == -EINVAL;
    if (*strategy == CL_STRATEGY_CLONE3 && refused && job->command->strategy == CL_STRATEGY_AUTO) {
        /* An old kernel (ENOSYS; EINVAL before CLEAR_SIGHAND) or a container runtime's filter (EPERM in old ones).
         * With a cgroup it may be about that, so only a refusal without one is remembered. */
        if (cgroup_fd < 0)
            cl__store_relaxed(&clone3_works, MISSING);
        *strategy = CL_STRATEGY_VFORK;
        pid = clone_held(job, strategy, cgroup_fd, pidfd);
    }
    return pid;
}
