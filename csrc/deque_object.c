/* The deque as an object: how it lies in its segment, who takes part, who is its owner, what is known of it, waiting. What it
 * does is in deque.c. */
#include "deque.h"

#include <stdlib.h>
#include <string.h>

#define LAYOUT 0x44455155452d3031ULL /* "DEQUE-01": to be changed with anything in deque.h or slot.h */
#define LARGEST (1LL << 46)

/* ---- geometry ----------------------------------------------------------------------------------------------------- */

static int64_t up_to(int64_t size, int64_t unit)
{
    return (size + unit - 1) / unit * unit;
}

static int64_t slots_offset(const cl_deque_plan *plan)
{
    return up_to((int64_t)sizeof(cl__deque_memory) + cl__members_size(plan->members), CL__LINE);
}

static int64_t stride_of(const cl_deque_plan *plan)
{
    return up_to((int64_t)sizeof(cl__slot) + plan->slot_size, 64);
}

static int64_t check_plan(const cl_deque_plan *plan)
{
    if (plan->slots < 1 || plan->slots > CL_DEQUE_SLOTS || plan->slot_size < 1 || plan->slot_size > 1 << 30 ||
        plan->members < 1 || plan->members > CL_DEQUE_MEMBERS || plan->flags & ~CL_DEQUE_AT_MOST_ONCE)
        return -EINVAL;
    return plan->slots * stride_of(plan) > LARGEST ? -ENOMEM : 0;
}

int64_t cl_deque_describe(cl_deque_plan *plan, cl_segment_plan *out)
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
    out->kind = CL_SEGMENT_DEQUE;
    out->layout = LAYOUT;
    out->about = (const char *)plan;
    out->about_size = sizeof *plan;
    return check_plan(plan);
}

/* ---- who takes part -------------------------------------------------------------------------------------------------- */

static int clear_slot(cl_deque *deque, cl__slot *slot, cl__word word)
{
    cl__deque_memory *shared = deque->shared;
    int is_lost = deque->plan.flags & CL_DEQUE_AT_MOST_ONCE;
    uint64_t lap = cl__lap_of(word);
    CL_FAULT(276);
    /* Partner: the acquires of all who look at the slot. */
    if (!cl__swap_if(&slot->word, &word, is_lost ? cl__word_of(lap + 1, CL__EMPTY, 0) : cl__word_of(lap, CL__ORPHAN, 0)))
        return 0;
    cl__add_relaxed(is_lost ? &shared->lost : &shared->redelivered, 1);
    return 1;
}

/* A cl__clear. First the slots, then the place of the owner:
 *
 *     a successor takes the place     finds what the dead one was popping at its bottom, and pushes above it
 *
 * where no thief would look, as none goes past a POPPING. If we die in between, the dead one is in the table still, and all this
 * is done again. */
static int64_t clear_all(void *object, uint32_t index)
{
    cl_deque *deque = object;
    cl__deque_memory *shared = deque->shared;
    int64_t count = 0;
    for (uint64_t i = 0; i <= deque->mask; i++) {
        cl__slot *slot = cl__deque_slot(deque, i);
        CL_FAULT(277);
        cl__word word = cl__load_acquire(&slot->word); /* partner: its CAS, before its death */
        unsigned state = cl__state_of(word);
        if (cl__owner_of(word) == index && (state == CL__READING || state == CL__POPPING))
            count += clear_slot(deque, slot, word);
    }
    /* After the ORPHANs: a thief that saw the number and then no ORPHAN would not look again. */
    CL_FAULT(278);
    cl__add(&shared->repairs, 1); /* partner: the loads in claim_orphan and cl__deque_is_there */
    uint32_t owner = index;
    count += index && cl__swap_if(&shared->owner, &owner, 0); /* partner: the CAS in cl_deque_own */
    cl__deque_published(deque);
    return count;
}

int64_t cl_deque_join(cl_deque *deque)
{
    return cl__members_join(&deque->members);
}

void cl_deque_leave(cl_deque *deque)
{
    deque->reserved = 0;
    cl__members_leave(&deque->members);
}

int64_t cl_deque_recover(cl_deque *deque)
{
    return cl__members_recover(&deque->members);
}

int64_t cl_deque_blocked_by(const cl_deque *deque)
{
    uint32_t index = cl__load_relaxed(&deque->in_the_way);
    int64_t pid = cl__members_pid_of(&deque->members, index);
    return !index ? 0 : pid > 0 ? pid : -1;
}

/* ---- the owner --------------------------------------------------------------------------------------------------------- */

