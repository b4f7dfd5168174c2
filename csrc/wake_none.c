/* Nothing to sleep on that wakes another process: naps, each longer than the one before, up to 6.4 ms. */
#include "wake.h"

#include <time.h>

enum { FIRST_NAP_NS = 100000, MOST_DOUBLINGS = 6 };

int64_t cl__word_sleep(_Atomic uint32_t *word, uint32_t expected, int64_t ns, uint64_t turn)
{
    (void)word, (void)expected;
    int64_t nap = (int64_t)FIRST_NAP_NS << (turn < MOST_DOUBLINGS ? turn : MOST_DOUBLINGS);
    struct timespec span = {.tv_sec = 0, .tv_nsec = ns < nap ? ns : nap};
    return nanosleep(&span, NULL) < 0 && errno == EINTR ? -EINTR : 0;
}

int64_t cl__words_sleep(_Atomic uint32_t *const *words, const uint32_t *expected, int count, int64_t ns, uint64_t turn)
{
    (void)count;
    return cl__word_sleep(words[0], expected[0], ns, turn);
}

void cl__word_wake(_Atomic uint32_t *word)
{
    (void)word;
}

int64_t cl__membarrier_register(void)
{
    return -ENOSYS;
}

int64_t cl__membarrier(void)
{
    return -ENOSYS;
}
