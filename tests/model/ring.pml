/* The ring of csrc/ring.c: two sides, each taken by a process and, when that has closed it or died, by a successor; and
 * somebody who kills any of them at any step.
 *
 *     spin -a [-D...] ring.pml && gcc -O2 -o pan pan.c && ./pan -E
 *
 * One transition is one access to what is shared. Memory is sequentially consistent: what the exchange is for is in wake.pml,
 * and so are servings that are counted in the word, which matters only where several wait. A record is one unit long; the one at
 * position p is p + 1, in two halves, so it could be torn. Records are put, and got, one by one or two with one commit.
 *
 * The 100 ms after which a sleeper looks by itself are left out, as they would hide every lost wake-up; but after a death of
 * the other side it looks once. If nothing can change any more, the monitor looks at what is left.
 *
 * ONE_PRODUCER, ONE_CONSUMER: without the successor.
 *
 * Mutations, each of which must be found:
 *   NO_LEASE         a side is taken without its lease
 *   INDEX_FIRST      a successor reads its index before it has the lease
 *   FROM_ZERO        a successor begins with what it knows, not with the indexes as they are
 *   COMMIT_FIRST     tail is stored before the record
 *   RELEASE_FIRST    head is stored before the record was read
 *   LEASE_FIRST      leaving gives up the lease before the word says CLOSED
 *   ONE_WORD_LOOK    whether the other has died: the word is not looked at again after the lease
 *   NO_TURNS         the same: only whether the word says OPEN is looked at, which may be a successor's
 *   NO_LAST_LOOK     the same: what the dead one had committed is not looked for
 *   NO_SECOND_LOOK   a consumer that sees CLOSED does not look at tail again
 *   NO_LOOK          a waiter does not look again after it has or-ed SLEEP in
 *   NO_COMPARE       the kernel does not compare the word
 *   WANTS_TOO_MUCH   wake_at asks for more room than there is
 *   SILENT_CLOSE     leaving wakes nobody
 *   KEEPS_CLOSED     taking a side does not take CLOSED out */

#ifndef KILLS
#define KILLS 2
#endif
#ifndef CAPACITY
#define CAPACITY 2
#endif
#ifndef FIRST
#define FIRST 2 /* the first producer leaves when so many are committed */
#endif
#ifndef RECORDS
#define RECORDS 3
#endif
#ifndef AT_ONCE
#define AT_ONCE 2
#endif
#ifndef ROOM
#define ROOM 2 /* say_when: a sleeping producer is woken when there is room for so many */
#endif

#define PRODUCER 0
#define CONSUMER 1
#define SIDE_OF(process) (process > 2) /* producers: 1, then 2; consumers: 3, then 4 */

#define SLEEP 1
#define OPEN 2
#define CLOSED 4

byte tail, head;
byte first_half[CAPACITY], second_half[CAPACITY];
byte word[2]; /* of the door of each side: its state, and whether it sleeps there */
byte turns[2]; /* in the upper bits of that word: how often its state was set */
short wake_at;
byte taken_by[2];
byte lease[2]; /* the process that has the lock of that side; the kernel frees it at its death */

bool alive[5], over[5];
bool asleep[2], may_look[2];
byte kills = KILLS;
/* Not in memory, only for the assertions. */
byte died_open[2];       /* deaths of whoever had opened that side, and not closed it */
bool is_opened[2];       /* it was opened, and not closed since, also if its owner is dead */
byte closed_at;          /* tail, when the producer closed last */
byte tail_of_dead;       /* tail, when a producer died last */

#define IS_FREE(side) (lease[side] == 0 || !alive[lease[side]])

