/* The queue: slots in a circle, each with a word that alone says what it is. The cursors are hints where to begin to look.
 *
 *                     claim (CAS)                 store
 *     EMPTY(lap) ------------------> WRITING(lap, x) ------------> FULL(lap)
 *        ^                              |  x died, or cancelled       | claim (CAS)
 *        |                              v                             v
 *     EMPTY(lap+1) <-- CAS ------- TOMBSTONE(lap)        READING(lap, x) <--- claim --- ORPHAN(lap)
 *        ^                                                   |   |   x died, or gave back   ^
 *        +----------------------------- store ---------------+   +--------------------------+
 *                                                   (AT_MOST_ONCE: EMPTY(lap+1))
 *
 * Position p (counted from 0 for ever) is slot p % slots in lap p / slots. Positions are claimed in order: who claims p has
 * seen that p-1 was claimed. A claim says whose it is in the same CAS, so nobody holds anything that others cannot see; what
 * a live owner has nobody touches, so it finishes with a store; what a dead one has is taken away by a CAS for each slot
 * (queue_object.c, members.c), which may be done again by another if the one who does it dies.
 *
 * A cursor is stored after the claim and before the slot is given on, so it can lag behind by a circle at most, and can never
 * lead: all before it is claimed. If it were stored before the claim: a producer stores tail = p+1 and dies; p stays EMPTY,
 * all producers begin behind it, all consumers wait at it. The stores are releases and the loads acquires, which costs
 * nothing: so who has read a cursor also sees that what is before it was claimed, and what contradicts that is a broken
 * memory and not a slow one. Of a TOMBSTONE, which nobody claims to read, see clear_tombstone().
 *
 * Whatever another process writes there, we stay in our memory: geometry is a checked copy, a slot's index is masked, a
 * record's size is read once and checked. A writer that does not keep to this can stop the queue, or spoil records. */
#include "queue.h"

#include <string.h>

/* ---- publishing ----------------------------------------------------------------------------------------------------- */

/* An exchange, or membarrier, and not a mere release, orders the slot before the look at the waiters' word: a waiter that has
 * set its bit and found no record is seen here, or has seen ours. */
static inline void publish(cl_queue *queue, cl__slot *slot, cl__word word, _Atomic uint32_t *wake)
{
    CL_FAULT(102);
    cl__publish(&slot->word, word, cl__queue_has_membarrier(queue)); /* W1; partner: W4 in queue_wait.c */
    cl__queue_published(queue, wake);
}

static int64_t cannot_be(cl_queue *queue, cl__word word, uint64_t position)
{
    cl__store_relaxed(&queue->fault_word, word);
    cl__store_relaxed(&queue->fault_index, (int64_t)(position & queue->mask));
    return -EBADMSG;
}

/* ---- walking along the slots ----------------------------------------------------------------------------------------- */

typedef struct walk {
    _Atomic uint64_t *cursor;
    uint64_t begun, position, steps;
    int rounds, has_moved;
} walk;

static inline walk walk_from(_Atomic uint64_t *cursor)
{
    CL_FAULT(103);
    uint64_t begun = cl__load_acquire(cursor); /* partner: the release in claim_to_write, claim_to_read */
    return (walk){.cursor = cursor, .begun = begun, .position = begun};
}

enum { MOST_ROUNDS = 4 };

/* The cursor lags by a circle at most, so two circles are only walked while others run ahead of us; and then the cursor
 * moves. If nothing has in round after round, somebody scribbles. 0, or what to return. */
static inline int64_t step(cl_queue *queue, walk *at, cl__word word)
{
    at->position++;
    if (__builtin_expect(++at->steps <= 2 * queue->mask + 4, 1))
        return 0;
    uint64_t now = cl__load_acquire(at->cursor); /* partner: as in walk_from */
    at->has_moved |= now != at->begun;
    if (++at->rounds > MOST_ROUNDS)
        return at->has_moved ? -EAGAIN : cannot_be(queue, word, at->position);
    at->begun = at->position = now;
    at->steps = 0;
    return 0;
}

