/* Broadcasts: one writer, many readers, each of whom sees every record. Records of at most so many bytes, in slots of one
 * segment. Lossy: the writer never waits, and a reader that is overtaken learns how many records it has lost. Lossless: the
 * writer waits for its readers, or does with the slow ones what they have asked for. csrc/broadcast.c draws it. */

enum cl_broadcast_flag {
    CL_BROADCAST_LOSSLESS = 1,
    CL_BROADCAST_WAKES_ALL = 2 /* a system call for each record, which wakes readers that may not write to the memory */
};

/* What becomes of a reader that the writer would have to wait for. All of a lossy one's are overtaken. */
enum cl_broadcast_policy { CL_BROADCAST_BLOCK = 1, CL_BROADCAST_SKIP = 2, CL_BROADCAST_EVICT = 3 };

/* How a handle reads. */
enum cl_broadcast_reading {
    CL_BROADCAST_FROM_OLDEST = 1, /* lossy: begin with what is there still, not with the next record */
    CL_BROADCAST_TELL_LOSS = 2,   /* a call that finds records lost says -EOVERFLOW, once, before it goes on */
    CL_BROADCAST_PATIENT = 4      /* wait for a successor of a writer that has died */
};

enum cl_broadcast_role { CL_BROADCAST_NOBODY = 0, CL_BROADCAST_READER = 1, CL_BROADCAST_WRITER = 2 };
enum cl_broadcast_state { CL_BROADCAST_NEW = 0, CL_BROADCAST_OPEN = 1, CL_BROADCAST_CLOSED = 2, CL_BROADCAST_DIED = 3 };
enum cl_broadcast_wait { CL_BROADCAST_FOR_RECORD = 0, CL_BROADCAST_FOR_ROOM = 1, CL_BROADCAST_FOR_READERS = 2 };

enum { CL_BROADCAST_MEMBERS = 4095, CL_BROADCAST_SLOTS = 1 << 24 };

/* What a broadcast is made of. It stands in the segment's CL_SEGMENT_ABOUT. */
typedef struct cl_broadcast_plan {
    int64_t slots;     /* 1 to CL_BROADCAST_SLOTS; rounded up to a power of two */
    int64_t slot_size; /* bytes that a record may have: 1 to 2^30 */
    int32_t members;   /* handles that write or, with write access, read: 1 to CL_BROADCAST_MEMBERS */
    int32_t flags;     /* CL_BROADCAST_* */
} cl_broadcast_plan;

/* A slot: the writer's alone, or a reader's to look at. `data` begins at a multiple of 64. */
typedef struct cl_broadcast_claim {
    uint8_t *data;     /* a reader's: not to be written to */
    int64_t size;      /* bytes: of the record, or of the room for one */
    uint64_t position; /* records before it, since the broadcast was made */
} cl_broadcast_claim;

typedef struct cl_broadcast_report {
    int64_t slots, slot_size, members, flags;
    int64_t put;             /* records, ever */
    int64_t depth, most;     /* how far the slowest registered reader is behind; most: as the writer has found when it looked */
    int64_t skipped;         /* records that readers were moved past, in all */
    int64_t evictions;
    int64_t refused, dropped; /* records that found no room, as noted by cl_broadcast_note */
    int64_t waits, wakes;    /* sleeps, of all but read-only handles; times that somebody had to be woken */
    int64_t recoveries;      /* participants found dead */
    int64_t last_dead;       /* the pid of the last one, or 0 */
    int64_t readers;         /* registered now */
    int64_t writer;          /* the pid of the one that is, or that died; or 0 */
    int64_t state;           /* CL_BROADCAST_NEW to DIED */
    int64_t role;            /* of this handle */
    int64_t lost, lost_now;  /* records this handle has lost; and at the last -EOVERFLOW */
    int64_t blocked_by;      /* after -EAGAIN of a put: the pid of the reader in the way; -1: unknown; 0: none */
    uint64_t fault_word, fault_expected; /* after -EBADMSG */
} cl_broadcast_report;

typedef struct cl_broadcast_reader {
    int64_t pid, lag, lost, waits;
    int64_t policy;          /* CL_BROADCAST_BLOCK to EVICT, or 0: of a lossy broadcast */
    int64_t is_evicted;
} cl_broadcast_reader;

typedef struct cl_broadcast cl_broadcast;

/* Make `plan` exact (slots is rounded), and fill in what of a segment's plan makes it a broadcast's: size, data_offset, kind,
 * layout, about (which is `plan`: it must stay where it is). -EINVAL: a number is out of range. -ENOMEM: too large.
 * Blocks: no. Threads: any. */
