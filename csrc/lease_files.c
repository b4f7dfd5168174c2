/* Leases where a descriptor cannot be opened anew: there is no /proc, and opening /dev/fd/N only duplicates it.
 *
 * The locks are those of lease_linux.c, but on a file of their own, whose name says which file the segment is (its device and
 * number): who has the segment finds it, whatever name that has or has lost. Nothing is written to it. It has the segment's
 * owner and permissions, so who could open that one can hold it. Every holder has it open twice, to hold and to ask: who holds
 * goes on holding and asking, also when a stranger has removed the name.
 *
 * It is there while somebody holds the segment, and while that has a name. The last holder of one that has none removes it:
 * after it has let go it takes the lock alone, which all others' shared ones prevent, and whoever comes meanwhile looks
 * afterwards whether what it holds still has its name. If each were to try before it lets go, two at once would both fail.
 *
 *     A: opens it     B: has the lock alone, removes it     A: locks what nobody finds: no name, so once more from the start
 *
 * A descriptor of the segment may still be on its way to somebody, who then makes the file anew. He must not when it was
 * removed by somebody else: the daily cleaning of old files does that, and those who hold the old one would seem dead to
 * him. So the last holder says so in the segment, before it removes the file; and if that was not said, nobody can attach any
 * more.
 *
 * What is found there is believed only if the segment's owner is its owner: so a stranger, who may put a file of that name
 * into the directory, can make others fail, but not believe him. */
#include "atomic.h"
#include "internal.h"

#include <sys/stat.h>
#include <unistd.h>

#define HELD_AT (1LL << 62)

enum { TRIES = 100, NAP_NS = 1000000 }; /* those who have it alone are about a few system calls */

const char *cl__lease_magic(void)
{
    return "corelanf"; /* what has its lease in a file */
}

/* ---- locks ----------------------------------------------------------------------------------------------------------- */

static int64_t lock(int fd, short kind, int64_t at)
{
    struct flock range = {.l_type = kind, .l_whence = SEEK_SET, .l_start = HELD_AT + at, .l_len = 1};
    int64_t rc = cl__files_lock(fd, &range);
    return rc == 0 ? 1 : rc == -EAGAIN || rc == -EACCES ? 0 : rc == -EBADF ? -EACCES : rc;
}

static int64_t is_held(int fd, int64_t at)
{
    struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = HELD_AT + at, .l_len = 1};
    int64_t rc = cl__files_ask(fd, &range);
    return rc < 0 ? rc : range.l_type != F_UNLCK;
}

int64_t cl__files_hold(int fd, int kind)
{
    return lock(fd, (short)kind, 0);
}

/* ---- the file -------------------------------------------------------------------------------------------------------- */

static void path_of(const struct stat *segment, char path[CL__HIDDEN_PATH])
{
    cl__hidden_path(path, CL__HIDDEN_LEASE, (uint64_t)segment->st_dev, (uint64_t)segment->st_ino);
}

static int is_same(int fd, const struct stat *other)
{
    struct stat file;
    return fstat(fd, &file) == 0 && file.st_dev == other->st_dev && file.st_ino == other->st_ino;
}

static int64_t open_there(const struct stat *segment)
{
    char path[CL__HIDDEN_PATH];
    struct stat file;
    int flags = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, fd;
    path_of(segment, path);
    do
        fd = open(path, O_RDWR | flags); /* a participant's lock needs one for writing; who may only read can be none */
    while (fd < 0 && errno == EINTR);
    if (fd < 0 && (errno == EACCES || errno == EPERM || errno == EROFS))
        fd = open(path, O_RDONLY | flags);
    if (fd < 0)
        return errno == ENOENT || errno == ELOOP ? -ENOLCK : -errno;
    if (fstat(fd, &file) == 0 && S_ISREG(file.st_mode) && file.st_uid == segment->st_uid)
        return fd;
    close(fd);
    return -ENOLCK; /* a stranger's */
}

/* -EEXIST: somebody else has. */
static int64_t make_it(const struct stat *segment)
{
    char path[CL__HIDDEN_PATH];
    struct stat file;
    path_of(segment, path);
    if (geteuid() != segment->st_uid && geteuid() != 0)
        return -EACCES; /* it would be ours, and nobody else would believe in it */
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, S_IRUSR | S_IWUSR);
    if (fd < 0)
        return errno == EINTR ? -EEXIST : -errno;
    if (fstat(fd, &file) == 0 && fchmod(fd, segment->st_mode & 0777) == 0 &&
        ((file.st_uid == segment->st_uid && file.st_gid == segment->st_gid) ||
         fchown(fd, segment->st_uid, segment->st_gid) == 0))
        return fd;
    int error = errno;
    unlink(path);
    close(fd);
    return -error;
}

/* One that is there already is of another file, which had our number and is gone; its holders would have kept that. */
static int64_t make_first(const struct stat *segment)
{
    char path[CL__HIDDEN_PATH];
    int64_t rc = make_it(segment);
    if (rc != -EEXIST)
        return rc;
    path_of(segment, path);
    return unlink(path) < 0 && errno != ENOENT ? -errno : -EEXIST;
}

static int was_removed_by_the_last(int segment)
{
    uint32_t said = 0;
    return pread(segment, &said, sizeof said, CL__LEASE_GONE_AT) == sizeof said && said != 0;
}

/* By whoever may write; who may not cannot be a participant either, whom somebody could take for dead. */
static void say_removed(int segment, uint32_t said)
{
    (void)!pwrite(segment, &said, sizeof said, CL__LEASE_GONE_AT);
}

