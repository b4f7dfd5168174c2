/* What api/cpu.h says of threads that run, and what a new child goes on without when it may. */
#include "child.h"
#include "internal.h"

static plan try;

#ifdef __linux__
#include <sched.h>
#include <sys/syscall.h>

/* Kernels are built for 16 nodes at least, and few machines have as many. */
enum { ROOM = 8192, FAR = 60000, FAR_NODE = 15 };
static uint8_t before[ROOM], after[ROOM], mask[ROOM], nodes[8];

static void only(int cpu)
{
    memset(mask, 0, sizeof mask);
    mask[cpu / 8] = (uint8_t)(1 << cpu % 8);
}

static int first_cpu(void)
{
    for (int cpu = 0;; cpu++)
        if (before[cpu / 8] >> cpu % 8 & 1)
            return cpu;
}

/* ---- affinity ----------------------------------------------------------------------------------------------------- */

static void masks_of_any_size(void)
{
    say_about("masks of any size");
    int64_t bytes = cl_cpu_get_affinity(0, before, sizeof before);
    CHECK(bytes > 0 && bytes % 8 == 0);
    CHECK_IS(cl_cpu_get_affinity(0, before, 0), -EINVAL);
    CHECK_IS(cl_cpu_get_affinity(0, before, -8), -EINVAL);
    CHECK_IS(cl_cpu_get_affinity((int32_t)cl_cpu_thread(), after, sizeof after), bytes);
    CHECK(memcmp(before, after, (size_t)bytes) == 0);
    int64_t least = 8;
    while (cl_cpu_get_affinity(0, after, least) == -EINVAL)
        least += 8;
    CHECK_IS(cl_cpu_get_affinity(0, after, least), bytes < least ? bytes : least);
    only(first_cpu());
    CHECK_IS(cl_cpu_set_affinity(0, mask, ROOM, 1, before, after, 0), -EINVAL);
    CHECK_IS(cl_cpu_set_affinity(0, mask, -1, 1, before, after, ROOM), -EINVAL);
}

static int32_t a_stranger_to_all(void)
{
    pid_t pid = MUST(fork());
    if (pid == 0)
        _exit(0);
    MUST(waitpid(pid, NULL, 0));
    return pid;
}

static void what_is_not_there_is_told(void)
{
    say_about("CPUs that are not there");
    int64_t bytes = cl_cpu_get_affinity(0, before, sizeof before);
    int cpu = first_cpu();
    only(cpu);
    CHECK_IS(cl_cpu_set_affinity(0, mask, ROOM, 1, before, after, ROOM), bytes);
    CHECK(memcmp(mask, after, (size_t)bytes) == 0);
    CHECK_IS(cl_cpu_set_affinity(0, before, bytes, 1, mask, after, ROOM), bytes); /* as before */

    only(cpu);
    mask[FAR / 8] |= 1;
    CHECK_IS(cl_cpu_set_affinity(0, mask, ROOM, 1, before, after, ROOM), -ENODEV);
    CHECK_IS(after[cpu / 8], 1 << cpu % 8); /* what could be had */
    uint8_t now[ROOM];
    CHECK_IS(cl_cpu_get_affinity(0, now, ROOM), bytes);
    CHECK(memcmp(before, now, (size_t)bytes) == 0); /* all or nothing */
    CHECK_IS(cl_cpu_set_affinity(0, mask, ROOM, 0, before, after, ROOM), -ENODEV);
    CHECK_IS(cl_cpu_get_affinity(0, now, ROOM), bytes);
    CHECK(memcmp(after, now, (size_t)bytes) == 0);
    CHECK_IS(cl_cpu_set_affinity(0, before, bytes, 1, mask, after, ROOM), bytes);

    only(FAR);
    CHECK_IS(cl_cpu_set_affinity(0, mask, ROOM, 0, before, after, ROOM), -ENODEV);
    for (int i = 0; i < bytes; i++)
        CHECK_IS(after[i], 0);
    only(cpu);
    int32_t gone = a_stranger_to_all();
    CHECK_IS(cl_cpu_set_affinity(gone, mask, ROOM, 1, before, after, ROOM), -ESRCH);
    CHECK_IS(cl_cpu_get_affinity(gone, after, ROOM), -ESRCH);
    CHECK_IS(cl_cpu_get_affinity(0, before, sizeof before), bytes);
}

