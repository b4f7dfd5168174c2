/* The broadcast as an object: how it lies in its segment, who reads and who writes, what is known of it, waiting. What it does
 * is in broadcast.c.
 *
 * A participant is a member (members.h); what it holds is a reader's word, or the writer's, or nothing. The writer's word says
 * who that is in the same CAS that makes it so, with an epoch: so there is one, it is known, and a dead one is found. */
#include "broadcast.h"

#include <stdlib.h>
#include <string.h>

#define LAYOUT 0x424341532d303032ULL /* "BCAS-002": to be changed with anything in broadcast.h */
#define LARGEST (1LL << 46)
#define NAP_LEAST_NS 50000LL
#define NAP_MOST_NS 5000000LL
enum { NAP_SHARE = 8 };

/* ---- geometry ----------------------------------------------------------------------------------------------------- */

static int64_t up_to(int64_t size, int64_t unit)
{
    return (size + unit - 1) / unit * unit;
}

static int64_t members_offset(const cl_broadcast_plan *plan)
{
    return (int64_t)sizeof(cl__cast_memory) + (plan->members + 1) * (int64_t)sizeof(cl__cast_reader);
}

static int64_t slots_offset(const cl_broadcast_plan *plan)
{
    return up_to(members_offset(plan) + cl__members_size(plan->members), CL__CAST_LINE);
}

static int64_t stride_of(const cl_broadcast_plan *plan)
{
    return up_to((int64_t)sizeof(cl__cast_slot) + plan->slot_size, 64);
}

static int64_t check_plan(const cl_broadcast_plan *plan)
{
    if (plan->slots < 1 || plan->slots > CL_BROADCAST_SLOTS || plan->slot_size < 1 || plan->slot_size > 1 << 30 ||
        plan->members < 1 || plan->members > CL_BROADCAST_MEMBERS ||
        plan->flags & ~(CL_BROADCAST_LOSSLESS | CL_BROADCAST_WAKES_ALL))
        return -EINVAL;
    return plan->slots * stride_of(plan) > LARGEST ? -ENOMEM : 0;
}

int64_t cl_broadcast_describe(cl_broadcast_plan *plan, cl_segment_plan *out)
{
    int64_t rc = check_plan(plan);
    if (rc < 0)
        return rc;
    int64_t slots = 1;
    while (slots < plan->slots)
        slots *= 2;
    plan->slots = slots;
    out->size = slots_offset(plan) + slots * stride_of(plan);
    out->data_offset = CL_SEGMENT_HEADER;
    out->kind = CL_SEGMENT_BROADCAST;
    out->layout = LAYOUT;
    out->about = (const char *)plan;
    out->about_size = sizeof *plan;
    return check_plan(plan);
}

/* ---- opening ----------------------------------------------------------------------------------------------------------- */

void cl__cast_serve(cl_broadcast *broadcast, int what)
{
    cl__cast_memory *shared = broadcast->shared;
    _Atomic uint32_t *word = what == CL_BROADCAST_FOR_ROOM ? &shared->room : &shared->record;
    if (what == CL_BROADCAST_FOR_RECORD && broadcast->plan.flags & CL_BROADCAST_WAKES_ALL) {
        cl__add(word, CL__COUNT); /* partner: the load in wait_reading_only */
        cl__word_wake(word);
    }
    if (!(cl__load(word) & CL__ASKS)) /* partner: W2 in whoever sleeps, or arms */
        return;
    cl__add_relaxed(&shared->wakes, 1); /* partner: none, for people */
    cl__members_serve(&broadcast->members, word, what);
}

/* A cl__clear. */
static int64_t clear_roles(void *object, uint32_t index)
{
    cl_broadcast *broadcast = object;
    cl__cast_memory *shared = broadcast->shared;
    int64_t count = 0;
    CL_FAULT(180);
    uint64_t word = cl__load_acquire(&shared->writer); /* partner: the CAS in cl_broadcast_take */
    if (cl__writer_state(word) == CL_BROADCAST_OPEN && cl__writer_owner(word) == index) {
        cl__store_relaxed(&shared->dead_writer, cl__members_pid_of(&broadcast->members, index));
        CL_FAULT(181);
        count += cl__swap_if_ordered(&shared->writer, &word, cl__writer_word((word >> 16) + 1, CL_BROADCAST_DIED, 0));
    }
    if (index <= (uint32_t)broadcast->members.count) {
        CL_FAULT(182);
        count += cl__exchange(&shared->readers[index].word, 0) != 0; /* partner: R4, and the CAS in move_reader */
    }
    cl__cast_published(broadcast, CL_BROADCAST_FOR_RECORD);
    cl__cast_published(broadcast, CL_BROADCAST_FOR_ROOM);
    return count;
}

