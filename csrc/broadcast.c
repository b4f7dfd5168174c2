/* The broadcast: one writer puts records into slots in a circle, each reader goes along behind it at its own pace.
 *
 *          position p of a reader                     tail: the next record to be put
 *               v                                      v
 *     ... | p-1 | p | p+1 | ...                 | t-1 | t | ...       record p is in slot p % N
 *
 * A record is there when `tail` is beyond it: that is one exchange, so whoever is killed before it has put nothing, after it
 * all of it. A successor goes on at tail; what its predecessor had begun there, nobody has seen.
 *
 * Lossy: the writer looks at nobody. Each slot has a sequence number: 2p+1 while record p is written, 2p+2 when it is there. A
 * reader looks at it before it copies and after: the same even number twice, and nobody wrote between. This is the seqlock, as
 * in H.-J. Boehm, "Can seqlocks get along with programming language memory models?", MSPC 2012:
 *
 *     writer                                      reader
 *     sequence = 2t+1      release     L1         sequence == 2p+2 ?    acquire     L4
 *     fence (stores)                              copy
 *     copy                                        fence (loads)
 *     sequence = 2t+2      release     L2         sequence == 2p+2 ?    acquire     L5
 *     tail = t+1           exchange    L3
 *
 * If any word of the copy is newer than record p, then L1 of that record came before it, and L5 sees it. The number also says
 * which record is in the slot now, and so, exactly, how many were lost.
 *
 * Lossless: each reader has a word in shared memory with its position. The writer writes record t when no reader is at t-N or
 * before; it looks at the readers only when those it has looked at last could be in the way (free_until). One that is:
 *
 *     blocks      the writer waits; if its lease is free it is dead, and its word is taken away
 *     skips       CAS(its word, position t-N+1), and then record t-N is overwritten
 *     is evicted  CAS(its word, EVICTED), and then the same
 *
 * A reader moves its word by a CAS, too, after it has copied. If that succeeds, nobody had moved it before, and what it has
 * copied was not overwritten; else it learns from the word what has become of it. So no record is torn, and none is lost
 * that is not counted.
 *
 * A new reader must not be overlooked by a writer that goes on by what it has seen before:
 *
 *     reader: p = tail; word = p (exchange)   R1      writer: tail = t (exchange)   R3
 *     reader: word = tail                     R2      writer: reads all words       R4    then writes up to t+N-1
 *
 * If R4 misses the word, then R3 came before R4, R4 before R1, and R2 sees t or more: what the writer overwrites without another
 * look, up to t-1, is before the reader's place. A thread of the writer's that waits for room looks, too, beside another one that
 * puts. So the position that it looks from is never beyond tail (R5):
 *
 *     B: puts record t, position = t+1     A: no reader is there, so up to t+N may be written     reader: its place is tail, t
 *     B: tail = t+1, and writes t+N, over record t
 *
 * Whatever another process writes there, we stay in our memory: geometry is a checked copy, a slot's index is masked, a size is
 * read once and checked. */
#include "broadcast.h"

#include <limits.h>
#include <string.h>

enum { TRIES = 64 };

static int64_t cannot_be(cl_broadcast *broadcast, uint64_t word, uint64_t expected)
{
    broadcast->fault_word = word;
    broadcast->fault_expected = expected;
    return -EBADMSG;
}

/* ---- copies -------------------------------------------------------------------------------------------------------------
 *
 * By words, which both sides of a slot's data are there in. So much that its speed is memory's goes by memcpy, which is twice as
 * fast: C calls that a data race, but what it does is load and store bytes in some order, and that is all that the sequence asks
 * for. ThreadSanitizer is shown words only. */

enum { BY_MEMCPY = CL__UNDER_TSAN ? INT_MAX : 1 << 14 };

static void copy_in(uint8_t *slot, const uint8_t *from, size_t size)
{
    _Atomic uint64_t *to = (_Atomic uint64_t *)(void *)slot;
    size_t words = size / 8, rest = size % 8;
    uint64_t word = 0;
    if (size >= BY_MEMCPY) {
        cl__fence_streams();
        memcpy(slot, from, size);
        return;
    }
#pragma GCC unroll 8
    for (size_t i = 0; i < words; i++) {
        memcpy(&word, from + 8 * i, 8);
        cl__store_relaxed(&to[i], word); /* partner: the loads in copy_out; ordered by the slot's sequence, or the tail */
    }
    if (rest) {
        memcpy(&word, from + 8 * words, rest);
        cl__store_relaxed(&to[words], word);
    }
}

