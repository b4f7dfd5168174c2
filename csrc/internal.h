/* What the files of the core share with each other, and with nobody else. */
#ifndef CORELANE_INTERNAL_H
#define CORELANE_INTERNAL_H

#include "corelane.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/types.h>

/* Code that runs in a child sharing the parent's memory. A sanitizer's bookkeeping would be the parent's too, and its
 * entry hooks would never see the matching exit, because such a function ends in exec. */
#define CL__CHILD __attribute__((no_sanitize("thread", "address", "undefined"))) CL__NO_CANARY

/* A stack protector reads thread-local storage, and a child that nobody waits for may outlive the thread whose it is. */
#ifndef __has_attribute
#define __has_attribute(name) 0
#endif
#if __has_attribute(no_stack_protector)
#define CL__NO_CANARY __attribute__((no_stack_protector))
#else
#define CL__NO_CANARY __attribute__((optimize("no-stack-protector")))
#endif

#define CL__NS_PER_S 1000000000LL
#define CL__NO_LIMIT UINT64_MAX

/* ---- sys_*.c: one kernel call each, >= 0 or -errno, errno untouched where the platform allows. All of them may run
 * in a vfork child: no lock, no allocation, no thread-local state. -------------------------------------------------- */

int cl__sys_leaves_errno(void);                        /* so that they may run beside the thread whose errno it is */
int64_t cl__sys_open(const char *path, int flags);
int64_t cl__sys_open_place(const char *path);          /* O_PATH: to look at what it is; -ENOTSUP */
int64_t cl__sys_openat(int dir, const char *path, int flags);
int64_t cl__sys_close(int fd);
int64_t cl__sys_read(int fd, void *data, size_t size);
int64_t cl__sys_sysctl(const char *name, void *value, size_t size); /* its length; -ENOTSUP on Linux */
int64_t cl__sys_write(int fd, const void *data, size_t size);
int64_t cl__sys_pipe(int fds[2]);                      /* both ends CLOEXEC */
int64_t cl__sys_socketpair(int fds[2]);                /* the same */
int64_t cl__sys_receive(int fd, struct msghdr *message); /* without blocking */
int64_t cl__sys_set_pipe_size(int fd, int64_t size);
int64_t cl__sys_get_pipe_size(int fd);                 /* -ENOTSUP: nobody has a choice of it */
int64_t cl__sys_membarrier(int command); /* wake_linux.c's */
int64_t cl__sys_dup_onto(int fd, int target);          /* target loses CLOEXEC, also when it is fd itself */
int64_t cl__sys_dup_above(int fd, int floor);          /* a CLOEXEC copy numbered >= floor */
int64_t cl__sys_set_cloexec(int fd);
int64_t cl__sys_set_nonblocking(int fd);
int cl__sys_is_open(int fd);
int64_t cl__sys_cloexec_range(unsigned first, unsigned last);
int64_t cl__sys_close_range(unsigned first, unsigned last);
int64_t cl__sys_chdir(const char *path);
int64_t cl__sys_fchdir(int fd);
int64_t cl__sys_umask(int mask);
int64_t cl__sys_getpid(void);
int64_t cl__sys_getppid(void);
int64_t cl__sys_is_main_thread(int pid);               /* of the process with that pid, which is ours */
int64_t cl__sys_setsid(void);
int64_t cl__sys_setpgid(int pid, int group);
int64_t cl__sys_set_terminal(int fd);                  /* TIOCSCTTY */
int64_t cl__sys_get_foreground(int fd);
int cl__sys_is_slave_terminal(int fd);                 /* opening it once more gives the same terminal */
int64_t cl__sys_set_foreground(int fd, int group);
int64_t cl__sys_set_limit(int resource, uint64_t soft, uint64_t hard);
/* Of a thread by its number, 0: the calling one; or `who` is CL_WHO_*. */
int64_t cl__sys_gettid(void);
int64_t cl__sys_get_nice(int who, int id);             /* 20 - nice: never negative */
int64_t cl__sys_set_nice(int who, int id, int nice);
int64_t cl__sys_get_sched(int thread, cl_sched *out);
int64_t cl__sys_set_scheduler(int thread, int policy, int priority, int reset_on_fork);
int64_t cl__sys_set_deadline(int thread, uint64_t runtime_ns, uint64_t deadline_ns, uint64_t period_ns, int reset_on_fork);
int64_t cl__sys_set_util(int thread, int low, int high); /* -1: unchanged */
int64_t cl__sys_get_affinity(int thread, void *mask, size_t room); /* the bytes written */
int64_t cl__sys_set_affinity(int thread, const void *mask, size_t size);
int64_t cl__sys_get_io_priority(int who, int id);
int64_t cl__sys_set_io_priority(int who, int id, int value);
int64_t cl__sys_get_memory_policy(void *nodes, size_t room); /* the policy */
int64_t cl__sys_set_memory_policy(int policy, const void *nodes, size_t size);
int64_t cl__sys_get_qos(void);
int64_t cl__sys_set_qos(int qos);
int64_t cl__sys_set_death_signal(int signal);
int64_t cl__sys_no_new_privs(void);
int64_t cl__sys_set_groups(const uint32_t *groups, size_t count);
int64_t cl__sys_set_gid(uint32_t gid);
int64_t cl__sys_set_uid(uint32_t uid);
int64_t cl__sys_block_signals(uint64_t mask, uint64_t *old); /* this thread's mask becomes exactly `mask` */
int64_t cl__sys_block_also(uint64_t mask, uint64_t *old);
uint64_t cl__sys_pending_signals(void);
void cl__sys_take_signal(int signal);                  /* consume one that is pending and blocked */
int64_t cl__sys_signal_default(int signal);
int64_t cl__sys_signal_ignore(int signal);
int64_t cl__sys_signal_reset_if_caught(int signal);
int64_t cl__sys_exec(const char *path, const char *const *argv, const char *const *env);
void cl__sys_nap(int64_t ns);
char **cl__sys_environ(void);
/* Linux only. clone3 with a stack of the child's own, on which it calls `start`, which does not return. -ENOSYS also where
 * nobody has written the assembly for it. */
