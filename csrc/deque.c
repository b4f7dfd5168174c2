/* The deque: slots in a circle, each with a word that alone says what it is. One owner pushes and pops at the bottom; thieves,
 * any number of them, take at the top.
 *
 *                push (store)              claim by a thief (CAS)
 *     EMPTY(lap) -----------> FULL(lap) ---------------------------> READING(lap, x) --- x is done ---> EMPTY(lap+1)
 *        ^                       |                                      ^    ^  |  x died,
 *        |                       | claim by the owner (CAS)             |    |  |  or gave back
 *        |                       v                a push goes past it   |    |  v
 *        +--- it is done --- POPPING(lap, x) ---------------------------+   ORPHAN(lap)   (AT_MOST_ONCE: EMPTY(lap+1))
 *                                |   x died, or gave back                       ^
 *                                +----------------------------------------------+
 *
 * Position p (counted from 0 for ever) is slot p % slots in lap p / slots. The owner fills them in order, and pops backwards:
 * what it pops when nothing lies above is EMPTY of the same lap again, and the position is used once more. What a thief has
 * taken is over: EMPTY of the next lap.
 *
 * The last record. Both claim it by a CAS of the same word, so one of them has it, whatever the two know of top and bottom; no
 * fence orders these two, as nothing is decided by them. What a thief saw before its CAS does not matter either:
 *
 *     thief: sees FULL at p     owner: pops p, pushes another record at p     thief: its CAS succeeds
 *
 * It has the other record, which is the oldest, and reads it only now.
 *
 * Bottom is not in shared memory. A push needs no claim: nobody but the owner writes to an EMPTY slot, and there is one owner,
 * as that is a word which is claimed by a CAS and cleared when its participant is dead. So an owner that dies in a push has
 * pushed nothing, and after the exchange it has pushed it. Its successor finds bottom in the slots: the least of all positions
 * that a slot is free for (EMPTY of that lap), or will be when what is in it now is over (one lap later). For each position
 * below bottom was filled, so its slot is free for a later one at the earliest; and the slot of bottom itself is either free for
 * it or held by one of the lap before. Thieves who go on meanwhile change nothing of that: a slot that they vacate is free
 * for just the position that it was to be free for.
 *
 * Top is a hint where thieves begin to look. It is stored after a claim and may lag, but never leads: all before it is READING,
 * ORPHAN or over, and so is all that a thief has gone past. For good: that is why it may go past, and why POPPING is another
 * state than READING.
 *
 *     owner: claims p     thief: goes past p, is stopped     owner: done, p is EMPTY; pushes at p and p+1
 *     thief: claims p+1, stores top = p+2: the record at p is behind top, and no thief looks there
 *
 * With POPPING the thief ends its search at p. Nothing is lost by that, as nothing lies above: a push that would go above what
 * its owner has claimed makes it READING first, and when that is done with it is over, as if it had been stolen. It is used
 * again only if the owner has come down to a record below it: no thief has gone past that one, so none is past those above it
 * (go_back_to). Until then such a position is missing: with an old record at the bottom, and work above that is done in
 * place and pushes more, a deque is full with fewer records than it has slots; so it is by one, once, after a record was given
 * back from the owner's end. One that is empty, and of which nobody holds a slot, is not full.
 *
 * ORPHANs lie anywhere, also behind top. If a count says that some were made since they looked last, they are looked for by
 * whoever finds nothing else, and by each thief at some of its turns: where there is always something else, they would never be
 * got; and if they always came first, one that is given back each time would keep its thief from all others. Who died and when
 * that is noticed is in members.c; nobody is ever behind a slot that somebody holds, but for a push that has come round to it.
 *
 * Whatever another process writes there, we stay in our memory: geometry is a checked copy, a slot's index is masked, a
 * record's size is read once and checked. A writer that does not keep to this can stop the deque, or spoil records. */
#include "deque.h"

#include <string.h>

static inline int64_t ahead(const cl_deque *deque, cl__word word, uint64_t position)
{
    return cl__ahead(word, cl__deque_lap(deque, position));
}

static int64_t cannot_be(cl_deque *deque, cl__word word, uint64_t position)
{
    cl__store_relaxed(&deque->fault_word, word);
    cl__store_relaxed(&deque->fault_index, (int64_t)(position & deque->mask));
    return -EBADMSG;
}

