/* Rings: records come out as they went in, both sides wait for each other, one that dies is noticed and replaced, and what
 * a stranger writes there is not believed. */
#include "ring.h"

#include <pthread.h>
#include <sys/time.h>

enum { PAGE = 4096 };

static int64_t soon(int64_t ns)
{
    return now_ns() + ns;
}

static ringed both_sides(int64_t capacity)
{
    ringed one = new_ring(capacity);
    CHECK_IS(cl_ring_take(one.ring, CL_RING_PRODUCER), 0);
    CHECK_IS(cl_ring_take(one.ring, CL_RING_CONSUMER), 0);
    return one;
}

/* ---- records ------------------------------------------------------------------------------------------------------- */

static void in_and_out(void)
{
    say_about("records go in and come out");
    int fds = count_fds();
    ringed one = new_ring(1);
    CHECK_IS(ring_report(one).capacity, sysconf(_SC_PAGESIZE));
    CHECK_IS(cl_ring_try_put(one.ring, "x", 1), -ENOTCONN);
    CHECK_IS(get_fails(one), -ENOTCONN);
    CHECK_IS(cl_ring_take(one.ring, 2), -EINVAL);
    CHECK_IS(cl_ring_take(one.ring, CL_RING_PRODUCER), 0);
    CHECK_IS(cl_ring_take(one.ring, CL_RING_CONSUMER), 0);
    CHECK_IS(get_fails(one), -EAGAIN);
    must_put(one, "one");
    must_put(one, "");
    must_put(one, "eight by");
    must_get(one, "one");
    must_get(one, "");
    CHECK_IS(get_fails(one), -EMSGSIZE);
    must_get(one, "eight by");
    CHECK_IS(get_fails(one), -EAGAIN);
    cl_ring_stats stats = stats_of(one);
    CHECK_IS(stats.producer.records, 3);
    CHECK_IS(stats.consumer.bytes, 11);
    CHECK_IS(stats.depth, 0);
    CHECK_IS(stats.most, 16 + 8 + 16);
    end_ring(one);
    CHECK_IS(count_fds(), fds);
}

static uint8_t byte_of(uint64_t record, uint64_t at)
{
    return (uint8_t)(record * 31 + at * 7);
}

/* Every size, at every place of the ring: none is in two pieces. */
static void every_size(void)
{
    say_about("every size");
    ringed one = both_sides(PAGE);
    int64_t largest = ring_report(one).largest;
    uint8_t *out;
    const uint8_t *in;
    int64_t size;
    for (int64_t i = 0; i <= 3 * largest; i++) {
        int64_t length = i % (largest + 1);
        CHECK_IS(cl_ring_reserve(one.ring, length, &out), 0);
        CHECK_IS((uintptr_t)out % 8, 0);
        for (int64_t at = 0; at < length; at += 61)
            out[at] = byte_of((uint64_t)i, (uint64_t)at);
        CHECK_IS(cl_ring_add(one.ring, length), 0);
        CHECK_IS(cl_ring_commit(one.ring), 1);
        CHECK_IS(cl_ring_peek(one.ring, &in, &size), 0);
        CHECK_IS(size, length);
        for (int64_t at = 0; at < length; at += 61)
            CHECK_IS(in[at], byte_of((uint64_t)i, (uint64_t)at));
        CHECK_IS(cl_ring_release(one.ring), 1);
    }
    CHECK_IS(cl_ring_reserve(one.ring, largest + 1, &out), -EMSGSIZE);
    CHECK_IS(cl_ring_reserve(one.ring, -1, &out), -EMSGSIZE);
    CHECK_IS(cl_ring_reserve(one.ring, INT64_MAX, &out), -EMSGSIZE);
    end_ring(one);
}

