/* A segment whose every byte is somebody else's: attached and used, while more of it is written over. For the fuzzer
 * (fuzz_image.c) and for a program of fixed seeds (tests/c/test_images_faults.c).
 *
 * An input is a prefix of PREFIX bytes and the image of a whole segment:
 *
 *     0        FUZZ_*: what it is attached as, and how
 *     1..23    what is done with it, one call each
 *     24..31   from what the scribblers begin
 *
 * There are two scribblers. One writes between two steps of ours, at the fault points, which stand before each atomic: so an
 * input does the same each time. The other is a thread, which writes at any time, also between a load and its check.
 *
 * What must hold: no byte outside the segment is read or written. Each mapping of the core has pages around it that nobody may
 * touch (guarded_mmap), and all that the core hands out is read or written to its last byte.
 *
 * Only our own descriptors are opened through /proc, whatever the image says: others are strangers'. */
#ifndef FUZZ_IMAGE_H
#define FUZZ_IMAGE_H

#include "broadcast.h"
#include "queue.h"

#include "../c/check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

enum { PREFIX = 32, OPS_AT = 1, OPS_END = 24, SEED_AT = 24, LARGEST_IMAGE = 1 << 16 };
enum {
    FUZZ_KIND = 3,        /* 0: any, 1: a ring, 2: a queue, 3: a file that is no segment */
    FUZZ_REPAIR = 4,      /* its header is made good: else few inputs would come further */
    FUZZ_SCRIBBLE = 8,    /* at the fault points */
    FUZZ_THREAD = 16,     /* at any time */
    FUZZ_READ_ONLY = 32,
    FUZZ_BROADCAST = 64,  /* a broadcast, whatever FUZZ_KIND is */
};
enum { BROADCAST = 4 }; /* the kind that this is */

/* ---- pages around each mapping ------------------------------------------------------------------------------------------- */

/* The linker sends the core's calls here: --wrap. */
void *__real_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
int __real_munmap(void *at, size_t size);
int __real_open(const char *path, int flags, ...);
void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
int __wrap_munmap(void *at, size_t size);
int __wrap_open(const char *path, int flags, ...);

enum { GUARD = 1 << 16 };

static size_t in_pages(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (size + page - 1) / page * page;
}

void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    if (flags & MAP_FIXED)
        return __real_mmap(at, size, protection, flags, fd, offset);
    uint8_t *all = __real_mmap(NULL, in_pages(size) + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANON | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED)
        return all;
    void *inside = __real_mmap(all + GUARD, size, protection, flags | MAP_FIXED, fd, offset);
    if (inside == MAP_FAILED) {
        int error = errno;
        __real_munmap(all, in_pages(size) + 2 * GUARD);
        errno = error;
    }
    return inside;
}

int __wrap_munmap(void *at, size_t size)
{
    return __real_munmap((uint8_t *)at - GUARD, in_pages(size) + 2 * GUARD);
}

int __wrap_open(const char *path, int flags, ...)
{
    char ours[32];
    snprintf(ours, sizeof ours, "/proc/%d/", (int)getpid());
    if (strncmp(path, "/proc/", 6) == 0 && strncmp(path, "/proc/self/", 11) != 0 && strncmp(path, ours, strlen(ours)) != 0) {
        errno = ENOENT;
        return -1;
    }
    return __real_open(path, flags, 0600);
}

/* ---- scribblers ------------------------------------------------------------------------------------------------------------ */

typedef struct scribbler {
    uint64_t state;
    uint8_t *base; /* another mapping of the same memory */
    size_t size;
} scribbler;

HELPER uint64_t any(uint64_t *state) /* xorshift64*, Vigna 2014 */
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1dULL;
}

