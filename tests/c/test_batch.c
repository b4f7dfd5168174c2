/* The batch engine: many children at once, and children that nobody waits for between their clone and their exec. */
#include "jobs.h"

#include "internal.h"

#include <pthread.h>
#include <stdatomic.h>

enum { CROWD = SANITIZED ? 60 : JOBS, MOST = 64 };

/* Start jobs[first..last) in one call; how many were. */
static int64_t start(int first, int last)
{
    for (int i = first; i < last; i++)
        items[i] = item_of(i);
    return cl_batch_start(batch, items + first, last - first);
}

/* ---- results ------------------------------------------------------------------------------------------------------ */

static void each_has_its_own_result(void)
{
    static char codes[CROWD][8];
    say_about("a crowd");
    for (int i = 0; i < CROWD; i++) {
        snprintf(codes[i], sizeof codes[i], "%d", i % 200);
        want(i, i % 7 == 3 ? "no-such-mode" : "both", codes[i]);
        if (i % 7 == 5)
            jobs[i].plan.argv[0] = "/no/such/program";
    }
    for (int first = 0; first < CROWD; first += 50) {
        int last = first + 50 < CROWD ? first + 50 : CROWD;
        CHECK_IS(start(first, last), last - first);
        CHECK(cl_batch_step(batch, 0) >= 0);
        take();
    }
    step_until_empty();
    for (int i = 0; i < CROWD; i++) {
        if (i % 7 == 5) {
            CHECK(jobs[i].is_done);
            CHECK_IS(jobs[i].done.rc, -ENOENT);
            CHECK_IS(jobs[i].done.report.child.stage, CL_STAGE_EXEC);
            continue;
        }
        ended_with(i, CL_STATE_EXITED, i % 7 == 3 ? 99 : i % 200);
        CHECK_IS(jobs[i].done.report.size[0], i % 7 == 3 ? 0 : 4);
        CHECK(jobs[i].done.report.size[0] == 0 || memcmp(jobs[i].out[0], "out\n", 4) == 0);
    }
}

static void all_are_fed(void)
{
    enum { FED = 20, SIZE = 300000 };
    static uint8_t input[SIZE];
    const cl_piece piece = {input, SIZE};
    say_about("fed");
    memset(input, 'x', sizeof input);
    for (int i = 0; i < FED; i++) {
        want(i, "copy", NULL);
        feed(i, &piece);
        jobs[i].options.max_output = i % 2 ? NEVER : 1000;
        jobs[i].options.limit_action = CL_LIMIT_TRUNCATE;
    }
    CHECK_IS(start(0, FED), FED);
    step_until_empty();
    for (int i = 0; i < FED; i++) {
        ended_with(i, CL_STATE_EXITED, 0);
        CHECK_IS(jobs[i].done.report.size[0], i % 2 ? SIZE : 1000);
        CHECK_IS(jobs[i].done.report.limit_hit, i % 2 == 0);
    }
}

static void each_has_its_own_deadline(void)
{
    say_about("deadlines");
    want(0, "stay", NULL);
    jobs[0].options.timeout_ns = 300 * MS;
    want(1, "stubborn", NULL);
    jobs[1].options.timeout_ns = 200 * MS;
    jobs[1].options.grace_ns = 50 * MS;
    want(2, "both", NULL);
    jobs[2].options.timeout_ns = PATIENCE;
    want(3, "stay", NULL);
    jobs[3].options.timeout_ns = 100 * MS;
    jobs[3].options.grace_ns = PATIENCE;
    int64_t began = now_ns();
    CHECK_IS(start(0, 4), 4);
    step_until_empty();
    CHECK(now_ns() - began >= 300 * MS);
    ended_with(2, CL_STATE_EXITED, 0);
    for (int i = 0; i < 4; i++) {
        CHECK_IS(jobs[i].done.report.timed_out, i != 2);
        CHECK(i == 2 || jobs[i].done.report.child.elapsed_ns >= jobs[i].options.timeout_ns);
    }
    ended_with(0, CL_STATE_SIGNALED, SIGKILL);
    ended_with(1, CL_STATE_SIGNALED, SIGKILL);
    ended_with(3, CL_STATE_SIGNALED, SIGTERM);
}

