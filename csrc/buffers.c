/* Pools of buffers: what becomes of a block.
 *
 *     acquire:  0 -> NEW | me             one CAS: claimed and owned at once, nothing is ever held that the word does not say
 *               generation += 1           while nobody else can join it
 *               NEW | me -> me            a store
 *     hold:     w -> w | me               unless w is 0 or NEW; then the generation must be the one that was asked for, else
 *                                         the bit is taken back
 *     release:  w -> w & ~me              by the last reference of that participant; if nothing is left, it is free
 *     send:     tokens of me += 1
 *     take:     hold; then tokens of the sender -= 1
 *     clear(x): w -> w & ~x, and without x's tokens
 *
 * Who holds a block stands in its word, so whatever a dead one held is found there, and taken from there by one CAS a block that
 * may be done again. Several references of one participant are counted in its own memory: they die with it.
 *
 * A handle is an index and a generation. It cannot lead to another's data:
 *
 *     A: hold: sees B's bit, and the generation that it wants     B: releases     C: acquires     A: its CAS fails: another word
 *     ... and C's word is the one that A saw (C is B, again)      A: its CAS goes through, and then it sees C's generation
 *
 * From A's CAS on the block cannot be freed, so what A sees then stays so. All A has done is to hold somebody's block for a moment;
 * if it dies in it, A's bit goes as any other of A's.
 *
 * A token is a reference that waits on its sender's lease for whoever takes it. Before that, the sender holds the block (the word
 * has its index); after it, the taker does; in between both do, never neither. If the sender dies before, its tokens die with it,
 * and the taker is told. There is one sender's index in a word, so a second one must wait until the first one's are taken.
 *
 * The hints say where to look; they are not believed. One bit for each block that may be free, set after its word has become 0:
 *
 *     F1 word = 0    F2 hint on                C1 CAS of the word fails    C2 hint off    C3 the word is 0? hint on
 *
 * If C2 comes after F2, then F1 comes before C3, which sees it; else the bit stays. So a free block has its bit, or somebody is
 * about to set it, or has died over that: the recovery of a dead one sets the bits of all that are free. Whoever is stopped there
 * (SIGSTOP) is not dead; so who is about to sleep looks at all the words, for a sixteenth of its time at most.
 *
 * Memory goes back to the system while the trimmer has the block under NEW; `is_absent` is set before and reset after, so at worst
 * it says so of memory that is there. Who acquires such a block reserves its memory, under NEW, before he touches it: what the
 * system cannot give is an error then, no SIGBUS later. */
#include "buffers.h"

#include <string.h>
#include <sys/statvfs.h>

enum { TIME_EVERY = 64, LOOK_SHARE = 16, LOOK_ALL_NS = 500000 };
#define RESERVE_STEP (64LL << 20)

void cl__buffers_forget(cl_buffers *pool)
{
    memset(pool->counts, 0, (size_t)pool->plan.blocks * sizeof *pool->counts);
    pool->references = 0;
    pool->is_leaving = 0;
    pool->epoch++;
}

/* As a participant, with the lock: 0, and it is held; else it is not. In the child of a fork it may be held for ever. */
static int64_t lock_joined(cl_buffers *pool)
{
    int64_t rc = cl__members_is_joined(&pool->members);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&pool->lock);
    rc = cl__members_is_joined(&pool->members); /* another thread may have left since */
    if (rc < 0)
        pthread_mutex_unlock(&pool->lock);
    return rc;
}

/* The same, for what begins something: not while we leave. */
static int64_t enter(cl_buffers *pool)
{
    int64_t rc = lock_joined(pool);
    if (rc == 0 && pool->is_leaving) {
        pthread_mutex_unlock(&pool->lock);
        rc = -ENOTCONN;
    }
    return rc;
}

static void leave_if_done(cl_buffers *pool)
{
    if (pool->is_leaving && pool->references == 0) {
        cl__members_leave(&pool->members);
        cl__buffers_forget(pool);
    }
}

int64_t cl_buffers_leave(cl_buffers *pool)
{
    int64_t rc = cl__members_is_joined(&pool->members);
    if (rc < 0)
        return 1;
    pthread_mutex_lock(&pool->lock);
    pool->is_leaving = 1;
    leave_if_done(pool);
    rc = !pool->is_leaving;
    pthread_mutex_unlock(&pool->lock);
    return rc;
}

