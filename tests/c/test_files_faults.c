/* Interleavings of leases and bells that are files, each as it is told: at a fault point of one, another does something. Its
 * core is built with faults.h. Where they are no files there are none of these. */
#include "at_fault.h"
#include "check.h"
#include "internal.h"
#include "wake.h"

#include <fcntl.h>
#include <sys/stat.h>

enum { BEFORE_OPENING = 400, BEFORE_LOCKING, HAS_CLOSED, HAS_SAID, BEFORE_REMOVING, BEFORE_RINGING, BEFORE_NAMING };

static cl__lease one, two, three;
static int fd; /* of the segment that they are of; it has no name */
static char name[64], lease[CL__HIDDEN_PATH];
static int64_t result;

/* As cl__hidden_path, which is not in every core. */
static void hidden_path(char *out, const char *kind, int64_t first, int64_t second)
{
    snprintf(out, CL__HIDDEN_PATH, "%s/.corelane.%s.%llx.%llx", cl_segment_directory(), kind, (long long)first,
             (long long)second);
}

static void must_hold(cl__lease *which)
{
    CHECK_IS(cl__lease_open(which, fd, 0), 0);
}

static void let_go(cl__lease *which)
{
    cl__lease_close(which, fd);
}

static void begin(const char *what)
{
    struct stat file;
    say_about("%s", what);
    one = two = three = (cl__lease){-1, -1};
    fd = (int)MUST(cl__memory_file(0));
    MUST(ftruncate(fd, CL_SEGMENT_HEADER));
    MUST(fstat(fd, &file));
    hidden_path(lease, "lease", (int64_t)file.st_dev, (int64_t)file.st_ino);
    CHECK_IS(cl__lease_open(&one, fd, 1), 0);
}

/* Through the segment itself, as its holders do: their calls lock each other out, so no hook can be in the midst of two. */
static void make_one_with_a_name(const char *what)
{
    cl_segment_plan plan = {.size = 64, .data_offset = CL_SEGMENT_HEADER, .kind = CL_SEGMENT_BYTES, .mode = 0600,
                            .owner = -1, .group = -1};
    cl_segment *segment;
    struct stat file;
    say_about("%s", what);
    CHECK_IS(cl_segment_new(&segment), 0);
    CHECK_IS(cl_segment_create(segment, name, &plan), 0);
    cl_segment_free(segment);
    fd = (int)MUST(open(name, O_RDWR | O_CLOEXEC));
    MUST(fstat(fd, &file));
    hidden_path(lease, "lease", (int64_t)file.st_dev, (int64_t)file.st_ino);
}

static int64_t attach(void)
{
    cl_segment *segment;
    CHECK_IS(cl_segment_new(&segment), 0);
    int64_t rc = cl_segment_attach(segment, -1, name, CL_SEGMENT_ANY, 0, 0);
    cl_segment_free(segment);
    return rc;
}

static void finish(void)
{
    CHECK_IS(hook_calls, 1);
    close(fd);
    hook = NULL;
}

static int is_there(void)
{
    struct stat file;
    return lstat(lease, &file) == 0;
}

static uint32_t said_gone(void)
{
    uint32_t said = 7;
    CHECK_IS(pread(fd, &said, sizeof said, CL__LEASE_GONE_AT), sizeof said);
    return said;
}

static void one_goes(void)
{
    let_go(&one);
}

static void one_goes_and_two_comes(void)
{
    let_go(&one);
    must_hold(&two);
}

static void two_goes_and_three_comes(void)
{
    let_go(&two);
    CHECK_IS(is_there(), 0);
    must_hold(&three);
}

static void it_is_cleaned(void)
{
    CHECK_IS(cl_segment_clean(name), 1);
}

static void somebody_attaches(void)
{
    result = attach();
}

static void we_are_killed(void)
{
    _exit(0);
}

/* ---- leases ---------------------------------------------------------------------------------------------------------- */

static void comes_while_the_last_goes(void)
{
    static const struct {
        const char *what;
        int point;
        void (*work)(void);
    } ways[] = {
        {"the last one goes before it is opened", BEFORE_OPENING, one_goes},
        {"the last one goes before it is locked", BEFORE_LOCKING, one_goes},
        {"the same, and another one comes", BEFORE_LOCKING, one_goes_and_two_comes},
    };
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        begin(ways[i].what);
        at(ways[i].point, ways[i].work);
        must_hold(&three);
        CHECK_IS(cl__lease_is_held(fd), 1);
        CHECK_IS(said_gone(), 0);
        let_go(&two);
        CHECK_IS(cl__lease_is_held(fd), 1);
        CHECK_IS(is_there(), 1);
        let_go(&three);
        CHECK_IS(is_there(), 0);
        CHECK_IS(said_gone(), 1);
        finish();
    }
}

