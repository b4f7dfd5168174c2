/* Where a program is looked for, and the environment that it gets. */
#include "child.h"
#include "internal.h"

#include <sys/mman.h>

static plan try;
static char dir[64];   /* has: a/tool b/tool (scripts that say their directory), noexec/tool, folder/tool/, file */
static int strategy;
static const char *env[4];

static void begin(const char *what)
{
    say_about("%s: %s", strategy_names[strategy], what);
    plan_program(&try, "tool");
    try.command.strategy = strategy;
    try.command.env = env;
    try.command.cwd = dir;
}

/* PATH, in which every @ is the directory of this test. */
static void set_path(const char *pattern)
{
    static char text[1 << 17];
    size_t size = (size_t)snprintf(text, sizeof text, "PATH=");
    for (; *pattern; pattern++) {
        if (*pattern == '@')
            size += (size_t)snprintf(text + size, sizeof text - size, "%s", dir);
        else
            text[size++] = *pattern;
        CHECK(size < sizeof text - sizeof dir);
    }
    text[size] = '\0';
    env[0] = text;
    env[1] = NULL;
}

static void finds(const char *path, const char *line)
{
    say_about("%s: PATH=%.100s", strategy_names[strategy], path);
    set_path(path);
    look(&try);
    CHECK_TEXT(seen, line);
}

static void finds_nothing(const char *path, int error)
{
    say_about("%s: PATH=%.100s", strategy_names[strategy], path);
    set_path(path);
    cl_process *process = new_process();
    CHECK_IS(cl_process_spawn(process, &try.command, &try.launch, NULL), -error);
    CHECK_IS(report_of(process).stage, CL_STAGE_EXEC);
    cl_process_free(process);
}

static void script(const char *place, const char *says, int mode)
{
    char path[128], text[64];
    snprintf(path, sizeof path, "%s/%s", dir, place);
    MUST(mkdir(path, 0755));
    snprintf(path, sizeof path, "%s/%s/tool", dir, place);
    snprintf(text, sizeof text, "#!/bin/sh\necho %s\n", says);
    int fd = MUST(open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0700));
    CHECK_IS(write(fd, text, strlen(text)), (int64_t)strlen(text));
    MUST(fchmod(fd, (mode_t)mode));
    close(fd);
}

static void make_tree(void)
{
    char path[128];
    snprintf(dir, sizeof dir, "/tmp/cl-paths-XXXXXX");
    CHECK(mkdtemp(dir) != NULL);
    script("a", "a", 0755);
    script("b", "b", 0755);
    script("noexec", "never", 0644);
    snprintf(path, sizeof path, "%s/file", dir);
    close(MUST(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0755)));
    snprintf(path, sizeof path, "%s/folder", dir);
    MUST(mkdir(path, 0755));
    snprintf(path, sizeof path, "%s/folder/tool", dir);
    MUST(mkdir(path, 0755));
    snprintf(path, sizeof path, "%s/loop", dir);
    MUST(symlink("loop", path));
}

static void remove_tree(void)
{
    static const char *const files[] = {"a/tool", "b/tool", "noexec/tool", "file", "loop", NULL};
    static const char *const folders[] = {"folder/tool", "folder", "a", "b", "noexec", ".", NULL};
    char path[128];
    for (int i = 0; files[i]; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        MUST(unlink(path));
    }
    for (int i = 0; folders[i]; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, folders[i]);
        MUST(rmdir(*folders[i] == '.' ? dir : path));
    }
}

/* ---- the search ---------------------------------------------------------------------------------------------------- */

static void searches(void)
{
    begin("search");
    finds("@/a:@/b", "a\n");
    finds("@/b:@/a", "b\n");
    finds("/nowhere:@/a", "a\n");
    finds("@/file:@/a", "a\n");   /* ENOTDIR */
    finds("@/noexec:@/a", "a\n"); /* EACCES */
    finds("@/folder:@/a", "a\n"); /* a directory of that name */
    finds("@/loop:@/a", "a\n");
    finds_nothing("/nowhere:/nor/here", ENOENT);
    finds_nothing("@/noexec", EACCES);
    finds_nothing("@/noexec:/nowhere", EACCES); /* the better answer, though not the last */
    finds_nothing("/nowhere:@/noexec:@/file", EACCES);
    finds_nothing("@/file:/nowhere", ENOENT);

    /* Relative entries, and empty ones, mean the child's directory. */
    finds("a", "a\n");
    finds("/nowhere:./b", "b\n");
    char below[80];
    snprintf(below, sizeof below, "%s/a", dir);
    try.command.cwd = below;
    finds("", "a\n");
    finds(":@/b", "a\n");
    finds("/nowhere:", "a\n");
    finds("/nowhere::@/b", "a\n");
    finds("@/b:", "b\n");
    finds("../b", "b\n");
    try.command.cwd = "/";
    finds_nothing(":", ENOENT);
}

