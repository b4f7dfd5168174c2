/* Broadcasts: in order, whole, with exact losses; roles and deaths; strangers who write what they like. */
#include "broadcasts.h"

#include <pthread.h>

static const struct {
    int32_t flags, policy;
} kinds[] = {{0, 0}, {CL_BROADCAST_LOSSLESS, CL_BROADCAST_BLOCK}, {CL_BROADCAST_LOSSLESS, CL_BROADCAST_SKIP},
             {CL_BROADCAST_LOSSLESS, CL_BROADCAST_EVICT}};
enum { KINDS = sizeof kinds / sizeof *kinds };

static void each_reader_sees_all(void)
{
    for (int i = 0; i < KINDS; i++) {
        say_about("kind %d", i);
        handle one = make(5, 4, kinds[i].flags);
        CHECK_IS(plan.slots, 8);
        handle first = reader_of(&one, kinds[i].policy, 0), second = reader_of(&one, kinds[i].policy, 0);
        CHECK_IS(get(&first), -EAGAIN);
        CHECK_IS(cl_broadcast_try_put(one.cast, "", 0), -ENOTCONN);
        CHECK_IS(cl_broadcast_take(one.cast), 0);
        CHECK_IS(cl_broadcast_take(one.cast), 0);
        for (uint32_t round = 0; round < 3; round++) {
            must_put(&one, 8 * round, 8 * round + 7);
            must_get(&first, 8 * round, 8 * round + 7);
            must_get(&second, 8 * round, 8 * round + 7);
            CHECK_IS(get(&second), -EAGAIN);
        }
        handle late = reader_of(&one, kinds[i].policy, 0);
        CHECK_IS(get(&late), -EAGAIN);
        must_put(&one, 100, 101);
        must_get(&late, 100, 101);
        drop(&one);
        must_get(&first, 100, 101);
        CHECK_IS(get(&first), -EPIPE);
        CHECK_IS(get(&first), -EPIPE);
        CHECK_IS(look_at(&second).readers, 3);
        CHECK_IS(look_at(&second).depth, 2);
        CHECK_IS(look_at(&second).put, 26);
        drop(&first);
        CHECK_IS(look_at(&second).readers, 2);
        drop(&late);
        drop(&second);
    }
}

static void takes_records_of_any_size(void)
{
    uint8_t from[SIZE], to[SIZE];
    for (int i = 0; i < SIZE; i++)
        from[i] = (uint8_t)(i * 7 + 1);
    for (int kind = 0; kind < 2; kind++) {
        handle one = make(SLOTS, 4, kinds[kind].flags), reader = reader_of(&one, kinds[kind].policy, 0);
        CHECK_IS(cl_broadcast_take(one.cast), 0);
        for (int64_t size = 0; size <= SIZE; size++) {
            say_about("size %d", (int)size);
            memset(to, 0, sizeof to);
            CHECK_IS(cl_broadcast_try_put(one.cast, from, size), 0);
            CHECK_IS(cl_broadcast_try_get(reader.cast, to, SIZE), size);
            CHECK(memcmp(from, to, (size_t)size) == 0);
            CHECK(size == SIZE || to[size] == 0);
        }
        CHECK_IS(cl_broadcast_try_put(one.cast, from, SIZE + 1), -EMSGSIZE);
        CHECK_IS(cl_broadcast_try_put(one.cast, from, -1), -EMSGSIZE);
        CHECK_IS(cl_broadcast_try_get(reader.cast, to, SIZE - 1), -EMSGSIZE);
        CHECK_IS(cl_broadcast_put_many(one.cast, from, 8, 6), 6);
        CHECK_IS(cl_broadcast_try_put(one.cast, from, 9), 0);
        CHECK_IS(cl_broadcast_get_many(reader.cast, to, 8, 4), 4);
        CHECK(memcmp(from, to, 32) == 0);
        CHECK_IS(cl_broadcast_get_many(reader.cast, to, 8, 4), 2);
        CHECK_IS(cl_broadcast_get_many(reader.cast, to, 8, 4), -EMSGSIZE);
        CHECK_IS(cl_broadcast_get_many(reader.cast, to, 9, 4), 1);
        CHECK_IS(cl_broadcast_get_many(reader.cast, to, 9, 4), -EAGAIN);
        drop(&reader);
        drop(&one);
    }
}

