/* The driver of test_*_killed.c: runs each of `cases`, of the object that is OBJECT_OF(handle), with a victim that is killed.
 *
 * A victim is a child that stops itself, is then stepped k instructions by ptrace, and killed there; for k = 1, 2, ... until
 * one gets through. CORELANE_FULL=1 takes every k, which lasts some minutes; else it is every 23rd, or fewer on a slow machine,
 * from an offset that is another one each time (CORELANE_KILL_OFFSET says which).
 * CORELANE_TELL=1 says how long each case took. */
#ifndef KILLED_H
#define KILLED_H

#include <sched.h>
#include <sys/ptrace.h>

static int64_t steps_in_all, kills_in_all;

/* The victim is stopped, and makes k steps: 0: it was done before that. Else it was killed. */
static int step_and_kill(pid_t pid, int64_t k)
{
    int status = 0;
    for (int64_t step = 0; step < k; step++) {
        MUST(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL));
        MUST(waitpid(pid, &status, 0));
        steps_in_all++;
        if (WIFEXITED(status)) {
            CHECK_IS(WEXITSTATUS(status), 0);
            return 0;
        }
        CHECK(WIFSTOPPED(status));
        CHECK_IS(WSTOPSIG(status), SIGTRAP);
    }
    MUST(kill(pid, SIGKILL));
    MUST(waitpid(pid, &status, 0));
    CHECK(WIFSIGNALED(status));
    kills_in_all++;
    return 1;
}

/* Where the victim begins otherwise the program has a live_until of its own. */
#ifdef OBJECT_OF
static pid_t start_victim(const killed_case *this, handle *inherited)
{
    int status;
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        MUST(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
        begin_life(OBJECT_OF(inherited), this->joins);
        raise(SIGSTOP);
        this->work(OBJECT_OF(inherited));
        _exit(0);
    }
    MUST(waitpid(pid, &status, 0));
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    return pid;
}

static int live_until(const killed_case *this, handle *inherited, int64_t k)
{
    return step_and_kill(start_victim(this, inherited), k);
}
#endif

static int can_trace(void)
{
    int status;
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
            _exit(1);
        raise(SIGSTOP);
        _exit(0);
    }
    MUST(waitpid(pid, &status, 0));
    if (WIFEXITED(status))
        return 0;
    int can = ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) == 0;
    if (can)
        MUST(waitpid(pid, &status, 0));
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    return can;
}

/* Tracer and traced on one CPU: a step is then a switch and no wake-up of another one. */
static void stay_on_one_cpu(void)
{
    cpu_set_t set, one;
    CPU_ZERO(&one);
    if (sched_getaffinity(0, sizeof set, &set) < 0)
        return;
    int first = (int)(getpid() % CPU_COUNT(&set)), cpu = 0;
    for (; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &set) && first-- == 0)
            break;
    }
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
}

static void kill_at_every_step(const killed_case *this, int64_t stride, int64_t offset)
{
    int64_t began = now_ns(), give_up = stride > 1 ? began + 1000 * MS : INT64_MAX, k = 1 + offset % stride;
    for (;; k += stride) {
        say_about("%s, killed at step %" PRId64, this->what, k);
        if (!run_case(this, k))
            break;
        if (now_ns() > give_up) { /* a slow machine: go on in larger strides, but to the end */
            give_up = now_ns() + 1000 * MS;
            stride *= 4;
        }
    }
    if (getenv("CORELANE_TELL"))
        fprintf(stderr, "%s: over at step %" PRId64 ", stride %" PRId64 ", %.1f s\n", this->what, k, stride,
                (double)(now_ns() - began) / 1e9);
}

int main(void)
{
    if (SANITIZED) {
        puts("ok (not under a sanitizer: its own instructions would be stepped too)");
        return 0;
    }
    if (!can_trace()) {
        puts("ok (skipped: ptrace is refused here)");
        return 0;
    }
    const char *full = getenv("CORELANE_FULL"), *offset = getenv("CORELANE_KILL_OFFSET");
    int64_t stride = full && strcmp(full, "0") != 0 ? 1 : 23;
    stay_on_one_cpu();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        kill_at_every_step(&cases[i], stride, offset ? atoll(offset) : getpid());
    printf("ok (%" PRId64 " kills, %" PRId64 " steps)\n", kills_in_all, steps_in_all);
    return 0;
}

#endif
