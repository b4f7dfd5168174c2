/* One child: spawn it, signal it, wait for it. */

typedef struct cl_process cl_process;

enum cl_state {
    CL_STATE_NEW = 0,      /* nothing spawned yet, or the spawn failed */
    CL_STATE_RUNNING = 1,
    CL_STATE_STOPPED = 2,
    CL_STATE_EXITED = 3,   /* status: the exit code */
    CL_STATE_SIGNALED = 4, /* status: the signal; core_dumped */
    CL_STATE_UNKNOWN = 5   /* it ended, and somebody else took its status */
};

/* 64-bit fields only, so that a binding can read it with one unpack. */
typedef struct cl_report {
    int64_t pid;
    int64_t pidfd;         /* readable when the child ends; -1 where there is none */
    int64_t strategy;      /* the one used */
    int64_t contained;     /* CL_CONTAIN_*: the guarantee obtained */
    int64_t stage;         /* CL_STAGE_*: where the spawn failed */
    int64_t error;         /* its errno */
    int64_t pipe[3];       /* our ends of CL_IO_PIPE streams, else -1; the caller closes them, but those of a cl_run are its own */
    int64_t state;         /* CL_STATE_* */
    int64_t status;
    int64_t core_dumped;
    int64_t elapsed_ns;    /* from just before the spawn to the moment we learnt of the end */
    int64_t user_us;
    int64_t system_us;
    int64_t max_rss_kib;
    int64_t minor_faults;
    int64_t major_faults;
    int64_t block_reads;
    int64_t block_writes;
    int64_t voluntary_switches;
    int64_t involuntary_switches;
    int64_t not_applied;   /* byte n: the errno of stage CL_STAGE_NICE + n, which CL_OPT_BEST_EFFORT went on without; or 0 */
} cl_report;

/* Make an empty process object. -ENOMEM.
 * Blocks: no. Threads: any. */
int64_t cl_process_new(cl_process **out);

/* Free it, and close its pidfd. A child that has ended is reaped; one that runs is left alone. NULL is allowed.
 * Blocks: no. Threads: caller locks. */
void cl_process_free(cl_process *process);

/* Start `command`. `snapshot` is the environment where command->env is NULL; NULL takes the process's own, which
 * nobody may then change meanwhile. Returns the pid, or -errno; cl_process_report has the stage.
 * Blocks: until the child has exec'd or failed. Threads: caller locks; one spawn per object. */
int64_t cl_process_spawn(cl_process *process, const cl_command *command, const cl_launch *launch,
                         const cl_environ *snapshot);

/* The same without waiting for exec, where that can be (see flight_linux.c; the strategy in the report says whether): then
 * an exec that fails is not its result, but cl_process_exec_state's. What the arguments point to is not needed any more.
 * Blocks: no longer than the clone takes; where it cannot be, as cl_process_spawn. Threads: caller locks; one spawn per
 * object. */
int64_t cl_process_spawn_nowait(cl_process *process, const cl_command *command, const cl_launch *launch,
                                const cl_environ *snapshot);

/* 1: the child has exec'd, or was killed before it could; 0: not known yet, so ask again; -errno: it could not be started,
 * cl_process_report has the stage, and the child is reaped. -EPERM also as cl_process_wait, with no stage in the report then.
 * The kernel makes no descriptor readable at an exec; the child's own is at its end.
 * Blocks: no. Threads: any. */
int64_t cl_process_exec_state(cl_process *process);

/* Wait up to `timeout_ns` (0: only look; negative: for ever) for the child to end, and reap it. 1 when it has ended,
 * 0 when not, -EINTR at a signal (call again), -EPERM in a process that did not start it.
 * Blocks: yes. Threads: any. */
int64_t cl_process_wait(cl_process *process, int64_t timeout_ns);

/* The same, but the ended child is not reaped: until it is, its group's number is its own, and cl_process_signal_scope
 * can still reach what it left on every system.
 * Blocks: yes. Threads: any. */
int64_t cl_process_await_end(cl_process *process, int64_t timeout_ns);

/* The child's CL_STATE_* now; reaps it if it has ended.
 * Blocks: no. Threads: any. */
int64_t cl_process_state(cl_process *process);

/* Send a signal (0: only test) to the child alone. -ESRCH if it has ended, -EPERM as cl_process_wait.
 * Blocks: no. Threads: any. */
int64_t cl_process_signal(cl_process *process, int32_t signal);

/* Send a signal to everything the child's containment holds: its cgroup, its group, or itself. -ESRCH if nothing is
 * left (SIGKILL to a cgroup goes through cgroup.kill, which does not say whether there was anybody: 0), -ECHILD if the
 * leader was reaped and this kernel has no safe way to signal its group any more.
 * Blocks: no. Threads: any. */
int64_t cl_process_signal_scope(cl_process *process, int32_t signal);

/* Give the terminal back to our own process group after a CL_OPT_FOREGROUND child; 0 if there was nothing to do.
 * Blocks: no. Threads: any. */
int64_t cl_process_take_terminal(cl_process *process);

/* Copy what is known of the child.
 * Blocks: no. Threads: any. */
int64_t cl_process_report(cl_process *process, cl_report *out);