static void counts_what_a_lossy_reader_lost(void)
{
    say_about("lossy");
    handle one = make(SLOTS, 8, 0), counts = reader_of(&one, 0, 0), told = reader_of(&one, 0, CL_BROADCAST_TELL_LOSS);
    CHECK_IS(cl_broadcast_take(one.cast), 0);
    must_put(&one, 0, 19);
    must_get(&counts, 12, 19);
    CHECK_IS(look_at(&counts).lost, 12);
    CHECK_IS(get(&told), -EOVERFLOW);
    CHECK_IS(look_at(&told).lost_now, 12);
    must_get(&told, 12, 13);
    must_put(&one, 20, 22);
    CHECK_IS(get(&told), -EOVERFLOW);
    CHECK_IS(look_at(&told).lost_now, 1);
    must_get(&told, 15, 16);
    CHECK_IS(look_at(&told).lost, 13);
    handle old = reader_of(&one, 0, CL_BROADCAST_FROM_OLDEST);
    must_get(&old, 15, 22);
    CHECK_IS(look_at(&old).lost, 0);

    say_about("lossy, while one is written");
    cl_broadcast_claim claim;
    CHECK_IS(cl_broadcast_reserve(one.cast, &claim), 0); /* into the slot of 15 */
    CHECK_IS(cl_broadcast_reserve(one.cast, &claim), -EBUSY);
    CHECK_IS(put(&one, 23), -EBUSY);
    handle oldest = reader_of(&one, 0, CL_BROADCAST_FROM_OLDEST);
    must_get(&oldest, 16, 22);
    CHECK_IS(look_at(&oldest).lost, 1);
    CHECK_IS(get(&oldest), -EAGAIN);
    CHECK_IS(cl_broadcast_cancel(one.cast, &claim), 0);
    CHECK_IS(cl_broadcast_cancel(one.cast, &claim), -EINVAL);
    CHECK_IS(get(&oldest), -EAGAIN);
    must_put(&one, 23, 23);
    must_get(&oldest, 23, 23);

    say_about("lossy, while one is looked at");
    must_put(&one, 24, 24);
    CHECK_IS(cl_broadcast_peek(oldest.cast, &claim), 0);
    CHECK_IS(cl_broadcast_peek(oldest.cast, &claim), -EBUSY);
    CHECK_IS(value_of((const record *)(const void *)claim.data), 24);
    CHECK_IS(cl_broadcast_is_whole(oldest.cast, &claim), 1);
    must_put(&one, 25, 32);
    CHECK_IS(cl_broadcast_is_whole(oldest.cast, &claim), 0);
    CHECK_IS(cl_broadcast_release(oldest.cast, &claim), -EOVERFLOW);
    CHECK_IS(cl_broadcast_release(oldest.cast, &claim), -EINVAL);
    CHECK_IS(look_at(&oldest).lost, 2);
    CHECK_IS(cl_broadcast_peek(oldest.cast, &claim), 0);
    CHECK_IS(cl_broadcast_keep(oldest.cast, &claim), 0);
    must_get(&oldest, 25, 32);
    drop(&oldest), drop(&old), drop(&told), drop(&counts), drop(&one);
}