/* ---- hints --------------------------------------------------------------------------------------------------------- */

/* Its word has become 0: F2. */
static void offer(cl_buffers *pool, enum cl__hints row, int64_t index)
{
    CL_FAULT(280);
    cl__buffers_hint(pool, row, index, 1);
    cl__members_published(&pool->members, &pool->shared->freed, 0);
}

/* A hint that was wrong, or seemed so. */
static void take_hint_back(cl_buffers *pool, enum cl__hints row, int64_t index)
{
    CL_FAULT(281);
    cl__buffers_hint(pool, row, index, 0); /* C2 */
    CL_FAULT(282);
    if (cl__load(&pool->blocks[index].word) == 0) /* C3; partner: whatever made it 0 */
        offer(pool, row, index);
}

/* ---- claiming ------------------------------------------------------------------------------------------------------ */

static void count_allocated(cl_buffers *pool)
{
    /* Not as a signed sum: what stood there may be a scribbler's. */
    int64_t now = (int64_t)((uint64_t)cl__add_relaxed(&pool->shared->allocated, 1) + 1), peak = cl__load_relaxed(&pool->shared->peak);
    while (now > peak && !cl__swap_if(&pool->shared->peak, &peak, now))
        continue;
}

/* 1: we have it under NEW. Under the lock; the caller counts a reference, so that we stay who we are. */
static int claim(cl_buffers *pool, enum cl__hints row, int64_t index)
{
    uint64_t free_word = 0;
    CL_FAULT(283);
    /* Partner: whatever made it 0. What its last holder wrote is before us. */
    if (!cl__swap_if(&pool->blocks[index].word, &free_word, CL__NEW | cl__holder(pool->members.me)))
        return 0;
    CL_FAULT(284);
    cl__buffers_hint(pool, row, index, 0);
    return 1;
}

static void unclaim(cl_buffers *pool, enum cl__hints row, int64_t index)
{
    CL_FAULT(285);
    cl__store_release(&pool->blocks[index].word, 0); /* F1; partner: the CAS in claim */
    offer(pool, row, index);
}

static void fill(const cl_buffers *pool, int64_t index, uint64_t generation, cl_buffers_ref *ref)
{
    ref->data = pool->data + index * (int64_t)pool->stride;
    ref->offset = ref->data - (uint8_t *)pool->shared;
    ref->index = index;
    ref->generation = generation;
    ref->epoch = pool->epoch;
}

/* It is ours. Under the lock. */
static void settle(cl_buffers *pool, int64_t index, cl_buffers_ref *ref)
{
    cl__block *block = &pool->blocks[index];
    uint64_t generation = cl__load_relaxed(&block->generation) + 1; /* partner: none: nobody else may write it */
    CL_FAULT(286);
    cl__store_relaxed(&block->generation, generation ? generation : 1);
    count_allocated(pool);
    pool->counts[index]++; /* from 0, unless a scribbler has freed what we hold: then both are ours */
    pool->references++;
    fill(pool, index, generation ? generation : 1, ref);
    CL_FAULT(287);
    /* A store: under NEW others can only take bits of the dead out, which are not in it. Partner: the CAS in join. */
    cl__store_release(&block->word, cl__holder(pool->members.me));
}

/* 0, or -EAGAIN. Those that turn out to have no memory go to the other row. */
static int64_t try_warm(cl_buffers *pool, cl_buffers_ref *ref)
{
    for (int64_t i = 0, word = pool->start; i < pool->hint_words; i++, word = word + 1 < pool->hint_words ? word + 1 : 0) {
        for (uint64_t bits = cl__buffers_hints_in(pool, CL__WARM, word); bits; bits &= bits - 1) {
            int64_t index = word * 64 + __builtin_ctzll(bits);
            if (!claim(pool, CL__WARM, index)) {
                take_hint_back(pool, CL__WARM, index);
            } else if (cl__load_relaxed(&pool->blocks[index].is_absent)) { /* partner: none: NEW is ours */
                unclaim(pool, CL__COLD, index);
            } else {
                settle(pool, index, ref);
                pool->start = word;
                return 0;
            }
        }
    }
    return -EAGAIN;
}

