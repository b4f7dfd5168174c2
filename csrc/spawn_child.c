/* The child's side of a spawn: from clone to exec.
 *
 * Under CLONE_VM this runs in the parent's memory, on a stack of its own, while the calling thread is held and every
 * other thread of the parent goes on. So: system calls and the job only. No allocation, no lock, no stdio, no errno,
 * nothing that libc might keep in thread-local storage. All signals are blocked until just before exec, because a
 * handler of the parent's, run here, would change the parent's memory.
 *
 * The order is the contract (each step's reason is beside it) and `stage` says how far it came. */
#include "internal.h"

#include <fcntl.h>

#define TRY(stage_, call)                         \
    do {                                          \
        int64_t rc_ = (call);                     \
        if (rc_ < 0)                              \
            fail(job, (stage_), (int)-rc_);       \
    } while (0)

CL__CHILD static void say(const cl__job *job)
{
    if (job->report_fd < 0)
        return;
    cl__words words = {job->stage, job->error, job->not_applied};
    cl__sys_write(job->report_fd, &words, sizeof words); /* a pipe: so few bytes are written whole */
    /* If our parent has been killed, this is pending now, and would end us when it is unblocked: ignoring it drops it. */
    cl__sys_signal_ignore(SIGPIPE);
}

CL__CHILD __attribute__((noreturn)) static void fail(cl__job *job, int stage, int error)
{
    job->stage = stage;
    job->error = error;
    say(job);
    cl__sys_exit(127);
}

CL__CHILD static int has(const cl__job *job, uint64_t option)
{
    return (job->command->options & option) != 0;
}

CL__CHILD static void clear_handlers(cl__job *job)
{
    /* The mask is emptied before exec, and a pending signal must then meet a default, not the parent's handler. */
    if (job->handlers_cleared)
        return;
    for (int s = 1; s <= CL__SIGNAL_COUNT; s++)
        cl__sys_signal_reset_if_caught(s); /* EINVAL for numbers the platform lacks: nothing to reset */
}

CL__CHILD static int64_t enter_group(const cl__job *job)
{
    int64_t rc = cl__sys_setpgid(0, job->process_group);
    return rc < 0 && job->own_group == CL__GROUP_SOFT ? cl__sys_setpgid(0, 0) : rc;
}

CL__CHILD static void place_in_groups(cl__job *job)
{
    const cl_command *command = job->command;
    if (has(job, CL_OPT_NEW_SESSION))
        TRY(CL_STAGE_SESSION, cl__sys_setsid());
    else if (job->own_group)
        TRY(CL_STAGE_GROUP, enter_group(job));
    if (has(job, CL_OPT_TERMINAL))
        TRY(CL_STAGE_TERMINAL, cl__sys_set_terminal(command->terminal_fd));
    if (has(job, CL_OPT_FOREGROUND)) {
        /* From a background group this raises SIGTTOU, which is blocked here: then the call is simply carried out. */
        int64_t tty = cl__sys_open("/dev/tty", O_RDWR);
        TRY(CL_STAGE_FOREGROUND, tty);
        TRY(CL_STAGE_FOREGROUND, cl__sys_set_foreground((int)tty, (int)cl__sys_getpid()));
        cl__sys_close((int)tty);
    }
}

CL__CHILD static void join_cgroup(cl__job *job)
{
    if (job->cgroup_fd < 0)
        return;
    int64_t procs = cl__sys_openat(job->cgroup_fd, "cgroup.procs", O_WRONLY);
    TRY(CL_STAGE_CGROUP, procs);
    TRY(CL_STAGE_CGROUP, cl__sys_write((int)procs, "0", 1));
    cl__sys_close((int)procs);
}

/* Lower every limit but the one on descriptors, which must wait until we have done our work with them. */
CL__CHILD static void set_limits(cl__job *job, int descriptors)
{
    const cl_command *command = job->command;
    for (uint32_t i = 0; i < command->limit_count; i++) {
        const cl_limit *limit = &command->limits[i];
        if ((limit->resource == RLIMIT_NOFILE) == descriptors)
            TRY(CL_STAGE_LIMITS, cl__sys_set_limit(limit->resource, limit->soft, limit->hard));
    }
}

