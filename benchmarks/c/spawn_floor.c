/* spawn_floor: what spawning costs in C with nothing around it. Every figure of corelane stands beside one of these.
 *
 *   cc -O2 -std=gnu11 -o spawn_floor spawn_floor.c floor_linux.c          (floor_darwin.c on macOS)
 *
 *   ./spawn_floor run vfork 1000 ./tiny         by hand: a warm-up, then one JSON line with every sample in ns
 *   ./spawn_floor                               as a server: the same commands, a line each, on stdin
 *
 * Commands:
 *   run MODE COUNT PROGRAM   spawn PROGRAM (a path, to the end of the line) COUNT times, one at a time, and wait for each
 *   rss MIB                  hold MIB mebibytes of touched private memory (0 gives it back)
 *   fds COUNT                hold COUNT extra open descriptors, all close-on-exec (0 closes them)
 *
 * MODE is vfork, fork, posix_spawn, clone_pidfd (a shared address space, own stack, a pidfd) or capture (vfork, two
 * pipes, poll until both ends are closed), and then any number of +OPTION, which the child applies before exec:
 * nice, umask, cwd, cwd_fd, rlimit, session, group, fds, sigmask, env, ignore; on Linux cpus, close_fds, no_new_privs,
 * death_signal, sched, io_priority, oom.
 *
 * Or MODE is many/AT_ONCE/THREADS/HOW: COUNT children of PROGRAM captured by an engine, AT_ONCE at a time, where HOW is
 * vfork or nowait (a clone that does not wait for exec). It answers with one sample, the time per child.
 *
 * The answer is one JSON line: {"ns": [...], "wall_ns": w, "cpu_ns": c}, where cpu_ns counts this process and the
 * children it reaped; or {"ok": 1}; or {"error": "why"}. The end of stdin ends the server.
 */
#define _GNU_SOURCE
#include "floor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static const char *const how_names[HOW_COUNT] = {
	[HOW_VFORK] = "vfork",
	[HOW_FORK] = "fork",
	[HOW_POSIX_SPAWN] = "posix_spawn",
	[HOW_CLONE_PIDFD] = "clone_pidfd",
	[HOW_CAPTURE] = "capture",
};

static const char *const option_names[OPTION_COUNT] = {
	[OPTION_NICE] = "nice",
	[OPTION_UMASK] = "umask",
	[OPTION_CWD] = "cwd",
	[OPTION_RLIMIT] = "rlimit",
	[OPTION_SESSION] = "session",
	[OPTION_GROUP] = "group",
	[OPTION_FDS] = "fds",
	[OPTION_SIGMASK] = "sigmask",
	[OPTION_CWD_FD] = "cwd_fd",
	[OPTION_ENV] = "env",
	[OPTION_IGNORE] = "ignore",
	[OPTION_CPUS] = "cpus",
	[OPTION_CLOSE_FDS] = "close_fds",
	[OPTION_NO_NEW_PRIVS] = "no_new_privs",
	[OPTION_DEATH_SIGNAL] = "death_signal",
	[OPTION_SCHED] = "sched",
	[OPTION_IO_PRIORITY] = "io_priority",
	[OPTION_OOM] = "oom",
};

/* ---- the child, between clone and exec ---- */

static bool apply(const struct job *job, enum option option)
{
	struct rlimit limit = { 64, 64 };
	sigset_t none;
	const struct sigaction ignore = { .sa_handler = SIG_IGN };

	switch (option) {
	case OPTION_NICE:
		return setpriority(PRIO_PROCESS, 0, 1) == 0;
	case OPTION_UMASK:
		umask(022);
		return true;
	case OPTION_CWD:
		return chdir("/") == 0;
	case OPTION_CWD_FD:
		return fchdir(job->root_fd) == 0;
	case OPTION_ENV:
		return true; /* see exec_changed() */
	case OPTION_IGNORE:
		return sigaction(SIGHUP, &ignore, NULL) == 0;
	case OPTION_RLIMIT:
		return setrlimit(RLIMIT_NOFILE, &limit) == 0;
	case OPTION_SESSION:
		return setsid() >= 0;
	case OPTION_GROUP:
		return setpgid(0, 0) == 0;
	case OPTION_FDS:
		return dup2(job->spare_fd, 3) == 3;
	case OPTION_SIGMASK:
		sigemptyset(&none);
		return sigprocmask(SIG_SETMASK, &none, NULL) == 0;
	default:
		return platform_apply(option);
	}
}

/* Exec with one variable more than ours. */
static void exec_changed(struct job *job)
{
	size_t count = 0;

	while (environ[count])
		count++;
	char *changed[count + 2];
	for (size_t i = 0; i < count; i++)
		changed[i] = environ[i];
	changed[count] = "CORELANE_BENCH=1";
	changed[count + 1] = NULL;
	execve(job->argv[0], job->argv, changed);
}