static void *pin_over_and_over(void *argument)
{
    uint8_t mine[ROOM], was[ROOM], is[ROOM];
    int64_t bytes = cl_cpu_get_affinity(0, mine, ROOM);
    (void)argument;
    for (int i = 0; i < 200; i++)
        CHECK_IS(cl_cpu_set_affinity(0, mine, bytes, 1, was, is, ROOM), bytes);
    return NULL;
}

static void from_many_threads(void)
{
    pthread_t threads[4];
    say_about("from many threads");
    for (int i = 0; i < 4; i++)
        CHECK_IS(pthread_create(&threads[i], NULL, pin_over_and_over, NULL), 0);
    for (int i = 0; i < 4; i++)
        CHECK_IS(pthread_join(threads[i], NULL), 0);
}

/* ---- scheduling --------------------------------------------------------------------------------------------------- */

static void how_a_thread_is_scheduled(void)
{
    cl_sched sched;
    say_about("policies");
    pid_t child = MUST(fork());
    if (child == 0) {
        alarm(60); /* should the test fail */
        for (;;)
            pause();
    }
    CHECK_IS(cl_cpu_get_sched(child, &sched), 0);
    CHECK_IS(sched.policy, sched_getscheduler(child));
    CHECK_IS(sched.runtime_ns, 0);
    CHECK_IS(cl_cpu_set_nice(CL_WHO_THREAD, child, 19), 0);
    CHECK_IS(cl_cpu_get_nice(CL_WHO_THREAD, child), 1);
    CHECK_IS(cl_cpu_get_nice(CL_WHO_THREAD, 0), 20 - getpriority(PRIO_PROCESS, 0));
    CHECK(cl_cpu_get_nice(CL_WHO_GROUP, 0) >= cl_cpu_get_nice(CL_WHO_THREAD, child));
    CHECK_IS(cl_cpu_set_nice(CL_WHO_THREAD, child, 19), 0);

    cl_sched batch = {.policy = CL_SCHED_BATCH, .reset_on_fork = 1, .util_min = -1, .util_max = -1};
    CHECK_IS(cl_cpu_set_sched(child, &batch), 0);
    CHECK_IS(cl_cpu_get_sched(child, &sched), 0);
    CHECK_IS(sched.policy, CL_SCHED_BATCH);
    CHECK_IS(sched.reset_on_fork, 1);
    CHECK_IS(sched.nice, 19); /* it stays */
    cl_sched wrong = {.policy = 77, .util_min = -1, .util_max = -1};
    CHECK_IS(cl_cpu_set_sched(child, &wrong), -EINVAL);
    cl_sched clamp = {.policy = CL_SCHED_KEEP, .util_min = 10, .util_max = 20};
    int64_t rc = cl_cpu_set_sched(child, &clamp);
    CHECK(rc == 0 || rc == -ENOTSUP);
    CHECK_IS(cl_cpu_get_sched(child, &sched), 0);
    CHECK_IS(sched.util_min, rc == 0 ? 10 : -1);
    CHECK_IS(sched.policy, CL_SCHED_BATCH);

    CHECK_IS(cl_cpu_set_io_priority(CL_WHO_THREAD, child, 2 << 13 | 5), 0);
    CHECK_IS(cl_cpu_get_io_priority(CL_WHO_THREAD, child), 2 << 13 | 5);
    MUST(kill(child, SIGKILL));
    MUST(waitpid(child, NULL, 0));
    CHECK_IS(cl_cpu_get_sched(child, &sched), -ESRCH);
    CHECK_IS(cl_cpu_get_nice(CL_WHO_THREAD, child), -ESRCH);
    CHECK_IS(cl_cpu_set_nice(CL_WHO_THREAD, child, 5), -ESRCH);
    CHECK_IS(cl_cpu_get_io_priority(CL_WHO_THREAD, child), -ESRCH);
    CHECK_IS(cl_cpu_get_qos(), -ENOTSUP);
    CHECK_IS(cl_cpu_set_qos(0x21), -ENOTSUP);
}

