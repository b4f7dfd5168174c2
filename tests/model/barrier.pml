/* The barrier of csrc/sync_barrier.c: processes that come, wait, pass, give up and reset, also more of them than parties; and
 * somebody who kills any of them at any step.
 *
 *     spin -a [-D...] barrier.pml && gcc -O2 -o pan pan.c && ./pan -E
 *
 * One transition is one access to what is shared, and a load and the CAS that follows it in a loop are one. Left out: the wake-up
 * (wake.pml: whoever waits here goes on as soon as there is something to be seen), and what becomes of a dead one's index
 * (lock.pml: here each process has its own).
 *
 * What must hold: of a generation no more pass than its parties; who passes, passes one that was whole; who is told that it was
 * broken is told so of it, or of one since; whoever died before the last one came has broken it; nobody waits whom nobody counts,
 * or for the dead.
 *
 * Mutations, each of which must be found:
 *   STATE_FIRST    who claims a slot does not look at the state after it has read it
 *   NO_COMPARE     who claims a slot takes whatever is there
 *   NO_ASK         the last one does not ask who has died
 *   DEAD_COUNT     who has come and died is not missed
 *   ANY_END        whoever finds a later generation thinks that its own was whole
 *   RESET_KEEPS    a reset counts as one that was whole */
#ifndef PARTIES
#define PARTIES 2
#endif
#ifndef PROCESSES
#define PROCESSES 3
#endif
#ifndef ROUNDS
#define ROUNDS 2
#endif
#ifndef KILLS
#define KILLS 1
#endif
#ifndef RESETS
#define RESETS 1
#endif
#ifndef GIVES_UP
#define GIVES_UP 1
#endif
#define GENERATIONS (PROCESSES * ROUNDS / PARTIES + RESETS + 2)

byte generation = 1, good;   /* the state: one word */
bool broken;
byte slot_of[PARTIES];       /* a slot: a generation and an owner, one word */
byte slot_owner[PARTIES];
bool table[PROCESSES + 1];

bool alive[PROCESSES + 1], done[PROCESSES + 1];
byte waits[PROCESSES + 1];   /* the generation it waits for */
byte kills = KILLS, resets = RESETS, gives_up = GIVES_UP;
byte passed[GENERATIONS];    /* nobody's memory, for the check: how many passed each, */
bool was_whole[GENERATIONS], was_broken[GENERATIONS];

#define IS_WHOLE(g) (slot_of[PARTIES - 1] == (g))
#define IS_DEAD(x) (table[x] && !alive[x])
#if PROCESSES > 2
#define ANY_DEAD (IS_DEAD(1) || IS_DEAD(2) || IS_DEAD(3))
#else
#define ANY_DEAD (IS_DEAD(1) || IS_DEAD(2))
#endif

inline end_whole(g)
{
    atomic {
        if
        :: generation == (g) && !broken -> was_whole[g] = 1; generation++; good++
        :: else
        fi }
}

inline break_it(g)
{
    if
    :: IS_WHOLE(g) -> end_whole(g)
    :: else ->
        atomic {
            if
            :: generation == (g) && !broken -> was_broken[g] = 1; broken = 1
            :: else
            fi }
    fi
}

/* Who has died is missed, if it had come. */
inline clear(x)
{
    atomic { g = (broken -> 0 : generation); i = 0; found = 0 };
    do
    :: i < PARTIES -> atomic { found = found || (g && slot_of[i] == g && slot_owner[i] == x); i++ }
    :: else -> break
    od;
#ifndef DEAD_COUNT
    if
    :: found -> break_it(g)
    :: else
    fi;
#endif
    atomic { table[x] = 0; i = 0; g = 0; found = 0 }
}

/* x: whether anybody was. */
inline recover_all()
{
    k = 1;
    do
    :: k <= PROCESSES ->
        if
        :: IS_DEAD(k) -> clear(k); x = 1
        :: else
        fi;
        k++
    :: else -> k = 0; break
    od
}

