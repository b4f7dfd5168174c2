/* Queues: many producers and many consumers, records of at most so many bytes, in slots of one segment. Whoever is killed,
 * at whatever instruction, stops nobody and costs no slot. csrc/queue.c draws it. */

enum cl_queue_flag {
    CL_QUEUE_AT_MOST_ONCE = 1, /* what a consumer was reading when it died is lost; else another one gets it (again) */
    CL_QUEUE_MEMBARRIER = 2    /* whoever puts or gets saves some ns, and whoever goes to sleep pays for it: see csrc/wake.h */
};

enum { CL_QUEUE_MEMBERS = 4095, CL_QUEUE_SLOTS = 1 << 24, CL_QUEUE_POOL = 64 };

/* What a queue is made of. It stands in the segment's CL_SEGMENT_ABOUT. */
typedef struct cl_queue_plan {
    int64_t slots;     /* 1 to CL_QUEUE_SLOTS; rounded up to a power of two */
    int64_t slot_size; /* bytes that a record may have: 1 to 2^30 */
    int32_t members;   /* how many may be registered at once: 1 to CL_QUEUE_MEMBERS */
    int32_t flags;     /* CL_QUEUE_* */
    uint64_t pool;     /* of which it is a part: a number that no other one has; 0: of none */
    int32_t queues;    /* of the pool, at most CL_QUEUE_POOL; 0: of none */
    int32_t place;     /* in it, from 0 */
} cl_queue_plan;

/* A slot that this participant alone has. */
typedef struct cl_queue_claim {
    uint8_t *data;
    int64_t size;      /* bytes: of the record, or of the room for one */
    uint64_t word;
    int64_t index;
} cl_queue_claim;

/* Counted over all who ever used the queue. What changes while it is read makes it a little wrong, and so does a death
 * between a recovery's step and its count. */
typedef struct cl_queue_report {
    int64_t slots, slot_size, members, flags;
    int64_t enqueued, dequeued;
    int64_t size;         /* records in it now: to be got, or with a consumer that has not finished */
    int64_t most;         /* the largest size that a put has seen */
    int64_t failed_puts, failed_gets;    /* full; empty: as noted by cl_queue_note */
    int64_t dropped_new, dropped_old;    /* the same */
    int64_t recoveries;   /* participants found dead */
    int64_t unfinished;   /* records that were never whole: their producers died, or let go of them */
    int64_t redelivered;  /* records whose consumer died or gave them back */
    int64_t lost;         /* with AT_MOST_ONCE: records whose consumer died or gave them back */
    int64_t last_dead;    /* the pid of the participant that was recovered last, or 0 */
    int64_t get_waits, put_waits;         /* calls that had to wait, as noted by cl_queue_note_wait; and how long */
    int64_t get_waited_ns, put_waited_ns;
    int64_t get_wakes, put_wakes;         /* puts and the like that woke somebody who waited for a record; gets, for room */
    int64_t joined;       /* participants now */
    int64_t shut;
    int64_t me;           /* our index, or 0 */
    int64_t blocked_by;   /* see cl_queue_blocked_by */
    uint64_t fault_word;  /* after -EBADMSG: what stood in which slot */
    int64_t fault_index;
} cl_queue_report;

/* What cl_queue_note counts. */
enum cl_queue_note { CL_QUEUE_FULL = 0, CL_QUEUE_EMPTY = 1, CL_QUEUE_DROPPED_NEW = 2, CL_QUEUE_DROPPED_OLD = 3 };

typedef struct cl_queue cl_queue;

/* Make `plan` exact (slots is rounded), and fill in what of a segment's plan makes it a queue's: size, data_offset, kind,
 * layout, about (which is `plan`: it must stay where it is). -EINVAL: a number is out of range. -ENOMEM: too large.
 * Blocks: no. Threads: any. */
int64_t cl_queue_describe(cl_queue_plan *plan, cl_segment_plan *out);

/* The queue in a segment that was created or attached, which must outlive the object, and of which there is one object only.
 * It is not registered yet. -EBADMSG: what the segment says of itself is not so. -ENOMEM. -ENOSYS: it has
 * CL_QUEUE_MEMBARRIER, and that cannot be done here: see cl_membarrier_register.
 * Blocks: no. Threads: any. */
