/* A publisher whose store takes long, step by step: at each fault point of a waiter that arms itself it looks whether anybody
 * asks (W3), while its store (W1) is still in its buffer. The store arrives when the waiter makes the barrier, if W3 was before
 * that, else when the waiter is asleep. Then either W3 has seen what it had to, or the waiter has seen W1. A core of its own, built
 * with faults.h. */
#include "check.h"

#include "../../csrc/ring.h"

enum { AT_BARRIER = 351 /* it comes next */, SIZE = 1016, NEXT = 1024 };

static cl_ring *ring;
static int side;              /* of the waiter */
static int left;              /* points until W3; 0: not now */
static int is_buffered, would_serve, barriers;

static cl__door *door(void)
{
    return &ring->shared->doors[side];
}

static _Atomic uint64_t *index_of_publisher(void)
{
    return side == CL_RING_CONSUMER ? &ring->shared->tail : &ring->shared->head;
}

/* As commit_all and release_all do it. */
static int asks(void)
{
    int64_t then = (int64_t)cl__load(index_of_publisher()) + NEXT;
    return (cl__load(&door()->word) & CL__ASKS) != 0 && (side == CL_RING_CONSUMER || then >= cl__load(&door()->wake_at));
}

static void arrive(void)
{
    if (is_buffered)
        cl__add(index_of_publisher(), NEXT);
    is_buffered = 0;
}

void cl_fault(int point);
void cl_fault(int point)
{
    if (left > 0 && --left == 0) {
        is_buffered = 1;
        would_serve = asks();
    }
    if (point == AT_BARRIER) {
        barriers++;
        arrive();
    }
}

/* Whether there was such a point. */
static int comes_at(int k)
{
    cl_ring_about about;
    cl_segment *segment;
    CHECK_IS(cl_ring_describe(4096, 0, &about), 0);
    about.flags = CL_RING_MEMBARRIER;
    cl_segment_plan whole = {.size = about.size, .data_offset = CL_SEGMENT_HEADER, .kind = CL_SEGMENT_RING,
                             .layout = CL_RING_LAYOUT, .about = (const char *)&about, .about_size = sizeof about,
                             .mode = 0600, .owner = -1, .group = -1};
    CHECK_IS(cl_segment_new(&segment), 0);
    CHECK_IS(cl_segment_create(segment, NULL, &whole), 0);
    CHECK_IS(cl_ring_open(&ring, segment, 0), 0);
    CHECK_IS(cl_ring_take(ring, side), 0);
    static uint8_t data[SIZE];
    while (side == CL_RING_PRODUCER && cl_ring_try_put(ring, data, SIZE) == 0)
        continue; /* it is full: whoever releases one record makes just enough room */
    cl__store_relaxed(&door()->wake_at, INT64_MAX); /* as of a ring whose producer was woken before */
    CHECK(cl_ring_poll_fd(ring, side) >= 0);
    barriers = 0;
    left = k;
    int64_t rc = cl_ring_arm(ring, side, SIZE);
    int came = left == 0;
    left = 0;
    CHECK(rc == 1 || barriers == 1);
    CHECK(rc == 1 || !came || would_serve);
    arrive();
    cl_ring_free(ring);
    cl_segment_free(segment);
    return came;
}

int main(void)
{
    static const char *const sides[] = {"producer", "consumer"};
    int all = 0;
    if (cl_membarrier_register() < 0) {
        puts("ok: there is no membarrier here");
        return 0;
    }
    for (side = 0; side < CL_RING_SIDES; side++) {
        int k = 1;
        for (; say_about("a %s, looked for at point %d", sides[side], k), comes_at(k); k++)
            continue;
        CHECK(k > 4);
        all += k - 1;
    }
    printf("ok: %d points\n", all);
    return 0;
}
