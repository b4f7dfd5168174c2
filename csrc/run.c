/* The drain engine: one run from spawn to reap, as a state that is advanced by steps.
 *
 * A step sleeps in poll on whatever can happen next - a pipe, the child's end, a timer - and does what is due. It
 * returns at a signal with everything kept, so that Ctrl-C works and the run can still go on, or be aborted.
 *
 *     phase      until                                  then
 *     RUNNING    the child has ended                    DRAINING, or ENDED
 *     ENDED      the other stages' children have, too   DRAINING
 *     DRAINING   all pipes at end of file, or drain_ns  kill what is left of the scope; reap; DONE
 *
 * Timers: the deadline (TERM, or KILL if there is no grace), the end of the grace (KILL), the end of the drain. */
#include "internal.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

enum {
    DRAIN_CHUNK = 65536,      /* a pipe's default capacity: one read empties it */
    ASIDE = 16384,
    KEEP_BUFFER = 1 << 20,    /* memory a run keeps from child to child, per stream */
    FEED_PIECES = 64,         /* pieces per writev */
    FEED_TURNS = 8,           /* writevs before the other pipes and the timers are looked at */
    TEE_CHUNK = 4096,         /* PIPE_BUF: what a pipe that polls writable takes without blocking */
    AFTER_KILL_NS = 20000000  /* how long pipes are still read after the scope was killed at the end of the drain */
};

/* What SIGKILL has not ended by then is in uninterruptible sleep, or frozen. */
#define GIVE_UP_NS (5 * CL__NS_PER_S)
#define REFUSED_NS (CL__NS_PER_S / 5)

int64_t cl_run_new(cl_run **out)
{
    cl_run *run = calloc(1, sizeof *run);
    if (!run)
        return -ENOMEM;
    cl__process_init(&run->process);
    run->in = run->out[0].fd = run->out[1].fd = run->out[0].tee_own = run->out[1].tee_own = -1;
    *out = run;
    return 0;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        cl__sys_close(*fd);
    *fd = -1;
}

/* Close one that a poller may watch. */
static void drop(cl_run *run, int *fd)
{
    if (run->poller && *fd >= 0)
        cl__poller_remove(run->poller, *fd);
    close_fd(fd);
}

static void close_pipes(cl_run *run)
{
    for (int i = 0; i < 2; i++) {
        if (run->out[i].tee_own >= 0)
            run->out[i].tee = -1;
        close_fd(&run->out[i].tee_own);
    }
    drop(run, &run->in);
    drop(run, &run->out[0].fd);
    drop(run, &run->out[1].fd);
}

static int has_child(const cl_run *run)
{
    return run->phase == CL__RUNNING || run->phase == CL__ENDED || run->phase == CL__DRAINING;
}

/* Whose scope this run's is: the leader of a pipeline is reaped last, so its group's number is its own. */
static cl_process *scope_of(cl_run *run)
{
    return run->leader ? &run->leader->process : &run->process;
}

/* A later stage leads a group only where the leader's was gone when it was to join that. Of one that leads none there is no
 * group to be signalled, and its number is its own: it is not reaped. */
static int has_own_group(const cl_run *run)
{
    return run->leader && run->leader != run && run->process.child.contained == CL_CONTAIN_GROUP;
}

void cl_run_free(cl_run *run)
{
    if (!run)
        return;
    if (has_child(run))
        cl_run_abort(run, CL__NS_PER_S);
    close_pipes(run);
    cl__process_reset(&run->process);
    pthread_mutex_destroy(&run->process.lock);
    for (int i = 0; i < 2; i++) {
        free(run->out[i].kept.data);
        free(run->out[i].chunk);
    }
    free(run);
}

static int64_t later(int64_t when, int64_t span)
{
    return span > INT64_MAX - when ? INT64_MAX : when + span;
}

static int64_t from_now(int64_t span)
{
    return later(cl__sys_now(), span);
}

/* ---- stdin -------------------------------------------------------------------------------------------------------- */

static int feed_is_done(const cl_run *run)
{
    return run->feed_at >= run->feed_count;
}

/* write raises SIGPIPE when the child has closed its end. Python ignores that signal, but a plain C program, or a
 * Python one that restored the default, would die of it: block it, and take back the one that we caused. */
