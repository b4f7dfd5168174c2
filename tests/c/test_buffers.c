/* Pools of buffers: blocks, references, handles and tokens; participants and what their deaths leave; waiting; trimming; memory that
 * cannot be. */
#include "buffers.h" /* the words of blocks, to scribble over them */
#include "check.h"

#include <sched.h>

enum { BLOCKS = 4, SIZE = 100 };

typedef struct handle {
    cl_segment *segment;
    cl_buffers *pool;
} handle;

static cl_buffers_plan plan;

static handle make(int64_t blocks, int64_t size, int32_t members)
{
    handle made;
    cl_segment_plan whole = {.mode = 0600, .owner = -1, .group = -1};
    plan = (cl_buffers_plan){.blocks = blocks, .block_size = size, .members = members};
    CHECK_IS(cl_buffers_describe(&plan, &whole), 0);
    CHECK_IS(cl_segment_new(&made.segment), 0);
    CHECK_IS(cl_segment_create(made.segment, NULL, &whole), 0);
    CHECK_IS(cl_buffers_open(&made.pool, made.segment), 0);
    CHECK_IS(cl_buffers_join(made.pool), 1);
    return made;
}

static int fd_of(const handle *from)
{
    cl_segment_report report;
    CHECK_IS(cl_segment_report_of(from->segment, &report), 0);
    return (int)report.fd;
}

static handle attach(const handle *from, int flags)
{
    handle made;
    CHECK_IS(cl_segment_new(&made.segment), 0);
    CHECK_IS(cl_segment_attach(made.segment, fd_of(from), NULL, CL_SEGMENT_BUFFERS, 0, flags), 0);
    CHECK_IS(cl_buffers_open(&made.pool, made.segment), 0);
    return made;
}

static handle join(const handle *from)
{
    handle made = attach(from, 0);
    CHECK(cl_buffers_join(made.pool) > 0);
    return made;
}

static void end_pool(handle *one)
{
    cl_buffers_free(one->pool);
    cl_segment_free(one->segment);
    *one = (handle){0};
}

static cl_buffers_report look_at(const handle *one)
{
    cl_buffers_report report;
    CHECK_IS(cl_buffers_report_of(one->pool, &report), 0);
    return report;
}

static cl_buffers_ref acquire(handle *one)
{
    cl_buffers_ref ref = {0};
    CHECK_IS(cl_buffers_try_acquire(one->pool, &ref), 0);
    return ref;
}

static int64_t acquire_fails(handle *one)
{
    cl_buffers_ref ref = {0};
    int64_t rc = cl_buffers_acquire(one->pool, 0, &ref);
    CHECK(rc < 0);
    CHECK_IS(ref.epoch, 0);
    return rc;
}

static int64_t hold(handle *one, const cl_buffers_ref *of, cl_buffers_ref *ref)
{
    *ref = (cl_buffers_ref){0};
    return cl_buffers_hold(one->pool, of->index, of->generation, ref);
}

static int64_t take(handle *one, const cl_buffers_ref *of, int64_t sender, cl_buffers_ref *ref)
{
    *ref = (cl_buffers_ref){0};
    return cl_buffers_take(one->pool, of->index, of->generation, (int32_t)sender, ref);
}

/* ---- blocks ---------------------------------------------------------------------------------------------------------- */

static void hands_out_blocks(int64_t blocks, int64_t size)
{
    say_about("%d blocks of %d bytes", (int)blocks, (int)size);
    int fds = count_fds();
    handle one = make(blocks, size, 3);
    cl_buffers_ref *refs = calloc((size_t)blocks, sizeof *refs);
    for (uint64_t lap = 1; lap <= 3; lap++) {
        for (int64_t i = 0; i < blocks; i++) {
            refs[i] = acquire(&one);
            CHECK_IS(refs[i].generation, lap);
            CHECK_IS(refs[i].index, i);
            CHECK(i == 0 || refs[i].data >= refs[i - 1].data + size);
            memset(refs[i].data, (int)i + 1, (size_t)size);
        }
        CHECK_IS(acquire_fails(&one), -EAGAIN);
        CHECK_IS(cl_buffers_references(one.pool), blocks);
        for (int64_t i = 0; i < blocks; i++) {
            for (int64_t at = 0; at < size; at += size > 1 ? size - 1 : 1)
                CHECK_IS(refs[i].data[at], (uint8_t)(i + 1));
            CHECK_IS(cl_buffers_release(one.pool, &refs[i]), 1);
            CHECK_IS(cl_buffers_release(one.pool, &refs[i]), -EINVAL);
        }
        one.pool->start = 0;
    }
    cl_buffers_report report = look_at(&one);
    CHECK_IS(report.allocations, 3 * blocks);
    CHECK_IS(report.frees, 3 * blocks);
    CHECK_IS(report.peak, blocks);
    CHECK_IS(report.allocated, 0);
    CHECK_IS(report.failures, 0);
    CHECK(report.timed >= 1 && report.idle_ns >= 0);
    free(refs);
    end_pool(&one);
    CHECK_IS(count_fds(), fds);
}

