/* The drain engine: bytes in, bytes out, and all that can end a run. */
#include "drain.h"

#include <sys/time.h>

static void captures(void)
{
    begin("both outputs", "both");
    job.argv[2] = "3";
    finish();
    exited(3);
    output_is(0, "out\n");
    output_is(1, "err\n");
    CHECK_IS(result.pipes_left_open + result.timed_out + result.limit_hit + result.tee_error, 0);
    CHECK(result.child.elapsed_ns > 0 && result.child.max_rss_kib > 0);

    begin("stderr merged into stdout", "both");
    job.launch.stream[2].kind = CL_IO_STDOUT;
    finish();
    output_is(0, "out\nerr\n");
    output_is(1, "");

    begin("stderr only", "both");
    job.launch.stream[1].kind = CL_IO_NULL;
    finish();
    output_is(0, "");
    output_is(1, "err\n");

    begin("nothing captured", "exit");
    job.launch.stream[1].kind = job.launch.stream[2].kind = CL_IO_NULL;
    finish();
    exited(0);

    begin("buffers that start with one byte", "both");
    options.buffer[0] = options.buffer[1] = 1;
    finish();
    output_is(0, "out\n");
    output_is(1, "err\n");
}

/* ---- stdin -------------------------------------------------------------------------------------------------------- */

static void feeds(void)
{
    const cl_piece hello[] = {{"he", 2}, {"", 0}, {"llo", 3}};
    begin_feed("three pieces, one of them empty", "copy", hello, 3);
    finish();
    output_is(0, "hello");
    CHECK_IS(result.feed_left, 0);

    begin_feed("no pieces: end of file at once", "copy", NULL, 0);
    finish();
    output_is(0, "");

    static cl_piece empty[200]; /* data NULL */
    begin_feed("only empty pieces", "copy", empty, 200);
    finish();
    output_is(0, "");
    CHECK_IS(result.feed_left, 0);
}

/* More than one writev takes, most of them small, some empty, one larger than a pipe. */
static void feeds_many_pieces(void)
{
    enum { COUNT = 1000, LARGE = 300000 };
    static uint8_t large[LARGE];
    static cl_piece pieces[COUNT];
    size_t total = 0;
    for (size_t i = 0; i < LARGE; i++)
        large[i] = (uint8_t)(i * 7 + i / 251);
    for (size_t i = 0; i < COUNT; i++) {
        uint64_t size = i == 500 ? LARGE : i % 5 == 0 ? 0 : i % 97;
        pieces[i] = (cl_piece){large + i % 100, i == 500 ? LARGE - 500 : size};
        total += pieces[i].size;
    }
    begin_feed("a thousand pieces", "copy", pieces, COUNT);
    finish();
    CHECK_IS(result.size[0], total);
    const uint8_t *out = (const uint8_t *)(uintptr_t)result.data[0];
    for (size_t i = 0; i < COUNT; out += pieces[i++].size)
        CHECK(memcmp(out, pieces[i].data, pieces[i].size) == 0);
}

/* A child that writes while it reads: who only feeds, or only drains, waits for ever. */
static void feeds_and_drains_at_once(void)
{
    enum { SIZE = 8 << 20 };
    uint32_t *data = malloc(SIZE), state = 1;
    CHECK(data != NULL);
    for (size_t i = 0; i < SIZE / 4; i++)
        data[i] = state = state * 1664525 + 1013904223;
    const cl_piece piece = {data, SIZE};
    begin_feed("8 MiB each way", "copy", &piece, 1);
    finish();
    exited(0);
    CHECK_IS(result.size[0], SIZE);
    CHECK(memcmp((const void *)(uintptr_t)result.data[0], data, SIZE) == 0);

    begin_feed("8 MiB each way, through tee and cap", "copy", &piece, 1);
    options.tee[0] = MUST(open("/dev/null", O_WRONLY | O_CLOEXEC));
    options.max_output = SIZE; /* just enough */
    finish();
    close(options.tee[0]);
    CHECK_IS(result.size[0], SIZE);
    CHECK_IS(result.limit_hit, 0);
    CHECK(memcmp((const void *)(uintptr_t)result.data[0], data, SIZE) == 0);
    free(data);
}