int64_t cl__sys_clone3_onto(void *request, size_t size, int (*start)(void *), void *argument);
int64_t cl__sys_fork_held(int flags, int *pidfd);      /* returns twice */
void cl__sys_exit(int code) __attribute__((noreturn));
int64_t cl__sys_kill(int pid, int signal);             /* pid < 0: the group */
int64_t cl__sys_now(void);                             /* CLOCK_MONOTONIC, ns */
int64_t cl__sys_now_coarse(void);                      /* the same, of the last tick: for less */
int64_t cl__sys_poll(struct pollfd *fds, size_t count, int64_t timeout_ns); /* < 0: for ever */
/* Linux only: a descriptor that does not block, CLOEXEC, and counts. */
int64_t cl__sys_eventfd(int semaphore);
/* Linux only. A descriptor that does not block, CLOEXEC, and hears of writes to the files it is given. */
int64_t cl__sys_notify_open(void);
int64_t cl__sys_notify_add(int fd, const char *path);
int64_t cl__sys_notify_remove(int fd, int watch);
int64_t cl__max_rss_kib(const struct rusage *usage);   /* the platforms count in different units */
int64_t cl__take_terminal(void);                       /* our process group becomes the foreground one */

#define CL__SIGNAL_COUNT 64
#define CL__SIGNAL_BIT(s) (1ULL << ((s) - 1))

/* ---- spawn: the job is a command made concrete for one child ------------------------------------------------------ */

typedef struct cl__move {
    int source; /* >= 0, CL__SOURCE_NULL or CL__SOURCE_STDOUT */
    int target;
} cl__move;

enum { CL__SOURCE_NULL = -2, CL__SOURCE_STDOUT = -3 };
/* SOFT: where that group is no more, one of the child's own. */
enum { CL__GROUP_OURS = 0, CL__GROUP_SET = 1, CL__GROUP_SOFT = 2 };

