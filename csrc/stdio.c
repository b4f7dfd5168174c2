/* The three standard streams of one child: pipes made, ends sorted into the child's and ours. */
#include "internal.h"

int64_t cl__lift(int *fd)
{
    if (*fd < 0 || *fd > 2)
        return 0;
    /* We run with 0, 1 or 2 closed. Left there, the descriptor would be taken for a standard stream by the child's
     * map, or by whatever in this process prints. */
    int64_t copy = cl__sys_dup_above(*fd, 3);
    cl__sys_close(*fd);
    *fd = (int)copy;
    return copy < 0 ? copy : 0;
}

static int64_t open_pipe(cl__stdio *io, int which, int64_t pipe_size)
{
    int ends[2];
    int64_t rc = cl__sys_pipe(ends);
    if (rc < 0)
        return rc;
    io->parent[which] = ends[which == 0]; /* we write to stdin and read from the others */
    io->child[which] = ends[which != 0];
    io->owned[which] = 1;
    int64_t first = cl__lift(&io->parent[which]);
    int64_t second = cl__lift(&io->child[which]);
    if (first < 0 || second < 0)
        return first < 0 ? first : second;
    rc = pipe_size > 0 ? cl__sys_set_pipe_size(io->parent[which], pipe_size) : 0;
    return rc < 0 ? rc : 0;
}

int64_t cl__stdio_open(cl__stdio *io, const cl_launch *launch)
{
    int64_t rc = 0;
    for (int i = 0; i < 3; i++) {
        io->child[i] = io->parent[i] = -1;
        io->owned[i] = 0;
    }
    for (int i = 0; i < 3 && rc == 0; i++) {
        switch (launch->stream[i].kind) {
        case CL_IO_INHERIT:
            break;
        case CL_IO_NULL:
            io->child[i] = CL__SOURCE_NULL;
            break;
        case CL_IO_FD:
            io->child[i] = launch->stream[i].fd;
            rc = launch->stream[i].fd < 0 ? -EBADF : 0;
            break;
        case CL_IO_PIPE:
            rc = open_pipe(io, i, launch->stream[i].pipe_size);
            break;
        case CL_IO_STDOUT:
            io->child[i] = CL__SOURCE_STDOUT;
            rc = i == 2 ? 0 : -EINVAL;
            break;
        default:
            rc = -EINVAL;
        }
    }
    if (rc < 0) {
        cl__stdio_close_child(io);
        cl__stdio_close_parent(io);
    }
    return rc;
}

void cl__stdio_close_child(cl__stdio *io)
{
    for (int i = 0; i < 3; i++) {
        if (io->owned[i] && io->child[i] >= 0)
            cl__sys_close(io->child[i]);
        io->owned[i] = 0;
    }
}

void cl__stdio_close_parent(cl__stdio *io)
{
    for (int i = 0; i < 3; i++) {
        if (io->parent[i] >= 0)
            cl__sys_close(io->parent[i]);
        io->parent[i] = -1;
    }
}
