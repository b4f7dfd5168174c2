/* The lossless broadcast of csrc/broadcast.c and broadcast_object.c: a writer, a successor for when it dies, readers of each
 * policy that come at any time, and somebody who kills any of them at any step, also the writer that recovers a dead reader.
 *
 *     spin -a [-D...] broadcast.pml && gcc -O2 -o pan pan.c && ./pan -E
 *
 * One transition is one access to what is shared. Memory is sequentially consistent. When to ask for a lease is left out: who
 * would wait asks at once, and then waits until something changes. If nothing can change any more, the monitor looks at who is
 * left. A record is its number, in two halves: a reader must have read both, of the record that it is at, whenever its CAS says
 * so.
 *
 * Mutations, each of which must be found: NO_SECOND_LOOK, PLACE_BY_STORE, OVERWRITE_FIRST, RELEASE_BY_STORE, RELEASE_FIRST,
 * TAIL_FIRST, DEAD_BLOCKS, NO_LEASE, ASK_BY_TIME, SUCCESSOR_EARLY. tests/test_models.py says with what bounds. */

#ifndef SLOTS
#define SLOTS 2
#endif
#ifndef INDEXES
#define INDEXES 2
#endif
#ifndef KILLS
#define KILLS 1
#endif
#ifndef RECORDS
#define RECORDS 4
#endif
#define BLOCK 1
#define SKIP 2
#define EVICT 3
#define EVICTED 4
#ifndef FIRST
#define FIRST BLOCK
#endif
#ifndef SECOND
#define SECOND SKIP
#endif

#define PROCESSES 4 /* 1 and 2 write, 3 and 4 read */

/* position | state, as in csrc/broadcast.h */
#define WORD(position, state) ((position) * 8 + (state))
#define POSITION(word) ((word) / 8)
#define STATE(word) ((word) % 8)
#define IS_WAITED_FOR(word) (STATE(word) == BLOCK || STATE(word) == SKIP || STATE(word) == EVICT)

#define CLOSED 3 /* what `writer` can be, beside the process that is it, and 0 */
#define DIED 4

byte tail, writer;
byte first_half[SLOTS], second_half[SLOTS];
byte word[INDEXES + 1];
byte lease[INDEXES + 1]; /* the process that has the lock of that index; the kernel frees it at its death */
bool alive[PROCESSES + 1], done[PROCESSES + 1];
byte kills = KILLS;

#define IS_FREE(index) (lease[index] == 0 || !alive[lease[index]])
#ifdef ASK_BY_TIME /* whoever has not moved for a while counts as dead, as somebody who is only stopped would */
#define IS_DEAD(index) 1
#else
#define IS_DEAD(index) IS_FREE(index)
#endif
#ifdef SUCCESSOR_EARLY
#define HAS_DIED (writer == 1)
#else
#define HAS_DIED (writer == 1 && !alive[1])
#endif

/* Of reader x, which was dead when it was asked. */
inline recover(x)
{
#ifdef NO_LEASE
    word[x] = 0;
#else
    if
    :: atomic { IS_DEAD(x) -> lease[x] = p }
        word[x] = 0;
        lease[x] = 0
    :: else
    fi
#endif
}

/* What look_at_readers does; the look without moving anybody is left out, as it changes nothing. */
inline find_room()
{
    x = 1;
    most = 0;
    do
    :: x <= INDEXES ->
        w = word[x];
        if
        :: IS_WAITED_FOR(w) && t >= POSITION(w) + SLOTS ->
            if
            :: STATE(w) == BLOCK ->
                if
#ifndef DEAD_BLOCKS
                :: atomic { word[x] == w && IS_DEAD(x) }
                    recover(x)
#endif
                :: word[x] != w
                fi
            :: STATE(w) == SKIP ->
                atomic {
                    if
                    :: word[x] == w -> word[x] = WORD(t - SLOTS + 1, SKIP)
                    :: else
                    fi }
            :: else ->
                atomic {
                    if
                    :: word[x] == w -> word[x] = WORD(POSITION(w), EVICTED)
                    :: else
                    fi }
            fi
        :: else ->
            atomic {
                most = (IS_WAITED_FOR(w) && t > POSITION(w) && t - POSITION(w) > most -> t - POSITION(w) : most);
                x++ }
        fi;
        w = 0
    :: else -> break
    od;
    atomic {
        free_until = t + SLOTS - most;
        most = 0;
        x = 0 }
}

