/* Bells that are pipes without a name, opened through /proc: nothing lies around. The mark is a size that no other pipe has. */
#include "wake.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BELL_PATH = 64 };

/* One page: the kernel makes them with 16, or with 2 for who has too many. It is enough for a bell. */
static void mark(int fd)
{
    cl__sys_set_pipe_size(fd, sysconf(_SC_PAGESIZE));
}

static int is_marked(int fd)
{
    int64_t size = cl__sys_get_pipe_size(fd);
    return size == sysconf(_SC_PAGESIZE);
}

int64_t cl__bell_make(cl__bell *bell)
{
    struct stat file;
    int ends[2];
    int64_t rc = cl__sys_pipe(ends);
    if (rc < 0)
        return rc;
    for (int i = 0; i < 2 && rc >= 0; i++)
        rc = cl__sys_set_nonblocking(ends[i]);
    if (rc >= 0 && fstat(ends[0], &file) < 0)
        rc = -errno;
    if (rc < 0) {
        close(ends[0]);
        close(ends[1]);
        return rc;
    }
    mark(ends[1]);
    *bell = (cl__bell){.ends = {ends[0], ends[1]}, .number = ends[0]};
    return (int64_t)file.st_ino;
}

void cl__bell_unmake(const cl__bell *bell)
{
    (void)bell;
}

static int is_ours(int place, int64_t inode)
{
    struct stat file;
    return fstat(place, &file) == 0 && S_ISFIFO(file.st_mode) && (int64_t)file.st_ino == inode && file.st_uid == geteuid();
}

/* It is looked at before it is opened, and what is opened is what was looked at. */
int cl__bell_reach(int64_t pid, int32_t number, int64_t inode)
{
    char path[BELL_PATH];
    snprintf(path, sizeof path, "/proc/%lld/fd/%d", (long long)pid, number);
    int place = (int)cl__sys_open_place(path), fd = -1;
    if (place < 0)
        return -1;
    if (is_ours(place, inode)) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", place);
        fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    }
    close(place);
    if (fd >= 0 && !is_marked(fd)) {
        close(fd);
        fd = -1;
    }
    return fd;
}
