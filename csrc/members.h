/* Who takes part in an object in shared memory, and what becomes of the dead: a table of participants, each an index with a
 * lease. What an index holds is the object's to know; it says how that is taken away. See members.c. */
#ifndef CORELANE_MEMBERS_H
#define CORELANE_MEMBERS_H

#include "atomic.h"
#include "internal.h"
#include "wake.h"

enum { CL__MEMBERS = 4095, CL__BELLS = 2, CL__RINGERS = 4 };

/* In shared memory, a line each. */
typedef struct cl__member {
    _Alignas(64) _Atomic int64_t pid;  /* 0: that index is free, or its owner holds nothing yet */
    _Atomic uint32_t asks;             /* bits 1 << bell: it waits for that bell */
    cl__bell_place bells[CL__BELLS];
} cl__member;

typedef struct cl__members_memory {
    _Alignas(64) _Atomic uint64_t recoveries; /* participants found dead */
    _Atomic int64_t last_dead;                /* the pid of the last one */
    _Atomic uint32_t highest;                 /* no index above it was ever anybody's */
    cl__member table[];                       /* by index, from 1; the first is nobody's */
} cl__members_memory;

/* Take away what that index holds: whoever had it is dead, or is us, and its lease is ours. How many things. May be done again
 * for the same one: whoever does it may die over it. */
typedef int64_t cl__clear(void *object, uint32_t index);

/* Nothing of this is in shared memory. */
typedef struct cl__members {
    cl_segment *segment;
    cl__members_memory *shared;
    int32_t count;
    int read_only;
    int has_membarrier; /* see wake.h; set once, by the object, after it was opened */
    /* Callers lock those who join and leave; but a thread that waits meanwhile looks whether we are still there. */
    _Atomic uint32_t me;        /* our index, or 0 */
    _Atomic uint32_t joined;    /* in which generation of the segment's lease: the child of a fork has another */
    const _Atomic uint32_t *generation;
    cl__clear *clear;
    void *object;
    _Atomic int64_t owner_asked_at, all_asked_at, ask_all_every; /* ns */
    cl__bell bells[CL__BELLS];
    cl__ringer ringers[CL__RINGERS];
    _Atomic uint32_t is_ringing;
} cl__members;

/* Bytes of shared memory for so many. */
static inline int64_t cl__members_size(int32_t count)
{
    return (int64_t)sizeof(cl__members_memory) + (count + 1) * (int64_t)sizeof(cl__member);
}

/* `clear` gets `object`. `memory`: cl__members_size(count) bytes, at a multiple of 64. */
void cl__members_open(cl__members *members, cl_segment *segment, void *memory, int32_t count, cl__clear *clear, void *object);

/* 0, -ENOTCONN, or -ESTALE: we were, before we were forked, or the segment was let go of. */
static inline int64_t cl__members_is_joined(const cl__members *members)
{
    uint32_t me = cl__load_relaxed(&members->me); /* these are of this process only */
    if (__builtin_expect(me && cl__load_relaxed(&members->joined) == cl__load_relaxed(members->generation), 1))
        return 0;
    return me ? -ESTALE : -ENOTCONN;
}

int64_t cl__members_join(cl__members *members);  /* our index. -EUSERS: all of them live; -EACCES; -ENOSYS: no membarrier */
void cl__members_leave(cl__members *members);    /* and what we hold is cleared; our bells are closed */
void cl__members_close(cl__members *members);    /* the same, and all descriptors */

/* 1: somebody was dead, and is recovered. 0: not so, or it was not time to ask. -errno. */
int64_t cl__members_ask_one(cl__members *members, uint32_t index);
int64_t cl__members_ask_all(cl__members *members);
int64_t cl__members_recover(cl__members *members); /* ask all, now: how many were dead */

int64_t cl__members_pid_of(const cl__members *members, uint32_t index); /* 0: none; for people */
int64_t cl__members_joined(const cl__members *members);                 /* how many there are now; for people */
int32_t cl__members_highest(const cl__members *members);                /* no index above it was ever anybody's */

/* Waiting in an event loop. A descriptor that becomes readable when `bell` (0 or 1) is rung for us; it is at first. Which thing
 * that bell is for, is the object's to say. Callers lock. */
int64_t cl__members_poll_fd(cl__members *members, int bell);
/* Before arming, unless another task waits for the same bell: what it rang for is past. */
void cl__members_silence(cl__members *members, int bell);
/* From now on, until it is rung: whoever publishes under that word rings it. Then look: what was published before is not told.
 * (With membarrier, too: what had not arrived before has now.) */
int64_t cl__members_arm(cl__members *members, _Atomic uint32_t *word, int bell);

/* By whoever has published (W1 of wake.h): wake those who sleep on the word, ring for those who are armed. The bits of CL__ASKS
 * that were there. */
uint32_t cl__members_serve(cl__members *members, _Atomic uint32_t *word, int bell);

static inline void cl__members_published(cl__members *members, _Atomic uint32_t *word, int bell)
{
    CL_FAULT(101);
    if (__builtin_expect((cl__load(word) & CL__ASKS) != 0, 0)) /* W3; partner: W2 in whoever sleeps, or arms */
        cl__members_serve(members, word, bell);
}

#endif
