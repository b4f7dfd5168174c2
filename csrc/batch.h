/* The batch engine, for its own files: many cl_runs, one poller, one heap of timers.
 *
 *     slot      a cl_run and its place in the engine; used again and again
 *     key       slot | generation | which descriptor: an event for a child that is gone finds another generation
 *     heap      the slots that have a timer, the next one on top
 *     done      a queue of slots whose result waits to be taken
 *     stages    of a pipeline: a list that begins with its leader, the first that was started
 *
 * A slot's way, and the file that takes it there:
 *
 *     FREE      slot_take (batch_slots.c), as batch_start.c has something to start                  -> LIVE
 *     LIVE      finish (batch_step.c): the run is done, cannot go on, or was not begun               -> FINISHED
 *     FINISHED  cl_batch_take (batch_slots.c): out of the queue, and its memory still read           -> TAKEN
 *     TAKEN     cl_batch_release (batch_slots.c): the child is gone, or it is not                    -> FREE, STRAY
 *     STRAY     look_at_strays (batch_slots.c), before others are started: now it is                 -> FREE
 *
 * cl_batch_abort (batch.c) takes all of them to FREE or STRAY at once.
 *
 * A slot is named by its index: the array moves when it grows, which only a start does.
 *
 * A flight (a child that has perhaps not exec'd yet) belongs to the run it was started for; it is looked at when the
 * next children are started, to use its memory again, and at the latest at the child's end. */
#ifndef CORELANE_BATCH_H
#define CORELANE_BATCH_H

#include "internal.h"

enum { CL__NOWHERE = -1 }; /* no slot; no place in the heap */

typedef enum cl__slot_state {
    CL__SLOT_FREE,
    CL__SLOT_LIVE,
    CL__SLOT_FINISHED,
    CL__SLOT_TAKEN,
    CL__SLOT_STRAY,
} cl__slot_state;

typedef struct cl__slot {
    cl_run *run;
    int64_t tag, rc;
    int64_t timer;     /* INT64_MAX: none */
    uint64_t ended_in; /* the wake-up that told of the child's end */
    uint32_t generation;
    int32_t heap_at;
    int32_t next;      /* in the list of free ones, or of done ones, or of strays */
    int32_t leader, next_stage; /* of the pipeline that it is a stage of, while it lives */
    cl__slot_state state;
    int in_flight;
} cl__slot;

struct cl_batch {
    cl__poller poller;
    cl__flights flights;
    int maker;
    cl__slot *slots;
    int32_t *heap;
    int32_t *flying;       /* slots in flight, in the order of their start */
    size_t slot_count, heap_size, flying_count; /* there is room for slot_count in each of the three */
    int32_t free_first, done_first, done_last, stray_first;
    int64_t live, done_count;
    uint64_t wakeups;
    /* The pipeline of which not all stages were started: */
    int building, is_broken, is_late, read_end; /* of the pipe from the last stage to the next one, or -1 */
    int32_t leader;
    int has_poller;
    uint8_t scratch[CL__SCRATCH];
};

/* ---- batch.c: the engine as a whole ------------------------------------------------------------------------------- */

/* Whether this process made it. A forked child has a copy, of children that are not its own. */
int cl__batch_is_ours(const cl_batch *batch);
/* Open the poller, if that was not done yet. */
int64_t cl__batch_open(cl_batch *batch);

/* ---- batch_slots.c: a slot's way from list to list ---------------------------------------------------------------- */

/* A free slot, LIVE from now on, with a run and no timer, in no pipeline; or -ENOMEM. */
int64_t cl__batch_slot_take(cl_batch *batch);
/* Nobody needs it any more: FREE. */
void cl__batch_slot_give(cl_batch *batch, int32_t at);
/* To the end of the queue of results: FINISHED, and what it comes to. */
void cl__batch_slot_queue(cl_batch *batch, int32_t at, int64_t rc);
/* Released, but its child is still there: STRAY. */
void cl__batch_slot_stray(cl_batch *batch, int32_t at);
/* Free those whose children have ended since. */
void cl__batch_look_at_strays(cl_batch *batch);
/* What its descriptors are watched with; the two low bits say which (CL__READY_*). */
uint64_t cl__batch_key(const cl_batch *batch, int32_t at);
/* The slot of a key, or CL__NOWHERE if the child it was made for is gone. */
int32_t cl__batch_slot_of(const cl_batch *batch, uint64_t key);

/* ---- batch_timers.c: the heap ------------------------------------------------------------------------------------- */

/* When the slot is to be looked at; INT64_MAX: only when something happens to it. */
void cl__batch_set_timer(cl_batch *batch, int32_t at, int64_t when);
/* The earliest of all timers, or INT64_MAX. */
int64_t cl__batch_next_timer(const cl_batch *batch);
/* The slot whose timer that is, if it is not later than `now`; else CL__NOWHERE. */
int32_t cl__batch_due(const cl_batch *batch, int64_t now);

/* ---- batch_start.c: from an item to a child ----------------------------------------------------------------------- */

/* No pipeline is being built any more; what is left of its pipes is closed. */
void cl__batch_forget_building(cl_batch *batch);

/* ---- batch_step.c: from an event to a result ---------------------------------------------------------------------- */

/* What has become of a run, by what one of its calls returned: 1: it is done; 0: it goes on, to its next timer; -errno:
 * it cannot. Without a look at the others of its pipeline. */
void cl__batch_judge_alone(cl_batch *batch, int32_t at, int64_t rc);
/* It lives no more: out of its pipeline and the heap, and its result into the queue. */
void cl__batch_finish(cl_batch *batch, int32_t at, int64_t rc);

/* ---- batch_pipeline.c: what a stage is to the others -------------------------------------------------------------- */

/* Add a child to the pipeline that is being built, at its end, before anything can become of it. */
void cl__batch_join_pipeline(cl_batch *batch, int32_t at);
/* Out of the list. If it is the leader that goes, the others are no pipeline any more: their scope is gone. */
void cl__batch_leave_pipeline(cl_batch *batch, int32_t at);
/* Something has become of a stage: do what that means for the others. */
void cl__batch_look_at_pipeline(cl_batch *batch, int32_t leader);
/* A stage is about to be given up: kill all of its pipeline, and start no more of it. If it is in none: nothing. */
void cl__batch_break_pipeline(cl_batch *batch, int32_t at);

#endif
