/* Bells that are FIFOs, where no descriptor of another process can be opened. Their names are the mark: nobody else's begin like
 * that. In that directory, which is sticky, nobody but its owner can put another file in the place of one that was looked at; and
 * what was opened is looked at once more. Whoever closes a bell removes its name, but not a forked child: it is the parent's
 * still. What a killed one leaves is removed by cl_segment_sweep. */
#include "atomic.h"
#include "wake.h"

#include <sys/stat.h>
#include <unistd.h>

static void path_of(int64_t pid, int32_t number, char path[CL__HIDDEN_PATH])
{
    cl__hidden_path(path, CL__HIDDEN_BELL, (uint64_t)pid, (uint64_t)number);
}

static int is_ours(const struct stat *file, int64_t inode)
{
    return S_ISFIFO(file->st_mode) && (int64_t)file->st_ino == inode && file->st_uid == geteuid();
}

/* First the end that is read: the other one would find no reader. */
static int64_t open_ends(const char *path, int ends[2], struct stat *file)
{
    int flags = O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC;
    ends[0] = open(path, O_RDONLY | flags);
    ends[1] = ends[0] < 0 ? -1 : open(path, O_WRONLY | flags);
    int64_t rc = ends[1] < 0 || fstat(ends[0], file) < 0 ? -errno : 0;
    for (int i = 0; i < 2 && rc < 0; i++)
        if (ends[i] >= 0)
            close(ends[i]);
    return rc;
}

int64_t cl__bell_make(cl__bell *bell)
{
    static _Atomic uint32_t bells;
    char path[CL__HIDDEN_PATH];
    struct stat file;
    int64_t pid = cl__sys_getpid();
    int32_t number;
    int ends[2];
    do { /* one who had our pid may have left some, and another pid namespace has the same pids */
        number = (int32_t)(cl__add_relaxed(&bells, 1) & INT32_MAX); /* partner: none, it is only to be another one */
        path_of(pid, number, path);
    } while (mkfifo(path, S_IRUSR | S_IWUSR) < 0 && errno == EEXIST);
    int64_t rc = open_ends(path, ends, &file);
    if (rc < 0) {
        unlink(path);
        return rc;
    }
    *bell = (cl__bell){.ends = {ends[0], ends[1]}, .number = number, .maker = pid};
    return (int64_t)file.st_ino;
}

void cl__bell_unmake(const cl__bell *bell)
{
    char path[CL__HIDDEN_PATH];
    if (bell->maker != cl__sys_getpid())
        return;
    path_of(bell->maker, bell->number, path);
    unlink(path);
}

/* It is looked at before it is opened. */
int cl__bell_reach(int64_t pid, int32_t number, int64_t inode)
{
    char path[CL__HIDDEN_PATH];
    struct stat file;
    path_of(pid, number, path);
    if (lstat(path, &file) < 0 || !is_ours(&file, inode))
        return -1;
    CL_FAULT(405);
    int fd = open(path, O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY);
    if (fd >= 0 && (fstat(fd, &file) < 0 || !is_ours(&file, inode))) {
        close(fd);
        fd = -1;
    }
    return fd;
}
