/* Events: counted, waited for by many, closed and forked under those who use them; as an eventfd and as a FIFO. */
#include "check.h"

#include <pthread.h>
#include <sys/socket.h>
#include <sys/time.h>

static int kind; /* 0 or CL_EVENTFD_FIFO */

static cl_eventfd *made(uint64_t initial, int flags)
{
    cl_eventfd *event;
    CHECK_IS(cl_eventfd_new(&event), 0);
    CHECK_IS(cl_eventfd_fd(event), -EBADF);
    CHECK_IS(cl_eventfd_open(event, initial, kind | flags, "/tmp"), 0);
    CHECK_IS(cl_eventfd_open(event, initial, kind | flags, "/tmp"), -EBUSY);
    CHECK(cl_eventfd_fd(event) > 2);
    CHECK(fcntl((int)cl_eventfd_fd(event), F_GETFD) & FD_CLOEXEC);
    return event;
}

static cl_eventfd *attached(int64_t fd)
{
    cl_eventfd *event;
    CHECK_IS(cl_eventfd_new(&event), 0);
    CHECK_IS(cl_eventfd_attach(event, (int)fd), 0);
    CHECK(cl_eventfd_fd(event) != fd);
    return event;
}

static int64_t in(int64_t ns)
{
    return now_ns() + ns;
}

/* What was taken at once, or 0. */
static uint64_t take(cl_eventfd *event)
{
    uint64_t taken = 0;
    int64_t rc = cl_eventfd_wait(event, 0, &taken);
    CHECK(rc == 0 ? taken > 0 : rc == -ETIMEDOUT && taken == 0);
    return taken;
}

static void give(cl_eventfd *event, uint64_t n)
{
    uint64_t done = 0;
    CHECK_IS(cl_eventfd_signal(event, n, in(PATIENCE), &done), 0);
    CHECK_IS(done, n);
}

static void counts(void)
{
    cl_eventfd *event = made(3, 0), *other = attached(cl_eventfd_fd(event));
    give(other, 4);
    CHECK_IS(take(event), 7);
    CHECK_IS(take(other), 0);
    for (int i = 0; i < 2000; i++)
        give(event, 1000);
    CHECK_IS(take(event), 2000 * 1000);
    cl_eventfd_free(event);
    CHECK_IS(take(other), 0); /* it lives as long as anybody has it */
    cl_eventfd_free(other);

    event = made(2, CL_EVENTFD_SEMAPHORE);
    other = attached(cl_eventfd_fd(event));
    give(other, 2);
    for (int i = 0; i < 4; i++)
        CHECK_IS(take(i % 2 ? event : other), 1);
    CHECK_IS(take(event), 0);
    cl_eventfd_free(event);
    cl_eventfd_free(other);
    cl_eventfd_free(NULL);
}

static void times(void)
{
    cl_eventfd *event = made(0, 0);
    uint64_t taken = 0;
    int64_t began = now_ns(), rc;
    while ((rc = cl_eventfd_wait(event, began + 250 * MS, &taken)) == -EINTR)
        continue; /* it looks every 100 ms */
    CHECK_IS(rc, -ETIMEDOUT);
    CHECK(now_ns() - began >= 250 * MS);
    cl_eventfd_free(event);
}

static int full(cl_eventfd *event, uint64_t n)
{
    int times = 0;
    uint64_t done;
    while (done = 0, cl_eventfd_signal(event, n, 0, &done) == 0)
        times++;
    CHECK_IS(done, 0);
    return times;
}

static void fullness(void)
{
    cl_eventfd *event = made(kind ? 0 : UINT64_MAX - 1, 0);
    uint64_t done = 0;
    int times = full(event, 1);
    CHECK(kind ? times >= 512 : times == 0);
    CHECK_IS(cl_eventfd_signal(event, 1, in(20 * MS), &done), -ETIMEDOUT);
    CHECK_IS(take(event), kind ? (uint64_t)times : UINT64_MAX - 1);
    if (!kind) { /* there is room for one, so poll does not sleep */
        give(event, UINT64_MAX - 2);
        CHECK_IS(cl_eventfd_signal(event, 2, in(20 * MS), &done), -ETIMEDOUT);
        CHECK_IS(done, 0);
    }
    cl_eventfd_free(event);
}