static int64_t write_quietly(int fd, struct iovec *pieces, int count, int is_socket)
{
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = (size_t)count};
    uint64_t old, before = cl__sys_pending_signals();
    cl__sys_block_also(CL__SIGNAL_BIT(SIGPIPE), &old);
    int64_t rc = is_socket ? sendmsg(fd, &message, MSG_DONTWAIT) : writev(fd, pieces, count);
    if (rc < 0)
        rc = -errno;
    if (rc == -EPIPE && !(before & CL__SIGNAL_BIT(SIGPIPE)))
        cl__sys_take_signal(SIGPIPE);
    cl__sys_block_signals(old, NULL);
    return rc;
}

static void feed(cl_run *run)
{
    /* A child that reads as fast as we write would keep us here, past its deadline: it polls writable again at once. */
    for (int turns = 0; !feed_is_done(run); turns++) {
        if (turns == FEED_TURNS)
            return;
        struct iovec pieces[FEED_PIECES];
        int count = 0;
        size_t offset = run->feed_offset;
        for (uint64_t i = run->feed_at; i < run->feed_count && count < FEED_PIECES; i++, offset = 0)
            pieces[count++] = (struct iovec){.iov_base = (uint8_t *)(uintptr_t)run->feed[i].data + offset,
                                             .iov_len = run->feed[i].size - offset};
        int64_t wrote = write_quietly(run->in, pieces, count, 0);
        if (wrote == -EAGAIN || wrote == -EINTR)
            return;
        if (wrote < 0)
            break; /* EPIPE: the child reads no more, which is its right; feed_left says how much it left */
        size_t left = (size_t)wrote;
        while (!feed_is_done(run) && left >= run->feed[run->feed_at].size - run->feed_offset) {
            left -= run->feed[run->feed_at++].size - run->feed_offset;
            run->feed_offset = 0;
        }
        run->feed_offset += left;
    }
    drop(run, &run->in);
}

static int64_t feed_left(const cl_run *run)
{
    uint64_t left = run->unfed;
    for (uint64_t i = run->feed_at; i < run->feed_count; i++)
        left += run->feed[i].size;
    return (int64_t)(left - run->feed_offset);
}

/* The caller's memory is read no more. */
static void drop_feed(cl_run *run)
{
    run->unfed = (uint64_t)feed_left(run);
    run->feed = NULL;
    run->feed_count = run->feed_at = run->feed_offset = 0;
}

/* ---- starting ----------------------------------------------------------------------------------------------------- */

/* A pipe or terminal that polls writable may still block the write: another writer was faster (the other stream, with one
 * tee for both), or a terminal has room for a part. The given description is shared, so its flags are not ours: the file
 * is opened once more, and a socket, which cannot be, is asked call by call. */
static void open_tee(cl__drained *out)
{
    struct stat what;
    char path[32];
    out->tee_is_socket = 0;
    if (out->tee < 0 || fstat(out->tee, &what) < 0)
        return;
    out->tee_is_socket = S_ISSOCK(what.st_mode);
    if ((fcntl(out->tee, F_GETFL) & O_ACCMODE) == O_RDONLY ||
        (!S_ISFIFO(what.st_mode) && !cl__sys_is_slave_terminal(out->tee)))
        return; /* other devices may give somebody else when opened: a terminal's master a new terminal */
    snprintf(path, sizeof path, "/proc/self/fd/%d", out->tee);
    int fd = (int)cl__sys_open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY);
    cl__lift(&fd);
    if (fd >= 0)
        out->tee = out->tee_own = fd;
}

static int64_t prepare_stream(cl_run *run, const cl_run_options *options, int i)
{
    cl__drained *out = &run->out[i];
    int64_t first = options->buffer[i];
    cl__buffer_trim(&out->kept, first > 0 && (size_t)first != out->kept.capacity ? 0 : KEEP_BUFFER);
    out->fd = -1;
    out->tee = options->tee[i];
    out->first = first > 0 ? (size_t)first : i == 0 ? 8192 : 4096;
    out->chunk_size = out->chunk_teed = 0;
    if (out->tee >= 0 && !out->chunk)
        out->chunk = malloc(DRAIN_CHUNK);
    return out->tee >= 0 && !out->chunk ? -ENOMEM : 0;
}

