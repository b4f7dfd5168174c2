/* Waiting for what another process publishes; see wake.h.
 *
 * The spin follows the gap between arrivals: where it was longer than the limit, that is longer than being woken takes,
 * there is none, but for one wait in PROBE_EVERY that looks whether times have changed. So a waiter on something slow costs
 * no CPU, and one on something fast makes no system call.
 *
 * The gap alone does not tell when the other side is on our CPU, where the scheduler likes to put it: it cannot publish while
 * we spin, and does as soon as we sleep, so each wait is just short enough to spin in the next one, too. Therefore spins that
 * were in vain count: after two in a row there is one in PROBE_EVERY only, until one was not. */
#include "wake.h"

#include "atomic.h"

enum { PROBE_EVERY = 32, LOOKS_PER_CLOCK = 32, IN_VAIN = 2 };

/* Whether it has come within the limit of late, and while we looked. */
static int is_soon(cl__waiter *waiter)
{
    int64_t limit = cl__load_relaxed(&waiter->limit_ns);
    return limit > 0 && cl__load_relaxed(&waiter->gap_ns) <= limit && cl__load_relaxed(&waiter->in_vain) < IN_VAIN;
}

static int64_t spin_span(cl__waiter *waiter)
{
    int64_t limit = cl__load_relaxed(&waiter->limit_ns);
    if (limit <= 0 || is_soon(waiter))
        return limit;
    uint32_t turn = cl__load_relaxed(&waiter->turns) + 1;
    cl__store_relaxed(&waiter->turns, turn);
    return turn % PROBE_EVERY ? 0 : limit;
}

/* What came while we spun is believed at once; what came later counts by a quarter, and as no more than four limits, so
 * that one long pause is soon forgotten. */
static void learn(cl__waiter *waiter, int64_t took)
{
    int64_t limit = cl__load_relaxed(&waiter->limit_ns), gap = cl__load_relaxed(&waiter->gap_ns);
    if (took > limit) {
        took = took > 4 * limit ? 4 * limit : took;
        took = gap + (took - gap) / 4;
    }
    cl__store_relaxed(&waiter->gap_ns, took);
}

static int64_t look_often(cl__look *look, void *object)
{
    int64_t rc = 0;
    for (int i = 0; i < LOOKS_PER_CLOCK && (rc = look(object)) == 0; i++)
        cl__relax();
    return rc;
}

static int64_t spin(int64_t until, cl__look *look, void *object)
{
    int64_t rc;
    do
        rc = look_often(look, object);
    while (rc == 0 && cl__sys_now() < until);
    return rc;
}

int64_t cl__wait_spin(cl__waiter *waiter, int64_t began, int64_t deadline, cl__look *look, void *object)
{
    int64_t span = spin_span(waiter);
    if (deadline >= 0 && span > deadline - began)
        span = deadline - began;
    if (span <= 0)
        return 0;
    int64_t rc = spin(began + span, look, object);
    uint32_t before = cl__load_relaxed(&waiter->in_vain);
    cl__store_relaxed(&waiter->in_vain, rc ? 0 : before < IN_VAIN ? before + 1 : before);
    return rc;
}

void cl__wait_learn(cl__waiter *waiter, int64_t rc, int64_t began)
{
    if (rc >= 0 || rc == -EINTR || rc == -ETIMEDOUT)
        learn(waiter, cl__sys_now() - began);
}

int64_t cl__order_publishers(int has_membarrier, cl__look *look, void *object)
{
    if (!has_membarrier)
        return 0;
    CL_FAULT(350);
    int64_t rc = look(object); /* it is cheaper than what comes now; and see wake.h for what it tells */
    CL_FAULT(351);
    return rc ? rc : cl__membarrier(); /* B; partner: cl__publish of all who publish */
}

static int64_t sleep_until(cl__waiter *waiter, _Atomic uint32_t *word, int64_t deadline, cl__look *look, cl__look *ask,
                           void *object, uint64_t *slept)
{
    int64_t back_at = cl__sys_now() + CL__LOOK_NS;
    for (;;) {
        CL_FAULT(50);
        uint32_t seen = cl__or(word, CL__SLEEP) | CL__SLEEP; /* W2; partner: W3 in cl__serve's callers */
        CL_FAULT(51);
        int64_t rc = cl__order_publishers(waiter->has_membarrier, look, object);
        if (rc == 0)
            rc = look(object); /* W4; partner: W1 */
        if (rc == 0)
            rc = ask(object);
        if (rc != 0)
            return rc;
        int64_t now = cl__sys_now(), left = deadline < 0 ? CL__LOOK_NS : deadline - now;
        if (left <= 0)
            return -ETIMEDOUT;
        /* A signal that came while we looked has interrupted nothing, and whoever waits for what its handler noted would
         * wait for ever: so the caller has a turn now and then. */
        if (now >= back_at)
            return -EINTR;
        rc = cl__word_sleep(word, seen, left < CL__LOOK_NS ? left : CL__LOOK_NS, *slept);
        ++*slept;
        int64_t there = look(object);
        if (there != 0 || rc == -EINTR)
            return there != 0 ? there : rc;
    }
}

int64_t cl__wait(cl__waiter *waiter, _Atomic uint32_t *word, int64_t deadline, cl__look *look, cl__look *ask, void *object,
                 uint64_t *slept)
{
    *slept = 0;
    int64_t rc = look(object);
    if (rc != 0)
        return rc;
    /* What comes at once needs no clock, which takes longer than to look. */
    if (is_soon(waiter) && (rc = look_often(look, object)) != 0) {
        cl__store_relaxed(&waiter->gap_ns, 0);
        return rc;
    }
    int64_t began = cl__sys_now();
    rc = cl__wait_spin(waiter, began, deadline, look, object);
    if (rc == 0)
        rc = sleep_until(waiter, word, deadline, look, ask, object, slept);
    cl__wait_learn(waiter, rc, began);
    return rc;
}

uint32_t cl__serve(_Atomic uint32_t *word)
{
    CL_FAULT(52);
    /* Whoever sleeps by now was asked to look before; whoever or-s its bit in after this looks after it. Partner: W2. */
    uint32_t found = cl__and(word, ~(uint32_t)CL__ASKS);
    CL_FAULT(53);
    /* Between the two: whoever read the old count is asleep before the wake-up, or finds another word when it comes to
     * sleep. Partner: the comparison in cl__word_sleep. */
    cl__add(word, CL__COUNT);
    CL_FAULT(54);
    if (found & CL__SLEEP)
        cl__word_wake(word);
    return found & CL__ASKS;
}
