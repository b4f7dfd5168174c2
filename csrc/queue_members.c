/* Who takes part in a queue, and what becomes of the dead.
 *
 * A participant is an index, 1 to `members`. It has the lease of that index (a lock of one byte, which the kernel frees when
 * its process is gone), then its pid in the table, and only then claims slots. It leaves in the other order. So whoever holds
 * a slot stands in the table; and who stands there without a lease is dead.
 *
 * recover(x): take x's lease, without waiting, through a description of our own that nobody else has. If that succeeds x is
 * dead, and nobody can become x, nor recover x, before we give it back: not another thread or object of this process either,
 * for each has another description. Then one CAS for each slot of x, "there may be ORPHANs", x out of the table, and the
 * lease back. If we are killed in between, the kernel gives the lease back, x is still in the table, and the next one does all
 * of it again: a slot that is done is x's no more.
 *
 * No fork while we have x's lease: the child would share the description, and if we were killed then, x would seem to live
 * for as long as that child. That is what cl__segments_hold_still is for; and the lease is unlocked rather than only closed.
 *
 * When to ask. Asking is a system call (0.3 us for each participant), so it is done only by a call that would say -EAGAIN:
 * a put asks for the owner of the slot in its way; a get for the owner of the slot at the head, and for all in the table, as
 * a dead consumer's record may lie anywhere. And that not at every such call, but ASK_NS after the last time, which costs
 * those who try in a loop a look at the clock. So who tries again every millisecond gets past a slot of a dead one 1.5 ms
 * after the death, and a scheduling delay. Where there are so many participants that asking them all takes long, it is done
 * less often: at most a sixteenth of the time, at least every 50 ms. */
#include "queue.h"

#include <unistd.h>

#define ASK_NS 500000
#define ASK_RARELY_NS 50000000
enum { ASK_SHARE = 16 };

/* ---- the slots of one owner ------------------------------------------------------------------------------------------- */

static int clear_slot(cl_queue *queue, cl__slot *slot, cl__word word)
{
    cl__queue_memory *shared = queue->shared;
    uint64_t lap = cl__lap_of(word);
    int is_writing = cl__state_of(word) == CL__WRITING, is_lost = queue->plan.flags & CL_QUEUE_AT_MOST_ONCE;
    cl__word then = is_writing ? cl__word_of(lap, CL__TOMBSTONE, 0)
                    : is_lost  ? cl__word_of(lap + 1, CL__EMPTY, 0)
                               : cl__word_of(lap, CL__ORPHAN, 0);
    CL_FAULT(121);
    if (!cl__swap_if(&slot->word, &word, then)) /* partner: the acquires of all who look at the slot */
        return 0;
    cl__add_relaxed(is_writing ? &shared->tombstones : is_lost ? &shared->lost : &shared->redelivered, 1);
    return 1;
}

/* By whoever has the owner's lease: it is dead, or it is us. How many it held. */
static int clear_slots(cl_queue *queue, uint32_t owner)
{
    cl__queue_memory *shared = queue->shared;
    int count = 0;
    for (uint64_t i = 0; i <= queue->mask; i++) {
        cl__slot *slot = cl__slot_at(queue, i);
        CL_FAULT(122);
        cl__word word = cl__load_acquire(&slot->word); /* partner: the owner's CAS, before its death */
        unsigned state = cl__state_of(word);
        if (cl__owner_of(word) == owner && (state == CL__WRITING || state == CL__READING))
            count += clear_slot(queue, slot, word);
    }
    /* After the ORPHANs: a consumer that saw the number and then no ORPHAN would never look again. Before the owner leaves
     * the table: if we die here it is still there, and all this is done again. */
    CL_FAULT(123);
    cl__add_release(&shared->repairs, 1); /* partner: the acquire in claim_orphan */
    cl__queue_published(&shared->not_empty);
    cl__queue_published(&shared->not_full);
    return count;
}

static void note_death(cl_queue *queue, int64_t pid)
{
    cl__add_relaxed(&queue->shared->recoveries, 1); /* partner: none, these two are told to people only */
    cl__store_relaxed(&queue->shared->last_dead, pid);
}

/* ---- joining and leaving ----------------------------------------------------------------------------------------------- */

/* 1: we are that one now. */
static int64_t join_as(cl_queue *queue, int32_t index)
{
    cl__queue_memory *shared = queue->shared;
    int64_t rc = cl__segment_take_part(queue->segment, index);
    if (rc != 1)
        return rc;
    CL_FAULT(124);
    int64_t pid = cl__load_acquire(&shared->members[index]); /* partner: the releases here, in recover() and in leave */
    if (pid) { /* whoever that was has died, and what it held must not seem to be ours */
        clear_slots(queue, (uint32_t)index);
        note_death(queue, pid);
    }
    CL_FAULT(125);
    cl__store_release(&shared->members[index], cl__sys_getpid()); /* partner: the acquires of those who ask all */
    queue->me = (uint32_t)index;
    queue->joined = *queue->generation;
    return 1;
}

