/* A spawn that fails says at which stage and why, by every strategy, and leaves no child and no descriptor. */
#include "child.h"

#ifdef __linux__
#include <sched.h>
#endif

static plan try;

static void begin(int strategy, const char *what)
{
    say_about("%s: %s", strategy_names[strategy], what);
    plan_for(&try, "report", NULL);
    try.command.strategy = strategy;
    for (int i = 0; i < 3; i++)
        try.launch.stream[i].kind = CL_IO_PIPE; /* the more to leak */
}

static void fails_at(int stage, int error)
{
    int fds = count_fds();
    cl_process *process = new_process();
    CHECK_IS(cl_process_spawn(process, &try.command, &try.launch, NULL), -error);
    cl_report report = report_of(process);
    CHECK_IS(report.stage, stage);
    CHECK_IS(report.error, error);
    CHECK_IS(report.pid, -1);
    CHECK_IS(report.pidfd, -1);
    CHECK_IS(report.state, CL_STATE_NEW);
    for (int i = 0; i < 3; i++)
        CHECK_IS(report.pipe[i], -1);
    CHECK_IS(count_fds(), fds);
    CHECK(has_no_children());
    /* Nothing was started, so there is nothing to wait for, and the object can be used again. */
    CHECK_IS(cl_process_wait(process, 0), -EINVAL);
    CHECK_IS(cl_process_state(process), CL_STATE_NEW);
    CHECK_IS(cl_process_signal(process, SIGKILL), -EINVAL);
    CHECK_IS(cl_process_signal_scope(process, SIGKILL), -EINVAL);
    cl_process_free(process);
}

/* A failed stage must be the last thing that happens: an object used for it spawns something that works next. */
static void and_then_works(int strategy)
{
    begin(strategy, "a good spawn after a bad one");
    cl_process *process = new_process();
    try.command.cwd = "/nowhere";
    CHECK_IS(cl_process_spawn(process, &try.command, &try.launch, NULL), -ENOENT);
    try.command.cwd = NULL;
    try.launch.stream[0].kind = try.launch.stream[2].kind = CL_IO_NULL;
    cl_report report = must_spawn(process, &try);
    CHECK_IS(report.stage, CL_STAGE_NONE);
    CHECK_IS(report.error, 0);
    CHECK_IS(cl_process_spawn(process, &try.command, &try.launch, NULL), -EBUSY);
    read_all((int)report.pipe[1], seen, sizeof seen);
    close((int)report.pipe[1]);
    must_end(process);
    CHECK_IS(cl_process_spawn(process, &try.command, &try.launch, NULL), -EBUSY); /* one spawn per object */
    cl_process_free(process);
}

/* ---- before there is a child -------------------------------------------------------------------------------------- */

static void before_the_clone(int strategy)
{
    begin(strategy, "no program");
    try.argv[0] = NULL;
    fails_at(CL_STAGE_PREPARE, EINVAL);

    begin(strategy, "stdin as STDOUT");
    try.launch.stream[0].kind = CL_IO_STDOUT;
    fails_at(CL_STAGE_PIPE, EINVAL);

    begin(strategy, "a kind of stream that does not exist");
    try.launch.stream[2].kind = 77;
    fails_at(CL_STAGE_PIPE, EINVAL);

    begin(strategy, "a negative descriptor");
    try.launch.stream[2] = (cl_stream){CL_IO_FD, -1, 0};
    fails_at(CL_STAGE_DESCRIPTORS, EBADF);
#ifdef __linux__
    begin(strategy, "a capacity that no pipe has");
    try.launch.stream[2].pipe_size = (1LL << 31) + 1;
    fails_at(CL_STAGE_PIPE, EINVAL);
#endif
}

/* Every count of free descriptors up to enough: each makes another call the one that fails. */
static void out_of_descriptors(int strategy)
{
    struct rlimit before, small;
    begin(strategy, "EMFILE");
    try.command.cwd = "/";
    try.launch.stream[0].kind = CL_IO_NULL;
    getrlimit(RLIMIT_NOFILE, &before);
    int used = count_fds(), spawned = 0;
    CHECK_IS(fcntl(used, F_GETFD), -1); /* so ours are 0 to used - 1 */
    for (int spare = 0; !spawned; spare++) {
        say_about("%s: EMFILE with %d descriptors to spare", strategy_names[strategy], spare);
        small = (struct rlimit){(rlim_t)(used + spare), before.rlim_max};
        MUST(setrlimit(RLIMIT_NOFILE, &small));
        cl_process *process = new_process();
        int64_t rc = cl_process_spawn(process, &try.command, &try.launch, NULL);
        cl_report report = report_of(process);
        MUST(setrlimit(RLIMIT_NOFILE, &before));
        spawned = rc > 0;
        if (spawned) {
            read_all((int)report.pipe[1], seen, sizeof seen);
            must_end(process);
            CHECK_IS(report_of(process).status, 0);
            close((int)report.pipe[1]);
            close((int)report.pipe[2]);
        } else {
            CHECK_IS(rc, -EMFILE);
            CHECK_IS(report.error, EMFILE);
            CHECK(report.stage != CL_STAGE_NONE);
            if (spare < 4)
                CHECK_IS(report.stage, CL_STAGE_PIPE);
        }
        cl_process_free(process);
        CHECK_IS(count_fds(), used);
        CHECK(has_no_children());
        CHECK(spare < 30);
    }
}

