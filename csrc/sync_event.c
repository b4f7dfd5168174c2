/* The event: a count of its changes, odd while it is set.
 *
 * Who waits has read an even count and goes on as soon as it is another one. So it goes on also when the event was set and cleared
 * before it was awake to look:
 *
 *     waiter: 4, sleeps     A: sets it, 5, wakes all; clears it, 6     waiter: awake: 6 is not 4
 *
 * Nobody holds anything in it, so there is nothing to recover. Who is killed between the count and the wake-up delays the sleepers
 * until they look by themselves, or anybody sets it again. */
#include "sync.h"

static int64_t change_to(cl_event *event, uint64_t odd)
{
    int64_t rc = cl__members_is_joined(&event->members);
    if (__builtin_expect(rc < 0, 0))
        return rc;
    CL_FAULT(220);
    uint64_t count = cl__load_acquire(&event->shared->state); /* partner: the CAS below */
    CL_FAULT(221);
    /* W1; partner: the same of others, and the look of who sleeps */
    while ((count & 1) != odd && !cl__swap_if_ordered(&event->shared->state, &count, count + 1))
        continue;
    return 0;
}

int64_t cl_event_set(cl_event *event)
{
    int64_t rc = change_to(event, 1);
    if (rc >= 0)
        cl__sync_published(event); /* also if it was set: whoever did may have died before this */
    return rc;
}

int64_t cl_event_clear(cl_event *event)
{
    return change_to(event, 0);
}

int64_t cl_event_now(const cl_event *event)
{
    return (int64_t)(cl__load(&event->shared->state) & INT64_MAX); /* partner: W1 in change_to: what was done before it is seen */
}

/* A cl__clear. */
static int64_t clear_nothing(void *object, uint32_t index)
{
    (void)object, (void)index;
    return 0;
}

static int64_t look_changed(void *waits_for)
{
    const cl__waits_for *waits = waits_for;
    return (waits->ticket & 1) || (uint64_t)cl_event_now(waits->sync) != waits->ticket; /* W4 */
}

const cl__sync_kind cl__event_kind = {clear_nothing, look_changed, cl__sync_nobody};

int64_t cl_event_open(cl_event **out, cl_segment *segment)
{
    return cl__sync_open(out, segment, CL_SEGMENT_EVENT, &cl__event_kind);
}
