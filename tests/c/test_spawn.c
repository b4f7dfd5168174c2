/* Every option of a command, by every strategy: the child says what it sees, and the parent is as it was. */
#include "child.h"

#include <pthread.h>

static plan try;

static void begin(int strategy, const char *option)
{
    say_about("%s: %s", strategy_names[strategy], option);
    plan_for(&try, "report", NULL);
    try.command.strategy = strategy;
}

/* ---- options that any system has ---------------------------------------------------------------------------------- */

static void plainly(int strategy)
{
    begin(strategy, "nothing");
    cl_report report = look(&try);
    CHECK_IS(report.strategy, strategy);
    CHECK_IS(report.contained, CL_CONTAIN_NONE);
    CHECK_IS(report.stage, CL_STAGE_NONE);
    CHECK_IS(number("pid"), report.pid);
    CHECK_IS(number("ppid"), getpid());
    CHECK_IS(number("pgid"), getpgrp());
    CHECK_IS(number("sid"), getsid(0));
    CHECK_TEXT(value("fds"), "0 1 2 ");
    CHECK_TEXT(value("nonblocking"), "000");
    CHECK_IS(hex("blocked"), 0);
    CHECK(report.elapsed_ns > 0);
    CHECK(report.max_rss_kib > 0);
    CHECK(report.pipe[0] < 0 && report.pipe[2] < 0);
}

static void with_umask(int strategy)
{
    begin(strategy, "umask");
    mode_t before = umask(022);
    try.command.options = CL_OPT_UMASK;
    try.command.umask = 0137;
    look(&try);
    CHECK_TEXT(value("umask"), "0137");
    CHECK_IS(umask(before), 022);
}

