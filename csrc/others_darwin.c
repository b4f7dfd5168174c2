/* Keeping other libraries' descriptors from a posix_spawn child: macOS closes all that the file actions do not name. */
#include "internal.h"

int64_t cl__posix_close_others(const cl__job *job, int trampolined, posix_spawn_file_actions_t *actions, short *flags)
{
    (void)trampolined;
    *flags |= POSIX_SPAWN_CLOEXEC_DEFAULT;
    for (int fd = 0; fd < 3; fd++) {
        int mapped = 0;
        for (size_t i = 0; i < job->move_count; i++)
            mapped |= job->moves[i].target == fd;
        /* Naming one that is closed would fail the spawn. */
        int rc = mapped || !cl__sys_is_open(fd) ? 0 : posix_spawn_file_actions_addinherit_np(actions, fd);
        if (rc != 0)
            return -rc;
    }
    return 0;
}
