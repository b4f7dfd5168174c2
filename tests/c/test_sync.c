/* Locks, semaphores, events, barriers: what each says, threads of one object and of several, deaths, memory that cannot be. */
#include <pthread.h>
#include <sched.h>

#include "sync.h"

enum { THREADS = 4, ROUNDS = 2000 };

static int64_t exits(pid_t pid)
{
    int status;
    MUST(waitpid(pid, &status, 0));
    return status;
}

/* ---- locks -------------------------------------------------------------------------------------------------------------- */

static void is_a_lock(void)
{
    say_about("a lock");
    int fds = count_fds();
    handle one = make(CL_SEGMENT_MUTEX, 1, 3), two = attach_to(&one);
    CHECK_IS(cl_lock_holder(one.sync), 0);
    CHECK_IS(cl_lock_try(one.sync, 1), 0);
    CHECK_IS(cl_lock_try(one.sync, 1), -EDEADLK);
    CHECK_IS(cl_lock_acquire(one.sync, -1), -EDEADLK);
    CHECK_IS(cl_lock_is_held(one.sync), 1);
    CHECK_IS(cl_lock_is_held(two.sync), 0);
    CHECK_IS(cl_lock_holder(two.sync), getpid());
    CHECK_IS(cl_lock_try(two.sync, 0), -EAGAIN);
    int64_t began = now_ns();
    CHECK_IS(acquire_lock(two.sync, began + 5 * MS), -ETIMEDOUT);
    CHECK(now_ns() - began >= 5 * MS);
    CHECK_IS(acquire_lock(two.sync, 0), -ETIMEDOUT);
    CHECK_IS(cl_lock_release(two.sync, 0), -EPERM);
    CHECK_IS(look(&two).free, 0);
    CHECK_IS(cl_lock_release(one.sync, 0), 0);
    CHECK_IS(cl_lock_release(one.sync, 0), -EPERM);
    CHECK_IS(acquire_lock(two.sync, soon()), 0);
    cl_sync_leave(two.sync); /* with it: as if it had died */
    CHECK_IS(cl_lock_try(two.sync, 1), -ENOTCONN);
    CHECK_IS(cl_lock_try(one.sync, 0), getpid());
    CHECK_IS(cl_lock_recovered(one.sync), getpid());
    CHECK_IS(cl_lock_release(one.sync, 1), 0); /* it is not in order yet */
    CHECK_IS(cl_lock_try(one.sync, 0), getpid());
    CHECK_IS(cl_lock_release(one.sync, 0), 0);
    CHECK_IS(cl_lock_try(one.sync, 0), 0);
    CHECK_IS(cl_lock_recovered(one.sync), 0);
    drop(&two);
    drop(&one);
    CHECK_IS(count_fds(), fds);
}

static pid_t die_with(handle *one)
{
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        CHECK_IS(cl_lock_try(one->sync, 1), -ESTALE);
        CHECK(cl_sync_join(one->sync) > 0);
        CHECK(acquire_lock(one->sync, soon()) >= 0);
        _exit(0);
    }
    CHECK_IS(exits(pid), 0);
    return pid;
}

static void tells_of_deaths(void)
{
    say_about("who died with a lock");
    handle one = make(CL_SEGMENT_MUTEX, 1, 3);
    pid_t pid = die_with(&one);
    CHECK_IS(acquire_lock(one.sync, soon()), pid);
    CHECK_IS(cl_lock_recovered(one.sync), pid);
    CHECK_IS(cl_lock_release(one.sync, 0), 0);
    CHECK_IS(acquire_lock(one.sync, soon()), 0);
    CHECK_IS(cl_lock_release(one.sync, 0), 0);
    die_with(&one);
    pid = die_with(&one); /* which was told, and died over it */
    CHECK_IS(acquire_lock(one.sync, soon()), pid);
    CHECK_IS(look(&one).recoveries, 3);
    CHECK_IS(look(&one).joined, 1);
    drop(&one);
}

