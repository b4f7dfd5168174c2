/* A victim is killed after each single instruction of what it does to a ring, by ptrace. Whoever survives finds each record
 * whole or not at all, and goes on.
 *
 * All steps with CORELANE_FULL=1; by default one in a few, beginning at another one each time. */
#include "ring_killed.h"

#include <sys/ptrace.h>

enum { MOST_STEPS = 20000, DEFAULT_STRIDE = 11, LONGER = 9 /* attaching takes more steps */ };

/* Stops, for the parent to step from here; and at its end. */
static void stop(void)
{
    kill(getpid(), SIGSTOP);
}

static pid_t begin(const deed *each, ringed survivor)
{
    int status;
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        MUST(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
        ringed mine = victim_of(each, survivor);
        stop();
        each->act(mine);
        stop();
        _exit(1);
    }
    MUST(waitpid(pid, &status, 0));
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    return pid;
}

/* 1: so many instructions, 0: it has come to its end before. */
static int step(pid_t pid, int steps)
{
    int status;
    for (int i = 0; i < steps; i++) {
        MUST(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL));
        MUST(waitpid(pid, &status, 0));
        CHECK(WIFSTOPPED(status));
        if (WSTOPSIG(status) == SIGSTOP)
            return 0;
        CHECK_IS(WSTOPSIG(status), SIGTRAP);
    }
    return 1;
}

static int kill_after_each_step(const deed *each, int first, int stride)
{
    int was_done = 0, steps = first, goes_on = 1;
    if (stride > 1 && each->begins == ATTACHES)
        stride *= LONGER;
    for (; goes_on; steps += stride) {
        say_about("%s, killed after step %d", each->name, steps);
        CHECK(steps < MOST_STEPS);
        ringed one = survivor_of(each);
        pid_t pid = begin(each, one);
        goes_on = step(pid, steps);
        MUST(kill(pid, SIGKILL));
        MUST(waitpid(pid, NULL, 0));
        int done = survive(each, one, pid);
        /* What is done after so many steps is done after more; but the steps of malloc() are not the same each time. */
        CHECK(done >= was_done || each->begins == ATTACHES);
        was_done = done;
    }
    say_about("%s", each->name);
    CHECK(was_done || !each->look);
    return steps;
}

static int can_trace(void)
{
    int status;
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0)
        _exit(ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0);
    MUST(waitpid(pid, &status, 0));
    return status == 0;
}

int main(void)
{
    if (SANITIZED || !can_trace()) {
        puts(SANITIZED ? "skipped: a sanitizer has too many instructions of its own" : "skipped: tracing is forbidden here");
        return 0;
    }
    const char *full = getenv("CORELANE_FULL");
    int stride = full && strcmp(full, "0") != 0 ? 1 : DEFAULT_STRIDE;
    int first = (int)(now_ns() / 1000 % stride), all = 0;
    for (int i = 0; i < DEEDS; i++) {
        all += kill_after_each_step(&deeds[i], first, stride);
    }
    printf("ok: %d instructions, one in %d\n", all, stride);
    return 0;
}
