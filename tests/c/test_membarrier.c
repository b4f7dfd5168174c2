/* Objects with membarrier: who publishes does it with a plain store, and who sleeps is woken all the same.
 *
 * A litmus test of the order: one side goes to sleep, without spinning, while the other one publishes with a store that takes
 * long to arrive: before it come stores to lines that are in no cache, and stores arrive in order. Whoever sleeps 20 ms after that was not woken:
 * one that was woken and has no CPU yet is not asleep to the kernel. So no load of the machine makes this fail.
 *
 * To see that it sees: the same with a waiter that leaves the barrier out. What that finds is printed and not checked, as no
 * processor has to show it. Under ThreadSanitizer an atomic is a call that goes through locked instructions of its own, and it
 * finds nothing; what that variant looks at is the order of the data. */
#include "check.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "queue.h"
#include "../../csrc/ring.h"

enum { LINES = 40, ROUNDS = 2000, MANY = 20000, TURNS = 1000, SIZE = 1016, SLOTS = 4, CAPACITY = 4096, ASLEEP_MS = 20, BARRIERS_KNOWN = 512, REGISTERED = 4 };

typedef enum how { BY_WAIT, BY_ANY, BY_BELL, HOWS } how;
typedef enum kind { RING_GET, RING_PUT, QUEUE_GET, QUEUE_PUT, KINDS } kind;

static const char *const hows[] = {"waits", "waits for any", "waits for its descriptor"};
static const char *const kinds[] = {"a ring's consumer", "a ring's producer", "a queue's consumer", "a queue's producer"};

typedef struct handle {
    cl_segment *segment;
    cl_ring *ring;
    cl_queue *queue;
} handle;

/* Seen by both. */
typedef struct between {
    _Alignas(128) _Atomic int64_t taken;
    _Alignas(128) struct {
        _Alignas(64) volatile int64_t word;
    } lines[LINES];
} between;

static between *state;

/* ---- objects -------------------------------------------------------------------------------------------------------------- */

static int is_ring(kind what)
{
    return what == RING_GET || what == RING_PUT;
}

/* Whether the waiter puts, when there is room. */
static int fills(kind what)
{
    return what == RING_PUT || what == QUEUE_PUT;
}

static handle open_in(cl_segment *segment, int ring)
{
    handle made = {.segment = segment};
    if (ring) {
        CHECK_IS(cl_ring_open(&made.ring, segment, 0), 0);
        cl_ring_set_spin(made.ring, 0);
    } else {
        CHECK_IS(cl_queue_open(&made.queue, segment), 0);
        CHECK(cl_queue_join(made.queue) > 0);
        cl_queue_set_spin(made.queue, 0);
    }
    return made;
}

static cl_segment *segment_of(int ring)
{
    cl_segment *segment;
    static cl_ring_about about;
    static cl_queue_plan plan;
    cl_segment_plan whole = {.mode = 0600, .owner = -1, .group = -1};
    if (ring) {
        CHECK_IS(cl_ring_describe(CAPACITY, 0, &about), 0);
        about.flags = CL_RING_MEMBARRIER;
        whole = (cl_segment_plan){.size = about.size, .data_offset = CL_SEGMENT_HEADER, .kind = CL_SEGMENT_RING,
                                  .layout = CL_RING_LAYOUT, .about = (const char *)&about, .about_size = sizeof about,
                                  .mode = 0600, .owner = -1, .group = -1};
    } else {
        plan = (cl_queue_plan){.slots = SLOTS, .slot_size = SIZE, .members = 4, .flags = CL_QUEUE_MEMBARRIER};
        CHECK_IS(cl_queue_describe(&plan, &whole), 0);
    }
    CHECK_IS(cl_segment_new(&segment), 0);
    CHECK_IS(cl_segment_create(segment, NULL, &whole), 0);
    return segment;
}

static cl_segment *attached(cl_segment *from, int ring)
{
    cl_segment_report report;
    cl_segment *segment;
    CHECK_IS(cl_segment_report_of(from, &report), 0);
    CHECK_IS(cl_segment_new(&segment), 0);
    CHECK_IS(cl_segment_attach(segment, (int)report.fd, NULL, ring ? CL_SEGMENT_RING : CL_SEGMENT_QUEUE,
                               ring ? CL_RING_LAYOUT : 0, 0), 0);
    return segment;
}

static void drop(handle *one)
{
    cl_ring_free(one->ring);
    cl_queue_free(one->queue);
    cl_segment_free(one->segment);
}

static int64_t act(const handle *one, int put)
{
    static uint8_t data[SIZE];
    int64_t needs;
    int64_t rc = put ? one->ring ? cl_ring_try_put(one->ring, data, SIZE) : cl_queue_try_put(one->queue, data, SIZE)
                 : one->ring ? cl_ring_try_get(one->ring, data, SIZE, &needs)
                             : cl_queue_try_get(one->queue, data, SIZE);
    CHECK(rc >= 0 || rc == -EAGAIN);
    return rc;
}

