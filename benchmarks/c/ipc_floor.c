/* ipc_floor: messages between two processes in plain C, as fast as each way of it goes: what others are compared with.
 *
 *   cc -O2 -std=gnu11 -o ipc_floor ipc_floor.c
 *
 * It is asked on stdin: `run KIND MS SIZE CPU CPU` measures for about MS milliseconds, records of SIZE bytes, one process on
 * either CPU, and answers with a line of JSON. KIND is one of
 *
 *   rt/ring      round trips over two rings in shared memory, spinning: each a sample
 *   rt/futex     the same over a word each way, asleep in futex_wait
 *   rt/pipe      the same over two pipes
 *   flow/ring    one way through a ring, spinning: nanoseconds for each record
 *   flow/pipe    through a pipe
 *   fan_in/N/vyukov, fan_out/N/vyukov   N producers and one consumer, or the reverse, on a queue after D. Vyukov
 *   op/vyukov    one process: put and get in turn
 *   idle/GAP/futex, idle/GAP/pipe   percent of a CPU of whoever waits for one record each GAP ms; GAP 0: for none
 *
 * The ring: one producer, one consumer, each record 8 bytes of length and that many bytes; both sides keep a copy of the
 * other's index, and the memory is mapped twice, one behind the other. Nobody can die, sleep or be a stranger in it. */
#define _GNU_SOURCE
#include "ipc.h"

#include <linux/futex.h>
#include <sys/syscall.h>

/* ---- a ring ---- */

struct indexes {
	_Alignas(LINE) _Atomic uint64_t tail;
	_Alignas(LINE) _Atomic uint64_t head;
	_Alignas(LINE) _Atomic int ready;
};

struct ring {
	struct indexes *shared;
	uint8_t *data;
	uint64_t capacity, own, other; /* of the one side that this process is */
};

