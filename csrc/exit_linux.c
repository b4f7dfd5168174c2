/* Linux: the pidfd tells that a child has ended, signals it, and reaps it, so no pid is ever used that could belong to
 * somebody else by now. */
#include "internal.h"

#include <sys/ioctl.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif

enum { WAIT_ON_PIDFD = 3, SIGNAL_THE_GROUP = 4 /* PIDFD_SIGNAL_PROCESS_GROUP, 6.9 */ };

/* What PIDFD_GET_INFO fills; the exit status (6.15) is there even when a foreign waitpid(-1) took it from us. */
typedef struct pidfd_info_v0 {
    uint64_t mask, cgroup_id;
    uint32_t pid, tgid, ppid, ids[8];
    int32_t exit_code;
} pidfd_info_v0;

enum { INFO_HAS_EXIT = 1 << 3 };
#define PIDFD_INFO_CALL _IOWR(0xFF, 11, pidfd_info_v0)

int64_t cl_platform(void)
{
    return CL_PLATFORM_LINUX;
}

static int64_t result_of(long rc)
{
    return rc < 0 ? -errno : rc;
}

/* waitid(2) itself: libc's wrapper has no place for the rusage. */
static int64_t wait_call(int pid, int pidfd, siginfo_t *info, int options, struct rusage *usage)
{
    memset(info, 0, sizeof *info);
    int type = pidfd >= 0 ? WAIT_ON_PIDFD : (int)P_PID;
    int id = pidfd >= 0 ? pidfd : pid;
    int64_t rc = result_of(syscall(SYS_waitid, type, id, info, options, usage));
    if (rc == -EINVAL && pidfd >= 0) /* before 5.4; the pid is safe to use, because we have not reaped it */
        rc = result_of(syscall(SYS_waitid, P_PID, pid, info, options, usage));
    return rc;
}

int cl__watch_pidfd(int pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

int cl__watch_child(int pid)
{
    siginfo_t info;
    int pidfd = cl__watch_pidfd(pid);
    /* Somebody's waitpid(-1), or an ignored SIGCHLD, may have freed the number before we asked: a stranger's pidfd is
     * worse than none. */
    if (pidfd >= 0 && syscall(SYS_waitid, WAIT_ON_PIDFD, pidfd, &info, WEXITED | WNOHANG | WNOWAIT, NULL) < 0 &&
        errno == ECHILD) {
        cl__sys_close(pidfd);
        return -1;
    }
    return pidfd;
}

int cl__watch_open(int pid, int pidfd)
{
    (void)pid;
    return pidfd;
}

int cl__watch_end(int *watch)
{
    (void)watch; /* it is the pidfd, which lives until the process object goes */
    return 0;
}

int64_t cl__watch_period(int watch, int64_t waited_ns)
{
    if (watch >= 0)
        return -1;
    return waited_ns < 20000000 ? 500000 : 10000000; /* no pidfd (before 5.3): look again and again */
}

static void from_status(int status, cl__exit *out)
{
    out->state = WIFEXITED(status) ? CL_STATE_EXITED : CL_STATE_SIGNALED;
    out->status = WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status);
    out->core_dumped = WIFSIGNALED(status) && WCOREDUMP(status);
}

/* Nobody's child any more: SIGCHLD is ignored, or somebody's waitpid(-1) was faster. */
static int64_t ask_the_pidfd(int pidfd, cl__exit *out)
{
    pidfd_info_v0 info = {.mask = INFO_HAS_EXIT};
    struct pollfd ready = {.fd = pidfd, .events = POLLIN};
    if (pidfd >= 0 && poll(&ready, 1, 0) <= 0)
        return 0; /* not waitable for us, but not dead either */
    int asked = pidfd >= 0 && ioctl(pidfd, PIDFD_INFO_CALL, &info) == 0;
    if (asked && !(info.mask & INFO_HAS_EXIT) && !(ready.revents & POLLHUP))
        return 0; /* dead, but not released yet, and only then does the kernel note the status: in a moment */
    out->state = CL_STATE_UNKNOWN;
    if (asked && (info.mask & INFO_HAS_EXIT))
        from_status(info.exit_code, out);
    return 1;
}

int64_t cl__watch_look(int pid, int pidfd, int reap, cl__exit *out)
{
    siginfo_t info;
    int64_t rc = wait_call(pid, pidfd, &info, WEXITED | WNOHANG | (reap ? 0 : WNOWAIT), reap ? &out->usage : NULL);
    if (rc == -ECHILD)
        return ask_the_pidfd(pidfd, out);
    if (rc < 0 || info.si_pid == 0)
        return rc;
    out->state = info.si_code == CLD_EXITED ? CL_STATE_EXITED : CL_STATE_SIGNALED;
    out->status = info.si_status;
    out->core_dumped = info.si_code == CLD_DUMPED;
    return 1;
}

int64_t cl__watch_stopped(int pid, int pidfd)
{
    siginfo_t info;
    int64_t rc = wait_call(pid, pidfd, &info, WSTOPPED | WNOHANG | WNOWAIT, NULL);
    return rc < 0 ? rc : info.si_pid != 0;
}

int64_t cl__watch_signal(int pid, int pidfd, int signal)
{
    if (pidfd < 0)
        return cl__sys_kill(pid, signal);
    return result_of(syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0));
}

int64_t cl__watch_signal_group(int pid, int pidfd, int signal)
{
    (void)pid;
    if (pidfd < 0)
        return -ENOSYS;
    int64_t rc = result_of(syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, SIGNAL_THE_GROUP));
    return rc == -EINVAL ? -ENOSYS : rc;
}