static inline int64_t is_owner(const cl_deque *deque)
{
    int64_t rc = cl__members_is_joined(&deque->members);
    if (__builtin_expect(rc < 0, 0))
        return rc;
    if (__builtin_expect(cl__load_relaxed(&deque->shared->owner) != deque->members.me, 0)) /* partner: our CAS in own() */
        return -EPERM;
    return __builtin_expect(deque->reserved != 0, 0) ? -EBUSY : 0;
}

/* ---- pushing --------------------------------------------------------------------------------------------------------- */

/* Thieves walk from top to bottom. Where they take nothing, top stays, and bottom could run ahead of it for ever, over positions
 * that were claimed by us and are over. That of the circle before this one's is over, and so is all that lies before it: top is
 * there, at least. A slow thief may set it back afterwards, to the one behind what it still holds; bottom is no more than a
 * circle ahead of that, and, as what we saw of top was no further than bottom, goes one more before we look again. */
static inline void keep_top_near(cl_deque *deque)
{
    uint64_t least = deque->bottom - deque->mask;
    if (__builtin_expect((int64_t)(least - deque->seen_top) <= 0, 1))
        return;
    deque->seen_top = cl__load_acquire(&deque->shared->top); /* partner: the release in try_slot */
    CL_FAULT(251);
    while ((int64_t)(least - deque->seen_top) > 0 &&
           !cl__swap_if(&deque->shared->top, &deque->seen_top, least)) /* partner: the acquires of top */
        continue;
}

/* The slot at bottom is of the lap before. 1: not any more. */
static int64_t clear_the_way(cl_deque *deque, cl__word word)
{
    unsigned state = cl__state_of(word);
    cl__store_relaxed(&deque->in_the_way, 0);
    if (state == CL__FULL || state == CL__ORPHAN)
        return -EAGAIN;
    if (state != CL__READING) /* EMPTY: all before bottom was filled; POPPING: we would have made it READING */
        return cannot_be(deque, word, deque->bottom);
    cl__store_relaxed(&deque->in_the_way, cl__owner_of(word));
    int64_t rc = cl__members_ask_one(&deque->members, cl__owner_of(word));
    return rc ? rc : -EAGAIN;
}

/* The slot at bottom is not for this position any more. 0: go on to the next; 1: look at it again. */
static int64_t go_past(cl_deque *deque, cl__slot *slot, cl__word word)
{
    unsigned state = cl__state_of(word);
    if (state == CL__READING || state == CL__ORPHAN || ahead(deque, word, deque->bottom) > 0)
        return state > CL__POPPING ? cannot_be(deque, word, deque->bottom) : 0;
    if (state != CL__POPPING || cl__owner_of(word) != deque->members.me)
        return cannot_be(deque, word, deque->bottom);
    CL_FAULT(252);
    /* Before anything is pushed above it. Partner: the acquires of thieves, who go past it from now on; and release_claim. */
    return !cl__swap_if(&slot->word, &word, cl__word_of(cl__lap_of(word), CL__READING, deque->members.me));
}

/* An EMPTY slot at bottom, which is ours to fill. */
static int64_t find_room(cl_deque *deque, cl__slot **out, cl__word *word)
{
    int64_t rc = is_owner(deque);
    if (__builtin_expect(rc < 0, 0))
        return rc;
    CL_FAULT(253);
    if (__builtin_expect(cl__load(&deque->shared->shut) != 0, 0)) /* partner: the exchange in cl_deque_shut */
        return -EPIPE;
    for (uint64_t steps = 0;;) {
        *out = cl__deque_slot(deque, deque->bottom);
        CL_FAULT(254);
        *word = cl__load_acquire(&(*out)->word); /* partner: the release of whoever took the record of the lap before */
        int64_t distance = ahead(deque, *word, deque->bottom);
        if (__builtin_expect(distance == 0 && cl__state_of(*word) == CL__EMPTY, 1)) {
            keep_top_near(deque);
            return 0;
        }
        rc = distance < 0 ? clear_the_way(deque, *word) : go_past(deque, *out, *word);
        if (rc < 0)
            return rc;
        deque->bottom += rc == 0;
        if (++steps > 3 * (deque->mask + 1)) /* each slot may be looked at, changed, and looked at again */
            return cannot_be(deque, *word, deque->bottom);
    }
}