static int64_t prepare(cl_run *run, const cl_run_options *options)
{
    run->feed = options->feed;
    run->feed_count = options->feed_count;
    run->feed_at = run->feed_offset = 0;
    run->max_output = options->max_output;
    run->limit_action = options->limit_action;
    run->grace_ns = options->grace_ns;
    run->drain_ns = options->drain_ns;
    run->deadline = run->kill_at = run->drain_until = run->give_up_at = run->look_at = -1;
    run->kill_refused = 0;
    run->timed_out = run->limit_hit = run->pipes_left_open = run->tee_error = run->killed_leftovers = 0;
    int64_t rc = prepare_stream(run, options, 0);
    return rc < 0 ? rc : prepare_stream(run, options, 1);
}

/* Before anything here is opened, and takes the number of a descriptor that the caller has closed. */
static int64_t check_tees(const cl_run_options *options)
{
    for (int i = 0; i < 2; i++)
        if (options->tee[i] >= 0 && !cl__sys_is_open(options->tee[i]))
            return -EBADF;
    return 0;
}

/* Nothing of the last child may be told of the next one, also where that is refused. */
static void forget_last(cl_run *run)
{
    cl__process_reset(&run->process);
    run->process.child = (cl__spawned){.pid = -1, .pidfd = -1, .parent_pipe = {-1, -1, -1}};
    run->process.started_ns = run->process.ended_ns = 0;
    run->phase = CL__IDLE;
    run->leader = NULL;
    run->held = 0;
    run->feed = NULL;
    run->feed_count = run->feed_at = run->feed_offset = run->unfed = 0;
    run->timed_out = run->limit_hit = run->pipes_left_open = run->tee_error = 0;
    run->out[0].kept.size = run->out[1].kept.size = 0;
}

void cl__run_refuse(cl_run *run, int error)
{
    forget_last(run);
    run->process.child.stage = CL_STAGE_PREPARE;
    run->process.child.error = error;
}

int64_t cl__run_begin(cl_run *run, const cl_command *command, const cl_launch *launch, const cl_run_options *options,
                      const cl_environ *snapshot, const cl__among *among)
{
    if (has_child(run))
        return -EBUSY;
    forget_last(run);
    int stage = CL_STAGE_DESCRIPTORS;
    int64_t rc = check_tees(options);
    if (rc == 0) {
        stage = CL_STAGE_PREPARE;
        rc = prepare(run, options);
    }
    if (rc < 0) {
        run->process.child.stage = stage;
        run->process.child.error = (int)-rc;
        return rc;
    }
    rc = cl__process_spawn(&run->process, command, launch, snapshot, among);
    if (rc < 0)
        return rc;
    run->phase = CL__RUNNING;
    for (int i = 0; i < 2; i++)
        open_tee(&run->out[i]);
    run->in = run->process.child.parent_pipe[0];
    run->out[0].fd = run->process.child.parent_pipe[1];
    run->out[1].fd = run->process.child.parent_pipe[2];
    if (options->timeout_ns >= 0)
        run->deadline = from_now(options->timeout_ns);
    if (run->in >= 0) {
        cl__sys_set_nonblocking(run->in);
        feed(run); /* most inputs fit into the pipe: no need to wait until it polls writable */
    }
    return 0;
}

int64_t cl_run_start(cl_run *run, const cl_command *command, const cl_launch *launch, const cl_run_options *options,
                     const cl_environ *snapshot, int64_t at_most_ns)
{
    int64_t rc = cl__run_begin(run, command, launch, options, snapshot, &(cl__among){0});
    return rc < 0 ? rc : cl_run_step(run, at_most_ns);
}

/* ---- stdout and stderr -------------------------------------------------------------------------------------------- */

static void kill_scope(cl_run *run)
{
    cl_process_signal_scope(scope_of(run), SIGKILL);
    if (has_own_group(run))
        cl_process_signal_scope(&run->process, SIGKILL);
    run->kill_refused = cl__process_signal(&run->process, SIGKILL) == -EPERM; /* by itself, should it have left its group */
    if (run->give_up_at < 0) /* refused, it may still be dying of the first signal, which went to all of its group */
        run->give_up_at = from_now(run->kill_refused ? REFUSED_NS : GIVE_UP_NS);
}

