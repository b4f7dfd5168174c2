/* As test_queue_killed.c, but a victim ends itself: at each of the fault points (CL_FAULT), which stand before every atomic in
 * shared memory. Needs no ptrace, but a build that has them: make -f tests/c/Makefile VARIANT=faults. */
#include "queue_cases.h"

static int64_t left; /* points until the end; 0: not a victim */

/* The core's own declaration is weak: this is what it calls in a build with fault points, and nobody in others. */
void cl__fault_at(int place);
void cl__fault_at(int place)
{
    (void)place;
    if (left > 0 && --left == 0)
        kill(getpid(), SIGKILL);
}

static int live_until(const killed_case *this, handle *inherited, int64_t k)
{
    int status;
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        begin_life(inherited->queue, this->joins);
        left = k;
        this->work(inherited->queue);
        left = 0;
        _exit(0);
    }
    MUST(waitpid(pid, &status, 0));
    if (WIFEXITED(status))
        CHECK_IS(WEXITSTATUS(status), 0);
    return !WIFEXITED(status);
}

static int has_fault_points(void)
{
    handle one = make(0);
    left = 1000;
    CHECK_IS(put(one.queue, 1), 0);
    int has = left < 1000;
    left = 0;
    drop(&one);
    return has;
}

int main(void)
{
    int64_t kills = 0;
    if (!has_fault_points()) {
        puts("ok (skipped: this build has no fault points, VARIANT=faults has)");
        return 0;
    }
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int64_t k = 1;; k++) {
            say_about("%s, killed at fault point %" PRId64, cases[i].what, k);
            if (!run_case(&cases[i], k))
                break;
            kills++;
        }
    }
    printf("ok (%" PRId64 " kills)\n", kills);
    return 0;
}