/* SIGPIPE, at its default, would end this program. */
static void survives_a_closed_stdin(void)
{
    static const char data[1 << 20];
    const cl_piece piece = {data, sizeof data};
    sigset_t pipe_only, pending, before;
    CHECK(signal(SIGPIPE, SIG_DFL) != SIG_ERR); /* whoever started us may ignore it */
    begin_feed("a child that does not read", "exit", &piece, 1);
    finish();
    exited(0);
    CHECK(result.feed_left > 0 && result.feed_left <= (int64_t)sizeof data);

    begin_feed("a child that closes its stdin and goes on", "deaf", &piece, 1);
    finish();
    exited(0);
    output_is(0, "ready\n");
    CHECK(result.feed_left > 0);

    sigpending(&pending);
    CHECK_IS(sigismember(&pending, SIGPIPE), 0);

    begin_feed("a SIGPIPE that somebody else waits for", "exit", &piece, 1);
    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    sigprocmask(SIG_BLOCK, &pipe_only, &before);
    raise(SIGPIPE);
    finish();
    sigpending(&pending);
    CHECK_IS(sigismember(&pending, SIGPIPE), 1);
    signal(SIGPIPE, SIG_IGN); /* drops it */
    sigprocmask(SIG_SETMASK, &before, NULL);
    signal(SIGPIPE, SIG_DFL);
}

/* ---- tee ---------------------------------------------------------------------------------------------------------- */

static void tees(void)
{
    char text[64];
    int ends[2];
    begin("tee of both outputs", "both");
    make_pipe(ends);
    options.tee[0] = options.tee[1] = ends[1];
    finish();
    close(ends[1]);
    read_all(ends[0], text, sizeof text);
    close(ends[0]);
    output_is(0, "out\n");
    output_is(1, "err\n");
    CHECK(strstr(text, "out\n") && strstr(text, "err\n"));
    CHECK_IS(strlen(text), 8);
    CHECK_IS(result.tee_error, 0);

    begin("tee to nobody", "both");
    make_pipe(ends);
    close(ends[0]);
    options.tee[0] = ends[1];
    finish(); /* SIGPIPE is at its default */
    close(ends[1]);
    output_is(0, "out\n");
    CHECK_IS(result.tee_error, EPIPE);

    begin("tee to a closed descriptor", "both");
    options.tee[0] = 200;
    CHECK_IS(start(0), -EBADF); /* found before a pipe of ours could take that number */
    get_result();
    CHECK_IS(result.child.stage, CL_STAGE_DESCRIPTORS);

    begin("tee to a descriptor that is only read", "both");
    options.tee[1] = MUST(open("/dev/null", O_RDONLY | O_CLOEXEC));
    finish();
    close(options.tee[1]);
    output_is(1, "err\n");
    CHECK_IS(result.tee_error, EBADF);
}

/* A tee that takes nothing must not hold the run beyond its deadline. */
static void a_tee_that_is_stuck(void)
{
    int ends[2];
    begin("a tee that is stuck", "flood");
    make_pipe(ends);
    options.tee[0] = ends[1];
    options.max_output = 1 << 20;
    options.limit_action = CL_LIMIT_TRUNCATE;
    options.timeout_ns = 100 * MS;
    options.drain_ns = 20 * MS;
    finish();
    CHECK_IS(result.timed_out, 1);
    killed_by(SIGKILL);
    CHECK(result.size[0] > 0 && result.size[0] <= 1 << 20);
    close(ends[0]);
    close(ends[1]);
}

/* ---- caps --------------------------------------------------------------------------------------------------------- */

static void caps(void)
{
    const cl_piece five = {"12345", 5};
    for (int action = CL_LIMIT_FAIL; action <= CL_LIMIT_KILL; action++) {
        begin_feed("exactly at the cap", "copy", &five, 1);
        options.limit_action = action;
        options.max_output = 5;
        finish();
        exited(0);
        output_is(0, "12345");
        CHECK_IS(result.limit_hit, 0);
    }

    begin_feed("truncated", "copy", &five, 1);
    options.limit_action = CL_LIMIT_TRUNCATE;
    options.max_output = 4;
    finish();
    exited(0);
    output_is(0, "1234");
    CHECK_IS(result.limit_hit, 1);

    begin_feed("truncated to nothing, teed whole", "copy", &five, 1);
    char text[16];
    int ends[2];
    make_pipe(ends);
    options.limit_action = CL_LIMIT_TRUNCATE;
    options.max_output = 0;
    options.tee[0] = ends[1];
    finish();
    close(ends[1]);
    read_all(ends[0], text, sizeof text);
    close(ends[0]);
    output_is(0, "");
    CHECK_TEXT(text, "12345");
    CHECK_IS(result.limit_hit, 1);

    for (int kill = 0; kill < 2; kill++) {
        begin("a flood, ended at its cap", "flood");
        options.limit_action = kill ? CL_LIMIT_KILL : CL_LIMIT_FAIL;
        options.max_output = 100000;
        finish();
        killed_by(SIGKILL);
        CHECK_IS(result.size[0], 100000);
        CHECK_IS(result.limit_hit, 1);
        CHECK_IS(result.timed_out, 0);
    }
}

