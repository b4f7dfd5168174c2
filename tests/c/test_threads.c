/* Many threads spawn at once, while others allocate, set errno, take signals and fork: nobody notices anybody. The
 * program to run under ThreadSanitizer. */
#include "child.h"

#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#ifdef __linux__
#define REAL_PID() ((pid_t)syscall(SYS_getpid)) /* not one that libc keeps in memory that a child shares */
#else
#define REAL_PID() getpid()
#endif

enum { SPAWNERS = 4, RUNNERS = 2, NOISES = 2, ROUNDS = SANITIZED ? 40 : 150 };

static pid_t owner;
static atomic_int all_done, handled, handled_by_a_child, spawned;

static void start_thread(pthread_t *thread, void *(*work)(void *), void *argument)
{
    CHECK_IS(pthread_create(thread, NULL, work, argument), 0);
}

/* The option that takes a thread of its own, where there is such a signal. */
static void die_with_us(plan *plan)
{
    if (cl_platform() == CL_PLATFORM_DARWIN)
        return;
    plan->command.options |= CL_OPT_DEATH_SIGNAL;
    plan->command.death_signal = SIGKILL;
}

/* In a child that shares our memory this would count where we see it. */
static void on_signal(int signal)
{
    int saved = errno;
    (void)signal;
    atomic_fetch_add(REAL_PID() == owner ? &handled : &handled_by_a_child, 1);
    errno = saved;
}

/* ---- the crowd ------------------------------------------------------------------------------------------------------ */

/* Shared by all threads: a command is only read. */
static plan works, fails;

static void wait_quietly(cl_process *process)
{
    int64_t rc;
    while ((rc = cl_process_wait(process, PATIENCE)) == -EINTR)
        continue;
    CHECK_IS(rc, 1);
}

static void spawn_one(int id, int round)
{
    plan mine = round % 3 ? works : fails;
    int strategy = round % 5, must_work = round % 3 != 0;
    sigset_t before, after;
    mine.command.argv = round % 3 ? works.argv : fails.argv;
    mine.command.strategy = is_missing(strategy) ? CL_STRATEGY_POSIX_SPAWN : strategy;
    if ((id + round) % 2)
        die_with_us(&mine);
    say_about("thread %d, round %d, %s", id, round, strategy_names[strategy]);
    cl_process *process = new_process();
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    errno = 1000 + id;
    int64_t rc = cl_process_spawn(process, &mine.command, &mine.launch, NULL);
    int left = errno;
    /* A failed child is reaped with libc's waitpid, which a signal may end; ENOENT would be the child's. And libc makes
     * no promise about its posix_spawn. */
    if (cl_platform() == CL_PLATFORM_LINUX && mine.command.strategy != CL_STRATEGY_POSIX_SPAWN)
        CHECK(left == 1000 + id || (rc < 0 && left == EINTR));
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    for (int s = 1; s < 32; s++)
        CHECK_IS(sigismember(&after, s), sigismember(&before, s));
    if (must_work) {
        CHECK(rc > 0);
        wait_quietly(process);
        CHECK_IS(report_of(process).state, CL_STATE_EXITED);
        CHECK_IS(report_of(process).status, 0);
    } else {
        CHECK_IS(rc, -ENOENT);
        CHECK_IS(report_of(process).stage, CL_STAGE_EXEC);
    }
    cl_process_free(process);
    atomic_fetch_add(&spawned, 1);
}

static void *spawn_many(void *argument)
{
    int id = *(int *)argument;
    sigset_t mine;
    sigemptyset(&mine);
    sigaddset(&mine, SIGUSR1 + id % 2); /* a mask that no other thread has */
    sigaddset(&mine, SIGHUP + id);
    pthread_sigmask(SIG_BLOCK, &mine, NULL);
    for (int round = 0; round < ROUNDS; round++)
        spawn_one(id, round);
    return NULL;
}

static void *run_many(void *argument)
{
    static const char text[] = "through a pipe and back";
    const cl_piece piece = {text, sizeof text};
    plan plan;
    cl_run *run;
    cl_run_report report;
    const cl_run_options options = {
        .feed = &piece, .feed_count = 1, .timeout_ns = PATIENCE, .drain_ns = PATIENCE, .max_output = -1, .tee = {-1, -1}};
    plan_program(&plan, "cat");
    plan.launch.stream[0].kind = CL_IO_PIPE;
    plan.command.contain = CL_CONTAIN_GROUP;
    if (*(int *)argument)
        die_with_us(&plan);
    CHECK_IS(cl_run_new(&run), 0);
    for (int round = 0; round < ROUNDS / 2; round++) {
        say_about("runner, round %d", round);
        int64_t rc = cl_run_start(run, &plan.command, &plan.launch, &options, NULL, PATIENCE);
        while (rc == 0 || rc == -EINTR)
            rc = cl_run_step(run, PATIENCE);
        CHECK_IS(rc, 1);
        CHECK_IS(cl_run_report_get(run, &report), 0);
        CHECK_IS(report.child.state, CL_STATE_EXITED);
        CHECK_IS(report.size[0], sizeof text);
        CHECK(memcmp((const void *)(uintptr_t)report.data[0], text, sizeof text) == 0);
    }
    cl_run_free(run);
    return NULL;
}

