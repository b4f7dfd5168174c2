/* Deques: one owner, who pushes and pops records at one end, newest first, and thieves, who take the oldest at the other.
 * Records of at most so many bytes, in slots of one segment. Whoever is killed, at whatever instruction, stops nobody and
 * costs no slot; a dead owner's place is taken by another participant, and its records are still there. csrc/deque.c draws it. */

enum { CL_DEQUE_MEMBERS = 4095, CL_DEQUE_SLOTS = 1 << 24 };

/* What a participant had claimed when it died is lost; else somebody else gets it (again). */
enum cl_deque_flag { CL_DEQUE_AT_MOST_ONCE = 1 };

/* What a deque is made of. It stands in the segment's CL_SEGMENT_ABOUT. */
typedef struct cl_deque_plan {
    int64_t slots;     /* 1 to CL_DEQUE_SLOTS; rounded up to a power of two */
    int64_t slot_size; /* bytes that a record may have: 1 to 2^30 */
    int32_t members;   /* how many may be registered at once: 1 to CL_DEQUE_MEMBERS */
    int32_t flags;     /* CL_DEQUE_* */
} cl_deque_plan;

/* A slot that this participant alone has. */
typedef struct cl_deque_claim {
    uint8_t *data;
    int64_t size;      /* bytes: of the record, or of the room for one */
    uint64_t word;
    uint64_t position;
    int64_t is_newest; /* it was claimed at the owner's end */
} cl_deque_claim;

/* Counted over all who ever used the deque. What changes while it is read makes it a little wrong, and so does a death
 * between a step and its count. */
typedef struct cl_deque_report {
    int64_t slots, slot_size, members, flags;
    int64_t pushed;
    int64_t popped;       /* by the owner, at its end */
    int64_t stolen;
    int64_t size;         /* records in it now: to be had, or with somebody who has not finished */
    int64_t most;         /* the largest size that a push has seen */
    int64_t failed_pushes, failed_takes; /* full; empty: as noted by cl_deque_note */
    int64_t recoveries;   /* participants found dead */
    int64_t redelivered;  /* records whose taker died or gave them back */
    int64_t lost;         /* with AT_MOST_ONCE: the same */
    int64_t owners;       /* how often somebody became the owner */
    int64_t owner;        /* its pid, as it sees it itself; 0: there is none; -1: it did not say */
    int64_t last_dead;    /* the pid of the participant that was recovered last, or 0 */
    int64_t joined;       /* participants now */
    int64_t shut;
    int64_t me;           /* our index, or 0 */
    int64_t is_owner;     /* whether that is us */
    int64_t blocked_by;   /* see cl_deque_blocked_by */
    uint64_t fault_word;  /* after -EBADMSG: what stood in which slot */
    int64_t fault_index;
} cl_deque_report;

/* What cl_deque_note counts. */
enum cl_deque_note { CL_DEQUE_FULL = 0, CL_DEQUE_EMPTY = 1 };

typedef struct cl_deque cl_deque;

/* Make `plan` exact (slots is rounded), and fill in what of a segment's plan makes it a deque's: size, data_offset, kind,
 * layout, about (which is `plan`: it must stay where it is). -EINVAL: a number is out of range. -ENOMEM: too large.
 * Blocks: no. Threads: any. */
int64_t cl_deque_describe(cl_deque_plan *plan, cl_segment_plan *out);

/* The deque in a segment that was created or attached, which must outlive the object, and of which there is one object only.
 * It is not registered yet. -EBADMSG: what the segment says of itself is not so. -ENOMEM.
 * Blocks: no. Threads: any. */
int64_t cl_deque_open(cl_deque **out, cl_segment *segment);

/* Leave it; the object is gone. NULL is allowed.
 * Blocks: no. Threads: caller locks. */
void cl_deque_free(cl_deque *deque);

/* Register as a participant: who steals, and may become the owner. Its index, 1 to members. In the child of a fork: anew.
 * -EUSERS: there are `members` already, all alive. -EACCES: the segment is attached read-only. -ENOTSUP: the platform has no
 * leases.
 * Blocks: no. Threads: caller locks. */
int64_t cl_deque_join(cl_deque *deque);

/* Be no participant any more, and no owner. What is claimed is given back.
 * Blocks: no. Threads: caller locks: nobody may be in a call. */
void cl_deque_leave(cl_deque *deque);

/* Become the owner. 1; 0: we are already. -EBUSY: another participant is, and it lives: see cl_deque_blocked_by. That of a dead
 * one is recovered here.
 * Blocks: no. Threads: caller locks. */
int64_t cl_deque_own(cl_deque *deque);

/* Be the owner no more. What we have claimed stays ours; what was reserved is dropped. 0. -EPERM: we are not.
 * Blocks: no. Threads: caller locks. */
int64_t cl_deque_disown(cl_deque *deque);

