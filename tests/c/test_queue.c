/* Queues: what goes in comes out once and in order; participants, claims, what a death leaves; memory that cannot be. */
#include "check.h"

#include <pthread.h>
#include <sys/mman.h>

#include "queue.h" /* the words of slots, to scribble over them */

enum { SLOTS = 8, SIZE = 100 };

typedef struct handle {
    cl_segment *segment;
    cl_queue *queue;
} handle;

static cl_queue_plan plan;

static handle make(int64_t slots, int64_t slot_size, int32_t members, int32_t flags)
{
    handle made;
    cl_segment_plan whole = {.mode = 0600, .owner = -1, .group = -1};
    plan = (cl_queue_plan){.slots = slots, .slot_size = slot_size, .members = members, .flags = flags};
    CHECK_IS(cl_queue_describe(&plan, &whole), 0);
    CHECK_IS(cl_segment_new(&made.segment), 0);
    CHECK_IS(cl_segment_create(made.segment, NULL, &whole), 0);
    CHECK_IS(cl_queue_open(&made.queue, made.segment), 0);
    CHECK(cl_queue_join(made.queue) > 0);
    return made;
}

static int fd_of(const handle *from)
{
    cl_segment_report report;
    CHECK_IS(cl_segment_report_of(from->segment, &report), 0);
    return (int)report.fd;
}

static handle attach(int fd)
{
    handle made;
    CHECK_IS(cl_segment_new(&made.segment), 0);
    CHECK_IS(cl_segment_attach(made.segment, fd, NULL, CL_SEGMENT_QUEUE, 0, 0), 0);
    CHECK_IS(cl_queue_open(&made.queue, made.segment), 0);
    return made;
}

static handle join(int fd)
{
    handle made = attach(fd);
    CHECK(cl_queue_join(made.queue) > 0);
    return made;
}

static void drop(handle *one)
{
    cl_queue_free(one->queue);
    cl_segment_free(one->segment);
    *one = (handle){0};
}

static cl_queue_report look(const handle *one)
{
    cl_queue_report report;
    CHECK_IS(cl_queue_report_of(one->queue, &report), 0);
    return report;
}

static void put(handle *one, uint32_t value)
{
    CHECK_IS(cl_queue_try_put(one->queue, &value, sizeof value), 0);
}

static void get(handle *one, uint32_t expected)
{
    uint8_t room[SIZE];
    uint32_t value = 0;
    CHECK_IS(cl_queue_try_get(one->queue, room, sizeof room), sizeof value);
    memcpy(&value, room, sizeof value);
    CHECK_IS(value, expected);
}

static int64_t get_any(handle *one)
{
    uint8_t room[SIZE];
    uint32_t value = 0;
    int64_t rc = cl_queue_try_get(one->queue, room, sizeof room);
    memcpy(&value, room, sizeof value);
    return rc < 0 ? rc : value;
}

/* Until it is time to ask for leases again. */
static int64_t in_time(int64_t (*attempt)(handle *), handle *one)
{
    int64_t rc, until = now_ns() + PATIENCE;
    while ((rc = attempt(one)) == -EAGAIN && now_ns() < until)
        usleep(200);
    return rc;
}

static int64_t put_one(handle *one)
{
    uint32_t value = 77;
    return cl_queue_try_put(one->queue, &value, sizeof value);
}

/* All slots are usable: that many go in, and that many come out. */
static void has_all_slots(handle *one)
{
    int64_t slots = look(one).slots;
    while (get_any(one) >= 0)
        continue;
    for (int64_t i = 0; i < slots; i++)
        CHECK_IS(in_time(put_one, one), 0);
    CHECK_IS(put_one(one), -EAGAIN);
    CHECK_IS(cl_queue_blocked_by(one->queue), 0);
    for (int64_t i = 0; i < slots; i++)
        CHECK_IS(get_any(one), 77);
    CHECK_IS(get_any(one), -EAGAIN);
    CHECK_IS(look(one).size, 0);
}

/* ---- one participant -------------------------------------------------------------------------------------------------- */