static void with_cwd(int strategy)
{
    char before[4096], after[4096], wanted[4096];
    begin(strategy, "cwd");
    CHECK(getcwd(before, sizeof before) && realpath("/tmp", wanted));
    try.command.cwd = "/tmp";
    look(&try);
    CHECK_TEXT(value("cwd"), wanted);

    begin(strategy, "cwd_fd");
    int dir = MUST(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    try.command.options = CL_OPT_CWD_FD;
    try.command.cwd_fd = dir;
    look(&try);
    CHECK_TEXT(value("cwd"), "/");
    CHECK_TEXT(value("fds"), "0 1 2 ");

    begin(strategy, "cwd below cwd_fd");
    try.command.options = CL_OPT_CWD_FD;
    try.command.cwd_fd = dir;
    try.command.cwd = "usr";
    look(&try);
    CHECK_TEXT(value("cwd"), "/usr");
    close(dir);
    CHECK(getcwd(after, sizeof after));
    CHECK_TEXT(after, before);
}

static void with_groups_of_processes(int strategy)
{
    begin(strategy, "a group of its own");
    try.command.options = CL_OPT_PROCESS_GROUP;
    cl_report report = look(&try);
    CHECK_IS(number("pgid"), report.pid);
    CHECK_IS(number("sid"), getsid(0));

    begin(strategy, "contained in a group");
    try.command.contain = CL_CONTAIN_GROUP;
    report = look(&try);
    CHECK_IS(number("pgid"), report.pid);
    CHECK_IS(report.contained, CL_CONTAIN_GROUP);

    begin(strategy, "contain=auto, stdin no terminal");
    try.command.contain = CL_CONTAIN_AUTO;
    report = look(&try);
    CHECK_IS(number("pgid"), report.pid);
    CHECK_IS(report.contained, CL_CONTAIN_GROUP);

    begin(strategy, "a new session");
    try.command.options = CL_OPT_NEW_SESSION;
    try.command.contain = CL_CONTAIN_GROUP;
    report = look(&try);
    CHECK_IS(number("pgid"), report.pid);
    CHECK_IS(number("sid"), report.pid);
    CHECK_IS(report.contained, CL_CONTAIN_GROUP);

    begin(strategy, "joining another's group");
    plan leader;
    plan_for(&leader, "stay", NULL);
    leader.command.contain = CL_CONTAIN_GROUP;
    cl_process *first = new_process();
    cl_report led = must_spawn(first, &leader);
    try.command.options = CL_OPT_PROCESS_GROUP;
    try.command.process_group = (int32_t)led.pid;
    try.command.contain = CL_CONTAIN_AUTO;
    cl_process *second = new_process();
    report = must_spawn(second, &try);
    read_all((int)report.pipe[1], seen, sizeof seen);
    must_end(second);
    CHECK_IS(number("pgid"), led.pid);
    CHECK_IS(report.contained, CL_CONTAIN_NONE); /* the group is not ours to kill */
    CHECK_IS(cl_process_signal_scope(first, SIGKILL), 0);
    must_end(first);
    close((int)led.pipe[1]);
    close((int)report.pipe[1]);
    cl_process_free(first);
    cl_process_free(second);
}

static void with_limits(int strategy)
{
    begin(strategy, "limits");
    cl_limit limits[] = {{RLIMIT_NOFILE, 0, 61, 62}, {RLIMIT_FSIZE, 0, 1 << 20, UINT64_MAX}};
    struct rlimit mine;
    getrlimit(RLIMIT_FSIZE, &mine);
    if (mine.rlim_max != RLIM_INFINITY)
        limits[1].hard = mine.rlim_max;
    try.command.limits = limits;
    try.command.limit_count = 2;
    look(&try);
    CHECK_TEXT(value("nofile"), "61:62");
    CHECK_IS(number("fsize"), 1 << 20);

    begin(strategy, "a limit of descriptors below those in use");
    int high = MUST(fcntl(1, F_DUPFD_CLOEXEC, 50));
    cl_fd_move move = {high, 40};
    limits[0] = (cl_limit){RLIMIT_NOFILE, 0, 20, 62};
    try.command.limits = limits;
    try.command.limit_count = 1;
    try.command.moves = &move;
    try.command.move_count = 1;
    look(&try);
    CHECK_TEXT(value("nofile"), "20:62");
    CHECK_TEXT(value("fds"), "0 1 2 40 ");
    close(high);
}

static void with_nice(int strategy)
{
    begin(strategy, "nice");
    int before = getpriority(PRIO_PROCESS, 0);
    int wanted = before + 3 < 19 ? before + 3 : 19;
    try.command.options = CL_OPT_NICE;
    try.command.nice = wanted;
    look(&try);
    CHECK_IS(number("nice"), wanted);
    CHECK_IS(getpriority(PRIO_PROCESS, 0), before);
}

/* ---- signals ------------------------------------------------------------------------------------------------------ */

#define BIT(signal) (1ULL << ((signal) - 1))

static void never(int signal)
{
    (void)signal;
    fail_at(__FILE__, __LINE__, "a handler ran");
}

static void with_signals(int strategy)
{
    sigset_t block, before, after;
    struct sigaction handled;
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    signal(SIGUSR1, never);
    signal(SIGUSR2, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    sigprocmask(SIG_BLOCK, &block, &before);

    begin(strategy, "the parent's signals stay the parent's");
    look(&try);
    CHECK_IS(hex("blocked"), 0);
    CHECK_IS(hex("ignored") & (BIT(SIGUSR1) | BIT(SIGPIPE) | BIT(SIGXFSZ)), 0);
    CHECK_IS(hex("ignored") & BIT(SIGUSR2), BIT(SIGUSR2)); /* as nohup relies on */

    begin(strategy, "mask, defaults, ignores");
    try.command.signal_mask = BIT(SIGTERM) | BIT(SIGHUP);
    try.command.signal_defaults = BIT(SIGUSR2);
    try.command.signal_ignores = BIT(SIGINT) | BIT(SIGPIPE);
    look(&try);
    CHECK_IS(hex("blocked"), BIT(SIGTERM) | BIT(SIGHUP));
    CHECK_IS(hex("ignored") & BIT(SIGUSR2), 0);
    CHECK_IS(hex("ignored") & BIT(SIGINT), BIT(SIGINT));
    CHECK_IS(hex("ignored") & BIT(SIGPIPE), BIT(SIGPIPE)); /* asked for, so it beats the reset */

    begin(strategy, "mask without the trampoline");
    try.command.signal_mask = BIT(SIGTERM);
    try.command.signal_defaults = BIT(SIGUSR2);
    look(&try);
    CHECK_IS(hex("blocked"), BIT(SIGTERM));
    CHECK_IS(hex("ignored") & BIT(SIGUSR2), 0);

    sigprocmask(SIG_SETMASK, NULL, &after);
    CHECK_IS(sigismember(&after, SIGUSR1), 1);
    CHECK_IS(sigismember(&after, SIGTERM), sigismember(&before, SIGTERM));
    sigaction(SIGUSR1, NULL, &handled);
    CHECK(handled.sa_handler == never);
    sigprocmask(SIG_SETMASK, &before, NULL);
    signal(SIGUSR1, SIG_DFL);
    signal(SIGUSR2, SIG_DFL);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGXFSZ, SIG_DFL);
}

/* A signal that is pending in the parent when it spawns is for the parent's handler only. */
static volatile sig_atomic_t handled_by;

static void remember_who(int signal)
{
    (void)signal;
    handled_by = (sig_atomic_t)getpid();
}

static void with_a_pending_signal(int strategy)
{
    sigset_t block, before;
    begin(strategy, "a pending signal");
    sigemptyset(&block);
    sigaddset(&block, SIGURG);
    signal(SIGURG, remember_who);
    sigprocmask(SIG_BLOCK, &block, &before);
    handled_by = 0;
    raise(SIGURG);
    look(&try);
    CHECK_IS(handled_by, 0);
    sigprocmask(SIG_SETMASK, &before, NULL);
    EVENTUALLY(handled_by == getpid());
    signal(SIGURG, SIG_DFL);
}

/* ---- streams ------------------------------------------------------------------------------------------------------ */

static void with_streams(int strategy)
{
    char text[64];
    begin(strategy, "pipes three ways");
    plan_for(&try, "copy", NULL);
    try.command.strategy = strategy;
    for (int i = 0; i < 3; i++)
        try.launch.stream[i].kind = CL_IO_PIPE;
    cl_process *process = new_process();
    cl_report report = must_spawn(process, &try);
    for (int i = 0; i < 3; i++)
        CHECK(report.pipe[i] >= 3 && (fcntl((int)report.pipe[i], F_GETFD) & FD_CLOEXEC));
    CHECK_IS(write((int)report.pipe[0], "hello", 5), 5);
    close((int)report.pipe[0]);
    read_all((int)report.pipe[1], text, sizeof text);
    CHECK_TEXT(text, "hello");
    read_all((int)report.pipe[2], text, sizeof text);
    CHECK_TEXT(text, "");
    must_end(process);
    close((int)report.pipe[1]);
    close((int)report.pipe[2]);
    cl_process_free(process);

    begin(strategy, "stderr to stdout");
    plan_for(&try, "both", NULL);
    try.command.strategy = strategy;
    try.launch.stream[2].kind = CL_IO_STDOUT;
    look(&try);
    CHECK_TEXT(seen, "out\nerr\n");

    begin(strategy, "streams from descriptors");
    int ends[2];
    make_pipe(ends);
    plan_for(&try, "both", NULL);
    try.command.strategy = strategy;
    try.launch.stream[1] = (cl_stream){CL_IO_FD, ends[1], 0};
    try.launch.stream[2] = (cl_stream){CL_IO_FD, ends[1], 0};
    look(&try);
    close(ends[1]); /* it stayed ours */
    read_all(ends[0], text, sizeof text);
    CHECK_TEXT(text, "out\nerr\n");
    close(ends[0]);
#ifdef __linux__
    begin(strategy, "capacity of a pipe");
    try.launch.stream[1].pipe_size = 1 << 18;
    process = new_process();
    report = must_spawn(process, &try);
    CHECK_IS(fcntl((int)report.pipe[1], F_GETPIPE_SZ), 1 << 18);
    read_all((int)report.pipe[1], seen, sizeof seen);
    must_end(process);
    close((int)report.pipe[1]);
    cl_process_free(process);
#endif
}

#ifdef __linux__
/* ---- options of Linux --------------------------------------------------------------------------------------------- */

static void with_scheduling(int strategy)
{
    begin(strategy, "policy");
    try.command.options = CL_OPT_SCHEDULER;
    try.command.sched_policy = SCHED_BATCH;
    look(&try);
    CHECK_IS(number("policy"), SCHED_BATCH);
    CHECK_IS(sched_getscheduler(0), SCHED_OTHER);

    begin(strategy, "real-time");
    struct sched_param high = {.sched_priority = 7}, normal = {0};
    if (sched_setscheduler(0, SCHED_FIFO, &high) == 0) { /* only to learn whether we may */
        MUST(sched_setscheduler(0, SCHED_OTHER, &normal));
        try.command.options = CL_OPT_SCHEDULER;
        try.command.sched_policy = SCHED_FIFO;
        try.command.sched_priority = 7;
        look(&try);
        CHECK_IS(number("policy"), SCHED_FIFO);
        CHECK_IS(number("priority"), 7);
    }

    begin(strategy, "I/O priority");
    try.command.options = CL_OPT_IO_PRIORITY;
    try.command.io_priority = 2 << 13 | 6;
    look(&try);
    CHECK_IS(number("ioprio"), 2 << 13 | 6);
}

static void with_affinity(int strategy)
{
    cpu_set_t before, after;
    uint8_t mask[CPU_SETSIZE / 8] = {0};
    char wanted[16];
    int cpu = CPU_SETSIZE;
    begin(strategy, "affinity");
    MUST(sched_getaffinity(0, sizeof before, &before));
    while (!CPU_ISSET(--cpu, &before))
        continue;
    mask[cpu / 8] = (uint8_t)(1 << cpu % 8);
    try.command.cpus = mask;
    try.command.cpus_size = sizeof mask;
    look(&try);
    snprintf(wanted, sizeof wanted, "%d ", cpu);
    CHECK_TEXT(value("cpus"), wanted);
    MUST(sched_getaffinity(0, sizeof after, &after));
    CHECK(CPU_EQUAL(&before, &after));
}

static void with_oom_score(int strategy)
{
    char mine[16];
    begin(strategy, "oom_score_adj");
    plan_for(&try, "report", NULL); /* what we have, as a child has it */
    look(&try);
    snprintf(mine, sizeof mine, "%s", value("oom"));
    begin(strategy, "oom_score_adj");
    try.command.options = CL_OPT_OOM_SCORE_ADJ;
    try.command.oom_score_adj = 507;
    look(&try);
    CHECK_IS(number("oom"), 507);

    begin(strategy, "negative oom_score_adj"); /* needs CAP_SYS_RESOURCE */
    try.command.options = CL_OPT_OOM_SCORE_ADJ;
    try.command.oom_score_adj = -20;
    cl_process *process = new_process();
    if (cl_process_spawn(process, &try.command, &try.launch, NULL) < 0) {
        CHECK_IS(report_of(process).stage, CL_STAGE_OOM);
        CHECK_IS(report_of(process).error, EACCES); /* EINVAL would be our text */
    } else {
        read_all((int)report_of(process).pipe[1], seen, sizeof seen);
        close((int)report_of(process).pipe[1]);
        must_end(process);
        CHECK_IS(number("oom"), -20);
    }
    cl_process_free(process);
    /* The kernel gives the score to every process that shares the address space, unless one is held by vfork. */
    begin(strategy, "our oom_score_adj");
    look(&try);
    CHECK_TEXT(value("oom"), mine);
}

static void with_privileges(int strategy)
{
    begin(strategy, "death signal");
    try.command.options = CL_OPT_DEATH_SIGNAL;
    try.command.death_signal = SIGTERM;
    look(&try);
    CHECK_IS(number("death_signal"), SIGTERM);

    begin(strategy, "no_new_privs");
    try.command.options = CL_OPT_NO_NEW_PRIVS;
    look(&try);
    CHECK_IS(number("no_new_privs"), 1);
    CHECK_IS(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 0);
}

/* Signals 32 and 33 are libc's own: it would leave them out of a mask, and posix_spawn does. */
static void with_all_signals_blocked(int strategy)
{
    begin(strategy, "all signals blocked");
    try.command.signal_mask = UINT64_MAX;
    try.command.signal_ignores = BIT(SIGUSR1); /* so that posix_spawn takes the trampoline, which sets all */
    look(&try);
    CHECK_IS(hex("blocked"), ~(BIT(SIGKILL) | BIT(SIGSTOP)));
}

static void with_everything(int strategy)
{
    begin(strategy, "everything at once");
    uint8_t mask[128] = {0};
    cpu_set_t cpus;
    cl_limit limit = {RLIMIT_NOFILE, 0, 64, 64};
    cl_fd_move move = {2, 9};
    MUST(sched_getaffinity(0, sizeof cpus, &cpus));
    memcpy(mask, &cpus, sizeof cpus);
    try.command.options = CL_OPT_UMASK | CL_OPT_NEW_SESSION | CL_OPT_NICE | CL_OPT_SCHEDULER | CL_OPT_IO_PRIORITY |
                          CL_OPT_OOM_SCORE_ADJ | CL_OPT_DEATH_SIGNAL | CL_OPT_NO_NEW_PRIVS;
    try.command.umask = 077;
    try.command.nice = 19;
    try.command.sched_policy = SCHED_BATCH;
    try.command.io_priority = 3 << 13;
    try.command.oom_score_adj = 1000;
    try.command.death_signal = SIGKILL;
    try.command.signal_mask = BIT(SIGINT);
    try.command.cwd = "/";
    try.command.limits = &limit;
    try.command.limit_count = 1;
    try.command.moves = &move;
    try.command.move_count = 1;
    try.command.cpus = mask;
    try.command.cpus_size = sizeof mask;
    cl_report report = look(&try);
    CHECK_TEXT(value("umask"), "0077");
    CHECK_IS(number("sid"), report.pid);
    CHECK_IS(number("nice"), 19);
    CHECK_IS(number("policy"), SCHED_BATCH);
    CHECK_IS(number("ioprio"), 3 << 13);
    CHECK_IS(number("oom"), 1000);
    CHECK_IS(number("death_signal"), SIGKILL);
    CHECK_IS(number("no_new_privs"), 1);
    CHECK_IS(hex("blocked"), BIT(SIGINT));
    CHECK_TEXT(value("cwd"), "/");
    CHECK_TEXT(value("nofile"), "64:64");
    CHECK_TEXT(value("fds"), "0 1 2 9 ");
}

/* Another user may not be able to reach this program where it lies. */
static const char *copy_of_self(char path[64])
{
    char block[65536];
    ssize_t got;
    snprintf(path, 64, "/tmp/cl-spawn-%d", getpid());
    unlink(path); /* a failed run's, with our pid */
    int from = MUST(open(self, O_RDONLY | O_CLOEXEC));
    int to = MUST(open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755));
    while ((got = read(from, block, sizeof block)) > 0)
        CHECK_IS(write(to, block, (size_t)got), got);
    MUST(fchmod(to, 0755));
    close(from);
    close(to);
    return path;
}