CL__CHILD static int64_t write_number(const char *path, int value)
{
    char text[16];
    char *digit = text + sizeof text;
    unsigned left = value < 0 ? (unsigned)-value : (unsigned)value;
    do
        *--digit = (char)('0' + left % 10);
    while (left /= 10);
    if (value < 0)
        *--digit = '-';
    int64_t fd = cl__sys_open(path, O_WRONLY);
    if (fd < 0)
        return fd;
    int64_t rc = cl__sys_write((int)fd, digit, (size_t)(text + sizeof text - digit));
    cl__sys_close((int)fd);
    return rc;
}

/* A step that the system may refuse: without it, with best effort. */
CL__CHILD static void want(cl__job *job, int stage, int64_t rc)
{
    if (rc >= 0)
        return;
    if (!has(job, CL_OPT_BEST_EFFORT))
        fail(job, stage, (int)-rc);
    job->not_applied |= (uint64_t)(-rc & 0xff) << 8 * (stage - CL_STAGE_NICE);
}

/* The kernel takes what it can of a mask, and says nothing of the rest. */
CL__CHILD static int64_t took_all(const uint8_t *mask, int64_t size, const uint8_t *wanted, uint32_t wanted_size)
{
    for (uint32_t i = 0; i < wanted_size; i++)
        if (wanted[i] & ~(i < size ? mask[i] : 0))
            return -ENODEV;
    return 0;
}

/* As large as any kernel's mask, in 64-bit words: MAX_CPUS and MAX_NODES are multiples of 64. */
enum { MAX_CPUS = 65536, MAX_NODES = 4096 };

CL__CHILD static int64_t set_affinity(const cl_command *command)
{
    _Alignas(8) uint8_t mask[MAX_CPUS / 8];
    int64_t rc = cl__sys_set_affinity(0, command->cpus, command->cpus_size);
    int64_t size = rc < 0 ? rc : cl__sys_get_affinity(0, mask, sizeof mask);
    return size < 0 ? size : took_all(mask, size, command->cpus, command->cpus_size);
}

CL__CHILD static int64_t set_memory_policy(const cl_command *command)
{
    _Alignas(8) uint8_t nodes[MAX_NODES / 8];
    int64_t rc = cl__sys_set_memory_policy(command->memory_policy, command->nodes, command->nodes_size);
    if (rc < 0 || !command->nodes)
        return rc;
    rc = cl__sys_get_memory_policy(nodes, sizeof nodes);
    return rc < 0 ? rc : took_all(nodes, sizeof nodes, command->nodes, command->nodes_size);
}

CL__CHILD static int64_t set_policy(const cl__job *job)
{
    const cl_command *command = job->command;
    int reset = has(job, CL_OPT_RESET_ON_FORK);
    if (command->sched_policy == CL_SCHED_DEADLINE)
        return cl__sys_set_deadline(0, command->runtime_ns, command->deadline_ns, command->period_ns, reset);
    return cl__sys_set_scheduler(0, command->sched_policy, command->sched_priority, reset);
}

/* EAGAIN: somebody on this machine has changed one in this tenth of a second. To our callers that word means that there
 * will be room for another process when one of theirs has ended. */
CL__CHILD static int64_t set_autogroup(int nice)
{
    int64_t rc = write_number("/proc/self/autogroup", nice);
    return rc == -EAGAIN ? -EBUSY : rc;
}

