/* Waiting for a ring, and what is known of it. What it does is in ring.c. */
#include "ring.h"

/* ---- waiting ---------------------------------------------------------------------------------------------------------- */

typedef struct wanted {
    cl_ring *ring;
    int which;
    uint64_t needed;
} wanted;

/* From where on the consumer wakes the producer: an eighth of the ring, so that not every record that is got wakes it for one
 * more. More than all of it is never asked for, so whoever empties the ring wakes it. Several threads of the producer's may
 * wait, and want different things: it stays with the least, and begins anew when they are woken.
 *
 *     producer: wake_at = mine, unless it is less     looks at head
 *     consumer: stores head     any ASKS ?     head >= wake_at ?     wake_at = never; takes ASKS out; wakes
 *
 * Either the consumer sees what we want, or we see its head: all four are in one order. If its `never` overwrites ours, ASKS
 * is taken out after that: if ours was there by then, we are woken; if it was not, we or-ed it in later, so the look after
 * that sees `never`, and says it again. With membarrier, ours is said by the look before it: see wake.h. */
static void say_when(const wanted *want)
{
    cl_ring *ring = want->ring;
    uint64_t room = ring->capacity / 8 > want->needed ? ring->capacity / 8 : want->needed;
    int64_t mine = (int64_t)(cl__load_relaxed(&ring->sides[CL_RING_PRODUCER].index) + room - ring->capacity);
    _Atomic int64_t *wake_at = &ring->shared->doors[CL_RING_PRODUCER].wake_at;
    int64_t seen = cl__load(wake_at); /* partner: the store in wake_side */
    while (seen > mine) {
        CL_FAULT(13);
        if (cl__swap_if_ordered(wake_at, &seen, mine)) /* partner: the load in release_all */
            break;
    }
}

/* Reads nothing that another thread of this process changes but by atomics. What it says is tried afterwards. */
static int64_t is_there(void *object)
{
    const wanted *want = object;
    cl_ring *ring = want->ring;
    const cl__side *mine = &ring->sides[want->which];
    if (!cl__ring_is_ours(ring, mine))
        return cl__ring_why_not(ring, mine);
    uint64_t own = cl__load_relaxed(&mine->index);
    CL_FAULT(10);
    if (want->which == CL_RING_CONSUMER) {
        if (cl__load(&ring->shared->tail) != own) /* W4; partner: W1 in commit_all */
            return 1;
    } else {
        say_when(want);
        if (ring->capacity - (own - cl__load(&ring->shared->head)) >= want->needed) /* W4; release_all */
            return 1;
    }
    return (cl__load(&ring->shared->doors[!want->which].word) & CL__CLOSED) != 0; /* trying says what that means */
}

/* Whether the other side has died. First the word, then the lease, then the word: see cl_ring_leave. That it says OPEN again is
 * not enough:
 *
 *     we: OPEN     A: closes, gives up the lease     we: nobody has it     B: takes it, OPEN     we: OPEN, so A has died
 *
 * As it is, A and B have counted. So do we, if another thread of ours serves that door meanwhile: then we ask again later. */
static int64_t is_dead(void *object)
{
    const wanted *want = object;
    _Atomic uint32_t *word = &want->ring->shared->doors[!want->which].word;
    uint32_t seen = cl__load(word) & ~(uint32_t)CL__ASKS; /* partner: set_state; so for the second look */
    if (!(seen & CL__OPEN))
        return 0;
    CL_FAULT(300);
    int64_t held = cl__segment_part_is_held(want->ring->segment, !want->which);
    if (held != 0)
        return held < 0 ? held : 0;
    CL_FAULT(301);
    if ((cl__load(word) & ~(uint32_t)CL__ASKS) != seen)
        return 0;
    /* What it did before its end is all there by now: the kernel has freed its lock after that. */
    int64_t there = is_there(object);
    return there ? there : -EOWNERDEAD;
}

static int64_t say_what(cl_ring *ring, int32_t which, int64_t size, wanted *want)
{
    if (which < 0 || which >= CL_RING_SIDES)
        return -EINVAL;
    if (size < 0 || (uint64_t)size > ring->capacity - CL_RING_HEADER)
        return -EMSGSIZE;
    *want = (wanted){ring, which, cl__ring_room((uint64_t)size)};
    return 0;
}

int64_t cl_ring_look(cl_ring *ring, int32_t which, int64_t size)
{
    wanted want;
    int64_t rc = say_what(ring, which, size, &want);
    rc = rc < 0 ? rc : is_there(&want);
    return rc ? rc : is_dead(&want);
}

int64_t cl_ring_poll_fd(cl_ring *ring, int32_t which)
{
    if (which < 0 || which >= CL_RING_SIDES)
        return -EINVAL;
    cl__side *mine = &ring->sides[which];
    return cl__ring_is_ours(ring, mine) ? cl__bell_open(&mine->bell, &ring->shared->doors[which].bell) : cl__ring_why_not(ring, mine);
}

int64_t cl_ring_silence(cl_ring *ring, int32_t which)
{
    if (which < 0 || which >= CL_RING_SIDES)
        return -EINVAL;
    cl__side *mine = &ring->sides[which];
    if (cl__ring_is_ours(ring, mine)) /* else it is our parent's */
        cl__bell_silence(&mine->bell);
    return 0;
}

