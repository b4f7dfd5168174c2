/* What a child has of a segment as its stdin or stdout: a description of its own, for the offset is of the description. */
#include "internal.h"

#include <fcntl.h>
#include <unistd.h>

static int64_t keep(int fd, cl_opened *out)
{
    int64_t rc = cl__lift(&fd);
    out->fd = rc < 0 ? -1 : fd;
    return rc < 0 ? rc : fd;
}

int64_t cl_segment_stream(int32_t fd, int32_t writes, int64_t at, cl_opened *out)
{
    int64_t own = cl__memory_open_anew(fd, writes ? O_WRONLY : O_RDONLY);
    if (own < 0)
        return own;
    if (lseek((int)own, (off_t)at, SEEK_SET) < 0) {
        int error = errno;
        close((int)own);
        return -error;
    }
    return keep((int)own, out);
}

int64_t cl_segment_beside(int64_t size, cl_opened *out)
{
    int64_t own = cl__memory_file(0);
    if (own < 0)
        return own;
    int64_t rc = ftruncate((int)own, (off_t)size) < 0 ? -errno : cl__memory_seal((int)own);
    if (rc < 0) {
        close((int)own);
        return rc;
    }
    return keep((int)own, out);
}
