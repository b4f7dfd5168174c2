/* Waiting for many descriptors with nothing but POSIX: poll, whose price grows with their number. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

int64_t cl__poller_open(cl__poller *poller)
{
    *poller = (cl__poller){.fd = -1, .timer = -1};
    return 0;
}

void cl__poller_close(cl__poller *poller)
{
    free(poller->fds);
    free(poller->keys);
    *poller = (cl__poller){.fd = -1, .timer = -1};
}

static int64_t grow(cl__poller *poller)
{
    size_t room = poller->room ? poller->room * 2 : 64;
    struct pollfd *fds = realloc(poller->fds, room * sizeof *fds);
    if (!fds)
        return -ENOMEM;
    poller->fds = fds;
    uint64_t *keys = realloc(poller->keys, room * sizeof *keys);
    if (!keys)
        return -ENOMEM;
    poller->keys = keys;
    poller->room = room;
    return 0;
}

int64_t cl__poller_add(cl__poller *poller, int fd, int writes, uint64_t key)
{
    int64_t rc = poller->count == poller->room ? grow(poller) : 0;
    if (rc < 0)
        return rc;
    poller->fds[poller->count] = (struct pollfd){.fd = fd, .events = writes ? POLLOUT : POLLIN};
    poller->keys[poller->count++] = key;
    return 0;
}

void cl__poller_remove(cl__poller *poller, int fd)
{
    for (size_t i = 0; i < poller->count; i++) {
        if (poller->fds[i].fd != fd)
            continue;
        poller->fds[i] = poller->fds[--poller->count];
        poller->keys[i] = poller->keys[poller->count];
        return;
    }
}

int64_t cl__poller_wait(cl__poller *poller, cl__ready *out, int most, int64_t span)
{
    int64_t rc = cl__sys_poll(poller->fds, poller->count, span), kept = 0;
    /* From where the last call ended, so that nobody is served only when the others are silent. */
    for (size_t n = 0; rc > 0 && n < poller->count && kept < most; n++) {
        size_t i = (poller->first + n) % poller->count;
        short events = poller->fds[i].revents;
        if (events)
            out[kept++] = (cl__ready){.key = poller->keys[i], .hup = (events & POLLHUP) != 0};
        if (kept == most)
            poller->first = i + 1;
    }
    return rc < 0 ? rc : kept;
}

int64_t cl__poller_arm(cl__poller *poller, int64_t when)
{
    (void)poller, (void)when;
    return -ENOTSUP;
}
