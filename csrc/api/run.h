/* One run from start to end: feed stdin, drain stdout and stderr, watch the deadline, reap. A run is a state struct
 * that is advanced by steps, so that a signal can interrupt it and it can then go on. */

typedef struct cl_run cl_run;

enum cl_limit_action {
    CL_LIMIT_FAIL = 0,     /* kill the scope; cl_run_report.limit_hit says so and the caller reports an error */
    CL_LIMIT_TRUNCATE = 1, /* keep the first max_output bytes of the stream, read on and drop the rest */
    CL_LIMIT_KILL = 2      /* kill the scope; what was read is the result */
};

typedef struct cl_piece {
    const void *data;
    uint64_t size;
} cl_piece;

typedef struct cl_run_options {
    const cl_piece *feed;   /* stdin, written with writev; kept alive until the run is done, aborted or freed */
    uint64_t feed_count;
    int64_t timeout_ns;     /* < 0: none */
    int64_t grace_ns;       /* at the deadline: SIGTERM, then SIGKILL after this; 0: SIGKILL at once */
    int64_t drain_ns;       /* how long pipes that outlive the child are read; a tee's reader has until the deadline */
    int64_t max_output;     /* bytes kept of each stream; < 0: no cap */
    int64_t buffer[2];      /* first size of stdout's and stderr's buffer, bytes; 0: 8 KiB, 4 KiB */
    int32_t limit_action;   /* CL_LIMIT_* */
    int32_t tee[2];         /* descriptors that get a copy of stdout and stderr, or -1 */
    int32_t unused;
} cl_run_options;

typedef struct cl_run_report {
    cl_report child;
    int64_t timed_out;       /* the deadline passed and the scope was killed */
    int64_t limit_hit;       /* a stream reached max_output */
    int64_t pipes_left_open; /* somebody still held a pipe when the drain ended: output may be missing */
    int64_t tee_error;       /* errno of a failed tee, else 0; copying to it stopped there */
    int64_t feed_left;       /* bytes of stdin the child did not take */
    int64_t size[2];         /* bytes of stdout and stderr captured */
    int64_t data[2];         /* where they are, as addresses; valid until the run is used again or freed */
    int64_t is_plain;        /* it exited with 0, and none of the troubles above came up */
} cl_run_report;

/* Make a run that can be used again and again, one child at a time. -ENOMEM.
 * Blocks: no. Threads: any. */
int64_t cl_run_new(cl_run **out);

/* Free it; a child that is still running is killed with its scope and reaped. NULL is allowed.
 * Blocks: yes, while a killed child is reaped, at most a second. Threads: caller locks. */
void cl_run_free(cl_run *run);

/* Start the child and take as many steps as `at_most_ns` allows (see cl_run_step). -errno of the spawn, with the
 * stage in the report; -EBUSY if this run has a child already.
 * Blocks: yes. Threads: caller locks. */
int64_t cl_run_start(cl_run *run, const cl_command *command, const cl_launch *launch, const cl_run_options *options,
                     const cl_environ *snapshot, int64_t at_most_ns);

/* The same, and copy the report, which is the last one unless 0 or -EINTR is returned: one crossing for a short run.
 * Blocks: yes. Threads: caller locks. */
int64_t cl_run_start_report(cl_run *run, const cl_command *command, const cl_launch *launch,
                            const cl_run_options *options, const cl_environ *snapshot, int64_t at_most_ns,
                            cl_run_report *out);

/* Go on. 1: all is done and the report is final. 0: `at_most_ns` passed. -EINTR: a signal came; call again. Anything
 * else: the run failed in the parent (-ENOMEM: a buffer could not grow; -ETIMEDOUT: the child was killed seconds ago and
 * has not ended: it is in uninterruptible sleep, or frozen; -EPERM: we may not kill it, or did not start it); call
 * cl_run_abort.
 * Blocks: yes. Threads: caller locks. */
int64_t cl_run_step(cl_run *run, int64_t at_most_ns);

/* Kill the scope and reap the child, reading nothing more. 1: reaped; 0: it did not end in `at_most_ns`.
 * Blocks: yes. Threads: caller locks. */
int64_t cl_run_abort(cl_run *run, int64_t at_most_ns);

/* The captured output is not needed any more: free what is too large to be kept for the next run. -EBUSY while the child
 * runs.
 * Blocks: no. Threads: caller locks. */
int64_t cl_run_forget(cl_run *run);

/* Copy the report.
 * Blocks: no. Threads: caller locks. */
int64_t cl_run_report_get(cl_run *run, cl_run_report *out);