static void is_a_queue(int flags)
{
    say_about("one participant, flags %d", flags);
    int fds = count_fds();
    handle one = make(5, SIZE, 3, flags);
    CHECK_IS(look(&one).slots, 8); /* rounded up */
    uint32_t in = 0, out = 0;
    for (int lap = 0; lap < 5; lap++) {
        for (int i = 0; i < SLOTS; i++)
            put(&one, in++);
        CHECK_IS(cl_queue_try_put(one.queue, "x", 1), -EAGAIN);
        for (int i = 0; i < SLOTS - lap; i++)
            get(&one, out++);
        for (int i = 0; i < lap; i++)
            get(&one, out++);
        CHECK_IS(get_any(&one), -EAGAIN);
    }
    cl_queue_report report = look(&one);
    CHECK_IS(report.enqueued, 5 * SLOTS);
    CHECK_IS(report.dequeued, 5 * SLOTS);
    CHECK_IS(report.most, SLOTS);
    CHECK_IS(report.joined, 1);
    CHECK_IS(report.me, 1);
    drop(&one);
    CHECK_IS(count_fds(), fds);
}

static void takes_records_of_any_size(void)
{
    say_about("sizes");
    handle one = make(4, SIZE, 1, 0);
    uint8_t data[SIZE], room[SIZE];
    for (int i = 0; i < SIZE; i++)
        data[i] = (uint8_t)i;
    for (int size = 0; size <= SIZE; size++) {
        CHECK_IS(cl_queue_try_put(one.queue, data, size), 0);
        CHECK_IS(cl_queue_try_get(one.queue, room, SIZE), size);
        CHECK(memcmp(data, room, (size_t)size) == 0);
    }
    CHECK_IS(cl_queue_try_put(one.queue, data, SIZE + 1), -EMSGSIZE);
    CHECK_IS(cl_queue_try_put(one.queue, data, -1), -EMSGSIZE);
    CHECK_IS(cl_queue_try_get(one.queue, room, SIZE - 1), -EMSGSIZE);
    drop(&one);
    one = make(1, 8, 1, 0); /* one slot is enough */
    for (uint64_t i = 0; i < 100; i++) {
        CHECK_IS(cl_queue_try_put(one.queue, &i, 8), 0);
        CHECK_IS(cl_queue_try_put(one.queue, &i, 8), -EAGAIN);
        CHECK_IS(cl_queue_try_get(one.queue, room, 8), 8);
        CHECK(memcmp(room, &i, 8) == 0);
        CHECK_IS(cl_queue_try_get(one.queue, room, 8), -EAGAIN);
    }
    drop(&one);
}

static void takes_many_at_once(void)
{
    say_about("many at once");
    handle one = make(SLOTS, SIZE, 1, 0);
    int64_t sizes[20], got[20];
    uint8_t room[SIZE * 3];
    for (int i = 0; i < 20; i++)
        sizes[i] = 1;
    CHECK_IS(cl_queue_put_many(one.queue, "abcdefghijklmnopqrst", sizes, 20), SLOTS);
    CHECK_IS(cl_queue_put_many(one.queue, "x", sizes, 1), -EAGAIN);
    CHECK_IS(cl_queue_get_many(one.queue, room, SIZE + 2, got, 20), 3); /* a fourth may not have fitted */
    CHECK(memcmp(room, "abc", 3) == 0);
    CHECK_IS(cl_queue_get_many(one.queue, room, sizeof room, got, 2), 2);
    CHECK_IS(cl_queue_get_many(one.queue, room, sizeof room, got, 20), 3);
    CHECK(memcmp(room, "fgh", 3) == 0);
    CHECK_IS(cl_queue_get_many(one.queue, room, sizeof room, got, 20), -EAGAIN);
    drop(&one);
}

