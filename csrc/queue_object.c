/* The queue as an object: how it lies in its segment, who takes part, what is known of it. What it does is in
 * queue.c, how it is waited for in queue_wait.c. */
#include "queue.h"

#include <stdlib.h>
#include <string.h>

#define LAYOUT 0x51554555452d3034ULL /* "QUEUE-04": to be changed with anything in queue.h */
#define LARGEST (1LL << 46)

/* ---- geometry ----------------------------------------------------------------------------------------------------- */

static int64_t up_to(int64_t size, int64_t unit)
{
    return (size + unit - 1) / unit * unit;
}

static int64_t slots_offset(const cl_queue_plan *plan)
{
    return up_to((int64_t)sizeof(cl__queue_memory) + cl__members_size(plan->members), CL__LINE);
}

static int64_t stride_of(const cl_queue_plan *plan)
{
    return up_to((int64_t)sizeof(cl__slot) + plan->slot_size, 64);
}

static int64_t check_plan(const cl_queue_plan *plan)
{
    if (plan->slots < 1 || plan->slots > CL_QUEUE_SLOTS || plan->slot_size < 1 || plan->slot_size > 1 << 30 ||
        plan->members < 1 || plan->members > CL_QUEUE_MEMBERS ||
        plan->flags & ~(CL_QUEUE_AT_MOST_ONCE | CL_QUEUE_MEMBARRIER))
        return -EINVAL;
    if (!plan->pool != !plan->queues || plan->queues < 0 || plan->queues > CL_QUEUE_POOL || plan->place < 0 ||
        plan->place >= (plan->queues ? plan->queues : 1))
        return -EINVAL;
    return plan->slots * stride_of(plan) > LARGEST ? -ENOMEM : 0;
}

int64_t cl_queue_describe(cl_queue_plan *plan, cl_segment_plan *out)
{
    int64_t rc = check_plan(plan);
    if (rc < 0)
        return rc;
    int64_t slots = 1;
    while (slots < plan->slots)
        slots *= 2;
    plan->slots = slots;
    out->size = slots_offset(plan) + slots * stride_of(plan);
    out->data_offset = CL_SEGMENT_HEADER;
    out->kind = CL_SEGMENT_QUEUE;
    out->layout = LAYOUT;
    out->about = (const char *)plan;
    out->about_size = sizeof *plan;
    return check_plan(plan);
}

/* ---- who takes part -------------------------------------------------------------------------------------------------- */

static int clear_slot(cl_queue *queue, cl__slot *slot, cl__word word)
{
    cl__queue_memory *shared = queue->shared;
    uint64_t lap = cl__lap_of(word);
    int is_writing = cl__state_of(word) == CL__WRITING, is_lost = queue->plan.flags & CL_QUEUE_AT_MOST_ONCE;
    cl__word then = is_writing ? cl__word_of(lap, CL__TOMBSTONE, 0)
                    : is_lost  ? cl__word_of(lap + 1, CL__EMPTY, 0)
                               : cl__word_of(lap, CL__ORPHAN, 0);
    CL_FAULT(121);
    if (!cl__swap_if(&slot->word, &word, then)) /* partner: the acquires of all who look at the slot */
        return 0;
    cl__add_relaxed(is_writing ? &shared->tombstones : is_lost ? &shared->lost : &shared->redelivered, 1);
    return 1;
}

/* A cl__clear. */
static int64_t clear_slots(void *object, uint32_t owner)
{
    cl_queue *queue = object;
    cl__queue_memory *shared = queue->shared;
    int64_t count = 0;
    for (uint64_t i = 0; i <= queue->mask; i++) {
        cl__slot *slot = cl__slot_at(queue, i);
        CL_FAULT(122);
        cl__word word = cl__load_acquire(&slot->word); /* partner: the owner's CAS, before its death */
        unsigned state = cl__state_of(word);
        if (cl__owner_of(word) == owner && (state == CL__WRITING || state == CL__READING))
            count += clear_slot(queue, slot, word);
    }
    /* After the ORPHANs: a consumer that saw the number and then no ORPHAN would never look again. Before the owner leaves
     * the table: if we die here it is still there, and all this is done again. */
    CL_FAULT(123);
    cl__add(&shared->repairs, 1); /* partner: the loads in claim_orphan and queue_wait.c */
    cl__queue_published(queue, &shared->not_empty);
    cl__queue_published(queue, &shared->not_full);
    return count;
}

