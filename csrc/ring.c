/* Rings: one producer, one consumer, records of any size.
 *
 *     control     tail       one line each, 128 bytes: processors fetch pairs of lines. Written by the producer, or by
 *                 head       the consumer; never both in one, or each write would take the line from the other side
 *                 door [0]   where the producer waits for room; read by the consumer after each release
 *                 door [1]   where the consumer waits for records; read by the producer after each commit
 *                 tally [0]  what each side counts; of interest to nobody else until somebody asks
 *                 tally [1]
 *     records     capacity bytes, mapped twice, one behind the other: what goes over the end goes on at the beginning,
 *                 and no record is in two pieces
 *
 * head and tail count bytes since the ring was made: they never go back, and 2^64 bytes never pass. From head to tail are the
 * records that were committed and not released; each is a length of 8 bytes, that many bytes, and up to 7 that mean nothing.
 *
 * Each side has a copy of its own index and of the last it saw of the other's; it looks at the other's line only when its
 * copy says full, or empty. Whatever is read from shared memory is read once, into a local, and checked before it is used:
 * the other side may be broken, or hostile. What it can do to us is garbage in a record, a record it does not send, and a
 * wait in vain; it cannot make us read or write outside the records.
 *
 * Death: a commit is one store of tail. Whoever is killed before it has put nothing, after it everything; the same holds
 * for release and head. A successor begins with the indexes as they are. */
#include "ring.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LARGEST (1LL << 40)

/* ---- shape ---------------------------------------------------------------------------------------------------------- */

int64_t cl_ring_describe(int64_t least, int32_t page_shift, cl_ring_about *out)
{
    int64_t page = page_shift ? 1LL << page_shift : sysconf(_SC_PAGESIZE);
    if (least < 1 || page_shift < 0 || page_shift > 36)
        return -EINVAL;
    if (least > LARGEST)
        return -ENOMEM;
    int64_t capacity = page;
    while (capacity < least)
        capacity *= 2;
    int64_t records = (CL_SEGMENT_HEADER + CL__RING_CONTROL + page - 1) / page * page;
    *out = (cl_ring_about){.capacity = capacity,
                           .control = 0,
                           .records = records,
                           .page = page,
                           .size = records - CL_SEGMENT_HEADER + capacity};
    return 0;
}

static int is_power_of_two(int64_t number)
{
    return number > 0 && (number & (number - 1)) == 0;
}

/* A copy, of which nobody else can make something else after it was checked. */
static int64_t check_about(const cl_segment_report *segment, cl_ring_about *about)
{
    if (segment->data_offset < CL_SEGMENT_ABOUT + (int64_t)sizeof *about)
        return -EBADMSG;
    memcpy(about, segment->data - segment->data_offset + CL_SEGMENT_ABOUT, sizeof *about);
    int64_t first = segment->data_offset + CL__RING_CONTROL;
    if (segment->data_offset % CL__RING_LINE || !is_power_of_two(about->capacity) || !is_power_of_two(about->page) || about->page % sysconf(_SC_PAGESIZE) != 0 ||
        about->flags & ~(int64_t)CL_RING_MEMBARRIER ||
        about->capacity > LARGEST || about->capacity % about->page || about->control != 0 || about->records < first ||
        about->records % about->page || segment->size < CL__RING_CONTROL ||
        about->records > segment->data_offset + segment->size - about->capacity)
        return -EBADMSG;
    return 0;
}

/* Twice, one behind the other, at a multiple of the page's size. */
static int64_t map_twice(cl_ring *ring, int fd, const cl_ring_about *about, int flags)
{
    size_t capacity = (size_t)about->capacity, page = (size_t)about->page, size = 2 * capacity + page;
    int protection = ring->read_only ? PROT_READ : PROT_READ | PROT_WRITE;
    uint8_t *base = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANON | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return -errno;
    ring->mapping = base;
    ring->mapped = size;
    ring->records = base + (page - (uintptr_t)base % page) % page;
    for (int i = 0; i < 2; i++)
        if (mmap(ring->records + i * capacity, capacity, protection, MAP_SHARED | MAP_FIXED | flags, fd,
                 (off_t)about->records) == MAP_FAILED)
            return -errno;
    return 0;
}

