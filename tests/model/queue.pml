/* The queue of csrc/queue.c and members.c: producers and consumers that join, put, get and leave, and somebody who
 * kills any of them at any step, also those who recover what another one held.
 *
 *     spin -a [-D...] queue.pml && gcc -O2 -o pan pan.c && ./pan -E
 *
 * One transition is one access to what is shared; a load and the CAS that follows it are one, since a CAS that fails only
 * loads again. Memory is sequentially consistent. When to ask for a lease is left out: who would wait asks at once, and
 * then waits until something changes. If nothing can change any more, the monitor looks at what is left.
 *
 * CANCELS: a producer may let go of what it has claimed, which makes a TOMBSTONE. Whoever takes that away moves the head.
 *
 * Mutations, each of which must be found: IDLE_IGNORES_DEAD, NO_LEASE, CURSOR_FIRST, NO_LAP, REPAIRS_FIRST, JOIN_KEEPS,
 * ASK_BY_TIME; and of taking TOMBSTONEs away: HEAD_STAYS (it does not move the head), HEAD_STORED (the head is stored, also if
 * it is further by then), HEAD_TO_TAIL (a producer moves it to where it is itself). tests/test_models.py says with what
 * bounds. */

#ifndef SLOTS
#define SLOTS 2
#endif
#ifndef INDEXES
#define INDEXES 4
#endif
#ifndef KILLS
#define KILLS 2
#endif
#ifndef FIRST_PUTS
#define FIRST_PUTS 2
#endif
#ifndef SECOND_PUTS
#define SECOND_PUTS 1
#endif
#ifndef CONSUMERS
#define CONSUMERS 2
#endif
/* JOIN_LATE: the second producer is not there from the start, but joins with an index that is free: with fewer INDEXES than
 * processes, one of somebody who has left or died. */

#define PRODUCERS 2
#define PROCESSES (PRODUCERS + CONSUMERS)
#define RECORDS (FIRST_PUTS + SECOND_PUTS)

#define EMPTY 0
#define WRITING 1
#define FULL 2
#define READING 3
#define TOMBSTONE 4
#define ORPHAN 5

/* lap | state | owner, as in csrc/queue.h */
#define WORD(lap, state, owner) ((lap) * 64 + (state) * 8 + (owner))
#define LAP(word) ((word) / 64)
#define STATE(word) (((word) / 8) % 8)
#define OWNER(word) ((word) % 8)
#define HELD(word) (STATE(word) == WRITING || STATE(word) == READING)

short slot[SLOTS];
byte first_half[SLOTS], second_half[SLOTS]; /* of a record: it could be torn */
byte tail, head;
bool repaired[PROCESSES + 1]; /* whether `repairs` is another number than that consumer has seen before it looked at all slots */
bool table[INDEXES + 1];
byte lease[INDEXES + 1]; /* the process that has the lock of that index; the kernel frees it at its death */

bool alive[PROCESSES + 1], serves[PROCESSES + 1], done[PROCESSES + 1];
byte kills = KILLS, dead_consumers;
bool committed[RECORDS + 1]; /* the first record is 1 */
byte seen[RECORDS + 1], released[RECORDS + 1];

#define IS_FREE(index) (lease[index] == 0 || !alive[lease[index]])

#ifdef ASK_BY_TIME /* whoever has not moved for a while counts as dead, as somebody who is only stopped would */
#define IS_DEAD(index) (IS_FREE(index) || lease[index] <= PROCESSES)
#else
#define IS_DEAD(index) IS_FREE(index)
#endif

#define GONE(index) (table[index] && IS_DEAD(index))

#if CONSUMERS == 1
#define TELL repaired[3] = 1
#elif CONSUMERS == 2
#define TELL repaired[3] = 1; repaired[4] = 1
#else
#define TELL repaired[3] = 1; repaired[4] = 1; repaired[5] = 1
#endif

