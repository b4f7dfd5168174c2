/* Linux: files in memory that can be shared. Through syscall(2) where libc may be older than the kernel's call. */
#include "internal.h"

#include <fcntl.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MEMFD_CLOEXEC = 1, MEMFD_ALLOW_SEALING = 2, MEMFD_HUGETLB = 4, MEMFD_HUGE_SHIFT = 26 };
enum { ADD_SEALS = 1033, SEAL_SEAL = 1, SEAL_SHRINK = 2, SEAL_GROW = 4 };
enum { PUNCH_HOLE = 1 | 2 }; /* and the file keeps its size */
enum { POPULATE_READ = 22, POPULATE_WRITE = 23 };

static int64_t result_of(int64_t rc)
{
    return rc < 0 ? -errno : rc;
}

int64_t cl__memory_file(int huge_shift)
{
    unsigned huge = huge_shift ? MEMFD_HUGETLB | (unsigned)huge_shift << MEMFD_HUGE_SHIFT : 0;
    return result_of(syscall(SYS_memfd_create, "corelane", MEMFD_CLOEXEC | MEMFD_ALLOW_SEALING | huge));
}

const char *cl_segment_directory(void)
{
    return "/dev/shm";
}

int64_t cl__memory_nameless(const char *directory, int mode, char **hidden)
{
    (void)hidden;
    return result_of(open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, mode));
}

int64_t cl__memory_give_name(int fd, const char *path, char **hidden)
{
    (void)hidden;
    char link[CL__FD_PATH];
    cl__fd_path(fd, link);
    return result_of(linkat(AT_FDCWD, link, AT_FDCWD, path, AT_SYMLINK_FOLLOW));
}

int64_t cl__memory_set_size(int fd, int64_t size)
{
    return result_of(ftruncate(fd, size));
}

int cl__memory_populates(void)
{
    return MAP_POPULATE;
}

int64_t cl__memory_reserve(int fd, int64_t offset, int64_t size)
{
    return result_of(fallocate(fd, 0, offset, size));
}

int64_t cl__memory_give_back(int fd, int64_t offset, int64_t size)
{
    return result_of(fallocate(fd, PUNCH_HOLE, offset, size));
}

int64_t cl__memory_take_back(int fd, int64_t offset, int64_t size)
{
    return cl__memory_reserve(fd, offset, size);
}

int64_t cl__memory_seal(int fd)
{
    return result_of(fcntl(fd, ADD_SEALS, SEAL_SHRINK | SEAL_GROW | SEAL_SEAL));
}

int64_t cl__memory_open_anew(int fd, int flags)
{
    char path[CL__FD_PATH];
    cl__fd_path(fd, path);
    return result_of(open(path, flags | O_CLOEXEC));
}

int64_t cl__memory_bind(void *base, size_t size, int mode, const uint64_t *nodes, int words)
{
    /* The kernel takes the count of bits and one more. */
    return result_of(syscall(SYS_mbind, base, size, mode, nodes, words * 64L + 1, MPOL_MF_STRICT));
}

int64_t cl__memory_populate(void *base, size_t size, int writes)
{
    int64_t rc = result_of(madvise(base, size, writes ? POPULATE_WRITE : POPULATE_READ));
    if (rc != -EINVAL)
        return rc;
    for (size_t at = 0; at < size; at += 4096) /* before 5.14: the pages are there, and reading one maps it */
        (void)*((volatile const char *)base + at);
    return 0;
}
