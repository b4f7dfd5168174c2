/* What the stages of a pipeline are to each other, once they are started: a list that begins with the leader, one
 * scope, one deadline, one end. The pipes between them are batch_start.c's business.
 *
 *     a stage                          the others
 *     is killed, or could not exec     are killed, and those to come are not started
 *     is given up                      the same
 *     is the leader, and late          are late too, if they still run, and get the first signal where there is a grace
 *     has ended                        go on; it is not reaped, and so the group's number stays the leader's
 *     is the last to end               drain, as it does; the leader kills what is left, and is reaped last */
#include "batch.h"

/* ---- the list ----------------------------------------------------------------------------------------------------- */

void cl__batch_join_pipeline(cl_batch *batch, int32_t at)
{
    cl__slot *one = &batch->slots[at];
    if (batch->leader == CL__NOWHERE)
        batch->leader = at;
    one->leader = batch->leader;
    one->run->leader = batch->slots[one->leader].run;
    one->run->held = CL__HELD_BY_CHILDREN | (one->leader == at ? CL__HELD_BY_RUNS : 0);
    one->run->deadline_is_passed = 0;
    if (one->leader == at)
        return;
    one->run->deadline = -1;
    int32_t last = one->leader;
    while (batch->slots[last].next_stage != CL__NOWHERE)
        last = batch->slots[last].next_stage;
    batch->slots[last].next_stage = at;
}

void cl__batch_leave_pipeline(cl_batch *batch, int32_t at)
{
    cl__slot *one = &batch->slots[at];
    int32_t leader = one->leader;
    if (leader == CL__NOWHERE)
        return;
    if (leader == at) {
        for (int32_t stage = at, next; stage != CL__NOWHERE; stage = next) {
            cl__slot *other = &batch->slots[stage];
            next = other->next_stage;
            other->leader = other->next_stage = CL__NOWHERE;
            other->run->leader = NULL;
            cl__run_let_go(other->run, CL__HELD_BY_CHILDREN | CL__HELD_BY_RUNS);
            if (stage != at) /* at once, for one that is done with that */
                cl__batch_set_timer(batch, stage, other->run->phase == CL__DRAINING ? 0 : cl__run_timer(other->run));
        }
        if (batch->leader == at)
            batch->leader = CL__NOWHERE;
        return;
    }
    int32_t before = leader;
    while (batch->slots[before].next_stage != at)
        before = batch->slots[before].next_stage;
    batch->slots[before].next_stage = one->next_stage;
    one->leader = one->next_stage = CL__NOWHERE;
    one->run->leader = NULL;
}

/* ---- killed ------------------------------------------------------------------------------------------------------- */

static void kill_stage(cl_batch *batch, int32_t at)
{
    cl_run *run = batch->slots[at].run;
    if (run->phase != CL__RUNNING || run->give_up_at >= 0)
        return;
    cl__run_kill(run);
    cl__batch_set_timer(batch, at, cl__run_timer(run));
}

static void kill_stages(cl_batch *batch, int32_t leader)
{
    for (int32_t at = leader; at != CL__NOWHERE; at = batch->slots[at].next_stage)
        kill_stage(batch, at);
}

void cl__batch_break_pipeline(cl_batch *batch, int32_t at)
{
    int32_t leader = batch->slots[at].leader;
    kill_stages(batch, leader);
    if (leader != CL__NOWHERE && leader == batch->leader)
        batch->is_broken = 1;
}

/* One is killed, or could not exec: that ends them all. The deadline is the leader's, and passes for those that run. */
static int is_killed(cl_batch *batch, cl__slot *one)
{
    cl__process_settle(&one->run->process, &batch->flights);
    return one->run->give_up_at >= 0 || one->run->process.child.error;
}

/* ---- late --------------------------------------------------------------------------------------------------------- */

/* The first signal, which has gone to the leader's scope: for a stage that is not in it. */
static void end_by_itself(cl_process *process)
{
    if (process->child.contained == CL_CONTAIN_CGROUP)
        return;
    cl__process_signal_scope(process, SIGTERM);
    cl__process_signal_scope(process, SIGCONT);
}

static void pass_the_deadline(cl_batch *batch, int32_t leader)
{
    cl_run *first = batch->slots[leader].run;
    if (!first->timed_out || first->deadline_is_passed)
        return;
    first->deadline_is_passed = 1;
    for (int32_t at = leader; at != CL__NOWHERE; at = batch->slots[at].next_stage) {
        cl_run *run = batch->slots[at].run;
        run->timed_out = run->phase == CL__RUNNING;
        if (at != leader && run->timed_out && first->kill_at >= 0)
            end_by_itself(&run->process);
    }
}

/* ---- ended -------------------------------------------------------------------------------------------------------- */

/* All children have ended: now its own end counts, and the drain begins. */
static void let_end(cl_batch *batch, int32_t at, int holds)
{
    cl__slot *one = &batch->slots[at];
    if (one->run->phase == CL__ENDED)
        one->ended_in = batch->wakeups;
    cl__run_let_go(one->run, holds);
    cl__batch_judge_alone(batch, at, cl__run_finish(one->run));
}

void cl__batch_look_at_pipeline(cl_batch *batch, int32_t leader)
{
    int running = 0, is_building = batch->leader == leader, killed = is_building && batch->is_broken;
    pass_the_deadline(batch, leader);
    for (int32_t at = leader; at != CL__NOWHERE; at = batch->slots[at].next_stage) {
        running += batch->slots[at].run->phase == CL__RUNNING;
        killed |= is_killed(batch, &batch->slots[at]);
    }
    if (killed)
        kill_stages(batch, leader);
    if (is_building)
        batch->is_late = batch->slots[leader].run->deadline_is_passed;
    if (is_building)
        batch->is_broken = killed; /* those that are to come need no room then, for which it might wait for long */
    if (running || is_building)
        return;
    for (int32_t at = batch->slots[leader].next_stage, next; at != CL__NOWHERE; at = next) {
        next = batch->slots[at].next_stage;
        let_end(batch, at, CL__HELD_BY_CHILDREN);
    }
    int alone = batch->slots[leader].next_stage == CL__NOWHERE;
    let_end(batch, leader, alone ? CL__HELD_BY_CHILDREN | CL__HELD_BY_RUNS : CL__HELD_BY_CHILDREN);
}
