/* What buffers.c and buffers_object.c share: the memory of a pool of buffers, and the word of a block. */
#ifndef CORELANE_BUFFERS_H
#define CORELANE_BUFFERS_H

#include "members.h"

#include <pthread.h>

enum { CL__BUFFERS_LINE = 128 }; /* two of 64 bytes: processors fetch them in pairs */

/* new:1 | 0:1 | tokens:8 | sender:6 | holders:48. Bit i of the holders: participant i + 1 holds the block. `tokens` of participant
 * `sender` are on their way. NEW: its one holder is not done with taking it (or trims it), and nobody can join it. All zeros: free. */
typedef uint64_t cl__block_word;

#define CL__HOLDERS ((1ULL << CL_BUFFERS_MEMBERS) - 1)
#define CL__NEW (1ULL << 63)
#define CL__TOKEN (1ULL << 54)

static inline cl__block_word cl__holder(uint32_t index)
{
    return 1ULL << (index - 1);
}

static inline uint32_t cl__sender_of(cl__block_word word)
{
    return word >> 48 & 63;
}

static inline uint32_t cl__tokens_of(cl__block_word word)
{
    return word >> 54 & 255;
}

static inline cl__block_word cl__with_tokens(cl__block_word word, uint32_t sender, uint32_t tokens)
{
    return (word & (CL__HOLDERS | CL__NEW)) | (tokens ? (uint64_t)tokens << 54 | (uint64_t)sender << 48 : 0);
}

/* A line each. */
typedef struct cl__block {
    _Alignas(64) _Atomic uint64_t word;
    _Atomic uint64_t generation; /* written under NEW only; only its value is atomic: it is the word that orders it */
    _Atomic int64_t used_at;     /* when a participant last let go of it; CLOCK_MONOTONIC, ns */
    _Atomic uint32_t is_absent;  /* its memory may be the system's; written under NEW only */
} cl__block;

/* Which blocks may be free: those whose memory is there, those that were trimmed. A pool that was just made is all zeros, and all
 * of it is free: so a bit of the first row is 0 where there may be one, and of the second 1. */
enum cl__hints { CL__WARM, CL__COLD, CL__HINTS };

/* One behind the other in shared memory. Who writes to one line seldom needs another:
 *
 *     freed     the wake-up word of those who wait for a block
 *     counts    written by all who acquire and release; then those that are written seldom
 *     members   the table of participants, see members.h
 *     hints     CL__HINTS rows of one bit for each block
 *     words     of the blocks
 *     blocks    from the next page of the file on, if they are of a page or more; whole pages each, then; else of whole 64 bytes
 */
typedef struct cl__buffers_memory {
    _Alignas(CL__BUFFERS_LINE) _Atomic uint32_t freed;
    _Alignas(CL__BUFFERS_LINE) _Atomic int64_t allocated;
    _Atomic int64_t peak;
    _Alignas(CL__BUFFERS_LINE) _Atomic uint64_t timed;
    _Atomic uint64_t timed_ns, waits, waited_ns, failures, reclaimed;
} cl__buffers_memory;

/* Nothing of this is in shared memory; the geometry is a checked copy. */
struct cl_buffers {
    cl__members members;
    cl__buffers_memory *shared;
    _Atomic uint64_t *hints;
    cl__block *blocks;
    uint8_t *data;
    cl_buffers_plan plan;
    int64_t hint_words;   /* in a row */
    size_t stride;
    int64_t file_offset;  /* of the first block */
    cl__waiter waiter;
    _Atomic int64_t look_all_at; /* ns: not before */
    _Atomic uint32_t turns;
    /* Of our references. The lock is held for some instructions, but over a wake-up. */
    pthread_mutex_t lock;
    uint32_t *counts;     /* for each block */
    int64_t references;   /* in all, and those that are being made */
    uint32_t epoch;       /* of this registration */
    int is_leaving;
    int64_t start;        /* the word of hints to look at first: where the last one was */
};

/* 1: look there. */
static inline void cl__buffers_hint(const cl_buffers *pool, enum cl__hints row, int64_t index, int to)
{
    _Atomic uint64_t *hints = &pool->hints[row * pool->hint_words + index / 64];
    uint64_t bit = 1ULL << index % 64;
    if (to == (row == CL__COLD))
        cl__or(hints, bit); /* F2 or C2, and W1 of wake.h; partner: the load in cl__buffers_hints_in */
    else
        cl__and(hints, ~bit); /* the same */
}

/* Bit by bit. Those beyond the last block are no block's. */
static inline uint64_t cl__buffers_hints_in(const cl_buffers *pool, enum cl__hints row, int64_t word)
{
    int64_t rest = pool->plan.blocks - word * 64;
    uint64_t found = cl__load(&pool->hints[row * pool->hint_words + word]); /* partner: cl__buffers_hint; W4 of wake.h */
    if (row == CL__WARM)
        found = ~found;
    return rest < 64 ? found & ((1ULL << rest) - 1) : found;
}

/* Of a block that is free, but says nothing of it. 1: it was so. */
static inline int cl__buffers_hint_if_free(const cl_buffers *pool, int64_t index)
{
    const cl__block *block = &pool->blocks[index];
    if (cl__load(&block->word) != 0) /* partner: whatever made it 0 */
        return 0;
    enum cl__hints row = cl__load_relaxed(&block->is_absent) ? CL__COLD : CL__WARM; /* partner: none: if it is wrong, it is found */
    if (cl__buffers_hints_in(pool, row, index / 64) >> index % 64 & 1)
        return 0;
    cl__buffers_hint(pool, row, index, 1);
    return 1;
}

static inline void cl__buffers_count_freed(cl_buffers *pool)
{
    cl__add_relaxed(&pool->shared->allocated, -1); /* partner: none, as with all counts here */
}

int64_t cl__buffers_clear(void *object, uint32_t index); /* a cl__clear */

/* The same participant anew: references of before are none. Under the lock. */
void cl__buffers_forget(cl_buffers *pool);

#endif
