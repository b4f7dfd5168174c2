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

void cl_opened_close(cl_opened *opened)
{
    if (opened->fd >= 0)
        cl__sys_close((int)opened->fd);
    opened->fd = -1;
}