static void several_hold_one(void)
{
    say_about("several holders");
    handle one = make(BLOCKS, SIZE, 4), two = join(&one);
    cl_buffers_ref a = acquire(&one), b, c, stale = a;
    CHECK_IS(hold(&two, &a, &b), 0);
    CHECK_IS(hold(&two, &a, &c), 0);
    memcpy(a.data, "hello", 6);
    CHECK_TEXT((char *)c.data, "hello");
    CHECK_IS(look_at(&one).held[0], 1);
    CHECK_IS(look_at(&one).held[1], 1);
    CHECK_IS(look_at(&one).allocated, 1);
    CHECK_IS(cl_buffers_release(one.pool, &a), 0);
    CHECK_IS(cl_buffers_release(two.pool, &b), 0);
    CHECK_IS(hold(&one, &stale, &a), 0); /* somebody has it still */
    CHECK_IS(cl_buffers_release(one.pool, &a), 0);
    CHECK_IS(cl_buffers_release(two.pool, &c), 1);
    say_about("a stale handle");
    CHECK_IS(hold(&one, &stale, &a), -ENOENT);
    CHECK_IS(a.epoch, 0);
    a = acquire(&two);
    CHECK_IS(a.index, stale.index);
    CHECK_IS(a.generation, stale.generation + 1);
    CHECK_IS(hold(&one, &stale, &b), -ENOENT);
    CHECK_IS(hold(&two, &stale, &b), -ENOENT);
    CHECK_IS(cl_buffers_hold(one.pool, -1, 1, &b), -EINVAL);
    CHECK_IS(cl_buffers_hold(one.pool, BLOCKS, 1, &b), -EINVAL);
    CHECK_IS(cl_buffers_hold(one.pool, 0, 0, &b), -EINVAL);
    CHECK_IS(cl_buffers_release(two.pool, &a), 1);
    CHECK_IS(look_at(&one).allocated, 0);
    end_pool(&two);
    end_pool(&one);
}

static void hands_over(void)
{
    say_about("tokens");
    handle one = make(BLOCKS, SIZE, 4), two = join(&one), three = join(&one);
    cl_buffers_ref a = acquire(&one), b, of = a, c;
    memcpy(a.data, "hello", 6);
    int64_t sender = cl_buffers_send(one.pool, &a);
    CHECK_IS(sender, 1);
    CHECK_IS(cl_buffers_release(one.pool, &a), 0); /* it is on its way */
    CHECK_IS(look_at(&one).in_flight, 1);
    CHECK_IS(look_at(&one).held[0], 1);
    CHECK_IS(look_at(&one).allocated, 1);
    CHECK_IS(take(&two, &of, 2, &b), -ENOENT); /* not that one's */
    CHECK_IS(look_at(&one).held[1], 0);
    CHECK_IS(take(&two, &of, sender, &b), 0);
    CHECK_TEXT((char *)b.data, "hello");
    CHECK_IS(look_at(&one).held[0], 0);
    CHECK_IS(take(&three, &of, sender, &c), -ENOENT); /* twice */
    CHECK_IS(look_at(&one).held[2], 0);
    say_about("several tokens, one sender");
    CHECK_IS(cl_buffers_send(two.pool, &b), 2);
    CHECK_IS(cl_buffers_send(two.pool, &b), 2);
    CHECK_IS(hold(&three, &of, &c), 0);
    CHECK_IS(cl_buffers_send(three.pool, &c), -EBUSY);
    CHECK_IS(take(&three, &of, 2, &a), 0);
    CHECK_IS(cl_buffers_recall(two.pool, of.index, of.generation + 1), 0);
    CHECK_IS(cl_buffers_recall(two.pool, of.index, of.generation), 1);
    CHECK_IS(cl_buffers_recall(two.pool, of.index, of.generation), 0);
    CHECK_IS(cl_buffers_send(three.pool, &c), 3);
    for (int i = 1; i < CL_BUFFERS_TOKENS; i++)
        CHECK_IS(cl_buffers_send(three.pool, &c), 3);
    CHECK_IS(cl_buffers_send(three.pool, &c), -EOVERFLOW);
    CHECK_IS(cl_buffers_release(three.pool, &a), 0);
    CHECK_IS(cl_buffers_release(three.pool, &c), 0);
    CHECK_IS(cl_buffers_release(two.pool, &b), 0);
    CHECK_IS(cl_buffers_recall_all(two.pool), 0);
    CHECK_IS(cl_buffers_recall_all(three.pool), CL_BUFFERS_TOKENS);
    CHECK_IS(look_at(&one).allocated, 0);
    say_about("a sender that leaves");
    a = of = acquire(&one);
    CHECK_IS(cl_buffers_send(one.pool, &a), 1);
    CHECK_IS(cl_buffers_leave(one.pool), 0); /* a reference */
    CHECK_IS(acquire_fails(&one), -ENOTCONN);
    CHECK_IS(cl_buffers_send(one.pool, &a), -ENOTCONN);
    CHECK_IS(look_at(&one).joined, 3);
    CHECK_IS(cl_buffers_release(one.pool, &a), 0);
    CHECK_IS(look_at(&one).joined, 2);
    CHECK_IS(look_at(&one).allocated, 0);
    CHECK_IS(take(&two, &of, 1, &b), -ENOENT);
    CHECK_IS(cl_buffers_leave(one.pool), 1);
    end_pool(&three);
    end_pool(&two);
    end_pool(&one);
}