static void *make_noise(void *argument)
{
    int mine = 2000 + *(int *)argument;
    for (size_t size = 1; !atomic_load(&all_done); size = size * 5 % 60013) {
        errno = mine;
        char *memory = malloc(size + 1);
        CHECK(memory != NULL);
        memset(memory, mine, size + 1);
        sched_yield();
        CHECK_IS(errno, mine);
        free(memory);
    }
    return NULL;
}

/* The group of this program is its own, so these reach us and our children. Their default is to be ignored: a child
 * that has reset its handlers does not mind them. */
static void *send_signals(void *unused)
{
    (void)unused;
    const struct timespec pause = {0, 200000};
    while (!atomic_load(&all_done)) {
        MUST(kill(0, SIGURG));
        MUST(kill(0, SIGWINCH));
        nanosleep(&pause, NULL);
    }
    return NULL;
}

static void a_crowd(void)
{
    pthread_t spawners[SPAWNERS], runners[RUNNERS], noises[NOISES], sender;
    int ids[SPAWNERS] = {0, 1, 2, 3};
    struct sigaction action = {.sa_handler = on_signal}, now;
    sigaction(SIGURG, &action, NULL);
    sigaction(SIGWINCH, &action, NULL);
    plan_program(&works, "true");
    works.launch.stream[1].kind = CL_IO_NULL;
    plan_program(&fails, "/nowhere/at/all");
    start_thread(&sender, send_signals, NULL);
    for (int i = 0; i < NOISES; i++)
        start_thread(&noises[i], make_noise, &ids[i]);
    for (int i = 0; i < RUNNERS; i++)
        start_thread(&runners[i], run_many, &ids[i]);
    for (int i = 0; i < SPAWNERS; i++)
        start_thread(&spawners[i], spawn_many, &ids[i]);
    for (int i = 0; i < SPAWNERS; i++)
        pthread_join(spawners[i], NULL);
    for (int i = 0; i < RUNNERS; i++)
        pthread_join(runners[i], NULL);
    atomic_store(&all_done, 1);
    for (int i = 0; i < NOISES; i++)
        pthread_join(noises[i], NULL);
    pthread_join(sender, NULL);
    say_about("after the crowd");
    CHECK_IS(atomic_load(&spawned), SPAWNERS * ROUNDS);
    CHECK(atomic_load(&handled) > 0);
    CHECK_IS(atomic_load(&handled_by_a_child), 0);
    sigaction(SIGURG, NULL, &now);
    CHECK(now.sa_handler == on_signal); /* CLONE_CLEAR_SIGHAND is the child's affair */
    sigaction(SIGWINCH, NULL, &now);
    CHECK(now.sa_handler == on_signal);
    signal(SIGURG, SIG_DFL);
    signal(SIGWINCH, SIG_DFL);
    CHECK(has_no_children());
}

/* ---- more threads held in clone than stacks are kept ----------------------------------------------------------------- */

static char busy[64];

/* Open for writing, so that an exec of it tries for a while and then fails. */
static int make_busy(void)
{
    snprintf(busy, sizeof busy, "/tmp/cl-threads-%d", owner);
    unlink(busy); /* a failed run's, with our pid */
    return MUST(open(busy, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755));
}

static void *spawn_busy(void *dies)
{
    plan mine;
    plan_program(&mine, busy);
    if (dies)
        die_with_us(&mine);
    cl_process *process = new_process();
    int64_t rc = cl_process_spawn(process, &mine.command, &mine.launch, NULL);
    CHECK(rc == -ETXTBSY || rc == -ENOEXEC); /* the second where the kernel lets a file be run while it is written */
    CHECK_IS(report_of(process).stage, CL_STAGE_EXEC);
    cl_process_free(process);
    return NULL;
}

static void many_are_held(void)
{
    pthread_t held[20];
    say_about("twenty threads held at once");
    for (int i = 0; i < 20; i++)
        start_thread(&held[i], spawn_busy, NULL);
    for (int i = 0; i < 20; i++)
        pthread_join(held[i], NULL);
    CHECK(has_no_children());
}

/* ---- fork of the host program while the spawner thread works --------------------------------------------------------- */

static void *spawn_with_death_signal(void *unused)
{
    (void)unused;
    plan mine;
    plan_program(&mine, "true");
    mine.launch.stream[1].kind = CL_IO_NULL;
    die_with_us(&mine);
    cl_process *process = new_process();
    must_spawn(process, &mine);
    wait_quietly(process);
    CHECK_IS(report_of(process).status, 0);
    cl_process_free(process);
    return NULL;
}

