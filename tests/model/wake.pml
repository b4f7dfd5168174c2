/* The wake-up protocol of csrc/wake.h, on processors that store later than they say (x86's TSO): the publisher has a buffer
 * of stores, which reach memory at any later time; a read-modify-write waits until it is empty. (The waiters' only stores
 * are read-modify-writes.)
 *
 * One publisher, RECORDS records; WAITERS wait, and each wants to see all of them, as those of a broadcast do. Waiters with
 * an even number sleep on the word (SLEEP), the others on a descriptor (POLL). With KILL the publisher may be killed before
 * any step, and any waiter while it waits.
 *
 * BARRIER is the variant without an exchange, for a publisher that must be fast (`membarrier=True`): W1 is a plain store (the
 * release in cl__publish of wake.h), and the waiter, after W2 and before W4, makes every processor that runs one of us empty its
 * buffer (B: cl__order_publishers in wake.c, which cl__wait, cl_wait_any and cl_ring_arm call, and cl__members_arm in members.c:
 * cl__membarrier, membarrier(2) in Linux). A publisher that is on no processor has been through a switch, which empties it
 * too; a dead one's stores have all arrived. Servings are read-modify-writes as before (cl__serve).
 *
 * WANTS: the waiter says how much it wants before it is woken, and the publisher serves from then on only, as a ring's
 * producer and its consumer do it (say_when in ring_wait.c, release_all and wake_side in ring.c). One waiter.
 *
 * What must hold: nobody sleeps for ever over something that was published. The 100 ms after which a sleeper looks by itself
 * are left out, as they would hide every mistake; but where the publisher was killed they are what ends the sleep.
 *
 * Mutations, each of which must be found:
 *   PLAIN_STORE        publishing is a plain store, which may reach memory after the word was looked at
 *   NO_LOOK            the waiter does not look again after it has or-ed its bit in
 *   STORE_BIT          the waiter stores its bit: another's is gone
 *   WAKE_ONE           one of the sleepers is woken (needs WAITERS=3: two on the word)
 *   CLEAR_AFTER_WAKE   the bits are taken out after the wake-up, not before
 *   NO_COUNT           servings are not counted: another waiter puts the bit back that a serving took out
 *   COUNT_FIRST        they are counted before the bits are taken out
 *   NO_COMPARE         the sleep does not compare the word: what came between the look and the sleep is lost
 * and with BARRIER also:
 *   NO_BARRIER         the waiter makes nobody empty anything
 *   BARRIER_FIRST      it does so before it has or-ed its bit in
 *   BARRIER_LAST       it does so after it has looked
 * and with WANTS:
 *   SAYS_LATE          what it wants is said after that, by the last look only (cl__order_publishers without its look) */
#ifndef RECORDS
#define RECORDS 2
#endif
#ifndef WAITERS
#define WAITERS 2
#endif

#define NEVER 255

byte tail;              /* in memory */
byte word;              /* in memory: its bits */
byte served;            /* in memory: its upper bits, how often it was served */
bool buffered;          /* a store of tail that has not reached memory */
byte stored;            /* its value */
bool dead;              /* the publisher */
bool asleep[WAITERS];   /* in the kernel */

#ifdef WANTS
byte wants = NEVER;     /* in memory: wake_at */
#define SAY_WHEN atomic { if :: wants > head + 1 -> wants = head + 1 :: else -> skip fi }
#else
#define SAY_WHEN skip
#endif

#define BIT(who) (1 << (who % 2))

#ifdef KILL
#define MAYBE_KILLED if :: dead = true; goto killed :: skip fi
#else
#define MAYBE_KILLED skip
#endif

inline wake(bits)
{
    d_step {
        i = 0;
        do
        :: i < WAITERS && asleep[i] && (bits & BIT(i)) != 0 ->
            asleep[i] = false;
#ifdef WAKE_ONE
            break;
#endif
            i++
        :: i < WAITERS && !(asleep[i] && (bits & BIT(i)) != 0) -> i++
        :: i >= WAITERS -> break
        od;
        i = 0
    }
}