static void drains_have_a_bound(void)
{
    int ends[2];
    say_about("pipes that outlive the child");
    make_pipe(ends);
    const cl_fd_move leash = {ends[0], 5};
    for (int i = 0; i < 3; i++) { /* in the group; outside; outside with no time at all */
        want(i, i ? "escape" : "leave", NULL);
        jobs[i].plan.command.moves = &leash;
        jobs[i].plan.command.move_count = 1;
        jobs[i].options.drain_ns = i == 2 ? 0 : 30 * MS;
    }
    want(3, "both", NULL);
    jobs[3].options.drain_ns = 0;
    CHECK_IS(start(0, 4), 4);
    step_until_empty();
    for (int i = 0; i < 3; i++)
        CHECK_IS(jobs[i].done.report.pipes_left_open, 1);
    CHECK_IS(jobs[3].done.report.pipes_left_open, 0);
    CHECK_IS(jobs[3].done.report.size[0], 4);
    close(ends[1]);
    close(ends[0]);
}

/* ---- limits, kills and ends --------------------------------------------------------------------------------------- */

static void slows_down_at_a_limit(void)
{
    struct rlimit before, low;
    say_about("few descriptors");
    MUST(getrlimit(RLIMIT_NOFILE, &before));
    low = before;
    low.rlim_cur = (rlim_t)count_fds() + 12; /* of which each child takes three, and more while it is made */
    MUST(setrlimit(RLIMIT_NOFILE, &low));
    int next = 0, fewest = MOST;
    for (int i = 0; i < 30; i++)
        want(i, "both", NULL);
    while (next < 30) {
        int64_t rc = start(next, 30);
        CHECK(rc >= 0);
        fewest = rc < fewest ? (int)rc : fewest;
        next += (int)rc;
        CHECK(cl_batch_step(batch, PATIENCE) >= 0);
        take();
    }
    step_until_empty();
    for (int i = 0; i < 30; i++)
        ended_with(i, CL_STATE_EXITED, 0);
    CHECK(fewest < 30);

    say_about("no descriptor at all");
    low.rlim_cur = 3;
    MUST(setrlimit(RLIMIT_NOFILE, &low));
    want(0, "both", NULL);
    CHECK_IS(start(0, 1), -EMFILE);
    MUST(setrlimit(RLIMIT_NOFILE, &before));
}

static void kills_one(void)
{
    say_about("a kill");
    want(0, "stay", NULL);
    want(1, "both", NULL);
    cl_batch_item items[2] = {item_of(0), item_of(1)};
    CHECK_IS(cl_batch_start(batch, items, 2), 2);
    CHECK_IS(cl_batch_kill(batch, items[0].slot, 7), -ESRCH); /* that is somebody else's tag */
    CHECK_IS(cl_batch_kill(batch, items[0].slot, 0), 0);
    step_until_empty();
    ended_with(0, CL_STATE_SIGNALED, SIGKILL);
    ended_with(1, CL_STATE_EXITED, 0);
    CHECK_IS(cl_batch_kill(batch, items[0].slot, 0), -ESRCH);
    CHECK_IS(cl_batch_kill(batch, 1000000, 0), -ESRCH);
}

static void aborts_all(void)
{
    int fds = count_fds();
    say_about("an abort");
    for (int i = 0; i < 20; i++)
        want(i, i % 3 ? "stubborn" : "both", NULL);
    CHECK_IS(start(0, 20), 20);
    CHECK(cl_batch_step(batch, 0) >= 0);
    CHECK_IS(cl_batch_abort(batch, PATIENCE), 0);
    CHECK_IS(cl_batch_live(batch), 0);
    CHECK_IS(cl_batch_step(batch, 0), 0);
    CHECK_IS(count_fds(), fds);
    CHECK(has_no_children());
}

static void use_in_a_fork(void *unused)
{
    (void)unused;
    CHECK_IS(start(0, 1), -EPERM);
    CHECK_IS(cl_batch_step(batch, 0), -EPERM);
    CHECK_IS(cl_batch_abort(batch, 0), 0);
    cl_batch_free(batch);
}

static void is_not_a_forked_childs(void)
{
    say_about("a forked child");
    want(0, "stay", NULL);
    cl_batch_item item = item_of(0);
    CHECK_IS(cl_batch_start(batch, &item, 1), 1);
    in_a_fork(use_in_a_fork, NULL);
    CHECK_IS(cl_batch_live(batch), 1);
    CHECK_IS(cl_batch_kill(batch, item.slot, 0), 0);
    step_until_empty();
    ended_with(0, CL_STATE_SIGNALED, SIGKILL);
}