/* A hint, for the largest size: the head is looked at only when the size could be larger than what was seen. */
static inline void note_size(cl_queue *queue, uint64_t next)
{
    cl__queue_memory *shared = queue->shared;
    uint64_t most = cl__load_relaxed(&shared->most); /* partner: its own store below; a count and no order */
    if (next - cl__load_relaxed(&queue->seen_head) <= most)
        return;
    uint64_t head = cl__load_relaxed(&shared->head), size = next - head;
    cl__store_relaxed(&queue->seen_head, head);
    size = size > queue->mask + 1 ? queue->mask + 1 : size; /* the head lags */
    while (size > most && !cl__swap_if(&shared->most, &most, size))
        continue;
}

/* ---- putting --------------------------------------------------------------------------------------------------------- */

/* Take away a TOMBSTONE, of that position; whether it was us. Nobody claims it, and only claims move the head: after two circles
 * of nothing but TOMBSTONEs no consumer would find its way. So it is moved here, too: all before the position was claimed by
 * consumers, and the slot is given on by now, by whomever. That may be long ago, so it is moved forward only. Whoever dies
 * before that leaves a head that lags by one more, until the next one. */
static int clear_tombstone(cl_queue *queue, cl__slot *slot, cl__word word, uint64_t position)
{
    _Atomic uint64_t *head = &queue->shared->head;
    CL_FAULT(104);
    int was_us = cl__swap_if(&slot->word, &word, cl__word_of(cl__lap_of(word) + 1, CL__EMPTY, 0)); /* partner: claims of it */
    CL_FAULT(118);
    uint64_t seen = cl__load_acquire(head); /* partner: the releases of head */
    CL_FAULT(119);
    while ((int64_t)(position + 1 - seen) > 0 && !cl__swap_if(head, &seen, position + 1)) /* partner: as in walk_from */
        continue;
    return was_us;
}

/* The slot of the position has not come to its lap: it is in the way. 1: not any more. */
static int64_t clear_the_way(cl_queue *queue, cl__slot *slot, cl__word word, uint64_t position)
{
    cl__store_relaxed(&queue->in_the_way, 0);
    switch (cl__state_of(word)) {
    case CL__TOMBSTONE: /* no consumer has come by; it may be anybody who takes it away */
        if (cl__queue_ahead(queue, word, position) != -(1LL << 16)) /* of the lap before: all positions before a tail were claimed */
            return cannot_be(queue, word, position);
        clear_tombstone(queue, slot, word, position - queue->mask - 1);
        return 1;
    case CL__WRITING:
    case CL__READING:
        cl__store_relaxed(&queue->in_the_way, cl__owner_of(word));
        int64_t rc = cl__members_ask_one(&queue->members, cl__owner_of(word));
        return rc ? rc : -EAGAIN;
    case CL__FULL:
    case CL__ORPHAN:
        return -EAGAIN;
    default: /* EMPTY: all positions before a tail were claimed */
        return cannot_be(queue, word, position);
    }
}

static int64_t claim_to_write(cl_queue *queue, cl__slot **out, cl__word *claimed)
{
    cl__queue_memory *shared = queue->shared;
    int64_t rc = cl__members_is_joined(&queue->members);
    if (__builtin_expect(rc < 0, 0))
        return rc;
    if (__builtin_expect(cl__load_relaxed(&shared->shut) != 0, 0)) /* partner: the exchange in cl_queue_shut */
        return -EPIPE;
    walk at = walk_from(&shared->tail);
    for (;;) {
        cl__slot *slot = cl__slot_at(queue, at.position);
        CL_FAULT(105);
        cl__word word = cl__load_acquire(&slot->word); /* partner: publish(), of the consumer of the lap before */
        int64_t distance = cl__queue_ahead(queue, word, at.position);
        if (__builtin_expect(distance == 0 && cl__state_of(word) == CL__EMPTY, 1)) {
            *claimed = cl__word_of(cl__lap_of(word), CL__WRITING, cl__queue_me(queue));
            CL_FAULT(106);
            if (!cl__swap_if_ordered(&slot->word, &word, *claimed)) /* partner: other claims; and see cl_queue_shut */
                continue;
            CL_FAULT(107);
            cl__store_release(&shared->tail, at.position + 1); /* partner: the acquire in walk_from */
            note_size(queue, at.position + 1);
            *out = slot;
            return 0;
        }
        rc = distance >= 0 ? cl__state_of(word) > CL__ORPHAN ? cannot_be(queue, word, at.position) : step(queue, &at, word)
                           : clear_the_way(queue, slot, word, at.position);
        if (__builtin_expect(rc < 0, 0))
            return rc;
    }
}

