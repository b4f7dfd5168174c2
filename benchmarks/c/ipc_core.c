/* ipc_core: corelane's own C core, asked as ipc_floor is: what of its time is the core's, and what Python's.
 *
 *   cc -O2 -std=gnu11 -D_GNU_SOURCE -pthread -I../../csrc -o ipc_core ipc_core.c $(cd ../.. && python csrc/native_build.py --sources)
 *
 *   rt/ring, rt/ring_sleep    round trips over two rings, spinning, or asleep
 *   flow/ring, flow/ring_many one way through a ring, records one by one, or many with one commit
 *   op/queue, op/queue_membarrier one process: put into a queue and get, ordered by an exchange, or by those who sleep */
#include "ipc.h"

#include "corelane.h"

enum { AT_ONCE = 256, FOREVER_NS = 100000000 };

static int64_t check(int64_t rc, const char *what)
{
	errno = rc < 0 ? (int)-rc : 0;
	must(rc >= 0, what);
	return rc;
}

struct channel {
	cl_segment *segment;
	cl_ring *ring;
};

static struct channel open_ring(cl_segment *segment)
{
	struct channel made = { segment, NULL };
	check(cl_ring_open(&made.ring, segment, 1), "cl_ring_open");
	return made;
}

static struct channel new_ring(int64_t capacity)
{
	cl_segment *segment;
	cl_ring_about about;
	check(cl_ring_describe(capacity, 0, &about), "cl_ring_describe");
	cl_segment_plan plan = { .size = about.size, .data_offset = CL_SEGMENT_HEADER, .kind = CL_SEGMENT_RING,
		                 .layout = CL_RING_LAYOUT, .about = (const char *)&about, .about_size = sizeof about,
		                 .owner = -1, .group = -1 };
	check(cl_segment_new(&segment), "cl_segment_new");
	check(cl_segment_create(segment, NULL, &plan), "cl_segment_create");
	return open_ring(segment);
}

/* The child's own. */
static struct channel again(struct channel parents)
{
	cl_segment *segment;
	cl_segment_report report;
	check(cl_segment_report_of(parents.segment, &report), "cl_segment_report_of");
	check(cl_segment_new(&segment), "cl_segment_new");
	check(cl_segment_attach(segment, (int32_t)report.fd, NULL, CL_SEGMENT_RING, CL_RING_LAYOUT, 0), "cl_segment_attach");
	return open_ring(segment);
}

static void end_ring(struct channel one)
{
	cl_ring_free(one.ring);
	cl_segment_free(one.segment);
}

static void put(cl_ring *ring, const void *data, int64_t size)
{
	int64_t rc;
	while ((rc = cl_ring_try_put(ring, data, size)) == -EAGAIN)
		cl_ring_wait(ring, CL_RING_PRODUCER, size, -1);
	check(rc, "cl_ring_try_put");
}

static void get(cl_ring *ring, void *out, int64_t size)
{
	int64_t rc, needs;
	while ((rc = cl_ring_try_get(ring, out, size, &needs)) == -EAGAIN)
		cl_ring_wait(ring, CL_RING_CONSUMER, 0, -1);
	check(rc, "cl_ring_try_get");
}

static int64_t rt(struct ask *ask, int64_t spin_ns)
{
	_Atomic int *ready = shared(4096);
	struct channel there = new_ring(1 << 16), back = new_ring(1 << 16);
	char *data = malloc((size_t)ask->size);
	memset(data, 'x', (size_t)ask->size);
	pid_t pid = peer(ask->theirs);
	if (pid == 0) {
		there = again(there), back = again(back);
		check(cl_ring_take(there.ring, CL_RING_CONSUMER), "cl_ring_take");
		check(cl_ring_take(back.ring, CL_RING_PRODUCER), "cl_ring_take");
		cl_ring_set_spin(there.ring, spin_ns);
		*ready = 1;
		for (int64_t i = 0; i < ask->count; i++) {
			get(there.ring, data, ask->size);
			put(back.ring, data, ask->size);
		}
		_exit(0);
	}
	check(cl_ring_take(there.ring, CL_RING_PRODUCER), "cl_ring_take");
	check(cl_ring_take(back.ring, CL_RING_CONSUMER), "cl_ring_take");
	cl_ring_set_spin(back.ring, spin_ns);
	while (!*ready)
		sched_yield();
	int64_t first = now_ns(), start = first, end = first;
	for (int64_t i = 0; i < ask->count; i++, start = end) {
		put(there.ring, data, ask->size);
		get(back.ring, data, ask->size);
		end = now_ns();
		samples[i] = end - start;
	}
	end_of(pid);
	free(data);
	end_ring(there), end_ring(back);
	munmap((void *)ready, 4096);
	return end - first;
}