int64_t cl_broadcast_describe(cl_broadcast_plan *plan, cl_segment_plan *out);

/* The broadcast in a segment that was created or attached, which must outlive the object, and of which there is one object
 * only. It has no role yet. -EBADMSG: what the segment says of itself is not so. -ENOMEM.
 * Blocks: no. Threads: any. */
int64_t cl_broadcast_open(cl_broadcast **out, cl_segment *segment);

/* Leave it; the object is gone. NULL is allowed.
 * Blocks: no. Threads: caller locks. */
void cl_broadcast_free(cl_broadcast *broadcast);

/* Become a reader, from the next record on. `policy` is one of CL_BROADCAST_* in a lossless one, else 0; `reading` are bits.
 * 0. A reader that was evicted, or forked, begins anew. -EUSERS: there are `members` already, all alive. -EACCES: lossless,
 * and the segment is read-only. -EISCONN: this handle is the writer. -EINVAL. -EBADF: the handle was closed.
 * Blocks: no. Threads: caller locks. */
int64_t cl_broadcast_subscribe(cl_broadcast *broadcast, int32_t policy, int32_t reading);

/* Become the writer. 0; 1: the one before has died over it. -EBUSY: there is one, and it lives. -EISCONN: this handle has read
 * already. -EACCES: the segment is read-only. -EUSERS. -ESTALE: forked: register anew. -EBADF.
 * Blocks: no. Threads: caller locks. */
int64_t cl_broadcast_take(cl_broadcast *broadcast);

/* In the child of a fork: be a participant of its own, a reader if the parent's handle was one, else with no role. 0, or as
 * cl_broadcast_subscribe.
 * Blocks: no. Threads: caller locks. */
int64_t cl_broadcast_register(cl_broadcast *broadcast);

/* Give up the role, for good: readers of a writer are woken and told; a reader is not waited for any more. Calls of other
 * threads end with -EBADF.
 * Blocks: no. Threads: caller locks: but waits. */
void cl_broadcast_close(cl_broadcast *broadcast);

/* The calls below, but for reports: -ENOTCONN: not the role. -ESTALE: it was, by a process that we are a forked child of.
 * -EBADF: closed. -EBUSY: a claim of this handle is not ended yet. -EBADMSG: what is in the memory cannot be: see the report. */

/* Put a record. 0. -EAGAIN: lossless, and a reader is in the way. -EMSGSIZE.
 * Blocks: no. Threads: caller locks. */
int64_t cl_broadcast_try_put(cl_broadcast *broadcast, const void *data, int64_t size);

/* Put records of `size` bytes each that lie one behind the other. How many, at least one; else as try_put.
 * Blocks: no. Threads: caller locks. */
int64_t cl_broadcast_put_many(cl_broadcast *broadcast, const void *data, int64_t size, int64_t count);

/* The next slot, to be filled in place. 0, or as try_put.
 * Blocks: no. Threads: caller locks. */
int64_t cl_broadcast_reserve(cl_broadcast *broadcast, cl_broadcast_claim *claim);

/* What was reserved is a record of `size` bytes. 0. -EMSGSIZE. -EINVAL: it is not reserved (any more).
 * Blocks: no. Threads: caller locks. */
int64_t cl_broadcast_commit(cl_broadcast *broadcast, cl_broadcast_claim *claim, int64_t size);

/* What was reserved will be no record. 0. -EINVAL.
 * Blocks: no. Threads: caller locks. */
int64_t cl_broadcast_cancel(cl_broadcast *broadcast, cl_broadcast_claim *claim);

/* Get a record into `room`, of at least slot_size bytes (else -EMSGSIZE). Its size. -EAGAIN: there is none. -EPIPE: and the
 * writer has closed. -EOWNERDEAD: and it has died. -EOVERFLOW: records were lost (CL_BROADCAST_TELL_LOSS). -ECONNABORTED: this
 * reader was evicted.
 * Blocks: no. Threads: caller locks. */
int64_t cl_broadcast_try_get(cl_broadcast *broadcast, void *room, int64_t size);

/* Get up to `most` records of `size` bytes each, one behind the other. How many, at least one; it ends before one of another
 * size. -EMSGSIZE: that is the first one, and stays. Else as try_get.
 * Blocks: no. Threads: caller locks. */
int64_t cl_broadcast_get_many(cl_broadcast *broadcast, void *room, int64_t size, int64_t most);

/* The next record where it lies. A blocking reader's stays until it is released; others' may be overwritten meanwhile: what
 * was seen is whole if cl_broadcast_release says 0. 0, or as try_get.
 * Blocks: no. Threads: caller locks. */
int64_t cl_broadcast_peek(cl_broadcast *broadcast, cl_broadcast_claim *claim);