int64_t cl_broadcast_open(cl_broadcast **out, cl_segment *segment)
{
    cl_segment_report report;
    cl_broadcast_plan plan;
    cl_segment_report_of(segment, &report);
    if (!report.data || report.kind != CL_SEGMENT_BROADCAST || report.layout != LAYOUT ||
        report.data_offset % CL__CAST_LINE != 0 || report.data_offset < CL_SEGMENT_ABOUT + (int64_t)sizeof plan)
        return -EBADMSG;
    memcpy(&plan, report.data - report.data_offset + CL_SEGMENT_ABOUT, sizeof plan); /* once: then it is checked */
    if (check_plan(&plan) < 0 || (plan.slots & (plan.slots - 1)) != 0 ||
        report.size != slots_offset(&plan) + plan.slots * stride_of(&plan))
        return -EBADMSG;
    cl_broadcast *broadcast = calloc(1, sizeof *broadcast);
    if (!broadcast)
        return -ENOMEM;
    broadcast->shared = (cl__cast_memory *)report.data;
    broadcast->slots = report.data + slots_offset(&plan);
    broadcast->stride = (size_t)stride_of(&plan);
    broadcast->count = (uint64_t)plan.slots;
    broadcast->plan = plan;
    cl_broadcast_set_spin(broadcast, CL__SPIN_NS);
    cl__members_open(&broadcast->members, segment, report.data + members_offset(&plan), plan.members, clear_roles, broadcast);
    *out = broadcast;
    return 0;
}

void cl_broadcast_free(cl_broadcast *broadcast)
{
    if (!broadcast)
        return;
    cl_broadcast_close(broadcast);
    cl__members_close(&broadcast->members);
    free(broadcast);
}

/* ---- roles --------------------------------------------------------------------------------------------------------------- */

static int64_t read_tail(cl_broadcast *broadcast, uint64_t *tail)
{
    *tail = cl__load(&broadcast->shared->tail); /* R2; partner: L3, R3 */
    if (*tail < CL__POSITIONS)
        return 0;
    broadcast->fault_word = *tail;
    broadcast->fault_expected = CL__POSITIONS;
    return -EBADMSG;
}

/* In front of the writer, wherever it is by now. */
static int64_t find_place(cl_broadcast *broadcast, uint64_t *position)
{
    _Atomic uint64_t *word = &cl__our_reader(broadcast)->word;
    for (;;) {
        int64_t rc = read_tail(broadcast, position);
        if (rc < 0)
            return rc;
        uint64_t here = cl__reader_word(*position, broadcast->state);
        CL_FAULT(183);
        cl__exchange(word, here); /* R1; partner: R4 */
        CL_FAULT(184);
        rc = read_tail(broadcast, position);
        if (rc < 0)
            return rc;
        /* Not a store: the writer may have moved us since, or evicted us, and would not see where we are now. */
        CL_FAULT(185);
        if (cl__swap_if_ordered(word, &here, cl__reader_word(*position, broadcast->state))) /* partner: move_reader */
            return 0;
        if (cl__reader_state(here) == CL__SKIPS) {
            *position = cl__reader_position(here);
            return 0;
        }
    }
}

static int64_t begin_reading(cl_broadcast *broadcast)
{
    uint64_t position;
    int64_t rc = cl__is_registered(broadcast) ? cl__members_join(&broadcast->members) : 0;
    if (rc < 0)
        return rc;
    if (cl__is_lossless(broadcast)) {
        rc = find_place(broadcast, &position);
    } else {
        rc = read_tail(broadcast, &position);
        if (broadcast->reading & CL_BROADCAST_FROM_OLDEST)
            position = position > broadcast->count ? position - broadcast->count : 0;
        if (rc == 0 && cl__is_registered(broadcast)) /* W1; partner: the load in count_readers. What it is worth is for people */
            cl__exchange(&cl__our_reader(broadcast)->word, cl__reader_word(position, broadcast->state));
    }
    if (rc < 0)
        return rc;
    cl__store_relaxed(&broadcast->position, position);
    broadcast->has_claim = broadcast->has_got = broadcast->is_untold = 0;
    broadcast->overtakings = 0;
    cl__store_relaxed(&broadcast->role, CL_BROADCAST_READER);
    if (cl__is_registered(broadcast)) {
        cl__store_relaxed(&cl__our_reader(broadcast)->lost, (uint64_t)broadcast->lost);
        cl__store_relaxed(&cl__our_reader(broadcast)->waits, 0);
        cl__cast_published(broadcast, CL_BROADCAST_FOR_ROOM); /* somebody may wait for readers */
    }
    return 0;
}