typedef struct cl__job {
    const cl_command *command;
    const char *const *env;
    const char **paths;       /* what to exec, in order */
    cl__move *moves;          /* sorted by target; the child rewrites the sources that it has to lift */
    size_t move_count;
    int64_t contained;        /* CL_CONTAIN_*, decided */
    int own_group;            /* CL__GROUP_*: setpgid(0, process_group) */
    int process_group;
    int parent;               /* the pid that must still be our parent */
    int cgroup_fd;            /* to be joined by the child, or -1 */
    int report_fd;            /* where the child says what failed; -1: `stage` and `error` are shared with the parent */
    int handlers_cleared;     /* CLONE_CLEAR_SIGHAND has done the dispositions */
    int closes_others;        /* what is not in the map is closed before exec, rather than by it: see flight_linux.c */
    /* The answer. volatile: written by the child in the parent's memory while the parent is held in clone, so there
     * is no race, but the compiler must not think that clone leaves them alone. */
    volatile int stage;
    volatile int error;
    volatile uint64_t not_applied; /* as in cl_report */
} cl__job;

/* The same where no memory is shared: what a child writes to `report_fd`. One with stage 0 is what it goes on without. */
typedef struct cl__words {
    int32_t stage, error;
    uint64_t not_applied;
} cl__words;

/* spawn_paths.c */
size_t cl__paths_size(const char *program, const char *const *env);
void cl__paths_build(const char *program, const char *const *env, void *memory, size_t size, const char ***out);

/* spawn_child.c: the child's side; ends in exec or exit. */
void cl__child_main(cl__job *job) __attribute__((noreturn));
int cl__nothing_there(int64_t rc); /* an exec's answer that lets a search go on */
int cl__is_target(const cl__job *job, int64_t fd);
int64_t cl__dup_clear(const cl__job *job, int fd); /* a CLOEXEC copy under a number >= 3 that is no target */
enum { CL__BUSY_TRIES = 50, CL__BUSY_NAP_NS = 2000000 }; /* exec of a program that somebody has open for writing */

/* clone_*.c: start a child that runs cl__child_main, by the strategy named (and then the one that was used). Returns
 * its pid and a pidfd (or -1) once the child has exec'd or failed, or -errno: no child. */
int64_t cl__clone_child(cl__job *job, int *strategy, int cgroup_fd, int *pidfd);
int cl__clone_strategy(int wanted); /* what AUTO means here, or -errno of a strategy that is missing */

/* flight.c: a job in one piece of memory */
size_t cl__job_size(const cl__job *job);
void cl__job_copy(const cl__job *from, cl__job *job, cl_command *command, void *memory);

/* flight_*.c: children that nobody waits for between clone and exec. A pool has one user at a time, unless it has a lock. */
typedef struct cl__flight cl__flight;
typedef struct cl__spawned cl__spawned;
typedef struct cl__flights {
    cl__flight *idle;
    size_t idle_count;
    cl__flight *adrift;    /* of nobody, and not landed yet, as far as is known */
    pthread_mutex_t *lock; /* or NULL; never held while a child is started */
} cl__flights;
int cl__may_fly(const cl__job *job, int cgroup_fd);
int64_t cl__flight_new(cl__flights *pool, const cl__job *job, cl__flight **out); /* with a copy of the job */
void cl__flight_free(cl__flights *pool, cl__flight *flight);                     /* one that has landed, or never started */
void cl__flight_leave(cl__flights *pool, cl__flight *flight); /* nobody will ask for it: its memory is used again when it has landed */
void cl__flights_close(cl__flights *pool);
int64_t cl__flight_start(cl__flight *flight, int cgroup_fd, int *pidfd);         /* its pid */
int cl__flight_has_landed(cl__flight *flight, cl__spawned *out); /* exec'd (stage 0), failed, or killed */
void cl__flight_is_over(cl__flight *flight, cl__spawned *out);   /* its child was reaped; what it said, in `out` */
int64_t cl__clone3_flight(cl__job *job, void *stack, size_t size, int cgroup_fd, int *pidfd, int *tid);
int cl__clone3_can_fly(void);

/* spawn_posix.c */
int64_t cl__posix_child(cl__job *job, int *pidfd);
int64_t cl__posix_close_others(const cl__job *job, int trampolined, posix_spawn_file_actions_t *actions, short *flags);

