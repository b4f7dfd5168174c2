/* Pools of buffers: blocks of one size in a segment, each held by any number of participants at once, and free again when the
 * last of them has released it or died. csrc/buffers.c draws it. */

enum { CL_BUFFERS_MEMBERS = 48, CL_BUFFERS_BLOCKS = 1 << 20, CL_BUFFERS_TOKENS = 255 };

/* What a pool is made of. It stands in the segment's CL_SEGMENT_ABOUT. */
typedef struct cl_buffers_plan {
    int64_t blocks;      /* 1 to CL_BUFFERS_BLOCKS */
    int64_t block_size;  /* bytes, 1 to 2^40 */
    int32_t members;     /* how many may be registered at once: 1 to CL_BUFFERS_MEMBERS */
    int32_t unused;
} cl_buffers_plan;

/* A reference to a block, of one participant; all zeros before it is one. `index` and `generation` are what another one asks for it by. */
typedef struct cl_buffers_ref {
    uint8_t *data;
    int64_t offset;      /* of the block, in the segment's data */
    int64_t index;
    uint64_t generation; /* which use of that memory this is; never 0 */
    uint32_t epoch;      /* of which registration of the handle it is; 0: it is none */
    uint32_t unused;
    int64_t waits_since; /* CLOCK_MONOTONIC, ns: while cl_buffers_acquire is called again and again */
} cl_buffers_ref;

/* Counted over all who ever used the pool. What changes while it is read makes it a little wrong, and so does a death between
 * a step and its count. */
typedef struct cl_buffers_report {
    int64_t blocks, block_size, members;
    int64_t allocated;    /* blocks that somebody holds now, or that are on their way */
    int64_t in_flight;    /* tokens that nobody has taken yet */
    int64_t trimmed;      /* free blocks whose memory is the system's now */
    int64_t peak;         /* most blocks that were allocated at once */
    int64_t allocations, frees;
    int64_t failures;     /* as noted by cl_buffers_note_failure */
    int64_t waits;        /* allocations that were not served at once */
    int64_t waited_ns;    /* by those */
    int64_t timed;        /* allocations served at once whose time was taken: one in 64 */
    int64_t timed_ns;
    int64_t idle_ns;      /* since a block was last let go of; 0: one is held; -1: never used */
    int64_t recoveries;   /* participants found dead */
    int64_t reclaimed;    /* blocks that came free with them */
    int64_t last_dead;    /* the pid of the participant that was recovered last, or 0 */
    int64_t joined;       /* participants now */
    int64_t me;           /* our index, or 0 */
    int64_t pids[CL_BUFFERS_MEMBERS]; /* of participant i + 1, or 0 */
    int64_t held[CL_BUFFERS_MEMBERS]; /* blocks that it holds, or has sent and nobody has taken */
} cl_buffers_report;

typedef struct cl_buffers cl_buffers;

/* Make `plan` exact, and fill in what of a segment's plan makes it a pool's: size, data_offset, kind, layout, about (which is
 * `plan`: it must stay where it is). -EINVAL: a number is out of range. -ENOMEM: too large.
 * Blocks: no. Threads: any. */
int64_t cl_buffers_describe(cl_buffers_plan *plan, cl_segment_plan *out);

/* The pool in a segment that was created or attached, which must outlive the object. It is not registered yet. -EBADMSG: what
 * the segment says of itself is not so. -ENOMEM.
 * Blocks: no. Threads: any. */
int64_t cl_buffers_open(cl_buffers **out, cl_segment *segment);

/* Leave it; the object is gone. NULL is allowed.
 * Blocks: no. Threads: caller locks. */
void cl_buffers_free(cl_buffers *pool);

/* Register as a participant: what holds blocks. Its index, 1 to members. In the child of a fork: anew; the references of its
 * parent are not the child's. -EUSERS: there are `members` already, all alive. -EACCES: the segment is attached read-only.
 * -ENOTSUP: the platform has no leases.
 * Blocks: no. Threads: caller locks. */
int64_t cl_buffers_join(cl_buffers *pool);

/* Be no participant any more, as soon as no reference is left: 1: that is so now; 0: the last release will do it, and nothing is
 * acquired any more. Tokens that nobody has taken are void then.
 * Blocks: no. Threads: any. */
int64_t cl_buffers_leave(cl_buffers *pool);

/* The calls below, all but the last ones: -ENOTCONN: not registered. -ESTALE: registered by a process that we are a forked child
 * of: join anew. */

/* A free block whose memory is there. Its bytes are those of whoever had it last. 0. -EAGAIN: there is none.
 * Blocks: no. Threads: any. */