inline clear_slots(x)
{
#ifdef REPAIRS_FIRST
    atomic { TELL }
#endif
    i = 0;
    do
    :: atomic { i < SLOTS ->
        w = slot[i];
        if
        :: OWNER(w) == x && STATE(w) == WRITING -> slot[i] = WORD(LAP(w), TOMBSTONE, 0)
#ifdef AT_MOST_ONCE
        :: OWNER(w) == x && STATE(w) == READING -> slot[i] = WORD(LAP(w) + 1, EMPTY, 0)
#else
        :: OWNER(w) == x && STATE(w) == READING -> slot[i] = WORD(LAP(w), ORPHAN, 0)
#endif
        :: else
        fi;
        i++ }
    :: else -> break
    od;
#ifdef REPAIRS_FIRST
    i = 0
#else
    atomic { TELL; i = 0 }
#endif
}

/* Of x, which was dead when it was asked. */
inline recover(x)
{
#ifdef NO_LEASE
    clear_slots(x);
    table[x] = 0;
#else
    if
    :: atomic { IS_DEAD(x) -> lease[x] = p }
        clear_slots(x);
        table[x] = 0;
        lease[x] = 0
    :: else
    fi;
#endif
    x = 0;
}

inline join()
{
    atomic {
        if
        :: IS_FREE(1) -> me = 1
        :: !IS_FREE(1) && IS_FREE(2) -> me = 2
#if INDEXES > 2
        :: !IS_FREE(1) && !IS_FREE(2) && IS_FREE(3) -> me = 3
#endif
#if INDEXES > 3
        :: !IS_FREE(1) && !IS_FREE(2) && !IS_FREE(3) && IS_FREE(4) -> me = 4
#endif
        fi;
        lease[me] = p }
    if
    :: table[me] ->
#ifndef JOIN_KEEPS
        clear_slots(me)
#endif
        skip
    :: else
    fi;
    atomic { table[me] = 1; serves[p] = 1; w = 0; i = 0 }
}

#ifdef NO_LAP
#define MAY_BE_WRITTEN(word, position) (STATE(word) == EMPTY)
#else
#define MAY_BE_WRITTEN(word, position) (STATE(word) == EMPTY && LAP(word) == (position) / SLOTS)
#endif

/* queue.c, step(): two circles are walked only while others run ahead, who move the cursor. C begins anew MOST_ROUNDS times. */
#define MOST_STEPS (2 * (SLOTS - 1) + 4)
#define STEP(cursor) \
    t++; \
    assert(t - begun <= MOST_STEPS || cursor != begun)

/* queue.c, clear_tombstone(), after its CAS of the slot: a load of the head, and a CAS while it is not as far */
inline move_head(next)
{
    atomic {
        if
#ifdef HEAD_STORED
        :: true -> head = next
#elif !defined(HEAD_STAYS)
        :: next > head -> head = next
#endif
        :: else
        fi }
}

inline claim_to_write()
{
    atomic { t = tail; begun = t };
looks:
    do
    :: atomic {
        w = slot[t % SLOTS];
        if
        :: MAY_BE_WRITTEN(w, t) ->
#ifdef CURSOR_FIRST
            tail = t + 1; /* seen by all, and then we claim it, or do not */
            goto claims
#else
            slot[t % SLOTS] = WORD(t / SLOTS, WRITING, me);
            w = 0;
            break
#endif
        :: else ->
            if
            :: LAP(w) >= t / SLOTS -> STEP(tail)
            :: LAP(w) < t / SLOTS && STATE(w) == TOMBSTONE ->
                assert(LAP(w) == t / SLOTS - 1); /* clear_the_way: else it is taken for a scribbler's */
                slot[t % SLOTS] = WORD(LAP(w) + 1, EMPTY, 0);
                w = 0;
                goto clears
            :: else ->
                assert(STATE(w) != EMPTY); /* the tail would lead */
                goto waits
            fi
        fi }
    od;
}

