/* The lock: who has it, which of its threads, and who died with it last, in one word.
 *
 *     thread:28 | dead:24 | owner:12
 *
 *     0 | dead | 0  --- claim (CAS) --->  t | dead | x  --- release (exchange) --->  0 | 0 | 0
 *           ^                                  |
 *           +----- x died (CAS): its pid ------+
 *
 * A claim leaves `dead` as it finds it, and only a release takes it out. So whoever has the lock knows of it, and if that one dies,
 * or gives up, the next one does; there is no moment at which the news is on its way, in nobody's word.
 *
 * Two threads of one object are one owner. The claim is a CAS on the free word, so each excludes the other like anybody else; the
 * thread's number says which of them may release it, and whom waiting would only deadlock. */
#include "sync.h"

#include <time.h>

#define DEAD_SHIFT 12
#define DEAD_MASK ((uint64_t)CL_SYNC_UNKNOWN << DEAD_SHIFT)
#define THREAD_SHIFT 36
#define THREAD_MASK ((1U << 28) - 1)

static uint64_t thread_number(void)
{
    static _Atomic uint32_t last;
    static _Thread_local uint32_t mine;
    if (__builtin_expect(!mine, 0)) {
        mine = (cl__add_relaxed(&last, 1) + 1) & THREAD_MASK; /* partner: other threads; a number each */
        mine = mine ? mine : 1;
    }
    return mine;
}

static inline uint64_t our_claim(const cl_lock *lock)
{
    return thread_number() << THREAD_SHIFT | lock->members.me;
}

static inline uint32_t owner_of(uint64_t word)
{
    return word & CL__OWNER_MASK;
}

static inline int64_t dead_of(uint64_t word)
{
    return (int64_t)((word & DEAD_MASK) >> DEAD_SHIFT);
}

int64_t cl_lock_try(cl_lock *lock, int32_t waits)
{
    int64_t rc = cl__members_is_joined(&lock->members);
    if (__builtin_expect(rc < 0, 0))
        return rc;
    uint64_t claim = our_claim(lock);
    CL_FAULT(201);
    uint64_t word = cl__load_acquire(&lock->shared->state); /* partner: the exchange in release */
    for (;;) {
        if (__builtin_expect(!owner_of(word), 1)) {
            if (waits && cl__sync_gives_way(lock))
                return -EAGAIN;
            CL_FAULT(202);
            /* partner: other claims, the exchange in release, and the CAS in clear_lock */
            if (cl__swap_if_ordered(&lock->shared->state, &word, claim | (word & DEAD_MASK))) {
                cl__store_relaxed(&lock->claims, cl__load_relaxed(&lock->claims) + 1); /* partner: none: ours while we have it */
                return dead_of(word);
            }
            continue; /* with what is there instead */
        }
        if ((word & ~DEAD_MASK) == claim)
            return -EDEADLK;
        rc = cl__members_ask_one(&lock->members, owner_of(word));
        if (rc <= 0)
            return rc < 0 ? rc : -EAGAIN;
        word = cl__load_acquire(&lock->shared->state); /* partner: the CAS in clear_lock */
    }
}

int64_t cl_lock_acquire(cl_lock *lock, int64_t deadline)
{
    return cl__sync_acquire(lock, cl_lock_try, deadline);
}

int64_t cl_lock_release(cl_lock *lock, int32_t keeps)
{
    int64_t rc = cl__members_is_joined(&lock->members);
    if (__builtin_expect(rc < 0, 0))
        return rc;
    uint64_t word = cl__load_relaxed(&lock->shared->state); /* partner: none: if it is ours, we wrote it */
    if (__builtin_expect((word & ~DEAD_MASK) != our_claim(lock), 0))
        return -EPERM;
    CL_FAULT(203);
    cl__exchange(&lock->shared->state, keeps ? word & DEAD_MASK : 0); /* W1; partner: the claims, and the look of who sleeps */
    cl__sync_gave_back(lock);
    return 0;
}

/* A cl__clear. */
static int64_t clear_lock(void *object, uint32_t index)
{
    cl_lock *lock = object;
    int64_t count = 0;
    CL_FAULT(204);
    uint64_t word = cl__load_acquire(&lock->shared->state); /* partner: the claim of whoever has died */
    if (index && owner_of(word) == index) {
        uint64_t freed = (uint64_t)cl__sync_pid_of(lock, index) << DEAD_SHIFT;
        CL_FAULT(205);
        count = cl__swap_if_ordered(&lock->shared->state, &word, freed); /* W1; partner: the claims */
    }
    /* Also if it was free: whoever has freed it may have died before this. */
    cl__sync_published(lock);
    return count;
}

int64_t cl_lock_holder(const cl_lock *lock)
{
    uint32_t owner = owner_of(cl__load_relaxed(&lock->shared->state)); /* partner: none, it is told to people only */
    return owner ? cl__sync_pid_of(lock, owner) : 0;
}

int64_t cl_lock_is_held(const cl_lock *lock)
{
    int64_t rc = cl__members_is_joined(&lock->members);
    uint64_t word = cl__load_relaxed(&lock->shared->state); /* partner: none: if it is ours, we wrote it */
    return rc < 0 ? rc : (word & ~DEAD_MASK) == our_claim(lock);
}

int64_t cl_lock_claims(const cl_lock *lock)
{
    return cl__load_relaxed(&lock->claims); /* partner: none: whoever has it asks */
}

int64_t cl_lock_recovered(const cl_lock *lock)
{
    int64_t rc = cl__members_is_joined(&lock->members);
    uint64_t word = cl__load_relaxed(&lock->shared->state); /* partner: none: if it is ours, we wrote it */
    return rc < 0 ? rc : owner_of(word) == lock->members.me ? dead_of(word) : 0;
}

/* ---- waiting ------------------------------------------------------------------------------------------------------------ */

static int64_t look_free(void *waits_for)
{
    cl_lock *lock = ((cl__waits_for *)waits_for)->sync;
    return !owner_of(cl__load(&lock->shared->state)); /* W4; partner: W1 in release and clear_lock */
}

static int64_t ask_holder(void *waits_for)
{
    cl_lock *lock = ((cl__waits_for *)waits_for)->sync;
    uint32_t owner = owner_of(cl__load(&lock->shared->state)); /* partner: as in look_free */
    return owner ? cl__members_ask_one(&lock->members, owner) : 1;
}

const cl__sync_kind cl__lock_kind = {clear_lock, look_free, ask_holder};

int64_t cl_lock_open(cl_lock **out, cl_segment *segment)
{
    return cl__sync_open(out, segment, CL_SEGMENT_MUTEX, &cl__lock_kind);
}