static void does_with_slow_readers_as_they_said(void)
{
    say_about("policies");
    cl_broadcast_claim claim;
    handle one = make(SLOTS, 8, CL_BROADCAST_LOSSLESS);
    handle skips = reader_of(&one, CL_BROADCAST_SKIP, 0), told = reader_of(&one, CL_BROADCAST_SKIP, CL_BROADCAST_TELL_LOSS);
    handle evicted = reader_of(&one, CL_BROADCAST_EVICT, 0);
    CHECK_IS(cl_broadcast_take(one.cast), 0);
    must_put(&one, 0, 7);
    CHECK_IS(cl_broadcast_peek(skips.cast, &claim), 0);
    must_put(&one, 8, 10);
    CHECK_IS(cl_broadcast_release(skips.cast, &claim), -EOVERFLOW);
    CHECK_IS(look_at(&skips).lost, 3);
    must_get(&skips, 3, 5);
    CHECK_IS(get(&told), -EOVERFLOW);
    CHECK_IS(look_at(&told).lost_now, 3);
    must_get(&told, 3, 10);
    CHECK_IS(get(&evicted), -ECONNABORTED);
    CHECK_IS(get(&evicted), -ECONNABORTED);
    CHECK_IS(look_at(&one).evictions, 1);
    CHECK_IS(look_at(&one).skipped, 6);
    CHECK_IS(cl_broadcast_subscribe(evicted.cast, CL_BROADCAST_EVICT, 0), 0);

    handle blocks = reader_of(&one, CL_BROADCAST_BLOCK, 0);
    must_put(&one, 11, 18);
    CHECK_IS(put(&one, 19), -EAGAIN);
    CHECK_IS(cl_broadcast_look(one.cast, CL_BROADCAST_FOR_ROOM), 0);
    CHECK_IS(look_at(&one).blocked_by, getpid());
    CHECK_IS(cl_broadcast_wait(one.cast, CL_BROADCAST_FOR_ROOM, 0, now_ns() + 2 * MS), -ETIMEDOUT);
    must_get(&evicted, 11, 18);
    must_get(&blocks, 11, 11);
    CHECK_IS(cl_broadcast_wait(one.cast, CL_BROADCAST_FOR_ROOM, 0, 0), 1);
    must_put(&one, 19, 19);
    CHECK_IS(put(&one, 20), -EAGAIN);
    drop(&blocks);
    must_put(&one, 20, 20);
    CHECK_IS(look_at(&one).most, SLOTS);
    must_get(&evicted, 19, 20);

    cl_broadcast_reader readers[8];
    CHECK_IS(cl_broadcast_readers_of(one.cast, readers, 8), 3);
    CHECK_IS(readers[0].policy, CL_BROADCAST_SKIP);
    CHECK_IS(readers[0].pid, getpid());
    CHECK_IS(readers[0].lag, 8);
    CHECK_IS(readers[2].lag, 0);
    drop(&skips), drop(&told), drop(&evicted), drop(&one);
}

static void has_one_writer(void)
{
    say_about("roles");
    handle one = make(SLOTS, 8, CL_BROADCAST_LOSSLESS), other = again(&one, 0);
    CHECK_IS(get(&one), -ENOTCONN);
    CHECK_IS(cl_broadcast_take(one.cast), 0);
    CHECK_IS(cl_broadcast_take(other.cast), -EBUSY);
    CHECK_IS(cl_broadcast_subscribe(one.cast, CL_BROADCAST_BLOCK, 0), -EISCONN);
    CHECK_IS(cl_broadcast_subscribe(other.cast, 0, 0), -EINVAL);
    CHECK_IS(cl_broadcast_subscribe(other.cast, CL_BROADCAST_BLOCK, CL_BROADCAST_FROM_OLDEST), -EINVAL);
    CHECK_IS(cl_broadcast_subscribe(other.cast, CL_BROADCAST_BLOCK, 0), 0);
    must_put(&one, 0, 1);
    must_get(&other, 0, 0);
    CHECK_IS(cl_broadcast_take(other.cast), -EISCONN);
    handle third = reader_of(&one, CL_BROADCAST_BLOCK, 0); /* and has got nothing */
    drop(&one);
    must_get(&other, 1, 1);
    CHECK_IS(get(&other), -EPIPE);
    CHECK_IS(cl_broadcast_take(third.cast), 0);
    CHECK_IS(get(&other), -EAGAIN);
    CHECK_IS(look_at(&other).readers, 1);
    must_put(&third, 2, 9);
    must_get(&other, 2, 9);
    cl_broadcast_close(third.cast);
    CHECK_IS(put(&third, 0), -EBADF);
    CHECK_IS(cl_broadcast_take(third.cast), -EBADF);
    drop(&third), drop(&other);
}

enum { DIES = 0, DIES_WRITING = 1 };

static pid_t let_die(handle *one, int how)
{
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        cl_broadcast_claim claim;
        handle mine = again(one, 0);
        CHECK(cl_broadcast_take(mine.cast) >= 0);
        must_put(&mine, 1, 3);
        if (how == DIES_WRITING) {
            CHECK_IS(cl_broadcast_reserve(mine.cast, &claim), 0);
            memset(claim.data, 0xee, 50);
        }
        _exit(0);
    }
    MUST(waitpid(pid, NULL, 0));
    return pid;
}

