/* What the files of locks, semaphores, events and barriers share.
 *
 * One word says what it is; every claim is one CAS which says whose it is; whoever changes something that others may wait for
 * looks at `wake` afterwards (wake.h).
 *
 *     lock        state: thread:28 | dead:24 | owner:12      free while the owner is 0
 *     semaphore   slots: one for each permit: its owner, or 0;  state: where one was given back last, a hint
 *     event       state: how often it has changed: odd while it is set
 *     barrier     state: why:2 | generation:30 | good:30;  slots: one for each party: generation:30 | owner:12 */
#ifndef CORELANE_SYNC_H
#define CORELANE_SYNC_H

#include "members.h"

enum { CL__OWNER_BITS = 12, CL__OWNER_MASK = 4095, CL__GENERATION_BITS = 30 };

/* A line of 128 bytes, then the members, then the slots from the next line on. Who has the line for its claim has what it needs for
 * giving it back, too. */
typedef struct cl__sync_memory {
    _Alignas(128) _Atomic uint64_t state;
    _Atomic uint32_t wake;
    _Atomic int64_t breaker; /* of a barrier: a pid */
} cl__sync_memory;

typedef struct cl__waits_for {
    cl_sync *sync;
    uint64_t ticket;
} cl__waits_for;

typedef struct cl__sync_kind {
    cl__clear *clear;
    cl__look *look, *ask; /* of a cl__waits_for */
} cl__sync_kind;

/* Nothing of this is in shared memory; the geometry is a checked copy. */
struct cl_sync {
    cl__members members;
    cl__sync_memory *shared;
    _Atomic uint64_t *slots;
    cl_sync_plan plan;
    const cl__sync_kind *kind;
    cl__waiter waiter;
    _Atomic int64_t gave_way_at; /* ns */
    _Atomic uint32_t gives_way;
    _Atomic uint32_t hint; /* the permit that was taken last */
    _Atomic uint32_t claims; /* of the lock or of permits, by this process's threads, so far */
};

extern const cl__sync_kind cl__lock_kind, cl__semaphore_kind, cl__event_kind, cl__barrier_kind;

int64_t cl__sync_open(cl_sync **out, cl_segment *segment, int32_t kind, const cl__sync_kind *calls);
int64_t cl__sync_pid_of(const cl_sync *sync, uint32_t index); /* or CL_SYNC_UNKNOWN */
int64_t cl__sync_ask_all(void *waits_for);
int64_t cl__sync_nobody(void *waits_for); /* nobody's death matters */
/* Try until it says something else than -EAGAIN, or the time is over. */
int64_t cl__sync_acquire(cl_sync *sync, int64_t (*attempt)(cl_sync *, int32_t), int64_t deadline);

/* After something has changed (W1 of wake.h). */
static inline void cl__sync_published(cl_sync *sync)
{
    cl__members_published(&sync->members, &sync->shared->wake, 0);
}

/* The same, of what others wait to have: they are to get it sometimes. */
void cl__sync_gave_back(cl_sync *sync);

/* Whether we, who had it a moment ago, let others have a turn first. */
static inline int cl__sync_gives_way(const cl_sync *sync)
{
    return __builtin_expect(cl__load_relaxed(&sync->gives_way) != 0, 0); /* partner: the stores of this process's threads */
}

#endif