static void copy_out(uint8_t *to, const uint8_t *slot, size_t size)
{
    const _Atomic uint64_t *from = (const _Atomic uint64_t *)(const void *)slot;
    size_t words = size / 8, rest = size % 8;
    uint64_t word;
    if (size >= BY_MEMCPY) {
        memcpy(to, slot, size);
        return;
    }
#pragma GCC unroll 8
    for (size_t i = 0; i < words; i++) {
        word = cl__load_relaxed(&from[i]); /* partner: the stores in copy_in */
        memcpy(to + 8 * i, &word, 8);
    }
    if (rest) {
        word = cl__load_relaxed(&from[words]);
        memcpy(to + 8 * words, &word, rest);
    }
}

/* ---- writing ------------------------------------------------------------------------------------------------------------ */

static int is_waited_for(uint64_t word)
{
    unsigned state = cl__reader_state(word);
    return state == CL__BLOCKS || state == CL__SKIPS || state == CL__EVICTABLE;
}

/* What its policy says of a reader that is in the way of record `position`. */
static void move_reader(cl_broadcast *broadcast, _Atomic uint64_t *at, uint64_t *word, uint64_t position)
{
    cl__cast_memory *shared = broadcast->shared;
    uint64_t keep = position - broadcast->count + 1;
    int skips = cl__reader_state(*word) == CL__SKIPS;
    uint64_t then = skips ? cl__reader_word(keep, CL__SKIPS) : cl__reader_word(cl__reader_position(*word), CL__EVICTED);
    CL_FAULT(170);
    if (!cl__swap_if_ordered(at, word, then)) /* partner: the reader's own CAS in release_lossless */
        return;
    cl__add_relaxed(skips ? &shared->skipped : &shared->evictions, skips ? keep - cl__reader_position(*word) : 1);
    *word = then;
}

/* With `moves`, those in the way that need not be waited for are moved. How far the last one is behind then; -EAGAIN: one is to
 * be waited for. `*others`: there are such. */
static int64_t look_at_readers(cl_broadcast *broadcast, uint64_t position, int moves, int *others)
{
    int64_t count = (int64_t)broadcast->count, most = 0;
    int32_t last = cl__members_highest(&broadcast->members);
    for (int32_t index = 1; index <= last; index++) {
        _Atomic uint64_t *at = &broadcast->shared->readers[index].word;
        CL_FAULT(171);
        uint64_t word = cl__load(at); /* R4; partner: R1, and the reader's CAS */
        /* Moving it fails when it moves by itself, which it does a circle at most before it is out of the way. */
        for (int tries = 0; is_waited_for(word) && cl__reader_lag(position, word) >= count; tries++) {
            if (cl__reader_state(word) == CL__BLOCKS || tries > 2 * TRIES) {
                cl__store_relaxed(&broadcast->in_the_way, (uint32_t)index);
                return -EAGAIN;
            }
            *others = 1;
            if (!moves)
                break;
            move_reader(broadcast, at, &word, position);
        }
        int64_t lag = is_waited_for(word) ? cl__reader_lag(position, word) : 0;
        most = lag > most ? lag : most;
    }
    return most;
}

/* First without moving anybody: while one blocks, nobody loses a record over one that is not put. */
int64_t cl__cast_find_room(cl_broadcast *broadcast, uint64_t position)
{
    cl__cast_memory *shared = broadcast->shared;
    int others = 0;
    int64_t most = look_at_readers(broadcast, position, 0, &others);
    uint64_t seen = most < 0 ? broadcast->count : (uint64_t)most;
    if (most >= 0 && others)
        most = look_at_readers(broadcast, position, 1, &others);
    if (seen > cl__load_relaxed(&shared->most)) /* partner: none, it is for people */
        cl__store_relaxed(&shared->most, seen);
    if (most < 0)
        return most;
    cl__store_relaxed(&broadcast->free_until, position - (uint64_t)most + broadcast->count);
    cl__store_relaxed(&broadcast->in_the_way, 0);
    return 0;
}