/* ---- waiting -------------------------------------------------------------------------------------------------------------- */

static void wait_by_bell(const handle *one, int side, int what)
{
    int64_t fd = one->ring ? cl_ring_poll_fd(one->ring, side) : cl_queue_poll_fd(one->queue, what);
    CHECK(fd >= 0);
    CHECK_IS(one->ring ? cl_ring_silence(one->ring, side) : cl_queue_silence(one->queue, what), 0);
    int64_t rc = one->ring ? cl_ring_arm(one->ring, side, SIZE) : cl_queue_arm(one->queue, what);
    if (rc == 0 && one->queue)
        rc = cl_queue_look(one->queue, what);
    CHECK(rc >= 0);
    if (rc == 0)
        poll(&(struct pollfd){.fd = (int)fd, .events = POLLIN}, 1, 100);
}

static void wait_once(const handle *one, kind what, how by)
{
    int side = what == RING_PUT ? CL_RING_PRODUCER : CL_RING_CONSUMER;
    int for_what = what == QUEUE_PUT ? CL_QUEUE_FOR_ROOM : CL_QUEUE_FOR_RECORD;
    cl_waitable waitable;
    uint8_t ready;
    int64_t rc = 0;
    if (by == BY_BELL) {
        wait_by_bell(one, side, for_what);
        return;
    }
    if (by == BY_WAIT) {
        rc = one->ring ? cl_ring_wait(one->ring, side, SIZE, -1) : cl_queue_wait(one->queue, for_what, -1);
    } else {
        rc = one->ring ? cl_ring_waitable(one->ring, side, SIZE, &waitable) : cl_queue_waitable(one->queue, for_what, &waitable);
        CHECK_IS(rc, 0);
        rc = cl_wait_any(&waitable, 1, -1, 0, &ready);
    }
    CHECK(rc > 0 || rc == -EINTR || rc == -ENOSYS);
}

/* Of the waiter: look as all do, without B. (What it publishes itself it does by an exchange then.) */
static void leave_it_out(handle *one)
{
    *(one->ring ? &one->ring->has_membarrier : &one->queue->members.has_membarrier) = 0;
    for (int i = 0; i < 2; i++)
        (one->ring ? &one->ring->sides[i].waiter : &one->queue->waiters[i])->has_membarrier = 0;
}

static cpu_set_t ours; /* as we were started */

/* One of them each. Where there is one only, nothing is seen. */
static void run_on(int number)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &ours) && number-- == 0) {
            CPU_SET(cpu, &one);
            MUST(sched_setaffinity(0, sizeof one, &one));
            return;
        }
}

__attribute__((noreturn)) static void be_the_waiter(cl_segment *from, kind what, how by, int barrier)
{
    handle mine = open_in(attached(from, is_ring(what)), is_ring(what));
    if (what == RING_GET || what == RING_PUT)
        CHECK_IS(cl_ring_take(mine.ring, fills(what) ? CL_RING_PRODUCER : CL_RING_CONSUMER), 0);
    if (!barrier)
        leave_it_out(&mine);
    run_on(1);
    for (;;) {
        while (act(&mine, fills(what)) < 0)
            wait_once(&mine, what, by);
        cl__add(&state->taken, 1);
    }
}

/* ---- publishing ----------------------------------------------------------------------------------------------------------- */

static int is_asleep(pid_t pid)
{
    char path[64], text[512], *end;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = (int)MUST(open(path, O_RDONLY | O_CLOEXEC));
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    text[got > 0 ? got : 0] = '\0';
    end = strrchr(text, ')');
    return end && end[2] == 'S';
}

/* What is stored there next takes as long as memory does. */
static void flush_lines(void)
{
#if defined(__x86_64__)
    for (int i = 0; i < LINES; i++)
        __builtin_ia32_clflush((const void *)&state->lines[i]);
    __sync_synchronize();
#endif
}

static uint64_t seed = 88172645463325252ULL;

static void spin_for(int64_t turns)
{
    for (volatile int64_t i = 0; i < turns; i++)
        continue;
}

/* All but the last store: a queue's claim is a CAS, which waits for all stores, and to look for room takes its time. */
static void make_ready(const handle *one, int put, cl_queue_claim *claim)
{
    int64_t rc, size;
    uint8_t *room;
    const uint8_t *data;
    do
        rc = one->queue ? put ? cl_queue_reserve(one->queue, claim) : cl_queue_peek(one->queue, claim)
             : put      ? cl_ring_reserve(one->ring, SIZE, &room)
                        : cl_ring_peek(one->ring, &data, &size);
    while (rc == -EAGAIN);
    CHECK_IS(rc, 0);
    if (one->ring && put)
        CHECK_IS(cl_ring_add(one->ring, SIZE), 0);
    flush_lines();
}