/* ---- participants ---------------------------------------------------------------------------------------------------- */

static void has_so_many_participants(void)
{
    say_about("participants");
    handle one = make(BLOCKS, SIZE, 2), two = join(&one), three = attach(&one, 0), reader = attach(&one, CL_SEGMENT_READ_ONLY);
    cl_buffers_ref ref = {0};
    CHECK_IS(cl_buffers_join(three.pool), -EUSERS);
    CHECK_IS(cl_buffers_try_acquire(three.pool, &ref), -ENOTCONN);
    CHECK_IS(cl_buffers_leave(two.pool), 1);
    CHECK_IS(cl_buffers_join(three.pool), 2);
    CHECK_IS(cl_buffers_join(three.pool), 2);
    CHECK_IS(cl_buffers_join(reader.pool), -EACCES);
    CHECK_IS(cl_buffers_note_failure(reader.pool), -EACCES);
    CHECK_IS(look_at(&reader).joined, 2);
    end_pool(&reader);
    end_pool(&three);
    end_pool(&two);
    end_pool(&one);
}

static void refuses_the_child_of_a_fork(void)
{
    say_about("a forked child");
    handle one = make(BLOCKS, SIZE, 4);
    cl_buffers_ref ref = acquire(&one), token = acquire(&one);
    int status;
    CHECK_IS(cl_buffers_send(one.pool, &token), 1);
    pthread_mutex_lock(&one.pool->lock); /* as another thread may have it at that moment */
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        cl_buffers_ref mine = {0}, again;
        CHECK_IS(acquire_fails(&one), -ESTALE);
        CHECK_IS(cl_buffers_release(one.pool, &ref), -ESTALE);
        CHECK_IS(cl_buffers_references(one.pool), 0);
        CHECK_IS(cl_buffers_join(one.pool), 2);
        CHECK_IS(cl_buffers_release(one.pool, &ref), -EINVAL); /* it is the parent's */
        CHECK_IS(cl_buffers_try_acquire(one.pool, &mine), 0);
        CHECK_IS(mine.index, 2);
        CHECK_IS(hold(&one, &ref, &again), 0); /* its parent lives and has it */
        CHECK_IS(cl_buffers_release(one.pool, &ref), -EINVAL);
        CHECK_IS(cl_buffers_recall_all(one.pool), 0);
        CHECK_IS(cl_buffers_recover(one.pool), 0);
        _exit(0);
    }
    pthread_mutex_unlock(&one.pool->lock);
    MUST(waitpid(pid, &status, 0));
    CHECK_IS(status, 0);
    CHECK_IS(cl_buffers_recover(one.pool), 1); /* it did not leave */
    cl_buffers_report report = look_at(&one);
    CHECK_IS(report.last_dead, pid);
    CHECK_IS(report.reclaimed, 1);
    CHECK_IS(report.allocated, 2);
    CHECK_IS(cl_buffers_release(one.pool, &ref), 1);
    end_pool(&one);
}

/* A child that does something to the pool, and stays. */
static pid_t in_another(const handle *from, void (*work)(handle *))
{
    int ends[2];
    char byte;
    make_pipe(ends);
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        handle mine = join(from);
        work(&mine);
        CHECK_IS(write(ends[1], "x", 1), 1);
        for (;;)
            pause();
    }
    close(ends[1]);
    CHECK_IS(read(ends[0], &byte, 1), 1);
    close(ends[0]);
    return pid;
}

static void end(pid_t pid)
{
    siginfo_t info;
    MUST(kill(pid, SIGKILL));
    MUST(waitid(P_PID, (id_t)pid, &info, WEXITED)); /* the kernel is done with it */
}

