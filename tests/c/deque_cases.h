/* A deque with a victim in it that is killed somewhere, and what those who survive it must find: for the programs that differ
 * in how they kill. */
#ifndef DEQUE_CASES_H
#define DEQUE_CASES_H

#include "deque_handles.h"

struct killed_case;
/* The program's own: a child, which inherits our objects and becomes a participant of its own if the case says so, does the
 * case's work until its k-th something, and is killed there. 0: it got through. */
static int live_until(const struct killed_case *this, handle *inherited, int64_t k);

enum { NO_MEMBER, A_THIEF, THE_OWNER };

HELPER void begin_life(cl_deque *deque, int joins)
{
    if (joins != NO_MEMBER)
        CHECK(cl_deque_join(deque) > 0);
    if (joins == THE_OWNER)
        CHECK_IS(cl_deque_own(deque), 1);
    ask_now(deque);
}

/* ---- the works -------------------------------------------------------------------------------------------------------------- */

static void pushes_one(cl_deque *deque)
{
    CHECK_IS(push(deque, 50), 0);
}

static void pops_one(cl_deque *deque)
{
    CHECK(pop(deque) >= 0);
}

static void steals_one(cl_deque *deque)
{
    CHECK(steal(deque) >= 0);
}

/* A task and its part. */
static void works_in_place(cl_deque *deque)
{
    cl_deque_claim claim;
    CHECK_IS(cl_deque_claim_newest(deque, &claim), 0);
    CHECK_IS(push(deque, 50), 0);
    CHECK_IS(cl_deque_release(deque, &claim), 0);
}

/* Down to a record below what is over. */
static void goes_back(cl_deque *deque)
{
    cl_deque_claim claim;
    CHECK_IS(cl_deque_claim_newest(deque, &claim), 0);
    CHECK_IS(push(deque, 50), 0);
    CHECK_IS(pop(deque), 50);
    CHECK_IS(cl_deque_release(deque, &claim), 0);
    CHECK(pop(deque) >= 0);
}

static void gives_back_the_newest(cl_deque *deque)
{
    cl_deque_claim claim;
    CHECK_IS(cl_deque_claim_newest(deque, &claim), 0);
    CHECK_IS(cl_deque_give_back(deque, &claim), 0);
}

static void gives_back_the_oldest(cl_deque *deque)
{
    cl_deque_claim claim;
    CHECK_IS(cl_deque_claim_oldest(deque, &claim), 0);
    CHECK_IS(cl_deque_give_back(deque, &claim), 0);
}

static void registers(cl_deque *deque)
{
    CHECK(cl_deque_join(deque) > 0);
}

static void owns(cl_deque *deque)
{
    CHECK_IS(cl_deque_own(deque), 1);
}

static void disowns(cl_deque *deque)
{
    cl_deque_claim claim;
    CHECK_IS(cl_deque_claim_newest(deque, &claim), 0);
    CHECK_IS(cl_deque_disown(deque), 0);
}

static void leaves(cl_deque *deque)
{
    cl_deque_claim claim;
    CHECK_IS(cl_deque_claim_newest(deque, &claim), 0);
    cl_deque_leave(deque);
}

static void recovers(cl_deque *deque)
{
    CHECK(cl_deque_recover(deque) >= 1);
}

static void goes_round(cl_deque *deque)
{
    for (uint32_t i = 0; i < 6; i++) {
        CHECK_IS(push(deque, 50 + i), 0);
        CHECK_IS(pop(deque), 50 + i);
        CHECK_IS(push(deque, 60 + i), 0);
        CHECK_IS(steal(deque), 60 + i);
    }
}

/* ---- the cases --------------------------------------------------------------------------------------------------------------- */

typedef struct killed_case {
    const char *what;
    void (*work)(cl_deque *);
    int joins;         /* the victim is that before it is stepped */
    int pushes;        /* records that are there: 10, 11, ... */
    int dead_thief, dead_owner; /* before it comes: participants that died with a record, in this order */
    int takes;         /* the victim may have taken so many records for itself */
    int first_extra, extras; /* records that it may push */
    int32_t flags;
} killed_case;