int64_t cl_broadcast_subscribe(cl_broadcast *broadcast, int32_t policy, int32_t reading)
{
    int is_lossless = cl__is_lossless(broadcast);
    if (reading & ~(CL_BROADCAST_FROM_OLDEST | CL_BROADCAST_TELL_LOSS | CL_BROADCAST_PATIENT) ||
        (is_lossless ? policy < CL_BROADCAST_BLOCK || policy > CL_BROADCAST_EVICT || reading & CL_BROADCAST_FROM_OLDEST
                     : policy != 0))
        return -EINVAL;
    if (cl__load_relaxed(&broadcast->is_closed))
        return -EBADF;
    if (cl__load_relaxed(&broadcast->role) == CL_BROADCAST_WRITER)
        return -EISCONN;
    if (is_lossless && broadcast->members.read_only)
        return -EACCES;
    broadcast->state = is_lossless ? (unsigned)policy : CL__LOSSY;
    broadcast->reading = reading;
    return begin_reading(broadcast);
}

static int64_t become_writer(cl_broadcast *broadcast)
{
    cl__cast_memory *shared = broadcast->shared;
    uint64_t tail;
    CL_FAULT(186);
    uint64_t word = cl__load(&shared->writer); /* partner: the CAS below, of another; so for the second look */
    if (cl__writer_state(word) == CL_BROADCAST_OPEN) {
        int64_t rc = cl__members_recover(&broadcast->members);
        if (rc < 0)
            return rc;
        word = cl__load(&shared->writer);
    }
    if (cl__writer_state(word) == CL_BROADCAST_OPEN)
        return -EBUSY;
    CL_FAULT(187);
    if (!cl__swap_if_ordered(&shared->writer, &word, /* partner: the loads of readers, and others who would write */
                             cl__writer_word((word >> 16) + 1, CL_BROADCAST_OPEN, broadcast->members.me)))
        return -EBUSY;
    /* Whoever wrote before us does not any more, so this is where it got. */
    int64_t rc = read_tail(broadcast, &tail);
    if (rc < 0)
        return rc;
    CL_FAULT(188);
    /* A writer that waits for itself would wait for ever. Partner: its own look at the readers. */
    cl__exchange(&cl__our_reader(broadcast)->word, 0);
    cl__store_relaxed(&broadcast->position, tail);
    cl__store_relaxed(&broadcast->free_until, tail);
    cl__store_relaxed(&broadcast->role, CL_BROADCAST_WRITER);
    broadcast->has_claim = 0;
    return cl__writer_state(word) == CL_BROADCAST_DIED;
}

int64_t cl_broadcast_take(cl_broadcast *broadcast)
{
    if (cl__load_relaxed(&broadcast->is_closed))
        return -EBADF;
    if (broadcast->members.read_only)
        return -EACCES;
    if (cl__members_is_joined(&broadcast->members) == -ESTALE)
        return -ESTALE;
    if (cl__load_relaxed(&broadcast->role) == CL_BROADCAST_WRITER)
        return 0;
    if (broadcast->has_got || broadcast->has_claim)
        return -EISCONN;
    int64_t rc = cl__members_join(&broadcast->members);
    return rc < 0 ? rc : become_writer(broadcast);
}

int64_t cl_broadcast_register(cl_broadcast *broadcast)
{
    if (cl__load_relaxed(&broadcast->is_closed))
        return -EBADF;
    if (!cl__is_registered(broadcast) || cl__members_is_joined(&broadcast->members) == 0)
        return 0;
    int was_reading = cl__load_relaxed(&broadcast->role) == CL_BROADCAST_READER;
    cl__store_relaxed(&broadcast->role, CL_BROADCAST_NOBODY);
    broadcast->has_claim = broadcast->has_got = 0;
    broadcast->lost = 0;
    int64_t rc = was_reading ? begin_reading(broadcast) : cl__members_join(&broadcast->members);
    return rc < 0 ? rc : 0;
}

