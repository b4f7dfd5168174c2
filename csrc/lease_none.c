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

int64_t cl__lease_open_bare(int fd)
{
    (void)fd;
    return -ENOTSUP;
}

int64_t cl__lease_join(int lease, int64_t index)
{
    (void)lease, (void)index;
    return -ENOTSUP;
}

int64_t cl__lease_part(int lease, int64_t index)
{
    (void)lease, (void)index;
    return -ENOTSUP;
}

int64_t cl__lease_is_joined(int fd, int64_t index)
{
    (void)fd, (void)index;
    return -ENOTSUP;
}
