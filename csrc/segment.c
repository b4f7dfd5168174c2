/* Segments.
 *
 *     0             header, written once before the name appears (or before the descriptor is passed on), then only read
 *     256           what its kind says of itself
 *     data_offset   data
 *
 * A holder has a lease: a lock on an open file description of its own, which the kernel gives up when the last descriptor
 * of it is closed, however its process ends. A descriptor that is passed on or inherited, and a mapping, keep a description
 * alive; so the lease's is opened anew and never passed, duplicated or mapped, and a forked child closes it and opens one
 * of its own.
 *
 * Descriptors are opened and closed through libc, not by our own calls: ThreadSanitizer follows them there. */
#include "atomic.h"
#include "internal.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { VERSION = 1, LINE = 64 };

typedef struct header {
    uint64_t magic;
    uint32_t version;
    uint32_t kind;
    uint64_t file_size, data_offset, data_size;
    uint64_t layout;
    int64_t created_ns, creator;
    _Atomic uint32_t ready; /* stored (release) by create, loaded (acquire) by attach: before it nothing else is believed */
    uint32_t lease_gone;    /* lease_files.c's */
} header;

_Static_assert(offsetof(header, lease_gone) == CL__LEASE_GONE_AT, "where leases look for it");

struct cl_segment {
    uint8_t *base;
    size_t mapped;
    _Atomic int fd; /* who waits may ask by it while another thread lets go: what it asks of another file does not matter */
    cl__lease lease;
    _Atomic uint32_t generation;
    /* While it is made: bytes; the path of what has no name yet, or NULL, and the process that made it. */
    int64_t reserved;
    char *hidden;
    int64_t hidden_by;
    cl_segment_report report;
    struct cl_segment *next, *previous; /* of those with a lease */
};

/* ---- those with a lease, for the child of a fork ----------------------------------------------------------------- */

static pthread_mutex_t held_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t held_once = PTHREAD_ONCE_INIT;
static cl_segment *held;
static _Atomic uint32_t forks; /* how often this process's ancestors have forked it, since they had a lease */

static void lock_held(void)
{
    pthread_mutex_lock(&held_lock);
}

static void unlock_held(void)
{
    pthread_mutex_unlock(&held_lock);
}

/* The description we have inherited is the parent's lease: as long as we have it, the parent would not seem dead. */
static void hold_anew(void)
{
    for (cl_segment *each = held; each; each = each->next) {
        /* Ours first: the parent may have let go by now, and between the two nobody would hold it. */
        cl__lease inherited = each->lease;
        int64_t rc = cl__lease_open(&each->lease, each->fd, 0);
        cl__lease_forget(&inherited);
        if (rc < 0) /* it has perhaps taken the last free number */
            cl__lease_open(&each->lease, each->fd, 0);
        cl__add_relaxed(&each->generation, 1); /* partner: none, this thread is alone */
    }
    cl__add_relaxed(&forks, 1); /* partner: none, as above */
    unlock_held();
}

static void watch_forks(void)
{
    pthread_atfork(lock_held, unlock_held, hold_anew);
}

static int64_t hold(cl_segment *segment, int makes)
{
    pthread_once(&held_once, watch_forks);
    lock_held();
    int64_t rc = cl__lease_open(&segment->lease, segment->fd, makes);
    if (rc >= 0) {
        segment->next = held;
        segment->previous = NULL;
        if (held)
            held->previous = segment;
        held = segment;
    }
    unlock_held();
    return rc;
}

static void give_up_lease(cl_segment *segment)
{
    lock_held();
    if (segment->lease.own >= 0 || segment->next || segment->previous || held == segment) {
        if (segment->previous)
            segment->previous->next = segment->next;
        else
            held = segment->next;
        if (segment->next)
            segment->next->previous = segment->previous;
        cl__add_relaxed(&segment->generation, 1); /* partner: this process's threads; before anybody else can have our parts */
        cl__lease_close(&segment->lease, segment->fd);
    }
    segment->next = segment->previous = NULL;
    unlock_held();
}

/* ---- participants ----------------------------------------------------------------------------------------------- */

