/* Locks, semaphores, events and barriers between processes. Who dies holding one, or waiting at one, is found dead by its
 * lease, and what it held is given on; nobody who lives is ever robbed. csrc/sync.h draws them.
 *
 * All four are the same kind of object: what is called cl_sync_* is for each of them. */

enum { CL_SYNC_MEMBERS = 4095, CL_SYNC_COUNT = 65536, CL_SYNC_UNKNOWN = 16777215 /* a pid that nobody said */ };

/* What one is made of. It stands in the segment's CL_SEGMENT_ABOUT. */
typedef struct cl_sync_plan {
    int64_t count;   /* a semaphore's permits, a barrier's parties: 1 to CL_SYNC_COUNT; of the others: 1 */
    int32_t members; /* how many may be registered at once: 1 to CL_SYNC_MEMBERS */
    int32_t kind;    /* CL_SEGMENT_MUTEX, _SEMAPHORE, _EVENT or _BARRIER */
} cl_sync_plan;

typedef struct cl_sync_report {
    int64_t count, members, kind;
    int64_t me;         /* our index, or 0 */
    int64_t joined;     /* participants now */
    int64_t recoveries; /* participants found dead */
    int64_t last_dead;  /* the pid of the last of them, or 0 */
    int64_t free;       /* a lock: 1 or 0; a semaphore: permits that nobody has */
    int64_t mine;       /* permits that this object has */
    int64_t waiting;    /* a barrier: who has come and waits for the others */
} cl_sync_report;

typedef struct cl_sync cl_sync;
typedef struct cl_sync cl_lock;
typedef struct cl_sync cl_semaphore;
typedef struct cl_sync cl_event;
typedef struct cl_sync cl_barrier;

/* ---- all of them -------------------------------------------------------------------------------------------------------- */

/* Check `plan`, and fill in what of a segment's plan makes it that: size, data_offset, kind, layout, about (which is `plan`:
 * it must stay where it is). -EINVAL: a number is out of range.
 * Blocks: no. Threads: any. */
int64_t cl_sync_describe(const cl_sync_plan *plan, cl_segment_plan *out);

/* The one in a segment that was created or attached, which must outlive the object, and of which there is one object only. It is not
 * registered yet. -EBADMSG: what the segment says of itself is not so, or is of another kind. -ENOMEM.
 * Blocks: no. Threads: any. */
int64_t cl_lock_open(cl_lock **out, cl_segment *segment);

/* The same for a semaphore.
 * Blocks: no. Threads: any. */
int64_t cl_semaphore_open(cl_semaphore **out, cl_segment *segment);

/* The same for an event.
 * Blocks: no. Threads: any. */
int64_t cl_event_open(cl_event **out, cl_segment *segment);

/* The same for a barrier.
 * Blocks: no. Threads: any. */
int64_t cl_barrier_open(cl_barrier **out, cl_segment *segment);

/* Leave it; the object is gone. NULL is allowed.
 * Blocks: no. Threads: caller locks. */
void cl_sync_free(cl_sync *sync);

/* Register as a participant. Its index, 1 to members. In the child of a fork: anew. -EUSERS: there are `members` already, all
 * alive. -EACCES: the segment is attached read-only. -ENOTSUP: the platform has no leases.
 * Blocks: no. Threads: caller locks. */
int64_t cl_sync_join(cl_sync *sync);

/* Be no participant any more. What is held is given on as if its holder had died.
 * Blocks: no. Threads: caller locks. */
void cl_sync_leave(cl_sync *sync);

/* The calls below, all of them: -ENOTCONN: not registered. -ESTALE: registered by a process that we are a forked child of: join
 * anew. */

/* Wait until another try is worth it: a lock or a permit seems free, the event was set after `ticket`, or a barrier's generation
 * `ticket` is over; or nothing of that, for once. 0 or 1. -ETIMEDOUT. -EINTR at a signal, and every 100 ms: call it again. -EPIPE: the
 * barrier is broken.
 *
 * `since`, of CLOCK_MONOTONIC, ns: when the whole wait began. Who has died is asked more rarely the longer it lasts: after
 * 1 ms, then after an eighth of what was waited, and every 100 ms at least. `deadline`: the same clock; < 0: none.
 * Blocks: until `deadline`, or 100 ms. Threads: any. */