/* The least position that any slot is free for, or will be; see deque.c. Counted from top, as positions go round. */
static int64_t find_bottom(cl_deque *deque)
{
    uint64_t top = cl__load_acquire(&deque->shared->top); /* partner: its releases */
    int64_t least = INT64_MAX, slots = (int64_t)deque->mask + 1;
    for (int64_t i = 0; i < slots; i++) {
        cl__word word = cl__load_acquire(&cl__deque_slot(deque, (uint64_t)i)->word); /* partner: the exchange in commit */
        int64_t laps = cl__ahead(word, cl__deque_lap(deque, top)) >> 16;
        if (laps > 4 || laps < -4) { /* a scribbler's; and what is less cannot overflow */
            cl__store_relaxed(&deque->fault_word, word);
            cl__store_relaxed(&deque->fault_index, i);
            return -EBADMSG;
        }
        int64_t free_for = (laps + (cl__state_of(word) != CL__EMPTY)) * slots + i - (int64_t)(top & deque->mask);
        least = free_for < least ? free_for : least;
    }
    if (least < 0) /* all before top is passed, so no slot is free for that */
        return -EBADMSG;
    deque->bottom = top + (uint64_t)least;
    deque->seen_top = top;
    deque->reserved = 0;
    return 0;
}

static int64_t claim_place(cl_deque *deque)
{
    uint32_t owner = 0;
    CL_FAULT(279);
    if (cl__swap_if(&deque->shared->owner, &owner, deque->members.me)) /* partner: the release of the one before */
        return 1;
    cl__store_relaxed(&deque->in_the_way, owner);
    return owner == deque->members.me ? 0 : -EBUSY;
}

int64_t cl_deque_own(cl_deque *deque)
{
    int64_t rc = cl__members_is_joined(&deque->members);
    if (rc < 0)
        return rc;
    rc = claim_place(deque);
    if (rc == -EBUSY) {
        rc = cl__members_recover(&deque->members);
        rc = rc < 0 ? rc : claim_place(deque);
    }
    if (rc != 1)
        return rc;
    rc = find_bottom(deque);
    if (rc < 0) {
        cl__store_release(&deque->shared->owner, 0); /* partner: the CAS of the next */
        return rc;
    }
    cl__add_relaxed(&deque->shared->owners, 1);
    return 1;
}

/* What we have claimed at our end must not stop thieves at it, once others push above it. */
static void let_thieves_past(cl_deque *deque)
{
    for (uint64_t i = 0; i <= deque->mask; i++) {
        cl__slot *slot = cl__deque_slot(deque, i);
        cl__word word = cl__load_acquire(&slot->word); /* partner: our claims */
        if (cl__state_of(word) == CL__POPPING && cl__owner_of(word) == deque->members.me)
            cl__swap_if(&slot->word, &word, cl__word_of(cl__lap_of(word), CL__READING, deque->members.me)); /* cl_deque_release */
    }
}

int64_t cl_deque_disown(cl_deque *deque)
{
    int64_t rc = cl__members_is_joined(&deque->members);
    if (rc < 0)
        return rc;
    if (cl__load_relaxed(&deque->shared->owner) != deque->members.me) /* partner: our CAS in claim_place */
        return -EPERM;
    let_thieves_past(deque);
    deque->reserved = 0;
    cl__store_release(&deque->shared->owner, 0); /* partner: the CAS of the next */
    return 0;
}

/* ---- opening ----------------------------------------------------------------------------------------------------------- */

int64_t cl_deque_open(cl_deque **out, cl_segment *segment)
{
    cl_segment_report report;
    cl_deque_plan plan;
    cl_segment_report_of(segment, &report);
    if (!report.data || report.kind != CL_SEGMENT_DEQUE || report.layout != LAYOUT ||
        report.data_offset % CL__LINE != 0 || report.data_offset < CL_SEGMENT_ABOUT + (int64_t)sizeof plan)
        return -EBADMSG;
    memcpy(&plan, report.data - report.data_offset + CL_SEGMENT_ABOUT, sizeof plan); /* once: then it is checked */
    if (check_plan(&plan) < 0 || (plan.slots & (plan.slots - 1)) != 0 ||
        report.size != slots_offset(&plan) + plan.slots * stride_of(&plan))
        return -EBADMSG;
    cl_deque *deque = calloc(1, sizeof *deque);
    if (!deque)
        return -ENOMEM;
    deque->shared = (cl__deque_memory *)report.data;
    deque->slots = report.data + slots_offset(&plan);
    deque->stride = (size_t)stride_of(&plan);
    deque->mask = (uint64_t)plan.slots - 1;
    deque->shift = (unsigned)__builtin_ctzll((uint64_t)plan.slots);
    deque->plan = plan;
    cl_deque_set_spin(deque, CL__SPIN_NS);
    cl__members_open(&deque->members, segment, deque->shared + 1, plan.members, clear_all, deque);
    *out = deque;
    return 0;
}

