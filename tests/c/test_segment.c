/* Segments: made, attached, held by a lease that ends with its holder, and refused when they are not what they must be. */
#include "check.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>

static char path[64];
static cl_segment_plan plan;

static cl_segment *new_segment(void)
{
    cl_segment *segment;
    CHECK_IS(cl_segment_new(&segment), 0);
    return segment;
}

static cl_segment_report look(const cl_segment *segment)
{
    cl_segment_report report;
    CHECK_IS(cl_segment_report_of(segment, &report), 0);
    return report;
}

static void plan_for(int64_t size)
{
    plan = (cl_segment_plan){.size = size, .data_offset = CL_SEGMENT_HEADER, .kind = CL_SEGMENT_BYTES, .mode = 0600,
                             .owner = -1, .group = -1};
}

static cl_segment *must_create(const char *name, int64_t size)
{
    cl_segment *segment = new_segment();
    plan_for(size);
    int64_t rc;
    while ((rc = cl_segment_create(segment, name, &plan)) == -EINTR)
        continue;
    CHECK_IS(rc, 0);
    return segment;
}

static cl_segment *must_attach(int fd, const char *name, int flags)
{
    cl_segment *segment = new_segment();
    CHECK_IS(cl_segment_attach(segment, fd, name, CL_SEGMENT_ANY, 0, flags), 0);
    return segment;
}

static int64_t attach_fails(int fd, const char *name, int kind, uint64_t layout, int fault)
{
    int fds = count_fds();
    cl_segment *segment = new_segment();
    int64_t rc = cl_segment_attach(segment, fd, name, kind, layout, 0);
    CHECK(rc < 0);
    CHECK_IS(look(segment).fault, fault);
    CHECK(!look(segment).data);
    CHECK_IS(count_fds(), fds);
    cl_segment_free(segment);
    return rc;
}

/* ---- making and attaching ------------------------------------------------------------------------------------------ */

static void is_shared(void)
{
    say_about("one without a name");
    int fds = count_fds();
    cl_segment *one = must_create(NULL, 100);
    cl_segment_report report = look(one);
    CHECK_IS(report.size, 100);
    CHECK_IS(report.kind, CL_SEGMENT_BYTES);
    CHECK_IS((uintptr_t)report.data % 64, 0);
    for (int i = 0; i < 100; i++)
        CHECK_IS(report.data[i], 0);
    CHECK_IS(cl_segment_create(one, NULL, &plan), -EBUSY);
    CHECK_IS(cl_segment_attach(one, (int)report.fd, NULL, 0, 0, 0), -EBUSY);
    cl_segment *two = must_attach((int)report.fd, NULL, 0);
    CHECK(look(two).data != report.data);
    report.data[99] = 7;
    CHECK_IS(look(two).data[99], 7);
    if (cl_platform() == CL_PLATFORM_LINUX) /* the others have no seals */
        CHECK(ftruncate((int)report.fd, 10) < 0 && errno == EPERM);
    cl_segment_free(one);
    CHECK_IS(look(two).data[99], 7);
    cl_segment_free(two);
    CHECK_IS(count_fds(), fds);
}

static void has_a_name(void)
{
    say_about("one with a name");
    int fds = count_fds();
    struct stat file;
    umask(077);
    cl_segment *one = new_segment();
    plan_for(5000);
    plan.mode = 0640;
    plan.layout = 42;
    plan.about = "what it is";
    plan.about_size = 10;
    CHECK_IS(cl_segment_create(one, path, &plan), 0);
    MUST(stat(path, &file));
    CHECK_IS(file.st_mode & 07777, 0640);
    cl_segment *other = new_segment();
    CHECK_IS(cl_segment_create(other, path, &plan), -EEXIST);
    cl_segment_free(other);
    CHECK_IS(attach_fails(-1, path, CL_SEGMENT_ARRAY, 0, CL_SEGMENT_KIND), -EBADMSG);
    CHECK_IS(attach_fails(-1, path, CL_SEGMENT_BYTES, 43, CL_SEGMENT_LAYOUT), -EBADMSG);
    other = must_attach(-1, path, CL_SEGMENT_READ_ONLY);
    cl_segment_report report = look(other);
    CHECK_IS(report.read_only, 1);
    CHECK_IS(report.layout, 42);
    CHECK_IS(report.creator, getpid());
    CHECK(memcmp(report.data - report.data_offset + CL_SEGMENT_ABOUT, "what it is", 11) == 0);
    MUST(unlink(path));
    CHECK_IS(attach_fails(-1, path, 0, 0, CL_SEGMENT_FINE), -ENOENT);
    cl_segment_free(one);
    cl_segment_free(other);
    CHECK_IS(count_fds(), fds);
}