/* A hint, for the largest size: top is looked at only when the size could be larger than what was seen. */
static inline void note_push(cl_deque *deque)
{
    cl__deque_memory *shared = deque->shared;
    cl__store_relaxed(&shared->pushed, cl__load_relaxed(&shared->pushed) + 1); /* partner: none, these are counts */
    uint64_t most = cl__load_relaxed(&shared->most);
    if (__builtin_expect(deque->bottom - deque->seen_top <= most, 1))
        return;
    deque->seen_top = cl__load_acquire(&shared->top);
    uint64_t size = deque->bottom - deque->seen_top;
    if (size > most)
        cl__store_relaxed(&shared->most, size <= deque->mask + 1 ? size : deque->mask + 1);
}

/* A thief that has seen `shut`, and then nothing to take, has told its caller that nothing will come. If our look at `shut`
 * comes before the shutting, as all are in one order (seq_cst), our exchange came before that thief's look, which saw it; else
 * we see it here, and take the record back, unless somebody has it. */
static int64_t take_back(cl_deque *deque, cl__slot *slot, cl__word full)
{
    CL_FAULT(255);
    if (!cl__swap_if(&slot->word, &full, cl__word_of(cl__lap_of(full), CL__EMPTY, 0))) /* partner: thieves' claims */
        return 0;
    deque->bottom--;
    cl__store_relaxed(&deque->shared->pushed, cl__load_relaxed(&deque->shared->pushed) - 1);
    return -EPIPE;
}

static inline int64_t commit(cl_deque *deque, cl__slot *slot, cl__word empty, int64_t size)
{
    cl__word full = cl__word_of(cl__lap_of(empty), CL__FULL, 0);
    cl__store_relaxed(&slot->size, (uint32_t)size); /* partner: the load in size_of; ordered by the word */
    CL_FAULT(256);
    /* Partner: the claims; and, as it orders the word before the look at those who sleep, the fetch_or of a sleeper. */
    cl__exchange(&slot->word, full);
    deque->bottom++;
    note_push(deque);
    cl__deque_published(deque);
    CL_FAULT(257);
    return __builtin_expect(cl__load(&deque->shared->shut) == 0, 1) ? 0 : take_back(deque, slot, full); /* partner: shut */
}

int64_t cl_deque_push(cl_deque *deque, const void *data, int64_t size)
{
    cl__slot *slot;
    cl__word word;
    if (size < 0 || size > deque->plan.slot_size)
        return -EMSGSIZE;
    int64_t rc = find_room(deque, &slot, &word);
    if (rc < 0)
        return rc;
    if (size)
        memcpy(slot->data, data, (size_t)size);
    return commit(deque, slot, word, size);
}

int64_t cl_deque_reserve(cl_deque *deque, cl_deque_claim *claim)
{
    cl__slot *slot;
    cl__word word;
    int64_t rc = find_room(deque, &slot, &word);
    if (rc < 0)
        return rc;
    deque->reserved = ++deque->reservations;
    *claim = (cl_deque_claim){slot->data, deque->plan.slot_size, deque->reserved, deque->bottom, 1};
    return 0;
}

static int64_t end_reservation(cl_deque *deque, cl_deque_claim *claim)
{
    int64_t rc = is_owner(deque);
    if (rc != -EBUSY)
        return rc < 0 ? rc : -EINVAL;
    if (!claim->data || claim->word != deque->reserved || claim->position != deque->bottom)
        return -EINVAL;
    *claim = (cl_deque_claim){0};
    deque->reserved = 0;
    return 0;
}

int64_t cl_deque_commit(cl_deque *deque, cl_deque_claim *claim, int64_t size)
{
    if (size < 0 || size > deque->plan.slot_size)
        return -EMSGSIZE;
    int64_t rc = end_reservation(deque, claim);
    if (rc < 0)
        return rc;
    return commit(deque, cl__deque_slot(deque, deque->bottom), cl__word_of(cl__deque_lap(deque, deque->bottom), CL__EMPTY, 0),
                  size);
}

int64_t cl_deque_cancel(cl_deque *deque, cl_deque_claim *claim)
{
    return end_reservation(deque, claim);
}

/* ---- finding a record ------------------------------------------------------------------------------------------------ */

/* 1: it is ours, and *word is what stands there now; 0: it is another's, and *word is what stood there. */
static inline int64_t claim_slot(cl_deque *deque, cl__slot *slot, cl__word *word, enum cl__state state)
{
    cl__word claimed = cl__word_of(cl__lap_of(*word), state, deque->members.me);
    CL_FAULT(258);
    if (!cl__swap_if(&slot->word, word, claimed)) /* partner: the exchange in commit; other claims */
        return 0;
    *word = claimed;
    return 1;
}