static void is_filled_in_place(void)
{
    say_about("reserve, commit, peek, release");
    handle one = make(2, SIZE, 2, 0);
    cl_queue_claim claim, other, copy;
    CHECK_IS(cl_queue_reserve(one.queue, &claim), 0);
    CHECK_IS(claim.size, SIZE);
    CHECK_IS(get_any(&one), -EAGAIN); /* not yet */
    CHECK_IS(cl_queue_blocked_by(one.queue), getpid());
    memcpy(claim.data, "\1\0\0\0", 4);
    CHECK_IS(cl_queue_reserve(one.queue, &other), 0);
    CHECK_IS(cl_queue_commit(one.queue, &other, SIZE + 1), -EMSGSIZE);
    CHECK_IS(cl_queue_cancel(one.queue, &other), 0);
    CHECK_IS(cl_queue_cancel(one.queue, &other), -EINVAL);
    CHECK_IS(cl_queue_commit(one.queue, &other, 1), -EINVAL);
    copy = claim;
    CHECK_IS(cl_queue_commit(one.queue, &claim, 4), 0);
    CHECK_IS(cl_queue_commit(one.queue, &copy, 4), -EINVAL);
    CHECK_IS(cl_queue_peek(one.queue, &claim), 0);
    CHECK_IS(claim.size, 4);
    CHECK_IS(claim.data[0], 1);
    CHECK_IS(get_any(&one), -EAGAIN);
    CHECK_IS(cl_queue_commit(one.queue, &claim, 4), -EINVAL); /* it is for reading */
    CHECK_IS(cl_queue_give_back(one.queue, &claim), 0);
    get(&one, 1); /* again */
    cl_queue_report report = look(&one);
    CHECK_IS(report.unfinished, 1);
    CHECK_IS(report.redelivered, 1);
    CHECK_IS(report.enqueued, 1);
    CHECK_IS(report.dequeued, 1);
    has_all_slots(&one);
    say_about("leaving with claims");
    put(&one, 5);
    CHECK_IS(cl_queue_peek(one.queue, &claim), 0);
    CHECK_IS(cl_queue_reserve(one.queue, &other), 0);
    cl_queue_leave(one.queue);
    CHECK_IS(cl_queue_release(one.queue, &claim), -ENOTCONN);
    CHECK_IS(put_one(&one), -ENOTCONN);
    CHECK(cl_queue_join(one.queue) > 0);
    CHECK_IS(cl_queue_release(one.queue, &claim), -EINVAL);
    CHECK_IS(cl_queue_commit(one.queue, &other, 1), -EINVAL);
    get(&one, 5);
    has_all_slots(&one);
    drop(&one);
}

static void is_shut(void)
{
    say_about("shut");
    handle one = make(4, SIZE, 2, 0), two = join(fd_of(&one));
    cl_queue_claim claim;
    put(&one, 1);
    put(&one, 2);
    CHECK_IS(cl_queue_shut(two.queue), 0);
    CHECK_IS(put_one(&one), -EPIPE);
    CHECK_IS(cl_queue_reserve(one.queue, &claim), -EPIPE);
    get(&one, 1);
    CHECK_IS(cl_queue_peek(two.queue, &claim), 0);
    CHECK_IS(get_any(&one), -EAGAIN); /* two may die over it yet */
    CHECK_IS(cl_queue_blocked_by(one.queue), getpid());
    CHECK_IS(get_any(&two), -EPIPE);
    CHECK_IS(cl_queue_give_back(two.queue, &claim), 0);
    get(&one, 2);
    CHECK_IS(get_any(&one), -EPIPE);
    CHECK_IS(get_any(&two), -EPIPE);
    drop(&one);
    drop(&two);
}

/* ---- participants ------------------------------------------------------------------------------------------------------ */

