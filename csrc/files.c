/* Reading what the system tells: small files one by one or many in a call, files of any size into memory that is used
 * again, and macOS's table of values. A machine of 256 CPUs tells of itself in thousands of files: from Python, each would
 * release the GIL three times, and take it back from whoever is busy. */
#include "internal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

/* The first room holds what /proc/stat is on a machine of some hundred CPUs, so that it is one read. */
enum { A_PAGE = 4096, FIRST_ROOM = 1 << 16, MOST_ROOM = 1 << 26 };

/* A fifo in a file's place must not hold us. */
static int64_t open_at(int64_t directory, const char *name)
{
    return cl__sys_openat((int)directory, name, O_RDONLY | O_NONBLOCK);
}

/* Read until the file's end or until the room is full. The kernel's own files come in pieces, a page or a line at a time;
 * a piece of fewer than `least` bytes is taken for the last. */
static int64_t fill(int64_t fd, char *out, int64_t size, int64_t least)
{
    int64_t filled = 0, got = least;
    while (filled < size && (got >= least || got == -EINTR)) {
        got = cl__sys_read((int)fd, out + filled, (size_t)(size - filled));
        filled += got > 0 ? got : 0;
    }
    return got < 0 ? got : filled;
}

static int64_t read_at(int64_t directory, const char *name, char *out, int64_t size, int64_t least)
{
    int64_t fd = open_at(directory, name);
    if (fd < 0)
        return fd;
    int64_t got = fill(fd, out, size, least);
    cl__sys_close((int)fd);
    return got;
}

int64_t cl_read_file(const char *path, char *out, int64_t size)
{
    return read_at(AT_FDCWD, path, out, size, 1);
}

/* What is shorter than a page came whole: sysfs gives an attribute in one piece, and a second read costs a tenth of the
 * file. One that fills the room to the last byte is taken for one that does not fit, as only a read into more room could
 * tell. */
int64_t cl_read_files(const char *directory, const char *names, int64_t count, char *text, int64_t size,
                      int64_t *lengths)
{
    int64_t done = 0, used = 0;
    int64_t dir = cl__sys_open(directory, O_RDONLY | O_DIRECTORY);
    if (dir < 0)
        return dir;
    for (; done < count; done++, names += strlen(names) + 1) {
        int64_t length = read_at(dir, names, text + used, size - used, A_PAGE);
        if (length == size - used)
            break;
        lengths[done] = length;
        used += length > 0 ? length : 0;
    }
    cl__sys_close((int)dir);
    return done == 0 && count > 0 ? -EOVERFLOW : done;
}

static int64_t make_room(cl_text *text)
{
    if (text->size + 1 < text->room)
        return 0;
    if (text->room >= MOST_ROOM)
        return -EFBIG;
    int64_t room = text->room ? text->room * 2 : FIRST_ROOM;
    char *grown = realloc(text->data, (size_t)room);
    if (!grown)
        return -ENOMEM;
    text->data = grown;
    text->room = room;
    return 0;
}

int64_t cl_text_read(cl_text *text, const char *path)
{
    int64_t got, left, fd = open_at(AT_FDCWD, path);
    if (fd < 0)
        return fd;
    text->size = 0;
    do {
        got = make_room(text);
        left = text->room - text->size - 1;
        got = got < 0 ? got : fill(fd, text->data + text->size, left, 1);
        text->size += got > 0 ? got : 0;
    } while (got == left);
    cl__sys_close((int)fd);
    if (text->data)
        text->data[text->size] = '\0';
    return got < 0 ? got : text->size;
}

void cl_text_free(cl_text *text)
{
    free(text->data);
    *text = (cl_text){0};
}

int64_t cl_sysctl(const char *name, void *value, int64_t size)
{
    return cl__sys_sysctl(name, value, (size_t)size);
}