void cl_broadcast_close(cl_broadcast *broadcast)
{
    cl__cast_memory *shared = broadcast->shared;
    int is_writer = cl__load_relaxed(&broadcast->role) == CL_BROADCAST_WRITER;
    if (is_writer && cl__members_is_joined(&broadcast->members) == 0) {
        uint64_t word = cl__load(&shared->writer); /* partner: our own CAS in become_writer; a scribbler's is seen here */
        CL_FAULT(189);
        if (cl__writer_state(word) == CL_BROADCAST_OPEN && cl__writer_owner(word) == broadcast->members.me)
            cl__swap_if_ordered(&shared->writer, &word, /* partner: the load in cl__cast_why_nothing */
                                cl__writer_word((word >> 16) + 1, CL_BROADCAST_CLOSED, 0));
        cl__cast_published(broadcast, CL_BROADCAST_FOR_RECORD);
    }
    cl__store_relaxed(&broadcast->is_closed, 1);
    cl__store_relaxed(&broadcast->role, CL_BROADCAST_NOBODY);
    cl__members_leave(&broadcast->members);
}

int64_t cl_broadcast_recover(cl_broadcast *broadcast)
{
    return cl__members_recover(&broadcast->members);
}

/* ---- waiting ------------------------------------------------------------------------------------------------------------- */

typedef struct wish {
    cl_broadcast *broadcast;
    int64_t count; /* of readers */
    int what;
} wish;

static int is_reader(uint64_t word)
{
    return cl__reader_state(word) != CL__NO_READER && cl__reader_state(word) != CL__EVICTED;
}

static int64_t count_readers(const cl_broadcast *broadcast)
{
    int64_t found = 0;
    for (int32_t index = 1; index <= cl__members_highest(&broadcast->members); index++)
        found += is_reader(cl__load(&broadcast->shared->readers[index].word)); /* partner: find_place */
    return found;
}

static int64_t look_for_record(cl_broadcast *broadcast, int asks)
{
    int64_t rc = cl__cast_is(broadcast, CL_BROADCAST_READER);
    if (rc < 0)
        return rc;
    uint64_t position = cl__load_relaxed(&broadcast->position);
    if (cl__load(&broadcast->shared->tail) != position) /* W4; partner: L3 */
        return 1;
    rc = cl__cast_why_nothing(broadcast, position, asks);
    return rc != -EAGAIN; /* what else there is to say, a try says */
}

static int64_t look(void *object)
{
    wish *made = object;
    cl_broadcast *broadcast = made->broadcast;
    if (made->what == CL_BROADCAST_FOR_RECORD)
        return look_for_record(broadcast, 0);
    int64_t rc = cl__cast_is(broadcast, CL_BROADCAST_WRITER);
    if (rc < 0)
        return rc;
    if (made->what == CL_BROADCAST_FOR_READERS)
        return count_readers(broadcast) >= made->count;
    if (!cl__is_lossless(broadcast))
        return 1;
    rc = cl__cast_find_room(broadcast, cl__load_acquire(&broadcast->position)); /* partner: R5 */
    return rc == -EAGAIN ? 0 : rc < 0 ? rc : 1;
}

static int64_t ask(void *object)
{
    wish *made = object;
    cl_broadcast *broadcast = made->broadcast;
    if (made->what == CL_BROADCAST_FOR_RECORD)
        return look_for_record(broadcast, 1);
    if (made->what == CL_BROADCAST_FOR_READERS)
        return 0;
    int64_t rc = cl__members_ask_one(&broadcast->members, cl__load_relaxed(&broadcast->in_the_way));
    return rc > 0 ? look(object) : rc;
}

/* We cannot ask to be woken. Without WAKES_ALL we nap, so that what comes is seen later by an eighth of the time that it took,
 * and nobody's CPU is kept warm by what does not come. */