static void acquire_all(handle *mine)
{
    for (int i = 0; i < BLOCKS; i++)
        acquire(mine);
}

static cl_buffers_ref shared_ref; /* in the parent before the fork */

static void hold_it_and_send_another(handle *mine)
{
    cl_buffers_ref ref, other = acquire(mine);
    CHECK_IS(hold(mine, &shared_ref, &ref), 0);
    CHECK(cl_buffers_send(mine->pool, &other) > 0);
    CHECK_IS(cl_buffers_release(mine->pool, &other), 0);
}

static void the_dead_give_back(void)
{
    say_about("a holder that is killed");
    handle one = make(BLOCKS, SIZE, 4);
    cl_buffers_ref ref = {0};
    pid_t pid = in_another(&one, acquire_all);
    CHECK_IS(acquire_fails(&one), -EAGAIN);
    CHECK_IS(look_at(&one).pids[1], pid);
    CHECK_IS(look_at(&one).held[1], BLOCKS);
    MUST(kill(pid, SIGSTOP));
    CHECK_IS(cl_buffers_acquire(one.pool, now_ns() + 5 * MS, &ref), -ETIMEDOUT); /* stopped is not dead */
    CHECK_IS(cl_buffers_recover(one.pool), 0);
    end(pid);
    CHECK_IS(cl_buffers_acquire(one.pool, now_ns() + PATIENCE, &ref), 0);
    CHECK_IS(cl_buffers_release(one.pool, &ref), 1);
    cl_buffers_report report = look_at(&one);
    CHECK_IS(report.recoveries, 1);
    CHECK_IS(report.reclaimed, BLOCKS);
    CHECK_IS(report.allocated, 0);
    CHECK_IS(report.waits, 1);
    say_about("who held with others, and had sent");
    shared_ref = acquire(&one);
    end(in_another(&one, hold_it_and_send_another));
    CHECK_IS(look_at(&one).allocated, 2);
    CHECK_IS(look_at(&one).in_flight, 1);
    CHECK_IS(cl_buffers_recover(one.pool), 1);
    report = look_at(&one);
    CHECK_IS(report.allocated, 1); /* ours */
    CHECK_IS(report.in_flight, 0);
    CHECK_IS(report.reclaimed, BLOCKS + 1);
    CHECK_IS(cl_buffers_release(one.pool, &shared_ref), 1);
    end_pool(&one);
}

/* Killed between the word and its hint: nobody would look there. */
static void finds_a_block_whose_hint_is_lost(void)
{
    say_about("lost hints");
    handle one = make(BLOCKS, SIZE, 4);
    cl_buffers_ref ref = {0};
    end(in_another(&one, acquire_all));
    for (int i = 0; i < BLOCKS; i++)
        one.pool->blocks[i].word = 0;
    one.pool->members.all_asked_at = one.pool->look_all_at = now_ns() + PATIENCE; /* just now, and not again */
    CHECK_IS(acquire_fails(&one), -EAGAIN);
    CHECK_IS(cl_buffers_recover(one.pool), 1);
    CHECK_IS(cl_buffers_acquire(one.pool, 0, &ref), 0);
    end_pool(&one);
}

/* ---- waiting --------------------------------------------------------------------------------------------------------- */

static cl_buffers_ref waited_for;

static void *release_when_it_sleeps(void *of)
{
    handle *one = of;
    EVENTUALLY(one->pool->shared->freed & CL__SLEEP);
    CHECK_IS(cl_buffers_release(one->pool, &waited_for), 1);
    return NULL;
}

static void waits_and_is_woken(void)
{
    say_about("waiting");
    pthread_t thread;
    handle one = make(1, SIZE, 4);
    cl_buffers_ref ref = {0};
    cl_buffers_set_spin(one.pool, 0);
    waited_for = acquire(&one);
    CHECK_IS(cl_buffers_acquire(one.pool, now_ns() + 2 * MS, &ref), -ETIMEDOUT);
    CHECK_IS(pthread_create(&thread, NULL, release_when_it_sleeps, &one), 0);
    int64_t rc, until = now_ns() + PATIENCE;
    do
        rc = cl_buffers_acquire(one.pool, until, &ref);
    while (rc == -EINTR);
    CHECK_IS(rc, 0);
    CHECK_IS(pthread_join(thread, NULL), 0);
    CHECK_IS(look_at(&one).waits, 1);
    say_about("a bell");
    struct pollfd bell = {.fd = (int)cl_buffers_poll_fd(one.pool), .events = POLLIN};
    CHECK(bell.fd >= 0);
    CHECK_IS(cl_buffers_silence(one.pool), 0);
    CHECK_IS(cl_buffers_arm(one.pool), 0);
    CHECK_IS(acquire_fails(&one), -EAGAIN);
    CHECK_IS(poll(&bell, 1, 0), 0);
    CHECK_IS(cl_buffers_release(one.pool, &ref), 1);
    CHECK_IS(poll(&bell, 1, 5000), 1);
    end_pool(&one);
}