static void many_at_once(void)
{
    say_about("many with one commit");
    ringed one = both_sides(PAGE);
    uint8_t *out;
    const uint8_t *in;
    int64_t size, needs;
    CHECK_IS(cl_ring_reserve(one.ring, 100, &out), 0);
    CHECK_IS(cl_ring_add(one.ring, 101), -EINVAL);
    CHECK_IS(cl_ring_add(one.ring, 3), 0); /* less than reserved */
    CHECK_IS(cl_ring_add(one.ring, 3), -EINVAL);
    CHECK_IS(cl_ring_reserve(one.ring, 8, &out), 0);
    CHECK_IS(cl_ring_add(one.ring, 8), 0);
    CHECK_IS(get_fails(one), -EAGAIN); /* not committed */
    CHECK_IS(cl_ring_commit(one.ring), 2);
    CHECK_IS(cl_ring_commit(one.ring), 0);
    CHECK_IS(cl_ring_reserve(one.ring, 8, &out), 0);
    CHECK_IS(cl_ring_add(one.ring, 8), 0);
    cl_ring_abandon(one.ring);
    CHECK_IS(cl_ring_commit(one.ring), 0);
    for (int turn = 0; turn < 2; turn++) {
        CHECK_IS(cl_ring_peek(one.ring, &in, &size), 0);
        CHECK_IS(size, 3);
        CHECK_IS(cl_ring_peek(one.ring, &in, &size), 0);
        CHECK_IS(size, 8);
        CHECK_IS(cl_ring_peek(one.ring, &in, &size), -EAGAIN);
        if (turn == 0)
            cl_ring_rewind(one.ring);
    }
    CHECK_IS(cl_ring_release(one.ring), 2);
    CHECK_IS(cl_ring_release(one.ring), 0);

    uint64_t numbers[600], back[600];
    for (uint64_t i = 0; i < 600; i++)
        numbers[i] = i * i;
    CHECK_IS(cl_ring_try_put_many(one.ring, numbers, 8, 600), PAGE / 16);
    CHECK_IS(cl_ring_try_put_many(one.ring, numbers, 8, 1), -EAGAIN);
    CHECK_IS(cl_ring_try_get_many(one.ring, back, 8, 100, &needs), 100);
    CHECK_IS(cl_ring_try_get_many(one.ring, back + 100, 8, 500, &needs), PAGE / 16 - 100);
    CHECK(memcmp(numbers, back, PAGE / 16 * 8) == 0);
    CHECK_IS(cl_ring_try_put_many(one.ring, numbers, 8, 2), 2);
    must_put(one, "other");
    CHECK_IS(cl_ring_try_get_many(one.ring, back, 8, 100, &needs), 2);
    CHECK_IS(cl_ring_try_get_many(one.ring, back, 8, 100, &needs), -EMSGSIZE);
    CHECK_IS(needs, 5);
    CHECK_IS(cl_ring_try_get_many(one.ring, back, 8, 0, &needs), 0);
    must_get(one, "other");
    end_ring(one);
}

/* ---- waiting, in threads: one mapping, so that ThreadSanitizer sees both sides --------------------------------------- */

enum { RECORDS = UNDER_TSAN ? 40000 : 400000 };

static void *put_all(void *ring)
{
    char text[200];
    for (uint64_t i = 0; i < RECORDS; i++) {
        int64_t size = (int64_t)(i * 7 % sizeof text), rc;
        memset(text, (int)(i & 127), (size_t)size);
        while ((rc = cl_ring_try_put(ring, text, size)) == -EAGAIN) {
            rc = cl_ring_wait(ring, CL_RING_PRODUCER, size, soon(PATIENCE));
            CHECK(rc == 1 || rc == -EINTR);
        }
        CHECK_IS(rc, 0);
    }
    CHECK_IS(cl_ring_leave(ring, CL_RING_PRODUCER), 0);
    return NULL;
}

static void get_all(cl_ring *ring)
{
    char text[200];
    uint64_t i = 0;
    for (;; i++) {
        int64_t rc, needs;
        while ((rc = cl_ring_try_get(ring, text, sizeof text, &needs)) == -EAGAIN) {
            rc = cl_ring_wait(ring, CL_RING_CONSUMER, 0, soon(PATIENCE));
            CHECK(rc == 1 || rc == -EINTR);
        }
        if (rc == -EPIPE)
            break;
        CHECK_IS(rc, (int64_t)(i * 7 % sizeof text));
        for (int64_t at = 0; at < rc; at++)
            CHECK_IS(text[at], (char)(i & 127));
    }
    CHECK_IS(i, RECORDS);
}

static void two_threads(int64_t spin)
{
    say_about("two threads, spinning for %d ns", (int)spin);
    ringed one = both_sides(PAGE);
    pthread_t thread;
    cl_ring_set_spin(one.ring, spin);
    CHECK_IS(pthread_create(&thread, NULL, put_all, one.ring), 0);
    get_all(one.ring);
    CHECK_IS(pthread_join(thread, NULL), 0);
    cl_ring_stats stats = stats_of(one);
    CHECK_IS(stats.producer.records, RECORDS);
    CHECK_IS(stats.consumer.records, RECORDS);
    CHECK_IS(stats.producer.bytes, stats.consumer.bytes);
    CHECK_IS(stats.closed[CL_RING_PRODUCER], 1);
    CHECK_IS(stats.depth, 0);
    CHECK(stats.most > 0 && stats.most <= PAGE);
    end_ring(one);
}

