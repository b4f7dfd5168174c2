/* What this build of the core is, and what it needs to be told once. */

enum cl_platform {
    CL_PLATFORM_LINUX = 1,    /* clone3, pidfd */
    CL_PLATFORM_PORTABLE = 2, /* posix_spawn and timed polling, on any POSIX system */
    CL_PLATFORM_DARWIN = 3    /* posix_spawn and kqueue */
};

/* Which of the platforms above this build is.
 * Blocks: no. Threads: any. */
int64_t cl_platform(void);

/* Tell the core where the exec trampoline is: a small program that applies what posix_spawn has no attribute for,
 * and then execs the target. `path` is copied. -EINVAL if it is empty, -ENAMETOOLONG.
 * Blocks: no. Threads: caller locks (call it once, before the first spawn). */
int64_t cl_set_trampoline(const char *path);

/* A snapshot of the environment, so that a child can be started without the environment changing under it. */
typedef struct cl_environ cl_environ;

/* Make an empty snapshot. -ENOMEM.
 * Blocks: no. Threads: any. */
int64_t cl_environ_new(cl_environ **out);

/* Free it. NULL is allowed.
 * Blocks: no. Threads: caller locks. */
void cl_environ_free(cl_environ *snapshot);

/* Copy the process's environment as it is now. The caller keeps others from changing it meanwhile (in Python: call
 * it holding the GIL, as corelane._fast does). Returns the number of variables, or -ENOMEM.
 * Blocks: no. Threads: caller locks. */
int64_t cl_environ_capture(cl_environ *snapshot);

/* Copy the given NULL-terminated table of "NAME=value" instead. Returns their number, or -ENOMEM.
 * Blocks: no. Threads: caller locks. */
int64_t cl_environ_load(cl_environ *snapshot, const char *const *strings);

/* A descriptor that lives as long as this, for callers who may lose what a call returns: in Python a signal's exception
 * can come between a call and the use of its value. Begin with fd = -1. */
typedef struct cl_opened {
    int64_t fd;
} cl_opened;

/* Open `path`, below `directory` unless that is -1, CLOEXEC; a file that O_CREAT makes has mode 0666. Returns the
 * descriptor, or -errno; -EINTR at a signal (call again).
 * Blocks: as open(2). Threads: caller locks. */
int64_t cl_opened_open(cl_opened *opened, int32_t directory, const char *path, int32_t flags);

/* A pipe, its ends close-on-exec and numbered from 3. -EMFILE, -ENFILE: both are -1 then.
 * Blocks: no. Threads: any. */
int64_t cl_opened_pipe(cl_opened *reader, cl_opened *writer);

/* Close it, if it is not closed yet.
 * Blocks: as close(2). Threads: caller locks. */
void cl_opened_close(cl_opened *opened);
