/* Rings: records of any size from one producer to one consumer, in a segment.
 *
 * A segment of kind CL_SEGMENT_RING whose `size`, `layout` and `about` cl_ring_describe has said is an empty ring. Each of
 * the two sides is taken by one handle at a time, in whatever process, and falls free when that process ends.
 *
 * Errors of all calls that put or get: -EAGAIN: full, or empty. -EPIPE: the other side has closed (a consumer gets what is
 * there first). -EBADMSG: the memory does not hold a ring any more, see the report; this handle is of no use any more.
 * -ENOTCONN: the side is not taken. -EBADF: the handle was closed. -ESTALE: it was, by the process that we are a fork of. */

enum cl_ring_side { CL_RING_PRODUCER = 0, CL_RING_CONSUMER = 1, CL_RING_SIDES = 2 };

/* What a handle has found wrong with its ring. */
enum cl_ring_fault {
    CL_RING_FINE = 0,
    CL_RING_DISTANCE = 1,   /* found: bytes from head to tail, expected: the capacity at most */
    CL_RING_ALIGNMENT = 2,  /* found: a head or tail that is no multiple of 8 */
    CL_RING_LENGTH = 3      /* found: a record's bytes, expected: what is there of them at most */
};

enum { CL_RING_LAYOUT = 0x52494e49, CL_RING_HEADER = 8 /* bytes before each record, which begins at a multiple of 8 */ };

enum cl_ring_flag {
    CL_RING_MEMBARRIER = 1 /* whoever puts or gets saves some ns, and whoever goes to sleep pays for it: see csrc/wake.h */
};

/* What a ring says of itself in the segment's `about`. */
typedef struct cl_ring_about {
    int64_t capacity;       /* bytes of records and their headers: a power of two */
    int64_t control;        /* where the words of the two sides are, in the segment's data */
    int64_t records;        /* where the records are, in the file: a multiple of `page` */
    int64_t page;           /* the size of the pages the records are in */
    int64_t size;           /* of the segment's data */
    int64_t flags;          /* CL_RING_*, to be set after cl_ring_describe, which says 0 */
} cl_ring_about;

typedef struct cl_ring_tally {
    uint64_t records, bytes; /* put, or got; without headers */
    uint64_t waits;          /* sleeps */
    uint64_t wakes;          /* of the other side, by this one */
} cl_ring_tally;

typedef struct cl_ring_stats {
    cl_ring_tally producer, consumer;
    uint64_t capacity, depth, most; /* bytes with headers. `most`: that either side has met when it looked */
    uint64_t dropped;       /* records that found no room, as noted by cl_ring_note_drops */
    int64_t pids[2];        /* who has, or had, each side; 0: nobody yet. For people: of another namespace, perhaps */
    int32_t open[2];        /* taken, and not closed since; whether by somebody alive, see `held` */
    int32_t closed[2];
    int32_t held[2];        /* by a process that lives; -1: that cannot be asked any more */
} cl_ring_stats;

typedef struct cl_ring_report {
    uint64_t found, expected;
    int64_t died[2];        /* the pid of whoever had the side before us, and died over it; or 0 */
    int64_t capacity;
    int64_t largest;        /* bytes of the largest record */
    int32_t fault;          /* CL_RING_* */
    int32_t taken[2];       /* by this handle */
    int32_t has_membarrier; /* it was made with CL_RING_MEMBARRIER */
} cl_ring_report;

typedef struct cl_ring cl_ring;

/* What a ring for at least `least` bytes (records and headers) comes to, in pages of 1 << page_shift bytes (0: the system's).
 * -EINVAL, -ENOMEM: too large.
 * Blocks: no. Threads: any. */
int64_t cl_ring_describe(int64_t least, int32_t page_shift, cl_ring_about *out);

/* An object for the ring in a segment, which must outlive it. It has no side yet. With `populate` all its pages are in our
 * page table now. -EBADMSG: what the segment says of itself is not so. -ENOMEM.
 * Blocks: no. Threads: any. */
int64_t cl_ring_open(cl_ring **out, cl_segment *segment, int32_t populate);

/* Unmap it, without a word to the other side. NULL is allowed. Nobody may use what was reserved or looked at any more.
 * Blocks: no. Threads: caller locks. */
void cl_ring_free(cl_ring *ring);

/* Take a side. 1: and whoever had it before died over it, see the report; 0. What the dead one committed is there, what it
 * had not is not. -EBUSY: somebody has it. -EBADMSG. -EACCES: the segment is read-only.
 * Blocks: no. Threads: one for each side. */
int64_t cl_ring_take(cl_ring *ring, int32_t side);

/* Close the side, if this handle has it: the other side is woken and told. Somebody may take it anew. 0.
 * Blocks: no. Threads: one for each side. */
int64_t cl_ring_leave(cl_ring *ring, int32_t side);

/* Leave both, for good: waits of other threads through this handle end with -EBADF, as every later call. 0.
 * Blocks: no. Threads: any. */
int64_t cl_ring_close(cl_ring *ring);

/* Room for a record of `size` bytes after those that were added and are not committed; *out is a multiple of 8, and can be
 * written to until it is added. -EMSGSIZE: it would never fit. A second call without cl_ring_add gives the same room anew.
 * Blocks: no. Threads: one producer. */
