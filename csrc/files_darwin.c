/* macOS: what of files it has under other names. What is common to macOS and the portable build is in *_files.c. */
#include "internal.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

/* By number: older SDKs do not show them. */
enum { SET = 90, GET = 92 }; /* F_OFD_SETLK, F_OFD_GETLK */

static int64_t result_of(int64_t rc)
{
    return rc < 0 ? -errno : rc;
}

/* Where /tmp leads: what is opened there must not follow a link. */
const char *cl_segment_directory(void)
{
    return "/private/tmp";
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
    return result_of(renamex_np(from, to, RENAME_EXCL));
}

/* First the room, then the size: it is added at the end of what the file has. */
int64_t cl__memory_set_size(int fd, int64_t size)
{
    struct stat file;
    if (fstat(fd, &file) < 0)
        return -errno;
    if (file.st_size == size) /* after a signal this is done again */
        return 0;
    fstore_t room = {.fst_flags = F_ALLOCATEALL, .fst_posmode = F_PEOFPOSMODE, .fst_length = size};
    if (file.st_size == 0 && fcntl(fd, F_PREALLOCATE, &room) < 0)
        return -errno;
    return result_of(ftruncate(fd, size));
}

int64_t cl__memory_reserve(int fd, int64_t offset, int64_t size)
{
    (void)fd, (void)offset, (void)size;
    return 0; /* with its size */
}

int64_t cl__memory_give_back(int fd, int64_t offset, int64_t size)
{
    fpunchhole_t hole = {.fp_offset = offset, .fp_length = size};
    return result_of(fcntl(fd, F_PUNCHHOLE, &hole));
}

/* In the middle of a file room is only had by writing there. */
int64_t cl__memory_take_back(int fd, int64_t offset, int64_t size)
{
    static const char zeros[1 << 16];
    while (size > 0) {
        ssize_t put = pwrite(fd, zeros, size < (int64_t)sizeof zeros ? (size_t)size : sizeof zeros, offset);
        if (put < 0 && errno != EINTR)
            return -errno;
        offset += put < 0 ? 0 : put;
        size -= put < 0 ? 0 : put;
    }
    return 0;
}