int64_t cl_sync_wait(cl_sync *sync, uint64_t ticket, int64_t since, int64_t deadline);

/* For who waits otherwise than by cl_sync_wait, in an event loop. 1: it gave back a moment ago what others wait for, and they have not
 * had a turn: do something else for an instant, and ask again. 0: try now. Needs no registration.
 * Blocks: no. Threads: any. */
int64_t cl_sync_gives_way(cl_sync *sync);

/* How long a wait may spin before it sleeps, ns, 100 ms at most; 0: not at all.
 * Blocks: no. Threads: any. */
void cl_sync_set_spin(cl_sync *sync, int64_t ns);

/* Ask now which participants have died, and give on what they held. How many. The calls that wait do it by themselves.
 * Blocks: no. Threads: any. */
int64_t cl_sync_recover(cl_sync *sync);

/* A descriptor that becomes readable when another try may be worth it, once it was armed; it is at first.
 * Blocks: no. Threads: caller locks. */
int64_t cl_sync_poll_fd(cl_sync *sync);

/* What it rang for is past: who has heard it wakes all who wait for it here. 0.
 * Blocks: no. Threads: caller locks. */
int64_t cl_sync_silence(cl_sync *sync);

/* Ring once something has changed, from now on; then try: what came before is not told.
 * Blocks: no. Threads: caller locks. */
int64_t cl_sync_arm(cl_sync *sync);

/* What is known of it; needs no registration. 0.
 * Blocks: no. Threads: any. */
int64_t cl_sync_report_of(const cl_sync *sync, cl_sync_report *out);

/* ---- locks --------------------------------------------------------------------------------------------------------------
 * Held by one thread of one object. Who dies with it has perhaps left what it protects half done: so the next holder is told,
 * and the one after it too, until somebody releases it and does not say otherwise. */

/* Take it, if it is free. 0: it is ours. > 0: it is ours, and that is the pid of who died with it last. -EAGAIN: somebody has
 * it. -EDEADLK: this thread has it. `waits`: the caller would wait: -EAGAIN, too, when it has just had it and others, who wait for
 * longer, are to have a turn.
 * Blocks: no. Threads: any. */
int64_t cl_lock_try(cl_lock *lock, int32_t waits);

/* Take it, and wait for it. As cl_lock_try, or -ETIMEDOUT, or -EINTR: call it again.
 * Blocks: until `deadline` (of CLOCK_MONOTONIC, ns; < 0: none), or 100 ms. Threads: any. */
int64_t cl_lock_acquire(cl_lock *lock, int64_t deadline);

/* Give it on. `keeps`: if the next holder is to be told what this one was told, of a death. 0. -EPERM: this thread does not have it.
 * Blocks: no. Threads: the one that has it. */
int64_t cl_lock_release(cl_lock *lock, int32_t keeps);

/* The pid of its holder as that sees it itself; 0: nobody; CL_SYNC_UNKNOWN. Needs no registration.
 * Blocks: no. Threads: any. */
int64_t cl_lock_holder(const cl_lock *lock);

/* 1: this thread has it, through this object. 0.
 * Blocks: no. Threads: any. */
int64_t cl_lock_is_held(const cl_lock *lock);

/* How often this object has had it, so far, modulo 2^32: which claim this is, for whoever has it.
 * Blocks: no. Threads: the one that has it. */
int64_t cl_lock_claims(const cl_lock *lock);

/* While this object has it: the pid of who died with it last, or 0.
 * Blocks: no. Threads: any. */
int64_t cl_lock_recovered(const cl_lock *lock);

/* ---- semaphores ---------------------------------------------------------------------------------------------------------
 * Its permits are held by objects, and come back when their holder dies. */

/* Take a permit. 0. -EAGAIN: there is none. `waits`: as for a lock.
 * Blocks: no. Threads: any. */
