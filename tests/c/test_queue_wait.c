/* Waiting for a queue: what is looked at is what a try would find; who waits is woken, learns of deaths, and is told so through a
 * descriptor; and records of one size. */
#include "check.h"

#include <pthread.h>

#include "queue.h"

enum { SLOTS = 4, SIZE = 16 };

typedef struct handle {
    cl_segment *segment;
    cl_queue *queue;
} handle;

static handle open_in(cl_segment *segment)
{
    handle made = {segment, NULL};
    CHECK_IS(cl_queue_open(&made.queue, segment), 0);
    CHECK(cl_queue_join(made.queue) > 0);
    return made;
}

static handle make(int32_t flags)
{
    cl_queue_plan plan = {.slots = SLOTS, .slot_size = SIZE, .members = 16, .flags = flags};
    cl_segment_plan whole = {.mode = 0600, .owner = -1, .group = -1};
    cl_segment *segment;
    CHECK_IS(cl_queue_describe(&plan, &whole), 0);
    CHECK_IS(cl_segment_new(&segment), 0);
    CHECK_IS(cl_segment_create(segment, NULL, &whole), 0);
    return open_in(segment);
}

static handle join(const handle *from)
{
    cl_segment_report report;
    cl_segment *segment;
    CHECK_IS(cl_segment_report_of(from->segment, &report), 0);
    CHECK_IS(cl_segment_new(&segment), 0);
    CHECK_IS(cl_segment_attach(segment, (int)report.fd, NULL, CL_SEGMENT_QUEUE, 0, 0), 0);
    return open_in(segment);
}

static void drop(handle *one)
{
    cl_queue_free(one->queue);
    cl_segment_free(one->segment);
    *one = (handle){0};
}

static int64_t put(const handle *one, uint32_t value)
{
    return cl_queue_try_put(one->queue, &value, sizeof value);
}

static int64_t get(const handle *one)
{
    uint8_t room[SIZE];
    uint32_t value;
    int64_t rc = cl_queue_try_get(one->queue, room, sizeof room);
    if (rc < 0)
        return rc;
    memcpy(&value, room, sizeof value);
    return value;
}

static int64_t wait_for(const handle *one, int32_t what, int64_t span)
{
    int64_t rc, deadline = now_ns() + span;
    while ((rc = cl_queue_wait(one->queue, what, deadline)) == -EINTR)
        continue;
    return rc;
}

/* ---- looking ------------------------------------------------------------------------------------------------------------- */

static uint64_t seed = 88172645463325252ULL;

static uint64_t next_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    return seed ^= seed << 17;
}

/* Nothing is missed: if a look says no, a try says so too. And nobody goes round for ever: after a few tries in vain a look says
 * no. */
static void agree(const handle *one)
{
    cl_queue_claim claim;
    for (int what = 0; what < 2; what++) {
        int64_t found = 1, tried = -EAGAIN;
        for (int i = 0; i < 4 && found == 1 && tried == -EAGAIN; i++) {
            found = cl_queue_look(one->queue, what);
            CHECK(found == 0 || found == 1);
            tried = what == CL_QUEUE_FOR_RECORD ? cl_queue_peek(one->queue, &claim) : cl_queue_reserve(one->queue, &claim);
            CHECK(found == 1 || tried == -EAGAIN);
        }
        CHECK(found == 0 || tried != -EAGAIN);
        if (tried == 0)
            CHECK_IS(what == CL_QUEUE_FOR_RECORD ? cl_queue_give_back(one->queue, &claim) : cl_queue_cancel(one->queue, &claim), 0);
    }
}