static void goes_while_another_goes_and_a_third_comes(void)
{
    begin("whoever is late leaves the new one alone");
    must_hold(&two);
    at(HAS_CLOSED, two_goes_and_three_comes);
    let_go(&one);
    CHECK_IS(is_there(), 1);
    CHECK_IS(said_gone(), 0);
    CHECK_IS(cl__lease_is_held(fd), 1);
    let_go(&three);
    CHECK_IS(is_there(), 0);
    finish();
}

static void is_killed_when_it_has_said_so(void)
{
    int status;
    begin("killed between saying and removing");
    cl__lease_forget(&one); /* not closed: it is left there, as by one that was killed */
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        must_hold(&one);
        at(HAS_SAID, we_are_killed);
        let_go(&one);
        _exit(1);
    }
    MUST(waitpid(pid, &status, 0));
    CHECK_IS(status, 0);
    CHECK_IS(is_there(), 1);
    CHECK_IS(said_gone(), 1);
    must_hold(&three);
    CHECK_IS(said_gone(), 0); /* or, when a stranger has removed it, the next one would make another */
    MUST(unlink(lease));
    CHECK_IS(cl__lease_open(&two, fd, 0), -ENOLCK);
    let_go(&three);
    hook_calls = 1;
    finish();
}

static void is_cleaned_meanwhile(void)
{
    make_one_with_a_name("cleaned away while it is attached");
    at(BEFORE_OPENING, it_is_cleaned);
    CHECK_IS(attach(), -ENOENT);
    CHECK_IS(is_there(), 0);
    finish();
    make_one_with_a_name("attached while it is cleaned away");
    at(BEFORE_REMOVING, somebody_attaches);
    CHECK_IS(cl_segment_clean(name), 1);
    CHECK_IS(result, -ENOENT);
    CHECK_IS(is_there(), 0);
    finish();
}

/* ---- what is not whole yet ----------------------------------------------------------------------------------------- */

static cl_segment *begun;

static void a_child_is_forked_and_frees_it(void)
{
    int status;
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        cl_segment_free(begun);
        _exit(0);
    }
    MUST(waitpid(pid, &status, 0));
    CHECK_IS(status, 0);
}

static void it_is_swept(void)
{
    CHECK(cl_segment_sweep() >= 0);
}

static void gets_its_name_all_the_same(void)
{
    static const struct {
        const char *what;
        void (*work)(void);
    } ways[] = {{"a child forked before it has its name", a_child_is_forked_and_frees_it},
                {"what lies around is swept before it has its name", it_is_swept}};
    cl_segment_plan plan = {.size = 64, .data_offset = CL_SEGMENT_HEADER, .kind = CL_SEGMENT_BYTES, .mode = 0600,
                            .owner = -1, .group = -1};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        say_about("%s", ways[i].what);
        CHECK_IS(cl_segment_new(&begun), 0);
        at(BEFORE_NAMING, ways[i].work);
        CHECK_IS(cl_segment_create(begun, name, &plan), 0);
        CHECK_IS(hook_calls, 1);
        MUST(unlink(name));
        cl_segment_free(begun);
    }
}

/* ---- bells ----------------------------------------------------------------------------------------------------------- */

static cl__bell bell = {.ends = {-1, -1}};
static cl__bell_place place;
static char path[CL__HIDDEN_PATH];

static void it_is_replaced(void)
{
    MUST(unlink(path));
    MUST(mkfifo(path, 0600));
}

static void it_is_looked_at_only(void)
{
    CHECK(!"opened");
}

static void rings_what_it_has_looked_at(void)
{
    say_about("a bell that another file takes the place of");
    cl__ringer ringer = {.fd = -1};
    CHECK(cl__bell_open(&bell, &place) >= 0);
    hidden_path(path, "bell", place.pid, place.number);
    at(BEFORE_RINGING, it_is_replaced);
    cl__bell_ring(&ringer, &place);
    CHECK_IS(hook_calls, 1);
    CHECK_IS(ringer.fd, -1);
    say_about("a bell of another number is not opened");
    at(BEFORE_RINGING, it_is_looked_at_only);
    cl__bell_ring(&ringer, &place);
    CHECK_IS(ringer.fd, -1);
    cl__bell_close(&bell);
}

int main(void)
{
    if (cl_platform() == CL_PLATFORM_LINUX) {
        puts("ok: there are none here");
        return 0;
    }
    snprintf(name, sizeof name, "%s/corelane.test-%d", cl_segment_directory(), (int)getpid());
    comes_while_the_last_goes();
    goes_while_another_goes_and_a_third_comes();
    is_killed_when_it_has_said_so();
    is_cleaned_meanwhile();
    gets_its_name_all_the_same();
    rings_what_it_has_looked_at();
    puts("ok");
    return 0;
}
