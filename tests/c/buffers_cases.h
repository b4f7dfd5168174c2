/* A pool with a victim in it that is killed somewhere, and what those who survive it must find: for the programs that differ in how
 * they kill. */
#ifndef BUFFERS_CASES_H
#define BUFFERS_CASES_H

#include "buffers.h"
#include "check.h"

enum { BLOCKS = 4, SIZE = 4096 };

typedef struct handle {
    cl_segment *segment;
    cl_buffers *pool;
} handle;

static cl_buffers_plan plan;

struct killed_case;
/* The program's own: a child, which inherits our objects and becomes a participant of its own if the case says so, does the case's
 * work until its k-th something, and is killed there. 0: it got through. */
static int live_until(const struct killed_case *this, handle *inherited, int64_t k);

HELPER void begin_life(cl_buffers *pool, int joins)
{
    if (joins)
        CHECK(cl_buffers_join(pool) > 0);
    pool->members.all_asked_at = 0; /* it is time to ask */
}

static handle make(void)
{
    handle made;
    cl_segment_plan whole = {.mode = 0600, .owner = -1, .group = -1};
    plan = (cl_buffers_plan){.blocks = BLOCKS, .block_size = SIZE, .members = 6};
    CHECK_IS(cl_buffers_describe(&plan, &whole), 0);
    CHECK_IS(cl_segment_new(&made.segment), 0);
    CHECK_IS(cl_segment_create(made.segment, NULL, &whole), 0);
    CHECK_IS(cl_buffers_open(&made.pool, made.segment), 0);
    CHECK_IS(cl_buffers_join(made.pool), 1);
    return made;
}

static void end_pool(handle *one)
{
    cl_buffers_free(one->pool);
    cl_segment_free(one->segment);
    *one = (handle){0};
}

static cl_buffers_report look_at(const handle *one)
{
    cl_buffers_report report;
    CHECK_IS(cl_buffers_report_of(one->pool, &report), 0);
    return report;
}

/* ---- the works ------------------------------------------------------------------------------------------------------ */

/* What the survivor has made for the victim: a block of its own, and a token for it if the case says so. */
static cl_buffers_ref given;
static int64_t sender;

static void acquires(cl_buffers *pool)
{
    cl_buffers_ref ref = {0};
    CHECK_IS(cl_buffers_try_acquire(pool, &ref), 0);
    memset(ref.data, 0xee, SIZE / 2);
}

static void acquires_and_releases(cl_buffers *pool)
{
    cl_buffers_ref ref = {0};
    CHECK_IS(cl_buffers_try_acquire(pool, &ref), 0);
    CHECK_IS(cl_buffers_release(pool, &ref), 1);
}

/* Somebody sleeps, and the survivor waits for its bell. */
static void releases_and_wakes(cl_buffers *pool)
{
    pool->shared->freed |= CL__ASKS;
    pool->members.shared->table[1].asks |= 1;
    acquires_and_releases(pool);
}

static void holds_and_releases(cl_buffers *pool)
{
    cl_buffers_ref ref = {0};
    CHECK_IS(cl_buffers_hold(pool, given.index, given.generation, &ref), 0);
    CHECK_IS(cl_buffers_release(pool, &ref), 0);
}

static void takes_a_token(cl_buffers *pool)
{
    cl_buffers_ref ref = {0};
    CHECK_IS(cl_buffers_take(pool, given.index, given.generation, (int32_t)sender, &ref), 0);
    CHECK_IS(*(uint64_t *)(void *)ref.data, 0x1234);
}

static void sends(cl_buffers *pool)
{
    cl_buffers_ref ref = {0};
    CHECK_IS(cl_buffers_try_acquire(pool, &ref), 0);
    CHECK(cl_buffers_send(pool, &ref) > 0);
    CHECK_IS(cl_buffers_release(pool, &ref), 0);
}

static void sends_and_recalls(cl_buffers *pool)
{
    sends(pool);
    CHECK_IS(cl_buffers_recall_all(pool), 1);
}

static void trims(cl_buffers *pool)
{
    CHECK(cl_buffers_trim(pool, 0) > 0);
}

static void acquires_what_was_trimmed(cl_buffers *pool)
{
    cl_buffers_ref ref = {0};
    CHECK(cl_buffers_trim(pool, 0) > 0);
    CHECK_IS(cl_buffers_acquire(pool, 0, &ref), 0);
    memset(ref.data, 0xee, SIZE);
}

static void registers(cl_buffers *pool)
{
    CHECK(cl_buffers_join(pool) > 0);
}

static void leaves(cl_buffers *pool)
{
    cl_buffers_ref ref = {0};
    sends(pool);
    CHECK_IS(cl_buffers_try_acquire(pool, &ref), 0);
    CHECK_IS(cl_buffers_release(pool, &ref), 1);
    CHECK_IS(cl_buffers_leave(pool), 1);
}

static void recovers(cl_buffers *pool)
{
    CHECK(cl_buffers_recover(pool) >= 1);
}

/* All blocks are held by the dead: it is the acquiring itself that recovers. */
static void waits_past_the_dead(cl_buffers *pool)
{
    cl_buffers_ref ref = {0};
    int64_t rc, until = now_ns() + PATIENCE;
    do
        rc = cl_buffers_acquire(pool, until, &ref);
    while (rc == -EINTR);
    CHECK_IS(rc, 0);
}

