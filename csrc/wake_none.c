/* Nothing to sleep on that wakes another process: naps. */
#include "wake.h"

#include <time.h>

int64_t cl__word_sleep(_Atomic uint32_t *word, uint32_t expected, int64_t ns, uint64_t turn)
{
    (void)word, (void)expected;
    int64_t nap = cl__nap_of(turn);
    struct timespec span = {.tv_sec = 0, .tv_nsec = ns < nap ? ns : nap};
    return nanosleep(&span, NULL) < 0 && errno == EINTR ? -EINTR : 0;
}

void cl__word_wake(_Atomic uint32_t *word)
{
    (void)word;
}
