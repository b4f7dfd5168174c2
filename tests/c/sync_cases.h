/* A lock, semaphore, event or barrier with a victim in it that is killed somewhere, and what the survivor must find: for the programs
 * that differ in how they kill. */
#ifndef SYNC_CASES_H
#define SYNC_CASES_H

#include <sys/mman.h>

#include "sync.h"

struct killed_case;
/* The program's own: a child, which inherits our objects and becomes a participant of its own if the case says so, does the
 * case's work until its k-th something, and is killed there. 0: it got through. */
static int live_until(const struct killed_case *this, handle *inherited, int64_t k);

typedef struct killed_case {
    const char *what;
    int kind;
    int64_t count;
    int32_t members;
    int joins;                       /* the victim is a participant before it is killed in anything */
    void (*before)(handle *one);     /* of the survivor */
    void (*work)(cl_sync *sync);     /* of the victim */
    void (*after)(handle *one, int ended);
} killed_case;

/* What the lock protects: all have it, and the two are the same wherever it is in order. */
static volatile int64_t *pair;
static cl_barrier_ticket ours;

HELPER void begin_life(cl_sync *sync, int joins)
{
    if (joins)
        CHECK(cl_sync_join(sync) > 0);
    sync->members.owner_asked_at = sync->members.all_asked_at = 0; /* it is time to ask */
}

/* One that dies in that work's midst. */
static void dies_in(handle *one, void (*work)(cl_sync *))
{
    int status;
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        begin_life(one->sync, 1);
        work(one->sync);
        _exit(0);
    }
    MUST(waitpid(pid, &status, 0));
    CHECK_IS(status, 0);
}

/* Whoever is dead is found. */
static void is_alone(handle *one)
{
    for (int64_t until = soon(); look(one).joined != 1;) {
        CHECK(cl_sync_recover(one->sync) >= 0);
        CHECK(now_ns() < until);
    }
}

/* ---- locks -------------------------------------------------------------------------------------------------------------- */

static void takes_it(cl_sync *lock)
{
    CHECK(cl_lock_try(lock, 0) >= 0);
    pair[0]++;
}

static void works_under_it(cl_sync *lock)
{
    int64_t rc = cl_lock_try(lock, 0);
    CHECK(rc >= 0);
    if (rc > 0)
        pair[0] = pair[1]; /* as it was told that somebody has died over it */
    CHECK_IS(pair[0], pair[1]);
    pair[0]++;
    pair[1]++;
    CHECK_IS(cl_lock_release(lock, 0), 0);
}

static void leaves_with_it(cl_sync *lock)
{
    CHECK(cl_lock_try(lock, 0) >= 0);
    cl_sync_leave(lock);
}

static void joins_anew(cl_sync *sync)
{
    CHECK(cl_sync_join(sync) > 0);
}

static void recovers(cl_sync *sync)
{
    CHECK(cl_sync_recover(sync) >= 1);
}

static void sleeps(handle *one)
{
    cl__or(&one->sync->shared->wake, CL__SLEEP); /* as if somebody did: the victim will wake it */
}

static void listens(handle *one)
{
    CHECK(cl_sync_poll_fd(one->sync) >= 0);
    CHECK_IS(cl_sync_arm(one->sync), 0);
}

static void after_a_holder(handle *one)
{
    dies_in(one, takes_it);
    sleeps(one);
}

/* It is to be had; and who finds it half done is told. */
static void is_a_lock(handle *one, int ended)
{
    is_alone(one);
    int64_t rc = cl_lock_try(one->sync, 0);
    CHECK(rc >= 0);
    if (pair[0] != pair[1])
        CHECK(rc > 0);
    if (ended)
        CHECK(rc == 0 || rc == cl_lock_recovered(one->sync));
    CHECK_IS(cl_lock_release(one->sync, 0), 0);
    CHECK_IS(cl_lock_try(one->sync, 1), 0);
    CHECK_IS(cl_lock_release(one->sync, 0), 0);
}

