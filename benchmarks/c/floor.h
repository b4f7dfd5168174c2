/* What the files of the raw C baseline share. See spawn_floor.c for what the program is for. */
#ifndef CORELANE_BENCH_FLOOR_H
#define CORELANE_BENCH_FLOOR_H

#include <stdbool.h>
#include <sys/types.h>

enum { MAX_OPTIONS = 24 };

/* How a child is made. */
enum how { HOW_VFORK, HOW_FORK, HOW_POSIX_SPAWN, HOW_CLONE_PIDFD, HOW_CAPTURE, HOW_COUNT };

/* What the child does between clone and exec. */
enum option {
	OPTION_NICE,
	OPTION_UMASK,
	OPTION_CWD,
	OPTION_RLIMIT,
	OPTION_SESSION,
	OPTION_GROUP,
	OPTION_FDS,
	OPTION_SIGMASK,
	OPTION_CWD_FD,
	OPTION_ENV,         /* one variable changed, the others inherited */
	OPTION_IGNORE,
	OPTION_CPUS,        /* from here on: Linux */
	OPTION_CLOSE_FDS,
	OPTION_NO_NEW_PRIVS,
	OPTION_DEATH_SIGNAL,
	OPTION_SCHED,
	OPTION_IO_PRIORITY,
	OPTION_OOM,
	OPTION_COUNT
};

/* One kind of spawn, ready to be repeated. */
struct job {
	char *argv[2];                    /* the program's path, NULL */
	enum how how;
	enum option options[MAX_OPTIONS]; /* applied in this order */
	int option_count;
	int spare_fd;                     /* what OPTION_FDS puts at number 3 in the child */
	int root_fd;                      /* the directory of OPTION_CWD_FD */
};

/* Applies one option that only this platform has. Runs in a vfork child: system calls only.
 * Returns false where it failed or is not there. */
bool platform_apply(enum option option);

/* Called once before any spawn: what platform_apply() needs must be computed in the parent. */
void platform_prepare(void);

/* Spawns on an own stack with a pidfd, as the kernel's fastest call for it allows; reaps; closes the pidfd.
 * `child` gets `job` and never returns. Returns the wait status, or -1. */
int platform_clone_pidfd(int (*child)(void *), struct job *job);

/* Many children, `concurrency` at a time, each with stdout and stderr captured and thrown away. */
struct many {
	char *program;
	long count;
	int concurrency;
	int threads;
	bool nowait; /* do not wait for each exec */
};

/* Runs them all. Returns 0, or -1 with errno: one failed, or this platform has no such engine. */
int platform_many(const struct many *many);

/* Makes a pipe whose ends do not survive an exec. Returns 0 or -1. */
int platform_pipe(int ends[2]);

/* Makes `bytes` at `address` resident in small pages, so that residency means page-table entries. Returns false where
 * the caller must touch every page itself. */
bool platform_populate(void *address, size_t bytes);

#endif
