/* What of files macOS has under other names, as Linux has it: for the portable build, which tests what is common to both. */
#include "internal.h"

#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SET = 37, GET = 36 }; /* F_OFD_SETLK, F_OFD_GETLK: libc's headers hide them from some settings */

static int64_t result_of(int64_t rc)
{
    return rc < 0 ? -errno : rc;
}

const char *cl_segment_directory(void)
{
    return "/dev/shm";
}

int64_t cl__files_lock(int fd, struct flock *range)
{
    return result_of(fcntl(fd, SET, range));
}

int64_t cl__files_ask(int fd, struct flock *range)
{
    return result_of(fcntl(fd, GET, range));
}

int64_t cl__files_rename(const char *from, const char *to)
{
    return result_of(syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE));
}

int64_t cl__memory_set_size(int fd, int64_t size)
{
    return result_of(ftruncate(fd, size));
}

int64_t cl__memory_reserve(int fd, int64_t offset, int64_t size)
{
    return -posix_fallocate(fd, offset, size);
}

int64_t cl__memory_give_back(int fd, int64_t offset, int64_t size)
{
    return result_of(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, size));
}

int64_t cl__memory_take_back(int fd, int64_t offset, int64_t size)
{
    return cl__memory_reserve(fd, offset, size);
}
