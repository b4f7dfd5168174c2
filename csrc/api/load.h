/* How busy the CPUs are: text files of counters, read whole and parsed. What the counters mean is the kernel's business
 * (proc(5)); what is made of two samples is the caller's. */

/* A file's text in memory that grows and is used again. Begin with zeroes. */
typedef struct cl_text {
    char *data; /* NUL-terminated */
    int64_t size;
    int64_t room;
} cl_text;

/* Read a whole file in place of what is there. A file of counters is one moment's: the kernel writes it down at the first
 * read, and later reads only carry the rest of it. Returns its size, or -errno; -EFBIG beyond 64 MiB.
 * Blocks: as read(2). Threads: caller locks. */
int64_t cl_text_read(cl_text *text, const char *path);

/* Free its memory. It may be read into again.
 * Blocks: no. Threads: caller locks. */
void cl_text_free(cl_text *text);

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