static const killed_case cases[] = {
    {.what = "push", .work = pushes_one, .joins = THE_OWNER, .pushes = 2, .first_extra = 50, .extras = 1},
    {.what = "pop", .work = pops_one, .joins = THE_OWNER, .pushes = 2, .takes = 1},
    {.what = "pop the last", .work = pops_one, .joins = THE_OWNER, .pushes = 1, .takes = 1},
    {.what = "pop, at most once", .work = pops_one, .joins = THE_OWNER, .pushes = 2, .takes = 1, .flags = CL_DEQUE_AT_MOST_ONCE},
    {.what = "steal", .work = steals_one, .joins = A_THIEF, .pushes = 2, .takes = 1},
    {.what = "steal, at most once", .work = steals_one, .joins = A_THIEF, .pushes = 2, .takes = 1, .flags = CL_DEQUE_AT_MOST_ONCE},
    {.what = "work in place", .work = works_in_place, .joins = THE_OWNER, .pushes = 2, .takes = 1, .first_extra = 50, .extras = 1},
    {.what = "go back", .work = goes_back, .joins = THE_OWNER, .pushes = 3, .takes = 2, .first_extra = 50, .extras = 1},
    {.what = "go round", .work = goes_round, .joins = THE_OWNER, .first_extra = 50, .extras = 16},
    {.what = "give back the newest", .work = gives_back_the_newest, .joins = THE_OWNER, .pushes = 2},
    {.what = "give back the oldest", .work = gives_back_the_oldest, .joins = A_THIEF, .pushes = 2},
    {.what = "register", .work = registers, .pushes = 1},
    {.what = "own", .work = owns, .joins = A_THIEF, .pushes = 2},
    {.what = "own after one that died", .work = owns, .joins = A_THIEF, .pushes = 3, .dead_thief = 1, .dead_owner = 1},
    {.what = "own, at most once", .work = owns, .joins = A_THIEF, .pushes = 3, .dead_owner = 1, .flags = CL_DEQUE_AT_MOST_ONCE},
    {.what = "disown", .work = disowns, .joins = THE_OWNER, .pushes = 2, .takes = 1},
    {.what = "leave", .work = leaves, .joins = THE_OWNER, .pushes = 2},
    {.what = "recover", .work = recovers, .joins = A_THIEF, .pushes = 3, .dead_thief = 1, .dead_owner = 1},
    {.what = "steal what a dead one had", .work = steals_one, .joins = A_THIEF, .pushes = 1, .dead_thief = 1, .takes = 1},
    {.what = "pop what a dead one had", .work = pops_one, .joins = THE_OWNER, .pushes = 1, .dead_thief = 1, .takes = 1},
};

enum { KILLED_SLOTS = 4, SURVIVOR = 1 };

/* A participant that dies with a record: a thief, or the owner, which has pushed above it. */
static void die_with_a_record(handle *one, int owns_it)
{
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        cl_deque_claim claim;
        CHECK(cl_deque_join(one->deque) > 0);
        if (owns_it)
            CHECK_IS(cl_deque_own(one->deque), 1);
        CHECK_IS(owns_it ? cl_deque_claim_newest(one->deque, &claim) : cl_deque_claim_oldest(one->deque, &claim), 0);
        _exit(0);
    }
    int status;
    MUST(waitpid(pid, &status, 0));
    CHECK_IS(status, 0);
}

/* All that is there, taken by turns from both ends, until it is surely empty: until it says so with nobody left to be asked. */
static int drain(handle *one, uint32_t *values, int most)
{
    int count = 0;
    int64_t until = now_ns() + PATIENCE;
    for (int turn = 0;; turn++) {
        ask_now(one->deque);
        if (turn % 2)
            CHECK(cl_deque_own(one->deque) >= 0);
        int64_t rc = turn % 2 ? pop(one->deque) : steal(one->deque);
        if (rc >= 0) {
            CHECK(count < most);
            values[count++] = (uint32_t)rc;
            continue;
        }
        CHECK_IS(rc, -EAGAIN);
        rc = cl_deque_recover(one->deque);
        CHECK(rc >= 0);
        cl_deque_report report = look(one);
        if (rc == 0 && report.size == 0 && report.joined == SURVIVOR)
            break;
        CHECK(now_ns() < until);
    }
    return count;
}

static int among(const uint32_t *values, int count, uint32_t value)
{
    int times = 0;
    for (int i = 0; i < count; i++)
        times += values[i] == value;
    return times;
}

/* What was pushed before must be there, each once; but for what the victim may have taken, and what is lost at most once. */
static void must_be_all(const killed_case *this, const uint32_t *values, int count)
{
    int lost = this->flags & CL_DEQUE_AT_MOST_ONCE ? this->dead_thief + this->dead_owner : 0, missing = 0, extra = 0;
    for (int i = 0; i < this->pushes; i++) {
        int times = among(values, count, (uint32_t)(10 + i));
        CHECK(times <= 1);
        missing += !times;
    }
    for (int i = 0; i < this->extras; i++) {
        int times = among(values, count, (uint32_t)(this->first_extra + i));
        CHECK(times <= 1);
        extra += times;
    }
    CHECK_IS(count, this->pushes - missing + extra);
    CHECK(missing >= lost && missing <= this->takes + lost);
}

/* One life of the victim, and what it leaves. 0: it got through. */
static int run_case(const killed_case *this, int64_t k)
{
    uint32_t values[32];
    handle one = make(KILLED_SLOTS, 6, this->flags);
    CHECK_IS(cl_deque_own(one.deque), 1);
    for (int i = 0; i < this->pushes; i++)
        CHECK_IS(push(one.deque, 10 + (uint32_t)i), 0);
    CHECK_IS(cl_deque_disown(one.deque), 0);
    if (this->dead_thief)
        die_with_a_record(&one, 0);
    if (this->dead_owner)
        die_with_a_record(&one, 1);
    int killed = live_until(this, &one, k);
    int count = drain(&one, values, 32);
    must_be_all(this, values, count);
    CHECK(look(&one).recoveries <= 1 + 2 * (this->dead_thief + this->dead_owner)); /* twice if who did it died over it */
    has_all_slots(&one);
    CHECK_IS(cl_deque_join(one.deque), SURVIVOR);
    drop(&one);
    return killed;
}

#endif