static void tells_of_a_dead_writer(void)
{
    for (int kind = 0; kind < 2; kind++)
        for (int how = DIES; how <= DIES_WRITING; how++) {
            say_about("a dead writer, kind %d, %d", kind, how);
            handle one = make(SLOTS, 8, kinds[kind].flags), reader = reader_of(&one, kinds[kind].policy, 0);
            handle patient = reader_of(&one, kinds[kind].policy, CL_BROADCAST_PATIENT);
            handle looks = again(&one, CL_SEGMENT_READ_ONLY);
            CHECK_IS(cl_broadcast_subscribe(looks.cast, kinds[kind].policy, 0), kind ? -EACCES : 0);
            pid_t pid = let_die(&one, how);
            if (!kind) {
                must_get(&looks, 1, 3);
                CHECK_IS(get(&looks), -EOWNERDEAD);
                CHECK_IS(look_at(&looks).writer, pid);
                CHECK_IS(wait_for(&looks, CL_BROADCAST_FOR_RECORD, -1), 1);
            }
            must_get(&reader, 1, 3);
            CHECK_IS(wait_for(&reader, CL_BROADCAST_FOR_RECORD, now_ns() + 5 * SECOND), 1);
            CHECK_IS(get(&reader), -EOWNERDEAD);
            CHECK_IS(look_at(&reader).writer, pid);
            CHECK_IS(look_at(&reader).last_dead, pid);
            must_get(&patient, 1, 3);
            CHECK_IS(get(&patient), -EAGAIN);
            CHECK_IS(cl_broadcast_wait(patient.cast, CL_BROADCAST_FOR_RECORD, 0, now_ns() + MS), -ETIMEDOUT);
            CHECK_IS(cl_broadcast_take(one.cast), 1);
            must_put(&one, 4, 5);
            must_get(&reader, 4, 5);
            must_get(&patient, 4, 5);
            if (!kind)
                must_get(&looks, 4, 5);
            drop(&looks), drop(&patient), drop(&reader), drop(&one);
        }
}

static void goes_past_a_dead_reader(void)
{
    say_about("a dead reader");
    handle one = make(SLOTS, 8, CL_BROADCAST_LOSSLESS);
    CHECK_IS(cl_broadcast_take(one.cast), 0);
    CHECK_IS(cl_broadcast_wait(one.cast, CL_BROADCAST_FOR_READERS, 2, 0), -ETIMEDOUT);
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        cl_broadcast_claim claim;
        reader_of(&one, CL_BROADCAST_BLOCK, 0);
        handle mine = reader_of(&one, CL_BROADCAST_BLOCK, 0);
        CHECK_IS(wait_for(&mine, CL_BROADCAST_FOR_RECORD, -1), 1);
        CHECK_IS(cl_broadcast_peek(mine.cast, &claim), 0);
        for (;;)
            pause();
    }
    EVENTUALLY(cl_broadcast_wait(one.cast, CL_BROADCAST_FOR_READERS, 2, now_ns() + SECOND) == 1);
    must_put(&one, 0, 7);
    CHECK_IS(put(&one, 8), -EAGAIN);
    MUST(kill(pid, SIGSTOP)); /* it is not dead */
    let_ask(&one);
    CHECK_IS(put(&one, 8), -EAGAIN);
    CHECK_IS(look_at(&one).blocked_by, pid);
    MUST(kill(pid, SIGKILL));
    MUST(waitpid(pid, NULL, 0));
    int64_t began = now_ns();
    CHECK_IS(wait_for(&one, CL_BROADCAST_FOR_ROOM, -1), 1);
    CHECK(now_ns() - began < PATIENCE);
    must_put(&one, 8, 40);
    CHECK_IS(look_at(&one).recoveries, 2);
    CHECK_IS(look_at(&one).readers, 0);
    drop(&one);
}

static void refuses_the_child(void *data)
{
    handle *both = data; /* a writer, a reader */
    CHECK_IS(put(&both[0], 1), -ESTALE);
    CHECK_IS(cl_broadcast_take(both[0].cast), -ESTALE);
    CHECK_IS(get(&both[1]), -ESTALE);
    CHECK_IS(cl_broadcast_wait(both[1].cast, CL_BROADCAST_FOR_RECORD, 0, 0), -ESTALE);
    CHECK_IS(cl_broadcast_register(both[0].cast), 0);
    CHECK_IS(cl_broadcast_take(both[0].cast), -EBUSY);
    CHECK_IS(cl_broadcast_register(both[1].cast), 0);
    CHECK_IS(get(&both[1]), -EAGAIN);
    CHECK_IS(look_at(&both[0]).readers, 2);
    drop(&both[0]), drop(&both[1]);
}

