/* What is done with a segment whose bytes are somebody else's, one call for each byte of an input: see image.h. */
#ifndef FUZZ_USES_H
#define FUZZ_USES_H

#include "broadcast.h"
#include "buffers.h"
#include "deque.h"
#include "queue.h"
#include "sync.h"

#include "../c/check.h"

enum { OPS_AT = 1, OPS_END = 24 };

static volatile uint64_t sink;

HELPER void read_bytes(const uint8_t *data, int64_t size)
{
    uint64_t sum = 0;
    for (int64_t i = 0; i < size; i++)
        sum += ((const volatile uint8_t *)data)[i];
    sink = sum;
}

enum { ROOM = 1 << 12, AT_ONCE = 4 };

static void use_ring(cl_segment *segment, const uint8_t *ops)
{
    cl_ring *ring;
    cl_ring_stats stats;
    cl_ring_report report;
    if (cl_ring_open(&ring, segment, 0) < 0)
        return;
    cl_ring_set_spin(ring, 0);
    for (int side = 0; side < CL_RING_SIDES; side++)
        cl_ring_take(ring, side);
    uint8_t *room = calloc(ROOM, 1), *out;
    const uint8_t *in;
    for (int i = OPS_AT; i < OPS_END; i++) {
        int64_t size = ops[i] >> 4 << (ops[i] & 7), needs = 0, got;
        int side = ops[i] >> 4 & 1;
        switch (ops[i] & 15) {
        case 0:
        case 1:
            cl_ring_try_put(ring, room, size);
            break;
        case 2:
        case 3:
            cl_ring_try_get(ring, room, size, &needs);
            break;
        case 4:
            cl_ring_try_put_many(ring, room, size, ROOM / (size + 1));
            break;
        case 5:
            cl_ring_try_get_many(ring, room, size, ROOM / (size + 1), &needs);
            break;
        case 6:
            if (cl_ring_reserve(ring, size, &out) == 0) {
                memset(out, 1, (size_t)size);
                cl_ring_add(ring, size / 2);
            }
            break;
        case 7:
            cl_ring_commit(ring);
            break;
        case 8:
        case 9:
            if (cl_ring_peek(ring, &in, &got) == 0)
                read_bytes(in, got);
            break;
        case 10:
            cl_ring_release(ring);
            break;
        case 11:
            ops[i] & 16 ? cl_ring_rewind(ring) : cl_ring_abandon(ring);
            break;
        case 12:
            cl_ring_wait(ring, side, size, 0); /* which is over */
            cl_ring_look(ring, side, size);
            break;
        case 13:
            cl_ring_poll_fd(ring, side);
            cl_ring_arm(ring, side, size);
            break;
        case 14:
            cl_ring_leave(ring, side);
            cl_ring_take(ring, side);
            break;
        default:
            cl_ring_stats_of(ring, &stats);
            CHECK(stats.depth <= stats.capacity && stats.most <= stats.capacity);
            cl_ring_report_of(ring, &report);
        }
    }
    cl_ring_close(ring);
    cl_ring_free(ring);
    free(room);
}

/* A slot that we were given is one, all of it. */
HELPER void check_claim(const cl_queue *queue, const cl_queue_claim *claim)
{
    CHECK(claim->index >= 0 && claim->index < queue->plan.slots && claim->size >= 0 && claim->size <= queue->plan.slot_size);
    CHECK(claim->data == queue->slots + (size_t)claim->index * queue->stride + sizeof(cl__slot));
}

