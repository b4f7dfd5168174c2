/* The batch engine's steps: wait, serve what is ready, then what is late, and judge what has become of each run.
 * Whatever ends a run comes through cl__batch_finish, but for cl_batch_abort, which throws results away.
 *
 * That order is the point: an event is served without a look at the time, and the timers come after all that is ready.
 * So a child that ended in time is not called late because its end was looked at late. */
#include "batch.h"

enum { EVENTS_OF_EACH = 4 };

/* ---- what has become of a run ------------------------------------------------------------------------------------- */

void cl__batch_finish(cl_batch *batch, int32_t at, int64_t rc)
{
    cl__batch_leave_pipeline(batch, at);
    cl__batch_set_timer(batch, at, INT64_MAX);
    cl__batch_slot_queue(batch, at, rc);
}

/* The run cannot go on in this process: no memory for its output, or its child will not end. A pipeline ends with it. */
static void give_up(cl_batch *batch, int32_t at, int64_t rc)
{
    cl__batch_break_pipeline(batch, at);
    cl_run_abort(batch->slots[at].run, 0);
    cl__batch_finish(batch, at, rc);
}

static void ended(cl_batch *batch, int32_t at)
{
    cl_process *process = &batch->slots[at].run->process;
    cl__process_settle(process, &batch->flights);
    int error = process->child.error;
    cl__batch_finish(batch, at, error ? -error : 1);
}

void cl__batch_judge_alone(cl_batch *batch, int32_t at, int64_t rc)
{
    if (rc == 1)
        ended(batch, at);
    else if (rc < 0)
        give_up(batch, at, rc);
    else
        cl__batch_set_timer(batch, at, cl__run_timer(batch->slots[at].run));
}

static void judge(cl_batch *batch, int32_t at, int64_t rc)
{
    int32_t leader = batch->slots[at].leader;
    cl__batch_judge_alone(batch, at, rc);
    if (leader != CL__NOWHERE && batch->slots[leader].leader == leader)
        cl__batch_look_at_pipeline(batch, leader);
}

/* ---- what happens to it ------------------------------------------------------------------------------------------- */

/* An event. No timer is looked at: the child's end may be the next event, and it came before its deadline. */
static void serve(cl_batch *batch, const cl__ready *ready)
{
    int32_t at = cl__batch_slot_of(batch, ready->key);
    if (at == CL__NOWHERE)
        return;
    cl__slot *one = &batch->slots[at];
    int which = (int)(ready->key & 3);
    int64_t rc = cl__run_ready(one->run, which, ready->hup);
    if (which == CL__READY_EXIT)
        one->ended_in = batch->wakeups;
    judge(batch, at, rc < 0 ? rc : cl__run_finish(one->run));
}

static void at_its_timer(cl_batch *batch, int32_t at, int64_t now)
{
    cl__slot *one = &batch->slots[at];
    int was_running = one->run->phase == CL__RUNNING;
    int64_t rc = cl__run_advance(one->run, now, one->ended_in != batch->wakeups);
    if (was_running && one->run->phase != CL__RUNNING)
        one->ended_in = batch->wakeups;
    judge(batch, at, rc);
}

int64_t cl_batch_kill(cl_batch *batch, int64_t at, int64_t tag)
{
    if (!cl__batch_is_ours(batch))
        return -EPERM;
    if (at < 0 || (size_t)at >= batch->slot_count || batch->slots[at].state != CL__SLOT_LIVE || batch->slots[at].tag != tag)
        return -ESRCH;
    cl__run_kill(batch->slots[at].run);
    judge(batch, (int32_t)at, 0);
    return 0;
}

/* ---- stepping ----------------------------------------------------------------------------------------------------- */

static void fire_timers(cl_batch *batch, int64_t now)
{
    int32_t at;
    while ((at = cl__batch_due(batch, now)) != CL__NOWHERE) {
        int64_t before = batch->slots[at].timer;
        at_its_timer(batch, at, now);
        if (batch->slots[at].timer <= before)
            return; /* it waits for the pipes to be looked at once more */
    }
}

int64_t cl_batch_step(cl_batch *batch, int64_t at_most_ns)
{
    if (!cl__batch_is_ours(batch))
        return -EPERM;
    int64_t now = cl__sys_now();
    int64_t until = at_most_ns > INT64_MAX - now ? INT64_MAX : now + at_most_ns;
    while (batch->live) {
        cl__ready ready[CL__READY_MOST];
        int64_t next = cl__batch_next_timer(batch);
        int64_t when = batch->done_count ? now : next < until ? next : until;
        int64_t span = when > now ? when - now : 0, count;
        size_t turns = EVENTS_OF_EACH * batch->slot_count / CL__READY_MOST + 1;
        batch->wakeups++;
        /* All that is ready before anything that is late; with a bound, for what is ready again at once. */
        do {
            count = cl__poller_wait(&batch->poller, ready, CL__READY_MOST, span);
            if (count < 0)
                return count;
            for (int64_t i = 0; i < count; i++)
                serve(batch, &ready[i]);
            span = 0;
        } while (count >= CL__READY_MOST - 1 && turns--); /* one may have been the poller's own timer */
        now = cl__sys_now();
        fire_timers(batch, now);
        if (batch->done_count || now >= until)
            break;
    }
    return batch->done_count;
}
