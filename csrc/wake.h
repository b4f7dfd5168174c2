/* Sleeping until somebody has published something in shared memory, with no system call while nobody sleeps.
 *
 * One 32-bit word for those who wait; whoever publishes looks at it afterwards:
 *
 *     waiter                                  publisher
 *     spin a little                           publish            exchange, seq_cst           W1
 *     word |= SLEEP      fetch_or, seq_cst W2 word & ASKS ?      load, seq_cst               W3
 *     look once more     load, seq_cst     W4     word &= ~ASKS  fetch_and: these bits are to be served
 *     futex_wait(word), 100 ms at most          word += COUNT  fetch_add; then wake all, write the descriptor
 *
 * All four are in one order. If W3 comes before W2, then W1 does too, and W4 sees what was published; else W3 sees the bit.
 * With a plain store for W1, the processor may do W3 first: both look, neither sees, and the waiter sleeps on something.
 *
 *     publisher: W3, 0     waiter: W2, W4, nothing there     publisher: the store arrives     waiter: sleeps
 *
 * The upper bits of the word count how often it was served, for where several wait. Without them, or if they were counted
 * before the bits are taken out:
 *
 *     A: W2, W4, nothing there     publisher: publishes, takes SLEEP out, wakes nobody yet     B: W2, SLEEP is back
 *     A: futex_wait finds the word as it had left it, and sleeps on what was published
 *
 * As it is, A finds another count if it comes after that, and is asleep before the wake-up if it comes before.
 *
 * With membarrier(2), an option of the object that all who take part in it agree on, W1 is a plain release, which saves the
 * publisher the exchange, and the waiter pays for the order. Each publisher's process is registered before it publishes.
 *
 *     waiter                                  publisher
 *     word |= SLEEP      fetch_or          W2 publish            store, release              W1
 *     look                                    (the compiler may not change the order: a signal fence)
 *     membarrier, global                   B  word & ASKS ?      load                        W3
 *     look once more                       W4     the same
 *
 * B makes every processor that runs a registered process go through a full barrier, somewhere in what that one is about, and
 * is a full barrier itself, before and after. A publisher that runs nowhere has gone through one when it was switched away,
 * and goes through one before it runs again; of one that was killed all stores have arrived. So for each publisher:
 *
 *     its barrier is before W1: W2 was before B, and W3 comes after it: W3 sees the bit
 *     its barrier is after W1: W1 has arrived when B returns, and W4 sees what was published
 *
 * and if it is between the two, both. That needs W1 and W3 in this order in the publisher's program, no more: the signal fence
 * stops the compiler, which may else move a load up over a release. The processor may do W3 first, as TSO lets it (the store
 * waits in its buffer) and ARM lets it for plain accesses (not for stlr and ldar, which the compiler makes of these): that is
 * what the barrier is for. What a publisher does before W1 is before it for whoever sees W1, with or without B: it is a
 * release. And what a waiter tells the publishers beside its bit, they read after W3, so it is to be told before B: hence
 * the look before B, which tells it (say_when of the ring). Told in W4 only, nobody need have seen it:
 *
 *     waiter: W2, B     publisher: W1 in its buffer, W3: SLEEP, but not for so little     waiter: wants less; W4, nothing there
 *     publisher: the store arrives     waiter: sleeps
 *
 * Bits are or-ed in, never stored: a store would erase another waiter's. There is no count of waiters: one that is killed
 * would stay counted. Whoever is killed between publishing and waking, or stopped there, delays the waiter by the rest of
 * its 100 ms, after which it looks by itself. */
#ifndef CORELANE_WAKE_H
#define CORELANE_WAKE_H

#include "atomic.h"
#include "internal.h"

/* SLEEP, POLL: somebody wants to be woken, there or through a descriptor. OPEN, CLOSED: of the object's, if it has use for
 * them: so that its other side, which looks at the word anyway, sees them for nothing. */
enum { CL__SLEEP = 1, CL__POLL = 2, CL__ASKS = 3, CL__OPEN = 4, CL__CLOSED = 8, CL__COUNT = 16 /* and all above it */ };

#define CL__LOOK_NS 95000000LL /* a sleeper looks by itself, and asks whether the others live: with the waking up, within 100 ms */
#define CL__HELD_NS 1000000LL   /* the same behind what somebody has who may die */
#define CL__SPIN_NS 50000LL     /* about what being woken costs on a machine in the cloud */

enum { CL__WORDS = 128 }; /* that one can sleep on at once */