/* Records whose taker died. 1: one is ours. */
static int64_t claim_orphan(cl_deque *deque, cl__slot **out, cl__word *word)
{
    CL_FAULT(259);
    uint32_t repairs = cl__load(&deque->shared->repairs); /* partner: the addition after ORPHANs were made */
    if (__builtin_expect(repairs == cl__load_relaxed(&deque->seen_repairs), 1))
        return 0;
    for (uint64_t i = 0; i <= deque->mask; i++) {
        *out = cl__deque_slot(deque, i);
        CL_FAULT(260);
        *word = cl__load_acquire(&(*out)->word); /* partner: the CAS that made it an ORPHAN */
        if (cl__state_of(*word) == CL__ORPHAN && claim_slot(deque, *out, word, CL__READING))
            return 1;
    }
    cl__store_relaxed(&deque->seen_repairs, repairs); /* those that are made from now on make it another number */
    return 0;
}

/* Whether another participant has a record still: if it dies, that will be somebody's to take. */
static int is_with_another(cl_deque *deque)
{
    for (uint64_t i = 0; i <= deque->mask; i++) {
        CL_FAULT(261);
        cl__word word = cl__load_acquire(&cl__deque_slot(deque, i)->word); /* partner: the claims */
        unsigned state = cl__state_of(word);
        int is_held = state == CL__READING || state == CL__POPPING;
        if (state == CL__ORPHAN || (is_held && cl__owner_of(word) != deque->members.me)) {
            cl__store_relaxed(&deque->in_the_way, cl__owner_of(word));
            return 1;
        }
    }
    return 0;
}

/* There is nothing FULL. 1: an orphan is ours; 0: somebody was dead: look again. `held`: what the search ended at, or 0. */
static int64_t look_elsewhere(cl_deque *deque, cl__word held, int is_shut, cl__slot **slot, cl__word *word)
{
    int64_t rc = claim_orphan(deque, slot, word);
    if (rc > 0)
        return 1;
    cl__store_relaxed(&deque->in_the_way, cl__owner_of(held));
    rc = held ? cl__members_ask_one(&deque->members, cl__owner_of(held)) : 0;
    rc = rc ? rc : cl__members_ask_all(&deque->members);
    if (rc)
        return rc < 0 ? rc : 0;
    return is_shut && !is_with_another(deque) ? -EPIPE : -EAGAIN;
}

/* ---- the owner's end ----------------------------------------------------------------------------------------------------- */

/* All from `position`, which is POPPING and ours, to bottom is empty, or claimed still. Those that are over are used again: no
 * thief is past them, as none is past ours. */
static void go_back_to(cl_deque *deque, uint64_t position)
{
    for (uint64_t above = position + 1; above != deque->bottom; above++) {
        cl__slot *slot = cl__deque_slot(deque, above);
        uint64_t lap = cl__deque_lap(deque, above);
        CL_FAULT(250);
        if (cl__load_acquire(&slot->word) == cl__word_of(lap + 1, CL__EMPTY, 0)) /* partner: the release of who had it */
            cl__store_release(&slot->word, cl__word_of(lap, CL__EMPTY, 0));      /* partner: the acquires of thieves */
    }
    deque->bottom = position;
}

/* From bottom down to what thieves have passed; in between may lie what was claimed and went under. 1: claimed; 0: there is
 * nothing. */
static int64_t find_newest(cl_deque *deque, cl__slot **slot, cl__word *word)
{
    uint64_t position = deque->bottom - 1, top = 0;
    for (uint64_t steps = 0; steps <= deque->mask; steps++, position--) {
        *slot = cl__deque_slot(deque, position);
        CL_FAULT(262);
        *word = cl__load_acquire(&(*slot)->word); /* partner: thieves' claims; of the record, our own exchange */
        while (ahead(deque, *word, position) == 0) {
            unsigned state = cl__state_of(*word);
            if (__builtin_expect(state == CL__FULL, 1)) {
                if (!claim_slot(deque, *slot, word, CL__POPPING))
                    continue;
                go_back_to(deque, position);
                return 1;
            }
            if (state == CL__ORPHAN) { /* thieves may be past it: so it is not POPPING, and not used again */
                if (!claim_slot(deque, *slot, word, CL__READING))
                    continue;
                return 1;
            }
            if (state != CL__READING)
                return cannot_be(deque, *word, position);
            break;
        }
        if (steps == 0) {
            CL_FAULT(263);
            top = cl__load_acquire(&deque->shared->top); /* partner: the release in try_slot */
        }
        if ((int64_t)(position - top) <= 0)
            return 0;
    }
    return 0;
}

