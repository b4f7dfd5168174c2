/* A broadcast with a victim in it that is killed somewhere, and what those who survive it must find: for the programs that
 * differ in how they kill. */
#ifndef BROADCAST_CASES_H
#define BROADCAST_CASES_H

#include "broadcasts.h"

struct killed_case;

/* The program's own: a child, for which `victim` was attached, begins its life (begin_life there, let_begin(`one`) here), does
 * the case's work until its k-th something, and is killed there. 0: it got through. */
static int live_until(const struct killed_case *this, handle *one, handle *victim, int64_t k);

typedef struct killed_case {
    const char *what;
    int32_t flags, policy;          /* of the victim, as a reader */
    enum { HAS_NO_ROLE, READS, WRITES } role; /* before it is stepped */
    void (*work)(handle *victim);
    int puts;                       /* records that the survivor, if it writes, puts before: 1, 2, ... */
    int dead_reader, dead_writer;   /* before the victim comes: another one that died with a role */
} killed_case;

/* ---- the works -------------------------------------------------------------------------------------------------------------- */

enum { NEW = 77 }; /* the record that a victim puts */

static void puts_one(handle *victim)
{
    CHECK_IS(put(victim, NEW), 0);
}

static void reserves_and_cancels(handle *victim)
{
    cl_broadcast_claim claim;
    CHECK_IS(cl_broadcast_reserve(victim->cast, &claim), 0);
    memset(claim.data, 0xee, 40);
    CHECK_IS(cl_broadcast_cancel(victim->cast, &claim), 0);
}

static void gets_one(handle *victim)
{
    CHECK_IS(get(victim), 1);
}

static void looks_at_one(handle *victim)
{
    cl_broadcast_claim claim;
    CHECK_IS(cl_broadcast_peek(victim->cast, &claim), 0);
    CHECK_IS(cl_broadcast_keep(victim->cast, &claim), 0);
}

static void subscribes(handle *victim)
{
    int32_t policy = victim->cast->plan.flags & CL_BROADCAST_LOSSLESS ? CL_BROADCAST_BLOCK : 0;
    CHECK_IS(cl_broadcast_subscribe(victim->cast, policy, 0), 0);
}

static void takes(handle *victim)
{
    CHECK(cl_broadcast_take(victim->cast) >= 0);
}

static void closes(handle *victim)
{
    cl_broadcast_close(victim->cast);
}

static void recovers(handle *victim)
{
    CHECK(cl_broadcast_recover(victim->cast) >= 1);
}

static void hears_of_a_death(handle *victim)
{
    let_ask(victim);
    CHECK_IS(get(victim), -EOWNERDEAD);
}

/* It waits for nobody who lives: the survivor subscribes afterwards. */
static void puts_past_readers(handle *victim)
{
    for (int i = 0; i < 2 * SLOTS; i++) {
        let_ask(victim);
        CHECK_IS(put(victim, NEW), 0);
    }
}

static const killed_case cases[] = {
    {.what = "put, lossy", .role = WRITES, .work = puts_one},
    {.what = "put, lossless", .flags = CL_BROADCAST_LOSSLESS, .role = WRITES, .work = puts_one},
    {.what = "reserve and cancel", .flags = CL_BROADCAST_LOSSLESS, .role = WRITES, .work = reserves_and_cancels},
    {.what = "get, lossy", .role = READS, .work = gets_one, .puts = 3},
    {.what = "get, lossless", .flags = CL_BROADCAST_LOSSLESS, .policy = CL_BROADCAST_BLOCK, .role = READS, .work = gets_one,
     .puts = SLOTS},
    {.what = "get, skipping", .flags = CL_BROADCAST_LOSSLESS, .policy = CL_BROADCAST_SKIP, .role = READS, .work = gets_one,
     .puts = SLOTS},
    {.what = "look", .flags = CL_BROADCAST_LOSSLESS, .policy = CL_BROADCAST_BLOCK, .role = READS, .work = looks_at_one,
     .puts = SLOTS},
    {.what = "subscribe, lossy", .work = subscribes, .puts = 2},
    {.what = "subscribe, lossless", .flags = CL_BROADCAST_LOSSLESS, .work = subscribes, .puts = 2},
    {.what = "subscribe in a dead one's place", .flags = CL_BROADCAST_LOSSLESS, .work = subscribes, .puts = 2, .dead_reader = 1},
    {.what = "take the writer's place", .flags = CL_BROADCAST_LOSSLESS, .work = takes},
    {.what = "take a dead writer's place", .flags = CL_BROADCAST_LOSSLESS, .work = takes, .dead_writer = 1},
    {.what = "close as a writer", .flags = CL_BROADCAST_LOSSLESS, .role = WRITES, .work = closes},
    {.what = "close as a reader", .flags = CL_BROADCAST_LOSSLESS, .policy = CL_BROADCAST_BLOCK, .role = READS, .work = closes,
     .puts = SLOTS},
    {.what = "recover a reader", .flags = CL_BROADCAST_LOSSLESS, .policy = CL_BROADCAST_BLOCK, .role = READS, .work = recovers,
     .dead_reader = 1},
    {.what = "recover a writer", .policy = 0, .role = READS, .work = hears_of_a_death, .dead_writer = 1},
    {.what = "put past a dead reader", .flags = CL_BROADCAST_LOSSLESS, .role = WRITES, .work = puts_past_readers,
     .dead_reader = 1},
};

