/* posix_spawn: the only strategy outside Linux, and one to compare with on it. Its attributes do process groups,
 * signals and the descriptor map; a job that needs more goes through the exec trampoline. */
#include "internal.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>

enum { TRAMPOLINE_OPTIONS = CL_OPT_CWD_FD | CL_OPT_UMASK | CL_OPT_NEW_SESSION | CL_OPT_TERMINAL | CL_OPT_FOREGROUND |
                            CL_OPT_NICE | CL_OPT_SCHEDULER | CL_OPT_IO_PRIORITY | CL_OPT_OOM_SCORE_ADJ |
                            CL_OPT_DEATH_SIGNAL | CL_OPT_NO_NEW_PRIVS | CL_OPT_UID | CL_OPT_GID | CL_OPT_GROUPS |
                            CL_OPT_UCLAMP | CL_OPT_MEMORY_POLICY | CL_OPT_AUTOGROUP };

enum { CARRIED_MOST = 4 /* descriptors that only the trampoline needs */ };

typedef struct posix_request {
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    int *lifted; /* our copies, closed afterwards */
    size_t lifted_count;
    cl__carried carried;
} posix_request;

static char trampoline[4096];

int64_t cl_set_trampoline(const char *path)
{
    size_t length = strlen(path);
    if (length == 0)
        return -EINVAL;
    if (length >= sizeof trampoline)
        return -ENAMETOOLONG;
    memcpy(trampoline, path, length + 1);
    return 0;
}

static int needs_trampoline(const cl__job *job)
{
    const cl_command *command = job->command;
    return (command->options & TRAMPOLINE_OPTIONS) || command->cwd || command->limit_count || command->cpus ||
           command->signal_ignores || job->cgroup_fd >= 0;
}

/* A copy of `fd` that no dup2 of the map can hit. */
static int64_t lift(posix_request *request, const cl__job *job, int fd)
{
    int64_t copy = cl__dup_clear(job, fd);
    if (copy >= 0)
        request->lifted[request->lifted_count++] = (int)copy;
    return copy;
}

/* Let the trampoline have a descriptor of ours under a number that is free in both processes: we hold the number
 * with a CLOEXEC copy, and the child's dup2 onto it makes an inheritable one. */
static int64_t carry(posix_request *request, const cl__job *job, int *fd)
{
    if (*fd < 0)
        return 0;
    int64_t source = lift(request, job, *fd);
    int64_t target = source < 0 ? source : lift(request, job, *fd);
    if (target < 0)
        return target;
    *fd = (int)target;
    return -posix_spawn_file_actions_adddup2(&request->actions, (int)source, (int)target);
}

static int64_t add_moves(posix_request *request, const cl__job *job)
{
    for (size_t i = 0; i < job->move_count; i++) {
        int target = job->moves[i].target;
        int64_t source = job->moves[i].source;
        int rc;
        if (source == CL__SOURCE_NULL) {
            rc = posix_spawn_file_actions_addopen(&request->actions, target, "/dev/null", O_RDWR, 0);
        } else {
            source = source == CL__SOURCE_STDOUT ? 1 : lift(request, job, (int)source);
            if (source < 0)
                return source;
            rc = posix_spawn_file_actions_adddup2(&request->actions, (int)source, target);
        }
        if (rc != 0)
            return -rc;
    }
    return 0;
}

static void set_from_bits(sigset_t *set, uint64_t bits)
{
    sigemptyset(set);
    for (int s = 1; s <= CL__SIGNAL_COUNT; s++)
        if (bits & CL__SIGNAL_BIT(s))
            sigaddset(set, s); /* EINVAL for libc's own: nothing a program may ask for */
}

static int64_t set_attributes(posix_request *request, const cl__job *job, int tramp, short flags)
{
    sigset_t set;
    set_from_bits(&set, tramp ? UINT64_MAX : job->command->signal_mask); /* the trampoline sets the final one itself */
    posix_spawnattr_setsigmask(&request->attributes, &set);
    set_from_bits(&set, job->command->signal_defaults | CL__SIGNAL_BIT(SIGPIPE) | CL__SIGNAL_BIT(SIGXFSZ));
    posix_spawnattr_setsigdefault(&request->attributes, &set);
    if (job->own_group && !tramp) {
        flags |= POSIX_SPAWN_SETPGROUP;
        posix_spawnattr_setpgroup(&request->attributes, job->process_group);
    }
    return -posix_spawnattr_setflags(&request->attributes, flags);
}

