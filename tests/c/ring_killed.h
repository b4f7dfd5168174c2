/* What a victim does to a ring when it is killed, and what those who survive it must find: for the two programs that kill
 * it, one at each instruction, one at each fault point. */
#ifndef RING_KILLED_H
#define RING_KILLED_H

#include "ring.h"

enum { VICTIM_SIZE = 100 };

/* Of the victim: its own handle, attached after the fork; or the survivor's, which it inherited, if it is killed in attaching. */
typedef struct deed {
    const char *name;
    int side;              /* the victim's; the survivor has the other one */
    enum { HAS_IT, TAKES_IT, ATTACHES } begins; /* what it is killed in is the taking of its side; else it has it before */
    void (*before)(ringed survivor);
    void (*prepare)(ringed victim);
    void (*act)(ringed victim);
    int (*look)(ringed survivor); /* 1: it has happened, 0: it has not; anything else is a failure */
} deed;

static uint32_t turn; /* of the record: each is another one */

HELPER void fill(uint8_t record[VICTIM_SIZE])
{
    for (int i = 0; i < VICTIM_SIZE; i++)
        record[i] = (uint8_t)(turn * 13 + (uint32_t)i * 7);
}

HELPER void put_record(ringed one)
{
    uint8_t record[VICTIM_SIZE];
    fill(record);
    CHECK_IS(cl_ring_try_put(one.ring, record, VICTIM_SIZE), 0);
}

/* 1: the whole record, 0: none. */
HELPER int get_record(ringed one)
{
    uint8_t record[VICTIM_SIZE], found[4096];
    int64_t needs;
    fill(record);
    int64_t rc = cl_ring_try_get(one.ring, found, sizeof found, &needs);
    if (rc == -EAGAIN || rc == -EPIPE)
        return 0;
    CHECK_IS(rc, VICTIM_SIZE);
    CHECK(memcmp(record, found, VICTIM_SIZE) == 0);
    return 1;
}

HELPER void no_preparation(ringed one)
{
    (void)one;
}

/* The bit of a consumer that sleeps, put there by hand: the victim will wake it. */
HELPER void sleepy(ringed one)
{
    enum { CONSUMERS_WORD = 3 * 128, SLEEP = 1 };
    cl_segment_report report;
    CHECK_IS(cl_segment_report_of(one.segment, &report), 0);
    *(uint32_t *)(void *)(report.data + CONSUMERS_WORD) |= SLEEP;
}

/* It waits for its descriptor: the victim will ring its bell. */
HELPER void listening(ringed one)
{
    CHECK(cl_ring_poll_fd(one.ring, CL_RING_CONSUMER) >= 0);
    CHECK_IS(cl_ring_arm(one.ring, CL_RING_CONSUMER, 0), 0);
}

HELPER void get_and_drop(ringed one)
{
    get_record(one);
}

HELPER void leave_producer(ringed one)
{
    cl_ring_leave(one.ring, CL_RING_PRODUCER);
}

HELPER void leave_consumer(ringed one)
{
    cl_ring_leave(one.ring, CL_RING_CONSUMER);
}

HELPER void take_producer(ringed one)
{
    cl_ring_take(one.ring, CL_RING_PRODUCER);
}

HELPER void take_consumer(ringed one)
{
    cl_ring_take(one.ring, CL_RING_CONSUMER);
}

HELPER void attach_and_take_producer(ringed inherited)
{
    take_producer(ring_again(fd_of(inherited)));
}

HELPER void attach_and_take_consumer(ringed inherited)
{
    take_consumer(ring_again(fd_of(inherited)));
}

HELPER void wait_a_moment(ringed one)
{
    cl_ring_wait(one.ring, CL_RING_CONSUMER, 0, 0);
}

HELPER void put_two(ringed one)
{
    uint8_t *out;
    for (int i = 0; i < 2; i++) {
        CHECK_IS(cl_ring_reserve(one.ring, VICTIM_SIZE, &out), 0);
        fill(out);
        CHECK_IS(cl_ring_add(one.ring, VICTIM_SIZE), 0);
    }
    cl_ring_commit(one.ring);
}

HELPER int was_put(ringed one)
{
    int found = get_record(one);
    CHECK_IS(get_record(one), 0);
    CHECK_IS(cl_ring_wait(one.ring, CL_RING_CONSUMER, 0, -1), -EOWNERDEAD); /* it cannot have closed it */
    return found;
}

HELPER int two_were_put(ringed one)
{
    int found = get_record(one);
    CHECK_IS(get_record(one), found); /* both or none: one commit */
    CHECK_IS(get_record(one), 0);
    return found;
}