/* ---- in the child ------------------------------------------------------------------------------------------------- */

static void in_the_child(int strategy)
{
    begin(strategy, "a group in another session");
    try.command.options = CL_OPT_PROCESS_GROUP;
    try.command.process_group = getpid(); /* not a group: we are not a leader */
    fails_at(CL_STAGE_GROUP, EPERM);

    begin(strategy, "a terminal that is none");
    int null = MUST(open("/dev/null", O_RDWR | O_CLOEXEC));
    try.command.options = CL_OPT_NEW_SESSION | CL_OPT_TERMINAL;
    try.command.terminal_fd = null;
    fails_at(CL_STAGE_TERMINAL, ENOTTY);

    begin(strategy, "foreground of no terminal");
    try.command.options = CL_OPT_NEW_SESSION | CL_OPT_FOREGROUND;
    fails_at(CL_STAGE_FOREGROUND, ENXIO);

    begin(strategy, "a limit above its own maximum");
    cl_limit limit = {RLIMIT_NOFILE, 0, 100, 50};
    try.command.limits = &limit;
    try.command.limit_count = 1;
    fails_at(CL_STAGE_LIMITS, EINVAL);

    begin(strategy, "a limit that does not exist");
    limit = (cl_limit){1000, 0, 1, 1};
    try.command.limits = &limit;
    try.command.limit_count = 1;
    fails_at(CL_STAGE_LIMITS, EINVAL);

    begin(strategy, "a cwd that is not there");
    try.command.cwd = "/nowhere/at/all";
    fails_at(CL_STAGE_CWD, ENOENT);

    begin(strategy, "a cwd that is a file");
    try.command.options = CL_OPT_CWD_FD;
    try.command.cwd_fd = null;
    fails_at(CL_STAGE_CWD, ENOTDIR);

    begin(strategy, "an empty cwd");
    try.command.cwd = "";
    fails_at(CL_STAGE_CWD, ENOENT);

    begin(strategy, "a map from a descriptor that is closed");
    cl_fd_move move = {200, 10};
    try.command.moves = &move;
    try.command.move_count = 1;
    fails_at(CL_STAGE_DESCRIPTORS, EBADF);

    begin(strategy, "a stream from a descriptor that is closed");
    try.launch.stream[1] = (cl_stream){CL_IO_FD, 201, 0};
    fails_at(CL_STAGE_DESCRIPTORS, EBADF);

    begin(strategy, "ignoring what cannot be ignored");
    try.command.signal_ignores = 1ULL << (SIGKILL - 1);
    fails_at(CL_STAGE_SIGNALS, EINVAL);
    close(null);
}

