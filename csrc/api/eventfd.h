/* Events: a count in the kernel that processes share by passing a descriptor on. An eventfd; where there is none (macOS), or
 * if it is asked for, a FIFO without a name that is open for reading and writing. */

enum cl_eventfd_flag {
    CL_EVENTFD_SEMAPHORE = 1, /* a wait takes 1, not all there is */
    CL_EVENTFD_FIFO = 2       /* no eventfd, also where there is one */
};

typedef struct cl_eventfd cl_eventfd;

/* An object for one event, closed. -ENOMEM.
 * Blocks: no. Threads: any. */
int64_t cl_eventfd_new(cl_eventfd **out);

/* Close it; the object is gone. NULL is allowed.
 * Blocks: no. Threads: caller locks. */
void cl_eventfd_free(cl_eventfd *event);

/* Make one. `directory` is where a FIFO has its name, for a moment. -EBUSY: the object has one. -EAGAIN: `initial` is more
 * than a FIFO holds.
 * Blocks: no. Threads: caller locks. */
int64_t cl_eventfd_open(cl_eventfd *event, uint64_t initial, int32_t flags, const char *directory);

/* Attach what is open as `fd`: a duplicate is made, and what it is of does not block from then on, for whoever has it.
 * -EINVAL: it is no event. -EBUSY.
 * Blocks: no. Threads: caller locks. */
int64_t cl_eventfd_attach(cl_eventfd *event, int32_t fd);

/* Let go of it. Who waits in another thread gets -EBADF within 100 ms.
 * Blocks: no. Threads: any. */
void cl_eventfd_close(cl_eventfd *event);

/* In the child of a fork: those who were using it are not here.
 * Blocks: no. Threads: the only one. */
void cl_eventfd_forked(cl_eventfd *event);

/* Its descriptor, readable while the count is not 0; -EBADF: it is closed.
 * Blocks: no. Threads: any. */
int64_t cl_eventfd_fd(const cl_eventfd *event);

/* A duplicate of its descriptor. -EBADF, -EMFILE.
 * Blocks: no. Threads: any. */
int64_t cl_eventfd_dup(cl_eventfd *event, cl_opened *out);

/* Add n - *done to the count. `*done` begins as 0 and says how much was added: all or nothing, but with a FIFO that is a
 * semaphore. `deadline`: of CLOCK_MONOTONIC, ns; < 0: none. -ETIMEDOUT: there was no room; -EINTR at a signal, and every
 * 100 ms: call again; -EBADF.
 * Blocks: while there is no room. Threads: any. */
int64_t cl_eventfd_signal(cl_eventfd *event, uint64_t n, int64_t deadline, uint64_t *done);

/* Take from the count: `*taken`, 1 or all there is. -ETIMEDOUT: it was 0; -EINTR as above; -EBADF; -EBADMSG: somebody has
 * written to the FIFO what cannot be.
 * Blocks: while it is 0. Threads: any. */
int64_t cl_eventfd_wait(cl_eventfd *event, int64_t deadline, uint64_t *taken);
