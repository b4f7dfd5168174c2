/* The barrier: a word that says which generation it is and whether that is broken, and a slot for each party.
 *
 *     state: why:2 | generation:30 | good:30      good: how many generations before this one were whole, since one was not
 *     slot:  generation:30 | owner:12             whoever came in its place in that generation
 *
 * Slots are claimed in order, from the first that is of another generation. The last one's claim makes the generation whole: that is
 * a fact from then on, and anybody's CAS may say so in the state, who comes, waits or recovers. So whoever claims the last one and
 * dies holds up nobody.
 *
 * All that ends a generation is one CAS of the state: whole (generation + 1, good + 1), broken (why), reset (generation + 1, good 0).
 * So all who were in it learn the same, at whatever time they look, by the distance d of then to now:
 *
 *     good >= d    none of the d generations since then was broken: theirs was whole
 *     good <  d    it was broken, or one was that came after it before they looked; then they are told of that one
 *
 * A slow one may claim a slot for a generation that is over: it is of another generation for all others, and taken by them as if it
 * were free; the slow one sees that it is over, and comes again.
 *
 *     A: reads generation 7     B: resets it, 8     A: claims slot 0 for 7, looks: 8, and 7 was not whole: comes again
 *
 * It cannot take one that somebody has in the present generation. Whoever is about to claim a slot has read it, and after that the
 * state: if that still says its generation, what it read is of no later one, and its CAS expects just that. With the state read only
 * before, somebody would wait whom nobody counts:
 *
 *     A: reads generation 7     7 is over; B: claims slot 0 for 8     A: reads slot 0: not of 7; claims it for 7: B is gone */
#include "sync.h"

#define COUNT_BITS CL__GENERATION_BITS
#define COUNT_MASK ((1ULL << COUNT_BITS) - 1)
enum { ASKS = 16 };

static inline uint64_t state_of(uint64_t why, uint64_t generation, uint64_t good)
{
    return why << 2 * COUNT_BITS | (generation & COUNT_MASK) << COUNT_BITS | good;
}

static inline uint64_t why_of(uint64_t state)
{
    return state >> 2 * COUNT_BITS & 3;
}

static inline uint64_t generation_of(uint64_t state)
{
    return state >> COUNT_BITS & COUNT_MASK;
}

static inline uint64_t next_good(uint64_t state)
{
    uint64_t good = state & COUNT_MASK;
    return good < COUNT_MASK ? good + 1 : good;
}

static inline int is_of(uint64_t slot, uint64_t generation)
{
    return (slot & CL__OWNER_MASK) && slot >> CL__OWNER_BITS == generation;
}

static inline uint64_t state_now(const cl_barrier *barrier)
{
    return cl__load(&barrier->shared->state); /* W4; partner: the CASes of end() */
}

/* End that generation, unless it is over, or broken already. */
static void end(cl_barrier *barrier, uint64_t generation, uint64_t why)
{
    int is_done = 0;
    CL_FAULT(230);
    uint64_t state = state_now(barrier);
    while (!is_done && generation_of(state) == generation && !why_of(state)) {
        uint64_t good = state & COUNT_MASK;
        CL_FAULT(231);
        is_done = cl__swap_if_ordered(&barrier->shared->state, &state, /* W1; partner: the looks, and the same of others */
                                      why ? state_of(why, generation, good) : state_of(0, generation + 1, next_good(state)));
    }
    cl__sync_published(barrier); /* also if it was not us: whoever did may have died before this */
}

static int is_whole(const cl_barrier *barrier, uint64_t generation)
{
    CL_FAULT(232);
    return is_of(cl__load_acquire(&barrier->slots[barrier->plan.count - 1]), generation); /* partner: the claim in arrive_in */
}

/* With a pid for people; but what is whole cannot be broken. */
static void break_it(cl_barrier *barrier, uint64_t generation, uint64_t why, int64_t pid)
{
    if (is_whole(barrier, generation)) {
        end(barrier, generation, 0);
        return;
    }
    CL_FAULT(233);
    cl__store_relaxed(&barrier->shared->breaker, pid); /* partner: cl_barrier_breaker; not ordered: it is told to people only */
    end(barrier, generation, why);
}

int64_t cl_barrier_look(const cl_barrier *barrier, uint64_t generation)
{
    uint64_t state = state_now(barrier), distance = (generation_of(state) - generation) & COUNT_MASK;
    if (distance == 0)
        return why_of(state) ? -EPIPE : 0;
    return (state & COUNT_MASK) >= distance ? 1 : -EPIPE;
}

/* Our place in that generation, or -EAGAIN: look again: all are taken, it is over, or somebody was found dead. The last one to come
 * asks for all before it claims: those who have come and died since would not be missed, as nobody waits for them any more. But not
 * for ever: where a scribbler goes on writing participants into the table, somebody is found dead whenever one asks. */
static int64_t arrive_in(cl_barrier *barrier, uint64_t generation, int *asks)
{
    for (int64_t i = 0, has_asked = 0; i < barrier->plan.count;) {
        CL_FAULT(234);
        uint64_t slot = cl__load_acquire(&barrier->slots[i]); /* partner: the claim below */
        CL_FAULT(235);
        if (is_of(slot, generation)) {
            i++;
            continue;
        }
        if (generation_of(state_now(barrier)) != generation) /* after the slot: see above */
            return -EAGAIN;
        if (i > 0 && i == barrier->plan.count - 1 && !has_asked++ && (*asks)++ < ASKS) {
            int64_t dead = cl__members_recover(&barrier->members);
            if (dead != 0)
                return dead < 0 ? dead : -EAGAIN;
            continue;
        }
        CL_FAULT(240);
        /* partner: other claims, and is_whole() */
        if (cl__swap_if_ordered(&barrier->slots[i], &slot, generation << CL__OWNER_BITS | barrier->members.me))
            return i;
    }
    return -EAGAIN;
}