static int64_t take_newest(cl_deque *deque, cl__slot **slot, cl__word *word)
{
    int64_t rc = is_owner(deque);
    if (__builtin_expect(rc < 0, 0))
        return rc;
    while ((rc = find_newest(deque, slot, word)) == 0) {
        CL_FAULT(264);
        int is_shut = cl__load(&deque->shared->shut) != 0; /* partner: the exchange in cl_deque_shut; who pushes is us */
        rc = look_elsewhere(deque, 0, is_shut, slot, word);
        if (rc != 0)
            break;
    }
    return rc < 0 ? rc : 0;
}

/* ---- the thieves' end ---------------------------------------------------------------------------------------------------- */

typedef struct walk {
    uint64_t begun, position, steps;
    int rounds, has_moved;
} walk;

static inline walk walk_from_top(cl_deque *deque)
{
    CL_FAULT(265);
    uint64_t begun = cl__load_acquire(&deque->shared->top); /* partner: the release in try_slot, the CAS in keep_top_near */
    return (walk){.begun = begun, .position = begun};
}

enum { MOST_ROUNDS = 4, ORPHANS_EVERY = 8 };

/* Top lags by two circles at most (see keep_top_near), so four are only walked while others run ahead of us; and then top moves.
 * If it has not in round after round, somebody scribbles. 0, or what to return. */
static inline int64_t step(cl_deque *deque, walk *at, cl__word word)
{
    at->position++;
    if (__builtin_expect(++at->steps <= 4 * deque->mask + 4, 1))
        return 0;
    uint64_t now = cl__load_acquire(&deque->shared->top); /* partner: as in walk_from_top */
    at->has_moved |= now != at->begun;
    if (++at->rounds > MOST_ROUNDS)
        return at->has_moved ? -EAGAIN : cannot_be(deque, word, at->position);
    at->begun = at->position = now;
    at->steps = 0;
    return 0;
}

enum { TAKEN = 1, AGAIN = 0, NEXT = 2, END = 3 };

/* What stands at a position on the way down from top: TAKEN: it may be claimed, or -errno. */
static inline int64_t look_at(cl_deque *deque, cl__word word, uint64_t position)
{
    int64_t distance = ahead(deque, word, position);
    switch (cl__state_of(word)) {
    case CL__FULL:
        return distance == 0 ? TAKEN : distance > 0 ? NEXT : cannot_be(deque, word, position);
    case CL__ORPHAN:
        return distance == 0 ? TAKEN : distance > 0 ? NEXT : END; /* behind: nothing was pushed above it yet */
    case CL__READING:
        return distance >= 0 ? NEXT : END;
    case CL__EMPTY:
    case CL__POPPING:
        return distance == 0 ? END : distance > 0 ? NEXT : cannot_be(deque, word, position);
    default:
        return cannot_be(deque, word, position);
    }
}

/* TAKEN, AGAIN, NEXT, END, or -errno. */
static inline int64_t try_slot(cl_deque *deque, cl__slot *slot, cl__word *word, uint64_t position)
{
    int64_t rc = look_at(deque, *word, position);
    if (rc != TAKEN)
        return rc;
    if (!claim_slot(deque, slot, word, CL__READING))
        return AGAIN;
    CL_FAULT(266);
    /* Before the slot is given on: so it cannot be set back by more than a circle. Partner: the acquires of top. */
    cl__store_release(&deque->shared->top, position + 1);
    return TAKEN;
}

