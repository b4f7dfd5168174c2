/* Who takes part, and what becomes of the dead.
 *
 * A participant is an index, 1 to `count`. It has the lease of that index (a lock of one byte, which the kernel frees when
 * its process is gone), then its pid in the table, and only then claims anything. It leaves in the other order. So whoever
 * holds something stands in the table; and who stands there without a lease is dead.
 *
 * recover(x): take x's lease, without waiting, through a description of our own that nobody else has. If that succeeds x is
 * dead, and nobody can become x, nor recover x, before we give it back: not another thread or object of this process either,
 * for each has another description. Then the object clears what x held, x leaves the table, and the lease goes back. If we are
 * killed in between, the kernel gives the lease back, x is still in the table, and the next one does all of it again: what is
 * cleared is x's no more.
 *
 * No fork while we have x's lease: the child would share the description, and if we were killed then, x would seem to live
 * for as long as that child. That is what cl__segments_hold_still is for; and the lease is unlocked rather than only closed.
 *
 * When to ask. Asking is a system call (0.3 us for each participant), so it is done only by a call that would say -EAGAIN: for
 * the owner of what is in its way, and, where that may be anybody, for all in the table. And that not at every such call, but
 * ASK_NS after the last time, which costs those who try in a loop a look at the clock. So who tries again every millisecond
 * gets past what a dead one held 1.5 ms after the death, and a scheduling delay. Where there are so many participants that
 * asking them all takes long, it is done less often: at most a sixteenth of the time, at least every 50 ms. */
#include "members.h"

#include <string.h>
#include <unistd.h>

#define ASK_NS 500000
#define ASK_RARELY_NS 50000000
#define NAP_NS 1000000
enum { ASK_SHARE = 16, LOOKS = 5 };

void cl__members_open(cl__members *members, cl_segment *segment, void *memory, int32_t count, cl__clear *clear, void *object)
{
    cl_segment_report report;
    cl_segment_report_of(segment, &report);
    memset(members, 0, sizeof *members);
    members->segment = segment;
    members->shared = memory;
    members->count = count;
    members->read_only = report.read_only;
    members->generation = cl__segment_generation(segment);
    members->clear = clear;
    members->object = object;
    for (int i = 0; i < CL__BELLS; i++)
        members->bells[i] = (cl__bell){.ends = {-1, -1}};
    for (int i = 0; i < CL__RINGERS; i++)
        members->ringers[i].fd = -1;
}

static void close_bells(cl__members *members)
{
    for (int i = 0; i < CL__BELLS; i++)
        cl__bell_close(&members->bells[i]);
}

void cl__members_close(cl__members *members)
{
    cl__members_leave(members);
    close_bells(members); /* those of our parent's, if we are the child of a fork */
    for (int i = 0; i < CL__RINGERS; i++)
        cl__ringer_close(&members->ringers[i]);
}

/* Of an index that a scribbler made up there is no entry. */
static cl__member *entry_of(const cl__members *members, uint32_t index)
{
    return index >= 1 && index <= (uint32_t)members->count ? &members->shared->table[index] : NULL;
}

static int32_t highest(const cl__members *members)
{
    uint32_t found = cl__load_acquire(&members->shared->highest); /* partner: the CAS in join_as */
    return found <= (uint32_t)members->count ? (int32_t)found : members->count;
}

static void note_death(cl__members *members, int64_t pid)
{
    cl__add_relaxed(&members->shared->recoveries, 1); /* partner: none, these two are told to people only */
    cl__store_relaxed(&members->shared->last_dead, pid);
}

/* ---- joining and leaving ----------------------------------------------------------------------------------------------- */

/* What was ours in the parent of a fork: its bells are rung for the parent. */
static void forget_the_parent(cl__members *members)
{
    close_bells(members);
    cl__store_relaxed(&members->is_ringing, 0); /* a thread that is not here may have been about it */
}

/* 1: we are that one now. */
static int64_t join_as(cl__members *members, int32_t index)
{
    cl__members_memory *shared = members->shared;
    int64_t rc = cl__segment_take_part(members->segment, index);
    if (rc != 1)
        return rc;
    CL_FAULT(124);
    int64_t pid = cl__load_acquire(&shared->table[index].pid); /* partner: the releases here, in recover() and in leave */
    if (pid) { /* whoever that was has died, and what it held must not seem to be ours */
        members->clear(members->object, (uint32_t)index);
        note_death(members, pid);
    }
    CL_FAULT(129);
    uint32_t found = cl__load_relaxed(&shared->highest);
    while (found < (uint32_t)index && !cl__swap_if(&shared->highest, &found, (uint32_t)index)) /* partner: highest() */
        continue;
    cl__store_relaxed(&shared->table[index].asks, 0);
    CL_FAULT(125);
    cl__store_release(&shared->table[index].pid, cl__sys_getpid()); /* partner: the acquires of those who ask all */
    members->me = (uint32_t)index;
    members->joined = cl__load_relaxed(members->generation); /* partner: none, of this process only */
    return 1;
}