int64_t cl_queue_join(cl_queue *queue)
{
    if (cl__queue_is_joined(queue) == 0)
        return queue->me;
    if (queue->read_only)
        return -EACCES;
    /* First those that nobody is, then those that somebody was. */
    for (int dead = 0; dead < 2; dead++) {
        for (int32_t index = 1; index <= queue->plan.members; index++) {
            if ((cl__load_relaxed(&queue->shared->members[index]) != 0) != dead) /* partner: none, the lease decides */
                continue;
            int64_t rc = join_as(queue, index);
            if (rc != 0)
                return rc < 0 ? rc : queue->me;
        }
    }
    return -EUSERS;
}

void cl_queue_leave(cl_queue *queue)
{
    if (cl__queue_is_joined(queue) == 0) {
        clear_slots(queue, queue->me);
        CL_FAULT(126);
        cl__store_release(&queue->shared->members[queue->me], 0); /* partner: the acquire in join_as */
        cl__segment_drop_part(queue->segment, (int)queue->me);
    }
    queue->me = 0;
}

/* ---- the dead ---------------------------------------------------------------------------------------------------------- */

/* Of an index that a scribbler made up there is no entry. */
static _Atomic int64_t *entry_of(const cl_queue *queue, uint32_t index)
{
    return index >= 1 && index <= (uint32_t)queue->plan.members ? &queue->shared->members[index] : NULL;
}

static void clear_the_dead(cl_queue *queue, uint32_t index)
{
    _Atomic int64_t *entry = entry_of(queue, index);
    int64_t pid = entry ? cl__load_acquire(entry) : 0; /* partner: the release in join_as */
    if (clear_slots(queue, index) || pid) /* neither: somebody has done it since we asked */
        note_death(queue, pid);
    CL_FAULT(127);
    if (entry)
        cl__store_release(entry, 0); /* partner: the acquire in join_as */
}

/* 1: it was dead, and is recovered; 0: somebody has its lease by now. */
static int64_t recover(cl_queue *queue, uint32_t index)
{
    cl__segments_hold_still();
    int64_t own = cl__lease_open_bare(cl__segment_fd(queue->segment)), rc = own;
    if (own >= 0) {
        rc = cl__lease_take_part((int)own, (int)index);
        if (rc == 1) {
            clear_the_dead(queue, index);
            cl__lease_drop_part((int)own, (int)index);
        }
        close((int)own);
    }
    cl__segments_go_on();
    return rc;
}

/* Index 0 is nobody's, so nobody has its lease: what a scribbler wrote is cleared like what a dead one held. */
static int64_t ask(cl_queue *queue, uint32_t index)
{
    if (index == queue->me)
        return 0;
    int64_t held = cl__segment_part_is_held(queue->segment, (int)index);
    return held ? held < 0 ? held : 0 : recover(queue, index);
}

static int is_due(_Atomic int64_t *last_time, int64_t every, int64_t *now)
{
    int64_t last = cl__load_relaxed(last_time);
    *now = cl__sys_now();
    return *now - last >= every && cl__swap_if(last_time, &last, *now); /* partner: another thread's: one of them asks */
}

int64_t cl__queue_ask_owner(cl_queue *queue, uint32_t owner)
{
    int64_t now;
    return owner != queue->me && is_due(&queue->owner_asked_at, ASK_NS, &now) ? ask(queue, owner) : 0;
}

static int64_t ask_all(cl_queue *queue)
{
    int64_t found = 0;
    for (int32_t index = 1; index <= queue->plan.members; index++) {
        CL_FAULT(128);
        if (cl__load_acquire(&queue->shared->members[index]) == 0) /* partner: the release in join_as */
            continue;
        int64_t rc = ask(queue, (uint32_t)index);
        if (rc < 0)
            return rc;
        found += rc;
    }
    return found;
}

int64_t cl__queue_ask_all(cl_queue *queue)
{
    int64_t now, every = cl__load_relaxed(&queue->ask_all_every);
    if (!is_due(&queue->all_asked_at, every > ASK_NS ? every : ASK_NS, &now))
        return 0;
    int64_t rc = ask_all(queue);
    every = (cl__sys_now() - now) * ASK_SHARE;
    cl__store_relaxed(&queue->ask_all_every, every < ASK_RARELY_NS ? every : ASK_RARELY_NS); /* partner: none, a hint */
    return rc;
}

int64_t cl_queue_recover(cl_queue *queue)
{
    int64_t rc = cl__queue_is_joined(queue);
    return rc < 0 ? rc : ask_all(queue);
}

int64_t cl_queue_blocked_by(const cl_queue *queue)
{
    uint32_t index = cl__load_relaxed(&queue->in_the_way);
    if (!index)
        return 0;
    _Atomic int64_t *entry = entry_of(queue, index);
    int64_t pid = entry ? cl__load_relaxed(entry) : 0; /* partner: none, it is told to people only */
    return pid > 0 ? pid : -1;
}