/* Keep what fits below the cap. */
static int64_t keep(cl_run *run, cl__drained *out, const uint8_t *data, size_t size)
{
    size_t room = size;
    if (run->max_output >= 0 && out->kept.size + size > (uint64_t)run->max_output) {
        room = (size_t)run->max_output - out->kept.size;
        if (!run->limit_hit && run->limit_action != CL_LIMIT_TRUNCATE)
            kill_scope(run);
        run->limit_hit = 1;
    }
    /* A batch has many streams, and most say little. */
    int64_t rc = room ? cl__buffer_room(&out->kept, room, run->scratch ? room : out->first) : 0;
    if (rc < 0 || !room)
        return rc;
    memcpy(out->kept.data + out->kept.size, data, room);
    out->kept.size += room;
    return 0;
}

/* Through memory that is not the stream's own, where there may be nothing to read, or where not all is kept. */
static int64_t read_aside(cl_run *run, cl__drained *out)
{
    uint8_t own[ASIDE];
    uint8_t *data = run->scratch ? run->scratch : own;
    int64_t got = cl__sys_read(out->fd, data, run->scratch ? CL__SCRATCH : sizeof own);
    int64_t rc = got > 0 ? keep(run, out, data, (size_t)got) : 0;
    return rc < 0 ? rc : got;
}

/* No tee and no cap: straight into the buffer. */
static int64_t read_directly(cl__drained *out)
{
    int64_t rc = cl__buffer_room(&out->kept, out->first < DRAIN_CHUNK ? out->first / 2 + 1 : DRAIN_CHUNK / 2, out->first);
    if (rc < 0)
        return rc;
    size_t room = out->kept.capacity - out->kept.size;
    rc = cl__sys_read(out->fd, out->kept.data + out->kept.size, room);
    if (rc > 0)
        out->kept.size += (size_t)rc;
    return rc;
}

static int64_t read_by_chunk(cl_run *run, cl__drained *out)
{
    int64_t got = cl__sys_read(out->fd, out->chunk, DRAIN_CHUNK);
    if (got <= 0)
        return got;
    int64_t rc = keep(run, out, out->chunk, (size_t)got);
    out->chunk_size = (size_t)got;
    out->chunk_teed = 0;
    out->teeing_since = run->phase == CL__DRAINING ? cl__sys_now() : 0;
    return rc < 0 ? rc : got;
}

/* One read: poll has said that it will not block, and it is not known that a second one would not. */
static int64_t drain_once(cl_run *run, cl__drained *out)
{
    int aside = run->max_output >= 0 || (run->scratch && !out->kept.capacity);
    int64_t rc = out->tee >= 0 ? read_by_chunk(run, out) : aside ? read_aside(run, out) : read_directly(out);
    if (rc == -EINTR || rc == -EAGAIN)
        return 0;
    if (rc == 0)
        drop(run, &out->fd);
    return rc < 0 ? rc : 0;
}

/* After a hang-up everything that will ever come is in the pipe, so read to the end at once. */
static int64_t drain_to_end(cl_run *run, cl__drained *out)
{
    int64_t rc = 0;
    while (rc == 0 && out->fd >= 0 && out->chunk_size == 0)
        rc = drain_once(run, out);
    return rc;
}

static void tee_once(cl_run *run, cl__drained *out)
{
    size_t left = out->chunk_size - out->chunk_teed;
    struct iovec piece = {.iov_base = out->chunk + out->chunk_teed, .iov_len = left < TEE_CHUNK ? left : TEE_CHUNK};
    int64_t wrote = write_quietly(out->tee, &piece, 1, out->tee_is_socket);
    if (wrote == -EAGAIN || wrote == -EINTR)
        return;
    if (wrote < 0) {
        run->tee_error = (int)-wrote;
        out->tee = -1;
        out->chunk_size = out->chunk_teed = 0;
        return;
    }
    out->chunk_teed += (size_t)wrote;
    if (out->chunk_teed < out->chunk_size)
        return;
    out->chunk_size = out->chunk_teed = 0;
}

static int tee_is_pending(const cl_run *run)
{
    return run->out[0].chunk_size || run->out[1].chunk_size;
}

static void give_up_tees(cl_run *run, int error)
{
    for (int i = 0; i < 2; i++) {
        run->tee_error = run->out[i].chunk_size ? error : run->tee_error;
        run->out[i].tee = -1;
        run->out[i].chunk_size = run->out[i].chunk_teed = 0;
    }
}

