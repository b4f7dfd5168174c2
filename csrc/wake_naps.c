/* Naps, for where nothing wakes another process, or not from several words at once: each longer than the one before, up to
 * 6.4 ms. And no membarrier(2). */
#include "wake.h"

enum { FIRST_NAP_NS = 100000, MOST_DOUBLINGS = 6 };

int64_t cl__nap_of(uint64_t turn)
{
    return (int64_t)FIRST_NAP_NS << (turn < MOST_DOUBLINGS ? turn : MOST_DOUBLINGS);
}

/* On the first; at the others it looks after each nap. */
int64_t cl__words_sleep(_Atomic uint32_t *const *words, const uint32_t *expected, int count, int64_t ns, uint64_t turn)
{
    int64_t nap = cl__nap_of(turn);
    (void)count;
    return cl__word_sleep(words[0], expected[0], ns < nap ? ns : nap, turn);
}

int64_t cl__membarrier_register(void)
{
    return -ENOSYS;
}

int64_t cl__membarrier(void)
{
    return -ENOSYS;
}