/* Its lease ends with its segment, also if nobody has left: then its place, and what is held there, may be another's. */
static void is_nobody_without_its_segment(void)
{
    say_about("a lock whose segment was let go of");
    handle one = make(CL_SEGMENT_MUTEX, 1, 3), two = attach_to(&one);
    int64_t place = look(&one).me;
    CHECK_IS(cl_lock_try(one.sync, 0), 0);
    cl_segment_let_go(one.segment);
    CHECK_IS(cl_lock_release(one.sync, 0), -ESTALE);
    CHECK_IS(cl_lock_try(one.sync, 0), -ESTALE);
    CHECK_IS(cl_sync_recover(two.sync), 1);
    handle three = attach_to(&two);
    CHECK_IS(look(&three).me, place);
    CHECK_IS(cl_lock_try(three.sync, 0), getpid()); /* it was held */
    CHECK_IS(cl_lock_try(one.sync, 0), -ESTALE);
    drop(&one);
    CHECK_IS(cl_lock_is_held(three.sync), 1); /* nobody has left in its name */
    CHECK_IS(cl_lock_try(two.sync, 0), -EAGAIN);
    drop(&three), drop(&two);
}

/* Until it is told why it need not. */
static void *waits_in_vain(void *argument)
{
    int64_t rc = acquire_lock(argument, -1);
    return (void *)(intptr_t)rc;
}

static void is_closed_under_who_waits(void)
{
    for (int i = 0; i < 20; i++) {
        say_about("a lock that is closed while a thread waits for it, %d", i);
        pthread_t thread;
        void *said;
        handle one = make(CL_SEGMENT_MUTEX, 1, 3), two = attach_to(&one);
        CHECK_IS(cl_lock_try(one.sync, 0), 0);
        cl_sync_set_spin(two.sync, 0);
        CHECK_IS(pthread_create(&thread, NULL, waits_in_vain, two.sync), 0);
        while (!(one.sync->shared->wake & CL__SLEEP))
            sched_yield();
        usleep((useconds_t)(i * 200)); /* it asks whether the holder lives, from time to time */
        cl_sync_leave(two.sync);
        cl_segment_let_go(two.segment);
        CHECK_IS(pthread_join(thread, &said), 0);
        CHECK((intptr_t)said == -ENOTCONN || (intptr_t)said == -EBADF || (intptr_t)said == -ENOTSUP);
        CHECK_IS(cl_lock_is_held(one.sync), 1);
        drop(&two), drop(&one);
    }
}

static void comes_soon_after_a_death(void)
{
    say_about("a waiter gets a lock soon after its holder's death");
    handle one = make(CL_SEGMENT_MUTEX, 1, 3);
    int ends[2];
    char byte;
    make_pipe(ends);
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        CHECK(cl_sync_join(one.sync) > 0);
        CHECK_IS(acquire_lock(one.sync, soon()), 0);
        MUST(write(ends[1], "", 1));
        pause();
    }
    MUST(read(ends[0], &byte, 1));
    CHECK_IS(acquire_lock(one.sync, now_ns() + 5 * MS), -ETIMEDOUT);
    CHECK_IS(cl_lock_holder(one.sync), pid);
    MUST(kill(pid, SIGSTOP));
    CHECK_IS(acquire_lock(one.sync, now_ns() + 20 * MS), -ETIMEDOUT); /* stopped is not dead */
    CHECK_IS(cl_sync_recover(one.sync), 0);
    MUST(kill(pid, SIGKILL));
    CHECK_IS(exits(pid), SIGKILL);
    CHECK_IS(acquire_lock(one.sync, soon()), pid);
    close(ends[0]);
    close(ends[1]);
    drop(&one);
}

/* ---- threads ------------------------------------------------------------------------------------------------------------ */

static struct {
    handle handles[THREADS];
    int64_t counter; /* not atomic: what is tested protects it */
    _Atomic int64_t inside, most;
    int64_t passed[THREADS];
} shared;

static void *counts(void *argument)
{
    handle *mine = argument;
    for (int i = 0; i < ROUNDS; i++) {
        CHECK_IS(acquire_lock(mine->sync, soon()), 0);
        shared.counter++;
        CHECK_IS(cl_lock_release(mine->sync, 0), 0);
    }
    return NULL;
}