/* A consumer that has seen `shut` and then an EMPTY slot has told its caller that nothing will come. Our claim is later than
 * its look, so our look at `shut`, after the claim, sees it too: all four are in one order (seq_cst). */
static int64_t reserve(cl_queue *queue, cl__slot **slot, cl__word *claimed)
{
    int64_t rc = claim_to_write(queue, slot, claimed);
    if (__builtin_expect(rc < 0, 0))
        return rc;
    CL_FAULT(108);
    if (__builtin_expect(cl__load(&queue->shared->shut) == 0, 1)) /* partner: the exchange in cl_queue_shut */
        return 0;
    publish(queue, *slot, cl__word_of(cl__lap_of(*claimed), CL__TOMBSTONE, 0), &queue->shared->not_empty);
    cl__add_relaxed(&queue->shared->tombstones, 1);
    return -EPIPE;
}

static inline void commit(cl_queue *queue, cl__slot *slot, cl__word claimed, int64_t size)
{
    cl__store_relaxed(&slot->size, (uint32_t)size); /* partner: the load in peek; ordered by the word */
    publish(queue, slot, cl__word_of(cl__lap_of(claimed), CL__FULL, 0), &queue->shared->not_empty);
}

int64_t cl_queue_try_put(cl_queue *queue, const void *data, int64_t size)
{
    cl__slot *slot;
    cl__word claimed;
    if (size < 0 || size > queue->plan.slot_size)
        return -EMSGSIZE;
    int64_t rc = reserve(queue, &slot, &claimed);
    if (rc < 0)
        return rc;
    if (size)
        memcpy(slot->data, data, (size_t)size);
    commit(queue, slot, claimed, size);
    return 0;
}

int64_t cl_queue_put_many(cl_queue *queue, const void *data, const int64_t *sizes, int64_t count)
{
    const uint8_t *next = data;
    int64_t done;
    for (done = 0; done < count; done++) {
        int64_t rc = cl_queue_try_put(queue, next, sizes[done]);
        if (rc < 0)
            return done ? done : rc;
        next += sizes[done];
    }
    return done;
}

int64_t cl_queue_reserve(cl_queue *queue, cl_queue_claim *claim)
{
    cl__slot *slot;
    int64_t rc = reserve(queue, &slot, &claim->word);
    if (rc < 0)
        return rc;
    claim->data = slot->data;
    claim->size = queue->plan.slot_size;
    claim->index = (int64_t)((size_t)((uint8_t *)slot - queue->slots) / queue->stride);
    return 0;
}

/* The slot that is claimed, if it is so still; the claim itself is used up. */
static int64_t end_claim(cl_queue *queue, cl_queue_claim *claim, enum cl__state state, cl__slot **out, cl__word *claimed)
{
    int64_t rc = cl__members_is_joined(&queue->members);
    if (rc < 0)
        return rc;
    *claimed = claim->word;
    *out = cl__slot_at(queue, (uint64_t)claim->index);
    if (!claim->data || cl__state_of(claim->word) != state || cl__owner_of(claim->word) != cl__queue_me(queue) ||
        cl__load_relaxed(&(*out)->word) != claim->word) /* partner: none, it is ours alone; a scribbler's is seen here */
        return -EINVAL;
    *claim = (cl_queue_claim){0};
    return 0;
}

