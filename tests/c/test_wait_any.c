/* Waiting for any of several: each is found, whoever comes wakes, deaths and errors are as good as records. */
#include "check.h"

#include <pthread.h>

#include "queue.h"

enum { QUEUES = 5, EACH = 3000 };

typedef struct many {
    cl_segment *segments[QUEUES];
    cl_queue *queues[QUEUES];
    cl_waitable all[QUEUES];
} many;

static void open_in(many *made, int i, cl_segment *segment)
{
    made->segments[i] = segment;
    CHECK_IS(cl_queue_open(&made->queues[i], segment), 0);
    CHECK_IS(cl_queue_waitable(made->queues[i], CL_QUEUE_FOR_RECORD, &made->all[i]), -ENOTCONN);
    CHECK(cl_queue_join(made->queues[i]) > 0);
    CHECK_IS(cl_queue_waitable(made->queues[i], 2, &made->all[i]), -EINVAL);
    CHECK_IS(cl_queue_waitable(made->queues[i], CL_QUEUE_FOR_RECORD, &made->all[i]), 0);
}

static void make(many *out)
{
    for (int i = 0; i < QUEUES; i++) {
        cl_queue_plan plan = {.slots = 4, .slot_size = 8, .members = 8};
        cl_segment_plan whole = {.mode = 0600, .owner = -1, .group = -1};
        cl_segment *segment;
        CHECK_IS(cl_queue_describe(&plan, &whole), 0);
        CHECK_IS(cl_segment_new(&segment), 0);
        CHECK_IS(cl_segment_create(segment, NULL, &whole), 0);
        open_in(out, i, segment);
    }
}

static void join(const many *from, many *out)
{
    for (int i = 0; i < QUEUES; i++) {
        cl_segment_report report;
        cl_segment *segment;
        CHECK_IS(cl_segment_report_of(from->segments[i], &report), 0);
        CHECK_IS(cl_segment_new(&segment), 0);
        CHECK_IS(cl_segment_attach(segment, (int)report.fd, NULL, CL_SEGMENT_QUEUE, 0, 0), 0);
        open_in(out, i, segment);
    }
}

static void drop(many *one)
{
    for (int i = 0; i < QUEUES; i++) {
        cl_queue_free(one->queues[i]);
        cl_segment_free(one->segments[i]);
    }
}

static int64_t wait_for(const many *one, int64_t deadline, int64_t spin, uint8_t *ready)
{
    int64_t rc;
    while ((rc = cl_wait_any(one->all, QUEUES, deadline, spin, ready)) == -EINTR)
        continue;
    return rc;
}

static void says_which(void)
{
    say_about("which are ready");
    many one;
    uint8_t ready[QUEUES];
    make(&one);
    CHECK_IS(cl_wait_any(one.all, 0, 0, 0, ready), -EINVAL);
    CHECK_IS(cl_wait_look(one.all, 0, ready), -EINVAL);
    CHECK_IS(cl_wait_look(one.all, QUEUES, ready), 0);
    CHECK_IS(cl_wait_any(one.all, QUEUES, 0, 0, ready), -ETIMEDOUT);
    CHECK_IS(wait_for(&one, now_ns() + 3 * MS, 100000, ready), -ETIMEDOUT);
    int64_t began = now_ns();
    CHECK_IS(cl_wait_any(one.all, QUEUES, -1, 0, ready), -EINTR); /* so that a signal that came unseen is looked for */
    CHECK(now_ns() - began >= 50 * MS);
    CHECK_IS(cl_queue_try_put(one.queues[1], "x", 1), 0);
    CHECK_IS(cl_queue_shut(one.queues[4]), 0); /* who gets is told so at once */
    CHECK_IS(wait_for(&one, -1, 0, ready), 2);
    CHECK(memcmp(ready, (uint8_t[]){0, 1, 0, 0, 1}, QUEUES) == 0);
    cl_queue_leave(one.queues[0]);
    CHECK_IS(cl_wait_look(one.all, QUEUES, ready), 3);
    drop(&one);
}

