/* A command as data: everything that is done between clone and exec. Nothing here is changed or kept by the core
 * after a call returns, so one cl_command may be used by any number of threads at a time. */

enum cl_strategy {
    CL_STRATEGY_AUTO = 0,        /* the fastest that can do what is asked */
    CL_STRATEGY_CLONE3 = 1,      /* clone3(CLONE_VM|CLONE_VFORK|CLONE_PIDFD|CLONE_CLEAR_SIGHAND) on its own stack */
    CL_STRATEGY_VFORK = 2,       /* clone(CLONE_VM|CLONE_VFORK), kernels before 5.5, old containers */
    CL_STRATEGY_POSIX_SPAWN = 3, /* libc's, with the exec trampoline for what its attributes lack */
    CL_STRATEGY_FORK = 4,        /* a copied address space: changes of user and group, cgroup v1 */
    CL_STRATEGY_FLIGHT = 5       /* clone3 without CLONE_VFORK: nobody waits for exec. Chosen by batches, never asked for */
};

/* The step of a spawn that failed. */
enum cl_stage {
    CL_STAGE_NONE = 0,
    CL_STAGE_PREPARE = 1,     /* memory, tables; nothing was started */
    CL_STAGE_PIPE = 2,        /* making a pipe, or setting its capacity */
    CL_STAGE_CLONE = 3,       /* clone3, clone, posix_spawn: no child exists */
    CL_STAGE_SESSION = 5,     /* setsid */
    CL_STAGE_GROUP = 6,       /* setpgid */
    CL_STAGE_TERMINAL = 7,    /* TIOCSCTTY */
    CL_STAGE_FOREGROUND = 8,  /* tcsetpgrp */
    CL_STAGE_CGROUP = 9,      /* joining the cgroup */
    CL_STAGE_LIMITS = 10,     /* setrlimit */
    /* From NICE to OOM: what CL_OPT_BEST_EFFORT goes on without; see cl_report.not_applied. */
    CL_STAGE_NICE = 11,       /* setpriority */
    CL_STAGE_SCHEDULER = 12,  /* sched_setscheduler, sched_setattr */
    CL_STAGE_UCLAMP = 13,     /* sched_setattr */
    CL_STAGE_AFFINITY = 14,   /* sched_setaffinity; ENODEV: it took some of the CPUs, not all */
    CL_STAGE_IO_PRIORITY = 15,/* ioprio_set */
    CL_STAGE_MEMORY_POLICY = 16, /* set_mempolicy; ENODEV: it took some of the nodes, not all */
    CL_STAGE_AUTOGROUP = 17,  /* writing autogroup; EBUSY: others have just done so (the kernel's EAGAIN) */
    CL_STAGE_OOM = 18,        /* writing oom_score_adj */
    CL_STAGE_DESCRIPTORS = 19,/* dup2, open /dev/null, closing the others */
    CL_STAGE_UMASK = 20,
    CL_STAGE_CWD = 21,        /* chdir, fchdir */
    CL_STAGE_GROUPS = 22,     /* setgroups */
    CL_STAGE_GID = 23,        /* setresgid */
    CL_STAGE_UID = 24,        /* setresuid */
    CL_STAGE_DEATH_SIGNAL = 25, /* PR_SET_PDEATHSIG; ESRCH: the parent was gone already */
    CL_STAGE_NO_NEW_PRIVS = 26,
    CL_STAGE_SIGNALS = 27,    /* dispositions and mask */
    CL_STAGE_EXEC = 28,       /* execve */
    CL_STAGE_TRAMPOLINE = 29  /* the exec trampoline could not be started */
};

/* Bits of cl_command.options: which of the fields below are in force. */
enum cl_option {
    CL_OPT_CWD_FD = 1,
    CL_OPT_UMASK = 2,
    CL_OPT_PROCESS_GROUP = 4,
    CL_OPT_NEW_SESSION = 8,
    CL_OPT_TERMINAL = 16,
    CL_OPT_FOREGROUND = 32,
    CL_OPT_NICE = 64,
    CL_OPT_SCHEDULER = 128,
    CL_OPT_IO_PRIORITY = 256,
    CL_OPT_OOM_SCORE_ADJ = 512,
    CL_OPT_DEATH_SIGNAL = 1024,
    CL_OPT_NO_NEW_PRIVS = 2048,
    CL_OPT_KEEP_OTHERS = 4096,   /* do not set CLOEXEC on the descriptors that are not in the map */
    CL_OPT_UID = 8192,
    CL_OPT_GID = 16384,
    CL_OPT_GROUPS = 32768,
    CL_OPT_CGROUP_V1 = 65536,    /* cl_launch.cgroup_fd is a v1 directory: needs the forking strategy */
    CL_OPT_RESET_ON_FORK = 131072, /* with CL_OPT_SCHEDULER: what the child forks has the policy "other" again */
    CL_OPT_UCLAMP = 262144,
    CL_OPT_MEMORY_POLICY = 524288,
    CL_OPT_AUTOGROUP = 1048576,
    CL_OPT_BEST_EFFORT = 2097152 /* go on without what the system refuses of NICE to OOM, and report it */
};