static void refuses_the_child_of_a_fork(void)
{
    say_about("a fork");
    handle both[2] = {make(SLOTS, 8, CL_BROADCAST_LOSSLESS)};
    both[1] = reader_of(&both[0], CL_BROADCAST_BLOCK, 0);
    CHECK_IS(cl_broadcast_take(both[0].cast), 0);
    in_a_fork(refuses_the_child, both);
    CHECK_IS(look_at(&both[0]).state, CL_BROADCAST_OPEN);
    CHECK_IS(look_at(&both[0]).readers, 1);
    must_put(&both[0], 1, 8);
    must_get(&both[1], 1, 8);
    drop(&both[1]), drop(&both[0]);
}

/* ---- threads over one mapping ------------------------------------------------------------------------------------------- */

enum { FEW = 4000, MANY = 40000 };
static uint32_t all; /* records: 1 to all */

typedef struct task {
    handle one;
    int in_place, comes_and_goes;
    int32_t policy;
    int64_t seen, lost;
} task;

static void *tell_all(void *data)
{
    task *this = data;
    for (uint32_t value = 1; value <= all; value++) {
        cl_broadcast_claim claim;
        int64_t rc;
        while ((rc = this->in_place ? cl_broadcast_reserve(this->one.cast, &claim) : put(&this->one, value)) == -EAGAIN)
            cl_broadcast_wait(this->one.cast, CL_BROADCAST_FOR_ROOM, 0, -1);
        CHECK_IS(rc, 0);
        if (!this->in_place)
            continue;
        for (int i = 0; i < WORDS; i++)
            ((record *)(void *)claim.data)->word[i] = value;
        CHECK_IS(cl_broadcast_commit(this->one.cast, &claim, sizeof(record)), 0);
    }
    cl_broadcast_close(this->one.cast);
    return NULL;
}

static int64_t get_in_place(const handle *one)
{
    cl_broadcast_claim claim;
    int64_t rc = cl_broadcast_peek(one->cast, &claim);
    if (rc < 0)
        return rc;
    int64_t value = value_of((const record *)(const void *)claim.data);
    CHECK_IS(cl_broadcast_release(one->cast, &claim), 0);
    return value;
}

static void *see_all(void *data)
{
    task *this = data;
    int64_t last = 0, lost_before = 0;
    for (;;) {
        int64_t rc = this->in_place ? get_in_place(&this->one) : get(&this->one);
        if (rc == -EPIPE)
            break;
        if (rc == -ECONNABORTED || (this->comes_and_goes && this->seen % 64 == 63)) {
            CHECK_IS(cl_broadcast_subscribe(this->one.cast, this->policy, 0), 0);
            last = -1; /* from anywhere */
            this->seen++;
            continue;
        }
        if (rc == -EAGAIN) {
            cl_broadcast_wait(this->one.cast, CL_BROADCAST_FOR_RECORD, 0, -1);
            continue;
        }
        CHECK(rc > 0);
        int64_t lost = look_at(&this->one).lost;
        if (last >= 0)
            CHECK_IS(rc, last + 1 + lost - lost_before); /* those between are counted, exactly */
        CHECK(rc > last);
        last = rc;
        lost_before = lost;
        this->seen++;
    }
    this->lost = look_at(&this->one).lost;
    return NULL;
}

static void threads(int64_t slots, int kind, int readers, int in_place, int comes_and_goes)
{
    pthread_t thread[4];
    task tasks[4];
    say_about("threads: %d slots, kind %d, %d readers, %s%s", (int)slots, kind, readers, in_place ? "in place" : "copied",
              comes_and_goes ? ", that come and go" : "");
    all = UNDER_TSAN ? FEW : MANY;
    handle one = make(slots, 8, kinds[kind].flags);
    tasks[0] = (task){.one = one, .in_place = in_place};
    CHECK_IS(cl_broadcast_take(one.cast), 0);
    for (int i = 1; i <= readers; i++)
        tasks[i] = (task){.one = reader_of(&one, kinds[kind].policy, 0), .in_place = in_place,
                          .comes_and_goes = comes_and_goes, .policy = kinds[kind].policy};
    for (int i = 0; i <= readers; i++)
        CHECK_IS(pthread_create(&thread[i], NULL, i ? see_all : tell_all, &tasks[i]), 0);
    for (int i = 0; i <= readers; i++)
        CHECK_IS(pthread_join(thread[i], NULL), 0);
    for (int i = 1; i <= readers; i++) {
        if (!comes_and_goes && kinds[kind].policy != CL_BROADCAST_EVICT)
            CHECK_IS(tasks[i].seen + tasks[i].lost, all);
        if (kinds[kind].policy == CL_BROADCAST_BLOCK)
            CHECK_IS(tasks[i].lost, 0);
        drop(&tasks[i].one);
    }
    drop(&one);
}

