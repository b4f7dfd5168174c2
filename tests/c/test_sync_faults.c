/* As test_sync_killed.c, but a victim ends itself, at each of the fault points (CL_FAULT), which stand before every atomic in
 * shared memory: so also without ptrace and under the sanitizers. Its core is built with faults.h. */
#include "sync_cases.h"

static int64_t left; /* points until the end; 0: not a victim */
static cl_sync *scribbled; /* into its table a participant that nobody is, at every point; NULL: no */

void cl_fault(int point);
void cl_fault(int point)
{
    (void)point;
    if (scribbled) {
        cl__store_relaxed(&scribbled->members.shared->highest, 2);
        cl__store_relaxed(&scribbled->members.shared->table[2].pid, 12345);
    }
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

/* The last one to come asks who has died, and somebody always has. */
static void comes_in_spite_of_a_scribbler(void)
{
    say_about("a barrier with a scribbler");
    handle one = make(CL_SEGMENT_BARRIER, 2, 2);
    cl_barrier_ticket first = {0}, last = {0};
    scribbled = one.sync;
    alarm(20);
    CHECK_IS(cl_barrier_arrive(one.sync, &first), 0);
    CHECK_IS(cl_barrier_arrive(one.sync, &last), 0);
    alarm(0);
    scribbled = NULL;
    CHECK_IS(cl_barrier_look(one.sync, first.generation), 1);
    drop(&one);
}

int main(void)
{
    int64_t kills = 0;
    comes_in_spite_of_a_scribbler();
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