int64_t cl_queue_commit(cl_queue *queue, cl_queue_claim *claim, int64_t size)
{
    cl__slot *slot;
    cl__word claimed;
    if (size < 0 || size > queue->plan.slot_size)
        return -EMSGSIZE;
    int64_t rc = end_claim(queue, claim, CL__WRITING, &slot, &claimed);
    if (rc >= 0)
        commit(queue, slot, claimed, size);
    return rc;
}

int64_t cl_queue_cancel(cl_queue *queue, cl_queue_claim *claim)
{
    cl__slot *slot;
    cl__word claimed;
    int64_t rc = end_claim(queue, claim, CL__WRITING, &slot, &claimed);
    if (rc < 0)
        return rc;
    publish(queue, slot, cl__word_of(cl__lap_of(claimed), CL__TOMBSTONE, 0), &queue->shared->not_empty);
    cl__queue_published(queue, &queue->shared->not_full);
    cl__add_relaxed(&queue->shared->tombstones, 1);
    return 0;
}

/* ---- getting --------------------------------------------------------------------------------------------------------- */

enum { ANY_SIZE = -1 };

/* 1: claimed; 0: another one was faster. -EMSGSIZE: it has another size than `only`: that was read while the word was the one
 * that is claimed, or the claim fails. */
static inline int64_t claim_slot(cl_queue *queue, cl__slot *slot, cl__word *word, int64_t only)
{
    cl__word claimed = cl__word_of(cl__lap_of(*word), CL__READING, cl__queue_me(queue));
    if (__builtin_expect(only != ANY_SIZE, 0) && cl__load_relaxed(&slot->size) != only) /* partner: the store in commit() */
        return -EMSGSIZE;
    CL_FAULT(109);
    if (!cl__swap_if(&slot->word, word, claimed)) /* partner: publish(), of the producer; other claims */
        return 0;
    *word = claimed;
    return 1;
}

/* Records whose consumer died lie behind the head. They are looked for when `repairs` says so, by those who would wait. */
static int64_t claim_orphan(cl_queue *queue, cl__slot **out, cl__word *claimed, int64_t only)
{
    CL_FAULT(110);
    uint32_t repairs = cl__load_acquire(&queue->shared->repairs); /* partner: the release after ORPHANs were made */
    if (repairs == cl__load_relaxed(&queue->seen_repairs))
        return 0;
    for (uint64_t i = 0; i <= queue->mask; i++) {
        *out = cl__slot_at(queue, i);
        *claimed = cl__load_acquire(&(*out)->word); /* partner: the CAS that made it an ORPHAN */
        int64_t rc = cl__state_of(*claimed) == CL__ORPHAN ? claim_slot(queue, *out, claimed, only) : 0;
        if (rc != 0)
            return rc;
    }
    cl__store_relaxed(&queue->seen_repairs, repairs); /* those that are made from now on make it another number */
    return 0;
}

/* There is nothing at the head, or somebody is in the way. 1: an orphan was claimed; 0: somebody was dead: look again. */
static int64_t look_elsewhere(cl_queue *queue, cl__word at_head, cl__slot **slot, cl__word *claimed, int64_t only)
{
    int held = cl__state_of(at_head) == CL__WRITING || cl__state_of(at_head) == CL__READING;
    uint32_t owner = held ? cl__owner_of(at_head) : 0;
    int64_t rc = claim_orphan(queue, slot, claimed, only);
    if (rc != 0)
        return rc;
    cl__store_relaxed(&queue->in_the_way, owner);
    rc = held ? cl__members_ask_one(&queue->members, owner) : 0;
    rc = rc ? rc : cl__members_ask_all(&queue->members);
    return rc > 0 ? 0 : rc < 0 ? rc : -EAGAIN;
}