static void *takes_permits(void *argument)
{
    handle *mine = argument;
    for (int i = 0; i < ROUNDS; i++) {
        CHECK_IS(acquire_permit(mine->sync, soon()), 0);
        int64_t inside = atomic_fetch_add(&shared.inside, 1) + 1;
        CHECK(inside <= 2);
        if (inside > shared.most)
            shared.most = inside;
        atomic_fetch_sub(&shared.inside, 1);
        CHECK_IS(cl_semaphore_release(mine->sync), 0);
    }
    return NULL;
}

/* In each generation all have written before anybody reads. */
static void *passes(void *argument)
{
    handle *mine = argument;
    int me = -1;
    for (int i = 0; i < ROUNDS / 10; i++) {
        int64_t index = pass_barrier(mine->sync, soon());
        CHECK(index >= 0 && index < THREADS);
        me = (int)index;
        shared.passed[me] = i;
        CHECK(pass_barrier(mine->sync, soon()) >= 0);
        for (int j = 0; j < THREADS; j++)
            CHECK_IS(shared.passed[j], i);
    }
    return NULL;
}

static void with_threads(int kind, int64_t count, void *(*work)(void *), int of_one_object)
{
    pthread_t threads[THREADS];
    say_about("threads of %s, kind %d", of_one_object ? "one object" : "several objects", kind);
    memset(&shared, 0, sizeof shared);
    shared.handles[0] = make(kind, count, THREADS);
    for (int i = 1; i < THREADS && !of_one_object; i++)
        shared.handles[i] = attach_to(&shared.handles[0]);
    for (int i = 0; i < THREADS; i++)
        CHECK_IS(pthread_create(&threads[i], NULL, work, &shared.handles[of_one_object ? 0 : i]), 0);
    for (int i = 0; i < THREADS; i++)
        CHECK_IS(pthread_join(threads[i], NULL), 0);
    if (work == counts)
        CHECK_IS(shared.counter, THREADS * ROUNDS);
    CHECK_IS(look(&shared.handles[0]).recoveries, 0);
    for (int i = of_one_object ? 0 : THREADS - 1; i >= 0; i--)
        drop(&shared.handles[i]);
}

static void *releases(void *argument)
{
    CHECK_IS(cl_lock_release(((handle *)argument)->sync, 0), -EPERM);
    CHECK_IS(cl_lock_is_held(((handle *)argument)->sync), 0);
    CHECK_IS(cl_lock_try(((handle *)argument)->sync, 1), -EAGAIN); /* it would wait, and not for itself */
    return NULL;
}

static void another_thread_may_not_release(void)
{
    pthread_t thread;
    say_about("another thread of the holder's");
    handle one = make(CL_SEGMENT_MUTEX, 1, 1);
    CHECK_IS(cl_lock_try(one.sync, 1), 0);
    CHECK_IS(pthread_create(&thread, NULL, releases, &one), 0);
    CHECK_IS(pthread_join(thread, NULL), 0);
    CHECK_IS(cl_lock_release(one.sync, 0), 0);
    drop(&one);
}

/* Who gives back what somebody sleeps for does not take it again at once, if it would wait: the other one is not awake yet. */
static void lets_others_have_a_turn(void)
{
    say_about("giving way");
    for (int kind = CL_SEGMENT_MUTEX; kind <= CL_SEGMENT_SEMAPHORE; kind++) {
        handle one = make(kind, 1, 2);
        int64_t (*attempt)(cl_sync *, int32_t) = kind == CL_SEGMENT_MUTEX ? cl_lock_try : cl_semaphore_try;
        for (int slept_for = 0; slept_for < 2; slept_for++) {
            one.sync->gave_way_at = 0;
            CHECK_IS(attempt(one.sync, 1), 0);
            if (slept_for)
                cl__or(&one.sync->shared->wake, CL__SLEEP);
            CHECK_IS(kind == CL_SEGMENT_MUTEX ? cl_lock_release(one.sync, 0) : cl_semaphore_release(one.sync), 0);
            CHECK_IS(attempt(one.sync, 1), slept_for ? -EAGAIN : 0);
            if (slept_for) {
                CHECK_IS(attempt(one.sync, 0), 0); /* who would not wait is not asked to */
                CHECK_IS(kind == CL_SEGMENT_MUTEX ? cl_lock_release(one.sync, 0) : cl_semaphore_release(one.sync), 0);
                CHECK_IS(kind == CL_SEGMENT_MUTEX ? acquire_lock(one.sync, -1) : acquire_permit(one.sync, -1), 0); /* nobody came */
                CHECK_IS(one.sync->gives_way, 0);
            }
            CHECK_IS(kind == CL_SEGMENT_MUTEX ? cl_lock_release(one.sync, 0) : cl_semaphore_release(one.sync), 0);
        }
        drop(&one);
    }
}