static void looks_as_it_tries(int32_t flags)
{
    for (int round = 0; round < 400; round++) {
        handle all[2] = {make(flags)};
        cl_queue_claim held[3];
        int state[3] = {0}; /* 1: reserved, 2: peeked */
        all[1] = join(&all[0]);
        for (int turn = 0; turn < 60; turn++) {
            say_about("round %d, turn %d", round, turn);
            const handle *one = &all[next_random() % 2];
            unsigned i = next_random() % 3;
            switch (next_random() % 6) {
            case 0:
            case 1:
                put(one, 1);
                break;
            case 2:
                get(one);
                break;
            case 3: /* by the first handle always, so that it may end them */
                if (!state[i])
                    state[i] = cl_queue_reserve(all[0].queue, &held[i]) == 0;
                break;
            case 4:
                if (!state[i])
                    state[i] = 2 * (cl_queue_peek(all[0].queue, &held[i]) == 0);
                break;
            default:
                if (state[i] == 1)
                    CHECK_IS(next_random() % 2 ? cl_queue_commit(all[0].queue, &held[i], 1) : cl_queue_cancel(all[0].queue, &held[i]), 0);
                if (state[i] == 2)
                    CHECK_IS(next_random() % 2 ? cl_queue_release(all[0].queue, &held[i]) : cl_queue_give_back(all[0].queue, &held[i]), 0);
                state[i] = 0;
            }
            if (turn == 50 && round % 4 == 0)
                CHECK_IS(cl_queue_shut(one->queue), 0);
            if (next_random() % 2)
                agree(one);
        }
        drop(&all[1]);
        drop(&all[0]);
    }
}

/* ---- waking ---------------------------------------------------------------------------------------------------------------- */

typedef struct sleeper {
    handle one;
    int32_t what;
    int64_t rc;
    pthread_t thread;
} sleeper;

static void *sleep_in_it(void *argument)
{
    sleeper *self = argument;
    self->rc = wait_for(&self->one, self->what, PATIENCE);
    return NULL;
}

static void asleep(const handle *one, int32_t what)
{
    _Atomic uint32_t *word = what == CL_QUEUE_FOR_ROOM ? &one->queue->shared->not_full : &one->queue->shared->not_empty;
    EVENTUALLY(cl__load(word) & CL__SLEEP);
}

static void begin(sleeper *self, handle one, int32_t what)
{
    self->one = one;
    self->what = what;
    MUST(-pthread_create(&self->thread, NULL, sleep_in_it, self));
    asleep(&one, what);
}

static int64_t end(sleeper *self)
{
    MUST(-pthread_join(self->thread, NULL));
    return self->rc;
}

static void wakes_who_waits(int64_t spin)
{
    say_about("waiting with a spin of %" PRId64 " ns", spin);
    handle one = make(0), two = join(&one);
    sleeper first, second;
    cl_queue_set_spin(two.queue, spin);
    CHECK_IS(cl_queue_wait(two.queue, CL_QUEUE_FOR_ROOM, 0), 1);
    CHECK_IS(cl_queue_wait(two.queue, CL_QUEUE_FOR_RECORD, 0), -ETIMEDOUT);
    CHECK_IS(cl_queue_wait(two.queue, 2, 0), -EINVAL);
    CHECK_IS(wait_for(&two, CL_QUEUE_FOR_RECORD, 3 * MS), -ETIMEDOUT);
    begin(&first, two, CL_QUEUE_FOR_RECORD);
    begin(&second, two, CL_QUEUE_FOR_RECORD);
    CHECK_IS(put(&one, 1), 0);
    CHECK_IS(end(&first), 1);
    CHECK_IS(end(&second), 1);
    for (uint32_t i = 1; i < SLOTS; i++)
        CHECK_IS(put(&one, i), 0);
    begin(&first, two, CL_QUEUE_FOR_ROOM);
    CHECK_IS(get(&one), 1);
    CHECK_IS(end(&first), 1);
    CHECK_IS(put(&one, 9), 0);
    begin(&first, two, CL_QUEUE_FOR_ROOM);
    CHECK_IS(cl_queue_shut(one.queue), 0);
    CHECK_IS(end(&first), 1);
    CHECK_IS(put(&two, 1), -EPIPE);
    cl_queue_report report;
    CHECK_IS(cl_queue_report_of(one.queue, &report), 0);
    CHECK(report.get_wakes >= 1 && report.put_wakes >= 2);
    drop(&two);
    drop(&one);
}

static void leaving_ends_a_wait(void)
{
    say_about("a wait in a handle that leaves");
    handle one = make(0);
    sleeper first;
    begin(&first, one, CL_QUEUE_FOR_RECORD);
    cl_queue_leave(one.queue);
    CHECK_IS(end(&first), -ENOTCONN);
    CHECK_IS(cl_queue_wait(one.queue, CL_QUEUE_FOR_RECORD, -1), -ENOTCONN);
    drop(&one);
}