/* ---- trimming -------------------------------------------------------------------------------------------------------- */

static int64_t bytes_of(const handle *one)
{
    struct stat file;
    MUST(fstat(fd_of(one), &file));
    return (int64_t)file.st_blocks * 512;
}

static void trims(void)
{
    say_about("trimming");
    int64_t size = 4 * sysconf(_SC_PAGESIZE), before;
    handle one = make(BLOCKS, size - 5, 2), two = join(&one), small = make(BLOCKS, SIZE, 2);
    cl_buffers_ref a = acquire(&one), b, c, d, e = {0};
    memset(a.data, 7, (size_t)size - 5);
    before = bytes_of(&one);
    CHECK_IS(cl_buffers_trim(one.pool, 3600 * SECOND), 3 * size); /* those were never used */
    CHECK_IS(bytes_of(&one), before - 3 * size);
    CHECK_IS(look_at(&one).trimmed, 3);
    CHECK_IS(cl_buffers_trim(two.pool, 0), 0);
    CHECK_IS(cl_buffers_release(one.pool, &a), 1);
    CHECK_IS(cl_buffers_trim(two.pool, 3600 * SECOND), 0); /* it was used just now */
    a = acquire(&two);
    CHECK_IS(a.index, 0); /* one whose memory is there comes first */
    CHECK_IS(a.data[100], 7);
    CHECK_IS(cl_buffers_try_acquire(one.pool, &e), -EAGAIN); /* it makes no system calls */
    b = c = d = (cl_buffers_ref){0};
    CHECK_IS(cl_buffers_acquire(one.pool, 0, &b), 0);
    CHECK_IS(cl_buffers_acquire(two.pool, 0, &c), 0);
    CHECK_IS(cl_buffers_acquire(one.pool, 0, &d), 0);
    CHECK_IS(bytes_of(&one), before); /* reserved, before anybody touches it */
    CHECK_IS(look_at(&one).trimmed, 0);
    CHECK_IS(acquire_fails(&one), -EAGAIN);
    for (int64_t at = 0; at < size - 5; at += 512)
        CHECK_IS(b.data[at], 0);
    CHECK_IS(look_at(&one).peak, BLOCKS);
    CHECK_IS(cl_buffers_release(one.pool, &b), 1);
    CHECK_IS(cl_buffers_trim(one.pool, 0), size);
    b = (cl_buffers_ref){0};
    CHECK_IS(cl_buffers_acquire(one.pool, 0, &b), 0);
    CHECK_IS(cl_buffers_release(one.pool, &b), 1);
    one.pool->blocks[b.index].used_at = INT64_MIN; /* a stranger's: longer ago than can be counted */
    CHECK_IS(cl_buffers_trim(one.pool, 3600 * SECOND), size);
    CHECK_IS(cl_buffers_trim(small.pool, 0), -ENOTSUP);
    end_pool(&small);
    end_pool(&two);
    end_pool(&one);
}

/* ---- threads --------------------------------------------------------------------------------------------------------- */

enum { WORKERS = 4, TURNS = 1500 };
static handle crew[WORKERS];
static int trimmer_is_in; /* worker 0 trims, too */

/* Nobody else has what we have acquired; what we hand to ourselves stays ours. */
static void *work(void *which)
{
    intptr_t me = (intptr_t)which;
    handle *mine = &crew[me];
    for (int i = 0; i < TURNS; i++) {
        cl_buffers_ref ref = {0}, again = {0};
        int64_t rc;
        while ((rc = cl_buffers_acquire(mine->pool, now_ns() + PATIENCE, &ref)) == -EINTR)
            continue;
        CHECK_IS(rc, 0);
        uint64_t *data = (uint64_t *)(void *)ref.data;
        data[0] = (uint64_t)me << 32 | (uint64_t)i;
        data[1] = ~data[0];
        if (i % 3 == 0) {
            int64_t sender = cl_buffers_send(mine->pool, &ref);
            cl_buffers_ref of = ref;
            CHECK(sender > 0);
            CHECK_IS(cl_buffers_release(mine->pool, &ref), 0);
            CHECK_IS(take(mine, &of, sender, &again), 0);
            ref = again;
        }
        CHECK(data[0] == ((uint64_t)me << 32 | (uint64_t)i) && data[1] == ~data[0]);
        CHECK(cl_buffers_release(mine->pool, &ref) >= 0);
        if (trimmer_is_in && me == 0 && i % 8 == 0)
            CHECK(cl_buffers_trim(mine->pool, 0) >= 0);
    }
    return NULL;
}