static void wakes_a_loop(void)
{
    int64_t fd = cl_batch_fd(batch);
    say_about("in somebody's loop");
    if (fd == -ENOTSUP)
        return;
    want(0, "both", NULL);
    want(1, "stay", NULL);
    jobs[1].options.timeout_ns = 100 * MS;
    CHECK_IS(start(0, 2), 2);
    while (cl_batch_live(batch)) {
        struct pollfd ready = {.fd = (int)fd, .events = POLLIN};
        CHECK_IS(cl_batch_arm(batch), 0);
        CHECK_IS(poll(&ready, 1, (int)(PATIENCE / MS)), 1);
        CHECK(cl_batch_step(batch, 0) >= 0);
        take();
    }
    ended_with(0, CL_STATE_EXITED, 0);
    ended_with(1, CL_STATE_SIGNALED, SIGKILL);
}

/* ---- children that nobody waits for ------------------------------------------------------------------------------- */

static int flies(void)
{
    say_about("a flight");
    want(0, "both", NULL);
    CHECK_IS(start(0, 1), 1);
    step_until_empty();
    return jobs[0].done.report.child.strategy == CL_STRATEGY_FLIGHT;
}

/* What would not be safe beside its parent is held, and says so. */
static void what_cannot_fly_is_held(void)
{
    static const char *const by_descriptor = "/proc/self/exe";
    if (!flies())
        return;
    say_about("held");
    for (int i = 0; i < 5; i++)
        want(i, "both", NULL);
    jobs[0].plan.command.options = CL_OPT_OOM_SCORE_ADJ;
    jobs[0].plan.command.oom_score_adj = 500;
    jobs[1].plan.command.options = CL_OPT_KEEP_OTHERS;
    jobs[2].plan.command.strategy = CL_STRATEGY_VFORK;
    jobs[3].plan.command.program = by_descriptor;
    jobs[4].plan.command.options = CL_OPT_UMASK;
    CHECK_IS(start(0, 5), 5);
    step_until_empty();
    static const int expected[] = {CL_STRATEGY_CLONE3, CL_STRATEGY_CLONE3, CL_STRATEGY_VFORK, CL_STRATEGY_CLONE3,
                                   CL_STRATEGY_FLIGHT};
    for (int i = 0; i < 5; i++) {
        ended_with(i, CL_STATE_EXITED, 0);
        CHECK_IS(jobs[i].done.report.child.strategy, expected[i]);
    }
}

static void freeze(const char *cgroup, const char *how)
{
    char path[160];
    snprintf(path, sizeof path, "%s/cgroup.freeze", cgroup);
    int fd = MUST(open(path, O_WRONLY | O_CLOEXEC));
    MUST(write(fd, how, 1));
    close(fd);
}

/* A flight that is born frozen, and so does not come to its exec, as one whose program lies on a dead file system. Batches
 * start none in a cgroup; here it is started by hand. */
typedef struct frozen {
    char cgroup[128];
    int dir, pidfd, out[2];
    int64_t pid;
    cl__flights pool;
    cl__flight *flight;
} frozen;

static int prepare_frozen(frozen *it)
{
    memset(it, 0, sizeof *it);
    if (!flies() || (it->dir = make_cgroup(it->cgroup)) < 0)
        return 0;
    freeze(it->cgroup, "1");
    make_pipe(it->out);
    return 1;
}

static void start_frozen(frozen *it)
{
    const char *argv[] = {self, "both", NULL}, *paths[] = {self, NULL}, *env[] = {NULL};
    cl_command command = {.argv = argv, .contain = CL_CONTAIN_NONE};
    cl__move moves[] = {{CL__SOURCE_NULL, 0}, {it->out[1], 1}, {CL__SOURCE_NULL, 2}};
    cl__job job = {.command = &command, .env = env, .paths = paths, .moves = moves, .move_count = 3,
                   .parent = getpid(), .cgroup_fd = -1, .report_fd = -1};
    uint64_t old;
    cl__spawned said;
    CHECK_IS(cl__flight_new(&it->pool, &job, &it->flight), 0);
    cl__sys_block_signals(UINT64_MAX, &old);
    it->pid = cl__flight_start(it->flight, it->dir, &it->pidfd); /* and it comes back */
    cl__sys_block_signals(old, NULL);
    CHECK(it->pid > 0);
    CHECK(!cl__flight_has_landed(it->flight, &said));
    memset(argv, 0xff, sizeof argv); /* nothing of ours is used any more */
    memset(moves, 0xff, sizeof moves);
    memset(&command, 0xff, sizeof command);
}

