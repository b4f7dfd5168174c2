/* Twenty thousand spawns with whatever options, ended in whatever way: nothing is left, and memory does not grow.
 *
 *     test_leaks [ROUNDS [SEED]]      or CORELANE_ROUNDS; fewer by default where each takes long */
#include "child.h"

#ifdef __linux__
#include <sched.h>
#endif

enum { ROUNDS = UNDER_TSAN ? 4000 : SANITIZED ? 10000 : 20000, ROUNDS_BY_POLLING = 6000, ALLOWED_GROWTH = 1 << 20 };

static uint64_t state;

static uint32_t draw(uint32_t below) /* xorshift64*, so that each seed is the same run everywhere */
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (uint32_t)((state * 2685821657736338717ULL) >> 33) % below;
}

static int one_in(uint32_t n)
{
    return draw(n) == 0;
}

/* ---- a plan at random ----------------------------------------------------------------------------------------------- */

static int root_dir, null_fd;
static cl_run *run;
static cl_environ *snapshot;

/* What a plan points to. */
static cl_limit limits[2];
static cl_fd_move moves[6];
static uint8_t cpus[128];
static const char *const changes[] = {"CL_LEAKS=1", "HOME", "LANG=C", NULL};
static const char *const given[] = {"PATH=/usr/bin:/bin:/nowhere", "A=1", NULL};

static void draw_streams(plan *plan)
{
    for (int i = 0; i < 3; i++) {
        static const int kinds[] = {CL_IO_NULL, CL_IO_PIPE, CL_IO_FD, CL_IO_INHERIT, CL_IO_STDOUT};
        int kind = kinds[draw(i == 2 ? 5 : 4)];
        plan->launch.stream[i] = (cl_stream){kind, null_fd, 0};
    }
}

#ifdef __linux__
static void draw_linux(plan *plan)
{
    cl_command *command = &plan->command;
    if (one_in(8))
        command->options |= CL_OPT_SCHEDULER, command->sched_policy = SCHED_BATCH;
    if (one_in(8))
        command->options |= CL_OPT_IO_PRIORITY, command->io_priority = 2 << 13 | (int32_t)draw(8);
    if (one_in(8))
        command->options |= CL_OPT_OOM_SCORE_ADJ, command->oom_score_adj = 500 + (int32_t)draw(400);
    if (one_in(4))
        command->options |= CL_OPT_DEATH_SIGNAL, command->death_signal = SIGKILL;
    if (one_in(8))
        command->options |= CL_OPT_NO_NEW_PRIVS;
    if (one_in(8))
        command->cpus = cpus, command->cpus_size = sizeof cpus;
}
#else
static void draw_linux(plan *plan)
{
    (void)plan;
}
#endif

static void draw_options(plan *plan)
{
    cl_command *command = &plan->command;
    command->strategy = one_in(3) ? (int32_t)draw(5) : CL_STRATEGY_AUTO;
    if (is_missing(command->strategy))
        command->strategy = CL_STRATEGY_POSIX_SPAWN;
    command->contain = (int32_t)draw(3);
    if (one_in(8))
        command->options |= CL_OPT_UMASK, command->umask = 077;
    if (one_in(8))
        command->options |= CL_OPT_CWD_FD, command->cwd_fd = root_dir;
    if (one_in(8))
        command->cwd = "/tmp";
    if (one_in(8))
        command->options |= one_in(2) ? CL_OPT_PROCESS_GROUP : CL_OPT_NEW_SESSION;
    if (one_in(8))
        command->options |= CL_OPT_NICE, command->nice = 19;
    if (one_in(8))
        command->options |= CL_OPT_KEEP_OTHERS;
    if (one_in(8))
        command->signal_mask = draw(1u << 31), command->signal_defaults = 1ULL << (SIGHUP - 1);
    if (one_in(8))
        command->limits = limits, command->limit_count = 1 + draw(2);
    if (one_in(4)) {
        command->moves = moves;
        command->move_count = 1 + draw(6);
        for (uint32_t i = 0; i < command->move_count; i++)
            moves[i] = (cl_fd_move){one_in(2) ? null_fd : root_dir, (int32_t)(3 + draw(4) + i * 4)};
    }
    if (one_in(6))
        command->env_changes = changes;
    if (one_in(6))
        command->env = given;
    draw_linux(plan);
}

/* ---- and what is done with it --------------------------------------------------------------------------------------- */

static void close_pipes(const cl_report *report)
{
    for (int i = 0; i < 3; i++)
        if (report->pipe[i] >= 0)
            close((int)report->pipe[i]);
}

static void spawn_and_fail(plan *plan)
{
    static const cl_fd_move closed = {240, 3};
    switch (draw(4)) {
    case 0:
        plan->argv[0] = "/nowhere/at/all";
        break;
    case 1:
        plan->argv[0] = "there-is-no-such-program";
        break;
    case 2:
        plan->command.cwd = "/nowhere";
        break;
    default:
        plan->command.moves = &closed;
        plan->command.move_count = 1;
    }
    cl_process *process = new_process();
    CHECK(cl_process_spawn(process, &plan->command, &plan->launch, snapshot) < 0);
    CHECK(report_of(process).stage != CL_STAGE_NONE);
    cl_process_free(process);
}

static void spawn_and_wait(plan *plan)
{
    cl_process *process = new_process();
    cl_report report = must_spawn(process, plan);
    close_pipes(&report);
    must_end(process);
    CHECK_IS(report_of(process).state, CL_STATE_EXITED);
    CHECK_IS(report_of(process).status, 0);
    cl_process_free(process);
}

