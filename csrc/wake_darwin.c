/* macOS: sleeping on a word that processes share, since 14.4; before it naps. Looked for when the program starts, so that one
 * build runs on both. */
#include "wake.h"

#include <time.h>

/* As in os/os_sync_wait_on_address.h and os/clock.h, which older SDKs do not have. */
enum { SHARED = 1, MACH_TIME = 32, SIZE = 4 };
extern int os_sync_wait_on_address_with_timeout(void *word, uint64_t expected, size_t size, uint32_t flags, uint32_t clock,
                                                uint64_t timeout_ns) __attribute__((weak_import));
extern int os_sync_wake_by_address_all(void *word, size_t size, uint32_t flags) __attribute__((weak_import));

static int can_sleep(void)
{
    return os_sync_wait_on_address_with_timeout && os_sync_wake_by_address_all;
}

/* What fails for another reason than that the time is over naps: else whoever waits would go round and round. */
int64_t cl__word_sleep(_Atomic uint32_t *word, uint32_t expected, int64_t ns, uint64_t turn)
{
    int64_t nap = cl__nap_of(turn);
    if (can_sleep()) {
        int rc = os_sync_wait_on_address_with_timeout((void *)word, expected, SIZE, SHARED, MACH_TIME, (uint64_t)ns);
        if (rc >= 0 || errno == ETIMEDOUT)
            return 0;
        if (errno == EINTR)
            return -EINTR;
    }
    struct timespec span = {.tv_sec = 0, .tv_nsec = ns < nap ? ns : nap};
    return nanosleep(&span, NULL) < 0 && errno == EINTR ? -EINTR : 0;
}

void cl__word_wake(_Atomic uint32_t *word)
{
    if (can_sleep())
        os_sync_wake_by_address_all((void *)word, SIZE, SHARED);
}
