/* Descriptors with an owner. */
#include "internal.h"

#include <fcntl.h>

enum { NEW_FILE_MODE = 0666 };

int64_t cl_opened_open(cl_opened *opened, int32_t directory, const char *path, int32_t flags)
{
    int fd = openat(directory < 0 ? AT_FDCWD : directory, path, flags | O_CLOEXEC, NEW_FILE_MODE);
    if (fd < 0)
        return -errno;
    opened->fd = fd;
    return fd;
}

int64_t cl_opened_pipe(cl_opened *reader, cl_opened *writer)
{
    int ends[2];
    int64_t rc = cl__sys_pipe(ends);
    if (rc < 0)
        return rc;
    int64_t first = cl__lift(&ends[0]), second = cl__lift(&ends[1]);
    reader->fd = ends[0];
    writer->fd = ends[1];
    if (first >= 0 && second >= 0)
        return 0;
    cl_opened_close(reader);
    cl_opened_close(writer);
    return first < 0 ? first : second;
}

void cl_opened_close(cl_opened *opened)
{
    if (opened->fd >= 0)
        cl__sys_close((int)opened->fd);
    opened->fd = -1;
}