/* Never returns: the program, or status 126 (an option failed) or 127 (exec failed). */
static int child(void *argument)
{
	struct job *job = argument;

	for (int i = 0; i < job->option_count; i++)
		if (!apply(job, job->options[i]))
			_exit(126);
	for (int i = 0; i < job->option_count; i++)
		if (job->options[i] == OPTION_ENV)
			exec_changed(job);
	execve(job->argv[0], job->argv, environ);
	_exit(127);
}

/* ---- one spawn, from nothing to reaped: each returns the wait status, or -1 ---- */

static int reap(pid_t pid)
{
	int status;

	return waitpid(pid, &status, 0) == pid ? status : -1;
}

/* noinline: the child runs on this frame until it execs. */
__attribute__((noinline)) static int spawn_vfork(struct job *job)
{
	pid_t pid = vfork();

	if (pid == 0)
		child(job);
	return pid < 0 ? -1 : reap(pid);
}

static int spawn_fork(struct job *job)
{
	pid_t pid = fork();

	if (pid == 0)
		child(job);
	return pid < 0 ? -1 : reap(pid);
}

static int spawn_posix(struct job *job)
{
	pid_t pid;

	if (job->option_count > 0)
		return -1;
	return posix_spawn(&pid, job->argv[0], NULL, NULL, job->argv, environ) == 0 ? reap(pid) : -1;
}

/* Reads both pipes until each says end of file. */
static void drain(int out, int err)
{
	static char buffer[1 << 16];
	struct pollfd ends[2] = { { out, POLLIN, 0 }, { err, POLLIN, 0 } };
	int open_ends = 2;

	while (open_ends > 0) {
		if (poll(ends, 2, -1) < 0)
			return;
		for (int i = 0; i < 2; i++) {
			if (ends[i].fd < 0 || !ends[i].revents)
				continue;
			if (read(ends[i].fd, buffer, sizeof(buffer)) <= 0) {
				ends[i].fd = -1;
				open_ends--;
			}
		}
	}
}

__attribute__((noinline)) static int spawn_capture(struct job *job)
{
	int out[2], err[2];
	pid_t pid;

	if (platform_pipe(out) < 0)
		return -1;
	if (platform_pipe(err) < 0) {
		close(out[0]);
		close(out[1]);
		return -1;
	}
	pid = vfork();
	if (pid == 0) {
		dup2(out[1], 1);
		dup2(err[1], 2);
		child(job);
	}
	close(out[1]);
	close(err[1]);
	if (pid > 0)
		drain(out[0], err[0]);
	close(out[0]);
	close(err[0]);
	return pid < 0 ? -1 : reap(pid);
}

static int spawn(struct job *job)
{
	switch (job->how) {
	case HOW_VFORK:
		return spawn_vfork(job);
	case HOW_FORK:
		return spawn_fork(job);
	case HOW_POSIX_SPAWN:
		return spawn_posix(job);
	case HOW_CLONE_PIDFD:
		return platform_clone_pidfd(child, job);
	case HOW_CAPTURE:
		return spawn_capture(job);
	default:
		return -1;
	}
}

/* ---- measuring ---- */