enum cl_containment {
    CL_CONTAIN_AUTO = 0,   /* a group, unless stdin is our controlling terminal */
    CL_CONTAIN_NONE = 1,
    CL_CONTAIN_GROUP = 2,  /* a new process group, signalled as one */
    CL_CONTAIN_CGROUP = 3  /* everything in cl_launch.cgroup_fd */
};

typedef struct cl_limit {
    int32_t resource; /* RLIMIT_* */
    int32_t unused;
    uint64_t soft;    /* UINT64_MAX: unlimited */
    uint64_t hard;
} cl_limit;

typedef struct cl_fd_move {
    int32_t source; /* a descriptor of the parent */
    int32_t target; /* its number in the child, >= 3 */
} cl_fd_move;

typedef struct cl_command {
    const char *program;            /* NULL: argv[0]; without a slash it is looked up in the child's PATH */
    const char *const *argv;        /* NULL-terminated, at least one */
    const char *const *env;         /* NULL-terminated; NULL: the environment at the time of the spawn */
    const char *const *env_changes; /* "NAME=value" sets, "NAME" removes; NULL-terminated, or NULL */
    const char *cwd;                /* NULL: unchanged. A relative program is looked up after the change. */
    const cl_limit *limits;
    const cl_fd_move *moves;        /* distinct targets */
    const uint8_t *cpus;            /* affinity mask: bit n%8 of byte n/8, a multiple of 8 bytes; NULL: unchanged */
    const uint8_t *nodes;           /* of the memory policy: bit n%8 of byte n/8, a multiple of 8 bytes; NULL: none */
    const uint32_t *groups;
    uint64_t options;               /* CL_OPT_* */
    uint64_t signal_mask;           /* bit s-1: signal s is blocked in the child */
    uint64_t signal_defaults;       /* beside SIGPIPE and SIGXFSZ, which are always reset */
    uint64_t signal_ignores;
    uint64_t runtime_ns;            /* these three: of CL_SCHED_DEADLINE */
    uint64_t deadline_ns;
    uint64_t period_ns;
    uint32_t limit_count;
    uint32_t move_count;
    uint32_t cpus_size;             /* bytes */
    uint32_t nodes_size;            /* bytes */
    uint32_t group_count;
    int32_t strategy;               /* CL_STRATEGY_* */
    int32_t contain;                /* CL_CONTAIN_* */
    int32_t cwd_fd;
    int32_t umask;
    int32_t process_group;          /* 0: a new one, led by the child */
    int32_t terminal_fd;
    int32_t nice;
    int32_t sched_policy;           /* CL_SCHED_* */
    int32_t sched_priority;
    int32_t util_min;               /* of 1024, or -1: unchanged */
    int32_t util_max;
    int32_t memory_policy;          /* CL_MEMORY_* */
    int32_t autogroup;              /* nice of the child's session, which must be new: it is that of all in it */
    int32_t io_priority;            /* class << 13 | level, as ioprio_set(2) */
    int32_t oom_score_adj;
    int32_t death_signal;
    uint32_t uid;
    uint32_t gid;
} cl_command;

enum cl_io {
    CL_IO_INHERIT = 0,
    CL_IO_NULL = 1,    /* /dev/null */
    CL_IO_FD = 2,      /* cl_stream.fd, which stays the caller's */
    CL_IO_PIPE = 3,    /* a new pipe; its other end is in the report (or the run feeds or drains it) */
    CL_IO_STDOUT = 4   /* stderr only: wherever stdout goes */
};

typedef struct cl_stream {
    int32_t kind;      /* CL_IO_* */
    int32_t fd;
    int64_t pipe_size; /* bytes of pipe capacity; 0: the system's default */
} cl_stream;

/* What may differ from one run of a command to the next. */
typedef struct cl_launch {
    cl_stream stream[3];
    int32_t cgroup_fd; /* directory of the cgroup to be born in, or -1; stays the caller's */
    int32_t unused;
} cl_launch;
