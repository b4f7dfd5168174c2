/* Files of ours that nobody names, beside the segments: leases, bells, and what is not whole yet. Whoever is killed leaves
 * them there, and `sweep` removes them: never one that somebody has.
 *
 *     .corelane.lease.DEVICE.NUMBER    of the segment whose file that is; see lease_files.c
 *     .corelane.bell.PID.COUNT         see bell_fifo.c
 *     .corelane.part.PID.COUNT         to be a segment, when it is whole */
#include "atomic.h"
#include "internal.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const KINDS[] = {"lease", "bell", "part"};
static const char PREFIX[] = ".corelane.", NAMED[] = "corelane.";

static int write_name(char *name, size_t room, int kind, uint64_t first, uint64_t second)
{
    return snprintf(name, room, "%s%s.%llx.%llx", PREFIX, KINDS[kind], (unsigned long long)first, (unsigned long long)second);
}

void cl__hidden_path(char path[CL__HIDDEN_PATH], int kind, uint64_t first, uint64_t second)
{
    int length = snprintf(path, CL__HIDDEN_PATH, "%s/", cl_segment_directory());
    write_name(path + length, CL__HIDDEN_PATH - (size_t)length, kind, first, second);
}

int64_t cl__hidden_file(const char *directory, char **path)
{
    static _Atomic uint32_t files;
    char made[PATH_MAX];
    int fd, length = snprintf(made, sizeof made - CL__HIDDEN_PATH, "%s/", directory);
    if (length >= (int)sizeof made - CL__HIDDEN_PATH)
        return -ENAMETOOLONG;
    do { /* of a process that had our pid, and was killed, there may be some */
        uint32_t count = cl__add_relaxed(&files, 1); /* partner: none, it is only to be another one */
        write_name(made + length, CL__HIDDEN_PATH, CL__HIDDEN_PART, (uint64_t)cl__sys_getpid(), count);
        fd = open(made, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, S_IRUSR | S_IWUSR);
    } while (fd < 0 && (errno == EEXIST || errno == EINTR));
    if (fd < 0)
        return -errno;
    int64_t rc = cl__files_hold(fd, F_RDLCK);
    *path = rc < 0 ? NULL : strdup(made);
    if (*path)
        return fd;
    unlink(made);
    close(fd);
    return rc < 0 ? rc : -ENOMEM;
}

/* ---- what the dead have left ----------------------------------------------------------------------------------------- */

/* Whether a file of a segment's name is that one. Asked while nobody can hold it: none gets a name meanwhile. */
static int has_a_name(DIR *all, uint64_t device, uint64_t number)
{
    struct dirent *entry;
    struct stat file;
    rewinddir(all);
    while ((entry = readdir(all)))
        if (strncmp(entry->d_name, NAMED, sizeof NAMED - 1) == 0 &&
            fstatat(dirfd(all), entry->d_name, &file, AT_SYMLINK_NOFOLLOW) == 0 && (uint64_t)file.st_dev == device &&
            (uint64_t)file.st_ino == number)
            return 1;
    return 0;
}

/* A lease of nobody's whose segment nobody finds any more, or a file whose maker is dead. */
static int64_t sweep_file(DIR *all, const char *name, int kind, uint64_t first, uint64_t second)
{
    int fd = openat(dirfd(all), name, O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return 0;
    int64_t rc = cl__files_hold(fd, F_WRLCK);
    if (rc == 1)
        rc = (kind != CL__HIDDEN_LEASE || !has_a_name(all, first, second)) && unlinkat(dirfd(all), name, 0) == 0;
    close(fd);
    return rc == 1;
}

static int64_t sweep_bell(DIR *all, const char *name)
{
    int fd = openat(dirfd(all), name, O_WRONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
    int nobody_reads = fd < 0 && errno == ENXIO;
    if (fd >= 0)
        close(fd);
    return nobody_reads && unlinkat(dirfd(all), name, 0) == 0;
}

static int64_t sweep_one(DIR *all, const char *name)
{
    unsigned long long first, second;
    struct stat file;
    char again[CL__HIDDEN_PATH];
    int kind = -1, kinds = sizeof KINDS / sizeof *KINDS;
    const char *rest = NULL;
    for (int i = 0; i < kinds; i++) {
        size_t length = strlen(KINDS[i]);
        if (strncmp(name + sizeof PREFIX - 1, KINDS[i], length) == 0) {
            kind = i;
            rest = name + sizeof PREFIX - 1 + length;
        }
    }
    if (kind < 0 || sscanf(rest, ".%llx.%llx", &first, &second) != 2)
        return 0;
    write_name(again, sizeof again, kind, first, second);
    if (strcmp(again, name) != 0 || fstatat(dirfd(all), name, &file, AT_SYMLINK_NOFOLLOW) < 0)
        return 0;
    /* A maker has its file some steps before it holds it; so whoever made these must have ended, too. */
    if (kind != CL__HIDDEN_LEASE && (kill((pid_t)first, 0) == 0 || errno != ESRCH))
        return 0;
    if (kind == CL__HIDDEN_BELL)
        return S_ISFIFO(file.st_mode) ? sweep_bell(all, name) : 0;
    return S_ISREG(file.st_mode) ? sweep_file(all, name, kind, first, second) : 0;
}

int64_t cl_segment_sweep(void)
{
    struct dirent *entry;
    int64_t removed = 0;
    DIR *names = opendir(cl_segment_directory()), *all = names ? opendir(cl_segment_directory()) : NULL;
    int error = all ? 0 : errno;
    while (all && (entry = readdir(names)))
        if (strncmp(entry->d_name, PREFIX, sizeof PREFIX - 1) == 0)
            removed += sweep_one(all, entry->d_name);
    if (all)
        closedir(all);
    if (names)
        closedir(names);
    return error ? -error : removed;
}
