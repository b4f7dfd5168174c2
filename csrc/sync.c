/* What locks, semaphores, events and barriers have alike: how they lie in a segment, who takes part, waiting.
 *
 * Waiting. A release wakes all who sleep, and each tries again: whoever comes first has it, so nothing is ever reserved for one
 * who is stopped or dead, and there is no queue that a death could break. The price is that order is nobody's promise:
 *
 *     A: releases, wakes B     A: takes it again, 100 ns later     B: is awake, 50 us later: it is taken
 *
 * A, in a loop, would have it for ever. So who gives back what somebody sleeps for lets others have a turn, once in
 * TURN_NS: before it takes it again it naps until somebody has it, or for two NAP_NS. A sleeper that is stopped or dead costs
 * no more than that.
 *
 * A death wakes nobody. A sleeper asks for its lease after a millisecond, when the one it waits for has died that instant; after
 * an eighth of the time that it has waited, if that is more (a lock that is held for a second is not asked for a thousand times);
 * and every 100 ms at least. */
#include "sync.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LAYOUT 0x53594e432d2d3031ULL /* "SYNC--01": to be changed with anything in sync.h */
#define FIRST_LOOK_NS 1000000LL
#define TURN_NS 1000000LL
#define NAP_NS 50000
#define LOOP_TURN_NS 200000LL /* about what two naps take */
enum { LINE = 128, LOOK_SHARE = 8, NAPS = 2 };

/* ---- geometry ----------------------------------------------------------------------------------------------------------- */

static int64_t slots_offset(const cl_sync_plan *plan)
{
    return ((int64_t)sizeof(cl__sync_memory) + cl__members_size(plan->members) + LINE - 1) / LINE * LINE;
}

static int64_t size_of(const cl_sync_plan *plan)
{
    return slots_offset(plan) + plan->count * (int64_t)sizeof(uint64_t);
}

static int64_t check_plan(const cl_sync_plan *plan)
{
    int counts = plan->kind == CL_SEGMENT_SEMAPHORE || plan->kind == CL_SEGMENT_BARRIER;
    int is_known = counts || plan->kind == CL_SEGMENT_MUTEX || plan->kind == CL_SEGMENT_EVENT;
    return is_known && plan->count >= 1 && plan->count <= (counts ? CL_SYNC_COUNT : 1) && plan->members >= 1 &&
                   plan->members <= CL_SYNC_MEMBERS
               ? 0
               : -EINVAL;
}

int64_t cl_sync_describe(const cl_sync_plan *plan, cl_segment_plan *out)
{
    int64_t rc = check_plan(plan);
    if (rc < 0)
        return rc;
    out->size = size_of(plan);
    out->data_offset = CL_SEGMENT_HEADER;
    out->kind = plan->kind;
    out->layout = LAYOUT;
    out->about = (const char *)plan;
    out->about_size = sizeof *plan;
    return 0;
}

int64_t cl__sync_open(cl_sync **out, cl_segment *segment, int32_t kind, const cl__sync_kind *calls)
{
    cl_segment_report report;
    cl_sync_plan plan;
    cl_segment_report_of(segment, &report);
    if (!report.data || report.kind != kind || report.layout != LAYOUT || report.data_offset % LINE != 0 ||
        report.data_offset < CL_SEGMENT_ABOUT + (int64_t)sizeof plan)
        return -EBADMSG;
    memcpy(&plan, report.data - report.data_offset + CL_SEGMENT_ABOUT, sizeof plan); /* once: then it is checked */
    if (check_plan(&plan) < 0 || plan.kind != kind || report.size != size_of(&plan))
        return -EBADMSG;
    cl_sync *sync = calloc(1, sizeof *sync);
    if (!sync)
        return -ENOMEM;
    sync->shared = (cl__sync_memory *)report.data;
    sync->slots = (_Atomic uint64_t *)(report.data + slots_offset(&plan));
    sync->plan = plan;
    sync->kind = calls;
    cl_sync_set_spin(sync, CL__SPIN_NS);
    cl__members_open(&sync->members, segment, sync->shared + 1, plan.members, calls->clear, sync);
    *out = sync;
    return 0;
}

void cl_sync_free(cl_sync *sync)
{
    if (!sync)
        return;
    cl__members_close(&sync->members);
    free(sync);
}

/* ---- who takes part ----------------------------------------------------------------------------------------------------- */

int64_t cl_sync_join(cl_sync *sync)
{
    return cl__members_join(&sync->members);
}

void cl_sync_leave(cl_sync *sync)
{
    cl__members_leave(&sync->members);
}

int64_t cl_sync_recover(cl_sync *sync)
{
    return cl__members_recover(&sync->members);
}

int64_t cl__sync_pid_of(const cl_sync *sync, uint32_t index)
{
    int64_t pid = cl__members_pid_of(&sync->members, index);
    return pid > 0 && pid < CL_SYNC_UNKNOWN ? pid : CL_SYNC_UNKNOWN;
}

int64_t cl__sync_ask_all(void *waits_for)
{
    return cl__members_ask_all(&((cl__waits_for *)waits_for)->sync->members);
}

int64_t cl__sync_nobody(void *waits_for)
{
    (void)waits_for;
    return 0;
}

int64_t cl_sync_poll_fd(cl_sync *sync)
{
    return cl__members_poll_fd(&sync->members, 0);
}

int64_t cl_sync_silence(cl_sync *sync)
{
    cl__members_silence(&sync->members, 0);
    return 0;
}

int64_t cl_sync_arm(cl_sync *sync)
{
    return cl__members_arm(&sync->members, &sync->shared->wake, 0);
}

