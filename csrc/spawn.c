/* The parent's side of a spawn: make the command concrete, choose a strategy, start the child, clean up after it. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

enum { FORKING_OPTIONS = CL_OPT_UID | CL_OPT_GID | CL_OPT_GROUPS | CL_OPT_CGROUP_V1 };

typedef struct attempt {
    cl__job job;
    const char **changed_env; /* owned, or NULL */
    void *memory;             /* owned: the job's moves and paths */
    int strategy, cgroup_fd, pidfd;
    cl__flight *flight;       /* NULL: the caller is held until the child has exec'd */
} attempt;

/* TIOCGPGRP answers only for the caller's own controlling terminal. */
static int stdin_is_our_terminal(const cl_launch *launch)
{
    const cl_stream *in = &launch->stream[0];
    if (in->kind != CL_IO_INHERIT && in->kind != CL_IO_FD)
        return 0;
    return cl__sys_get_foreground(in->kind == CL_IO_FD ? in->fd : 0) >= 0;
}

/* A child in a group of its own that reads our terminal is stopped by SIGTTIN, so AUTO leaves it in ours then. */
static void decide_groups(cl__job *job, const cl_launch *launch, const cl__spawned *leader)
{
    const cl_command *command = job->command;
    if (leader) {
        /* It is not reaped, but where SIGCHLD is ignored, or somebody waits for all, it may be gone with its group. */
        job->own_group = leader->leads ? CL__GROUP_SOFT : CL__GROUP_OURS;
        job->process_group = leader->leads ? leader->pid : 0;
        job->contained = leader->contained;
        return;
    }
    int joins_another = (command->options & CL_OPT_PROCESS_GROUP) && command->process_group != 0;
    int leads = (command->options & (CL_OPT_NEW_SESSION | CL_OPT_FOREGROUND)) != 0 ||
                ((command->options & CL_OPT_PROCESS_GROUP) && command->process_group == 0);
    if (!leads && !joins_another && command->contain != CL_CONTAIN_NONE)
        leads = command->contain == CL_CONTAIN_GROUP || !stdin_is_our_terminal(launch);
    job->own_group = leads || joins_another ? CL__GROUP_SET : CL__GROUP_OURS;
    job->process_group = joins_another ? command->process_group : 0;
    if (command->contain == CL_CONTAIN_CGROUP)
        job->contained = CL_CONTAIN_CGROUP;
    else
        job->contained = leads && command->contain != CL_CONTAIN_NONE ? CL_CONTAIN_GROUP : CL_CONTAIN_NONE;
}

static int by_target(const void *a, const void *b)
{
    const cl__move *left = a, *right = b;
    return (left->target > right->target) - (left->target < right->target);
}

static void fill_moves(cl__job *job, const cl__stdio *io)
{
    const cl_command *command = job->command;
    cl__move *move = job->moves;
    for (int i = 0; i < 3; i++)
        if (io->child[i] != -1)
            *move++ = (cl__move){.source = io->child[i], .target = i};
    for (uint32_t i = 0; i < command->move_count; i++)
        *move++ = (cl__move){.source = command->moves[i].source, .target = command->moves[i].target};
    job->move_count = (size_t)(move - job->moves);
    if (command->move_count > 1)
        qsort(job->moves, job->move_count, sizeof *move, by_target);
}

static int64_t prepare(attempt *try, const cl_launch *launch, const cl__stdio *io, const cl_environ *snapshot,
                       const cl__spawned *leader)
{
    cl__job *job = &try->job;
    const cl_command *command = job->command;
    const char *program = command->program ? command->program : command->argv[0];
    if (!program)
        return -EINVAL;
    job->env = command->env ? command->env : cl__environ_strings(snapshot);
    if (command->env_changes) {
        int64_t rc = cl__environ_change(job->env, command->env_changes, &try->changed_env);
        if (rc < 0)
            return rc;
        job->env = try->changed_env;
    }
    size_t paths = cl__paths_size(program, job->env);
    size_t moves = (command->move_count + 3) * sizeof *job->moves;
    try->memory = malloc(moves + paths); /* moves first: both parts stay aligned for their types */
    if (!try->memory)
        return -ENOMEM;
    job->moves = try->memory;
    cl__paths_build(program, job->env, (char *)try->memory + moves, paths, &job->paths);
    fill_moves(job, io);
    decide_groups(job, launch, leader);
    job->parent = (int)cl__sys_getpid();
    job->report_fd = job->cgroup_fd = -1;
    try->cgroup_fd = launch->cgroup_fd;
    return 0;
}

static int64_t choose(attempt *try)
{
    const cl_command *command = try->job.command;
    int wanted = command->strategy;
    int must_fork = (command->options & FORKING_OPTIONS) != 0;
    if (wanted == CL_STRATEGY_AUTO && must_fork && cl__clone_strategy(CL_STRATEGY_FORK) >= 0)
        wanted = CL_STRATEGY_FORK;
    /* A changed uid on a shared address space would change the parent's dumpable flag with it. */
    if (must_fork && (wanted == CL_STRATEGY_CLONE3 || wanted == CL_STRATEGY_VFORK))
        return -EINVAL;
    try->strategy = cl__clone_strategy(wanted);
    return try->strategy;
}

