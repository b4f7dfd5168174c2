/* macOS: the same calls through libc, which here has no vfork child to be careful about: they run in the parent, or in
 * the exec trampoline, which has one thread and nothing to lose. What the system lacks is -ENOTSUP. */
#include "internal.h"

#include <crt_externs.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread/qos.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysctl.h>
#include <time.h>
#include <unistd.h>

static int64_t result_of(int64_t rc)
{
    return rc < 0 ? -errno : rc;
}

int64_t cl__sys_open(const char *path, int flags)
{
    return result_of(open(path, flags | O_CLOEXEC));
}

int64_t cl__sys_open_place(const char *path)
{
    (void)path;
    return -ENOTSUP;
}

int64_t cl__sys_openat(int dir, const char *path, int flags)
{
    return result_of(openat(dir, path, flags | O_CLOEXEC));
}

int64_t cl__sys_close(int fd)
{
    return result_of(close(fd));
}

int64_t cl__sys_read(int fd, void *data, size_t size)
{
    return result_of(read(fd, data, size));
}

int64_t cl__sys_sysctl(const char *name, void *value, size_t size)
{
    return sysctlbyname(name, value, &size, NULL, 0) < 0 ? -errno : (int64_t)size;
}

int64_t cl__sys_write(int fd, const void *data, size_t size)
{
    return result_of(write(fd, data, size));
}

int64_t cl__sys_pipe(int fds[2])
{
    /* No pipe2: between these calls another thread's fork+exec may inherit the ends. Our own spawns cannot: they ask
     * for POSIX_SPAWN_CLOEXEC_DEFAULT. */
    if (pipe(fds) < 0)
        return -errno;
    cl__sys_set_cloexec(fds[0]);
    return cl__sys_set_cloexec(fds[1]);
}

int64_t cl__sys_socketpair(int fds[2])
{
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
        return -errno;
    cl__sys_set_cloexec(fds[0]);
    return cl__sys_set_cloexec(fds[1]);
}

int64_t cl__sys_receive(int fd, struct msghdr *message)
{
    return result_of(recvmsg(fd, message, MSG_DONTWAIT));
}

int64_t cl__sys_set_pipe_size(int fd, int64_t size)
{
    (void)fd, (void)size;
    return -ENOTSUP;
}

int64_t cl__sys_get_pipe_size(int fd)
{
    (void)fd;
    return -ENOTSUP;
}

int64_t cl__sys_dup_onto(int fd, int target)
{
    return fd == target ? result_of(fcntl(fd, F_SETFD, 0)) : result_of(dup2(fd, target));
}

int64_t cl__sys_dup_above(int fd, int floor)
{
    return result_of(fcntl(fd, F_DUPFD_CLOEXEC, floor));
}

int64_t cl__sys_set_cloexec(int fd)
{
    return result_of(fcntl(fd, F_SETFD, FD_CLOEXEC));
}

int64_t cl__sys_set_nonblocking(int fd)
{
    return result_of(fcntl(fd, F_SETFL, O_NONBLOCK));
}

int cl__sys_is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

int64_t cl__sys_close_range(unsigned first, unsigned last)
{
    (void)first, (void)last;
    return -ENOTSUP;
}

int64_t cl__sys_cloexec_range(unsigned first, unsigned last)
{
    int most = getdtablesize();
    for (unsigned fd = first; fd <= last && fd < (unsigned)most; fd++)
        fcntl((int)fd, F_SETFD, FD_CLOEXEC);
    return 0;
}

int64_t cl__sys_chdir(const char *path)
{
    return result_of(chdir(path));
}

int64_t cl__sys_fchdir(int fd)
{
    return result_of(fchdir(fd));
}

int64_t cl__sys_umask(int mask)
{
    return umask((mode_t)mask);
}

int64_t cl__sys_getpid(void)
{
    return getpid();
}

int64_t cl__sys_getppid(void)
{
    return getppid();
}

int64_t cl__sys_is_main_thread(int pid)
{
    (void)pid;
    return pthread_main_np();
}

int64_t cl__sys_setsid(void)
{
    return result_of(setsid());
}

