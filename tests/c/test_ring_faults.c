/* A victim ends before each atomic of what it does to a ring: the same as test_ring_killed.c without ptrace, so on every
 * platform and under the sanitizers. Built from a core whose CL_FAULT calls cl_fault (faults.h). */
#include "ring_killed.h"

static int left = -1; /* so many more points are passed; -1: all of them */
static void (*interlude)(int point); /* what others do meanwhile */

void cl_fault(int point);
void cl_fault(int point)
{
    if (interlude)
        interlude(point);
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

/* ---- another one between two steps ---------------------------------------------------------------------------------------- */

static ringed second;
static pid_t closer;
static int go[2];

/* In is_dead: the first producer closes before we ask for its lease, the second is there before we look again. */
static void one_goes_and_one_comes(int point)
{
    int status;
    if (point == 300) {
        CHECK_IS(write(go[1], "", 1), 1);
        MUST(waitpid(closer, &status, 0));
    }
    if (point == 301) {
        interlude = NULL;
        CHECK_IS(cl_ring_take(second.ring, CL_RING_PRODUCER), 0);
    }
}

/* `points`: how far the first one comes with closing; -1: to its end. */
static void a_successor_is_nobodys_death(int points)
{
    char byte;
    say_about("a producer that closes, with %d points left, and its successor", points);
    ringed consumer = new_ring(1);
    CHECK_IS(cl_ring_take(consumer.ring, CL_RING_CONSUMER), 0);
    make_pipe(go);
    closer = (pid_t)MUST(fork());
    if (closer == 0) {
        ringed first = ring_again(fd_of(consumer));
        CHECK_IS(cl_ring_take(first.ring, CL_RING_PRODUCER), 0);
        CHECK_IS(read(go[0], &byte, 1), 1);
        left = points;
        CHECK_IS(cl_ring_leave(first.ring, CL_RING_PRODUCER), 0);
        _exit(0);
    }
    second = ring_again(fd_of(consumer));
    EVENTUALLY(stats_of(consumer).open[CL_RING_PRODUCER]);
    interlude = one_goes_and_one_comes;
    CHECK_IS(cl_ring_look(consumer.ring, CL_RING_CONSUMER, 0), 0);
    CHECK(interlude == NULL); /* it has looked twice */
    CHECK_IS(cl_ring_look(consumer.ring, CL_RING_CONSUMER, 0), 0);
    end_ring(second);
    CHECK_IS(cl_ring_look(consumer.ring, CL_RING_CONSUMER, 0), -EOWNERDEAD); /* freed, not left: as if it had died */
    end_ring(consumer);
    close(go[0]);
    close(go[1]);
}

int main(void)
{
    int all = 0;
    for (int points = 1; points < 8; points++) /* from when its word says CLOSED */
        a_successor_is_nobodys_death(points);
    a_successor_is_nobodys_death(-1);
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