int64_t cl_ring_open(cl_ring **out, cl_segment *segment, int32_t populate)
{
    cl_segment_report report;
    cl_ring_about about;
    void *memory;
    cl_segment_report_of(segment, &report);
    if (!report.data || report.fd < 0)
        return -EBADF;
    int64_t rc = check_about(&report, &about);
    int has_membarrier = (about.flags & CL_RING_MEMBARRIER) != 0;
    if (rc == 0 && has_membarrier && !report.read_only)
        rc = cl__membarrier_register();
    if (rc < 0)
        return rc;
    if (posix_memalign(&memory, CL__RING_LINE, sizeof(cl_ring)))
        return -ENOMEM;
    cl_ring *ring = memset(memory, 0, sizeof *ring);
    ring->segment = segment;
    ring->generation = cl__segment_generation(segment);
    ring->shared = (cl__control *)(report.data + about.control);
    ring->capacity = (uint64_t)about.capacity;
    ring->mask = ring->capacity - 1;
    ring->read_only = report.read_only;
    ring->has_membarrier = has_membarrier;
    for (int i = 0; i < CL_RING_SIDES; i++) {
        ring->sides[i].waiter.has_membarrier = has_membarrier;
        ring->sides[i].bell = (cl__bell){.ends = {-1, -1}};
        ring->sides[i].ringer.fd = -1;
    }
    cl_ring_set_spin(ring, CL__SPIN_NS);
    int flag = populate ? cl__memory_populates() : 0;
    rc = map_twice(ring, (int)report.fd, &about, flag);
    if (rc == 0 && populate && !flag)
        rc = cl__memory_populate(ring->records, 2 * (size_t)about.capacity, !ring->read_only);
    if (rc < 0) {
        cl_ring_free(ring);
        return rc;
    }
    *out = ring;
    return 0;
}

void cl_ring_free(cl_ring *ring)
{
    if (!ring)
        return;
    for (int i = 0; i < CL_RING_SIDES; i++) {
        cl__bell_close(&ring->sides[i].bell);
        cl__ringer_close(&ring->sides[i].ringer);
    }
    if (ring->mapping)
        munmap(ring->mapping, ring->mapped);
    free(ring);
}

/* ---- what is wrong ---------------------------------------------------------------------------------------------------- */

__attribute__((cold, noinline)) static int64_t poison(cl_ring *ring, int fault, uint64_t found, uint64_t expected)
{
    ring->fault = fault;
    ring->found = found;
    ring->expected = expected;
    for (int i = 0; i < CL_RING_SIDES; i++)
        cl__store_relaxed(&ring->sides[i].generation, 0); /* the other side's thread finds out when it looks */
    return -EBADMSG;
}

__attribute__((cold)) int64_t cl__ring_why_not(const cl_ring *ring, const cl__side *mine)
{
    /* Partner: the exchange in cl_ring_close. */
    return cl__load(&ring->is_closed) ? -EBADF : ring->fault ? -EBADMSG : mine->was_taken ? -ESTALE : -ENOTCONN;
}

/* Whether two indexes can be those of a ring. */
static inline int64_t check_distance(cl_ring *ring, uint64_t head, uint64_t tail)
{
    if (tail - head > ring->capacity)
        return poison(ring, CL_RING_DISTANCE, tail - head, ring->capacity);
    if ((head | tail) % 8)
        return poison(ring, CL_RING_ALIGNMENT, head % 8 ? head : tail, 8);
    return 0;
}

static inline void count_most(cl_ring *ring, int which, uint64_t depth)
{
    cl__side *mine = &ring->sides[which];
    if (depth > mine->most) {
        mine->most = depth;
        cl__store_relaxed(&ring->shared->tallies[which].most, depth);
    }
}

