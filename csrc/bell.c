/* Bells: descriptors that become readable when somebody else publishes, for those who wait in an event loop (CL__POLL).
 *
 * A bell is a pipe of the waiter's. In shared memory is where it is: a process, a number, an inode; how that is found is in
 * bell_pipe.c and bell_fifo.c. Whoever rings opens it by that, so nothing has to be passed on. What is written in shared
 * memory may be a stranger's wish, also of one who may not write to the pipe he names, our stdout: so a byte is written only
 * into a pipe of our own user's that is marked as a bell; any other stays silent, and its owner looks by itself within
 * 100 ms. Nothing else is even opened: of a device that alone may do something.
 *
 * The ringer opens both ends: a pipe that its owner has closed must not raise SIGPIPE. */
#include "atomic.h"
#include "wake.h"

#include <unistd.h>

int64_t cl__bell_open(cl__bell *bell, cl__bell_place *place)
{
    if (bell->ends[0] >= 0)
        return bell->ends[0];
    int64_t inode = cl__bell_make(bell);
    if (inode < 0)
        return inode;
    cl__sys_write(bell->ends[1], "", 1); /* whoever waits for it first looks first */
    cl__store_relaxed(&place->number, bell->number);
    cl__store_relaxed(&place->inode, inode);
    cl__store_release(&place->pid, cl__sys_getpid()); /* partner: the acquire in cl__bell_ring; POLL comes after it */
    return bell->ends[0];
}

void cl__bell_close(cl__bell *bell)
{
    if (bell->ends[0] >= 0)
        cl__bell_unmake(bell);
    for (int i = 0; i < 2; i++)
        if (bell->ends[i] >= 0)
            close(bell->ends[i]);
    bell->ends[0] = bell->ends[1] = -1;
}

void cl__bell_silence(cl__bell *bell)
{
    char bytes[64];
    while (bell->ends[0] >= 0 && cl__sys_read(bell->ends[0], bytes, sizeof bytes) == sizeof bytes)
        continue;
}

void cl__bell_ring(cl__ringer *ringer, const cl__bell_place *place)
{
    int64_t pid = cl__load_acquire(&place->pid), inode = cl__load_relaxed(&place->inode); /* partner: cl__bell_open */
    int32_t number = cl__load_relaxed(&place->number);
    if (ringer->fd < 0 || ringer->inode != inode) {
        cl__ringer_close(ringer);
        int fd = pid > 0 && number >= 0 ? cl__bell_reach(pid, number, inode) : -1;
        if (fd < 0)
            return;
        ringer->fd = fd;
        ringer->inode = inode;
    }
    cl__sys_write(ringer->fd, "", 1); /* full: it is readable as it is */
}

/* Forgotten first: another thread may fork in between, and in that child the number would be closed a second time, or rung, when
 * it is another file's. */
void cl__ringer_close(cl__ringer *ringer)
{
    int fd = ringer->fd;
    ringer->fd = -1;
    if (fd >= 0)
        close(fd);
    CL_FAULT(134);
}
