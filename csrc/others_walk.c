/* Keeping other libraries' descriptors from a posix_spawn child, where there is only a directory of the open ones. */
#include "internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>

static int is_target(const cl__job *job, int fd)
{
    for (size_t i = 0; i < job->move_count; i++)
        if (job->moves[i].target == fd)
            return 1;
    return fd < 3;
}

/* Close what is open without CLOEXEC. Another thread may open one after we looked: posix_spawn offers no better, and
 * the trampoline, which closes in the child, is not worth its price for that; but where it is used anyway, it does. */
int64_t cl__posix_close_others(const cl__job *job, int trampolined, posix_spawn_file_actions_t *actions, short *flags)
{
    (void)flags;
    if (trampolined)
        return 0;
    DIR *dir = opendir("/dev/fd");
    struct dirent *entry;
    int rc = 0;
    if (!dir)
        return -errno;
    while (rc == 0 && (entry = readdir(dir))) {
        int fd = atoi(entry->d_name);
        int has = is_target(job, fd) ? FD_CLOEXEC : fcntl(fd, F_GETFD);
        if (has >= 0 && !(has & FD_CLOEXEC))
            rc = posix_spawn_file_actions_addclose(actions, fd);
    }
    closedir(dir);
    return -rc;
}
