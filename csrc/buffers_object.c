/* A pool of buffers as an object: how it lies in its segment, who takes part, what is known of it. What it does is in buffers.c. */
#include "buffers.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LAYOUT 0x425546464552532dULL /* "BUFFERS-": to be changed with anything in buffers.h */
#define LARGEST (1LL << 46)

/* ---- geometry ----------------------------------------------------------------------------------------------------- */

static int64_t up_to(int64_t size, int64_t unit)
{
    return (size + unit - 1) / unit * unit;
}

static int64_t hint_words(const cl_buffers_plan *plan)
{
    return (plan->blocks + 63) / 64;
}

static int64_t hints_offset(const cl_buffers_plan *plan)
{
    return up_to((int64_t)sizeof(cl__buffers_memory) + cl__members_size(plan->members), CL__BUFFERS_LINE);
}

static int64_t words_offset(const cl_buffers_plan *plan)
{
    return up_to(hints_offset(plan) + CL__HINTS * hint_words(plan) * 8, CL__BUFFERS_LINE);
}

static int64_t unit_of(const cl_buffers_plan *plan)
{
    int64_t page = sysconf(_SC_PAGESIZE);
    return plan->block_size >= page ? page : 64;
}

/* In the data; a multiple of the unit in the file. */
static int64_t blocks_offset(const cl_buffers_plan *plan)
{
    int64_t after = CL_SEGMENT_HEADER + words_offset(plan) + plan->blocks * (int64_t)sizeof(cl__block);
    return up_to(after, unit_of(plan)) - CL_SEGMENT_HEADER;
}

static int64_t stride_of(const cl_buffers_plan *plan)
{
    return up_to(plan->block_size, unit_of(plan));
}

static int64_t check_plan(const cl_buffers_plan *plan)
{
    if (plan->blocks < 1 || plan->blocks > CL_BUFFERS_BLOCKS || plan->block_size < 1 || plan->block_size > 1LL << 40 ||
        plan->members < 1 || plan->members > CL_BUFFERS_MEMBERS)
        return -EINVAL;
    return plan->blocks * stride_of(plan) > LARGEST ? -ENOMEM : 0;
}

int64_t cl_buffers_describe(cl_buffers_plan *plan, cl_segment_plan *out)
{
    int64_t rc = check_plan(plan);
    if (rc < 0)
        return rc;
    plan->unused = 0;
    out->size = blocks_offset(plan) + plan->blocks * stride_of(plan);
    out->data_offset = CL_SEGMENT_HEADER;
    out->kind = CL_SEGMENT_BUFFERS;
    out->layout = LAYOUT;
    out->about = (const char *)plan;
    out->about_size = sizeof *plan;
    return 0;
}

/* ---- who takes part ------------------------------------------------------------------------------------------------- */

/* Without what that one has of it. 1: it had something. */
static int clear_block(cl_buffers *pool, cl__block *block, uint32_t index, uint64_t *freed)
{
    uint64_t mine = index >= 1 && index <= CL_BUFFERS_MEMBERS ? cl__holder(index) : 0, then;
    CL_FAULT(296);
    uint64_t word = cl__load_acquire(&block->word); /* partner: the CAS of the one who is dead */
    do {
        then = word & ~mine;
        if (then != word && word & CL__NEW) /* it was alone */
            then = 0;
        if (cl__sender_of(word) == index && cl__tokens_of(word))
            then = cl__with_tokens(then, 0, 0);
        if (then == word)
            return 0;
        CL_FAULT(297);
    } while (!cl__swap_if(&block->word, &word, then)); /* F1; partners: the CAS in claim, C3 */
    if (then == 0 && !(word & CL__NEW))
        cl__buffers_count_freed(pool);
    *freed += then == 0;
    return 1;
}

int64_t cl__buffers_clear(void *object, uint32_t index)
{
    cl_buffers *pool = object;
    int64_t count = 0;
    uint64_t freed = 0;
    for (int64_t i = 0; i < pool->plan.blocks; i++) {
        count += clear_block(pool, &pool->blocks[i], index, &freed);
        CL_FAULT(298);
        cl__buffers_hint_if_free(pool, i); /* its last holder may have died before it did so */
    }
    if (index != pool->members.me)
        cl__add_relaxed(&pool->shared->reclaimed, freed);
    cl__members_published(&pool->members, &pool->shared->freed, 0);
    return count;
}

int64_t cl_buffers_recover(cl_buffers *pool)
{
    return cl__members_recover(&pool->members);
}

/* ---- opening ------------------------------------------------------------------------------------------------------- */

int64_t cl_buffers_open(cl_buffers **out, cl_segment *segment)
{
    cl_segment_report report;
    cl_buffers_plan plan;
    cl_segment_report_of(segment, &report);
    if (!report.data || report.kind != CL_SEGMENT_BUFFERS || report.layout != LAYOUT ||
        report.data_offset != CL_SEGMENT_HEADER)
        return -EBADMSG;
    memcpy(&plan, report.data - report.data_offset + CL_SEGMENT_ABOUT, sizeof plan); /* once: then it is checked */
    if (check_plan(&plan) < 0 || report.size != blocks_offset(&plan) + plan.blocks * stride_of(&plan))
        return -EBADMSG;
    cl_buffers *pool = calloc(1, sizeof *pool);
    uint32_t *counts = calloc((size_t)plan.blocks, sizeof *counts);
    if (!pool || !counts || pthread_mutex_init(&pool->lock, NULL) != 0) {
        free(pool);
        free(counts);
        return -ENOMEM;
    }
    pool->shared = (cl__buffers_memory *)report.data;
    pool->hints = (_Atomic uint64_t *)(void *)(report.data + hints_offset(&plan));
    pool->blocks = (cl__block *)(void *)(report.data + words_offset(&plan));
    pool->data = report.data + blocks_offset(&plan);
    pool->plan = plan;
    pool->hint_words = hint_words(&plan);
    pool->stride = (size_t)stride_of(&plan);
    pool->file_offset = report.data_offset + blocks_offset(&plan);
    pool->counts = counts;
    pool->epoch = 1;
    cl_buffers_set_spin(pool, CL__SPIN_NS);
    cl__members_open(&pool->members, segment, pool->shared + 1, plan.members, cl__buffers_clear, pool);
    *out = pool;
    return 0;
}

