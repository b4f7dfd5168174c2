/* Bells: rung through what shared memory says of them, and nothing else is written to, or opened, whatever it says. */
#include "check.h"
#include "wake.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>

static cl__bell bell;
static cl__bell_place place;
static cl__ringer ringer;
static char path[CL__HIDDEN_PATH];

static int is_files(void)
{
    return cl_platform() != CL_PLATFORM_LINUX;
}

static void path_of(int64_t pid, int64_t number)
{
    snprintf(path, sizeof path, "%s/.corelane.bell.%llx.%llx", cl_segment_directory(), (long long)pid, (long long)number);
}

static int is_there(void)
{
    struct stat file;
    return lstat(path, &file) == 0;
}

static void begin(const char *what)
{
    say_about("%s", what);
    bell = (cl__bell){.ends = {-1, -1}};
    place = (cl__bell_place){0};
    ringer = (cl__ringer){.fd = -1};
}

static int is_readable(int fd)
{
    struct pollfd one = {.fd = fd, .events = POLLIN};
    return (int)MUST(poll(&one, 1, 0));
}

static void must_open(void)
{
    int64_t fd = cl__bell_open(&bell, &place);
    CHECK_IS(fd, bell.ends[0]);
    CHECK_IS(is_readable((int)fd), 1);
    cl__bell_silence(&bell);
    CHECK_IS(is_readable(bell.ends[0]), 0);
    path_of(place.pid, place.number);
    CHECK_IS(is_there(), is_files());
}

static void is_rung(void)
{
    begin("one that is rung");
    int fds = count_fds();
    must_open();
    CHECK_IS(cl__bell_open(&bell, &place), bell.ends[0]); /* the same */
    for (int i = 0; i < 3; i++) {
        cl__bell_ring(&ringer, &place);
        CHECK(ringer.fd >= 0);
        CHECK_IS(is_readable(bell.ends[0]), 1);
        cl__bell_silence(&bell);
    }
    for (int i = 0; i < 100000; i++) /* full: nobody waits for room */
        cl__bell_ring(&ringer, &place);
    cl__bell_silence(&bell);
    CHECK_IS(is_readable(bell.ends[0]), 0);
    cl__bell_close(&bell);
    CHECK_IS(is_there(), 0);
    cl__bell_ring(&ringer, &place); /* no SIGPIPE */
    cl__ringer_close(&ringer);
    cl__bell_ring(&ringer, &place);
    CHECK_IS(ringer.fd, -1);
    CHECK_IS(count_fds(), fds);
}

static void is_another_one(void)
{
    begin("another one of the same waiter");
    must_open();
    cl__bell_ring(&ringer, &place);
    int first = ringer.fd;
    CHECK(first >= 0);
    cl__bell_close(&bell);
    must_open();
    cl__bell_ring(&ringer, &place);
    CHECK_IS(is_readable(bell.ends[0]), 1);
    cl__ringer_close(&ringer);
    cl__bell_close(&bell);
}

static void is_the_parents(void)
{
    begin("a forked child that closes what it has inherited");
    must_open();
    int status;
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        cl__bell_close(&bell);
        _exit(0);
    }
    MUST(waitpid(pid, &status, 0));
    CHECK_IS(status, 0);
    CHECK_IS(is_there(), is_files());
    cl__bell_ring(&ringer, &place);
    CHECK_IS(is_readable(bell.ends[0]), 1);
    cl__ringer_close(&ringer);
    cl__bell_close(&bell);
}

static void must_not_ring(void)
{
    int fds = count_fds();
    cl__bell_ring(&ringer, &place);
    CHECK_IS(ringer.fd, -1);
    CHECK_IS(count_fds(), fds);
}

/* What somebody has written there who wants our stdout to be written to. */
static void is_a_strangers_wish(void)
{
    struct stat file;
    int ends[2];
    begin("a place that somebody made up");
    make_pipe(ends);
    MUST(fstat(ends[1], &file));
    place = (cl__bell_place){getpid(), (int64_t)file.st_ino, ends[1]};
    must_not_ring();
    CHECK_IS(is_readable(ends[0]), 0);
    static const cl__bell_place odd[] = {{0, 0, 0}, {-1, 1, 1}, {1, 1, -1}, {INT64_MAX, INT64_MAX, INT32_MAX}, {INT64_MIN, 0, INT32_MIN}};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        place = odd[i];
        must_not_ring();
    }
    say_about("a bell with the number of another file");
    must_open();
    place.inode ^= 1;
    must_not_ring();
    place.inode ^= 1;
    if (is_files() && geteuid() == 0) {
        say_about("a bell of another user's");
        MUST(chown(path, 65534, 65534));
        must_not_ring();
        MUST(chown(path, 0, 0));
    }
    cl__bell_ring(&ringer, &place);
    CHECK(ringer.fd >= 0);
    cl__ringer_close(&ringer);
    cl__bell_close(&bell);
    close(ends[0]), close(ends[1]);
}

/* What lies under the name of a bell, and is none. */
static void is_no_fifo(void)
{
    struct stat file;
    begin("what is no FIFO");
    path_of(getpid(), 77);
    int fd = (int)MUST(open(path, O_CREAT | O_EXCL | O_RDWR, 0600));
    MUST(fstat(fd, &file));
    place = (cl__bell_place){getpid(), (int64_t)file.st_ino, 77};
    must_not_ring();
    CHECK_IS(lseek(fd, 0, SEEK_END), 0);
    close(fd);
    MUST(unlink(path));
    say_about("a link to a bell");
    must_open();
    char target[CL__HIDDEN_PATH];
    memcpy(target, path, sizeof target);
    path_of(getpid(), 77);
    MUST(symlink(target, path));
    place.number = 77;
    must_not_ring();
    MUST(unlink(path));
    cl__bell_close(&bell);
}

static void meets_an_old_one(void)
{
    begin("the name of one that was left there");
    must_open();
    int64_t number = place.number;
    cl__bell_close(&bell);
    for (int64_t next = number + 1; next <= number + 3; next++) {
        path_of(getpid(), next);
        MUST(mkfifo(path, 0600));
    }
    must_open();
    CHECK_IS(place.number, number + 4);
    cl__bell_ring(&ringer, &place);
    CHECK_IS(is_readable(bell.ends[0]), 1);
    cl__ringer_close(&ringer);
    cl__bell_close(&bell);
    for (int64_t next = number + 1; next <= number + 3; next++) {
        path_of(getpid(), next);
        MUST(unlink(path));
    }
}

int main(void)
{
    is_rung();
    is_another_one();
    is_the_parents();
    is_a_strangers_wish();
    if (is_files()) {
        is_no_fifo();
        meets_an_old_one();
    }
    puts("ok");
    return 0;
}
