/* Sleeping on a word: futexes. Not the private kind, as the word is in memory that processes share. And what marks a bell. */
#include "wake.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_futex
#define SYS_futex SYS_futex_time64
#endif

enum { SET_PIPE_SIZE = 1031, GET_PIPE_SIZE = 1032 }; /* F_SETPIPE_SZ, F_GETPIPE_SZ */

/* One page: the kernel makes them with 16, or with 2 for who has too many. It is enough for a bell. */
void cl__pipe_mark(int fd)
{
    fcntl(fd, SET_PIPE_SIZE, (int)sysconf(_SC_PAGESIZE));
}

int cl__pipe_is_marked(int fd)
{
    return fcntl(fd, GET_PIPE_SIZE) == sysconf(_SC_PAGESIZE);
}

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