int64_t cl__segment_take_part(cl_segment *segment, int part)
{
    lock_held();
    int64_t rc = segment->lease.own < 0 ? -EBADF : cl__lease_take_part(segment->lease.own, part);
    unlock_held();
    return rc;
}

void cl__segment_drop_part(cl_segment *segment, int part)
{
    lock_held();
    if (segment->lease.own >= 0)
        cl__lease_drop_part(segment->lease.own, part);
    unlock_held();
}

int64_t cl__segment_part_is_held(const cl_segment *segment, int part)
{
    return cl__lease_part_is_held(&segment->lease, part);
}

int64_t cl__segment_open_bare(const cl_segment *segment)
{
    return cl__lease_open_bare(&segment->lease, segment->fd);
}

void cl__segment_close_bare(const cl_segment *segment, int bare)
{
    cl__lease_close_bare(&segment->lease, bare);
}

const _Atomic uint32_t *cl__segment_generation(const cl_segment *segment)
{
    return &segment->generation;
}

uint32_t cl__segments_forks(void)
{
    return cl__load_relaxed(&forks); /* partner: none, it changes only where one thread is alone */
}

int cl__segment_fd(const cl_segment *segment)
{
    return cl__load_relaxed(&segment->fd); /* partner: as above; between cl__segments_hold_still and _go_on it is not closed */
}

void cl__segments_hold_still(void)
{
    lock_held();
}

void cl__segments_go_on(void)
{
    unlock_held();
}

/* ---- the object --------------------------------------------------------------------------------------------------- */

int64_t cl_segment_new(cl_segment **out)
{
    cl_segment *segment = calloc(1, sizeof *segment);
    if (!segment)
        return -ENOMEM;
    segment->fd = -1;
    segment->lease = (cl__lease){-1, -1};
    atomic_init(&segment->generation, 1);
    segment->report.fd = -1;
    *out = segment;
    return 0;
}

void cl_segment_let_go(cl_segment *segment)
{
    give_up_lease(segment);
    lock_held(); /* two threads may let go at once: a number that is closed twice may be another file's the second time */
    int fd = segment->fd;
    segment->fd = -1;
    segment->report.fd = -1;
    unlock_held();
    if (fd >= 0)
        close(fd);
}

static void undo(cl_segment *segment)
{
    if (segment->hidden && segment->hidden_by == cl__sys_getpid()) /* not in a forked child: it may get its name yet */
        unlink(segment->hidden);
    free(segment->hidden);
    segment->hidden = NULL;
    cl_segment_let_go(segment); /* as one without a name */
    if (segment->base)
        munmap(segment->base, segment->mapped);
    segment->base = NULL;
    segment->report.data = NULL;
}

void cl_segment_free(cl_segment *segment)
{
    if (!segment)
        return;
    undo(segment);
    free(segment);
}

int64_t cl_segment_report_of(const cl_segment *segment, cl_segment_report *out)
{
    *out = segment->report;
    return 0;
}

/* ---- making ------------------------------------------------------------------------------------------------------- */

