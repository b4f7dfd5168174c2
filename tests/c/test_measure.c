/* The measurements: what they return is in bounds, they end in time, and signals and forks beside them do no harm. */
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/time.h>

enum { ROUNDS = 50, ROOM = 64 };

static int64_t out[ROOM];

static void refuses(int64_t rounds, int64_t ns)
{
    say_about("%lld rounds of %lld ns", (long long)rounds, (long long)ns);
    CHECK_IS(cl_measure_wakeup(rounds, ns, out), -EINVAL);
    CHECK_IS(cl_measure_timer(rounds, ns, out), -EINVAL);
}

static void refuses_what_is_out_of_bounds(void)
{
    refuses(0, 0);
    refuses(-1, 1000);
    refuses(CL_MEASURE_MOST_ROUNDS + 1LL, 0);
    refuses(1, -1);
    refuses(1, CL_MEASURE_MOST_NS + 1LL);
    refuses(2, CL_MEASURE_MOST_NS - 1);
    refuses(INT64_MAX, INT64_MAX);
    say_about("the others");
    CHECK_IS(cl_measure_clock(0), -EINVAL);
    CHECK_IS(cl_measure_call(CL_MEASURE_MOST_ROUNDS + 1LL), -EINVAL);
    CHECK_IS(cl_measure_gaps(0, 1, out, ROOM), -EINVAL);
    CHECK_IS(cl_measure_gaps(1, 0, out, ROOM), -EINVAL);
    CHECK_IS(cl_measure_gaps(CL_MEASURE_MOST_NS + 1LL, 1, out, ROOM), -EINVAL);
}

/* Nothing is late by less than nothing, nor by as much as all of it took. */
static void all_within(int64_t done, int64_t most)
{
    CHECK(done >= 1 && done <= ROUNDS);
    for (int64_t i = 0; i < done; i++)
        CHECK(out[i] >= 0 && out[i] <= most);
}

static void measures_wakeups(int64_t gap_ns)
{
    int fds = count_fds();
    say_about("wake-ups after %lld ns", (long long)gap_ns);
    int64_t start = now_ns(), done = cl_measure_wakeup(ROUNDS, gap_ns, out), took = now_ns() - start;
    all_within(done, took);
    if (done == ROUNDS)
        CHECK(took >= ROUNDS * gap_ns);
    CHECK_IS(count_fds(), fds);
}

static void measures_the_rest(void)
{
    say_about("timers");
    int64_t start = now_ns(), done = cl_measure_timer(ROUNDS, MS / 10, out);
    all_within(done, now_ns() - start);
    say_about("the clock and a call");
    start = now_ns();
    int64_t clock = cl_measure_clock(10000), call = cl_measure_call(1000);
    CHECK(clock > 0 && call > 0 && clock + call <= now_ns() - start);
    say_about("gaps");
    start = now_ns();
    int64_t count = cl_measure_gaps(10 * MS, 1, out, ROOM);
    CHECK(now_ns() - start >= 10 * MS);
    CHECK(count > ROOM); /* each reading of the clock is a step */
    for (int i = 0; i < ROOM; i++)
        CHECK(out[i] >= 1);
    out[0] = -7;
    CHECK(cl_measure_gaps(MS, 1, out, 0) > 0);
    CHECK_IS(out[0], -7);
    CHECK_IS(cl_measure_gaps(MS, CL_MEASURE_MOST_NS, out, ROOM), 0);
}

static atomic_int signals;

static void count_signal(int number)
{
    (void)number;
    signals++;
}

/* A signal a millisecond, as a profiler has it: sleeps go on, and no round is lost or early. */
static void goes_on_after_signals(void)
{
    struct sigaction counting = {.sa_handler = count_signal}, before;
    struct itimerval often = {.it_interval = {0, 1000}, .it_value = {0, 1000}}, never = {{0, 0}, {0, 0}};
    say_about("under signals");
    MUST(sigaction(SIGALRM, &counting, &before));
    MUST(setitimer(ITIMER_REAL, &often, NULL));
    int64_t start = now_ns();
    int64_t done = cl_measure_timer(10, 5 * MS, out);
    CHECK(now_ns() - start >= done * 5 * MS);
    all_within(done, now_ns() - start);
    all_within(cl_measure_wakeup(10, 5 * MS, out), now_ns() - start);
    MUST(setitimer(ITIMER_REAL, &never, NULL));
    CHECK(signals > 0);
    MUST(sigaction(SIGALRM, &before, NULL));
}

static void *measure_beside(void *unused)
{
    int64_t mine[ROUNDS];
    (void)unused;
    CHECK(cl_measure_wakeup(ROUNDS, MS / 10, mine) >= 1);
    CHECK(cl_measure_timer(ROUNDS, MS / 10, mine) >= 1);
    return NULL;
}

static void may_be_called_by_several(void)
{
    pthread_t threads[4];
    say_about("four threads");
    for (int i = 0; i < 4; i++)
        CHECK_IS(pthread_create(&threads[i], NULL, measure_beside, NULL), 0);
    for (int i = 0; i < 4; i++)
        CHECK_IS(pthread_join(threads[i], NULL), 0);
}

/* The forked child holds copies of the pipes, and lives on: nobody may wait for their end. */
static void is_not_held_by_a_fork(void)
{
    pthread_t measuring;
    int hold[2];
    char byte;
    pid_t children[20];
    say_about("forks beside it");
    make_pipe(hold);
    CHECK_IS(pthread_create(&measuring, NULL, measure_beside, NULL), 0);
    for (int i = 0; i < 20; i++)
        if ((children[i] = MUST(fork())) == 0) {
            close(hold[1]);
            _exit(read(hold[0], &byte, 1) != 0);
        }
    CHECK_IS(pthread_join(measuring, NULL), 0);
    close(hold[1]);
    for (int i = 0; i < 20; i++) {
        int status;
        MUST(waitpid(children[i], &status, 0));
        CHECK_IS(status, 0);
    }
    close(hold[0]);
}

static void without_descriptors(void *unused)
{
    struct rlimit none = {0, 0};
    (void)unused;
    say_about("no descriptor left");
    MUST(setrlimit(RLIMIT_NOFILE, &none));
    CHECK_IS(cl_measure_wakeup(1, 0, out), -EMFILE);
}

int main(void)
{
    refuses_what_is_out_of_bounds();
    measures_wakeups(0);
    measures_wakeups(MS / 2);
    measures_the_rest();
    goes_on_after_signals();
    may_be_called_by_several();
    is_not_held_by_a_fork();
    in_a_fork(without_descriptors, NULL);
    puts("measurements are in bounds and end in time");
    return 0;
}