static void scribble(scribbler *by)
{
    if (by->size < 2 * CL_SEGMENT_HEADER)
        return;
    /* Half of it where the words are that all look at. */
    uint64_t how = any(&by->state), from = CL_SEGMENT_ABOUT, span = by->size - from;
    if (how & 1) {
        from = CL_SEGMENT_HEADER;
        span = 2048 + (how & 2) * 2048;
        span = span < by->size - from ? span : by->size - from;
    }
    uint64_t at = (from + any(&by->state) % span) & ~7ULL;
    _Atomic uint64_t *word = (_Atomic uint64_t *)(void *)(by->base + at);
    uint64_t old = atomic_load_explicit(word, memory_order_relaxed), value = any(&by->state);
    const uint64_t likely[] = {0, ~0ULL, 1, 8, old + 1, old - 1, old + 8, old - 8, old ^ 1ULL << (value & 63), value,
                               old + (1ULL << 16), old - (1ULL << 16), (old & ~0xffffULL) | (value & 0x7fff), 1ULL << 63,
                               value & 0xffff, (uint64_t)getpid()};
    value = likely[how >> 8 & 15];
    if (how & 4)
        atomic_store_explicit(word, value, memory_order_relaxed);
    else
        atomic_store_explicit((_Atomic uint32_t *)(void *)(by->base + at + (how >> 1 & 4)), (uint32_t)value,
                              memory_order_relaxed);
}

static scribbler between; /* what scribbles at the fault points; base NULL: nothing does */

void cl_fault(int point);
void cl_fault(int point)
{
    (void)point;
    while (between.base && any(&between.state) % 4 == 0)
        scribble(&between);
}

typedef struct companion {
    pthread_t thread;
    scribbler its;
    _Atomic int has_begun, ends;
} companion;

static void *scribble_on(void *given)
{
    companion *one = given;
    while (!atomic_load(&one->ends)) {
        scribble(&one->its);
        atomic_store(&one->has_begun, 1);
    }
    return NULL;
}

/* ---- what is done ------------------------------------------------------------------------------------------------------------ */

static volatile uint64_t sink;

HELPER void read_bytes(const uint8_t *data, int64_t size)
{
    uint64_t sum = 0;
    for (int64_t i = 0; i < size; i++)
        sum += ((const volatile uint8_t *)data)[i];
    sink = sum;
}

enum { ROOM = 1 << 12, AT_ONCE = 4 };

static void use_ring(cl_segment *segment, const uint8_t *ops)
{
    cl_ring *ring;
    cl_ring_stats stats;
    cl_ring_report report;
    if (cl_ring_open(&ring, segment, 0) < 0)
        return;
    cl_ring_set_spin(ring, 0);
    for (int side = 0; side < CL_RING_SIDES; side++)
        cl_ring_take(ring, side);
    uint8_t *room = calloc(ROOM, 1), *out;
    const uint8_t *in;
    for (int i = OPS_AT; i < OPS_END; i++) {
        int64_t size = ops[i] >> 4 << (ops[i] & 7), needs = 0, got;
        int side = ops[i] >> 4 & 1;
        switch (ops[i] & 15) {
        case 0:
        case 1:
            cl_ring_try_put(ring, room, size);
            break;
        case 2:
        case 3:
            cl_ring_try_get(ring, room, size, &needs);
            break;
        case 4:
            cl_ring_try_put_many(ring, room, size, ROOM / (size + 1));
            break;
        case 5:
            cl_ring_try_get_many(ring, room, size, ROOM / (size + 1), &needs);
            break;
        case 6:
            if (cl_ring_reserve(ring, size, &out) == 0) {
                memset(out, 1, (size_t)size);
                cl_ring_add(ring, size / 2);
            }
            break;
        case 7:
            cl_ring_commit(ring);
            break;
        case 8:
        case 9:
            if (cl_ring_peek(ring, &in, &got) == 0)
                read_bytes(in, got);
            break;
        case 10:
            cl_ring_release(ring);
            break;
        case 11:
            ops[i] & 16 ? cl_ring_rewind(ring) : cl_ring_abandon(ring);
            break;
        case 12:
            cl_ring_wait(ring, side, size, 0); /* which is over */
            cl_ring_look(ring, side, size);
            break;
        case 13:
            cl_ring_poll_fd(ring, side);
            cl_ring_arm(ring, side, size);
            break;
        case 14:
            cl_ring_leave(ring, side);
            cl_ring_take(ring, side);
            break;
        default:
            cl_ring_stats_of(ring, &stats);
            CHECK(stats.depth <= stats.capacity && stats.most <= stats.capacity);
            cl_ring_report_of(ring, &report);
        }
    }
    cl_ring_close(ring);
    cl_ring_free(ring);
    free(room);
}

