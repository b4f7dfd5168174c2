/* Many runs at once, with one engine: each is started, fed, drained, timed and reaped as a single cl_run is, and one
 * wake-up costs the same however many live. */

typedef struct cl_batch cl_batch;

typedef struct cl_batch_item {
    const cl_command *command;
    const cl_launch *launch;
    const cl_run_options *options;
    const cl_environ *snapshot;
    int64_t tag;             /* comes back with the result */
    int64_t slot;            /* out: where it lives, for cl_batch_kill; -1: nowhere */
    int64_t stage, error;    /* out: of the one that met a limit, CL_STAGE_* and errno */
    int64_t more;            /* how many further items are stages of the same pipeline */
    int64_t joins;           /* what it writes to stdout is what the next item reads from stdin */
    int64_t fd[2];           /* out, with command NULL: the caller's to read from and to write to, or -1 */
} cl_batch_item;

typedef struct cl_batch_done {
    int64_t tag;
    int64_t slot;            /* for cl_batch_release */
    int64_t rc;              /* 1, or -errno: what cl_run_start or cl_run_step would have returned */
    cl_run_report report;    /* its data is valid until the slot is released */
} cl_batch_done;

/* Make an engine. It opens nothing before the first start. -ENOMEM.
 * Blocks: no. Threads: any. */
int64_t cl_batch_new(cl_batch **out);

/* Kill what still runs, as cl_batch_abort with a second, and free everything. NULL is allowed.
 * Blocks: yes, at most a second. Threads: caller locks. */
void cl_batch_free(cl_batch *batch);

/* Start children in order, and return how many were: fewer than `count` where the next one met a limit of the system
 * (EAGAIN, EMFILE, ENFILE, ENOMEM) while others lived that will make room. The options' tees must be -1; a stage has no session of its own. What else keeps a
 * child from being started is its result. -EPERM in a process that did not make the engine; -errno of the limit, with none
 * started, where nothing lives.
 *
 * Stages of a pipeline follow each other, in as many calls as that takes: `more` counts down to 0. They have one scope, that
 * of the first, and end together: while one runs, none is reaped, and no leftover is killed. When one is killed, or
 * cannot be started, the others are killed too, and those that come later are not started (ECANCELED at
 * CL_STAGE_PREPARE). A stage without a command is the caller's own: it gets the descriptors, has no result, and must close
 * them.
 *
 * Nobody waits for an exec: where that can be (see flight_linux.c), this returns while children are still on their way,
 * with copies of all they need, and an exec that fails is a result that comes later.
 * Blocks: no longer than the clones take. Threads: caller locks. */
int64_t cl_batch_start(cl_batch *batch, cl_batch_item *items, int64_t count);

/* Serve what has happened, and wait for more until a run is done, nothing lives, or `at_most_ns` have passed. Returns how
 * many results wait to be taken; -EINTR at a signal (call again); -EPERM as cl_batch_start.
 * Blocks: yes. Threads: caller locks. */
int64_t cl_batch_step(cl_batch *batch, int64_t at_most_ns);

/* The pipeline whose next stage has met a limit gets no more of them: those it has are killed, and have results.
 * Blocks: no. Threads: caller locks. */
int64_t cl_batch_break(cl_batch *batch);

/* Take results that wait, in the order in which they came. Returns how many.
 * Blocks: no. Threads: caller locks. */
int64_t cl_batch_take(cl_batch *batch, cl_batch_done *out, int64_t most);

/* The results of these slots were read: their memory is used again.
 * Blocks: no. Threads: caller locks. */
int64_t cl_batch_release(cl_batch *batch, const int64_t *slots, int64_t count);

/* Kill the scope of one that lives, and all other stages of its pipeline, by its slot and tag; its result comes as always.
 * -ESRCH: it lives no more.
 * Blocks: no. Threads: caller locks. */
int64_t cl_batch_kill(cl_batch *batch, int64_t slot, int64_t tag);

/* Kill all that lives, and reap within `at_most_ns`; results are thrown away. Returns how many are still there: in
 * uninterruptible sleep, or somebody else's. They live no more; this call and cl_batch_start look for them again.
 * Blocks: yes. Threads: caller locks. */
int64_t cl_batch_abort(cl_batch *batch, int64_t at_most_ns);

/* How many live.
 * Blocks: no. Threads: caller locks. */
int64_t cl_batch_live(cl_batch *batch);

/* A descriptor that is readable when a step has something to do, for an event loop; cl_batch_arm must be called before each
 * return to it. -ENOTSUP where the platform has none; -EMFILE, -ENFILE, -ENOMEM.
 * Blocks: no. Threads: caller locks. */
int64_t cl_batch_fd(cl_batch *batch);

/* Make the descriptor readable also at the next deadline. -EPERM as cl_batch_start.
 * Blocks: no. Threads: caller locks. */
int64_t cl_batch_arm(cl_batch *batch);