static int is_ready[2], may_go_on[2];

/* In the child. The records that it is to get are put when it has subscribed. */
HELPER void begin_life(const killed_case *this, handle *victim)
{
    char byte = 0;
    if (this->role == READS)
        CHECK_IS(cl_broadcast_subscribe(victim->cast, this->policy, 0), 0);
    if (this->role == WRITES)
        CHECK(cl_broadcast_take(victim->cast) >= 0);
    let_ask(victim);
    CHECK_IS(write(is_ready[1], &byte, 1), 1);
    CHECK_IS(read(may_go_on[0], &byte, 1), 1);
}

/* In the parent, while the child begins its life. */
HELPER void let_begin(const killed_case *this, handle *one)
{
    char byte = 0;
    CHECK_IS(read(is_ready[0], &byte, 1), 1);
    if (this->puts)
        must_put(one, 1, (uint32_t)this->puts);
    CHECK_IS(write(may_go_on[1], &byte, 1), 1);
}

static void die_with_a_role(handle *one, int writes, int32_t policy)
{
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        handle mine = again(one, 0);
        if (writes) {
            cl_broadcast_claim claim;
            CHECK(cl_broadcast_take(mine.cast) >= 0);
            CHECK_IS(cl_broadcast_reserve(mine.cast, &claim), 0);
            memset(claim.data, 0xee, 40); /* half a record */
        } else {
            CHECK_IS(cl_broadcast_subscribe(mine.cast, policy, 0), 0);
        }
        _exit(0);
    }
    int status;
    MUST(waitpid(pid, &status, 0));
    CHECK_IS(status, 0);
}

/* Whoever is left writes two circles, and a reader gets what it has not: all of them if it blocks. */
static void goes_on(handle *writer, handle *reader)
{
    int64_t until = now_ns() + PATIENCE;
    for (uint32_t value = 1000; value < 1000 + 2 * SLOTS; value++) {
        int64_t rc;
        while ((rc = put(writer, value)) == -EAGAIN) { /* behind a dead reader that was not asked yet */
            CHECK(now_ns() < until);
            let_ask(writer);
        }
        CHECK_IS(rc, 0);
        CHECK_IS(get(reader), value);
    }
    CHECK_IS(look_at(reader).lost, 0);
}

/* One life of the victim, and what it leaves. 0: it got through. */
static int run_case(const killed_case *this, int64_t k)
{
    int32_t policy = this->flags & CL_BROADCAST_LOSSLESS ? CL_BROADCAST_BLOCK : 0;
    handle one = make(SLOTS, 4, this->flags), reader = reader_of(&one, policy, 0), victim = again(&one, 0);
    int survivor_writes = this->work != takes && this->role != WRITES && !this->dead_writer;
    if (survivor_writes)
        CHECK_IS(cl_broadcast_take(one.cast), 0);
    if (this->dead_reader)
        die_with_a_role(&one, 0, policy);
    if (this->dead_writer)
        die_with_a_role(&one, 1, 0);
    if (!is_ready[1]) {
        make_pipe(is_ready);
        make_pipe(may_go_on);
    }
    int64_t before = look_at(&one).recoveries;
    if (this->work == puts_past_readers)
        drop(&reader);
    int killed = live_until(this, &one, &victim, k);
    if (this->work == puts_past_readers)
        reader = reader_of(&one, policy, 0);
    drop(&victim); /* ours, of which it was a copy */
    int64_t rc, got_new = 0;
    for (int i = 0; i < this->puts; i++)
        CHECK_IS(get(&reader), i + 1);
    for (;;) { /* its records, whole or not at all; then that it has died, or closed, or that the survivor writes */
        let_ask(&reader);
        rc = get(&reader);
        if (rc < 0)
            break;
        CHECK_IS(rc, NEW);
        got_new++;
    }
    CHECK(rc == -EAGAIN || rc == -EOWNERDEAD || rc == -EPIPE);
    if (this->work == puts_one) {
        CHECK(got_new <= 1);
        CHECK_IS(rc, -EOWNERDEAD);
        if (!killed)
            CHECK_IS(got_new, 1);
    }
    if (this->role == WRITES && this->work != closes)
        CHECK_IS(rc, -EOWNERDEAD);
    if (survivor_writes)
        CHECK_IS(rc, -EAGAIN);
    if (!survivor_writes) {
        int64_t taken = cl_broadcast_take(one.cast);
        CHECK(taken == 0 || taken == 1);
        if (this->role == WRITES && this->work != closes)
            CHECK_IS(taken, 1);
    }
    goes_on(&one, &reader);
    while ((rc = cl_broadcast_recover(one.cast)) > 0)
        continue;
    CHECK_IS(rc, 0);
    cl_broadcast_report report = look_at(&one);
    CHECK_IS(report.readers, 1);
    CHECK_IS(report.depth, 0);
    CHECK(report.recoveries - before <= 1 + 2 * (this->dead_reader + this->dead_writer)); /* twice if who did it died over it */
    for (int i = 0; i < 2; i++) { /* no place is lost */
        handle more = reader_of(&one, policy, 0), last = reader_of(&one, policy, 0);
        drop(&more), drop(&last);
    }
    drop(&reader), drop(&one);
    return killed;
}

#endif