/* spawn_wire.c: a job as words and strings, for the trampoline. */
typedef struct cl__carried { /* the descriptors that the trampoline needs, by their numbers in it, or -1 */
    int cwd_fd, terminal_fd, cgroup_fd, report_fd;
} cl__carried;
int64_t cl__wire_pack(const cl__job *job, const cl__carried *carried, const char *trampoline, const char ***out);
int64_t cl__wire_unpack(int argc, char **argv, cl__job *job, cl_command *command);

/* spawner.c: run `work(arg)` on the long-lived spawner thread, for children that must not outlive the process but
 * may outlive the thread that asked for them. */
int64_t cl__on_spawner(int64_t (*work)(void *), void *arg);
int64_t cl__start_thread(pthread_t *thread, void *(*work)(void *), void *arg); /* one that gets none of the program's signals */

/* stdio.c */
typedef struct cl__stdio {
    int child[3];  /* the child's ends: a descriptor, CL__SOURCE_*, or -1 to inherit */
    int parent[3]; /* our ends, or -1 */
    int owned[3];  /* close child[i] after the spawn */
} cl__stdio;
int64_t cl__stdio_open(cl__stdio *io, const cl_launch *launch);
void cl__stdio_close_child(cl__stdio *io);
void cl__stdio_close_parent(cl__stdio *io);
int64_t cl__lift(int *fd); /* move a descriptor numbered 0, 1 or 2 out of the way */

/* environ.c */
const char *const *cl__environ_strings(const cl_environ *snapshot);
int64_t cl__environ_change(const char *const *base, const char *const *changes, const char ***out);

/* report.c */
int cl__report_hear(int fd, cl__job *job);    /* once; 0: that was the last word */
void cl__report_listen(int fd, cl__job *job); /* until end of file: then the child has exec'd, or said what failed */
void cl__report_open(int socket, cl__job *job);              /* the trampoline's side */
void cl__report_await(int socket, int pid, cl__job *job);    /* the parent's */

/* spawn.c */
struct cl__spawned {
    int pid, parent, pidfd, strategy, stage, error;
    uint64_t not_applied;
    int64_t contained;
    int leads;          /* the group of its number is its own */
    int parent_pipe[3];
    cl__flight *flight; /* not exec'd yet, as far as is known; else NULL */
};
/* What a spawn is a part of; all NULL: of nothing. */
typedef struct cl__among {
    cl__flights *flights;      /* where that can be, do not wait until the child has exec'd */
    const cl__spawned *leader; /* of its pipeline, and not reaped: the child goes where that is */
} cl__among;
int64_t cl__spawn(const cl_command *command, const cl_launch *launch, const cl_environ *snapshot, const cl__among *among,
                  cl__spawned *out);

/* ---- exit_*.c: learning that a child has ended -------------------------------------------------------------------- */

typedef struct cl__exit {
    int state;  /* CL_STATE_* */
    int status;
    int core_dumped;
    struct rusage usage;
} cl__exit;

/* A descriptor that becomes readable when the child ends, or -1 where the platform has none. */
int cl__watch_open(int pid, int pidfd);
int cl__watch_pidfd(int pid);                          /* a pidfd of whoever has that number now, or -1 */
int cl__watch_child(int pid);                          /* the same, and it is surely our child's */
/* 1: ended (reaped, and *out filled, if `reap`); 0: not yet; -errno. */
int64_t cl__watch_look(int pid, int pidfd, int reap, cl__exit *out);
int64_t cl__watch_stopped(int pid, int pidfd);         /* 1: stopped by a signal */
int64_t cl__watch_signal(int pid, int pidfd, int signal);
/* Signal the group led by the child. -ENOSYS: only possible by its number, while the leader is not reaped. */
int64_t cl__watch_signal_group(int pid, int pidfd, int signal);
/* Longest useful sleep before cl__watch_look must be called again; -1: the descriptor will tell. */
int64_t cl__watch_period(int watch, int64_t waited_ns);
int cl__watch_end(int *watch);                         /* the child is gone: close what cl__watch_open made */

/* cgroup.c: -ESRCH: nobody is in it, or it is gone */
int64_t cl__cgroup_signal(int dir, int signal); /* not SIGKILL */
int64_t cl__cgroup_kill(int file);

