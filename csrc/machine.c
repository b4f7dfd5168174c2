/* Reading what the system says of the machine. A machine of 256 CPUs tells of itself in thousands of files: from Python,
 * each would release the GIL three times, and take it back from whoever is busy. */
#include "internal.h"

#include <fcntl.h>
#include <string.h>

enum { A_PAGE = 4096 };

/* All of one file. -EOVERFLOW: it does not fit; a file that fills the room to the last byte is taken for one that does
 * not, as only a read into more room could tell. What is shorter than a page came whole: sysfs gives an attribute in one
 * piece, and a second read costs a tenth of the file. */
static int64_t read_file(int directory, const char *name, char *text, int64_t room)
{
    int64_t got, length = 0;
    int64_t fd = cl__sys_openat(directory, name, O_RDONLY | O_NONBLOCK); /* a fifo in its place must not hold us */
    if (fd < 0)
        return fd;
    do {
        got = length < room ? cl__sys_read((int)fd, text + length, (size_t)(room - length)) : -EOVERFLOW;
        length += got > 0 ? got : 0;
    } while (got == -EINTR || got >= A_PAGE || (got > 0 && length == room));
    cl__sys_close((int)fd);
    return got < 0 ? got : length;
}

int64_t cl_read_files(const char *directory, const char *names, int64_t count, char *text, int64_t size,
                      int64_t *lengths)
{
    int64_t done = 0, used = 0;
    int64_t dir = cl__sys_open(directory, O_RDONLY | O_DIRECTORY);
    if (dir < 0)
        return dir;
    for (; done < count; done++, names += strlen(names) + 1) {
        int64_t length = read_file((int)dir, names, text + used, size - used);
        if (length == -EOVERFLOW)
            break;
        lengths[done] = length;
        used += length > 0 ? length : 0;
    }
    cl__sys_close((int)dir);
    return done == 0 && count > 0 ? -EOVERFLOW : done;
}

int64_t cl_sysctl(const char *name, void *value, int64_t size)
{
    return cl__sys_sysctl(name, value, (size_t)size);
}
