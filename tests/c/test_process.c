/* One child: waiting, its states, signals against reaping, and other people's interference. */
#include "child.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/utsname.h>

static plan try;
static cl_process *process;
static cl_report born; /* as reported right after the spawn */

static void begin(const char *what, const char *mode)
{
    say_about("%s", what);
    plan_for(&try, mode, NULL);
    process = new_process();
}

static void spawn(void)
{
    born = must_spawn(process, &try);
}

/* A child that has said it is ready. */
static void spawn_ready(void)
{
    spawn();
    expect_line((int)born.pipe[1], "ready\n");
}

static void finish(int state, int status)
{
    must_end(process);
    cl_report report = report_of(process);
    CHECK_IS(report.state, state);
    CHECK_IS(report.status, status);
    CHECK_IS(cl_process_state(process), state);
    CHECK_IS(cl_process_wait(process, -1), 1); /* as often as one likes */
    CHECK_IS(cl_process_signal(process, SIGTERM), -ESRCH);
    if (born.pipe[1] >= 0)
        close((int)born.pipe[1]);
    cl_process_free(process);
    CHECK(has_no_children());
}

/* ---- waiting and states -------------------------------------------------------------------------------------------- */

static void exits(void)
{
    for (int code = 0; code < 256; code += 51) {
        char text[8];
        begin("an exit code", "exit");
        snprintf(text, sizeof text, "%d", code);
        try.argv[2] = text;
        spawn();
        finish(CL_STATE_EXITED, code);
    }
}

static void waits(void)
{
    begin("waiting with a limit", "stay");
    CHECK_IS(cl_process_state(process), CL_STATE_NEW);
    CHECK_IS(cl_process_wait(process, 0), -EINVAL);
    CHECK_IS(cl_process_signal(process, 0), -EINVAL);
    CHECK_IS(report_of(process).pid, -1);
    spawn_ready();
    CHECK_IS(cl_process_state(process), CL_STATE_RUNNING);
    CHECK_IS(report_of(process).state, CL_STATE_RUNNING);
    CHECK_IS(cl_process_wait(process, 0), 0);
    int64_t began = now_ns();
    CHECK_IS(cl_process_wait(process, 20 * MS), 0);
    CHECK(now_ns() - began >= 20 * MS);
    CHECK_IS(cl_process_signal(process, 0), 0);
    CHECK_IS(cl_process_signal(process, 1000), -EINVAL);
    CHECK_IS(cl_process_signal(process, SIGKILL), 0);
    finish(CL_STATE_SIGNALED, SIGKILL);
}

static void the_watch_tells(void)
{
    begin("the descriptor that becomes readable", "stay");
    spawn_ready();
    if (born.pidfd >= 0) {
        struct pollfd ended = {.fd = (int)born.pidfd, .events = POLLIN};
        CHECK_IS(poll(&ended, 1, 0), 0);
        CHECK_IS(cl_process_signal(process, SIGKILL), 0);
        CHECK_IS(poll(&ended, 1, (int)(PATIENCE / MS)), 1);
    } else {
        CHECK_IS(cl_process_signal(process, SIGKILL), 0);
    }
    finish(CL_STATE_SIGNALED, SIGKILL);
}

static void stops(void)
{
    begin("stopped and continued", "stop");
    spawn_ready();
    EVENTUALLY(cl_process_state(process) == CL_STATE_STOPPED);
    CHECK_IS(cl_process_wait(process, MS), 0); /* not an end */
    CHECK_IS(cl_process_signal(process, SIGCONT), 0);
    finish(CL_STATE_EXITED, 0);

    begin("killed while stopped", "stop");
    spawn_ready();
    EVENTUALLY(cl_process_state(process) == CL_STATE_STOPPED);
    CHECK_IS(cl_process_signal(process, SIGKILL), 0);
    finish(CL_STATE_SIGNALED, SIGKILL);
}