static void publish_late(const handle *one, int put, cl_queue_claim *claim)
{
    for (int i = 0; i < LINES; i++)
        state->lines[i].word = 0;
    if (one->ring)
        CHECK_IS(put ? cl_ring_commit(one->ring) : cl_ring_release(one->ring), 1);
    else
        CHECK_IS(put ? cl_queue_commit(one->queue, claim, SIZE) : cl_queue_release(one->queue, claim), 0);
}

/* Until the waiter has taken so many: whether it had to be woken by its own clock. */
static int was_lost(int64_t count, pid_t waiter)
{
    int64_t began = now_ns();
    int lost = 0;
    while (cl__load(&state->taken) < count) {
        int64_t took = now_ns() - began;
        if (!lost && took > ASLEEP_MS * MS)
            lost = is_asleep(waiter) && cl__load(&state->taken) < count;
        CHECK(took < PATIENCE);
    }
    return lost;
}

/* How many of so many were not told to a waiter that slept. */
static int lost_of(int rounds, kind what, how by, int barrier)
{
    int lost = 0, fill = fills(what) ? 4 : 0; /* the waiter puts: it is full at first */
    int64_t count = fill;
    cl_segment *segment = segment_of(is_ring(what));
    state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANON, -1, 0);
    CHECK(state != MAP_FAILED);
    pid_t waiter = (pid_t)MUST(fork());
    if (waiter == 0)
        be_the_waiter(segment, what, by, barrier);
    handle mine = open_in(attached(segment, is_ring(what)), is_ring(what));
    if (mine.ring)
        CHECK_IS(cl_ring_take(mine.ring, fills(what) ? CL_RING_CONSUMER : CL_RING_PRODUCER), 0);
    run_on(0);
    for (int round = 0; round < rounds && (barrier || !lost); round++, count++) {
        cl_queue_claim claim;
        make_ready(&mine, !fills(what), &claim);
        lost += was_lost(count, waiter);
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        spin_for((int64_t)(seed % TURNS)); /* it tries in vain, and goes to sleep */
        publish_late(&mine, !fills(what), &claim);
    }
    MUST(kill(waiter, SIGKILL));
    MUST(waitpid(waiter, NULL, 0));
    drop(&mine);
    cl_segment_free(segment);
    munmap(state, sizeof *state);
    return lost;
}

static void nobody_sleeps_over_it(void)
{
    int seen = 0;
    for (int what = 0; what < KINDS; what++)
        for (int by = 0; by < HOWS; by++) {
            say_about("%s that %s", kinds[what], hows[by]);
            CHECK_IS(lost_of(ROUNDS, (kind)what, (how)by, 1), 0);
        }
    for (int what = 0; what < KINDS; what++) {
        int lost = 0;
        say_about("%s without a barrier", kinds[what]);
        /* A queue's waiter that sees the claim looks every ms while it sleeps; its descriptor does not. */
        if (is_ring((kind)what))
            lost = lost_of(MANY, (kind)what, BY_WAIT, 0);
        if (!lost)
            lost = lost_of(MANY, (kind)what, BY_BELL, 0);
        printf("%s without a barrier: %s; ", kinds[what], lost ? "sleeps over it" : "nothing seen");
        seen += lost > 0;
    }
    printf("%d of %d seen\n", seen, KINDS);
}

/* ---- who may not -------------------------------------------------------------------------------------------------------- */

/* From now on, for good. */
static void forbid_membarrier(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}

/* In a child, as it is for good. */
static void in_a_child(void (*work)(void))
{
    int status;
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        work();
        _exit(0);
    }
    MUST(waitpid(pid, &status, 0));
    CHECK_IS(status, 0);
}

static void is_refused_to_open(void)
{
    for (int ring = 0; ring < 2; ring++) {
        handle made = {0};
        cl_segment *segment = segment_of(ring);
        say_about("opening a %s without membarrier", ring ? "ring" : "queue");
        if (ring == 0)
            forbid_membarrier();
        CHECK_IS(cl_membarrier_register(), -ENOSYS);
        CHECK_IS(ring ? cl_ring_open(&made.ring, segment, 0) : cl_queue_open(&made.queue, segment), -ENOSYS);
        cl_segment_free(segment);
    }
}