static int64_t wait_reading_only(cl_broadcast *broadcast, int64_t deadline, wish *made)
{
    int wakes = broadcast->plan.flags & CL_BROADCAST_WAKES_ALL;
    int64_t began = cl__sys_now();
    for (;;) {
        uint32_t seen = cl__load(&broadcast->shared->record); /* before we look; partner: the add in cl__cast_serve */
        int64_t rc = look(made);
        if (rc == 0)
            rc = ask(made);
        if (rc != 0)
            return rc;
        int64_t now = cl__sys_now(), nap = wakes ? CL__LOOK_NS : (now - began) / NAP_SHARE;
        if (deadline >= 0 && now >= deadline)
            return -ETIMEDOUT;
        if (now - began >= CL__LOOK_NS)
            return -EINTR;
        if (!wakes)
            nap = nap < NAP_LEAST_NS ? NAP_LEAST_NS : nap > NAP_MOST_NS ? NAP_MOST_NS : nap;
        if (deadline >= 0 && nap > deadline - now)
            nap = deadline - now;
        uint64_t slept;
        rc = wakes ? cl__word_sleep(&broadcast->shared->record, seen, nap, 0)
                   : cl__wait(&broadcast->waiter, &broadcast->napping, now + nap, look, look, made, &slept);
        if (rc != 0 && rc != -ETIMEDOUT)
            return rc;
    }
}

int64_t cl_broadcast_wait(cl_broadcast *broadcast, int32_t what, int64_t count, int64_t deadline)
{
    wish made = {broadcast, count, what};
    uint64_t slept;
    if (what < CL_BROADCAST_FOR_RECORD || what > CL_BROADCAST_FOR_READERS)
        return -EINVAL;
    int64_t rc = look(&made);
    if (rc != 0)
        return rc;
    if (!cl__is_registered(broadcast))
        return wait_reading_only(broadcast, deadline, &made);
    _Atomic uint32_t *word = what == CL_BROADCAST_FOR_RECORD ? &broadcast->shared->record : &broadcast->shared->room;
    rc = cl__wait(&broadcast->waiter, word, deadline, look, ask, &made, &slept);
    if (slept && cl__members_is_joined(&broadcast->members) == 0) { /* partner: none, for people */
        cl__add_relaxed(&broadcast->shared->waits, slept);
        cl__add_relaxed(&cl__our_reader(broadcast)->waits, slept);
    }
    return rc;
}

int64_t cl_broadcast_look(cl_broadcast *broadcast, int32_t what)
{
    wish made = {broadcast, 0, what};
    int64_t rc = what < CL_BROADCAST_FOR_RECORD || what > CL_BROADCAST_FOR_ROOM ? -EINVAL : look(&made);
    return rc != 0 ? rc : ask(&made);
}

static int64_t look_among(const cl_waitable *self)
{
    wish made = {self->object, 0, self->what};
    int64_t rc = look(&made);
    return rc > 0 ? CL_WAIT_READY : rc;
}

/* Whoever has died: trying says what that means. */
static int64_t ask_among(const cl_waitable *self)
{
    wish made = {self->object, 0, self->what};
    int64_t rc = ask(&made);
    return rc > 0 ? -EOWNERDEAD : rc;
}

static int64_t check_bell(const cl_broadcast *broadcast, int32_t what)
{
    if (what != CL_BROADCAST_FOR_RECORD && what != CL_BROADCAST_FOR_ROOM)
        return -EINVAL;
    if (broadcast->members.read_only)
        return -EACCES;
    return cl__cast_is(broadcast, what == CL_BROADCAST_FOR_RECORD ? CL_BROADCAST_READER : CL_BROADCAST_WRITER);
}

int64_t cl_broadcast_poll_fd(cl_broadcast *broadcast, int32_t what)
{
    int64_t rc = check_bell(broadcast, what);
    return rc < 0 ? rc : cl__members_poll_fd(&broadcast->members, what);
}

int64_t cl_broadcast_silence(cl_broadcast *broadcast, int32_t what)
{
    int64_t rc = check_bell(broadcast, what);
    if (rc == 0)
        cl__members_silence(&broadcast->members, what);
    return rc;
}

int64_t cl_broadcast_arm(cl_broadcast *broadcast, int32_t what)
{
    int64_t rc = check_bell(broadcast, what);
    if (rc == 0)
        rc = cl__members_arm(&broadcast->members,
                             what == CL_BROADCAST_FOR_RECORD ? &broadcast->shared->record : &broadcast->shared->room, what);
    return rc < 0 ? rc : cl_broadcast_look(broadcast, what);
}

int64_t cl_broadcast_waitable(cl_broadcast *broadcast, int32_t what, cl_waitable *out)
{
    int64_t rc = check_bell(broadcast, what);
    _Atomic uint32_t *word = what == CL_BROADCAST_FOR_RECORD ? &broadcast->shared->record : &broadcast->shared->room;
    if (rc == 0)
        *out = (cl_waitable){look_among, ask_among, (uint32_t *)word, broadcast, what, 0, 0};
    return rc;
}