/* All over one mapping, as ThreadSanitizer knows no other. */
static void works_between_threads(int64_t blocks, int64_t size, int own_handles, int with_trims)
{
    say_about("threads, %d blocks, %s, %s", (int)blocks, own_handles ? "each a participant" : "one participant",
              with_trims ? "one trims" : "none trims");
    pthread_t threads[WORKERS];
    handle one = make(blocks, size, WORKERS + 1);
    trimmer_is_in = with_trims;
    for (intptr_t i = 0; i < WORKERS; i++) {
        crew[i] = own_handles ? join(&one) : one;
        crew[i].pool->shared = one.pool->shared;
        crew[i].pool->members.shared = one.pool->members.shared;
        crew[i].pool->hints = one.pool->hints;
        crew[i].pool->blocks = one.pool->blocks;
        crew[i].pool->data = one.pool->data;
    }
    for (intptr_t i = 0; i < WORKERS; i++)
        CHECK_IS(pthread_create(&threads[i], NULL, work, (void *)i), 0);
    for (int i = 0; i < WORKERS; i++)
        CHECK_IS(pthread_join(threads[i], NULL), 0);
    cl_buffers_report report = look_at(&one);
    CHECK_IS(report.allocated, 0);
    CHECK_IS(report.in_flight, 0);
    CHECK_IS(report.allocations, WORKERS * TURNS);
    CHECK_IS(report.recoveries, 0);
    CHECK(report.peak >= 1 && report.peak <= blocks);
    CHECK_IS(one.pool->shared->allocated, 0);
    for (int i = 0; i < WORKERS && own_handles; i++)
        end_pool(&crew[i]);
    end_pool(&one);
}

/* A handle that becomes stale while others try to hold by it: it never leads to another use of the block. */
static _Atomic uint64_t told_generation;
static _Atomic int is_over;

static void *hold_again_and_again(void *of)
{
    handle *mine = of;
    while (!is_over) {
        cl_buffers_ref ref = {0};
        uint64_t generation = told_generation;
        int64_t rc = generation ? cl_buffers_hold(mine->pool, 0, generation, &ref) : -ENOENT;
        CHECK(rc == 0 || rc == -ENOENT);
        if (rc == 0) {
            CHECK_IS(*(uint64_t *)(void *)ref.data, generation);
            CHECK(cl_buffers_release(mine->pool, &ref) >= 0);
        }
    }
    return NULL;
}

static void stale_handles_lead_nowhere(void)
{
    say_about("handles that become stale");
    pthread_t threads[2];
    handle one = make(1, SIZE, 4), others[2];
    told_generation = 0;
    is_over = 0;
    for (int i = 0; i < 2; i++) {
        others[i] = join(&one);
        others[i].pool->blocks = one.pool->blocks;
        others[i].pool->data = one.pool->data;
        others[i].pool->hints = one.pool->hints;
        others[i].pool->shared = one.pool->shared;
        others[i].pool->members.shared = one.pool->members.shared;
        CHECK_IS(pthread_create(&threads[i], NULL, hold_again_and_again, &others[i]), 0);
    }
    for (int i = 0; i < 3000; i++) {
        cl_buffers_ref ref = {0};
        int64_t rc;
        while ((rc = cl_buffers_acquire(one.pool, now_ns() + PATIENCE, &ref)) == -EINTR)
            continue;
        CHECK_IS(rc, 0);
        /* They may hold it by the handle of before by mistake for a moment, but never read it then. */
        *(uint64_t *)(void *)ref.data = ref.generation;
        told_generation = ref.generation;
        CHECK(cl_buffers_release(one.pool, &ref) >= 0);
    }
    is_over = 1;
    for (int i = 0; i < 2; i++) {
        CHECK_IS(pthread_join(threads[i], NULL), 0);
        end_pool(&others[i]);
    }
    CHECK_IS(look_at(&one).allocated, 0);
    end_pool(&one);
}

/* ---- memory that cannot be ------------------------------------------------------------------------------------------- */

static uint64_t seed = 88172645463325252ULL;

static uint64_t next_random(void) /* xorshift64 */
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static void is_inside(const handle *one, const cl_buffers_ref *ref)
{
    CHECK(ref->index >= 0 && ref->index < BLOCKS);
    CHECK(ref->data == one->pool->data + ref->index * (int64_t)one->pool->stride);
    ref->data[0] = 1;
    ref->data[SIZE - 1] = 1;
}

