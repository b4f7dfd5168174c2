/* Pipelines in the batch engine: stages that are joined, that share one scope, and that end together. */
#include "jobs.h"

enum { STAGES = 4, BIG = 10000000, PIPELINES = SANITIZED ? 150 : 2000 };

static uint8_t big[BIG];

/* jobs[first..first + count) as the stages of one pipeline. */
static void join(int first, int count)
{
    for (int i = 0; i < count; i++) {
        items[first + i] = item_of(first + i);
        items[first + i].more = count - 1 - i;
        items[first + i].joins = i < count - 1;
    }
}

static void start(int first, int count)
{
    join(first, count);
    CHECK_IS(cl_batch_start(batch, items + first, count), count);
}

static void was_not_started(int at)
{
    CHECK(jobs[at].is_done);
    CHECK_IS(jobs[at].done.rc, -ECANCELED);
    CHECK_IS(jobs[at].done.report.child.stage, CL_STAGE_PREPARE);
}

/* Killed, or never started: it runs no more. It may have found that nobody reads what it writes. */
static void was_ended(int at)
{
    if (jobs[at].done.rc == 1)
        ended_with(at, CL_STATE_SIGNALED, jobs[at].done.report.child.status == SIGPIPE ? SIGPIPE : SIGKILL);
    else
        was_not_started(at);
}

