/* The deque of csrc/deque.c and members.c: an owner that pushes, pops, and works on a record while it pushes others; its
 * successor; thieves; and somebody who kills any of them at any step, also those who recover what another one held.
 *
 *     spin -a [-D...] deque.pml && gcc -O2 -o pan pan.c && ./pan -E
 *
 * As in queue.pml: one transition is one access to what is shared, a load and the CAS that follows it are one, memory is
 * sequentially consistent, who finds nothing asks at once for the dead, and waits until something changes. If nothing can change
 * any more, the monitor looks at what is left.
 *
 * Mutations, each of which must be found: ONE_CLAIM (no state of its own for what the owner has claimed), PUSH_ABOVE (a push goes
 * above that without making it READING), ORPHAN_BACK (the owner pops an ORPHAN as if it were FULL), NO_RECOVERY (an idle thief
 * asks for nobody), PLACE_FIRST (the owner's place is given up before its slots), TOP_FIRST (top is stored before the claim),
 * BOTTOM_OF_EMPTY (a successor takes the first EMPTY slot for bottom), BACK_BELOW (what went under is used again without a record
 * below it). tests/test_models.py says with what bounds. */

#ifndef SLOTS
#define SLOTS 2
#endif
#ifndef KILLS
#define KILLS 1
#endif
#ifndef PUSHES
#define PUSHES 3 /* in all, by both owners */
#endif
#ifndef POPS
#define POPS 2
#endif
#ifndef THIEVES
#define THIEVES 2
#endif

/* Participants, and their indexes: 1 and 2 are owners, one after the other; the others are thieves. */
#define PROCESSES (2 + THIEVES)

#define EMPTY 0
#define FULL 1
#define READING 2
#define ORPHAN 3
#define POPPING 4

#define WORD(lap, state, owner) ((lap) * 64 + (state) * 8 + (owner))
#define LAP(word) ((word) / 64)
#define STATE(word) (((word) / 8) % 8)
#define OWNER(word) ((word) % 8)
#define HELD(word) (STATE(word) == READING || STATE(word) == POPPING)

#ifdef ONE_CLAIM
#define CLAIMED READING
#define IS_OVER 0 /* what the owner has claimed is empty of the same lap afterwards */
#else
#define CLAIMED POPPING
#define IS_OVER (STATE(w) == READING)
#endif

short slot[SLOTS];
byte first_half[SLOTS], second_half[SLOTS];
byte top, place; /* place: the index of the owner, or 0 */
bool repaired[PROCESSES + 1];
bool table[PROCESSES + 1];
byte lease[PROCESSES + 1]; /* the process that has the lock of that index */
bool alive[PROCESSES + 1], done[PROCESSES + 1];
byte kills = KILLS, deaths;
byte next = 1, pops = POPS; /* of the owners: budgets, and no part of the deque */
bool pushed[PUSHES + 1], torn[PUSHES + 1];
byte seen[PUSHES + 1], released[PUSHES + 1];

#define IS_DEAD(index) (lease[index] == 0 || !alive[lease[index]])
#define GONE(index) (table[index] && IS_DEAD(index))

inline tell()
{
    atomic {
        x = 1;
        do
        :: x <= PROCESSES -> repaired[x] = 1; x++
        :: else -> x = 0; break
        od }
}

inline give_up_place(index)
{
    atomic {
        if
        :: place == index -> place = 0
        :: else
        fi }
}

inline clear(index)
{
#ifdef PLACE_FIRST
    give_up_place(index);
#endif
    i = 0;
    do
    :: atomic { i < SLOTS ->
        if
        :: HELD(slot[i]) && OWNER(slot[i]) == index ->
#ifdef AT_MOST_ONCE
            slot[i] = WORD(LAP(slot[i]) + 1, EMPTY, 0)
#else
            slot[i] = WORD(LAP(slot[i]), ORPHAN, 0)
#endif
        :: else
        fi;
        i++ }
    :: else -> break
    od;
    atomic { i = 0; y = index; }
    tell();
    give_up_place(y);
}