static void searches_far(void)
{
    static char path[1 << 17];
    size_t size = 0;
    begin("a very long PATH");
    while (size < 100000)
        size += (size_t)sprintf(path + size, "/nowhere/%zu:", size);
    sprintf(path + size, "@/a");
    finds(path, "a\n");
    path[size - 1] = '\0';
    finds_nothing(path, ENOENT);

    begin("an entry that is longer than any path");
    memset(path, 'x', 6000);
    path[0] = '/';
    sprintf(path + 6000, ":@/a");
    finds(path, "a\n");

    begin("the same for a name");
    static char name[300];
    memset(name, 'n', sizeof name - 1);
    try.argv[0] = name;
    set_path("@/a");
    cl_process *process = new_process();
    CHECK_IS(cl_process_spawn(process, &try.command, &try.launch, NULL), -ENAMETOOLONG);
    cl_process_free(process);
}

static void does_not_search(void)
{
    begin("a program with a slash");
    try.command.program = "b/tool";
    finds("@/a", "b\n");
    try.command.program = "./tool";
    finds_nothing("@/a", ENOENT);
    try.command.program = "file/tool";
    finds_nothing("@/a", ENOTDIR);
    try.command.program = "loop/tool";
    finds_nothing("@/a", ELOOP);
    try.command.program = "";
    finds_nothing("@/a", ENOENT);

    begin("argv[0] is not the program");
    plan_for(&try, "arguments", "");
    try.command.program = self;
    try.argv[0] = "zero";
    try.argv[3] = "a b";
    try.argv[4] = "\xff\n";
    try.command.strategy = strategy;
    look(&try);
    CHECK_TEXT(seen, "[zero][arguments][][a b][\xff\n]");
    try.command.cwd = "/"; /* through the trampoline */
    look(&try);
    CHECK_TEXT(seen, "[zero][arguments][][a b][\xff\n]");
}

static void has_no_path(void)
{
    begin("no PATH");
    plan_program(&try, "echo");
    try.argv[1] = "found";
    try.command.strategy = strategy;
    try.command.env = env;
    env[0] = "PATHS=/nowhere"; /* not it */
    env[1] = NULL;
    look(&try);
    CHECK_TEXT(seen, "found\n");
    env[0] = NULL;
    look(&try);
    CHECK_TEXT(seen, "found\n");
}

