/* Making rings, for the programs that test them. */
#ifndef TESTS_RING_H
#define TESTS_RING_H

#include "check.h"

typedef struct ringed {
    cl_segment *segment;
    cl_ring *ring;
} ringed;

HELPER ringed ring_of(cl_segment *segment)
{
    ringed made = {segment, NULL};
    CHECK_IS(cl_ring_open(&made.ring, segment, 0), 0);
    return made;
}

HELPER ringed new_ring(int64_t capacity)
{
    cl_segment *segment;
    cl_ring_about about;
    CHECK_IS(cl_segment_new(&segment), 0);
    CHECK_IS(cl_ring_describe(capacity, 0, &about), 0);
    cl_segment_plan plan = {.size = about.size, .data_offset = CL_SEGMENT_HEADER, .kind = CL_SEGMENT_RING,
                            .layout = CL_RING_LAYOUT, .about = (const char *)&about, .about_size = sizeof about,
                            .owner = -1, .group = -1};
    int64_t rc;
    while ((rc = cl_segment_create(segment, NULL, &plan)) == -EINTR)
        continue;
    CHECK_IS(rc, 0);
    return ring_of(segment);
}

HELPER int fd_of(ringed one)
{
    cl_segment_report report;
    CHECK_IS(cl_segment_report_of(one.segment, &report), 0);
    return (int)report.fd;
}

/* A handle of its own: another lease, another mapping. */
HELPER ringed ring_again(int fd)
{
    cl_segment *segment;
    CHECK_IS(cl_segment_new(&segment), 0);
    CHECK_IS(cl_segment_attach(segment, fd, NULL, CL_SEGMENT_RING, CL_RING_LAYOUT, 0), 0);
    return ring_of(segment);
}

HELPER void end_ring(ringed one)
{
    cl_ring_free(one.ring);
    cl_segment_free(one.segment);
}

HELPER cl_ring_stats stats_of(ringed one)
{
    cl_ring_stats stats;
    CHECK_IS(cl_ring_stats_of(one.ring, &stats), 0);
    return stats;
}

HELPER cl_ring_report ring_report(ringed one)
{
    cl_ring_report report;
    CHECK_IS(cl_ring_report_of(one.ring, &report), 0);
    return report;
}

HELPER void must_put(ringed one, const char *text)
{
    CHECK_IS(cl_ring_try_put(one.ring, text, (int64_t)strlen(text)), 0);
}

/* The next record is this text. */
HELPER void must_get(ringed one, const char *text)
{
    char found[4096];
    int64_t needs;
    int64_t rc = cl_ring_try_get(one.ring, found, sizeof found - 1, &needs);
    CHECK(rc >= 0);
    found[rc] = '\0';
    CHECK_TEXT(found, text);
}

HELPER int64_t get_fails(ringed one)
{
    char found[1];
    int64_t needs;
    return cl_ring_try_get(one.ring, found, sizeof found, &needs);
}

#endif