/* ---- deadlines ---------------------------------------------------------------------------------------------------- */

static void deadlines(void)
{
    begin("a deadline, no grace", "stubborn");
    options.timeout_ns = 50 * MS;
    finish();
    killed_by(SIGKILL);
    CHECK_IS(result.timed_out, 1);
    CHECK(result.child.elapsed_ns >= 50 * MS);

    begin("a deadline of zero", "stay");
    options.timeout_ns = 0;
    finish();
    killed_by(SIGKILL);
    CHECK_IS(result.timed_out, 1);

    begin("a huge deadline", "both");
    options.timeout_ns = INT64_MAX;
    options.grace_ns = INT64_MAX;
    options.drain_ns = INT64_MAX;
    finish();
    exited(0);
    CHECK_IS(result.timed_out, 0);

    begin("a deadline in a flood that is read", "flood");
    options.timeout_ns = 50 * MS;
    options.limit_action = CL_LIMIT_TRUNCATE;
    options.max_output = 1000;
    finish();
    killed_by(SIGKILL);
    CHECK_IS(result.timed_out, 1);
    CHECK_IS(result.size[0], 1000);
}

/* Timers fire in steps only: so take none until the child has come as far as the TERM must find it. */
static void start_and_wait(int until_it_stops)
{
    siginfo_t info;
    CHECK_IS(start(0), 0);
    get_result();
    struct pollfd ready = {.fd = (int)result.child.pipe[1], .events = POLLIN};
    if (!result.size[0])
        CHECK_IS(poll(&ready, 1, (int)(PATIENCE / MS)), 1);
    if (until_it_stops)
        MUST(waitid(P_PID, (id_t)result.child.pid, &info, WSTOPPED | WNOWAIT));
    step_to_the_end(0);
    CHECK_IS(result.timed_out, 1);
    CHECK(result.child.elapsed_ns >= options.timeout_ns);
    output_is(0, "ready\n");
}

static void deadlines_with_grace(void)
{
    begin("TERM is enough", "stay");
    options.timeout_ns = 200 * MS;
    options.grace_ns = PATIENCE;
    start_and_wait(0);
    killed_by(SIGTERM);
    CHECK(result.child.elapsed_ns < PATIENCE / 2);

    begin("TERM is ignored", "stubborn");
    options.timeout_ns = 200 * MS;
    options.grace_ns = 50 * MS;
    start_and_wait(0);
    killed_by(SIGKILL);
    CHECK(result.child.elapsed_ns >= options.timeout_ns + options.grace_ns);

    begin("TERM meets a stopped child", "stop");
    options.timeout_ns = 200 * MS;
    options.grace_ns = PATIENCE;
    start_and_wait(1);
    killed_by(SIGTERM); /* so it was continued */
    CHECK(result.child.elapsed_ns < PATIENCE / 2);
}

/* ---- what outlives the child -------------------------------------------------------------------------------------- */

static void a_grandchild_keeps_the_pipe(void)
{
    for (int how = 0; how < 4; how++) {
        static const char *const names[] = {"in the group", "escaped", "escaped and chatty", "the same with a tee"};
        begin(names[how], how ? "escape" : "leave");
        job.argv[2] = how >= 2 ? "1" : NULL;
        int rope = leash(), null = MUST(open("/dev/null", O_WRONLY | O_CLOEXEC));
        options.tee[0] = how == 3 ? null : -1;
        options.drain_ns = 30 * MS;
        int64_t began = now_ns();
        step_to_the_end(start(PATIENCE));
        exited(0);
        CHECK_IS(result.pipes_left_open, 1);
        /* Not at the start: a chatty grandchild can be heard before its parent. */
        CHECK(memmem((const void *)(uintptr_t)result.data[0], (size_t)result.size[0], "left\n", 5) != NULL);
        CHECK(now_ns() - began < PATIENCE / 2);
        close(rope);
        close(null);
        close(leash_move.source);
    }

    begin("a drain of nothing", "escape");
    int rope = leash();
    options.drain_ns = 0;
    step_to_the_end(start(PATIENCE));
    exited(0);
    CHECK_IS(result.pipes_left_open, 1);
    close(rope);
    close(leash_move.source);
}