static void use_queue(cl_segment *segment, const uint8_t *ops)
{
    cl_queue *queue;
    cl_queue_report report;
    cl_queue_claim written = {0}, seen = {0};
    int64_t sizes[AT_ONCE];
    if (cl_queue_open(&queue, segment) < 0)
        return;
    cl_queue_join(queue);
    int64_t most = queue->plan.slot_size;
    uint8_t *room = calloc((size_t)most, AT_ONCE);
    for (int i = OPS_AT; i < OPS_END; i++) {
        int64_t size = ops[i] >> 4 < most ? ops[i] >> 4 : most;
        queue->members.owner_asked_at = queue->members.all_asked_at = 0; /* it is time to ask */
        switch (ops[i] & 15) {
        case 0:
        case 1:
            cl_queue_try_put(queue, room, size);
            break;
        case 2:
        case 3:
            cl_queue_try_get(queue, room, most);
            break;
        case 4:
            for (int j = 0; j < AT_ONCE; j++)
                sizes[j] = size;
            cl_queue_put_many(queue, room, sizes, AT_ONCE);
            break;
        case 5:
            cl_queue_get_many(queue, room, most * AT_ONCE, sizes, AT_ONCE);
            break;
        case 6:
            if (cl_queue_reserve(queue, &written) == 0) {
                check_claim(queue, &written);
                memset(written.data, 1, (size_t)written.size);
            }
            break;
        case 7:
            cl_queue_commit(queue, &written, size);
            break;
        case 8:
            cl_queue_cancel(queue, &written);
            break;
        case 9:
            if (cl_queue_peek(queue, &seen) == 0) {
                check_claim(queue, &seen);
                read_bytes(seen.data, seen.size);
            }
            break;
        case 10:
            cl_queue_release(queue, &seen);
            break;
        case 11:
            cl_queue_give_back(queue, &seen);
            break;
        case 12:
            cl_queue_wait(queue, ops[i] >> 4 & 1, cl__sys_now() + 1);
            break;
        case 13:
            cl_queue_recover(queue);
            break;
        case 14:
            cl_queue_leave(queue);
            cl_queue_join(queue);
            break;
        default:
            cl_queue_report_of(queue, &report);
            CHECK(report.size >= 0 && report.size <= report.slots);
            if (ops[i] == 255)
                cl_queue_shut(queue);
        }
    }
    cl_queue_free(queue);
    free(room);
}

HELPER void check_broadcast_claim(const cl_broadcast *broadcast, const cl_broadcast_claim *claim)
{
    CHECK(claim->size >= 0 && claim->size <= broadcast->plan.slot_size && claim->data >= broadcast->slots &&
          claim->data + claim->size <= broadcast->slots + broadcast->count * broadcast->stride);
}

/* The other side, so that there is something to get, and somebody in the way: a handle of its own, in the same memory. */
typedef struct other_side {
    cl_segment *segment;
    cl_broadcast *broadcast;
    uint8_t *room;
} other_side;

static other_side begin_other_side(cl_segment *of, int writes, int policy)
{
    other_side its = {0};
    cl_segment_report report;
    cl_segment_report_of(of, &report);
    CHECK_IS(cl_segment_new(&its.segment), 0);
    if (cl_segment_attach(its.segment, (int32_t)report.fd, NULL, CL_SEGMENT_BROADCAST, 0, 0) < 0 ||
        cl_broadcast_open(&its.broadcast, its.segment) < 0) {
        its.broadcast = NULL;
        return its;
    }
    its.room = calloc((size_t)its.broadcast->plan.slot_size, 1);
    if (writes)
        cl_broadcast_take(its.broadcast);
    else if (cl_broadcast_subscribe(its.broadcast, policy, 0) < 0)
        cl_broadcast_subscribe(its.broadcast, 0, 0);
    return its;
}

static void end_other_side(other_side *its)
{
    cl_broadcast_free(its->broadcast);
    cl_segment_free(its->segment);
    free(its->room);
}

