/* A child whose exec is not waited for: what becomes of it is asked for, and its memory is used again only when it has left.
 * A program that is open for writing keeps an exec trying for a tenth of a second: long enough to look at it. */
#include "child.h"

#include <pthread.h>

static plan try;
static cl_process *process;
static char busy[64];
static int busy_fd;

static void begin(const char *what, const char *mode)
{
    say_about("%s", what);
    plan_for(&try, mode, NULL);
    process = new_process();
}

static int64_t spawn_nowait(cl_process *whose)
{
    return cl_process_spawn_nowait(whose, &try.command, &try.launch, NULL);
}

static int64_t settled(cl_process *whose)
{
    int64_t rc;
    EVENTUALLY((rc = cl_process_exec_state(whose)) != 0);
    return rc;
}

/* Whether anything is not waited for here. */
static int flies(cl_process *whose)
{
    return report_of(whose).strategy == CL_STRATEGY_FLIGHT;
}

static void drop_pipe(cl_process *whose)
{
    if (report_of(whose).pipe[1] >= 0)
        close((int)report_of(whose).pipe[1]);
}

static void finish(int state, int status)
{
    must_end(process);
    CHECK_IS(report_of(process).state, state);
    CHECK_IS(report_of(process).status, status);
    CHECK_IS(cl_process_exec_state(process), 1); /* as often as one likes */
    drop_pipe(process);
    cl_process_free(process);
    CHECK(has_no_children());
}

/* ---- what becomes of it -------------------------------------------------------------------------------------------- */

static void execs(void)
{
    begin("what it was made from is gone at once", "arguments");
    char mode[] = "arguments", argument[] = "given";
    try.argv[1] = mode;
    try.argv[2] = argument;
    CHECK_IS(cl_process_exec_state(process), -EINVAL);
    CHECK(spawn_nowait(process) > 0);
    memset(mode, 'x', sizeof mode - 1);
    memset(argument, 'x', sizeof argument - 1);
    memset(&try, 0, sizeof try);
    CHECK_IS(settled(process), 1);
    read_all((int)report_of(process).pipe[1], seen, sizeof seen); /* the first of it is the path of this program */
    CHECK(strstr(seen, "[arguments][given]") != NULL);
    CHECK_IS(spawn_nowait(process), -EBUSY);
    finish(CL_STATE_EXITED, 0);
}

static void fails(void)
{
    for (int round = 0; round < 200; round++) {
        begin("an exec that fails", NULL);
        try.argv[0] = "/no/such/program";
        int fds = count_fds();
        int64_t rc = spawn_nowait(process);
        if (rc > 0) {
            rc = settled(process);
            CHECK_IS(cl_process_exec_state(process), rc);
        }
        CHECK_IS(rc, -ENOENT);
        CHECK(has_no_children()); /* reaped */
        CHECK_IS(report_of(process).stage, CL_STAGE_EXEC);
        CHECK_IS(report_of(process).error, ENOENT);
        drop_pipe(process);
        cl_process_free(process);
        CHECK_IS(count_fds(), fds);
    }
}

static void ends_before_anybody_asks(void)
{
    begin("asked after its end", "exit");
    CHECK(spawn_nowait(process) > 0);
    must_end(process);
    CHECK_IS(cl_process_exec_state(process), 1);
    finish(CL_STATE_EXITED, 0);
}

/* ---- in the air ---------------------------------------------------------------------------------------------------- */

/* 0 where no exec is kept waiting: nothing flies here, or this kernel runs what is open for writing. */
static int spawn_in_the_air(const char *what)
{
    begin(what, NULL);
    try.argv[0] = busy;
    if (spawn_nowait(process) > 0 && flies(process) && cl_process_exec_state(process) == 0)
        return 1;
    if (report_of(process).pid > 0) {
        CHECK_IS(cl_process_signal(process, SIGKILL) < 1, 1);
        must_end(process);
        drop_pipe(process);
    }
    cl_process_free(process);
    return 0;
}

static void is_killed_in_the_air(void)
{
    if (!spawn_in_the_air("killed before it has exec'd"))
        return;
    CHECK_IS(cl_process_state(process), CL_STATE_RUNNING);
    CHECK_IS(cl_process_signal_scope(process, SIGKILL), 0);
    CHECK_IS(settled(process), 1); /* nothing failed, it was killed */
    finish(CL_STATE_SIGNALED, SIGKILL);
}

static void fails_after_a_while(void)
{
    if (!spawn_in_the_air("an exec that fails after a while"))
        return;
    CHECK_IS(settled(process), -ETXTBSY);
    CHECK(has_no_children());
    drop_pipe(process);
    cl_process_free(process);
}

/* Its memory must stay as it is until it has left: an overwritten job would exec, or fail with, something else. */
static void is_freed_in_the_air(void)
{
    siginfo_t info;
    if (!spawn_in_the_air("freed before it has exec'd"))
        return;
    pid_t pid = (pid_t)report_of(process).pid;
    drop_pipe(process);
    cl_process_free(process);
    for (int round = 0; round < 5; round++) {
        begin("beside one that was freed", "exit");
        CHECK(spawn_nowait(process) > 0);
        CHECK_IS(settled(process), 1);
        must_end(process);
        drop_pipe(process);
        cl_process_free(process);
    }
    MUST(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT));
    CHECK_IS(info.si_code, CLD_EXITED); /* it could not exec, and said so to nobody */
    MUST(waitpid(pid, NULL, 0));
    CHECK(has_no_children());
    execs(); /* in its memory, perhaps */
}

static void asks_in_a_fork(void *unused)
{
    (void)unused;
    CHECK_IS(cl_process_exec_state(process), -EPERM);
    cl_process_free(process);
    begin("in a fork", "exit");
    CHECK(spawn_nowait(process) > 0);
    CHECK_IS(settled(process), 1);
    finish(CL_STATE_EXITED, 0);
}

static void is_forked_in_the_air(void)
{
    if (!spawn_in_the_air("a fork beside one that has not exec'd"))
        return;
    in_a_fork(asks_in_a_fork, NULL);
    CHECK_IS(settled(process), -ETXTBSY);
    drop_pipe(process);
    cl_process_free(process);
}

/* ---- threads ------------------------------------------------------------------------------------------------------- */

static void *spawns_many(void *unused)
{
    plan own;
    (void)unused;
    plan_for(&own, "exit", NULL);
    for (int i = 0; i < 50; i++) {
        cl_process *mine = new_process();
        CHECK(cl_process_spawn_nowait(mine, &own.command, &own.launch, NULL) > 0);
        if (i % 3)
            CHECK_IS(settled(mine), 1);
        must_end(mine);
        drop_pipe(mine);
        cl_process_free(mine);
    }
    return NULL;
}

static void side_by_side(void)
{
    pthread_t threads[4];
    say_about("four threads");
    for (int i = 0; i < 4; i++)
        CHECK_IS(pthread_create(&threads[i], NULL, spawns_many, NULL), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    CHECK(has_no_children());
}

int main(int argc, char **argv)
{
    start_program(argc, argv);
    snprintf(busy, sizeof busy, "/tmp/cl-nowait-%d", (int)getpid());
    busy_fd = MUST(open(busy, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755));
    execs();
    fails();
    ends_before_anybody_asks();
    is_killed_in_the_air();
    fails_after_a_while();
    is_freed_in_the_air();
    is_forked_in_the_air();
    side_by_side();
    close(busy_fd);
    MUST(unlink(busy));
    printf("ok\n");
    return 0;
}