int64_t cl__sys_setpgid(int pid, int group)
{
    return result_of(setpgid(pid, group));
}

int64_t cl__sys_set_terminal(int fd)
{
    return result_of(ioctl(fd, TIOCSCTTY, 0));
}

int64_t cl__sys_get_foreground(int fd)
{
    return result_of(tcgetpgrp(fd));
}

int cl__sys_is_slave_terminal(int fd)
{
    char name[128]; /* only a pseudo-terminal's master can ask for its slave's */
    return isatty(fd) && ioctl(fd, TIOCPTYGNAME, name) < 0;
}

int64_t cl__sys_set_foreground(int fd, int group)
{
    return result_of(tcsetpgrp(fd, group));
}

int64_t cl__sys_set_limit(int resource, uint64_t soft, uint64_t hard)
{
    struct rlimit limit = {.rlim_cur = soft == CL__NO_LIMIT ? RLIM_INFINITY : (rlim_t)soft,
                           .rlim_max = hard == CL__NO_LIMIT ? RLIM_INFINITY : (rlim_t)hard};
    return result_of(setrlimit(resource, &limit));
}

int64_t cl__sys_gettid(void)
{
    uint64_t id = 0;
    pthread_threadid_np(NULL, &id);
    return (int64_t)id;
}

int64_t cl__sys_get_nice(int who, int id)
{
    errno = 0; /* -1 is a nice value like any other */
    int nice = getpriority(who, (id_t)id);
    return errno ? -errno : 20 - nice;
}

int64_t cl__sys_set_nice(int who, int id, int nice)
{
    return result_of(setpriority(who, (id_t)id, nice));
}

int64_t cl__sys_get_sched(int thread, cl_sched *out)
{
    (void)thread, (void)out;
    return -ENOTSUP;
}

int64_t cl__sys_set_scheduler(int thread, int policy, int priority, int reset_on_fork)
{
    (void)thread, (void)policy, (void)priority, (void)reset_on_fork;
    return -ENOTSUP;
}

int64_t cl__sys_set_deadline(int thread, uint64_t runtime_ns, uint64_t deadline_ns, uint64_t period_ns, int reset_on_fork)
{
    (void)thread, (void)runtime_ns, (void)deadline_ns, (void)period_ns, (void)reset_on_fork;
    return -ENOTSUP;
}

int64_t cl__sys_set_util(int thread, int low, int high)
{
    (void)thread, (void)low, (void)high;
    return -ENOTSUP;
}

int64_t cl__sys_get_affinity(int thread, void *mask, size_t room)
{
    (void)thread, (void)mask, (void)room;
    return -ENOTSUP;
}

int64_t cl__sys_set_affinity(int thread, const void *mask, size_t size)
{
    (void)thread, (void)mask, (void)size;
    return -ENOTSUP;
}

int64_t cl__sys_get_io_priority(int who, int id)
{
    (void)who, (void)id;
    return -ENOTSUP;
}

int64_t cl__sys_set_io_priority(int who, int id, int value)
{
    (void)who, (void)id, (void)value;
    return -ENOTSUP;
}

int64_t cl__sys_get_memory_policy(void *nodes, size_t room)
{
    (void)nodes, (void)room;
    return -ENOTSUP;
}

int64_t cl__sys_set_memory_policy(int policy, const void *nodes, size_t size)
{
    (void)policy, (void)nodes, (void)size;
    return -ENOTSUP;
}

int64_t cl__sys_get_qos(void)
{
    return (int64_t)qos_class_self();
}

int64_t cl__sys_set_qos(int qos)
{
    return -pthread_set_qos_class_self_np((qos_class_t)qos, 0);
}

int64_t cl__sys_set_death_signal(int signal)
{
    (void)signal;
    return -ENOTSUP;
}

int64_t cl__sys_no_new_privs(void)
{
    return -ENOTSUP;
}

int64_t cl__sys_set_groups(const uint32_t *groups, size_t count)
{
    return result_of(setgroups((int)count, (const gid_t *)groups));
}

int64_t cl__sys_set_gid(uint32_t gid)
{
    return result_of(setregid(gid, gid));
}