int64_t cl__members_join(cl__members *members)
{
    int64_t rc = cl__members_is_joined(members);
    if (rc == 0)
        return members->me;
    if (members->read_only)
        return -EACCES;
    if (rc == -ESTALE)
        forget_the_parent(members);
    rc = members->has_membarrier ? cl__membarrier_register() : 0; /* before we are in the table, and publish anything */
    if (rc < 0)
        return rc;
    /* First those that nobody is, then any: somebody was that one, or has left it since. And some milliseconds longer, as a
     * lease that is taken need not be a living participant's:
     *
     *     A: recovers 3, and so has its lease     B: all leases are taken     A: gives 3's back     B: all of them live? */
    for (int look = 0; look < LOOKS; look++) {
        if (look > 1)
            cl__sys_nap(NAP_NS);
        for (int32_t index = 1; index <= members->count; index++) {
            if (!look && cl__load_relaxed(&members->shared->table[index].pid)) /* partner: none, the lease decides */
                continue;
            rc = join_as(members, index);
            if (rc != 0)
                return rc < 0 ? rc : members->me;
        }
        CL_FAULT(133);
    }
    return -EUSERS;
}

void cl__members_leave(cl__members *members)
{
    if (cl__members_is_joined(members) == 0) {
        members->clear(members->object, members->me);
        CL_FAULT(126);
        cl__store_release(&members->shared->table[members->me].pid, 0); /* partner: the acquire in join_as */
        cl__segment_drop_part(members->segment, (int)members->me);
        close_bells(members);
    }
    members->me = 0;
}

/* ---- the dead ---------------------------------------------------------------------------------------------------------- */

static void clear_the_dead(cl__members *members, uint32_t index)
{
    cl__member *entry = entry_of(members, index);
    int64_t pid = entry ? cl__load_acquire(&entry->pid) : 0; /* partner: the release in join_as */
    if (members->clear(members->object, index) || pid) /* neither: somebody has done it since we asked */
        note_death(members, pid);
    CL_FAULT(127);
    if (entry)
        cl__store_release(&entry->pid, 0); /* partner: the acquire in join_as */
}

/* 1: it was dead, and is recovered; 0: somebody has its lease by now. */
static int64_t recover(cl__members *members, uint32_t index)
{
    cl__segments_hold_still();
    int64_t own = cl__segment_open_bare(members->segment), rc = own;
    if (own >= 0) {
        rc = cl__lease_take_part((int)own, (int)index);
        if (rc == 1) {
            clear_the_dead(members, index);
            cl__lease_drop_part((int)own, (int)index);
        }
        cl__segment_close_bare(members->segment, (int)own);
    }
    cl__segments_go_on();
    return rc;
}

/* Index 0 is nobody's, so nobody has its lease: what a scribbler wrote is cleared like what a dead one held.
 *
 * Without a lock against those who leave, as a thread that waits asks:
 *
 *     A: waits, asks     B: closes the object: leaves, closes the descriptor     A: it is gone, or another file's
 *
 * So whatever fails may only say that we are none any more. What is another file's by then leads nowhere: recover() has a lock
 * against that. */
static int64_t ask(cl__members *members, uint32_t index)
{
    if (index == members->me)
        return 0;
    int64_t rc = cl__segment_part_is_held(members->segment, (int)index);
    rc = rc == 0 ? recover(members, index) : rc < 0 ? rc : 0;
    int64_t is_left = rc < 0 ? cl__members_is_joined(members) : 0;
    return is_left < 0 ? is_left : rc;
}

static int is_due(_Atomic int64_t *last_time, int64_t every, int64_t *now)
{
    int64_t last = cl__load_relaxed(last_time);
    *now = cl__sys_now();
    return *now - last >= every && cl__swap_if(last_time, &last, *now); /* partner: another thread's: one of them asks */
}

int64_t cl__members_ask_one(cl__members *members, uint32_t index)
{
    int64_t now;
    return index != members->me && is_due(&members->owner_asked_at, ASK_NS, &now) ? ask(members, index) : 0;
}

