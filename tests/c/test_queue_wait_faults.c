/* A waiter that comes between two steps of whoever gives a record back: at each fault point of that it says that it will sleep,
 * and looks. If it finds nothing it must have been woken by the end. Its core is built with faults.h. */
#include "check.h"

#include "queue.h"

static cl_queue *waiter;
static int64_t left;     /* points until the waiter comes; 0: not now */
static int64_t found;
static uint32_t announced;

void cl_fault(int point);
void cl_fault(int point)
{
    (void)point;
    if (left > 0 && --left == 0) {
        announced = cl__or(&waiter->shared->not_empty, CL__SLEEP) | CL__SLEEP;
        found = cl_queue_look(waiter, CL_QUEUE_FOR_RECORD);
    }
}

static cl_queue *open_in(cl_segment *segment)
{
    cl_queue *made;
    CHECK_IS(cl_queue_open(&made, segment), 0);
    CHECK(cl_queue_join(made) > 0);
    return made;
}

/* Whether there was such a point. */
static int comes_at(int64_t k)
{
    cl_queue_plan plan = {.slots = 4, .slot_size = 8, .members = 4};
    cl_segment_plan whole = {.mode = 0600, .owner = -1, .group = -1};
    cl_segment *segment, *again;
    cl_segment_report report;
    cl_queue_claim claim;
    CHECK_IS(cl_queue_describe(&plan, &whole), 0);
    CHECK_IS(cl_segment_new(&segment), 0);
    CHECK_IS(cl_segment_create(segment, NULL, &whole), 0);
    CHECK_IS(cl_segment_report_of(segment, &report), 0);
    CHECK_IS(cl_segment_new(&again), 0);
    CHECK_IS(cl_segment_attach(again, (int)report.fd, NULL, CL_SEGMENT_QUEUE, 0, 0), 0);
    cl_queue *giver = open_in(segment);
    waiter = open_in(again);
    CHECK_IS(cl_queue_try_put(giver, "x", 1), 0);
    CHECK_IS(cl_queue_peek(giver, &claim), 0);
    left = k;
    CHECK_IS(cl_queue_give_back(giver, &claim), 0);
    int came = left == 0;
    left = 0;
    if (came)
        CHECK(found == 1 || cl__load(&waiter->shared->not_empty) != announced);
    CHECK_IS(cl_queue_look(waiter, CL_QUEUE_FOR_RECORD), 1);
    CHECK_IS(cl_queue_peek(waiter, &claim), 0);
    cl_queue_free(waiter);
    cl_queue_free(giver);
    cl_segment_free(again);
    cl_segment_free(segment);
    return came;
}

int main(void)
{
    int64_t k = 1;
    for (; say_about("a waiter at point %" PRId64, k), comes_at(k); k++)
        continue;
    CHECK(k > 3);
    printf("ok (%" PRId64 " points)\n", k - 1);
    return 0;
}
