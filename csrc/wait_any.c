/* Waiting for any of several objects: as cl__wait, on several words at once.
 *
 * SLEEP is or-ed into all words before all are looked at, so what is published after a look finds the bit (wake.h). Whoever
 * publishes under one of them wakes us, and leaves the bits in the others: those who publish there next wake nobody, once. One
 * membarrier is for all of them. */
#include "atomic.h"
#include "wake.h"

#include <string.h>

typedef struct group {
    const cl_waitable *all;
    int64_t count;
    int is_held; /* by the last look */
    int has_membarrier; /* one of them at least */
} group;

/* What this thread has learnt: how long its waits for several things are. */
static _Thread_local cl__waiter learnt;

static int64_t look_at(const cl_waitable *one)
{
    return one->look(one);
}

/* A cl__look: stops at the first that is ready. */
static int64_t look_at_any(void *object)
{
    group *all = object;
    all->is_held = 0;
    for (int64_t i = 0; i < all->count; i++) {
        int64_t rc = look_at(&all->all[i]);
        if (rc < 0 || rc == CL_WAIT_READY)
            return 1;
        all->is_held |= rc == CL_WAIT_HELD;
    }
    return 0;
}

static int64_t mark_ready(const group *all, uint8_t *ready)
{
    int64_t found = 0;
    for (int64_t i = 0; i < all->count; i++) {
        int64_t rc = look_at(&all->all[i]);
        found += ready[i] = rc < 0 || rc == CL_WAIT_READY;
    }
    return found;
}

/* Of all, as the word of a dead one is as good as any. How many will say an error; *again: somebody was dealt with. */
static int64_t ask_all(const group *all, uint8_t *ready, int *again)
{
    int64_t found = 0;
    *again = 0;
    for (int64_t i = 0; i < all->count; i++) {
        int64_t rc = all->all[i].ask(&all->all[i]);
        found += ready[i] = rc < 0;
        *again |= rc > 0;
    }
    return found;
}

int64_t cl_wait_look(const cl_waitable *all, int64_t count, uint8_t *ready)
{
    group group = {.all = all, .count = count};
    int again = 0;
    if (count < 1)
        return -EINVAL;
    int64_t found = mark_ready(&group, ready);
    if (found == 0)
        found = ask_all(&group, ready, &again);
    return found == 0 && again ? mark_ready(&group, ready) : found;
}

static void announce(group *all, uint32_t *seen)
{
    for (int64_t i = 0; i < all->count; i++) {
        all->has_membarrier |= all->all[i].has_membarrier != 0;
        CL_FAULT(160);
        seen[i] = cl__or((_Atomic uint32_t *)all->all[i].word, CL__SLEEP) | CL__SLEEP; /* W2; partner: W3 of its object */
    }
}

static int64_t sleep_until(group *all, int64_t deadline, uint8_t *ready)
{
    _Atomic uint32_t *words[CL__WORDS];
    uint32_t seen[CL__WORDS];
    int64_t back_at = cl__sys_now() + CL__LOOK_NS;
    if (all->count > CL__WORDS)
        return -ENOSYS;
    for (int64_t i = 0; i < all->count; i++)
        words[i] = (_Atomic uint32_t *)all->all[i].word;
    for (uint64_t turn = 0;; turn++) {
        int again = 1; /* what was ready may have been got by another thread */
        announce(all, seen);
        int64_t rc = cl__order_publishers(all->has_membarrier, look_at_any, all);
        if (rc < 0)
            return rc;
        rc = look_at_any(all) ? mark_ready(all, ready) : ask_all(all, ready, &again); /* W4 */
        if (rc != 0)
            return rc;
        int64_t now = cl__sys_now(), most = all->is_held ? CL__HELD_NS : CL__LOOK_NS;
        if (deadline >= 0 && deadline - now < most)
            most = deadline - now;
        if (most <= 0)
            return -ETIMEDOUT;
        if (now >= back_at) /* as in wake.c: a signal may have come while we looked */
            return -EINTR;
        rc = again ? 0 : cl__words_sleep(words, seen, (int)all->count, most, turn);
        if (rc < 0) {
            int64_t found = mark_ready(all, ready);
            return found ? found : rc;
        }
    }
}

int64_t cl_wait_any(const cl_waitable *all, int64_t count, int64_t deadline, int64_t spin_ns, uint8_t *ready)
{
    group group = {.all = all, .count = count};
    if (count < 1)
        return -EINVAL;
    int64_t rc = look_at_any(&group) ? mark_ready(&group, ready) : 0;
    if (rc != 0)
        return rc;
    int64_t began = cl__sys_now(); /* also if another thread has got it since we looked */
    cl__store_relaxed(&learnt.limit_ns, spin_ns < CL__LOOK_NS ? spin_ns : CL__LOOK_NS); /* of this thread only */
    rc = cl__wait_spin(&learnt, began, deadline, look_at_any, &group) ? mark_ready(&group, ready) : 0;
    if (rc == 0)
        rc = sleep_until(&group, deadline, ready);
    cl__wait_learn(&learnt, rc, began);
    return rc;
}

int64_t cl_membarrier_register(void)
{
    return cl__membarrier_register();
}