/* A slot that we were given is one, all of it. */
HELPER void check_claim(const cl_queue *queue, const cl_queue_claim *claim)
{
    CHECK(claim->index >= 0 && claim->index < queue->plan.slots && claim->size >= 0 && claim->size <= queue->plan.slot_size);
    CHECK(claim->data == queue->slots + (size_t)claim->index * queue->stride + sizeof(cl__slot));
}

static void use_queue(cl_segment *segment, const uint8_t *ops)
{
    cl_queue *queue;
    cl_queue_report report;
    cl_queue_claim written = {0}, seen = {0};
    int64_t sizes[AT_ONCE];
    if (cl_queue_open(&queue, segment) < 0)
        return;
    cl_queue_join(queue);
    int64_t most = queue->plan.slot_size;
    uint8_t *room = calloc((size_t)most, AT_ONCE);
    for (int i = OPS_AT; i < OPS_END; i++) {
        int64_t size = ops[i] >> 4 < most ? ops[i] >> 4 : most;
        queue->members.owner_asked_at = queue->members.all_asked_at = 0; /* it is time to ask */
        switch (ops[i] & 15) {
        case 0:
        case 1:
            cl_queue_try_put(queue, room, size);
            break;
        case 2:
        case 3:
            cl_queue_try_get(queue, room, most);
            break;
        case 4:
            for (int j = 0; j < AT_ONCE; j++)
                sizes[j] = size;
            cl_queue_put_many(queue, room, sizes, AT_ONCE);
            break;
        case 5:
            cl_queue_get_many(queue, room, most * AT_ONCE, sizes, AT_ONCE);
            break;
        case 6:
            if (cl_queue_reserve(queue, &written) == 0) {
                check_claim(queue, &written);
                memset(written.data, 1, (size_t)written.size);
            }
            break;
        case 7:
            cl_queue_commit(queue, &written, size);
            break;
        case 8:
            cl_queue_cancel(queue, &written);
            break;
        case 9:
            if (cl_queue_peek(queue, &seen) == 0) {
                check_claim(queue, &seen);
                read_bytes(seen.data, seen.size);
            }
            break;
        case 10:
            cl_queue_release(queue, &seen);
            break;
        case 11:
            cl_queue_give_back(queue, &seen);
            break;
        case 12:
            cl_queue_wait(queue, ops[i] >> 4 & 1, cl__sys_now() + 1);
            break;
        case 13:
            cl_queue_recover(queue);
            break;
        case 14:
            cl_queue_leave(queue);
            cl_queue_join(queue);
            break;
        default:
            cl_queue_report_of(queue, &report);
            CHECK(report.size >= 0 && report.size <= report.slots);
            if (ops[i] == 255)
                cl_queue_shut(queue);
        }
    }
    cl_queue_free(queue);
    free(room);
}

HELPER void check_broadcast_claim(const cl_broadcast *broadcast, const cl_broadcast_claim *claim)
{
    CHECK(claim->size >= 0 && claim->size <= broadcast->plan.slot_size && claim->data >= broadcast->slots &&
          claim->data + claim->size <= broadcast->slots + broadcast->count * broadcast->stride);
}

