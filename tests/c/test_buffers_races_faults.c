/* Interleavings of two participants, each as it is told: at a fault point of one, the other does something. Its core is built with
 * faults.h. */
#include "at_fault.h"
#include "buffers.h"
#include "check.h"

enum { SIZE = 4096 };

typedef struct handle {
    cl_segment *segment;
    cl_buffers *pool;
} handle;

static handle one, two;
static cl_buffers_ref ref; /* what two has */

static void begin(int64_t blocks)
{
    static cl_buffers_plan plan;
    cl_segment_report report;
    cl_segment_plan whole = {.mode = 0600, .owner = -1, .group = -1};
    plan = (cl_buffers_plan){.blocks = blocks, .block_size = SIZE, .members = 2};
    CHECK_IS(cl_buffers_describe(&plan, &whole), 0);
    CHECK_IS(cl_segment_new(&one.segment), 0);
    CHECK_IS(cl_segment_create(one.segment, NULL, &whole), 0);
    CHECK_IS(cl_segment_report_of(one.segment, &report), 0);
    CHECK_IS(cl_segment_new(&two.segment), 0);
    CHECK_IS(cl_segment_attach(two.segment, (int32_t)report.fd, NULL, CL_SEGMENT_BUFFERS, 0, 0), 0);
    handle *both[] = {&one, &two};
    for (int i = 0; i < 2; i++) {
        CHECK_IS(cl_buffers_open(&both[i]->pool, both[i]->segment), 0);
        CHECK_IS(cl_buffers_join(both[i]->pool), i + 1);
    }
    ref = (cl_buffers_ref){0};
}

static void finish(int64_t allocated)
{
    cl_buffers_report report;
    CHECK(hook_calls > 0);
    CHECK_IS(cl_buffers_report_of(one.pool, &report), 0);
    CHECK_IS(report.allocated, allocated);
    CHECK_IS(report.held[0], 0);
    CHECK_IS(report.held[1], allocated);
    cl_buffers_free(two.pool);
    cl_segment_free(two.segment);
    cl_buffers_free(one.pool);
    cl_segment_free(one.segment);
}

static void two_acquires(void)
{
    CHECK_IS(cl_buffers_acquire(two.pool, 0, &ref), 0);
}

static void two_releases(void)
{
    CHECK_IS(cl_buffers_release(two.pool, &ref), 1);
}

static void two_lets_go(void)
{
    CHECK_IS(cl_buffers_release(two.pool, &ref), 0); /* one has it, too */
}

static void two_releases_and_acquires(void)
{
    two_releases();
    two_acquires();
}

static void two_releases_and_trims(void)
{
    two_releases();
    CHECK_IS(cl_buffers_trim(two.pool, 0), SIZE);
}

static void two_recalls(void)
{
    CHECK_IS(cl_buffers_recall_all(two.pool), 1);
}

/* The word is the same again, and the block another's use: only the generation tells. */
static void a_handle_that_becomes_stale_on_the_way(int point, void (*meanwhile)(void), int64_t allocated)
{
    say_about("a stale handle, point %d", point);
    cl_buffers_ref mine = {0};
    begin(1);
    two_acquires();
    int64_t index = ref.index;
    uint64_t generation = ref.generation;
    at(point, meanwhile);
    CHECK_IS(cl_buffers_hold(one.pool, index, generation, &mine), -ENOENT);
    CHECK_IS(mine.epoch, 0);
    finish(allocated);
}

/* Two releases it when one has joined it already, and before one looks at the generation: it is one's. */
static void a_block_that_is_let_go_of_on_the_way(void)
{
    say_about("let go of on the way");
    cl_buffers_ref mine = {0};
    begin(1);
    two_acquires();
    int64_t index = ref.index;
    uint64_t generation = ref.generation;
    at(293, two_lets_go);
    CHECK_IS(cl_buffers_hold(one.pool, index, generation, &mine), 0);
    CHECK_IS(cl_buffers_release(one.pool, &mine), 1);
    finish(0);
}

/* One is not done with acquiring it, and has not raised the generation yet: what two had is over all the same. */
static cl_buffers_ref stale;

static void two_holds_what_was(void)
{
    cl_buffers_ref again = {0};
    CHECK_IS(cl_buffers_hold(two.pool, stale.index, stale.generation, &again), -ENOENT);
}

static void a_stale_handle_of_what_is_being_acquired(int point)
{
    say_about("a stale handle while another acquires, point %d", point);
    cl_buffers_ref mine = {0};
    begin(1);
    two_acquires();
    stale = ref;
    two_releases();
    at(point, two_holds_what_was);
    CHECK_IS(cl_buffers_try_acquire(one.pool, &mine), 0);
    CHECK_IS(cl_buffers_release(one.pool, &mine), 1);
    finish(0);
}

/* The hint leads one there, two has it by then, and frees it just before one takes the hint back. */
static void then_two_releases(void)
{
    two_acquires();
    at(281, two_releases);
}

static void a_hint_that_is_right_again(void)
{
    say_about("a hint that is right again");
    cl_buffers_ref mine = {0};
    begin(1);
    at(283, then_two_releases);
    CHECK_IS(cl_buffers_try_acquire(one.pool, &mine), -EAGAIN);
    CHECK_IS(cl_buffers_try_acquire(one.pool, &mine), 0); /* the hint is there */
    CHECK_IS(cl_buffers_release(one.pool, &mine), 1);
    finish(0);
}

/* Two is stopped when it has freed it, before it says so. */
static cl_buffers_ref found_by_one;

static void one_looks(void)
{
    found_by_one = (cl_buffers_ref){0};
    CHECK_IS(cl_buffers_acquire(one.pool, 0, &found_by_one), 0);
}

