/* No leases: the platform's own locks are not used yet. */
#include "internal.h"

int64_t cl__lease_open(int fd)
{
    (void)fd;
    return -ENOTSUP;
}

int64_t cl__lease_is_held(int fd)
{
    (void)fd;
    return -ENOTSUP;
}

int64_t cl__lease_take(int fd)
{
    (void)fd;
    return -ENOTSUP;
}

int64_t cl__lease_part_is_held(int fd, int part)
{
    (void)fd, (void)part;
    return -ENOTSUP;
}

int64_t cl__lease_take_part(int lease, int part)
{
    (void)lease, (void)part;
    return -ENOTSUP;
}

void cl__lease_drop_part(int lease, int part)
{
    (void)lease, (void)part;
}

int64_t cl__lease_open_bare(int fd)
{
    (void)fd;
    return -ENOTSUP;
}

int cl__fd_is_eventfd(int fd)
{
    (void)fd;
    return 0;
}