static void end_frozen(frozen *it)
{
    close(it->dir);
    close(it->out[0]);
    close(it->out[1]);
    EVENTUALLY(rmdir(it->cgroup) == 0);
}

static void an_exec_that_hangs_holds_nobody(void)
{
    frozen it;
    cl__spawned said = {.stage = -1};
    int ends[2];
    siginfo_t info;
    if (!prepare_frozen(&it))
        return;
    say_about("an exec that hangs");
    start_frozen(&it);

    /* Others go on: they are started, and come to their end of file, for it has nothing of a pipe that is made later. */
    make_pipe(ends);
    want(1, "copy", NULL);
    jobs[1].plan.launch.stream[0] = (cl_stream){.kind = CL_IO_FD, .fd = ends[0]};
    CHECK_IS(start(1, 2), 1);
    close(ends[0]);
    close(ends[1]);
    step_until_empty();
    ended_with(1, CL_STATE_EXITED, 0);
    CHECK(!cl__flight_has_landed(it.flight, &said));

    freeze(it.cgroup, "0");
    expect_line(it.out[0], "out\n");
    MUST(waitid(P_PID, (id_t)it.pid, &info, WEXITED));
    CHECK_IS(info.si_status, 0);
    CHECK(cl__flight_has_landed(it.flight, &said));
    CHECK_IS(said.stage, CL_STAGE_NONE);
    cl__flight_free(&it.pool, it.flight);
    cl__flights_close(&it.pool);
    close(it.pidfd);
    end_frozen(&it);
}

/* Its parent is gone while it is on its way; the memory is not. */
static void a_parent_may_die_meanwhile(void)
{
    frozen it;
    int told[2];
    char byte;
    if (!prepare_frozen(&it))
        return;
    say_about("a parent that is killed");
    make_pipe(told);
    pid_t parent = MUST(fork());
    if (parent == 0) {
        start_frozen(&it);
        MUST(write(told[1], "", 1)); /* not end of file: the child has a copy, and does not run */
        for (;;)
            pause();
    }
    CHECK_IS(read(told[0], &byte, 1), 1);
    MUST(kill(parent, SIGKILL));
    MUST(waitpid(parent, NULL, 0));
    freeze(it.cgroup, "0");
    expect_line(it.out[0], "out\n");
    close(told[0]);
    close(told[1]);
    end_frozen(&it);
}

/* There the out-of-memory killer would take it for the whole of its parent. Nor with a cwd that names a descriptor. */
static void no_flight_into_a_cgroup(void)
{
    char cgroup[128];
    int dir;
    if (!flies() || (dir = make_cgroup(cgroup)) < 0)
        return;
    say_about("into a cgroup");
    want(0, "both", NULL);
    jobs[0].plan.launch.cgroup_fd = dir;
    want(1, "both", NULL);
    jobs[1].plan.command.cwd = "/proc/self";
    CHECK_IS(start(0, 2), 2);
    step_until_empty();
    for (int i = 0; i < 2; i++) {
        ended_with(i, CL_STATE_EXITED, 0);
        CHECK_IS(jobs[i].done.report.child.strategy, CL_STRATEGY_CLONE3);
    }
    close(dir);
    EVENTUALLY(rmdir(cgroup) == 0);
}

/* ---- what is late, and what is ready ------------------------------------------------------------------------------- */

/* All end in time, in a fraction of it; we look after their deadline, when the events of more of them are there than one
 * wait returns. */
static void who_ended_in_time_is_not_late(void)
{
    say_about("a late look");
    for (int i = 0; i < CROWD; i++) {
        want(i, "both", NULL);
        jobs[i].options.timeout_ns = 2 * SECOND;
    }
    cl_batch_item items[CROWD];
    for (int i = 0; i < CROWD; i++)
        items[i] = item_of(i);
    int64_t began = now_ns();
    for (int first = 0; first < CROWD; first += MOST)
        CHECK(cl_batch_start(batch, items + first, CROWD - first < MOST ? CROWD - first : MOST) > 0);
    while (now_ns() - began < 2 * SECOND + 10 * MS)
        nap();
    step_until_empty();
    for (int i = 0; i < CROWD; i++) {
        ended_with(i, CL_STATE_EXITED, 0);
        CHECK_IS(jobs[i].done.report.timed_out, 0);
    }
}

