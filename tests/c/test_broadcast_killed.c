/* A participant of a broadcast is killed at every instruction of what it does: see broadcast_cases.h for what must hold.
 *
 * A victim is a child that stops itself, is then stepped k instructions by ptrace, and killed there; for k = 1, 2, ... until
 * one gets through. CORELANE_FULL=1 takes every k, which lasts some minutes; else it is every 31st, or fewer on a slow machine,
 * from an offset that is another one each time (CORELANE_KILL_OFFSET says which). test_broadcast_faults.c does the same without
 * ptrace. */
#include "broadcast_cases.h"

#include <sys/ptrace.h>

enum { STRIDE = 31 };

static int64_t kills_in_all;

static int live_until(const killed_case *this, handle *one, handle *victim, int64_t k)
{
    int status;
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        begin_life(this, victim);
        MUST(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
        raise(SIGSTOP);
        this->work(victim);
        _exit(0);
    }
    let_begin(this, one);
    MUST(waitpid(pid, &status, 0));
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    for (int64_t step = 0; step < k; step++) {
        MUST(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL));
        MUST(waitpid(pid, &status, 0));
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

static int can_trace(void)
{
    int status;
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0)
        _exit(ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0);
    MUST(waitpid(pid, &status, 0));
    return status == 0;
}

static void kill_at_every_step(const killed_case *this, int64_t stride, int64_t offset)
{
    int64_t give_up = stride > 1 ? now_ns() + 1000 * MS : INT64_MAX, k = 1 + offset % stride;
    for (;; k += stride) {
        say_about("%s, killed at step %" PRId64, this->what, k);
        if (!run_case(this, k))
            break;
        if (now_ns() > give_up) { /* a slow machine: go on in larger strides, but to the end */
            give_up = now_ns() + 1000 * MS;
            stride *= 4;
        }
    }
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
    int64_t stride = full && strcmp(full, "0") != 0 ? 1 : STRIDE;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        kill_at_every_step(&cases[i], stride, offset ? atoll(offset) : getpid());
    printf("ok (%" PRId64 " kills)\n", kills_in_all);
    return 0;
}