/* The record that another one has may come back, or be the last: who waits is told by nobody, and looks. */
static void waits_for_the_end(void)
{
    say_about("a queue that is shut, and whose last record somebody has");
    handle one = make(0), two = join(&one);
    cl_queue_claim claim;
    sleeper first;
    CHECK_IS(put(&one, 5), 0);
    CHECK_IS(cl_queue_peek(one.queue, &claim), 0);
    CHECK_IS(cl_queue_shut(one.queue), 0);
    CHECK_IS(cl_queue_look(two.queue, CL_QUEUE_FOR_RECORD), 0);
    begin(&first, two, CL_QUEUE_FOR_RECORD);
    CHECK_IS(cl_queue_release(one.queue, &claim), 0);
    CHECK_IS(end(&first), 1);
    CHECK_IS(get(&two), -EPIPE);
    drop(&two);
    drop(&one);
}

static void a_record_that_is_given_back_wakes(void)
{
    say_about("giving back");
    handle one = make(0), two = join(&one);
    cl_queue_claim claim;
    sleeper first;
    CHECK_IS(put(&one, 5), 0);
    CHECK_IS(cl_queue_peek(one.queue, &claim), 0);
    begin(&first, two, CL_QUEUE_FOR_RECORD);
    CHECK_IS(cl_queue_give_back(one.queue, &claim), 0);
    CHECK_IS(end(&first), 1);
    CHECK_IS(get(&two), 5);
    drop(&two);
    drop(&one);
}

/* ---- deaths ---------------------------------------------------------------------------------------------------------------- */

/* The least of some rounds: on a machine that does much else, one is late for other reasons. */
static void learns_of_a_death(int32_t what)
{
    say_about("behind the slot of a dead one, waiting for %s", what ? "room" : "a record");
    int64_t least = PATIENCE;
    for (int round = 0; round < 10; round++) {
        handle one = make(what ? CL_QUEUE_AT_MOST_ONCE : 0), two = join(&one); /* else a record comes back, and no room */
        cl_queue_claim claim;
        int pipe_ends[2], status;
        char byte;
        if (what == CL_QUEUE_FOR_ROOM)
            for (uint32_t i = 0; i < SLOTS; i++)
                CHECK_IS(put(&one, i), 0);
        MUST(pipe(pipe_ends));
        pid_t pid = MUST(fork());
        if (pid == 0) {
            CHECK(cl_queue_join(one.queue) > 0);
            CHECK_IS(what ? cl_queue_peek(one.queue, &claim) : cl_queue_reserve(one.queue, &claim), 0);
            MUST(write(pipe_ends[1], "", 1));
            for (;;)
                pause();
        }
        CHECK_IS(read(pipe_ends[0], &byte, 1), 1);
        if (what == CL_QUEUE_FOR_RECORD)
            CHECK_IS(put(&one, 7), 0); /* behind it */
        CHECK_IS(wait_for(&two, what, 5 * MS), -ETIMEDOUT); /* it lives, and is not robbed */
        MUST(kill(pid, SIGKILL));
        int64_t began = now_ns();
        CHECK_IS(wait_for(&two, what, PATIENCE), 1);
        while ((what ? put(&two, 7) : get(&two)) == -EAGAIN)
            CHECK_IS(wait_for(&two, what, PATIENCE), 1);
        int64_t took = now_ns() - began;
        least = took < least ? took : least;
        MUST(waitpid(pid, &status, 0));
        close(pipe_ends[0]);
        close(pipe_ends[1]);
        drop(&two);
        drop(&one);
    }
    CHECK(least < (SANITIZED ? 50 : 5) * MS);
}

static void is_interrupted(void)
{
    say_about("a wait returns every 100 ms, also behind a slot");
    handle one = make(0), two = join(&one);
    cl_queue_claim claim;
    for (int held = 0; held < 2; held++) {
        int64_t began = now_ns();
        CHECK_IS(cl_queue_wait(two.queue, CL_QUEUE_FOR_RECORD, -1), -EINTR);
        CHECK(now_ns() - began >= 50 * MS);
        if (!held)
            CHECK_IS(cl_queue_reserve(one.queue, &claim), 0);
    }
    CHECK_IS(cl_queue_cancel(one.queue, &claim), 0);
    drop(&two);
    drop(&one);
}

/* ---- descriptors --------------------------------------------------------------------------------------------------------- */

static int is_readable(int64_t fd)
{
    struct pollfd one = {.fd = (int)fd, .events = POLLIN};
    return MUST(poll(&one, 1, 0));
}

