/* A participant of a broadcast ends itself at each of the fault points (CL_FAULT), which stand before every atomic in shared
 * memory: no record is torn, no reader misses one that was put, no place is lost, everybody goes on. Its core is built with
 * faults.h. */
#include "broadcast_cases.h"

static int64_t left; /* points until the end; 0: not a victim */

void cl_fault(int point);
void cl_fault(int point)
{
    (void)point;
    if (left > 0 && --left == 0)
        kill(getpid(), SIGKILL);
}

static int live_until(const killed_case *this, handle *one, handle *victim, int64_t k)
{
    int status;
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        begin_life(this, victim);
        left = k;
        this->work(victim);
        left = 0;
        _exit(0);
    }
    let_begin(this, one);
    MUST(waitpid(pid, &status, 0));
    if (WIFEXITED(status))
        CHECK_IS(WEXITSTATUS(status), 0);
    return !WIFEXITED(status);
}

int main(void)
{
    int64_t kills = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t k = 1;
        for (;; k++) {
            say_about("%s, killed at fault point %" PRId64, cases[i].what, k);
            if (!run_case(&cases[i], k))
                break;
            kills++;
        }
        CHECK(k > 1);
    }
    printf("ok (%" PRId64 " kills)\n", kills);
    return 0;
}