int64_t cl_queue_join(cl_queue *queue)
{
    return cl__members_join(&queue->members);
}

void cl_queue_leave(cl_queue *queue)
{
    int was_in = cl__members_is_joined(&queue->members) == 0;
    cl__members_leave(&queue->members);
    if (!was_in) /* it may be read-only */
        return;
    /* Who waits through this handle was woken when its slots were cleared, and may have looked before it was gone. */
    cl__queue_published(queue, &queue->shared->not_empty);
    cl__queue_published(queue, &queue->shared->not_full);
}

int64_t cl_queue_recover(cl_queue *queue)
{
    return cl__members_recover(&queue->members);
}

int64_t cl_queue_blocked_by(const cl_queue *queue)
{
    uint32_t index = cl__load_relaxed(&queue->in_the_way);
    int64_t pid = cl__members_pid_of(&queue->members, index);
    return !index ? 0 : pid > 0 ? pid : -1;
}

/* ---- opening ----------------------------------------------------------------------------------------------------------- */

int64_t cl_queue_open(cl_queue **out, cl_segment *segment)
{
    cl_segment_report report;
    cl_queue_plan plan;
    cl_segment_report_of(segment, &report);
    if (!report.data || report.kind != CL_SEGMENT_QUEUE || report.layout != LAYOUT ||
        report.data_offset % CL__LINE != 0 || report.data_offset < CL_SEGMENT_ABOUT + (int64_t)sizeof plan)
        return -EBADMSG;
    memcpy(&plan, report.data - report.data_offset + CL_SEGMENT_ABOUT, sizeof plan); /* once: then it is checked */
    if (check_plan(&plan) < 0 || (plan.slots & (plan.slots - 1)) != 0 ||
        report.size != slots_offset(&plan) + plan.slots * stride_of(&plan))
        return -EBADMSG;
    int64_t rc = plan.flags & CL_QUEUE_MEMBARRIER && !report.read_only ? cl__membarrier_register() : 0;
    if (rc < 0)
        return rc;
    cl_queue *queue = calloc(1, sizeof *queue);
    if (!queue)
        return -ENOMEM;
    queue->shared = (cl__queue_memory *)report.data;
    queue->slots = report.data + slots_offset(&plan);
    queue->stride = (size_t)stride_of(&plan);
    queue->mask = (uint64_t)plan.slots - 1;
    queue->shift = (unsigned)__builtin_ctzll((uint64_t)plan.slots);
    queue->plan = plan;
    cl_queue_set_spin(queue, CL__SPIN_NS);
    cl__members_open(&queue->members, segment, queue->shared + 1, plan.members, clear_slots, queue);
    queue->members.has_membarrier = cl__queue_has_membarrier(queue);
    for (int what = 0; what < 2; what++)
        queue->waiters[what].has_membarrier = queue->members.has_membarrier;
    *out = queue;
    return 0;
}

void cl_queue_free(cl_queue *queue)
{
    if (!queue)
        return;
    cl__members_close(&queue->members);
    free(queue);
}

/* ---- what is known ----------------------------------------------------------------------------------------------------- */

int64_t cl_queue_note(cl_queue *queue, int32_t what, int64_t count)
{
    if (queue->members.read_only || what < 0 || what > CL_QUEUE_DROPPED_OLD)
        return -EINVAL;
    cl__add_relaxed(&queue->shared->notes[what], (uint64_t)count); /* partner: none, they are counts */
    return 0;
}