int64_t cl_buffers_try_acquire(cl_buffers *pool, cl_buffers_ref *ref)
{
    int is_timed = cl__add_relaxed(&pool->turns, 1) % TIME_EVERY == 0;
    int64_t began = is_timed ? cl__sys_now() : 0, rc = enter(pool);
    if (rc < 0)
        return rc;
    rc = try_warm(pool, ref);
    pthread_mutex_unlock(&pool->lock);
    if (is_timed && rc == 0) {
        cl__add_relaxed(&pool->shared->timed, 1);
        cl__add_relaxed(&pool->shared->timed_ns, (uint64_t)(cl__sys_now() - began));
    }
    return rc;
}

/* Step by step: the kernel gives back all that one call has reserved when a signal comes. */
static int64_t reserve(cl_buffers *pool, int64_t index)
{
    int64_t at = pool->file_offset + index * (int64_t)pool->stride, left = (int64_t)pool->stride, rc = 0;
    for (; left > 0 && rc >= 0; at += RESERVE_STEP, left -= RESERVE_STEP)
        rc = cl__memory_take_back(cl__segment_fd(pool->members.segment), at, left < RESERVE_STEP ? left : RESERVE_STEP);
    return rc;
}

/* The system's calls are made without the lock; a reference is counted meanwhile, and so we do not leave. */
static int64_t try_cold_one(cl_buffers *pool, int64_t index, cl_buffers_ref *ref)
{
    int64_t rc = enter(pool);
    if (rc < 0)
        return rc;
    int has = claim(pool, CL__COLD, index);
    pool->references += has;
    if (!has)
        take_hint_back(pool, CL__COLD, index);
    pthread_mutex_unlock(&pool->lock);
    if (!has)
        return -EAGAIN;
    CL_FAULT(288);
    rc = cl__load_relaxed(&pool->blocks[index].is_absent) ? reserve(pool, index) : 0; /* partner: none: NEW is ours */
    pthread_mutex_lock(&pool->lock);
    pool->references--;
    if (rc < 0) {
        unclaim(pool, CL__COLD, index);
        leave_if_done(pool);
    } else {
        CL_FAULT(289);
        cl__store_relaxed(&pool->blocks[index].is_absent, 0);
        settle(pool, index, ref);
    }
    pthread_mutex_unlock(&pool->lock);
    return rc < 0 ? rc : 0;
}

static int64_t try_cold(cl_buffers *pool, cl_buffers_ref *ref)
{
    for (int64_t word = 0; word < pool->hint_words; word++) {
        for (uint64_t bits = cl__buffers_hints_in(pool, CL__COLD, word); bits; bits &= bits - 1) {
            int64_t rc = try_cold_one(pool, word * 64 + __builtin_ctzll(bits), ref);
            if (rc != -EAGAIN)
                return rc;
        }
    }
    return -EAGAIN;
}

static int64_t try_all(cl_buffers *pool, cl_buffers_ref *ref)
{
    int64_t rc = cl_buffers_try_acquire(pool, ref);
    return rc == -EAGAIN ? try_cold(pool, ref) : rc;
}

/* ---- waiting ------------------------------------------------------------------------------------------------------- */

static int64_t look(void *object)
{
    cl_buffers *pool = object;
    for (int64_t word = 0; word < CL__HINTS * pool->hint_words; word++) {
        if (cl__buffers_hints_in(pool, word >= pool->hint_words, word % pool->hint_words))
            return 1;
    }
    return 0;
}

/* F2 or C3 may be those of one who is stopped before it. */
static void look_at_all(cl_buffers *pool)
{
    int64_t began = cl__sys_now(), found = 0;
    if (began < cl__load_relaxed(&pool->look_all_at)) /* partner: none: another thread of ours */
        return;
    for (int64_t index = 0; index < pool->plan.blocks; index++)
        found += cl__buffers_hint_if_free(pool, index);
    if (found)
        cl__members_published(&pool->members, &pool->shared->freed, 0);
    int64_t now = cl__sys_now(), pause = (now - began) * LOOK_SHARE;
    cl__store_relaxed(&pool->look_all_at, now + (pause > LOOK_ALL_NS ? pause : LOOK_ALL_NS));
}

