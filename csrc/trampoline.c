/* The exec trampoline: started by posix_spawn with a job as its argv, it does to itself what posix_spawn has no
 * attribute for, in the same code and order as a cloned child, and becomes the target. report.c tells how the parent
 * learns what failed. */
#include "internal.h"

extern char **environ;

int main(int argc, char **argv)
{
    cl__job job;
    cl_command command = {0};
    int64_t rc = cl__wire_unpack(argc, argv, &job, &command);
    if (rc < 0)
        return 126; /* not started by corelane */
    job.env = (const char *const *)environ;
    /* They came over this exec without CLOEXEC, and are not for the target; EBADF: not given. */
    const int carried[] = {job.cgroup_fd, command.cwd_fd, command.terminal_fd};
    for (size_t i = 0; i < sizeof carried / sizeof *carried; i++)
        cl__sys_set_cloexec(carried[i]);
    cl__report_open(job.report_fd, &job);
    cl__child_main(&job);
}
