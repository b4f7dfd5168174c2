/* No files in memory: the platform's own are not used yet. */
#include "internal.h"

int64_t cl__memory_file(int huge_shift)
{
    (void)huge_shift;
    return -ENOTSUP;
}

int64_t cl__memory_nameless(const char *directory, int mode)
{
    (void)directory, (void)mode;
    return -ENOTSUP;
}

int64_t cl__memory_give_name(int fd, const char *path)
{
    (void)fd, (void)path;
    return -ENOTSUP;
}

int64_t cl__memory_reserve(int fd, int64_t offset, int64_t size)
{
    (void)fd, (void)offset, (void)size;
    return -ENOTSUP;
}

int64_t cl__memory_give_back(int fd, int64_t offset, int64_t size)
{
    (void)fd, (void)offset, (void)size;
    return -ENOTSUP;
}

int64_t cl__memory_seal(int fd)
{
    (void)fd;
    return -ENOTSUP;
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

int64_t cl__memory_populate(void *base, size_t size, int writes)
{
    (void)base, (void)size, (void)writes;
    return -ENOTSUP;
}