static int has_zombie(id_t pid)
{
    siginfo_t info = {0};
    return waitid(pid ? P_PID : P_ALL, pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid > 0;
}

/* ---- results ------------------------------------------------------------------------------------------------------ */

static void each_stage_has_its_own_result(void)
{
    say_about("results");
    want(0, "both", "3");
    want(1, "copy", NULL);
    want(2, "copy", NULL);
    want(3, "exit", "4");
    want(4, "both", "5");
    start(0, 3);
    start(3, 2);
    step_until_empty();
    for (int i = 0; i < 5; i++) {
        ended_with(i, CL_STATE_EXITED, (const int[]){3, 0, 0, 4, 5}[i]);
        CHECK_TEXT(jobs[i].out[0], i == 2 || i == 4 ? "out\n" : "");
        CHECK_TEXT(jobs[i].out[1], i == 0 || i == 4 ? "err\n" : "");
        CHECK(jobs[i].done.report.child.elapsed_ns > 0);
    }
}

static void much_flows_through(void)
{
    const cl_piece piece = {big, BIG};
    say_about("10 MB");
    for (int i = 0; i < 3; i++)
        want(i, "copy", NULL);
    feed(0, &piece);
    start(0, 3);
    step_until_empty();
    for (int i = 0; i < 3; i++)
        ended_with(i, CL_STATE_EXITED, 0);
    CHECK_IS(jobs[2].done.report.size[0], BIG);
    CHECK_IS(jobs[2].hash, sum_of(big, BIG));
    CHECK_IS(jobs[0].done.report.feed_left, 0);
}

static void who_reads_no_more_ends_the_one_before_it(void)
{
    const cl_piece piece = {big, BIG};
    say_about("flood | exit");
    want(0, "flood", NULL);
    want(1, "exit", "0");
    start(0, 2);
    step_until_empty();
    ended_with(1, CL_STATE_EXITED, 0);
    CHECK(jobs[0].is_done && jobs[0].done.rc == 1); /* SIGPIPE, or EPIPE for whoever started us ignoring it */

    say_about("a feed that nobody reads");
    want(0, "exit", "0");
    want(1, "copy", NULL);
    feed(0, &piece);
    start(0, 2);
    step_until_empty();
    ended_with(0, CL_STATE_EXITED, 0);
    ended_with(1, CL_STATE_EXITED, 0);
    CHECK(jobs[0].done.report.feed_left > 0);
}

/* ---- one scope ---------------------------------------------------------------------------------------------------- */

static void all_are_the_leaders_group(void)
{
    int64_t leader;
    say_about("one group");
    want(0, "report", "2");
    want(1, "report", "2");
    want(2, "report", NULL);
    start(0, 3);
    step_until_empty();
    leader = jobs[0].done.report.child.pid;
    for (int i = 0; i < 3; i++) {
        ended_with(i, CL_STATE_EXITED, 0);
        snprintf(seen, sizeof seen, "%s", jobs[i].out[i < 2]);
        CHECK_IS(number("pid"), jobs[i].done.report.child.pid);
        CHECK_IS(number("pgid"), leader);
        CHECK_TEXT(value("fds"), "0 1 2 ");
        CHECK_IS(jobs[i].done.report.child.contained, CL_CONTAIN_GROUP);
    }
}

/* The leader has ended, and waits as a zombie for the others: else its number, and the group's, were anybody's. */
static void the_leader_is_reaped_last(void)
{
    int told[2];
    say_about("a leader that has ended");
    make_pipe(told);
    const cl_fd_move tell = {told[1], 5};
    want(0, "exit", "0");
    want(1, "report", "5");
    jobs[1].plan.command.moves = &tell;
    jobs[1].plan.command.move_count = 1;
    want(2, "stay", NULL);
    start(0, 3);
    close(told[1]);
    read_all(told[0], seen, sizeof seen);
    close(told[0]);
    int leader = (int)number("pgid");
    CHECK(leader > 0 && leader != getpgrp());
    EVENTUALLY(has_zombie((id_t)leader));
    EVENTUALLY(has_zombie((id_t)number("pid")));
    for (int i = 0; i < 5; i++)
        CHECK_IS(cl_batch_step(batch, 2 * MS), 0);
    CHECK(has_zombie((id_t)leader));
    CHECK_IS(cl_batch_live(batch), 3);
    CHECK_IS(cl_batch_kill(batch, items[0].slot, 0), 0);
    step_until_empty();
    ended_with(0, CL_STATE_EXITED, 0);
    ended_with(1, CL_STATE_EXITED, 0);
    ended_with(2, CL_STATE_SIGNALED, SIGKILL);
    CHECK_IS(jobs[0].done.report.child.pid, leader);
}

static int is_held(int writer)
{
    struct pollfd end = {.fd = writer, .events = POLLOUT};
    MUST(poll(&end, 1, 0));
    return !(end.revents & POLLERR);
}

static void leftovers_live_until_all_have_ended(void)
{
    int leash[2], input[2];
    say_about("leftovers");
    make_pipe(leash);
    make_pipe(input);
    const cl_fd_move move = {leash[0], 5};
    want(0, "copy", NULL);
    jobs[0].plan.launch.stream[0] = (cl_stream){.kind = CL_IO_FD, .fd = input[0]};
    want(1, "leave", NULL);
    jobs[1].plan.command.moves = &move;
    jobs[1].plan.command.move_count = 1;
    jobs[1].options.drain_ns = 20 * MS;
    start(0, 2);
    close(leash[0]);
    close(input[0]);
    EVENTUALLY(has_zombie(0)); /* the second stage: its child lives on */
    for (int i = 0; i < 5; i++)
        CHECK_IS(cl_batch_step(batch, 10 * MS), 0);
    CHECK(is_held(leash[1]));
    close(input[1]); /* which ends the first */
    step_until_empty();
    ended_with(0, CL_STATE_EXITED, 0);
    ended_with(1, CL_STATE_EXITED, 0);
    CHECK_IS(jobs[1].done.report.pipes_left_open, 1);
    EVENTUALLY(!is_held(leash[1]));
    close(leash[1]);
}

static void a_kill_of_one_ends_all(void)
{
    for (int which = 0; which < 3; which++) {
        say_about("a kill of stage %d", which);
        for (int i = 0; i < 3; i++)
            want(i, "stubborn", NULL);
        want(3, "both", NULL);
        start(0, 3);
        join(3, 1);
        CHECK_IS(cl_batch_start(batch, items + 3, 1), 1);
        CHECK_IS(cl_batch_kill(batch, items[which].slot, which), 0);
        step_until_empty();
        for (int i = 0; i < 3; i++) {
            ended_with(i, CL_STATE_SIGNALED, SIGKILL);
            CHECK_IS(jobs[i].done.report.timed_out, 0);
        }
        ended_with(3, CL_STATE_EXITED, 0); /* which has nothing to do with it */
    }
}

static void there_is_one_deadline(void)
{
    say_about("a deadline");
    for (int i = 0; i < 3; i++) { /* that of the first counts */
        want(i, i == 1 ? "stubborn" : "stay", NULL);
        jobs[i].options.timeout_ns = i ? MS : 200 * MS;
        jobs[i].options.grace_ns = 50 * MS;
    }
    int64_t began = now_ns();
    start(0, 3);
    step_until_empty();
    CHECK(now_ns() - began >= 250 * MS);
    for (int i = 0; i < 3; i++) {
        ended_with(i, CL_STATE_SIGNALED, i == 1 ? SIGKILL : SIGTERM);
        CHECK_IS(jobs[i].done.report.timed_out, 1);
    }

    say_about("a deadline after the leader's end");
    want(0, "exit", "0");
    want(1, "copy", NULL);
    want(2, "stay", NULL);
    jobs[0].options.timeout_ns = 100 * MS;
    start(0, 3);
    step_until_empty();
    ended_with(2, CL_STATE_SIGNALED, SIGKILL);
    CHECK_IS(jobs[2].done.report.timed_out, 1);
    for (int i = 0; i < 2; i++) { /* they made it */
        ended_with(i, CL_STATE_EXITED, 0);
        CHECK_IS(jobs[i].done.report.timed_out, 0);
    }
}

/* Each is its own scope, and the first signal must reach it all the same. */
static void a_deadline_without_containment(void)
{
    say_about("a deadline with a grace, nothing contained");
    for (int i = 0; i < 3; i++) {
        want(i, i ? "stay" : "exit", "0");
        jobs[i].plan.command.contain = CL_CONTAIN_NONE;
        jobs[i].options.timeout_ns = 100 * MS;
        jobs[i].options.grace_ns = PATIENCE;
    }
    int64_t began = now_ns();
    start(0, 3);
    step_until_empty();
    CHECK(now_ns() - began < PATIENCE / 2);
    ended_with(0, CL_STATE_EXITED, 0);
    for (int i = 1; i < 3; i++)
        ended_with(i, CL_STATE_SIGNALED, SIGTERM);
}

/* The memory of a feed is the caller's again when the result was taken; what is refused in the same slot has no result
 * of its own, and none of the last child's. */
static void what_is_refused_tells_nothing_of_the_last_one(void)
{
    say_about("a refusal after a feed");
    uint8_t *mine = malloc(BIG);
    cl_piece *piece = malloc(sizeof *piece);
    CHECK(mine && piece);
    memset(mine, 'x', BIG);
    *piece = (cl_piece){mine, BIG};
    want(0, "stay", NULL);
    feed(0, piece);
    jobs[0].options.timeout_ns = MS;
    start(0, 1);
    step_until_empty();
    CHECK(jobs[0].done.report.feed_left > 0);
    CHECK_IS(jobs[0].done.report.timed_out, 1);
    free(mine);
    free(piece);
    want(0, "stay", NULL);
    jobs[0].options.tee[0] = 1; /* nobody watches it */
    start(0, 1);
    step_until_empty();
    CHECK_IS(jobs[0].done.rc, -EINVAL);
    const cl_run_report *report = &jobs[0].done.report;
    CHECK_IS(report->feed_left, 0);
    CHECK_IS(report->timed_out, 0);
    CHECK_IS(report->size[0], 0);
    CHECK_IS(report->child.elapsed_ns, 0);
    CHECK_IS(report->child.state, CL_STATE_NEW);
}

static void what_cannot_be_is_refused(void)
{
    say_about("a session of its own");
    for (int i = 0; i < 3; i++)
        want(i, "stay", NULL);
    jobs[1].plan.command.options |= CL_OPT_NEW_SESSION;
    start(0, 3);
    step_until_empty();
    was_ended(0);
    CHECK_IS(jobs[1].done.rc, -EINVAL);
    was_not_started(2);
    say_about("joined to nothing");
    want(0, "stay", NULL);
    join(0, 1);
    items[0].joins = 1;
    CHECK_IS(cl_batch_start(batch, items, 1), 1);
    step_until_empty();
    CHECK_IS(jobs[0].done.rc, -EINVAL);
}

static void free_a_strangers(void *unused)
{
    (void)unused;
    CHECK_IS(cl_batch_arm(batch), -EPERM);
    cl_batch_free(batch);
    CHECK_IS(count_fds(), fds_at_first);
}

static void a_forked_child_keeps_no_pipe_open(void)
{
    say_about("half of a pipeline in a forked child");
    want(0, "stay", NULL);
    want(1, "stay", NULL);
    join(0, 2);
    CHECK_IS(cl_batch_start(batch, items, 1), 1);
    in_a_fork(free_a_strangers, NULL);
    CHECK_IS(cl_batch_break(batch), 0);
    step_until_empty();
}

static void too_much_output_ends_all(void)
{
    say_about("a cap");
    want(0, "stay", NULL);
    want(1, "flood", NULL);
    jobs[1].options.max_output = 1000;
    start(0, 2);
    step_until_empty();
    ended_with(0, CL_STATE_SIGNALED, SIGKILL);
    ended_with(1, CL_STATE_SIGNALED, SIGKILL);
    CHECK_IS(jobs[1].done.report.limit_hit, 1);
    CHECK_IS(jobs[1].done.report.size[0], 1000);
}

static void one_that_is_missing_ends_all(void)
{
    static const int strategies[] = {CL_STRATEGY_AUTO, CL_STRATEGY_VFORK, CL_STRATEGY_POSIX_SPAWN};
    for (int i = 0; i < 9; i++) {
        int missing = i % 3, strategy = strategies[i / 3];
        if (is_missing(strategy))
            continue;
        say_about("stage %d is missing, %s", missing, strategy_names[strategy]);
        int64_t began = now_ns();
        for (int n = 0; n < 3; n++)
            want(n, "stubborn", NULL);
        jobs[missing].plan.argv[0] = "/no/such/program";
        jobs[missing].plan.command.strategy = strategy;
        start(0, 3);
        step_until_empty();
        CHECK(now_ns() - began < PATIENCE / 2);
        for (int n = 0; n < 3; n++) {
            if (n != missing) {
                was_ended(n);
                continue;
            }
            CHECK_IS(jobs[n].done.rc, -ENOENT);
            CHECK_IS(jobs[n].done.report.child.stage, CL_STAGE_EXEC);
        }
    }
}

/* ---- limits ------------------------------------------------------------------------------------------------------- */

static struct rlimit usual;

static void allow_descriptors(int more)
{
    struct rlimit low = usual;
    low.rlim_cur = (rlim_t)(count_fds() + more);
    MUST(setrlimit(RLIMIT_NOFILE, &low));
}

static void allow_all(void)
{
    MUST(setrlimit(RLIMIT_NOFILE, &usual));
}

static const cl_piece some = {big, 1000000}; /* more than all the pipes of a chain hold */

static void want_a_chain(void)
{
    for (int i = 0; i < STAGES; i++)
        want(i, "copy", NULL);
    feed(0, &some);
    join(0, STAGES);
}

static void a_limit_in_the_middle_loses_nothing(void)
{
    int were_in_the_middle = 0;
    for (int more = 0; more < 24; more++) {
        say_about("%d more descriptors", more);
        want_a_chain();
        allow_descriptors(more);
        int64_t started = cl_batch_start(batch, items, STAGES);
        CHECK(started >= 0 || started == -EMFILE);
        if (started > 0 && started < STAGES) {
            were_in_the_middle++;
            CHECK_IS(items[started].error, EMFILE);
            for (int i = 0; i < 3; i++) /* what there is runs, and waits for the rest */
                CHECK_IS(cl_batch_step(batch, MS), 0);
            CHECK_IS(cl_batch_start(batch, items + started, STAGES - started), 0); /* there is no more room than before */
            CHECK_IS(cl_batch_live(batch), started);
        }
        allow_all();
        started = started < 0 ? 0 : started;
        if (started < STAGES)
            CHECK_IS(cl_batch_start(batch, items + started, STAGES - started), STAGES - started);
        step_until_empty();
        for (int i = 0; i < STAGES; i++)
            ended_with(i, CL_STATE_EXITED, 0);
        CHECK_IS(jobs[STAGES - 1].hash, sum_of(some.data, (int64_t)some.size));
    }
    CHECK(were_in_the_middle > 1);
}

/* With so few descriptors that some stages can be started, and not all; how many were. */
static int start_a_part(const char *mode)
{
    for (int more = 6; more < 24; more++) {
        for (int i = 0; i < STAGES; i++)
            want(i, mode, NULL);
        jobs[0].options.timeout_ns = 100 * MS;
        join(0, STAGES);
        allow_descriptors(more);
        int64_t started = cl_batch_start(batch, items, STAGES);
        if (started > 0 && started < STAGES)
            return (int)started;
        allow_all();
        CHECK_IS(cl_batch_abort(batch, PATIENCE), 0);
    }
    fail_at(__FILE__, __LINE__, "no limit was met in the middle");
}

static void what_is_half_started_can_be_broken_off(void)
{
    say_about("broken off");
    int started = start_a_part("stubborn");
    CHECK_IS(cl_batch_break(batch), 0);
    allow_all();
    step_until_empty();
    for (int i = 0; i < STAGES; i++) {
        CHECK_IS(jobs[i].is_done, i < started);
        if (i < started)
            ended_with(i, CL_STATE_SIGNALED, SIGKILL);
    }
    CHECK_IS(cl_batch_break(batch), 0); /* of nothing */
    want(0, "both", NULL);
    want(1, "copy", NULL);
    start(0, 2); /* another one is not broken */
    step_until_empty();
    ended_with(0, CL_STATE_EXITED, 0);
    ended_with(1, CL_STATE_EXITED, 0);
}

/* Others may live for long, and make no room: its deadline counts all the same. */
static void what_is_half_started_has_a_deadline(void)
{
    say_about("late before all were started");
    int started = start_a_part("stay");
    EVENTUALLY((CHECK(cl_batch_step(batch, 10 * MS) >= 0), has_zombie(0)));
    CHECK_IS(cl_batch_start(batch, items + started, STAGES - started), STAGES - started); /* refused, which takes no room */
    step_until_empty();
    allow_all();
    for (int i = 0; i < STAGES; i++) {
        if (i >= started) {
            was_not_started(i);
            continue;
        }
        ended_with(i, CL_STATE_SIGNALED, SIGKILL);
        CHECK_IS(jobs[i].done.report.timed_out, 1);
    }
}

/* ---- the caller's own stages -------------------------------------------------------------------------------------- */

static void write_big(int fd, int64_t size)
{
    for (int64_t done = 0, wrote; done < size; done += wrote) {
        wrote = write(fd, big + done, (size_t)(size - done < 30000 ? size - done : 30000));
        CHECK(wrote > 0);
        CHECK(cl_batch_step(batch, 0) >= 0);
    }
}

static void a_stage_can_be_the_callers(void)
{
    static uint8_t got[50000];
    say_about("a stage of ours: the first, one in the middle, the last");
    want(1, "copy", NULL);
    want(3, "copy", NULL);
    join(0, 5);
    for (int i = 0; i < 5; i += 2)
        items[i].command = NULL;
    CHECK_IS(cl_batch_start(batch, items, 5), 5);
    CHECK_IS(cl_batch_live(batch), 2);
    int first = (int)items[0].fd[1], in = (int)items[2].fd[0], out = (int)items[2].fd[1], last = (int)items[4].fd[0];
    CHECK(items[0].fd[0] == -1 && items[4].fd[1] == -1 && items[2].slot == -1);
    CHECK(first > 2 && in > 2 && out > 2 && last > 2);
    for (int i = 0; i < 4; i++)
        CHECK(fcntl((const int[]){first, in, out, last}[i], F_GETFD) & FD_CLOEXEC);
    write_big(first, 50000);
    close(first);
    for (size_t size = 0; size < sizeof got;) {
        ssize_t some_more = read(in, got + size, sizeof got - size);
        CHECK(some_more > 0);
        size += (size_t)some_more;
    }
    CHECK_IS(read(in, got, 1), 0);
    close(in);
    write_big(out, 50000);
    close(out);
    memset(got, 0, sizeof got);
    for (size_t size = 0; size < sizeof got;) {
        ssize_t some_more = read(last, got + size, sizeof got - size);
        CHECK(some_more > 0);
        size += (size_t)some_more;
    }
    CHECK_IS(read(last, got, 1), 0);
    close(last);
    CHECK(memcmp(got, big, sizeof got) == 0);
    step_until_empty();
    ended_with(1, CL_STATE_EXITED, 0);
    ended_with(3, CL_STATE_EXITED, 0);
}

static void a_broken_one_hands_out_nothing(void)
{
    say_about("nothing for a stage of ours");
    want(0, "stay", NULL);
    want(1, "stay", NULL);
    jobs[1].plan.argv[0] = "/no/such/program";
    jobs[1].plan.command.strategy = CL_STRATEGY_POSIX_SPAWN; /* held: it is known before the next one */
    want(2, "stay", NULL);
    join(0, 4);
    items[2].command = NULL;
    want(3, "stay", NULL);
    CHECK_IS(cl_batch_start(batch, items, 4), 4);
    CHECK(items[2].fd[0] == -1 && items[2].fd[1] == -1);
    step_until_empty();
    was_ended(0);
    CHECK_IS(jobs[1].done.rc, -ENOENT);
    was_not_started(3);
}

/* ---- the end ------------------------------------------------------------------------------------------------------ */

static void an_abort_leaves_nothing(void)
{
    static const char *const modes[] = {"stubborn", "exit", "flood", "both"};
    int fds = count_fds();
    for (int i = 0; i < 4 * 4 * 3; i++) {
        int count = 1 + i / 12, mode = i % 4, looks = i / 4 % 3;
        say_about("an abort of %d stages that %s, after %d looks", count, modes[mode], looks);
        for (int n = 0; n < STAGES; n++)
            want(n, n % 2 ? modes[mode] : "stay", NULL);
        join(0, STAGES);
        CHECK_IS(cl_batch_start(batch, items, count), count); /* of the pipeline, or all of it */
        while (looks--)
            CHECK(cl_batch_step(batch, MS) >= 0);
        CHECK_IS(cl_batch_abort(batch, PATIENCE), 0);
        CHECK_IS(cl_batch_live(batch), 0);
        CHECK_IS(cl_batch_step(batch, 0), 0);
        CHECK_IS(count_fds(), fds);
        CHECK(has_no_children());
    }
    want(0, "both", NULL);
    want(1, "copy", NULL);
    start(0, 2); /* it is as good as new */
    step_until_empty();
    ended_with(1, CL_STATE_EXITED, 0);
}

static void slots_are_used_again(void)
{
    enum { AT_ONCE = 21 };
    int64_t most = 0;
    say_about("%d pipelines", PIPELINES);
    for (int done = 0; done < PIPELINES; done += AT_ONCE) {
        for (int i = 0; i < AT_ONCE; i++) {
            want(3 * i, "both", "1");
            want(3 * i + 1, done % 2 ? "copy" : "exit", "0");
            want(3 * i + 2, i == 7 ? "no-such-mode" : "copy", NULL);
            if (i == 5)
                jobs[3 * i + 1].plan.argv[0] = "/no/such/program";
            start(3 * i, 3);
            for (int n = 0; n < 3; n++)
                most = items[3 * i + n].slot > most ? items[3 * i + n].slot : most;
        }
        step_until_empty();
        for (int i = 0; i < AT_ONCE; i++) {
            if (i == 5) {
                CHECK_IS(jobs[3 * i + 1].done.rc, -ENOENT);
                continue;
            }
            CHECK(jobs[3 * i].is_done && jobs[3 * i + 1].is_done);
            ended_with(3 * i + 2, CL_STATE_EXITED, i == 7 ? 99 : 0);
            if (i != 7)
                CHECK_TEXT(jobs[3 * i + 2].out[0], done % 2 ? "out\n" : "");
        }
    }
    CHECK(most < 64); /* of the 63 that live at once none needs a further one */
}

/* The kernel reaps then, and the leader's number, with its group's, may be gone at any moment. */
static void with_sigchld_ignored(void *unused)
{
    (void)unused;
    signal(SIGCHLD, SIG_IGN);
    CHECK_IS(cl_batch_new(&batch), 0);
    for (int round = 0; round < 50; round++) {
        want(0, round % 2 ? "exit" : "both", "0");
        want(1, "copy", NULL);
        want(2, "copy", NULL);
        start(0, 3);
        step_until_empty();
        for (int i = 0; i < 3; i++) {
            CHECK_IS(jobs[i].done.rc, 1);
            int state = (int)jobs[i].done.report.child.state;
            CHECK(state == CL_STATE_UNKNOWN || (state == CL_STATE_EXITED && jobs[i].done.report.child.status == 0));
        }
        CHECK_TEXT(jobs[2].out[0], round % 2 ? "" : "out\n");
    }
    want(0, "exit", "0");
    want(1, "stay", NULL);
    jobs[0].options.timeout_ns = 100 * MS;
    start(0, 2);
    step_until_empty();
    CHECK_IS(jobs[1].done.report.timed_out, 1);
    say_about("SIGCHLD is ignored, and the second stage leads a group of its own");
    int alone = 0;
    for (int round = 0; round < 100 && !alone; round++) {
        want(0, "exit", "0");
        want(1, "stay", NULL);
        jobs[0].options.timeout_ns = 50 * MS;
        jobs[0].options.grace_ns = PATIENCE;
        join(0, 2);
        CHECK_IS(cl_batch_start(batch, items, 1), 1);
        struct pollfd never = {.fd = -1};
        poll(&never, 1, 5); /* it ends, and is gone */
        CHECK_IS(cl_batch_start(batch, items + 1, 1), 1);
        int64_t began = now_ns();
        step_until_empty();
        CHECK(now_ns() - began < PATIENCE / 2); /* the first signal has reached it */
        alone = jobs[1].done.report.timed_out == 1;
    }
    CHECK(alone);
    cl_batch_free(batch);
}

static void ignoring_sigchld_is_survived(void)
{
    say_about("SIGCHLD is ignored");
    in_a_fork(with_sigchld_ignored, NULL);
}

int main(int argc, char **argv)
{
    static void (*const checks[])(void) = {
        each_stage_has_its_own_result, much_flows_through, who_reads_no_more_ends_the_one_before_it,
        all_are_the_leaders_group, the_leader_is_reaped_last, leftovers_live_until_all_have_ended,
        a_kill_of_one_ends_all, there_is_one_deadline, a_deadline_without_containment,
        what_is_refused_tells_nothing_of_the_last_one, what_cannot_be_is_refused, a_forked_child_keeps_no_pipe_open, too_much_output_ends_all, one_that_is_missing_ends_all,
        a_limit_in_the_middle_loses_nothing, what_is_half_started_can_be_broken_off,
        what_is_half_started_has_a_deadline, a_stage_can_be_the_callers, a_broken_one_hands_out_nothing,
        an_abort_leaves_nothing, slots_are_used_again, ignoring_sigchld_is_survived,
    };
    start_program(argc, argv);
    MUST(getrlimit(RLIMIT_NOFILE, &usual));
    for (size_t i = 0; i < sizeof big; i++)
        big[i] = (uint8_t)(i * 2654435761U >> 24);
    run_checks(checks, sizeof checks / sizeof *checks);
    puts("ok");
    return 0;
}
