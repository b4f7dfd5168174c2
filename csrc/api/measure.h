/* What this machine's kernel and hypervisor take, in time. Each measurement is short and changes nothing; a signal does
 * not end it early. */

/* The longest that one measurement is meant to take, and the most rounds it may have. */
enum { CL_MEASURE_MOST_NS = 1000000000, CL_MEASURE_MOST_ROUNDS = 100000 };

/* How long a sleeping thread takes to run again. `rounds` times: for `gap_ns` both this thread and another one sleep, then
 * this one writes a byte to the pipe that the other reads. `out[i]`: ns from before the write until the other one runs.
 * With a gap of 0 the CPUs have no time to go idle. Returns how many rounds were done: fewer, but at least one, where
 * they take more than twice their gaps and 50 ms. -EINVAL: no round or too many, or gaps of more than CL_MEASURE_MOST_NS;
 * -EMFILE, -ENFILE: no pipe; -EAGAIN: no thread.
 * Blocks: for rounds x gap_ns and a little more. Threads: any. */
int64_t cl_measure_wakeup(int64_t rounds, int64_t gap_ns, int64_t *out);

/* How late a sleep ends. `rounds` times: sleep for `ns`; `out[i]`: ns from when the sleep should have ended until this
 * thread runs. Returns how many rounds were done, as above. -EINVAL, as above.
 * Blocks: for rounds x ns and a little more. Threads: any. */
int64_t cl_measure_timer(int64_t rounds, int64_t ns, int64_t *out);

/* What reading the clock costs. Returns the ns that `rounds` calls of clock_gettime(CLOCK_MONOTONIC) take together, by way
 * of libc. -EINVAL: no round or too many.
 * Blocks: no; it takes a millisecond for some ten thousand rounds. Threads: any. */
int64_t cl_measure_clock(int64_t rounds);

/* What a system call costs that has nothing to do. Returns the ns that `rounds` calls of getppid take together. -EINVAL.
 * Blocks: no; it takes a millisecond for some thousand rounds. Threads: any. */
int64_t cl_measure_call(int64_t rounds);

/* When this thread does not run although it wants to: it reads the clock for `span_ns` without a pause, and a step of at
 * least `least_ns` from one reading to the next is a gap: an interrupt, another thread, the hypervisor. `out` takes the
 * lengths of the first `room` of them. Returns how many gaps there were, which may be more. -EINVAL: a span or a least gap
 * that is not from 1 to CL_MEASURE_MOST_NS.
 * Blocks: no, but it uses a CPU for span_ns. Threads: any. */
int64_t cl_measure_gaps(int64_t span_ns, int64_t least_ns, int64_t *out, int64_t room);
