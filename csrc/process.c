/* One child, from spawn to reap. The lock makes "is it reaped?" and "signal it by number" one step: between the two a
 * pid could be reused. */
#include "internal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

void cl__process_init(cl_process *process)
{
    memset(process, 0, sizeof *process);
    pthread_mutex_init(&process->lock, NULL);
    process->child.pid = process->child.pidfd = process->watch = process->cgroup_fd = process->cgroup_kill = -1;
    process->took_terminal = 0;
    for (int i = 0; i < 3; i++)
        process->child.parent_pipe[i] = -1;
}

void cl__process_close(cl_process *process)
{
    cl__watch_end(&process->watch);
    if (process->child.pidfd >= 0)
        cl__sys_close(process->child.pidfd);
    if (process->cgroup_fd >= 0)
        cl__sys_close(process->cgroup_fd);
    if (process->cgroup_kill >= 0)
        cl__sys_close(process->cgroup_kill);
    process->child.pidfd = process->watch = process->cgroup_fd = process->cgroup_kill = -1;
}

void cl__process_reset(cl_process *process)
{
    cl__process_close(process);
    process->child.pid = -1;
    process->reaped = 0;
    process->took_terminal = 0;
    memset(&process->exit, 0, sizeof process->exit);
}

int64_t cl_process_new(cl_process **out)
{
    *out = malloc(sizeof **out);
    if (!*out)
        return -ENOMEM;
    cl__process_init(*out);
    return 0;
}

static int is_ours(const cl_process *process)
{
    return process->child.pid > 0 && process->creator == (int)cl__sys_getpid();
}

/* ---- flights of processes ----------------------------------------------------------------------------------------- */

static pthread_mutex_t flights_lock = PTHREAD_MUTEX_INITIALIZER;
static cl__flights flights = {.lock = &flights_lock};
static pthread_once_t hooks_once = PTHREAD_ONCE_INIT;
static int hooks_run; /* in a forked child: they are set */

/* Without these, a fork while another thread holds the lock would leave the child a lock nobody holds, and half a list. */
static void before_fork(void)
{
    pthread_mutex_lock(&flights_lock);
}

static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&flights_lock);
}

/* What is idle here is a copy of what is idle there. Those in the air are copies that nobody will ever leave, and that
 * nobody works in: they are forgotten, each with its process. */
static void after_fork_in_child(void)
{
    pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
    flights_lock = fresh;
    hooks_run = 1;
    flights.adrift = NULL;
}

