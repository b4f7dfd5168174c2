/* A run and what to run, for the programs that test the drain engine. */
#ifndef DRAIN_H
#define DRAIN_H

#include "child.h"

static plan job;
static cl_run_options options;
static cl_run *run;
static cl_run_report result;

/* Both outputs captured, no stdin, no limits. */
HELPER void begin(const char *what, const char *mode)
{
    say_about("%s", what);
    plan_for(&job, mode, NULL);
    job.command.contain = CL_CONTAIN_GROUP;
    job.launch.stream[2].kind = CL_IO_PIPE;
    memset(&options, 0, sizeof options);
    options.timeout_ns = -1;
    options.drain_ns = PATIENCE;
    options.max_output = -1;
    options.tee[0] = options.tee[1] = -1;
}

HELPER void begin_feed(const char *what, const char *mode, const cl_piece *pieces, uint64_t count)
{
    begin(what, mode);
    job.launch.stream[0].kind = CL_IO_PIPE;
    options.feed = pieces;
    options.feed_count = count;
}

HELPER int64_t start(int64_t at_most_ns)
{
    return cl_run_start(run, &job.command, &job.launch, &options, NULL, at_most_ns);
}

HELPER void get_result(void)
{
    CHECK_IS(cl_run_report_get(run, &result), 0);
}

HELPER void step_to_the_end(int64_t rc)
{
    int64_t until = now_ns() + PATIENCE;
    while (rc == 0 || rc == -EINTR) {
        CHECK(now_ns() < until);
        rc = cl_run_step(run, 100 * MS);
    }
    get_result();
    CHECK_IS(rc, 1);
}

/* From start to end; then nothing but the run itself is left. */
HELPER void finish(void)
{
    int fds = count_fds();
    step_to_the_end(start(PATIENCE));
    CHECK_IS(count_fds(), fds);
    CHECK(has_no_children());
}

HELPER void output_is(int which, const char *text)
{
    CHECK_IS(result.size[which], (int64_t)strlen(text));
    CHECK(memcmp((const void *)(uintptr_t)result.data[which], text, strlen(text)) == 0 || !*text);
}

HELPER void exited(int code)
{
    CHECK_IS(result.child.state, CL_STATE_EXITED);
    CHECK_IS(result.child.status, code);
}

HELPER void killed_by(int signal)
{
    CHECK_IS(result.child.state, CL_STATE_SIGNALED);
    CHECK_IS(result.child.status, signal);
}

/* What the child has said so far, when it is `line`: so it has come that far. */
HELPER void step_until_output(const char *line)
{
    EVENTUALLY((cl_run_step(run, MS), get_result(), result.size[0] >= (int64_t)strlen(line)));
    CHECK(memcmp((const void *)(uintptr_t)result.data[0], line, strlen(line)) == 0);
}

/* Descriptor 5 of a child: the end that its grandchildren watch. They end when `leash` is closed. */
static cl_fd_move leash_move;

HELPER int leash(void)
{
    int ends[2];
    make_pipe(ends);
    leash_move = (cl_fd_move){ends[0], 5};
    job.command.moves = &leash_move;
    job.command.move_count = 1;
    return ends[1];
}

#endif