/* Ready when it is looked at for the first time: then another consumer gets it. */
static int64_t is_ready_once(const cl_waitable *self)
{
    return ++*(int *)self->object == 1 ? CL_WAIT_READY : CL_WAIT_NOT_YET;
}

static int64_t asks_nobody(const cl_waitable *self)
{
    (void)self;
    return 0;
}

static void what_another_got_is_waited_for_again(void)
{
    say_about("gone between two looks");
    for (int64_t spin = 0; spin <= MS; spin += MS) {
        int looks = 0;
        uint32_t word = 0;
        uint8_t ready = 0;
        cl_waitable one = {.look = is_ready_once, .ask = asks_nobody, .word = &word, .object = &looks};
        int64_t rc = cl_wait_any(&one, 1, now_ns() + 2 * MS, spin, &ready);
        CHECK(rc == -ETIMEDOUT || rc == -ENOSYS);
        CHECK_IS(ready, 0);
    }
}

typedef struct worker {
    many mine;
    pthread_t thread;
    int64_t spin, count;
    _Atomic int64_t *left;
} worker;

static void *produce(void *argument)
{
    worker *self = argument;
    for (int64_t i = 0; i < EACH; i++) {
        cl_queue *queue = self->mine.queues[i * 7 % QUEUES];
        while (cl_queue_try_put(queue, &i, sizeof i) == -EAGAIN)
            cl_queue_wait(queue, CL_QUEUE_FOR_ROOM, now_ns() + PATIENCE);
    }
    return NULL;
}

static void *consume(void *argument)
{
    worker *self = argument;
    uint8_t ready[QUEUES];
    int64_t value;
    while (*self->left > 0) {
        int64_t rc = wait_for(&self->mine, now_ns() + 50 * MS, self->spin, ready);
        CHECK(rc > 0 || rc == -ETIMEDOUT); /* as the other one got the last */
        for (int i = 0; i < QUEUES && rc > 0; i++)
            if (ready[i] && cl_queue_try_get(self->mine.queues[i], &value, sizeof value) == sizeof value)
                --*self->left;
    }
    return NULL;
}

static void works_between_threads(int64_t spin)
{
    say_about("two put, two wait, with a spin of %" PRId64 " ns", spin);
    _Atomic int64_t left = 2 * EACH;
    worker all[4];
    for (int i = 0; i < 4; i++) {
        all[i] = (worker){.spin = spin, .left = &left};
        if (i == 0)
            make(&all[i].mine);
        else
            join(&all[0].mine, &all[i].mine);
    }
    int64_t began = now_ns();
    for (int i = 0; i < 4; i++)
        MUST(-pthread_create(&all[i].thread, NULL, i % 2 ? produce : consume, &all[i]));
    for (int i = 0; i < 4; i++)
        MUST(-pthread_join(all[i].thread, NULL));
    CHECK_IS(left, 0);
    CHECK(now_ns() - began < PATIENCE);
    for (int i = 3; i >= 0; i--)
        drop(&all[i].mine);
}

static void finds_a_death(void)
{
    say_about("behind the slot of a dead one");
    many one;
    uint8_t ready[QUEUES];
    int status;
    make(&one);
    pid_t pid = MUST(fork());
    if (pid == 0) {
        cl_queue_claim claim;
        CHECK(cl_queue_join(one.queues[3]) > 0);
        CHECK_IS(cl_queue_reserve(one.queues[3], &claim), 0);
        MUST(kill(getpid(), SIGKILL));
    }
    MUST(waitpid(pid, &status, 0));
    CHECK_IS(WIFSIGNALED(status), 1);
    CHECK_IS(cl_queue_try_put(one.queues[3], "x", 1), 0); /* behind it */
    CHECK_IS(wait_for(&one, now_ns() + PATIENCE, 0, ready), 1);
    CHECK_IS(ready[3], 1);
    drop(&one);
}

int main(void)
{
    says_which();
    what_another_got_is_waited_for_again();
    works_between_threads(0);
    works_between_threads(50000);
    finds_a_death();
    puts("ok");
    return 0;
}