HELPER int was_got(ringed one)
{
    CHECK(cl_ring_take(one.ring, CL_RING_CONSUMER) == 1);
    int there = get_record(one);
    CHECK_IS(get_record(one), 0);
    return !there;
}

HELPER int was_taken(ringed one)
{
    cl_ring_stats stats = stats_of(one);
    int opened = stats.open[CL_RING_PRODUCER];
    CHECK_IS(stats.held[CL_RING_PRODUCER], 0);
    CHECK_IS(cl_ring_wait(one.ring, CL_RING_CONSUMER, 0, now_ns() + MS), opened ? -EOWNERDEAD : stats.closed[0] ? 1 : -ETIMEDOUT);
    return opened;
}

HELPER int consumer_was_taken(ringed one)
{
    cl_ring_stats stats = stats_of(one);
    CHECK_IS(stats.held[CL_RING_CONSUMER], 0);
    return stats.open[CL_RING_CONSUMER];
}

HELPER int was_left(ringed one)
{
    CHECK_IS(get_record(one), 1); /* what it had put before is there in any case */
    int64_t rc = get_fails(one);
    CHECK(rc == -EPIPE || rc == -EAGAIN);
    CHECK_IS(cl_ring_wait(one.ring, CL_RING_CONSUMER, 0, -1), rc == -EPIPE ? 1 : -EOWNERDEAD);
    return rc == -EPIPE;
}

HELPER int consumer_was_left(ringed one)
{
    cl_ring_stats stats = stats_of(one);
    CHECK_IS(stats.held[CL_RING_CONSUMER], 0);
    CHECK(stats.open[CL_RING_CONSUMER] != stats.closed[CL_RING_CONSUMER]);
    return stats.closed[CL_RING_CONSUMER];
}

static const deed deeds[] = {
    {"put", CL_RING_PRODUCER, HAS_IT, no_preparation, no_preparation, put_record, was_put},
    {"put, and wake", CL_RING_PRODUCER, HAS_IT, sleepy, no_preparation, put_record, was_put},
    {"put, and ring a bell", CL_RING_PRODUCER, HAS_IT, listening, no_preparation, put_record, was_put},
    {"put two at once", CL_RING_PRODUCER, HAS_IT, no_preparation, no_preparation, put_two, two_were_put},
    {"get", CL_RING_CONSUMER, HAS_IT, put_record, no_preparation, get_and_drop, was_got},
    {"wait", CL_RING_CONSUMER, HAS_IT, no_preparation, no_preparation, wait_a_moment, NULL},
    {"take the producer's side", CL_RING_PRODUCER, TAKES_IT, no_preparation, no_preparation, take_producer, was_taken},
    {"take the consumer's side", CL_RING_CONSUMER, TAKES_IT, no_preparation, no_preparation, take_consumer, consumer_was_taken},
    {"attach, take the producer's side", CL_RING_PRODUCER, ATTACHES, no_preparation, no_preparation, attach_and_take_producer,
     was_taken},
    {"attach, take the consumer's side", CL_RING_CONSUMER, ATTACHES, no_preparation, no_preparation, attach_and_take_consumer,
     consumer_was_taken},
    {"close as producer", CL_RING_PRODUCER, HAS_IT, sleepy, put_record, leave_producer, was_left},
    {"close as consumer", CL_RING_CONSUMER, HAS_IT, no_preparation, no_preparation, leave_consumer, consumer_was_left},
};
enum { DEEDS = sizeof deeds / sizeof *deeds };

HELPER ringed survivor_of(const deed *each)
{
    ringed one = new_ring(1);
    CHECK_IS(cl_ring_take(one.ring, !each->side), 0);
    each->before(one);
    return one;
}

/* In the child. */
HELPER ringed victim_of(const deed *each, ringed survivor)
{
    if (each->begins == ATTACHES)
        return survivor;
    ringed mine = ring_again(fd_of(survivor));
    if (each->begins == HAS_IT)
        CHECK(cl_ring_take(mine.ring, each->side) >= 0);
    each->prepare(mine);
    return mine;
}

/* After its death: whether the deed was done; and a successor goes on. */
HELPER int survive(const deed *each, ringed one, pid_t victim)
{
    int done = each->look ? each->look(one) : 0;
    CHECK(done == 0 || done == 1);
    int64_t rc = cl_ring_take(one.ring, each->side);
    CHECK(rc == 0 || rc == 1);
    if (rc == 1)
        CHECK_IS(ring_report(one).died[each->side], victim);
    while (get_record(one))
        continue;
    turn++;
    put_record(one);
    CHECK_IS(get_record(one), 1);
    CHECK_IS(get_record(one), 0);
    CHECK_IS(stats_of(one).depth, 0);
    end_ring(one);
    return done;
}

#endif