static int64_t build(posix_request *request, const cl__job *job, int tramp, int report_fd)
{
    int64_t rc = add_moves(request, job);
    request->carried = (cl__carried){.cwd_fd = -1, .terminal_fd = -1, .cgroup_fd = -1, .report_fd = report_fd};
    if (tramp) {
        cl__carried *carried = &request->carried;
        uint64_t options = job->command->options;
        carried->cwd_fd = options & CL_OPT_CWD_FD ? job->command->cwd_fd : -1;
        carried->terminal_fd = options & CL_OPT_TERMINAL ? job->command->terminal_fd : -1;
        carried->cgroup_fd = job->cgroup_fd;
        int *each[] = {&carried->cwd_fd, &carried->terminal_fd, &carried->cgroup_fd, &carried->report_fd};
        for (size_t i = 0; i < CARRIED_MOST && rc >= 0; i++)
            rc = carry(request, job, each[i]);
    }
    short flags = POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
    if (rc >= 0 && !(job->command->options & CL_OPT_KEEP_OTHERS))
        rc = cl__posix_close_others(job, tramp, &request->actions, &flags);
    return rc < 0 ? rc : set_attributes(request, job, tramp, flags);
}

/* posix_spawn on each path in turn, as execvp would. */
static int64_t spawn_first(const posix_request *request, cl__job *job)
{
    int error = ENOENT;
    for (const char **path = job->paths; *path; path++) {
        pid_t pid;
        int rc, tries = 0;
        while ((rc = posix_spawn(&pid, *path, &request->actions, &request->attributes,
                                 (char *const *)job->command->argv, (char *const *)job->env)) == ETXTBSY &&
               tries++ < CL__BUSY_TRIES)
            cl__sys_nap(CL__BUSY_NAP_NS); /* as cl__child_main does */
        if (rc == 0)
            return pid;
        if (rc == EACCES)
            error = rc;
        else if (!cl__nothing_there(-rc) || !job->paths[1])
            return -rc;
    }
    return -error;
}

/* The trampoline itself; what happens in it comes back through the report pipe. */
static int64_t spawn_trampoline(const posix_request *request, cl__job *job)
{
    const char **argv;
    pid_t pid;
    int64_t rc = cl__wire_pack(job, &request->carried, trampoline, &argv);
    if (rc < 0)
        return rc;
    int error = posix_spawn(&pid, trampoline, &request->actions, &request->attributes, (char *const *)argv,
                            (char *const *)job->env);
    free(argv);
    if (error)
        job->stage = error == E2BIG ? CL_STAGE_EXEC : CL_STAGE_TRAMPOLINE;
    return error ? -error : pid;
}

/* libc says only that it failed. Most steps go through the trampoline, which names them: what is left is joining a
 * group, the descriptor map and exec, and each has errors of its own. */
static int failed_stage(const cl__job *job, int64_t error)
{
    if (job->process_group && (error == -EPERM || error == -ESRCH))
        return CL_STAGE_GROUP;
    if (error == -EBADF || error == -EMFILE)
        return CL_STAGE_DESCRIPTORS;
    return error == -EAGAIN || error == -ENOMEM ? CL_STAGE_CLONE : CL_STAGE_EXEC;
}

static int64_t spawn_in_group(posix_request *request, cl__job *job)
{
    int64_t rc = spawn_first(request, job);
    if (job->own_group != CL__GROUP_SOFT || (rc != -EPERM && rc != -ESRCH))
        return rc;
    posix_spawnattr_setpgroup(&request->attributes, 0);
    return spawn_first(request, job);
}

static int64_t run_request(posix_request *request, cl__job *job)
{
    int report[2] = {-1, -1};
    int tramp = needs_trampoline(job);
    int64_t rc = tramp ? cl__sys_socketpair(report) : 0;
    if (rc >= 0)
        rc = build(request, job, tramp, report[1]);
    if (rc < 0)
        job->stage = CL_STAGE_DESCRIPTORS;
    else if (tramp)
        rc = spawn_trampoline(request, job);
    else if ((rc = spawn_in_group(request, job)) < 0)
        job->stage = failed_stage(job, rc);
    for (size_t i = 0; i < request->lifted_count; i++)
        cl__sys_close(request->lifted[i]);
    if (tramp) {
        cl__sys_close(report[1]);
        if (rc > 0)
            cl__report_await(report[0], (int)rc, job);
        cl__sys_close(report[0]);
    }
    return rc;
}

int64_t cl__posix_child(cl__job *job, int *pidfd)
{
    posix_request request = {.lifted_count = 0};
    request.lifted = malloc((job->move_count + 2 * CARRIED_MOST) * sizeof *request.lifted);
    if (!request.lifted)
        return -ENOMEM;
    int rc = posix_spawn_file_actions_init(&request.actions);
    if (rc == 0 && (rc = posix_spawnattr_init(&request.attributes)) != 0)
        posix_spawn_file_actions_destroy(&request.actions);
    int64_t pid = -rc;
    if (rc == 0) {
        pid = run_request(&request, job);
        posix_spawn_file_actions_destroy(&request.actions);
        posix_spawnattr_destroy(&request.attributes);
    }
    free(request.lifted);
    *pidfd = -1;
    return pid;
}
