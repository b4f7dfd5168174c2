/* Files of counters, as rows: what is read, what is refused, and that memory grows with the file. */
#include "check.h"

static char path[64];
static cl_text text;
static int64_t where;

static void write_file(const char *content, size_t size)
{
    int fd = MUST(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600));
    for (size_t done = 0; done < size;)
        done += (size_t)MUST(write(fd, content + done, size - done));
    MUST(close(fd));
}

static void load(const char *content)
{
    write_file(content, strlen(content));
    CHECK_IS(cl_text_read(&text, path), strlen(content));
    CHECK_TEXT(text.data, content);
}

static void check_stat(void)
{
    int64_t rows[3][CL_LOAD_COLUMNS];
    load("cpu  9 9 9 9\ncpu0 1 2 3 4\ncpu12 1 2 3 4 5 6 7 8 9 10 11 12\nintr 5 0\ncpu3 x\n");
    CHECK_IS(cl_load_stat(&text, rows[0], 3, &where), 2);
    CHECK_IS(rows[0][CL_LOAD_CPU], 0);
    CHECK_IS(rows[0][CL_LOAD_IDLE], 4);
    CHECK_IS(rows[0][CL_LOAD_IOWAIT], 0); /* which this kernel did not have */
    CHECK_IS(rows[1][CL_LOAD_CPU], 12);
    CHECK_IS(rows[1][CL_LOAD_GUEST_NICE], 10);
    rows[1][0] = -7;
    CHECK_IS(cl_load_stat(&text, rows[0], 1, &where), 2);
    CHECK_IS(rows[1][0], -7); /* there was no room */
}

static void check_malformed(void)
{
    static const char *const lines[] = {"cpu1 1 2 3", "cpu1 1 2 -3 4", "cpu1 1 2 3 4x", "cpu1x 1 2 3 4", "cpu1 1 2 3 4 x",
                                        "cpu99999999999999999999 1 2 3 4", "cpu1 1 2 3 9223372036854775808"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        char content[256];
        int64_t row[CL_LOAD_COLUMNS];
        say_about("%s", lines[i]);
        snprintf(content, sizeof content, "cpu0 1 2 3 4\n%s\n", lines[i]);
        load(content);
        CHECK_IS(cl_load_stat(&text, row, 1, &where), -EBADMSG);
        CHECK_IS(where, 13);
    }
}

static void check_schedstat(void)
{
    int64_t rows[2][3];
    say_about("schedstat");
    load("version 17\ntimestamp 1\ncpu0 0 0 0 0 0 0 70 80 9\ndomain0 f 1 2\ncpu5 0 0 0 0 0 0 71 81 9\n");
    CHECK_IS(cl_load_schedstat(&text, rows[0], 2, &where), 2);
    CHECK_IS(rows[1][0], 5);
    CHECK_IS(rows[1][1], 71);
    CHECK_IS(rows[1][2], 81);
    load("version 14\ncpu0 1 2\n");
    CHECK_IS(cl_load_schedstat(&text, rows[0], 2, &where), -ENOTSUP);
    load("something else");
    CHECK_IS(cl_load_schedstat(&text, rows[0], 2, &where), -EBADMSG);
    load("version 15\ncpu0 1 2\n");
    CHECK_IS(cl_load_schedstat(&text, rows[0], 2, &where), -EBADMSG);
    CHECK_IS(where, 11);
}

static void check_sizes(void)
{
    say_about("sizes");
    enum { LINES = 20000 };
    char *content = malloc(LINES * 32);
    int64_t *rows = malloc(LINES * CL_LOAD_COLUMNS * sizeof *rows);
    size_t size = 0;
    for (int cpu = 0; cpu < LINES; cpu++)
        size += (size_t)snprintf(content + size, 32, "cpu%d 1 2 3 %d\n", cpu, cpu);
    write_file(content, size);
    CHECK_IS(cl_text_read(&text, path), size);
    CHECK(memcmp(text.data, content, size) == 0);
    CHECK_IS(cl_load_stat(&text, rows, LINES, &where), LINES);
    CHECK_IS(rows[(LINES - 1) * CL_LOAD_COLUMNS + CL_LOAD_IDLE], LINES - 1);
    load("");
    CHECK_IS(cl_load_stat(&text, rows, LINES, &where), 0);
    CHECK_IS(cl_text_read(&text, "/no/such/file"), -ENOENT);
    CHECK_IS(cl_text_read(&text, "/"), -EISDIR);
    CHECK_IS(cl_text_read(&text, "/dev/zero"), -EFBIG);
    cl_text_free(&text);
    CHECK(!text.data);
    free(content);
    free(rows);
}

int main(void)
{
    int fds = count_fds();
    snprintf(path, sizeof path, "/tmp/corelane-load-%d", (int)getpid());
    check_stat();
    check_malformed();
    check_schedstat();
    check_sizes();
    unlink(path);
    CHECK_IS(count_fds(), fds);
    puts("ok");
}