/* A fork of another thread's in the midst of pthread_once, with the hooks set: in the child that runs once more. */
static void set_hooks(void)
{
    if (!hooks_run)
        pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* ---- spawning ----------------------------------------------------------------------------------------------------- */

void cl_process_free(cl_process *process)
{
    if (!process)
        return;
    if (is_ours(process)) {
        cl__process_reap(process);
        if (!cl__process_settle(process, &flights))
            cl__flight_leave(&flights, process->child.flight);
    }
    cl__process_reset(process);
    pthread_mutex_destroy(&process->lock);
    free(process);
}

/* What the scope will be signalled and killed by: with no room for it there must be no child. -ENOENT: no cgroup.kill, so
 * it is of a v1 hierarchy, or the kernel is older than 5.14. */
static int64_t hold_cgroup(cl_process *process, int dir)
{
    int64_t copy = cl__sys_dup_above(dir, 3);
    if (copy < 0)
        return copy;
    process->cgroup_fd = (int)copy;
    int file = (int)cl__sys_openat(dir, "cgroup.kill", O_WRONLY);
    int64_t rc = file < 0 ? file : cl__lift(&file);
    if (rc < 0) {
        cl__process_close(process);
        return rc;
    }
    process->cgroup_kill = file;
    return 0;
}

int64_t cl__process_spawn(cl_process *process, const cl_command *command, const cl_launch *launch,
                          const cl_environ *snapshot, const cl__among *among)
{
    if (process->child.pid > 0)
        return -EBUSY;
    if (command->contain == CL_CONTAIN_CGROUP) {
        int64_t rc = hold_cgroup(process, launch->cgroup_fd);
        if (rc < 0) {
            process->child.stage = CL_STAGE_CGROUP;
            process->child.error = (int)-rc;
            return rc;
        }
    }
    process->ended_ns = 0;
    process->started_ns = cl__sys_now();
    int64_t pid = cl__spawn(command, launch, snapshot, among, &process->child);
    if (pid < 0) {
        cl__process_close(process);
        return pid;
    }
    process->creator = process->child.parent;
    process->watch = cl__watch_open(process->child.pid, process->child.pidfd);
    process->took_terminal = (command->options & CL_OPT_FOREGROUND) != 0;
    return pid;
}

int64_t cl_process_spawn(cl_process *process, const cl_command *command, const cl_launch *launch,
                         const cl_environ *snapshot)
{
    return cl__process_spawn(process, command, launch, snapshot, &(cl__among){0});
}

int64_t cl_process_spawn_nowait(cl_process *process, const cl_command *command, const cl_launch *launch,
                                const cl_environ *snapshot)
{
    pthread_once(&hooks_once, set_hooks);
    return cl__process_spawn(process, command, launch, snapshot, &(cl__among){.flights = &flights});
}

int64_t cl__process_settle(cl_process *process, cl__flights *flights)
{
    cl__spawned *child = &process->child;
    if (!child->flight)
        return 1;
    if (process->reaped) /* a kernel before 5.16 clears no word of what dumps core */
        cl__flight_is_over(child->flight, child);
    else if (!cl__flight_has_landed(child->flight, child))
        return 0;
    cl__flight_free(flights, child->flight);
    child->flight = NULL;
    return 1;
}

/* Caller holds the lock. 1: reaped, now or before. */
static int64_t reap_locked(cl_process *process)
{
    if (process->reaped)
        return 1;
    int64_t rc = cl__watch_look(process->child.pid, process->child.pidfd, 1, &process->exit);
    if (rc != 1)
        return rc;
    if (!process->ended_ns)
        process->ended_ns = cl__sys_now();
    process->reaped = 1;
    return 1;
}

int64_t cl__process_reap(cl_process *process)
{
    pthread_mutex_lock(&process->lock);
    int64_t rc = reap_locked(process);
    pthread_mutex_unlock(&process->lock);
    return rc;
}

int64_t cl__process_ended(cl_process *process)
{
    cl__exit unused;
    pthread_mutex_lock(&process->lock);
    int64_t rc = process->reaped ? 1 : cl__watch_look(process->child.pid, process->child.pidfd, 0, &unused);
    pthread_mutex_unlock(&process->lock);
    return rc;
}

int64_t cl_process_exec_state(cl_process *process)
{
    if (process->child.pid <= 0)
        return -EINVAL;
    if (!is_ours(process))
        return -EPERM;
    pthread_mutex_lock(&process->lock);
    int64_t rc = cl__process_settle(process, &flights);
    if (rc == 1 && process->child.error) {
        /* It gives up our memory on its way to its end, and cannot be reaped before it is there. */
        rc = reap_locked(process);
        rc = rc == 1 ? -process->child.error : rc;
    }
    pthread_mutex_unlock(&process->lock);
    return rc;
}

static int64_t wait_for_end(cl_process *process, int64_t timeout_ns, int64_t (*look)(cl_process *))
{
    if (process->child.pid <= 0)
        return -EINVAL;
    if (!is_ours(process))
        return -EPERM;
    int64_t begun = cl__sys_now(), waited = 0;
    for (;;) {
        int64_t rc = look(process);
        if (rc != 0)
            return rc;
        if (timeout_ns >= 0 && waited >= timeout_ns)
            return 0;
        int64_t span = cl__watch_period(process->watch, waited);
        if (timeout_ns >= 0 && (span < 0 || span > timeout_ns - waited))
            span = timeout_ns - waited;
        struct pollfd ready = {.fd = process->watch, .events = POLLIN};
        int64_t polled = cl__sys_poll(&ready, 1, span);
        if (polled < 0)
            return polled;
        if (polled > 0 && look(process) == 0)
            cl__sys_nap(CL__NOT_YET_NAP_NS);
        waited = cl__sys_now() - begun;
    }
}

int64_t cl_process_wait(cl_process *process, int64_t timeout_ns)
{
    return wait_for_end(process, timeout_ns, cl__process_reap);
}

int64_t cl_process_await_end(cl_process *process, int64_t timeout_ns)
{
    return wait_for_end(process, timeout_ns, cl__process_ended);
}

int64_t cl_process_state(cl_process *process)
{
    if (process->child.pid <= 0)
        return CL_STATE_NEW;
    if (!is_ours(process))
        return -EPERM;
    int64_t rc = cl__process_reap(process);
    if (rc < 0)
        return rc;
    if (rc == 1)
        return process->exit.state;
    return cl__watch_stopped(process->child.pid, process->child.pidfd) == 1 ? CL_STATE_STOPPED : CL_STATE_RUNNING;
}

/* Caller holds the lock. */
static int64_t signal_leader(cl_process *process, int signal)
{
    cl__exit end; /* without a pidfd the number may be a stranger's by now; with one, a zombie would take the signal */
    if (process->reaped || cl__watch_look(process->child.pid, process->child.pidfd, 0, &end) == 1)
        return -ESRCH;
    return cl__watch_signal(process->child.pid, process->child.pidfd, signal);
}

int64_t cl_process_signal(cl_process *process, int32_t signal)
{
    if (process->child.pid <= 0)
        return -EINVAL;
    if (!is_ours(process))
        return -EPERM;
    pthread_mutex_lock(&process->lock);
    /* Learn of the end first: a zombie takes signals and drops them, and the caller should hear ESRCH. */
    int64_t rc = reap_locked(process);
    rc = rc < 0 ? rc : signal_leader(process, signal);
    pthread_mutex_unlock(&process->lock);
    return rc;
}

int64_t cl__process_signal(cl_process *process, int signal)
{
    if (!is_ours(process))
        return -EPERM;
    pthread_mutex_lock(&process->lock);
    int64_t rc = signal_leader(process, signal);
    pthread_mutex_unlock(&process->lock);
    return rc;
}

static int64_t signal_group(cl_process *process, int signal)
{
    int64_t rc = cl__watch_signal_group(process->child.pid, process->child.pidfd, signal);
    if (rc != -ENOSYS)
        return rc;
    /* By number: only while our unreaped leader keeps that number from being reused, which it no longer does when
     * somebody else reaped it (SIGCHLD is ignored, a foreign waitpid(-1)). */
    cl__exit end = {.state = CL_STATE_RUNNING};
    if (!process->reaped)
        cl__watch_look(process->child.pid, process->child.pidfd, 0, &end);
    return process->reaped || end.state == CL_STATE_UNKNOWN ? -ECHILD : cl__sys_kill(-process->child.pid, signal);
}

int64_t cl__process_signal_scope(cl_process *process, int signal)
{
    int64_t rc;
    pthread_mutex_lock(&process->lock);
    if (process->child.contained == CL_CONTAIN_CGROUP) {
        rc = signal == SIGKILL ? cl__cgroup_kill(process->cgroup_kill) : cl__cgroup_signal(process->cgroup_fd, signal);
        if (rc < 0) /* nobody there, no pidfds or no free descriptor to signal members with: then the leader at least */
            rc = signal_leader(process, signal);
    } else if (process->child.contained == CL_CONTAIN_GROUP) {
        rc = signal_group(process, signal);
        if (rc == -ESRCH && process->child.flight) /* it has perhaps not made its group yet */
            rc = signal_leader(process, signal);
    } else {
        rc = signal_leader(process, signal);
    }
    pthread_mutex_unlock(&process->lock);
    return rc;
}

int64_t cl_process_signal_scope(cl_process *process, int32_t signal)
{
    if (process->child.pid <= 0)
        return -EINVAL;
    return is_ours(process) ? cl__process_signal_scope(process, signal) : -EPERM;
}

/* A shell that has put us in the background (Ctrl-Z, bg) would be stopped, or end, if its terminal were taken. */
static int somebody_else_has_the_terminal(int group)
{
    int64_t tty = cl__sys_open("/dev/tty", O_RDWR);
    int64_t owner = tty < 0 ? tty : cl__sys_get_foreground((int)tty);
    if (tty >= 0)
        cl__sys_close((int)tty);
    return owner > 0 && owner != group && cl__sys_kill(-(int)owner, 0) != -ESRCH; /* ESRCH: a group that is no more */
}

int64_t cl_process_take_terminal(cl_process *process)
{
    if (!is_ours(process))
        return 0;
    pthread_mutex_lock(&process->lock);
    int took = process->took_terminal;
    process->took_terminal = 0;
    pthread_mutex_unlock(&process->lock);
    if (!took)
        return 0;
    return somebody_else_has_the_terminal(process->child.pid) ? 0 : cl__take_terminal();
}

int64_t cl_process_report(cl_process *process, cl_report *out)
{
    /* In a forked child nobody else is there to change anything, or to release a lock that was held at the fork. */
    int shared = is_ours(process);
    if (shared)
        pthread_mutex_lock(&process->lock);
    const cl__spawned *child = &process->child;
    const struct rusage *usage = &process->exit.usage;
    int64_t until = process->reaped ? process->ended_ns : cl__sys_now();
    *out = (cl_report){
        .pid = child->pid,
        .pidfd = process->watch,
        .strategy = child->strategy,
        .contained = child->contained,
        .stage = child->stage,
        .error = child->error,
        .pipe = {child->parent_pipe[0], child->parent_pipe[1], child->parent_pipe[2]},
        .state = process->reaped ? process->exit.state : child->pid > 0 ? CL_STATE_RUNNING : CL_STATE_NEW,
        .status = process->exit.status,
        .core_dumped = process->exit.core_dumped,
        .elapsed_ns = process->started_ns ? until - process->started_ns : 0,
        .user_us = usage->ru_utime.tv_sec * 1000000LL + usage->ru_utime.tv_usec,
        .system_us = usage->ru_stime.tv_sec * 1000000LL + usage->ru_stime.tv_usec,
        .max_rss_kib = cl__max_rss_kib(usage),
        .minor_faults = usage->ru_minflt,
        .major_faults = usage->ru_majflt,
        .block_reads = usage->ru_inblock,
        .block_writes = usage->ru_oublock,
        .voluntary_switches = usage->ru_nvcsw,
        .involuntary_switches = usage->ru_nivcsw,
        .not_applied = (int64_t)child->not_applied,
    };
    if (shared)
        pthread_mutex_unlock(&process->lock);
    return 0;
}