/* One record there, one back, so that each side sleeps for each: a wake-up that is lost costs 100 ms. */
static ringed there, back;

static void *echo(void *unused)
{
    (void)unused;
    char text[8];
    int64_t rc, needs;
    for (;;) {
        while ((rc = cl_ring_try_get(there.ring, text, 8, &needs)) == -EAGAIN)
            CHECK((rc = cl_ring_wait(there.ring, CL_RING_CONSUMER, 0, -1)) == 1 || rc == -EINTR);
        if (rc == -EPIPE)
            return NULL;
        CHECK_IS(cl_ring_try_put(back.ring, text, rc), 0);
    }
}

static void no_wake_up_is_lost(void)
{
    say_about("no wake-up is lost");
    enum { TURNS = UNDER_TSAN ? 2000 : 10000 };
    pthread_t thread;
    char text[8];
    int64_t rc, needs, longest = 0, late = 0;
    there = both_sides(PAGE);
    back = both_sides(PAGE);
    cl_ring_set_spin(there.ring, 0);
    cl_ring_set_spin(back.ring, 0);
    CHECK_IS(pthread_create(&thread, NULL, echo, NULL), 0);
    for (int i = 0; i < TURNS; i++) {
        int64_t began = now_ns();
        must_put(there, "ping");
        while ((rc = cl_ring_try_get(back.ring, text, 8, &needs)) == -EAGAIN)
            CHECK((rc = cl_ring_wait(back.ring, CL_RING_CONSUMER, 0, soon(PATIENCE))) == 1 || rc == -EINTR);
        CHECK_IS(rc, 4);
        int64_t took = now_ns() - began;
        longest = took > longest ? took : longest;
        late += took > 95 * MS;
    }
    CHECK_IS(cl_ring_leave(there.ring, CL_RING_PRODUCER), 0);
    CHECK_IS(pthread_join(thread, NULL), 0);
    /* A busy machine may hold one of us for that long, too, but not often. */
    CHECK(late <= TURNS / 1000);
    CHECK(stats_of(there).consumer.waits > 0);
    end_ring(there);
    end_ring(back);
}

static void waits_no_longer(void)
{
    say_about("a wait ends at its deadline");
    ringed one = both_sides(PAGE);
    int64_t began = now_ns();
    CHECK_IS(cl_ring_wait(one.ring, CL_RING_CONSUMER, 0, 0), -ETIMEDOUT);
    CHECK_IS(cl_ring_wait(one.ring, CL_RING_CONSUMER, 0, soon(20 * MS)), -ETIMEDOUT);
    CHECK(now_ns() - began >= 20 * MS);
    CHECK_IS(cl_ring_wait(one.ring, CL_RING_PRODUCER, 10, 0), 1);
    CHECK_IS(cl_ring_wait(one.ring, CL_RING_PRODUCER, PAGE, 0), -EMSGSIZE);
    CHECK_IS(cl_ring_wait(one.ring, 7, 0, 0), -EINVAL);
    CHECK_IS(cl_ring_look(one.ring, CL_RING_CONSUMER, 0), 0);
    must_put(one, "x");
    CHECK_IS(cl_ring_look(one.ring, CL_RING_CONSUMER, 0), 1);
    while (cl_ring_try_put(one.ring, "xxxxxxxx", 8) == 0)
        continue;
    CHECK_IS(cl_ring_wait(one.ring, CL_RING_PRODUCER, 8, soon(MS)), -ETIMEDOUT);
    end_ring(one);
}

static void on_alarm(int signal)
{
    (void)signal;
}

static void returns_at_a_signal(void)
{
    say_about("a wait returns at a signal");
    ringed one = both_sides(PAGE);
    struct sigaction action = {.sa_handler = on_alarm};
    struct itimerval timer = {.it_value.tv_usec = 20000, .it_interval.tv_usec = 20000}, none = {0};
    MUST(sigaction(SIGALRM, &action, NULL));
    MUST(setitimer(ITIMER_REAL, &timer, NULL));
    int64_t deadline = soon(PATIENCE), rc;
    for (int signals = 0; signals < 3; signals++)
        CHECK_IS(cl_ring_wait(one.ring, CL_RING_CONSUMER, 0, deadline), -EINTR);
    deadline = soon(30 * MS); /* which the signals do not put off */
    while ((rc = cl_ring_wait(one.ring, CL_RING_CONSUMER, 0, deadline)) == -EINTR)
        CHECK(now_ns() < deadline + PATIENCE);
    CHECK_IS(rc, -ETIMEDOUT);
    MUST(setitimer(ITIMER_REAL, &none, NULL));
    end_ring(one);
}