void cl_buffers_free(cl_buffers *pool)
{
    if (!pool)
        return;
    cl__members_close(&pool->members);
    pthread_mutex_destroy(&pool->lock);
    free(pool->counts);
    free(pool);
}

int64_t cl_buffers_join(cl_buffers *pool)
{
    int64_t rc = cl__members_is_joined(&pool->members);
    if (rc == -ESTALE)
        pthread_mutex_init(&pool->lock, NULL); /* a thread that is not here may have it */
    if (rc < 0)
        cl__buffers_forget(pool);
    return cl__members_join(&pool->members);
}

void cl_buffers_set_spin(cl_buffers *pool, int64_t ns)
{
    ns = ns < CL__LOOK_NS ? ns : CL__LOOK_NS;
    cl__store_relaxed(&pool->waiter.limit_ns, ns > 0 ? ns : 0);
}

int64_t cl_buffers_references(cl_buffers *pool)
{
    if (cl__members_is_joined(&pool->members) < 0)
        return 0;
    pthread_mutex_lock(&pool->lock);
    int64_t count = pool->references;
    pthread_mutex_unlock(&pool->lock);
    return count;
}

/* ---- what is known ------------------------------------------------------------------------------------------------- */

int64_t cl_buffers_note_failure(cl_buffers *pool)
{
    if (pool->members.read_only)
        return -EACCES;
    cl__add_relaxed(&pool->shared->failures, 1); /* partner: none, it is a count */
    return 0;
}

int64_t cl_buffers_plan_of(const cl_buffers *pool, cl_buffers_plan *out)
{
    *out = pool->plan;
    return 0;
}

static void count_word(cl__block_word word, cl_buffers_report *out)
{
    uint32_t tokens = cl__tokens_of(word), sender = cl__sender_of(word);
    uint64_t holders = word & CL__HOLDERS;
    out->in_flight += tokens;
    if (tokens && sender >= 1 && sender <= CL_BUFFERS_MEMBERS)
        holders |= cl__holder(sender);
    for (; holders; holders &= holders - 1)
        out->held[__builtin_ctzll(holders)]++;
}

static void count_blocks(cl_buffers *pool, cl_buffers_report *out)
{
    int64_t last = 0;
    uint64_t allocations = 0;
    for (int64_t i = 0; i < pool->plan.blocks; i++) {
        cl__block *block = &pool->blocks[i];
        cl__block_word word = cl__load_relaxed(&block->word); /* partner: none, all of these are counts */
        int64_t used_at = cl__load_relaxed(&block->used_at);
        out->allocated += word != 0 && !(word & CL__NEW);
        out->trimmed += word == 0 && cl__load_relaxed(&block->is_absent);
        allocations += cl__load_relaxed(&block->generation);
        last = used_at > last ? used_at : last;
        count_word(word, out);
    }
    int64_t now = cl__sys_now_coarse();
    out->allocations = (int64_t)allocations;
    out->frees = (int64_t)(allocations - (uint64_t)out->allocated);
    out->idle_ns = out->allocated ? 0 : !last ? -1 : last < now ? now - last : 0;
}

int64_t cl_buffers_report_of(cl_buffers *pool, cl_buffers_report *out)
{
    cl__buffers_memory *shared = pool->shared;
    *out = (cl_buffers_report){
        .blocks = pool->plan.blocks,
        .block_size = pool->plan.block_size,
        .members = pool->plan.members,
        .failures = (int64_t)cl__load_relaxed(&shared->failures),
        .waits = (int64_t)cl__load_relaxed(&shared->waits),
        .waited_ns = (int64_t)cl__load_relaxed(&shared->waited_ns),
        .timed = (int64_t)cl__load_relaxed(&shared->timed),
        .timed_ns = (int64_t)cl__load_relaxed(&shared->timed_ns),
        .recoveries = (int64_t)cl__load_relaxed(&pool->members.shared->recoveries),
        .reclaimed = (int64_t)cl__load_relaxed(&shared->reclaimed),
        .last_dead = cl__load_relaxed(&pool->members.shared->last_dead),
        .joined = cl__members_joined(&pool->members),
        .me = cl__members_is_joined(&pool->members) == 0 ? pool->members.me : 0,
    };
    count_blocks(pool, out);
    for (int32_t i = 0; i < pool->plan.members; i++)
        out->pids[i] = cl__members_pid_of(&pool->members, (uint32_t)i + 1);
    /* Who was killed between a step and its count has left it wrong by one: it is never less than what is seen, or more than all. */
    int64_t peak = cl__load_relaxed(&shared->peak);
    peak = peak < out->allocated ? out->allocated : peak;
    out->peak = peak < out->blocks ? peak : out->blocks;
    return 0;
}