/* ---- semaphores --------------------------------------------------------------------------------------------------------- */

static void is_a_semaphore(void)
{
    say_about("a semaphore");
    handle one = make(CL_SEGMENT_SEMAPHORE, 3, 4), two = attach_to(&one);
    CHECK_IS(cl_semaphore_release(one.sync), -EPERM);
    CHECK_IS(cl_semaphore_try(one.sync, 1), 0);
    CHECK_IS(cl_semaphore_try(one.sync, 1), 0);
    CHECK_IS(cl_semaphore_try(two.sync, 1), 0);
    CHECK_IS(cl_semaphore_try(two.sync, 0), -EAGAIN);
    CHECK_IS(acquire_permit(two.sync, now_ns() + 3 * MS), -ETIMEDOUT);
    CHECK_IS(look(&one).free, 0);
    CHECK_IS(look(&one).mine, 2);
    CHECK_IS(look(&two).mine, 1);
    CHECK_IS(cl_semaphore_holder(one.sync, 0), getpid());
    CHECK_IS(cl_semaphore_holder(one.sync, 3), -EINVAL);
    CHECK_IS(cl_semaphore_release(two.sync), 0);
    CHECK_IS(cl_semaphore_release(two.sync), -EPERM); /* those of others are not ours to give */
    CHECK_IS(look(&one).free, 1);
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        CHECK_IS(cl_semaphore_try(one.sync, 0), -ESTALE);
        CHECK(cl_sync_join(one.sync) > 0);
        CHECK_IS(cl_semaphore_try(one.sync, 0), 0);
        _exit(0);
    }
    CHECK_IS(exits(pid), 0);
    CHECK_IS(acquire_permit(two.sync, soon()), 0); /* the dead one's */
    drop(&two);
    CHECK_IS(look(&one).free, 1);
    drop(&one);
}

/* ---- events ------------------------------------------------------------------------------------------------------------- */

static void *awaits(void *argument)
{
    CHECK(await_event(((handle *)argument)->sync, soon()) >= 0);
    return NULL;
}

static void is_an_event(void)
{
    pthread_t threads[THREADS];
    say_about("an event");
    handle one = make(CL_SEGMENT_EVENT, 1, THREADS + 1), others[THREADS];
    CHECK_IS(cl_event_now(one.sync), 0);
    CHECK_IS(await_event(one.sync, now_ns() + 3 * MS), -ETIMEDOUT);
    CHECK_IS(cl_event_clear(one.sync), 0);
    CHECK_IS(cl_event_now(one.sync), 0);
    CHECK_IS(cl_event_set(one.sync), 0);
    CHECK_IS(cl_event_set(one.sync), 0);
    CHECK_IS(cl_event_now(one.sync), 1);
    CHECK_IS(await_event(one.sync, 0), 0);
    CHECK_IS(cl_event_clear(one.sync), 0);
    for (int i = 0; i < THREADS; i++) {
        others[i] = attach_to(&one);
        CHECK_IS(pthread_create(&threads[i], NULL, awaits, &others[i]), 0);
    }
    while (!(cl__load(&one.sync->shared->wake) & CL__SLEEP))
        nap();
    CHECK_IS(cl_event_set(one.sync), 0);
    for (int i = 0; i < THREADS; i++)
        CHECK_IS(pthread_join(threads[i], NULL), 0);
    for (int i = 0; i < THREADS; i++)
        drop(&others[i]);
    drop(&one);
}