static int64_t find_room(cl_broadcast *broadcast, uint64_t position)
{
    if (!cl__is_lossless(broadcast) ||
        __builtin_expect((int64_t)(position - cl__load_relaxed(&broadcast->free_until)) < 0, 1))
        return 0;
    int64_t rc = cl__cast_find_room(broadcast, position);
    /* Asked after at most so often, and then looked at again. */
    return rc == -EAGAIN && cl__members_ask_one(&broadcast->members, cl__load_relaxed(&broadcast->in_the_way)) > 0
               ? cl__cast_find_room(broadcast, position)
               : rc;
}

static int64_t begin_record(cl_broadcast *broadcast, cl__cast_slot **out, uint64_t *position)
{
    int64_t rc = cl__cast_is(broadcast, CL_BROADCAST_WRITER);
    if (__builtin_expect(rc < 0 || broadcast->has_claim, 0))
        return rc < 0 ? rc : -EBUSY;
    *position = cl__load_relaxed(&broadcast->position);
    rc = find_room(broadcast, *position);
    if (__builtin_expect(rc < 0, 0))
        return rc;
    *out = cl__cast_slot_at(broadcast, *position);
    CL_FAULT(172);
    cl__store_release(&(*out)->sequence, 2 * *position + 1); /* L1; partner: L4, L5 */
    cl__fence_stores();
    return 0;
}

static void end_record(cl_broadcast *broadcast, cl__cast_slot *slot, uint64_t position, int64_t size)
{
    cl__store_relaxed(&slot->size, (uint32_t)size); /* partner: the load in cl_broadcast_peek */
    CL_FAULT(173);
    cl__store_release(&slot->sequence, 2 * position + 2); /* L2; partner: L4, L5 */
    CL_FAULT(174);
    cl__exchange(&broadcast->shared->tail, position + 1); /* L3, R3, W1; partner: the loads of readers */
    cl__store_release(&broadcast->position, position + 1); /* R5: after it; partner: the acquire of a thread that waits for room */
    cl__cast_published(broadcast, CL_BROADCAST_FOR_RECORD);
}

int64_t cl_broadcast_try_put(cl_broadcast *broadcast, const void *data, int64_t size)
{
    cl__cast_slot *slot;
    uint64_t position;
    if (size < 0 || size > broadcast->plan.slot_size)
        return -EMSGSIZE;
    int64_t rc = begin_record(broadcast, &slot, &position);
    if (rc < 0)
        return rc;
    copy_in(slot->data, data, (size_t)size);
    end_record(broadcast, slot, position, size);
    return 0;
}

int64_t cl_broadcast_put_many(cl_broadcast *broadcast, const void *data, int64_t size, int64_t count)
{
    int64_t done;
    for (done = 0; done < count; done++) {
        int64_t rc = cl_broadcast_try_put(broadcast, (const uint8_t *)data + done * size, size);
        if (rc < 0)
            return done ? done : rc;
    }
    return done;
}

int64_t cl_broadcast_reserve(cl_broadcast *broadcast, cl_broadcast_claim *claim)
{
    cl__cast_slot *slot;
    int64_t rc = begin_record(broadcast, &slot, &claim->position);
    if (rc < 0)
        return rc;
    cl__fence_streams(); /* whatever the program writes with */
    broadcast->has_claim = 1;
    claim->data = slot->data;
    claim->size = broadcast->plan.slot_size;
    return 0;
}

/* It is ours still, and is used up. */
static int64_t end_claim(cl_broadcast *broadcast, cl_broadcast_claim *claim, int role, cl__cast_slot **out)
{
    int64_t rc = cl__cast_is(broadcast, role);
    if (rc < 0)
        return rc;
    if (!broadcast->has_claim || !claim->data || claim->position != cl__load_relaxed(&broadcast->position))
        return -EINVAL;
    *out = cl__cast_slot_at(broadcast, claim->position);
    broadcast->has_claim = 0;
    claim->data = NULL;
    return 0;
}

int64_t cl_broadcast_commit(cl_broadcast *broadcast, cl_broadcast_claim *claim, int64_t size)
{
    cl__cast_slot *slot;
    if (size < 0 || size > broadcast->plan.slot_size)
        return -EMSGSIZE;
    int64_t rc = end_claim(broadcast, claim, CL_BROADCAST_WRITER, &slot);
    if (rc >= 0)
        end_record(broadcast, slot, claim->position, size);
    return rc;
}