proctype user(byte p)
{
    byte mine, g, i, k, x, place, slot, owner, round;
    bool found, asked, missed;
    {
        round = 0;
come:   if
        :: resets > 0 -> goto resets_it                    /* anybody may, at any time */
        :: true
        fi;
        if
        :: round == ROUNDS -> goto leaves
        :: else
        fi;
again:  atomic {                                           /* the state, and for the check who is missed by now */
            mine = (broken -> 0 : generation);
            place = 0;
            missed = 0;
            asked = 0;
            i = 0;
            do
            :: i < PARTIES -> missed = missed || (mine && slot_of[i] == mine && !alive[slot_owner[i]]); i++
            :: else -> i = 0; break
            od };
        if
        :: !mine -> goto resets_it
        :: else
        fi;
next:   if
        :: place == PARTIES -> goto ends
        :: else
        fi;
        atomic { slot = slot_of[place]; owner = slot_owner[place] };
        if
        :: slot == mine -> place++; goto next
        :: else
        fi;
#ifndef STATE_FIRST
        if
        :: generation != mine -> place = PARTIES; goto ends
        :: else
        fi;
#endif
#ifndef NO_ASK
        if
        :: PARTIES > 1 && place == PARTIES - 1 && !asked ->
            asked = 1;
            recover_all();
            if
            :: x -> x = 0; goto again
            :: else -> goto next
            fi
        :: else
        fi;
#endif
        atomic {
            if
#ifdef NO_COMPARE
            :: true ->
#else
            :: slot_of[place] == slot && slot_owner[place] == owner ->
#endif
                slot_of[place] = mine;
                slot_owner[place] = p;
                /* one that was dead when the last one came in time, is missed */
                assert(place < PARTIES - 1 || !missed || generation != mine || broken)
            :: else -> goto next
            fi };
ends:   if
        :: IS_WHOLE(mine) -> end_whole(mine)
        :: else
        fi;
        if
        :: place == PARTIES -> goto again
        :: else
        fi;
        if
        :: atomic { generation != mine && good < generation - mine -> goto again } /* it was reset */
        :: else
        fi;
        atomic { waits[p] = mine; place = 0; slot = 0; owner = 0; asked = 0; missed = 0 };
looks:  atomic {
            if
            :: generation == mine && !broken
            :: generation == mine && broken -> assert(was_broken[mine]); waits[p] = 0; goto resets_it
#ifdef ANY_END
            :: generation != mine ->
#else
            :: generation != mine && good >= generation - mine ->
#endif
                assert(was_whole[mine] && passed[mine] < PARTIES);
                passed[mine]++;
                waits[p] = 0;
                mine = 0;
                round++;
                goto come
#ifndef ANY_END
            :: generation != mine && good < generation - mine ->
                x = mine;
                found = 0;
                do
                :: x < generation -> found = found || was_broken[x]; x++
                :: else -> x = 0; break
                od;
                assert(found);
                found = 0;
                waits[p] = 0;
                goto come
#endif
            fi };
        /* it sleeps until there is something to be seen, or somebody has died; or its time is over */
        if
        :: generation != mine || broken -> goto looks
        :: IS_WHOLE(mine) -> end_whole(mine); goto looks
        :: ANY_DEAD -> recover_all(); x = 0; goto looks
        :: atomic { gives_up > 0 -> gives_up-- };
            break_it(mine);
            goto looks
        fi;
resets_it:
        if
        :: atomic { resets > 0 -> resets-- };
once_more:  atomic { g = generation; found = broken };
            if
            :: !found && IS_WHOLE(g) -> end_whole(g); goto is_reset
            :: else
            fi;
            if
            :: !found && slot_of[0] != g -> goto is_reset  /* nobody waits */
            :: else
            fi;
            atomic {
                if
                :: generation == g && broken == found ->
                    was_broken[g] = 1;
                    generation++;
                    broken = 0;
#ifdef RESET_KEEPS
                    good++
#else
                    good = 0
#endif
                :: else -> goto once_more
                fi };
is_reset:   atomic { g = 0; found = 0; goto come }
        :: else -> goto leaves
        fi;
leaves: clear(p);
        atomic { done[p] = 1; mine = 0; round = 0 }
    } unless {
        atomic { !alive[p] -> waits[p] = 0; mine = 0; g = 0; i = 0; k = 0; x = 0; place = 0; slot = 0; owner = 0; round = 0;
                 found = 0; asked = 0; missed = 0 }
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
    byte p, i, waiting, counted;
    timeout -> /* nobody can go on: who waits, waits for more to come */
    atomic {
        for (p : 1 .. PROCESSES) {
            if
            :: alive[p] && !done[p] ->
                assert(waits[p] == generation && !broken);
                waiting++;
                for (i : 0 .. PARTIES - 1) {
                    if
                    :: slot_of[i] == generation && slot_owner[i] == p -> counted++
                    :: else
                    fi
                }
            :: else
            fi
        }
        assert(waiting == counted && waiting < PARTIES);
        for (i : 0 .. PARTIES - 1) {
            assert(!waiting || slot_of[i] != generation || alive[slot_owner[i]])
        } }
}

init {
    byte i;
    atomic {
        for (i : 1 .. PROCESSES) {
            alive[i] = 1;
            table[i] = 1
        }
        for (i : 1 .. PROCESSES) {
            run user(i)
        }
        i = 0;
        run killer();
        run monitor() }
}