/* ---- timers ------------------------------------------------------------------------------------------------------- */

static int pipes_are_done(const cl_run *run)
{
    return run->out[0].fd < 0 && run->out[1].fd < 0 && !tee_is_pending(run);
}

/* Waiting for whoever holds the pipes: not for a tee's slow reader, for whom all is there, nor for a debugger who has not
 * let go of the child. */
static int is_draining(const cl_run *run)
{
    return run->phase == CL__DRAINING && !tee_is_pending(run) && !pipes_are_done(run);
}

static int64_t next_timer(const cl_run *run, int64_t until)
{
    const int64_t timers[] = {run->deadline, run->kill_at, is_draining(run) ? run->drain_until : -1,
                              run->phase == CL__RUNNING ? run->give_up_at : -1};
    for (size_t i = 0; i < sizeof timers / sizeof *timers; i++)
        if (timers[i] >= 0 && timers[i] < until)
            until = timers[i];
    return until;
}

static void fire_timers(cl_run *run, int64_t now, int has_looked)
{
    if (run->deadline >= 0 && now >= run->deadline && run->phase == CL__DRAINING) {
        run->deadline = -1;
        give_up_tees(run, ETIMEDOUT); /* the child made it, its tee did not */
    } else if (run->deadline >= 0 && now >= run->deadline) {
        run->deadline = -1;
        run->timed_out = 1;
        if (run->grace_ns > 0) {
            cl_process_signal_scope(scope_of(run), SIGTERM);
            cl_process_signal_scope(scope_of(run), SIGCONT); /* a stopped child could not take the hint */
            run->kill_at = from_now(run->grace_ns);
        } else {
            kill_scope(run);
        }
    }
    if (run->kill_at >= 0 && now >= run->kill_at) {
        run->kill_at = -1;
        kill_scope(run);
    }
    if (is_draining(run) && has_looked && now >= run->drain_until) {
        run->pipes_left_open = 1;
        if (run->killed_leftovers) { /* somebody outside the scope holds them */
            close_pipes(run);
            run->out[0].chunk_size = run->out[1].chunk_size = 0;
        }
        run->killed_leftovers = 1;
        kill_scope(run);
        run->drain_until = from_now(AFTER_KILL_NS);
    }
}

/* ---- the step ----------------------------------------------------------------------------------------------------- */

/* Only what is open is polled: the kernel walks every slot, also the empty ones, once before and once after it sleeps. */
typedef struct waited {
    struct pollfd fds[4];
    size_t count;
    short exit, in, out[2]; /* where each is in `fds`, or -1 */
} waited;

static short add(waited *set, int fd, short events)
{
    if (fd < 0)
        return -1;
    set->fds[set->count] = (struct pollfd){.fd = fd, .events = events};
    return (short)set->count++;
}

static void fill_poll(const cl_run *run, waited *set)
{
    set->count = 0;
    set->exit = add(set, run->phase == CL__RUNNING ? run->process.watch : -1, POLLIN);
    set->in = add(set, run->in, POLLOUT);
    for (int i = 0; i < 2; i++) {
        const cl__drained *out = &run->out[i];
        set->out[i] = out->chunk_size ? add(set, out->tee, POLLOUT) : add(set, out->fd, POLLIN);
    }
}

static short events_at(const waited *set, short at)
{
    return at < 0 ? 0 : set->fds[at].revents;
}

static int64_t serve_pipes(cl_run *run, const waited *set)
{
    int64_t rc = 0;
    if (events_at(set, set->in))
        feed(run);
    for (int i = 0; i < 2 && rc >= 0; i++) {
        cl__drained *out = &run->out[i];
        short events = events_at(set, set->out[i]);
        if (!events)
            continue;
        if (out->chunk_size)
            tee_once(run, out);
        else
            rc = events & POLLHUP ? drain_to_end(run, out) : drain_once(run, out);
    }
    return rc;
}

static void begin_drain(cl_run *run)
{
    run->phase = CL__DRAINING;
    run->kill_at = -1;
    if (run->timed_out)
        give_up_tees(run, ETIMEDOUT);
    if (run->out[0].tee < 0 && run->out[1].tee < 0)
        run->deadline = -1; /* it made it; the drain has a bound of its own, and only a tee's reader has not */
    run->drain_until = from_now(run->drain_ns);
    run->out[0].teeing_since = run->out[1].teeing_since = cl__sys_now();
}