static void a_pulse_is_seen(void)
{
    say_about("set and cleared before the look");
    handle one = make(CL_SEGMENT_EVENT, 1, 1);
    uint64_t ticket = (uint64_t)cl_event_now(one.sync);
    CHECK_IS(cl_event_set(one.sync), 0);
    CHECK_IS(cl_event_clear(one.sync), 0);
    CHECK_IS(wait_for(one.sync, ticket, soon()), 1);
    drop(&one);
}

/* ---- barriers ----------------------------------------------------------------------------------------------------------- */

static void *passes_once(void *argument)
{
    return (void *)(intptr_t)pass_barrier(((handle *)argument)->sync, soon());
}

static int64_t joined(pthread_t thread)
{
    void *result;
    CHECK_IS(pthread_join(thread, &result), 0);
    return (int64_t)(intptr_t)result;
}

static void is_a_barrier(void)
{
    pthread_t thread;
    say_about("a barrier");
    handle one = make(CL_SEGMENT_BARRIER, 2, 3), two = attach_to(&one);
    for (int i = 0; i < 3; i++) {
        CHECK_IS(pthread_create(&thread, NULL, passes_once, &two), 0);
        int64_t mine = pass_barrier(one.sync, soon());
        CHECK_IS(mine + joined(thread), 1); /* 0 and 1, or 1 and 0 */
        CHECK_IS(look(&one).waiting, 0);
    }
    say_about("who waits no longer breaks it");
    CHECK_IS(pthread_create(&thread, NULL, passes_once, &two), 0);
    EVENTUALLY(look(&one).waiting == 1);
    cl_barrier_ticket ticket = {0};
    CHECK_IS(cl_barrier_give_up(one.sync, &ticket), 1); /* it had not come */
    CHECK_IS(cl_barrier_why(one.sync), CL_BARRIER_WHOLE);
    CHECK_IS(cl_barrier_reset(one.sync), 0);
    CHECK_IS(joined(thread), -EPIPE);
    CHECK_IS(cl_barrier_why(one.sync), CL_BARRIER_WHOLE);
    CHECK_IS(pass_barrier(one.sync, now_ns() + 3 * MS), -ETIMEDOUT);
    CHECK_IS(cl_barrier_why(one.sync), CL_BARRIER_GAVE_UP);
    CHECK_IS(cl_barrier_breaker(one.sync), getpid());
    CHECK_IS(pass_barrier(two.sync, soon()), -EPIPE);
    CHECK_IS(cl_barrier_reset(one.sync), 0);
    CHECK_IS(cl_barrier_reset(one.sync), 0);
    say_about("aborted");
    CHECK_IS(pthread_create(&thread, NULL, passes_once, &two), 0);
    EVENTUALLY(look(&one).waiting == 1);
    CHECK_IS(cl_barrier_abort(one.sync), 0);
    CHECK_IS(joined(thread), -EPIPE);
    CHECK_IS(cl_barrier_why(one.sync), CL_BARRIER_ABORTED);
    CHECK_IS(cl_barrier_reset(one.sync), 0);
    say_about("all have come before one gives up");
    cl_barrier_ticket first = {0}, second = {0};
    CHECK_IS(cl_barrier_arrive(one.sync, &first), 0);
    CHECK_IS(cl_barrier_arrive(two.sync, &second), 0);
    CHECK_IS(cl_barrier_give_up(one.sync, &first), 1);
    CHECK_IS(cl_barrier_give_up(one.sync, &first), 1);
    CHECK_IS(first.index + second.index, 1);
    say_about("one who dies waiting");
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        CHECK(cl_sync_join(one.sync) > 0);
        CHECK_IS(cl_barrier_arrive(one.sync, &first), 0);
        _exit(0);
    }
    CHECK_IS(exits(pid), 0);
    CHECK_IS(cl_sync_recover(one.sync), 1);
    CHECK_IS(cl_barrier_why(one.sync), CL_BARRIER_DIED);
    CHECK_IS(cl_barrier_breaker(one.sync), pid);
    CHECK_IS(pass_barrier(two.sync, soon()), -EPIPE);
    CHECK_IS(cl_barrier_reset(two.sync), 0);
    say_about("one who leaves waiting");
    CHECK_IS(cl_barrier_arrive(two.sync, &second), 0);
    cl_sync_leave(two.sync);
    CHECK_IS(cl_barrier_why(one.sync), CL_BARRIER_DIED);
    CHECK_IS(cl_barrier_give_up(two.sync, &second), 0);
    drop(&two);
    drop(&one);
}

