/* What a descriptor is, as /proc tells it. */
#include "internal.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void cl__fd_path(int fd, char path[CL__FD_PATH])
{
    snprintf(path, CL__FD_PATH, "/proc/self/fd/%d", fd);
}

int cl__fd_is_eventfd(int fd)
{
    static const char name[] = "anon_inode:[eventfd]";
    char path[CL__FD_PATH], target[sizeof name];
    struct stat file;
    cl__fd_path(fd, path);
    ssize_t length = readlink(path, target, sizeof target);
    if (length >= 0)
        return length == sizeof name - 1 && memcmp(target, name, sizeof name - 1) == 0;
    return fstat(fd, &file) == 0 && (file.st_mode & S_IFMT) == 0; /* so are all that are no files */
}
