/* What a descriptor is, where there is no eventfd. */
#include "internal.h"

int cl__fd_is_eventfd(int fd)
{
    (void)fd;
    return 0;
}