static inline void count(cl_ring *ring, int which)
{
    cl__side *mine = &ring->sides[which];
    cl__tally *told = &ring->shared->tallies[which];
    cl__store_relaxed(&told->records, mine->records_all += mine->count);
    cl__store_relaxed(&told->bytes, mine->bytes_all += mine->bytes);
    mine->count = mine->bytes = 0;
}

/* ---- sides ------------------------------------------------------------------------------------------------------------ */

/* Counted, for is_dead: who is OPEN now may be another one than before. */
static void set_state(_Atomic uint32_t *word, uint32_t off, uint32_t on)
{
    uint32_t seen = cl__load_relaxed(word);
    CL_FAULT(1);
    while (!cl__swap_if(word, &seen, ((seen & ~off) | on) + CL__COUNT)) /* partner: the loads there and in is_dead */
        continue;
}

/* Wake whoever asks at the door of `which`: we are the side opposite. */
static uint32_t wake_side(cl_ring *ring, int which)
{
    cl__door *door = &ring->shared->doors[which];
    cl__store_relaxed(&door->wake_at, INT64_MAX); /* partner: the CAS in say_when; ordered by cl__serve */
    uint32_t asked = cl__serve(&door->word);
    if (asked & CL__POLL)
        cl__bell_ring(&ring->sides[!which].ringer, &door->bell);
    return asked;
}

int64_t cl_ring_take(cl_ring *ring, int32_t which)
{
    if (which < 0 || which >= CL_RING_SIDES)
        return -EINVAL;
    cl__side *mine = &ring->sides[which];
    if (ring->fault || cl__load(&ring->is_closed)) /* partner: the exchange in cl_ring_close */
        return cl__ring_why_not(ring, mine);
    if (cl__ring_is_ours(ring, mine))
        return 0;
    if (ring->read_only)
        return -EACCES;
    uint32_t generation = cl__load_relaxed(ring->generation);
    int64_t rc = ring->has_membarrier ? cl__membarrier_register() : 0; /* before we publish anything */
    if (rc < 0)
        return rc;
    rc = cl__segment_take_part(ring->segment, which);
    if (rc <= 0)
        return rc < 0 ? rc : -EBUSY;
    /* From here on we are alone on this side, but for a stranger's scribbling. The acquires: partners are the exchanges of
     * whoever had it before us; that it is gone we know from the kernel. */
    cl__door *door = &ring->shared->doors[which];
    uint64_t head = cl__ring_index(ring, CL_RING_CONSUMER), tail = cl__ring_index(ring, CL_RING_PRODUCER);
    rc = check_distance(ring, head, tail);
    if (rc < 0) {
        cl__segment_drop_part(ring->segment, which);
        return rc;
    }
    cl__bell_close(&mine->bell); /* if we have it, it was our parent's */
    uint64_t index = which == CL_RING_PRODUCER ? tail : head;
    cl__tally *told = &ring->shared->tallies[which];
    cl__store_relaxed(&mine->index, index);
    mine->cursor = index;
    mine->other = which == CL_RING_PRODUCER ? head : tail;
    mine->count = mine->bytes = mine->reserved = 0;
    mine->records_all = cl__load_relaxed(&told->records);
    mine->bytes_all = cl__load_relaxed(&told->bytes);
    mine->most = cl__load_relaxed(&told->most);
    /* OPEN under a lease that was free: whoever opened it has not closed it. */
    int died = (cl__load_acquire(&door->word) & CL__OPEN) != 0; /* partner: set_state */
    mine->died = died ? cl__load_relaxed(&door->pid) : 0;
    CL_FAULT(2);
    cl__store_relaxed(&door->pid, cl__sys_getpid());
    set_state(&door->word, CL__CLOSED, CL__OPEN);
    mine->was_taken = 1;
    cl__exchange(&mine->generation, generation); /* partner: cl_ring_close, which sees this, or is seen */
    if (cl__load(&ring->is_closed)) {
        cl_ring_leave(ring, which);
        return -EBADF;
    }
    return died;
}