int64_t cl_semaphore_try(cl_semaphore *semaphore, int32_t waits);

/* Take a permit, and wait for it. As cl_semaphore_try, or -ETIMEDOUT, or -EINTR: call it again.
 * Blocks: until `deadline` (of CLOCK_MONOTONIC, ns; < 0: none), or 100 ms. Threads: any. */
int64_t cl_semaphore_acquire(cl_semaphore *semaphore, int64_t deadline);

/* Give one back. 0. -EPERM: this object has none.
 * Blocks: no. Threads: any. */
int64_t cl_semaphore_release(cl_semaphore *semaphore);

/* The pid of who has that permit, from 0; 0: nobody; CL_SYNC_UNKNOWN. -EINVAL. Needs no registration.
 * Blocks: no. Threads: any. */
int64_t cl_semaphore_holder(const cl_semaphore *semaphore, int64_t permit);

/* ---- events ------------------------------------------------------------------------------------------------------------- */

/* Set it: all who wait go on, also those who look only when it has been cleared again. 0.
 * Blocks: no. Threads: any. */
int64_t cl_event_set(cl_event *event);

/* 0.
 * Blocks: no. Threads: any. */
int64_t cl_event_clear(cl_event *event);

/* How often it has changed: odd while it is set. The ticket of who would wait. Needs no registration.
 * Blocks: no. Threads: any. */
int64_t cl_event_now(const cl_event *event);

/* ---- barriers -----------------------------------------------------------------------------------------------------------
 * As many as there are parties arrive, then all go on, and it is there for the next generation. It is broken, for all who wait
 * and all who come, when one who waits dies or gives up, or somebody says so; until it is reset. */

/* One party's arrival. Begin with zeros. */
typedef struct cl_barrier_ticket {
    uint64_t generation;
    int64_t index;   /* in which place it came, from 0 */
    int64_t is_open; /* neither passed nor given up */
    int64_t process; /* in which it came: the child of a fork has another number there */
} cl_barrier_ticket;

/* Arrive, and then cl_sync_wait with the ticket's generation until cl_barrier_look does not say 0. 0. -EPIPE: it is broken.
 * Blocks: no. Threads: any. */
int64_t cl_barrier_arrive(cl_barrier *barrier, cl_barrier_ticket *ticket);

/* 1: all have come. 0: not yet. -EPIPE: it was broken, or reset, before that.
 * Blocks: no. Threads: any. */
int64_t cl_barrier_look(const cl_barrier *barrier, uint64_t generation);

/* Wait no more: what breaks it, unless all have come meanwhile. 1: so it is, or the ticket is not open. 0: it is broken, or the ticket
 * is a copy, in the child of a fork: its parent still waits. Needs no registration: also who is none any more breaks it.
 * Blocks: no. Threads: the one that arrived. */
int64_t cl_barrier_give_up(cl_barrier *barrier, cl_barrier_ticket *ticket);

/* Break it. 0.
 * Blocks: no. Threads: any. */
int64_t cl_barrier_abort(cl_barrier *barrier);

/* Not broken any more. For those who wait just now it is. 0.
 * Blocks: no. Threads: any. */
int64_t cl_barrier_reset(cl_barrier *barrier);

/* Why it is broken. DIED: `cl_barrier_breaker` had come, and died. GAVE_UP: that waited no longer. ABORTED: it said so. */
enum cl_barrier_why { CL_BARRIER_WHOLE = 0, CL_BARRIER_DIED = 1, CL_BARRIER_GAVE_UP = 2, CL_BARRIER_ABORTED = 3 };

/* Of CL_BARRIER_*. Needs no registration.
 * Blocks: no. Threads: any. */
int64_t cl_barrier_why(const cl_barrier *barrier);

/* The pid of who broke it last, or reset it; for people: of two who do at once it may be the other. 0: nobody. CL_SYNC_UNKNOWN.
 * Blocks: no. Threads: any. */
int64_t cl_barrier_breaker(const cl_barrier *barrier);
