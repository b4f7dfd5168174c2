/* Memory where there are no files in memory: ordinary ones, in a directory that all may write to and that is sticky. Those
 * without a name lose theirs at once. One that is to get a name has a hidden one until it is whole. No seals, no pages of
 * other sizes, no nodes. Room in them, which systems give in different ways, is in files_*.c. */
#include "atomic.h"
#include "internal.h"

#include <stdlib.h>
#include <unistd.h>

int64_t cl__memory_file(int huge_shift)
{
    char *path;
    if (huge_shift)
        return -ENOTSUP;
    int64_t fd = cl__hidden_file(cl_segment_directory(), &path);
    if (fd < 0)
        return fd;
    int error = unlink(path) < 0 ? errno : 0;
    free(path);
    if (error) {
        close((int)fd);
        return -error;
    }
    return fd;
}

int64_t cl__memory_nameless(const char *directory, int mode, char **hidden)
{
    (void)mode; /* the caller sets it, whatever the umask says */
    return cl__hidden_file(directory, hidden);
}

int64_t cl__memory_give_name(int fd, const char *path, char **hidden)
{
    (void)fd;
    CL_FAULT(406);
    int64_t rc = cl__files_rename(*hidden, path);
    if (rc < 0)
        return rc;
    free(*hidden);
    *hidden = NULL;
    return 0;
}

int64_t cl__memory_seal(int fd)
{
    (void)fd;
    return 0; /* whoever has a descriptor that may write can make it shorter */
}

int64_t cl__memory_open_anew(int fd, int flags)
{
    (void)fd, (void)flags;
    return -ENOTSUP;
}

int64_t cl__memory_bind(void *base, size_t size, int mode, const uint64_t *nodes, int words)
{
    (void)base, (void)size, (void)mode, (void)nodes, (void)words;
    return -ENOTSUP;
}

int cl__memory_populates(void)
{
    return 0;
}

/* Touched: for writing by adding nothing, as others may be writing there. */
int64_t cl__memory_populate(void *base, size_t size, int writes)
{
    for (size_t at = 0; at < size; at += 4096) {
        uint8_t *byte = (uint8_t *)base + at;
        if (writes)
            __atomic_fetch_or(byte, 0, __ATOMIC_RELAXED);
        else
            (void)*(volatile const uint8_t *)byte;
    }
    return 0;
}