/* One that lets go within the drain: then nothing is missing. */
static void a_grandchild_lets_go(void)
{
    begin("a grandchild lets go", "escape");
    int rope = leash();
    CHECK_IS(start(0), 0);
    step_until_output("left\n");
    close(rope);
    step_to_the_end(0);
    close(leash_move.source);
    exited(0);
    CHECK_IS(result.pipes_left_open, 0);
    output_is(0, "left\n");
}

/* Leftovers of the group that hold no pipe of ours are killed too. */
static void leftovers_are_killed(void)
{
    int ends[2];
    begin("leftovers", "leave");
    job.launch.stream[1].kind = job.launch.stream[2].kind = CL_IO_NULL;
    make_pipe(ends); /* descriptor 5: the read end; and 6, which only they hold */
    const cl_fd_move moves[] = {{ends[0], 5}, {ends[1], 6}};
    job.command.moves = moves;
    job.command.move_count = 2;
    finish();
    exited(0);
    close(ends[1]);
    char byte;
    CHECK_IS(read(ends[0], &byte, 1), 0); /* end of file: nobody is left */
    close(ends[0]);
}

/* ---- steps -------------------------------------------------------------------------------------------------------- */

static volatile sig_atomic_t alarms;

static void count_alarm(int signal)
{
    (void)signal;
    alarms++;
}

static void goes_on_after_signals(void)
{
    enum { SIZE = 4 << 20 };
    char *data = malloc(SIZE);
    CHECK(data != NULL);
    memset(data, 'y', SIZE);
    const cl_piece piece = {data, SIZE};
    struct sigaction action = {.sa_handler = count_alarm};
    struct itimerval every = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    int64_t rc;
    int interrupted = 0;
    sigaction(SIGALRM, &action, NULL);
    alarms = 0;
    begin_feed("a signal every millisecond", "copy", &piece, 1);
    MUST(setitimer(ITIMER_REAL, &every, NULL));
    for (rc = start(PATIENCE); rc == -EINTR || rc == 0; rc = cl_run_step(run, PATIENCE))
        interrupted++;
    CHECK_IS(rc, 1);
    begin("a signal every millisecond, and a child that waits", "stay");
    options.timeout_ns = 100 * MS;
    for (rc = start(PATIENCE); rc == -EINTR || rc == 0; rc = cl_run_step(run, PATIENCE))
        interrupted++;
    MUST(setitimer(ITIMER_REAL, &never, NULL));
    CHECK_IS(rc, 1);
    get_result();
    killed_by(SIGKILL);
    CHECK(interrupted >= 10 && alarms >= 10);
    signal(SIGALRM, SIG_DFL);

    begin_feed("the same data without signals", "copy", &piece, 1);
    finish();
    CHECK_IS(result.size[0], SIZE);
    free(data);
}

static void gives_back_control(void)
{
    begin("a step of no length", "stay");
    for (int i = 0; i < 100; i++)
        CHECK_IS(i ? cl_run_step(run, 0) : start(0), 0);
    CHECK_IS(start(0), -EBUSY);
    CHECK_IS(cl_run_step(run, -5), 0);
    CHECK_IS(cl_run_abort(run, PATIENCE), 1);

    /* There is always something to read, and still the caller has other things to look at. */
    begin("a step in a flood", "flood");
    options.limit_action = CL_LIMIT_TRUNCATE;
    options.max_output = 10;
    int64_t began = now_ns();
    CHECK_IS(start(5 * MS), 0);
    for (int i = 0; i < 10; i++)
        CHECK_IS(cl_run_step(run, 5 * MS), 0);
    CHECK(now_ns() - began < PATIENCE / 2);
    CHECK_IS(cl_run_abort(run, PATIENCE), 1);
}

static void is_used_again(void)
{
    const cl_piece word = {"again", 5};
    int rounds = SANITIZED ? 200 : 1000;
    int fds = count_fds();
    say_about("a thousand children, one run");
    for (int i = 0; i < rounds; i++) {
        begin_feed("one of a thousand", "copy", &word, 1);
        job.argv[0] = "cat";
        job.argv[1] = NULL;
        options.max_output = i % 3 ? -1 : 3;
        options.limit_action = CL_LIMIT_TRUNCATE;
        if (i % 50 == 0)
            job.argv[0] = "/nowhere/cat";
        int64_t rc = start(PATIENCE);
        get_result();
        if (i % 50 == 0) {
            CHECK_IS(rc, -ENOENT);
            CHECK_IS(result.child.stage, CL_STAGE_EXEC);
            CHECK_IS(result.size[0], 0);
            CHECK_IS(cl_run_step(run, 0), -EINVAL);
            continue;
        }
        step_to_the_end(rc);
        exited(0);
        output_is(0, i % 3 ? "again" : "aga");
        CHECK_IS(result.limit_hit, i % 3 == 0);
        CHECK_IS(cl_run_step(run, 0), 1); /* it stays done */
        CHECK_IS(count_fds(), fds);
    }
    CHECK(has_no_children());
}