/* 0: claimed; 1: look at the same slot again; 2: go on to the next; else -errno. */
static int64_t try_slot(cl_queue *queue, walk *at, cl__slot **slot, cl__word *word, int64_t only)
{
    cl__queue_memory *shared = queue->shared;
    int64_t distance = cl__queue_ahead(queue, *word, at->position), rc;
    unsigned state = cl__state_of(*word);
    if (state > CL__ORPHAN || (distance < 0 && !cl__may_be_behind(*word)))
        return cannot_be(queue, *word, at->position);
    if (distance > 0 || (distance == 0 && state == CL__READING)) /* if its owner is dead: that shows when we would wait */
        return 2;
    if (distance == 0 && (state == CL__FULL || state == CL__ORPHAN)) {
        rc = claim_slot(queue, *slot, word, only);
        if (rc <= 0)
            return rc < 0 ? rc : 1;
        CL_FAULT(111);
        cl__store_release(&shared->head, at->position + 1); /* partner: the acquire in walk_from */
        return 0;
    }
    if (distance == 0 && state == CL__TOMBSTONE) {
        CL_FAULT(112);
        if (clear_tombstone(queue, *slot, *word, at->position))
            cl__queue_published(queue, &shared->not_full);
        return 1;
    }
    int is_end = distance == 0 ? state == CL__EMPTY : cl__owner_of(*word) == cl__queue_me(queue);
    rc = look_elsewhere(queue, *word, slot, word, only);
    if (rc == 1)
        return 0; /* the head stays where it is: that one was behind it */
    return rc == 0 ? 1 : rc == -EAGAIN && is_end ? -ENODATA : rc;
}

int cl__queue_is_with_another(cl_queue *queue)
{
    for (uint64_t i = 0; i <= queue->mask; i++) {
        CL_FAULT(117);
        cl__word word = cl__load_acquire(&cl__slot_at(queue, i)->word); /* partner: the claims */
        if (cl__state_of(word) == CL__ORPHAN || (cl__state_of(word) == CL__READING && cl__owner_of(word) != cl__queue_me(queue))) {
            cl__store_relaxed(&queue->in_the_way, cl__owner_of(word));
            return 1;
        }
    }
    return 0;
}

static int64_t claim_to_read(cl_queue *queue, cl__slot **slot, cl__word *word, int64_t only)
{
    cl__queue_memory *shared = queue->shared;
    int64_t rc = cl__members_is_joined(&queue->members);
    if (__builtin_expect(rc < 0, 0))
        return rc;
    CL_FAULT(113);
    int is_shut = cl__load(&shared->shut) != 0; /* before any slot; partner: the exchange in cl_queue_shut */
    walk at = walk_from(&shared->head);
    for (;;) {
        *slot = cl__slot_at(queue, at.position);
        CL_FAULT(114);
        *word = cl__load(&(*slot)->word); /* partner: publish(), of the producer; and the claims: see reserve() */
        rc = try_slot(queue, &at, slot, word, only);
        if (rc == 0)
            return 0;
        if (rc == 2)
            rc = step(queue, &at, *word);
        if (__builtin_expect(rc < 0, 0))
            return rc != -ENODATA ? rc : is_shut && !cl__queue_is_with_another(queue) ? -EPIPE : -EAGAIN;
    }
}

static inline int64_t peek(cl_queue *queue, cl__slot **slot, cl__word *claimed, int64_t *size)
{
    int64_t rc = claim_to_read(queue, slot, claimed, ANY_SIZE);
    if (__builtin_expect(rc < 0, 0))
        return rc;
    *size = cl__load_relaxed(&(*slot)->size); /* once; partner: the store in commit() */
    if (__builtin_expect(*size <= queue->plan.slot_size, 1))
        return 0;
    rc = cannot_be(queue, *claimed, (uint64_t)((uint8_t *)*slot - queue->slots) / queue->stride);
    publish(queue, *slot, cl__word_of(cl__lap_of(*claimed) + 1, CL__EMPTY, 0), &queue->shared->not_full);
    return rc;
}

static inline void release(cl_queue *queue, cl__slot *slot, cl__word claimed)
{
    publish(queue, slot, cl__word_of(cl__lap_of(claimed) + 1, CL__EMPTY, 0), &queue->shared->not_full);
}

int64_t cl_queue_try_get(cl_queue *queue, void *room, int64_t size)
{
    cl__slot *slot;
    cl__word claimed;
    int64_t got;
    if (size < queue->plan.slot_size)
        return -EMSGSIZE;
    int64_t rc = peek(queue, &slot, &claimed, &got);
    if (rc < 0)
        return rc;
    memcpy(room, slot->data, (size_t)got);
    release(queue, slot, claimed);
    return got;
}