/* The slot stays as one that is written to: what it had is gone. */
int64_t cl_broadcast_cancel(cl_broadcast *broadcast, cl_broadcast_claim *claim)
{
    cl__cast_slot *slot;
    return end_claim(broadcast, claim, CL_BROADCAST_WRITER, &slot);
}

/* ---- reading ------------------------------------------------------------------------------------------------------------ */

static int64_t lose(cl_broadcast *broadcast, uint64_t from, uint64_t to)
{
    broadcast->lost_now = (int64_t)(to - from) + (broadcast->is_untold ? broadcast->lost_now : 0);
    broadcast->lost += (int64_t)(to - from);
    broadcast->is_untold = broadcast->reading & CL_BROADCAST_TELL_LOSS;
    cl__store_relaxed(&broadcast->position, to);
    if (cl__is_registered(broadcast))
        cl__store_relaxed(&cl__our_reader(broadcast)->lost, (uint64_t)broadcast->lost); /* partner: none, for people */
    return -EOVERFLOW;
}

/* Lossy: go on with the oldest that is there. Who is overtaken again and again would never get anything there, so it goes on
 * with newer ones, and with the newest in the end. */
static int64_t go_on_behind(cl_broadcast *broadcast, uint64_t position, uint64_t tail, uint64_t left)
{
    unsigned shift = broadcast->overtakings < 63 ? broadcast->overtakings++ : 63;
    uint64_t fewer = left >> shift;
    return lose(broadcast, position, tail - (fewer ? fewer : left ? 1 : 0));
}

/* Lossy: the slot's sequence says that another record is in it by now. */
static int64_t overtaken(cl_broadcast *broadcast, uint64_t position, uint64_t sequence)
{
    uint64_t newer = (sequence - 1) / 2, tail = cl__load(&broadcast->shared->tail); /* partner: L3, before L1 of that one */
    if (sequence == 0 || newer <= position || (newer - position) % broadcast->count || newer > tail || tail >= CL__POSITIONS)
        return cannot_be(broadcast, sequence, 2 * position + 2);
    return go_on_behind(broadcast, position, tail, broadcast->count - (newer == tail));
}

/* Lossless: what was `found` is not what was `expected`, as the writer has moved our word, or as a stranger was here. */
static int64_t moved(cl_broadcast *broadcast, uint64_t position, uint64_t found, uint64_t expected)
{
    /* Partner: the writer's CAS of it. */
    uint64_t word = cl__load(&cl__our_reader(broadcast)->word), ours = cl__reader_word(position, broadcast->state);
    if (cl__reader_state(word) == CL__EVICTED && broadcast->state == CL__EVICTABLE)
        return -ECONNABORTED;
    if (word == ours)
        return cannot_be(broadcast, found, expected);
    if (broadcast->state != CL__SKIPS || cl__reader_state(word) != CL__SKIPS || (int64_t)(word - ours) <= 0)
        return cannot_be(broadcast, word, ours);
    return lose(broadcast, position, cl__reader_position(word));
}

/* 1: he has died. */
static int64_t ask_for_writer(cl_broadcast *broadcast, uint64_t word)
{
    uint32_t owner = cl__writer_owner(word);
    if (cl__is_registered(broadcast))
        return cl__members_ask_one(&broadcast->members, owner);
    int64_t held = cl__segment_part_is_held(broadcast->members.segment, (int)owner);
    /* Nobody can be that one anew before the word has changed. Partner: the CAS of whoever clears it. */
    return held ? held < 0 ? held : 0 : cl__load(&broadcast->shared->writer) == word;
}

int64_t cl__cast_why_nothing(cl_broadcast *broadcast, uint64_t position, int asks)
{
    cl__cast_memory *shared = broadcast->shared;
    int is_patient = broadcast->reading & CL_BROADCAST_PATIENT;
    CL_FAULT(175);
    uint64_t word = cl__load(&shared->writer); /* before the tail; partner: the CAS of the writer that closes */
    if (cl__load(&shared->tail) != position)
        return 1;
    switch (cl__writer_state(word)) {
    case CL_BROADCAST_CLOSED:
        return -EPIPE;
    case CL_BROADCAST_DIED:
        return is_patient ? -EAGAIN : -EOWNERDEAD;
    case CL_BROADCAST_OPEN:
        break;
    default:
        return -EAGAIN;
    }
    int64_t rc = asks ? ask_for_writer(broadcast, word) : 0;
    return rc == 0 ? -EAGAIN : rc < 0 ? rc : cl__is_registered(broadcast) ? 1 : is_patient ? -EAGAIN : -EOWNERDEAD;
}

