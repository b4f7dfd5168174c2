/* The Linux half of the raw C baseline: options and calls that only Linux has. */
#define _GNU_SOURCE
#include "floor.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x00001000
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif

enum { STACK_BYTES = 64 * 1024, CLOEXEC_INSTEAD_OF_CLOSE = 1 << 2, POPULATE_WRITE = 23, BEST_EFFORT = 2 };

static cpu_set_t first_cpu;     /* the first CPU this process may use */
static pid_t parent;

void platform_prepare(void)
{
	cpu_set_t allowed;
	int cpu = 0;

	CPU_ZERO(&first_cpu);
	if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0)
		while (cpu < CPU_SETSIZE - 1 && !CPU_ISSET(cpu, &allowed))
			cpu++;
	CPU_SET(cpu, &first_cpu);
	parent = getpid();
}

static bool write_text(const char *path, const char *text, size_t size)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool done = fd >= 0 && write(fd, text, size) == (ssize_t)size;

	close(fd);
	return done;
}

bool platform_apply(enum option option)
{
	const struct sched_param no_priority = { 0 };

	switch (option) {
	case OPTION_CPUS:
		return sched_setaffinity(0, sizeof(first_cpu), &first_cpu) == 0;
	case OPTION_CLOSE_FDS:
		return syscall(SYS_close_range, 3u, ~0u, CLOEXEC_INSTEAD_OF_CLOSE) == 0;
	case OPTION_NO_NEW_PRIVS:
		return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
	case OPTION_SCHED:
		return sched_setscheduler(0, SCHED_BATCH, &no_priority) == 0;
	case OPTION_IO_PRIORITY:
		return syscall(SYS_ioprio_set, 1, 0, BEST_EFFORT << 13 | 5) == 0;
	case OPTION_OOM:
		return write_text("/proc/self/oom_score_adj", "500", 3);
	case OPTION_DEATH_SIGNAL:
		/* The parent may be gone before the child asked to hear of it: look once more afterwards. */
		return prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0 && getppid() == parent;
	default:
		return false;
	}
}

int platform_clone_pidfd(int (*child)(void *), struct job *job)
{
	static char *stack;
	int pidfd = -1, status = -1;
	pid_t pid;

	if (!stack) {
		stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
		if (stack == MAP_FAILED) {
			stack = NULL;
			return -1;
		}
	}
	pid = clone(child, stack + STACK_BYTES, CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, job, &pidfd);
	if (pid < 0)
		return -1;
	if (waitpid(pid, &status, 0) < 0)
		status = -1;
	close(pidfd);
	return status;
}

int platform_pipe(int ends[2])
{
	return pipe2(ends, O_CLOEXEC);
}

bool platform_populate(void *address, size_t bytes)
{
	madvise(address, bytes, MADV_NOHUGEPAGE);
	return madvise(address, bytes, POPULATE_WRITE) == 0; /* before Linux 5.14: EINVAL */
}
