/* As test_sync_killed.c, but a victim ends itself, at each of the fault points (CL_FAULT), which stand before every atomic in
 * shared memory: so also without ptrace and under the sanitizers. Its core is built with faults.h. */
#include "sync_cases.h"

static int64_t left; /* points until the end; 0: not a victim */

void cl_fault(int point);
void cl_fault(int point)
{
    (void)point;
    if (left > 0 && --left == 0)
        kill(getpid(), SIGKILL);
}

static int live_until(const killed_case *this, handle *inherited, int64_t k)
{
    int status;
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        begin_life(inherited->sync, this->joins);
        left = k;
        this->work(inherited->sync);
        left = 0;
        _exit(0);
    }
    MUST(waitpid(pid, &status, 0));
    if (WIFEXITED(status))
        CHECK_IS(WEXITSTATUS(status), 0);
    return !WIFEXITED(status);
}

int main(void)
{
    int64_t kills = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int64_t k = 1;; k++) {
            say_about("%s, killed at fault point %" PRId64, cases[i].what, k);
            if (!run_case(&cases[i], k))
                break;
            kills++;
        }
        CHECK(kills > 0);
    }
    printf("ok (%" PRId64 " kills)\n", kills);
    return 0;
}
