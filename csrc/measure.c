/* Measurements for those who ask what this machine costs in time. */
#include "atomic.h"
#include "internal.h"

#include <time.h>

enum { PATIENCE_NS = 50000000, WAKE = 'w', LEAVE = 'l' };

static int in_bounds(int64_t rounds, int64_t each_ns)
{
    return rounds >= 1 && rounds <= CL_MEASURE_MOST_ROUNDS && each_ns >= 0 && each_ns <= CL_MEASURE_MOST_NS &&
           rounds * each_ns <= CL_MEASURE_MOST_NS;
}

/* When `rounds` of `each_ns` have taken so long that the rest is left out. */
static int64_t patience_ends(int64_t rounds, int64_t each_ns)
{
    return cl__sys_now() + 2 * rounds * each_ns + PATIENCE_NS;
}

/* Sleep, also on after a signal; returns the time. */
static int64_t sleep_until(int64_t when)
{
    int64_t now;
    while ((now = cl__sys_now()) < when)
        cl__sys_nap(when - now);
    return now;
}

/* ---- waking up ---------------------------------------------------------------------------------------------------- */

/* Two pipes, as processes wake each other: a byte in `go` wakes the sleeper, a byte in `back` says that it has run. */
typedef struct sleeper {
    cl_opened go[2], back[2];
    _Atomic int64_t woken;
} sleeper;

static int take_byte(cl_opened *reader, char *byte)
{
    int64_t got;
    do
        got = cl__sys_read((int)reader->fd, byte, 1);
    while (got == -EINTR);
    return got == 1;
}

static int give_byte(cl_opened *writer, char byte)
{
    int64_t put;
    do
        put = cl__sys_write((int)writer->fd, &byte, 1);
    while (put == -EINTR);
    return put == 1;
}

static void *sleep_and_wake(void *argument)
{
    sleeper *self = argument;
    char byte;
    /* Told to leave, not left to see the end of the pipe: a fork of another thread's may hold its other end open. */
    while (take_byte(&self->go[0], &byte) && byte == WAKE) {
        cl__store_release(&self->woken, cl__sys_now()); /* M0: pairs with the acquire at M1 */
        if (!give_byte(&self->back[1], byte))
            break;
    }
    return NULL;
}

static int64_t wake_often(sleeper *other, int64_t rounds, int64_t gap_ns, int64_t *out)
{
    int64_t done = 0, until = patience_ends(rounds, gap_ns);
    for (char byte; done < rounds; done++) {
        int64_t now = cl__sys_now();
        if (done > 0 && now > until)
            break;
        int64_t start = sleep_until(now + gap_ns);
        if (!give_byte(&other->go[1], WAKE) || !take_byte(&other->back[0], &byte))
            return -EIO;
        out[done] = cl__load_acquire(&other->woken) - start; /* M1: pairs with the release at M0 */
    }
    return done;
}

int64_t cl_measure_wakeup(int64_t rounds, int64_t gap_ns, int64_t *out)
{
    sleeper other = {.go = {{-1}, {-1}}, .back = {{-1}, {-1}}};
    pthread_t thread;
    if (!in_bounds(rounds, gap_ns))
        return -EINVAL;
    int64_t rc = cl_opened_pipe(&other.go[0], &other.go[1]);
    if (rc >= 0)
        rc = cl_opened_pipe(&other.back[0], &other.back[1]);
    if (rc >= 0)
        rc = cl__start_thread(&thread, sleep_and_wake, &other);
    if (rc >= 0) {
        rc = wake_often(&other, rounds, gap_ns, out);
        give_byte(&other.go[1], LEAVE);
        pthread_join(thread, NULL);
    }
    for (int i = 0; i < 2; i++) {
        cl_opened_close(&other.go[i]);
        cl_opened_close(&other.back[i]);
    }
    return rc;
}

/* ---- what needs no second thread ------------------------------------------------------------------------------------ */

int64_t cl_measure_timer(int64_t rounds, int64_t ns, int64_t *out)
{
    int64_t done = 0;
    if (!in_bounds(rounds, ns))
        return -EINVAL;
    for (int64_t until = patience_ends(rounds, ns); done < rounds; done++) {
        int64_t now = cl__sys_now();
        if (done > 0 && now > until)
            break;
        out[done] = sleep_until(now + ns) - (now + ns);
    }
    return done;
}

int64_t cl_measure_clock(int64_t rounds)
{
    struct timespec now;
    if (!in_bounds(rounds, 0))
        return -EINVAL;
    int64_t start = cl__sys_now();
    for (int64_t i = 0; i < rounds; i++)
        clock_gettime(CLOCK_MONOTONIC, &now);
    return cl__sys_now() - start;
}

int64_t cl_measure_call(int64_t rounds)
{
    if (!in_bounds(rounds, 0))
        return -EINVAL;
    int64_t start = cl__sys_now();
    for (int64_t i = 0; i < rounds; i++)
        cl__sys_getppid();
    return cl__sys_now() - start;
}

int64_t cl_measure_gaps(int64_t span_ns, int64_t least_ns, int64_t *out, int64_t room)
{
    int64_t count = 0;
    if (span_ns < 1 || least_ns < 1 || !in_bounds(1, span_ns) || !in_bounds(1, least_ns))
        return -EINVAL;
    int64_t start = cl__sys_now();
    for (int64_t last = start, now; last - start < span_ns; last = now) {
        now = cl__sys_now();
        if (now - last < least_ns)
            continue;
        if (count < room)
            out[count] = now - last;
        count++;
    }
    return count;
}
