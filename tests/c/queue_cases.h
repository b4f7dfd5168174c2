/* A queue with a victim in it that is killed somewhere, and what those who survive it must find: for the programs that differ
 * in how they kill. */
#ifndef QUEUE_CASES_H
#define QUEUE_CASES_H

#include "check.h"
#include "queue.h"

enum { SLOTS = 4, SIZE = 64, WORDS = SIZE / 4 };

typedef struct handle {
    cl_segment *segment;
    cl_queue *queue;
} handle;

typedef struct record {
    uint32_t word[WORDS]; /* all the same: else it is torn */
} record;

static cl_queue_plan plan;

struct killed_case;
/* The program's own: a child, which inherits our objects and becomes a participant of its own if the case says so, does the
 * case's work until its k-th something, and is killed there. 0: it got through. */
static int live_until(const struct killed_case *this, handle *inherited, int64_t k);

HELPER void begin_life(cl_queue *queue, int joins)
{
    if (joins)
        CHECK(cl_queue_join(queue) > 0);
    queue->members.owner_asked_at = queue->members.all_asked_at = 0; /* it is time to ask */
}

static handle make(int32_t flags, int32_t members)
{
    handle made;
    cl_segment_plan whole = {.mode = 0600, .owner = -1, .group = -1};
    plan = (cl_queue_plan){.slots = SLOTS, .slot_size = SIZE, .members = members, .flags = flags};
    CHECK_IS(cl_queue_describe(&plan, &whole), 0);
    CHECK_IS(cl_segment_new(&made.segment), 0);
    CHECK_IS(cl_segment_create(made.segment, NULL, &whole), 0);
    CHECK_IS(cl_queue_open(&made.queue, made.segment), 0);
    CHECK(cl_queue_join(made.queue) > 0);
    return made;
}

static void drop(handle *one)
{
    cl_queue_free(one->queue);
    cl_segment_free(one->segment);
    *one = (handle){0};
}

static cl_queue_report look(const handle *one)
{
    cl_queue_report report;
    CHECK_IS(cl_queue_report_of(one->queue, &report), 0);
    return report;
}

static int64_t put(cl_queue *queue, uint32_t value)
{
    record made;
    for (int i = 0; i < WORDS; i++)
        made.word[i] = value;
    return cl_queue_try_put(queue, &made, sizeof made);
}

static int64_t get(cl_queue *queue)
{
    record got;
    int64_t rc = cl_queue_try_get(queue, &got, sizeof got);
    if (rc < 0)
        return rc;
    CHECK_IS(rc, sizeof got);
    for (int i = 0; i < WORDS; i++)
        CHECK_IS(got.word[i], got.word[0]); /* not torn */
    return got.word[0];
}

/* ---- what the survivor must find ----------------------------------------------------------------------------------------- */

/* All that is there, until it is surely empty: until it says so with nobody left to be asked. */
static int drain(handle *one, uint32_t *values, int most)
{
    int count = 0;
    int64_t until = now_ns() + PATIENCE;
    for (;;) {
        int64_t rc = get(one->queue);
        if (rc >= 0) {
            CHECK(count < most);
            values[count++] = (uint32_t)rc;
            continue;
        }
        CHECK_IS(rc, -EAGAIN);
        one->queue->members.owner_asked_at = one->queue->members.all_asked_at = 0; /* it is time again */
        rc = cl_queue_recover(one->queue);
        CHECK(rc >= 0);
        cl_queue_report report = look(one);
        if (rc == 0 && report.size == 0 && report.joined == 1)
            break;
        CHECK(now_ns() < until);
    }
    return count;
}

static void has_all_slots(handle *one)
{
    for (int lap = 0; lap < 2; lap++) {
        for (uint32_t i = 0; i < SLOTS; i++)
            CHECK_IS(put(one->queue, i), 0);
        CHECK_IS(put(one->queue, 99), -EAGAIN);
        CHECK_IS(cl_queue_blocked_by(one->queue), 0);
        for (uint32_t i = 0; i < SLOTS; i++)
            CHECK_IS(get(one->queue), i);
        CHECK_IS(get(one->queue), -EAGAIN);
    }
}

/* ---- the works -------------------------------------------------------------------------------------------------------------- */

static void puts_one(cl_queue *queue)
{
    CHECK_IS(put(queue, 50), 0);
}

static void gets_one(cl_queue *queue)
{
    CHECK_IS(get(queue), 10);
}

static void peeks_and_gives_back(cl_queue *queue)
{
    cl_queue_claim claim;
    CHECK_IS(cl_queue_peek(queue, &claim), 0);
    CHECK_IS(cl_queue_give_back(queue, &claim), 0);
}

static void reserves_and_cancels(cl_queue *queue)
{
    cl_queue_claim claim;
    CHECK_IS(cl_queue_reserve(queue, &claim), 0);
    CHECK_IS(cl_queue_cancel(queue, &claim), 0);
}

static void registers(cl_queue *queue)
{
    CHECK(cl_queue_join(queue) > 0);
}

/* As another program does that was passed the descriptor. */
static void attaches_and_registers(cl_queue *inherited)
{
    handle mine;
    CHECK_IS(cl_segment_new(&mine.segment), 0);
    CHECK_IS(cl_segment_attach(mine.segment, cl__segment_fd(inherited->members.segment), NULL, CL_SEGMENT_QUEUE, 0, 0), 0);
    CHECK_IS(cl_queue_open(&mine.queue, mine.segment), 0);
    CHECK(cl_queue_join(mine.queue) > 0);
}

static void leaves(cl_queue *queue)
{
    cl_queue_claim claim;
    CHECK_IS(cl_queue_peek(queue, &claim), 0);
    cl_queue_leave(queue);
}

