/* What deque.c and deque_object.c share: the memory of a deque. */
#ifndef CORELANE_DEQUE_H
#define CORELANE_DEQUE_H

#include "members.h"
#include "slot.h"

/* One behind the other in shared memory. Who writes to one line seldom needs another:
 *
 *     rare       who is the owner, whether it is shut: read at every call, written hardly ever
 *     owner's    counters that only the owner writes
 *     top        written by thieves, and so are its counters
 *     not_empty  the wake-up word of those who wait for work
 *     members    the table of participants, see members.h
 *     slots      from the next whole line on, each of whole 64 bytes
 */
typedef struct cl__deque_memory {
    _Alignas(CL__LINE) _Atomic uint32_t owner; /* the index of the participant that is the owner, or 0 */
    _Atomic uint32_t shut;
    _Atomic uint32_t repairs; /* ORPHANs have been made since you last looked */
    _Atomic uint64_t redelivered, lost, owners;
    _Alignas(CL__LINE) _Atomic uint64_t pushed;
    _Atomic uint64_t popped, most;
    _Alignas(CL__LINE) _Atomic uint64_t top;
    _Atomic uint64_t notes[2]; /* CL_DEQUE_FULL, ... */
    _Alignas(CL__LINE) _Atomic uint32_t not_empty;
} cl__deque_memory;

/* Nothing of this is in shared memory; the geometry is a checked copy. */
struct cl_deque {
    cl__members members;
    cl__deque_memory *shared;
    uint8_t *slots;
    uint64_t mask;       /* slots - 1 */
    unsigned shift;      /* of a position: the rest is its lap */
    size_t stride;
    cl_deque_plan plan;
    /* The owner's, who is one thread at a time. A successor finds `bottom` in the slots. */
    uint64_t bottom;     /* where the next record goes; all before it was pushed */
    uint64_t seen_top;
    uint64_t reserved;   /* the number of the reservation of the slot at bottom, or 0 */
    uint64_t reservations;
    cl__waiter waiter;
    _Atomic uint32_t in_the_way;     /* who had what the last -EAGAIN could not get, or 0 */
    _Atomic uint32_t seen_repairs;
    _Atomic uint32_t turns;          /* of thieves */
    _Atomic uint64_t fault_word;
    _Atomic int64_t fault_index;
};

static inline cl__slot *cl__deque_slot(const cl_deque *deque, uint64_t position)
{
    return (cl__slot *)(deque->slots + (position & deque->mask) * deque->stride);
}

static inline uint64_t cl__deque_lap(const cl_deque *deque, uint64_t position)
{
    return position >> deque->shift & CL__LAP_MASK;
}

/* After a slot has become FULL or ORPHAN, or the deque was shut. */
static inline void cl__deque_published(cl_deque *deque)
{
    cl__members_published(&deque->members, &deque->shared->not_empty, 0);
}

/* A cl__look: 1: there is something to be taken, or told of. */
int64_t cl__deque_is_there(void *deque);

#endif