/* ---- a program that does much else ------------------------------------------------------------------------------- */

static atomic_int all_done;

/* errno is in thread-local storage, and the child has its parent's. */
static void *make_noise(void *unused)
{
    (void)unused;
    for (int i = 1; !atomic_load(&all_done); i++) {
        errno = i % 100 + 1;
        void *memory = malloc((size_t)(i % 5000));
        CHECK(memory || i % 5000 == 0);
        CHECK_IS(errno, i % 100 + 1);
        free(memory);
        if (i % 64 == 0)
            close(MUST(open("/dev/null", O_RDONLY | O_CLOEXEC)));
    }
    return NULL;
}

static void *live_shortly(void *unused)
{
    return unused;
}

static void *make_threads(void *unused)
{
    while (!atomic_load(&all_done)) {
        pthread_t thread;
        CHECK_IS(pthread_create(&thread, NULL, live_shortly, NULL), 0);
        CHECK_IS(pthread_join(thread, NULL), 0);
    }
    return unused;
}

static void others_notice_nothing(void)
{
    pthread_t noise[2];
    say_about("beside busy threads");
    atomic_store(&all_done, 0);
    CHECK_IS(pthread_create(&noise[0], NULL, make_noise, NULL), 0);
    CHECK_IS(pthread_create(&noise[1], NULL, make_threads, NULL), 0);
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < CROWD; i++) {
            want(i, "both", NULL);
            if (i % 5 == 4)
                jobs[i].plan.argv[0] = "/no/such/program";
        }
        for (int first = 0; first < CROWD; first += MOST) {
            int last = first + MOST < CROWD ? first + MOST : CROWD;
            errno = 77;
            CHECK_IS(start(first, last), last - first);
            CHECK(errno == 77 || cl_platform() != CL_PLATFORM_LINUX); /* nor does this thread, whose storage it is */
            CHECK(cl_batch_step(batch, 10 * MS) >= 0);
            take();
        }
        step_until_empty();
        for (int i = 0; i < CROWD; i++) {
            CHECK(jobs[i].is_done);
            CHECK_IS(jobs[i].done.rc, i % 5 == 4 ? -ENOENT : 1);
            CHECK_IS(jobs[i].done.report.size[0], i % 5 == 4 ? 0 : 4);
        }
    }
    atomic_store(&all_done, 1);
    for (int i = 0; i < 2; i++)
        CHECK_IS(pthread_join(noise[i], NULL), 0);
}

/* The death signal follows the thread that cloned, so in other threads the spawner thread does. */
static void *start_in_a_thread(void *unused)
{
    for (int i = 0; i < 10; i++) {
        want(i, "both", NULL);
        jobs[i].plan.command.options |= cl_platform() == CL_PLATFORM_DARWIN ? 0 : CL_OPT_DEATH_SIGNAL;
        jobs[i].plan.command.death_signal = SIGKILL;
    }
    CHECK_IS(start(0, 10), 10);
    return unused;
}

static void a_thread_may_start_and_end(void)
{
    pthread_t thread;
    say_about("started by a thread that ends");
    CHECK_IS(pthread_create(&thread, NULL, start_in_a_thread, NULL), 0);
    CHECK_IS(pthread_join(thread, NULL), 0);
    step_until_empty();
    for (int i = 0; i < 10; i++)
        ended_with(i, CL_STATE_EXITED, 0);
}

int main(int argc, char **argv)
{
    static void (*const checks[])(void) = {
        each_has_its_own_result, all_are_fed, each_has_its_own_deadline, drains_have_a_bound, slows_down_at_a_limit,
        kills_one, aborts_all, is_not_a_forked_childs, wakes_a_loop, what_cannot_fly_is_held,
        an_exec_that_hangs_holds_nobody, a_parent_may_die_meanwhile, no_flight_into_a_cgroup,
        who_ended_in_time_is_not_late, others_notice_nothing, a_thread_may_start_and_end,
    };
    start_program(argc, argv);
    run_checks(checks, sizeof checks / sizeof *checks);
    CHECK_IS(cl_batch_new(&batch), 0);
    want(0, "stay", NULL);
    CHECK_IS(start(0, 1), 1);
    cl_batch_free(batch); /* with a child that runs */
    say_about("at the end");
    CHECK_IS(count_fds(), fds_at_first);
    CHECK(has_no_children());
    puts("ok");
    return 0;
}