/* The exact lists, in memory of the exact size. */
static void builds_lists(void)
{
    static const struct {
        const char *path, *expected;
    } cases[] = {
        {"PATH=/a:/b", "/a/x /b/x "}, {"PATH=", "x "}, {"PATH=:", "x x "}, {"PATH=/a:", "/a/x x "},
        {"PATH=:/a", "x /a/x "}, {"PATH=/a::/b", "/a/x x /b/x "}, {"PATH=/", "//x "}, {"NOPATH=1", "/bin/x /usr/bin/x "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *one[] = {cases[i].path, NULL};
        const char **paths;
        char list[64] = "";
        say_about("%s", cases[i].path);
        size_t size = cl__paths_size("x", one);
        void *memory = malloc(size);
        CHECK(memory != NULL);
        cl__paths_build("x", one, memory, size, &paths);
        for (; *paths; paths++)
            snprintf(list + strlen(list), sizeof list - strlen(list), "%s ", *paths);
        CHECK_TEXT(list, cases[i].expected);
        free(memory);
    }
}

/* A variable of three bytes at the very end of memory: nobody may read on to see whether it is PATH. */
static void reads_no_further(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *memory = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    MUST(mprotect(memory + page, page, PROT_NONE));
    say_about("a short variable");
    const char *one[] = {memcpy(memory + page - 3, "P=", 3), NULL};
    CHECK(cl__paths_size("x", one) > 0);
    munmap(memory, 2 * page);
}

/* ---- the environment ------------------------------------------------------------------------------------------------ */

static int has(const char *variable)
{
    char line[256];
    snprintf(line, sizeof line, "\nenv:%s\n", variable);
    return strstr(seen, line) != NULL;
}

static int count_variables(void)
{
    int count = 0;
    for (const char *at = seen; (at = strstr(at, "\nenv:")); at++)
        count++;
    return count;
}

static void begin_report(const char *what)
{
    say_about("%s: %s", strategy_names[strategy], what);
    plan_for(&try, "report", NULL);
    try.command.strategy = strategy;
}

static void look_with(const cl_environ *snapshot)
{
    cl_process *process = new_process();
    CHECK(cl_process_spawn(process, &try.command, &try.launch, snapshot) > 0);
    cl_report report = report_of(process);
    read_all((int)report.pipe[1], seen, sizeof seen);
    close((int)report.pipe[1]);
    must_end(process);
    cl_process_free(process);
}

static void snapshots(void)
{
    cl_environ *snapshot;
    begin_report("a snapshot");
    CHECK_IS(cl_environ_new(&snapshot), 0);
    look_with(snapshot); /* of nothing yet */
    CHECK_IS(count_variables(), 0);

    setenv("CL_TEST", "then", 1);
    setenv("CL_EMPTY", "", 1);
    int64_t count = cl_environ_capture(snapshot);
    CHECK(count >= 2);
    setenv("CL_TEST", "now", 1);
    unsetenv("CL_EMPTY");
    setenv("CL_NEW", "1", 1);
    look_with(snapshot);
    CHECK(has("CL_TEST=then") && has("CL_EMPTY=") && !has("CL_NEW=1"));
    CHECK_IS(count_variables(), count);
    look_with(NULL);
    CHECK(has("CL_TEST=now") && !has("CL_EMPTY=") && has("CL_NEW=1"));

    for (int i = 0; i < 300; i++) { /* it grows, and is used again for less */
        char name[32];
        snprintf(name, sizeof name, "CL_MANY_%d", i);
        setenv(name, "0123456789012345678901234567890123456789", 1);
    }
    CHECK_IS(cl_environ_capture(snapshot), count + 300); /* one gone, one new */
    look_with(snapshot);
    CHECK_IS(count_variables(), count + 300);
    CHECK(has("CL_MANY_299=0123456789012345678901234567890123456789"));
    for (int i = 0; i < 300; i++) {
        char name[32];
        snprintf(name, sizeof name, "CL_MANY_%d", i);
        unsetenv(name);
    }
    CHECK_IS(cl_environ_capture(snapshot), count);
    look_with(snapshot);
    CHECK_IS(count_variables(), count);
    unsetenv("CL_TEST");
    unsetenv("CL_NEW");
    cl_environ_free(snapshot);
    cl_environ_free(NULL);
}

static void changes(void)
{
    static const char *const change[] = {"B=2", "C", "D=", "E=a=b", "NOT_THERE", "AB=3", NULL};
    begin_report("changes of a given environment");
    env[0] = "A=1";
    env[1] = "C=3";
    env[2] = "B=1";
    env[3] = NULL;
    try.command.env = env;
    look(&try);
    CHECK(has("A=1") && has("B=1") && has("C=3"));
    CHECK_IS(count_variables(), 3);
    try.command.env_changes = change;
    look(&try);
    CHECK(has("A=1") && has("B=2") && has("D=") && has("E=a=b") && has("AB=3"));
    CHECK_IS(count_variables(), 5);
    try.command.cwd = "/"; /* through the trampoline */
    look(&try);
    CHECK(has("A=1") && has("B=2") && has("D=") && has("E=a=b") && has("AB=3"));
    CHECK_IS(count_variables(), 5);

    begin_report("changes of our own");
    setenv("CL_GONE", "1", 1);
    static const char *const ours[] = {"CL_GONE", "CL_CHANGED=1", NULL};
    try.command.env_changes = ours;
    look(&try);
    CHECK(!has("CL_GONE=1") && has("CL_CHANGED=1"));
    CHECK(getenv("CL_GONE") && !getenv("CL_CHANGED"));
    unsetenv("CL_GONE");

    /* The child's PATH is what counts. */
    begin("a changed PATH");
    static char path[80];
    snprintf(path, sizeof path, "PATH=%s/b", dir);
    const char *const search[] = {path, NULL};
    try.command.env_changes = search;
    finds("@/a", "b\n");
    static const char *const none[] = {"PATH", NULL};
    try.command.env_changes = none;
    finds_nothing("@/a", ENOENT);
}

static void without_any(void *unused)
{
    cl_environ *snapshot;
    (void)unused;
    begin_report("clearenv");
    environ = NULL; /* as clearenv() leaves it */
    look(&try);
    CHECK_IS(count_variables(), 0);
    CHECK_IS(cl_environ_new(&snapshot), 0);
    CHECK_IS(cl_environ_capture(snapshot), 0);
    look_with(snapshot);
    CHECK_IS(count_variables(), 0);
    cl_environ_free(snapshot);
}

int main(int argc, char **argv)
{
    start_program(argc, argv);
    make_tree();
    int fds = count_fds();
    builds_lists();
    reads_no_further();
    for (strategy = CL_STRATEGY_AUTO; strategy <= CL_STRATEGY_FORK; strategy++) {
        if (is_missing(strategy))
            continue;
        searches();
        searches_far();
        does_not_search();
        has_no_path();
        snapshots();
        changes();
        in_a_fork(without_any, NULL);
    }
    say_about("at the end");
    CHECK_IS(count_fds(), fds);
    CHECK(has_no_children());
    remove_tree();
    puts("ok");
    return 0;
}
