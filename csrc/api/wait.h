/* Waiting for any of several objects at once. */

enum cl_wait_look {
    CL_WAIT_NOT_YET = 0,
    CL_WAIT_READY = 1,   /* whoever tries is answered at once, if nobody else is faster; so is one who is told an error */
    CL_WAIT_HELD = 2     /* not yet, and behind something that another one has, who may die: look again soon */
};

/* One thing to be waited for, as cl_ring_waitable, cl_queue_waitable and the like fill it in: the object must outlive it. */
typedef struct cl_waitable {
    /* CL_WAIT_*, or -errno, which is as ready. Claims nothing, makes no system call. */
    int64_t (*look)(const struct cl_waitable *self);
    /* After a look in vain, whether somebody has died: -errno: trying says what that means; > 0: look again; 0. */
    int64_t (*ask)(const struct cl_waitable *self);
    uint32_t *word;      /* what whoever waits for it sleeps on; see csrc/wake.h */
    void *object;
    int64_t what, size;  /* the object's own */
    int64_t has_membarrier; /* it was made with membarrier: see csrc/wake.h */
} cl_waitable;

/* Let this process take part in objects made with CL_QUEUE_MEMBARRIER, CL_RING_MEMBARRIER: whoever waits for them may make it
 * go through a memory barrier, by an interrupt if it runs (membarrier(2), from Linux 4.16 on). Opening one and taking part in
 * it do this by themselves; this is for whoever is about to make one. 0. -ENOSYS: the system cannot, or a filter of system
 * calls refuses it.
 * Blocks: the first time, in a process with several threads: some ms. Threads: any. */
int64_t cl_membarrier_register(void);

/* Look at all: how many are ready; `ready[i]` is 1 for those, else 0. Deaths are asked for, if nothing is ready.
 * Blocks: no. Threads: any. */
int64_t cl_wait_look(const cl_waitable *all, int64_t count, uint8_t *ready);

/* Wait until at least one is ready: how many, and `ready` as above. It spins for `spin_ns` at most before it sleeps, less where
 * this thread's waits were long of late. -ETIMEDOUT. -EINTR: a signal, or 100 ms are over: call again with the same deadline
 * (of CLOCK_MONOTONIC, ns; < 0: none). -EINVAL: count < 1. -ENOSYS: nothing is ready, and this kernel (before Linux 5.16)
 * cannot sleep on several words, or not on so many (128): wait for their descriptors instead.
 * Blocks: yes. Threads: any. */
int64_t cl_wait_any(const cl_waitable *all, int64_t count, int64_t deadline, int64_t spin_ns, uint8_t *ready);