int64_t cl_queue_note_wait(cl_queue *queue, int32_t what, int64_t ns)
{
    if (queue->members.read_only || (what != CL_QUEUE_FOR_RECORD && what != CL_QUEUE_FOR_ROOM) || ns < 0)
        return -EINVAL;
    cl__add_relaxed(&queue->shared->waits[what], 1); /* partner: none, they are counts */
    cl__add_relaxed(&queue->shared->waited_ns[what], (uint64_t)ns);
    return 0;
}

int64_t cl_queue_plan_of(const cl_queue *queue, cl_queue_plan *out)
{
    *out = queue->plan;
    return 0;
}

/* Unsigned until the end: somebody may have scribbled numbers that go over. */
static void count_slots(cl_queue *queue, cl_queue_report *out)
{
    uint64_t gone = cl__load_relaxed(&queue->shared->tombstones); /* positions that were no records */
    uint64_t put = 0, got = 0;
    for (uint64_t i = 0; i <= queue->mask; i++) {
        cl__word word = cl__load_relaxed(&cl__slot_at(queue, i)->word); /* partner: none: a count */
        unsigned state = cl__state_of(word);
        int is_in = state == CL__FULL || state == CL__READING || state == CL__ORPHAN;
        put += cl__lap_of(word) + (uint64_t)is_in;
        got += cl__lap_of(word);
        out->size += is_in;
        gone -= state == CL__TOMBSTONE;
    }
    out->enqueued = (int64_t)(put - gone);
    out->dequeued = (int64_t)(got - gone - (uint64_t)out->lost);
}

/* All of them counts that nothing is ordered by: relaxed, without partners. */
int64_t cl_queue_report_of(cl_queue *queue, cl_queue_report *out)
{
    cl__queue_memory *shared = queue->shared;
    *out = (cl_queue_report){
        .slots = queue->plan.slots,
        .slot_size = queue->plan.slot_size,
        .members = queue->plan.members,
        .flags = queue->plan.flags,
        .most = (int64_t)cl__load_relaxed(&shared->most),
        .failed_puts = (int64_t)cl__load_relaxed(&shared->notes[CL_QUEUE_FULL]),
        .failed_gets = (int64_t)cl__load_relaxed(&shared->notes[CL_QUEUE_EMPTY]),
        .dropped_new = (int64_t)cl__load_relaxed(&shared->notes[CL_QUEUE_DROPPED_NEW]),
        .dropped_old = (int64_t)cl__load_relaxed(&shared->notes[CL_QUEUE_DROPPED_OLD]),
        .recoveries = (int64_t)cl__load_relaxed(&queue->members.shared->recoveries),
        .unfinished = (int64_t)cl__load_relaxed(&shared->tombstones),
        .redelivered = (int64_t)cl__load_relaxed(&shared->redelivered),
        .lost = (int64_t)cl__load_relaxed(&shared->lost),
        .last_dead = cl__load_relaxed(&queue->members.shared->last_dead),
        .get_waits = (int64_t)cl__load_relaxed(&shared->waits[CL_QUEUE_FOR_RECORD]),
        .put_waits = (int64_t)cl__load_relaxed(&shared->waits[CL_QUEUE_FOR_ROOM]),
        .get_waited_ns = (int64_t)cl__load_relaxed(&shared->waited_ns[CL_QUEUE_FOR_RECORD]),
        .put_waited_ns = (int64_t)cl__load_relaxed(&shared->waited_ns[CL_QUEUE_FOR_ROOM]),
        .get_wakes = (int64_t)cl__load_relaxed(&shared->wakes[CL_QUEUE_FOR_RECORD]),
        .put_wakes = (int64_t)cl__load_relaxed(&shared->wakes[CL_QUEUE_FOR_ROOM]),
        .shut = cl__load_relaxed(&shared->shut) != 0,
        .me = cl__members_is_joined(&queue->members) == 0 ? cl__queue_me(queue) : 0,
        .joined = cl__members_joined(&queue->members),
        .blocked_by = cl_queue_blocked_by(queue),
        .fault_word = cl__load_relaxed(&queue->fault_word),
        .fault_index = cl__load_relaxed(&queue->fault_index),
    };
    count_slots(queue, out);
    return 0;
}
