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
 * Bits are or-ed in, never stored: a store would erase another waiter's. There is no count of waiters: one that is killed
 * would stay counted. Whoever is killed between publishing and waking, or stopped there, delays the waiter by the rest of
 * its 100 ms, after which it looks by itself. */
#ifndef CORELANE_WAKE_H
#define CORELANE_WAKE_H

#include "internal.h"

#include <stdatomic.h>

/* SLEEP, POLL: somebody wants to be woken, there or through a descriptor. OPEN, CLOSED: of the object's, if it has use for
 * them: so that its other side, which looks at the word anyway, sees them for nothing. */
enum { CL__SLEEP = 1, CL__POLL = 2, CL__ASKS = 3, CL__OPEN = 4, CL__CLOSED = 8, CL__COUNT = 16 /* and all above it */ };

#define CL__LOOK_NS 100000000LL /* a sleeper looks by itself, and asks whether the others live */
#define CL__HELD_NS 1000000LL   /* the same behind what somebody has who may die */
#define CL__SPIN_NS 50000LL     /* about what being woken costs on a machine in the cloud */

enum { CL__WORDS = 128 }; /* that one can sleep on at once */

/* What one waiter has learnt, and how far it may go; in memory of its own. */
typedef struct cl__waiter {
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

/* Take those bits of CL__ASKS out of the word and wake the sleepers, if there are any. The bits that were there. */
uint32_t cl__serve(_Atomic uint32_t *word);

/* wake_*.c: while the word is `expected`, and `ns` at most. Returns for any reason: -EINTR is the only one told. `turn`: how
 * often it has slept in this wait. */
int64_t cl__word_sleep(_Atomic uint32_t *word, uint32_t expected, int64_t ns, uint64_t turn);
void cl__word_wake(_Atomic uint32_t *word);
/* While all words are as expected. -ENOSYS: that cannot be done. */
int64_t cl__words_sleep(_Atomic uint32_t *const *words, const uint32_t *expected, int count, int64_t ns, uint64_t turn);

/* ---- bell.c: descriptors for those who ask by CL__POLL ------------------------------------------------------------- */

/* In shared memory: where the pipe of whoever waits is. */
typedef struct cl__bell_place {
    _Atomic int64_t pid, inode;
    _Atomic int32_t number;
} cl__bell_place;

/* The waiter's; begin with -1. */
typedef struct cl__bell {
    int ends[2];
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

#endif