/* A child can have ended and not be reapable yet: its tracer (a debugger) has not let go of it. */
enum { CL__NOT_YET_NAP_NS = 1000000 };

/* ---- process.c, for run.c ----------------------------------------------------------------------------------------- */

struct cl_process {
    pthread_mutex_t lock; /* reap against signal: a pid may only be signalled while it cannot be reused */
    int creator;          /* the pid that spawned it */
    int watch;
    int cgroup_fd;        /* our own copy, or -1 */
    int cgroup_kill;      /* its cgroup.kill, opened beforehand: ending a scope must not need a free descriptor */
    int reaped;
    int took_terminal;    /* the terminal we may have to take back, or -1 */
    int64_t started_ns, ended_ns;
    cl__spawned child;
    cl__exit exit;
};

void cl__process_init(cl_process *process);
int64_t cl__process_spawn(cl_process *process, const cl_command *command, const cl_launch *launch,
                          const cl_environ *snapshot, const cl__among *among);
int64_t cl__process_settle(cl_process *process, cl__flights *flights); /* 1: it is known whether it has exec'd */
void cl__process_close(cl_process *process); /* its descriptors; what is known of the child stays */
void cl__process_reset(cl_process *process); /* the same, and ready for another child */
int64_t cl__process_reap(cl_process *process);
int64_t cl__process_signal_scope(cl_process *process, int signal); /* of a child that is known to be ours */
int64_t cl__process_signal(cl_process *process, int signal); /* as cl_process_signal, but one that has ended is not reaped */
int64_t cl__process_ended(cl_process *process); /* 1: it is a zombie or gone; does not reap */

/* ---- memory_*.c: files in memory ---------------------------------------------------------------------------------- */

int64_t cl__memory_file(int huge_shift);    /* without a name; its size can be sealed */
/* One that can be given a name there. `*hidden`: the path it has until then, from malloc(), for whoever gives up; or NULL. */
int64_t cl__memory_nameless(const char *directory, int mode, char **hidden);
int64_t cl__memory_give_name(int fd, const char *path, char **hidden); /* -EEXIST */
int64_t cl__memory_set_size(int fd, int64_t size);
int64_t cl__memory_reserve(int fd, int64_t offset, int64_t size); /* so that no touch can fail for want of memory */
int64_t cl__memory_open_anew(int fd, int flags); /* a description of its own; -ENOENT without /proc, -ENOTSUP */
int64_t cl__memory_give_back(int fd, int64_t offset, int64_t size); /* to the system; zeros when it is touched again */
int64_t cl__memory_take_back(int fd, int64_t offset, int64_t size); /* what was given back, of whole pages: reserved again */
int64_t cl__memory_seal(int fd);            /* its size stays as it is */
int64_t cl__memory_bind(void *base, size_t size, int mode, const uint64_t *nodes, int words); /* to NUMA nodes */
int64_t cl__memory_populate(void *base, size_t size, int writes);
int cl__memory_populates(void);             /* the flag of mmap(2) that does it; 0: there is none */

/* ---- lease_*.c: proof that somebody lives --------------------------------------------------------------------------- */

/* What holds a segment. Two descriptions of one file, as a lock is never in the way of what asks through its own. */
typedef struct cl__lease {
    int own; /* it holds; -1: nothing is held */
    /* The other one; perhaps the segment's own descriptor, or one of ours. Who waits asks by it while another thread lets go. */
    _Atomic int asks;
} cl__lease;

/* Where in a segment's header is said whether the file of its lease was removed by the last holder: see lease_files.c. */
enum { CL__LEASE_GONE_AT = 68 };

/* The first 8 bytes of a segment: those of builds that do not see each other's leases are foreign to each other. */
const char *cl__lease_magic(void);
/* A shared lock of our own on the segment open as `fd`, that says: held. `makes`: nobody has held it before. -EAGAIN: somebody
 * has it alone. -ENOLCK: the file of its lease is not there. */
