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
