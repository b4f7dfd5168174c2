/* pingpong: two processes throw a byte to and fro, and what spoils it: processes that only use a CPU.
 *
 *   cc -O2 -std=gnu11 -o pingpong pingpong.c
 *
 *   pingpong pong                   descriptor 0 is a socket: send back each byte, until its end
 *   pingpong ping MS GAP_US         for MS milliseconds, but once at least: wait GAP_US, send a byte through the socket 0, wait for it; then
 *                                   write how long each took to stdout, as 64-bit numbers of nanoseconds
 *   pingpong busy                   run, for ever: a neighbour. It wants a few MiB of cache as well
 *
 * Where each runs, and how urgently, is for whoever starts it to say: that is what is measured.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MOST_SAMPLES = 1 << 20, MEMORY = 1 << 22, LINE = 64 };

static int64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

/* Whether there was a byte, and not the end. */
static int receive(char *byte)
{
	ssize_t got;
	do
		got = read(0, byte, 1);
	while (got < 0 && errno == EINTR);
	if (got < 0)
		fail("read");
	return got == 1;
}

static void send_back(char byte)
{
	if (write(0, &byte, 1) != 1)
		fail("write");
}

static int pong(void)
{
	char byte;
	while (receive(&byte))
		send_back(byte);
	return 0;
}

static void pause_for(int64_t ns)
{
	struct timespec span = { ns / 1000000000, ns % 1000000000 };
	if (ns > 0)
		nanosleep(&span, NULL);
}

static int ping(int64_t span_ns, int64_t gap_ns)
{
	int64_t *samples = malloc(MOST_SAMPLES * sizeof *samples), until, start;
	size_t count = 0;
	char byte = 'x';

	if (!samples)
		fail("malloc");
	memset(samples, 0, MOST_SAMPLES * sizeof *samples); /* page faults are none of its business */
	until = now_ns() + span_ns;
	do {
		start = now_ns();
		send_back(byte);
		if (!receive(&byte))
			return 1;
		samples[count++] = now_ns() - start;
		pause_for(gap_ns);
	} while (now_ns() < until && count < MOST_SAMPLES);
	return fwrite(samples, sizeof *samples, count, stdout) != count || fflush(stdout);
}

__attribute__((noreturn)) static void busy(void)
{
	volatile char *memory = malloc(MEMORY);
	if (!memory)
		fail("malloc");
	for (size_t at = 0;; at = (at + LINE) % MEMORY)
		memory[at]++;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "pong"))
		return pong();
	if (argc == 4 && !strcmp(argv[1], "ping"))
		return ping(atoll(argv[2]) * 1000000, atoll(argv[3]) * 1000);
	if (argc == 2 && !strcmp(argv[1], "busy"))
		busy();
	fprintf(stderr, "usage: pingpong pong | ping MS GAP_US | busy\n");
	return 2;
}