/* ---- sides ----------------------------------------------------------------------------------------------------------- */

static void closed(void)
{
    say_about("closing tells the other side");
    ringed one = new_ring(PAGE), two = ring_again(fd_of(one));
    CHECK_IS(cl_ring_take(one.ring, CL_RING_PRODUCER), 0);
    CHECK_IS(cl_ring_take(one.ring, CL_RING_PRODUCER), 0);
    CHECK_IS(cl_ring_take(two.ring, CL_RING_PRODUCER), -EBUSY);
    CHECK_IS(cl_ring_take(two.ring, CL_RING_CONSUMER), 0);
    must_put(one, "last");
    CHECK_IS(cl_ring_leave(one.ring, CL_RING_PRODUCER), 0);
    CHECK_IS(cl_ring_leave(one.ring, CL_RING_PRODUCER), 0);
    CHECK_IS(cl_ring_try_put(one.ring, "x", 1), -ENOTCONN);
    must_get(two, "last");
    CHECK_IS(get_fails(two), -EPIPE);
    CHECK_IS(cl_ring_wait(two.ring, CL_RING_CONSUMER, 0, -1), 1); /* to be told by trying */
    say_about("a side that was closed is taken anew");
    CHECK_IS(cl_ring_take(one.ring, CL_RING_PRODUCER), 0);
    CHECK_IS(get_fails(two), -EAGAIN);
    must_put(one, "next");
    must_get(two, "next");
    say_about("a consumer that closes");
    CHECK_IS(cl_ring_leave(two.ring, CL_RING_CONSUMER), 0);
    CHECK_IS(cl_ring_try_put(one.ring, "x", 1), -EPIPE);
    CHECK_IS(cl_ring_take(one.ring, CL_RING_CONSUMER), 0);
    must_put(one, "x");
    end_ring(two);
    end_ring(one);
}

/* Whoever drops its handle without a word is as dead as one that was killed. */
static void goes_on_where_it_was(void)
{
    say_about("a successor goes on behind what is there");
    ringed one = new_ring(PAGE), first = ring_again(fd_of(one)), second = ring_again(fd_of(one));
    CHECK_IS(cl_ring_take(one.ring, CL_RING_CONSUMER), 0);
    CHECK_IS(cl_ring_take(first.ring, CL_RING_PRODUCER), 0);
    must_put(first, "a");
    must_put(first, "b");
    end_ring(first);
    CHECK_IS(cl_ring_take(second.ring, CL_RING_PRODUCER), 1);
    must_put(second, "c");
    must_get(one, "a");
    must_get(one, "b");
    must_get(one, "c");
    CHECK_IS(get_fails(one), -EAGAIN);
    CHECK_IS(stats_of(one).producer.records, 3);
    end_ring(second);
    end_ring(one);
}

static void *leave_after_a_moment(void *ring)
{
    static _Atomic int turn;
    for (int64_t until = now_ns() + turn++ * 500; now_ns() < until;)
        continue;
    CHECK_IS(cl_ring_leave(ring, CL_RING_PRODUCER), 0);
    return NULL;
}

static void closing_is_not_dying(void)
{
    say_about("nobody who closes is taken for dead");
    for (int i = 0; i < 400; i++) {
        ringed one = new_ring(PAGE), two = ring_again(fd_of(one));
        pthread_t thread;
        int64_t rc;
        CHECK_IS(cl_ring_take(one.ring, CL_RING_PRODUCER), 0);
        CHECK_IS(cl_ring_take(two.ring, CL_RING_CONSUMER), 0);
        CHECK_IS(pthread_create(&thread, NULL, leave_after_a_moment, one.ring), 0);
        while ((rc = cl_ring_look(two.ring, CL_RING_CONSUMER, 0)) == 0)
            continue;
        CHECK_IS(rc, 1);
        CHECK_IS(get_fails(two), -EPIPE);
        CHECK_IS(pthread_join(thread, NULL), 0);
        end_ring(two);
        end_ring(one);
    }
}

static void *get_again_and_again(void *ring)
{
    char text[8];
    int64_t rc, needs;
    do {
        rc = cl_ring_try_get(ring, text, 8, &needs);
        if (rc == -ENOTCONN)
            rc = cl_ring_take(ring, CL_RING_CONSUMER);
        else if (rc == -EAGAIN)
            rc = cl_ring_wait(ring, CL_RING_CONSUMER, 0, -1);
    } while (rc >= 0 || rc == -ENOTCONN || rc == -EAGAIN || rc == -EINTR);
    CHECK_IS(rc, -EBADF);
    return NULL;
}