int64_t cl__lease_open(cl__lease *lease, int fd, int makes);
void cl__lease_close(cl__lease *lease, int fd); /* `fd`: the segment's, or -1 */
void cl__lease_forget(cl__lease *lease);        /* what a forked child has inherited of it */
int64_t cl__lease_is_held(int fd);
/* Alone: 1, or 0: somebody holds it. It is given back by the second call, and when both `fd` and `own` are closed. */
int64_t cl__lease_take(int fd, int *own);
void cl__lease_give_back(int fd, int own);
/* The same for a participant, a number from 0. Taken through a description that holds, or a bare one, asked for through
 * any other. -EACCES: the file may only be read. */
int64_t cl__lease_part_is_held(const cl__lease *lease, int part);
int64_t cl__lease_take_part(int own, int part);
void cl__lease_drop_part(int own, int part);
/* A description that holds nothing: for taking a part in somebody's stead. One thread of the process at a time has one. */
int64_t cl__lease_open_bare(const cl__lease *lease, int fd);
void cl__lease_close_bare(const cl__lease *lease, int bare);

/* ---- fd_*.c: what a descriptor is ---------------------------------------------------------------------------------- */

enum { CL__FD_PATH = 32 };
void cl__fd_path(int fd, char path[CL__FD_PATH]); /* by which it can be opened anew; only where there is a /proc */
int cl__fd_is_eventfd(int fd); /* without /proc: that, or no file of another kind either */

/* ---- where memory is files: files_*.c, what systems have differently; hidden_files.c, those that have no name ------- */

int64_t cl__files_lock(int fd, struct flock *range); /* F_OFD_SETLK */
int64_t cl__files_ask(int fd, struct flock *range);  /* F_OFD_GETLK */
int64_t cl__files_rename(const char *from, const char *to); /* -EEXIST: nothing is replaced */

enum { CL__HIDDEN_PATH = 96 };
enum { CL__HIDDEN_LEASE, CL__HIDDEN_BELL, CL__HIDDEN_PART };
/* The path of one: of a lease, by the device and number of its segment's file; of a bell, by its process and a count. */
void cl__hidden_path(char path[CL__HIDDEN_PATH], int kind, uint64_t first, uint64_t second);
/* A file that is not whole yet, in that directory, under a name that nobody has; its maker holds it while it lives. */
int64_t cl__hidden_file(const char *directory, char **path);
/* The first byte of leases, of any file: 1: it is ours alone, or shared; 0: somebody is in the way. */
int64_t cl__files_hold(int fd, int kind); /* F_RDLCK, F_WRLCK, F_UNLCK */

/* ---- segment.c, for what is built on it ------------------------------------------------------------------------------ */

int64_t cl__segment_take_part(cl_segment *segment, int part); /* 1, or 0: somebody has it */
void cl__segment_drop_part(cl_segment *segment, int part);
int64_t cl__segment_part_is_held(const cl_segment *segment, int part); /* by anybody, also by ourselves */
/* Never 0; another one in the child of a fork, for the parts that the parent has taken are not the child's; and another one when the
 * segment was let go of, as its parts may be somebody else's since: who held one there must not give up, or go on as, that one. */
const _Atomic uint32_t *cl__segment_generation(const cl_segment *segment);
/* Another number in the child of a fork. */
uint32_t cl__segments_forks(void);
int cl__segment_fd(const cl_segment *segment);
/* See cl__lease_open_bare. Between the two that follow. */
int64_t cl__segment_open_bare(const cl_segment *segment);
void cl__segment_close_bare(const cl_segment *segment, int bare);
/* No fork between these two: a child would have what is open, and its locks with it. Take no part between them. */
void cl__segments_hold_still(void);
void cl__segments_go_on(void);

/* ---- poller_*.c: waiting for many descriptors ---------------------------------------------------------------------- */

typedef struct cl__ready {
    uint64_t key;
    int hup; /* whoever wrote will write no more */
} cl__ready;

enum { CL__READY_MOST = 256 };

typedef struct cl__poller {
    int fd;    /* to be waited for by others; -1 where there is none */
    int timer;
    struct pollfd *fds; /* poller_poll.c */
    uint64_t *keys;
    size_t count, room, first;
} cl__poller;

