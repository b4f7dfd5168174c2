/* Many children for a batch: what each is to be, what became of it, and the loop that takes the results. */
#ifndef JOBS_H
#define JOBS_H

#include "child.h"

enum { JOBS = SANITIZED ? 64 : 400, TAKEN_AT_ONCE = 64, NEVER = -1 };

static cl_batch *batch;
static int fds_at_first; /* before there was a batch */

/* A child with all that it needs; the batch is told its index as tag. */
typedef struct wanted {
    plan plan;
    cl_run_options options;
    cl_batch_done done;
    char out[2][8192]; /* how stdout and stderr began */
    int64_t hash;      /* of all of stdout */
    int is_done;
} wanted;

static wanted jobs[JOBS];
static cl_batch_item items[JOBS];

/* jobs[at], in a group of its own, both streams kept, with no limit. */
HELPER void want(int at, const char *mode, const char *argument)
{
    wanted *job = &jobs[at];
    memset(job, 0, sizeof *job);
    plan_for(&job->plan, mode, argument);
    job->plan.launch.stream[2].kind = CL_IO_PIPE;
    job->plan.command.contain = CL_CONTAIN_GROUP;
    job->options.timeout_ns = job->options.max_output = NEVER;
    job->options.drain_ns = PATIENCE;
    job->options.tee[0] = job->options.tee[1] = -1;
}

HELPER cl_batch_item item_of(int at)
{
    return (cl_batch_item){.command = &jobs[at].plan.command, .launch = &jobs[at].plan.launch,
                           .options = &jobs[at].options, .tag = at, .fd = {-1, -1}};
}

HELPER void feed(int at, const cl_piece *piece)
{
    jobs[at].plan.launch.stream[0].kind = CL_IO_PIPE;
    jobs[at].options.feed = piece;
    jobs[at].options.feed_count = 1;
}

HELPER int64_t sum_of(const uint8_t *data, int64_t size)
{
    uint64_t sum = 14695981039346656037U;
    for (int64_t i = 0; i < size; i++)
        sum = (sum ^ data[i]) * 1099511628211U;
    return (int64_t)(sum >> 1);
}

HELPER void take(void)
{
    cl_batch_done done[TAKEN_AT_ONCE];
    int64_t slots[TAKEN_AT_ONCE], count = cl_batch_take(batch, done, TAKEN_AT_ONCE);
    for (int64_t i = 0; i < count; i++) {
        const cl_run_report *report = &done[i].report;
        wanted *job = &jobs[done[i].tag];
        CHECK(!job->is_done);
        job->is_done = 1;
        job->done = done[i];
        for (int j = 0; j < 2; j++) {
            int64_t size = report->size[j], most = (int64_t)sizeof job->out[j] - 1;
            if (size)
                memcpy(job->out[j], (const void *)(uintptr_t)report->data[j], (size_t)(size < most ? size : most));
        }
        job->hash = sum_of((const uint8_t *)(uintptr_t)report->data[0], report->size[0]);
        slots[i] = done[i].slot;
    }
    CHECK_IS(cl_batch_release(batch, slots, count), 0);
}

HELPER void step_until_empty(void)
{
    int64_t until = now_ns() + PATIENCE, rc;
    do {
        rc = cl_batch_step(batch, 100 * MS);
        CHECK(rc >= 0 || rc == -EINTR);
        CHECK(now_ns() < until);
        if (rc > 0)
            take();
    } while (rc != 0 || cl_batch_live(batch));
}

HELPER void ended_with(int at, int state, int status)
{
    char before[sizeof about];
    memcpy(before, about, sizeof about);
    say_about("%.140s, job %d", before, at);
    CHECK(jobs[at].is_done);
    CHECK_IS(jobs[at].done.rc, 1);
    CHECK_IS(jobs[at].done.report.child.state, state);
    CHECK_IS(jobs[at].done.report.child.status, status);
    memcpy(about, before, sizeof about);
}

/* Each check with a batch of its own, of which nothing must be left. */
HELPER void run_checks(void (*const checks[])(void), size_t count)
{
    fds_at_first = count_fds();
    for (size_t i = 0; i < count; i++) {
        CHECK_IS(cl_batch_new(&batch), 0);
        CHECK(cl_batch_fd(batch) >= 0 || cl_platform() != CL_PLATFORM_LINUX); /* now, and not with the first child */
        checks[i]();
        cl_batch_free(batch);
        say_about("after check %d", (int)i);
        CHECK_IS(count_fds(), fds_at_first);
        CHECK(has_no_children());
    }
}

#endif