/* Its thread would take the side anew and wait for ever. */
static void closed_under_a_waiter(void)
{
    say_about("closing ends another thread's wait");
    for (int i = 0; i < 200; i++) {
        ringed one = new_ring(PAGE);
        pthread_t thread;
        CHECK_IS(pthread_create(&thread, NULL, get_again_and_again, one.ring), 0);
        for (int64_t until = now_ns() + i * 2000; now_ns() < until;)
            continue;
        CHECK_IS(cl_ring_close(one.ring), 0);
        CHECK_IS(pthread_join(thread, NULL), 0);
        CHECK_IS(stats_of(one).held[CL_RING_CONSUMER], 0);
        CHECK_IS(cl_ring_take(one.ring, CL_RING_PRODUCER), -EBADF);
        end_ring(one);
    }
}

static int is_readable(int64_t fd, int wait_ms)
{
    struct pollfd one = {.fd = (int)fd, .events = POLLIN};
    return (int)MUST(poll(&one, 1, wait_ms));
}

static void rings_a_bell(void)
{
    say_about("a descriptor is readable when there is something");
    int fds = count_fds();
    ringed one = new_ring(PAGE), two = ring_again(fd_of(one));
    CHECK_IS(cl_ring_poll_fd(two.ring, CL_RING_CONSUMER), -ENOTCONN);
    CHECK_IS(cl_ring_take(one.ring, CL_RING_PRODUCER), 0);
    CHECK_IS(cl_ring_take(two.ring, CL_RING_CONSUMER), 0);
    CHECK_IS(cl_ring_arm(two.ring, CL_RING_CONSUMER, 0), -EBADF);
    int64_t fd = cl_ring_poll_fd(two.ring, CL_RING_CONSUMER);
    CHECK(fd >= 0);
    CHECK_IS(cl_ring_poll_fd(two.ring, CL_RING_CONSUMER), fd);
    CHECK_IS(is_readable(fd, 0), 1);
    for (int i = 0; i < 3; i++) {
        CHECK_IS(cl_ring_silence(two.ring, CL_RING_CONSUMER), 0);
        CHECK_IS(cl_ring_arm(two.ring, CL_RING_CONSUMER, 0), 0);
        CHECK_IS(is_readable(fd, 0), 0);
        must_put(one, "x");
        must_put(one, "y");
        CHECK_IS(is_readable(fd, 0), 1);
        CHECK_IS(cl_ring_arm(two.ring, CL_RING_CONSUMER, 0), 1);
        must_get(two, "x");
        must_get(two, "y");
    }
    CHECK_IS(cl_ring_silence(two.ring, CL_RING_CONSUMER), 0);
    CHECK_IS(cl_ring_arm(two.ring, CL_RING_CONSUMER, 0), 0);
    CHECK_IS(cl_ring_leave(one.ring, CL_RING_PRODUCER), 0);
    CHECK_IS(is_readable(fd, 0), 1);
    CHECK_IS(cl_ring_arm(two.ring, CL_RING_CONSUMER, 0), 1);
    CHECK_IS(get_fails(two), -EPIPE);
    CHECK_IS(cl_ring_leave(two.ring, CL_RING_CONSUMER), 0);
    end_ring(two);
    end_ring(one);
    CHECK_IS(count_fds(), fds);
}