proctype producer(byte p; byte me; byte n; byte end)
{
    byte t, begun, i, x;
    short w;
    {
        if
        :: me == 0 -> join()
        :: else
        fi;
        do
        :: n <= end ->
again:      claim_to_write();
            goto claimed;
clears:
#ifdef HEAD_TO_TAIL
            move_head(t + 1);
#else
            move_head(t - SLOTS + 1);
#endif
            goto looks;
#ifdef CURSOR_FIRST
claims:     atomic {
                if
                :: slot[t % SLOTS] == w -> slot[t % SLOTS] = WORD(t / SLOTS, WRITING, me); w = 0; goto claimed
                :: else -> goto again
                fi }
#endif
waits:      atomic { slot[t % SLOTS] != w || (HELD(w) && OWNER(w) != me && IS_DEAD(OWNER(w))) ->
                x = (slot[t % SLOTS] == w -> OWNER(w) : 0);
                t = 0;
                begun = 0;
                w = 0 }
            if
            :: x -> recover(x)
            :: else
            fi;
            goto again;
claimed:
#ifndef CURSOR_FIRST
            atomic { tail = t + 1; begun = 0 };
#endif
#ifdef CANCELS
            if
            :: atomic { slot[t % SLOTS] = WORD(t / SLOTS, TOMBSTONE, 0); t = 0; n++ } /* cl_queue_cancel */
                goto next
            :: skip
            fi;
#endif
            first_half[t % SLOTS] = n;
            atomic {
                second_half[t % SLOTS] = n;
                assert(slot[t % SLOTS] == WORD(t / SLOTS, WRITING, me)); /* a live owner is not robbed */
                slot[t % SLOTS] = WORD(t / SLOTS, FULL, 0);
                committed[n] = 1;
                t = 0;
                n++ };
next:       skip
        :: else -> break
        od;
        table[me] = 0;
        atomic { lease[me] = 0; done[p] = 1; me = 0; n = 0 }
    } unless {
        atomic { !alive[p] -> me = 0; n = 0; t = 0; begun = 0; i = 0; x = 0; w = 0 } /* fewer states that differ in nothing */
    }
}

proctype consumer(byte p; byte me)
{
    byte t, begun, i, x, value;
    short w;
    {
        assert(serves[p]);
again:  atomic { t = head; begun = t };
looks:  do
        :: atomic {
            w = slot[t % SLOTS];
            if
            :: LAP(w) == t / SLOTS && (STATE(w) == FULL || STATE(w) == ORPHAN) ->
                slot[t % SLOTS] = WORD(LAP(w), READING, me);
                w = slot[t % SLOTS];
                begun = 0;
                goto claimed
            :: LAP(w) == t / SLOTS && STATE(w) == TOMBSTONE ->
                slot[t % SLOTS] = WORD(LAP(w) + 1, EMPTY, 0);
                w = 0;
                goto clears
            :: LAP(w) > t / SLOTS || (LAP(w) == t / SLOTS && STATE(w) == READING) -> STEP(head)
            :: else ->
                assert(LAP(w) == t / SLOTS || STATE(w) == READING || STATE(w) == ORPHAN); /* the head would lead */
                begun = 0;
                break
            fi }
        od;
        /* nothing there: is there an ORPHAN? */
        if
        :: atomic { repaired[p] -> repaired[p] = 0; i = 0 }
            do
            :: atomic { i < SLOTS ->
                if
                :: STATE(slot[i]) == ORPHAN ->
                    slot[i] = WORD(LAP(slot[i]), READING, me);
                    w = slot[i];
                    t = i;
                    i = 0;
                    repaired[p] = 1; /* the number is noted only when there were none */
                    goto reads
                :: else -> i++
                fi }
            :: atomic { i == SLOTS -> i = 0; break }
            od
        :: else
        fi;
        /* wait */
        if
        :: atomic { slot[t % SLOTS] != w || repaired[p] -> w = 0; t = 0 }
#ifdef IDLE_IGNORES_DEAD
        :: atomic { slot[t % SLOTS] == w && STATE(w) == WRITING && IS_DEAD(OWNER(w)) -> x = OWNER(w); w = 0; t = 0 }
            recover(x)
#else
        :: atomic { slot[t % SLOTS] == w && HELD(w) && OWNER(w) != me && IS_DEAD(OWNER(w)) -> x = OWNER(w); w = 0; t = 0 }
            recover(x)
        :: atomic { GONE(1) && me != 1 -> x = 1; w = 0; t = 0 }
            recover(x)
        :: atomic { GONE(2) && me != 2 -> x = 2; w = 0; t = 0 }
            recover(x)
#if INDEXES > 2
        :: atomic { GONE(3) && me != 3 -> x = 3; w = 0; t = 0 }
            recover(x)
#endif
#if INDEXES > 3
        :: atomic { GONE(4) && me != 4 -> x = 4; w = 0; t = 0 }
            recover(x)
#endif
#if INDEXES > 4
        :: atomic { GONE(5) && me != 5 -> x = 5; w = 0; t = 0 }
            recover(x)
#endif
#endif
        fi;
        goto again;
clears: move_head(t + 1);
        goto looks;
claimed:
        head = t + 1;
        t = t % SLOTS;
reads:  value = first_half[t];
        atomic { assert(value == second_half[t]); seen[value]++ }
        atomic {
            assert(slot[t] == w); /* a live owner is not robbed */
            slot[t] = WORD(LAP(w) + 1, EMPTY, 0);
            first_half[t] = 0;
            second_half[t] = 0;
            released[value]++;
            w = 0;
            i = 0;
            t = 0;
            value = 0 }
        goto again
    } unless {
        atomic { !alive[p] -> me = 0; t = 0; begun = 0; i = 0; x = 0; value = 0; w = 0 }
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
            :: alive[x] && !done[x] ->
                alive[x] = 0;
                kills--;
                if
                :: x > PRODUCERS -> dead_consumers++
                :: else
                fi
            :: else
            fi;
            x = 0 }
    :: break
    od
}