int64_t cl_queue_get_many(cl_queue *queue, void *room, int64_t size, int64_t *sizes, int64_t most)
{
    uint8_t *next = room;
    int64_t done;
    for (done = 0; done < most; done++) {
        int64_t rc = cl_queue_try_get(queue, next, size);
        if (rc < 0)
            return done ? done : rc;
        sizes[done] = rc;
        next += rc;
        size -= rc;
    }
    return done;
}

int64_t cl_queue_peek(cl_queue *queue, cl_queue_claim *claim)
{
    cl__slot *slot;
    int64_t rc = peek(queue, &slot, &claim->word, &claim->size);
    if (rc < 0)
        return rc;
    claim->data = slot->data;
    claim->index = (int64_t)((size_t)((uint8_t *)slot - queue->slots) / queue->stride);
    return 0;
}

int64_t cl_queue_release(cl_queue *queue, cl_queue_claim *claim)
{
    cl__slot *slot;
    cl__word claimed;
    int64_t rc = end_claim(queue, claim, CL__READING, &slot, &claimed);
    if (rc >= 0)
        release(queue, slot, claimed);
    return rc;
}

int64_t cl_queue_give_back(cl_queue *queue, cl_queue_claim *claim)
{
    cl__queue_memory *shared = queue->shared;
    cl__slot *slot;
    cl__word claimed;
    int64_t rc = end_claim(queue, claim, CL__READING, &slot, &claimed);
    if (rc < 0)
        return rc;
    if (queue->plan.flags & CL_QUEUE_AT_MOST_ONCE) {
        release(queue, slot, claimed);
        cl__add_relaxed(&shared->lost, 1);
        return 0;
    }
    cl__add_relaxed(&shared->redelivered, 1);
    publish(queue, slot, cl__word_of(cl__lap_of(claimed), CL__ORPHAN, 0), &shared->not_empty);
    /* If we die here nobody knows of it; but then we are recovered, and that says so. */
    CL_FAULT(115);
    cl__add(&shared->repairs, 1); /* partner: the loads in claim_orphan and queue_wait.c */
    /* Once more: who waits looks for ORPHANs by that number, and may have looked between the two. */
    cl__queue_published(queue, &shared->not_empty);
    return 0;
}

/* ---- records of one size ---------------------------------------------------------------------------------------------- */

int64_t cl_queue_put_records(cl_queue *queue, const void *data, int64_t size, int64_t count)
{
    const uint8_t *from = data;
    int64_t rc = 0, done = 0;
    if (count < 0)
        return -EINVAL;
    while (done < count && (rc = cl_queue_try_put(queue, from + done * size, size)) == 0)
        done++;
    return done ? done : rc;
}

int64_t cl_queue_get_records(cl_queue *queue, void *room, int64_t size, int64_t most, int64_t *needs)
{
    uint8_t *to = room;
    if (size < 0 || size > queue->plan.slot_size || most < 0)
        return -EINVAL;
    for (int64_t done = 0; done < most; done++) {
        cl__slot *slot;
        cl__word claimed;
        int64_t rc = claim_to_read(queue, &slot, &claimed, size);
        if (rc == -EMSGSIZE)
            *needs = cl__load_relaxed(&slot->size); /* to be told to people: another one may have got it by now */
        if (rc < 0)
            return done ? done : rc;
        memcpy(to + done * size, slot->data, (size_t)size);
        release(queue, slot, claimed);
    }
    return most;
}

/* ---- all of it ------------------------------------------------------------------------------------------------------- */

int64_t cl_queue_shut(cl_queue *queue)
{
    if (queue->members.read_only)
        return -EACCES;
    CL_FAULT(116);
    cl__exchange(&queue->shared->shut, 1); /* partner: the loads in reserve() and claim_to_read() */
    cl__queue_published(queue, &queue->shared->not_empty);
    cl__queue_published(queue, &queue->shared->not_full);
    return 0;
}