static void dumps_core(void)
{
    begin("a core dump, or not", "stay");
    spawn_ready();
    CHECK_IS(cl_process_signal(process, SIGQUIT), 0);
    must_end(process);
    int64_t dumped = report_of(process).core_dumped;
    CHECK(dumped == 0 || dumped == 1); /* the machine's choice */
    finish(CL_STATE_SIGNALED, SIGQUIT);
}

/* A zombie takes signals, and drops them. */
static void has_ended_unnoticed(void)
{
    siginfo_t info;
    begin("a signal after an end that nobody has seen yet", "exit");
    spawn();
    MUST(waitid(P_PID, (id_t)born.pid, &info, WEXITED | WNOWAIT));
    CHECK_IS(cl_process_signal(process, SIGTERM), -ESRCH);
    CHECK_IS(cl_process_signal_scope(process, SIGTERM), -ESRCH);
    finish(CL_STATE_EXITED, 0);
}

static void is_dropped(void)
{
    begin("freed when it had ended", "exit");
    siginfo_t info;
    spawn();
    MUST(waitid(P_PID, (id_t)born.pid, &info, WEXITED | WNOWAIT));
    cl_process_free(process);
    close((int)born.pipe[1]);
    CHECK(has_no_children()); /* reaped */

    begin("freed while it runs", "stay");
    spawn_ready();
    cl_process_free(process);
    MUST(kill((pid_t)born.pid, 0)); /* left alone */
    MUST(kill((pid_t)born.pid, SIGKILL));
    MUST(waitpid((pid_t)born.pid, NULL, 0));
    close((int)born.pipe[1]);
    cl_process_free(NULL);
}

static atomic_int interrupted;

static void ignore(int signal)
{
    (void)signal;
}

/* Again and again: the first may come before the wait sleeps. */
static void *interrupt(void *thread)
{
    while (!atomic_load(&interrupted)) {
        pthread_kill(*(pthread_t *)thread, SIGUSR1);
        nap();
    }
    return NULL;
}

static void is_interrupted(void)
{
    struct sigaction action = {.sa_handler = ignore};
    pthread_t us = pthread_self(), other;
    begin("a wait that a signal ends", "stay");
    sigaction(SIGUSR1, &action, NULL);
    spawn_ready();
    CHECK_IS(pthread_create(&other, NULL, interrupt, &us), 0);
    CHECK_IS(cl_process_wait(process, -1), -EINTR);
    atomic_store(&interrupted, 1);
    pthread_join(other, NULL);
    signal(SIGUSR1, SIG_DFL);
    CHECK_IS(cl_process_signal(process, SIGKILL), 0);
    finish(CL_STATE_SIGNALED, SIGKILL);
}

/* ---- scopes -------------------------------------------------------------------------------------------------------- */

/* All of a group hold the pipe that is descriptor 5 of the child; its end of file says that nobody is left. */
static void signals_a_group(void)
{
    int watch[2];
    char byte;
    begin("a group, killed as one", "leave");
    make_pipe(watch);
    cl_fd_move moves[] = {{watch[0], 5}, {watch[1], 6}};
    try.command.moves = moves;
    try.command.move_count = 2;
    try.command.contain = CL_CONTAIN_GROUP;
    spawn();
    close(watch[1]);
    expect_line((int)born.pipe[1], "left\n");
    /* The leader is a zombie that holds the group's number, and the grandchild is in it. */
    siginfo_t info;
    MUST(waitid(P_PID, (id_t)born.pid, &info, WEXITED | WNOWAIT));
    CHECK_IS(cl_process_signal_scope(process, 0), 0);
    CHECK_IS(cl_process_signal_scope(process, SIGKILL), 0);
    CHECK_IS(read(watch[0], &byte, 1), 0);
    close(watch[0]);
    finish(CL_STATE_EXITED, 0);

    begin("a group without its leader", "leave");
    make_pipe(watch);
    moves[0] = (cl_fd_move){watch[0], 5};
    moves[1] = (cl_fd_move){watch[1], 6};
    try.command.moves = moves;
    try.command.move_count = 2;
    try.command.contain = CL_CONTAIN_GROUP;
    spawn();
    close(watch[1]);
    must_end(process);
    int64_t rc = cl_process_signal_scope(process, SIGKILL);
    /* Once the leader is reaped, its number may be another group's: only newer kernels can tell. */
    if (rc == 0)
        EVENTUALLY(cl_process_signal_scope(process, 0) == -ESRCH);
    else
        CHECK_IS(rc, -ECHILD);
    if (rc != 0)
        MUST(kill(-(pid_t)born.pid, SIGKILL)); /* here nobody reuses it: the grandchild is in it */
    CHECK_IS(read(watch[0], &byte, 1), 0);
    close(watch[0]);
    finish(CL_STATE_EXITED, 0);
}

