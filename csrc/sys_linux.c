/* Linux: two-line system calls that return -errno. They go to the kernel directly, not through libc: libc's setuid,
 * setgroups and (in musl) setrlimit signal every thread, libc stores errno in memory that a vfork child shares with
 * its parent, and the symbols are newer than the glibc and musl we run on. */
#include "internal.h"

#include <asm/unistd.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/ioctl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef __NR_close_range
#define __NR_close_range 436
#endif

#if !defined(__NR_membarrier) && defined(__x86_64__)
#define __NR_membarrier 324
#elif !defined(__NR_membarrier)
#define __NR_membarrier 283 /* where numbers are the generic ones */
#endif

enum { CLONE3 = 435, CLOSE_RANGE_AS_CLOEXEC = 4, PR_DEATH_SIGNAL = 1, PR_NO_PRIVS = 38 };

#if defined(__x86_64__) && !defined(__ILP32__)
enum { LEAVES_ERRNO = 1 };
CL__CHILD static inline long call6(long n, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
enum { LEAVES_ERRNO = 1 };
CL__CHILD static inline long call6(long n, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = n;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
}
#else
enum { LEAVES_ERRNO = 0 };
/* Elsewhere through libc, which writes errno: harmless while the parent is held in vfork, and put back anyway. */
CL__CHILD static inline long call6(long n, long a, long b, long c, long d, long e, long f)
{
    int saved = errno;
    long result = syscall(n, a, b, c, d, e, f);
    result = result == -1 ? -errno : result;
    errno = saved;
    return result;
}
#endif

/* On 32-bit systems some of these numbers mean other calls, with 16-bit ids and 32-bit times. */
_Static_assert(sizeof(long) == 8, "corelane is for 64-bit systems");

#define CALL(n, a, b, c, d) call6((n), (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)

/* The kernel's struct sigaction, which is not libc's. */
typedef struct kernel_sigaction {
    void (*handler)(int);
    unsigned long flags;
#if !defined(__riscv) && !defined(__loongarch__) /* the architectures without SA_RESTORER */
    void (*restorer)(void);
#endif
    uint64_t mask;
} kernel_sigaction;

int cl__sys_leaves_errno(void)
{
    return LEAVES_ERRNO;
}

CL__CHILD int64_t cl__sys_open(const char *path, int flags)
{
    return CALL(__NR_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0);
}

int64_t cl__sys_open_place(const char *path)
{
    return cl__sys_open(path, O_PATH);
}

CL__CHILD int64_t cl__sys_openat(int dir, const char *path, int flags)
{
    return CALL(__NR_openat, dir, path, flags | O_CLOEXEC, 0);
}

CL__CHILD int64_t cl__sys_close(int fd)
{
    return CALL(__NR_close, fd, 0, 0, 0);
}

CL__CHILD int64_t cl__sys_read(int fd, void *data, size_t size)
{
    return CALL(__NR_read, fd, data, size, 0);
}

int64_t cl__sys_sysctl(const char *name, void *value, size_t size)
{
    (void)name, (void)value, (void)size;
    return -ENOTSUP;
}

CL__CHILD int64_t cl__sys_write(int fd, const void *data, size_t size)
{
    return CALL(__NR_write, fd, data, size, 0);
}

int64_t cl__sys_pipe(int fds[2])
{
    return CALL(__NR_pipe2, fds, O_CLOEXEC, 0, 0);
}

int64_t cl__sys_socketpair(int fds[2])
{
    return CALL(__NR_socketpair, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds);
}

int64_t cl__sys_receive(int fd, struct msghdr *message)
{
    return CALL(__NR_recvmsg, fd, message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC, 0);
}

int64_t cl__sys_set_pipe_size(int fd, int64_t size)
{
    return CALL(__NR_fcntl, fd, 1031 /* F_SETPIPE_SZ */, size, 0);
}

int64_t cl__sys_membarrier(int command)
{
    return CALL(__NR_membarrier, command, 0, 0, 0);
}

int64_t cl__sys_get_pipe_size(int fd)
{
    return CALL(__NR_fcntl, fd, 1032 /* F_GETPIPE_SZ */, 0, 0);
}

CL__CHILD int64_t cl__sys_dup_onto(int fd, int target)
{
    if (fd != target)
        return CALL(__NR_dup3, fd, target, 0, 0);
    return CALL(__NR_fcntl, fd, F_SETFD, 0, 0); /* dup2(n, n) would keep CLOEXEC */
}

CL__CHILD int64_t cl__sys_dup_above(int fd, int floor)
{
    return CALL(__NR_fcntl, fd, F_DUPFD_CLOEXEC, floor, 0);
}

CL__CHILD int64_t cl__sys_set_cloexec(int fd)
{
    return CALL(__NR_fcntl, fd, F_SETFD, FD_CLOEXEC, 0);
}

int64_t cl__sys_set_nonblocking(int fd)
{
    return CALL(__NR_fcntl, fd, F_SETFL, O_NONBLOCK, 0);
}

int cl__sys_is_open(int fd)
{
    return CALL(__NR_fcntl, fd, F_GETFD, 0, 0) >= 0;
}

/* Without close_range (before 5.11, or refused by a filter): walk /proc/self/fd by hand; opendir would allocate. */
CL__CHILD static int64_t cloexec_by_walking(unsigned first, unsigned last)
{
    _Alignas(8) char entries[2048];
    int64_t dir = cl__sys_open("/proc/self/fd", O_RDONLY | O_DIRECTORY);
    if (dir < 0)
        return dir;
    for (;;) {
        int64_t got = CALL(__NR_getdents64, dir, entries, sizeof entries, 0);
        if (got <= 0) {
            cl__sys_close((int)dir);
            return got;
        }
        for (int64_t at = 0; at < got;) { /* linux_dirent64: u64 ino, s64 off, u16 length, u8 type, name */
            unsigned short length;
            unsigned number = 0;
            __builtin_memcpy(&length, entries + at + 16, sizeof length);
            const char *digit = entries + at + 19;
            for (; *digit >= '0' && *digit <= '9'; digit++)
                number = number * 10 + (unsigned)(*digit - '0');
            if (*digit == '\0' && number >= first && number <= last)
                cl__sys_set_cloexec((int)number);
            at += length;
        }
    }
}

CL__CHILD int64_t cl__sys_close_range(unsigned first, unsigned last)
{
    return CALL(__NR_close_range, first, last, 0, 0);
}

CL__CHILD int64_t cl__sys_cloexec_range(unsigned first, unsigned last)
{
    int64_t rc = CALL(__NR_close_range, first, last, CLOSE_RANGE_AS_CLOEXEC, 0);
    return rc == 0 ? 0 : cloexec_by_walking(first, last);
}

CL__CHILD int64_t cl__sys_chdir(const char *path)
{
    return CALL(__NR_chdir, path, 0, 0, 0);
}

CL__CHILD int64_t cl__sys_fchdir(int fd)
{
    return CALL(__NR_fchdir, fd, 0, 0, 0);
}

CL__CHILD int64_t cl__sys_umask(int mask)
{
    return CALL(__NR_umask, mask, 0, 0, 0);
}

CL__CHILD int64_t cl__sys_getpid(void)
{
    return CALL(__NR_getpid, 0, 0, 0, 0);
}

CL__CHILD int64_t cl__sys_getppid(void)
{
    return CALL(__NR_getppid, 0, 0, 0, 0);
}

int64_t cl__sys_is_main_thread(int pid)
{
    return CALL(__NR_gettid, 0, 0, 0, 0) == pid;
}

CL__CHILD int64_t cl__sys_setsid(void)
{
    return CALL(__NR_setsid, 0, 0, 0, 0);
}

CL__CHILD int64_t cl__sys_setpgid(int pid, int group)
{
    return CALL(__NR_setpgid, pid, group, 0, 0);
}

CL__CHILD int64_t cl__sys_set_terminal(int fd)
{
    return CALL(__NR_ioctl, fd, TIOCSCTTY, 0, 0);
}

int64_t cl__sys_get_foreground(int fd)
{
    int group = 0;
    int64_t rc = CALL(__NR_ioctl, fd, TIOCGPGRP, &group, 0);
    return rc < 0 ? rc : group;
}

int cl__sys_is_slave_terminal(int fd)
{
    char settings[128];
    unsigned number; /* only a pseudo-terminal's master has one */
    return CALL(__NR_ioctl, fd, TCGETS, settings, 0) >= 0 && CALL(__NR_ioctl, fd, TIOCGPTN, &number, 0) < 0;
}

CL__CHILD int64_t cl__sys_set_foreground(int fd, int group)
{
    return CALL(__NR_ioctl, fd, TIOCSPGRP, &group, 0);
}

CL__CHILD int64_t cl__sys_set_limit(int resource, uint64_t soft, uint64_t hard)
{
    uint64_t pair[2] = {soft, hard}; /* struct rlimit64 */
    return CALL(__NR_prlimit64, 0, resource, pair, 0);
}

int64_t cl__sys_gettid(void)
{
    return CALL(__NR_gettid, 0, 0, 0, 0);
}

int64_t cl__sys_get_nice(int who, int id)
{
    return CALL(__NR_getpriority, who, id, 0, 0); /* without libc the kernel's own answer, which is 20 - nice */
}

CL__CHILD int64_t cl__sys_set_nice(int who, int id, int nice)
{
    return CALL(__NR_setpriority, who, id, nice, 0);
}

/* struct sched_attr with the clamps, 56 bytes; kernels before 5.3 know the first 48. */
typedef struct sched_request {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
    uint32_t util_min, util_max;
} sched_request;

enum { SIZE_WITHOUT_CLAMPS = 48, RESETS_ON_FORK = 1, KEEPS_ALL = 8 | 16, CLAMPS_MIN = 32, CLAMPS_MAX = 64 };

/* Not sched_setattr, which sets the nice value as well. */
CL__CHILD int64_t cl__sys_set_scheduler(int thread, int policy, int priority, int reset_on_fork)
{
    /* struct sched_param is one int */
    return CALL(__NR_sched_setscheduler, thread, policy | (reset_on_fork ? 0x40000000 : 0), &priority, 0);
}

CL__CHILD int64_t cl__sys_set_deadline(int thread, uint64_t runtime_ns, uint64_t deadline_ns, uint64_t period_ns, int reset_on_fork)
{
    sched_request wanted = {.size = SIZE_WITHOUT_CLAMPS, .policy = CL_SCHED_DEADLINE,
                            .flags = reset_on_fork ? RESETS_ON_FORK : 0,
                            .runtime = runtime_ns, .deadline = deadline_ns, .period = period_ns};
    return CALL(__NR_sched_setattr, thread, &wanted, 0, 0);
}

CL__CHILD int64_t cl__sys_set_util(int thread, int low, int high)
{
    sched_request wanted = {.size = sizeof wanted, .util_min = (uint32_t)low, .util_max = (uint32_t)high,
                            .flags = KEEPS_ALL | (low < 0 ? 0 : CLAMPS_MIN) | (high < 0 ? 0 : CLAMPS_MAX)};
    int64_t rc = CALL(__NR_sched_setattr, thread, &wanted, 0, 0);
    return rc == -E2BIG ? -ENOTSUP : rc; /* it knows no more than 48 bytes */
}

/* A kernel that is built without clamps answers 0 and 0, which may also have been asked for. One that has them finds fault
 * with this value, and does nothing. */
static int knows_clamps(void)
{
    return cl__sys_set_util(0, 2 * 1024, -1) == -EINVAL;
}

int64_t cl__sys_get_sched(int thread, cl_sched *out)
{
    sched_request got = {0};
    int64_t rc = CALL(__NR_sched_getattr, thread, &got, sizeof got, 0);
    if (rc < 0)
        return rc;
    int clamps = got.size > SIZE_WITHOUT_CLAMPS && (got.util_min || got.util_max || knows_clamps());
    *out = (cl_sched){.policy = got.policy, .priority = got.priority, .nice = got.nice,
                      .reset_on_fork = (got.flags & RESETS_ON_FORK) != 0,
                      .util_min = clamps ? (int64_t)got.util_min : -1, .util_max = clamps ? (int64_t)got.util_max : -1};
    if (got.policy == CL_SCHED_DEADLINE) { /* since 6.12 all others have a slice there */
        out->runtime_ns = (int64_t)got.runtime;
        out->deadline_ns = (int64_t)got.deadline;
        out->period_ns = (int64_t)got.period;
    }
    return 0;
}

CL__CHILD int64_t cl__sys_get_affinity(int thread, void *mask, size_t room)
{
    return CALL(__NR_sched_getaffinity, thread, room, mask, 0);
}

CL__CHILD int64_t cl__sys_set_affinity(int thread, const void *mask, size_t size)
{
    return CALL(__NR_sched_setaffinity, thread, size, mask, 0);
}

/* The kernel counts these from 1. */
int64_t cl__sys_get_io_priority(int who, int id)
{
    return CALL(__NR_ioprio_get, who + 1, id, 0, 0);
}

CL__CHILD int64_t cl__sys_set_io_priority(int who, int id, int value)
{
    return CALL(__NR_ioprio_set, who + 1, id, value, 0);
}

CL__CHILD int64_t cl__sys_get_memory_policy(void *nodes, size_t room)
{
    int policy = 0;
    int64_t rc = call6(__NR_get_mempolicy, (long)&policy, (long)nodes, (long)room * 8, 0, 0, 0);
    return rc < 0 ? rc : policy;
}

CL__CHILD int64_t cl__sys_set_memory_policy(int policy, const void *nodes, size_t size)
{
    return CALL(__NR_set_mempolicy, policy, nodes, nodes ? size * 8 + 1 : 0, 0); /* it takes one bit less than it is told */
}

int64_t cl__sys_get_qos(void)
{
    return -ENOTSUP;
}

int64_t cl__sys_set_qos(int qos)
{
    (void)qos;
    return -ENOTSUP;
}

CL__CHILD int64_t cl__sys_set_death_signal(int signal)
{
    return call6(__NR_prctl, PR_DEATH_SIGNAL, signal, 0, 0, 0, 0);
}

CL__CHILD int64_t cl__sys_no_new_privs(void)
{
    return call6(__NR_prctl, PR_NO_PRIVS, 1, 0, 0, 0, 0);
}

CL__CHILD int64_t cl__sys_set_groups(const uint32_t *groups, size_t count)
{
    return CALL(__NR_setgroups, count, groups, 0, 0);
}

CL__CHILD int64_t cl__sys_set_gid(uint32_t gid)
{
    return CALL(__NR_setresgid, gid, gid, gid, 0);
}

CL__CHILD int64_t cl__sys_set_uid(uint32_t uid)
{
    return CALL(__NR_setresuid, uid, uid, uid, 0);
}

CL__CHILD int64_t cl__sys_block_signals(uint64_t mask, uint64_t *old)
{
    /* libc's call would leave out signals 32 and 33, which it uses for cancellation and setuid. */
    return CALL(__NR_rt_sigprocmask, SIG_SETMASK, &mask, old, sizeof mask);
}

int64_t cl__sys_block_also(uint64_t mask, uint64_t *old)
{
    return CALL(__NR_rt_sigprocmask, SIG_BLOCK, &mask, old, sizeof mask);
}

uint64_t cl__sys_pending_signals(void)
{
    uint64_t pending = 0;
    CALL(__NR_rt_sigpending, &pending, sizeof pending, 0, 0);
    return pending;
}

void cl__sys_take_signal(int signal)
{
    uint64_t wanted = CL__SIGNAL_BIT(signal);
    struct timespec none = {0, 0};
    CALL(__NR_rt_sigtimedwait, &wanted, 0, &none, sizeof wanted);
}

CL__CHILD static int64_t set_disposition(int signal, void (*handler)(int))
{
    kernel_sigaction action = {.handler = handler};
    return CALL(__NR_rt_sigaction, signal, &action, 0, sizeof action.mask);
}

CL__CHILD int64_t cl__sys_signal_default(int signal)
{
    return set_disposition(signal, SIG_DFL);
}

CL__CHILD int64_t cl__sys_signal_ignore(int signal)
{
    return set_disposition(signal, SIG_IGN);
}

CL__CHILD int64_t cl__sys_signal_reset_if_caught(int signal)
{
    kernel_sigaction action = {.handler = SIG_DFL};
    int64_t rc = CALL(__NR_rt_sigaction, signal, 0, &action, sizeof action.mask);
    if (rc < 0 || action.handler == SIG_DFL || action.handler == SIG_IGN)
        return rc;
    return set_disposition(signal, SIG_DFL);
}

CL__CHILD int64_t cl__sys_exec(const char *path, const char *const *argv, const char *const *env)
{
    return CALL(__NR_execve, path, argv, env, 0);
}

CL__CHILD void cl__sys_nap(int64_t ns)
{
    struct timespec span = {.tv_sec = ns / CL__NS_PER_S, .tv_nsec = ns % CL__NS_PER_S};
    CALL(__NR_nanosleep, &span, 0, 0, 0);
}

CL__CHILD void cl__sys_exit(int code)
{
    for (;;)
        CALL(__NR_exit_group, code, 0, 0, 0);
}

int64_t cl__sys_kill(int pid, int signal)
{
    return CALL(__NR_kill, pid, signal, 0, 0);
}

int64_t cl__sys_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * CL__NS_PER_S + now.tv_nsec;
}