static void is_refused(void)
{
    say_about("plans that cannot be");
    cl_segment *segment = new_segment();
    plan_for(0);
    CHECK_IS(cl_segment_create(segment, NULL, &plan), -EINVAL);
    plan_for(INT64_MAX);
    CHECK_IS(cl_segment_create(segment, NULL, &plan), -ENOMEM);
    plan_for(1);
    plan.data_offset = 100;
    CHECK_IS(cl_segment_create(segment, NULL, &plan), -EINVAL);
    plan_for(1);
    plan.about = "";
    plan.about_size = CL_SEGMENT_HEADER - CL_SEGMENT_ABOUT + 1;
    CHECK_IS(cl_segment_create(segment, NULL, &plan), -EINVAL);
    plan_for(1);
    CHECK_IS(cl_segment_create(segment, "no-directory", &plan), -EINVAL);
    CHECK_IS(cl_segment_create(segment, "/no/such/directory", &plan), -ENOENT);
    CHECK_IS(cl_segment_create(segment, NULL, &plan), 0); /* none of these has spoilt the object */
    cl_segment_free(segment);
}

/* What a file may be that is no segment: each is made from a good one by one change. */
static void is_not_believed(void)
{
    enum { MAGIC = 0, VERSION = 8, FILE_SIZE = 16, DATA_OFFSET = 24, DATA_SIZE = 32, READY = 64 };
    static const struct {
        const char *what;
        int at;
        uint64_t value;
        int bytes, fault;
    } changes[] = {
        {"a foreign magic", MAGIC, 0x1122334455667788, 8, CL_SEGMENT_FOREIGN},
        {"no magic yet", MAGIC, 0, 8, CL_SEGMENT_NOT_READY},
        {"another version", VERSION, 99, 4, CL_SEGMENT_VERSION},
        {"not ready", READY, 0, 4, CL_SEGMENT_NOT_READY},
        {"another size", FILE_SIZE, 4096, 8, CL_SEGMENT_RESIZED},
        {"data that begin in the header", DATA_OFFSET, 64, 8, CL_SEGMENT_BOUNDS},
        {"data that begin between lines", DATA_OFFSET, 4097, 8, CL_SEGMENT_BOUNDS},
        {"data that begin beyond the end", DATA_OFFSET, 1 << 20, 8, CL_SEGMENT_BOUNDS},
        {"data that end beyond the end", DATA_SIZE, 4097, 8, CL_SEGMENT_BOUNDS},
        {"data that go round", DATA_SIZE, UINT64_MAX, 8, CL_SEGMENT_BOUNDS},
    };
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        say_about("%s", changes[i].what);
        cl_segment *good = must_create(NULL, 4096);
        CHECK_IS(pwrite((int)look(good).fd, &changes[i].value, (size_t)changes[i].bytes, changes[i].at), changes[i].bytes);
        CHECK_IS(attach_fails((int)look(good).fd, NULL, 0, 0, changes[i].fault), -EBADMSG);
        cl_segment_free(good);
    }
    say_about("files that are none");
    CHECK_IS(attach_fails(-1, "/dev/null", 0, 0, CL_SEGMENT_NO_FILE), -EBADMSG);
    int fd = (int)MUST(open(path, O_CREAT | O_RDWR, 0600));
    MUST(unlink(path));
    CHECK_IS(attach_fails(fd, NULL, 0, 0, CL_SEGMENT_SHORT), -EBADMSG);
    MUST(ftruncate(fd, 8192));
    CHECK_IS(attach_fails(fd, NULL, 0, 0, CL_SEGMENT_NOT_READY), -EBADMSG);
    close(fd);
    say_about("one that was cut short");
    cl_segment *cut = must_create(path, 100000);
    MUST(truncate(path, 8192));
    CHECK_IS(attach_fails(-1, path, 0, 0, CL_SEGMENT_RESIZED), -EBADMSG);
    MUST(unlink(path));
    cl_segment_free(cut);
    say_about("a FIFO does not make us wait");
    MUST(mkfifo(path, 0600));
    CHECK_IS(attach_fails(-1, path, 0, 0, CL_SEGMENT_NO_FILE), -EBADMSG);
    MUST(unlink(path));
}

/* ---- leases ---------------------------------------------------------------------------------------------------------- */

static void hold_and_tell(int write_end, int fd)
{
    cl_segment *mine = must_attach(fd, NULL, 0);
    CHECK_IS(write(write_end, "x", 1), 1);
    (void)mine;
    for (;;)
        pause();
}

static void ends_with_its_holder(void)
{
    say_about("a holder that is killed");
    int ends[2];
    char byte;
    make_pipe(ends);
    cl_segment *one = must_create(NULL, 100);
    int fd = (int)look(one).fd;
    CHECK_IS(cl_segment_is_held(fd), 1); /* also when the one who asks is the holder */
    int keeper = (int)MUST(dup(fd));
    cl_segment_let_go(one);
    CHECK_IS(look(one).fd, -1);
    CHECK_IS(look(one).data[0], 0); /* still mapped: a mapping is no lease */
    CHECK_IS(cl_segment_is_held(keeper), 0);
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0)
        hold_and_tell(ends[1], keeper);
    CHECK_IS(read(ends[0], &byte, 1), 1);
    CHECK_IS(cl_segment_is_held(keeper), 1);
    MUST(kill(pid, SIGKILL));
    siginfo_t info;
    MUST(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT)); /* a zombie holds nothing */
    CHECK_IS(cl_segment_is_held(keeper), 0);
    MUST(waitpid(pid, NULL, 0));
    close(keeper);
    close(ends[0]);
    close(ends[1]);
    cl_segment_free(one);
}