/* The calls below, all of them: -ENOTCONN: not registered. -ESTALE: registered by a process that we are a forked child of:
 * join anew. -EBADMSG: what is in the memory cannot be: see the report. Those of the owner: -EPERM: we are not. -EBUSY: a slot
 * is reserved: commit or cancel it first. */

/* The owner: put a record on its end. 0. -EAGAIN: there is no room, or see cl_deque_blocked_by. -EPIPE: the deque is shut.
 * -EMSGSIZE.
 * Blocks: no. Threads: caller locks. */
int64_t cl_deque_push(cl_deque *deque, const void *data, int64_t size);

/* The owner: take the newest record into `room`, of at least slot_size bytes (else -EMSGSIZE). Its size. -EAGAIN: there is
 * none. -EPIPE: the deque is shut and empty.
 * Blocks: no. Threads: caller locks. */
int64_t cl_deque_pop(cl_deque *deque, void *room, int64_t size);

/* Anybody, the owner too: take the oldest record. As cl_deque_pop.
 * Blocks: no. Threads: any. */
int64_t cl_deque_steal(cl_deque *deque, void *room, int64_t size);

/* The owner: the next slot, to be filled in place: data, and slot_size as its size. One at a time. 0, or as push.
 * Blocks: no. Threads: caller locks. */
int64_t cl_deque_reserve(cl_deque *deque, cl_deque_claim *claim);

/* What was reserved is a record of `size` bytes. 0. -EMSGSIZE. -EINVAL: it is not reserved (any more). -EPIPE: the deque was
 * shut meanwhile.
 * Blocks: no. Threads: caller locks. */
int64_t cl_deque_commit(cl_deque *deque, cl_deque_claim *claim, int64_t size);

/* What was reserved will be no record. 0. -EINVAL.
 * Blocks: no. Threads: caller locks. */
int64_t cl_deque_cancel(cl_deque *deque, cl_deque_claim *claim);

/* The owner: the newest record, to be worked on in place: it is ours until we are done with it, or die. Others may be pushed
 * meanwhile. 0, or as pop.
 * Blocks: no. Threads: caller locks. */
int64_t cl_deque_claim_newest(cl_deque *deque, cl_deque_claim *claim);

/* Anybody: the same with the oldest one. 0, or as steal.
 * Blocks: no. Threads: any. */
int64_t cl_deque_claim_oldest(cl_deque *deque, cl_deque_claim *claim);

/* What was claimed has been dealt with. 0. -EINVAL: it is not claimed (any more).
 * Blocks: no. Threads: the one that claimed, or caller locks. */
int64_t cl_deque_release(cl_deque *deque, cl_deque_claim *claim);

/* What was claimed is for somebody else: as if we had died over it. 0. -EINVAL.
 * Blocks: no. Threads: the one that claimed, or caller locks. */
int64_t cl_deque_give_back(cl_deque *deque, cl_deque_claim *claim);

/* Wait until there may be something to steal: 1; another participant may be faster. -ETIMEDOUT: at `deadline`, of
 * CLOCK_MONOTONIC in ns; < 0: none. -EINTR at a signal, and every 100 ms: call again with the same deadline.
 * Blocks: until then. Threads: any. */
int64_t cl_deque_wait(cl_deque *deque, int64_t deadline);

/* How long this handle's waits may spin before they sleep, in ns, 100 ms at most; 0: not at all.
 * Blocks: no. Threads: any. */
void cl_deque_set_spin(cl_deque *deque, int64_t ns);

/* After -EAGAIN: the pid of a live participant that has what could not be had (it works on it, or is stopped), as it sees it
 * itself; 0: the deque is simply full or empty; -1: one that did not say its pid. After -EBUSY of own: the owner. Of the last
 * call through this object.
 * Blocks: no. Threads: any. */
int64_t cl_deque_blocked_by(const cl_deque *deque);

/* Ask now which participants have died, and recover what they held. How many. The calls above do it by themselves: see
 * csrc/members.c for when.
 * Blocks: no. Threads: any. */
int64_t cl_deque_recover(cl_deque *deque);

/* No more is pushed; what is in it can be had. For all, and for good. 0. -EACCES: the segment is attached read-only.
 * Blocks: no. Threads: any. */
int64_t cl_deque_shut(cl_deque *deque);

/* Add to one of the counters that the caller keeps. 0.
 * Blocks: no. Threads: any. */
int64_t cl_deque_note(cl_deque *deque, int32_t what, int64_t count);

/* What it is made of: that never changes. 0.
 * Blocks: no. Threads: any. */
int64_t cl_deque_plan_of(const cl_deque *deque, cl_deque_plan *out);

/* What is known of it; reads every slot. Needs no registration. 0.
 * Blocks: no. Threads: any. */
int64_t cl_deque_report_of(cl_deque *deque, cl_deque_report *out);