static void a_block_of_which_nothing_is_said_yet(void)
{
    say_about("freed, and not said");
    begin(1);
    two_acquires();
    at(280, one_looks);
    two_releases();
    CHECK_IS(cl_buffers_acquire(two.pool, 0, &ref), -EAGAIN);
    CHECK_IS(cl_buffers_release(one.pool, &found_by_one), 1);
    finish(0);
}

static void a_token_that_is_recalled_on_the_way(void)
{
    say_about("a token that is recalled on the way");
    cl_buffers_ref mine = {0};
    begin(1);
    two_acquires();
    int64_t index = ref.index;
    uint64_t generation = ref.generation;
    CHECK_IS(cl_buffers_send(two.pool, &ref), 2);
    CHECK_IS(cl_buffers_release(two.pool, &ref), 0);
    at(295, two_recalls);
    CHECK_IS(cl_buffers_take(one.pool, index, generation, 2, &mine), -ENOENT);
    finish(0);
}

/* One is about to wait when two frees it: it does not sleep on it. */
static void a_block_that_comes_free_before_the_sleep(int point)
{
    say_about("before the sleep, point %d", point);
    cl_buffers_ref mine = {0};
    begin(1);
    cl_buffers_set_spin(one.pool, 0);
    two_acquires();
    at(point, two_releases);
    int64_t began = now_ns();
    CHECK_IS(cl_buffers_acquire(one.pool, now_ns() + PATIENCE, &mine), 0);
    CHECK(now_ns() - began < 90 * MS); /* a sleep would be of 100 */
    CHECK_IS(cl_buffers_release(one.pool, &mine), 1);
    finish(0);
}

static void two_leaves(void)
{
    CHECK_IS(cl_buffers_leave(two.pool), 1);
}

/* All places are taken when one looks for what is free, and one is free when it looks for the dead; or only after that, as
 * where somebody was about to recover it. */
static void a_place_that_comes_free_on_the_way(int looks)
{
    say_about("a place that comes free on the way");
    begin(1);
    CHECK_IS(cl_buffers_leave(one.pool), 1);
    cl_segment_report report;
    handle first;
    CHECK_IS(cl_segment_report_of(one.segment, &report), 0);
    CHECK_IS(cl_segment_new(&first.segment), 0);
    CHECK_IS(cl_segment_attach(first.segment, (int32_t)report.fd, NULL, CL_SEGMENT_BUFFERS, 0, 0), 0);
    CHECK_IS(cl_buffers_open(&first.pool, first.segment), 0);
    CHECK_IS(cl_buffers_join(first.pool), 1);
    at(133, two_leaves);
    hook_passes = looks;
    CHECK_IS(cl_buffers_join(one.pool), 2);
    cl_buffers_free(first.pool);
    cl_segment_free(first.segment);
    finish(0);
}

/* The child has a number only if it is of an open file. */
static void two_is_forked(void)
{
    int status, number = two.pool->members.ringers[1].fd;
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0)
        _exit(number >= 0 && fcntl(number, F_GETFD) < 0);
    MUST(waitpid(pid, &status, 0));
    CHECK_IS(status, 0);
}

static void one_is_rung_for(void)
{
    CHECK(cl_buffers_poll_fd(one.pool) >= 0);
    two_acquires();
    CHECK_IS(cl_buffers_arm(one.pool), 0);
    two_releases();
}

static void a_bell_that_is_another_one(void)
{
    say_about("a fork while another bell is opened");
    begin(1);
    one_is_rung_for();
    CHECK(two.pool->members.ringers[1].fd >= 0);
    CHECK_IS(cl_buffers_leave(one.pool), 1);
    CHECK_IS(cl_buffers_join(one.pool), 1);
    at(134, two_is_forked);
    one_is_rung_for();
    finish(0);
}

static int times_sent;

/* A stranger, who writes that we have sent it once more. */
static void one_seems_to_have_sent(void)
{
    atomic_store_explicit(&one.pool->blocks[0].word, cl__with_tokens(0, 1, 1), memory_order_seq_cst);
    if (++times_sent < 10 * CL_BUFFERS_TOKENS)
        at(280, one_seems_to_have_sent);
}

static void recalling_comes_to_an_end(void)
{
    say_about("a stranger who sends in our name while we recall");
    begin(1);
    times_sent = 0;
    one_seems_to_have_sent();
    CHECK_IS(cl_buffers_recall_all(one.pool), CL_BUFFERS_TOKENS); /* there are no more of a block at once */
    hook = NULL;
    CHECK_IS(cl_buffers_recall_all(one.pool), 1);
    finish(0);
}

int main(void)
{
    recalling_comes_to_an_end();
    a_place_that_comes_free_on_the_way(0);
    a_place_that_comes_free_on_the_way(1);
    a_bell_that_is_another_one();
    a_handle_that_becomes_stale_on_the_way(291, two_releases, 0);
    a_handle_that_becomes_stale_on_the_way(291, two_releases_and_acquires, 1);
    a_handle_that_becomes_stale_on_the_way(292, two_releases, 0);
    a_handle_that_becomes_stale_on_the_way(292, two_releases_and_acquires, 1);
    a_handle_that_becomes_stale_on_the_way(292, two_releases_and_trims, 0);
    a_stale_handle_of_what_is_being_acquired(283);
    a_stale_handle_of_what_is_being_acquired(284);
    a_stale_handle_of_what_is_being_acquired(286);
    a_stale_handle_of_what_is_being_acquired(287);
    a_block_that_is_let_go_of_on_the_way();
    a_hint_that_is_right_again();
    a_block_of_which_nothing_is_said_yet();
    a_token_that_is_recalled_on_the_way();
    a_block_that_comes_free_before_the_sleep(50);
    a_block_that_comes_free_before_the_sleep(51);
    puts("ok");
    return 0;
}
