/* Sleeping on a word: futexes. Not the private kind, as the word is in memory that processes share. */
#include "wake.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
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

void cl__word_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}
