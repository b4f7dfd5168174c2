/* What the system says of the machine: many small files in one call, and macOS's table of values by name. */

/* Read `count` small files. `directory` is where their names start from; `names` holds them one after another, each with
 * its NUL. Their contents come one after another in `text`, which has room for `size` bytes; `lengths[i]` is the length
 * of file i, or -errno if it could not be opened or read. Returns how many files were read, fewer than `count` if there
 * was no room for the next; -EOVERFLOW if there was none for the first; -errno if `directory` could not be opened.
 * Blocks: as open(2) and read(2) of those files. Threads: any. */
int64_t cl_read_files(const char *directory, const char *names, int64_t count, char *text, int64_t size,
                      int64_t *lengths);

/* The value of a name, as sysctlbyname(3) has it: a number of 4 or 8 bytes, several of them, or a string with its NUL.
 * Returns its length; -ENOENT if there is no such name, -ENOMEM if it is longer than `size`; -ENOTSUP on Linux.
 * Blocks: no. Threads: any. */
int64_t cl_sysctl(const char *name, void *value, int64_t size);