/* What a slow one is told of its generation, whatever came after it. */
static void is_told_of_its_generation(void)
{
    say_about("a slow one");
    handle one = make(CL_SEGMENT_BARRIER, 1, 1);
    cl_barrier_ticket slow = {0}, other = {0};
    CHECK_IS(cl_barrier_arrive(one.sync, &slow), 0);
    for (int i = 0; i < 1000; i++)
        CHECK_IS(cl_barrier_arrive(one.sync, &other), 0);
    CHECK_IS(cl_barrier_look(one.sync, slow.generation), 1);
    CHECK_IS(cl_barrier_abort(one.sync), 0);
    CHECK_IS(cl_barrier_look(one.sync, slow.generation), 1);
    CHECK_IS(cl_barrier_reset(one.sync), 0);
    CHECK_IS(cl_barrier_look(one.sync, other.generation), -EPIPE); /* told of the one that was broken after its own */
    CHECK_IS(cl_barrier_arrive(one.sync, &slow), 0);
    CHECK_IS(cl_barrier_look(one.sync, slow.generation), 1);
    drop(&one);
}

/* More come than a generation has places: whoever is late is one of the next, and of each that was whole there were so many. */
static _Atomic int64_t passed;

static void *comes_until_it_is_broken(void *argument)
{
    int64_t rc;
    while ((rc = pass_barrier(argument, soon())) >= 0)
        passed++;
    CHECK_IS(rc, -EPIPE);
    return NULL;
}

static void counts_who_comes(int of_one_object)
{
    enum { PARTIES = 2 };
    say_about("a barrier with more who come than parties, %d", of_one_object);
    pthread_t threads[THREADS];
    handle one = make(CL_SEGMENT_BARRIER, PARTIES, THREADS), others[THREADS];
    passed = 0;
    for (int i = 0; i < THREADS; i++) {
        others[i] = of_one_object || i == 0 ? one : attach_to(&one);
        cl_sync_set_spin(others[i].sync, i % 2 ? 0 : 20000);
        CHECK_IS(pthread_create(&threads[i], NULL, comes_until_it_is_broken, others[i].sync), 0);
    }
    for (int64_t until = now_ns() + 200 * MS; now_ns() < until;)
        usleep(1000);
    CHECK_IS(cl_barrier_abort(one.sync), 0);
    for (int i = 0; i < THREADS; i++)
        CHECK_IS(pthread_join(threads[i], NULL), 0);
    CHECK_IS(passed, PARTIES * (int64_t)(one.sync->shared->state >> CL__GENERATION_BITS & ((1 << CL__GENERATION_BITS) - 1)));
    CHECK(passed > 0);
    for (int i = 1; i < THREADS && !of_one_object; i++)
        drop(&others[i]);
    drop(&one);
}

/* ---- memory that cannot be ---------------------------------------------------------------------------------------------- */