static void where_memory_comes_from(void)
{
    uint8_t nodes[512] = {0}, node0[8] = {1}, far[8] = {[FAR_NODE / 8] = 1 << FAR_NODE % 8};
    say_about("memory policy");
    if (cl_cpu_get_memory_policy(nodes, sizeof nodes) < 0)
        return; /* no NUMA in this kernel, or a filter */
    CHECK_IS(cl_cpu_get_memory_policy(nodes, 0), -EINVAL);
    uint8_t narrow[32];
    memset(narrow, 0xee, sizeof narrow);
    for (int room = 1; room < 24; room++) { /* of what is no word, nothing is written, least of all behind it */
        if (room % 8 == 0)
            continue;
        CHECK_IS(cl_cpu_get_memory_policy(narrow, room), -EINVAL);
        CHECK_IS(cl_cpu_set_memory_policy(CL_MEMORY_BIND, node0, room), -EINVAL);
    }
    for (size_t i = 0; i < sizeof narrow; i++)
        CHECK_IS(narrow[i], 0xee);
    CHECK_IS(cl_cpu_set_memory_policy(CL_MEMORY_BIND, node0, sizeof node0), 0);
    CHECK_IS(cl_cpu_get_memory_policy(nodes, sizeof nodes), CL_MEMORY_BIND);
    CHECK_IS(nodes[0], 1);
    CHECK_IS(cl_cpu_set_memory_policy(CL_MEMORY_INTERLEAVE, far, sizeof far), -EINVAL);
    CHECK_IS(cl_cpu_get_memory_policy(nodes, sizeof nodes), CL_MEMORY_BIND);
    CHECK_IS(cl_cpu_set_memory_policy(CL_MEMORY_DEFAULT, NULL, 0), 0);
    CHECK_IS(cl_cpu_get_memory_policy(nodes, sizeof nodes), CL_MEMORY_DEFAULT);
}

/* ---- a child that goes on without --------------------------------------------------------------------------------- */

static int left_out(const cl_report *report, int stage)
{
    return (int)(report->not_applied >> 8 * (stage - CL_STAGE_NICE) & 0xff);
}

static void ask_for_too_much(int strategy, const char *what)
{
    static const uint8_t some_nodes[8] = {1, 1 << (FAR_NODE - 8)};
    say_about("%s: %s", strategy_names[strategy], what);
    plan_for(&try, "report", NULL);
    try.command.strategy = strategy;
    cl_cpu_get_affinity(0, before, sizeof before);
    only(first_cpu());
    mask[FAR / 8] |= 1;
    try.command.cpus = mask;
    try.command.cpus_size = sizeof mask;
    try.command.options = CL_OPT_BEST_EFFORT | CL_OPT_NICE | CL_OPT_MEMORY_POLICY | CL_OPT_SCHEDULER | CL_OPT_IO_PRIORITY;
    try.command.nice = 19;
    try.command.memory_policy = CL_MEMORY_BIND;
    memcpy(nodes, some_nodes, sizeof nodes);
    try.command.nodes = nodes;
    try.command.nodes_size = sizeof nodes;
    try.command.sched_policy = 77;
    try.command.io_priority = 2 << 13 | 6;
}

static void check_left_out(const cl_report *report)
{
    CHECK_IS(left_out(report, CL_STAGE_AFFINITY), ENODEV);
    CHECK_IS(left_out(report, CL_STAGE_SCHEDULER), EINVAL);
    if (access("/sys/devices/system/node/node0", F_OK) == 0 && access("/sys/devices/system/node/node15", F_OK) != 0)
        CHECK_IS(left_out(report, CL_STAGE_MEMORY_POLICY), ENODEV);
    CHECK_IS(left_out(report, CL_STAGE_NICE), 0);
    CHECK_IS(left_out(report, CL_STAGE_IO_PRIORITY), 0);
    CHECK_IS(left_out(report, CL_STAGE_OOM), 0);
}

static void refused_at(int stage, int error)
{
    cl_process *process = new_process();
    CHECK_IS(cl_process_spawn(process, &try.command, &try.launch, NULL), -error);
    CHECK_IS(report_of(process).stage, stage);
    cl_process_free(process);
    CHECK(has_no_children());
}

static void it_goes_on_without(int strategy)
{
    char first[16];
    ask_for_too_much(strategy, "best effort");
    cl_report report = look(&try);
    check_left_out(&report);
    CHECK_IS(report.stage, CL_STAGE_NONE);
    CHECK_IS(number("nice"), 19);
    CHECK_IS(number("ioprio"), 2 << 13 | 6);
    snprintf(first, sizeof first, "%d ", first_cpu());
    CHECK_TEXT(value("cpus"), first);

    ask_for_too_much(strategy, "best effort, and an exec that fails");
    try.command.program = "/no/such/program";
    refused_at(CL_STAGE_EXEC, ENOENT);

    ask_for_too_much(strategy, "no best effort");
    try.command.options &= ~(uint64_t)CL_OPT_BEST_EFFORT;
    refused_at(CL_STAGE_AFFINITY, ENODEV);
    try.command.cpus = NULL;
    refused_at(CL_STAGE_SCHEDULER, EINVAL);
    try.command.options = CL_OPT_MEMORY_POLICY;
    cl_process *process = new_process();
    CHECK(cl_process_spawn(process, &try.command, &try.launch, NULL) < 0);
    CHECK_IS(report_of(process).stage, CL_STAGE_MEMORY_POLICY);
    cl_process_free(process);
}