#ifdef __linux__
static void in_a_child_of_linux(int strategy)
{
    uint8_t none[128] = {0};
    int joins_at_birth = strategy == CL_STRATEGY_CLONE3;
    begin(strategy, "a policy that does not exist");
    try.command.options = CL_OPT_SCHEDULER;
    try.command.sched_policy = 99;
    fails_at(CL_STAGE_SCHEDULER, EINVAL);

    begin(strategy, "no CPU at all");
    try.command.cpus = none;
    try.command.cpus_size = sizeof none;
    fails_at(CL_STAGE_AFFINITY, EINVAL);

    begin(strategy, "a class of I/O that does not exist");
    try.command.options = CL_OPT_IO_PRIORITY;
    try.command.io_priority = 7 << 13;
    fails_at(CL_STAGE_IO_PRIORITY, EINVAL);

    begin(strategy, "an OOM score out of range");
    try.command.options = CL_OPT_OOM_SCORE_ADJ;
    try.command.oom_score_adj = 5000;
    fails_at(CL_STAGE_OOM, EINVAL);

    begin(strategy, "a death signal that does not exist");
    try.command.options = CL_OPT_DEATH_SIGNAL;
    try.command.death_signal = 999;
    fails_at(CL_STAGE_DEATH_SIGNAL, EINVAL);

    begin(strategy, "a cgroup that is none");
    try.launch.cgroup_fd = MUST(open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    fails_at(joins_at_birth ? CL_STAGE_CLONE : CL_STAGE_CGROUP, joins_at_birth ? EBADF : ENOENT);
    close(try.launch.cgroup_fd);
}
#endif

/* ---- exec --------------------------------------------------------------------------------------------------------- */

static char dir[64];

static const char *file_with(const char *name, const char *text, int mode)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = MUST(open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    CHECK_IS(write(fd, text, strlen(text)), (int64_t)strlen(text));
    MUST(fchmod(fd, (mode_t)mode));
    close(fd);
    return path;
}

static void at_exec(int strategy)
{
    begin(strategy, "a program that is not there");
    try.argv[0] = "/nowhere/at/all";
    fails_at(CL_STAGE_EXEC, ENOENT);

    begin(strategy, "the same through the trampoline");
    try.argv[0] = "/nowhere/at/all";
    try.command.cwd = "/";
    fails_at(CL_STAGE_EXEC, ENOENT);

    begin(strategy, "an empty program");
    try.argv[0] = "";
    fails_at(CL_STAGE_EXEC, ENOENT);

    begin(strategy, "a directory as program");
    try.argv[0] = "/tmp";
    fails_at(CL_STAGE_EXEC, EACCES);

    begin(strategy, "below a file");
    try.argv[0] = "/dev/null/x";
    fails_at(CL_STAGE_EXEC, ENOTDIR);

    begin(strategy, "not executable");
    try.argv[0] = file_with("plain", "#!/bin/sh\n", 0644);
    fails_at(CL_STAGE_EXEC, EACCES);

    begin(strategy, "no format"); /* execvp and posix_spawnp would hand it to sh */
    try.argv[0] = file_with("text", "echo hello\n", 0755);
    fails_at(CL_STAGE_EXEC, ENOEXEC);

    begin(strategy, "an interpreter that is not there");
    try.argv[0] = file_with("script", "#!/nowhere/sh\n", 0755);
    fails_at(CL_STAGE_EXEC, ENOENT);

    begin(strategy, "an argument that is too long");
    static char huge[3 << 20]; /* above the 128 KiB of Linux and the 1 MiB of macOS */
    memset(huge, 'x', sizeof huge - 1);
    try.argv[1] = huge;
    fails_at(CL_STAGE_EXEC, E2BIG);

    begin(strategy, "the same through the trampoline");
    try.argv[1] = huge;
    try.command.cwd = "/";
    fails_at(CL_STAGE_EXEC, E2BIG);
}

#ifdef __linux__
/* Linux 6.11 and 6.12 run a program that is open for writing. */
static int may_run_what_is_written(const char *path)
{
    int status;
    pid_t pid = MUST(fork());
    if (pid == 0) {
        execl(path, path, (char *)NULL);
        _exit(errno == ETXTBSY ? 77 : 0);
    }
    MUST(waitpid(pid, &status, 0));
    return WEXITSTATUS(status) != 77;
}

/* A sibling between its fork and its exec, with a copy of every descriptor of ours: how long it was so. */
static int64_t spawn_beside_a_writer(cl_process *process, const char *path, int64_t *rc)
{
    int64_t began = now_ns();
    int writer = MUST(open(path, O_WRONLY | O_CLOEXEC));
    pid_t sibling = MUST(fork());
    if (sibling == 0) {
        struct timespec span = {0, 10 * MS};
        nanosleep(&span, NULL);
        _exit(0);
    }
    close(writer);
    *rc = cl_process_spawn(process, &try.command, &try.launch, NULL);
    MUST(waitpid(sibling, NULL, 0));
    return now_ns() - began;
}

static void while_it_is_written(int strategy)
{
    begin(strategy, "a program that stays open for writing");
    const char *path = file_with("busy", "#!/bin/sh\nexit 0\n", 0755);
    int writer = MUST(open(path, O_WRONLY | O_CLOEXEC));
    int may = may_run_what_is_written(path);
    try.argv[0] = path;
    if (!may)
        fails_at(CL_STAGE_EXEC, ETXTBSY);
    close(writer);

    begin(strategy, "a program that a sibling holds open for writing");
    cl_process *process = new_process();
    int64_t rc = -ETXTBSY, held = SECOND;
    for (int turn = 0; rc == -ETXTBSY && held > 50 * MS && turn < 100; turn++) { /* longer than anybody need try */
        try.argv[0] = path;
        try.launch.stream[0].kind = try.launch.stream[1].kind = try.launch.stream[2].kind = CL_IO_NULL;
        held = spawn_beside_a_writer(process, path, &rc);
    }
    CHECK(rc > 0);
    must_end(process);
    CHECK_IS(report_of(process).status, 0);
    cl_process_free(process);
}

/* ---- what only another user is refused ---------------------------------------------------------------------------- */

static void become_nobody(void)
{
    if (geteuid() == 0) {
        MUST(setgroups(0, NULL));
        MUST(setresgid(65534, 65534, 65534));
        MUST(setresuid(65534, 65534, 65534));
        prctl(PR_SET_DUMPABLE, 1); /* or /proc/self would be root's */
    }
}

static void as_nobody(void *argument)
{
    int strategy = *(int *)argument;
    int shares_memory = strategy == CL_STRATEGY_CLONE3 || strategy == CL_STRATEGY_VFORK;
    const char *trampoline = getenv("CORELANE_EXEC");
    become_nobody();
    if (strategy == CL_STRATEGY_POSIX_SPAWN && (!trampoline || access(trampoline, X_OK) != 0))
        return; /* out of this user's reach */

    if (getpriority(PRIO_PROCESS, 0) > -10) {
        begin(strategy, "a nice below what we may");
        try.command.options = CL_OPT_NICE;
        try.command.nice = -20;
        fails_at(CL_STAGE_NICE, EACCES);
    }
    if (!shares_memory) {
        uint32_t group = 0;
        begin(strategy, "groups");
        try.command.options = CL_OPT_GROUPS;
        try.command.groups = &group;
        try.command.group_count = 1;
        fails_at(CL_STAGE_GROUPS, EPERM);
        begin(strategy, "a group");
        try.command.options = CL_OPT_GID;
        fails_at(CL_STAGE_GID, EPERM);
        begin(strategy, "a user");
        try.command.options = CL_OPT_UID;
        fails_at(CL_STAGE_UID, EPERM);
    }
    begin(strategy, "no more processes");
    struct rlimit none = {0, 0};
    MUST(setrlimit(RLIMIT_NPROC, &none));
    fails_at(CL_STAGE_CLONE, EAGAIN);
}
#endif

static void not_sharing_memory(int strategy)
{
    static const uint64_t forking[] = {CL_OPT_UID, CL_OPT_GID, CL_OPT_GROUPS, CL_OPT_CGROUP_V1};
    if (strategy != CL_STRATEGY_CLONE3 && strategy != CL_STRATEGY_VFORK)
        return;
    for (size_t i = 0; i < 4; i++) {
        begin(strategy, "an option for a copied address space");
        try.command.options = forking[i];
        fails_at(CL_STAGE_PREPARE, EINVAL);
    }
}

static void without_a_trampoline(void)
{
    const char *there = getenv("CORELANE_EXEC");
    char long_path[5000];
    memset(long_path, 'x', sizeof long_path);
    long_path[sizeof long_path - 1] = '\0';
    begin(CL_STRATEGY_POSIX_SPAWN, "no trampoline");
    CHECK_IS(cl_set_trampoline(""), -EINVAL);
    CHECK_IS(cl_set_trampoline(long_path), -ENAMETOOLONG);
    CHECK_IS(cl_set_trampoline("/nowhere/_exec"), 0);
    try.command.cwd = "/";
    fails_at(CL_STAGE_TRAMPOLINE, ENOENT);
    if (there)
        CHECK_IS(cl_set_trampoline(there), 0);
}

int main(int argc, char **argv)
{
    static void (*const failures[])(int) = {
        before_the_clone, out_of_descriptors, in_the_child, at_exec, not_sharing_memory, and_then_works,
#ifdef __linux__
        in_a_child_of_linux, while_it_is_written,
#endif
    };
    start_program(argc, argv);
    snprintf(dir, sizeof dir, "/tmp/cl-fails-XXXXXX");
    CHECK(mkdtemp(dir) != NULL);
    int fds = count_fds();
    for (int i = 0; i < STRATEGIES; i++) {
        int strategy = all_strategies[i];
        if (is_missing(strategy))
            continue;
        for (size_t f = 0; f < sizeof failures / sizeof *failures; f++)
            failures[f](strategy);
#ifdef __linux__
        in_a_fork(as_nobody, &strategy);
#endif
    }
    without_a_trampoline();
    say_about("at the end");
    CHECK_IS(count_fds(), fds);
    for (const char *const *name = (const char *const[]){"plain", "text", "script", "busy", NULL}; *name; name++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", dir, *name);
        unlink(path);
    }
    MUST(rmdir(dir));
    puts("ok");
    return 0;
}
