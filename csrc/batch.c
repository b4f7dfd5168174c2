/* The batch engine as a whole: made, opened, waited for by somebody's loop, aborted, freed. Its parts are named in
 * batch.h; how children are started is in batch_start.c, how they come to their results in batch_step.c. */
#include "batch.h"

#include <stdlib.h>

int64_t cl_batch_new(cl_batch **out)
{
    cl_batch *batch = calloc(1, sizeof *batch);
    if (!batch)
        return -ENOMEM;
    batch->poller.fd = batch->poller.timer = -1;
    batch->maker = (int)cl__sys_getpid();
    batch->read_end = -1;
    batch->leader = batch->free_first = batch->done_first = batch->done_last = batch->stray_first = CL__NOWHERE;
    *out = batch;
    return 0;
}

/* Not when it is made: a caller in Python may lose what a call has made before it owns it. */
int64_t cl__batch_open(cl_batch *batch)
{
    int64_t rc = batch->has_poller ? 0 : cl__poller_open(&batch->poller);
    batch->has_poller |= rc >= 0;
    return rc < 0 ? rc : 0;
}

int cl__batch_is_ours(const cl_batch *batch)
{
    return batch->maker == (int)cl__sys_getpid();
}

int64_t cl_batch_live(cl_batch *batch)
{
    return batch->live;
}

/* ---- in somebody's loop ------------------------------------------------------------------------------------------- */

int64_t cl_batch_fd(cl_batch *batch)
{
    int64_t rc = cl__batch_open(batch);
    return rc < 0 ? rc : batch->poller.fd >= 0 ? batch->poller.fd : -ENOTSUP;
}

int64_t cl_batch_arm(cl_batch *batch)
{
    if (!cl__batch_is_ours(batch))
        return -EPERM;
    int64_t when = batch->done_count ? 0 : cl__batch_next_timer(batch);
    return cl__poller_arm(&batch->poller, when == INT64_MAX ? -1 : when);
}

/* ---- the end ------------------------------------------------------------------------------------------------------ */

int64_t cl_batch_abort(cl_batch *batch, int64_t at_most_ns)
{
    if (!cl__batch_is_ours(batch))
        return 0;
    int64_t now = cl__sys_now(), left = 0;
    int64_t until = at_most_ns > INT64_MAX - now ? INT64_MAX : now + at_most_ns;
    cl__batch_forget_building(batch);
    batch->done_first = batch->done_last = batch->stray_first = CL__NOWHERE;
    batch->done_count = 0;
    for (size_t i = 0; i < batch->slot_count; i++)
        if (batch->slots[i].run)
            cl__run_kill(batch->slots[i].run); /* all of them first, so that they die side by side */
    for (size_t i = 0; i < batch->slot_count; i++) {
        cl__slot *one = &batch->slots[i];
        if (!one->run || one->state == CL__SLOT_FREE)
            continue;
        if (one->state == CL__SLOT_LIVE) {
            cl__batch_leave_pipeline(batch, (int32_t)i);
            cl__batch_set_timer(batch, (int32_t)i, INT64_MAX);
            batch->live--;
        }
        now = cl__sys_now();
        if (cl_run_abort(one->run, until > now ? until - now : 0) == 1) {
            cl__process_settle(&one->run->process, &batch->flights);
            cl__batch_slot_give(batch, (int32_t)i);
        } else {
            cl__batch_slot_stray(batch, (int32_t)i);
            left++;
        }
    }
    return left;
}

void cl_batch_free(cl_batch *batch)
{
    if (!batch)
        return;
    if (cl__batch_is_ours(batch))
        cl_batch_abort(batch, CL__NS_PER_S);
    cl__batch_forget_building(batch);
    for (size_t i = 0; i < batch->slot_count; i++) {
        cl_run *run = batch->slots[i].run;
        if (!run)
            continue;
        run->poller = NULL;
        run->process.child.flight = NULL; /* of one that is still there the memory stays: it may be in use for ever */
        run->phase = CL__IDLE;            /* and it was waited for */
        cl_run_free(run);
    }
    cl__flights_close(&batch->flights);
    cl__poller_close(&batch->poller);
    free(batch->slots);
    free(batch->heap);
    free(batch->flying);
    free(batch);
}
