/* Where threads may run, how urgently, and where their memory comes from. A thread is named by its number, 0: the calling
 * one; a process's number names its main thread. Errors are the kernel's own: -ESRCH (it is gone), -EPERM and -EACCES (not
 * allowed), -EINVAL, -ENOTSUP where the platform has no such thing. */

/* Values of cl_command.sched_policy and cl_sched.policy: the kernel's numbers. */
enum cl_sched_policy {
    CL_SCHED_KEEP = -1,
    CL_SCHED_OTHER = 0,
    CL_SCHED_FIFO = 1,
    CL_SCHED_RR = 2,
    CL_SCHED_BATCH = 3,
    CL_SCHED_IDLE = 5,
    CL_SCHED_DEADLINE = 6
};

/* Values of cl_command.memory_policy: the kernel's numbers. */
enum cl_memory_policy {
    CL_MEMORY_DEFAULT = 0,
    CL_MEMORY_PREFERRED = 1,
    CL_MEMORY_BIND = 2,
    CL_MEMORY_INTERLEAVE = 3,
    CL_MEMORY_LOCAL = 4,
    CL_MEMORY_PREFERRED_MANY = 5,
    CL_MEMORY_WEIGHTED_INTERLEAVE = 6
};

/* Whom nice values and I/O priorities are of. */
enum cl_who { CL_WHO_THREAD = 0, CL_WHO_GROUP = 1, CL_WHO_USER = 2 };

/* How a thread is scheduled. 64-bit fields only, so that a binding can read it with one unpack. */
typedef struct cl_sched {
    int64_t policy;         /* CL_SCHED_*; KEEP: only util_min and util_max are set */
    int64_t priority;       /* 1 to 99 with FIFO and RR */
    int64_t nice;           /* only an answer: cl_cpu_set_nice sets it */
    int64_t reset_on_fork;  /* 1: what it forks has the policy "other" again */
    int64_t runtime_ns;     /* these three: of DEADLINE, else 0 */
    int64_t deadline_ns;
    int64_t period_ns;
    int64_t util_min;       /* of 1024. As a request -1: unchanged. As an answer -1: the kernel has no such thing */
    int64_t util_max;
} cl_sched;

/* The number of the calling thread, which is not that of a pthread_t.
 * Blocks: no. Threads: any. */
int64_t cl_cpu_thread(void);

/* The CPUs on which a thread may run, as a mask: bit n%8 of byte n/8. Returns the bytes written, a multiple of 8; -EINVAL:
 * `room` is less than this kernel's masks need, so ask again with more.
 * Blocks: no. Threads: any. */
int64_t cl_cpu_get_affinity(int32_t thread, uint8_t *mask, int64_t room);

/* Let a thread run on these CPUs only. The kernel takes what of them there is, is online and in the thread's cpuset, and
 * says nothing of the rest. So the mask is read back. `before` and `after` have room for
 * `room` bytes each and get the masks as cl_cpu_get_affinity has them: which was in force, and which is now. Returns the
 * bytes of each. -ENODEV: `after` is what was applied, which is not all or nothing at all, and with `all_or_nothing` the
 * thread has its old mask again. -EINVAL: as cl_cpu_get_affinity, with nothing done.
 * Blocks: no. Threads: any. */
int64_t cl_cpu_set_affinity(int32_t thread, const uint8_t *mask, int64_t size, int32_t all_or_nothing, uint8_t *before,
                            uint8_t *after, int64_t room);

/* How a thread is scheduled.
 * Blocks: no. Threads: any. */
int64_t cl_cpu_get_sched(int32_t thread, cl_sched *out);

/* Schedule it so; its nice value stays. -EBUSY: there is no room for such a deadline.
 * Blocks: no. Threads: any. */
int64_t cl_cpu_set_sched(int32_t thread, const cl_sched *sched);

/* The lowest nice value among a thread, the threads of a process group, or those of a user; `id` 0: ours. Returns 20 minus
 * it, so 1 (nice 19) to 40 (nice -20).
 * Blocks: no. Threads: any. */
int64_t cl_cpu_get_nice(int32_t who, int32_t id);

/* Set the nice value of all of those.
 * Blocks: no. Threads: any. */
int64_t cl_cpu_set_nice(int32_t who, int32_t id, int32_t nice);

/* The highest I/O priority among those, as class << 13 | level; class 0: it follows the nice value.
 * Blocks: no. Threads: any. */
int64_t cl_cpu_get_io_priority(int32_t who, int32_t id);

/* Set the I/O priority of all of those.
 * Blocks: no. Threads: any. */
int64_t cl_cpu_set_io_priority(int32_t who, int32_t id, int32_t value);

/* The calling thread's memory policy, CL_MEMORY_* in the lowest 8 bits, beside it the kernel's flags (MPOL_F_*), which
 * setting takes back as they are; and its nodes as a mask like that of CPUs. -EINVAL: `room` is less than
 * this kernel's masks need, or is not a multiple of 8.
 * Blocks: no. Threads: any. */
int64_t cl_cpu_get_memory_policy(uint8_t *nodes, int64_t room);

/* Set it, for memory that is first touched from now on. The kernel takes what of the nodes there is and the cpuset allows:
 * -EINVAL only if that is none, or `size` is not a multiple of 8; the caller reads back.
 * Blocks: no. Threads: any. */
int64_t cl_cpu_set_memory_policy(int32_t policy, const uint8_t *nodes, int64_t size);

/* The calling thread's quality-of-service class, QOS_CLASS_* of macOS. -ENOTSUP elsewhere.
 * Blocks: no. Threads: any. */
int64_t cl_cpu_get_qos(void);

/* Set it.
 * Blocks: no. Threads: any. */
int64_t cl_cpu_set_qos(int32_t qos);
