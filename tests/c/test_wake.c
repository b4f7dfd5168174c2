/* How a waiter learns whether to spin: by how often it looks. */
#include "check.h"

#include "atomic.h"
#include "wake.h"

#define LIMIT_NS 2000000LL
enum { FEW = 64, PROBE_EVERY = 32 }; /* a spin looks thousands of times; where sleeps are naps, each of them once */

typedef struct looked {
    int64_t count, comes_at; /* of which look */
} looked;

static int64_t look(void *object)
{
    looked *mine = object;
    return ++mine->count >= mine->comes_at;
}

static int64_t nobody_is_dead(void *object)
{
    (void)object;
    return 0;
}

/* A wait that lasts a little longer than its spin may, or until that look: how often it has looked. */
static int64_t looks_of(cl__waiter *waiter, int64_t comes_at)
{
    looked mine = {.comes_at = comes_at};
    _Atomic uint32_t word = 0;
    uint64_t slept;
    int64_t rc = cl__wait(waiter, &word, cl__sys_now() + LIMIT_NS + LIMIT_NS / 16, look, nobody_is_dead, &mine, &slept);
    CHECK_IS(rc, mine.count >= comes_at ? 1 : -ETIMEDOUT);
    return mine.count;
}

static void gives_up_spins_that_are_in_vain(void)
{
    cl__waiter waiter = {.limit_ns = LIMIT_NS};
    say_about("two spins in vain");
    for (int i = 0; i < 2; i++) {
        CHECK(looks_of(&waiter, INT64_MAX) > 2 * FEW);
        waiter.gap_ns = 0; /* as if it had come as soon as we slept: the other side is on our CPU */
    }
    say_about("waits that sleep");
    int sleeps = 0;
    while (looks_of(&waiter, INT64_MAX) <= FEW) {
        waiter.gap_ns = 0;
        sleeps++;
    }
    CHECK_IS(sleeps, PROBE_EVERY - 1);
    waiter.gap_ns = 0;
    say_about("a spin that finds something");
    waiter.turns = PROBE_EVERY - 1; /* the next one looks whether times have changed */
    CHECK_IS(looks_of(&waiter, 10 * FEW), 10 * FEW);
    CHECK(looks_of(&waiter, INT64_MAX) > 2 * FEW);
}

static void never_spins_where_it_must_not(void)
{
    cl__waiter waiter = {.limit_ns = 0};
    say_about("a limit of 0");
    for (int i = 0; i < 3; i++)
        CHECK(looks_of(&waiter, INT64_MAX) <= FEW);
}

int main(void)
{
    gives_up_spins_that_are_in_vain();
    never_spins_where_it_must_not();
    puts("ok");
    return 0;
}
