/* The descriptor map: what a child has open, under which numbers, and what of the parent's it has not. */
#include "child.h"

static plan try;
static int report_pipe[2];

/* The child reports through a descriptor of its own, so that the first three can be anything. */
enum { REPORT = 100 };

static void begin(int strategy, const char *what)
{
    say_about("%s: %s", strategy_names[strategy], what);
    plan_for(&try, "report", "100");
    try.command.strategy = strategy;
    try.launch.stream[1].kind = CL_IO_INHERIT;
    make_pipe(report_pipe);
}

static void look_through_the_pipe(const cl_fd_move *moves, uint32_t count)
{
    cl_fd_move all[80];
    if (count)
        memcpy(all, moves, count * sizeof *all);
    all[count] = (cl_fd_move){report_pipe[1], REPORT};
    try.command.moves = all;
    try.command.move_count = count + 1;
    int fds = count_fds();
    cl_process *process = new_process();
    CHECK_IS(count_fds(), fds + (must_spawn(process, &try).pidfd >= 0));
    close(report_pipe[1]);
    read_all(report_pipe[0], seen, sizeof seen);
    close(report_pipe[0]);
    must_end(process);
    CHECK_IS(report_of(process).status, 0);
    cl_process_free(process);
}

static uint64_t inode_of(int fd)
{
    struct stat status;
    MUST(fstat(fd, &status));
    return (uint64_t)status.st_ino;
}

/* The child's descriptor `target` is our `fd`. */
static void child_has(int target, int fd)
{
    char key[16];
    snprintf(key, sizeof key, "inode%d", target);
    CHECK_IS(number(key), inode_of(fd));
}

/* One that is like no other, with CLOEXEC, at that number. */
static int a_file(int at)
{
    char path[] = "/tmp/cl-fds-XXXXXX";
    int fd = MUST(mkstemp(path));
    MUST(unlink(path));
    CHECK_IS(fcntl(fd, F_DUPFD_CLOEXEC, at), at); /* it was free */
    close(fd);
    return at;
}

static void swapped_streams(int strategy)
{
    int out = a_file(20), err = a_file(21), saved_out = MUST(fcntl(1, F_DUPFD_CLOEXEC, 30));
    int saved_err = MUST(fcntl(2, F_DUPFD_CLOEXEC, 30));
    begin(strategy, "stdout and stderr swapped");
    MUST(dup2(out, 1));
    MUST(dup2(err, 2));
    try.launch.stream[1] = (cl_stream){CL_IO_FD, 2, 0};
    try.launch.stream[2] = (cl_stream){CL_IO_FD, 1, 0};
    look_through_the_pipe(NULL, 0);
    MUST(dup2(saved_out, 1));
    MUST(dup2(saved_err, 2));
    child_has(1, err);
    child_has(2, out);

    begin(strategy, "all three turned around");
    try.launch.stream[0] = (cl_stream){CL_IO_FD, out, 0};
    try.launch.stream[1] = (cl_stream){CL_IO_FD, 0, 0};
    try.launch.stream[2] = (cl_stream){CL_IO_FD, 1, 0};
    look_through_the_pipe(NULL, 0);
    child_has(0, out);
    child_has(1, 0);
    child_has(2, 1);

    begin(strategy, "stderr to a stdout that moved");
    try.launch.stream[1] = (cl_stream){CL_IO_FD, out, 0};
    try.launch.stream[2].kind = CL_IO_STDOUT;
    look_through_the_pipe(NULL, 0);
    child_has(1, out);
    child_has(2, out);

    begin(strategy, "stderr to an inherited stdout");
    try.launch.stream[2].kind = CL_IO_STDOUT;
    look_through_the_pipe(NULL, 0);
    child_has(1, 1);
    child_has(2, 1);
    close(out);
    close(err);
    close(saved_out);
    close(saved_err);
}

static void crossed_moves(int strategy)
{
    int a = a_file(20), b = a_file(21), c = a_file(22);
    const cl_fd_move circle[] = {{a, 21}, {b, 22}, {c, 20}};
    begin(strategy, "a circle of moves");
    look_through_the_pipe(circle, 3);
    CHECK_TEXT(value("fds"), "0 1 2 20 21 22 100 ");
    child_has(21, a);
    child_has(22, b);
    child_has(20, c);

    /* dup2(n, n) would keep CLOEXEC. */
    const cl_fd_move same[] = {{b, 21}, {a, 20}};
    begin(strategy, "a move onto itself");
    look_through_the_pipe(same, 2);
    CHECK_TEXT(value("fds"), "0 1 2 20 21 100 ");
    child_has(20, a);
    child_has(21, b);
    CHECK(fcntl(a, F_GETFD) & FD_CLOEXEC); /* in the parent it stays */

    const cl_fd_move twice[] = {{a, 30}, {a, 31}, {a, 20}};
    begin(strategy, "one source for several targets");
    look_through_the_pipe(twice, 3);
    CHECK_TEXT(value("fds"), "0 1 2 20 30 31 100 ");
    for (int target = 30; target < 32; target++)
        child_has(target, a);

    begin(strategy, "a stream that is also a move");
    const cl_fd_move stream[] = {{0, 5}};
    try.launch.stream[0] = (cl_stream){CL_IO_FD, a, 0};
    look_through_the_pipe(stream, 1);
    child_has(0, a);
    child_has(5, 0);
    close(a);
    close(b);
    close(c);
}