/* Everything between "signals blocked" and "signals back": may run on the spawner thread. */
static int64_t start(void *argument)
{
    attempt *try = argument;
    uint64_t old;
    cl__sys_block_signals(UINT64_MAX, &old);
    int64_t pid;
    if (try->flight) {
        pid = cl__flight_start(try->flight, try->cgroup_fd, &try->pidfd);
    } else if (try->strategy == CL_STRATEGY_POSIX_SPAWN) {
        try->job.cgroup_fd = try->cgroup_fd;
        pid = cl__posix_child(&try->job, &try->pidfd);
    } else {
        pid = cl__clone_child(&try->job, &try->strategy, try->cgroup_fd, &try->pidfd);
    }
    cl__sys_block_signals(old, NULL);
    return pid;
}

static int64_t start_where_it_may_live(attempt *try)
{
    /* The death signal is sent when the *thread* that cloned ends. */
    if ((try->job.command->options & CL_OPT_DEATH_SIGNAL) && !cl__sys_is_main_thread(try->job.parent))
        return cl__on_spawner(start, try);
    return start(try);
}

static void reap_failed(int64_t pid, int *pidfd)
{
    while (waitpid((pid_t)pid, NULL, 0) < 0 && errno == EINTR)
        continue; /* ECHILD: somebody else did */
    if (*pidfd >= 0)
        cl__sys_close(*pidfd);
    *pidfd = -1;
}

static int leads(const cl__job *job)
{
    return job->own_group && !job->process_group;
}

/* Without being held, if that is wanted and can be. */
static int64_t start_at_best(attempt *try, cl__flights *flights)
{
    int may_fly = flights && try->strategy == CL_STRATEGY_CLONE3 && try->job.command->strategy == CL_STRATEGY_AUTO;
    if (!may_fly || !cl__may_fly(&try->job, try->cgroup_fd))
        return start_where_it_may_live(try);
    int64_t rc = cl__flight_new(flights, &try->job, &try->flight);
    if (rc < 0)
        return rc;
    rc = start_where_it_may_live(try);
    if (rc > 0) {
        try->strategy = CL_STRATEGY_FLIGHT;
        /* It does that itself, but perhaps later than the next stage of its pipeline would join the group. */
        if (leads(&try->job) && !(try->job.command->options & CL_OPT_NEW_SESSION))
            cl__sys_setpgid((int)rc, (int)rc);
        return rc;
    }
    cl__flight_free(flights, try->flight);
    try->flight = NULL;
    /* Refused, by an old kernel or a filter: the held ways find out by which, and remember. */
    return rc == -ENOSYS || rc == -EPERM || rc == -EINVAL ? start_where_it_may_live(try) : rc;
}

static int64_t spawn_prepared(attempt *try, cl__flights *flights, cl__spawned *out)
{
    int64_t rc = choose(try);
    if (rc < 0) {
        try->job.stage = CL_STAGE_PREPARE;
        return rc;
    }
    int64_t pid = start_at_best(try, flights);
    if (pid < 0 && !try->job.stage)
        try->job.stage = CL_STAGE_CLONE; /* or there was no room for the spawner thread */
    if (pid < 0)
        return pid;
    if (try->job.error) {
        if ((try->job.command->options & CL_OPT_FOREGROUND) && try->job.stage > CL_STAGE_FOREGROUND)
            cl__take_terminal(); /* the child had it already */
        reap_failed(pid, &try->pidfd);
        return -try->job.error;
    }
    if (try->pidfd < 0)
        try->pidfd = cl__watch_child((int)pid);
    if (cl__lift(&try->pidfd) < 0)
        try->pidfd = -1; /* without it we are slower, not wrong */
    out->pid = (int)pid;
    out->parent = try->job.parent;
    out->pidfd = try->pidfd;
    out->strategy = try->strategy;
    out->not_applied = try->job.not_applied;
    out->contained = try->job.contained;
    out->leads = leads(&try->job);
    out->flight = try->flight;
    return pid;
}

/* Before anything here is opened, and takes the number of a descriptor that the caller has closed. */
static int64_t check_given(const cl_command *command, const cl_launch *launch)
{
    for (int i = 0; i < 3; i++)
        if (launch->stream[i].kind == CL_IO_FD && !cl__sys_is_open(launch->stream[i].fd))
            return -EBADF;
    for (uint32_t i = 0; i < command->move_count; i++)
        if (!cl__sys_is_open(command->moves[i].source))
            return -EBADF;
    return 0;
}

static int64_t failed_at(cl__spawned *out, int stage, int64_t rc)
{
    out->stage = stage;
    out->error = (int)-rc;
    return rc;
}

int64_t cl__spawn(const cl_command *command, const cl_launch *launch, const cl_environ *snapshot, const cl__among *among,
                  cl__spawned *out)
{
    cl__stdio io;
    attempt try = {.job.command = command, .pidfd = -1};
    *out = (cl__spawned){.pid = -1, .pidfd = -1, .parent_pipe = {-1, -1, -1}};
    int64_t rc = check_given(command, launch);
    if (rc < 0)
        return failed_at(out, CL_STAGE_DESCRIPTORS, rc);
    rc = cl__stdio_open(&io, launch);
    if (rc < 0)
        return failed_at(out, CL_STAGE_PIPE, rc);
    rc = prepare(&try, launch, &io, snapshot, among->leader);
    if (rc < 0)
        try.job.stage = CL_STAGE_PREPARE;
    else
        rc = spawn_prepared(&try, among->flights, out);
    free(try.memory);
    free(try.changed_env);
    cl__stdio_close_child(&io);
    if (rc < 0) {
        cl__stdio_close_parent(&io);
        return failed_at(out, try.job.stage, rc);
    }
    memcpy(out->parent_pipe, io.parent, sizeof io.parent);
    return rc;
}
