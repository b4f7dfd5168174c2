/* The other half of these programs: started with arguments, each is the child that its parent looks at. */
#ifndef CHILD_H
#define CHILD_H

#include "check.h"

#include <grp.h>
#include <sys/ioctl.h>
#include <termios.h>

#ifdef __linux__
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

static char self[4096]; /* absolute path of this program */

/* ---- report: everything that a spawn can set, as "key=value" lines ------------------------------------------------ */

extern char **environ;

HELPER void report_descriptors(void)
{
    struct stat status;
    printf("fds=");
    for (int fd = 0; fd < MOST_FDS; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            printf("%d ", fd);
    for (int fd = 0; fd < MOST_FDS; fd++)
        if (fstat(fd, &status) == 0)
            printf("\ninode%d=%llu", fd, (unsigned long long)status.st_ino);
    printf("\nnonblocking=");
    for (int fd = 0; fd < 3; fd++)
        printf("%d", (fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
    printf("\n");
}

HELPER void report_limit(const char *name, int resource)
{
    struct rlimit limit;
    getrlimit(resource, &limit);
    printf("%s=%lld:%lld\n", name, (long long)limit.rlim_cur, (long long)limit.rlim_max);
}

HELPER void report_groups(void)
{
    gid_t groups[64];
    int count = getgroups(64, groups);
    printf("groups=");
    for (int i = 0; i < count; i++)
        printf("%u ", (unsigned)groups[i]);
    printf("\n");
}

#ifdef __linux__
/* A line of a file in /proc/self, what follows `prefix` on it. */
HELPER void report_line(const char *key, const char *path, const char *prefix)
{
    char line[512];
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, prefix, strlen(prefix)) == 0)
            printf("%s=%s", key, line + strlen(prefix) + strspn(line + strlen(prefix), " \t"));
    if (file)
        fclose(file);
}

HELPER void report_system(void)
{
    cpu_set_t cpus;
    struct sched_param parameter = {0};
    int death_signal = 0;
    /* Not sigprocmask: libc hides the two signals that it keeps for itself. */
    report_line("blocked", "/proc/self/status", "SigBlk:");
    report_line("ignored", "/proc/self/status", "SigIgn:");
    report_line("oom", "/proc/self/oom_score_adj", "");
    report_line("cgroup", "/proc/self/cgroup", "0::");
    printf("cpus=");
    sched_getaffinity(0, sizeof cpus, &cpus);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &cpus))
            printf("%d ", cpu);
    sched_getparam(0, &parameter);
    prctl(PR_GET_PDEATHSIG, &death_signal);
    printf("\npolicy=%d\npriority=%d\n", sched_getscheduler(0), parameter.sched_priority);
    printf("ioprio=%ld\n", syscall(SYS_ioprio_get, 1, 0));
    printf("death_signal=%d\nno_new_privs=%d\n", death_signal, prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
}
#else
HELPER void report_system(void)
{
    sigset_t mask;
    struct sigaction action;
    unsigned long long blocked = 0, ignored = 0;
    sigprocmask(SIG_SETMASK, NULL, &mask);
    for (int s = 1; s < 32; s++) {
        blocked |= sigismember(&mask, s) == 1 ? 1ULL << (s - 1) : 0;
        ignored |= sigaction(s, NULL, &action) == 0 && action.sa_handler == SIG_IGN ? 1ULL << (s - 1) : 0;
    }
    printf("blocked=%016llx\nignored=%016llx\n", blocked, ignored);
}
#endif

HELPER void report(void)
{
    char cwd[4096];
    mode_t mask = umask(0);
    umask(mask);
    report_descriptors(); /* first: the rest opens files */
    printf("umask=%04o\n", (unsigned)mask);
    printf("cwd=%s\n", getcwd(cwd, sizeof cwd) ? cwd : "?");
    printf("pid=%d\nppid=%d\npgid=%d\nsid=%d\n", getpid(), getppid(), getpgrp(), getsid(0));
    printf("foreground=%d\n", tcgetpgrp(0));
    printf("nice=%d\n", getpriority(PRIO_PROCESS, 0));
    printf("uid=%u %u\ngid=%u %u\n", getuid(), geteuid(), getgid(), getegid());
    report_groups();
    report_limit("nofile", RLIMIT_NOFILE);
    report_limit("fsize", RLIMIT_FSIZE);
    report_system();
    for (char **variable = environ; *variable; variable++)
        printf("env:%s\n", *variable);
}

/* ---- children with a behaviour ------------------------------------------------------------------------------------ */

HELPER void put(const char *text)
{
    if (write(1, text, strlen(text)) < 0)
        _exit(9);
}

