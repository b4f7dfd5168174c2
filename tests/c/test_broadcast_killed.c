/* A participant of a broadcast is killed at every instruction of what it does: see broadcast_cases.h for what must hold.
 * The driver is killed.h; test_broadcast_faults.c does the same without ptrace. */
#include "broadcast_cases.h"
#include "killed.h"

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
    return step_and_kill(pid, k);
}