/* Of y, which was dead when it was asked. */
inline recover(index)
{
    if
    :: atomic { IS_DEAD(index) -> lease[index] = p }
        clear(index);
        table[index] = 0;
        atomic { lease[index] = 0; y = 0 }
    :: else -> y = 0
    fi;
}

/* Over: of a lap before the slot's. */
#define IS_AHEAD(position) (LAP(w) > (position) / SLOTS)
#define IS_SAME(position) (LAP(w) == (position) / SLOTS)

/* At the record of slot t, which is ours: w is its word. */
inline use()
{
    value = first_half[t];
    atomic { assert(value == second_half[t]); assert(value > 0); seen[value]++ }
}

proctype owner(byte p; byte stays)
{
    byte bottom, t, i, x, y, value, task, task_slot;
    short w;
    bool works;
    {
        bottom = 0;
        /* the place: from whoever had it before, if that is dead */
take:   if
        :: atomic { place == 0 -> place = p }
        :: atomic { place != 0 && place != p && GONE(place) -> y = place }
            recover(y);
            goto take
        fi;
        /* bottom: the least position that a slot is free for, or will be */
        atomic {
            i = 0;
            bottom = 255;
            do
            :: i < SLOTS ->
#ifdef BOTTOM_OF_EMPTY
                if
                :: STATE(slot[i]) == EMPTY && LAP(slot[i]) * SLOTS + i < bottom -> bottom = LAP(slot[i]) * SLOTS + i
                :: else
                fi;
#else
                w = LAP(slot[i]) + (STATE(slot[i]) == EMPTY -> 0 : 1);
                if
                :: w * SLOTS + i < bottom -> bottom = w * SLOTS + i
                :: else
                fi;
#endif
                i++
            :: else -> i = 0; w = 0; break
            od;
            if
            :: bottom == 255 -> bottom = (LAP(slot[0]) + 1) * SLOTS
            :: else
            fi }
        do
        :: next <= PUSHES -> goto push
        :: pops > 0 -> atomic { pops--; goto pop }
        :: works -> goto finish
        :: !works -> break
        od;
        goto ends;

push:   /* find room */
        atomic {
            w = slot[bottom % SLOTS];
            if
            :: IS_SAME(bottom) && STATE(w) == EMPTY -> w = 0
            :: IS_AHEAD(bottom) || (IS_SAME(bottom) && (STATE(w) == READING || STATE(w) == ORPHAN)) -> bottom++; w = 0; goto push
            :: IS_SAME(bottom) && STATE(w) == POPPING ->
                assert(OWNER(w) == p);
#ifndef PUSH_ABOVE
                slot[bottom % SLOTS] = WORD(LAP(w), READING, p);
#endif
                bottom++;
                w = 0;
                goto push
            :: else ->
                assert(!(IS_SAME(bottom) && STATE(w) == FULL));
                assert(STATE(w) != EMPTY); /* the slot was not used in the lap before: a hole */
                w = 0;
                goto no_room
            fi }
        /* top is no more than a circle behind */
        atomic {
            if
            :: bottom + 1 > top + SLOTS -> top = bottom + 1 - SLOTS
            :: else
            fi }
        first_half[bottom % SLOTS] = next;
        second_half[bottom % SLOTS] = next;
        atomic {
            assert(slot[bottom % SLOTS] == WORD(bottom / SLOTS, EMPTY, 0));
            slot[bottom % SLOTS] = WORD(bottom / SLOTS, FULL, 0);
            pushed[next] = 1;
            next++;
            bottom++ }
        goto again;

no_room: /* there is no room: if one that is dead is in the way it is recovered, else something must be taken first */
        atomic { t = bottom % SLOTS; w = slot[t] }
        if
        :: HELD(w) && GONE(OWNER(w)) -> atomic { y = OWNER(w); w = 0; t = 0 } recover(y)
        :: works -> atomic { w = 0; t = 0; goto finish }
        :: else -> atomic { w = 0; t = 0; goto pop }
        fi;
        goto again;

pop:    t = bottom;
down:   atomic {
            if
            :: t == 0 || t <= top || bottom - t >= SLOTS -> t = 0; goto none
            :: else -> t--
            fi;
            w = slot[t % SLOTS];
            if
#ifdef ORPHAN_BACK
            :: IS_SAME(t) && (STATE(w) == FULL || STATE(w) == ORPHAN) ->
#else
            :: IS_SAME(t) && STATE(w) == FULL ->
#endif
                slot[t % SLOTS] = WORD(LAP(w), CLAIMED, p);
                i = t + 1
#ifndef ORPHAN_BACK
            :: IS_SAME(t) && STATE(w) == ORPHAN ->
                slot[t % SLOTS] = WORD(LAP(w), READING, p);
                t = t % SLOTS;
                goto taken
#endif
            :: else ->
                assert(IS_AHEAD(t) || (IS_SAME(t) && STATE(w) == READING));
#ifdef BACK_BELOW
                if
                :: IS_AHEAD(t) && STATE(w) == EMPTY && t + 1 == bottom -> slot[t % SLOTS] = WORD(t / SLOTS, EMPTY, 0); bottom--
                :: else
                fi;
#endif
                goto down
            fi }
        /* back to it: what is over above it is used again */
        do
        :: atomic { i < bottom ->
            if
            :: slot[i % SLOTS] == WORD(i / SLOTS + 1, EMPTY, 0) -> slot[i % SLOTS] = WORD(i / SLOTS, EMPTY, 0)
            :: else
            fi;
            i++ }
        :: else -> break
        od;
        atomic { bottom = t; i = 0; t = t % SLOTS }
taken:  use();
        if
        :: !works -> /* it is worked on, and others are pushed meanwhile */
            atomic { works = 1; task = value; task_slot = t; value = 0; t = 0; w = 0; goto again }
        :: true
        fi;
release: atomic { /* it was made READING by us, if it was: nobody else writes here */
            w = slot[t];
            assert(HELD(w) && OWNER(w) == p);
            slot[t] = WORD(LAP(w) + (IS_OVER -> 1 : 0), EMPTY, 0);
            first_half[t] = 0;
            second_half[t] = 0;
            released[value]++;
            value = 0;
            t = 0;
            w = 0 }
        goto again;

finish: atomic { works = 0; value = task; t = task_slot; task = 0; task_slot = 0; goto release }

none:   /* orphans; else who is dead */
        if
        :: atomic { repaired[p] -> repaired[p] = 0; i = 0 }
            do
            :: atomic { i < SLOTS ->
                w = slot[i];
                if
                :: STATE(w) == ORPHAN ->
                    slot[i] = WORD(LAP(w), READING, p);
                    t = i;
                    i = 0;
                    repaired[p] = 1;
                    w = 0;
                    goto taken
                :: else -> i++; w = 0
                fi }
            :: atomic { i == SLOTS -> i = 0; break }
            od
        :: else
        fi;

again:  do
        :: next <= PUSHES -> goto push
        :: pops > 0 -> atomic { pops--; goto pop }
        :: works -> goto finish
        :: !works -> break
        od;
ends:   /* it stays the owner, alive, and does nothing more; or it leaves */
        if
        :: stays -> skip
        :: else ->
            clear(p);
            table[p] = 0;
            lease[p] = 0
        fi;
        atomic { done[p] = 1; bottom = 0; y = 0 };
        false
    } unless {
        atomic { !alive[p] -> bottom = 0; t = 0; i = 0; x = 0; y = 0; value = 0; task = 0; task_slot = 0; w = 0; works = 0 }
    }
}