int64_t cl_queue_open(cl_queue **out, cl_segment *segment);

/* Leave it; the object is gone. NULL is allowed.
 * Blocks: no. Threads: caller locks. */
void cl_queue_free(cl_queue *queue);

/* Register as a participant: what puts and gets. Its index, 1 to members. In the child of a fork: anew. -EUSERS: there are
 * `members` already, all alive. -EACCES: the segment is attached read-only. -ENOTSUP: the platform has no leases.
 * Blocks: no. Threads: caller locks. */
int64_t cl_queue_join(cl_queue *queue);

/* Be no participant any more. What is claimed is given back.
 * Blocks: no. Threads: caller locks: nobody may be in a call. */
void cl_queue_leave(cl_queue *queue);

/* The calls below, all of them: -ENOTCONN: not registered. With CL_QUEUE_MEMBARRIER those that wait or arm: -ENOSYS: the process
 * could and cannot any more. -ESTALE: registered by a process that we are a forked child of:
 * join anew. -EBADMSG: what is in the memory cannot be: see the report. */

/* Put a record. 0. -EAGAIN: there is no room, or see cl_queue_blocked_by. -EPIPE: the queue is shut. -EMSGSIZE.
 * Blocks: no. Threads: any. */
int64_t cl_queue_try_put(cl_queue *queue, const void *data, int64_t size);

/* Get a record into `room`, of at least slot_size bytes (else -EMSGSIZE). Its size. -EAGAIN: there is none, or see
 * cl_queue_blocked_by. -EPIPE: the queue is shut and empty.
 * Blocks: no. Threads: any. */
int64_t cl_queue_try_get(cl_queue *queue, void *room, int64_t size);

/* Put records that lie one behind the other in `data`, of `sizes` bytes each, in this order; others' may come between. How
 * many went in, at least one; else as try_put.
 * Blocks: no. Threads: any. */
int64_t cl_queue_put_many(cl_queue *queue, const void *data, const int64_t *sizes, int64_t count);

/* Get up to `most` records, one behind the other, into `room`, for as long as slot_size bytes are free there. How many, at
 * least one; else as try_get.
 * Blocks: no. Threads: any. */
int64_t cl_queue_get_many(cl_queue *queue, void *room, int64_t size, int64_t *sizes, int64_t most);

/* Put `count` records of `size` bytes each, which lie one behind the other. How many went in, at least one; else as try_put.
 * Blocks: no. Threads: any. */
int64_t cl_queue_put_records(cl_queue *queue, const void *data, int64_t size, int64_t count);

/* Get up to `most` records of exactly `size` bytes, one behind the other. It stops before one of another size, which stays
 * where it is. How many, at least one; else as try_get. -EMSGSIZE: the next one has another size, *needs. -EINVAL: `size` is
 * larger than a slot.
 * Blocks: no. Threads: any. */
int64_t cl_queue_get_records(cl_queue *queue, void *room, int64_t size, int64_t most, int64_t *needs);

/* A slot to be filled in place: data, and slot_size as its size. Until it is committed or cancelled, those behind it in
 * order wait for it. 0, or as try_put.
 * Blocks: no. Threads: any. */
int64_t cl_queue_reserve(cl_queue *queue, cl_queue_claim *claim);

/* What was reserved is a record of `size` bytes. 0. -EMSGSIZE. -EINVAL: it is not reserved (any more).
 * Blocks: no. Threads: the one that claimed, or caller locks. */
int64_t cl_queue_commit(cl_queue *queue, cl_queue_claim *claim, int64_t size);

/* What was reserved will be no record. 0. -EINVAL.
 * Blocks: no. Threads: the one that claimed, or caller locks. */
int64_t cl_queue_cancel(cl_queue *queue, cl_queue_claim *claim);

/* The next record, to be read in place. It is ours until we release it or die. 0, or as try_get.
 * Blocks: no. Threads: any. */
int64_t cl_queue_peek(cl_queue *queue, cl_queue_claim *claim);

/* What was peeked at has been dealt with. 0. -EINVAL.
 * Blocks: no. Threads: the one that claimed, or caller locks. */