/* One try to find the next record. 0; -EOVERFLOW: some were lost, try again; else as cl_broadcast_peek. */
static int64_t find_record(cl_broadcast *broadcast, uint64_t *at)
{
    cl__cast_memory *shared = broadcast->shared;
    uint64_t position = *at = cl__load_relaxed(&broadcast->position);
    int is_lossless = cl__is_lossless(broadcast);
    /* Partner: the writer's CAS, which moves us on. */
    if (is_lossless && cl__load(&cl__our_reader(broadcast)->word) != cl__reader_word(position, broadcast->state))
        return moved(broadcast, position, 0, 0);
    CL_FAULT(176);
    uint64_t tail = cl__load(&shared->tail); /* W4; partner: L3 */
    int64_t lag = (int64_t)(tail - position);
    if (lag == 0)
        return cl__cast_why_nothing(broadcast, position, 1);
    if (__builtin_expect(lag < 0 || tail >= CL__POSITIONS, 0))
        return cannot_be(broadcast, tail, position);
    if (__builtin_expect(lag > (int64_t)broadcast->count, 0))
        return is_lossless ? moved(broadcast, position, tail, position + broadcast->count)
                           : go_on_behind(broadcast, position, tail, broadcast->count);
    CL_FAULT(177);
    uint64_t sequence = cl__load_acquire(&cl__cast_slot_at(broadcast, position)->sequence); /* L4; partner: L1, L2 */
    if (__builtin_expect(sequence == 2 * position + 2, 1))
        return 0;
    return is_lossless ? moved(broadcast, position, sequence, 2 * position + 2) : overtaken(broadcast, position, sequence);
}

static int64_t find_next(cl_broadcast *broadcast, uint64_t *position)
{
    int64_t rc = cl__cast_is(broadcast, CL_BROADCAST_READER);
    if (__builtin_expect(rc < 0 || broadcast->has_claim, 0))
        return rc < 0 ? rc : -EBUSY;
    for (int tries = 0; tries < TRIES; tries++) {
        if (__builtin_expect(broadcast->is_untold, 0)) {
            broadcast->is_untold = 0;
            return -EOVERFLOW;
        }
        rc = find_record(broadcast, position);
        if (rc != 1 && rc != -EOVERFLOW)
            return rc;
    }
    return -EAGAIN; /* the writer is too fast; waiting ends at once */
}

int64_t cl_broadcast_peek(cl_broadcast *broadcast, cl_broadcast_claim *claim)
{
    for (;;) {
        int64_t rc = find_next(broadcast, &claim->position);
        if (rc < 0)
            return rc;
        cl__cast_slot *slot = cl__cast_slot_at(broadcast, claim->position);
        int64_t size = cl__load_relaxed(&slot->size); /* once; partner: the store in end_record */
        claim->data = slot->data;
        claim->size = size;
        broadcast->has_claim = 1;
        if (__builtin_expect(size <= broadcast->plan.slot_size, 1))
            return 0;
        rc = cl_broadcast_is_whole(broadcast, claim);
        cl_broadcast_keep(broadcast, claim);
        if (rc == 1)
            return cannot_be(broadcast, (uint64_t)size, (uint64_t)broadcast->plan.slot_size);
    }
}

int64_t cl_broadcast_is_whole(cl_broadcast *broadcast, const cl_broadcast_claim *claim)
{
    uint64_t position = cl__load_relaxed(&broadcast->position);
    if (cl__cast_is(broadcast, CL_BROADCAST_READER) < 0 || !broadcast->has_claim || claim->position != position)
        return 0;
    cl__fence_loads();
    return cl__load_acquire(&cl__cast_slot_at(broadcast, position)->sequence) == 2 * position + 2; /* L5; partner: L1 */
}

