/* The raw C engine for many children at once: pipes for stdout and stderr, a pidfd, one epoll, a slot for each child that
 * lives. By vfork, or by a clone that does not wait for exec. With several threads each has an engine of its own and a
 * share of the children that may live. */
#define _GNU_SOURCE
#include "floor.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x00001000
#endif

enum { STACK = 64 * 1024, EVENTS = 256, WAIT_ON_PIDFD = 3 };

struct many_slot {
	struct engine *engine;
	char *stack;              /* with CLONE_VM alone: the child's, until the kernel clears tid */
	_Atomic(int) tid;
	int out, err, pidfd;
	int null;
	int child_out, child_err; /* for the child */
	bool live;
	char output[4096];
};

struct engine {
	const struct many *many;
	int concurrency, epoll;
	struct many_slot *slots;
	atomic_long *left;
	int failed;
};

static int run_child(void *argument)
{
	struct many_slot *slot = argument;
	char *argv[2] = { slot->engine->many->program, NULL };

	dup2(slot->null, 0);
	dup2(slot->child_out, 1);
	dup2(slot->child_err, 2);
	execve(argv[0], argv, environ);
	_exit(127);
}

static void watch(struct engine *engine, int fd, struct many_slot *slot, int which)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = (uint64_t)(slot - engine->slots) << 2 | (unsigned)which };

	epoll_ctl(engine->epoll, EPOLL_CTL_ADD, fd, &event);
}

static bool start(struct engine *engine, struct many_slot *slot)
{
	int out[2], err[2], flags = CLONE_VM | CLONE_PIDFD | SIGCHLD;
	sigset_t all, old;

	if (pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0)
		return false;
	while (slot->tid)
		sched_yield();
	slot->out = out[0];
	slot->err = err[0];
	slot->child_out = out[1];
	slot->child_err = err[1];
	slot->live = true;
	flags |= engine->many->nowait ? CLONE_CHILD_CLEARTID : CLONE_VFORK;
	slot->tid = engine->many->nowait;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid_t pid = clone(run_child, slot->stack + STACK, flags, slot, &slot->pidfd, NULL, &slot->tid);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	close(out[1]);
	close(err[1]);
	if (pid < 0)
		return false;
	watch(engine, slot->pidfd, slot, 0);
	watch(engine, slot->out, slot, 1);
	watch(engine, slot->err, slot, 2);
	return true;
}

static void forget(struct engine *engine, int *fd)
{
	epoll_ctl(engine->epoll, EPOLL_CTL_DEL, *fd, NULL);
	close(*fd);
	*fd = -1;
}

static void serve(struct engine *engine, struct many_slot *slot, int which)
{
	int *fd = which == 0 ? &slot->pidfd : which == 1 ? &slot->out : &slot->err;
	siginfo_t info;

	if (*fd < 0)
		return;
	if (which == 0) {
		memset(&info, 0, sizeof(info));
		if (waitid((idtype_t)WAIT_ON_PIDFD, (id_t)*fd, &info, WEXITED) < 0 || info.si_status != 0)
			engine->failed = errno ? errno : EINVAL;
		forget(engine, fd);
	} else if (read(*fd, slot->output, sizeof(slot->output)) <= 0) {
		forget(engine, fd);
	}
	slot->live = slot->pidfd >= 0 || slot->out >= 0 || slot->err >= 0;
}

static void *run_engine(void *argument)
{
	struct engine *engine = argument;
	struct epoll_event events[EVENTS];
	int live = 0, null = open("/dev/null", O_RDWR | O_CLOEXEC);

	engine->epoll = epoll_create1(EPOLL_CLOEXEC);
	engine->slots = calloc((size_t)engine->concurrency, sizeof(*engine->slots));
	char *stacks = mmap(NULL, (size_t)engine->concurrency * STACK, PROT_READ | PROT_WRITE,
	                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (int i = 0; i < engine->concurrency; i++) {
		engine->slots[i].engine = engine;
		engine->slots[i].stack = stacks + (size_t)i * STACK;
		engine->slots[i].null = null;
	}
	for (bool more = true; more || live;) {
		for (int i = 0; more && i < engine->concurrency && live < engine->concurrency; i++) {
			if (engine->slots[i].live)
				continue;
			more = atomic_fetch_sub(engine->left, 1) > 0;
			if (!more)
				break;
			if (!start(engine, &engine->slots[i])) {
				engine->failed = errno;
				return NULL;
			}
			live++;
		}
		int count = live ? epoll_wait(engine->epoll, events, EVENTS, -1) : 0;
		for (int i = 0; i < count; i++) {
			struct many_slot *slot = &engine->slots[events[i].data.u64 >> 2];
			bool before = slot->live;
			serve(engine, slot, (int)(events[i].data.u64 & 3));
			live -= before && !slot->live;
		}
	}
	close(engine->epoll);
	close(null);
	for (int i = 0; i < engine->concurrency; i++)
		while (engine->slots[i].tid)
			sched_yield();
	munmap(stacks, (size_t)engine->concurrency * STACK);
	free(engine->slots);
	return NULL;
}

int platform_many(const struct many *many)
{
	struct engine engines[16];
	pthread_t threads[16];
	atomic_long left = many->count;
	int failed = 0, count = many->threads < 16 ? many->threads : 16;

	if (count > many->concurrency)
		count = many->concurrency;
	for (int i = 0; i < count; i++) {
		engines[i] = (struct engine){ .many = many, .concurrency = many->concurrency / count, .left = &left };
		if (i && pthread_create(&threads[i], NULL, run_engine, &engines[i]) != 0)
			return -1;
	}
	run_engine(&engines[0]);
	for (int i = 1; i < count; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < count; i++)
		failed |= engines[i].failed;
	errno = failed;
	return failed ? -1 : 0;
}
