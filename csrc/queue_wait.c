/* Waiting for a queue: in the kernel, or in an event loop.
 *
 * What is waited for is looked at without claiming anything, by the same walk as the try that follows. Who dies wakes nobody, so
 * before each sleep it is asked who has: the owner of what is in the way, and, as a try does, all participants where that may
 * be anybody. Behind a slot of somebody else's a sleep is short: whoever has it may die, and those behind it would learn of
 * that only when they look. */
#include "queue.h"

typedef struct wanted {
    cl_queue *queue;
    int32_t what;
    uint32_t in_the_way; /* as the last look has found it: another one's index, or 0 */
    int is_short;        /* this sleep: it need not be told that somebody is in the way */
} wanted;

enum { MAY_BE_THERE = 1, HELD = 2 };

static _Atomic uint32_t *word_of(cl_queue *queue, int32_t what)
{
    return what == CL_QUEUE_FOR_ROOM ? &queue->shared->not_full : &queue->shared->not_empty;
}

void cl__queue_serve(cl_queue *queue, _Atomic uint32_t *wake)
{
    int what = wake == &queue->shared->not_full ? CL_QUEUE_FOR_ROOM : CL_QUEUE_FOR_RECORD;
    if (cl__members_serve(&queue->members, wake, what))
        cl__add_relaxed(&queue->shared->wakes[what], 1); /* partner: none, a count */
}

/* ---- looking ------------------------------------------------------------------------------------------------------------- */

static void note_holder(wanted *want, cl__word word)
{
    int held = cl__state_of(word) == CL__WRITING || cl__state_of(word) == CL__READING;
    want->in_the_way = held && cl__owner_of(word) != cl__queue_me(want->queue) ? cl__owner_of(word) : 0;
}

/* Of a queue that is shut and has no record at its head. Who is done with the last one tells only those who wait for room. */
static int is_over(wanted *want)
{
    if (!cl__queue_is_with_another(want->queue))
        return 1;
    want->in_the_way = cl__load_relaxed(&want->queue->in_the_way); /* partner: none, of this process only */
    return 0;
}

/* Behind the head, perhaps, as claim_orphan looks for them. */
static int has_orphan(cl_queue *queue)
{
    uint32_t repairs = cl__load(&queue->shared->repairs); /* W4; partner: whoever made ORPHANs */
    if (repairs == cl__load_relaxed(&queue->seen_repairs))
        return 0;
    for (uint64_t i = 0; i <= queue->mask; i++) {
        CL_FAULT(152);
        if (cl__state_of(cl__load_acquire(&cl__slot_at(queue, i)->word)) == CL__ORPHAN) /* partner: the CAS that made it one */
            return 1;
    }
    cl__store_relaxed(&queue->seen_repairs, repairs); /* those that are made from now on make it another number */
    return 0;
}

/* The walk of claim_to_read, with the same ends. What cannot be is for the try to say. */
static int64_t look_for_record(wanted *want)
{
    cl_queue *queue = want->queue;
    cl__queue_memory *shared = queue->shared;
    int is_shut = cl__load(&shared->shut) != 0; /* partner: the exchange in cl_queue_shut */
    if (has_orphan(queue))
        return MAY_BE_THERE;
    uint64_t position = cl__load_acquire(&shared->head); /* partner: the release in claim_to_read */
    for (uint64_t steps = 0; steps <= 2 * queue->mask + 4; steps++, position++) {
        CL_FAULT(150);
        cl__word word = cl__load(&cl__slot_at(queue, position)->word); /* W4; partner: publish(), of the producer */
        int64_t distance = cl__queue_ahead(queue, word, position);
        unsigned state = cl__state_of(word);
        if (state <= CL__ORPHAN && (distance > 0 || (distance == 0 && state == CL__READING)))
            continue;
        note_holder(want, word);
        if (state > CL__ORPHAN || (distance < 0 && !cl__may_be_behind(word)))
            return MAY_BE_THERE;
        int is_end = distance == 0 ? state == CL__EMPTY : cl__owner_of(word) == cl__queue_me(queue);
        return is_end ? is_shut && is_over(want) : distance == 0 && state != CL__WRITING;
    }
    return MAY_BE_THERE;
}

static int64_t look_for_room(wanted *want)
{
    cl_queue *queue = want->queue;
    if (cl__load(&queue->shared->shut)) /* partner: the exchange in cl_queue_shut */
        return MAY_BE_THERE;
    uint64_t position = cl__load_acquire(&queue->shared->tail); /* partner: the release in claim_to_write */
    for (uint64_t steps = 0; steps <= 2 * queue->mask + 4; steps++, position++) {
        CL_FAULT(151);
        cl__word word = cl__load(&cl__slot_at(queue, position)->word); /* W4; partner: publish(), of the consumer */
        int64_t distance = cl__queue_ahead(queue, word, position);
        unsigned state = cl__state_of(word);
        if (state <= CL__ORPHAN && (distance > 0 || (distance == 0 && state != CL__EMPTY)))
            continue;
        note_holder(want, word);
        return distance >= 0 || state == CL__EMPTY || state == CL__TOMBSTONE || state > CL__ORPHAN;
    }
    return MAY_BE_THERE;
}