/* As a writer, or as a reader of whatever policy it takes; in a segment that may only be read there is no writer. */
static void use_broadcast(cl_segment *segment, const uint8_t *ops)
{
    cl_broadcast *broadcast;
    cl_broadcast_report report;
    cl_broadcast_reader readers[AT_ONCE];
    cl_broadcast_claim written = {0}, seen = {0};
    if (cl_broadcast_open(&broadcast, segment) < 0)
        return;
    cl_broadcast_set_spin(broadcast, 0);
    int policy = ops[OPS_AT] >> 1 & 3, reading = ops[OPS_AT] >> 3 & (CL_BROADCAST_FROM_OLDEST | CL_BROADCAST_TELL_LOSS);
    if (ops[OPS_AT] & 1)
        cl_broadcast_take(broadcast);
    else if (cl_broadcast_subscribe(broadcast, policy, reading & CL_BROADCAST_TELL_LOSS) < 0)
        cl_broadcast_subscribe(broadcast, 0, reading);
    other_side other = begin_other_side(segment, !(ops[OPS_AT] & 1), policy);
    int64_t most = broadcast->plan.slot_size;
    uint8_t *room = calloc((size_t)most, AT_ONCE);
    for (int i = OPS_AT + 1; i < OPS_END; i++) {
        int64_t size = ops[i] >> 4 < most ? ops[i] >> 4 : most;
        if (other.broadcast && i % 2) {
            uint64_t position = other.broadcast->position;
            if (cl_broadcast_try_put(other.broadcast, other.room, 1) == 0 && ops[i] >= 192) /* it means harm */
                cl__store_relaxed(&cl__cast_slot_at(other.broadcast, position)->size, ~0U >> (ops[i] & 31));
            cl_broadcast_try_get(other.broadcast, other.room, other.broadcast->plan.slot_size);
        }
        int what = ops[i] >> 4 & 1 ? CL_BROADCAST_FOR_ROOM : CL_BROADCAST_FOR_RECORD;
        broadcast->members.owner_asked_at = broadcast->members.all_asked_at = 0; /* it is time to ask */
        switch (ops[i] & 15) {
        case 0:
        case 1:
            cl_broadcast_try_put(broadcast, room, size);
            break;
        case 2:
        case 3:
            CHECK(cl_broadcast_try_get(broadcast, room, most) <= most);
            break;
        case 4:
            CHECK(cl_broadcast_put_many(broadcast, room, size, AT_ONCE) <= AT_ONCE);
            break;
        case 5:
            CHECK(cl_broadcast_get_many(broadcast, room, size, AT_ONCE) <= AT_ONCE);
            break;
        case 6:
            if (cl_broadcast_reserve(broadcast, &written) == 0) {
                check_broadcast_claim(broadcast, &written);
                memset(written.data, 1, (size_t)written.size);
            }
            break;
        case 7:
            ops[i] & 16 ? cl_broadcast_cancel(broadcast, &written) : cl_broadcast_commit(broadcast, &written, size);
            break;
        case 8:
        case 9:
            if (cl_broadcast_peek(broadcast, &seen) == 0) {
                check_broadcast_claim(broadcast, &seen);
                read_bytes(seen.data, seen.size);
                cl_broadcast_is_whole(broadcast, &seen);
            }
            break;
        case 10:
            cl_broadcast_release(broadcast, &seen);
            break;
        case 11:
            ops[i] & 16 ? cl_broadcast_keep(broadcast, &seen) : cl_broadcast_copy(broadcast, &seen, room);
            break;
        case 12:
            cl_broadcast_wait(broadcast, what, 0, cl__sys_now() + 1);
            break;
        case 13:
            cl_broadcast_recover(broadcast);
            break;
        case 14:
            cl_broadcast_poll_fd(broadcast, what);
            cl_broadcast_arm(broadcast, what);
            cl_broadcast_silence(broadcast, what);
            break;
        default:
            cl_broadcast_report_of(broadcast, &report);
            CHECK(cl_broadcast_readers_of(broadcast, readers, AT_ONCE) <= AT_ONCE);
            if (ops[i] == 255)
                cl_broadcast_close(broadcast);
        }
    }
    end_other_side(&other);
    cl_broadcast_free(broadcast);
    free(room);
}

HELPER void check_deque_claim(const cl_deque *deque, const cl_deque_claim *claim)
{
    CHECK(claim->size >= 0 && claim->size <= deque->plan.slot_size && claim->data >= deque->slots &&
          claim->data + claim->size <= deque->slots + (deque->mask + 1) * deque->stride);
}

static void use_deque(cl_segment *segment, const uint8_t *ops)
{
    cl_deque *deque;
    cl_deque_report report;
    cl_deque_claim written = {0}, seen[2] = {{0}, {0}};
    if (cl_deque_open(&deque, segment) < 0)
        return;
    cl_deque_set_spin(deque, 0);
    cl_deque_join(deque);
    cl_deque_own(deque);
    int64_t most = deque->plan.slot_size;
    uint8_t *room = calloc((size_t)most, 1);
    for (int i = OPS_AT; i < OPS_END; i++) {
        int64_t size = ops[i] >> 4 < most ? ops[i] >> 4 : most;
        cl_deque_claim *one = &seen[ops[i] >> 4 & 1];
        deque->members.owner_asked_at = deque->members.all_asked_at = 0; /* it is time to ask */
        switch (ops[i] & 15) {
        case 0:
        case 1:
        case 2:
            if (cl_deque_push(deque, room, size) == 0 && ops[i] >= 128) /* it means harm */
                cl__store_relaxed(&cl__deque_slot(deque, deque->bottom - 1)->size, ~0U >> (ops[i] >> 4));
            break;
        case 3:
            CHECK(cl_deque_pop(deque, room, most) <= most);
            break;
        case 4:
        case 5:
            CHECK(cl_deque_steal(deque, room, most) <= most);
            break;
        case 6:
            if (cl_deque_reserve(deque, &written) == 0) {
                check_deque_claim(deque, &written);
                memset(written.data, 1, (size_t)written.size);
            }
            break;
        case 7:
            ops[i] & 16 ? cl_deque_cancel(deque, &written) : cl_deque_commit(deque, &written, size);
            break;
        case 8:
        case 9:
            if ((ops[i] & 1 ? cl_deque_claim_newest(deque, one) : cl_deque_claim_oldest(deque, one)) == 0) {
                check_deque_claim(deque, one);
                read_bytes(one->data, one->size);
            }
            break;
        case 10:
            cl_deque_release(deque, one);
            break;
        case 11:
            cl_deque_give_back(deque, one);
            break;
        case 12:
            cl_deque_wait(deque, cl__sys_now() + 1);
            break;
        case 13:
            ops[i] & 16 ? cl_deque_recover(deque) : cl_deque_disown(deque);
            cl_deque_own(deque);
            break;
        case 14:
            cl_deque_leave(deque);
            cl_deque_join(deque);
            cl_deque_own(deque);
            break;
        default:
            cl_deque_report_of(deque, &report);
            CHECK(report.size >= 0 && report.size <= report.slots && report.stolen >= 0);
            if (ops[i] == 255)
                cl_deque_shut(deque);
        }
    }
    cl_deque_free(deque);
    free(room);
}