static int64_t map(cl_segment *segment, size_t size, int flags)
{
    int protection = flags & CL_SEGMENT_READ_ONLY ? PROT_READ : PROT_READ | PROT_WRITE;
    void *base = mmap(NULL, size, protection, MAP_SHARED, segment->fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    segment->base = base;
    segment->mapped = size;
    return 0;
}

/* After the memory is there: else it would come from wherever we run. */
static int64_t settle_pages(cl_segment *segment, int flags)
{
    if (flags & CL_SEGMENT_LOCK && mlock(segment->base, segment->mapped) < 0)
        return -errno;
    if (flags & CL_SEGMENT_POPULATE && !(flags & CL_SEGMENT_LOCK))
        return cl__memory_populate(segment->base, segment->mapped, !(flags & CL_SEGMENT_READ_ONLY));
    return 0;
}

static int64_t file_size_of(const cl_segment_plan *plan, size_t *out)
{
    /* To the byte: who reads it as a file meets its end where the data end. Huge pages are whole ones. */
    int64_t unit = plan->huge_shift ? 1LL << plan->huge_shift : 1, size;
    if (plan->size < 1 || plan->data_offset < CL_SEGMENT_HEADER || plan->data_offset % LINE ||
        plan->about_size < 0 || plan->about_size > plan->data_offset - CL_SEGMENT_ABOUT)
        return -EINVAL;
    if (__builtin_add_overflow(plan->size, plan->data_offset, &size) || __builtin_add_overflow(size, unit - 1, &size))
        return -ENOMEM;
    *out = (size_t)(size / unit * unit);
    return 0;
}

static void write_header(cl_segment *segment, const cl_segment_plan *plan)
{
    header *head = (header *)segment->base;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    memcpy(&head->magic, cl__lease_magic(), sizeof head->magic);
    head->version = VERSION;
    head->kind = (uint32_t)plan->kind;
    head->file_size = segment->mapped;
    head->data_offset = (uint64_t)plan->data_offset;
    head->data_size = (uint64_t)plan->size;
    head->layout = plan->layout;
    if (plan->about)
        memcpy(segment->base + CL_SEGMENT_ABOUT, plan->about, (size_t)plan->about_size);
    head->created_ns = now.tv_sec * CL__NS_PER_S + now.tv_nsec;
    head->creator = cl__sys_getpid();
    cl__store_release(&head->ready, 1); /* partner: the acquire in look_at_header */
}

static void report_of_header(cl_segment_report *report, const header *head)
{
    *report = (cl_segment_report){
        .size = (int64_t)head->data_size,
        .data_offset = (int64_t)head->data_offset,
        .fd = -1,
        .file_size = (int64_t)head->file_size,
        .layout = head->layout,
        .created_ns = head->created_ns,
        .creator = head->creator,
        .kind = (int32_t)head->kind,
    };
}

static void report_from(cl_segment *segment, const header *head, int flags)
{
    report_of_header(&segment->report, head);
    segment->report.data = segment->base + head->data_offset;
    segment->report.fd = segment->fd;
    segment->report.read_only = (flags & CL_SEGMENT_READ_ONLY) != 0;
}

/* In the directory of its name, which it gets when it is whole. */
static int64_t open_beside(cl_segment *segment, const char *path, const cl_segment_plan *plan)
{
    char directory[PATH_MAX];
    const char *slash = strrchr(path, '/');
    if (!slash || slash == path || slash - path >= PATH_MAX)
        return slash && slash != path ? -ENAMETOOLONG : -EINVAL;
    memcpy(directory, path, (size_t)(slash - path));
    directory[slash - path] = '\0';
    int fd = (int)cl__memory_nameless(directory, plan->mode, &segment->hidden);
    if (segment->hidden)
        segment->hidden_by = cl__sys_getpid();
    if (fd < 0)
        return fd;
    /* Whatever the umask says; the owner last, for then it may not be ours any more. */
    if (fchmod(fd, (mode_t)plan->mode) < 0 ||
        ((plan->owner >= 0 || plan->group >= 0) && fchown(fd, (uid_t)plan->owner, (gid_t)plan->group) < 0)) {
        int error = errno;
        close(fd);
        return -error;
    }
    return fd;
}

enum { RESERVE_STEP = 64 << 20 };

/* Step by step: the kernel gives back all that one call has reserved when a signal comes, and with a timer that ticks it
 * would never be done. */
static int64_t reserve(cl_segment *segment, int64_t size)
{
    while (segment->reserved < size) {
        int64_t step = size - segment->reserved;
        step = step > RESERVE_STEP ? RESERVE_STEP : step;
        int64_t rc = cl__memory_reserve(segment->fd, segment->reserved, step);
        if (rc < 0)
            return rc;
        segment->reserved += step;
    }
    return 0;
}

/* A signal between two steps of this must not undo what took long: what is done stays done, and is not done again. */
static int64_t make(cl_segment *segment, const char *path, const cl_segment_plan *plan, size_t size)
{
    int64_t rc;
    if (segment->fd < 0) {
        rc = path ? open_beside(segment, path, plan) : cl__memory_file(plan->huge_shift);
        if (rc < 0)
            return rc;
        segment->fd = (int)rc;
    }
    rc = cl__memory_set_size(segment->fd, (int64_t)size);
    if (rc < 0)
        return rc;
    rc = segment->base ? 0 : map(segment, size, plan->flags);
    if (rc >= 0 && plan->nodes) /* the file's own policy, which whoever touches a page first then follows */
        rc = cl__memory_bind(segment->base, size, plan->node_mode, plan->nodes, plan->node_words);
    if (rc >= 0)
        rc = reserve(segment, (int64_t)size);
    if (rc >= 0)
        rc = settle_pages(segment, plan->flags);
    if (rc < 0)
        return rc;
    write_header(segment, plan);
    if (!path)
        rc = cl__memory_seal(segment->fd);
    if (rc >= 0 && segment->lease.own < 0)
        rc = hold(segment, 1); /* before it has a name: what has one and no holder may be cleaned away */
    if (rc >= 0 && path)
        rc = cl__memory_give_name(segment->fd, path, &segment->hidden);
    return rc;
}

int64_t cl_segment_create(cl_segment *segment, const char *path, const cl_segment_plan *plan)
{
    size_t size;
    if (segment->report.data)
        return -EBUSY;
    int64_t rc = file_size_of(plan, &size);
    if (rc < 0)
        return rc;
    rc = make(segment, path, plan, size);
    if (rc == -EINTR)
        return rc;
    if (rc < 0) {
        undo(segment);
        segment->reserved = 0;
        return rc;
    }
    report_from(segment, (header *)segment->base, plan->flags);
    return 0;
}

/* ---- attaching ---------------------------------------------------------------------------------------------------- */

static int64_t refuse(cl_segment_report *report, int fault, uint64_t found, uint64_t expected)
{
    report->fault = fault;
    report->found = found;
    report->expected = expected;
    return -EBADMSG;
}

/* The header as it is now, into memory that nobody else can write, and what it says against what there is. */
static int64_t look_at_header(int fd, header *head, cl_segment_report *report)
{
    struct stat file;
    if (fstat(fd, &file) < 0)
        return -errno;
    if (!S_ISREG(file.st_mode))
        return refuse(report, CL_SEGMENT_NO_FILE, file.st_mode, S_IFREG);
    if (file.st_size < CL_SEGMENT_HEADER)
        return refuse(report, CL_SEGMENT_SHORT, (uint64_t)file.st_size, CL_SEGMENT_HEADER);
    ssize_t got = pread(fd, head, sizeof *head, 0);
    if (got < 0)
        return -errno;
    if (got < (ssize_t)sizeof *head)
        return refuse(report, CL_SEGMENT_SHORT, (uint64_t)got, CL_SEGMENT_HEADER);
    if (memcmp(&head->magic, cl__lease_magic(), sizeof head->magic) != 0) {
        /* All zeros: one without O_TMPFILE has its name before its header. */
        return refuse(report, head->magic ? CL_SEGMENT_FOREIGN : CL_SEGMENT_NOT_READY, head->magic, 0);
    }
    if (head->version != VERSION)
        return refuse(report, CL_SEGMENT_VERSION, head->version, VERSION);
    if (!cl__load_acquire(&head->ready)) /* partner: the release in write_header */
        return refuse(report, CL_SEGMENT_NOT_READY, 0, 1);
    if (head->file_size != (uint64_t)file.st_size)
        return refuse(report, CL_SEGMENT_RESIZED, (uint64_t)file.st_size, head->file_size);
    if (head->data_offset < CL_SEGMENT_HEADER || head->data_offset % LINE || head->data_offset > head->file_size ||
        head->data_size > head->file_size - head->data_offset)
        return refuse(report, CL_SEGMENT_BOUNDS, head->data_offset + head->data_size, head->file_size);
    return 0;
}

static int64_t borrow(cl_segment *segment, int flags)
{
    struct stat file;
    if (fstat(segment->fd, &file) < 0)
        return -errno;
    if (!S_ISREG(file.st_mode))
        return refuse(&segment->report, CL_SEGMENT_NO_FILE, file.st_mode, S_IFREG);
    if (file.st_size < 1)
        return refuse(&segment->report, CL_SEGMENT_SHORT, 0, 1);
    int64_t rc = map(segment, (size_t)file.st_size, flags);
    rc = rc < 0 ? rc : settle_pages(segment, flags);
    if (rc >= 0)
        segment->report = (cl_segment_report){.data = segment->base,
                                              .size = file.st_size,
                                              .file_size = file.st_size,
                                              .fd = segment->fd,
                                              .read_only = (flags & CL_SEGMENT_READ_ONLY) != 0};
    return rc;
}

static int64_t take(cl_segment *segment, int kind, uint64_t layout, int flags)
{
    header head;
    if (flags & CL_SEGMENT_BORROWED)
        return borrow(segment, flags);
    int64_t rc = look_at_header(segment->fd, &head, &segment->report);
    if (rc < 0)
        return rc;
    if (kind != CL_SEGMENT_ANY && head.kind != (uint32_t)kind)
        return refuse(&segment->report, CL_SEGMENT_KIND, head.kind, (uint64_t)kind);
    if (layout && head.layout != layout)
        return refuse(&segment->report, CL_SEGMENT_LAYOUT, head.layout, layout);
    rc = map(segment, head.file_size, flags);
    rc = rc < 0 ? rc : settle_pages(segment, flags);
    rc = rc < 0 ? rc : hold(segment, 0);
    if (rc == -EAGAIN) /* somebody is cleaning it away */
        return -ENOENT;
    if (rc >= 0)
        report_from(segment, &head, flags);
    return rc;
}

/* We have opened it, it was cleaned away, and only then did we hold it: nobody would find what we write there. */
static int64_t still_has_its_name(const cl_segment *segment)
{
    struct stat file;
    if (fstat(segment->fd, &file) < 0)
        return -errno;
    return file.st_nlink ? 0 : -ENOENT;
}

int64_t cl_segment_attach(cl_segment *segment, int32_t fd, const char *path, int32_t kind, uint64_t layout, int32_t flags)
{
    if (segment->report.data)
        return -EBUSY;
    int access = flags & CL_SEGMENT_READ_ONLY ? O_RDONLY : O_RDWR;
    int64_t rc;
    do /* what is not a file must not make us wait: a FIFO somebody has put there */
        rc = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : open(path, access | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    while (rc < 0 && errno == EINTR);
    if (rc < 0)
        return -errno;
    segment->fd = (int)rc;
    segment->report = (cl_segment_report){.fd = -1};
    rc = take(segment, kind, layout, flags);
    if (rc >= 0 && fd < 0)
        rc = still_has_its_name(segment);
    if (rc == -ENOLCK && fd < 0 && still_has_its_name(segment) == -ENOENT) /* both were cleaned away */
        rc = -ENOENT;
    if (rc < 0)
        undo(segment);
    return rc;
}

/* ---- those that lie around ---------------------------------------------------------------------------------------- */

int64_t cl_segment_is_held(int32_t fd)
{
    return cl__lease_is_held(fd);
}

int64_t cl_segment_peek(int32_t fd, cl_segment_report *out)
{
    header head;
    memset(out, 0, sizeof *out);
    out->fd = -1;
    int64_t rc = look_at_header(fd, &head, out);
    if (rc < 0)
        return rc;
    report_of_header(out, &head);
    return 0;
}

int64_t cl_segment_clean(const char *path)
{
    header head;
    cl_segment_report unused;
    struct stat now, there;
    int own = -1, fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    int64_t rc = look_at_header(fd, &head, &unused);
    if (rc == -EBADMSG && unused.fault != CL_SEGMENT_FOREIGN && unused.fault != CL_SEGMENT_NO_FILE &&
        unused.fault != CL_SEGMENT_SHORT)
        rc = 0; /* ours, and of no use to anybody */
    if (rc >= 0)
        rc = cl__lease_take(fd, &own); /* all of it: nobody can hold it, or begin to, while we have this */
    if (rc == 1) {
        /* Under that name another may be by now: made after somebody else has cleaned this one away. */
        if (fstat(fd, &now) < 0 || lstat(path, &there) < 0)
            rc = -errno;
        else if (now.st_dev != there.st_dev || now.st_ino != there.st_ino)
            rc = -ENOENT;
        else if (unlink(path) < 0)
            rc = -errno;
        cl__lease_give_back(fd, own);
    }
    close(fd);
    return rc;
}
