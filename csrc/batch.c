/* The batch engine: many cl_runs, one poller, one heap of timers.
 *
 *     slot      a cl_run and its place in the engine; used again and again
 *     key       slot | generation | which descriptor: an event for a child that is gone finds another generation
 *     heap      the slots that have a timer, the next one on top
 *     done      a queue of slots whose result waits to be taken
 *     stages    of a pipeline: a list that begins with its leader, the first that was started
 *
 * A flight (a child that has perhaps not exec'd yet) belongs to the run it was started for; it is looked at when the next
 * children are started, to use its memory again, and at the latest at the child's end. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

enum { NOWHERE = -1, SLOTS_FIRST = 16, GENERATION_BITS = 30, SLOT_SHIFT = 32, KEPT_OUTPUT = 4096,
       EVENTS_OF_EACH = 4 };

/* FINISHED: in the queue. TAKEN: out of it, and its memory still read. STRAY: released, but its child is still there. */
typedef enum slot_state { FREE, LIVE, FINISHED, TAKEN, STRAY } slot_state;

typedef struct slot {
    cl_run *run;
    int64_t tag, rc, timer;
    uint64_t ended_in; /* the wake-up that told of the child's end */
    uint32_t generation;
    int32_t heap_at;
    int32_t next;      /* in the list of free ones, or of done ones, or of strays */
    int32_t leader, next_stage; /* of the pipeline that it is a stage of, while it lives */
    slot_state state;
    int in_flight;
} slot;

struct cl_batch {
    cl__poller poller;
    cl__flights flights;
    int maker;
    slot *slots;
    int32_t *heap;
    int32_t *flying;       /* slots in flight, in the order of their start */
    size_t slot_count, heap_size, flying_count;
    int32_t free_first, done_first, done_last, stray_first;
    int64_t live, done_count;
    uint64_t wakeups;
    /* The pipeline of which not all stages were started: */
    int building, is_broken, is_late, read_end; /* of the pipe from the last stage to the next one, or -1 */
    int32_t leader;
    int has_poller;
    uint8_t scratch[CL__SCRATCH];
};

int64_t cl_batch_new(cl_batch **out)
{
    cl_batch *batch = calloc(1, sizeof *batch);
    if (!batch)
        return -ENOMEM;
    batch->poller.fd = batch->poller.timer = -1;
    batch->maker = (int)cl__sys_getpid();
    batch->read_end = -1;
    batch->leader = batch->free_first = batch->done_first = batch->done_last = batch->stray_first = NOWHERE;
    *out = batch;
    return 0;
}

/* Not when it is made: a caller in Python may lose what a call has made before it owns it. */
static int64_t open_poller(cl_batch *batch)
{
    int64_t rc = batch->has_poller ? 0 : cl__poller_open(&batch->poller);
    batch->has_poller |= rc >= 0;
    return rc < 0 ? rc : 0;
}

static int is_ours(const cl_batch *batch)
{
    return batch->maker == (int)cl__sys_getpid();
}

/* ---- slots -------------------------------------------------------------------------------------------------------- */

static int64_t grow(cl_batch *batch)
{
    size_t count = batch->slot_count ? batch->slot_count * 2 : SLOTS_FIRST;
    slot *slots = realloc(batch->slots, count * sizeof *slots);
    if (slots)
        batch->slots = slots;
    int32_t *heap = slots ? realloc(batch->heap, count * sizeof *heap) : NULL;
    if (heap)
        batch->heap = heap;
    int32_t *flying = heap ? realloc(batch->flying, count * sizeof *flying) : NULL;
    if (!flying)
        return -ENOMEM;
    batch->flying = flying;
    for (size_t i = count; i-- > batch->slot_count;) {
        slots[i] = (slot){.heap_at = NOWHERE, .next = batch->free_first};
        batch->free_first = (int32_t)i;
    }
    batch->slot_count = count;
    return 0;
}

