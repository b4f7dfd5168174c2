/* Small files, one or many in a call: what is there, what is not, what does not fit. */
#include "check.h"

static char directory[] = "/tmp/corelane-files-XXXXXX";

static void make(const char *name, size_t size, char fill)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "w");
    CHECK(file);
    for (size_t i = 0; i < size; i++)
        fputc(fill, file);
    fclose(file);
}

static void drop(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    CHECK(remove(path) == 0);
}

static void one_file(void)
{
    char path[256], text[16] = "";
    snprintf(path, sizeof path, "%s/digits", directory);
    int fd = MUST(open(path, O_CREAT | O_WRONLY, 0600));
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
    snprintf(path, sizeof path, "%s/fifo", directory);
    CHECK_IS(cl_read_file(path, text, sizeof text), 0); /* and does not wait for a writer */
    close(fd);
    drop("digits");
}

static void texts_come_one_after_another(void)
{
    char text[64];
    int64_t lengths[4];
    CHECK(cl_read_files(directory, "a\0none\0empty\0b", 4, text, sizeof text, lengths) == 4);
    CHECK(lengths[0] == 3 && lengths[1] == -ENOENT && lengths[2] == 0 && lengths[3] == 5);
    CHECK(memcmp(text, "aaabbbbb", 8) == 0);
}

static void what_has_no_room_is_left_for_the_next_call(void)
{
    char text[64];
    int64_t lengths[2];
    CHECK(cl_read_files(directory, "a\0b", 2, text, 6, lengths) == 1);
    CHECK(lengths[0] == 3);
    CHECK(cl_read_files(directory, "b", 1, text, 5, lengths) == -EOVERFLOW); /* to the last byte: it may go on */
    CHECK(cl_read_files(directory, "b", 1, text, 6, lengths) == 1);
    CHECK(cl_read_files(directory, "b", 1, text, 0, lengths) == -EOVERFLOW);
    CHECK(cl_read_files(directory, "", 0, text, 0, lengths) == 0);
}

static void more_than_a_page(void)
{
    int64_t length;
    char *text = malloc(100000);
    CHECK(text);
    CHECK(cl_read_files(directory, "long", 1, text, 100000, &length) == 1);
    CHECK(length == 50000 && text[0] == 'x' && text[49999] == 'x');
    CHECK(cl_read_files(directory, "page", 1, text, 100000, &length) == 1);
    CHECK(length == 4096);
    free(text);
}

static void what_is_no_file(void)
{
    char text[64];
    int64_t lengths[2];
    CHECK(cl_read_files(directory, ".\0fifo", 2, text, sizeof text, lengths) == 2); /* and does not wait for a writer */
    CHECK(lengths[0] == -EISDIR && lengths[1] == 0);
    CHECK(cl_read_files("/nowhere", "a", 1, text, sizeof text, lengths) == -ENOENT);
}

static void no_descriptor_is_left(void)
{
    int before = count_fds();
    one_file();
    texts_come_one_after_another();
    what_is_no_file();
    CHECK_IS(count_fds(), before);
}

int main(void)
{
    char fifo[256];
    CHECK(mkdtemp(directory));
    make("a", 3, 'a'), make("b", 5, 'b'), make("empty", 0, 0), make("long", 50000, 'x'), make("page", 4096, 'x');
    snprintf(fifo, sizeof fifo, "%s/fifo", directory);
    CHECK(mkfifo(fifo, 0600) == 0);
    one_file();
    texts_come_one_after_another();
    what_has_no_room_is_left_for_the_next_call();
    more_than_a_page();
    what_is_no_file();
    no_descriptor_is_left();
    drop("a"), drop("b"), drop("empty"), drop("long"), drop("page"), drop("fifo");
    CHECK(rmdir(directory) == 0);
    puts("ok");
    return 0;
}