int64_t cl__poller_open(cl__poller *poller);
void cl__poller_close(cl__poller *poller);
int64_t cl__poller_add(cl__poller *poller, int fd, int writes, uint64_t key);
void cl__poller_remove(cl__poller *poller, int fd); /* before it is closed */
int64_t cl__poller_wait(cl__poller *poller, cl__ready *out, int most, int64_t span); /* most <= CL__READY_MOST */
int64_t cl__poller_arm(cl__poller *poller, int64_t when); /* its fd becomes readable then, too; < 0: no more */

/* ---- buffer.c ----------------------------------------------------------------------------------------------------- */

typedef struct cl__buffer {
    uint8_t *data;
    size_t size, capacity;
} cl__buffer;
int64_t cl__buffer_room(cl__buffer *buffer, size_t least, size_t first); /* at least that many bytes free */
void cl__buffer_trim(cl__buffer *buffer, size_t keep);                   /* forget the contents; free above `keep` */

/* ---- run.c, for the batch engine ---------------------------------------------------------------------------------- */

/* ENDED: the child has, others of its pipeline have not. */
typedef enum cl__phase { CL__IDLE, CL__RUNNING, CL__ENDED, CL__DRAINING, CL__DONE } cl__phase;

typedef struct cl__drained {
    int fd;           /* -1: at end of file, or never a pipe */
    int tee;          /* -1: none, or it failed */
    int tee_own;      /* a non-blocking description of our own of the tee's file, or -1 */
    int tee_is_socket;
    size_t first;     /* first size of the buffer */
    cl__buffer kept;
    uint8_t *chunk;   /* allocated where there is a tee: bytes between us and the two destinations */
    size_t chunk_size, chunk_teed;
    int64_t teeing_since; /* when the chunk began to wait for its tee, or the drain did */
} cl__drained;

struct cl_run {
    cl_process process;
    cl__phase phase;
    cl__drained out[2];
    int in;           /* our end of stdin, or -1 */
    const cl_piece *feed;
    uint64_t feed_count, feed_at;
    size_t feed_offset;
    uint64_t unfed;   /* bytes that were left when the feed was let go of */
    int64_t max_output;
    int limit_action;
    int64_t deadline, kill_at, drain_until, give_up_at, look_at; /* absolute, or -1 */
    int64_t grace_ns, drain_ns;
    int kill_refused; /* the child runs as somebody else (sudo): it will not end for us */
    int timed_out, limit_hit, pipes_left_open, tee_error, killed_leftovers;
    struct cl_run *leader; /* of the pipeline that it is a stage of, perhaps itself; else NULL. Its scope is this one's */
    int deadline_is_passed; /* of a leader: those that ran at its deadline know */
    int held;           /* CL__HELD_*: by the others of its pipeline */
    cl__poller *poller; /* what watches its descriptors, or NULL: the step does */
    uint8_t *scratch;   /* CL__SCRATCH bytes to read to, or NULL */
};

enum { CL__SCRATCH = 65536 };
/* BY_CHILDREN: some still run, so its own child's end begins no drain. BY_RUNS: the leader, by those that are not done. */
enum { CL__HELD_BY_CHILDREN = 1, CL__HELD_BY_RUNS = 2 };
enum { CL__READY_EXIT = 0, CL__READY_IN = 1, CL__READY_OUT = 2, CL__READY_ERR = 3 }; /* the low bits of a key */

int64_t cl__run_begin(cl_run *run, const cl_command *command, const cl_launch *launch, const cl_run_options *options,
                      const cl_environ *snapshot, const cl__among *among);
int64_t cl__run_watch(cl_run *run, cl__poller *poller, uint64_t key);
int64_t cl__run_ready(cl_run *run, int which, int hup);
void cl__run_refuse(cl_run *run, int error);   /* it is not begun: for want of what comes before a spawn */
void cl__run_let_go(cl_run *run, int holds); /* it is held by these no more */
int64_t cl__run_finish(cl_run *run); /* 1: all is done. Looks at no timer: what is ready has come before what is late */
/* What time has brought. `has_looked`: the pipes were asked once since the child's end was known. 1: all is done. */
int64_t cl__run_advance(cl_run *run, int64_t now, int has_looked);
int64_t cl__run_timer(const cl_run *run); /* when to advance at the latest */
void cl__run_kill(cl_run *run);

#endif