static int64_t slot_take(cl_batch *batch)
{
    int64_t rc = batch->free_first == NOWHERE ? grow(batch) : 0;
    if (rc < 0)
        return rc;
    int32_t at = batch->free_first;
    slot *one = &batch->slots[at];
    if (!one->run) {
        rc = cl_run_new(&one->run);
        if (rc < 0)
            return rc;
        one->run->scratch = batch->scratch;
    }
    batch->free_first = one->next;
    one->timer = INT64_MAX;
    one->leader = one->next_stage = NOWHERE;
    one->state = LIVE;
    one->generation = (one->generation + 1) & ((1U << GENERATION_BITS) - 1);
    return at;
}

static void slot_give(cl_batch *batch, int32_t at)
{
    slot *one = &batch->slots[at];
    one->state = FREE;
    one->next = batch->free_first;
    batch->free_first = at;
}

static uint64_t key_of(const cl_batch *batch, int32_t at)
{
    return (uint64_t)at << SLOT_SHIFT | (uint64_t)batch->slots[at].generation << 2;
}

/* The slot of a key, or NOWHERE if the child it was made for is gone. */
static int32_t slot_of(const cl_batch *batch, uint64_t key)
{
    int32_t at = (int32_t)(key >> SLOT_SHIFT);
    const slot *one = &batch->slots[at];
    uint32_t generation = (uint32_t)(key >> 2) & ((1U << GENERATION_BITS) - 1);
    return one->state == LIVE && one->generation == generation ? at : NOWHERE;
}

/* ---- timers ------------------------------------------------------------------------------------------------------- */

static void heap_put(cl_batch *batch, size_t where, int32_t at)
{
    batch->heap[where] = at;
    batch->slots[at].heap_at = (int32_t)where;
}

static int64_t heap_timer(const cl_batch *batch, size_t where)
{
    return batch->slots[batch->heap[where]].timer;
}

/* Bring the slot at `where` to its place. */
static void heap_sift(cl_batch *batch, size_t where)
{
    int32_t moved = batch->heap[where];
    int64_t timer = batch->slots[moved].timer;
    for (; where && heap_timer(batch, (where - 1) / 2) > timer; where = (where - 1) / 2)
        heap_put(batch, where, batch->heap[(where - 1) / 2]);
    for (;;) {
        size_t child = 2 * where + 1;
        if (child + 1 < batch->heap_size && heap_timer(batch, child + 1) < heap_timer(batch, child))
            child++;
        if (child >= batch->heap_size || heap_timer(batch, child) >= timer)
            break;
        heap_put(batch, where, batch->heap[child]);
        where = child;
    }
    heap_put(batch, where, moved);
}

static void heap_remove(cl_batch *batch, int32_t at)
{
    int32_t where = batch->slots[at].heap_at;
    if (where == NOWHERE)
        return;
    batch->slots[at].heap_at = NOWHERE;
    int32_t last = batch->heap[--batch->heap_size];
    if (last == at)
        return;
    heap_put(batch, (size_t)where, last);
    heap_sift(batch, (size_t)where);
}

static void set_timer(cl_batch *batch, int32_t at, int64_t when)
{
    slot *one = &batch->slots[at];
    if (when == one->timer)
        return;
    one->timer = when;
    if (when == INT64_MAX) {
        heap_remove(batch, at);
        return;
    }
    if (one->heap_at == NOWHERE)
        heap_put(batch, batch->heap_size++, at);
    heap_sift(batch, (size_t)one->heap_at);
}

static int64_t next_timer(const cl_batch *batch)
{
    return batch->heap_size ? heap_timer(batch, 0) : INT64_MAX;
}

/* ---- one run's way ------------------------------------------------------------------------------------------------ */

