/* Hearing of writes to files: of the kernel's own files in /sys/fs/cgroup too, but of none in /proc. */

/* A descriptor that is readable when something was written to a file that it was given. -ENOTSUP where the platform has
 * no such thing, -EMFILE at the user's limit (fs.inotify.max_user_instances).
 * Blocks: no. Threads: caller locks. */
int64_t cl_notify_open(cl_opened *opened);

/* Hear of writes to the file at `path`. Returns the watch's number, the same one for the same file; -ENOENT, -EACCES,
 * -ENOSPC at the user's limit (fs.inotify.max_user_watches).
 * Blocks: as open(2). Threads: any. */
int64_t cl_notify_add(const cl_opened *opened, const char *path);

/* Hear no more of that one. -EINVAL if there is no such watch.
 * Blocks: no. Threads: any. */
int64_t cl_notify_remove(const cl_opened *opened, int64_t watch);

/* Take what was heard: the descriptor is not readable any more. Returns 1 if there was something, else 0.
 * Blocks: no. Threads: any. */
int64_t cl_notify_drain(const cl_opened *opened);