static int64_t ask(void *object)
{
    cl_buffers *pool = object;
    look_at_all(pool);
    int64_t rc = cl__members_ask_all(&pool->members);
    return rc < 0 ? rc : 0; /* what the dead had held is offered, and seen by the next look */
}

static int64_t keep_trying(cl_buffers *pool, int64_t deadline, cl_buffers_ref *ref)
{
    int64_t began = cl__sys_now();
    do {
        uint64_t slept;
        int64_t found = cl__wait(&pool->waiter, &pool->shared->freed, deadline, look, ask, pool, &slept);
        if (found < 0 && found != -ETIMEDOUT && found != -EINTR)
            return found;
        int64_t rc = try_all(pool, ref);
        if (rc != -EAGAIN)
            return rc;
        if (found < 0)
            return found;
    } while (cl__sys_now() - began < CL__LOOK_NS);
    return -EINTR; /* a hint that leads nowhere, again and again, is a stranger's: the caller has a turn all the same */
}

int64_t cl_buffers_acquire(cl_buffers *pool, int64_t deadline, cl_buffers_ref *ref)
{
    int64_t rc = try_all(pool, ref);
    if (rc == -EAGAIN) {
        if (!ref->waits_since)
            ref->waits_since = cl__sys_now();
        if (deadline != 0)
            rc = keep_trying(pool, deadline, ref);
        else if (ask(pool) == 0)
            rc = try_all(pool, ref);
    }
    if (rc == 0 && ref->waits_since) {
        cl__add_relaxed(&pool->shared->waits, 1);
        cl__add_relaxed(&pool->shared->waited_ns, (uint64_t)(cl__sys_now() - ref->waits_since));
        ref->waits_since = 0;
    }
    return rc;
}

/* The bell, under the lock, as whichever thread ends the last reference may close it; and a participant's only, as in the child
 * of a fork it is the parent's:
 *
 *     A: trims, has the last reference     B: leaves; about to silence 7     A: closes 7     C: opens a file, 7     B: reads it */
int64_t cl_buffers_poll_fd(cl_buffers *pool)
{
    int64_t rc = lock_joined(pool);
    if (rc < 0)
        return rc;
    rc = cl__members_poll_fd(&pool->members, 0);
    pthread_mutex_unlock(&pool->lock);
    return rc;
}

int64_t cl_buffers_silence(cl_buffers *pool)
{
    int64_t rc = lock_joined(pool);
    if (rc < 0)
        return rc;
    cl__members_silence(&pool->members, 0);
    pthread_mutex_unlock(&pool->lock);
    return 0;
}

int64_t cl_buffers_arm(cl_buffers *pool)
{
    int64_t rc = lock_joined(pool);
    if (rc < 0)
        return rc;
    rc = cl__members_arm(&pool->members, &pool->shared->freed, 0);
    pthread_mutex_unlock(&pool->lock);
    return rc;
}

/* ---- references ---------------------------------------------------------------------------------------------------- */

static int is_ours(const cl_buffers *pool, const cl_buffers_ref *ref)
{
    return ref->epoch == pool->epoch && ref->index >= 0 && ref->index < pool->plan.blocks && pool->counts[ref->index] > 0;
}

/* Without our bit. 1: it is free, and is to be offered. Under the lock. */
static int drop(cl_buffers *pool, int64_t index)
{
    cl__block *block = &pool->blocks[index];
    uint64_t mine = cl__holder(pool->members.me);
    cl__store_relaxed(&block->used_at, cl__sys_now_coarse()); /* partner: none, it is a time */
    CL_FAULT(290);
    if (cl__and(&block->word, ~mine) != mine) /* F1; partners: the CAS in claim, C3 */
        return 0;
    cl__buffers_count_freed(pool);
    return 1;
}

int64_t cl_buffers_release(cl_buffers *pool, cl_buffers_ref *ref)
{
    int64_t rc = cl__members_is_joined(&pool->members), index = ref->index;
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&pool->lock);
    if (cl__members_is_joined(&pool->members) < 0 || !is_ours(pool, ref)) {
        rc = -EINVAL;
    } else {
        ref->epoch = 0;
        rc = --pool->counts[index] == 0 && drop(pool, index);
        pool->references--;
        if (rc)
            offer(pool, CL__WARM, index);
        leave_if_done(pool);
    }
    pthread_mutex_unlock(&pool->lock);
    return rc;
}

