/* A deque, its handles, and records that show when they are torn: for the programs that test deques. */
#ifndef DEQUE_HANDLES_H
#define DEQUE_HANDLES_H

#include "check.h"
#include "deque.h" /* the words of slots, to scribble over them */

enum { SIZE = 64, WORDS = SIZE / 4 };

typedef struct handle {
    cl_segment *segment;
    cl_deque *deque;
} handle;

typedef struct record {
    uint32_t word[WORDS]; /* all the same: else it is torn */
} record;

HELPER handle make(int64_t slots, int32_t members, int32_t flags)
{
    static cl_deque_plan plan;
    handle made;
    cl_segment_plan whole = {.mode = 0600, .owner = -1, .group = -1};
    plan = (cl_deque_plan){.slots = slots, .slot_size = SIZE, .members = members, .flags = flags};
    CHECK_IS(cl_deque_describe(&plan, &whole), 0);
    CHECK_IS(cl_segment_new(&made.segment), 0);
    CHECK_IS(cl_segment_create(made.segment, NULL, &whole), 0);
    CHECK_IS(cl_deque_open(&made.deque, made.segment), 0);
    CHECK(cl_deque_join(made.deque) > 0);
    return made;
}

HELPER int fd_of(const handle *from)
{
    cl_segment_report report;
    CHECK_IS(cl_segment_report_of(from->segment, &report), 0);
    return (int)report.fd;
}

HELPER handle attach(int fd, int32_t flags)
{
    handle made;
    CHECK_IS(cl_segment_new(&made.segment), 0);
    CHECK_IS(cl_segment_attach(made.segment, fd, NULL, CL_SEGMENT_DEQUE, 0, flags), 0);
    CHECK_IS(cl_deque_open(&made.deque, made.segment), 0);
    return made;
}

HELPER handle join(int fd)
{
    handle made = attach(fd, 0);
    CHECK(cl_deque_join(made.deque) > 0);
    return made;
}

HELPER void drop(handle *one)
{
    cl_deque_free(one->deque);
    cl_segment_free(one->segment);
    *one = (handle){0};
}

HELPER cl_deque_report look(const handle *one)
{
    cl_deque_report report;
    CHECK_IS(cl_deque_report_of(one->deque, &report), 0);
    return report;
}

HELPER int64_t push(cl_deque *deque, uint32_t value)
{
    record made;
    for (int i = 0; i < WORDS; i++)
        made.word[i] = value;
    return cl_deque_push(deque, &made, sizeof made);
}

HELPER int64_t value_of(const record *got, int64_t rc)
{
    if (rc < 0)
        return rc;
    CHECK_IS(rc, sizeof *got);
    for (int i = 0; i < WORDS; i++)
        CHECK_IS(got->word[i], got->word[0]); /* not torn */
    return got->word[0];
}

HELPER int64_t pop(cl_deque *deque)
{
    record got;
    return value_of(&got, cl_deque_pop(deque, &got, sizeof got));
}

HELPER int64_t steal(cl_deque *deque)
{
    record got;
    return value_of(&got, cl_deque_steal(deque, &got, sizeof got));
}

/* It is time to ask for leases. */
HELPER void ask_now(cl_deque *deque)
{
    deque->members.owner_asked_at = deque->members.all_asked_at = 0;
}

/* All slots are usable, by whoever is the owner now, from both ends. */
HELPER void has_all_slots(handle *one)
{
    int64_t slots = look(one).slots, rc;
    CHECK(cl_deque_own(one->deque) >= 0);
    do {
        ask_now(one->deque);
        rc = steal(one->deque);
    } while (rc >= 0);
    CHECK_IS(rc, -EAGAIN);
    while (push(one->deque, 0) == 0) /* what was given back above bottom is passed once, and then used again */
        continue;
    while (pop(one->deque) >= 0)
        continue;
    for (int lap = 0; lap < 4; lap++) {
        for (int64_t i = 0; i < slots; i++) {
            ask_now(one->deque);
            CHECK_IS(push(one->deque, (uint32_t)i), 0);
        }
        CHECK_IS(push(one->deque, 99), -EAGAIN);
        CHECK_IS(cl_deque_blocked_by(one->deque), 0);
        for (int64_t i = 0; i < slots; i++)
            CHECK_IS(lap % 2 ? pop(one->deque) : steal(one->deque), lap % 2 ? slots - 1 - i : i);
        CHECK_IS(pop(one->deque), -EAGAIN);
        CHECK_IS(steal(one->deque), -EAGAIN);
        CHECK_IS(look(one).size, 0);
    }
}

#endif