static void dies(int which, int holds_on)
{
    static const char *const names[] = {"producer", "consumer"};
    say_about("a %s that is killed", names[which]);
    int ends[2];
    char byte;
    make_pipe(ends);
    ringed one = new_ring(PAGE);
    CHECK_IS(cl_ring_take(one.ring, !which), 0);
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        ringed mine = ring_again(fd_of(one));
        CHECK_IS(cl_ring_take(mine.ring, which), 0);
        if (which == CL_RING_PRODUCER) {
            uint8_t *out;
            must_put(mine, "committed");
            CHECK_IS(cl_ring_reserve(mine.ring, 8, &out), 0);
            CHECK_IS(cl_ring_add(mine.ring, 8), 0); /* and never commits */
        }
        CHECK_IS(write(ends[1], "x", 1), 1);
        for (;;)
            pause();
    }
    CHECK_IS(read(ends[0], &byte, 1), 1);
    if (which == CL_RING_CONSUMER)
        while (cl_ring_try_put(one.ring, "xxxxxxxx", 8) == 0)
            continue;
    if (holds_on) { /* stopped is not dead */
        int status;
        MUST(kill(pid, SIGSTOP));
        MUST(waitpid(pid, &status, WUNTRACED));
        if (which == CL_RING_PRODUCER)
            must_get(one, "committed");
        int64_t deadline = soon(150 * MS), rc;
        while ((rc = cl_ring_wait(one.ring, !which, 8, deadline)) == -EINTR)
            continue;
        CHECK_IS(rc, -ETIMEDOUT);
        CHECK_IS(cl_ring_take(one.ring, which), -EBUSY);
    }
    MUST(kill(pid, SIGKILL));
    siginfo_t info;
    MUST(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT));
    if (which == CL_RING_PRODUCER && !holds_on)
        must_get(one, "committed");
    CHECK_IS(cl_ring_wait(one.ring, !which, 8, -1), -EOWNERDEAD); /* at once, and a zombie is dead */
    CHECK_IS(stats_of(one).pids[which], pid);
    CHECK_IS(stats_of(one).held[which], 0);
    CHECK_IS(stats_of(one).open[which], 1);
    MUST(waitpid(pid, NULL, 0));
    say_about("a %s's successor", names[which]);
    ringed next = ring_again(fd_of(one));
    CHECK_IS(cl_ring_take(next.ring, which), 1);
    CHECK_IS(ring_report(next).died[which], pid);
    if (which == CL_RING_PRODUCER) {
        must_put(next, "next");
        must_get(one, "next");
    } else {
        must_get(next, "xxxxxxxx");
        CHECK_IS(cl_ring_try_put(one.ring, "yyyyyyyy", 8), 0);
    }
    CHECK_IS(stats_of(one).producer.records, stats_of(one).consumer.records + stats_of(one).depth / 16);
    end_ring(next);
    end_ring(one);
    close(ends[0]);
    close(ends[1]);
}

/* Killed while the other side sleeps: it is told within 100 ms. */
static void dies_while_we_sleep(void)
{
    say_about("a producer that is killed while we sleep");
    int ends[2];
    char byte;
    make_pipe(ends);
    ringed one = new_ring(PAGE);
    CHECK_IS(cl_ring_take(one.ring, CL_RING_CONSUMER), 0);
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        ringed mine = ring_again(fd_of(one));
        CHECK_IS(cl_ring_take(mine.ring, CL_RING_PRODUCER), 0);
        CHECK_IS(write(ends[1], "x", 1), 1);
        uint64_t waits = stats_of(one).consumer.waits;
        while (stats_of(one).consumer.waits < waits + 1)
            nap(); /* counted when a wait ends: see to it that there was one */
        kill(getpid(), SIGKILL);
    }
    CHECK_IS(read(ends[0], &byte, 1), 1);
    CHECK_IS(cl_ring_wait(one.ring, CL_RING_CONSUMER, 0, soon(10 * MS)), -ETIMEDOUT);
    int64_t rc;
    while ((rc = cl_ring_wait(one.ring, CL_RING_CONSUMER, 0, -1)) == -EINTR)
        continue;
    CHECK_IS(rc, -EOWNERDEAD);
    MUST(waitpid(pid, NULL, 0));
    end_ring(one);
    close(ends[0]);
    close(ends[1]);
}

static void forked(void *argument)
{
    ringed one = *(ringed *)argument;
    CHECK_IS(cl_ring_try_put(one.ring, "x", 1), -ESTALE);
    CHECK_IS(cl_ring_wait(one.ring, CL_RING_PRODUCER, 1, -1), -ESTALE);
    CHECK_IS(cl_ring_take(one.ring, CL_RING_PRODUCER), -EBUSY); /* our parent has it, and lives */
    CHECK_IS(cl_ring_take(one.ring, CL_RING_CONSUMER), 0);
    must_get(one, "before");
    CHECK_IS(cl_ring_leave(one.ring, CL_RING_PRODUCER), 0); /* not ours: nobody is told anything */
    CHECK_IS(get_fails(one), -EAGAIN);
    end_ring(one);
}

static void is_not_inherited(void)
{
    say_about("a forked child has no side");
    ringed one = new_ring(PAGE);
    CHECK_IS(cl_ring_take(one.ring, CL_RING_PRODUCER), 0);
    must_put(one, "before");
    in_a_fork(forked, &one);
    must_put(one, "after");
    CHECK_IS(cl_ring_take(one.ring, CL_RING_CONSUMER), 1); /* the child has not closed it */
    must_get(one, "after");
    end_ring(one);
}

/* ---- strangers --------------------------------------------------------------------------------------------------------- */

enum { TAIL = 0, HEAD = 128 };

static uint64_t *word_at(ringed one, int at)
{
    cl_segment_report report;
    CHECK_IS(cl_segment_report_of(one.segment, &report), 0);
    return (uint64_t *)(void *)(report.data + at);
}