/* Our bit in the word of a block that somebody holds. Under the lock. */
static int64_t join(cl_buffers *pool, int64_t index, uint64_t generation)
{
    cl__block *block = &pool->blocks[index];
    CL_FAULT(291);
    uint64_t word = cl__load_acquire(&block->word); /* partner: the release in settle */
    do {
        if (word == 0 || word & CL__NEW || cl__load_relaxed(&block->generation) != generation)
            return -ENOENT;
        CL_FAULT(292);
    } while (!cl__swap_if(&block->word, &word, word | cl__holder(pool->members.me))); /* partners: all who change it */
    CL_FAULT(293);
    if (cl__load_relaxed(&block->generation) == generation)
        return 0;
    if (drop(pool, index)) /* it is another use of that memory, by now */
        offer(pool, CL__WARM, index);
    return -ENOENT;
}

static int64_t hold(cl_buffers *pool, int64_t index, uint64_t generation, cl_buffers_ref *ref)
{
    int64_t rc = 0;
    if (pool->counts[index] == 0)
        rc = join(pool, index, generation);
    else if (cl__load_relaxed(&pool->blocks[index].generation) != generation || pool->counts[index] == UINT32_MAX)
        rc = -ENOENT; /* partner of the load: none, it stays for as long as we hold it */
    if (rc < 0)
        return rc;
    pool->counts[index]++;
    pool->references++;
    fill(pool, index, generation, ref);
    return 0;
}

int64_t cl_buffers_hold(cl_buffers *pool, int64_t index, uint64_t generation, cl_buffers_ref *ref)
{
    if (index < 0 || index >= pool->plan.blocks || generation == 0)
        return -EINVAL;
    int64_t rc = enter(pool);
    if (rc < 0)
        return rc;
    rc = hold(pool, index, generation, ref);
    pthread_mutex_unlock(&pool->lock);
    return rc;
}

/* ---- tokens -------------------------------------------------------------------------------------------------------- */

int64_t cl_buffers_send(cl_buffers *pool, const cl_buffers_ref *ref)
{
    int64_t rc = enter(pool);
    if (rc < 0)
        return rc;
    uint32_t me = pool->members.me;
    rc = is_ours(pool, ref) ? (int64_t)me : -EINVAL;
    if (rc > 0) {
        cl__block *block = &pool->blocks[ref->index];
        uint64_t word = cl__load_acquire(&block->word), then; /* partner: whoever changed it last */
        do {
            uint32_t tokens = cl__tokens_of(word);
            if (tokens > 0 && cl__sender_of(word) != me)
                rc = -EBUSY;
            else if (tokens == CL_BUFFERS_TOKENS)
                rc = -EOVERFLOW;
            then = cl__with_tokens(word, me, tokens + 1);
            CL_FAULT(294);
        } while (rc > 0 && !cl__swap_if(&block->word, &word, then)); /* partner: the CAS in spend */
    }
    pthread_mutex_unlock(&pool->lock);
    return rc;
}

/* One token less: 1. 0: there is none. The word after it is told. */
static int spend(cl__block *block, uint32_t sender, uint64_t *left)
{
    uint64_t word = cl__load_acquire(&block->word), then; /* partner: the CAS in send */
    do {
        uint32_t tokens = cl__tokens_of(word);
        if (tokens == 0 || cl__sender_of(word) != sender || word & CL__NEW)
            return 0;
        then = cl__with_tokens(word, sender, tokens - 1);
        CL_FAULT(295);
    } while (!cl__swap_if(&block->word, &word, then)); /* partner: the same, and the CAS in claim */
    *left = then;
    return 1;
}

int64_t cl_buffers_take(cl_buffers *pool, int64_t index, uint64_t generation, int32_t sender, cl_buffers_ref *ref)
{
    uint64_t left;
    if (index < 0 || index >= pool->plan.blocks || generation == 0 || sender < 1 || sender > CL_BUFFERS_MEMBERS)
        return -EINVAL;
    int64_t rc = enter(pool);
    if (rc < 0)
        return rc;
    rc = hold(pool, index, generation, ref); /* first: from here on the token is one for that generation, or there is none */
    if (rc == 0 && !spend(&pool->blocks[index], (uint32_t)sender, &left)) {
        ref->epoch = 0;
        pool->references--;
        if (--pool->counts[index] == 0 && drop(pool, index))
            offer(pool, CL__WARM, index);
        rc = -ENOENT;
    }
    pthread_mutex_unlock(&pool->lock);
    return rc;
}

