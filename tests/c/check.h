/* What every program here uses: checks that say where and about what, and counts of what must not leak. */
#ifndef CHECK_H
#define CHECK_H

#include "corelane.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Not every program uses every helper. */
#define HELPER __attribute__((unused)) static

#ifndef __has_feature
#define __has_feature(feature) 0 /* gcc before 14 */
#endif
#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
enum { SANITIZED = 1, UNDER_TSAN = 1 };
#elif defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
enum { SANITIZED = 1, UNDER_TSAN = 0 };
#else
enum { SANITIZED = 0, UNDER_TSAN = 0 };
#endif

#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
/* It does not see the core's system calls: of a number that the core has closed, and that another thread got anew, it
 * thinks that both use one descriptor. */
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void)
{
    return "race:^close$\nrace:^closedir$\nrace:^__interceptor_close$\nrace:^__interceptor_closedir$\n";
}
#endif

#if (defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)) && defined(__GLIBC__)
/* ThreadSanitizer takes every clone() for a fork: in the child it notes "I am a fork of a threaded program" in memory
 * that here is the parent's too, and from then on that parent thread is not watched any more, and its signal handlers
 * never run. glibc's other name for the same function is not intercepted. */
int __clone(int (*work)(void *), void *stack, int flags, void *argument, ...);
int clone(int (*work)(void *), void *stack, int flags, void *argument, ...)
{
    va_list more;
    va_start(more, argument);
    int *pidfd = va_arg(more, int *);
    va_end(more);
    return __clone(work, stack, flags, argument, pidfd);
}
#endif

enum { MOST_FDS = 256 };
#define MS 1000000LL
#define SECOND 1000000000LL
#define PATIENCE (20 * SECOND) /* for what happens at once, on a machine that does much else */

/* What is being checked, for the message. */
static _Thread_local char about[160];

__attribute__((format(printf, 1, 2))) HELPER void say_about(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(about, sizeof about, format, arguments);
    va_end(arguments);
}

/* _exit: whatever runs at exit would only talk about what the failure left lying about. */
__attribute__((noreturn)) HELPER void fail_at(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: [%s] failed: %s\n", file, line, about, what);
    _exit(1);
}

HELPER void check_is(const char *file, int line, const char *what, int64_t actual, int64_t expected)
{
    char text[512];
    if (actual == expected)
        return;
    snprintf(text, sizeof text, "%s is %" PRId64 ", not %" PRId64, what, actual, expected);
    fail_at(file, line, text);
}

HELPER void check_text(const char *file, int line, const char *what, const char *actual, const char *expected)
{
    char text[2048];
    if (strcmp(actual, expected) == 0)
        return;
    snprintf(text, sizeof text, "%.80s is \"%.900s\", not \"%.900s\"", what, actual, expected);
    fail_at(file, line, text);
}

#define CHECK(condition) ((condition) ? (void)0 : fail_at(__FILE__, __LINE__, #condition))
#define CHECK_IS(actual, expected) check_is(__FILE__, __LINE__, #actual, (int64_t)(actual), (int64_t)(expected))
#define CHECK_TEXT(actual, expected) check_text(__FILE__, __LINE__, #actual, (actual), (expected))
/* For libc calls that must work: >= 0, or errno is shown. */
#define MUST(call) must(__FILE__, __LINE__, #call, (int64_t)(call))

HELPER int must(const char *file, int line, const char *what, int64_t rc)
{
    char text[512];
    if (rc >= 0)
        return (int)rc;
    snprintf(text, sizeof text, "%s: %s", what, strerror(errno));
    fail_at(file, line, text);
}

HELPER int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * SECOND + now.tv_nsec;
}

/* Between two looks at a condition, never instead of one. */
HELPER void nap(void)
{
    struct timespec span = {0, MS};
    nanosleep(&span, NULL);
}

/* `condition`, within PATIENCE. */
#define EVENTUALLY(condition)                                 \
    do {                                                      \
        int64_t until_ = now_ns() + PATIENCE;                 \
        while (!(condition)) {                                \
            if (now_ns() > until_)                            \
                fail_at(__FILE__, __LINE__, "never: " #condition); \
            nap();                                            \
        }                                                     \
    } while (0)

HELPER int count_fds(void)
{
    int count = 0;
    for (int fd = 0; fd < MOST_FDS; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

/* No child is left, neither running nor as a zombie. Only for programs that started none by other means. */
HELPER int has_no_children(void)
{
    siginfo_t info;
    return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 && errno == ECHILD;
}

HELPER void read_all(int fd, char *text, size_t room)
{
    size_t size = 0;
    ssize_t got;
    while ((got = read(fd, text + size, room - 1 - size)) > 0 || (got < 0 && errno == EINTR))
        size += got > 0 ? (size_t)got : 0;
    MUST(got);
    text[size] = '\0';
}

HELPER void make_pipe(int ends[2])
{
    MUST(pipe(ends));
    for (int i = 0; i < 2; i++)
        MUST(fcntl(ends[i], F_SETFD, FD_CLOEXEC));
}

/* Run a check in a forked copy of this program, for what would change this one for good: no terminal, another user,
 * descriptors closed. It fails here if it fails there. */
HELPER void in_a_fork(void (*check)(void *), void *argument)
{
    int status;
    pid_t pid = MUST(fork());
    if (pid == 0) {
        check(argument);
        _exit(0);
    }
    while (waitpid(pid, &status, 0) < 0)
        CHECK_IS(errno, EINTR);
    CHECK_IS(status, 0);
}

#endif
