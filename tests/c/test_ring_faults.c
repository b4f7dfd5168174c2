/* A victim ends before each atomic of what it does to a ring: the same as test_ring_killed.c without ptrace, so on every
 * platform and under the sanitizers. Built from a core whose CL_FAULT calls cl_fault (faults.h). */
#include "ring_killed.h"

static int left = -1; /* so many more points are passed; -1: all of them */

void cl_fault(int point);
void cl_fault(int point)
{
    (void)point;
    if (left == 0)
        _exit(9);
    left -= left > 0;
}

/* 1: it ended at the point of that number, 0: there is none. */
static int end_at(const deed *each, ringed one, int number, pid_t *victim)
{
    int status;
    *victim = (pid_t)MUST(fork());
    if (*victim == 0) {
        ringed mine = victim_of(each, one);
        left = number;
        each->act(mine);
        _exit(0);
    }
    MUST(waitpid(*victim, &status, 0));
    CHECK(WIFEXITED(status));
    return WEXITSTATUS(status) == 9;
}

int main(void)
{
    int all = 0;
    for (int i = 0; i < DEEDS; i++) {
        int was_done = 0, number = 0, goes_on = 1;
        for (; goes_on; number++) {
            pid_t victim;
            say_about("%s, ended at point %d", deeds[i].name, number);
            ringed one = survivor_of(&deeds[i]);
            goes_on = end_at(&deeds[i], one, number, &victim);
            int done = survive(&deeds[i], one, victim);
            CHECK(done >= was_done);
            was_done = done;
        }
        CHECK(number > 1);
        CHECK(was_done || !deeds[i].look);
        all += number - 1;
    }
    printf("ok: %d points\n", all);
    return 0;
}