int64_t cl_buffers_try_acquire(cl_buffers *pool, cl_buffers_ref *ref);

/* A free block; wait for one. `deadline`: of CLOCK_MONOTONIC, ns; < 0: none; 0: do not wait, -EAGAIN. Looks for the dead before it
 * waits, and while it does. One that was trimmed gets its memory back first: -ENOSPC, -ENOMEM: the system has none, and no other
 * block is free. -ETIMEDOUT. -EINTR at a signal, and every 100 ms: call again with the same deadline.
 * Blocks: until the deadline. Threads: any. */
int64_t cl_buffers_acquire(cl_buffers *pool, int64_t deadline, cl_buffers_ref *ref);

/* A reference to a block that somebody holds, or has sent. 0. -ENOENT: it was freed since, and is perhaps somebody else's.
 * -EINVAL: there is no such block.
 * Blocks: no. Threads: any. */
int64_t cl_buffers_hold(cl_buffers *pool, int64_t index, uint64_t generation, cl_buffers_ref *ref);

/* Give up a reference, which is none afterwards. 1: the block is free now, 0: it is not. -EINVAL: it is none.
 * Blocks: no. Threads: any. */
int64_t cl_buffers_release(cl_buffers *pool, cl_buffers_ref *ref);

/* Put a token on its way: the block stays allocated, on our lease, until somebody takes the token, or we recall it, leave or die.
 * The reference stays ours. Our index: what the taker needs, with the block's index and generation. -EBUSY: another participant
 * has sent that block, and not all of its tokens were taken. -EOVERFLOW: CL_BUFFERS_TOKENS are on their way. -EINVAL.
 * Blocks: no. Threads: any. */
int64_t cl_buffers_send(cl_buffers *pool, const cl_buffers_ref *ref);

/* Take a token: a reference of our own for it. 0. -ENOENT: it was taken, recalled, or its sender has died. -EINVAL: there is no
 * such block.
 * Blocks: no. Threads: any. */
int64_t cl_buffers_take(cl_buffers *pool, int64_t index, uint64_t generation, int32_t sender, cl_buffers_ref *ref);

/* Take back one of our tokens for a block: 1; 0: there is none, it was taken.
 * Blocks: no. Threads: any. */
int64_t cl_buffers_recall(cl_buffers *pool, int64_t index, uint64_t generation);

/* The same for all of ours. How many.
 * Blocks: no. Threads: any. */
int64_t cl_buffers_recall_all(cl_buffers *pool);

/* Give the memory of those blocks back to the system that are free, and were not used for `idle_ns`. Bytes. -ENOTSUP: blocks are
 * not of whole pages, or the system cannot.
 * Blocks: no. Threads: any. */
int64_t cl_buffers_trim(cl_buffers *pool, int64_t idle_ns);

/* Ask now which participants have died, and recover what they held. How many.
 * Blocks: no. Threads: any. */
int64_t cl_buffers_recover(cl_buffers *pool);

/* A descriptor that becomes readable when a block comes free after cl_buffers_arm; it is at first. -errno.
 * Blocks: no. Threads: any. */
int64_t cl_buffers_poll_fd(cl_buffers *pool);

/* Make that descriptor unreadable. 0, or why there is none: -ENOTCONN, -ESTALE.
 * Blocks: no. Threads: any. */
int64_t cl_buffers_silence(cl_buffers *pool);

/* From now on that descriptor is told. Then try to acquire: what came free before is not told. 0. -EBADF: there is none.
 * Blocks: no. Threads: any. */
int64_t cl_buffers_arm(cl_buffers *pool);

/* How long a wait looks before it sleeps, at most; 0: not at all.
 * Blocks: no. Threads: any. */
void cl_buffers_set_spin(cl_buffers *pool, int64_t ns);

/* How many references we have.
 * Blocks: no. Threads: any. */
int64_t cl_buffers_references(cl_buffers *pool);

/* Add to the count of failures. 0. -EACCES: the segment is attached read-only.
 * Blocks: no. Threads: any. */
int64_t cl_buffers_note_failure(cl_buffers *pool);

/* What it is made of: that never changes. 0.
 * Blocks: no. Threads: any. */
int64_t cl_buffers_plan_of(const cl_buffers *pool, cl_buffers_plan *out);

/* What is known of it; reads the word of every block. Needs no registration. 0.
 * Blocks: no. Threads: any. */
int64_t cl_buffers_report_of(cl_buffers *pool, cl_buffers_report *out);