static int64_t ring_rt(struct ask *ask)
{
	return rt(ask, FOREVER_NS);
}

static int64_t ring_rt_asleep(struct ask *ask)
{
	return rt(ask, 0);
}

static int64_t flow(struct ask *ask, int64_t at_once)
{
	_Atomic int *state = shared(4096);
	int64_t capacity = 1 << 20, done, needs, turn = 0;
	while (capacity < 3 * (ask->size + 16))
		capacity *= 2;
	struct channel one = new_ring(capacity);
	cl_ring *ring = one.ring;
	char *data = malloc((size_t)(ask->size * at_once));
	memset(data, 'x', (size_t)(ask->size * at_once));
	pid_t pid = peer(ask->theirs);
	if (pid == 0) {
		ring = again(one).ring;
		check(cl_ring_take(ring, CL_RING_CONSUMER), "cl_ring_take");
		cl_ring_set_spin(ring, FOREVER_NS);
		*state = 1;
		for (done = 0; done < ask->count;) {
			int64_t rc = cl_ring_try_get_many(ring, data, ask->size, at_once, &needs);
			if (rc == -EAGAIN)
				cl_ring_wait(ring, CL_RING_CONSUMER, 0, -1);
			else
				done += check(rc, "cl_ring_try_get_many");
		}
		*state = 2;
		_exit(0);
	}
	check(cl_ring_take(ring, CL_RING_PRODUCER), "cl_ring_take");
	cl_ring_set_spin(ring, FOREVER_NS);
	while (*state != 1)
		sched_yield();
	int64_t start = now_ns();
	for (done = 0; done < ask->count;) {
		int64_t left = ask->count - done;
		int64_t rc = cl_ring_try_put_many(ring, data, ask->size, left < at_once ? left : at_once);
		if (rc == -EAGAIN)
			cl_ring_wait(ring, CL_RING_PRODUCER, ask->size, -1);
		else
			done += check(rc, "cl_ring_try_put_many");
	}
	while (*state != 2)
		look_again(&turn);
	start = now_ns() - start;
	end_of(pid);
	free(data);
	end_ring(one);
	munmap((void *)state, 4096);
	return start;
}

static int64_t ring_flow(struct ask *ask)
{
	return flow(ask, 1);
}

static int64_t ring_flow_many(struct ask *ask)
{
	return flow(ask, AT_ONCE);
}

static int64_t op(struct ask *ask, int32_t flags)
{
	static cl_queue_plan plan;
	cl_segment_plan whole = { .owner = -1, .group = -1 };
	cl_segment *segment;
	cl_queue *queue;
	char *data = malloc((size_t)ask->size);
	memset(data, 'x', (size_t)ask->size);
	plan = (cl_queue_plan){ .slots = 1024, .slot_size = ask->size, .members = 16, .flags = flags };
	check(cl_queue_describe(&plan, &whole), "cl_queue_describe");
	check(cl_segment_new(&segment), "cl_segment_new");
	check(cl_segment_create(segment, NULL, &whole), "cl_segment_create");
	check(cl_queue_open(&queue, segment), "cl_queue_open");
	check(cl_queue_join(queue), "cl_queue_join");
	int64_t start = now_ns();
	for (int64_t i = 0; i < ask->count; i++) {
		cl_queue_try_put(queue, data, ask->size);
		cl_queue_try_get(queue, data, ask->size);
	}
	start = now_ns() - start;
	cl_queue_free(queue);
	cl_segment_free(segment);
	free(data);
	return start;
}

static int64_t queue_op(struct ask *ask)
{
	return op(ask, 0);
}

static int64_t queue_op_membarrier(struct ask *ask)
{
	return op(ask, CL_QUEUE_MEMBARRIER);
}

static const struct known all[] = {
	{ "rt/ring", ring_rt, answer_samples },
	{ "rt/ring_sleep", ring_rt_asleep, answer_samples },
	{ "flow/ring", ring_flow, answer_each },
	{ "flow/ring_many", ring_flow_many, answer_each },
	{ "op/queue", queue_op, answer_each },
	{ "op/queue_membarrier", queue_op_membarrier, answer_each },
	{ NULL, NULL, NULL },
};

int main(void)
{
	return serve(all);
}
