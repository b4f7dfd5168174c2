/* The batch engine's slots: their memory, their keys, and the three lists that they are in, one at a time, while they
 * do not live: the free ones, the results that wait, the strays. Nobody else changes these lists, but for
 * cl_batch_abort, which forgets two of them and calls what is here to fill them again.
 *
 * No slot is freed before the engine is, and its run neither, which keeps buffers from child to child. */
#include "batch.h"

#include <stdlib.h>

enum { SLOTS_FIRST = 16, GENERATION_BITS = 30, SLOT_SHIFT = 32, KEPT_OUTPUT = 4096 };

static int64_t grow(cl_batch *batch)
{
    size_t count = batch->slot_count ? batch->slot_count * 2 : SLOTS_FIRST;
    cl__slot *slots = realloc(batch->slots, count * sizeof *slots);
    if (slots)
        batch->slots = slots;
    int32_t *heap = slots ? realloc(batch->heap, count * sizeof *heap) : NULL;
    if (heap)
        batch->heap = heap;
    int32_t *flying = heap ? realloc(batch->flying, count * sizeof *flying) : NULL;
    if (!flying)
        return -ENOMEM;
    batch->flying = flying;
    for (size_t i = count; i-- > batch->slot_count;) {
        slots[i] = (cl__slot){.heap_at = CL__NOWHERE, .next = batch->free_first};
        batch->free_first = (int32_t)i;
    }
    batch->slot_count = count;
    return 0;
}

int64_t cl__batch_slot_take(cl_batch *batch)
{
    int64_t rc = batch->free_first == CL__NOWHERE ? grow(batch) : 0;
    if (rc < 0)
        return rc;
    int32_t at = batch->free_first;
    cl__slot *one = &batch->slots[at];
    if (!one->run) {
        rc = cl_run_new(&one->run);
        if (rc < 0)
            return rc;
        one->run->scratch = batch->scratch;
    }
    batch->free_first = one->next;
    one->timer = INT64_MAX;
    one->leader = one->next_stage = CL__NOWHERE;
    one->state = CL__SLOT_LIVE;
    one->generation = (one->generation + 1) & ((1U << GENERATION_BITS) - 1);
    return at;
}

void cl__batch_slot_give(cl_batch *batch, int32_t at)
{
    cl__slot *one = &batch->slots[at];
    one->state = CL__SLOT_FREE;
    one->next = batch->free_first;
    batch->free_first = at;
}

/* ---- keys --------------------------------------------------------------------------------------------------------- */

uint64_t cl__batch_key(const cl_batch *batch, int32_t at)
{
    return (uint64_t)at << SLOT_SHIFT | (uint64_t)batch->slots[at].generation << 2;
}

int32_t cl__batch_slot_of(const cl_batch *batch, uint64_t key)
{
    int32_t at = (int32_t)(key >> SLOT_SHIFT);
    const cl__slot *one = &batch->slots[at];
    uint32_t generation = (uint32_t)(key >> 2) & ((1U << GENERATION_BITS) - 1);
    return one->state == CL__SLOT_LIVE && one->generation == generation ? at : CL__NOWHERE;
}

/* ---- results ------------------------------------------------------------------------------------------------------ */

void cl__batch_slot_queue(cl_batch *batch, int32_t at, int64_t rc)
{
    cl__slot *one = &batch->slots[at];
    if (one->state == CL__SLOT_LIVE)
        batch->live--;
    one->state = CL__SLOT_FINISHED;
    one->rc = rc;
    one->next = CL__NOWHERE;
    if (batch->done_last == CL__NOWHERE)
        batch->done_first = at;
    else
        batch->slots[batch->done_last].next = at;
    batch->done_last = at;
    batch->done_count++;
}

int64_t cl_batch_take(cl_batch *batch, cl_batch_done *out, int64_t most)
{
    int64_t taken = 0;
    for (; taken < most && batch->done_first != CL__NOWHERE; taken++) {
        int32_t at = batch->done_first;
        cl__slot *one = &batch->slots[at];
        out[taken].tag = one->tag;
        out[taken].slot = at;
        out[taken].rc = one->rc;
        one->state = CL__SLOT_TAKEN;
        cl_run_report_get(one->run, &out[taken].report);
        batch->done_first = one->next;
        batch->done_count--;
    }
    if (batch->done_first == CL__NOWHERE)
        batch->done_last = CL__NOWHERE;
    return taken;
}

int64_t cl_batch_release(cl_batch *batch, const int64_t *slots, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        if (slots[i] < 0 || (size_t)slots[i] >= batch->slot_count || batch->slots[slots[i]].state != CL__SLOT_TAKEN)
            return -EINVAL;
        int32_t at = (int32_t)slots[i];
        cl_run *run = batch->slots[at].run;
        for (int j = 0; j < 2; j++)
            cl__buffer_trim(&run->out[j].kept, KEPT_OUTPUT);
        if (run->phase == CL__DONE || run->phase == CL__IDLE)
            cl__batch_slot_give(batch, at);
        else
            cl__batch_slot_stray(batch, at);
    }
    return 0;
}

/* ---- strays: what was given up ------------------------------------------------------------------------------------ */

void cl__batch_slot_stray(cl_batch *batch, int32_t at)
{
    cl__slot *one = &batch->slots[at];
    one->state = CL__SLOT_STRAY;
    one->next = batch->stray_first;
    batch->stray_first = at;
}

void cl__batch_look_at_strays(cl_batch *batch)
{
    int32_t *link = &batch->stray_first;
    while (*link != CL__NOWHERE) {
        int32_t at = *link;
        cl__slot *one = &batch->slots[at];
        if (cl_run_abort(one->run, 0) == 1) {
            *link = one->next;
            cl__process_settle(&one->run->process, &batch->flights);
            cl__batch_slot_give(batch, at);
        } else {
            link = &one->next;
        }
    }
}
