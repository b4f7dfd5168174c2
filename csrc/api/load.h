/* How busy the CPUs are: text files of counters, parsed. What the counters mean is the kernel's business
 * (proc(5)); what is made of two samples is the caller's. */

/* The columns of one CPU in /proc/stat: its number, then the times in ticks since boot. A virtual machine's guest time is
 * in user and nice too. */
enum cl_load_column {
    CL_LOAD_CPU = 0,
    CL_LOAD_USER = 1,
    CL_LOAD_NICE = 2,
    CL_LOAD_SYSTEM = 3,
    CL_LOAD_IDLE = 4,
    CL_LOAD_IOWAIT = 5,
    CL_LOAD_IRQ = 6,
    CL_LOAD_SOFTIRQ = 7,
    CL_LOAD_STEAL = 8,
    CL_LOAD_GUEST = 9,
    CL_LOAD_GUEST_NICE = 10,
    CL_LOAD_COLUMNS = 11
};

/* The lines "cpuN ..." of /proc/stat as rows of CL_LOAD_COLUMNS numbers, in their order. Columns that an old kernel does
 * not have are 0, more than are known are left out. `most` is how many rows there is room for. Returns how many lines
 * there are, which may be more; or -EBADMSG at a line that is no such line, whose place in the text is in `where`.
 * Blocks: no. Threads: caller locks. */
int64_t cl_load_stat(const cl_text *text, int64_t *rows, int64_t most, int64_t *where);

/* The same of /proc/schedstat: rows of three numbers, the CPU's, and nanoseconds since boot that tasks ran on it and that
 * tasks were ready but waited for it. Versions before 15 have other columns: -ENOTSUP.
 * Blocks: no. Threads: caller locks. */
int64_t cl_load_schedstat(const cl_text *text, int64_t *rows, int64_t most, int64_t *where);