int64_t cl_queue_release(cl_queue *queue, cl_queue_claim *claim);

/* What was peeked at is for somebody else: as if we had died over it. 0. -EINVAL.
 * Blocks: no. Threads: the one that claimed, or caller locks. */
int64_t cl_queue_give_back(cl_queue *queue, cl_queue_claim *claim);

/* What is waited for. */
enum cl_queue_wait { CL_QUEUE_FOR_RECORD = 0, CL_QUEUE_FOR_ROOM = 1 };

/* After -EAGAIN: wait until trying again may be of use: 1 (which is no promise: others try, too). -ETIMEDOUT. -EINTR: a signal,
 * or 100 ms are over: call again with the same deadline (of CLOCK_MONOTONIC, ns; < 0: none). It finds out by itself who has
 * died: within 2 ms if that one holds what is in the way, within 100 ms else.
 * Blocks: yes. Threads: any. */
int64_t cl_queue_wait(cl_queue *queue, int32_t what, int64_t deadline);

/* What cl_queue_wait looks at: 1: trying may be of use; 0.
 * Blocks: no. Threads: any. */
int64_t cl_queue_look(cl_queue *queue, int32_t what);

/* To wait for it among others: see wait.h. 0. -EINVAL, -ENOTCONN, -ESTALE.
 * Blocks: no. Threads: any. */
int64_t cl_queue_waitable(cl_queue *queue, int32_t what, cl_waitable *out);

/* How long this handle's waits may spin before they sleep, in ns, 100 ms at most; 0: not at all. It spins less where arrivals
 * are rarer.
 * Blocks: no. Threads: any. */
void cl_queue_set_spin(cl_queue *queue, int64_t ns);

/* A descriptor for poll(2) and its like, one for each `what`. It is readable at first; and once after each cl_queue_arm, when
 * what is waited for may be there. Who is told so by it looks by itself every 100 ms or so: of a death nobody is woken, and a
 * process of another user cannot ring. It is closed by cl_queue_leave.
 * Blocks: no. Threads: caller locks. */
int64_t cl_queue_poll_fd(cl_queue *queue, int32_t what);

/* Read away what made the descriptor readable: before it is armed anew, unless somebody else waits for it, too. 0.
 * Blocks: no. Threads: caller locks. */
int64_t cl_queue_silence(cl_queue *queue, int32_t what);

/* From now on whoever puts (or gets) makes the descriptor readable, once. Then try: what came before is not told. 0. -EBADF:
 * there is no descriptor yet.
 * Blocks: no. Threads: caller locks. */
int64_t cl_queue_arm(cl_queue *queue, int32_t what);

/* A call has waited that long, all in all, whether in vain or not: count it. 0.
 * Blocks: no. Threads: any. */
int64_t cl_queue_note_wait(cl_queue *queue, int32_t what, int64_t ns);

/* After -EAGAIN: the pid of a live participant that has the slot in the way (it works on it, or is stopped), as it sees it
 * itself; 0: the queue is simply full or empty; -1: one that did not say its pid. Of the last call through this object.
 * Blocks: no. Threads: any. */
int64_t cl_queue_blocked_by(const cl_queue *queue);

/* Ask now which participants have died, and recover what they held. How many. The calls above do it by themselves: see
 * csrc/members.c for when.
 * Blocks: no. Threads: any. */
int64_t cl_queue_recover(cl_queue *queue);

/* No more is put; what is in it can be got. For all, and for good. 0. -EACCES: the segment is attached read-only.
 * Blocks: no. Threads: any. */
int64_t cl_queue_shut(cl_queue *queue);

/* Add to one of the counters that the caller's own policy keeps. 0.
 * Blocks: no. Threads: any. */
int64_t cl_queue_note(cl_queue *queue, int32_t what, int64_t count);

/* What it is made of: that never changes. 0.
 * Blocks: no. Threads: any. */
int64_t cl_queue_plan_of(const cl_queue *queue, cl_queue_plan *out);

/* What is known of it; reads every slot. Needs no registration. 0.
 * Blocks: no. Threads: any. */
int64_t cl_queue_report_of(cl_queue *queue, cl_queue_report *out);
