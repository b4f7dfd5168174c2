/* Signalling everything in a cgroup. KILL is one write to cgroup.kill. The kernel has no such file for other signals, so
 * each member gets its own: those go to a crowd that may change meanwhile, and a pid may be reused between reading it and
 * signalling it. Hence, per batch: open a pidfd for each, read the list again, and signal only those still on it. */
#include "internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

enum { BATCH = 64, FIRST_READ = 4096, DEEPEST = 32 };

typedef struct members {
    int *pids; /* sorted */
    size_t count;
} members;

static int by_number(const void *a, const void *b)
{
    int left = *(const int *)a, right = *(const int *)b;
    return (left > right) - (left < right);
}

/* The whole file, NUL-terminated; its size or -errno. */
static int64_t read_list(int dir, char **out)
{
    size_t size = 0, room = FIRST_READ;
    int64_t fd = cl__sys_openat(dir, "cgroup.procs", O_RDONLY), got = fd;
    char *text = fd < 0 ? NULL : malloc(room + 1);
    if (fd >= 0 && !text)
        got = -ENOMEM;
    while (text && (got = cl__sys_read((int)fd, text + size, room - size)) > 0) {
        size += (size_t)got;
        char *grown = size < room ? text : realloc(text, (room *= 2) + 1);
        if (!grown) {
            got = -ENOMEM;
            break;
        }
        text = grown;
    }
    if (fd >= 0)
        cl__sys_close((int)fd);
    if (got < 0) {
        free(text);
        return got;
    }
    text[size] = '\0';
    *out = text;
    return (int64_t)size;
}

static int64_t read_members(int dir, members *out)
{
    char *text;
    int64_t size = read_list(dir, &text);
    if (size < 0)
        return size;
    out->count = 0;
    out->pids = malloc(((size_t)size / 2 + 1) * sizeof *out->pids); /* a line has two characters at least */
    for (char *at = text, *end; out->pids; at = end) {
        long pid = strtol(at, &end, 10);
        if (end == at)
            break; /* the end, or no cgroup's file at all */
        out->pids[out->count++] = (int)pid;
    }
    free(text);
    if (!out->pids)
        return -ENOMEM;
    qsort(out->pids, out->count, sizeof *out->pids, by_number);
    return 0;
}

static int64_t signal_batch(int dir, int signal, const int *pids, size_t count)
{
    int held[BATCH];
    members now;
    int64_t sent = 0;
    for (size_t i = 0; i < count; i++)
        held[i] = cl__watch_pidfd(pids[i]);
    int64_t rc = read_members(dir, &now);
    for (size_t i = 0; i < count; i++) {
        if (held[i] < 0)
            continue; /* it has ended, or there is no room for a descriptor: then KILL will have to do */
        if (rc == 0 && bsearch(&pids[i], now.pids, now.count, sizeof *pids, by_number))
            sent += cl__watch_signal(pids[i], held[i], signal) == 0;
        cl__sys_close(held[i]);
    }
    if (rc == 0)
        free(now.pids);
    return rc < 0 ? rc : sent;
}

static int64_t signal_members(int dir, int signal)
{
    members all;
    int64_t sent = 0, rc = read_members(dir, &all);
    if (rc < 0)
        return rc == -EOPNOTSUPP ? 0 : rc; /* a threaded cgroup lists its processes elsewhere */
    for (size_t at = 0; at < all.count && rc >= 0; at += BATCH) {
        rc = signal_batch(dir, signal, all.pids + at, all.count - at < BATCH ? all.count - at : BATCH);
        sent += rc > 0 ? rc : 0;
    }
    free(all.pids);
    return rc < 0 ? rc : sent;
}

/* This cgroup, and those that the child made below it. */
static int64_t signal_below(int fd, int signal, int depth)
{
    int64_t sent = signal_members(fd, signal);
    int64_t copy = sent < 0 ? sent : cl__sys_openat(fd, ".", O_RDONLY | O_DIRECTORY);
    DIR *dir = copy < 0 ? NULL : fdopendir((int)copy);
    struct dirent *entry;
    if (!dir) {
        if (copy >= 0)
            cl__sys_close((int)copy);
        return sent;
    }
    while (depth < DEEPEST && (entry = readdir(dir))) {
        if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
            continue;
        int64_t below = cl__sys_openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY);
        int64_t more = below < 0 ? 0 : signal_below((int)below, signal, depth + 1);
        sent += more > 0 ? more : 0;
        if (below >= 0)
            cl__sys_close((int)below);
    }
    closedir(dir);
    return sent;
}

static int64_t gone_is_empty(int64_t rc)
{
    return rc == -ENOENT || rc == -ENODEV ? -ESRCH : rc; /* somebody has moved its members away and removed it */
}

int64_t cl__cgroup_signal(int dir, int signal)
{
    int64_t sent = gone_is_empty(signal_below(dir, signal, 0));
    return sent < 0 ? sent : sent ? 0 : -ESRCH;
}

int64_t cl__cgroup_kill(int file)
{
    int64_t rc = gone_is_empty(cl__sys_write(file, "1", 1));
    return rc < 0 ? rc : 0;
}