/* Out of the list. If it is the leader that goes, the others are no pipeline any more: their scope is gone. */
static void leave_pipeline(cl_batch *batch, int32_t at)
{
    slot *one = &batch->slots[at];
    int32_t leader = one->leader;
    if (leader == NOWHERE)
        return;
    if (leader == at) {
        for (int32_t stage = at, next; stage != NOWHERE; stage = next) {
            slot *other = &batch->slots[stage];
            next = other->next_stage;
            other->leader = other->next_stage = NOWHERE;
            other->run->leader = NULL;
            cl__run_let_go(other->run, CL__HELD_BY_CHILDREN | CL__HELD_BY_RUNS);
            if (stage != at) /* at once, for one that is done with that */
                set_timer(batch, stage, other->run->phase == CL__DRAINING ? 0 : cl__run_timer(other->run));
        }
        if (batch->leader == at)
            batch->leader = NOWHERE;
        return;
    }
    int32_t before = leader;
    while (batch->slots[before].next_stage != at)
        before = batch->slots[before].next_stage;
    batch->slots[before].next_stage = one->next_stage;
    one->leader = one->next_stage = NOWHERE;
    one->run->leader = NULL;
}

static void finish(cl_batch *batch, int32_t at, int64_t rc)
{
    slot *one = &batch->slots[at];
    leave_pipeline(batch, at);
    set_timer(batch, at, INT64_MAX);
    if (one->state == LIVE)
        batch->live--;
    one->state = FINISHED;
    one->rc = rc;
    one->next = NOWHERE;
    if (batch->done_last == NOWHERE)
        batch->done_first = at;
    else
        batch->slots[batch->done_last].next = at;
    batch->done_last = at;
    batch->done_count++;
}

static void kill_stage(cl_batch *batch, int32_t at)
{
    cl_run *run = batch->slots[at].run;
    if (run->phase != CL__RUNNING || run->give_up_at >= 0)
        return;
    cl__run_kill(run);
    set_timer(batch, at, cl__run_timer(run));
}

/* The run cannot go on in this process: no memory for its output, or its child will not end. A pipeline ends with it. */
static void give_up(cl_batch *batch, int32_t at, int64_t rc)
{
    int32_t leader = batch->slots[at].leader;
    for (int32_t stage = leader; stage != NOWHERE; stage = batch->slots[stage].next_stage)
        kill_stage(batch, stage);
    if (leader != NOWHERE && leader == batch->leader)
        batch->is_broken = 1;
    cl_run_abort(batch->slots[at].run, 0);
    finish(batch, at, rc);
}

static void ended(cl_batch *batch, int32_t at)
{
    cl_process *process = &batch->slots[at].run->process;
    cl__process_settle(process, &batch->flights);
    int error = process->child.error;
    finish(batch, at, error ? -error : 1);
}

/* What has become of a run: 1 when it is done, 0 when it goes on, -errno when it cannot. */
static void judge_alone(cl_batch *batch, int32_t at, int64_t rc)
{
    if (rc == 1)
        ended(batch, at);
    else if (rc < 0)
        give_up(batch, at, rc);
    else
        set_timer(batch, at, cl__run_timer(batch->slots[at].run));
}

/* One is killed, or could not exec: that ends them all. The deadline is the leader's, and passes for those that run. */
static int is_killed(cl_batch *batch, slot *one)
{
    cl__process_settle(&one->run->process, &batch->flights);
    return one->run->give_up_at >= 0 || one->run->process.child.error;
}

/* All children have ended: now its own end counts, and the drain begins. */
static void let_end(cl_batch *batch, int32_t at, int holds)
{
    slot *one = &batch->slots[at];
    if (one->run->phase == CL__ENDED)
        one->ended_in = batch->wakeups;
    cl__run_let_go(one->run, holds);
    judge_alone(batch, at, cl__run_finish(one->run));
}

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
    for (int32_t at = leader; at != NOWHERE; at = batch->slots[at].next_stage) {
        cl_run *run = batch->slots[at].run;
        run->timed_out = run->phase == CL__RUNNING;
        if (at != leader && run->timed_out && first->kill_at >= 0)
            end_by_itself(&run->process);
    }
}