/* A thread that waits in the side that is left here would take it anew, if it were not told that it is for good. */
int64_t cl_ring_close(cl_ring *ring)
{
    cl__exchange(&ring->is_closed, 1); /* partner: the load in cl_ring_take */
    for (int i = 0; i < CL_RING_SIDES; i++)
        cl_ring_leave(ring, i);
    return 0;
}

int64_t cl_ring_leave(cl_ring *ring, int32_t which)
{
    if (which < 0 || which >= CL_RING_SIDES)
        return -EINVAL;
    cl__side *mine = &ring->sides[which];
    int ours = cl__ring_is_ours(ring, mine) || ring->fault;
    cl__store_relaxed(&mine->generation, 0);
    /* Two may come here at once, and one of them has it to give up, or a descriptor would be closed twice:
     *
     *     A: takes it     B: closes the ring, leaves it     A: finds that the ring is closed, leaves it */
    if (!ours || !cl__exchange(&mine->was_taken, 0)) /* partner: the same of another thread */
        return 0;
    /* First the word, then the lease: a waiter that finds the lease free looks at the word once more, and so takes nobody for
     * dead who has closed. Killed in between, we have closed. */
    set_state(&ring->shared->doors[which].word, CL__OPEN, CL__CLOSED);
    wake_side(ring, !which);
    cl__serve(&ring->shared->doors[which].word); /* another thread of ours may sleep there */
    CL_FAULT(3);
    cl__segment_drop_part(ring->segment, which);
    cl__bell_close(&mine->bell);
    cl__ringer_close(&mine->ringer);
    return 0;
}

/* ---- producer --------------------------------------------------------------------------------------------------------- */

/* Whether so many bytes fit behind the cursor. */
static inline int64_t make_room(cl_ring *ring, cl__side *mine, uint64_t needed)
{
    if (!cl__ring_is_ours(ring, mine))
        return cl__ring_why_not(ring, mine);
    if (cl__load_relaxed(&ring->shared->doors[CL_RING_CONSUMER].word) & CL__CLOSED)
        return -EPIPE;
    if (mine->cursor + needed - mine->other <= ring->capacity)
        return 0;
    CL_FAULT(4);
    /* Partner: W1 in release_all. The consumer has read what lies before it, so it may be written over. */
    uint64_t head = cl__load_acquire(&ring->shared->head), tail = cl__load_relaxed(&mine->index);
    int64_t rc = check_distance(ring, head, tail);
    if (rc < 0)
        return rc;
    mine->other = head;
    count_most(ring, CL_RING_PRODUCER, tail - head);
    return mine->cursor + needed - head <= ring->capacity ? 0 : -EAGAIN;
}

static inline int64_t reserve(cl_ring *ring, cl__side *mine, int64_t size, uint8_t **out)
{
    if (size < 0 || (uint64_t)size > ring->capacity - CL_RING_HEADER)
        return -EMSGSIZE;
    int64_t rc = make_room(ring, mine, cl__ring_room((uint64_t)size));
    if (rc < 0)
        return rc;
    *out = ring->records + (mine->cursor & ring->mask) + CL_RING_HEADER;
    return 0;
}

static inline void add(cl_ring *ring, cl__side *mine, uint64_t size)
{
    memcpy(ring->records + (mine->cursor & ring->mask), &size, sizeof size);
    mine->cursor += cl__ring_room(size);
    mine->bytes += size;
    mine->count++;
    mine->reserved = 0;
}

static inline void serve(cl_ring *ring, int which)
{
    if (wake_side(ring, !which)) {
        cl__tally *told = &ring->shared->tallies[which];
        cl__store_relaxed(&told->wakes, cl__load_relaxed(&told->wakes) + 1);
    }
}

static inline int64_t commit_all(cl_ring *ring, cl__side *mine)
{
    uint64_t tail = mine->cursor;
    int64_t done = (int64_t)mine->count;
    CL_FAULT(5);
    cl__publish(&ring->shared->tail, tail, ring->has_membarrier); /* W1. Partners: the acquire in peek, and W4 in is_there */
    cl__store_relaxed(&mine->index, tail);
    CL_FAULT(6);
    if (cl__load(&ring->shared->doors[CL_RING_CONSUMER].word) & CL__ASKS) /* W3 */
        serve(ring, CL_RING_PRODUCER);
    count(ring, CL_RING_PRODUCER);
    return done;
}

