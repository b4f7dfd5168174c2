/* The lock of csrc/sync_lock.c and members.c: processes that join, acquire, work and release, sleep while it is held, and
 * recover it from the dead; and somebody who kills any of them at any step, also those who recover.
 *
 *     spin -a [-D...] lock.pml && gcc -O2 -o pan pan.c && ./pan -E
 *
 * One transition is one access to what is shared; a load and the CAS that follows it are one, since a CAS that fails only
 * loads again. Memory is sequentially consistent (for the wake-up on other processors see wake.pml). When to ask for a
 * lease is left out: who would sleep asks at once. A sleeper looks by itself only once somebody has been killed: so a
 * wake-up that is lost without that is found.
 *
 * What must hold: one at a time; who finds the work half done was told of a death; nobody waits for ever.
 *
 * Mutations, each of which must be found:
 *   ASK_BY_TIME     whoever has not moved for a while counts as dead
 *   NO_LEASE        a recovery does not hold the dead one's lease: its index is somebody else's meanwhile
 *   NOT_TOLD        it frees the lock and says nothing
 *   JOIN_KEEPS      who joins in a dead one's place does not clear what that held
 *   LOOK_FIRST      the waiter looks before its bit is in, and not after
 *   NO_COMPARE      the sleep does not compare the word with what it was */
#ifndef KILLS
#define KILLS 2
#endif
#ifndef ROUNDS
#define ROUNDS 1
#endif
#ifndef PROCESSES
#define PROCESSES 3
#endif
#ifndef INDEXES
#define INDEXES 2
#endif

byte owner;                  /* the word: an index, or 0; */
bool dead;                   /* and whether somebody died with it */
bool sleep_bit;              /* the wake-up word: its bit, */
byte served;                 /* and its count */
bool half;                   /* what the lock protects is half done */
byte inside;                 /* who is between claim and release: nobody's memory, for the check */
bool table[INDEXES + 1];
byte lease[INDEXES + 1];     /* the process that has the lock of that index; the kernel frees it at its death */
bool alive[PROCESSES + 1], asleep[PROCESSES + 1], done[PROCESSES + 1];
byte kills = KILLS;

#define IS_FREE(index) (lease[index] == 0 || !alive[lease[index]])
#ifdef ASK_BY_TIME
#define IS_DEAD(index) (index != me)
#else
#define IS_DEAD(index) (index != me && IS_FREE(index))
#endif

/* Whoever has published. */
inline publish()
{
    if
    :: sleep_bit ->
        sleep_bit = 0;
        served++;
        atomic {
            i = 1;
            do
            :: i <= PROCESSES -> asleep[i] = 0; i++
            :: else -> i = 0; break
            od }
    :: else
    fi
}

inline clear(x)
{
    atomic {
        if
        :: owner == x ->
            owner = 0;
#ifndef NOT_TOLD
            dead = 1
#endif
        :: else
        fi };
    publish()
}

inline recover(x)
{
#ifdef NO_LEASE
    clear(x);
    table[x] = 0;
#else
    if
    :: atomic { IS_DEAD(x) -> lease[x] = p };
        clear(x);
        table[x] = 0;
        lease[x] = 0
    :: else
    fi;
#endif
    x = 0
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
        fi;
        lease[me] = p }
#ifndef JOIN_KEEPS
    if
    :: table[me] -> clear(me)
    :: else
    fi;
#endif
    table[me] = 1
}

proctype user(byte p)
{
    byte me, i, x, round, seen;
    bool told;
    {
        join();
        do
        :: round < ROUNDS ->
again:      atomic {
                if
                :: owner == 0 ->
                    owner = me;
                    told = dead;
                    assert(inside == 0 || !alive[inside]); /* one at a time */
                    inside = p;
                    goto works
                :: else
                fi };
#ifdef LOOK_FIRST
            if
            :: owner == 0 -> goto again
            :: else
            fi;
            atomic { sleep_bit = 1; seen = served };
#else
            atomic { sleep_bit = 1; seen = served };
            if
            :: owner == 0 -> goto again
            :: else
            fi;
#endif
            atomic { x = owner; if :: x == 0 || !IS_DEAD(x) -> x = 0 :: else fi };
            if
            :: x -> recover(x); goto again
            :: else
            fi;
            atomic {                                       /* the kernel compares and sleeps in one step */
                if
#ifndef NO_COMPARE
                :: !sleep_bit || served != seen -> seen = 0; goto again
                :: else -> asleep[p] = 1; seen = 0
#else
                :: asleep[p] = 1; seen = 0
#endif
                fi };
            if
            :: atomic { !asleep[p] -> skip }
            :: atomic { asleep[p] && kills < KILLS && (owner == 0 || IS_DEAD(owner)) -> asleep[p] = 0 }
            fi;
            goto again;
works:      if
            :: told -> half = 0
            :: else -> assert(!half)                       /* who was told of nothing finds it in order */
            fi;
            half = 1;
            half = 0;
            atomic {
                assert(owner == me);                       /* a live owner is not robbed */
                owner = 0;
                dead = 0;
                inside = 0;
                told = 0 };
            publish();
            round++
        :: else -> break
        od;
        clear(me);
        table[me] = 0;
        atomic { lease[me] = 0; done[p] = 1; me = 0; round = 0 }
    } unless {
        atomic { !alive[p] -> asleep[p] = 0; me = 0; i = 0; x = 0; round = 0; told = 0; seen = 0 }
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
            assert(done[i] || !alive[i])
        } }
}

init {
    byte i;
    atomic {
        for (i : 1 .. PROCESSES) {
            alive[i] = 1
        }
        for (i : 1 .. PROCESSES) {
            run user(i)
        }
        i = 0;
        run killer();
        run monitor() }
}
