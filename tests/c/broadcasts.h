/* Making broadcasts, for the programs that test them. */
#ifndef TESTS_BROADCASTS_H
#define TESTS_BROADCASTS_H

#include "check.h"

#include "broadcast.h"

enum { SLOTS = 8, SIZE = 96, WORDS = SIZE / 4 };

typedef struct handle {
    cl_segment *segment;
    cl_broadcast *cast;
} handle;

typedef struct record {
    uint32_t word[WORDS]; /* all the same: else it is torn */
} record;

static cl_broadcast_plan plan;

HELPER handle make(int64_t slots, int32_t members, int32_t flags)
{
    handle made;
    cl_segment_plan whole = {.mode = 0600, .owner = -1, .group = -1};
    plan = (cl_broadcast_plan){.slots = slots, .slot_size = SIZE, .members = members, .flags = flags};
    CHECK_IS(cl_broadcast_describe(&plan, &whole), 0);
    CHECK_IS(cl_segment_new(&made.segment), 0);
    CHECK_IS(cl_segment_create(made.segment, NULL, &whole), 0);
    CHECK_IS(cl_broadcast_open(&made.cast, made.segment), 0);
    return made;
}

HELPER handle again(const handle *from, int32_t flags)
{
    cl_segment_report report;
    handle made;
    CHECK_IS(cl_segment_report_of(from->segment, &report), 0);
    CHECK_IS(cl_segment_new(&made.segment), 0);
    CHECK_IS(cl_segment_attach(made.segment, (int)report.fd, NULL, CL_SEGMENT_BROADCAST, 0, flags), 0);
    CHECK_IS(cl_broadcast_open(&made.cast, made.segment), 0);
    return made;
}

HELPER handle reader_of(const handle *from, int32_t policy, int32_t reading)
{
    handle made = again(from, 0);
    CHECK_IS(cl_broadcast_subscribe(made.cast, policy, reading), 0);
    return made;
}

HELPER void drop(handle *one)
{
    cl_broadcast_free(one->cast);
    cl_segment_free(one->segment);
    *one = (handle){0};
}

HELPER cl_broadcast_report look_at(const handle *one)
{
    cl_broadcast_report report;
    CHECK_IS(cl_broadcast_report_of(one->cast, &report), 0);
    return report;
}

HELPER int64_t put(const handle *one, uint32_t value)
{
    record made;
    for (int i = 0; i < WORDS; i++)
        made.word[i] = value;
    return cl_broadcast_try_put(one->cast, &made, sizeof made);
}

HELPER void must_put(const handle *one, uint32_t first, uint32_t last)
{
    for (uint32_t value = first; value <= last; value++)
        CHECK_IS(put(one, value), 0);
}

HELPER int64_t value_of(const record *got)
{
    for (int i = 0; i < WORDS; i++)
        CHECK_IS(got->word[i], got->word[0]); /* not torn */
    return got->word[0];
}

HELPER int64_t get(const handle *one)
{
    record got;
    int64_t rc = cl_broadcast_try_get(one->cast, &got, sizeof got);
    if (rc < 0)
        return rc;
    CHECK_IS(rc, sizeof got);
    return value_of(&got);
}

HELPER void must_get(const handle *one, uint32_t first, uint32_t last)
{
    for (uint32_t value = first; value <= last; value++)
        CHECK_IS(get(one), value);
}

HELPER int64_t wait_for(const handle *one, int32_t what, int64_t deadline)
{
    int64_t rc;
    while ((rc = cl_broadcast_wait(one->cast, what, 0, deadline)) == -EINTR)
        continue;
    return rc;
}

/* It is time to ask whether somebody lives. */
HELPER void let_ask(const handle *one)
{
    one->cast->members.owner_asked_at = one->cast->members.all_asked_at = 0;
}

#endif
