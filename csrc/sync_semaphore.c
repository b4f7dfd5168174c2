/* The semaphore: a slot for each permit, with the index of who has it, or 0.
 *
 *     0 --- claim (CAS) ---> x --- release, or x died (CAS) ---> 0
 *
 * A mere count would be shorter, and wrong from the first death on: nobody could say how many of it were the dead one's.
 *
 * Threads of one object have their permits in common: each gives back one, whichever. So who looks for one may miss what there is:
 *
 *     A, to give back 1: 0 is free     B: takes 0; gives back 1     A: 1 is free: has it none?
 *
 * Without a claim in between, what is ours while A looks only grows less, down to the one that A may give back; so A finds it, or
 * there was a claim, which is counted, and A looks again. */
#include "sync.h"

/* Which is looked at first is a hint; with it, those that come and go seldom look at more than one. */
static inline int64_t slot_after(const cl_semaphore *semaphore, uint64_t first, int64_t i)
{
    return (int64_t)((first + (uint64_t)i) % (uint64_t)semaphore->plan.count);
}

static int64_t claim(cl_semaphore *semaphore)
{
    CL_FAULT(210);
    uint64_t first = cl__load_relaxed(&semaphore->shared->state) % (uint64_t)semaphore->plan.count; /* partner: release; a hint */
    for (int64_t i = 0; i < semaphore->plan.count; i++) {
        int64_t at = slot_after(semaphore, first, i);
        CL_FAULT(211);
        uint64_t word = cl__load_acquire(&semaphore->slots[at]); /* partner: the CAS of release */
        CL_FAULT(212);
        /* partner: other claims, release, and the CAS in clear_permits */
        if (word == 0 && cl__swap_if_ordered(&semaphore->slots[at], &word, semaphore->members.me)) {
            cl__store_relaxed(&semaphore->hint, (uint32_t)at); /* partner: this process's threads */
            cl__add_relaxed(&semaphore->claims, 1); /* partner: release; it is before the CAS by which we give back */
            return 0;
        }
    }
    return -EAGAIN;
}

int64_t cl_semaphore_try(cl_semaphore *semaphore, int32_t waits)
{
    int64_t rc = cl__members_is_joined(&semaphore->members);
    if (__builtin_expect(rc < 0, 0))
        return rc;
    if (waits && cl__sync_gives_way(semaphore))
        return -EAGAIN;
    while ((rc = claim(semaphore)) == -EAGAIN) {
        int64_t found = cl__members_ask_all(&semaphore->members);
        if (found <= 0)
            return found < 0 ? found : rc;
    }
    return rc;
}

int64_t cl_semaphore_acquire(cl_semaphore *semaphore, int64_t deadline)
{
    return cl__sync_acquire(semaphore, cl_semaphore_try, deadline);
}

static int64_t give_back_one(cl_semaphore *semaphore)
{
    uint64_t first = cl__load_relaxed(&semaphore->hint); /* partner: this process's threads */
    for (int64_t i = 0; i < semaphore->plan.count; i++) {
        int64_t at = slot_after(semaphore, first, i);
        CL_FAULT(213);
        /* Partner: the CAS of another thread of ours that gave it back: its claim is counted for us, then. */
        uint64_t word = cl__load_acquire(&semaphore->slots[at]);
        CL_FAULT(214);
        /* W1; a CAS, as another thread of ours may give back the same one. partner: the claims, and the look of who sleeps */
        if (word == semaphore->members.me && cl__swap_if_ordered(&semaphore->slots[at], &word, 0)) {
            cl__store_relaxed(&semaphore->shared->state, (uint64_t)at); /* partner: claim; a hint */
            return 0;
        }
    }
    return -EPERM;
}

int64_t cl_semaphore_release(cl_semaphore *semaphore)
{
    uint32_t claims;
    int64_t rc = cl__members_is_joined(&semaphore->members);
    if (__builtin_expect(rc < 0, 0))
        return rc;
    do {
        claims = cl__load_acquire(&semaphore->claims); /* partner: claim; before all that we look at */
        rc = give_back_one(semaphore);
    } while (rc < 0 && cl__load_relaxed(&semaphore->claims) != claims); /* partner: claim */
    if (rc == 0)
        cl__sync_gave_back(semaphore);
    return rc;
}

/* A cl__clear. */
static int64_t clear_permits(void *object, uint32_t index)
{
    cl_semaphore *semaphore = object;
    int64_t count = 0;
    for (int64_t i = 0; i < semaphore->plan.count && index; i++) {
        CL_FAULT(215);
        uint64_t word = cl__load_acquire(&semaphore->slots[i]); /* partner: the claim of whoever has died */
        CL_FAULT(216);
        /* W1; partner: the claims */
        count += (word & CL__OWNER_MASK) == index && cl__swap_if_ordered(&semaphore->slots[i], &word, 0);
    }
    cl__sync_published(semaphore); /* also if there were none: whoever has freed them may have died before this */
    return count;
}

int64_t cl_semaphore_holder(const cl_semaphore *semaphore, int64_t permit)
{
    if (permit < 0 || permit >= semaphore->plan.count)
        return -EINVAL;
    uint32_t owner = cl__load_relaxed(&semaphore->slots[permit]) & CL__OWNER_MASK; /* partner: none, it is told to people only */
    return owner ? cl__sync_pid_of(semaphore, owner) : 0;
}

static int64_t look_free(void *waits_for)
{
    const cl_semaphore *semaphore = ((cl__waits_for *)waits_for)->sync;
    for (int64_t i = 0; i < semaphore->plan.count; i++)
        if (cl__load(&semaphore->slots[i]) == 0) /* W4; partner: W1 in release and clear_permits */
            return 1;
    return 0;
}

const cl__sync_kind cl__semaphore_kind = {clear_permits, look_free, cl__sync_ask_all};

int64_t cl_semaphore_open(cl_semaphore **out, cl_segment *segment)
{
    return cl__sync_open(out, segment, CL_SEGMENT_SEMAPHORE, &cl__semaphore_kind);
}