int64_t cl_ring_reserve(cl_ring *ring, int64_t size, uint8_t **out)
{
    cl__side *mine = &ring->sides[CL_RING_PRODUCER];
    int64_t rc = reserve(ring, mine, size, out);
    mine->reserved = rc < 0 ? 0 : (uint64_t)size + 1;
    return rc;
}

int64_t cl_ring_add(cl_ring *ring, int64_t size)
{
    cl__side *mine = &ring->sides[CL_RING_PRODUCER];
    if (!cl__ring_is_ours(ring, mine))
        return cl__ring_why_not(ring, mine);
    if (size < 0 || (uint64_t)size >= mine->reserved)
        return -EINVAL;
    add(ring, mine, (uint64_t)size);
    return 0;
}

int64_t cl_ring_commit(cl_ring *ring)
{
    cl__side *mine = &ring->sides[CL_RING_PRODUCER];
    if (!cl__ring_is_ours(ring, mine))
        return cl__ring_why_not(ring, mine);
    return mine->count ? commit_all(ring, mine) : 0;
}

void cl_ring_abandon(cl_ring *ring)
{
    cl__side *mine = &ring->sides[CL_RING_PRODUCER];
    mine->cursor = cl__load_relaxed(&mine->index);
    mine->reserved = mine->count = mine->bytes = 0;
}

int64_t cl_ring_try_put(cl_ring *ring, const void *data, int64_t size)
{
    cl__side *mine = &ring->sides[CL_RING_PRODUCER];
    uint8_t *out;
    int64_t rc = reserve(ring, mine, size, &out);
    if (rc < 0)
        return rc;
    if (size) /* of nothing, `data` may be NULL */
        memcpy(out, data, (size_t)size);
    add(ring, mine, (uint64_t)size);
    commit_all(ring, mine);
    return 0;
}

int64_t cl_ring_try_put_many(cl_ring *ring, const void *data, int64_t size, int64_t count)
{
    cl__side *mine = &ring->sides[CL_RING_PRODUCER];
    const uint8_t *from = data;
    uint8_t *out;
    int64_t rc = 0;
    if (count < 1)
        return count < 0 ? -EINVAL : 0;
    for (int64_t i = 0; i < count; i++, from += size) {
        rc = reserve(ring, mine, size, &out);
        if (rc < 0)
            break;
        if (size)
            memcpy(out, from, (size_t)size);
        add(ring, mine, (uint64_t)size);
    }
    if (rc < 0 && (rc != -EAGAIN || !mine->count))
        return rc;
    return commit_all(ring, mine);
}

/* ---- consumer --------------------------------------------------------------------------------------------------------- */

/* Nothing behind the cursor, as far as we knew. */
static int64_t look_for_more(cl_ring *ring, cl__side *mine)
{
    int closed = 0;
    for (;;) {
        CL_FAULT(7);
        uint64_t tail = cl__load_acquire(&ring->shared->tail); /* partner: W1 in commit_all */
        int64_t rc = check_distance(ring, mine->cursor, tail);
        if (rc < 0)
            return rc;
        mine->other = tail;
        if (tail != mine->cursor) {
            count_most(ring, CL_RING_CONSUMER, tail - cl__load_relaxed(&mine->index));
            return 0;
        }
        if (closed)
            return -EPIPE;
        /* What was committed before it closed may have come after our look: look again. Partner: set_state. */
        closed = (cl__load_acquire(&ring->shared->doors[CL_RING_PRODUCER].word) & CL__CLOSED) != 0;
        if (!closed)
            return -EAGAIN;
    }
}