/* Whoever waits makes the barrier: each way to wait says so when it cannot any more. Nobody waits without. */
static void every_wait_makes_one(void)
{
    handle all[KINDS];
    cl_waitable waitable;
    uint8_t ready;
    for (int what = 0; what < KINDS; what++) {
        all[what] = open_in(segment_of(is_ring((kind)what)), is_ring((kind)what));
        if (all[what].ring)
            CHECK_IS(cl_ring_take(all[what].ring, fills((kind)what) ? CL_RING_PRODUCER : CL_RING_CONSUMER), 0);
        while (fills((kind)what) && act(&all[what], 1) >= 0)
            continue;
    }
    forbid_membarrier();
    for (int what = 0; what < KINDS; what++) {
        handle *one = &all[what];
        int side = what == RING_PUT ? CL_RING_PRODUCER : CL_RING_CONSUMER;
        int for_what = what == QUEUE_PUT ? CL_QUEUE_FOR_ROOM : CL_QUEUE_FOR_RECORD;
        say_about("%s that may not wait", kinds[what]);
        if (one->ring) {
            CHECK_IS(cl_ring_wait(one->ring, side, SIZE, -1), -ENOSYS);
            CHECK_IS(cl_ring_waitable(one->ring, side, SIZE, &waitable), 0);
            CHECK(cl_ring_poll_fd(one->ring, side) >= 0);
            CHECK_IS(cl_ring_arm(one->ring, side, SIZE), -ENOSYS);
        } else {
            CHECK_IS(cl_queue_wait(one->queue, for_what, -1), -ENOSYS);
            CHECK_IS(cl_queue_waitable(one->queue, for_what, &waitable), 0);
            CHECK(cl_queue_poll_fd(one->queue, for_what) >= 0);
            CHECK_IS(cl_queue_arm(one->queue, for_what), -ENOSYS);
        }
        CHECK_IS(cl_wait_any(&waitable, 1, -1, 0, &ready), -ENOSYS);
    }
}

/* A process takes part only when the kernel knows it: by itself, in a child of a fork, and not by looking only. */
static void is_registered_once_open(void)
{
    if (syscall(SYS_membarrier, BARRIERS_KNOWN, 0, 0) < 0)
        return; /* before Linux 6.3 it does not say */
    for (int ring = 0; ring < 2; ring++) {
        pid_t pid = (pid_t)MUST(fork());
        int status;
        say_about("registered by opening a %s", ring ? "ring" : "queue");
        if (pid == 0) {
            handle made = {.segment = segment_of(ring)};
            CHECK_IS(syscall(SYS_membarrier, BARRIERS_KNOWN, 0, 0) & REGISTERED, 0);
            CHECK_IS(ring ? cl_ring_open(&made.ring, made.segment, 0) : cl_queue_open(&made.queue, made.segment), 0);
            CHECK_IS(syscall(SYS_membarrier, BARRIERS_KNOWN, 0, 0) & REGISTERED, REGISTERED);
            pid = (pid_t)MUST(fork());
            if (pid == 0)
                _exit((syscall(SYS_membarrier, BARRIERS_KNOWN, 0, 0) & REGISTERED) == 0);
            MUST(waitpid(pid, &status, 0));
            _exit(WEXITSTATUS(status));
        }
        MUST(waitpid(pid, &status, 0));
        CHECK_IS(status, 0);
    }
}

static void is_no_flag_of_ours(void)
{
    cl_ring_about about;
    cl_segment *segment;
    cl_ring *ring;
    say_about("a ring with an unknown flag");
    CHECK_IS(cl_ring_describe(CAPACITY, 0, &about), 0);
    CHECK_IS(about.flags, 0);
    about.flags = CL_RING_MEMBARRIER | 2;
    cl_segment_plan whole = {.size = about.size, .data_offset = CL_SEGMENT_HEADER, .kind = CL_SEGMENT_RING,
                             .layout = CL_RING_LAYOUT, .about = (const char *)&about, .about_size = sizeof about,
                             .mode = 0600, .owner = -1, .group = -1};
    CHECK_IS(cl_segment_new(&segment), 0);
    CHECK_IS(cl_segment_create(segment, NULL, &whole), 0);
    CHECK_IS(cl_ring_open(&ring, segment, 0), -EBADMSG);
    cl_segment_free(segment);
}

/* "litmus" as an argument: only that, to see what it finds by itself. */
int main(int count, char **arguments)
{
    int status;
    setvbuf(stdout, NULL, _IONBF, 0);
    MUST(sched_getaffinity(0, sizeof ours, &ours));
    is_no_flag_of_ours();
    in_a_child(is_refused_to_open);
    pid_t pid = (pid_t)MUST(fork()); /* as whoever registers is so for good */
    if (pid == 0)
        _exit(cl_membarrier_register() < 0);
    MUST(waitpid(pid, &status, 0));
    if (status) {
        puts("ok: there is none here, and that is said");
        return 0;
    }
    if (count < 2 || strcmp(arguments[1], "litmus")) {
        is_registered_once_open();
        in_a_child(every_wait_makes_one);
    }
    nobody_sleeps_over_it();
    puts("ok");
    return 0;
}