active proctype memory()
{
end:
    do
    :: atomic { buffered -> tail = stored; buffered = false }
    od
}

active proctype publisher()
{
    byte n = 0, bits = 0, i = 0;
    do
    :: n < RECORDS ->
        n++;
        MAYBE_KILLED;
#if defined(PLAIN_STORE) || defined(BARRIER)
        atomic { !buffered -> stored = n; buffered = true };
#else
        atomic { !buffered -> tail = n };                       /* W1 */
#endif
        MAYBE_KILLED;
        if
        :: word == 0 -> skip                                    /* W3 */
        :: word != 0 ->
            MAYBE_KILLED;
#ifdef WANTS
            if
            :: n < wants -> goto done
            :: n >= wants -> skip
            fi;
            MAYBE_KILLED;
            atomic { !buffered -> wants = NEVER };
            MAYBE_KILLED;
#endif
#ifdef CLEAR_AFTER_WAKE
            bits = word;
            wake(bits);
            atomic { !buffered -> word = 0 }
#else
#ifdef COUNT_FIRST
            atomic { !buffered -> served++ };
            MAYBE_KILLED;
#endif
            atomic { !buffered -> bits = word; word = 0 };
#if !defined(COUNT_FIRST) && !defined(NO_COUNT)
            MAYBE_KILLED;
            atomic { !buffered -> served++ };
#endif
            MAYBE_KILLED;
            wake(bits)
#endif
        fi;
done:
        skip
    :: n == RECORDS -> break
    od;
killed:
    skip
}

/* membarrier(2): when it returns, all stores from before it are in memory. Until then others go on. */
#define MAKE_ALL_EMPTY (!buffered)

proctype waiter(byte me)
{
    byte head = 0, seen = 0, count = 0;
    do
    :: head == RECORDS -> break
    :: head < RECORDS ->
#ifdef KILL
        if :: goto over :: skip fi;
#endif
        if
        :: tail != head -> head++                               /* there is one */
        :: tail == head ->
#ifdef BARRIER_FIRST
            MAKE_ALL_EMPTY;
#endif
#ifdef STORE_BIT
            atomic { seen = BIT(me); word = seen; count = served };
#else
            atomic { word = word | BIT(me); seen = word; count = served };  /* W2 */
#endif
#ifndef SAYS_LATE
            SAY_WHEN;                                           /* the look in cl__order_publishers */
#endif
#if defined(BARRIER) && !defined(NO_BARRIER) && !defined(BARRIER_FIRST) && !defined(BARRIER_LAST)
            MAKE_ALL_EMPTY;                                     /* B */
#endif
            SAY_WHEN;                                           /* the last look, again */
            if
#ifndef NO_LOOK
            :: tail != head -> skip                             /* W4 */
            :: tail == head ->
#else
            :: true ->
#endif
#ifdef BARRIER_LAST
                MAKE_ALL_EMPTY;
#endif
                /* The kernel compares and sleeps in one step; a descriptor is readable from when its bit was served. */
                atomic {
                    if
#ifdef NO_COMPARE
                    :: true -> asleep[me] = true
#else
                    :: me % 2 == 0 && word == seen && served == count -> asleep[me] = true
                    :: me % 2 == 1 && (word & BIT(me)) != 0 -> asleep[me] = true
                    :: else -> skip
#endif
                    fi
                };
                if
                :: !asleep[me] -> skip
                :: dead && asleep[me] -> goto over              /* 100 ms later; its lease is free */
                fi
            fi
        fi
    od;
over:
    asleep[me] = false
}

init {
    byte i = 0;
    atomic {
        do
        :: i < WAITERS -> run waiter(i); i++
        :: i == WAITERS -> break
        od
    }
}
