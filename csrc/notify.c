/* Hearing of writes to files. Which file it was is not told: whoever asks looks at all of them. */
#include "internal.h"

enum { ROOM = 4096 }; /* for events; one is 16 bytes and a name, which only files of a watched directory have */

int64_t cl_notify_open(cl_opened *opened)
{
    int64_t rc = cl__sys_notify_open();
    if (rc < 0)
        return rc;
    int fd = (int)rc;
    rc = cl__lift(&fd);
    opened->fd = rc < 0 ? -1 : fd;
    return rc;
}

int64_t cl_notify_add(const cl_opened *opened, const char *path)
{
    return cl__sys_notify_add((int)opened->fd, path);
}

int64_t cl_notify_remove(const cl_opened *opened, int64_t watch)
{
    return cl__sys_notify_remove((int)opened->fd, (int)watch);
}

int64_t cl_notify_drain(const cl_opened *opened)
{
    _Alignas(8) char events[ROOM];
    int64_t heard = 0;
    for (;;) {
        int64_t got = cl__sys_read((int)opened->fd, events, sizeof events);
        if (got == -EINTR)
            continue;
        if (got == -EAGAIN || got == 0)
            return heard;
        if (got < 0)
            return got;
        heard = 1;
    }
}