static void rings_a_bell(void)
{
    say_about("a descriptor is readable when there is something");
    int fds = count_fds();
    handle one = make(0), two = join(&one);
    for (int32_t what = 0; what < 2; what++) {
        CHECK_IS(cl_queue_arm(two.queue, what), -EBADF);
        int64_t fd = cl_queue_poll_fd(two.queue, what);
        CHECK(fd >= 0);
        CHECK_IS(cl_queue_poll_fd(two.queue, what), fd);
        CHECK_IS(is_readable(fd), 1);
        for (int i = 0; i < 3; i++) {
            CHECK_IS(cl_queue_silence(two.queue, what), 0);
            CHECK_IS(is_readable(fd), 0);
            CHECK_IS(cl_queue_arm(two.queue, what), 0);
            CHECK_IS(put(&one, 1), 0);
            CHECK_IS(get(&one), 1);
            CHECK_IS(is_readable(fd), 1);
        }
    }
    int64_t fd = cl_queue_poll_fd(two.queue, CL_QUEUE_FOR_RECORD);
    CHECK_IS(cl_queue_silence(two.queue, CL_QUEUE_FOR_RECORD), 0);
    CHECK_IS(cl_queue_arm(two.queue, CL_QUEUE_FOR_RECORD), 0);
    CHECK_IS(cl_queue_shut(one.queue), 0);
    CHECK_IS(is_readable(fd), 1);
    CHECK_IS(cl_queue_poll_fd(two.queue, 2), -EINVAL);
    cl_queue_leave(two.queue);
    CHECK_IS(cl_queue_poll_fd(two.queue, 0), -ENOTCONN);
    drop(&two);
    drop(&one);
    CHECK_IS(count_fds(), fds);
}

/* ---- records of one size --------------------------------------------------------------------------------------------------- */

static void takes_records(int32_t flags)
{
    say_about("records of one size");
    handle one = make(flags);
    uint64_t in[SLOTS + 2] = {1, 2, 3, 4, 5, 6}, out[8] = {0};
    int64_t needs = 0;
    CHECK_IS(cl_queue_put_records(one.queue, in, 8, 0), 0);
    CHECK_IS(cl_queue_put_records(one.queue, in, SIZE + 1, 1), -EMSGSIZE);
    CHECK_IS(cl_queue_get_records(one.queue, out, 8, 8, &needs), -EAGAIN);
    CHECK_IS(cl_queue_put_records(one.queue, in, 8, SLOTS + 2), SLOTS);
    CHECK_IS(cl_queue_put_records(one.queue, in, 8, 1), -EAGAIN);
    CHECK_IS(cl_queue_get_records(one.queue, out, 8, 3, &needs), 3);
    CHECK(memcmp(in, out, 3 * 8) == 0);
    CHECK_IS(put(&one, 77), 0); /* of 4 bytes */
    CHECK_IS(cl_queue_put_records(one.queue, in, 8, 1), 1);
    CHECK_IS(cl_queue_get_records(one.queue, out, 8, 8, &needs), 1);
    CHECK_IS(out[0], 4);
    CHECK_IS(cl_queue_get_records(one.queue, out, 8, 8, &needs), -EMSGSIZE);
    CHECK_IS(needs, 4);
    CHECK_IS(get(&one), 77); /* it has stayed where it was */
    CHECK_IS(cl_queue_get_records(one.queue, out, 8, 8, &needs), 1);
    CHECK_IS(out[0], 1);
    cl_queue_report report;
    CHECK_IS(cl_queue_report_of(one.queue, &report), 0);
    CHECK_IS(report.redelivered + report.lost, 0);
    CHECK_IS(report.dequeued, 6);
    drop(&one);
}

int main(void)
{
    looks_as_it_tries(0);
    looks_as_it_tries(CL_QUEUE_AT_MOST_ONCE);
    wakes_who_waits(0);
    wakes_who_waits(50000);
    leaving_ends_a_wait();
    waits_for_the_end();
    a_record_that_is_given_back_wakes();
    learns_of_a_death(CL_QUEUE_FOR_RECORD);
    learns_of_a_death(CL_QUEUE_FOR_ROOM);
    is_interrupted();
    rings_a_bell();
    takes_records(0);
    takes_records(CL_QUEUE_AT_MOST_ONCE);
    puts("ok");
    return 0;
}
