/* A sensor in plain C: another program, in whatever language, gets its readings from a ring and tells it what to do through
 * a queue. It needs nothing but the C core; from the root of the repository:
 *
 *     cc -std=gnu11 -D_GNU_SOURCE -O2 -pthread -Icsrc -o sensor examples/c/sensor.c \
 *         $(python csrc/native_build.py --sources) -lm
 *     ./sensor READINGS COMMANDS
 *
 * READINGS and COMMANDS are the names of a ring and a queue that are there already: examples/c_talks_to_python.py makes them. */
#include "corelane.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* As the dtypes READING and COMMAND of the other side. */
typedef struct reading {
    int64_t when; /* CLOCK_MONOTONIC, ns */
    double value;
    uint32_t number;
    float gain;
} reading;

typedef struct command {
    int32_t what;
    float gain;
} command;

enum { SET_GAIN = 1, STOP = 2 };
enum { PAUSE_NS = 200000 };

_Static_assert(sizeof(reading) == 24 && sizeof(command) == 8, "what the other side thinks they are");

/* The core's calls return >= 0, or -errno. */
static int64_t must(int64_t rc, const char *what, const char *name)
{
    if (rc < 0) {
        fprintf(stderr, "sensor: cannot %s %s: %s\n", what, name, strerror((int)-rc));
        exit(1);
    }
    return rc;
}

static cl_segment *attach(const char *name, int32_t kind)
{
    char path[300];
    cl_segment *segment;
    int64_t rc;
    snprintf(path, sizeof path, "%s/corelane.%s", cl_segment_directory(), name);
    must(cl_segment_new(&segment), "attach", name);
    while ((rc = cl_segment_attach(segment, -1, path, kind, 0, 0)) == -EINTR)
        continue;
    must(rc, "attach", name);
    return segment;
}

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* All commands there are. 0: stop. */
static int obey(cl_queue *commands, float *gain)
{
    cl_queue_claim claim;
    int64_t rc;
    while ((rc = cl_queue_peek(commands, &claim)) == 0) {
        command given = {.what = 0};
        if (claim.size == sizeof given)
            memcpy(&given, claim.data, sizeof given);
        cl_queue_release(commands, &claim);
        if (given.what == STOP)
            return 0;
        if (given.what == SET_GAIN)
            *gain = given.gain;
    }
    return rc == -EAGAIN; /* -EPIPE: it was shut */
}

/* Into the ring where it lies, without a copy. 0; else why nobody will get it. */
static int64_t tell(cl_ring *readings, uint32_t number, float gain)
{
    uint8_t *room;
    int64_t rc;
    while ((rc = cl_ring_reserve(readings, sizeof(reading), &room)) == -EAGAIN) {
        do
            rc = cl_ring_wait(readings, CL_RING_PRODUCER, sizeof(reading), -1);
        while (rc == -EINTR);
        if (rc < 0)
            return rc;
    }
    if (rc < 0)
        return rc;
    *(reading *)(void *)room = (reading){now(), gain * sin(number / 100.0), number, gain};
    cl_ring_add(readings, sizeof(reading));
    rc = cl_ring_commit(readings);
    return rc < 0 ? rc : 0;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: sensor READINGS COMMANDS\n");
        return 2;
    }
    cl_segment *out = attach(argv[1], CL_SEGMENT_RING), *in = attach(argv[2], CL_SEGMENT_QUEUE);
    cl_ring *readings;
    cl_queue *commands;
    must(cl_ring_open(&readings, out, 0), "open", argv[1]);
    must(cl_queue_open(&commands, in), "open", argv[2]);
    must(cl_ring_take(readings, CL_RING_PRODUCER), "be the producer of", argv[1]);
    must(cl_queue_join(commands), "join", argv[2]);

    const struct timespec pause = {.tv_sec = 0, .tv_nsec = PAUSE_NS};
    float gain = 1;
    int64_t rc = 0;
    for (uint32_t number = 0; rc == 0 && obey(commands, &gain); number++) {
        rc = tell(readings, number, gain);
        nanosleep(&pause, NULL);
    }

    cl_ring_close(readings); /* the other side gets what is there, and then is told */
    cl_queue_free(commands);
    cl_ring_free(readings);
    cl_segment_free(in);
    cl_segment_free(out);
    return rc == 0 || rc == -EPIPE ? 0 : (int)must(rc, "write to", argv[1]);
}