static inline int64_t peek(cl_ring *ring, cl__side *mine, const uint8_t **data, int64_t *size)
{
    if (!cl__ring_is_ours(ring, mine))
        return cl__ring_why_not(ring, mine);
    if (mine->other == mine->cursor) {
        int64_t rc = look_for_more(ring, mine);
        if (rc < 0)
            return rc;
    }
    /* check_distance has seen to it that this is at least 8, and at most the capacity. */
    uint64_t there = mine->other - mine->cursor - CL_RING_HEADER, length;
    const uint8_t *at = ring->records + (mine->cursor & ring->mask);
    length = cl__load_relaxed((const _Atomic uint64_t *)at); /* once: it may change under us */
    if (length > there || ((length + 7) & ~7ULL) > there)
        return poison(ring, CL_RING_LENGTH, length, there);
    *data = at + CL_RING_HEADER;
    *size = (int64_t)length;
    return 0;
}

static inline void pass(cl__side *mine, int64_t size)
{
    mine->cursor += cl__ring_room((uint64_t)size);
    mine->bytes += (uint64_t)size;
    mine->count++;
}

static inline int64_t release_all(cl_ring *ring, cl__side *mine)
{
    uint64_t head = mine->cursor;
    int64_t done = (int64_t)mine->count;
    cl__door *door = &ring->shared->doors[CL_RING_PRODUCER];
    CL_FAULT(8);
    cl__publish(&ring->shared->head, head, ring->has_membarrier); /* W1. Partners: the acquire in make_room, and W4 in is_there */
    cl__store_relaxed(&mine->index, head);
    CL_FAULT(9);
    /* W3. A producer that sleeps because it is full wants to be woken when there is room for some, not for each: see
     * say_when. */
    if (cl__load(&door->word) & CL__ASKS && (int64_t)head >= cl__load(&door->wake_at))
        serve(ring, CL_RING_CONSUMER);
    count(ring, CL_RING_CONSUMER);
    return done;
}

int64_t cl_ring_peek(cl_ring *ring, const uint8_t **data, int64_t *size)
{
    cl__side *mine = &ring->sides[CL_RING_CONSUMER];
    int64_t rc = peek(ring, mine, data, size);
    if (rc == 0)
        pass(mine, *size);
    return rc;
}

int64_t cl_ring_release(cl_ring *ring)
{
    cl__side *mine = &ring->sides[CL_RING_CONSUMER];
    if (!cl__ring_is_ours(ring, mine))
        return cl__ring_why_not(ring, mine);
    return mine->count ? release_all(ring, mine) : 0;
}

void cl_ring_rewind(cl_ring *ring)
{
    cl__side *mine = &ring->sides[CL_RING_CONSUMER];
    mine->cursor = cl__load_relaxed(&mine->index);
    mine->count = mine->bytes = 0;
}

int64_t cl_ring_try_get(cl_ring *ring, void *out, int64_t room, int64_t *needs)
{
    cl__side *mine = &ring->sides[CL_RING_CONSUMER];
    const uint8_t *data = NULL;
    int64_t size = 0;
    int64_t rc = peek(ring, mine, &data, &size);
    if (rc < 0)
        return rc;
    *needs = size;
    if (size > room)
        return -EMSGSIZE;
    if (size)
        memcpy(out, data, (size_t)size);
    pass(mine, size);
    release_all(ring, mine);
    return size;
}

int64_t cl_ring_try_get_many(cl_ring *ring, void *out, int64_t size, int64_t count, int64_t *needs)
{
    cl__side *mine = &ring->sides[CL_RING_CONSUMER];
    const uint8_t *data = NULL;
    uint8_t *to = out;
    int64_t got = 0, rc = 0, done = 0;
    if (count < 1)
        return count < 0 ? -EINVAL : 0;
    for (; done < count; done++, to += size) {
        rc = peek(ring, mine, &data, &got);
        if (rc < 0)
            break;
        if (got != size) {
            *needs = got;
            rc = -EMSGSIZE;
            break;
        }
        if (size)
            memcpy(to, data, (size_t)size);
        pass(mine, size);
    }
    if (done == 0)
        return rc;
    /* What we have is good, whatever comes after it: it will be said the next time. */
    release_all(ring, mine);
    return done;
}
