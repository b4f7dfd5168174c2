/* What the system tells in files: one small file, many of them, a whole one of any size; and macOS's table of values by
 * name. None of these waits for what is no file: a fifo without a writer is empty. */

/* The beginning of a file: open it, read up to `size` bytes until its end, close it. Returns their number, `size` if
 * there may be more; -errno, -EINTR at a signal while it is opened (call again).
 * Blocks: as open(2) and read(2) of a file. Threads: any. */
int64_t cl_read_file(const char *path, char *out, int64_t size);

/* Read `count` small files. `directory` is where their names start from; `names` holds them one after another, each with
 * its NUL. Their contents come one after another in `text`, which has room for `size` bytes; `lengths[i]` is the length
 * of file i, or -errno if it could not be opened or read. Returns how many files were read, fewer than `count` if there
 * was no room for the next; -EOVERFLOW if there was none for the first; -errno if `directory` could not be opened.
 * Blocks: as open(2) and read(2) of those files. Threads: any. */
int64_t cl_read_files(const char *directory, const char *names, int64_t count, char *text, int64_t size,
                      int64_t *lengths);

/* A file's text in memory that grows and is used again. Begin with zeroes. */
typedef struct cl_text {
    char *data; /* NUL-terminated */
    int64_t size;
    int64_t room;
} cl_text;

/* Read a whole file in place of what is there. A file of counters is one moment's: the kernel writes it down at the first
 * read, and later reads only carry the rest of it. Returns its size, or -errno; -EFBIG beyond 64 MiB.
 * Blocks: as open(2) and read(2) of a file. Threads: caller locks. */
int64_t cl_text_read(cl_text *text, const char *path);

/* Free its memory. It may be read into again.
 * Blocks: no. Threads: caller locks. */
void cl_text_free(cl_text *text);

/* The value of a name, as sysctlbyname(3) has it: a number of 4 or 8 bytes, several of them, or a string with its NUL.
 * Returns its length; -ENOENT if there is no such name, -ENOMEM if it is longer than `size`; -ENOTSUP on Linux.
 * Blocks: no. Threads: any. */
int64_t cl_sysctl(const char *name, void *value, int64_t size);