proctype writes(byte p)
{
    byte t, x, w, most, free_until;
    {
        if
        :: p == 2 ->
            if
            :: writer == CLOSED -> goto ends
            :: atomic { HAS_DIED -> writer = DIED }
            :: writer == DIED
            fi;
            writer = 2
        :: else
        fi;
        t = tail;
        free_until = t;
        do
        :: t < RECORDS ->
#ifdef OVERWRITE_FIRST
            first_half[t % SLOTS] = t + 1;
#endif
            if
            :: t >= free_until -> find_room()
            :: else
            fi;
#ifdef TAIL_FIRST
            tail = t + 1;
#endif
            first_half[t % SLOTS] = t + 1;
            second_half[t % SLOTS] = t + 1;
            t++;
#ifndef TAIL_FIRST
            tail = t
#endif
        :: else -> break
        od;
        writer = CLOSED;
ends:   atomic { done[p] = 1; t = 0; free_until = 0 }
    } unless {
        atomic { !alive[p] -> t = 0; x = 0; w = 0; most = 0; free_until = 0 } /* fewer states that differ in nothing */
    }
}

proctype reads(byte p; byte policy)
{
    byte me, at, now, one, two;
    {
        if
        :: atomic { IS_FREE(1) -> lease[1] = p; me = 1 }
#if INDEXES > 1
        :: atomic { !IS_FREE(1) && IS_FREE(2) -> lease[2] = p; me = 2 }
#endif
        fi;
        word[me] = 0; /* what somebody left who had that index */
subscribes:
        at = tail;
        word[me] = WORD(at, policy);
#ifndef NO_SECOND_LOOK
        now = tail;
        atomic {
#ifdef PLACE_BY_STORE
            word[me] = WORD(now, policy);
#endif
            if
            :: word[me] == WORD(at, policy) || word[me] == WORD(now, policy) -> word[me] = WORD(now, policy); at = now
            :: else ->
                if
                :: policy == SKIP -> assert(STATE(word[me]) == SKIP); at = POSITION(word[me])
                :: else ->
                    assert(policy == EVICT && STATE(word[me]) == EVICTED);
                    now = 0;
                    goto subscribes
                fi
            fi;
            now = 0 }
#endif
again:  if
        :: atomic { word[me] != WORD(at, policy) ->
moved:      if
            :: policy == SKIP -> assert(STATE(word[me]) == SKIP && POSITION(word[me]) > at); at = POSITION(word[me])
            :: else -> assert(policy == EVICT && STATE(word[me]) == EVICTED); goto ends /* nobody robs one that blocks */
            fi }
            goto again
        :: tail != at
        :: atomic { tail == at && writer == CLOSED } goto ends
        :: atomic { tail == at && writer == 1 && !alive[1] -> writer = DIED } goto again
        :: atomic { tail == at && (writer == DIED && (done[2] || !alive[2]) || writer == 2 && !alive[2]) } goto ends
        fi;
#ifdef RELEASE_FIRST
        if
        :: atomic { word[me] == WORD(at, policy) -> word[me] = WORD(at + 1, policy) }
        :: atomic { word[me] != WORD(at, policy) -> goto moved }
        fi;
#endif
        one = first_half[at % SLOTS];
        two = second_half[at % SLOTS];
        atomic {
#if defined(RELEASE_BY_STORE)
            word[me] = WORD(at, policy);
#endif
#ifndef RELEASE_FIRST
            if
            :: word[me] == WORD(at, policy) -> word[me] = WORD(at + 1, policy)
            :: else -> one = 0; two = 0; goto moved
            fi;
#endif
            assert(one == at + 1 && two == at + 1); /* whole, and the one that it is at */
            one = 0;
            two = 0;
            at++ }
        goto again;
ends:   word[me] = 0;
        atomic { lease[me] = 0; done[p] = 1; me = 0; at = 0 }
    } unless {
        atomic { !alive[p] -> me = 0; at = 0; now = 0; one = 0; two = 0 }
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
            :: alive[x] && !done[x] -> alive[x] = 0; kills--
            :: else
            fi;
            x = 0 }
    :: break
    od
}

proctype monitor()
{
    byte i;
    timeout -> /* nobody can go on */
    atomic {
        for (i : 1 .. PROCESSES) {
            assert(done[i] || !alive[i] || (i == 2 && !alive[1] && writer == CLOSED)) /* nobody waits for ever */
        }
        assert(!done[1] || tail == RECORDS)
    }
}

init {
    byte i;
    atomic {
        for (i : 1 .. PROCESSES) {
            alive[i] = 1
        }
        i = 0;
        writer = 1;
        run writes(1);
        run writes(2);
        run reads(3, FIRST);
#if SECOND > 0
        run reads(4, SECOND);
#else
        done[4] = 1;
#endif
        run killer();
        run monitor() }
}