/* The other side, so that there is something to get, and somebody in the way: a handle of its own, in the same memory. */
typedef struct other_side {
    cl_segment *segment;
    cl_broadcast *broadcast;
    uint8_t *room;
} other_side;

static other_side begin_other_side(cl_segment *of, int writes, int policy)
{
    other_side its = {0};
    cl_segment_report report;
    cl_segment_report_of(of, &report);
    CHECK_IS(cl_segment_new(&its.segment), 0);
    if (cl_segment_attach(its.segment, (int32_t)report.fd, NULL, CL_SEGMENT_BROADCAST, 0, 0) < 0 ||
        cl_broadcast_open(&its.broadcast, its.segment) < 0) {
        its.broadcast = NULL;
        return its;
    }
    its.room = calloc((size_t)its.broadcast->plan.slot_size, 1);
    if (writes)
        cl_broadcast_take(its.broadcast);
    else if (cl_broadcast_subscribe(its.broadcast, policy, 0) < 0)
        cl_broadcast_subscribe(its.broadcast, 0, 0);
    return its;
}

static void end_other_side(other_side *its)
{
    cl_broadcast_free(its->broadcast);
    cl_segment_free(its->segment);
    free(its->room);
}

/* As a writer, or as a reader of whatever policy it takes; in a segment that may only be read there is no writer. */
static void use_broadcast(cl_segment *segment, const uint8_t *ops)
{
    cl_broadcast *broadcast;
    cl_broadcast_report report;
    cl_broadcast_reader readers[AT_ONCE];
    cl_broadcast_claim written = {0}, seen = {0};
    if (cl_broadcast_open(&broadcast, segment) < 0)
        return;
    cl_broadcast_set_spin(broadcast, 0);
    int policy = ops[OPS_AT] >> 1 & 3, reading = ops[OPS_AT] >> 3 & (CL_BROADCAST_FROM_OLDEST | CL_BROADCAST_TELL_LOSS);
    if (ops[OPS_AT] & 1)
        cl_broadcast_take(broadcast);
    else if (cl_broadcast_subscribe(broadcast, policy, reading & CL_BROADCAST_TELL_LOSS) < 0)
        cl_broadcast_subscribe(broadcast, 0, reading);
    other_side other = begin_other_side(segment, !(ops[OPS_AT] & 1), policy);
    int64_t most = broadcast->plan.slot_size;
    uint8_t *room = calloc((size_t)most, AT_ONCE);
    for (int i = OPS_AT + 1; i < OPS_END; i++) {
        int64_t size = ops[i] >> 4 < most ? ops[i] >> 4 : most;
        if (other.broadcast && i % 2) {
            uint64_t position = other.broadcast->position;
            if (cl_broadcast_try_put(other.broadcast, other.room, 1) == 0 && ops[i] >= 192) /* it means harm */
                cl__store_relaxed(&cl__cast_slot_at(other.broadcast, position)->size, ~0U >> (ops[i] & 31));
            cl_broadcast_try_get(other.broadcast, other.room, other.broadcast->plan.slot_size);
        }
        int what = ops[i] >> 4 & 1 ? CL_BROADCAST_FOR_ROOM : CL_BROADCAST_FOR_RECORD;
        broadcast->members.owner_asked_at = broadcast->members.all_asked_at = 0; /* it is time to ask */
        switch (ops[i] & 15) {
        case 0:
        case 1:
            cl_broadcast_try_put(broadcast, room, size);
            break;
        case 2:
        case 3:
            CHECK(cl_broadcast_try_get(broadcast, room, most) <= most);
            break;
        case 4:
            CHECK(cl_broadcast_put_many(broadcast, room, size, AT_ONCE) <= AT_ONCE);
            break;
        case 5:
            CHECK(cl_broadcast_get_many(broadcast, room, size, AT_ONCE) <= AT_ONCE);
            break;
        case 6:
            if (cl_broadcast_reserve(broadcast, &written) == 0) {
                check_broadcast_claim(broadcast, &written);
                memset(written.data, 1, (size_t)written.size);
            }
            break;
        case 7:
            ops[i] & 16 ? cl_broadcast_cancel(broadcast, &written) : cl_broadcast_commit(broadcast, &written, size);
            break;
        case 8:
        case 9:
            if (cl_broadcast_peek(broadcast, &seen) == 0) {
                check_broadcast_claim(broadcast, &seen);
                read_bytes(seen.data, seen.size);
                cl_broadcast_is_whole(broadcast, &seen);
            }
            break;
        case 10:
            cl_broadcast_release(broadcast, &seen);
            break;
        case 11:
            ops[i] & 16 ? cl_broadcast_keep(broadcast, &seen) : cl_broadcast_copy(broadcast, &seen, room);
            break;
        case 12:
            cl_broadcast_wait(broadcast, what, 0, cl__sys_now() + 1);
            break;
        case 13:
            cl_broadcast_recover(broadcast);
            break;
        case 14:
            cl_broadcast_poll_fd(broadcast, what);
            cl_broadcast_arm(broadcast, what);
            cl_broadcast_silence(broadcast, what);
            break;
        default:
            cl_broadcast_report_of(broadcast, &report);
            CHECK(cl_broadcast_readers_of(broadcast, readers, AT_ONCE) <= AT_ONCE);
            if (ops[i] == 255)
                cl_broadcast_close(broadcast);
        }
    }
    end_other_side(&other);
    cl_broadcast_free(broadcast);
    free(room);
}