/* ---- the cases ------------------------------------------------------------------------------------------------------ */

typedef struct killed_case {
    const char *what;
    void (*work)(cl_buffers *);
    int joins;   /* the victim is a participant before it is stepped */
    int gives;   /* 1: the survivor holds a block; 2: it has sent it, and holds it no more */
    int dead;    /* blocks that one who died before it had */
} killed_case;

static const killed_case cases[] = {
    {"acquire", acquires, 1, 0, 0},
    {"acquire and release", acquires_and_releases, 1, 0, 0},
    {"release, and wake", releases_and_wakes, 1, 0, 0},
    {"hold and release", holds_and_releases, 1, 1, 0},
    {"take", takes_a_token, 1, 2, 0},
    {"send", sends, 1, 0, 0},
    {"send and recall", sends_and_recalls, 1, 0, 0},
    {"trim", trims, 1, 1, 0},
    {"acquire what was trimmed", acquires_what_was_trimmed, 1, 0, 0},
    {"register", registers, 0, 1, 0},
    {"register in a dead one's place", registers, 0, 1, 2},
    {"leave", leaves, 1, 1, 0},
    {"recover", recovers, 1, 1, 3},
    {"acquire what a dead one had", waits_past_the_dead, 1, 1, BLOCKS - 1},
};

/* A participant that dies with so many blocks, one of them with a token on its way. */
static void die_with_blocks(handle *one, int count)
{
    int status;
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        CHECK(cl_buffers_join(one->pool) > 0);
        for (int i = 0; i < count; i++) {
            cl_buffers_ref ref = {0};
            CHECK_IS(cl_buffers_acquire(one->pool, 0, &ref), 0);
            CHECK(i || cl_buffers_send(one->pool, &ref) > 0);
        }
        _exit(0);
    }
    MUST(waitpid(pid, &status, 0));
    CHECK_IS(status, 0);
}

/* What the survivor had is as it was; a token that was not taken still leads to it. */
static void has_what_was_given(const killed_case *this, handle *one, int killed)
{
    if (this->gives == 2) {
        cl_buffers_ref again = {0};
        int64_t rc = cl_buffers_take(one->pool, given.index, given.generation, (int32_t)sender, &again);
        CHECK(rc == 0 || rc == -ENOENT);
        CHECK(killed || rc == -ENOENT); /* it has taken it */
        if (rc == 0) {
            CHECK_IS(*(uint64_t *)(void *)again.data, 0x1234);
            rc = cl_buffers_release(one->pool, &again);
            CHECK(rc == 1 || (killed && rc == 0)); /* the victim may have held it, too */
        }
    } else if (this->gives == 1) {
        CHECK_IS(*(uint64_t *)(void *)given.data, 0x1234);
        int64_t rc = cl_buffers_release(one->pool, &given);
        CHECK(rc == 1 || (killed && rc == 0));
    }
}

/* Every one can be acquired, is nobody else's, and has its memory. */
static void has_all_blocks(handle *one)
{
    cl_buffers_ref refs[BLOCKS + 1];
    for (int lap = 0; lap < 2; lap++) {
        uint64_t seen = 0;
        memset(refs, 0, sizeof refs);
        for (int i = 0; i < BLOCKS; i++) {
            CHECK_IS(cl_buffers_acquire(one->pool, 0, &refs[i]), 0);
            CHECK(!(seen >> refs[i].index & 1));
            seen |= 1ULL << refs[i].index;
            memset(refs[i].data, i, SIZE);
        }
        CHECK_IS(cl_buffers_acquire(one->pool, 0, &refs[BLOCKS]), -EAGAIN);
        for (int i = 0; i < BLOCKS; i++) {
            CHECK_IS(refs[i].data[SIZE - 1], i);
            CHECK_IS(cl_buffers_release(one->pool, &refs[i]), 1);
        }
        CHECK_IS(look_at(one).allocated, 0);
    }
}

/* One life of the victim, and what it leaves. 0: it got through. */
static int run_case(const killed_case *this, int64_t k)
{
    handle one = make();
    given = (cl_buffers_ref){0};
    if (this->gives) {
        CHECK_IS(cl_buffers_try_acquire(one.pool, &given), 0);
        *(uint64_t *)(void *)given.data = 0x1234;
    }
    if (this->gives == 2) {
        cl_buffers_ref mine = given;
        sender = cl_buffers_send(one.pool, &given);
        CHECK_IS(sender, 1);
        CHECK_IS(cl_buffers_release(one.pool, &mine), 0);
    }
    if (this->dead)
        die_with_blocks(&one, this->dead);
    int killed = live_until(this, &one, k);
    has_what_was_given(this, &one, killed);
    int64_t until = now_ns() + PATIENCE;
    for (;;) {
        int64_t found = cl_buffers_recover(one.pool);
        cl_buffers_report report = look_at(&one);
        CHECK(found >= 0);
        if (found == 0 && report.joined == 1) {
            CHECK_IS(report.allocated, 0);
            CHECK_IS(report.in_flight, 0);
            break;
        }
        CHECK(now_ns() < until);
    }
    has_all_blocks(&one);
    CHECK(look_at(&one).recoveries <= 1 + 2 * (this->dead > 0)); /* twice if who did it died over it */
    end_pool(&one);
    return killed;
}

#endif