static void fork_once(int number)
{
    int status;
    pid_t pid = MUST(fork());
    if (pid == 0) {
        pthread_t worker;
        say_about("in fork %d", number);
        alarm((unsigned)(PATIENCE / SECOND)); /* a lock that nobody holds, or a thread that is not there */
        if (!SANITIZED) { /* they do not survive a fork of several threads well enough to start another */
            spawn_with_death_signal(NULL);
            start_thread(&worker, spawn_with_death_signal, NULL);
            pthread_join(worker, NULL);
        }
        _exit(0);
    }
    MUST(waitpid(pid, &status, 0));
    CHECK_IS(status, 0);
}

static void forks_while_the_spawner_works(void)
{
    pthread_t slow[2];
    for (int i = 0; i < 2; i++) /* one is worked for, one waits for its turn */
        start_thread(&slow[i], spawn_busy, busy);
    for (int i = 0; i < 15; i++)
        fork_once(i);
    for (int i = 0; i < 2; i++)
        pthread_join(slow[i], NULL);
    say_about("after the forks");
    spawn_with_death_signal(NULL);
    pthread_t worker;
    start_thread(&worker, spawn_with_death_signal, NULL);
    pthread_join(worker, NULL);
    CHECK(has_no_children());
}

/* ---- whose death the death signal is about --------------------------------------------------------------------------- */

static cl_process *cat;

static void *spawn_cat(void *plan)
{
    must_spawn(cat, plan);
    return NULL;
}

#ifdef __linux__
static int count_threads(void)
{
    int count = 0;
    DIR *tasks = opendir("/proc/self/task");
    while (tasks && readdir(tasks))
        count++;
    if (tasks)
        closedir(tasks);
    return count;
}

static void outlives_its_thread(void)
{
    plan plan;
    pthread_t thread;
    say_about("a child of a thread that has ended");
    plan_program(&plan, "cat");
    plan.launch.stream[0].kind = CL_IO_PIPE;
    die_with_us(&plan);
    cat = new_process();
    start_thread(&thread, spawn_with_death_signal, NULL); /* so that the spawner thread is there */
    pthread_join(thread, NULL);
    int threads = 0;
    EVENTUALLY(threads == count_threads() || !(threads = count_threads())); /* two looks alike: the last one is gone */
    start_thread(&thread, spawn_cat, &plan);
    pthread_join(thread, NULL);
    EVENTUALLY(count_threads() <= threads); /* joined is not gone: the signal is sent a little later */
    cl_report report = report_of(cat);
    CHECK_IS(write((int)report.pipe[0], "alive\n", 6), 6);
    expect_line((int)report.pipe[1], "alive\n");
    close((int)report.pipe[0]);
    wait_quietly(cat);
    CHECK_IS(report_of(cat).state, CL_STATE_EXITED);
    close((int)report.pipe[1]);
    cl_process_free(cat);
}
#endif

/* libc changes the user of all threads by signalling each, and waits for their answers. */
static void change_user(void *unused)
{
    pthread_t worker;
    (void)unused;
    alarm((unsigned)(PATIENCE / SECOND));
    start_thread(&worker, spawn_with_death_signal, NULL);
    pthread_join(worker, NULL);
    MUST(setgid(getgid()));
    MUST(setuid(getuid()));
}

static void leave_a_sleeper(void *argument)
{
    plan plan;
    pthread_t thread;
    plan_program(&plan, "sleep");
    plan.argv[1] = "60";
    plan.launch.stream[1] = (cl_stream){CL_IO_FD, *(int *)argument, 0};
    die_with_us(&plan);
    cat = new_process();
    start_thread(&thread, spawn_cat, &plan);
    pthread_join(thread, NULL);
    CHECK_IS(cl_process_wait(cat, 0), 0);
}

static void dies_with_its_process(void)
{
    int ends[2];
    char byte;
    say_about("a child of a process that has ended");
    make_pipe(ends);
    in_a_fork(leave_a_sleeper, &ends[1]); /* before there is a second thread here */
    close(ends[1]);
    struct pollfd gone = {.fd = ends[0], .events = POLLIN};
    CHECK_IS(poll(&gone, 1, (int)(PATIENCE / MS)), 1);
    CHECK_IS(read(ends[0], &byte, 1), 0);
    close(ends[0]);
}

int main(int argc, char **argv)
{
    start_program(argc, argv);
    owner = getpid();
    setpgid(0, 0); /* for send_signals(); EPERM: we lead a session already */
    CHECK_IS(getpgrp(), owner);
    int fds = count_fds();
    if (cl_platform() != CL_PLATFORM_DARWIN)
        dies_with_its_process();
    in_a_fork(change_user, NULL);
    a_crowd(); /* several are the first to ask for the spawner thread */
#ifdef __linux__
    outlives_its_thread();
#endif
    int writer = make_busy();
    many_are_held();
    forks_while_the_spawner_works();
    close(writer);
    MUST(unlink(busy));
    say_about("at the end");
    CHECK_IS(count_fds(), fds);
    puts("ok");
    return 0;
}