/* ---- waiting -------------------------------------------------------------------------------------------------------------- */

static void *put_soon(void *data)
{
    for (int i = 0; i < 20; i++)
        nap();
    must_put(data, 7, 7);
    return NULL;
}

static void wakes_readers(void)
{
    for (int i = 0; i < 4; i++) {
        pthread_t thread;
        int read_only = i & 1;
        say_about("waiting, %s, flags %d", read_only ? "read-only" : "registered", i & 2);
        handle one = make(SLOTS, 8, i & 2), reader = again(&one, read_only ? CL_SEGMENT_READ_ONLY : 0);
        CHECK_IS(cl_broadcast_subscribe(reader.cast, 0, 0), 0);
        CHECK_IS(cl_broadcast_take(reader.cast), read_only ? -EACCES : 0);
        if (!read_only) {
            drop(&reader);
            reader = reader_of(&one, 0, 0);
        }
        CHECK_IS(cl_broadcast_take(one.cast), 0);
        CHECK_IS(cl_broadcast_wait(reader.cast, CL_BROADCAST_FOR_RECORD, 0, now_ns() + 2 * MS), -ETIMEDOUT);
        CHECK_IS(pthread_create(&thread, NULL, put_soon, &one), 0);
        CHECK_IS(wait_for(&reader, CL_BROADCAST_FOR_RECORD, -1), 1);
        must_get(&reader, 7, 7);
        CHECK_IS(pthread_join(thread, NULL), 0);
        drop(&reader), drop(&one);
    }
}

static int is_readable(int64_t fd)
{
    struct pollfd asked = {.fd = (int)fd, .events = POLLIN};
    return poll(&asked, 1, 0) == 1;
}

static void rings(void)
{
    say_about("bells");
    handle one = make(2, 8, CL_BROADCAST_LOSSLESS), reader = reader_of(&one, CL_BROADCAST_BLOCK, 0);
    handle looks = again(&one, CL_SEGMENT_READ_ONLY);
    CHECK_IS(cl_broadcast_take(one.cast), 0);
    CHECK_IS(cl_broadcast_poll_fd(looks.cast, CL_BROADCAST_FOR_RECORD), -EACCES);
    CHECK_IS(cl_broadcast_poll_fd(one.cast, CL_BROADCAST_FOR_RECORD), -ENOTCONN);
    int64_t record = cl_broadcast_poll_fd(reader.cast, CL_BROADCAST_FOR_RECORD);
    int64_t room = cl_broadcast_poll_fd(one.cast, CL_BROADCAST_FOR_ROOM);
    CHECK(record >= 0 && room >= 0 && is_readable(record));
    CHECK_IS(cl_broadcast_silence(reader.cast, CL_BROADCAST_FOR_RECORD), 0);
    CHECK_IS(cl_broadcast_arm(reader.cast, CL_BROADCAST_FOR_RECORD), 0);
    CHECK(!is_readable(record));
    must_put(&one, 1, 2);
    CHECK(is_readable(record));
    CHECK_IS(cl_broadcast_silence(one.cast, CL_BROADCAST_FOR_ROOM), 0);
    CHECK_IS(cl_broadcast_arm(one.cast, CL_BROADCAST_FOR_ROOM), 0);
    CHECK(!is_readable(room));
    must_get(&reader, 1, 1);
    CHECK(is_readable(room));
    must_get(&reader, 2, 2);
    cl_broadcast_silence(reader.cast, CL_BROADCAST_FOR_RECORD);
    CHECK_IS(cl_broadcast_arm(reader.cast, CL_BROADCAST_FOR_RECORD), 0);
    drop(&one);
    CHECK(is_readable(record));
    CHECK_IS(cl_broadcast_arm(reader.cast, CL_BROADCAST_FOR_RECORD), 1);
    drop(&looks), drop(&reader);
}