static void has_so_many_participants(void)
{
    say_about("participants");
    handle one = make(2, SIZE, 2, 0), two = join(fd_of(&one)), three = attach(fd_of(&one)), reader;
    CHECK_IS(look(&two).me, 2);
    CHECK_IS(cl_queue_join(two.queue), 2);
    CHECK_IS(cl_queue_join(three.queue), -EUSERS);
    CHECK_IS(put_one(&three), -ENOTCONN);
    cl_queue_leave(one.queue);
    CHECK_IS(cl_queue_join(three.queue), 1);
    CHECK_IS(look(&three).joined, 2);
    CHECK_IS(cl_segment_new(&reader.segment), 0);
    CHECK_IS(cl_segment_attach(reader.segment, fd_of(&one), NULL, CL_SEGMENT_QUEUE, 0, CL_SEGMENT_READ_ONLY), 0);
    CHECK_IS(cl_queue_open(&reader.queue, reader.segment), 0);
    CHECK_IS(cl_queue_join(reader.queue), -EACCES);
    CHECK_IS(cl_queue_shut(reader.queue), -EACCES);
    CHECK_IS(look(&reader).joined, 2);
    drop(&reader);
    drop(&one);
    drop(&two);
    drop(&three);
}

static void refuses_the_child_of_a_fork(void)
{
    say_about("a forked child");
    handle one = make(4, SIZE, 4, 0);
    cl_queue_claim claim;
    int status;
    CHECK_IS(cl_queue_reserve(one.queue, &claim), 0);
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        CHECK_IS(put_one(&one), -ESTALE);
        CHECK_IS(get_any(&one), -ESTALE);
        CHECK_IS(cl_queue_commit(one.queue, &claim, 4), -ESTALE);
        CHECK_IS(cl_queue_join(one.queue), 2);
        CHECK_IS(cl_queue_commit(one.queue, &claim, 4), -EINVAL); /* it is the parent's */
        CHECK_IS(cl_queue_recover(one.queue), 0);                 /* which lives */
        CHECK_IS(cl_queue_blocked_by(one.queue), 0);
        CHECK_IS(get_any(&one), -EAGAIN);
        CHECK_IS(cl_queue_blocked_by(one.queue), getppid());
        put(&one, 8);
        _exit(0);
    }
    MUST(waitpid(pid, &status, 0));
    CHECK_IS(status, 0);
    CHECK_IS(cl_queue_commit(one.queue, &claim, 4), 0);
    CHECK(get_any(&one) >= 0);
    get(&one, 8);
    CHECK_IS(cl_queue_recover(one.queue), 1); /* it did not leave */
    CHECK_IS(look(&one).last_dead, pid);
    has_all_slots(&one);
    drop(&one);
}