/* ring.c: cl_ring_take. `index` is the side's own, `other` the last it has seen of the other's. */
inline take(side)
{
#ifdef INDEX_FIRST
    atomic { head_now = head; tail_now = tail };
#endif
#ifdef NO_LEASE
    lease[side] = p;
#else
    atomic { IS_FREE(side) -> lease[side] = p };                   /* cl__segment_take_part; else -EBUSY */
#endif
#ifndef INDEX_FIRST
    head_now = head;                                               /* own_index */
    tail_now = tail;                                               /* own_index */
#endif
#ifdef FROM_ZERO
    d_step { head_now = 0; tail_now = 0 }
#endif
    assert(tail_now - head_now <= CAPACITY);                       /* check_distance */
    atomic {
        index = (side == PRODUCER -> tail_now : head_now);
        cursor = index;
        other = (side == PRODUCER -> head_now : tail_now);
        /* died = door->word & OPEN. Who took it and was killed before it had opened it is not told of. */
        assert(((word[side] & OPEN) != 0) == is_opened[side]);
        assert((word[side] & OPEN) == 0 || !alive[taken_by[side]]);     /* mine->died = door->pid: it is one who is dead */
        head_now = 0;
        tail_now = 0
    };
    taken_by[side] = p;                                            /* fault point 2 */
    atomic {                                                       /* set_state */
#ifdef KEEPS_CLOSED
        word[side] = word[side] | OPEN;
#else
        word[side] = (word[side] & (SLEEP | OPEN)) | OPEN;
#endif
        turns[side]++;
        is_opened[side] = 1
    }
}

/* wake.c: cl__serve. What is between the two steps may be the end of whoever serves. */
inline serve(side)
{
    atomic {
        seen = word[side] & SLEEP;
        word[side] = word[side] & (OPEN | CLOSED)
    };
    if
    :: atomic { seen != 0 -> asleep[side] = 0; seen = 0 }          /* cl__word_wake */
    :: else
    fi
}

/* ring.c: cl_ring_leave */
inline leave(side)
{
#ifdef LEASE_FIRST
    lease[side] = 0;
#endif
    atomic {                                                       /* set_state */
        word[side] = (word[side] & SLEEP) | CLOSED;
        turns[side]++;
        is_opened[side] = 0;
        if
        :: side == PRODUCER -> closed_at = tail
        :: else
        fi
    };
#ifndef SILENT_CLOSE
    serve(1 - side);                                               /* wake_side(ring, !which) */
#endif
    serve(side);
    atomic {
#ifndef LEASE_FIRST
        lease[side] = 0;                                           /* fault point 3; cl__segment_drop_part */
#endif
        over[p] = 1;
        index = 0; cursor = 0; other = 0; count = 0; seen = 0
    }
}

/* The other side has closed or died: a successor of its must come, or has been here. */
#define IS_BACK(side) ((word[side] & OPEN) != 0 && !IS_FREE(side))

/* wake.c: sleep_until, with is_there and is_dead of ring.c. `there`: whether what we wait for is there. */
#ifdef NO_LAST_LOOK
#define LAST_LOOK(there) true
#else
#define LAST_LOOK(there) !(there)
#endif

#ifdef NO_TURNS
#define IS_UNCHANGED(side) ((word[side] & OPEN) != 0)
#else
#define IS_UNCHANGED(side) (turns[side] == turn)
#endif