/* ---- aborting ------------------------------------------------------------------------------------------------------ */

static void must_abort(int fds)
{
    CHECK_IS(cl_run_abort(run, PATIENCE), 1);
    CHECK_IS(cl_run_abort(run, 0), 1);
    CHECK_IS(cl_run_step(run, 0), 1);
    CHECK_IS(count_fds(), fds);
    CHECK(has_no_children());
    get_result();
}

static void aborts_in_each_phase(void)
{
    const cl_piece piece = {"never read", 10};
    int fds = count_fds();
    cl_run *fresh;
    begin("abort before the start", "stay");
    CHECK_IS(cl_run_new(&fresh), 0);
    CHECK_IS(cl_run_step(fresh, 0), -EINVAL);
    CHECK_IS(cl_run_abort(fresh, 0), 1);
    cl_run_free(fresh);
    cl_run_free(NULL);

    begin_feed("abort while it runs", "stay", &piece, 1);
    CHECK_IS(start(0), 0);
    must_abort(fds);
    killed_by(SIGKILL);

    begin("abort a stopped child", "stop");
    CHECK_IS(start(0), 0);
    step_until_output("ready\n");
    must_abort(fds);
    killed_by(SIGKILL);

    begin("abort between TERM and KILL", "stubborn");
    options.timeout_ns = 0;
    options.grace_ns = PATIENCE;
    CHECK_IS(start(0), 0);
    CHECK_IS(cl_run_step(run, 0), 0);
    must_abort(fds);
    CHECK_IS(result.timed_out, 1);

    begin("abort while draining", "leave");
    int rope = leash();
    siginfo_t info;
    CHECK_IS(start(0), 0);
    get_result();
    MUST(waitid(P_PID, (id_t)result.child.pid, &info, WEXITED | WNOWAIT));
    CHECK_IS(cl_run_step(run, 0), 0);
    must_abort(fds + 2); /* the leash's */
    exited(0);
    close(rope);
    close(leash_move.source);

    begin("abort what is done", "both");
    finish();
    must_abort(fds);
    exited(0);
    output_is(0, "out\n");
}

static void is_freed_while_it_runs(void)
{
    int fds = count_fds();
    cl_run *short_lived;
    begin("freed while it runs", "stay");
    CHECK_IS(cl_run_new(&short_lived), 0);
    CHECK_IS(cl_run_start(short_lived, &job.command, &job.launch, &options, NULL, 0), 0);
    cl_run_free(short_lived);
    CHECK_IS(count_fds(), fds);
    CHECK(has_no_children());
}

/* Without containment only the leader is ours to kill; and a child in another group than its own must die as well. */
static void without_containment(void)
{
    begin("deadline without containment", "stubborn");
    job.command.contain = CL_CONTAIN_NONE;
    options.timeout_ns = 20 * MS;
    finish();
    killed_by(SIGKILL);
    CHECK_IS(result.child.contained, CL_CONTAIN_NONE);
}

static void step_a_stranger(void *unused)
{
    (void)unused;
    CHECK_IS(cl_run_step(run, 0), -EPERM);
    cl_run_free(run); /* kills and reaps nothing */
}

static void is_used_by_a_forked_child(void)
{
    const cl_piece piece = {"mine", 4};
    begin_feed("a run in a forked child", "copy", &piece, 1);
    CHECK_IS(start(0), 0);
    in_a_fork(step_a_stranger, NULL);
    step_to_the_end(0);
    exited(0);
    output_is(0, "mine");
}

int main(int argc, char **argv)
{
    static void (*const checks[])(void) = {
        captures, feeds, feeds_many_pieces, feeds_and_drains_at_once, survives_a_closed_stdin, tees, a_tee_that_is_stuck,
        caps, deadlines, deadlines_with_grace, a_grandchild_keeps_the_pipe, a_grandchild_lets_go, leftovers_are_killed,
        goes_on_after_signals, gives_back_control, is_used_again, aborts_in_each_phase, is_freed_while_it_runs,
        without_containment, is_used_by_a_forked_child,
    };
    start_program(argc, argv);
    int fds = count_fds();
    CHECK_IS(cl_run_new(&run), 0);
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++)
        checks[i]();
    cl_run_free(run);
    say_about("at the end");
    CHECK_IS(count_fds(), fds);
    CHECK(has_no_children());
    puts("ok");
    return 0;
}