/* Of a block that we hold all is ours. */
HELPER void use_block(const cl_buffers *pool, const cl_buffers_ref *ref)
{
    CHECK(ref->index >= 0 && ref->index < pool->plan.blocks && ref->data == pool->data + ref->index * (int64_t)pool->stride);
    memset(ref->data, 1, (size_t)pool->plan.block_size);
}

static void use_buffers(cl_segment *segment, const uint8_t *ops)
{
    cl_buffers *pool;
    cl_buffers_report report;
    cl_buffers_ref refs[AT_ONCE] = {{0}};
    if (cl_buffers_open(&pool, segment) < 0)
        return;
    cl_buffers_set_spin(pool, 0);
    cl_buffers_join(pool);
    for (int i = OPS_AT; i < OPS_END; i++) {
        cl_buffers_ref *one = &refs[ops[i] >> 4 & 3], *other = &refs[ops[i] >> 6];
        int64_t index = ops[i] & 128 ? other->index : (ops[i] >> 4) - 2;
        pool->members.owner_asked_at = pool->members.all_asked_at = pool->look_all_at = 0; /* it is time to ask */
        switch (ops[i] & 15) {
        case 0:
        case 1:
        case 2:
            cl_buffers_release(pool, one);
            if (cl_buffers_try_acquire(pool, one) == 0)
                use_block(pool, one);
            break;
        case 3:
            cl_buffers_release(pool, one);
            if (cl_buffers_acquire(pool, ops[i] & 64 ? 0 : cl__sys_now() + 1, one) == 0)
                use_block(pool, one);
            break;
        case 4:
            if (one != other)
                cl_buffers_release(pool, one);
            if (one != other && cl_buffers_hold(pool, index, other->generation, one) == 0)
                use_block(pool, one);
            break;
        case 5:
        case 6:
            cl_buffers_send(pool, one);
            break;
        case 7:
            if (one != other)
                cl_buffers_release(pool, one);
            if (one != other && cl_buffers_take(pool, index, other->generation, 1, one) == 0)
                use_block(pool, one);
            break;
        case 8:
            cl_buffers_recall(pool, index, other->generation);
            break;
        case 9:
            cl_buffers_recall_all(pool);
            break;
        case 10:
            cl_buffers_release(pool, one);
            break;
        case 11:
            cl_buffers_trim(pool, 0);
            break;
        case 12:
            cl_buffers_poll_fd(pool);
            cl_buffers_arm(pool);
            cl_buffers_silence(pool);
            break;
        case 13:
            cl_buffers_recover(pool);
            break;
        case 14:
            for (int j = 0; j < AT_ONCE; j++)
                cl_buffers_release(pool, &refs[j]);
            cl_buffers_leave(pool);
            cl_buffers_join(pool);
            break;
        default:
            cl_buffers_report_of(pool, &report);
            CHECK(report.allocated >= 0 && report.allocated <= report.blocks && report.peak <= report.blocks);
        }
    }
    for (int j = 0; j < AT_ONCE; j++)
        cl_buffers_release(pool, &refs[j]);
    CHECK_IS(cl_buffers_references(pool), 0);
    cl_buffers_free(pool);
}