static int64_t ask_all(cl__members *members)
{
    int64_t found = 0;
    int32_t last = highest(members);
    for (int32_t index = 1; index <= last; index++) {
        CL_FAULT(128);
        if (cl__load_acquire(&members->shared->table[index].pid) == 0) /* partner: the release in join_as */
            continue;
        int64_t rc = ask(members, (uint32_t)index);
        if (rc < 0)
            return rc;
        found += rc;
    }
    return found;
}

int64_t cl__members_ask_all(cl__members *members)
{
    int64_t now, every = cl__load_relaxed(&members->ask_all_every);
    if (!is_due(&members->all_asked_at, every > ASK_NS ? every : ASK_NS, &now))
        return 0;
    int64_t rc = ask_all(members);
    every = (cl__sys_now() - now) * ASK_SHARE;
    cl__store_relaxed(&members->ask_all_every, every < ASK_RARELY_NS ? every : ASK_RARELY_NS); /* partner: none, a hint */
    return rc;
}

int64_t cl__members_recover(cl__members *members)
{
    int64_t rc = cl__members_is_joined(members);
    return rc < 0 ? rc : ask_all(members);
}

int64_t cl__members_pid_of(const cl__members *members, uint32_t index)
{
    cl__member *entry = entry_of(members, index);
    return entry ? cl__load_relaxed(&entry->pid) : 0; /* partner: none, it is told to people only */
}

int64_t cl__members_joined(const cl__members *members)
{
    int64_t found = 0;
    for (int32_t index = 1; index <= highest(members); index++)
        found += cl__load_relaxed(&members->shared->table[index].pid) != 0;
    return found;
}

int32_t cl__members_highest(const cl__members *members)
{
    return highest(members);
}

/* ---- bells --------------------------------------------------------------------------------------------------------------
 *
 *     waiter: asks |= bell; word |= POLL; looks     publisher: publishes; takes POLL out of the word; rings for all who ask
 *
 * A waiter whose POLL was taken out has its bit in `asks` by then, so it is rung; one that or-s POLL in later looks later. Each
 * has a bell of its own, and who asks is found by going through the table: there is no list that a killed one could break. */

int64_t cl__members_poll_fd(cl__members *members, int bell)
{
    int64_t rc = cl__members_is_joined(members);
    return rc < 0 ? rc : cl__bell_open(&members->bells[bell], &members->shared->table[members->me].bells[bell]);
}

void cl__members_silence(cl__members *members, int bell)
{
    cl__bell_silence(&members->bells[bell]);
}

int64_t cl__members_arm(cl__members *members, _Atomic uint32_t *word, int bell)
{
    int64_t rc = cl__members_is_joined(members);
    if (rc < 0)
        return rc;
    if (members->bells[bell].ends[0] < 0)
        return -EBADF;
    CL_FAULT(130);
    cl__or(&members->shared->table[members->me].asks, 1U << bell); /* partner: the fetch_and in ring_for */
    CL_FAULT(131);
    cl__or(word, CL__POLL); /* W2; partner: W3 in cl__members_published */
    CL_FAULT(352);
    return members->has_membarrier ? cl__membarrier() : 0; /* B; W4 is the caller's look */
}

/* One descriptor that we keep for each of a few bells; several threads may publish, and one of them has those. */
static void ring_for(cl__members *members, cl__member *member, int32_t index, int bell, int may_keep)
{
    CL_FAULT(132);
    if (!(cl__and(&member->asks, ~(1U << bell)) & 1U << bell)) /* partner: the fetch_or in cl__members_arm */
        return;
    cl__ringer once = {.fd = -1};
    cl__bell_ring(may_keep ? &members->ringers[index % CL__RINGERS] : &once, &member->bells[bell]);
    cl__ringer_close(&once);
}

static void ring_all(cl__members *members, int bell)
{
    int may_keep = !cl__exchange_acq_rel(&members->is_ringing, 1); /* partner: the release below, of another thread */
    int32_t last = highest(members);
    for (int32_t index = 1; index <= last; index++) {
        cl__member *member = &members->shared->table[index];
        if (cl__load(&member->asks) & 1U << bell) /* partner: the fetch_or in cl__members_arm, which was before POLL */
            ring_for(members, member, index, bell, may_keep);
    }
    if (may_keep)
        cl__store_release(&members->is_ringing, 0); /* partner: the exchange above */
}

uint32_t cl__members_serve(cl__members *members, _Atomic uint32_t *word, int bell)
{
    uint32_t asked = cl__serve(word);
    if (asked & CL__POLL)
        ring_all(members, bell);
    return asked;
}