int64_t cl__sys_now_coarse(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return now.tv_sec * CL__NS_PER_S + now.tv_nsec;
}

int64_t cl__sys_poll(struct pollfd *fds, size_t count, int64_t timeout_ns)
{
    struct timespec limit = {.tv_sec = timeout_ns / CL__NS_PER_S, .tv_nsec = timeout_ns % CL__NS_PER_S};
    return CALL(__NR_ppoll, fds, count, timeout_ns < 0 ? NULL : &limit, NULL);
}

int64_t cl__sys_eventfd(int semaphore)
{
    int64_t rc = CALL(__NR_eventfd2, 0, O_CLOEXEC | O_NONBLOCK | (semaphore ? EFD_SEMAPHORE : 0), 0, 0);
    return rc == -ENOSYS ? -ENOTSUP : rc;
}

int64_t cl__sys_notify_open(void)
{
    return CALL(__NR_inotify_init1, IN_NONBLOCK | IN_CLOEXEC, 0, 0, 0);
}

int64_t cl__sys_notify_add(int fd, const char *path)
{
    return CALL(__NR_inotify_add_watch, fd, path, IN_MODIFY, 0);
}

int64_t cl__sys_notify_remove(int fd, int watch)
{
    return CALL(__NR_inotify_rm_watch, fd, watch, 0, 0);
}