/* A child that does something to the queue, and stays. */
static pid_t in_another(int fd, void (*work)(handle *))
{
    int ends[2];
    char byte;
    make_pipe(ends);
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        handle mine = join(fd);
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

static void reserve_one(handle *mine)
{
    cl_queue_claim claim;
    CHECK_IS(cl_queue_reserve(mine->queue, &claim), 0);
}

static void peek_at_one(handle *mine)
{
    cl_queue_claim claim;
    CHECK_IS(cl_queue_peek(mine->queue, &claim), 0);
}

static void end(pid_t pid)
{
    siginfo_t info;
    MUST(kill(pid, SIGKILL));
    MUST(waitid(P_PID, (id_t)pid, &info, WEXITED)); /* the kernel is done with it */
}

static void goes_on_without_a_dead_producer(void)
{
    say_about("a producer that is killed");
    handle one = make(2, SIZE, 4, 0);
    pid_t pid = in_another(fd_of(&one), reserve_one);
    put(&one, 1); /* behind it */
    CHECK_IS(get_any(&one), -EAGAIN);
    CHECK_IS(cl_queue_blocked_by(one.queue), pid);
    CHECK_IS(put_one(&one), -EAGAIN);
    CHECK_IS(cl_queue_blocked_by(one.queue), pid);
    MUST(kill(pid, SIGSTOP));
    usleep(3000);
    CHECK_IS(get_any(&one), -EAGAIN); /* stopped is not dead */
    CHECK_IS(cl_queue_blocked_by(one.queue), pid);
    CHECK_IS(cl_queue_recover(one.queue), 0);
    end(pid);
    int64_t began = now_ns();
    CHECK_IS(in_time(get_any, &one), 1);
    CHECK(now_ns() - began < 500 * MS); /* 2 ms, were we alone on this machine */
    has_all_slots(&one);
    CHECK_IS(look(&one).recoveries, 1);
    CHECK_IS(look(&one).unfinished, 1);
    say_about("and is found by a producer");
    pid = in_another(fd_of(&one), reserve_one);
    put(&one, 1);
    CHECK_IS(put_one(&one), -EAGAIN);
    end(pid);
    CHECK_IS(in_time(put_one, &one), 0);
    get(&one, 1);
    has_all_slots(&one);
    drop(&one);
}

static void redelivers(int flags)
{
    say_about("a consumer that is killed, flags %d", flags);
    handle one = make(4, SIZE, 4, flags);
    put(&one, 1);
    pid_t first = in_another(fd_of(&one), peek_at_one);
    CHECK_IS(get_any(&one), -EAGAIN);
    put(&one, 2);
    get(&one, 2); /* not in its way */
    put(&one, 3);
    end(first);
    get(&one, 3);
    int64_t lost = flags & CL_QUEUE_AT_MOST_ONCE ? 1 : 0;
    if (lost) {
        int64_t until = now_ns() + PATIENCE;
        while (look(&one).lost == 0 && now_ns() < until)
            CHECK_IS(get_any(&one), -EAGAIN);
    } else {
        CHECK_IS(in_time(get_any, &one), 1);
    }
    CHECK_IS(look(&one).lost, lost);
    CHECK_IS(look(&one).redelivered, 1 - lost);
    CHECK_IS(look(&one).dequeued, 3 - lost);
    has_all_slots(&one);
    drop(&one);
}

/* Its index is of a dead one: what that held must not seem to be held by the new one. */
static void joins_in_the_place_of_a_dead_one(void)
{
    say_about("the place of a dead one");
    handle one = make(4, SIZE, 2, 0), two;
    put(&one, 1);
    end(in_another(fd_of(&one), peek_at_one));
    two = join(fd_of(&one));
    CHECK_IS(look(&two).me, 2);
    get(&two, 1);
    CHECK_IS(look(&two).recoveries, 1);
    has_all_slots(&one);
    drop(&one);
    drop(&two);
}

/* ---- threads ------------------------------------------------------------------------------------------------------------ */

enum { EACH = 4000, WORKERS = 3 };
static _Atomic int64_t seen_sum, seen_count;
static handle shared_one, own[2 * WORKERS];
static int with_own;

typedef struct record {
    uint32_t from, number;
} record;

static void *produce(void *which)
{
    intptr_t me = (intptr_t)which;
    handle *mine = with_own ? &own[me] : &shared_one;
    for (uint32_t i = 0; i < EACH;) {
        record made = {(uint32_t)me, i};
        int64_t rc = cl_queue_try_put(mine->queue, &made, sizeof made);
        CHECK(rc == 0 || rc == -EAGAIN);
        if (rc == 0)
            i++;
        else
            sched_yield();
    }
    return NULL;
}

static void *consume(void *which)
{
    handle *mine = with_own ? &own[WORKERS + (intptr_t)which] : &shared_one;
    int64_t next[WORKERS] = {0};
    record got;
    while (seen_count < WORKERS * EACH) {
        int64_t rc = cl_queue_try_get(mine->queue, &got, sizeof got);
        if (rc == -EAGAIN) {
            sched_yield();
            continue;
        }
        CHECK_IS(rc, sizeof got);
        CHECK(got.from < WORKERS);
        CHECK(got.number >= next[got.from]); /* in the order of each producer */
        next[got.from] = got.number + 1;
        seen_sum += got.number;
        seen_count++;
    }
    return NULL;
}

/* All over one mapping, as ThreadSanitizer knows no other: the participants' objects are of the same segment object, but
 * each has a lease of its own. */
static void works_between_threads(int64_t slots, int flags, int own_handles)
{
    say_about("threads, %d slots, flags %d, %s", (int)slots, flags, own_handles ? "each a participant" : "one participant");
    pthread_t threads[2 * WORKERS];
    cl_segment *leases[2 * WORKERS];
    shared_one = make(slots, sizeof(record), 8, flags);
    with_own = own_handles;
    seen_sum = seen_count = 0;
    for (int i = 0; i < 2 * WORKERS && own_handles; i++) {
        own[i] = join(fd_of(&shared_one));
        leases[i] = own[i].segment;
        own[i].queue->shared = shared_one.queue->shared; /* one mapping */
        own[i].queue->slots = shared_one.queue->slots;
    }
    for (intptr_t i = 0; i < WORKERS; i++) {
        CHECK_IS(pthread_create(&threads[i], NULL, produce, (void *)i), 0);
        CHECK_IS(pthread_create(&threads[WORKERS + i], NULL, consume, (void *)i), 0);
    }
    for (int i = 0; i < 2 * WORKERS; i++)
        CHECK_IS(pthread_join(threads[i], NULL), 0);
    CHECK_IS(seen_count, WORKERS * EACH);
    CHECK_IS(seen_sum, (int64_t)WORKERS * EACH * (EACH - 1) / 2);
    CHECK_IS(look(&shared_one).enqueued, WORKERS * EACH);
    CHECK_IS(look(&shared_one).dequeued, WORKERS * EACH);
    CHECK_IS(look(&shared_one).recoveries, 0);
    for (int i = 0; i < 2 * WORKERS && own_handles; i++) {
        cl_queue_free(own[i].queue);
        cl_segment_free(leases[i]);
    }
    drop(&shared_one);
}

/* Many see the same death at once; one of them recovers, and it is counted once. */
static void *get_in_time(void *mine)
{
    return (void *)(intptr_t)in_time(get_any, mine);
}

static void is_recovered_once(void)
{
    say_about("recovering at once");
    for (int round = 0; round < 10; round++) {
        pthread_t threads[3];
        void *got[3];
        int64_t sum = 0;
        handle one = make(8, SIZE, 4, 0), two = join(fd_of(&one));
        handle *with[3] = {&one, &one, &two};
        pid_t pid = in_another(fd_of(&one), reserve_one);
        for (uint32_t i = 1; i <= 3; i++)
            put(&one, i);
        end(pid);
        for (int i = 0; i < 3; i++)
            CHECK_IS(pthread_create(&threads[i], NULL, get_in_time, with[i]), 0);
        for (int i = 0; i < 3; i++) {
            CHECK_IS(pthread_join(threads[i], &got[i]), 0);
            sum += (intptr_t)got[i];
        }
        CHECK_IS(sum, 6);
        CHECK_IS(look(&one).recoveries, 1);
        drop(&two);
        has_all_slots(&one);
        drop(&one);
    }
}

/* ---- memory that cannot be ----------------------------------------------------------------------------------------------- */

static uint64_t seed = 88172645463325252ULL;

static uint64_t next_random(void) /* xorshift64 */
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

/* Any answer will do, but an end. What is claimed lies in the slots. */
static void use_it(handle *one)
{
    uint8_t room[SIZE];
    cl_queue_claim claim;
    for (int i = 0; i < 6; i++) {
        int64_t rc = cl_queue_try_put(one->queue, room, (int64_t)(next_random() % SIZE));
        CHECK(rc == 0 || rc == -EAGAIN || rc == -EBADMSG || rc == -EPIPE);
        rc = cl_queue_try_get(one->queue, room, SIZE);
        CHECK((rc >= 0 && rc <= SIZE) || rc == -EAGAIN || rc == -EBADMSG || rc == -EPIPE);
        rc = cl_queue_peek(one->queue, &claim);
        CHECK(rc == 0 || rc == -EAGAIN || rc == -EBADMSG || rc == -EPIPE);
        if (rc == 0) {
            CHECK(claim.size <= SIZE && claim.index >= 0 && claim.index < SLOTS);
            memcpy(room, claim.data, (size_t)claim.size);
            CHECK_IS(i % 2 ? cl_queue_release(one->queue, &claim) : cl_queue_give_back(one->queue, &claim), 0);
        }
        for (int32_t what = 0; what < 2; what++) {
            rc = cl_queue_wait(one->queue, what, 0);
            CHECK(rc == 1 || rc == -ETIMEDOUT);
        }
    }
    look(one);
    cl_queue_blocked_by(one->queue);
}

static void set_words(handle *one, cl__word word, int which)
{
    for (int i = 0; i < SLOTS; i++) {
        if (which < 0 || which == i)
            cl__slot_at(one->queue, (uint64_t)i)->word = word;
    }
}

static void survives_any_word(void)
{
    static const uint64_t laps[] = {0, 1, 2, 5, CL__LAP_MASK / 2, CL__LAP_MASK - 1, CL__LAP_MASK};
    static const uint32_t owners[] = {0, 1, 2, 3, 4, 5, 4095};
    for (size_t lap = 0; lap < sizeof laps / sizeof *laps; lap++) {
        for (unsigned state = 0; state < 16; state++) {
            handle one = make(SLOTS, SIZE, 4, 0), two = join(fd_of(&one));
            for (size_t owner = 0; owner < sizeof owners / sizeof *owners; owner++) {
                say_about("words of lap %" PRIu64 ", state %u, owner %u", laps[lap], state, owners[owner]);
                cl__word word = cl__word_of(laps[lap], (enum cl__state)state, owners[owner]);
                set_words(&one, word, (int)(owner % SLOTS));
                use_it(&one);
                set_words(&one, word, -1);
                one.queue->members.owner_asked_at = one.queue->members.all_asked_at = 0;
                use_it(&one);
                use_it(&two);
            }
            drop(&two);
            drop(&one);
        }
    }
}

static void survives_any_image(void)
{
    handle one = make(SLOTS, SIZE, 4, 0), two = join(fd_of(&one));
    cl_segment_report report;
    CHECK_IS(cl_segment_report_of(one.segment, &report), 0);
    for (int image = 0; image < 400; image++) {
        say_about("random image %d", image);
        uint64_t *words = (uint64_t *)report.data;
        for (int64_t i = 0; i < report.size / 8; i++)
            words[i] = image % 4 == 0 || next_random() % 8 == 0 ? next_random() >> next_random() % 64 : words[i];
        if (image % 3)
            one.queue->shared->shut = 0;
        use_it(&one);
        use_it(&two);
    }
    cl_queue_leave(one.queue);
    CHECK(cl_queue_join(one.queue) != 0);
    drop(&two);
    drop(&one);
}

/* Numbers that go over when they are summed up are only wrong. */
static void counts_any_number(void)
{
    say_about("counters of somebody else's");
    cl_queue_report report;
    handle one = make(SLOTS, SIZE, 4, 0);
    one.queue->shared->tombstones = 1ULL << 63;
    one.queue->shared->lost = 1ULL << 63;
    set_words(&one, cl__word_of(CL__LAP_MASK, CL__TOMBSTONE, 0), -1);
    CHECK_IS(cl_queue_report_of(one.queue, &report), 0);
    drop(&one);
}

/* While somebody scribbles. */
static _Atomic int scribbling;

static void *scribble(void *data)
{
    _Atomic uint64_t *words = data;
    uint64_t state = 7;
    while (scribbling) {
        state = state * 6364136223846793005ULL + 1442695040888963407ULL;
        size_t at = (state >> 33) % ((sizeof(cl__queue_memory) + (size_t)cl__members_size(4) + SLOTS * 128) / 8);
        atomic_store_explicit(&words[at], (state >> 20) >> (state >> 58), memory_order_relaxed);
    }
    return NULL;
}

static void survives_a_scribbler(void)
{
    say_about("a scribbler");
    if (UNDER_TSAN)
        return; /* the payload's bytes are no atomics: what it would report is what is done here */
    pthread_t thread;
    handle one = make(SLOTS, SIZE, 4, 0);
    scribbling = 1;
    CHECK_IS(pthread_create(&thread, NULL, scribble, one.queue->shared), 0);
    int64_t until = now_ns() + 300 * MS;
    while (now_ns() < until) {
        uint8_t room[SIZE];
        cl_queue_claim claim;
        cl_queue_try_put(one.queue, room, SIZE);
        CHECK(cl_queue_try_get(one.queue, room, SIZE) <= SIZE);
        if (cl_queue_peek(one.queue, &claim) == 0) {
            CHECK(claim.size <= SIZE && claim.index < SLOTS);
            cl_queue_release(one.queue, &claim);
        }
        cl_queue_recover(one.queue);
    }
    scribbling = 0;
    CHECK_IS(pthread_join(thread, NULL), 0);
    drop(&one);
}

static int64_t open_fails(cl_segment_plan *whole)
{
    cl_segment *segment;
    cl_queue *queue;
    CHECK_IS(cl_segment_new(&segment), 0);
    CHECK_IS(cl_segment_create(segment, NULL, whole), 0);
    int64_t rc = cl_queue_open(&queue, segment);
    if (rc == 0)
        cl_queue_free(queue);
    cl_segment_free(segment);
    return rc;
}

#define PLAN(how_many, size, who, bits) {.slots = (how_many), .slot_size = (size), .members = (who), .flags = (bits)}

static void is_not_believed(void)
{
    static const cl_queue_plan bad[] = {
        PLAN(0, 1, 1, 0), PLAN(CL_QUEUE_SLOTS + 1, 1, 1, 0), PLAN(1, 0, 1, 0), PLAN(1, (1 << 30) + 1LL, 1, 0), PLAN(1, 1, 0, 0),
        PLAN(1, 1, 4096, 0), PLAN(1, 1, 1, 4), PLAN(-1, 1, 1, 0), PLAN(1, -1, 1, 0), PLAN(INT64_MAX, INT64_MAX, 1, 0),
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        say_about("bad plan %zu", i);
        cl_segment_plan whole = {.mode = 0600, .owner = -1, .group = -1};
        cl_queue_plan copy = bad[i], good = PLAN(4, 8, 4, 0);
        CHECK_IS(cl_queue_describe(&copy, &whole), -EINVAL);
        CHECK_IS(cl_queue_describe(&good, &whole), 0);
        CHECK_IS(open_fails(&whole), 0);
        whole.about = (const char *)&bad[i];
        CHECK_IS(open_fails(&whole), -EBADMSG);
    }
    say_about("what is not so");
    cl_segment_plan whole = {.mode = 0600, .owner = -1, .group = -1};
    cl_queue_plan huge = PLAN(CL_QUEUE_SLOTS, 1 << 30, 1, 0), good = PLAN(4, 8, 4, 0), three = PLAN(3, 8, 4, 0), eight = PLAN(8, 8, 4, 0);
    CHECK_IS(cl_queue_describe(&huge, &whole), -ENOMEM);
    CHECK_IS(cl_queue_describe(&good, &whole), 0);
    whole.about = (const char *)&three;
    CHECK_IS(open_fails(&whole), -EBADMSG);
    whole.about = (const char *)&eight; /* more than there is */
    CHECK_IS(open_fails(&whole), -EBADMSG);
    whole.about = (const char *)&good;
    whole.layout++;
    CHECK_IS(open_fails(&whole), -EBADMSG);
    whole.layout--;
    whole.kind = CL_SEGMENT_BYTES;
    CHECK_IS(open_fails(&whole), -EBADMSG);
}

int main(void)
{
    is_a_queue(0);
    if (cl_membarrier_register() == 0)
        is_a_queue(CL_QUEUE_MEMBARRIER);
    takes_records_of_any_size();
    takes_many_at_once();
    is_filled_in_place();
    is_shut();
    has_so_many_participants();
    refuses_the_child_of_a_fork();
    goes_on_without_a_dead_producer();
    redelivers(0);
    redelivers(CL_QUEUE_AT_MOST_ONCE);
    joins_in_the_place_of_a_dead_one();
    works_between_threads(1, 0, 0);
    works_between_threads(2, 0, 1);
    works_between_threads(64, 0, 1);
    if (cl_membarrier_register() == 0)
        works_between_threads(64, CL_QUEUE_MEMBARRIER, 1);
    is_recovered_once();
    survives_any_word();
    survives_any_image();
    counts_any_number();
    survives_a_scribbler();
    is_not_believed();
    puts("ok");
    return 0;
}