#if CONSUMERS == 1
#define SOMEBODY_GETS alive[3]
#elif CONSUMERS == 2
#define SOMEBODY_GETS (alive[3] || alive[4])
#else
#define SOMEBODY_GETS (alive[3] || alive[4] || alive[5])
#endif

proctype monitor()
{
    byte i;
    timeout -> /* nobody can go on */
    atomic {
        if
        :: SOMEBODY_GETS ->
            assert(done[1] || !alive[1] || !serves[1]); /* no producer waits */
            assert(done[2] || !alive[2] || !serves[2]);
            for (i : 0 .. SLOTS - 1) {
                assert(STATE(slot[i]) == EMPTY) /* no slot is lost */
            }
            for (i : 1 .. RECORDS) {
#ifdef AT_MOST_ONCE
                assert(released[i] <= committed[i] && seen[i] <= 1);
                assert(released[i] + dead_consumers >= committed[i]);
#else
                assert(released[i] == committed[i]);   /* none is lost, none comes twice to the end */
                assert(seen[i] <= 1 + dead_consumers); /* again only because a consumer died */
#endif
            }
        :: else
        fi }
}

#define IS_THERE(process, index) \
    lease[index] = process; \
    table[index] = 1; \
    serves[process] = 1

init {
    byte i;
    atomic {
        for (i : 1 .. PROCESSES) {
            alive[i] = 1
        }
        i = 0;
        IS_THERE(1, 1);
        IS_THERE(3, 2);
        run producer(1, 1, 1, FIRST_PUTS);
        run consumer(3, 2);
#if CONSUMERS > 1
        IS_THERE(4, 3);
        run consumer(4, 3);
#endif
#if CONSUMERS > 2
        IS_THERE(5, 4);
        run consumer(5, 4);
#endif
#ifdef JOIN_LATE
        run producer(2, 0, FIRST_PUTS + 1, RECORDS);
#elif SECOND_PUTS == 0
        done[2] = 1;
#else
        IS_THERE(2, INDEXES);
        run producer(2, INDEXES, FIRST_PUTS + 1, RECORDS);
#endif
        run killer();
        run monitor() }
}