/* ---- one input --------------------------------------------------------------------------------------------------------------- */

/* The fields of the header, in the order in which segment.c has them. */
typedef struct image_header {
    char magic[8];
    uint32_t version, kind;
    uint64_t file_size, data_offset, data_size, layout;
    int64_t created_ns, creator;
    uint32_t ready, unused;
} image_header;

static void repair(uint8_t *image, size_t size)
{
    image_header *head = (image_header *)(void *)image;
    memcpy(head->magic, "corelane", 8);
    head->version = 1;
    head->file_size = size;
    head->ready = 1;
}

static void attach_and_use(int fd, const uint8_t *input)
{
    static const int32_t kinds[] = {CL_SEGMENT_ANY, CL_SEGMENT_RING, CL_SEGMENT_QUEUE, CL_SEGMENT_ANY, CL_SEGMENT_BROADCAST};
    cl_segment *segment;
    cl_segment_report report;
    int kind = input[0] & FUZZ_BROADCAST ? BROADCAST : input[0] & FUZZ_KIND;
    int flags = input[0] & FUZZ_READ_ONLY ? CL_SEGMENT_READ_ONLY : 0;
    CHECK_IS(cl_segment_new(&segment), 0);
    cl_segment_peek(fd, &report);
    if (cl_segment_attach(segment, fd, NULL, kinds[kind], 0, kind == 3 ? flags | CL_SEGMENT_BORROWED : flags) == 0) {
        cl_segment_report_of(segment, &report);
        CHECK(report.size >= 0 && report.data_offset >= 0 && report.data_offset + report.size <= report.file_size);
        if (kind == 1 || report.kind == CL_SEGMENT_RING)
            use_ring(segment, input);
        else if (kind == 2 || report.kind == CL_SEGMENT_QUEUE)
            use_queue(segment, input);
        else if (kind == BROADCAST || report.kind == CL_SEGMENT_BROADCAST)
            use_broadcast(segment, input);
        read_bytes(report.data, report.size);
    }
    cl_segment_free(segment);
}

