/* How a child that shares no memory with its parent says which step failed.
 *
 * A forked child writes cl__words into a pipe: before exec what it goes on without, if there is any, and what failed.
 * exec closes the pipe, so end of file without a failure means success. That end of
 * file is only heard when every copy of the write end is closed, and a process that another thread forks at that moment
 * has one too, for as long as it lives. CLONE_VFORK spares the forking strategy from waiting for it; posix_spawn cannot.
 * So the trampoline makes the pipe itself, after its own exec, where no stranger can get at the write end, and hands the
 * read end to the parent through a socket:
 *
 *     parent                           trampoline
 *     socketpair, posix_spawn          pipe; send the read end; close it and the socket
 *     wait for it, or for a death      ... a step fails: write so; or exec
 *     read to end of file */
#include "internal.h"

#include <fcntl.h>
#include <string.h>
#include <sys/wait.h>

enum { FIRST_LOOK_NS = 1000000, LOOK_AT_MOST_NS = 50000000 };

typedef union handover { /* aligned for the header within */
    struct cmsghdr header;
    char room[CMSG_SPACE(sizeof(int))];
} handover;

static void believe(cl__job *job, const cl__words *said)
{
    job->stage = said->stage;
    job->error = said->error;
    job->not_applied = said->not_applied;
}

int cl__report_hear(int fd, cl__job *job)
{
    cl__words said;
    int64_t rc;
    do
        rc = cl__sys_read(fd, &said, sizeof said);
    while (rc == -EINTR);
    if (rc != (int64_t)sizeof said)
        return 0;
    believe(job, &said);
    return said.stage == CL_STAGE_NONE;
}

void cl__report_listen(int fd, cl__job *job)
{
    while (cl__report_hear(fd, job))
        continue;
}

/* The trampoline's side. Without a pipe nobody would hear of what fails later, so it says so and ends. */
void cl__report_open(int socket, cl__job *job)
{
    int ends[2];
    int64_t rc = cl__sys_pipe(ends);
    cl__words said = {CL_STAGE_TRAMPOLINE, (int32_t)-rc, 0};
    struct iovec piece = {.iov_base = &said, .iov_len = sizeof said};
    handover control;
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};
    if (rc >= 0) {
        said = (cl__words){0};
        memset(&control, 0, sizeof control);
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &ends[0], sizeof(int));
    }
    if (sendmsg(socket, &message, 0) < 0 || rc < 0)
        cl__sys_exit(127); /* the parent has gone, or has been told */
    cl__sys_close(ends[0]);
    cl__sys_close(socket);
    job->report_fd = ends[1];
}

/* The read end, or -1: then the trampoline has said why there is none. */
static int take(int socket, cl__job *job)
{
    cl__words said = {0};
    struct iovec piece = {.iov_base = &said, .iov_len = sizeof said};
    handover control;
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = sizeof control};
    int64_t got = cl__sys_receive(socket, &message);
    struct cmsghdr *header = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    int fd = -1;
    if (header && header->cmsg_type == SCM_RIGHTS)
        memcpy(&fd, CMSG_DATA(header), sizeof fd);
    else if (got == (int64_t)sizeof said && said.stage)
        believe(job, &said);
    else if (got > 0) /* there was no number free for it here */
        believe(job, &(cl__words){CL_STAGE_TRAMPOLINE, EMFILE, 0});
    if (fd >= 0)
        cl__sys_set_cloexec(fd);
    return fd;
}

static int has_ended(int pid)
{
    siginfo_t info;
    memset(&info, 0, sizeof info);
    int rc = waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT);
    return rc < 0 ? errno == ECHILD : info.si_pid != 0;
}

/* The parent's side. The trampoline may be killed before it has said anything, and a stranger's copy of its end of the
 * socket would then keep the end of file from us: so look at the child too. The look comes before the poll: what it said
 * before it ended is there by then. */
void cl__report_await(int socket, int pid, cl__job *job)
{
    for (int64_t patience = FIRST_LOOK_NS;; patience = patience < LOOK_AT_MOST_NS ? patience * 2 : LOOK_AT_MOST_NS) {
        int ended = has_ended(pid);
        struct pollfd ready = {.fd = socket, .events = POLLIN};
        if (cl__sys_poll(&ready, 1, ended ? 0 : patience) <= 0) {
            if (ended)
                return; /* killed before its first word: its status tells */
            continue;
        }
        int fd = take(socket, job);
        if (fd >= 0) {
            cl__report_listen(fd, job);
            cl__sys_close(fd);
        } else if (job->error && !has_ended(pid)) {
            cl__sys_kill(pid, SIGKILL); /* not reaped by us, and seen alive just now */
        }
        return;
    }
}