/* A target may be the number that the core itself uses for something. */
static void targets_in_use(int strategy)
{
    int file = a_file(40);
    int dir = MUST(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    begin(strategy, "a move onto the cwd's descriptor");
    const cl_fd_move over[] = {{file, dir}};
    try.command.options = CL_OPT_CWD_FD;
    try.command.cwd_fd = dir;
    look_through_the_pipe(over, 1);
    CHECK_TEXT(value("cwd"), "/");
    child_has(dir, file);
    close(dir);

    /* The next free numbers are those that pipes and pidfds will get. */
    for (int i = 0; i < 10; i++) {
        begin(strategy, "moves onto the next free numbers");
        cl_fd_move move = {file, report_pipe[1] + 1 + i};
        try.launch.stream[0].kind = CL_IO_NULL;
        try.command.cwd = i % 2 ? "/" : NULL;
        look_through_the_pipe(&move, 1);
        child_has(move.target, file);
    }

    begin(strategy, "sixty moves");
    cl_fd_move many[60];
    for (int i = 0; i < 60; i++)
        many[i] = (cl_fd_move){file, 70 - i}; /* falling, across REPORT's source and the pipes */
    look_through_the_pipe(many, 60);
    for (int target = 11; target <= 70; target++)
        child_has(target, file);
    close(file);
}

/* What some library opened without CLOEXEC. */
static void others(int strategy)
{
    int file = a_file(50);
    MUST(fcntl(file, F_SETFD, 0));
    begin(strategy, "another's descriptor");
    look_through_the_pipe(NULL, 0);
    CHECK_TEXT(value("fds"), "0 1 2 100 ");
    CHECK_IS(fcntl(file, F_GETFD), 0); /* in the parent nothing changed */

    begin(strategy, "another's descriptor, through the trampoline");
    try.command.cwd = "/";
    look_through_the_pipe(NULL, 0);
    CHECK_TEXT(value("fds"), "0 1 2 100 ");

    begin(strategy, "others on both sides of a target");
    const cl_fd_move move[] = {{file, 49}, {1, 52}};
    int above = a_file(51);
    MUST(fcntl(above, F_SETFD, 0));
    look_through_the_pipe(move, 2);
    CHECK_TEXT(value("fds"), "0 1 2 49 52 100 ");
    close(above);

    begin(strategy, "keep others");
    try.command.options = CL_OPT_KEEP_OTHERS;
    look_through_the_pipe(NULL, 0);
    CHECK_TEXT(value("fds"), "0 1 2 50 100 ");
    child_has(50, file);

    begin(strategy, "keep others, and nothing of ours");
    int dir = MUST(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    try.command.options = CL_OPT_KEEP_OTHERS | CL_OPT_CWD_FD;
    try.command.cwd_fd = dir;
    look_through_the_pipe(NULL, 0);
    CHECK_TEXT(value("fds"), "0 1 2 50 100 ");
    close(dir);
    close(file);
}

/* ---- a parent without some of its own streams ---------------------------------------------------------------------- */

typedef struct lack {
    int strategy, closed, piped;
} lack;

static void lacking(void *argument)
{
    const lack *what = argument;
    int err = MUST(fcntl(2, F_DUPFD_CLOEXEC, 60)); /* should a check fail */
    begin(what->strategy, "0, 1 or 2 closed");
    for (int fd = 0; fd < 3; fd++) {
        try.launch.stream[fd].kind = what->piped ? CL_IO_PIPE : CL_IO_NULL;
        if (what->closed & 1 << fd)
            close(fd);
    }
    if (what->piped)
        try.command.cwd = "/"; /* with all that the trampoline needs */
    cl_fd_move report = {report_pipe[1], REPORT};
    try.command.moves = &report;
    try.command.move_count = 1;
    cl_process *process = new_process();
    int64_t rc = cl_process_spawn(process, &try.command, &try.launch, NULL);
    cl_report made = report_of(process);
    CHECK(made.pidfd < 0 || made.pidfd > 2);
    for (int fd = 0; fd < 3; fd++) {
        CHECK(!what->piped || made.pipe[fd] > 2);
        CHECK_IS(fcntl(fd, F_GETFD) < 0, (what->closed & 1 << fd) != 0); /* as it was */
    }
    MUST(dup2(err, 2));
    CHECK(rc > 0);
    close(report_pipe[1]);
    read_all(report_pipe[0], seen, sizeof seen);
    must_end(process);
    CHECK_IS(report_of(process).status, 0);
    CHECK_TEXT(value("fds"), "0 1 2 100 ");
    CHECK_TEXT(value("nonblocking"), "000");
#ifdef __linux__
    for (int fd = 0; what->piped && fd < 3; fd++)
        child_has(fd, (int)made.pipe[fd]); /* both ends of a pipe are one inode */
#endif
}

static void a_parent_that_lacks_some(int strategy)
{
    for (int closed = 0; closed < 8; closed++)
        for (int piped = 0; piped < 2; piped++)
            in_a_fork(lacking, &(lack){strategy, closed, piped});
}

int main(int argc, char **argv)
{
    static void (*const maps[])(int) = {swapped_streams, crossed_moves, targets_in_use, others, a_parent_that_lacks_some};
    start_program(argc, argv);
    int fds = count_fds();
    for (int i = 0; i < STRATEGIES; i++)
        for (size_t m = 0; m < sizeof maps / sizeof *maps && !is_missing(all_strategies[i]); m++)
            maps[m](all_strategies[i]);
    say_about("at the end");
    CHECK_IS(count_fds(), fds);
    CHECK(has_no_children());
    puts("ok");
    return 0;
}
