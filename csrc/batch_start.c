/* The batch engine's starts: from items to children, one by one or joined by pipes, and how far it came where there was
 * no more room.
 *
 * At a limit of the system (EAGAIN, EMFILE, ENFILE, ENOMEM) an item starts nothing, and can be given again when others
 * have ended. Any other failure is its result.
 *
 * A pipeline may take several calls. Until its last item has come, the engine keeps the reading end of the pipe from the
 * last stage to the next one, and whether the rest is to be refused (building, leader, read_end, is_broken, is_late). */
#include "batch.h"

/* Flights that have landed give their memory to the next ones. */
static void look_at_flights(cl_batch *batch)
{
    size_t kept = 0;
    for (size_t i = 0; i < batch->flying_count; i++) {
        int32_t at = batch->flying[i];
        cl__slot *one = &batch->slots[at];
        if (cl__process_settle(&one->run->process, &batch->flights))
            one->in_flight = 0;
        else
            batch->flying[kept++] = at;
    }
    batch->flying_count = kept;
}

static int is_a_limit(int64_t rc)
{
    return rc == -EAGAIN || rc == -EMFILE || rc == -ENFILE || rc == -ENOMEM;
}

/* ---- the pipes between stages ------------------------------------------------------------------------------------- */

static void close_read_end(cl_batch *batch)
{
    if (batch->read_end >= 0)
        cl__sys_close(batch->read_end);
    batch->read_end = -1;
}

/* A pipe to the next stage: both ends, or -1 where the item joins nothing. */
static int64_t open_joint(const cl_batch_item *item, int ends[2])
{
    ends[0] = ends[1] = -1;
    int64_t rc = item->joins ? cl__sys_pipe(ends) : 0;
    if (rc < 0)
        return rc;
    int64_t first = cl__lift(&ends[0]), second = cl__lift(&ends[1]);
    if (first >= 0 && second >= 0)
        return 0;
    for (int i = 0; i < 2; i++)
        if (ends[i] >= 0)
            cl__sys_close(ends[i]);
    return first < 0 ? first : second;
}

/* The caller's own stage. */
static int64_t hand_out(cl_batch *batch, cl_batch_item *item)
{
    int ends[2];
    int is_refused = batch->is_broken || batch->is_late;
    int64_t rc = is_refused ? 0 : open_joint(item, ends);
    item->stage = CL_STAGE_PIPE;
    if (rc < 0)
        return rc;
    item->slot = item->fd[0] = item->fd[1] = -1;
    if (is_refused)
        return 1;
    item->fd[0] = batch->read_end;
    item->fd[1] = ends[1];
    batch->read_end = ends[0];
    return 1;
}

/* ---- one child ---------------------------------------------------------------------------------------------------- */

/* Nobody here watches a tee; a pipeline is one process group; and what the last stage joins there is not. */
static int cannot_be(const cl_batch_item *item, int is_stage)
{
    return item->options->tee[0] >= 0 || item->options->tee[1] >= 0 || (item->joins && !item->more) ||
           (is_stage && (item->command->options & CL_OPT_NEW_SESSION));
}

static int64_t refuse(cl_batch *batch, int32_t at, int error)
{
    cl__run_refuse(batch->slots[at].run, error);
    batch->live++;
    cl__batch_finish(batch, at, -error);
    return 1;
}

/* Between its neighbours' pipes, where it has any. */
static int64_t begin(cl_batch *batch, cl_run *run, const cl_batch_item *item)
{
    int ends[2];
    cl_launch launch = *item->launch;
    cl__among among = {.flights = &batch->flights};
    if (batch->building && batch->leader != CL__NOWHERE)
        among.leader = &batch->slots[batch->leader].run->process.child;
    int64_t rc = open_joint(item, ends);
    if (rc < 0) {
        run->process.child.stage = CL_STAGE_PIPE;
        return rc;
    }
    if (batch->read_end >= 0)
        launch.stream[0] = (cl_stream){.kind = CL_IO_FD, .fd = batch->read_end};
    if (ends[1] >= 0)
        launch.stream[1] = (cl_stream){.kind = CL_IO_FD, .fd = ends[1]};
    rc = cl__run_begin(run, item->command, &launch, item->options, item->snapshot, &among);
    if (ends[1] >= 0)
        cl__sys_close(ends[1]);
    if (is_a_limit(rc)) {
        if (ends[0] >= 0)
            cl__sys_close(ends[0]);
        return rc;
    }
    close_read_end(batch);
    batch->read_end = ends[0];
    return rc;
}