static int64_t take_oldest(cl_deque *deque, cl__slot **slot, cl__word *word)
{
    int64_t rc = cl__members_is_joined(&deque->members);
    if (__builtin_expect(rc < 0, 0))
        return rc;
    CL_FAULT(267);
    int is_shut = cl__load(&deque->shared->shut) != 0; /* before any slot; partner: the exchange in cl_deque_shut */
    uint32_t turn = cl__load_relaxed(&deque->turns) + 1; /* partner: none; other threads' turns may be lost */
    cl__store_relaxed(&deque->turns, turn);
    if (turn % ORPHANS_EVERY == 0 && claim_orphan(deque, slot, word) > 0)
        return 0;
    walk at = walk_from_top(deque);
    for (;;) {
        *slot = cl__deque_slot(deque, at.position);
        CL_FAULT(268);
        *word = cl__load(&(*slot)->word); /* partner: the exchange in commit; and the claims */
        rc = try_slot(deque, *slot, word, at.position);
        if (__builtin_expect(rc == TAKEN, 1))
            return 0;
        if (rc == NEXT)
            rc = step(deque, &at, *word);
        else if (rc == END) {
            cl__word held = cl__state_of(*word) == CL__POPPING ? *word : 0;
            rc = look_elsewhere(deque, held, is_shut, slot, word);
            if (rc > 0)
                return 0;
            at = walk_from_top(deque);
        }
        if (__builtin_expect(rc < 0, 0))
            return rc;
    }
}

/* ---- taking, and what becomes of what was taken ----------------------------------------------------------------------- */

/* Of a record that is claimed; of one that is larger than its slot nobody will make sense: it is dropped. */
static inline int64_t size_of(cl_deque *deque, cl__slot *slot, cl__word word)
{
    int64_t size = cl__load_relaxed(&slot->size); /* once; partner: the store in commit */
    if (__builtin_expect(size <= deque->plan.slot_size, 1))
        return size;
    cl__store_release(&slot->word, cl__word_of(cl__lap_of(word) + 1, CL__EMPTY, 0)); /* partner: as in vacate */
    return cannot_be(deque, word, (uint64_t)((uint8_t *)slot - deque->slots) / deque->stride);
}

/* Who waits for a record that may come back, and knows that no other will, is told that this one does not; if the processor
 * looks before our word has arrived, it looks by itself 100 ms later. */
static inline void tell_of_the_end(cl_deque *deque)
{
    CL_FAULT(269);
    if (__builtin_expect(cl__load(&deque->shared->shut) != 0, 0)) /* partner: the exchange in cl_deque_shut */
        cl__deque_published(deque);
}

/* Ours, and nobody waits for room: a store is enough. */
static inline void vacate(cl_deque *deque, cl__slot *slot, cl__word word)
{
    uint64_t lap = cl__lap_of(word) + (cl__state_of(word) == CL__READING);
    CL_FAULT(270);
    cl__store_release(&slot->word, cl__word_of(lap, CL__EMPTY, 0)); /* partner: the acquire in find_room */
    tell_of_the_end(deque);
}

static inline void note_pop(cl_deque *deque)
{
    _Atomic uint64_t *popped = &deque->shared->popped;
    cl__store_relaxed(popped, cl__load_relaxed(popped) + 1); /* partner: none, it is a count */
}

static inline int64_t copy_out(cl_deque *deque, cl__slot *slot, cl__word word, void *room)
{
    int64_t got = size_of(deque, slot, word);
    if (__builtin_expect(got < 0, 0))
        return got;
    memcpy(room, slot->data, (size_t)got);
    vacate(deque, slot, word);
    return got;
}

int64_t cl_deque_pop(cl_deque *deque, void *room, int64_t size)
{
    cl__slot *slot;
    cl__word word;
    if (size < deque->plan.slot_size)
        return -EMSGSIZE;
    int64_t rc = take_newest(deque, &slot, &word);
    if (__builtin_expect(rc < 0, 0))
        return rc;
    rc = copy_out(deque, slot, word, room);
    note_pop(deque);
    return rc;
}

int64_t cl_deque_steal(cl_deque *deque, void *room, int64_t size)
{
    cl__slot *slot;
    cl__word word;
    if (size < deque->plan.slot_size)
        return -EMSGSIZE;
    int64_t rc = take_oldest(deque, &slot, &word);
    return __builtin_expect(rc < 0, 0) ? rc : copy_out(deque, slot, word, room);
}

static int64_t fill_claim(cl_deque *deque, cl__slot *slot, cl__word word, int is_newest, cl_deque_claim *claim)
{
    int64_t size = size_of(deque, slot, word);
    if (size < 0)
        return size;
    uint64_t index = (uint64_t)((uint8_t *)slot - deque->slots) / deque->stride;
    *claim = (cl_deque_claim){slot->data, size, word, index, is_newest};
    return 0;
}

