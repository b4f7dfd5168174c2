/* The macOS half of the raw C baseline: what Linux adds is not there, and says so. */
#include "floor.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

void platform_prepare(void)
{
}

bool platform_apply(enum option option)
{
	(void)option;
	return false;
}

int platform_clone_pidfd(int (*child)(void *), struct job *job)
{
	(void)child;
	(void)job;
	return -1;
}

/* No pipe2 here. The gap before FD_CLOEXEC is harmless in a program with one thread. */
int platform_many(const struct many *many)
{
	(void)many;
	errno = ENOTSUP;
	return -1;
}

int platform_pipe(int ends[2])
{
	if (pipe(ends) < 0)
		return -1;
	fcntl(ends[0], F_SETFD, FD_CLOEXEC);
	fcntl(ends[1], F_SETFD, FD_CLOEXEC);
	return 0;
}

bool platform_populate(void *address, size_t bytes)
{
	(void)address;
	(void)bytes;
	return false;
}