void cl_broadcast_set_spin(cl_broadcast *broadcast, int64_t ns)
{
    cl__store_relaxed(&broadcast->waiter.limit_ns, ns < CL__LOOK_NS ? ns : CL__LOOK_NS); /* partner: spin_span in wake.c */
}

/* ---- what is known: counts that nothing is ordered by, relaxed, without partners -------------------------------------------- */

static int64_t pid_in_the_way(const cl_broadcast *broadcast)
{
    uint32_t index = cl__load_relaxed(&broadcast->in_the_way);
    int64_t pid = cl__members_pid_of(&broadcast->members, index);
    return !index ? 0 : pid > 0 ? pid : -1;
}

int64_t cl_broadcast_note(cl_broadcast *broadcast, int32_t what, int64_t records)
{
    cl__cast_memory *shared = broadcast->shared;
    if (broadcast->members.read_only)
        return -EACCES;
    cl__add_relaxed(what == CL_BROADCAST_DROPPED ? &shared->dropped : &shared->refused, (uint64_t)records);
    return 0;
}

int64_t cl_broadcast_report_of(const cl_broadcast *broadcast, cl_broadcast_report *out)
{
    cl__cast_memory *shared = broadcast->shared;
    uint64_t word = cl__load_relaxed(&shared->writer), tail = cl__load_relaxed(&shared->tail);
    int64_t state = cl__writer_state(word);
    *out = (cl_broadcast_report){
        .slots = broadcast->plan.slots,
        .slot_size = broadcast->plan.slot_size,
        .members = broadcast->plan.members,
        .flags = broadcast->plan.flags,
        .put = (int64_t)tail,
        .most = (int64_t)cl__load_relaxed(&shared->most),
        .skipped = (int64_t)cl__load_relaxed(&shared->skipped),
        .evictions = (int64_t)cl__load_relaxed(&shared->evictions),
        .refused = (int64_t)cl__load_relaxed(&shared->refused),
        .dropped = (int64_t)cl__load_relaxed(&shared->dropped),
        .waits = (int64_t)cl__load_relaxed(&shared->waits),
        .wakes = (int64_t)cl__load_relaxed(&shared->wakes),
        .recoveries = (int64_t)cl__load_relaxed(&broadcast->members.shared->recoveries),
        .last_dead = cl__load_relaxed(&broadcast->members.shared->last_dead),
        .writer = state == CL_BROADCAST_OPEN   ? cl__members_pid_of(&broadcast->members, cl__writer_owner(word))
                  : state == CL_BROADCAST_DIED ? cl__load_relaxed(&shared->dead_writer)
                                               : 0,
        .state = state,
        .role = cl__load_relaxed(&broadcast->role),
        .lost = broadcast->lost,
        .lost_now = broadcast->lost_now,
        .blocked_by = pid_in_the_way(broadcast),
        .fault_word = broadcast->fault_word,
        .fault_expected = broadcast->fault_expected,
    };
    for (int32_t index = 1; index <= cl__members_highest(&broadcast->members); index++) {
        uint64_t reader = cl__load_relaxed(&shared->readers[index].word);
        int64_t lag = cl__reader_lag(tail, reader);
        if (!is_reader(reader))
            continue;
        out->readers++;
        out->depth = lag > out->depth ? lag : out->depth;
    }
    return 0;
}

int64_t cl_broadcast_readers_of(const cl_broadcast *broadcast, cl_broadcast_reader *out, int64_t most)
{
    cl__cast_memory *shared = broadcast->shared;
    uint64_t tail = cl__load_relaxed(&shared->tail);
    int64_t count = 0;
    for (int32_t index = 1; index <= cl__members_highest(&broadcast->members) && count < most; index++) {
        uint64_t word = cl__load_relaxed(&shared->readers[index].word);
        unsigned state = cl__reader_state(word);
        if (state == CL__NO_READER)
            continue;
        out[count++] = (cl_broadcast_reader){
            .pid = cl__members_pid_of(&broadcast->members, (uint32_t)index),
            .lag = cl__reader_lag(tail, word),
            .lost = (int64_t)cl__load_relaxed(&shared->readers[index].lost),
            .waits = (int64_t)cl__load_relaxed(&shared->readers[index].waits),
            .policy = state == CL__EVICTED ? CL_BROADCAST_EVICT : state == CL__LOSSY ? 0 : state,
            .is_evicted = state == CL__EVICTED,
        };
    }
    return count;
}