static void spawn_and_kill(plan *plan)
{
    plan->argv[0] = "sleep";
    plan->argv[1] = "60";
    cl_process *process = new_process();
    cl_report report = must_spawn(process, plan);
    close_pipes(&report);
    CHECK_IS(cl_process_signal_scope(process, SIGKILL), 0);
    must_end(process);
    CHECK_IS(report_of(process).state, CL_STATE_SIGNALED);
    cl_process_free(process);
}

static void spawn_and_drop(plan *plan)
{
    cl_process *process = new_process();
    cl_report report = must_spawn(process, plan);
    close_pipes(&report);
    cl_process_free(process); /* it may have ended, or not */
    if (waitpid((pid_t)report.pid, NULL, 0) < 0)
        CHECK_IS(errno, ECHILD);
}

static void run_it(plan *plan, int abort)
{
    static char data[100000];
    const cl_piece pieces[] = {{data, 1000}, {data, one_in(10) ? sizeof data : 10}};
    const cl_run_options options = {.feed = pieces, .feed_count = draw(3), .timeout_ns = one_in(2) ? -1 : PATIENCE,
                                    .drain_ns = SECOND, .max_output = one_in(2) ? -1 : (int64_t)draw(2000),
                                    .limit_action = CL_LIMIT_TRUNCATE, .tee = {one_in(4) ? null_fd : -1, -1}};
    if (one_in(2))
        plan->argv[0] = "cat";
    if (plan->launch.stream[0].kind == CL_IO_INHERIT)
        plan->launch.stream[0].kind = CL_IO_NULL; /* or cat would wait for whatever that is */
    int64_t rc = cl_run_start(run, &plan->command, &plan->launch, &options, snapshot, abort ? 0 : PATIENCE);
    CHECK(rc >= 0);
    if (abort) {
        CHECK_IS(cl_run_abort(run, PATIENCE), 1);
        return;
    }
    CHECK_IS(rc, 1);
}

static void one_round(void)
{
    plan plan;
    plan_program(&plan, "true");
    draw_streams(&plan);
    draw_options(&plan);
    switch (draw(12)) {
    case 0:
    case 1:
        spawn_and_fail(&plan);
        break;
    case 2:
        spawn_and_kill(&plan);
        break;
    case 3:
        spawn_and_drop(&plan);
        break;
    case 4:
        run_it(&plan, 1);
        break;
    case 5:
    case 6:
    case 7:
        run_it(&plan, 0);
        break;
    default:
        spawn_and_wait(&plan);
    }
}

/* ---- what is left --------------------------------------------------------------------------------------------------- */

#ifdef __linux__
static int64_t resident(void)
{
    char text[128];
    int fd = MUST(open("/proc/self/statm", O_RDONLY | O_CLOEXEC));
    read_all(fd, text, sizeof text);
    close(fd);
    return strtoll(strchr(text, ' '), NULL, 10) * sysconf(_SC_PAGESIZE);
}
#else
static int64_t resident(void)
{
    return 0; /* the peak is all that other systems tell */
}
#endif

static void prepare(void)
{
    struct rlimit now;
    root_dir = MUST(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    null_fd = MUST(open("/dev/null", O_RDWR | O_CLOEXEC));
    getrlimit(RLIMIT_FSIZE, &now);
    limits[0] = (cl_limit){RLIMIT_NOFILE, 0, 64, 64};
    limits[1] = (cl_limit){RLIMIT_FSIZE, 0, now.rlim_cur, now.rlim_max};
#ifdef __linux__
    cpu_set_t mine;
    MUST(sched_getaffinity(0, sizeof mine, &mine));
    memcpy(cpus, &mine, sizeof mine);
#endif
    CHECK_IS(cl_run_new(&run), 0);
    CHECK_IS(cl_environ_new(&snapshot), 0);
    CHECK(cl_environ_capture(snapshot) >= 0);
}

int main(int argc, char **argv)
{
    start_program(argc, argv);
    const char *asked = argc > 1 ? argv[1] : getenv("CORELANE_ROUNDS");
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 20240229;
    int by_polling = cl_platform() == CL_PLATFORM_PORTABLE; /* half a millisecond for each wait */
    int rounds = asked ? atoi(asked) : by_polling ? ROUNDS_BY_POLLING : ROUNDS;
    int64_t before = 0;
    state = seed * 2 + 1;
    prepare();
    int out = MUST(fcntl(1, F_DUPFD_CLOEXEC, 3));
    MUST(dup2(null_fd, 1)); /* for the children that inherit it */
    int fds = count_fds();
    for (int round = 0; round < rounds; round++) {
        say_about("round %d of seed %llu", round, (unsigned long long)seed);
        if (round == rounds / 10)
            before = resident(); /* by then every buffer has had its largest child */
        one_round();
        CHECK_IS(count_fds(), fds);
        CHECK(has_no_children());
    }
    say_about("after %d rounds of seed %llu", rounds, (unsigned long long)seed);
    int64_t grown = resident() - before;
    if (!SANITIZED)
        CHECK(grown < ALLOWED_GROWTH);
    cl_run_free(run);
    cl_environ_free(snapshot);
    close(root_dir);
    close(null_fd);
    MUST(dup2(out, 1));
    puts("ok");
    return 0;
}
