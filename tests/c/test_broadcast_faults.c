/* A participant of a broadcast ends itself at each of the fault points (CL_FAULT), which stand before every atomic in shared
 * memory: no record is torn, no reader misses one that was put, no place is lost, everybody goes on. Its core is built with
 * faults.h. */
#include "broadcast_cases.h"

static int64_t left; /* points until the end; 0: not a victim */
static int meanwhile_at;
static void (*meanwhile)(void);

void cl_fault(int point);
void cl_fault(int point)
{
    if (meanwhile && point == meanwhile_at) {
        void (*does)(void) = meanwhile;
        meanwhile = NULL; /* once */
        does();
    }
    if (left > 0 && --left == 0)
        kill(getpid(), SIGKILL);
}

static int live_until(const killed_case *this, handle *one, handle *victim, int64_t k)
{
    int status;
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        begin_life(this, victim);
        left = k;
        this->work(victim);
        left = 0;
        _exit(0);
    }
    let_begin(this, one);
    MUST(waitpid(pid, &status, 0));
    if (WIFEXITED(status))
        CHECK_IS(WEXITSTATUS(status), 0);
    return !WIFEXITED(status);
}

/* ---- a writer that goes on while a reader subscribes ---------------------------------------------------------------------- */

enum { FIRST_POINT = 183, LAST_POINT = 185 }; /* of find_place */

static handle writer;
static uint32_t next_value;

/* More than a circle, so it has looked at the readers; and may go on for most of another one before it looks again. */
static void goes_round(void)
{
    must_put(&writer, next_value, next_value + SLOTS);
    next_value += SLOTS + 1;
}

static void is_not_overlooked(int point, int32_t policy)
{
    say_about("subscribing with policy %d, the writer goes on at point %d", policy, point);
    writer = make(SLOTS, 4, CL_BROADCAST_LOSSLESS);
    handle reader = again(&writer, 0);
    CHECK_IS(cl_broadcast_take(writer.cast), 0);
    next_value = 0;
    meanwhile_at = point;
    meanwhile = goes_round;
    if (policy == CL_BROADCAST_BLOCK && point > FIRST_POINT)
        meanwhile = NULL; /* it is seen from there on, and would be waited for */
    CHECK_IS(cl_broadcast_subscribe(reader.cast, policy, 0), 0);
    CHECK(!meanwhile);
    uint32_t first = next_value;
    while (next_value < first + SLOTS && put(&writer, next_value) == 0) /* what it puts without a look */
        next_value++;
    int64_t found = get(&reader);
    CHECK(found >= 0 && found <= first); /* whatever was put since it has subscribed; those that skip may get older ones */
    while ((uint32_t)++found < next_value)
        CHECK_IS(get(&reader), found);
    CHECK_IS(get(&reader), -EAGAIN);
    CHECK(policy == CL_BROADCAST_SKIP || look_at(&reader).lost == 0);
    drop(&reader), drop(&writer);
}

/* ---- a reader that goes on while it is moved ------------------------------------------------------------------------------- */

static handle slow;

static void gets_three(void)
{
    must_get(&slow, 0, 2);
}

static void is_not_set_back(int32_t policy)
{
    say_about("getting with policy %d while it is moved", policy);
    writer = make(SLOTS, 4, CL_BROADCAST_LOSSLESS);
    slow = reader_of(&writer, policy, 0);
    CHECK_IS(cl_broadcast_take(writer.cast), 0);
    must_put(&writer, 0, SLOTS - 1);
    meanwhile_at = 170;
    meanwhile = gets_three;
    must_put(&writer, SLOTS, SLOTS);
    CHECK(!meanwhile);
    must_get(&slow, 3, SLOTS);
    CHECK_IS(look_at(&slow).lost, 0);
    CHECK_IS(look_at(&slow).evictions + look_at(&slow).skipped, 0);
    drop(&slow), drop(&writer);
}

/* ---- two threads of the writer's: one waits for room while the other puts ------------------------------------------------- */

static handle late;

static void looks_and_is_read(void)
{
    CHECK_IS(cl_broadcast_look(writer.cast, CL_BROADCAST_FOR_ROOM), 1); /* as a wait does, in another thread */
    CHECK_IS(cl_broadcast_subscribe(late.cast, CL_BROADCAST_BLOCK, 0), 0);
}

static void is_waited_for_by_both(void)
{
    for (int point = 173; point <= 174; point++) {
        int64_t value = 2;
        say_about("subscribing when the writer has looked for room at point %d", point);
        writer = make(SLOTS, 4, CL_BROADCAST_LOSSLESS);
        late = again(&writer, 0);
        CHECK_IS(cl_broadcast_take(writer.cast), 0);
        CHECK_IS(put(&writer, 0), 0);
        meanwhile_at = point;
        meanwhile = looks_and_is_read;
        CHECK_IS(put(&writer, 1), 0);
        CHECK(!meanwhile);
        while (value < 4 * SLOTS && put(&writer, (uint32_t)value) == 0)
            value++;
        CHECK(value <= 1 + SLOTS); /* what the reader has not got is not overwritten */
        must_get(&late, 1, (uint32_t)value - 1);
        CHECK_IS(get(&late), -EAGAIN);
        drop(&late), drop(&writer);
    }
}

int main(void)
{
    int64_t kills = 0;
    is_waited_for_by_both();
    is_not_set_back(CL_BROADCAST_SKIP);
    is_not_set_back(CL_BROADCAST_EVICT);
    for (int point = FIRST_POINT; point <= LAST_POINT; point++)
        for (int32_t policy = CL_BROADCAST_BLOCK; policy <= CL_BROADCAST_EVICT; policy++)
            is_not_overlooked(point, policy);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t k = 1;
        for (;; k++) {
            say_about("%s, killed at fault point %" PRId64, cases[i].what, k);
            if (!run_case(&cases[i], k))
                break;
            kills++;
        }
        CHECK(k > 1);
    }
    printf("ok (%" PRId64 " kills)\n", kills);
    return 0;
}
