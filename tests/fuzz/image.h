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

#include "uses.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

enum { PREFIX = 32, SEED_AT = OPS_END, LARGEST_IMAGE = 1 << 16 };
enum {
    FUZZ_KIND = 15,      /* what it is attached as: enum kind */
    FUZZ_REPAIR = 16,    /* its header is made good: else few inputs would come further */
    FUZZ_SCRIBBLE = 32,  /* at the fault points */
    FUZZ_THREAD = 64,    /* at any time */
    FUZZ_READ_ONLY = 128,
};
enum kind { ANY, RING, QUEUE, BROADCAST, DEQUE, BUFFERS, LOCK, SEMAPHORE, EVENT, BARRIER, KINDS, NO_SEGMENT = 15 };

/* ---- pages around each mapping ------------------------------------------------------------------------------------------- */

/* The linker sends the core's calls here: --wrap. */
void *__real_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
int __real_munmap(void *at, size_t size);
int __real_open(const char *path, int flags, ...);
void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
int __wrap_munmap(void *at, size_t size);
int __wrap_open(const char *path, int flags, ...);

enum { GUARD = 1 << 24 }; /* further than an index of 12 bits leads */

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
    if (by->size < CL_SEGMENT_HEADER + 64)
        return;
    /* Half of it where the words are that all look at: the nearer to the start, the likelier. */
    uint64_t how = any(&by->state), from = CL_SEGMENT_ABOUT, span = by->size - from;
    if (how & 1) {
        from = CL_SEGMENT_HEADER;
        span = 64ULL << (how >> 16) % 8;
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

static const int32_t segment_kinds[KINDS] = {
    CL_SEGMENT_ANY,   CL_SEGMENT_RING,      CL_SEGMENT_QUEUE, CL_SEGMENT_BROADCAST, CL_SEGMENT_DEQUE, CL_SEGMENT_BUFFERS,
    CL_SEGMENT_MUTEX, CL_SEGMENT_SEMAPHORE, CL_SEGMENT_EVENT, CL_SEGMENT_BARRIER,
};

static void (*const uses[KINDS])(cl_segment *, const uint8_t *) = {
    NULL, use_ring, use_queue, use_broadcast, use_deque, use_buffers, use_lock, use_semaphore, use_event, use_barrier,
};

static void attach_and_use(int fd, const uint8_t *input)
{
    cl_segment *segment;
    cl_segment_report report;
    int kind = input[0] & FUZZ_KIND;
    int flags = input[0] & FUZZ_READ_ONLY ? CL_SEGMENT_READ_ONLY : 0;
    CHECK_IS(cl_segment_new(&segment), 0);
    cl_segment_peek(fd, &report);
    if (cl_segment_attach(segment, fd, NULL, kind < KINDS ? segment_kinds[kind] : CL_SEGMENT_ANY, 0,
                          kind == NO_SEGMENT ? flags | CL_SEGMENT_BORROWED : flags) == 0) {
        cl_segment_report_of(segment, &report);
        CHECK(report.size >= 0 && report.data_offset >= 0 && report.data_offset + report.size <= report.file_size);
        for (int i = RING; i < KINDS; i++)
            if (report.kind == segment_kinds[i])
                uses[i](segment, input);
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

/* What a segment says of itself, for as long as its plan points there. */
typedef union made_of {
    cl_ring_about ring;
    cl_queue_plan queue;
    cl_broadcast_plan broadcast;
    cl_deque_plan deque;
    cl_buffers_plan buffers;
    cl_sync_plan sync;
} made_of;

static void describe(int kind, uint64_t *state, made_of *about, cl_segment_plan *plan)
{
    int32_t flags = (int32_t)(any(state) % 4);
    int64_t slots = 1 << any(state) % 4, size = 1 + (int64_t)(any(state) % 100);
    *plan = (cl_segment_plan){.size = 5000, .data_offset = CL_SEGMENT_HEADER, .kind = CL_SEGMENT_BYTES, .owner = -1,
                              .group = -1};
    switch (kind) {
    case ANY:
        return;
    case RING:
        CHECK_IS(cl_ring_describe(1, 0, &about->ring), 0);
        plan->size = about->ring.size;
        plan->kind = CL_SEGMENT_RING;
        plan->layout = CL_RING_LAYOUT;
        plan->about = (const char *)&about->ring;
        plan->about_size = sizeof about->ring;
        return;
    case QUEUE:
        about->queue = (cl_queue_plan){.slots = slots, .slot_size = size, .members = 4, .flags = flags};
        CHECK_IS(cl_queue_describe(&about->queue, plan), 0);
        return;
    case BROADCAST:
        about->broadcast = (cl_broadcast_plan){.slots = slots, .slot_size = size, .members = 4, .flags = flags};
        CHECK_IS(cl_broadcast_describe(&about->broadcast, plan), 0);
        return;
    case DEQUE:
        about->deque = (cl_deque_plan){.slots = slots, .slot_size = size, .members = 4, .flags = flags & 1};
        CHECK_IS(cl_deque_describe(&about->deque, plan), 0);
        return;
    case BUFFERS: /* those of a page can be trimmed */
        about->buffers = (cl_buffers_plan){.blocks = slots, .block_size = flags & 1 ? 4096 : size, .members = 4};
        CHECK_IS(cl_buffers_describe(&about->buffers, plan), 0);
        return;
    default:
        about->sync = (cl_sync_plan){.count = kind == SEMAPHORE || kind == BARRIER ? slots : 1, .members = 4,
                                     .kind = segment_kinds[kind]};
        CHECK_IS(cl_sync_describe(&about->sync, plan), 0);
    }
}

/* A segment that was used for a while, by somebody who has left or died by now. Its bytes, for the caller to free. */
static uint8_t *make_input(int kind, uint64_t seed, size_t *all)
{
    uint64_t state = seed * 2 + 1;
    uint8_t ops[PREFIX];
    cl_segment *segment;
    cl_segment_report report;
    cl_segment_plan plan;
    for (int i = 0; i < PREFIX; i++)
        ops[i] = (uint8_t)any(&state);
    made_of about;
    describe(kind, &state, &about, &plan);
    CHECK_IS(cl_segment_new(&segment), 0);
    CHECK_IS(cl_segment_create(segment, NULL, &plan), 0);
    if (kind == BROADCAST)
        ops[OPS_AT] |= 1; /* the writer */
    if (uses[kind])
        uses[kind](segment, ops);
    CHECK_IS(cl_segment_report_of(segment, &report), 0);
    *all = PREFIX + (size_t)report.file_size;
    uint8_t *made = malloc(*all);
    for (int i = 0; i < PREFIX; i++)
        made[i] = (uint8_t)any(&state);
    int may_be = FUZZ_SCRIBBLE | FUZZ_THREAD | (any(&state) % 4 ? 0 : FUZZ_READ_ONLY);
    made[0] = (uint8_t)(kind | (any(&state) % 4 ? FUZZ_REPAIR : 0) | (made[0] & may_be));
    memcpy(made + PREFIX, report.data - report.data_offset, (size_t)report.file_size);
    cl_segment_free(segment);
    return made;
}

#endif