proctype thief(byte p)
{
    byte t, i, x, y, value;
    short w;
    {
        t = 0;
again:  w = 0;
        t = 0;
        if
        :: atomic { repaired[p] -> repaired[p] = 0; i = 0 }
            do
            :: atomic { i < SLOTS ->
                w = slot[i];
                if
                :: STATE(w) == ORPHAN ->
                    slot[i] = WORD(LAP(w), READING, p);
                    t = i;
                    i = 0;
                    repaired[p] = 1; /* the number is noted only when there were none */
                    w = 0;
                    goto reads
                :: else -> i++; w = 0
                fi }
            :: atomic { i == SLOTS -> i = 0; break }
            od
        :: true /* not at each turn */
        fi;
        t = top;
        do
        :: atomic {
            w = slot[t % SLOTS];
            if
            :: IS_SAME(t) && (STATE(w) == FULL || STATE(w) == ORPHAN) ->
#ifdef TOP_FIRST
                top = t + 1;
                goto claims
#else
                slot[t % SLOTS] = WORD(LAP(w), READING, p);
                w = 0;
                goto claimed
#endif
            :: IS_AHEAD(t) || (IS_SAME(t) && STATE(w) == READING) -> t++
            :: else ->
                assert(IS_SAME(t) || STATE(w) == READING || STATE(w) == ORPHAN); /* top would lead */
                break
            fi }
        od;
        /* nothing: wait for a change */
        if
        :: atomic { slot[t % SLOTS] != w || repaired[p] -> w = 0; t = 0 }
#ifndef NO_RECOVERY
        :: atomic { GONE(1) -> y = 1; w = 0; t = 0 }
            recover(y)
        :: atomic { GONE(2) -> y = 2; w = 0; t = 0 }
            recover(y)
        :: atomic { GONE(3) && p != 3 -> y = 3; w = 0; t = 0 }
            recover(y)
#if THIEVES > 1
        :: atomic { GONE(4) && p != 4 -> y = 4; w = 0; t = 0 }
            recover(y)
#endif
#endif
        fi;
        goto again;
#ifdef TOP_FIRST
claims: atomic {
            if
            :: slot[t % SLOTS] == w -> slot[t % SLOTS] = WORD(LAP(w), READING, p); w = 0
            :: else -> goto again
            fi }
#endif
claimed:
#ifndef TOP_FIRST
        top = t + 1;
#endif
        t = t % SLOTS;
reads:  use();
        atomic {
            w = slot[t];
            assert(STATE(w) == READING && OWNER(w) == p); /* a live one is not robbed */
            slot[t] = WORD(LAP(w) + 1, EMPTY, 0);
            first_half[t] = 0;
            second_half[t] = 0;
            released[value]++;
            w = 0;
            t = 0;
            value = 0 }
        goto again
    } unless {
        atomic { !alive[p] -> t = 0; i = 0; x = 0; y = 0; value = 0; w = 0 }
    }
}