static int64_t start_child(cl_batch *batch, cl_batch_item *item)
{
    int64_t at = cl__batch_slot_take(batch);
    item->stage = CL_STAGE_PREPARE;
    if (at < 0)
        return at;
    cl__slot *one = &batch->slots[at];
    one->tag = item->tag;
    item->slot = at;
    if (batch->is_broken || batch->is_late)
        return refuse(batch, (int32_t)at, ECANCELED);
    if (cannot_be(item, batch->building)) {
        batch->is_broken = batch->building;
        return refuse(batch, (int32_t)at, EINVAL);
    }
    one->ended_in = batch->wakeups;
    int64_t rc = begin(batch, one->run, item);
    if (is_a_limit(rc)) {
        item->stage = one->run->process.child.stage;
        cl__batch_slot_give(batch, (int32_t)at);
        return rc;
    }
    batch->live++;
    if (rc < 0) {
        batch->is_broken = batch->building;
        cl__batch_finish(batch, (int32_t)at, rc);
        return 1;
    }
    if (batch->building)
        cl__batch_join_pipeline(batch, (int32_t)at);
    if (one->run->process.child.flight && !one->in_flight) {
        one->in_flight = 1;
        batch->flying[batch->flying_count++] = (int32_t)at;
    }
    rc = cl__run_watch(one->run, &batch->poller, cl__batch_key(batch, (int32_t)at));
    batch->is_broken |= batch->building && rc < 0;
    cl__batch_judge_alone(batch, (int32_t)at, rc);
    return 1;
}

/* ---- stage after stage -------------------------------------------------------------------------------------------- */

void cl__batch_forget_building(cl_batch *batch)
{
    close_read_end(batch);
    batch->leader = CL__NOWHERE;
    batch->building = batch->is_broken = batch->is_late = 0;
}

/* No more stages come: what has become of those that there are may be acted on. */
static void end_building(cl_batch *batch)
{
    int32_t leader = batch->leader;
    if (leader != CL__NOWHERE && batch->is_broken)
        cl__batch_look_at_pipeline(batch, leader);
    cl__batch_forget_building(batch);
    if (leader != CL__NOWHERE && batch->slots[leader].leader == leader)
        cl__batch_look_at_pipeline(batch, leader);
}

int64_t cl_batch_break(cl_batch *batch)
{
    if (!cl__batch_is_ours(batch))
        return -EPERM;
    batch->is_broken = 1;
    end_building(batch);
    return 0;
}

/* 1: started, or its failure is its result. -errno: a limit, and nothing was started. */
static int64_t start_one(cl_batch *batch, cl_batch_item *item)
{
    int was_building = batch->building;
    batch->building |= item->more > 0;
    int64_t rc = item->command ? start_child(batch, item) : hand_out(batch, item);
    if (rc < 0) {
        batch->building = was_building;
        item->error = -rc;
    }
    if (rc < 0 || !batch->building)
        return rc;
    if (batch->is_broken && batch->leader != CL__NOWHERE)
        cl__batch_look_at_pipeline(batch, batch->leader);
    if (item->more <= 0)
        end_building(batch);
    return rc;
}

/* ---- all that are asked for --------------------------------------------------------------------------------------- */

typedef struct start_request {
    cl_batch *batch;
    cl_batch_item *items;
    int64_t count;
} start_request;

static int64_t start_all(void *argument)
{
    start_request *request = argument;
    for (int64_t i = 0; i < request->count; i++) {
        int64_t rc = start_one(request->batch, &request->items[i]);
        if (rc < 0)
            return i || request->batch->live ? i : rc;
    }
    return request->count;
}

int64_t cl_batch_start(cl_batch *batch, cl_batch_item *items, int64_t count)
{
    if (!cl__batch_is_ours(batch))
        return -EPERM;
    int64_t rc = cl__batch_open(batch);
    if (rc < 0) {
        items[0].stage = CL_STAGE_PREPARE;
        items[0].error = -rc;
        return batch->live ? 0 : rc;
    }
    look_at_flights(batch);
    cl__batch_look_at_strays(batch);
    start_request request = {batch, items, count};
    /* The death signal follows the thread that clones: one trip to the thread that stays, rather than one for each. */
    for (int64_t i = 0; i < count; i++)
        if (items[i].command && (items[i].command->options & CL_OPT_DEATH_SIGNAL) && !cl__sys_is_main_thread(batch->maker)) {
            items[0].stage = CL_STAGE_CLONE; /* of that thread, if there is no room for it */
            items[0].error = EAGAIN;
            rc = cl__on_spawner(start_all, &request);
            return rc < 0 && batch->live ? 0 : rc;
        }
    return start_all(&request);
}
