/* Interleavings of participants, each as it is told: at a fault point of one, others do something. Its core is built with
 * faults.h. */
#include "at_fault.h"
#include "sync.h"

enum { HANDLES = 3 };

static handle all[HANDLES];

static void begin(int kind, int64_t count, int point, void (*work)(void))
{
    all[0] = make(kind, count, HANDLES);
    for (int i = 1; i < HANDLES; i++)
        all[i] = attach_to(&all[0]);
    at(point, work);
}

static void finish(void)
{
    CHECK(!hook);
    for (int i = HANDLES - 1; i >= 0; i--)
        drop(&all[i]);
}

/* ---- barriers: one has read which generation it is, and goes on when that is over ---------------------------------------- */

static cl_barrier_ticket early; /* of whoever has come in the next generation meanwhile */

static cl_barrier_ticket arrive(int who)
{
    cl_barrier_ticket ticket = {0};
    CHECK_IS(cl_barrier_arrive(all[who].sync, &ticket), 0);
    return ticket;
}

static void others_pass(void)
{
    arrive(1);
    arrive(2);
    early = arrive(1);
}

static void others_reset(void)
{
    arrive(1);
    CHECK_IS(cl_barrier_reset(all[2].sync), 0);
    early = arrive(1);
}

static void nobodys_place_is_taken(int point, void (*work)(void))
{
    say_about("a barrier whose generation is over at point %d", point);
    begin(CL_SEGMENT_BARRIER, 2, point, work);
    cl_barrier_ticket late = arrive(0);
    CHECK_IS(late.generation, 1);
    CHECK_IS(early.generation, 1);
    CHECK_IS(early.index + late.index, 1);
    CHECK_IS(cl_barrier_look(all[0].sync, late.generation), 1);
    CHECK_IS(cl_barrier_look(all[1].sync, early.generation), 1);
    finish();
}

/* ---- semaphores: threads of one handle, each of which gives back what it has taken --------------------------------------- */

static void threads_take_and_give_back(void)
{
    CHECK_IS(cl_semaphore_try(all[0].sync, 0), 0); /* one of them: 2 */
    CHECK_IS(cl_semaphore_try(all[0].sync, 0), 0); /* another: 0 */
    CHECK_IS(cl_semaphore_release(all[0].sync), 0); /* that one: 0 */
    CHECK_IS(cl_semaphore_release(all[0].sync), 0); /* the first: 1, as good as 2, which is left for us */
    CHECK_IS(cl_semaphore_holder(all[0].sync, 2), getpid());
}

static void every_permit_is_found(void)
{
    say_about("a semaphore whose permits change hands while one is given back");
    begin(CL_SEGMENT_SEMAPHORE, 3, 213, NULL);
    CHECK_IS(cl_semaphore_try(all[1].sync, 0), 0);
    CHECK_IS(cl_semaphore_try(all[0].sync, 0), 0); /* permit 1, which is ours */
    CHECK_IS(cl_semaphore_try(all[0].sync, 0), 0);
    CHECK_IS(cl_semaphore_release(all[1].sync), 0);
    CHECK_IS(cl_semaphore_release(all[0].sync), 0); /* 2: there we begin to look */
    hook = threads_take_and_give_back;
    hook_passes = 2; /* we have seen 2 and 0, and are about to look at 1 */
    CHECK_IS(cl_semaphore_release(all[0].sync), 0);
    CHECK_IS(look(&all[0]).mine, 0);
    CHECK_IS(look(&all[0]).free, 3);
    CHECK_IS(cl_semaphore_release(all[0].sync), -EPERM);
    finish();
}

int main(void)
{
    every_permit_is_found();
    const int points[] = {234, 235, 240};
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        nobodys_place_is_taken(points[i], others_pass);
        nobodys_place_is_taken(points[i], others_reset);
    }
    puts("ok");
    return 0;
}