int64_t cl_barrier_arrive(cl_barrier *barrier, cl_barrier_ticket *ticket)
{
    int64_t rc = cl__members_is_joined(&barrier->members);
    if (rc < 0)
        return rc;
    for (int asks = 0;;) {
        CL_FAULT(236);
        uint64_t state = state_now(barrier), generation = generation_of(state);
        if (why_of(state))
            return -EPIPE;
        int64_t index = arrive_in(barrier, generation, &asks);
        if (index < 0 && index != -EAGAIN)
            return index;
        if (is_whole(barrier, generation))
            end(barrier, generation, 0);
        if (index < 0)
            continue;
        if (cl_barrier_look(barrier, generation) < 0 && generation_of(state_now(barrier)) != generation)
            continue; /* it was reset: see above */
        *ticket = (cl_barrier_ticket){generation, index, .is_open = 1, .process = cl__segments_forks()};
        return 0;
    }
}

/* Not only of whoever is still registered, which cl__members_leave has broken it for: that may have been before the claim.
 *
 *     A: is registered     B: closes the object: none of ours has come     A: claims a place
 *
 * And not of whoever is registered: the child of a fork, too, after it has joined, and its copy of a task that waits ends there. */
int64_t cl_barrier_give_up(cl_barrier *barrier, cl_barrier_ticket *ticket)
{
    if (!ticket->is_open)
        return 1;
    ticket->is_open = 0;
    if (cl_barrier_look(barrier, ticket->generation) == 0 && ticket->process == cl__segments_forks())
        break_it(barrier, ticket->generation, CL_BARRIER_GAVE_UP, cl__sys_getpid());
    return cl_barrier_look(barrier, ticket->generation) == 1;
}

int64_t cl_barrier_abort(cl_barrier *barrier)
{
    int64_t rc = cl__members_is_joined(&barrier->members);
    if (rc < 0)
        return rc;
    uint64_t state = state_now(barrier);
    while (!why_of(state)) { /* one that is whole was before this: it is the next one that is broken */
        break_it(barrier, generation_of(state), CL_BARRIER_ABORTED, cl__sys_getpid());
        state = state_now(barrier);
    }
    return 0;
}

int64_t cl_barrier_reset(cl_barrier *barrier)
{
    int64_t rc = cl__members_is_joined(&barrier->members);
    if (rc < 0)
        return rc;
    uint64_t state = state_now(barrier);
    for (;;) {
        uint64_t generation = generation_of(state);
        if (!why_of(state) && is_whole(barrier, generation)) {
            end(barrier, generation, 0);
            return 0;
        }
        CL_FAULT(237);
        if (!why_of(state) && !is_of(cl__load_acquire(&barrier->slots[0]), generation)) /* partner: the claim in arrive_in */
            return 0; /* nobody waits */
        if (!why_of(state))
            cl__store_relaxed(&barrier->shared->breaker, cl__sys_getpid()); /* partner: as in break_it */
        CL_FAULT(238);
        if (cl__swap_if_ordered(&barrier->shared->state, &state, state_of(0, generation + 1, 0))) /* W1; partner: as in end() */
            break;
    }
    cl__sync_published(barrier);
    return 0;
}

int64_t cl_barrier_why(const cl_barrier *barrier)
{
    return (int64_t)why_of(state_now(barrier));
}

int64_t cl_barrier_breaker(const cl_barrier *barrier)
{
    int64_t pid = cl__load_relaxed(&barrier->shared->breaker); /* partner: none, it is told to people only */
    return pid >= 0 && pid < CL_SYNC_UNKNOWN ? pid : CL_SYNC_UNKNOWN;
}

/* A cl__clear: it had come, and will not go on. */
static int64_t clear_arrivals(void *object, uint32_t index)
{
    cl_barrier *barrier = object;
    uint64_t state = state_now(barrier), generation = generation_of(state);
    int64_t count = 0;
    if (!why_of(state))
        for (int64_t i = 0; i < barrier->plan.count && index; i++) {
            CL_FAULT(239);
            uint64_t slot = cl__load_acquire(&barrier->slots[i]); /* partner: the claim of whoever has died */
            count += is_of(slot, generation) && (slot & CL__OWNER_MASK) == index;
        }
    if (count)
        break_it(barrier, generation, CL_BARRIER_DIED, cl__sync_pid_of(barrier, index));
    cl__sync_published(barrier);
    return count;
}

static int64_t look_over(void *waits_for)
{
    const cl__waits_for *waits = waits_for;
    return cl_barrier_look(waits->sync, waits->ticket);
}

/* Before a sleep, and after a while: what the last to come has not said, because it died, we say. */
static int64_t ask_waiting(void *waits_for)
{
    cl__waits_for *waits = waits_for;
    if (is_whole(waits->sync, waits->ticket)) {
        end(waits->sync, waits->ticket, 0);
        return cl_barrier_look(waits->sync, waits->ticket);
    }
    return cl__sync_ask_all(waits_for);
}

const cl__sync_kind cl__barrier_kind = {clear_arrivals, look_over, ask_waiting};

int64_t cl_barrier_open(cl_barrier **out, cl_segment *segment)
{
    return cl__sync_open(out, segment, CL_SEGMENT_BARRIER, &cl__barrier_kind);
}
