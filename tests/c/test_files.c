/* Reading a small file in one call. */
#include "check.h"

int main(void)
{
    char path[] = "/tmp/test_files_XXXXXX", text[16] = "";
    int before = count_fds();
    int fd = MUST(mkstemp(path));
    CHECK_IS(cl_read_file(path, text, sizeof text), 0);
    CHECK_IS(write(fd, "0123456789", 10), 10);
    CHECK_IS(cl_read_file(path, text, sizeof text), 10);
    CHECK_TEXT(text, "0123456789");
    CHECK_IS(cl_read_file(path, text, 10), 10); /* there may be more */
    memset(text, 0, sizeof text);
    CHECK_IS(cl_read_file(path, text, 4), 4);
    CHECK_TEXT(text, "0123");
    CHECK_IS(cl_read_file("/", text, sizeof text), -EISDIR);
    CHECK_IS(cl_read_file("/nowhere/at/all", text, sizeof text), -ENOENT);
    unlink(path);
    close(fd);
    CHECK_IS(count_fds(), before);
    puts("ok");
    return 0;
}