/* Something has become of a stage: what that means for the others. */
static void look_at_pipeline(cl_batch *batch, int32_t leader)
{
    int running = 0, is_building = batch->leader == leader, killed = is_building && batch->is_broken;
    pass_the_deadline(batch, leader);
    for (int32_t at = leader; at != NOWHERE; at = batch->slots[at].next_stage) {
        running += batch->slots[at].run->phase == CL__RUNNING;
        killed |= is_killed(batch, &batch->slots[at]);
    }
    for (int32_t at = killed ? leader : NOWHERE; at != NOWHERE; at = batch->slots[at].next_stage)
        kill_stage(batch, at);
    if (is_building)
        batch->is_late = batch->slots[leader].run->deadline_is_passed;
    if (is_building)
        batch->is_broken = killed; /* those that are to come need no room then, for which it might wait for long */
    if (running || is_building)
        return;
    for (int32_t at = batch->slots[leader].next_stage, next; at != NOWHERE; at = next) {
        next = batch->slots[at].next_stage;
        let_end(batch, at, CL__HELD_BY_CHILDREN);
    }
    int alone = batch->slots[leader].next_stage == NOWHERE;
    let_end(batch, leader, alone ? CL__HELD_BY_CHILDREN | CL__HELD_BY_RUNS : CL__HELD_BY_CHILDREN);
}

static void judge(cl_batch *batch, int32_t at, int64_t rc)
{
    int32_t leader = batch->slots[at].leader;
    judge_alone(batch, at, rc);
    if (leader != NOWHERE && batch->slots[leader].leader == leader)
        look_at_pipeline(batch, leader);
}

/* An event. No timer is looked at: the child's end may be the next event, and it came before its deadline. */
static void serve(cl_batch *batch, const cl__ready *ready)
{
    int32_t at = slot_of(batch, ready->key);
    if (at == NOWHERE)
        return;
    slot *one = &batch->slots[at];
    int which = (int)(ready->key & 3);
    int64_t rc = cl__run_ready(one->run, which, ready->hup);
    if (which == CL__READY_EXIT)
        one->ended_in = batch->wakeups;
    judge(batch, at, rc < 0 ? rc : cl__run_finish(one->run));
}

static void at_its_timer(cl_batch *batch, int32_t at, int64_t now)
{
    slot *one = &batch->slots[at];
    int was_running = one->run->phase == CL__RUNNING;
    int64_t rc = cl__run_advance(one->run, now, one->ended_in != batch->wakeups);
    if (was_running && one->run->phase != CL__RUNNING)
        one->ended_in = batch->wakeups;
    judge(batch, at, rc);
}

/* ---- starting ----------------------------------------------------------------------------------------------------- */

/* Flights that have landed give their memory to the next ones. */
static void look_at_flights(cl_batch *batch)
{
    size_t kept = 0;
    for (size_t i = 0; i < batch->flying_count; i++) {
        int32_t at = batch->flying[i];
        slot *one = &batch->slots[at];
        if (cl__process_settle(&one->run->process, &batch->flights))
            one->in_flight = 0;
        else
            batch->flying[kept++] = at;
    }
    batch->flying_count = kept;
}

/* What was given up, and has ended since. */
static void look_at_strays(cl_batch *batch)
{
    int32_t *link = &batch->stray_first;
    while (*link != NOWHERE) {
        int32_t at = *link;
        slot *one = &batch->slots[at];
        if (cl_run_abort(one->run, 0) == 1) {
            *link = one->next;
            cl__process_settle(&one->run->process, &batch->flights);
            slot_give(batch, at);
        } else {
            link = &one->next;
        }
    }
}

static int is_a_limit(int64_t rc)
{
    return rc == -EAGAIN || rc == -EMFILE || rc == -ENFILE || rc == -ENOMEM;
}

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

/* Into the list, at its end, before anything can become of it. */
static void join_pipeline(cl_batch *batch, int32_t at)
{
    slot *one = &batch->slots[at];
    if (batch->leader == NOWHERE)
        batch->leader = at;
    one->leader = batch->leader;
    one->run->leader = batch->slots[one->leader].run;
    one->run->held = CL__HELD_BY_CHILDREN | (one->leader == at ? CL__HELD_BY_RUNS : 0);
    one->run->deadline_is_passed = 0;
    if (one->leader == at)
        return;
    one->run->deadline = -1;
    int32_t last = one->leader;
    while (batch->slots[last].next_stage != NOWHERE)
        last = batch->slots[last].next_stage;
    batch->slots[last].next_stage = at;
}