/* A process that another thread forks holds the report's write end for as long as it likes: what is left out is more than
 * one message, and nobody may wait for the end of file after it. */
static volatile int stop_forking;

static void *fork_on(void *argument)
{
    pid_t held[40];
    int count = 0;
    (void)argument;
    for (; !stop_forking && count < 40; count++) {
        held[count] = MUST(fork());
        if (held[count] == 0) {
            alarm(60); /* should the test fail */
            for (;;)
                pause();
        }
        nap();
    }
    while (!stop_forking)
        nap();
    for (int i = 0; i < count; i++) {
        MUST(kill(held[i], SIGKILL));
        MUST(waitpid(held[i], NULL, 0));
    }
    return NULL;
}

static void strangers_forks_hold_nobody(int strategy)
{
    pthread_t forker;
    if (UNDER_TSAN)
        return; /* which does not like forks of threaded programs */
    ask_for_too_much(strategy, "beside forks of another thread");
    stop_forking = 0;
    CHECK_IS(pthread_create(&forker, NULL, fork_on, NULL), 0);
    for (int i = 0; i < 30; i++) {
        cl_process *process = new_process();
        try.launch.stream[1].kind = CL_IO_NULL;
        cl_report report = must_spawn(process, &try);
        check_left_out(&report);
        must_end(process);
        cl_process_free(process);
    }
    stop_forking = 1;
    CHECK_IS(pthread_join(forker, NULL), 0);
}

/* The parent was killed, and nobody will read what is left out: the child execs all the same. */
__attribute__((noreturn)) static void execs_without_a_parent(void)
{
    const char *argv[] = {"sh", "-c", "exit 7", NULL}, *paths[] = {"/bin/sh", NULL}, *env[] = {NULL};
    cl_command command = {.argv = argv, .options = CL_OPT_BEST_EFFORT | CL_OPT_SCHEDULER, .sched_policy = 77};
    cl__job job = {.command = &command, .env = env, .paths = paths, .cgroup_fd = -1};
    int ends[2];
    make_pipe(ends);
    MUST(close(ends[0]));
    job.report_fd = ends[1];
    cl__sys_block_signals(UINT64_MAX, NULL);
    cl__child_main(&job);
}

static void nobody_is_there_to_be_told(void)
{
    int status;
    say_about("a parent that is gone");
    pid_t pid = MUST(fork());
    if (pid == 0)
        execs_without_a_parent();
    MUST(waitpid(pid, &status, 0));
    CHECK(WIFEXITED(status));
    CHECK_IS(WEXITSTATUS(status), 7);
}

static void a_flight_tells_too(void)
{
    int64_t rc;
    ask_for_too_much(CL_STRATEGY_AUTO, "not waited for");
    try.launch.stream[1].kind = CL_IO_NULL;
    cl_process *process = new_process();
    CHECK(cl_process_spawn_nowait(process, &try.command, &try.launch, NULL) > 0);
    memset(mask, 0, sizeof mask); /* it has copies */
    memset(nodes, 0, sizeof nodes);
    EVENTUALLY((rc = cl_process_exec_state(process)) != 0);
    CHECK_IS(rc, 1);
    cl_report report = report_of(process);
    check_left_out(&report);
    must_end(process);
    report = report_of(process);
    check_left_out(&report);
    cl_process_free(process);
}
#endif

int main(int argc, char **argv)
{
    start_program(argc, argv);
    int fds = count_fds();
    CHECK(cl_cpu_thread() > 0);
    CHECK(cl_cpu_get_nice(CL_WHO_THREAD, 0) >= 0);
#ifdef __linux__
    masks_of_any_size();
    what_is_not_there_is_told();
    from_many_threads();
    how_a_thread_is_scheduled();
    where_memory_comes_from();
    for (int i = 0; i < STRATEGIES; i++) {
        if (is_missing(all_strategies[i]))
            continue;
        it_goes_on_without(all_strategies[i]);
        strangers_forks_hold_nobody(all_strategies[i]);
    }
    nobody_is_there_to_be_told();
    a_flight_tells_too();
#endif
    (void)try;
    CHECK_IS(count_fds(), fds);
    CHECK(has_no_children());
    puts("ok");
    return 0;
}