static void is_poisoned(const char *what, int at, uint64_t value, int consumer_sees, int fault)
{
    say_about("%s", what);
    ringed one = new_ring(PAGE), two = ring_again(fd_of(one));
    CHECK_IS(cl_ring_take(one.ring, CL_RING_PRODUCER), 0);
    CHECK_IS(cl_ring_take(two.ring, CL_RING_CONSUMER), 0);
    for (int i = 0; i < 3; i++)
        must_put(one, "12345678");
    must_get(two, "12345678");
    *word_at(one, at) = value;
    if (consumer_sees) {
        while (get_fails(two) == -EMSGSIZE) /* what it knew of is still good */
            must_get(two, "12345678");
        CHECK_IS(get_fails(two), -EBADMSG);
        CHECK_IS(cl_ring_wait(two.ring, CL_RING_CONSUMER, 0, -1), -EBADMSG);
        CHECK_IS(ring_report(two).fault, fault);
        CHECK_IS(cl_ring_take(two.ring, CL_RING_CONSUMER), -EBADMSG);
        CHECK_IS(cl_ring_leave(two.ring, CL_RING_CONSUMER), 0);
        CHECK_IS(cl_ring_try_put(one.ring, "x", 1), -EPIPE);
    } else {
        int64_t rc;
        while ((rc = cl_ring_try_put(one.ring, "12345678", 8)) == 0)
            continue;
        CHECK_IS(rc, -EBADMSG);
        CHECK_IS(ring_report(one).fault, fault);
    }
    end_ring(two);
    end_ring(one);
}

static void scribbled(void)
{
    is_poisoned("a tail too far", TAIL, 2 * PAGE, 1, CL_RING_DISTANCE);
    is_poisoned("a tail behind the head", TAIL, 8, 1, CL_RING_DISTANCE);
    is_poisoned("a crooked tail", TAIL, 3 * 16 + 4, 1, CL_RING_ALIGNMENT);
    is_poisoned("a head before the tail", HEAD, 4 * PAGE, 0, CL_RING_DISTANCE);
    is_poisoned("a head too far behind", HEAD, (uint64_t)-PAGE, 0, CL_RING_DISTANCE);
    is_poisoned("a crooked head", HEAD, 20, 0, CL_RING_ALIGNMENT);

    static const uint64_t lengths[] = {9, 16, PAGE, (uint64_t)1 << 63, UINT64_MAX, UINT64_MAX - 7};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        say_about("a length of %" PRIu64, lengths[i]);
        ringed one = both_sides(PAGE);
        uint8_t *out;
        char room[2 * PAGE];
        int64_t needs;
        CHECK_IS(cl_ring_reserve(one.ring, 8, &out), 0);
        must_put(one, "12345678");
        memcpy(out - 8, &lengths[i], 8);
        CHECK_IS(cl_ring_try_get(one.ring, room, sizeof room, &needs), -EBADMSG);
        CHECK_IS(ring_report(one).fault, CL_RING_LENGTH);
        CHECK_IS(ring_report(one).found, lengths[i]);
        CHECK_IS(cl_ring_try_put(one.ring, "x", 1), -EBADMSG);
        end_ring(one);
    }
}

static void no_ring_at_all(void)
{
    say_about("descriptions that are none");
    cl_ring_about good;
    CHECK_IS(cl_ring_describe(0, 0, &good), -EINVAL);
    CHECK_IS(cl_ring_describe(1LL << 60, 0, &good), -ENOMEM);
    CHECK_IS(cl_ring_describe(3 * PAGE, 0, &good), 0);
    CHECK(good.capacity >= 3 * PAGE);
    static const int64_t values[] = {0, -1, 1, 3, 4095, 4097, 8191, 1 << 20, INT64_MAX, INT64_MIN, 1LL << 40, 1LL << 62};
    for (size_t field = 0; field < 4; field++)
        for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
            ringed one = new_ring(PAGE), two = {0};
            cl_segment_report report;
            CHECK_IS(cl_segment_report_of(one.segment, &report), 0);
            int64_t *at = (int64_t *)(void *)(report.data - report.data_offset + CL_SEGMENT_ABOUT) + field;
            if (*at != values[i]) {
                *at = values[i];
                CHECK_IS(cl_ring_open(&two.ring, one.segment, 0), -EBADMSG);
            }
            end_ring(one);
        }
}