/* ---- holding --------------------------------------------------------------------------------------------------------- */

/* -EAGAIN: once more. */
static int64_t try_to_hold(cl__lease *lease, int fd, const struct stat *segment, int makes)
{
    struct stat file;
    int was_removed = 0;
    CL_FAULT(400);
    int64_t own = makes ? make_first(segment) : open_there(segment), asks = -1;
    if (own == -ENOLCK && !makes) { /* said before it is removed, so it is looked at after that */
        was_removed = was_removed_by_the_last(fd);
        own = was_removed ? make_it(segment) : own;
    }
    if (own < 0)
        return own == -EEXIST ? -EAGAIN : own;
    CL_FAULT(401);
    int64_t rc = lock((int)own, F_RDLCK, 0);
    rc = rc == 0 ? -EAGAIN : rc;
    if (rc > 0)
        asks = open_there(segment);
    if (rc > 0 && (asks < 0 || fstat((int)own, &file) < 0 || file.st_nlink == 0 || !is_same((int)asks, &file)))
        rc = asks < 0 && asks != -ENOLCK ? asks : -EAGAIN;
    if (rc < 0) {
        close((int)own);
        if (asks >= 0)
            close((int)asks);
        return rc;
    }
    if (was_removed || was_removed_by_the_last(fd))
        say_removed(fd, 0);
    lease->own = (int)own;
    cl__store_relaxed(&lease->asks, (int)asks); /* partner: cl__lease_part_is_held */
    return 0;
}

int64_t cl__lease_open(cl__lease *lease, int fd, int makes)
{
    struct stat segment;
    lease->own = -1;
    cl__store_relaxed(&lease->asks, -1);
    if (fstat(fd, &segment) < 0)
        return -errno;
    int64_t rc = try_to_hold(lease, fd, &segment, makes);
    for (int i = 0; i < TRIES && rc == -EAGAIN; i++) {
        cl__sys_nap(NAP_NS);
        rc = try_to_hold(lease, fd, &segment, makes);
    }
    return rc;
}

/* Whether its name is its own. If so, and it is ours alone, nobody else can have it, or take the name. */
static int has_its_name(int lease, const struct stat *segment, char path[CL__HIDDEN_PATH])
{
    struct stat there;
    path_of(segment, path);
    return lstat(path, &there) == 0 && is_same(lease, &there);
}

void cl__lease_close(cl__lease *lease, int fd)
{
    char path[CL__HIDDEN_PATH];
    struct stat segment;
    int held = lease->own >= 0;
    if (held)
        close(lease->own); /* not unlocked: a child that was forked just now holds by it until it has its own */
    lease->own = -1;
    CL_FAULT(402);
    /* Another one may have done all this meanwhile, and somebody may hold one that he has made. */
    if (held && fd >= 0 && fstat(fd, &segment) == 0 && segment.st_nlink == 0 && lock(lease->asks, F_WRLCK, 0) == 1 &&
        has_its_name(lease->asks, &segment, path)) {
        say_removed(fd, 1);
        CL_FAULT(403);
        unlink(path);
    }
    cl__lease_forget(lease);
}

void cl__lease_forget(cl__lease *lease)
{
    if (lease->own >= 0)
        close(lease->own);
    int asks = cl__load_relaxed(&lease->asks);
    lease->own = -1;
    cl__store_relaxed(&lease->asks, -1); /* partner: as above; what is asked of another file meanwhile does not matter */
    if (asks >= 0)
        close(asks);
}

/* ---- asking ---------------------------------------------------------------------------------------------------------- */

int64_t cl__lease_is_held(int fd)
{
    struct stat segment;
    if (fstat(fd, &segment) < 0)
        return -errno;
    int64_t own = open_there(&segment);
    if (own < 0)
        return own == -ENOLCK ? 0 : own;
    int64_t rc = is_held((int)own, 0);
    close((int)own);
    return rc;
}

int64_t cl__lease_take(int fd, int *own)
{
    struct stat segment;
    *own = -1;
    if (fstat(fd, &segment) < 0)
        return -errno;
    int64_t opened = open_there(&segment);
    if (opened < 0)
        return opened == -ENOLCK ? 1 : opened; /* nobody can attach it any more */
    int64_t rc = lock((int)opened, F_WRLCK, 0);
    if (rc == 1)
        *own = (int)opened;
    else
        close((int)opened);
    return rc;
}

void cl__lease_give_back(int fd, int own)
{
    char path[CL__HIDDEN_PATH];
    struct stat segment;
    if (own < 0)
        return;
    CL_FAULT(404);
    if (fstat(fd, &segment) == 0 && segment.st_nlink == 0 && has_its_name(own, &segment, path))
        unlink(path);
    close(own);
}

int64_t cl__lease_part_is_held(const cl__lease *lease, int part)
{
    return is_held(cl__load_relaxed(&lease->asks), 1 + part); /* partner: the stores above */
}

int64_t cl__lease_take_part(int own, int part)
{
    return lock(own, F_WRLCK, 1 + part);
}

void cl__lease_drop_part(int own, int part)
{
    lock(own, F_UNLCK, 1 + part);
}

/* The one that asks: no other thread takes a part through it, as they are one after the other, nor a forked child, which has
 * another. Who asks through it meanwhile finds nobody there, and tries the same. */
int64_t cl__lease_open_bare(const cl__lease *lease, int fd)
{
    (void)fd;
    int asks = cl__load_relaxed(&lease->asks);
    return asks < 0 ? -EBADF : asks;
}

void cl__lease_close_bare(const cl__lease *lease, int bare)
{
    (void)lease, (void)bare;
}
