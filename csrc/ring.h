/* What the files of the ring share: its memory, and what a handle knows of it. */
#ifndef CORELANE_RING_H
#define CORELANE_RING_H

#include "atomic.h"
#include "internal.h"
#include "wake.h"

enum { CL__RING_LINE = 128, CL__RING_CONTROL = 4096 };

typedef struct cl__door {
    _Alignas(CL__RING_LINE) _Atomic uint32_t word; /* CL__*: OPEN, CLOSED of the side that waits here */
    _Atomic int64_t wake_at;              /* the producer's: wake it when head is there; see say_when */
    _Atomic int64_t pid;
    cl__bell_place bell;
} cl__door;

typedef struct cl__tally {
    _Alignas(CL__RING_LINE) _Atomic uint64_t records;
    _Atomic uint64_t bytes, waits, wakes, most, dropped;
} cl__tally;

typedef struct cl__control {
    _Alignas(CL__RING_LINE) _Atomic uint64_t tail;
    _Alignas(CL__RING_LINE) _Atomic uint64_t head;
    cl__door doors[CL_RING_SIDES];
    cl__tally tallies[CL_RING_SIDES];
} cl__control;

_Static_assert(sizeof(cl__control) <= CL__RING_CONTROL, "the words of both sides are in one page");

/* What a handle knows as one of the sides. Only whoever is that side touches it, but for `generation` and `index`. */
typedef struct cl__side {
    _Alignas(CL__RING_LINE) _Atomic uint32_t generation; /* the segment's, when it was taken; 0: not taken, or no use any more */
    _Atomic uint64_t index;  /* our own, as it is published */
    uint64_t cursor;         /* how far we are beyond it: what was added, or looked at */
    uint64_t other;          /* the last we have seen of the other's */
    uint64_t count, bytes;   /* of records from index to cursor */
    uint64_t reserved;       /* bytes of record at the cursor, and 1; 0: none */
    uint64_t records_all, bytes_all, most; /* the tally */
    int64_t died;
    _Atomic int was_taken;
    cl__waiter waiter;
    cl__bell bell;
    cl__ringer ringer; /* for the other side's bell */
} cl__side;

struct cl_ring {
    cl__side sides[CL_RING_SIDES];
    cl_segment *segment;
    const _Atomic uint32_t *generation;
    cl__control *shared;
    uint8_t *records;
    uint64_t capacity, mask;
    void *mapping;
    size_t mapped;
    int read_only, has_membarrier;
    _Atomic int is_closed; /* for good: no thread of ours may take a side any more */
    int fault;
    uint64_t found, expected;
};

int64_t cl__ring_why_not(const cl_ring *ring, const cl__side *mine);

static inline int cl__ring_is_ours(const cl_ring *ring, const cl__side *mine)
{
    /* A local matter: the fork handler's child is alone. */
    return cl__load_relaxed(&mine->generation) == cl__load_relaxed(ring->generation);
}

/* As it is published. Partners: the releases in commit_all and release_all. */
static inline uint64_t cl__ring_index(const cl_ring *ring, int which)
{
    return which == CL_RING_PRODUCER ? cl__load_acquire(&ring->shared->tail) : cl__load_acquire(&ring->shared->head);
}

/* Bytes of the ring that a record takes. */
static inline uint64_t cl__ring_room(uint64_t size)
{
    return CL_RING_HEADER + ((size + 7) & ~7ULL);
}

#endif