CL__CHILD static void set_scheduling(cl__job *job)
{
    const cl_command *command = job->command;
    if (has(job, CL_OPT_NICE))
        want(job, CL_STAGE_NICE, cl__sys_set_nice(CL_WHO_THREAD, 0, command->nice));
    if (command->cpus) /* before the policy: a deadline needs all CPUs, and our parent's mask may lack some */
        want(job, CL_STAGE_AFFINITY, set_affinity(command));
    if (has(job, CL_OPT_SCHEDULER))
        want(job, CL_STAGE_SCHEDULER, set_policy(job));
    if (has(job, CL_OPT_UCLAMP)) /* after the policy, which may have defaults of its own */
        want(job, CL_STAGE_UCLAMP, cl__sys_set_util(0, command->util_min, command->util_max));
    if (has(job, CL_OPT_IO_PRIORITY))
        want(job, CL_STAGE_IO_PRIORITY, cl__sys_set_io_priority(CL_WHO_THREAD, 0, command->io_priority));
    if (has(job, CL_OPT_MEMORY_POLICY))
        want(job, CL_STAGE_MEMORY_POLICY, set_memory_policy(command));
    if (has(job, CL_OPT_AUTOGROUP)) /* after setsid: else it would be our parent's, too */
        want(job, CL_STAGE_AUTOGROUP, set_autogroup(command->autogroup));
    if (has(job, CL_OPT_OOM_SCORE_ADJ))
        want(job, CL_STAGE_OOM, write_number("/proc/self/oom_score_adj", command->oom_score_adj));
}

CL__CHILD int cl__is_target(const cl__job *job, int64_t fd)
{
    for (size_t i = 0; i < job->move_count; i++)
        if (job->moves[i].target == fd)
            return 1;
    return 0;
}

CL__CHILD int64_t cl__dup_clear(const cl__job *job, int fd)
{
    /* Not simply above the highest target: that one may be the last number that the limit allows. */
    int64_t copy = cl__sys_dup_above(fd, 3);
    while (copy >= 0 && cl__is_target(job, copy)) {
        int64_t higher = cl__sys_dup_above(fd, (int)copy + 1);
        cl__sys_close((int)copy);
        copy = higher;
    }
    return copy;
}

/* The descriptor map. A source that is some other entry's target (1->2 with 2->1) is first copied to a number that is
 * nobody's; after that the order does not matter. */
CL__CHILD static void place_descriptors(cl__job *job)
{
    if (job->report_fd >= 0 && cl__is_target(job, job->report_fd)) {
        int64_t lifted = cl__dup_clear(job, job->report_fd);
        TRY(CL_STAGE_DESCRIPTORS, lifted);
        job->report_fd = (int)lifted;
    }
    for (size_t i = 0; i < job->move_count; i++) {
        cl__move *move = &job->moves[i];
        int64_t source = move->source;
        if (source == CL__SOURCE_NULL)
            source = cl__sys_open("/dev/null", O_RDWR);
        TRY(CL_STAGE_DESCRIPTORS, source == CL__SOURCE_STDOUT ? 0 : source);
        if (source >= 0 && source != move->target && cl__is_target(job, source)) {
            source = cl__dup_clear(job, (int)source);
            TRY(CL_STAGE_DESCRIPTORS, source);
        }
        move->source = (int)source;
    }
    /* STDOUT means descriptor 1 as it is after the map: sorted by target, stdout has been placed when stderr is. */
    for (size_t i = 0; i < job->move_count; i++) {
        int source = job->moves[i].source == CL__SOURCE_STDOUT ? 1 : job->moves[i].source;
        TRY(CL_STAGE_DESCRIPTORS, cl__sys_dup_onto(source, job->moves[i].target));
    }
}

CL__CHILD static int64_t close_these(const cl__job *job, unsigned first, unsigned last)
{
    return job->closes_others ? cl__sys_close_range(first, last) : cl__sys_cloexec_range(first, last);
}

/* Descriptors that other libraries opened without CLOEXEC: everything from 3 on that is not a target. */
CL__CHILD static void close_others(cl__job *job)
{
    unsigned first = 3;
    if (has(job, CL_OPT_KEEP_OTHERS))
        return;
    for (size_t i = 0; i < job->move_count; i++) {
        unsigned target = (unsigned)job->moves[i].target;
        if (target < 3)
            continue;
        if (first < target)
            TRY(CL_STAGE_DESCRIPTORS, close_these(job, first, target - 1));
        first = target + 1;
    }
    TRY(CL_STAGE_DESCRIPTORS, close_these(job, first, ~0U));
}

