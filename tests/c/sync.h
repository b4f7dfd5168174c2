/* Handles of locks, semaphores, events and barriers, for the programs that test them. */
#ifndef TEST_SYNC_H
#define TEST_SYNC_H

#include "check.h"
#include "../../csrc/sync.h" /* the words, to scribble over them */

typedef struct handle {
    cl_segment *segment;
    cl_sync *sync;
} handle;

HELPER int64_t open_kind(cl_sync **out, cl_segment *segment, int kind)
{
    return kind == CL_SEGMENT_MUTEX       ? cl_lock_open(out, segment)
           : kind == CL_SEGMENT_SEMAPHORE ? cl_semaphore_open(out, segment)
           : kind == CL_SEGMENT_EVENT     ? cl_event_open(out, segment)
                                          : cl_barrier_open(out, segment);
}

HELPER handle make(int kind, int64_t count, int32_t members)
{
    handle made;
    cl_segment_plan whole = {.mode = 0600, .owner = -1, .group = -1};
    cl_sync_plan plan = {.count = count, .members = members, .kind = kind};
    CHECK_IS(cl_sync_describe(&plan, &whole), 0);
    CHECK_IS(cl_segment_new(&made.segment), 0);
    CHECK_IS(cl_segment_create(made.segment, NULL, &whole), 0);
    CHECK_IS(open_kind(&made.sync, made.segment, kind), 0);
    CHECK(cl_sync_join(made.sync) > 0);
    return made;
}

HELPER handle attach_to(const handle *one)
{
    handle made;
    cl_segment_report report;
    CHECK_IS(cl_segment_report_of(one->segment, &report), 0);
    CHECK_IS(cl_segment_new(&made.segment), 0);
    CHECK_IS(cl_segment_attach(made.segment, (int)report.fd, NULL, report.kind, 0, 0), 0);
    CHECK_IS(open_kind(&made.sync, made.segment, report.kind), 0);
    CHECK(cl_sync_join(made.sync) > 0);
    return made;
}

HELPER void drop(handle *one)
{
    cl_sync_free(one->sync);
    cl_segment_free(one->segment);
    *one = (handle){0};
}

HELPER cl_sync_report look(const handle *one)
{
    cl_sync_report report;
    CHECK_IS(cl_sync_report_of(one->sync, &report), 0);
    return report;
}

HELPER int64_t soon(void)
{
    return now_ns() + PATIENCE;
}

/* Until it says something else than -EINTR. */
HELPER int64_t acquire_lock(cl_lock *lock, int64_t deadline)
{
    int64_t rc;
    while ((rc = cl_lock_acquire(lock, deadline)) == -EINTR)
        continue;
    return rc;
}

HELPER int64_t acquire_permit(cl_semaphore *semaphore, int64_t deadline)
{
    int64_t rc;
    while ((rc = cl_semaphore_acquire(semaphore, deadline)) == -EINTR)
        continue;
    return rc;
}

HELPER int64_t wait_for(cl_sync *sync, uint64_t ticket, int64_t deadline)
{
    int64_t rc, since = now_ns();
    while ((rc = cl_sync_wait(sync, ticket, since, deadline)) == -EINTR)
        continue;
    return rc;
}

HELPER int64_t await_event(cl_event *event, int64_t deadline)
{
    uint64_t ticket = (uint64_t)cl_event_now(event);
    int64_t rc = 0;
    while (!(ticket & 1) && (uint64_t)cl_event_now(event) == ticket && rc >= 0)
        rc = wait_for(event, ticket, deadline);
    return rc;
}

/* The index, or what cl_barrier_arrive or cl_sync_wait said. */
HELPER int64_t pass_barrier(cl_barrier *barrier, int64_t deadline)
{
    cl_barrier_ticket ticket = {0};
    int64_t rc = cl_barrier_arrive(barrier, &ticket);
    if (rc < 0)
        return rc;
    while ((rc = cl_barrier_look(barrier, ticket.generation)) == 0)
        if ((rc = wait_for(barrier, ticket.generation, deadline)) < 0)
            break;
    return cl_barrier_give_up(barrier, &ticket) ? ticket.index : rc;
}

#endif
