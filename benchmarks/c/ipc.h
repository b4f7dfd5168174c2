/* What the two programs of the subject ipc share: being asked, two processes on two CPUs, and samples. See ipc_floor.c. */
#ifndef CORELANE_BENCH_IPC_H
#define CORELANE_BENCH_IPC_H

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST_SAMPLES = 20000, LINE = 128, LOOKS = 64 };

/* One round that is asked for. `count` is what the measuring function is to do, and `samples` what it found of each. */
struct ask {
	char kind[64];
	int many;           /* the number in the kind, if it has one */
	int64_t ms, size;
	int mine, theirs;   /* CPUs */
	int64_t count;
};

static int64_t samples[MOST_SAMPLES];

static inline int64_t clock_ns(clockid_t which)
{
	struct timespec now;
	clock_gettime(which, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static inline int64_t now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

static inline void must(int holds, const char *what)
{
	if (holds)
		return;
	printf("{\"error\": \"%s: %s\"}\n", what, strerror(errno));
	fflush(stdout);
	_exit(1);
}

static inline void pin(int cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	must(sched_setaffinity(0, sizeof set, &set) == 0, "sched_setaffinity");
}

/* Between two looks: of use to nobody if the other side is to run on the same CPU, so that one has a turn now and then. */
static inline void look_again(int64_t *turn)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#endif
	if (++*turn % (1 << 16) == 0)
		sched_yield();
}

/* Memory that this process and its children share, there from the beginning. */
static inline void *shared(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	must(memory != MAP_FAILED, "mmap");
	return memory;
}

/* A child on a CPU, that dies with us. 0 in the child. */
static inline pid_t peer(int cpu)
{
	pid_t pid = fork();
	must(pid >= 0, "fork");
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		pin(cpu);
	}
	return pid;
}

static inline void end_of(pid_t pid)
{
	int status = 0;
	while (waitpid(pid, &status, 0) < 0)
		must(errno == EINTR, "waitpid");
	errno = 0;
	must(status == 0, "the other process failed");
}

/* A measuring function: does ask->count of it, and returns the nanoseconds they took in all. One of round trips leaves each
 * in samples[] besides. */
typedef int64_t measure(struct ask *ask);

/* As many as fill the time. The first round of a kind finds it by doing more and more; the next ones follow. */
static inline int64_t filled(measure *call, struct ask *ask, int64_t most)
{
	static struct before {
		measure *call;
		int64_t size, count;
		int many;
	} all[64];
	int64_t budget = ask->ms * 1000000, took, wanted;
	struct before *one = all;
	while (one < all + 63 && one->call && (one->call != call || one->size != ask->size || one->many != ask->many))
		one++;
	ask->count = one->call ? one->count : 4;
	while (!one->call && (took = call(ask)) < budget / 3 && ask->count < most) {
		wanted = budget / (took / ask->count + 1);
		wanted = wanted < 16 * ask->count ? wanted : 16 * ask->count;
		ask->count = wanted > 2 * ask->count ? wanted : 2 * ask->count;
		ask->count = ask->count < most ? ask->count : most;
	}
	int64_t count = ask->count;
	took = call(ask);
	wanted = (int64_t)((double)budget / (double)(took + 1) * (double)count);
	wanted = wanted < 4 * count ? wanted : 4 * count;
	wanted = wanted > count / 4 ? wanted : count / 4;
	wanted = wanted < most ? wanted : most;
	*one = (struct before){ call, ask->size, wanted > 4 ? wanted : 4, ask->many };
	return took;
}

static inline void answer_samples(measure *call, struct ask *ask)
{
	int64_t took = filled(call, ask, MOST_SAMPLES);
	printf("{\"wall_ns\": %lld, \"cpu_ns\": 0, \"ns\": [", (long long)took);
	for (int64_t i = 0; i < ask->count; i++)
		printf("%s%lld", i ? "," : "", (long long)samples[i]);
	printf("]}\n");
}

static inline void answer_value(double value)
{
	printf("{\"value\": %.6f}\n", value);
}

static inline void answer_each(measure *call, struct ask *ask)
{
	int64_t took = filled(call, ask, 1LL << 40);
	answer_value((double)took / (double)ask->count);
}

struct known {
	const char *kind;
	measure *call;
	void (*answer)(measure *call, struct ask *ask);
};

/* Serves lines of `run KIND MS SIZE CPU CPU`; a KIND may have a number in it: fan_in/N/vyukov. */
static inline int serve(const struct known *all)
{
	char line[256];
	while (fgets(line, sizeof line, stdin)) {
		struct ask ask = { .many = 0 };
		const struct known *one = all;
		long long ms, size;
		if (sscanf(line, "run %63s %lld %lld %d %d", ask.kind, &ms, &size, &ask.mine, &ask.theirs) == 5) {
			char *number = strpbrk(ask.kind, "0123456789"), *rest = number;
			if (number) {
				ask.many = (int)strtol(number, &rest, 10);
				memmove(number, rest, strlen(rest) + 1);
			}
			ask.ms = ms;
			ask.size = size;
			while (one->kind && strcmp(one->kind, ask.kind))
				one++;
		}
		if (strcmp(line, "end\n") == 0) {
			printf("{\"ok\": 1}\n");
		} else if (!one->kind || ask.ms < 1 || ask.size < 1) {
			printf("{\"error\": \"no such command\"}\n");
		} else {
			pin(ask.mine);
			one->answer(one->call, &ask);
		}
		fflush(stdout);
	}
	return 0;
}

#endif
