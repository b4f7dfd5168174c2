/* The batch engine's timers: a binary heap of slots, the next one on top. A slot that was taken is in it, and knows its
 * place there, exactly while its timer is not INT64_MAX. */
#include "batch.h"

static void heap_put(cl_batch *batch, size_t where, int32_t at)
{
    batch->heap[where] = at;
    batch->slots[at].heap_at = (int32_t)where;
}

static int64_t heap_timer(const cl_batch *batch, size_t where)
{
    return batch->slots[batch->heap[where]].timer;
}

/* Bring the slot at `where` to its place. */
static void heap_sift(cl_batch *batch, size_t where)
{
    int32_t moved = batch->heap[where];
    int64_t timer = batch->slots[moved].timer;
    for (; where && heap_timer(batch, (where - 1) / 2) > timer; where = (where - 1) / 2)
        heap_put(batch, where, batch->heap[(where - 1) / 2]);
    for (;;) {
        size_t child = 2 * where + 1;
        if (child + 1 < batch->heap_size && heap_timer(batch, child + 1) < heap_timer(batch, child))
            child++;
        if (child >= batch->heap_size || heap_timer(batch, child) >= timer)
            break;
        heap_put(batch, where, batch->heap[child]);
        where = child;
    }
    heap_put(batch, where, moved);
}

static void heap_remove(cl_batch *batch, int32_t at)
{
    int32_t where = batch->slots[at].heap_at;
    if (where == CL__NOWHERE)
        return;
    batch->slots[at].heap_at = CL__NOWHERE;
    int32_t last = batch->heap[--batch->heap_size];
    if (last == at)
        return;
    heap_put(batch, (size_t)where, last);
    heap_sift(batch, (size_t)where);
}

void cl__batch_set_timer(cl_batch *batch, int32_t at, int64_t when)
{
    cl__slot *one = &batch->slots[at];
    if (when == one->timer)
        return;
    one->timer = when;
    if (when == INT64_MAX) {
        heap_remove(batch, at);
        return;
    }
    if (one->heap_at == CL__NOWHERE)
        heap_put(batch, batch->heap_size++, at);
    heap_sift(batch, (size_t)one->heap_at);
}

int64_t cl__batch_next_timer(const cl_batch *batch)
{
    return batch->heap_size ? heap_timer(batch, 0) : INT64_MAX;
}

int32_t cl__batch_due(const cl_batch *batch, int64_t now)
{
    return batch->heap_size && heap_timer(batch, 0) <= now ? batch->heap[0] : CL__NOWHERE;
}