/* ---- threads ------------------------------------------------------------------------------------------------------ */

enum { THREADS = 4, ROUNDS = SANITIZED ? 2000 : 10000 };

static cl_eventfd *shared;
static _Atomic uint64_t got;

static void *give_many(void *unused)
{
    (void)unused;
    for (int i = 0; i < ROUNDS; i++)
        give(shared, 1);
    return NULL;
}

static void *take_until_closed(void *unused)
{
    (void)unused;
    for (;;) {
        uint64_t taken = 0;
        int64_t rc = cl_eventfd_wait(shared, -1, &taken);
        if (rc == -EBADF)
            return NULL;
        CHECK(rc == 0 || rc == -EINTR);
        got += taken;
    }
}

static void many_who_wait(int flags)
{
    pthread_t givers[THREADS], takers[THREADS];
    shared = made(0, flags);
    got = 0;
    for (int i = 0; i < THREADS; i++) {
        CHECK_IS(pthread_create(&takers[i], NULL, take_until_closed, NULL), 0);
        CHECK_IS(pthread_create(&givers[i], NULL, give_many, NULL), 0);
    }
    for (int i = 0; i < THREADS; i++)
        CHECK_IS(pthread_join(givers[i], NULL), 0);
    for (int64_t end = in(PATIENCE); got < THREADS * ROUNDS;)
        CHECK(now_ns() < end);
    cl_eventfd_close(shared);
    cl_eventfd_close(shared);
    for (int i = 0; i < THREADS; i++)
        CHECK_IS(pthread_join(takers[i], NULL), 0);
    CHECK_IS(got, THREADS * ROUNDS);
    cl_eventfd_free(shared);
}

/* A number that was closed is another file's at once: nobody may read from that. */
static void *take_for_a_while(void *event)
{
    for (;;) {
        uint64_t taken = 0;
        if (cl_eventfd_wait(event, 0, &taken) == -EBADF)
            return NULL;
        CHECK(taken == 0);
    }
}

static void closed_under_its_users(void)
{
    for (int round = 0; round < (SANITIZED ? 100 : 500); round++) {
        pthread_t users[2];
        char byte;
        int ends[2];
        cl_eventfd *event = made(0, 0);
        for (int i = 0; i < 2; i++)
            CHECK_IS(pthread_create(&users[i], NULL, take_for_a_while, event), 0);
        cl_eventfd_close(event);
        CHECK_IS(cl_eventfd_fd(event), -EBADF);
        MUST(pipe(ends));
        CHECK_IS(write(ends[1], "12345678", 8), 8);
        for (int i = 0; i < 2; i++)
            CHECK_IS(pthread_join(users[i], NULL), 0);
        CHECK_IS(read(ends[0], &byte, 1), 1);
        CHECK_IS(byte, '1');
        close(ends[0]);
        close(ends[1]);
        cl_eventfd_free(event);
    }
}

/* ---- processes ---------------------------------------------------------------------------------------------------- */

static void forked(void)
{
    cl_eventfd *event = made(0, 0);
    int child = MUST(fork());
    if (child == 0) {
        give(event, 9);
        _exit(0);
    }
    uint64_t taken = 0;
    int64_t rc;
    while ((rc = cl_eventfd_wait(event, in(PATIENCE), &taken)) == -EINTR)
        continue;
    CHECK_IS(rc, 0);
    CHECK_IS(taken, 9);
    int status;
    CHECK_IS(waitpid(child, &status, 0), child);
    CHECK_IS(status, 0);
    cl_eventfd_forked(event); /* as a child would: nobody is in a call, nothing changes */
    CHECK_IS(take(event), 0);
    cl_eventfd_close(event);
    cl_eventfd_forked(event);
    cl_eventfd_free(event);
}