void cl_deque_free(cl_deque *deque)
{
    if (!deque)
        return;
    cl__members_close(&deque->members);
    free(deque);
}

/* ---- waiting, and the end ------------------------------------------------------------------------------------------------ */

/* A cl__look: 1: somebody was dead, so try again. */
static int64_t is_somebody_dead(void *deque)
{
    int64_t rc = cl__members_ask_all(&((cl_deque *)deque)->members);
    return rc > 0 ? 1 : rc;
}

int64_t cl_deque_wait(cl_deque *deque, int64_t deadline)
{
    uint64_t slept;
    int64_t rc = cl__members_is_joined(&deque->members);
    if (rc < 0)
        return rc; /* and nothing is written: it may be read-only */
    return cl__wait(&deque->waiter, &deque->shared->not_empty, deadline, cl__deque_is_there, is_somebody_dead, deque, &slept);
}

void cl_deque_set_spin(cl_deque *deque, int64_t ns)
{
    ns = ns < CL__LOOK_NS ? ns : CL__LOOK_NS; /* no signal ends a spin */
    cl__store_relaxed(&deque->waiter.limit_ns, ns > 0 ? ns : 0);
}

int64_t cl_deque_shut(cl_deque *deque)
{
    if (deque->members.read_only)
        return -EACCES;
    CL_FAULT(275);
    cl__exchange(&deque->shared->shut, 1); /* partner: the loads in commit() and take_oldest() */
    cl__deque_published(deque);
    return 0;
}

/* ---- what is known ----------------------------------------------------------------------------------------------------- */

int64_t cl_deque_note(cl_deque *deque, int32_t what, int64_t count)
{
    if (deque->members.read_only || what < 0 || what > CL_DEQUE_EMPTY)
        return -EINVAL;
    cl__add_relaxed(&deque->shared->notes[what], (uint64_t)count); /* partner: none, they are counts */
    return 0;
}

int64_t cl_deque_plan_of(const cl_deque *deque, cl_deque_plan *out)
{
    *out = deque->plan;
    return 0;
}

static int64_t count_records(cl_deque *deque)
{
    int64_t size = 0;
    for (uint64_t i = 0; i <= deque->mask; i++) {
        unsigned state = cl__state_of(cl__load_relaxed(&cl__deque_slot(deque, i)->word)); /* partner: none: a count */
        size += state == CL__FULL || state == CL__READING || state == CL__ORPHAN || state == CL__POPPING;
    }
    return size;
}

/* All of them counts that nothing is ordered by: relaxed, without partners. */
int64_t cl_deque_report_of(cl_deque *deque, cl_deque_report *out)
{
    cl__deque_memory *shared = deque->shared;
    uint32_t owner = cl__load_relaxed(&shared->owner);
    int64_t pid = cl__members_pid_of(&deque->members, owner);
    *out = (cl_deque_report){
        .slots = deque->plan.slots,
        .slot_size = deque->plan.slot_size,
        .members = deque->plan.members,
        .flags = deque->plan.flags,
        .pushed = (int64_t)cl__load_relaxed(&shared->pushed),
        .popped = (int64_t)cl__load_relaxed(&shared->popped),
        .most = (int64_t)cl__load_relaxed(&shared->most),
        .failed_pushes = (int64_t)cl__load_relaxed(&shared->notes[CL_DEQUE_FULL]),
        .failed_takes = (int64_t)cl__load_relaxed(&shared->notes[CL_DEQUE_EMPTY]),
        .recoveries = (int64_t)cl__load_relaxed(&deque->members.shared->recoveries),
        .redelivered = (int64_t)cl__load_relaxed(&shared->redelivered),
        .lost = (int64_t)cl__load_relaxed(&shared->lost),
        .owners = (int64_t)cl__load_relaxed(&shared->owners),
        .owner = !owner ? 0 : pid > 0 ? pid : -1,
        .last_dead = cl__load_relaxed(&deque->members.shared->last_dead),
        .joined = cl__members_joined(&deque->members),
        .shut = cl__load_relaxed(&shared->shut) != 0,
        .me = cl__members_is_joined(&deque->members) == 0 ? deque->members.me : 0,
        .blocked_by = cl_deque_blocked_by(deque),
        .fault_word = cl__load_relaxed(&deque->fault_word),
        .fault_index = cl__load_relaxed(&deque->fault_index),
        .size = count_records(deque),
    };
    /* Not as a signed sum: the counts may be a scribbler's. */
    out->stolen = (int64_t)((uint64_t)out->pushed - (uint64_t)out->popped - (uint64_t)out->lost - (uint64_t)out->size);
    out->stolen = out->stolen > 0 ? out->stolen : 0; /* of a moving deque */
    out->is_owner = out->me && out->me == owner;
    return 0;
}