/* The same, after a work that leaves it in order. */
static void is_in_order(handle *one, int ended)
{
    if (ended) {
        CHECK_IS(pair[0], pair[1]);
        CHECK_IS(cl_lock_try(one->sync, 0), 0);
        CHECK_IS(cl_lock_release(one->sync, 0), 0);
    }
    is_a_lock(one, ended);
}

/* ---- semaphores --------------------------------------------------------------------------------------------------------- */

static void takes_a_permit(cl_sync *semaphore)
{
    CHECK_IS(cl_semaphore_try(semaphore, 0), 0);
}

static void uses_a_permit(cl_sync *semaphore)
{
    CHECK_IS(cl_semaphore_try(semaphore, 0), 0);
    CHECK_IS(cl_semaphore_release(semaphore), 0);
}

static void after_a_permit(handle *one)
{
    dies_in(one, takes_a_permit);
    dies_in(one, takes_a_permit);
    sleeps(one);
}

static void has_all_permits(handle *one, int ended)
{
    (void)ended;
    is_alone(one);
    for (int lap = 0; lap < 2; lap++) {
        CHECK_IS(cl_semaphore_try(one->sync, 1), 0);
        CHECK_IS(cl_semaphore_try(one->sync, 1), 0);
        CHECK_IS(cl_semaphore_try(one->sync, 1), -EAGAIN);
        CHECK_IS(cl_semaphore_release(one->sync), 0);
        CHECK_IS(cl_semaphore_release(one->sync), 0);
        CHECK_IS(cl_semaphore_release(one->sync), -EPERM);
    }
}

/* ---- events ------------------------------------------------------------------------------------------------------------- */

static void sets(cl_sync *event)
{
    CHECK_IS(cl_event_set(event), 0);
}

static void pulses(cl_sync *event)
{
    CHECK_IS(cl_event_set(event), 0);
    CHECK_IS(cl_event_clear(event), 0);
}

static void is_an_event(handle *one, int ended)
{
    is_alone(one);
    if (ended) /* who waited since before it goes on */
        CHECK_IS(wait_for(one->sync, 0, soon()), 1);
    CHECK_IS(cl_event_set(one->sync), 0);
    CHECK_IS(await_event(one->sync, 0), 0);
    CHECK_IS(cl_event_clear(one->sync), 0);
    CHECK_IS(await_event(one->sync, 0), -ETIMEDOUT);
}

/* ---- barriers ----------------------------------------------------------------------------------------------------------- */

static void comes(cl_sync *barrier)
{
    cl_barrier_ticket ticket = {0};
    CHECK_IS(cl_barrier_arrive(barrier, &ticket), 0);
}

static void comes_where_one_died(cl_sync *barrier)
{
    cl_barrier_ticket ticket = {0};
    CHECK_IS(cl_barrier_arrive(barrier, &ticket), -EPIPE);
}

static void comes_and_gives_up(cl_sync *barrier)
{
    cl_barrier_ticket ticket = {0};
    CHECK_IS(cl_barrier_arrive(barrier, &ticket), 0);
    CHECK_IS(cl_barrier_give_up(barrier, &ticket), 0);
}

static void resets(cl_sync *barrier)
{
    CHECK_IS(cl_barrier_abort(barrier), 0);
    CHECK_IS(cl_barrier_reset(barrier), 0);
}

static void waits_there(handle *one)
{
    ours = (cl_barrier_ticket){0};
    CHECK_IS(cl_barrier_arrive(one->sync, &ours), 0);
    sleeps(one);
}

static void after_one_has_come(handle *one)
{
    dies_in(one, comes);
    sleeps(one);
}