static void recovers(cl_queue *queue)
{
    CHECK(cl_queue_recover(queue) >= 1);
}

/* With a dead one in the way; it is get and put themselves that recover. */
static void gets_past_the_dead(cl_queue *queue)
{
    CHECK(get(queue) >= 0);
}

static void puts_past_the_dead(cl_queue *queue)
{
    CHECK_IS(put(queue, 50), 0);
}

/* ---- the cases --------------------------------------------------------------------------------------------------------------- */

typedef struct killed_case {
    const char *what;
    void (*work)(cl_queue *);
    int joins;         /* the victim is a participant before it is stepped */
    int puts;          /* records that are there: 10, 11, ... */
    int dead_reader, dead_writer; /* before it comes: participants that died with a slot of each kind, in this order */
    int wraps;         /* records more, so that the tail comes round to the dead one's slot */
    uint32_t extra;    /* the record that the victim puts, or 0 */
    int takes;         /* the victim may have taken one record for itself */
    int32_t flags, members;
} killed_case;

static const killed_case cases[] = {
    {.what = "put", .work = puts_one, .joins = 1, .puts = 2, .extra = 50},
    {.what = "get", .work = gets_one, .joins = 1, .puts = 2, .takes = 1},
    {.what = "get, at most once", .work = gets_one, .joins = 1, .puts = 2, .takes = 1, .flags = CL_QUEUE_AT_MOST_ONCE},
    {.what = "peek and give back", .work = peeks_and_gives_back, .joins = 1, .puts = 2},
    {.what = "reserve and cancel", .work = reserves_and_cancels, .joins = 1, .puts = 1},
    {.what = "register", .work = registers, .puts = 1},
    {.what = "register in a dead one's place", .work = registers, .puts = 2, .dead_reader = 1, .dead_writer = 1, .members = 3},
    {.what = "attach and register", .work = attaches_and_registers, .puts = 1},
    {.what = "attach and register in a dead one's place", .work = attaches_and_registers, .puts = 2, .dead_reader = 1,
     .dead_writer = 1, .members = 3},
    {.what = "leave", .work = leaves, .joins = 1, .puts = 2},
    {.what = "recover", .work = recovers, .joins = 1, .puts = 2, .dead_reader = 1, .dead_writer = 1},
    {.what = "recover, at most once", .work = recovers, .joins = 1, .puts = 2, .dead_reader = 1, .dead_writer = 1,
     .flags = CL_QUEUE_AT_MOST_ONCE},
    {.what = "get past a dead producer", .work = gets_past_the_dead, .joins = 1, .dead_writer = 1, .wraps = 1, .takes = 1},
    {.what = "get what a dead consumer had", .work = gets_past_the_dead, .joins = 1, .puts = 1, .dead_reader = 1, .takes = 1},
    {.what = "put past a dead producer", .work = puts_past_the_dead, .joins = 1, .dead_writer = 1, .wraps = SLOTS - 1,
     .extra = 50},
};

/* A participant that dies with a slot. */
static void die_with_a_slot(handle *one, int reads)
{
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        cl_queue_claim claim;
        CHECK(cl_queue_join(one->queue) > 0);
        CHECK_IS(reads ? cl_queue_peek(one->queue, &claim) : cl_queue_reserve(one->queue, &claim), 0);
        if (!reads)
            memset(claim.data, 0xee, 20); /* half a record */
        _exit(0);
    }
    int status;
    MUST(waitpid(pid, &status, 0));
    CHECK_IS(status, 0);
}

static int among(const uint32_t *values, int count, uint32_t value)
{
    int times = 0;
    for (int i = 0; i < count; i++)
        times += values[i] == value;
    return times;
}

/* What was put before must be there, each once; but for one that the victim may have got, and what is lost at most once. */
static void must_be_all(const killed_case *this, const uint32_t *values, int count, int ended)
{
    int lost = this->flags & CL_QUEUE_AT_MOST_ONCE ? this->dead_reader : 0;
    int missing = 0, there = this->puts + this->wraps;
    for (uint32_t value = 10; value < 10 + (uint32_t)there; value++) {
        int times = among(values, count, value);
        CHECK(times <= 1);
        missing += !times;
    }
    int extra = this->extra ? among(values, count, this->extra) : 0;
    CHECK(extra <= 1);
    if (ended && this->extra)
        CHECK_IS(extra, 1); /* it said that it had put it */
    CHECK_IS(count, there - missing + extra);
    CHECK(missing >= lost && missing <= this->takes + lost);
}

/* One life of the victim, and what it leaves. 0: it got through. */
static int run_case(const killed_case *this, int64_t k)
{
    uint32_t values[32];
    handle one = make(this->flags, this->members ? this->members : 6);
    uint32_t next = 10;
    for (int i = 0; i < this->puts; i++)
        CHECK_IS(put(one.queue, next++), 0);
    if (this->dead_reader)
        die_with_a_slot(&one, 1);
    if (this->dead_writer)
        die_with_a_slot(&one, 0);
    for (int i = 0; i < this->wraps; i++)
        CHECK_IS(put(one.queue, next++), 0);
    int killed = live_until(this, &one, k);
    int count = drain(&one, values, 32);
    cl_queue_report report = look(&one);
    must_be_all(this, values, count, !killed);
    CHECK(report.recoveries <= 1 + 2 * (this->dead_reader + this->dead_writer)); /* twice if who did it died over it */
    has_all_slots(&one);
    CHECK_IS(cl_queue_join(one.queue), 1);
    drop(&one);
    return killed;
}

#endif