/* Until killed; or until the parent is gone, should a check have failed there. */
__attribute__((noreturn)) HELPER void stay(void)
{
    const struct timespec span = {0, 50 * MS};
    alarm(60); /* it may have been gone before we looked */
    for (pid_t parent = getppid(); getppid() == parent;)
        nanosleep(&span, NULL);
    _exit(0);
}

/* A grandchild that holds our stdout, in our group or not, until the parent closes its end of descriptor 5. */
HELPER void leave_a_grandchild(int escape, int chatty)
{
    char byte;
    int ready[2];
    if (pipe(ready) != 0)
        _exit(8);
    if (fork() == 0) {
        if (escape)
            setsid();
        if (write(ready[1], "", 1) != 1)
            _exit(8);
        alarm(60);
        struct pollfd leash = {.fd = 5, .events = POLLIN};
        while (poll(&leash, 1, chatty ? 0 : -1) == 0)
            put("chatter\n");
        _exit(0);
    }
    put("left\n");
    if (read(ready[0], &byte, 1) != 1) /* it has left our group, if it wants to */
        _exit(8);
}

HELPER void flood(void)
{
    char block[4096];
    memset(block, 'x', sizeof block);
    while (write(1, block, sizeof block) > 0)
        continue;
}

/* As /bin/cat, without its cleverness: every byte goes through both pipes. */
HELPER void copy(void)
{
    char block[16384];
    ssize_t got;
    while ((got = read(0, block, sizeof block)) > 0)
        for (ssize_t done = 0, wrote = 0; done < got; done += wrote)
            if ((wrote = write(1, block + done, (size_t)(got - done))) < 0)
                _exit(9);
}

/* _exit: a leak checker has no business in a child that may lack the rights it needs. */
__attribute__((noreturn)) HELPER void be_the_child(int argc, char **argv)
{
    const char *mode = argv[1];
    int code = argc > 2 ? atoi(argv[2]) : 0;
    if (strcmp(mode, "report") == 0) {
        static char all[1 << 16];
        setvbuf(stdout, all, _IOFBF, sizeof all);
        report();
        if (code && dup2(code, 1) < 0) /* only now, when all descriptors have been looked at */
            _exit(7);
        fflush(stdout);
    } else if (strcmp(mode, "exit") == 0) {
        _exit(code);
    } else if (strcmp(mode, "arguments") == 0) {
        for (int i = 0; i < argc; i++)
            printf("[%s]", argv[i]);
        fflush(stdout);
    } else if (strcmp(mode, "both") == 0) {
        put("out\n");
        _exit(write(2, "err\n", 4) == 4 ? code : 9);
    } else if (strcmp(mode, "stay") == 0 || strcmp(mode, "stubborn") == 0) {
        if (strcmp(mode, "stubborn") == 0)
            signal(SIGTERM, SIG_IGN);
        put("ready\n");
        stay();
    } else if (strcmp(mode, "stop") == 0) {
        put("ready\n");
        raise(SIGSTOP);
    } else if (strcmp(mode, "deaf") == 0) {
        close(0);
        put("ready\n");
    } else if (strcmp(mode, "leave") == 0) {
        leave_a_grandchild(0, 0);
    } else if (strcmp(mode, "escape") == 0) {
        leave_a_grandchild(1, argc > 2);
    } else if (strcmp(mode, "flood") == 0) {
        flood();
    } else if (strcmp(mode, "copy") == 0) {
        copy();
    } else {
        _exit(99);
    }
    _exit(0);
}

/* First in every main(). */
HELPER void start_program(int argc, char **argv)
{
    if (argc > 1 && argv[1][0] >= 'a')
        be_the_child(argc, argv);
    for (int fd = 3; fd < MOST_FDS; fd++)
        close(fd); /* what whoever started us left open */
    CHECK(realpath(argv[0], self) != NULL);
    const char *trampoline = getenv("CORELANE_EXEC");
    if (trampoline)
        CHECK_IS(cl_set_trampoline(trampoline), 0);
}

/* ---- the parent's side: a command and a launch to start from ------------------------------------------------------ */

typedef struct plan {
    cl_command command;
    cl_launch launch;
    const char *argv[6];
} plan;

/* stdin from /dev/null, stdout to a pipe, no containment: what is not asked for must not happen. */
HELPER void plan_for(plan *plan, const char *mode, const char *argument)
{
    memset(plan, 0, sizeof *plan);
    plan->argv[0] = self;
    plan->argv[1] = mode;
    plan->argv[2] = argument;
    plan->command.argv = plan->argv;
    plan->command.contain = CL_CONTAIN_NONE;
    plan->launch.stream[0].kind = CL_IO_NULL;
    plan->launch.stream[1].kind = CL_IO_PIPE;
    plan->launch.cgroup_fd = -1;
}