/* What one waiter has learnt, and how far it may go; in memory of its own. */
typedef struct cl__waiter {
    int has_membarrier;       /* of the object: never changed */
    _Atomic int64_t limit_ns; /* to spin at most; 0: never */
    _Atomic int64_t gap_ns;   /* how long it waited of late */
    _Atomic uint32_t turns;
    _Atomic uint32_t in_vain; /* spins in a row that have found nothing */
} cl__waiter;

/* Looks at what is waited for: 1: it is there, 0: not yet, -errno: it never will be. No lock, no system call. */
typedef int64_t cl__look(void *object);

/* Wait until `look` does not say 0: what it says; or -ETIMEDOUT; or -EINTR at a signal, and every 100 ms: call again with the same deadline.
 * `ask`, before each sleep, may make system calls: 0 or -errno. `deadline`: of CLOCK_MONOTONIC, ns; < 0: none. `*slept` is
 * the number of sleeps. Any number of threads and processes may wait on one word. */
int64_t cl__wait(cl__waiter *waiter, _Atomic uint32_t *word, int64_t deadline, cl__look *look, cl__look *ask, void *object,
                 uint64_t *slept);

/* The parts of cl__wait, for whoever sleeps otherwise. Look, for as long as is of use after a wait that began just now: what
 * `look` says. And what is learnt from how it ended. */
int64_t cl__wait_spin(cl__waiter *waiter, int64_t began, int64_t deadline, cl__look *look, void *object);
void cl__wait_learn(cl__waiter *waiter, int64_t rc, int64_t began);

/* W1 of wake.h; W3 comes next. */
static inline void cl__publish(_Atomic uint64_t *where, uint64_t value, int has_membarrier)
{
    if (has_membarrier) {
        cl__store_release(where, value); /* partners: the acquire of whoever looks; and B of whoever sleeps, or arms */
        cl__fence_compiler();
    } else {
        cl__exchange(where, value); /* partners: the same, and W2 */
    }
}

/* B of wake.h, after W2, if the object has it: look, and if that says 0, let all publishers go through a barrier: what `look`
 * said, or -ENOSYS. Then look once more: W4. */
int64_t cl__order_publishers(int has_membarrier, cl__look *look, void *object);

/* wake_*.c: membarrier(2). Registering is of the whole process, a forked child has it, too, and exec ends it; the second time
 * it does nothing. 0. -ENOSYS: there is none, or we may not. */
int64_t cl__membarrier_register(void);
int64_t cl__membarrier(void);

/* Take those bits of CL__ASKS out of the word and wake the sleepers, if there are any. The bits that were there. */
uint32_t cl__serve(_Atomic uint32_t *word);

/* wake_*.c: while the word is `expected`, and `ns` at most. Returns for any reason: -EINTR is the only one told. `turn`: how
 * often it has slept in this wait. */
int64_t cl__word_sleep(_Atomic uint32_t *word, uint32_t expected, int64_t ns, uint64_t turn);
void cl__word_wake(_Atomic uint32_t *word);
int64_t cl__nap_of(uint64_t turn); /* wake_naps.c: ns */
/* While all words are as expected. -ENOSYS: that cannot be done. */
int64_t cl__words_sleep(_Atomic uint32_t *const *words, const uint32_t *expected, int count, int64_t ns, uint64_t turn);

/* ---- bell.c: descriptors for those who ask by CL__POLL ------------------------------------------------------------- */

/* In shared memory: where the pipe of whoever waits is. The number is of a descriptor, or of a name. */
typedef struct cl__bell_place {
    _Atomic int64_t pid, inode;
    _Atomic int32_t number;
} cl__bell_place;

/* The waiter's; begin with -1. */
typedef struct cl__bell {
    int ends[2];
    int32_t number;
    int64_t maker; /* bell_fifo.c: its pid */
} cl__bell;

/* The publisher's: the last bell it has rung, open; begin with fd -1. */
typedef struct cl__ringer {
    int fd;
    int64_t inode;
} cl__ringer;

int64_t cl__bell_open(cl__bell *bell, cl__bell_place *place); /* the descriptor to wait for; it is readable at first */
void cl__bell_close(cl__bell *bell);
void cl__bell_silence(cl__bell *bell); /* before POLL is or-ed in: what rings after it is heard */
void cl__bell_ring(cl__ringer *ringer, const cl__bell_place *place);
void cl__ringer_close(cl__ringer *ringer);

/* bell_*.c: what a bell is. */
int64_t cl__bell_make(cl__bell *bell);         /* its inode, >= 0 */
void cl__bell_unmake(const cl__bell *bell);    /* before it is closed; perhaps by a forked child, whose it is not */
int cl__bell_reach(int64_t pid, int32_t number, int64_t inode); /* one of our own user's, to be written to; or -1 */

#endif