/* The child of a fork has all our descriptors; it must not keep our lease alive, and has one of its own. */
static void is_not_inherited(void)
{
    say_about("a forked child");
    int ends[2];
    char byte;
    make_pipe(ends);
    cl_segment *one = must_create(NULL, 100);
    int fd = (int)MUST(dup((int)look(one).fd));
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        CHECK_IS(cl_segment_is_held(fd), 1);
        CHECK_IS(read(ends[0], &byte, 1), 1); /* until the parent has let go */
        CHECK_IS(cl_segment_is_held(fd), 1);  /* by us */
        cl_segment_let_go(one);
        CHECK_IS(cl_segment_is_held(fd), 0);
        _exit(0);
    }
    cl_segment_free(one);
    CHECK_IS(cl_segment_is_held(fd), 1);
    CHECK_IS(write(ends[1], "x", 1), 1);
    int status;
    MUST(waitpid(pid, &status, 0));
    CHECK_IS(status, 0);
    CHECK_IS(cl_segment_is_held(fd), 0);
    close(fd);
    close(ends[0]);
    close(ends[1]);
}

static void is_cleaned(void)
{
    say_about("what nobody holds is removed");
    struct stat file;
    cl_segment *one = must_create(path, 100);
    CHECK_IS(cl_segment_clean(path), 0);
    MUST(stat(path, &file));
    cl_segment_free(one);
    CHECK_IS(cl_segment_clean(path), 1);
    CHECK(stat(path, &file) < 0);
    CHECK_IS(cl_segment_clean(path), -ENOENT);
    int fd = (int)MUST(open(path, O_CREAT | O_RDWR, 0600));
    MUST(ftruncate(fd, 100000));
    CHECK_IS(cl_segment_clean(path), 1); /* begun by somebody who has died */
    fd = (int)MUST(open(path, O_CREAT | O_RDWR, 0600));
    CHECK_IS(pwrite(fd, "#!/bin/sh", 9, 8191), 9);
    CHECK_IS(pwrite(fd, "#!/bin/sh", 9, 0), 9);
    CHECK_IS(cl_segment_clean(path), -EBADMSG); /* somebody else's */
    MUST(unlink(path));
}

/* Some clean, some make, some attach: whoever has attached has what its name means, or one that lives on without it. */
static _Atomic int stopped;

static void *make_again_and_again(void *unused)
{
    (void)unused;
    for (int i = 0; i < 300; i++) {
        cl_segment *segment = new_segment();
        cl_segment_plan mine = {.size = 64, .data_offset = CL_SEGMENT_HEADER, .kind = 1, .mode = 0600, .owner = -1, .group = -1};
        int64_t rc = cl_segment_create(segment, path, &mine);
        CHECK(rc == 0 || rc == -EEXIST);
        cl_segment_free(segment);
    }
    stopped = 1;
    return NULL;
}

static void *clean_again_and_again(void *unused)
{
    (void)unused;
    while (!stopped) {
        int64_t rc = cl_segment_clean(path);
        CHECK(rc == 0 || rc == 1 || rc == -ENOENT);
    }
    return NULL;
}

static void *attach_again_and_again(void *unused)
{
    (void)unused;
    while (!stopped) {
        cl_segment *segment = new_segment();
        int64_t rc = cl_segment_attach(segment, -1, path, 1, 0, 0);
        CHECK(rc == 0 || rc == -ENOENT);
        if (rc == 0)
            CHECK_IS(look(segment).size, 64);
        cl_segment_free(segment);
    }
    return NULL;
}

static void all_at_once(void)
{
    say_about("making, attaching and cleaning at once");
    pthread_t threads[3];
    void *(*const work[3])(void *) = {make_again_and_again, clean_again_and_again, attach_again_and_again};
    for (int i = 0; i < 3; i++)
        CHECK_IS(pthread_create(&threads[i], NULL, work[i], NULL), 0);
    for (int i = 0; i < 3; i++)
        CHECK_IS(pthread_join(threads[i], NULL), 0);
    unlink(path);
}

int main(void)
{
    snprintf(path, sizeof path, "%s/corelane.test-%d", cl_segment_directory(), (int)getpid());
    is_shared();
    has_a_name();
    is_refused();
    is_not_believed();
    ends_with_its_holder();
    is_not_inherited();
    is_cleaned();
    all_at_once();
    puts("ok");
    return 0;
}