/* A cgroup holds also what has left the group and the session. */
static void signals_a_cgroup(void)
{
    static const int strategies[] = {CL_STRATEGY_CLONE3, CL_STRATEGY_VFORK, CL_STRATEGY_POSIX_SPAWN, CL_STRATEGY_FORK};
    for (int round = 0; round < 8; round++) {
        int watch[2], signal = round % 2 ? SIGKILL : SIGTERM;
        char path[128], byte;
        begin("a cgroup", "escape");
        if (is_missing(strategies[round / 2]))
            return;
        make_pipe(watch);
        const cl_fd_move moves[] = {{watch[0], 5}, {watch[1], 6}};
        try.command.moves = moves;
        try.command.move_count = 2;
        try.command.contain = CL_CONTAIN_CGROUP;
        try.command.strategy = strategies[round / 2];
        try.launch.cgroup_fd = make_cgroup(path);
        if (try.launch.cgroup_fd >= 0) {
            spawn();
            close(try.launch.cgroup_fd);
            close(watch[1]);
            expect_line((int)born.pipe[1], "left\n");
            must_end(process);
            CHECK_IS(cl_process_signal_scope(process, signal), 0); /* with the leader reaped */
            CHECK_IS(read(watch[0], &byte, 1), 0);
            EVENTUALLY(rmdir(path) == 0);
            finish(CL_STATE_EXITED, 0);
        } else {
            close(watch[1]);
            cl_process_free(process);
        }
        close(watch[0]);
    }
}

/* Its end is known, and its group's number is still its own. */
static void awaits_the_end(void)
{
    int watch[2];
    char byte;
    begin("an end that is not reaped yet", "leave");
    CHECK_IS(cl_process_await_end(process, 0), -EINVAL);
    make_pipe(watch);
    const cl_fd_move moves[] = {{watch[0], 5}, {watch[1], 6}};
    try.command.moves = moves;
    try.command.move_count = 2;
    try.command.contain = CL_CONTAIN_GROUP;
    spawn();
    close(watch[1]);
    CHECK_IS(cl_process_await_end(process, PATIENCE), 1);
    CHECK_IS(cl_process_await_end(process, -1), 1);
    MUST(kill((pid_t)born.pid, 0)); /* a zombie */
    CHECK_IS(cl_process_signal_scope(process, SIGKILL), 0); /* on every system */
    CHECK_IS(read(watch[0], &byte, 1), 0);
    close(watch[0]);
    must_end(process);
    CHECK_IS(kill((pid_t)born.pid, 0), -1);
    CHECK_IS(cl_process_await_end(process, 0), 1);
    finish(CL_STATE_EXITED, 0);

    begin("an end that does not come", "stay");
    spawn_ready();
    CHECK_IS(cl_process_await_end(process, 10 * MS), 0);
    CHECK_IS(cl_process_signal(process, SIGKILL), 0);
    finish(CL_STATE_SIGNALED, SIGKILL);
}

static void signals_only_the_leader(void)
{
    begin("no containment", "stay");
    spawn_ready();
    CHECK_IS(born.contained, CL_CONTAIN_NONE);
    CHECK_IS(cl_process_signal_scope(process, SIGTERM), 0); /* and this program lives */
    must_end(process);
    CHECK_IS(cl_process_signal_scope(process, SIGTERM), -ESRCH);
    finish(CL_STATE_SIGNALED, SIGTERM);
}