proctype killer()
{
    byte x;
    do
    :: kills > 0 ->
        atomic {
            select(x : 1 .. PROCESSES);
            if
            :: alive[x] && !(done[x] && lease[x] != x) -> alive[x] = 0; kills--; deaths++
            :: else
            fi;
            x = 0 }
    :: break
    od
}

#if THIEVES == 1
#define SOMEBODY_STEALS alive[3]
#else
#define SOMEBODY_STEALS (alive[3] || alive[4])
#endif

proctype monitor()
{
    byte i;
    timeout -> /* nobody can go on */
    atomic {
        assert(done[1] || !alive[1] || (place == 2 && alive[2])); /* no owner waits, but for the other one's place */
        assert(done[2] || !alive[2] || (place == 1 && alive[1]));
        if
        :: SOMEBODY_STEALS ->
            for (i : 0 .. SLOTS - 1) {
                assert(STATE(slot[i]) == EMPTY) /* none is left, no slot is lost */
            }
            for (i : 1 .. PUSHES) {
#ifdef AT_MOST_ONCE
                assert(released[i] <= pushed[i] && seen[i] <= 1);
                assert(released[i] + 2 * deaths >= pushed[i]);
#else
                assert(released[i] == pushed[i]); /* none is lost, none comes twice to the end */
                assert(seen[i] <= 1 + deaths);    /* again only because somebody died over it */
#endif
            }
        :: else
        fi }
}

init {
    byte i;
    atomic {
        for (i : 1 .. PROCESSES) {
            alive[i] = 1;
            lease[i] = i;
            table[i] = 1
        }
        i = 0;
        run owner(1, STAYS);
#ifdef SUCCESSOR
        run owner(2, 1);
#else
        done[2] = 1;
#endif
        run thief(3);
#if THIEVES > 1
        run thief(4);
#endif
        run killer();
        run monitor() }
}