/* 1: what the claim shows has not been overwritten so far; 0: it has, or may have been.
 * Blocks: no. Threads: caller locks. */
int64_t cl_broadcast_is_whole(cl_broadcast *broadcast, const cl_broadcast_claim *claim);

/* Copy what was peeked at, and release it. 0. -EOVERFLOW: it was overwritten meanwhile: peek anew, which tells of it if that is
 * wanted. -ECONNABORTED. -EINVAL: it is not peeked at (any more).
 * Blocks: no. Threads: caller locks. */
int64_t cl_broadcast_copy(cl_broadcast *broadcast, cl_broadcast_claim *claim, void *room);

/* The last -EOVERFLOW, of a reader with TELL_LOSS, is for the next call that gets: this one has records to return.
 * Blocks: no. Threads: caller locks. */
void cl_broadcast_tell_again(cl_broadcast *broadcast);

/* What was peeked at has been dealt with. 0. -EOVERFLOW: it was overwritten, it and perhaps others are lost. -ECONNABORTED: the
 * reader was evicted meanwhile. -EINVAL.
 * Blocks: no. Threads: caller locks. */
int64_t cl_broadcast_release(cl_broadcast *broadcast, cl_broadcast_claim *claim);

/* What was peeked at is to be got again. 0. -EINVAL.
 * Blocks: no. Threads: caller locks. */
int64_t cl_broadcast_keep(cl_broadcast *broadcast, cl_broadcast_claim *claim);

/* Wait for a record (a reader), for room, or until there are `count` readers that are registered (the writer). 1: try now.
 * -ETIMEDOUT. -EINTR: a signal, or 100 ms are over; call again with the same deadline (of CLOCK_MONOTONIC, ns; < 0: none).
 * A reader with a read-only segment naps for an eighth of the time that it has waited, 5 ms at most; with WAKES_ALL it is woken.
 * Blocks: yes. Threads: any. */
int64_t cl_broadcast_wait(cl_broadcast *broadcast, int32_t what, int64_t count, int64_t deadline);

/* What cl_broadcast_wait does before it sleeps: 1, 0, or as it.
 * Blocks: no. Threads: any. */
int64_t cl_broadcast_look(cl_broadcast *broadcast, int32_t what);

/* A descriptor for FOR_RECORD or FOR_ROOM. It is readable at first; and after cl_broadcast_arm has said 0, when what was
 * waited for may be there, or the writer closes. Who is told so by it looks by itself every 100 ms or so: of a death nobody is
 * woken, and a process of another user cannot ring. -EACCES: the segment is read-only.
 * Blocks: no. Threads: caller locks. */
int64_t cl_broadcast_poll_fd(cl_broadcast *broadcast, int32_t what);

/* What has made the descriptor readable is past. 0.
 * Blocks: no. Threads: caller locks. */
int64_t cl_broadcast_silence(cl_broadcast *broadcast, int32_t what);

/* As cl_broadcast_look, and from now on the other side makes the descriptor readable, once.
 * Blocks: no. Threads: caller locks. */
int64_t cl_broadcast_arm(cl_broadcast *broadcast, int32_t what);

/* To wait for a record, or for room, among other objects: see wait.h. 0. -EACCES: read-only; -ENOTCONN, and as cl_broadcast_arm.
 * Blocks: no. Threads: any. */
int64_t cl_broadcast_waitable(cl_broadcast *broadcast, int32_t what, cl_waitable *out);

/* How long this handle's waits may spin before they sleep, in ns; 0: not at all.
 * Blocks: no. Threads: any. */
void cl_broadcast_set_spin(cl_broadcast *broadcast, int64_t ns);

/* Ask now which participants have died, and recover what they held. How many.
 * Blocks: no. Threads: any. */
int64_t cl_broadcast_recover(cl_broadcast *broadcast);

/* What is known of it. Needs no role. 0.
 * Blocks: no. Threads: any. */
int64_t cl_broadcast_report_of(const cl_broadcast *broadcast, cl_broadcast_report *out);

enum cl_broadcast_noted {
    CL_BROADCAST_REFUSED,
    CL_BROADCAST_DROPPED
};

/* Records found no room, and whoever would have put them was told so, or has dropped them: count them. 0.
 * Blocks: no. Threads: any. */
int64_t cl_broadcast_note(cl_broadcast *broadcast, int32_t what, int64_t records);

/* The registered readers, `most` at most. Needs no role. How many.
 * Blocks: no. Threads: any. */
int64_t cl_broadcast_readers_of(const cl_broadcast *broadcast, cl_broadcast_reader *out, int64_t most);