/* ---- strangers ------------------------------------------------------------------------------------------------------------ */

static void finds_what_cannot_be(void)
{
    for (int kind = 0; kind < KINDS; kind++) {
        for (int what = 0; what < 5; what++) {
            say_about("kind %d, hostile word %d", kind, what);
            handle one = make(SLOTS, 8, kinds[kind].flags), reader = reader_of(&one, kinds[kind].policy, 0);
            cl_broadcast_claim claim;
            CHECK_IS(cl_broadcast_take(one.cast), 0);
            must_put(&one, 0, 5);
            must_get(&reader, 0, 1);
            cl__cast_slot *slot = cl__cast_slot_at(reader.cast, 2);
            if (what == 0)
                slot->size = SIZE + 1;
            else if (what == 1)
                slot->sequence = 2 * 2 + 2 + 2;
            else if (what == 2)
                slot->sequence = 0;
            else if (what == 3)
                one.cast->shared->tail = 1;
            else
                one.cast->shared->tail = UINT64_MAX;
            CHECK_IS(get(&reader), -EBADMSG);
            CHECK_IS(cl_broadcast_peek(reader.cast, &claim), -EBADMSG);
            CHECK(look_at(&reader).fault_word != look_at(&reader).fault_expected);
            if (what == 4)
                CHECK_IS(cl_broadcast_subscribe(reader.cast, kinds[kind].policy, 0), -EBADMSG);
            drop(&reader), drop(&one);
        }
    }
}

static _Atomic int scribbling;
static size_t scribbled; /* words */

static void *scribble(void *data)
{
    _Atomic uint64_t *words = data;
    uint64_t state = 7;
    while (scribbling) {
        state = state * 6364136223846793005ULL + 1442695040888963407ULL;
        size_t at = (state >> 33) % scribbled;
        atomic_store_explicit(&words[at], (state >> 20) >> (state >> 58), memory_order_relaxed);
    }
    return NULL;
}

static void survives_a_scribbler(void)
{
    if (UNDER_TSAN)
        return; /* some words are of 32 bits, and it would tell of those */
    for (int kind = 0; kind < KINDS; kind++) {
        say_about("a scribbler, kind %d", kind);
        pthread_t thread;
        cl_segment_report report, mapped;
        handle one = make(SLOTS, 4, kinds[kind].flags), other = again(&one, 0), looks = again(&one, CL_SEGMENT_READ_ONLY);
        cl_broadcast_subscribe(looks.cast, 0, 0);
        CHECK_IS(cl_segment_report_of(looks.segment, &report), 0);
        CHECK_IS(cl_segment_report_of(other.segment, &mapped), 0);
        scribbled = (size_t)report.size / 8;
        scribbling = 1;
        CHECK_IS(pthread_create(&thread, NULL, scribble, mapped.data), 0);
        int64_t until = now_ns() + 150 * MS;
        for (int round = 0; now_ns() < until; round++) {
            record room;
            cl_broadcast_claim claim;
            cl_broadcast_reader readers[4];
            if (round % 64 == 0)
                cl_broadcast_subscribe(other.cast, kinds[kind].policy, kind ? 0 : CL_BROADCAST_FROM_OLDEST);
            cl_broadcast_take(one.cast);
            put(&one, 1);
            CHECK(cl_broadcast_try_get(other.cast, &room, sizeof room) <= SIZE);
            CHECK(cl_broadcast_try_get(looks.cast, &room, sizeof room) <= SIZE);
            CHECK(cl_broadcast_get_many(other.cast, &room, 8, SIZE / 8) <= SIZE / 8);
            if (cl_broadcast_peek(other.cast, &claim) == 0) {
                CHECK(claim.size >= 0 && claim.size <= SIZE);
                CHECK(claim.data >= mapped.data && claim.data + claim.size <= mapped.data + mapped.size);
                cl_broadcast_release(other.cast, &claim);
            }
            cl_broadcast_wait(other.cast, CL_BROADCAST_FOR_RECORD, 0, 0);
            cl_broadcast_wait(one.cast, CL_BROADCAST_FOR_ROOM, 0, 0);
            cl_broadcast_recover(other.cast);
            CHECK(cl_broadcast_readers_of(looks.cast, readers, 4) <= 4);
            look_at(&looks);
            if (round % 100 == 99) {
                drop(&one);
                one = again(&other, 0);
            }
        }
        scribbling = 0;
        CHECK_IS(pthread_join(thread, NULL), 0);
        drop(&looks), drop(&other), drop(&one);
    }
}