int64_t cl__max_rss_kib(const struct rusage *usage)
{
    return usage->ru_maxrss;
}

int64_t cl__take_terminal(void)
{
    uint64_t old;
    int64_t tty = cl__sys_open("/dev/tty", O_RDWR);
    if (tty < 0)
        return tty;
    /* From the background, as we are now, this would stop us with SIGTTOU; blocked, it is simply carried out. */
    cl__sys_block_signals(UINT64_MAX, &old);
    int64_t rc = cl__sys_set_foreground((int)tty, (int)CALL(__NR_getpgid, 0, 0, 0, 0));
    cl__sys_block_signals(old, NULL);
    cl__sys_close((int)tty);
    return rc;
}

/* clone3 with a stack returns twice on two stacks, so the child's half must not return through C: it calls `start`
 * from here, and that does not come back. */
#if defined(__x86_64__) && !defined(__ILP32__)
int64_t cl__sys_clone3_onto(void *request, size_t size, int (*start)(void *), void *argument)
{
    long result;
    register void *entry __asm__("r12") = (void *)start;
    register void *given __asm__("r13") = argument;
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t" /* the end of the stack, for debuggers */
                     "mov %%r13, %%rdi\n\t"
                     "call *%%r12\n\t"
                     "hlt\n"
                     "1:"
                     : "=a"(result)
                     : "a"((long)CLONE3), "D"(request), "S"(size), "r"(entry), "r"(given)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
int64_t cl__sys_clone3_onto(void *request, size_t size, int (*start)(void *), void *argument)
{
    register long x8 __asm__("x8") = CLONE3;
    register long x0 __asm__("x0") = (long)request;
    register long x1 __asm__("x1") = (long)size;
    register void *entry __asm__("x20") = (void *)start;
    register void *given __asm__("x21") = argument;
    __asm__ volatile("svc 0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, #0\n\t"
                     "mov x0, x21\n\t"
                     "blr x20\n\t"
                     "brk #1\n"
                     "1:"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(entry), "r"(given)
                     : "memory", "x30");
    return x0;
}
#else
int64_t cl__sys_clone3_onto(void *request, size_t size, int (*start)(void *), void *argument)
{
    (void)request, (void)size, (void)start, (void)argument;
    return -ENOSYS; /* no way to enter C on another stack without assembly: clone(2) through libc does it here */
}
#endif

#ifdef __s390__ /* there the stack comes before the flags */
#define CLONE_FIRST_ARGUMENTS(flags, stack) stack, flags
#else
#define CLONE_FIRST_ARGUMENTS(flags, stack) flags, stack
#endif

int64_t cl__sys_fork_held(int flags, int *pidfd)
{
    long pid = syscall(__NR_clone, CLONE_FIRST_ARGUMENTS(SIGCHLD | flags, 0), pidfd, 0, 0);
    return pid < 0 ? -errno : pid;
}

char **cl__sys_environ(void)
{
    return environ;
}
