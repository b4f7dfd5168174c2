/* Hearing of writes to files. */
#include "check.h"

static int readable(const cl_opened *opened)
{
    struct pollfd waiting = {.fd = (int)opened->fd, .events = POLLIN};
    return poll(&waiting, 1, 0) == 1;
}

static void write_to(int fd)
{
    CHECK_IS(write(fd, "x", 1), 1);
}

int main(void)
{
    char path[] = "/tmp/test_notify_XXXXXX";
    int before = count_fds();
    cl_opened opened = {.fd = -1};
    int64_t rc = cl_notify_open(&opened);
    if (rc == -ENOTSUP) {
        CHECK_IS(opened.fd, -1);
        puts("ok: this platform tells of no writes");
        return 0;
    }
    MUST(rc);
    CHECK(opened.fd > 2);
    CHECK(fcntl((int)opened.fd, F_GETFD) & FD_CLOEXEC);
    CHECK_IS(cl_notify_add(&opened, "/nowhere/at/all"), -ENOENT);

    int fd = MUST(mkstemp(path));
    int64_t watch = MUST(cl_notify_add(&opened, path));
    CHECK_IS(cl_notify_add(&opened, path), watch);
    CHECK_IS(readable(&opened), 0);
    CHECK_IS(cl_notify_drain(&opened), 0); /* and does not wait */
    for (int i = 0; i < 1000; i++) {
        write_to(fd);
        CHECK_IS(pwrite(fd, "y", 1, 0), 1);
    }
    CHECK_IS(readable(&opened), 1);
    CHECK_IS(cl_notify_drain(&opened), 1);
    CHECK_IS(readable(&opened), 0);

    CHECK_IS(cl_notify_remove(&opened, watch), 0);
    CHECK_IS(cl_notify_remove(&opened, watch), -EINVAL);
    cl_notify_drain(&opened); /* that it was removed is told as well */
    write_to(fd);
    CHECK_IS(readable(&opened), 0);
    cl_opened_close(&opened);

    /* With 0 closed it does not become standard input. */
    int input = MUST(dup(0));
    close(0);
    MUST(cl_notify_open(&opened));
    CHECK(opened.fd > 2);
    cl_opened_close(&opened);
    MUST(dup2(input, 0));
    close(input);
    close(fd);
    unlink(path);
    CHECK_IS(count_fds(), before);
    puts("ok");
    return 0;
}