int64_t cl__sys_set_uid(uint32_t uid)
{
    return result_of(setreuid(uid, uid));
}

/* sigset_t is 32 bits wide here: bit s-1 is signal s, as in ours. */
int64_t cl__sys_block_signals(uint64_t mask, uint64_t *old)
{
    sigset_t set = (sigset_t)mask, before = 0;
    int rc = pthread_sigmask(SIG_SETMASK, &set, &before);
    if (old)
        *old = before;
    return -rc;
}

int64_t cl__sys_block_also(uint64_t mask, uint64_t *old)
{
    sigset_t set = (sigset_t)mask, before = 0;
    int rc = pthread_sigmask(SIG_BLOCK, &set, &before);
    *old = before;
    return -rc;
}

uint64_t cl__sys_pending_signals(void)
{
    sigset_t pending = 0;
    sigpending(&pending);
    return pending;
}

void cl__sys_take_signal(int signal)
{
    if (!(cl__sys_pending_signals() & CL__SIGNAL_BIT(signal)))
        return; /* it is ignored, or another thread took it (here it goes to the process): sigwait would never return */
    sigset_t wanted = (sigset_t)CL__SIGNAL_BIT(signal);
    int taken;
    sigwait(&wanted, &taken);
}

int64_t cl__sys_signal_default(int signal)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    return result_of(sigaction(signal, &action, NULL));
}

int64_t cl__sys_signal_ignore(int signal)
{
    struct sigaction action = {.sa_handler = SIG_IGN};
    return result_of(sigaction(signal, &action, NULL));
}

int64_t cl__sys_signal_reset_if_caught(int signal)
{
    (void)signal;
    return 0; /* exec into the trampoline has done it */
}

int64_t cl__sys_exec(const char *path, const char *const *argv, const char *const *env)
{
    execve(path, (char *const *)argv, (char *const *)env);
    return -errno;
}

void cl__sys_nap(int64_t ns)
{
    struct timespec span = {.tv_sec = ns / CL__NS_PER_S, .tv_nsec = ns % CL__NS_PER_S};
    nanosleep(&span, NULL);
}

void cl__sys_exit(int code)
{
    _exit(code);
}

int64_t cl__sys_kill(int pid, int signal)
{
    return result_of(kill(pid, signal));
}

int64_t cl__sys_now(void)
{
    return (int64_t)clock_gettime_nsec_np(CLOCK_UPTIME_RAW);
}

int64_t cl__sys_now_coarse(void)
{
    return (int64_t)clock_gettime_nsec_np(CLOCK_UPTIME_RAW_APPROX);
}

int64_t cl__sys_poll(struct pollfd *fds, size_t count, int64_t timeout_ns)
{
    int64_t ms = timeout_ns < 0 ? -1 : (timeout_ns + 999999) / 1000000;
    return result_of(poll(fds, (nfds_t)count, ms > INT32_MAX ? INT32_MAX : (int)ms));
}

int64_t cl__sys_eventfd(int semaphore)
{
    (void)semaphore;
    return -ENOTSUP;
}

int64_t cl__sys_notify_open(void)
{
    return -ENOTSUP;
}

int64_t cl__sys_notify_add(int fd, const char *path)
{
    (void)fd, (void)path;
    return -ENOTSUP;
}

int64_t cl__sys_notify_remove(int fd, int watch)
{
    (void)fd, (void)watch;
    return -ENOTSUP;
}

int64_t cl__max_rss_kib(const struct rusage *usage)
{
    return usage->ru_maxrss / 1024;
}

int64_t cl__take_terminal(void)
{
    uint64_t old;
    int64_t tty = cl__sys_open("/dev/tty", O_RDWR);
    if (tty < 0)
        return tty;
    cl__sys_block_signals(UINT64_MAX, &old);
    int64_t rc = cl__sys_set_foreground((int)tty, getpgrp());
    cl__sys_block_signals(old, NULL);
    cl__sys_close((int)tty);
    return rc;
}

char **cl__sys_environ(void)
{
    return *_NSGetEnviron();
}