/* A cl__look. */
static int64_t look(void *object)
{
    wanted *want = object;
    int64_t rc = cl__members_is_joined(&want->queue->members);
    want->in_the_way = 0;
    return rc < 0 ? rc : want->what == CL_QUEUE_FOR_ROOM ? look_for_room(want) : look_for_record(want);
}

/* Another one, after the look has found nothing. */
static int64_t ask(void *object)
{
    wanted *want = object;
    cl__members *members = &want->queue->members;
    int64_t rc = want->in_the_way ? cl__members_ask_one(members, want->in_the_way) : 0;
    if (rc == 0 && want->what == CL_QUEUE_FOR_RECORD)
        rc = cl__members_ask_all(members);
    return rc > 0 ? MAY_BE_THERE : rc < 0 ? rc : want->in_the_way && !want->is_short ? HELD : 0;
}

static int64_t check(const cl_queue *queue, int32_t what)
{
    return what != CL_QUEUE_FOR_RECORD && what != CL_QUEUE_FOR_ROOM ? -EINVAL : cl__members_is_joined(&queue->members);
}

int64_t cl_queue_look(cl_queue *queue, int32_t what)
{
    wanted want = {.queue = queue, .what = what};
    int64_t rc = check(queue, what);
    return rc < 0 ? rc : look(&want);
}

/* ---- among others: see wait_any.c ------------------------------------------------------------------------------------------ */

static int64_t look_among(const cl_waitable *self)
{
    wanted want = {.queue = self->object, .what = (int32_t)self->what};
    int64_t rc = look(&want);
    return rc != 0 ? rc : want.in_the_way ? CL_WAIT_HELD : CL_WAIT_NOT_YET;
}

static int64_t ask_among(const cl_waitable *self)
{
    wanted want = {.queue = self->object, .what = (int32_t)self->what, .is_short = 1};
    int64_t rc = look(&want);
    return rc ? rc : ask(&want);
}

int64_t cl_queue_waitable(cl_queue *queue, int32_t what, cl_waitable *out)
{
    int64_t rc = check(queue, what);
    if (rc == 0)
        *out = (cl_waitable){look_among, ask_among, (uint32_t *)word_of(queue, what), queue, what, 0,
                             cl__queue_has_membarrier(queue)};
    return rc;
}

/* ---- sleeping ------------------------------------------------------------------------------------------------------------ */

int64_t cl_queue_wait(cl_queue *queue, int32_t what, int64_t deadline)
{
    wanted want = {.queue = queue, .what = what};
    int64_t rc = check(queue, what), back_at = -1;
    uint64_t slept;
    if (rc < 0)
        return rc;
    for (;;) {
        int64_t until = deadline;
        if (want.is_short) {
            int64_t now = cl__sys_now();
            back_at = back_at < 0 ? now + CL__LOOK_NS : back_at;
            if (now >= back_at) /* as cl__wait does it, which never waits as long as that here */
                return -EINTR;
            until = deadline < 0 || deadline > now + CL__HELD_NS ? now + CL__HELD_NS : deadline;
        }
        rc = cl__wait(&queue->waiters[what], word_of(queue, what), until, look, ask, &want, &slept);
        if (rc != HELD && (rc != -ETIMEDOUT || until == deadline))
            return rc;
        want.is_short = want.in_the_way != 0;
    }
}

void cl_queue_set_spin(cl_queue *queue, int64_t ns)
{
    ns = ns < CL__LOOK_NS ? ns : CL__LOOK_NS; /* no signal ends a spin, so it is no longer than what comes after it */
    for (int what = 0; what < 2; what++)
        cl__store_relaxed(&queue->waiters[what].limit_ns, ns > 0 ? ns : 0); /* partner: none, of this process only */
}

/* ---- descriptors --------------------------------------------------------------------------------------------------------- */

int64_t cl_queue_poll_fd(cl_queue *queue, int32_t what)
{
    int64_t rc = check(queue, what);
    return rc < 0 ? rc : cl__members_poll_fd(&queue->members, what);
}

int64_t cl_queue_silence(cl_queue *queue, int32_t what)
{
    int64_t rc = check(queue, what);
    if (rc == 0)
        cl__members_silence(&queue->members, what);
    return rc;
}

int64_t cl_queue_arm(cl_queue *queue, int32_t what)
{
    int64_t rc = check(queue, what);
    return rc < 0 ? rc : cl__members_arm(&queue->members, word_of(queue, what), what);
}