static int64_t release_lossy(cl_broadcast *broadcast, cl__cast_slot *slot, uint64_t position)
{
    cl__fence_loads();
    uint64_t sequence = cl__load_acquire(&slot->sequence); /* L5; partner: L1 */
    if (__builtin_expect(sequence != 2 * position + 2, 0))
        return overtaken(broadcast, position, sequence);
    if (cl__is_registered(broadcast)) /* partner: none, for people */
        cl__store_relaxed(&cl__our_reader(broadcast)->word, cl__reader_word(position + 1, CL__LOSSY));
    return 0;
}

static int64_t release_lossless(cl_broadcast *broadcast, uint64_t position)
{
    uint64_t word = cl__reader_word(position, broadcast->state);
    CL_FAULT(178);
    if (__builtin_expect(!cl__swap_if_ordered(&cl__our_reader(broadcast)->word, &word, word + 16), 0))
        return moved(broadcast, position, 0, 0); /* partner: the writer's CAS in move_reader, and R4 */
    cl__cast_published(broadcast, CL_BROADCAST_FOR_ROOM);
    return 0;
}

static int64_t release(cl_broadcast *broadcast, cl_broadcast_claim *claim, void *room)
{
    cl__cast_slot *slot;
    uint64_t position = claim->position;
    int64_t rc = end_claim(broadcast, claim, CL_BROADCAST_READER, &slot);
    if (rc < 0)
        return rc;
    if (room)
        copy_out(room, slot->data, (size_t)claim->size);
    rc = cl__is_lossless(broadcast) ? release_lossless(broadcast, position) : release_lossy(broadcast, slot, position);
    if (rc < 0)
        return rc;
    cl__store_relaxed(&broadcast->position, position + 1);
    broadcast->has_got = 1;
    broadcast->overtakings = 0;
    return 0;
}

int64_t cl_broadcast_release(cl_broadcast *broadcast, cl_broadcast_claim *claim)
{
    int64_t rc = release(broadcast, claim, NULL);
    if (rc == -EOVERFLOW)
        broadcast->is_untold = 0; /* it is told now */
    return rc;
}

int64_t cl_broadcast_copy(cl_broadcast *broadcast, cl_broadcast_claim *claim, void *room)
{
    return claim->size < 0 || claim->size > broadcast->plan.slot_size ? -EINVAL : release(broadcast, claim, room);
}

int64_t cl_broadcast_keep(cl_broadcast *broadcast, cl_broadcast_claim *claim)
{
    cl__cast_slot *slot;
    return end_claim(broadcast, claim, CL_BROADCAST_READER, &slot);
}

int64_t cl_broadcast_try_get(cl_broadcast *broadcast, void *room, int64_t size)
{
    if (size < broadcast->plan.slot_size)
        return -EMSGSIZE;
    for (int tries = 0; tries < TRIES; tries++) {
        cl_broadcast_claim claim;
        int64_t rc = cl_broadcast_peek(broadcast, &claim);
        if (rc == 0)
            rc = cl_broadcast_copy(broadcast, &claim, room);
        else if (rc == -EOVERFLOW)
            return rc;
        if (rc != -EOVERFLOW)
            return rc < 0 ? rc : claim.size;
    }
    return -EAGAIN;
}

void cl_broadcast_tell_again(cl_broadcast *broadcast)
{
    broadcast->is_untold = 1;
}

/* 1; 0: it was overwritten, try again; else as cl_broadcast_get_many. */
static int64_t get_one(cl_broadcast *broadcast, uint8_t *room, int64_t size)
{
    cl_broadcast_claim claim;
    int64_t rc = cl_broadcast_peek(broadcast, &claim);
    if (rc < 0)
        return rc;
    if (claim.size == size)
        return (rc = release(broadcast, &claim, room)) < 0 ? rc == -EOVERFLOW ? 0 : rc : 1;
    int is_so = (int)cl_broadcast_is_whole(broadcast, &claim);
    cl_broadcast_keep(broadcast, &claim);
    return is_so ? -EMSGSIZE : 0;
}

int64_t cl_broadcast_get_many(cl_broadcast *broadcast, void *room, int64_t size, int64_t most)
{
    int64_t done = 0, rc;
    for (int tries = 0; done < most && tries < TRIES; tries++) {
        rc = get_one(broadcast, (uint8_t *)room + done * size, size);
        if (rc == -EOVERFLOW && done)
            cl_broadcast_tell_again(broadcast);
        if (rc < 0)
            return done ? done : rc;
        done += rc;
        tries = rc ? 0 : tries;
    }
    return done ? done : -EAGAIN;
}