static void use_image(const uint8_t *input, size_t all)
{
    if (all <= PREFIX || all - PREFIX > LARGEST_IMAGE)
        return;
    size_t size = all - PREFIX;
    int fd = MUST(memfd_create("image", MFD_CLOEXEC));
    MUST(ftruncate(fd, (off_t)size));
    scribbler its = {.size = size};
    its.base = __real_mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(its.base != MAP_FAILED);
    memcpy(its.base, input + PREFIX, size);
    memcpy(&its.state, input + SEED_AT, sizeof its.state);
    its.state |= 1;
    if (input[0] & FUZZ_REPAIR && size >= sizeof(image_header))
        repair(its.base, size);
    companion other = {.its = its};
    between = input[0] & FUZZ_SCRIBBLE ? its : (scribbler){0};
    if (input[0] & FUZZ_THREAD) {
        CHECK_IS(pthread_create(&other.thread, NULL, scribble_on, &other), 0);
        while (!atomic_load(&other.has_begun))
            sched_yield();
    }
    attach_and_use(fd, input);
    between.base = NULL;
    if (input[0] & FUZZ_THREAD) {
        atomic_store(&other.ends, 1);
        CHECK_IS(pthread_join(other.thread, NULL), 0);
    }
    __real_munmap(its.base, size);
    close(fd);
}

/* ---- inputs to begin with ------------------------------------------------------------------------------------------------------ */

/* A segment that was used for a while, by somebody who has left or died by now. Its bytes, for the caller to free. */
static uint8_t *make_input(int kind, uint64_t seed, size_t *all)
{
    uint64_t state = seed * 2 + 1;
    uint8_t ops[PREFIX];
    cl_segment *segment;
    cl_segment_report report;
    cl_ring_about about;
    cl_queue_plan queue = {.slots = 1 << any(&state) % 4, .slot_size = 1 + (int64_t)(any(&state) % 100), .members = 4,
                           .flags = (int32_t)(any(&state) % 4)};
    cl_broadcast_plan broadcast = {.slots = queue.slots, .slot_size = queue.slot_size, .members = 4, .flags = queue.flags};
    cl_segment_plan plan = {.size = 5000, .data_offset = CL_SEGMENT_HEADER, .kind = CL_SEGMENT_BYTES, .owner = -1,
                            .group = -1};
    if (kind == 1) {
        CHECK_IS(cl_ring_describe(1, 0, &about), 0);
        plan = (cl_segment_plan){.size = about.size, .data_offset = CL_SEGMENT_HEADER, .kind = CL_SEGMENT_RING,
                                 .layout = CL_RING_LAYOUT, .about = (const char *)&about, .about_size = sizeof about,
                                 .owner = -1, .group = -1};
    } else if (kind == 2) {
        CHECK_IS(cl_queue_describe(&queue, &plan), 0);
    } else if (kind == BROADCAST) {
        CHECK_IS(cl_broadcast_describe(&broadcast, &plan), 0);
    }
    CHECK_IS(cl_segment_new(&segment), 0);
    CHECK_IS(cl_segment_create(segment, NULL, &plan), 0);
    for (int i = 0; i < PREFIX; i++)
        ops[i] = (uint8_t)any(&state);
    if (kind == 1)
        use_ring(segment, ops);
    if (kind == 2)
        use_queue(segment, ops);
    if (kind == BROADCAST) {
        ops[OPS_AT] |= 1; /* the writer */
        use_broadcast(segment, ops);
    }
    CHECK_IS(cl_segment_report_of(segment, &report), 0);
    *all = PREFIX + (size_t)report.file_size;
    uint8_t *made = malloc(*all);
    for (int i = 0; i < PREFIX; i++)
        made[i] = (uint8_t)any(&state);
    int how = made[0] & (FUZZ_SCRIBBLE | FUZZ_THREAD | (kind == BROADCAST ? FUZZ_READ_ONLY : 0));
    made[0] = (uint8_t)((kind == BROADCAST ? FUZZ_BROADCAST : kind) | (made[0] & 192 ? FUZZ_REPAIR : 0) | how);
    memcpy(made + PREFIX, report.data - report.data_offset, (size_t)report.file_size);
    cl_segment_free(segment);
    return made;
}

#endif