/* Under the lock nobody can send for us: while there is a token of ours, the block is of the same generation. */
static int recall(cl_buffers *pool, int64_t index, uint64_t generation)
{
    cl__block *block = &pool->blocks[index];
    uint64_t left;
    if ((generation && cl__load_relaxed(&block->generation) != generation) || !spend(block, pool->members.me, &left))
        return 0;
    if (left == 0) {
        cl__buffers_count_freed(pool);
        offer(pool, CL__WARM, index);
    }
    return 1;
}

int64_t cl_buffers_recall(cl_buffers *pool, int64_t index, uint64_t generation)
{
    int64_t rc = enter(pool);
    if (rc < 0)
        return rc;
    rc = index >= 0 && index < pool->plan.blocks && generation && recall(pool, index, generation);
    pthread_mutex_unlock(&pool->lock);
    return rc;
}

int64_t cl_buffers_recall_all(cl_buffers *pool)
{
    int64_t count = 0, rc = enter(pool);
    if (rc < 0)
        return rc;
    for (int64_t index = 0; index < pool->plan.blocks; index++) {
        /* There are no more, and nobody can send for us now; but a stranger may write that we have. */
        for (int tries = 0; tries < CL_BUFFERS_TOKENS && recall(pool, index, 0); tries++)
            count++;
    }
    pthread_mutex_unlock(&pool->lock);
    return count;
}

/* ---- trimming ------------------------------------------------------------------------------------------------------ */

/* It is ours, under NEW, and a reference is counted. */
static int64_t give_back(cl_buffers *pool, int64_t index)
{
    cl__block *block = &pool->blocks[index];
    int64_t at = pool->file_offset + index * (int64_t)pool->stride, rc;
    CL_FAULT(299);
    cl__store_relaxed(&block->is_absent, 1); /* partner: none: NEW is ours; before its memory goes */
    do
        rc = cl__memory_give_back(cl__segment_fd(pool->members.segment), at, (int64_t)pool->stride);
    while (rc == -EINTR);
    if (rc < 0)
        cl__store_relaxed(&block->is_absent, 0);
    return rc;
}

static int64_t trim_one(cl_buffers *pool, int64_t index, int64_t idle_ns)
{
    cl__block *block = &pool->blocks[index];
    int64_t before = cl__sys_now_coarse() - (idle_ns > 0 ? idle_ns : 0);
    /* Looks only: NEW decides. What is read is compared, and nothing is taken from it: a stranger may have written it. */
    if (cl__load_relaxed(&block->word) || cl__load_relaxed(&block->is_absent) || cl__load_relaxed(&block->used_at) > before)
        return 0;
    int64_t rc = enter(pool);
    if (rc < 0)
        return rc;
    int has = claim(pool, CL__WARM, index);
    pool->references += has;
    pthread_mutex_unlock(&pool->lock);
    if (!has)
        return 0;
    rc = give_back(pool, index);
    pthread_mutex_lock(&pool->lock);
    pool->references--;
    unclaim(pool, rc < 0 ? CL__WARM : CL__COLD, index);
    leave_if_done(pool);
    pthread_mutex_unlock(&pool->lock);
    return rc < 0 ? rc : (int64_t)pool->stride;
}

int64_t cl_buffers_trim(cl_buffers *pool, int64_t idle_ns)
{
    struct statvfs there;
    int64_t bytes = 0, rc = cl__members_is_joined(&pool->members);
    if (rc == 0 && fstatvfs(cl__segment_fd(pool->members.segment), &there) < 0)
        rc = -errno;
    if (rc < 0)
        return rc;
    if (pool->stride % there.f_bsize || (uint64_t)pool->file_offset % there.f_bsize) /* the size of that file's pages */
        return -ENOTSUP;
    for (int64_t index = 0; index < pool->plan.blocks && rc >= 0; index++) {
        rc = trim_one(pool, index, idle_ns);
        bytes += rc > 0 ? rc : 0;
    }
    return rc < 0 ? rc : bytes;
}