static void with_another_user(int strategy)
{
    char path[64];
    uint32_t groups[] = {65531, 65532};
    if (geteuid() != 0 || strategy == CL_STRATEGY_CLONE3 || strategy == CL_STRATEGY_VFORK)
        return; /* refused by those: test_spawn_fails.c */
    begin(strategy, "user and groups");
    int dumpable = prctl(PR_GET_DUMPABLE);
    try.command.program = copy_of_self(path);
    try.command.cwd = "/";
    try.command.options = CL_OPT_UID | CL_OPT_GID | CL_OPT_GROUPS | CL_OPT_DEATH_SIGNAL;
    try.command.death_signal = SIGINT;
    try.command.uid = 65533;
    try.command.gid = 65534;
    try.command.groups = groups;
    try.command.group_count = 2;
    look(&try);
    CHECK_TEXT(value("uid"), "65533 65533");
    CHECK_TEXT(value("gid"), "65534 65534");
    CHECK_TEXT(value("groups"), "65531 65532 ");
    CHECK_IS(number("death_signal"), SIGINT); /* a change of credentials clears it, so it comes later */
    CHECK_IS(geteuid(), 0);
    /* On a shared address space the child's change of user would have cleared it. */
    CHECK_IS(prctl(PR_GET_DUMPABLE), dumpable);

    begin(strategy, "user: auto forks");
    try.command.strategy = CL_STRATEGY_AUTO;
    try.command.program = path;
    try.command.options = CL_OPT_UID | CL_OPT_GROUPS;
    try.command.uid = 65533;
    try.command.group_count = 0;
    cl_report report = look(&try);
    CHECK_IS(report.strategy, cl_platform() == CL_PLATFORM_LINUX ? CL_STRATEGY_FORK : CL_STRATEGY_POSIX_SPAWN);
    CHECK_TEXT(value("groups"), "");
    MUST(unlink(path));
}