static int64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* CPU time of this process and of the children it reaped, in ns. */
static int64_t cpu_time(void)
{
	const int whom[2] = { RUSAGE_SELF, RUSAGE_CHILDREN };
	struct rusage usage;
	int64_t total = 0;

	for (int i = 0; i < 2; i++) {
		getrusage(whom[i], &usage);
		total += ((int64_t)usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000;
		total += ((int64_t)usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000;
	}
	return total;
}

static void failed(const char *why)
{
	printf("{\"error\": \"%s\"}\n", why);
}

/* Runs one round and prints it. A child that does not leave with status 0 spoils the round: that is an error. */
static void run_round(struct job *job, long count)
{
	int64_t *samples = malloc((size_t)count * sizeof(*samples));
	int64_t start, before, cpu;
	int status = 0;
	long i;

	if (!samples) {
		failed("no memory for the samples");
		return;
	}
	cpu = cpu_time();
	start = now();
	for (i = 0; i < count && status == 0; i++) {
		before = now();
		status = spawn(job);
		samples[i] = now() - before;
	}
	start = now() - start;
	cpu = cpu_time() - cpu;
	if (status != 0) {
		printf("{\"error\": \"%s: wait status %d, errno %d\"}\n", job->argv[0], status, errno);
	} else {
		printf("{\"ns\": [");
		for (i = 0; i < count; i++)
			printf("%s%lld", i ? ", " : "", (long long)samples[i]);
		printf("], \"wall_ns\": %lld, \"cpu_ns\": %lld}\n", (long long)start, (long long)cpu);
	}
	free(samples);
}

/* ---- the state of the parent ---- */

static void hold_memory(long mib)
{
	static char *held;
	static size_t held_bytes;
	size_t bytes = (size_t)mib << 20;

	if (held)
		munmap(held, held_bytes);
	held = NULL;
	if (bytes > 0) {
		held = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
		if (held == MAP_FAILED) {
			held = NULL;
			failed("no memory");
			return;
		}
		held_bytes = bytes;
		if (!platform_populate(held, bytes))
			for (size_t at = 0; at < bytes; at += 4096)
				held[at] = 1;
	}
	printf("{\"ok\": 1}\n");
}

static void hold_descriptors(long count)
{
	static int *held;
	static long held_count;
	struct rlimit limit;

	while (held_count > 0)
		close(held[--held_count]);
	free(held);
	held = NULL;
	if (count > 0) {
		getrlimit(RLIMIT_NOFILE, &limit);
		limit.rlim_cur = (rlim_t)count + 64;
		if (limit.rlim_max < limit.rlim_cur)
			limit.rlim_max = limit.rlim_cur;
		setrlimit(RLIMIT_NOFILE, &limit);
		held = calloc((size_t)count, sizeof(*held));
		while (held && held_count < count) {
			held[held_count] = open("/dev/null", O_RDONLY | O_CLOEXEC);
			if (held[held_count] < 0)
				break;
			held_count++;
		}
	}
	if (held_count < count)
		failed("the descriptor limit is too low");
	else
		printf("{\"ok\": 1}\n");
}

/* ---- commands ---- */

static int find(const char *name, const char *const *names, int count)
{
	for (int i = 0; i < count; i++)
		if (names[i] && strcmp(name, names[i]) == 0)
			return i;
	return -1;
}

/* Reads "how+option+option" into the job; cuts `mode` up. Returns false for a word it does not know. */
static bool parse_mode(char *mode, struct job *job)
{
	char *rest = NULL, *word = strtok_r(mode, "+", &rest);
	int index = word ? find(word, how_names, HOW_COUNT) : -1;

	if (index < 0)
		return false;
	job->how = (enum how)index;
	while ((word = strtok_r(NULL, "+", &rest))) {
		index = find(word, option_names, OPTION_COUNT);
		if (index < 0 || job->option_count == MAX_OPTIONS)
			return false;
		job->options[job->option_count++] = (enum option)index;
	}
	return true;
}

/* "many", how many at a time, how many threads, and whether each exec is waited for: one sample, the time per child. */
static bool run_many(const char *mode, long count, char *program)
{
	struct many many = { .program = program, .count = count };
	char how[16];

	if (sscanf(mode, "many/%d/%d/%15s", &many.concurrency, &many.threads, how) != 3 || many.concurrency < 1 ||
	    many.threads < 1)
		return false;
	many.nowait = strcmp(how, "nowait") == 0;
	int64_t cpu = cpu_time(), wall = now();
	if (platform_many(&many) < 0) {
		failed(strerror(errno));
		return true;
	}
	wall = now() - wall;
	printf("{\"ns\": [%lld], \"wall_ns\": %lld, \"cpu_ns\": %lld}\n", (long long)(wall / count), (long long)wall,
	       (long long)(cpu_time() - cpu));
	return true;
}

static void run_command(const char *mode_text, long count, char *program, int spare_fd, int root_fd)
{
	struct job job = { .argv = { program, NULL }, .spare_fd = spare_fd, .root_fd = root_fd };
	char mode[256];

	snprintf(mode, sizeof(mode), "%s", mode_text);
	if (count > 0 && run_many(mode_text, count, program))
		return;
	if (!parse_mode(mode, &job))
		failed("this mode or option is not known here");
	else if (count < 1 || count > 10000000)
		failed("the count must be between 1 and 10,000,000");
	else
		run_round(&job, count);
}

/* Runs one command line, without its newline. */
static void command(char *line, int spare_fd, int root_fd)
{
	char mode[256];
	long count;
	int program = 0;

	if (sscanf(line, "run %255s %ld %n", mode, &count, &program) == 2 && program > 0 && line[program])
		run_command(mode, count, line + program, spare_fd, root_fd);
	else if (sscanf(line, "rss %ld", &count) == 1 && count >= 0)
		hold_memory(count);
	else if (sscanf(line, "fds %ld", &count) == 1 && count >= 0)
		hold_descriptors(count);
	else
		failed("commands: run MODE COUNT PROGRAM, rss MIB, fds COUNT");
	fflush(stdout);
}

int main(int argc, char **argv)
{
	int spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int root_fd = open("/", O_RDONLY | O_CLOEXEC);
	char line[8192];

	platform_prepare();
	if (argc == 5 && strcmp(argv[1], "run") == 0) {
		int keep = dup(1), null = open("/dev/null", O_WRONLY);

		dup2(null, 1); /* the warm-up is not printed */
		run_command(argv[2], 20, argv[4], spare_fd, root_fd);
		fflush(stdout);
		dup2(keep, 1);
		run_command(argv[2], strtol(argv[3], NULL, 10), argv[4], spare_fd, root_fd);
		return 0;
	}
	if (argc != 1) {
		fprintf(stderr, "usage: spawn_floor [run MODE COUNT PROGRAM]\n");
		return 2;
	}
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = '\0';
		command(line, spare_fd, root_fd);
	}
	return 0;
}