/* Nobody waits there for ever, and it can be used. */
static void is_a_barrier(handle *one, int ended)
{
    is_alone(one);
    if (ours.is_open) {
        int64_t rc = cl_barrier_look(one->sync, ours.generation);
        CHECK(!ended || rc != 0);
        CHECK_IS(cl_barrier_give_up(one->sync, &ours), rc == 1); /* 0: the victim never came, or broke it */
    }
    CHECK(!look(one).waiting || cl_barrier_why(one->sync));
    CHECK_IS(cl_barrier_reset(one->sync), 0);
    for (int lap = 0; lap < 2; lap++) {
        cl_barrier_ticket first = {0}, second = {0};
        CHECK_IS(cl_barrier_arrive(one->sync, &first), 0);
        CHECK_IS(cl_barrier_look(one->sync, first.generation), 0);
        CHECK_IS(cl_barrier_arrive(one->sync, &second), 0);
        CHECK_IS(cl_barrier_look(one->sync, first.generation), 1);
        CHECK_IS(cl_barrier_look(one->sync, second.generation), 1);
    }
}

static void is_whole(handle *one, int ended)
{
    int64_t rc = cl_barrier_look(one->sync, ours.generation);
    CHECK(!ended || rc == 1);
    is_a_barrier(one, ended);
}

static void is_broken(handle *one, int ended)
{
    is_alone(one);
    CHECK_IS(cl_barrier_why(one->sync), CL_BARRIER_DIED);
    is_a_barrier(one, ended);
}

/* ---- the cases ---------------------------------------------------------------------------------------------------------- */

static const killed_case cases[] = {
    {"lock: acquire and release", CL_SEGMENT_MUTEX, 1, 4, 1, sleeps, works_under_it, is_in_order},
    {"lock: release to one in an event loop", CL_SEGMENT_MUTEX, 1, 4, 1, listens, works_under_it, is_in_order},
    {"lock: acquire it from a dead one", CL_SEGMENT_MUTEX, 1, 4, 1, after_a_holder, works_under_it, is_in_order},
    {"lock: recover", CL_SEGMENT_MUTEX, 1, 4, 1, after_a_holder, recovers, is_a_lock},
    {"lock: leave with it", CL_SEGMENT_MUTEX, 1, 4, 1, sleeps, leaves_with_it, is_a_lock},
    {"lock: join in a dead one's place", CL_SEGMENT_MUTEX, 1, 2, 0, after_a_holder, joins_anew, is_a_lock},
    {"semaphore: acquire and release", CL_SEGMENT_SEMAPHORE, 2, 4, 1, sleeps, uses_a_permit, has_all_permits},
    {"semaphore: acquire a dead one's permit", CL_SEGMENT_SEMAPHORE, 2, 4, 1, after_a_permit, uses_a_permit, has_all_permits},
    {"event: set", CL_SEGMENT_EVENT, 1, 4, 1, sleeps, sets, is_an_event},
    {"event: set and clear", CL_SEGMENT_EVENT, 1, 4, 1, listens, pulses, is_an_event},
    {"barrier: come last", CL_SEGMENT_BARRIER, 2, 4, 1, waits_there, comes, is_whole},
    {"barrier: come and give up", CL_SEGMENT_BARRIER, 2, 4, 1, sleeps, comes_and_gives_up, is_a_barrier},
    {"barrier: come last, where one died waiting", CL_SEGMENT_BARRIER, 2, 4, 1, after_one_has_come, comes_where_one_died, is_broken},
    {"barrier: recover one that waited", CL_SEGMENT_BARRIER, 2, 4, 1, after_one_has_come, recovers, is_broken},
    {"barrier: abort and reset", CL_SEGMENT_BARRIER, 2, 4, 1, waits_there, resets, is_a_barrier},
};
enum { CASES = sizeof cases / sizeof *cases };

/* One life of the victim, and what it leaves. 0: it got through. */
static int run_case(const killed_case *this, int64_t k)
{
    if (!pair) {
        void *made = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        CHECK(made != MAP_FAILED);
        pair = made;
    }
    pair[0] = pair[1] = 0;
    ours = (cl_barrier_ticket){0};
    handle one = make(this->kind, this->count, this->members);
    this->before(&one);
    int killed = live_until(this, &one, k);
    this->after(&one, !killed);
    CHECK_IS(cl_sync_join(one.sync), 1);
    drop(&one);
    return killed;
}

#endif