int64_t cl_deque_claim_newest(cl_deque *deque, cl_deque_claim *claim)
{
    cl__slot *slot;
    cl__word word;
    int64_t rc = take_newest(deque, &slot, &word);
    return rc < 0 ? rc : fill_claim(deque, slot, word, 1, claim);
}

int64_t cl_deque_claim_oldest(cl_deque *deque, cl_deque_claim *claim)
{
    cl__slot *slot;
    cl__word word;
    int64_t rc = take_oldest(deque, &slot, &word);
    return rc < 0 ? rc : fill_claim(deque, slot, word, 0, claim);
}

/* The slot of a claim is ours, if it is so still; the claim itself is used up. A push by another thread may make POPPING to
 * READING at any time: whoever ends the claim does it by a CAS, which says which it was. */
static int64_t end_claim(cl_deque *deque, cl_deque_claim *claim, cl__slot **slot, cl__word *word)
{
    int64_t rc = cl__members_is_joined(&deque->members);
    if (rc < 0)
        return rc;
    *slot = cl__deque_slot(deque, claim->position);
    *word = cl__load_acquire(&(*slot)->word); /* partner: our claim; a scribbler's is seen here */
    if (!claim->data || cl__lap_of(*word) != cl__lap_of(claim->word) || cl__owner_of(*word) != deque->members.me ||
        (cl__state_of(*word) != CL__READING && cl__state_of(*word) != CL__POPPING))
        return -EINVAL;
    *claim = (cl_deque_claim){0};
    return 0;
}

int64_t cl_deque_release(cl_deque *deque, cl_deque_claim *claim)
{
    cl__slot *slot;
    cl__word word;
    int is_newest = claim->is_newest != 0;
    int64_t rc = end_claim(deque, claim, &slot, &word);
    if (rc < 0)
        return rc;
    if (is_newest)
        note_pop(deque);
    CL_FAULT(271);
    if (cl__state_of(word) == CL__POPPING &&
        cl__swap_if(&slot->word, &word, cl__word_of(cl__lap_of(word), CL__EMPTY, 0))) /* partner: the CAS in go_past */
        tell_of_the_end(deque);
    else
        vacate(deque, slot, word);
    return 0;
}

int64_t cl_deque_give_back(cl_deque *deque, cl_deque_claim *claim)
{
    cl__deque_memory *shared = deque->shared;
    cl__slot *slot;
    cl__word word;
    int64_t rc = end_claim(deque, claim, &slot, &word);
    if (rc < 0)
        return rc;
    int is_lost = deque->plan.flags & CL_DEQUE_AT_MOST_ONCE;
    uint64_t lap = cl__lap_of(word);
    CL_FAULT(272);
    /* Partner: the acquires of all who look at the slot. */
    cl__exchange(&slot->word, is_lost ? cl__word_of(lap + 1, CL__EMPTY, 0) : cl__word_of(lap, CL__ORPHAN, 0));
    cl__add_relaxed(is_lost ? &shared->lost : &shared->redelivered, 1);
    /* If we die here nobody knows of it; but then we are recovered, and that says so. */
    CL_FAULT(273);
    cl__add(&shared->repairs, 1); /* partner: the load in claim_orphan; and the fetch_or of a sleeper, who looks at it */
    cl__deque_published(deque);
    return 0;
}

/* ---- looking ----------------------------------------------------------------------------------------------------------- */

int64_t cl__deque_is_there(void *object)
{
    cl_deque *deque = object;
    int64_t rc = cl__members_is_joined(&deque->members);
    if (rc < 0)
        return rc;
    CL_FAULT(274);
    int is_shut = cl__load(&deque->shared->shut) != 0; /* before any slot; partner: the exchange in cl_deque_shut */
    if (cl__load(&deque->shared->repairs) != cl__load_relaxed(&deque->seen_repairs)) /* partner: as in claim_orphan */
        return 1;
    walk at = walk_from_top(deque);
    for (;;) {
        cl__word word = cl__load(&cl__deque_slot(deque, at.position)->word); /* W4 of wake.h; partner: W1, in commit */
        rc = look_at(deque, word, at.position);
        if (rc == NEXT)
            rc = step(deque, &at, word);
        else
            return rc != END ? rc : is_shut && !is_with_another(deque);
        if (rc < 0)
            return rc == -EAGAIN ? 1 : rc;
    }
}