/* Any answer will do, but an end. What is acquired lies in the blocks. */
static void use_it(handle *one)
{
    cl_buffers_ref ref = {0}, other = {0};
    int64_t rc = cl_buffers_acquire(one->pool, next_random() % 16 ? 0 : now_ns() + MS / 4, &ref);
    if (rc == 0) {
        is_inside(one, &ref);
        rc = cl_buffers_send(one->pool, &ref);
        if (rc > 0 && cl_buffers_take(one->pool, ref.index, ref.generation, (int32_t)rc, &other) == 0) {
            is_inside(one, &other);
            cl_buffers_release(one->pool, &other);
        }
        cl_buffers_release(one->pool, &ref);
    }
    other = (cl_buffers_ref){0};
    if (cl_buffers_hold(one->pool, (int64_t)(next_random() % BLOCKS), 1 + next_random() % 4, &other) == 0) {
        is_inside(one, &other);
        cl_buffers_release(one->pool, &other);
    }
    cl_buffers_recall_all(one->pool);
    cl_buffers_report report = look_at(one);
    CHECK(report.allocated >= 0 && report.allocated <= BLOCKS && report.peak <= BLOCKS);
}

static void survives_any_word(void)
{
    static const uint64_t tokens[] = {0, 1, 2, 255}, senders[] = {0, 1, 2, 3, 48, 49, 63}, tops[] = {0, 1, 2, 3};
    static const uint64_t holders[] = {0, 1, 2, 3, 1ULL << 47, CL__HOLDERS};
    for (size_t t = 0; t < 4 * 7 * 4 * 6; t++) {
        uint64_t word = tops[t % 4] << 62 | tokens[t / 4 % 4] << 54 | senders[t / 16 % 7] << 48 | holders[t / 112];
        say_about("words of %" PRIx64, word);
        handle one = make(BLOCKS, SIZE, 3), two = join(&one);
        for (int i = 0; i < BLOCKS; i++)
            one.pool->blocks[i].word = word;
        use_it(&one);
        use_it(&two);
        cl_buffers_recover(one.pool);
        use_it(&two);
        end_pool(&two);
        end_pool(&one);
    }
}

static void survives_any_image(void)
{
    handle one = make(BLOCKS, SIZE, 3), two = join(&one);
    uint64_t *words = (uint64_t *)(void *)one.pool->shared;
    int64_t count = (one.pool->data - (uint8_t *)one.pool->shared) / 8;
    for (int image = 0; image < 400; image++) {
        say_about("random image %d", image);
        for (int64_t i = 0; i < count; i++)
            words[i] = image % 4 == 0 || next_random() % 8 == 0 ? next_random() >> next_random() % 64 : words[i];
        use_it(&one);
        use_it(&two);
    }
    end_pool(&two);
    end_pool(&one);
}

/* While somebody scribbles. */
static void *scribble(void *of)
{
    handle *one = of;
    _Atomic uint64_t *words = (_Atomic uint64_t *)(void *)one->pool->shared;
    uint64_t state = 7, count = (uint64_t)(one->pool->data - (uint8_t *)one->pool->shared) / 8;
    while (!is_over) {
        state = state * 6364136223846793005ULL + 1442695040888963407ULL;
        atomic_store_explicit(&words[(state >> 33) % count], (state >> 20) >> (state >> 58), memory_order_relaxed);
    }
    return NULL;
}

static void survives_a_scribbler(void)
{
    say_about("a scribbler");
    if (UNDER_TSAN)
        return; /* the payload's bytes are no atomics: what it would report is what is done here */
    pthread_t thread;
    handle one = make(BLOCKS, SIZE, 3);
    is_over = 0;
    CHECK_IS(pthread_create(&thread, NULL, scribble, &one), 0);
    int64_t until = now_ns() + 300 * MS;
    while (now_ns() < until) {
        use_it(&one);
        cl_buffers_recover(one.pool);
    }
    is_over = 1;
    CHECK_IS(pthread_join(thread, NULL), 0);
    end_pool(&one);
}

static int64_t open_fails(cl_segment_plan *whole)
{
    cl_segment *segment;
    cl_buffers *pool;
    CHECK_IS(cl_segment_new(&segment), 0);
    CHECK_IS(cl_segment_create(segment, NULL, whole), 0);
    int64_t rc = cl_buffers_open(&pool, segment);
    if (rc == 0)
        cl_buffers_free(pool);
    cl_segment_free(segment);
    return rc;
}