static struct ring new_ring(uint64_t capacity)
{
	struct ring ring = { .shared = shared(sizeof(struct indexes)), .capacity = capacity };
	int fd = memfd_create("ring", 0);
	must(fd >= 0 && ftruncate(fd, (off_t)capacity) == 0, "memfd_create");
	ring.data = mmap(NULL, 2 * capacity, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	must(ring.data != MAP_FAILED, "mmap");
	for (int i = 0; i < 2; i++)
		must(mmap(ring.data + (uint64_t)i * capacity, capacity, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) !=
		         MAP_FAILED, "mmap");
	close(fd);
	return ring;
}

static void end_ring(struct ring *ring)
{
	munmap(ring->shared, sizeof *ring->shared);
	munmap(ring->data, 2 * ring->capacity);
}

/* A child has the mapping but not the pages. */
static void touch(const struct ring *ring)
{
	volatile uint8_t *at = ring->data;
	for (uint64_t i = 0; i < 2 * ring->capacity; i += 4096)
		(void)at[i];
}

static uint64_t room_of(uint64_t size)
{
	return 8 + ((size + 7) & ~7ULL);
}

static void put(struct ring *ring, const void *data, uint64_t size)
{
	uint64_t needed = room_of(size);
	int64_t turn = 0;
	while (ring->own + needed - ring->other > ring->capacity) {
		ring->other = atomic_load_explicit(&ring->shared->head, memory_order_acquire);
		if (ring->own + needed - ring->other > ring->capacity)
			look_again(&turn);
	}
	uint8_t *at = ring->data + (ring->own & (ring->capacity - 1));
	memcpy(at, &size, 8);
	memcpy(at + 8, data, size);
	ring->own += needed;
	atomic_store_explicit(&ring->shared->tail, ring->own, memory_order_release);
}

static uint64_t get(struct ring *ring, void *out)
{
	int64_t turn = 0;
	uint64_t size;
	while (ring->own == ring->other) {
		ring->other = atomic_load_explicit(&ring->shared->tail, memory_order_acquire);
		if (ring->own == ring->other)
			look_again(&turn);
	}
	const uint8_t *at = ring->data + (ring->own & (ring->capacity - 1));
	memcpy(&size, at, 8);
	memcpy(out, at + 8, size);
	ring->own += room_of(size);
	atomic_store_explicit(&ring->shared->head, ring->own, memory_order_release);
	return size;
}

static uint64_t capacity_for(int64_t size)
{
	uint64_t capacity = 1 << 20; /* as the others have it: room for three, and in the cache where they are small */
	while (capacity < 3 * room_of((uint64_t)size))
		capacity *= 2;
	return capacity;
}

static void *filled_with(int64_t size)
{
	void *data = malloc((size_t)size);
	must(data != NULL, "malloc");
	return memset(data, 'x', (size_t)size);
}

static int64_t ring_rt(struct ask *ask)
{
	struct ring there = new_ring(1 << 16), back = new_ring(1 << 16);
	char *data = filled_with(ask->size);
	pid_t pid = peer(ask->theirs);
	if (pid == 0) {
		touch(&there), touch(&back);
		there.shared->ready = 1;
		for (int64_t i = 0; i < ask->count; i++) {
			get(&there, data);
			put(&back, data, (uint64_t)ask->size);
		}
		_exit(0);
	}
	while (!there.shared->ready)
		sched_yield();
	int64_t first = now_ns(), start = first, end = first;
	for (int64_t i = 0; i < ask->count; i++, start = end) {
		put(&there, data, (uint64_t)ask->size);
		get(&back, data);
		end = now_ns();
		samples[i] = end - start;
	}
	end_of(pid);
	free(data);
	end_ring(&there), end_ring(&back);
	return end - first;
}

static int64_t ring_flow(struct ask *ask)
{
	struct ring ring = new_ring(capacity_for(ask->size));
	char *data = filled_with(ask->size);
	touch(&ring);
	pid_t pid = peer(ask->theirs);
	if (pid == 0) {
		touch(&ring);
		ring.shared->ready = 1;
		for (int64_t i = 0; i < ask->count; i++)
			get(&ring, data);
		ring.shared->ready = 2;
		_exit(0);
	}
	while (ring.shared->ready != 1)
		sched_yield();
	int64_t start = now_ns(), turn = 0;
	for (int64_t i = 0; i < ask->count; i++)
		put(&ring, data, (uint64_t)ask->size);
	while (ring.shared->ready != 2)
		look_again(&turn);
	start = now_ns() - start;
	end_of(pid);
	free(data);
	end_ring(&ring);
	return start;
}

/* ---- what the kernel has ---- */

static void nap(_Atomic uint32_t *word, uint32_t expected)
{
	while (atomic_load(word) == expected)
		syscall(SYS_futex, word, FUTEX_WAIT, expected, NULL, NULL, 0);
}

static void wake(_Atomic uint32_t *word, uint32_t value)
{
	atomic_store(word, value);
	syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

struct words {
	_Alignas(LINE) _Atomic uint32_t there;
	_Alignas(LINE) _Atomic uint32_t back;
	_Alignas(LINE) char data[4096];
};

static int64_t futex_rt(struct ask *ask)
{
	struct words *words = shared(sizeof *words);
	char data[4096] = "";
	size_t size = ask->size < 4096 ? (size_t)ask->size : 4096;
	pid_t pid = peer(ask->theirs);
	if (pid == 0) {
		for (uint32_t i = 0; i < ask->count; i++) {
			nap(&words->there, i);
			memcpy(data, words->data, size);
			memcpy(words->data, data, size);
			wake(&words->back, i + 1);
		}
		_exit(0);
	}
	int64_t first = now_ns(), start = first, end = first;
	for (uint32_t i = 0; i < ask->count; i++, start = end) {
		memcpy(words->data, data, size);
		wake(&words->there, i + 1);
		nap(&words->back, i);
		memcpy(data, words->data, size);
		end = now_ns();
		samples[i] = end - start;
	}
	end_of(pid);
	munmap(words, sizeof *words);
	return end - first;
}

static void read_all(int fd, char *data, int64_t size)
{
	for (int64_t done = 0; done < size;) {
		ssize_t got = read(fd, data + done, (size_t)(size - done));
		must(got > 0, "read");
		done += got;
	}
}

static void write_all(int fd, const char *data, int64_t size)
{
	for (int64_t done = 0; done < size;) {
		ssize_t put = write(fd, data + done, (size_t)(size - done));
		must(put > 0, "write");
		done += put;
	}
}

static int64_t pipe_rt(struct ask *ask)
{
	int there[2], back[2];
	char *data = filled_with(ask->size);
	must(pipe(there) == 0 && pipe(back) == 0, "pipe");
	pid_t pid = peer(ask->theirs);
	if (pid == 0) {
		for (int64_t i = 0; i < ask->count; i++) {
			read_all(there[0], data, ask->size);
			write_all(back[1], data, ask->size);
		}
		_exit(0);
	}
	int64_t first = now_ns(), start = first, end = first;
	for (int64_t i = 0; i < ask->count; i++, start = end) {
		write_all(there[1], data, ask->size);
		read_all(back[0], data, ask->size);
		end = now_ns();
		samples[i] = end - start;
	}
	end_of(pid);
	free(data);
	for (int i = 0; i < 2; i++)
		close(there[i]), close(back[i]);
	return end - first;
}

static int64_t pipe_flow(struct ask *ask)
{
	int there[2], back[2];
	char *data = filled_with(ask->size), byte;
	must(pipe(there) == 0 && pipe(back) == 0, "pipe");
	pid_t pid = peer(ask->theirs);
	if (pid == 0) {
		write_all(back[1], "r", 1);
		for (int64_t i = 0; i < ask->count; i++)
			read_all(there[0], data, ask->size);
		write_all(back[1], "d", 1);
		_exit(0);
	}
	read_all(back[0], &byte, 1);
	int64_t start = now_ns();
	for (int64_t i = 0; i < ask->count; i++)
		write_all(there[1], data, ask->size);
	read_all(back[0], &byte, 1);
	start = now_ns() - start;
	end_of(pid);
	free(data);
	for (int i = 0; i < 2; i++)
		close(there[i]), close(back[i]);
	return start;
}

/* ---- a queue after Dmitry Vyukov: a number a cell, a compare-and-swap a position ---- */

struct cell {
	_Atomic uint64_t number;
	uint32_t size;
	uint8_t data[];
};

struct vyukov {
	_Alignas(LINE) _Atomic uint64_t puts;
	_Alignas(LINE) _Atomic uint64_t gets;
	_Alignas(LINE) _Atomic int ready;
	_Alignas(LINE) uint8_t cells[];
};

enum { CELLS = 1024 };
static struct vyukov *queue;
static size_t stride, queue_size;

static struct cell *cell_at(uint64_t position)
{
	return (struct cell *)(queue->cells + (position % CELLS) * stride);
}

static void new_queue(int64_t size)
{
	stride = (sizeof(struct cell) + (size_t)size + 63) / 64 * 64;
	queue_size = sizeof *queue + CELLS * stride;
	queue = shared(queue_size);
	for (uint64_t i = 0; i < CELLS; i++)
		cell_at(i)->number = i;
}

__attribute__((noinline)) static int queue_put(const void *data, size_t size)
{
	uint64_t at = atomic_load_explicit(&queue->puts, memory_order_relaxed);
	for (;;) {
		struct cell *cell = cell_at(at);
		int64_t ahead = (int64_t)(atomic_load_explicit(&cell->number, memory_order_acquire) - at);
		if (ahead < 0)
			return 0;
		if (ahead > 0)
			at = atomic_load_explicit(&queue->puts, memory_order_relaxed);
		else if (atomic_compare_exchange_weak_explicit(&queue->puts, &at, at + 1, memory_order_relaxed,
		                                               memory_order_relaxed)) {
			cell->size = (uint32_t)size;
			memcpy(cell->data, data, size);
			atomic_store_explicit(&cell->number, at + 1, memory_order_release);
			return 1;
		}
	}
}

__attribute__((noinline)) static int64_t queue_get(void *out)
{
	uint64_t at = atomic_load_explicit(&queue->gets, memory_order_relaxed);
	for (;;) {
		struct cell *cell = cell_at(at);
		int64_t ahead = (int64_t)(atomic_load_explicit(&cell->number, memory_order_acquire) - (at + 1));
		if (ahead < 0)
			return -1;
		if (ahead > 0)
			at = atomic_load_explicit(&queue->gets, memory_order_relaxed);
		else if (atomic_compare_exchange_weak_explicit(&queue->gets, &at, at + 1, memory_order_relaxed,
		                                               memory_order_relaxed)) {
			size_t size = cell->size;
			memcpy(out, cell->data, size);
			atomic_store_explicit(&cell->number, at + CELLS, memory_order_release);
			return (int64_t)size;
		}
	}
}

static int64_t vyukov_op(struct ask *ask)
{
	char *data = filled_with(ask->size), *out = filled_with(ask->size);
	new_queue(ask->size);
	int64_t start = now_ns();
	for (int64_t i = 0; i < ask->count; i++) {
		queue_put(data, (size_t)ask->size);
		queue_get(out);
	}
	start = now_ns() - start;
	munmap(queue, queue_size);
	free(data), free(out);
	return start;
}

/* Many on the other CPUs beside one on ours: on two CPUs, all of them on the other one. */
static int64_t fan(struct ask *ask, int many_put)
{
	char *data = filled_with(ask->size);
	int64_t each = ask->count / ask->many + 1, turn = 0;
	pid_t pids[64];
	must(ask->many >= 1 && ask->many <= 64, "how many");
	new_queue(ask->size);
	for (int i = 0; i < ask->many; i++)
		if ((pids[i] = peer(ask->theirs)) == 0) {
			atomic_fetch_add(&queue->ready, 1);
			for (int64_t k = 0; k < each; k++)
				for (int64_t looks = 0; many_put ? !queue_put(data, (size_t)ask->size) : queue_get(data) < 0; looks++)
					if (looks % LOOKS == LOOKS - 1)
						sched_yield();
			_exit(0);
		}
	while (queue->ready < ask->many)
		sched_yield();
	int64_t start = now_ns();
	for (int64_t k = 0; k < each * ask->many; k++)
		while (many_put ? queue_get(data) < 0 : !queue_put(data, (size_t)ask->size))
			look_again(&turn);
	while (!many_put && queue->gets < (uint64_t)(each * ask->many))
		look_again(&turn);
	start = now_ns() - start;
	for (int i = 0; i < ask->many; i++)
		end_of(pids[i]);
	munmap(queue, queue_size);
	free(data);
	ask->count = each * ask->many;
	return start;
}

static int64_t fan_in(struct ask *ask)
{
	return fan(ask, 1);
}

static int64_t fan_out(struct ask *ask)
{
	return fan(ask, 0);
}

/* ---- waiting ---- */

static void sleep_ms(int64_t ms)
{
	struct timespec span = { ms / 1000, ms % 1000 * 1000000 };
	nanosleep(&span, NULL);
}

static void idle(struct ask *ask, int by_pipe)
{
	struct words *words = shared(sizeof *words);
	_Atomic int64_t *told = (void *)words->data; /* CPU and wall, of whoever waits */
	int there[2];
	uint32_t count = ask->many ? (uint32_t)(ask->ms / ask->many) + 1 : 1;
	char byte = 'x';
	must(pipe(there) == 0, "pipe");
	pid_t pid = peer(ask->theirs);
	if (pid == 0) {
		told[0] = -clock_ns(CLOCK_PROCESS_CPUTIME_ID);
		told[1] = -now_ns();
		words->back = 1;
		for (uint32_t i = 0; i < count; i++)
			if (by_pipe)
				read_all(there[0], &byte, 1);
			else
				nap(&words->there, i);
		told[0] += clock_ns(CLOCK_PROCESS_CPUTIME_ID);
		told[1] += now_ns();
		_exit(0);
	}
	while (!words->back)
		sched_yield();
	for (uint32_t i = 0; i < count; i++) {
		sleep_ms(ask->many ? ask->many : ask->ms);
		if (by_pipe)
			write_all(there[1], &byte, 1);
		else
			wake(&words->there, i + 1);
	}
	end_of(pid);
	answer_value(100.0 * (double)told[0] / (double)told[1]);
	close(there[0]), close(there[1]);
	munmap(words, sizeof *words);
}

static void idle_futex(measure *call, struct ask *ask)
{
	(void)call;
	idle(ask, 0);
}

static void idle_pipe(measure *call, struct ask *ask)
{
	(void)call;
	idle(ask, 1);
}

int main(void)
{
	static const struct known all[] = {
		{ "rt/ring", ring_rt, answer_samples },
		{ "rt/futex", futex_rt, answer_samples },
		{ "rt/pipe", pipe_rt, answer_samples },
		{ "flow/ring", ring_flow, answer_each },
		{ "flow/pipe", pipe_flow, answer_each },
		{ "fan_in//vyukov", fan_in, answer_each },
		{ "fan_out//vyukov", fan_out, answer_each },
		{ "op/vyukov", vyukov_op, answer_each },
		{ "idle//futex", NULL, idle_futex },
		{ "idle//pipe", NULL, idle_pipe },
		{ NULL, NULL, NULL },
	};
	return serve(all);
}