inline wait(side, there)
{
    if
#ifdef WANTS_TOO_MUCH
    :: side == PRODUCER -> wake_at = index + 1
#else
    :: side == PRODUCER -> wake_at = index + ROOM - CAPACITY       /* say_when */
#endif
    :: side == CONSUMER -> skip
    fi;
    atomic { word[side] = word[side] | SLEEP; seen = word[side] }; /* W2; fault point 50 */
#ifdef NO_LOOK
    if
    :: true ->
#else
    if
    :: there -> seen = 0                                           /* W4: is_there; fault point 51 */
    :: !(there) ->
#endif
        if
        :: (word[1 - side] & CLOSED) != 0 -> seen = 0              /* is_there; then trying says what it means */
        :: (word[1 - side] & CLOSED) == 0 ->
            if                                                     /* is_dead: first the word ... */
            :: (word[1 - side] & OPEN) == 0 -> goto sleeps
            :: atomic { (word[1 - side] & OPEN) != 0 -> turn = turns[1 - side] }
                if                                                 /* ... then the lease ... */
                :: !IS_FREE(1 - side) -> goto sleeps
                :: IS_FREE(1 - side) ->
#ifndef ONE_WORD_LOOK
                    if                                             /* ... then the word */
                    :: !IS_UNCHANGED(1 - side) -> goto sleeps
                    :: IS_UNCHANGED(1 - side) -> skip
                    fi;
#endif
                    if
                    :: atomic { LAST_LOOK(there) ->                /* -EOWNERDEAD */
                        assert(died_open[1 - side] > 0);
                        assert(side == PRODUCER || index >= tail_of_dead);
                        seen = 0; turn = 0 }
                        atomic { IS_BACK(1 - side) || there || (word[1 - side] & CLOSED) != 0 -> skip }
#ifndef NO_LAST_LOOK
                    :: there -> seen = 0; turn = 0
#endif
                    fi
                fi
            fi;
            goto again
        fi
    fi;
    goto again;
sleeps:
#ifdef NO_COMPARE
    asleep[side] = 1;
#else
    atomic {                                                       /* cl__word_sleep: the kernel compares */
        if
        :: word[side] == seen -> asleep[side] = 1
        :: else
        fi;
        seen = 0;
        turn = 0 };
#endif
    atomic { !asleep[side] || may_look[side] -> asleep[side] = 0; may_look[side] = 0 }
}

proctype producer(byte p; byte end)
{
    byte index, cursor, other, count, head_now, tail_now, seen, turn;
    {
        take(PRODUCER);
again:  do
        :: index >= end -> break
        :: atomic { index < end && count < AT_ONCE && index + count < end ->
                if                                                 /* make_room, of cl_ring_reserve */
                :: (word[CONSUMER] & CLOSED) != 0 -> goto closed
                :: else
                fi;
                if
                :: cursor + 1 - other <= CAPACITY -> goto writes
                :: else
                fi }
            atomic {
                other = head;                                      /* fault point 4 */
                assert(index - other <= CAPACITY);                 /* check_distance */
                if
                :: cursor + 1 - other <= CAPACITY -> goto writes
                :: count > 0 && cursor + 1 - other > CAPACITY -> goto commits
                :: else                                            /* -EAGAIN */
                fi };
            wait(PRODUCER, CAPACITY - (index - head) >= 1);
            goto again;
writes:
#ifdef COMMIT_FIRST
            tail = cursor + 1;
#endif
            first_half[cursor % CAPACITY] = cursor + 1;            /* the user's memcpy; cl_ring_add */
            atomic { second_half[cursor % CAPACITY] = cursor + 1; cursor++; count++ }
        :: count > 0 ->
commits:    atomic { tail = cursor; index = cursor; count = 0 }    /* commit_all: W1; fault point 5 */
            if                                                     /* W3; fault point 6 */
            :: (word[CONSUMER] & SLEEP) != 0 -> serve(CONSUMER)
            :: (word[CONSUMER] & SLEEP) == 0 -> skip
            fi
        od;
        leave(PRODUCER);
        goto done;
closed:                                                            /* -EPIPE: abandon, and wait for another consumer */
        atomic { cursor = index; count = 0 }
        atomic { (word[CONSUMER] & CLOSED) == 0 -> goto again };
done:   skip
    } unless {
        atomic { !alive[p] -> index = 0; cursor = 0; other = 0; count = 0; head_now = 0; tail_now = 0; seen = 0; turn = 0 }
    }
}