static void child_ended(cl_run *run)
{
    run->look_at = -1;
    drop(run, &run->in);
    if (run->poller && run->process.watch >= 0)
        cl__poller_remove(run->poller, run->process.watch);
    if (run->held & CL__HELD_BY_CHILDREN) {
        run->phase = CL__ENDED; /* what holds its pipes may be a part of what still runs */
        run->process.ended_ns = cl__sys_now();
    } else {
        begin_drain(run);
    }
}

void cl__run_let_go(cl_run *run, int holds)
{
    run->held &= ~holds;
    if (run->phase == CL__ENDED && !(run->held & CL__HELD_BY_CHILDREN))
        begin_drain(run);
}

/* What the child left behind is killed while the unreaped leader still holds the group's number; then it is reaped. */
static int64_t finish(cl_run *run)
{
    if (run->process.child.contained != CL_CONTAIN_NONE && (!run->leader || run->leader == run || has_own_group(run)))
        cl__process_signal_scope(&run->process, SIGKILL);
    int64_t rc = cl__process_reap(&run->process);
    if (rc != 1)
        return rc;
    cl_process_take_terminal(&run->process);
    close_pipes(run);
    drop_feed(run);
    cl__process_close(&run->process); /* an idle run holds no descriptor */
    run->phase = CL__DONE;
    return 1;
}

int64_t cl_run_step(cl_run *run, int64_t at_most_ns)
{
    if (run->phase == CL__DONE)
        return 1;
    if (run->phase == CL__IDLE)
        return -EINVAL;
    if (run->process.creator != (int)cl__sys_getpid())
        return -EPERM;
    int64_t began = 0, until = -1;
    for (;;) {
        /* With all pipes at their end the child is most likely gone: look, rather than sleep first. */
        if (run->phase == CL__RUNNING && began && pipes_are_done(run) && cl__process_ended(&run->process) == 1)
            child_ended(run);
        if (run->phase == CL__DRAINING && pipes_are_done(run)) {
            int64_t rc = finish(run);
            if (rc == 0)
                cl__sys_nap(CL__NOT_YET_NAP_NS);
            return rc;
        }
        waited set;
        int64_t now = cl__sys_now();
        if (!began) {
            began = now;
            until = later(now, at_most_ns);
        } else if (now >= until) {
            return 0; /* also while data keeps coming: the caller has signals to look at */
        }
        fill_poll(run, &set);
        int64_t span = next_timer(run, until) - now;
        int64_t period = run->phase == CL__RUNNING ? cl__watch_period(run->process.watch, now - run->process.started_ns) : -1;
        if (period >= 0 && period < span)
            span = period;
        int draining = run->phase == CL__DRAINING; /* so the pipes are looked at once after the end, also with no time for it */
        int stalled = draining && tee_is_pending(run);
        int64_t ready = cl__sys_poll(set.fds, set.count, span > 0 ? span : 0);
        if (stalled && run->drain_until < INT64_MAX / 2)
            run->drain_until += cl__sys_now() - now; /* that time went to the tee's reader, not to who holds the pipe */
        /* Also when signals come faster than the looks at the child. */
        if (ready < 0 && period >= 0 && cl__process_ended(&run->process) == 1)
            child_ended(run);
        if (ready < 0)
            return ready;
        int64_t rc = serve_pipes(run, &set);
        if (rc < 0)
            return rc;
        if (run->phase == CL__RUNNING && (events_at(&set, set.exit) || (period >= 0 && cl__process_ended(&run->process) == 1)))
            child_ended(run);
        if (ready > 0 && run->deadline < 0 && run->kill_at < 0 && run->give_up_at < 0 && run->phase == CL__RUNNING)
            continue; /* no timer could have fired */
        now = cl__sys_now();
        fire_timers(run, now, draining);
        if (run->phase == CL__RUNNING && run->give_up_at >= 0 && now >= run->give_up_at)
            return run->kill_refused ? -EPERM : -ETIMEDOUT;
    }
}

/* ---- for those who wait for many runs ----------------------------------------------------------------------------- */