int64_t cl_ring_reserve(cl_ring *ring, int64_t size, uint8_t **out);

/* The reserved record is there, with so many of the reserved bytes. It is seen when it is committed. -EINVAL.
 * Blocks: no. Threads: one producer. */
int64_t cl_ring_add(cl_ring *ring, int64_t size);

/* Let the consumer see what was added, all at once. Their number.
 * Blocks: no. Threads: one producer. */
int64_t cl_ring_commit(cl_ring *ring);

/* Forget what was reserved, and what was added but not committed.
 * Blocks: no. Threads: one producer. */
void cl_ring_abandon(cl_ring *ring);

/* One record, committed. 0. -EMSGSIZE.
 * Blocks: no. Threads: one producer. */
int64_t cl_ring_try_put(cl_ring *ring, const void *data, int64_t size);

/* As many as fit of `count` records of `size` bytes each, which lie one behind the other, with one commit. Their number, at
 * least 1.
 * Blocks: no. Threads: one producer. */
int64_t cl_ring_try_put_many(cl_ring *ring, const void *data, int64_t size, int64_t count);

/* The first record after those that were looked at, where it lies. It stays there until cl_ring_release.
 * Whoever has the segment can write it, also now: what is decided by it is to be copied first.
 * Blocks: no. Threads: one consumer. */
int64_t cl_ring_peek(cl_ring *ring, const uint8_t **data, int64_t *size);

/* All that were looked at are done with: their room is the producer's. Their number.
 * Blocks: no. Threads: one consumer. */
int64_t cl_ring_release(cl_ring *ring);

/* Look again at those that were looked at and not released, from the first of them.
 * Blocks: no. Threads: one consumer. */
void cl_ring_rewind(cl_ring *ring);

/* Copy one record and release it: its size. -EMSGSIZE: it has more than `room` bytes, *needs is how many; it stays.
 * Blocks: no. Threads: one consumer. */
int64_t cl_ring_try_get(cl_ring *ring, void *out, int64_t room, int64_t *needs);

/* At most `count` records of `size` bytes, one behind the other, released at once. Their number, at least 1. It stops at one
 * of another size; -EMSGSIZE: that is the first one, *needs is its size.
 * Blocks: no. Threads: one consumer. */
int64_t cl_ring_try_get_many(cl_ring *ring, void *out, int64_t size, int64_t count, int64_t *needs);

/* Wait: the producer until a record of `size` bytes fits behind what is committed, the consumer until there is one behind
 * what is released; so commit, or release, first. 1: try now. -ETIMEDOUT.
 * -EOWNERDEAD: the other side's process has died, and will do nothing about it, see cl_ring_stats_of for its pid. -EINTR: a
 * signal, or 100 ms are over; call again with the same deadline (of CLOCK_MONOTONIC, ns; < 0: none).
 * Blocks: yes. Threads: any. */
int64_t cl_ring_wait(cl_ring *ring, int32_t side, int64_t size, int64_t deadline);

/* What cl_ring_wait does before it sleeps: 1, 0, or as it.
 * Blocks: no. Threads: any. */
int64_t cl_ring_look(cl_ring *ring, int32_t side, int64_t size);

/* A descriptor for this side, which this handle has: for poll(2) and its like. It is readable at first; and after cl_ring_arm
 * has said 0, when what was waited for may be there, or the other side closes. Who is told so by it looks by itself every
 * 100 ms or so: of a death nobody is woken, and a process of another user cannot ring. It is closed by cl_ring_leave.
 * Blocks: no. Threads: one for each side. */
int64_t cl_ring_poll_fd(cl_ring *ring, int32_t side);

/* Read away what made the descriptor readable. Before cl_ring_arm, unless somebody else waits for the same descriptor. 0.
 * Blocks: no. Threads: one for each side. */
int64_t cl_ring_silence(cl_ring *ring, int32_t side);

/* As cl_ring_look, and from now on the other side makes the descriptor readable, once. Before it, nothing does.
 * Blocks: no. Threads: one for each side. */
int64_t cl_ring_arm(cl_ring *ring, int32_t side, int64_t size);

/* To wait for this side, which this handle has, among others: see wait.h. 0. -EMSGSIZE, and as cl_ring_wait.
 * Blocks: no. Threads: any. */
int64_t cl_ring_waitable(cl_ring *ring, int32_t side, int64_t size, cl_waitable *out);

/* How long this handle's waits may spin before they sleep, in ns, 100 ms at most; 0: not at all. It spins less where arrivals
 * are rarer.
 * Blocks: no. Threads: any. */
void cl_ring_set_spin(cl_ring *ring, int64_t ns);

/* Counts and state, as they are now; each of them is right, all of them at once perhaps not. Needs no side. 0.
 * Blocks: no. Threads: any. */
int64_t cl_ring_stats_of(cl_ring *ring, cl_ring_stats *out);

/* The producer's own policy is to drop what finds no room: count so many of them. 0.
 * Blocks: no. Threads: any. */
int64_t cl_ring_note_drops(cl_ring *ring, int64_t count);

/* What this handle is, and has found. 0.
 * Blocks: no. Threads: caller locks. */
int64_t cl_ring_report_of(const cl_ring *ring, cl_ring_report *out);