static void write_members(const char *path, int64_t last)
{
    FILE *procs = fopen(path, "we");
    CHECK(procs != NULL);
    for (int i = 0; last >= 0 && i < 1000; i++)
        fprintf(procs, "%d\n", 9000000 + i); /* above what any system gives a process */
    if (last > 0)
        fprintf(procs, "%d\n", (int)last);
    fclose(procs);
}

/* A directory with a file is cgroup enough for the parser: a list of a thousand members is longer than one read, which
 * ends in the middle of a line. */
static void reads_a_long_list_of_members(void)
{
    char dir[] = "/tmp/cl-process-XXXXXX", path[64], kill_path[64];
    if (is_missing(CL_STRATEGY_VFORK))
        return; /* only Linux has cgroups */
    begin("the last of a thousand members", "stay");
    cl_process *other = process;
    spawn_ready();
    cl_report other_born = born;

    begin("a cgroup of a thousand", "stay");
    CHECK(mkdtemp(dir) != NULL);
    snprintf(path, sizeof path, "%s/cgroup.procs", dir);
    write_members(path, -1);
    try.command.contain = CL_CONTAIN_CGROUP;
    try.command.strategy = CL_STRATEGY_VFORK;
    try.launch.cgroup_fd = MUST(open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    CHECK_IS(cl_process_spawn(process, &try.command, &try.launch, NULL), -ENOENT); /* there is no cgroup.kill */
    CHECK_IS(report_of(process).stage, CL_STAGE_CGROUP);
    snprintf(kill_path, sizeof kill_path, "%s/cgroup.kill", dir);
    write_members(kill_path, -1);
    spawn_ready();
    close(try.launch.cgroup_fd); /* the process has its own copy */
    CHECK_IS(born.contained, CL_CONTAIN_CGROUP);
    write_members(path, other_born.pid);
    CHECK_IS(cl_process_signal_scope(process, SIGTERM), 0);
    must_end(other);
    CHECK_IS(report_of(other).status, SIGTERM);
    CHECK_IS(cl_process_state(process), CL_STATE_RUNNING); /* it is not on the list */
    CHECK_IS(cl_process_signal_scope(process, SIGKILL), 0); /* into the file, where no kernel reads it */
    CHECK_IS(cl_process_state(process), CL_STATE_RUNNING);
    write_members(path, 0);
    CHECK_IS(cl_process_signal_scope(process, SIGTERM), 0); /* none of those is there: then the leader at least */
    must_end(process);
    CHECK_IS(cl_process_signal_scope(process, SIGTERM), -ESRCH);
    finish(CL_STATE_SIGNALED, SIGTERM);
    close((int)other_born.pipe[1]);
    cl_process_free(other);
    MUST(unlink(path));
    MUST(unlink(kill_path));
    MUST(rmdir(dir));
}

/* ---- other people's interference ----------------------------------------------------------------------------------- */

/* PIDFD_GET_INFO has the status of a child that somebody else reaped. */
static int kernel_remembers(void)
{
    struct utsname name;
    int major = 0, minor = 0;
    uname(&name);
    if (sscanf(name.release, "%d.%d", &major, &minor) != 2 || cl_platform() != CL_PLATFORM_LINUX)
        return 0;
    return major > 6 || (major == 6 && minor >= 15);
}

static void somebody_else_waits(void)
{
    for (int strategy = CL_STRATEGY_AUTO; strategy <= CL_STRATEGY_FORK; strategy++) {
        if (is_missing(strategy))
            continue;
        begin("a foreign waitpid(-1)", "exit");
        say_about("a foreign waitpid(-1), %s", strategy_names[strategy]);
        try.argv[2] = "42";
        try.command.strategy = strategy;
        spawn();
        CHECK_IS(MUST(waitpid(-1, NULL, 0)), born.pid);
        if (kernel_remembers())
            finish(CL_STATE_EXITED, 42);
        else
            finish(CL_STATE_UNKNOWN, 0);
    }
    begin("a foreign waitpid(-1), and then signals", "stay");
    spawn_ready();
    MUST(kill((pid_t)born.pid, SIGTERM));
    CHECK_IS(MUST(waitpid(-1, NULL, 0)), born.pid);
    CHECK_IS(cl_process_signal(process, SIGKILL), -ESRCH);
    CHECK(cl_process_signal_scope(process, SIGKILL) < 0);
    if (kernel_remembers())
        finish(CL_STATE_SIGNALED, SIGTERM);
    else
        finish(CL_STATE_UNKNOWN, 0);
}

/* The kernel reaps the child itself, the moment it ends, so nobody may look too early. */
static void sigchld_is_ignored(void)
{
    signal(SIGCHLD, SIG_IGN);
    for (int round = 0; round < 200; round++) {
        int strategy = round % 5;
        begin("SIGCHLD is ignored", NULL);
        if (is_missing(strategy) || strategy == CL_STRATEGY_AUTO)
            strategy = CL_STRATEGY_POSIX_SPAWN;
        say_about("SIGCHLD is ignored, %s, round %d", strategy_names[strategy], round);
        try.argv[0] = "false";
        try.command.strategy = strategy;
        spawn();
        /* posix_spawn returns no pidfd: one opened afterwards may be too late. */
        int may_be_unknown = !kernel_remembers() || strategy == CL_STRATEGY_POSIX_SPAWN;
        if (round % 2)
            must_end(process);
        else
            EVENTUALLY(cl_process_state(process) > CL_STATE_STOPPED);
        int64_t state = report_of(process).state;
        CHECK(state == CL_STATE_EXITED || (may_be_unknown && state == CL_STATE_UNKNOWN));
        finish((int)state, state == CL_STATE_EXITED);
    }
    begin("SIGCHLD is ignored, and the spawn fails", NULL);
    try.argv[0] = "/nowhere/at/all";
    CHECK_IS(cl_process_spawn(process, &try.command, &try.launch, NULL), -ENOENT);
    cl_process_free(process);
    signal(SIGCHLD, SIG_DFL);
}

/* What a process object answers in a forked copy of its owner. */
static void in_a_stranger(void *argument)
{
    (void)argument;
    CHECK_IS(cl_process_wait(process, 0), -EPERM);
    CHECK_IS(cl_process_await_end(process, -1), -EPERM);
    CHECK_IS(cl_process_state(process), -EPERM);
    CHECK_IS(cl_process_signal(process, SIGKILL), -EPERM);
    CHECK_IS(cl_process_signal_scope(process, SIGKILL), -EPERM);
    CHECK_IS(cl_process_take_terminal(process), 0);
    CHECK_IS(report_of(process).pid, born.pid);
    cl_process_free(process); /* closes this copy's descriptors, and kills and reaps nothing */

    begin("a spawn of its own", "exit");
    try.argv[2] = "5";
    spawn();
    finish(CL_STATE_EXITED, 5);
}

static void is_used_by_a_forked_child(void)
{
    begin("in a forked child", "stay");
    try.command.contain = CL_CONTAIN_GROUP;
    spawn_ready();
    in_a_fork(in_a_stranger, NULL);
    say_about("after a forked child");
    CHECK_IS(cl_process_state(process), CL_STATE_RUNNING);
    CHECK_IS(cl_process_signal(process, SIGTERM), 0);
    finish(CL_STATE_SIGNALED, SIGTERM);
}

static atomic_int enough;

static void *keep_looking(void *unused)
{
    (void)unused;
    while (!atomic_load(&enough))
        CHECK_IS(cl_process_state(process), CL_STATE_RUNNING);
    return NULL;
}

/* A fork in the middle of another thread's call leaves the copy with a lock that nobody will ever release. */
static void is_forked_in_the_middle_of_a_call(void)
{
    pthread_t looker;
    int status;
    begin("forked in the middle of a call", "stay");
    spawn_ready();
    CHECK_IS(pthread_create(&looker, NULL, keep_looking, NULL), 0);
    for (int i = 0; i < 30; i++) {
        pid_t pid = MUST(fork());
        if (pid == 0) {
            alarm((unsigned)(PATIENCE / SECOND));
            cl_report report;
            int bad = cl_process_report(process, &report) != 0 || report.pid != born.pid;
            bad |= cl_process_state(process) != -EPERM || cl_process_signal(process, 0) != -EPERM;
            _exit(bad);
        }
        MUST(waitpid(pid, &status, 0));
        CHECK_IS(status, 0);
    }
    atomic_store(&enough, 1);
    pthread_join(looker, NULL);
    CHECK_IS(cl_process_signal(process, SIGKILL), 0);
    finish(CL_STATE_SIGNALED, SIGKILL);
}

/* ---- several threads ----------------------------------------------------------------------------------------------- */

static atomic_int all_done;

static void *wait_for_it(void *unused)
{
    (void)unused;
    must_end(process);
    CHECK_IS(cl_process_state(process), CL_STATE_SIGNALED);
    return NULL;
}

static void *look_at_it(void *unused)
{
    (void)unused;
    while (!atomic_load(&all_done)) {
        int64_t state = cl_process_state(process);
        CHECK(state == CL_STATE_RUNNING || state == CL_STATE_SIGNALED);
        cl_report report = report_of(process);
        CHECK(report.state != CL_STATE_SIGNALED || report.status == SIGTERM);
        nap();
    }
    return NULL;
}

/* After the first -ESRCH there is never anything else. */
static void *signal_it(void *count)
{
    int ended = 0;
    while (!atomic_load(&all_done)) {
        int64_t rc = cl_process_signal(process, ended ? SIGTERM : 0);
        CHECK(rc == -ESRCH || (rc == 0 && !ended));
        ended = rc == -ESRCH;
        rc = cl_process_signal_scope(process, 0);
        CHECK(rc == 0 || rc == -ESRCH || rc == -ECHILD);
        if (atomic_fetch_add((atomic_int *)count, 1) > 20)
            nap();
    }
    return NULL;
}

static void is_shared_by_threads(void)
{
    enum { WAITERS = 4 };
    int rounds = SANITIZED ? 10 : 40;
    for (int round = 0; round < rounds; round++) {
        pthread_t waiters[WAITERS], looker, signaler;
        atomic_int signals = 0;
        begin("four wait, one looks, one signals", "stay");
        try.command.contain = round % 2 ? CL_CONTAIN_GROUP : CL_CONTAIN_NONE;
        spawn();
        atomic_store(&all_done, 0);
        for (int i = 0; i < WAITERS; i++)
            CHECK_IS(pthread_create(&waiters[i], NULL, wait_for_it, NULL), 0);
        CHECK_IS(pthread_create(&looker, NULL, look_at_it, NULL), 0);
        CHECK_IS(pthread_create(&signaler, NULL, signal_it, &signals), 0);
        EVENTUALLY(atomic_load(&signals) > 10);
        CHECK_IS(cl_process_signal(process, SIGTERM), 0);
        for (int i = 0; i < WAITERS; i++)
            pthread_join(waiters[i], NULL);
        atomic_store(&all_done, 1);
        pthread_join(looker, NULL);
        pthread_join(signaler, NULL);
        finish(CL_STATE_SIGNALED, SIGTERM);
    }
}

int main(int argc, char **argv)
{
    static void (*const checks[])(void) = {
        exits, waits, the_watch_tells, stops, dumps_core, has_ended_unnoticed, is_dropped, signals_a_group, signals_a_cgroup,
        awaits_the_end, signals_only_the_leader, reads_a_long_list_of_members, somebody_else_waits, sigchld_is_ignored,
        is_used_by_a_forked_child, is_interrupted, is_forked_in_the_middle_of_a_call, is_shared_by_threads,
    };
    struct rlimit no_core = {0, 0};
    start_program(argc, argv);
    setrlimit(RLIMIT_CORE, &no_core);
    int fds = count_fds();
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++)
        checks[i]();
    say_about("at the end");
    CHECK_IS(count_fds(), fds);
    CHECK(has_no_children());
    puts("ok");
    return 0;
}