/* Wherever PATH would find it. */
HELPER void plan_program(plan *plan, const char *program)
{
    plan_for(plan, NULL, NULL);
    plan->argv[0] = program;
}

HELPER cl_process *new_process(void)
{
    cl_process *process;
    CHECK_IS(cl_process_new(&process), 0);
    return process;
}

HELPER cl_report report_of(cl_process *process)
{
    cl_report report;
    CHECK_IS(cl_process_report(process, &report), 0);
    return report;
}

HELPER void must_end(cl_process *process)
{
    int64_t rc;
    while ((rc = cl_process_wait(process, PATIENCE)) == -EINTR)
        continue;
    CHECK_IS(rc, 1);
}

/* Spawn, and show what went wrong if it did. */
HELPER cl_report must_spawn(cl_process *process, const plan *plan)
{
    int64_t rc = cl_process_spawn(process, &plan->command, &plan->launch, NULL);
    cl_report report = report_of(process);
    char text[96];
    snprintf(text, sizeof text, "spawn: stage %d: %s", (int)report.stage, strerror((int)report.error));
    if (rc < 0)
        fail_at(__FILE__, __LINE__, text);
    CHECK_IS(report.pid, rc);
    return report;
}

/* The first line or the whole of a child's output. */
HELPER void expect_line(int fd, const char *line)
{
    char text[64] = "";
    size_t size = 0;
    while (size < strlen(line) && size < sizeof text - 1) {
        ssize_t got = read(fd, text + size, strlen(line) - size);
        if (got < 0 && errno == EINTR)
            continue;
        CHECK(got > 0);
        size += (size_t)got;
    }
    CHECK_TEXT(text, line);
}

static char seen[1 << 16]; /* the last report */

/* Run the plan's child to its end; its stdout is in `seen`. Nothing may be left of it. */
HELPER cl_report look(const plan *plan)
{
    int fds = count_fds();
    cl_process *process = new_process();
    cl_report report = must_spawn(process, plan);
    if (report.pipe[1] >= 0) {
        read_all((int)report.pipe[1], seen, sizeof seen);
        close((int)report.pipe[1]);
    }
    must_end(process);
    report = report_of(process);
    cl_process_free(process);
    CHECK_IS(report.state, CL_STATE_EXITED);
    CHECK_IS(report.status, 0);
    CHECK_IS(count_fds(), fds);
    CHECK(has_no_children());
    return report;
}

/* The value of a key of the last report, "" without one. */
HELPER const char *value(const char *key)
{
    static _Thread_local char found[4096];
    size_t length = strlen(key);
    found[0] = '\0';
    for (const char *line = seen; line && *line; line = strchr(line, '\n'), line += line != NULL)
        if (strncmp(line, key, length) == 0 && line[length] == '=')
            snprintf(found, sizeof found, "%.*s", (int)strcspn(line + length + 1, "\n"), line + length + 1);
    return found;
}

HELPER int64_t number(const char *key)
{
    return strtoll(value(key), NULL, 10);
}

HELPER uint64_t hex(const char *key)
{
    return strtoull(value(key), NULL, 16);
}

/* A new cgroup v2, as a descriptor, or -1 where there is none that we may write. */
HELPER int make_cgroup(char path[128])
{
    static const char *const roots[] = {"/sys/fs/cgroup/unified", "/sys/fs/cgroup"};
    for (int i = 0; i < 2; i++) {
        snprintf(path, 128, "%s/cgroup.controllers", roots[i]);
        if (access(path, F_OK) != 0)
            continue; /* not v2 */
        snprintf(path, 128, "%s/cl-test-%d", roots[i], getpid());
        if (mkdir(path, 0755) == 0)
            return MUST(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    }
    return -1;
}

/* ---- strategies --------------------------------------------------------------------------------------------------- */

static const int all_strategies[] = {CL_STRATEGY_CLONE3, CL_STRATEGY_VFORK, CL_STRATEGY_POSIX_SPAWN, CL_STRATEGY_FORK};
static const char *const strategy_names[] = {"auto", "clone3", "vfork", "posix_spawn", "fork"};
enum { STRATEGIES = 4 };

/* Only the Linux build has the ones that clone. */
HELPER int is_missing(int strategy)
{
    return cl_platform() != CL_PLATFORM_LINUX && strategy != CL_STRATEGY_POSIX_SPAWN && strategy != CL_STRATEGY_AUTO;
}

#endif