/* ---- terminals, in a process that may lose its session ------------------------------------------------------------ */

static void open_terminal(int *master, int *terminal)
{
    *master = MUST(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
    MUST(grantpt(*master));
    MUST(unlockpt(*master));
    *terminal = MUST(open(ptsname(*master), O_RDWR | O_NOCTTY | O_CLOEXEC));
}

static void *take_the_terminal(void *process)
{
    CHECK_IS(cl_process_take_terminal(process), 0);
    return NULL;
}

static void on_a_terminal(void *argument)
{
    int strategy = *(int *)argument, master, terminal;
    struct sigaction ignored = {.sa_handler = SIG_IGN};
    MUST(setsid());
    open_terminal(&master, &terminal);

    begin(strategy, "a controlling terminal");
    try.command.options = CL_OPT_NEW_SESSION | CL_OPT_TERMINAL;
    try.command.terminal_fd = terminal;
    try.launch.stream[0] = (cl_stream){CL_IO_FD, terminal, 0};
    cl_report report = look(&try);
    CHECK_IS(number("sid"), report.pid);
    CHECK_IS(number("foreground"), report.pid);
    CHECK_TEXT(value("fds"), "0 1 2 ");
    close(master);
    close(terminal);

    sigaction(SIGHUP, &ignored, NULL); /* the hang-up of that one */
    open_terminal(&master, &terminal);
    MUST(ioctl(terminal, TIOCSCTTY, 0));
    CHECK_IS(tcgetpgrp(terminal), getpgrp());

    begin(strategy, "contain=auto with our terminal");
    try.command.contain = CL_CONTAIN_AUTO;
    try.launch.stream[0] = (cl_stream){CL_IO_FD, terminal, 0};
    report = look(&try);
    CHECK_IS(report.contained, CL_CONTAIN_NONE);
    CHECK_IS(number("pgid"), getpgrp());

    begin(strategy, "foreground");
    try.command.contain = CL_CONTAIN_AUTO;
    try.command.options = CL_OPT_FOREGROUND;
    try.launch.stream[0] = (cl_stream){CL_IO_FD, terminal, 0};
    cl_process *process = new_process();
    report = must_spawn(process, &try);
    read_all((int)report.pipe[1], seen, sizeof seen);
    must_end(process);
    CHECK_IS(report.contained, CL_CONTAIN_GROUP);
    CHECK_IS(number("pgid"), report.pid);
    CHECK_IS(number("foreground"), report.pid);
    CHECK(tcgetpgrp(terminal) != getpgrp());
    /* From the background this would stop us with SIGTTOU, were it not blocked meanwhile. */
    pthread_t takers[2];
    for (int i = 0; i < 2; i++)
        CHECK_IS(pthread_create(&takers[i], NULL, take_the_terminal, process), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(takers[i], NULL);
    CHECK_IS(tcgetpgrp(terminal), getpgrp());
    CHECK_IS(cl_process_take_terminal(process), 0);
    close((int)report.pipe[1]);
    cl_process_free(process);
}

static void with_a_terminal(int strategy)
{
    in_a_fork(on_a_terminal, &strategy);
}

static void with_a_cgroup(int strategy)
{
    char path[128];
    begin(strategy, "cgroup");
    int dir = make_cgroup(path);
    if (dir < 0)
        return;
    try.launch.cgroup_fd = dir;
    try.command.contain = CL_CONTAIN_CGROUP;
    cl_report report = look(&try);
    CHECK(strstr(value("cgroup"), strrchr(path, '/')) != NULL);
    CHECK_IS(report.contained, CL_CONTAIN_CGROUP);
    close(dir);
    EVENTUALLY(rmdir(path) == 0); /* a moment after the child was reaped */
}
#endif

/* ---- how a strategy is chosen ------------------------------------------------------------------------------------- */

static void by_default(void)
{
    begin(CL_STRATEGY_AUTO, "default");
    cl_report report = look(&try);
    if (cl_platform() != CL_PLATFORM_LINUX)
        CHECK_IS(report.strategy, CL_STRATEGY_POSIX_SPAWN);
    else
        CHECK(report.strategy == CL_STRATEGY_CLONE3 || report.strategy == CL_STRATEGY_VFORK);
    CHECK(cl_platform() != CL_PLATFORM_LINUX || report.pidfd >= 3);
}

static void missing_ones_say_so(int strategy)
{
    begin(strategy, "missing here");
    cl_process *process = new_process();
    CHECK_IS(cl_process_spawn(process, &try.command, &try.launch, NULL), -ENOSYS);
    CHECK_IS(report_of(process).stage, CL_STAGE_PREPARE);
    cl_process_free(process);
}

int main(int argc, char **argv)
{
    static void (*const options[])(int) = {
        plainly,       with_umask,   with_cwd,      with_groups_of_processes, with_limits,
        with_nice,     with_signals, with_streams,  with_a_pending_signal,
#ifdef __linux__
        with_affinity, with_scheduling, with_oom_score, with_privileges, with_all_signals_blocked,
        with_everything, with_another_user, with_a_terminal, with_a_cgroup,
#endif
    };
    start_program(argc, argv);
    int fds = count_fds();
    for (int i = 0; i < STRATEGIES; i++) {
        if (is_missing(all_strategies[i])) {
            missing_ones_say_so(all_strategies[i]);
            continue;
        }
        for (size_t option = 0; option < sizeof options / sizeof *options; option++)
            options[option](all_strategies[i]);
    }
    by_default();
    CHECK_IS(count_fds(), fds);
    CHECK(has_no_children());
    puts("ok");
    return 0;
}
