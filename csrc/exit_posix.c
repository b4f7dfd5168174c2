/* What the portable build and macOS share: reaping by pid, with nothing but POSIX and wait4. The pid is safe to use as
 * long as we have not reaped it. */
#include "internal.h"

#include <string.h>
#include <sys/wait.h>

int cl__watch_pidfd(int pid)
{
    (void)pid;
    return -1;
}

int cl__watch_child(int pid)
{
    return cl__watch_pidfd(pid);
}

/* Somebody else's waitpid(-1), or SIGCHLD is ignored: the child is gone if its pid is, but nobody knows how it went. */
static int64_t lost(int pid, cl__exit *out)
{
    (void)pid; /* not asked with kill(pid, 0): whoever answers to the number now is a stranger */
    out->state = CL_STATE_UNKNOWN;
    return 1;
}

int64_t cl__watch_look(int pid, int pidfd, int reap, cl__exit *out)
{
    int status;
    (void)pidfd;
    if (!reap) {
        siginfo_t info;
        memset(&info, 0, sizeof info);
        if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0)
            return errno == ECHILD ? lost(pid, out) : -errno;
        return info.si_pid != 0;
    }
    pid_t rc = wait4(pid, &status, WNOHANG, &out->usage);
    if (rc < 0)
        return errno == ECHILD ? lost(pid, out) : -errno;
    if (rc == 0)
        return 0;
    out->state = WIFEXITED(status) ? CL_STATE_EXITED : CL_STATE_SIGNALED;
    out->status = WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status);
    out->core_dumped = WIFSIGNALED(status) && WCOREDUMP(status);
    return 1;
}

int64_t cl__watch_stopped(int pid, int pidfd)
{
    siginfo_t info;
    (void)pidfd;
    memset(&info, 0, sizeof info);
    if (waitid(P_PID, (id_t)pid, &info, WSTOPPED | WNOHANG | WNOWAIT) < 0)
        return -errno;
    return info.si_pid != 0;
}

int64_t cl__watch_signal(int pid, int pidfd, int signal)
{
    (void)pidfd;
    return cl__sys_kill(pid, signal);
}

int64_t cl__watch_signal_group(int pid, int pidfd, int signal)
{
    (void)pid, (void)pidfd, (void)signal;
    return -ENOSYS; /* only by number, which the caller does while the leader is not reaped */
}