static int64_t open_fails(cl_segment_plan *whole)
{
    cl_segment *segment;
    cl_broadcast *cast;
    CHECK_IS(cl_segment_new(&segment), 0);
    CHECK_IS(cl_segment_create(segment, NULL, whole), 0);
    int64_t rc = cl_broadcast_open(&cast, segment);
    if (rc == 0)
        cl_broadcast_free(cast);
    cl_segment_free(segment);
    return rc;
}

static void is_not_believed(void)
{
    static const cl_broadcast_plan bad[] = {
        {0, 1, 1, 0}, {CL_BROADCAST_SLOTS + 1, 1, 1, 0}, {1, 0, 1, 0}, {1, (1 << 30) + 1LL, 1, 0}, {1, 1, 0, 0},
        {1, 1, 4096, 0}, {1, 1, 1, 4}, {-1, 1, 1, 0}, {1, -1, 1, 0}, {INT64_MAX, INT64_MAX, 1, 0},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        say_about("bad plan %zu", i);
        cl_segment_plan whole = {.mode = 0600, .owner = -1, .group = -1};
        cl_broadcast_plan copy = bad[i], good = {4, 8, 4, 0};
        CHECK_IS(cl_broadcast_describe(&copy, &whole), -EINVAL);
        CHECK_IS(cl_broadcast_describe(&good, &whole), 0);
        CHECK_IS(open_fails(&whole), 0);
        whole.about = (const char *)&bad[i];
        CHECK_IS(open_fails(&whole), -EBADMSG);
    }
    say_about("what is not so");
    cl_segment_plan whole = {.mode = 0600, .owner = -1, .group = -1};
    cl_broadcast_plan huge = {CL_BROADCAST_SLOTS, 1 << 30, 1, 0}, good = {4, 8, 4, 0}, three = {3, 8, 4, 0}, eight = {8, 8, 4, 0};
    CHECK_IS(cl_broadcast_describe(&huge, &whole), -ENOMEM);
    CHECK_IS(cl_broadcast_describe(&good, &whole), 0);
    whole.about = (const char *)&three;
    CHECK_IS(open_fails(&whole), -EBADMSG);
    whole.about = (const char *)&eight; /* more than there is */
    CHECK_IS(open_fails(&whole), -EBADMSG);
    whole.about = (const char *)&good;
    whole.layout++;
    CHECK_IS(open_fails(&whole), -EBADMSG);
    whole.layout--;
    whole.kind = CL_SEGMENT_QUEUE;
    CHECK_IS(open_fails(&whole), -EBADMSG);
}

static void has_so_many_members(void)
{
    say_about("members");
    handle one = make(SLOTS, 2, CL_BROADCAST_LOSSLESS), first = reader_of(&one, CL_BROADCAST_BLOCK, 0);
    handle second = reader_of(&one, CL_BROADCAST_BLOCK, 0), third = again(&one, 0);
    CHECK_IS(cl_broadcast_subscribe(third.cast, CL_BROADCAST_BLOCK, 0), -EUSERS);
    CHECK_IS(cl_broadcast_take(third.cast), -EUSERS);
    drop(&first);
    CHECK_IS(cl_broadcast_take(third.cast), 0);
    drop(&third), drop(&second), drop(&one);
}

int main(void)
{
    each_reader_sees_all();
    takes_records_of_any_size();
    counts_what_a_lossy_reader_lost();
    does_with_slow_readers_as_they_said();
    has_one_writer();
    has_so_many_members();
    tells_of_a_dead_writer();
    goes_past_a_dead_reader();
    refuses_the_child_of_a_fork();
    threads(SLOTS, 1, 3, 0, 0);
    threads(1, 1, 2, 1, 0);
    threads(4, 1, 2, 1, 1);
    threads(SLOTS, 0, 3, 0, 0);
    threads(1, 0, 1, 0, 0);
    threads(2, 2, 2, 0, 0);
    threads(SLOTS, 2, 2, 0, 1);
    threads(2, 3, 2, 0, 0);
    threads(SLOTS, 3, 2, 0, 1);
    wakes_readers();
    rings();
    finds_what_cannot_be();
    survives_a_scribbler();
    is_not_believed();
    puts("ok");
    return 0;
}
