/* Sleeping on a word: futexes. Not the private kind, as the word is in memory that processes share. And membarrier(2). */
#include "wake.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_futex
#define SYS_futex SYS_futex_time64
#endif

int64_t cl__word_sleep(_Atomic uint32_t *word, uint32_t expected, int64_t ns, uint64_t turn)
{
    (void)turn;
    struct timespec span = {.tv_sec = ns / CL__NS_PER_S, .tv_nsec = ns % CL__NS_PER_S};
    return syscall(SYS_futex, word, FUTEX_WAIT, expected, &span, NULL, 0) < 0 && errno == EINTR ? -EINTR : 0;
}

/* As in linux/futex.h since 5.16. */
struct waiting_for {
    uint64_t expected, address;
    uint32_t flags, unused;
};

enum { SYS_FUTEX_WAITV = 449, IS_32_BITS = 2 };

int64_t cl__words_sleep(_Atomic uint32_t *const *words, const uint32_t *expected, int count, int64_t ns, uint64_t turn)
{
    (void)turn;
    struct waiting_for all[CL__WORDS];
    int64_t until = cl__sys_now() + ns; /* CLOCK_MONOTONIC, and absolute */
    struct {
        int64_t seconds, ns;
    } at = {until / CL__NS_PER_S, until % CL__NS_PER_S};
    for (int i = 0; i < count; i++)
        all[i] = (struct waiting_for){expected[i], (uintptr_t)words[i], IS_32_BITS, 0};
    if (syscall(SYS_FUTEX_WAITV, all, count, 0, &at, CLOCK_MONOTONIC) >= 0)
        return 0;
    return errno == EINTR ? -EINTR : errno == EAGAIN || errno == ETIMEDOUT ? 0 : -ENOSYS;
}

void cl__word_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* As in linux/membarrier.h since 4.16. */
enum { ALL_REGISTERED = 1 << 1, REGISTER = 1 << 2 };

/* Whatever a filter of system calls says instead. */
static int64_t membarrier(int command)
{
    return cl__sys_membarrier(command) < 0 ? -ENOSYS : 0;
}

int64_t cl__membarrier_register(void)
{
    return membarrier(REGISTER);
}

int64_t cl__membarrier(void)
{
    return membarrier(ALL_REGISTERED);
}