int64_t cl__run_watch(cl_run *run, cl__poller *poller, uint64_t key)
{
    const int fds[] = {run->process.watch, run->in, run->out[0].fd, run->out[1].fd};
    int64_t rc = 0;
    run->poller = poller;
    if (run->process.watch < 0)
        run->look_at = from_now(cl__watch_period(-1, 0));
    for (int which = 0; which < 4 && rc == 0; which++)
        if (fds[which] >= 0)
            rc = cl__poller_add(poller, fds[which], which == CL__READY_IN, key | (uint64_t)which);
    return rc;
}

int64_t cl__run_ready(cl_run *run, int which, int hup)
{
    cl__drained *out = &run->out[which == CL__READY_ERR];
    if (which == CL__READY_EXIT && run->phase == CL__RUNNING)
        child_ended(run);
    else if (which == CL__READY_IN && run->in >= 0)
        feed(run);
    else if (which >= CL__READY_OUT && out->fd >= 0)
        return hup ? drain_to_end(run, out) : drain_once(run, out);
    return 0;
}

int64_t cl__run_finish(cl_run *run)
{
    if (run->phase != CL__DRAINING || !pipes_are_done(run) || run->held)
        return 0;
    int64_t rc = finish(run);
    if (rc == 0)
        run->look_at = from_now(CL__NOT_YET_NAP_NS); /* ended, but a debugger has not let go of it */
    return rc;
}

int64_t cl__run_advance(cl_run *run, int64_t now, int has_looked)
{
    if (run->phase == CL__RUNNING && run->look_at >= 0 && now >= run->look_at) {
        run->look_at = later(now, cl__watch_period(-1, now - run->process.started_ns));
        if (cl__process_ended(&run->process) == 1)
            child_ended(run);
    }
    fire_timers(run, now, has_looked);
    if (run->phase == CL__RUNNING && run->give_up_at >= 0 && now >= run->give_up_at)
        return run->kill_refused ? -EPERM : -ETIMEDOUT;
    return cl__run_finish(run);
}

int64_t cl__run_timer(const cl_run *run)
{
    int64_t next = next_timer(run, INT64_MAX);
    return run->look_at >= 0 && run->look_at < next ? run->look_at : next;
}

void cl__run_kill(cl_run *run)
{
    if (has_child(run))
        kill_scope(run);
}

int64_t cl_run_abort(cl_run *run, int64_t at_most_ns)
{
    if (!has_child(run))
        return 1;
    kill_scope(run);
    close_pipes(run);
    drop_feed(run);
    if (run->poller && run->phase == CL__RUNNING && run->process.watch >= 0)
        cl__poller_remove(run->poller, run->process.watch);
    int64_t until = from_now(at_most_ns), left = at_most_ns, rc;
    do
        rc = cl_process_wait(&run->process, left);
    while (rc == -EINTR && (left = until - cl__sys_now()) > 0);
    cl_process_take_terminal(&run->process);
    if (rc != 1)
        return 0;
    cl__process_close(&run->process);
    run->phase = CL__DONE;
    return 1;
}

int64_t cl_run_forget(cl_run *run)
{
    if (has_child(run))
        return -EBUSY;
    for (int i = 0; i < 2; i++)
        cl__buffer_trim(&run->out[i].kept, KEEP_BUFFER);
    return 0;
}

int64_t cl_run_report_get(cl_run *run, cl_run_report *out)
{
    cl_process_report(&run->process, &out->child);
    out->timed_out = run->timed_out;
    out->limit_hit = run->limit_hit;
    out->pipes_left_open = run->pipes_left_open;
    out->tee_error = run->tee_error;
    out->feed_left = feed_left(run);
    for (int i = 0; i < 2; i++) {
        out->size[i] = (int64_t)run->out[i].kept.size;
        out->data[i] = (int64_t)(uintptr_t)run->out[i].kept.data;
    }
    out->is_plain = out->child.state == CL_STATE_EXITED && !out->child.status && !out->child.stage && !out->timed_out &&
                    !out->limit_hit && !out->pipes_left_open && !out->tee_error;
    return 0;
}

int64_t cl_run_start_report(cl_run *run, const cl_command *command, const cl_launch *launch,
                            const cl_run_options *options, const cl_environ *snapshot, int64_t at_most_ns,
                            cl_run_report *out)
{
    int64_t rc = cl_run_start(run, command, launch, options, snapshot, at_most_ns);
    cl_run_report_get(run, out);
    return rc;
}