int64_t cl_ring_arm(cl_ring *ring, int32_t which, int64_t size)
{
    wanted want;
    int64_t rc = say_what(ring, which, size, &want);
    if (rc < 0)
        return rc;
    cl__side *mine = &ring->sides[which];
    if (!cl__ring_is_ours(ring, mine))
        return cl__ring_why_not(ring, mine);
    if (mine->bell.ends[0] < 0)
        return -EBADF;
    CL_FAULT(11);
    cl__or(&ring->shared->doors[which].word, CL__POLL); /* W2; partner: W3 in commit_all and release_all */
    CL_FAULT(12);
    rc = cl__order_publishers(ring->has_membarrier, is_there, &want);
    rc = rc ? rc : is_there(&want); /* W4 */
    return rc ? rc : is_dead(&want);
}

int64_t cl_ring_wait(cl_ring *ring, int32_t which, int64_t size, int64_t deadline)
{
    wanted want;
    uint64_t slept = 0;
    int64_t rc = say_what(ring, which, size, &want);
    if (rc < 0)
        return rc;
    cl__side *mine = &ring->sides[which];
    if (!cl__ring_is_ours(ring, mine))
        return cl__ring_why_not(ring, mine); /* and nothing is written: it may be read-only, or somebody else's */
    rc = cl__wait(&mine->waiter, &ring->shared->doors[which].word, deadline, is_there, is_dead, &want, &slept);
    if (cl__ring_is_ours(ring, mine) && slept) {
        _Atomic uint64_t *waits = &ring->shared->tallies[which].waits;
        cl__store_relaxed(waits, cl__load_relaxed(waits) + slept);
    }
    return rc;
}

static int64_t look_among(const cl_waitable *self)
{
    wanted want = {self->object, (int)self->what, (uint64_t)self->size};
    return is_there(&want);
}

static int64_t ask_among(const cl_waitable *self)
{
    wanted want = {self->object, (int)self->what, (uint64_t)self->size};
    return is_dead(&want);
}

int64_t cl_ring_waitable(cl_ring *ring, int32_t which, int64_t size, cl_waitable *out)
{
    wanted want;
    int64_t rc = say_what(ring, which, size, &want);
    if (rc < 0)
        return rc;
    if (!cl__ring_is_ours(ring, &ring->sides[which]))
        return cl__ring_why_not(ring, &ring->sides[which]);
    uint32_t *word = (uint32_t *)&ring->shared->doors[which].word;
    *out = (cl_waitable){look_among, ask_among, word, ring, which, (int64_t)want.needed, ring->has_membarrier};
    return 0;
}

void cl_ring_set_spin(cl_ring *ring, int64_t ns)
{
    ns = ns < CL__LOOK_NS ? ns : CL__LOOK_NS; /* no signal ends a spin, so it is no longer than what comes after it */
    for (int i = 0; i < CL_RING_SIDES; i++)
        cl__store_relaxed(&ring->sides[i].waiter.limit_ns, ns > 0 ? ns : 0);
}

/* ---- what is known ------------------------------------------------------------------------------------------------------ */

static void copy_tally(const cl__tally *from, cl_ring_tally *out)
{
    out->records = cl__load_relaxed(&from->records);
    out->bytes = cl__load_relaxed(&from->bytes);
    out->waits = cl__load_relaxed(&from->waits);
    out->wakes = cl__load_relaxed(&from->wakes);
}

int64_t cl_ring_stats_of(cl_ring *ring, cl_ring_stats *out)
{
    cl__control *shared = ring->shared;
    *out = (cl_ring_stats){.capacity = ring->capacity};
    copy_tally(&shared->tallies[CL_RING_PRODUCER], &out->producer);
    copy_tally(&shared->tallies[CL_RING_CONSUMER], &out->consumer);
    /* head first: tail is never behind the head that was. */
    uint64_t head = cl__ring_index(ring, CL_RING_CONSUMER), depth = cl__ring_index(ring, CL_RING_PRODUCER) - head;
    out->depth = depth > ring->capacity ? ring->capacity : depth;
    out->most = out->depth;
    out->dropped = cl__load_relaxed(&shared->tallies[CL_RING_PRODUCER].dropped);
    for (int i = 0; i < CL_RING_SIDES; i++) {
        uint32_t word = cl__load_acquire(&shared->doors[i].word); /* partner: set_state */
        uint64_t most = cl__load_relaxed(&shared->tallies[i].most);
        int64_t held = cl__segment_part_is_held(ring->segment, i);
        out->most = most > out->most && most <= ring->capacity ? most : out->most;
        out->open[i] = (word & CL__OPEN) != 0;
        out->closed[i] = (word & CL__CLOSED) != 0;
        out->held[i] = held < 0 ? -1 : (int)held;
        out->pids[i] = cl__load_relaxed(&shared->doors[i].pid);
    }
    return 0;
}

int64_t cl_ring_note_drops(cl_ring *ring, int64_t count)
{
    const cl__side *mine = &ring->sides[CL_RING_PRODUCER];
    if (!cl__ring_is_ours(ring, mine))
        return cl__ring_why_not(ring, mine); /* it may be read-only */
    cl__add_relaxed(&ring->shared->tallies[CL_RING_PRODUCER].dropped, (uint64_t)count);
    return 0;
}

int64_t cl_ring_report_of(const cl_ring *ring, cl_ring_report *out)
{
    *out = (cl_ring_report){.found = ring->found,
                            .has_membarrier = ring->has_membarrier,
                            .expected = ring->expected,
                            .fault = ring->fault,
                            .capacity = (int64_t)ring->capacity,
                            .largest = (int64_t)ring->capacity - CL_RING_HEADER};
    for (int i = 0; i < CL_RING_SIDES; i++) {
        out->died[i] = ring->sides[i].died;
        out->taken[i] = cl__ring_is_ours(ring, &ring->sides[i]);
    }
    return 0;
}