static int64_t refuse(cl_batch *batch, int32_t at, int error)
{
    cl__run_refuse(batch->slots[at].run, error);
    batch->live++;
    finish(batch, at, -error);
    return 1;
}

/* Between its neighbours' pipes, where it has any. */
static int64_t begin(cl_batch *batch, cl_run *run, const cl_batch_item *item)
{
    int ends[2];
    cl_launch launch = *item->launch;
    cl__among among = {.flights = &batch->flights};
    if (batch->building && batch->leader != NOWHERE)
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

/* Nobody here watches a tee; a pipeline is one process group; and what the last stage joins there is not. */
static int cannot_be(const cl_batch_item *item, int is_stage)
{
    return item->options->tee[0] >= 0 || item->options->tee[1] >= 0 || (item->joins && !item->more) ||
           (is_stage && (item->command->options & CL_OPT_NEW_SESSION));
}

static int64_t start_child(cl_batch *batch, cl_batch_item *item)
{
    int64_t at = slot_take(batch);
    item->stage = CL_STAGE_PREPARE;
    if (at < 0)
        return at;
    slot *one = &batch->slots[at];
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
        slot_give(batch, (int32_t)at);
        return rc;
    }
    batch->live++;
    if (rc < 0) {
        batch->is_broken = batch->building;
        finish(batch, (int32_t)at, rc);
        return 1;
    }
    if (batch->building)
        join_pipeline(batch, (int32_t)at);
    if (one->run->process.child.flight && !one->in_flight) {
        one->in_flight = 1;
        batch->flying[batch->flying_count++] = (int32_t)at;
    }
    rc = cl__run_watch(one->run, &batch->poller, key_of(batch, (int32_t)at));
    batch->is_broken |= batch->building && rc < 0;
    judge_alone(batch, (int32_t)at, rc);
    return 1;
}

/* No more stages come: what has become of those that there are may be acted on. */
static void end_building(cl_batch *batch)
{
    int32_t leader = batch->leader;
    if (leader != NOWHERE && batch->is_broken)
        look_at_pipeline(batch, leader);
    close_read_end(batch);
    batch->leader = NOWHERE;
    batch->building = batch->is_broken = batch->is_late = 0;
    if (leader != NOWHERE && batch->slots[leader].leader == leader)
        look_at_pipeline(batch, leader);
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
    if (batch->is_broken && batch->leader != NOWHERE)
        look_at_pipeline(batch, batch->leader);
    if (item->more <= 0)
        end_building(batch);
    return rc;
}

int64_t cl_batch_break(cl_batch *batch)
{
    if (!is_ours(batch))
        return -EPERM;
    batch->is_broken = 1;
    end_building(batch);
    return 0;
}

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
    if (!is_ours(batch))
        return -EPERM;
    int64_t rc = open_poller(batch);
    if (rc < 0) {
        items[0].stage = CL_STAGE_PREPARE;
        items[0].error = -rc;
        return batch->live ? 0 : rc;
    }
    look_at_flights(batch);
    look_at_strays(batch);
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

/* ---- stepping ----------------------------------------------------------------------------------------------------- */

static void fire_timers(cl_batch *batch, int64_t now)
{
    while (batch->heap_size && heap_timer(batch, 0) <= now) {
        int32_t at = batch->heap[0];
        int64_t before = batch->slots[at].timer;
        at_its_timer(batch, at, now);
        if (batch->slots[at].heap_at != NOWHERE && batch->slots[at].timer <= before)
            return; /* it waits for the pipes to be looked at once more */
    }
}

