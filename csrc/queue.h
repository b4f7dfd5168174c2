/* What the files of the queue share: its memory. */
#ifndef CORELANE_QUEUE_H
#define CORELANE_QUEUE_H

#include "members.h"
#include "slot.h"

/* One behind the other in shared memory. Who writes to one line seldom needs another:
 *
 *     rare      whether it is shut, and counters: read at every put, written hardly ever
 *     tail      written by producers          head         written by consumers
 *     not_empty, not_full                     the wake-up words of those who wait for a record, and for room
 *     waiting   what is counted of waits, by those who have waited
 *     members   the table of participants, see members.h
 *     slots     from the next whole line on, each of whole 64 bytes
 */
typedef struct cl__queue_memory {
    _Alignas(CL__LINE) _Atomic uint32_t shut;
    _Atomic uint32_t repairs;  /* ORPHANs have been made since you last looked */
    _Atomic uint64_t most;
    _Atomic uint64_t notes[4]; /* CL_QUEUE_FULL, ... */
    _Atomic uint64_t tombstones, redelivered, lost;
    _Alignas(CL__LINE) _Atomic uint64_t tail;
    _Alignas(CL__LINE) _Atomic uint64_t head;
    _Alignas(CL__LINE) _Atomic uint32_t not_empty;
    _Alignas(CL__LINE) _Atomic uint32_t not_full;
    _Alignas(CL__LINE) _Atomic uint64_t waits[2]; /* these by CL_QUEUE_FOR_* */
    _Atomic uint64_t waited_ns[2], wakes[2];
} cl__queue_memory;

/* Nothing of this is in shared memory; the geometry is a checked copy. */
struct cl_queue {
    cl__members members;
    cl__queue_memory *shared;
    uint8_t *slots;
    uint64_t mask;       /* slots - 1 */
    unsigned shift;      /* of a position: the rest is its lap */
    size_t stride;
    cl_queue_plan plan;
    _Atomic uint32_t in_the_way;     /* the owner that the last -EAGAIN was for, or 0 */
    _Atomic uint32_t seen_repairs;
    _Atomic uint64_t seen_head;
    _Atomic uint64_t fault_word;
    _Atomic int64_t fault_index;
    cl__waiter waiters[2];           /* by CL_QUEUE_FOR_* */
};

static inline cl__slot *cl__slot_at(const cl_queue *queue, uint64_t position)
{
    return (cl__slot *)(queue->slots + (position & queue->mask) * queue->stride);
}

static inline uint32_t cl__queue_me(const cl_queue *queue)
{
    return cl__load_relaxed(&queue->members.me);
}

static inline uint64_t cl__lap_at(const cl_queue *queue, uint64_t position)
{
    return position >> queue->shift & CL__LAP_MASK;
}

/* How many laps the slot is ahead of the position. */
static inline int64_t cl__queue_ahead(const cl_queue *queue, cl__word word, uint64_t position)
{
    return cl__ahead(word, cl__lap_at(queue, position));
}

/* What a slot before its lap can be at the head: with a consumer, or back from one. All positions before a head were claimed. */
static inline int cl__may_be_behind(cl__word word)
{
    return cl__state_of(word) == CL__READING || cl__state_of(word) == CL__ORPHAN;
}

/* Whether another consumer has a record still: if it dies, that will be somebody's to get. */
int cl__queue_is_with_another(cl_queue *queue);

static inline int cl__queue_has_membarrier(const cl_queue *queue)
{
    return (queue->plan.flags & CL_QUEUE_MEMBARRIER) != 0;
}

void cl__queue_serve(cl_queue *queue, _Atomic uint32_t *wake);

/* After a slot has become FULL, TOMBSTONE or ORPHAN, or EMPTY; or the queue was shut. */
static inline void cl__queue_published(cl_queue *queue, _Atomic uint32_t *wake)
{
    CL_FAULT(101);
    if (__builtin_expect((cl__load(wake) & CL__ASKS) != 0, 0)) /* W3; partner: W2 in whoever sleeps, or arms */
        cl__queue_serve(queue, wake);
}

#endif