static void is_not_believed(void)
{
    static const cl_buffers_plan bad[] = {
        {0, 1, 1, 0}, {CL_BUFFERS_BLOCKS + 1, 1, 1, 0}, {1, 0, 1, 0}, {1, (1LL << 40) + 1, 1, 0}, {1, 1, 0, 0},
        {1, 1, CL_BUFFERS_MEMBERS + 1, 0}, {-1, 1, 1, 0}, {1, -1, 1, 0}, {INT64_MAX, INT64_MAX, 1, 0},
    };
    cl_segment_plan whole = {.mode = 0600, .owner = -1, .group = -1};
    cl_buffers_plan good = {4, 8, 4, 0}, more = {5, 8, 4, 0}, larger = {4, 65, 4, 0}, huge = {CL_BUFFERS_BLOCKS, 1LL << 40, 1, 0};
    CHECK_IS(cl_buffers_describe(&huge, &whole), -ENOMEM);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        say_about("bad plan %zu", i);
        cl_buffers_plan copy = bad[i];
        CHECK_IS(cl_buffers_describe(&copy, &whole), -EINVAL);
        CHECK_IS(cl_buffers_describe(&good, &whole), 0);
        CHECK_IS(open_fails(&whole), 0);
        whole.about = (const char *)&bad[i];
        CHECK_IS(open_fails(&whole), -EBADMSG);
    }
    say_about("what is not so");
    whole.about = (const char *)&more;
    CHECK_IS(open_fails(&whole), -EBADMSG);
    whole.about = (const char *)&larger;
    CHECK_IS(open_fails(&whole), -EBADMSG);
    whole.about = (const char *)&good;
    whole.layout++;
    CHECK_IS(open_fails(&whole), -EBADMSG);
    whole.layout--;
    whole.kind = CL_SEGMENT_BYTES;
    CHECK_IS(open_fails(&whole), -EBADMSG);
}

/* ---- whose the bell is ------------------------------------------------------------------------------------------------- */

static void *trim_all(void *of)
{
    int64_t rc = cl_buffers_trim(((handle *)of)->pool, 0);
    CHECK(rc >= 0 || rc == -ENOTCONN || rc == -ENOTSUP);
    return NULL;
}

/* A trim that has a block when we leave ends the place in its own thread, and closes the bell there: ThreadSanitizer looks on. */
static void closes_its_bell_once(int64_t page)
{
    for (int turn = 0; turn < 20; turn++) {
        handle one = make(64, page, 2);
        pthread_t thread;
        say_about("leaving while another thread trims, turn %d", turn);
        CHECK(cl_buffers_poll_fd(one.pool) >= 0);
        CHECK_IS(pthread_create(&thread, NULL, trim_all, &one), 0);
        while (cl_buffers_references(one.pool) == 0 && look_at(&one).trimmed == 0)
            sched_yield();
        cl_buffers_leave(one.pool);
        int64_t rc;
        do {
            rc = cl_buffers_silence(one.pool);
            CHECK(rc == 0 || rc == -ENOTCONN);
        } while (rc == 0);
        CHECK_IS(cl_buffers_arm(one.pool), -ENOTCONN);
        CHECK_IS(cl_buffers_poll_fd(one.pool), -ENOTCONN);
        CHECK_IS(pthread_join(thread, NULL), 0);
        end_pool(&one);
    }
}

/* As it closes what it has inherited. */
static void a_child_leaves_its_parents_bell_alone(void)
{
    handle one = make(BLOCKS, SIZE, 2);
    struct pollfd bell = {.fd = (int)cl_buffers_poll_fd(one.pool), .events = POLLIN};
    say_about("the bell of a parent");
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        CHECK_IS(cl_buffers_silence(one.pool), -ESTALE);
        CHECK_IS(cl_buffers_arm(one.pool), -ESTALE);
        CHECK_IS(cl_buffers_poll_fd(one.pool), -ESTALE);
        _exit(0);
    }
    int status;
    MUST(waitpid(pid, &status, 0));
    CHECK_IS(status, 0);
    CHECK_IS(poll(&bell, 1, 0), 1);
    end_pool(&one);
}

int main(void)
{
    int64_t page = sysconf(_SC_PAGESIZE);
    a_child_leaves_its_parents_bell_alone();
    closes_its_bell_once(page);
    hands_out_blocks(1, 1);
    hands_out_blocks(BLOCKS, SIZE);
    hands_out_blocks(200, page);
    several_hold_one();
    hands_over();
    has_so_many_participants();
    refuses_the_child_of_a_fork();
    the_dead_give_back();
    finds_a_block_whose_hint_is_lost();
    waits_and_is_woken();
    trims();
    works_between_threads(1, SIZE, 1, 0);
    works_between_threads(3, SIZE, 0, 0);
    works_between_threads(3, SIZE, 1, 0);
    works_between_threads(100, SIZE, 1, 0);
    works_between_threads(6, page, 1, 1);
    stale_handles_lead_nowhere();
    survives_any_word();
    survives_any_image();
    survives_a_scribbler();
    is_not_believed();
    puts("ok");
    return 0;
}