int64_t cl_batch_step(cl_batch *batch, int64_t at_most_ns)
{
    if (!is_ours(batch))
        return -EPERM;
    int64_t now = cl__sys_now();
    int64_t until = at_most_ns > INT64_MAX - now ? INT64_MAX : now + at_most_ns;
    while (batch->live) {
        cl__ready ready[CL__READY_MOST];
        int64_t next = next_timer(batch);
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

int64_t cl_batch_take(cl_batch *batch, cl_batch_done *out, int64_t most)
{
    int64_t taken = 0;
    for (; taken < most && batch->done_first != NOWHERE; taken++) {
        int32_t at = batch->done_first;
        slot *one = &batch->slots[at];
        out[taken].tag = one->tag;
        out[taken].slot = at;
        out[taken].rc = one->rc;
        one->state = TAKEN;
        cl_run_report_get(one->run, &out[taken].report);
        batch->done_first = one->next;
        batch->done_count--;
    }
    if (batch->done_first == NOWHERE)
        batch->done_last = NOWHERE;
    return taken;
}

int64_t cl_batch_release(cl_batch *batch, const int64_t *slots, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        if (slots[i] < 0 || (size_t)slots[i] >= batch->slot_count || batch->slots[slots[i]].state != TAKEN)
            return -EINVAL;
        slot *one = &batch->slots[slots[i]];
        for (int j = 0; j < 2; j++)
            cl__buffer_trim(&one->run->out[j].kept, KEPT_OUTPUT);
        if (one->run->phase == CL__DONE || one->run->phase == CL__IDLE) {
            slot_give(batch, (int32_t)slots[i]);
        } else {
            one->state = STRAY;
            one->next = batch->stray_first;
            batch->stray_first = (int32_t)slots[i];
        }
    }
    return 0;
}

/* ---- the end ------------------------------------------------------------------------------------------------------ */

int64_t cl_batch_kill(cl_batch *batch, int64_t at, int64_t tag)
{
    if (!is_ours(batch))
        return -EPERM;
    if (at < 0 || (size_t)at >= batch->slot_count || batch->slots[at].state != LIVE || batch->slots[at].tag != tag)
        return -ESRCH;
    cl__run_kill(batch->slots[at].run);
    judge(batch, (int32_t)at, 0);
    return 0;
}

int64_t cl_batch_abort(cl_batch *batch, int64_t at_most_ns)
{
    if (!is_ours(batch))
        return 0;
    int64_t now = cl__sys_now(), left = 0;
    int64_t until = at_most_ns > INT64_MAX - now ? INT64_MAX : now + at_most_ns;
    int32_t strays = NOWHERE;
    close_read_end(batch);
    batch->leader = NOWHERE;
    batch->building = batch->is_broken = batch->is_late = 0;
    for (size_t i = 0; i < batch->slot_count; i++)
        if (batch->slots[i].run)
            cl__run_kill(batch->slots[i].run); /* all of them first, so that they die side by side */
    for (size_t i = 0; i < batch->slot_count; i++) {
        slot *one = &batch->slots[i];
        if (!one->run || one->state == FREE)
            continue;
        if (one->state == LIVE) {
            leave_pipeline(batch, (int32_t)i);
            set_timer(batch, (int32_t)i, INT64_MAX);
            batch->live--;
        }
        now = cl__sys_now();
        if (cl_run_abort(one->run, until > now ? until - now : 0) == 1) {
            cl__process_settle(&one->run->process, &batch->flights);
            slot_give(batch, (int32_t)i);
        } else {
            one->state = STRAY;
            one->next = strays;
            strays = (int32_t)i;
            left++;
        }
    }
    batch->stray_first = strays;
    batch->done_first = batch->done_last = NOWHERE;
    batch->done_count = 0;
    return left;
}

void cl_batch_free(cl_batch *batch)
{
    if (!batch)
        return;
    if (is_ours(batch))
        cl_batch_abort(batch, CL__NS_PER_S);
    close_read_end(batch);
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

int64_t cl_batch_live(cl_batch *batch)
{
    return batch->live;
}

int64_t cl_batch_fd(cl_batch *batch)
{
    int64_t rc = open_poller(batch);
    return rc < 0 ? rc : batch->poller.fd >= 0 ? batch->poller.fd : -ENOTSUP;
}

int64_t cl_batch_arm(cl_batch *batch)
{
    if (!is_ours(batch))
        return -EPERM;
    int64_t when = batch->done_count ? 0 : next_timer(batch);
    return cl__poller_arm(&batch->poller, when == INT64_MAX ? -1 : when);
}
