/* What broadcast.c and broadcast_object.c share: the memory of a broadcast. */
#ifndef CORELANE_BROADCAST_H
#define CORELANE_BROADCAST_H

#include "members.h"

enum { CL__CAST_LINE = 128 }; /* two of 64 bytes: processors fetch them in pairs */

/* A reader's word is position:60 | state:4, the writer's is epoch:48 | state:4 | owner:12. All zeros is nobody. */
enum cl__reading {
    CL__NO_READER = 0,
    CL__BLOCKS = CL_BROADCAST_BLOCK,
    CL__SKIPS = CL_BROADCAST_SKIP,
    CL__EVICTABLE = CL_BROADCAST_EVICT,
    CL__EVICTED = 4,
    CL__LOSSY = 5
};

#define CL__POSITIONS (1ULL << 60)

static inline uint64_t cl__reader_word(uint64_t position, unsigned state)
{
    return position << 4 | state;
}

static inline unsigned cl__reader_state(uint64_t word)
{
    return word & 15;
}

static inline uint64_t cl__reader_position(uint64_t word)
{
    return word >> 4;
}

/* By how many records the reader is behind; negative: a scribbler wrote it. */
static inline int64_t cl__reader_lag(uint64_t position, uint64_t word)
{
    return (int64_t)((position << 4) - (word & ~15ULL)) / 16;
}

static inline uint64_t cl__writer_word(uint64_t epoch, unsigned state, uint32_t owner)
{
    return epoch << 16 | (uint64_t)state << 12 | owner;
}

static inline unsigned cl__writer_state(uint64_t word)
{
    return word >> 12 & 15;
}

static inline uint32_t cl__writer_owner(uint64_t word)
{
    return word & 4095;
}

/* `sequence`: 2p + 1 while record p is written, 2p + 2 when it is there. */
typedef struct cl__cast_slot {
    _Alignas(64) _Atomic uint64_t sequence;
    _Atomic uint32_t size;
    _Alignas(64) uint8_t data[];
} cl__cast_slot;

typedef struct cl__cast_reader {
    _Alignas(CL__CAST_LINE) _Atomic uint64_t word;
    _Atomic uint64_t lost, waits; /* its own, for people */
} cl__cast_reader;

/* One behind the other in shared memory:
 *
 *     tail      written at each put: how many records there are         rare      who writes, and counters
 *     record, room      the wake-up words of readers, and of the writer
 *     readers   a line each, by participant: written by that reader (and by a writer that moves it, or evicts it)
 *     members   the table of participants, see members.h
 *     slots     from the next whole line on: a line, then the record */
typedef struct cl__cast_memory {
    _Alignas(CL__CAST_LINE) _Atomic uint64_t tail;
    _Alignas(CL__CAST_LINE) _Atomic uint32_t record;
    _Alignas(CL__CAST_LINE) _Atomic uint32_t room;
    _Alignas(CL__CAST_LINE) _Atomic uint64_t writer;
    _Atomic int64_t dead_writer;
    _Atomic uint64_t most, skipped, evictions, refused, dropped, waits, wakes;
    cl__cast_reader readers[];
} cl__cast_memory;

/* Nothing of this is in shared memory; the geometry is a checked copy. What is atomic here is looked at by waits, which hold no
 * lock of the caller's. */
struct cl_broadcast {
    cl__members members;
    cl__cast_memory *shared;
    uint8_t *slots;
    uint64_t count;                /* of slots: a power of two */
    size_t stride;
    cl_broadcast_plan plan;
    _Atomic int role;              /* CL_BROADCAST_* */
    _Atomic int is_closed;
    _Atomic uint64_t position;     /* the writer's: of the next record to be put; a reader's: to be got */
    _Atomic uint64_t free_until;   /* the writer's: up to there no reader is in the way, as of the last look */
    _Atomic uint32_t in_the_way;   /* the reader that the last -EAGAIN was for, or 0 */
    int has_claim, has_got;
    int is_untold;                 /* records were lost, and nobody was told yet who wants to be */
    unsigned overtakings;          /* since it has got something */
    unsigned state;                /* a reader's: CL__BLOCKS to CL__LOSSY */
    int32_t reading;
    int64_t lost, lost_now;
    uint64_t fault_word, fault_expected;
    cl__waiter waiter;
    _Atomic uint32_t napping;      /* a read-only handle's word, which nobody wakes */
};

static inline cl__cast_slot *cl__cast_slot_at(const cl_broadcast *broadcast, uint64_t position)
{
    return (cl__cast_slot *)(broadcast->slots + (position & (broadcast->count - 1)) * broadcast->stride);
}

static inline int cl__is_lossless(const cl_broadcast *broadcast)
{
    return broadcast->plan.flags & CL_BROADCAST_LOSSLESS;
}

/* Who may not write to the memory reads a lossy one without being registered. */
static inline int cl__is_registered(const cl_broadcast *broadcast)
{
    return !broadcast->members.read_only;
}

static inline cl__cast_reader *cl__our_reader(const cl_broadcast *broadcast)
{
    return &broadcast->shared->readers[broadcast->members.me];
}

/* 0, or why we are not that. */
static inline int64_t cl__cast_is(const cl_broadcast *broadcast, int role)
{
    if (__builtin_expect(cl__load_relaxed(&broadcast->role) != role, 0))
        return cl__load_relaxed(&broadcast->is_closed) ? -EBADF : -ENOTCONN;
    return cl__is_registered(broadcast) ? cl__members_is_joined(&broadcast->members) : 0;
}

/* Wake those who wait for `what`, CL_BROADCAST_FOR_RECORD or FOR_ROOM: somebody asks. */
void cl__cast_serve(cl_broadcast *broadcast, int what);

static inline void cl__cast_published(cl_broadcast *broadcast, int what)
{
    _Atomic uint32_t *word = what == CL_BROADCAST_FOR_ROOM ? &broadcast->shared->room : &broadcast->shared->record;
    CL_FAULT(179);
    if (__builtin_expect(cl__load(word) & CL__ASKS || broadcast->plan.flags & CL_BROADCAST_WAKES_ALL, 0))
        cl__cast_serve(broadcast, what); /* W3; partner: W2 in whoever sleeps, or arms */
}

/* broadcast.c: lossless. 0: record `position` may be written; -EAGAIN: a reader is in the way. */
int64_t cl__cast_find_room(cl_broadcast *broadcast, uint64_t position);

/* There is no record at `position`. -EAGAIN, -EPIPE, -EOWNERDEAD; 1: there is one by now, or look again. Without `asks` nobody is
 * asked whether the writer lives. */
int64_t cl__cast_why_nothing(cl_broadcast *broadcast, uint64_t position, int asks);

#endif