static void stays_in_its_memory(void)
{
    static const int kinds[] = {CL_SEGMENT_MUTEX, CL_SEGMENT_SEMAPHORE, CL_SEGMENT_EVENT, CL_SEGMENT_BARRIER};
    uint64_t seed = 7;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        int counts = kinds[k] == CL_SEGMENT_SEMAPHORE || kinds[k] == CL_SEGMENT_BARRIER;
        handle one = make(kinds[k], counts ? 3 : 1, 2);
        for (int i = 0; i < 2000; i++) {
            say_about("kind %d, scribbled over %d times", kinds[k], i);
            uint64_t *words = (uint64_t *)(void *)one.sync->shared;
            size_t size = (size_t)look(&one).count * 8 + (size_t)((uint8_t *)one.sync->slots - (uint8_t *)words);
            for (int j = 0; j < 4; j++) {
                seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
                words[(seed >> 33) % (size / 8)] = seed >> (i % 4 * 16);
            }
            one.sync->members.owner_asked_at = one.sync->members.all_asked_at = 0;
            cl_barrier_ticket ticket = {.generation = seed, .is_open = 1};
            int64_t late = now_ns() + 20000;
            switch (kinds[k]) {
            case CL_SEGMENT_MUTEX:
                cl_lock_acquire(one.sync, late);
                cl_lock_release(one.sync, 0);
                cl_lock_holder(one.sync);
                break;
            case CL_SEGMENT_SEMAPHORE:
                cl_semaphore_acquire(one.sync, late);
                cl_semaphore_release(one.sync);
                cl_semaphore_holder(one.sync, 1);
                break;
            case CL_SEGMENT_EVENT:
                cl_event_set(one.sync);
                cl_sync_wait(one.sync, seed, late, late);
                cl_event_clear(one.sync);
                break;
            default:
                if (i % 8 == 0) /* else it is broken nearly always */
                    cl_barrier_reset(one.sync);
                cl_barrier_give_up(one.sync, &ticket);
                cl_barrier_arrive(one.sync, &ticket);
                cl_sync_wait(one.sync, ticket.generation, late, late);
                cl_barrier_give_up(one.sync, &ticket);
                cl_barrier_breaker(one.sync);
            }
            cl_sync_recover(one.sync);
            look(&one);
        }
        drop(&one);
    }
}

static void refuses(void)
{
    static const cl_sync_plan bad[] = {
        {1, 1, CL_SEGMENT_QUEUE}, {2, 1, CL_SEGMENT_MUTEX}, {2, 1, CL_SEGMENT_EVENT},     {0, 1, CL_SEGMENT_BARRIER},
        {1, 0, CL_SEGMENT_MUTEX}, {1, 4096, CL_SEGMENT_MUTEX}, {CL_SYNC_COUNT + 1, 1, CL_SEGMENT_SEMAPHORE},
    };
    cl_segment_plan whole = {.mode = 0600, .owner = -1, .group = -1};
    say_about("plans that are refused");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_IS(cl_sync_describe(&bad[i], &whole), -EINVAL);
    say_about("another kind");
    handle one = make(CL_SEGMENT_MUTEX, 1, 1);
    cl_sync *other;
    cl_segment_report report;
    CHECK_IS(cl_semaphore_open(&other, one.segment), -EBADMSG);
    say_about("a plan that was written over");
    CHECK_IS(cl_segment_report_of(one.segment, &report), 0);
    ((cl_sync_plan *)(void *)(report.data - report.data_offset + CL_SEGMENT_ABOUT))->members = 4000;
    CHECK_IS(cl_lock_open(&other, one.segment), -EBADMSG);
    drop(&one);
}

int main(void)
{
    is_a_lock();
    tells_of_deaths();
    is_nobody_without_its_segment();
    is_closed_under_who_waits();
    comes_soon_after_a_death();
    another_thread_may_not_release();
    lets_others_have_a_turn();
    is_a_semaphore();
    is_an_event();
    a_pulse_is_seen();
    is_a_barrier();
    is_told_of_its_generation();
    for (int of_one_object = 0; of_one_object < 2; of_one_object++) {
        if (UNDER_TSAN && !of_one_object)
            continue; /* each has a mapping of its own, and it does not know that they are the same memory */
        with_threads(CL_SEGMENT_MUTEX, 1, counts, of_one_object);
        with_threads(CL_SEGMENT_SEMAPHORE, 2, takes_permits, of_one_object);
        with_threads(CL_SEGMENT_BARRIER, THREADS, passes, of_one_object);
        counts_who_comes(of_one_object);
    }
    refuses();
    stays_in_its_memory();
    CHECK(has_no_children());
    puts("ok");
    return 0;
}
