/* The long-lived spawner thread.
 *
 * PR_SET_PDEATHSIG follows the thread that cloned, not its process: a worker thread that spawns and ends would take
 * its children with it. So a child with a death signal is cloned by the main thread, or else by this thread, which
 * lives as long as the process. One request at a time; the asking thread waits.
 *
 * After a fork the child has the lock and the request but not the thread: it starts over. */
#include "internal.h"

typedef struct request {
    int64_t (*work)(void *);
    void *arg;
    int64_t result;
    int done;
} request;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static request *current; /* under lock: what the thread works on; NULL: it is free */
static int running;      /* under lock */
static _Thread_local int is_spawner;
static pthread_once_t hooks_once = PTHREAD_ONCE_INIT;
static int hooks_run; /* in a forked child: they are set */

static void *serve(void *unused)
{
    (void)unused;
    is_spawner = 1;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!current || current->done)
            pthread_cond_wait(&changed, &lock);
        request *mine = current;
        pthread_mutex_unlock(&lock);
        int64_t result = mine->work(mine->arg);
        pthread_mutex_lock(&lock);
        mine->result = result;
        mine->done = 1;
        pthread_cond_broadcast(&changed);
    }
    return NULL;
}

/* Without the first two, a fork between another thread's lock and unlock would leave the child a lock nobody holds. */
static void before_fork(void)
{
    pthread_mutex_lock(&lock);
}

static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&lock);
}

static void after_fork_in_child(void)
{
    pthread_mutex_t fresh_lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t fresh_changed = PTHREAD_COND_INITIALIZER;
    lock = fresh_lock;
    hooks_run = 1;
    changed = fresh_changed;
    current = NULL;
    running = 0;
}

/* A fork of another thread's in the midst of pthread_once, with the hooks set: in the child that runs once more. */
static void set_hooks(void)
{
    if (!hooks_run)
        pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

int64_t cl__start_thread(pthread_t *thread, void *(*work)(void *), void *arg)
{
    /* Inherited: the program's signals are for the program's threads. Not the raw call: libc's own two must get through,
     * or a setuid() of the program, which asks every thread, would wait for this one for ever. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(thread, NULL, work, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return -rc;
}

static int64_t ensure_running(void)
{
    pthread_t thread;
    if (running)
        return 0;
    int64_t rc = cl__start_thread(&thread, serve, NULL);
    if (rc < 0)
        return rc;
    pthread_detach(thread);
    running = 1;
    return 0;
}

int64_t cl__on_spawner(int64_t (*work)(void *), void *arg)
{
    if (is_spawner)
        return work(arg);
    request mine = {.work = work, .arg = arg};
    pthread_once(&hooks_once, set_hooks);
    pthread_mutex_lock(&lock);
    int64_t rc = ensure_running();
    if (rc == 0) {
        while (current)
            pthread_cond_wait(&changed, &lock);
        current = &mine;
        pthread_cond_broadcast(&changed);
        while (!mine.done)
            pthread_cond_wait(&changed, &lock);
        current = NULL;
        pthread_cond_broadcast(&changed);
        rc = mine.result;
    }
    pthread_mutex_unlock(&lock);
    return rc;
}
