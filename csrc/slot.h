/* The word of a slot, which alone says what the slot is, and whose: what queues and deques share. */
#ifndef CORELANE_SLOT_H
#define CORELANE_SLOT_H

#include <stdatomic.h>
#include <stdint.h>

enum { CL__LINE = 128 }; /* two of 64 bytes: processors fetch them in pairs */

/* lap:48 | state:4 | owner:12. All zeros is EMPTY, of lap 0: so is a segment that was just made. */
typedef uint64_t cl__word;
enum cl__state { CL__EMPTY, CL__WRITING, CL__FULL, CL__READING, CL__TOMBSTONE, CL__ORPHAN, CL__POPPING /* of deques */ };

#define CL__LAP_MASK ((1ULL << 48) - 1)

static inline cl__word cl__word_of(uint64_t lap, enum cl__state state, uint32_t owner)
{
    return lap << 16 | (uint64_t)state << 12 | owner;
}

static inline uint64_t cl__lap_of(cl__word word)
{
    return word >> 16;
}

static inline unsigned cl__state_of(cl__word word)
{
    return word >> 12 & 15;
}

static inline uint32_t cl__owner_of(cl__word word)
{
    return word & 4095;
}

typedef struct cl__slot {
    _Atomic uint64_t word;
    _Atomic uint32_t size; /* of the record; only its value is atomic: it is the word that orders it */
    uint32_t unused;
    uint8_t data[];
} cl__slot;

/* How many laps the slot is ahead of the lap, in units of 1 << 16: laps go round, so they are compared as a difference. */
static inline int64_t cl__ahead(cl__word word, uint64_t lap)
{
    return (int64_t)((cl__lap_of(word) - lap) << 16);
}

#endif