proctype consumer(byte p)
{
    byte index, cursor, other, count, head_now, tail_now, seen, turn, value;
    {
        take(CONSUMER);
again:  do
        :: count == 0 && (index == RECORDS || (p == 3 && index > 0)) -> break /* the first one may leave in the middle */
        :: atomic { count < AT_ONCE && cursor < RECORDS ->
                if                                                 /* peek */
                :: other != cursor -> value = first_half[cursor % CAPACITY]; goto reads
                :: else -> other = tail                            /* look_for_more; fault point 7 */
                fi;
                assert(other - cursor <= CAPACITY);                /* check_distance */
                if
                :: other != cursor -> goto again
                :: else
                fi }
            if
            :: atomic { (word[PRODUCER] & CLOSED) == 0 ->          /* -EAGAIN */
                if
                :: count > 0 -> goto releases
                :: else
                fi }
                wait(CONSUMER, tail != index);
                goto again
            :: atomic { (word[PRODUCER] & CLOSED) != 0 -> value = closed_at }
#ifndef NO_SECOND_LOOK
                other = tail;
#endif
                atomic {
                    if
                    :: other != cursor -> value = 0; goto again
                    :: else                                        /* -EPIPE */
                    fi;
                    assert(cursor >= value);                       /* all that was committed before that close was got */
                    value = 0;
                    if
                    :: count > 0 -> goto releases
                    :: else
                    fi }
                /* wait for another producer */
                atomic { (word[PRODUCER] & CLOSED) == 0 || tail != cursor -> goto again }
            fi;
reads:
#ifdef RELEASE_FIRST
            head = cursor + 1;
#endif
            atomic {                                               /* the user has begun to read it */
                assert(value == cursor + 1 && second_half[cursor % CAPACITY] == value);
                value = 0;
                cursor++;
                count++ }
        :: count > 0 ->
releases:   atomic { head = cursor; index = cursor; count = 0 };   /* release_all: W1; fault point 8 */
            if
            :: (word[PRODUCER] & SLEEP) == 0 -> skip               /* W3; fault point 9 */
            :: (word[PRODUCER] & SLEEP) != 0 ->
                if
                :: index - wake_at >= 0 -> serve(PRODUCER)
                :: index - wake_at < 0 -> skip
                fi
            fi
        od;
        leave(CONSUMER)
    } unless {
        atomic { !alive[p] ->
            index = 0; cursor = 0; other = 0; count = 0; head_now = 0; tail_now = 0; seen = 0; turn = 0; value = 0 }
    }
}

proctype killer()
{
    byte x;
    do
    :: kills > 0 ->
        atomic {
            select(x : 1 .. 4);
            if
            :: alive[x] && !over[x] ->
                alive[x] = 0;
                kills--;
                if
                :: lease[SIDE_OF(x)] == x ->
                    asleep[SIDE_OF(x)] = 0;
                    may_look[1 - SIDE_OF(x)] = 1;
                    if
                    :: is_opened[SIDE_OF(x)] -> died_open[SIDE_OF(x)]++
                    :: else
                    fi;
                    if
                    :: x < 3 -> tail_of_dead = tail
                    :: else
                    fi
                :: else
                fi
            :: else
            fi;
            x = 0 }
    :: break
    od
}

proctype monitor()
{
    timeout -> /* nobody can go on */
    atomic {
        assert(!asleep[CONSUMER] || (tail == head && (word[PRODUCER] & CLOSED) == 0));
        assert(!asleep[PRODUCER] || (tail != head && (word[CONSUMER] & CLOSED) == 0));
        if
        :: alive[2] && alive[4] -> assert(tail == RECORDS && head == RECORDS) /* whoever went before them */
        :: else
        fi }
}

init {
    byte i;
    atomic {
        for (i : 1 .. 4) {
            alive[i] = 1
        }
        i = 0;
        run producer(1, FIRST);
        run consumer(3);
#ifdef ONE_PRODUCER
        alive[2] = 0;
#else
        run producer(2, RECORDS);
#endif
#ifdef ONE_CONSUMER
        alive[4] = 0;
#else
        run consumer(4);
#endif
        run killer();
        run monitor() }
}