/* What locks, semaphores, events and barriers have alike. */
static void use_any_sync(cl_sync *sync, uint8_t op, uint64_t ticket)
{
    cl_sync_report report;
    switch (op >> 4 & 7) {
    case 0:
    case 1:
    case 2:
        cl_sync_wait(sync, ticket, cl__sys_now(), cl__sys_now() + 1);
        break;
    case 3:
        cl_sync_recover(sync);
        break;
    case 4:
        cl_sync_poll_fd(sync);
        cl_sync_arm(sync);
        cl_sync_silence(sync);
        break;
    case 5:
        cl_sync_leave(sync);
        cl_sync_join(sync);
        break;
    default:
        cl_sync_gives_way(sync);
        cl_sync_report_of(sync, &report);
        CHECK(report.free >= 0 && report.mine >= 0 && report.mine <= report.count && report.waiting >= 0);
    }
}

/* `call` does what one byte of the input says. */
static void use_sync(cl_segment *segment, const uint8_t *ops, int64_t (*open)(cl_sync **, cl_segment *),
                     void (*call)(cl_sync *, uint8_t op, cl_barrier_ticket *))
{
    cl_sync *sync;
    cl_barrier_ticket ticket = {0};
    if (open(&sync, segment) < 0)
        return;
    cl_sync_set_spin(sync, 0);
    cl_sync_join(sync);
    for (int i = OPS_AT; i < OPS_END; i++) {
        sync->members.owner_asked_at = sync->members.all_asked_at = 0; /* it is time to ask */
        call(sync, ops[i], &ticket);
    }
    cl_sync_free(sync);
}

static void call_lock(cl_lock *lock, uint8_t op, cl_barrier_ticket *unused)
{
    (void)unused;
    switch (op & 7) {
    case 0:
    case 1:
        cl_lock_try(lock, op >> 4 & 1);
        break;
    case 2:
        cl_lock_acquire(lock, cl__sys_now() + 1);
        break;
    case 3:
    case 4:
        cl_lock_release(lock, op >> 4 & 1);
        break;
    case 5:
        cl_lock_holder(lock);
        cl_lock_is_held(lock);
        CHECK(cl_lock_recovered(lock) <= CL_SYNC_UNKNOWN);
        break;
    default:
        use_any_sync(lock, op, 0);
    }
}

static void call_semaphore(cl_semaphore *semaphore, uint8_t op, cl_barrier_ticket *unused)
{
    (void)unused;
    switch (op & 7) {
    case 0:
    case 1:
        cl_semaphore_try(semaphore, op >> 4 & 1);
        break;
    case 2:
        cl_semaphore_acquire(semaphore, cl__sys_now() + 1);
        break;
    case 3:
    case 4:
        cl_semaphore_release(semaphore);
        break;
    case 5:
        cl_semaphore_holder(semaphore, (op >> 4) - 1);
        break;
    default:
        use_any_sync(semaphore, op, 0);
    }
}

static void call_event(cl_event *event, uint8_t op, cl_barrier_ticket *unused)
{
    (void)unused;
    if ((op & 3) == 0)
        cl_event_set(event);
    else if ((op & 3) == 1)
        cl_event_clear(event);
    else
        use_any_sync(event, op, (uint64_t)cl_event_now(event));
}

static void call_barrier(cl_barrier *barrier, uint8_t op, cl_barrier_ticket *ticket)
{
    switch (op & 7) {
    case 0:
    case 1:
    case 2:
        if (!ticket->is_open && cl_barrier_arrive(barrier, ticket) == 0)
            CHECK(ticket->index >= 0 && ticket->index < barrier->plan.count);
        break;
    case 3:
        cl_barrier_give_up(barrier, ticket);
        break;
    case 4:
        op & 16 ? cl_barrier_abort(barrier) : cl_barrier_reset(barrier);
        break;
    case 5:
        cl_barrier_why(barrier);
        CHECK(cl_barrier_breaker(barrier) <= CL_SYNC_UNKNOWN);
        if (cl_barrier_look(barrier, ticket->generation) != 0)
            ticket->is_open = 0;
        break;
    default:
        use_any_sync(barrier, op, ticket->generation);
    }
}

static void use_lock(cl_segment *segment, const uint8_t *ops)
{
    use_sync(segment, ops, cl_lock_open, call_lock);
}

static void use_semaphore(cl_segment *segment, const uint8_t *ops)
{
    use_sync(segment, ops, cl_semaphore_open, call_semaphore);
}

static void use_event(cl_segment *segment, const uint8_t *ops)
{
    use_sync(segment, ops, cl_event_open, call_event);
}

static void use_barrier(cl_segment *segment, const uint8_t *ops)
{
    use_sync(segment, ops, cl_barrier_open, call_barrier);
}

#endif