static void on_alarm(int unused)
{
    (void)unused;
}

static void signalled(void)
{
    struct sigaction action = {.sa_handler = on_alarm};
    struct itimerval ticks = {.it_interval = {.tv_usec = 5000}, .it_value = {.tv_usec = 5000}};
    cl_eventfd *event = made(0, 0);
    uint64_t taken = 0;
    MUST(sigaction(SIGALRM, &action, NULL));
    MUST(setitimer(ITIMER_REAL, &ticks, NULL));
    CHECK_IS(cl_eventfd_wait(event, -1, &taken), -EINTR);
    ticks = (struct itimerval){0};
    MUST(setitimer(ITIMER_REAL, &ticks, NULL));
    cl_eventfd_free(event);
}

/* ---- what is none ------------------------------------------------------------------------------------------------- */

static void refused(void)
{
    cl_eventfd *event;
    int ends[2], sockets[2], file = MUST(open("/dev/null", O_RDWR));
    MUST(pipe(ends));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
    CHECK_IS(cl_eventfd_new(&event), 0);
    int wrong[] = {file, ends[0], ends[1], sockets[0]};
    for (int i = 0; i < 4; i++) {
        say_about("wrong descriptor %d", i);
        CHECK_IS(cl_eventfd_attach(event, wrong[i]), -EINVAL);
    }
    CHECK_IS(cl_eventfd_attach(event, 99), -EBADF);
    CHECK_IS(cl_eventfd_open(event, 0, CL_EVENTFD_FIFO, "/no/such/directory"), -ENOENT);
    int why = mkfifo("/sys/corelane-event-none", S_IRUSR) < 0 ? errno : EPERM; /* and not why there is none to be opened */
    CHECK_IS(cl_eventfd_open(event, 0, CL_EVENTFD_FIFO, "/sys"), -why);
    uint64_t count = 0;
    CHECK_IS(cl_eventfd_wait(event, 0, &count), -EBADF);
    CHECK_IS(cl_eventfd_signal(event, 1, 0, &count), -EBADF);
    cl_opened own = {.fd = -1};
    CHECK_IS(cl_eventfd_dup(event, &own), -EBADF);
    cl_eventfd_close(event);
    cl_eventfd_free(event);
    event = made(0, 0);
    MUST(cl_eventfd_dup(event, &own));
    CHECK(own.fd > 2);
    cl_opened_close(&own);
    if (kind) {
        CHECK_IS(write((int)cl_eventfd_fd(event), "123", 3), 3);
        CHECK_IS(cl_eventfd_wait(event, 0, &count), -EBADMSG);
    }
    cl_eventfd_free(event);
    int all[] = {file, ends[0], ends[1], sockets[0], sockets[1]};
    for (int i = 0; i < 5; i++)
        close(all[i]);
}

/* With 0 closed it does not become standard input. */
static void without_stdin(void)
{
    int input = MUST(dup(0));
    close(0);
    cl_eventfd *event = made(1, 0), *other = attached(cl_eventfd_fd(event));
    CHECK(cl_eventfd_fd(other) > 2);
    CHECK_IS(take(other), 1);
    cl_eventfd_free(event);
    cl_eventfd_free(other);
    MUST(dup2(input, 0));
    close(input);
}

int main(void)
{
    int before = count_fds();
    for (kind = 0; kind <= CL_EVENTFD_FIFO; kind += CL_EVENTFD_FIFO) {
        say_about(kind ? "a FIFO" : "an eventfd, if there are any");
        counts();
        times();
        fullness();
        many_who_wait(0);
        many_who_wait(CL_EVENTFD_SEMAPHORE);
        closed_under_its_users();
        forked();
        signalled();
        refused();
        without_stdin();
    }
    CHECK_IS(count_fds(), before);
    puts("ok");
    return 0;
}