/* A segment may begin its data at any multiple of 64; the words of a ring lie on lines of 128. */
static void no_ring_between_lines(void)
{
    cl_ring_about about;
    cl_segment *segment;
    cl_ring *ring;
    say_about("one between two lines");
    CHECK_IS(cl_ring_describe(PAGE, 0, &about), 0);
    about.records += about.page;
    CHECK_IS(cl_segment_new(&segment), 0);
    cl_segment_plan plan = {.size = about.size + about.page, .data_offset = CL_SEGMENT_HEADER + 64,
                            .kind = CL_SEGMENT_RING, .layout = CL_RING_LAYOUT, .about = (const char *)&about,
                            .about_size = sizeof about, .owner = -1, .group = -1};
    CHECK_IS(cl_segment_create(segment, NULL, &plan), 0);
    CHECK_IS(cl_ring_open(&ring, segment, 0), -EBADMSG);
    cl_segment_free(segment);
}

static _Atomic int scribbling;

static void *scribble(void *argument)
{
    ringed one = *(ringed *)argument;
    cl_segment_report report;
    uint64_t seed = 42;
    CHECK_IS(cl_segment_report_of(one.segment, &report), 0);
    while (scribbling) {
        seed = seed * 6364136223846793005 + 1442695040888963407;
        uint64_t at = seed >> 33, value = seed << 20 >> 30;
        uint64_t *word = (uint64_t *)(void *)(report.data + at % (uint64_t)(report.size / 8) * 8);
        if (at % 7 == 0)
            word = word_at(one, at % 2 ? TAIL : HEAD);
        *(volatile uint64_t *)word = at % 3 ? value % 32 * 8 : value;
    }
    return NULL;
}

/* A stranger writes everywhere while both sides work: whatever they get, they stay in their memory and come back. */
static void concurrent_scribbler(void)
{
    say_about("a scribbler");
    for (int round = 0; round < 200; round++) {
        ringed one = new_ring(PAGE), two = ring_again(fd_of(one)), three = ring_again(fd_of(one));
        pthread_t thread;
        char room[3 * PAGE];
        int64_t needs;
        CHECK(cl_ring_take(one.ring, CL_RING_PRODUCER) >= 0);
        CHECK(cl_ring_take(two.ring, CL_RING_CONSUMER) >= 0);
        scribbling = 1;
        CHECK_IS(pthread_create(&thread, NULL, scribble, &three), 0);
        for (int i = 0; i < 300; i++) {
            int64_t rc = cl_ring_try_put(one.ring, room, i * 13 % PAGE / 4);
            CHECK(rc == 0 || rc == -EAGAIN || rc == -EBADMSG || rc == -EPIPE);
            rc = cl_ring_try_get(two.ring, room, sizeof room, &needs);
            CHECK((rc >= 0 && rc <= PAGE) || rc == -EAGAIN || rc == -EBADMSG || rc == -EPIPE);
            rc = cl_ring_wait(two.ring, CL_RING_CONSUMER, 0, 0);
            CHECK(rc == 1 || rc == -ETIMEDOUT || rc == -EBADMSG || rc == -EOWNERDEAD);
            stats_of(two);
        }
        scribbling = 0;
        CHECK_IS(pthread_join(thread, NULL), 0);
        end_ring(three);
        end_ring(two);
        end_ring(one);
    }
}

/* Whoever has no side must not write where it would be: he may not be able to, or it may be somebody else's. */
static void waits_for_no_side_of_its_own(void)
{
    say_about("a wait without a side");
    ringed one = new_ring(PAGE), two = {NULL, NULL};
    CHECK_IS(cl_segment_new(&two.segment), 0);
    CHECK_IS(cl_segment_attach(two.segment, fd_of(one), NULL, CL_SEGMENT_RING, CL_RING_LAYOUT, CL_SEGMENT_READ_ONLY), 0);
    two = ring_of(two.segment);
    for (int side = 0; side < CL_RING_SIDES; side++)
        CHECK_IS(cl_ring_wait(two.ring, side, 0, 0), -ENOTCONN);
    end_ring(two);
    end_ring(one);
}

int main(void)
{
    waits_for_no_side_of_its_own();
    in_and_out();
    every_size();
    many_at_once();
    two_threads(0);
    two_threads(20000);
    no_wake_up_is_lost();
    waits_no_longer();
    returns_at_a_signal();
    closed();
    goes_on_where_it_was();
    closing_is_not_dying();
    closed_under_a_waiter();
    rings_a_bell();
    dies(CL_RING_PRODUCER, 0);
    dies(CL_RING_CONSUMER, 0);
    dies(CL_RING_PRODUCER, 1);
    dies(CL_RING_CONSUMER, 1);
    dies_while_we_sleep();
    is_not_inherited();
    scribbled();
    no_ring_at_all();
    no_ring_between_lines();
    concurrent_scribbler();
    puts("ok");
    return 0;
}