/* ---- waiting ------------------------------------------------------------------------------------------------------------ */

void cl__sync_gave_back(cl_sync *sync)
{
    CL_FAULT(200);
    if (__builtin_expect((cl__load(&sync->shared->wake) & CL__ASKS) == 0, 1)) /* W3; partner: W2 in whoever sleeps, or arms */
        return;
    int64_t now = cl__sys_now();
    if (now - cl__load_relaxed(&sync->gave_way_at) >= TURN_NS) { /* partner: this process's other threads; a hint */
        cl__store_relaxed(&sync->gave_way_at, now);
        cl__store_relaxed(&sync->gives_way, 1);
    }
    cl__members_serve(&sync->members, &sync->shared->wake, 0);
}

/* Those we have woken are on their way, or were a while ago. */
static void give_way(cl_sync *sync, cl__waits_for *waits_for)
{
    cl__store_relaxed(&sync->gives_way, 0);
    if (cl__sys_now() - cl__load_relaxed(&sync->gave_way_at) >= TURN_NS)
        return;
    for (int i = 0; i < NAPS && sync->kind->look(waits_for) == 1; i++) {
        struct timespec span = {.tv_sec = 0, .tv_nsec = NAP_NS};
        nanosleep(&span, NULL);
    }
}

int64_t cl_sync_gives_way(cl_sync *sync)
{
    cl__waits_for waits_for = {sync, 0};
    if (!cl__sync_gives_way(sync))
        return 0;
    if (cl__sys_now() - cl__load_relaxed(&sync->gave_way_at) < LOOP_TURN_NS && sync->kind->look(&waits_for) == 1)
        return 1;
    cl__store_relaxed(&sync->gives_way, 0); /* partner: this process's other threads; a hint */
    return 0;
}

void cl_sync_set_spin(cl_sync *sync, int64_t ns)
{
    ns = ns < CL__LOOK_NS ? ns : CL__LOOK_NS; /* no signal ends a spin, so it is no longer than what comes after it */
    cl__store_relaxed(&sync->waiter.limit_ns, ns); /* partner: the loads of whoever waits; a hint */
}

static int64_t until_the_next_look(int64_t waited)
{
    int64_t span = waited / LOOK_SHARE;
    return span < FIRST_LOOK_NS ? FIRST_LOOK_NS : span > CL__LOOK_NS ? CL__LOOK_NS : span;
}

int64_t cl_sync_wait(cl_sync *sync, uint64_t ticket, int64_t since, int64_t deadline)
{
    cl__waits_for waits_for = {sync, ticket};
    uint64_t slept;
    int64_t rc = cl__members_is_joined(&sync->members);
    if (rc < 0)
        return rc;
    if (cl__sync_gives_way(sync))
        give_way(sync, &waits_for);
    int64_t now = cl__sys_now(), back_at = now + CL__LOOK_NS;
    for (;; now = cl__sys_now()) {
        int64_t until = now + (sync->kind->ask == cl__sync_nobody ? CL__LOOK_NS : until_the_next_look(now - since));
        int is_last = deadline >= 0 && until >= deadline;
        rc = cl__wait(&sync->waiter, &sync->shared->wake, is_last ? deadline : until, sync->kind->look, sync->kind->ask,
                      &waits_for, &slept);
        if (rc != -ETIMEDOUT || is_last)
            return rc;
        if (until >= back_at)
            return -EINTR;
    }
}

int64_t cl__sync_acquire(cl_sync *sync, int64_t (*attempt)(cl_sync *, int32_t), int64_t deadline)
{
    int64_t rc = attempt(sync, 1);
    if (rc != -EAGAIN)
        return rc;
    for (int64_t since = cl__sys_now(); rc == -EAGAIN;) {
        rc = cl_sync_wait(sync, 0, since, deadline);
        if (rc >= 0 || rc == -ETIMEDOUT) {
            int64_t over = rc;
            rc = attempt(sync, 1);
            rc = rc == -EAGAIN && over < 0 ? over : rc;
        }
    }
    return rc;
}

/* ---- what is known ------------------------------------------------------------------------------------------------------ */

/* All of them counts that nothing is ordered by: relaxed, without partners. */
int64_t cl_sync_report_of(const cl_sync *sync, cl_sync_report *out)
{
    *out = (cl_sync_report){
        .count = sync->plan.count,
        .members = sync->plan.members,
        .kind = sync->plan.kind,
        .me = cl__members_is_joined(&sync->members) == 0 ? sync->members.me : 0,
        .joined = cl__members_joined(&sync->members),
        .recoveries = (int64_t)cl__load_relaxed(&sync->members.shared->recoveries),
        .last_dead = cl__load_relaxed(&sync->members.shared->last_dead),
    };
    uint64_t state = cl__load_relaxed(&sync->shared->state), generation = state >> CL__GENERATION_BITS & ((1 << CL__GENERATION_BITS) - 1);
    if (sync->plan.kind == CL_SEGMENT_MUTEX)
        out->free = !(state & CL__OWNER_MASK);
    for (int64_t i = 0; i < sync->plan.count; i++) {
        uint64_t slot = cl__load_relaxed(&sync->slots[i]);
        out->free += sync->plan.kind == CL_SEGMENT_SEMAPHORE && !slot;
        out->mine += sync->plan.kind == CL_SEGMENT_SEMAPHORE && slot && slot == (uint64_t)out->me;
        out->waiting += sync->plan.kind == CL_SEGMENT_BARRIER && (slot & CL__OWNER_MASK) && slot >> CL__OWNER_BITS == generation;
    }
    return 0;
}