CL__CHILD static void set_credentials(cl__job *job)
{
    const cl_command *command = job->command;
    if (has(job, CL_OPT_GROUPS))
        TRY(CL_STAGE_GROUPS, cl__sys_set_groups(command->groups, command->group_count));
    if (has(job, CL_OPT_GID))
        TRY(CL_STAGE_GID, cl__sys_set_gid(command->gid));
    if (has(job, CL_OPT_UID))
        TRY(CL_STAGE_UID, cl__sys_set_uid(command->uid));
}

CL__CHILD static void tie_to_parent(cl__job *job)
{
    if (!has(job, CL_OPT_DEATH_SIGNAL))
        return;
    TRY(CL_STAGE_DEATH_SIGNAL, cl__sys_set_death_signal(job->command->death_signal));
    /* The parent may have died before the line above, and then no signal will ever come. */
    if (cl__sys_getppid() != job->parent)
        fail(job, CL_STAGE_DEATH_SIGNAL, ESRCH);
}

CL__CHILD static void set_signals(cl__job *job)
{
    const cl_command *command = job->command;
    /* Python ignores these two, and ignoring survives exec: `yes | head` would never end. */
    cl__sys_signal_default(SIGPIPE);
    cl__sys_signal_default(SIGXFSZ);
    for (int s = 1; s <= CL__SIGNAL_COUNT; s++) {
        if (command->signal_defaults & CL__SIGNAL_BIT(s))
            TRY(CL_STAGE_SIGNALS, cl__sys_signal_default(s));
        if (command->signal_ignores & CL__SIGNAL_BIT(s))
            TRY(CL_STAGE_SIGNALS, cl__sys_signal_ignore(s));
    }
    TRY(CL_STAGE_SIGNALS, cl__sys_block_signals(command->signal_mask, NULL));
}

CL__CHILD int cl__nothing_there(int64_t rc)
{
    return rc == -ENOENT || rc == -ENOTDIR || rc == -ENAMETOOLONG || rc == -ELOOP;
}

CL__CHILD __attribute__((noreturn)) static void exec_first(cl__job *job)
{
    int error = ENOENT;
    for (const char **path = job->paths; *path; path++) {
        int64_t rc;
        int tries = 0;
        /* ETXTBSY: some sibling between its clone and its exec still holds the descriptor through which the program
         * was written. It goes away by itself, in the time an exec takes. */
        while ((rc = cl__sys_exec(*path, job->command->argv, job->env)) == -ETXTBSY && tries++ < CL__BUSY_TRIES)
            cl__sys_nap(CL__BUSY_NAP_NS);
        if (rc == -EACCES)
            error = EACCES; /* a later directory may have one that we may run; if none has, this is the better answer */
        else if (!cl__nothing_there(rc) || !job->paths[1])
            fail(job, CL_STAGE_EXEC, (int)-rc); /* of the only candidate the caller wants to know just what is wrong */
    }
    fail(job, CL_STAGE_EXEC, error);
}

CL__CHILD void cl__child_main(cl__job *job)
{
    const cl_command *command = job->command;
    clear_handlers(job);
    place_in_groups(job);
    join_cgroup(job);          /* before the map, which may put something else under its directory's number */
    if (has(job, CL_OPT_UMASK))
        cl__sys_umask(command->umask);
    if (has(job, CL_OPT_CWD_FD)) /* the same */
        TRY(CL_STAGE_CWD, cl__sys_fchdir(command->cwd_fd));
    place_descriptors(job);
    close_others(job);         /* after the last use of a descriptor of the parent's, before what may hang */
    set_scheduling(job);       /* that may: as an idle one on a busy CPU. Before limits and credentials that refuse it */
    set_limits(job, 0);
    if (command->cwd)
        TRY(CL_STAGE_CWD, cl__sys_chdir(command->cwd));
    set_limits(job, 1);
    set_credentials(job);
    tie_to_parent(job);        /* after credentials: a change of those clears the death signal */
    if (has(job, CL_OPT_NO_NEW_PRIVS))
        TRY(CL_STAGE_NO_NEW_PRIVS, cl__sys_no_new_privs());
    if (job->not_applied)
        say(job);
    set_signals(job);          /* last: from here on a signal may kill us */
    exec_first(job);
}
