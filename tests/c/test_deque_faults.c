/* As test_deque_killed.c, but a victim ends itself, at each of the fault points (CL_FAULT), which stand before every atomic in
 * shared memory: so also without ptrace and under the sanitizers. Its core is built with faults.h.
 *
 * And with the same points: what one participant does is interrupted at each of them by all that another one does. So two who
 * want the same record meet at every step, and not only when the machine happens to let them. */
#include "deque_cases.h"

static int64_t left; /* points until the end; 0: not a victim */
static int64_t until_the_other; /* points until the other one's turn; 0: it does not come, or has */
static void (*the_other)(void);

void cl_fault(int point);
void cl_fault(int point)
{
    (void)point;
    if (left > 0 && --left == 0)
        kill(getpid(), SIGKILL);
    if (until_the_other > 0 && --until_the_other == 0)
        the_other();
}

static int live_until(const killed_case *this, handle *inherited, int64_t k)
{
    int status;
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        begin_life(inherited->deque, this->joins);
        left = k;
        this->work(inherited->deque);
        left = 0;
        _exit(0);
    }
    MUST(waitpid(pid, &status, 0));
    if (WIFEXITED(status))
        CHECK_IS(WEXITSTATUS(status), 0);
    return !WIFEXITED(status);
}

/* ---- two at once ----------------------------------------------------------------------------------------------------- */

static handle owner, thief;
static int got[128];
static uint32_t next_value;

/* What an owner pushed, and what anybody has taken. */
static void has_pushed(int64_t rc)
{
    CHECK(rc == 0 || rc == -EAGAIN);
    next_value += rc == 0;
}

static void has_got(int64_t rc)
{
    CHECK((rc >= 0 && rc < 128) || rc == -EAGAIN);
    if (rc >= 0)
        got[rc]++;
}

static void owner_pushes(void)
{
    has_pushed(push(owner.deque, next_value));
}

static void owner_pops(void)
{
    has_got(pop(owner.deque));
}

static void owner_pops_and_pushes(void)
{
    owner_pops();
    owner_pushes();
}

static void owner_works_in_place(void)
{
    cl_deque_claim claim;
    int works = cl_deque_claim_newest(owner.deque, &claim) == 0;
    if (works)
        has_got(*(uint32_t *)(void *)claim.data);
    owner_pushes();
    owner_pushes();
    owner_pops();
    if (works)
        CHECK_IS(cl_deque_release(owner.deque, &claim), 0);
    owner_pops();
    owner_pushes();
}

static void owner_gives_back(void)
{
    cl_deque_claim claim;
    if (cl_deque_claim_newest(owner.deque, &claim) == 0)
        CHECK_IS(cl_deque_give_back(owner.deque, &claim), 0);
    owner_pushes();
}

static void owner_hands_over(void)
{
    CHECK_IS(cl_deque_disown(owner.deque), 0);
    CHECK_IS(cl_deque_own(owner.deque), 1);
    owner_pushes();
}

static void thief_steals(void)
{
    has_got(steal(thief.deque));
}

static void thief_steals_two(void)
{
    thief_steals();
    thief_steals();
}

static void thief_gives_back(void)
{
    cl_deque_claim claim;
    if (cl_deque_claim_oldest(thief.deque, &claim) == 0)
        CHECK_IS(cl_deque_give_back(thief.deque, &claim), 0);
}

static void (*const owners[])(void) = {owner_pushes, owner_pops, owner_pops_and_pushes, owner_works_in_place, owner_gives_back,
                                       owner_hands_over};
static void (*const thieves[])(void) = {thief_steals, thief_steals_two, thief_gives_back};
enum { OWNERS = sizeof owners / sizeof *owners, THIEVES = sizeof thieves / sizeof *thieves };

/* `one` is interrupted at its k-th point. 0: it has not so many. */
static int meet(int64_t slots, int before, void (*one)(void), void (*other)(void), int64_t k)
{
    owner = make(slots, 2, 0);
    thief = join(fd_of(&owner));
    memset(got, 0, sizeof got);
    next_value = 0;
    CHECK_IS(cl_deque_own(owner.deque), 1);
    for (int i = 0; i < before; i++)
        owner_pushes();
    the_other = other;
    until_the_other = k;
    one();
    int met = until_the_other == 0;
    until_the_other = 0;
    for (int turn = 0; look(&owner).size; turn++)
        turn % 2 ? thief_steals() : owner_pops();
    for (uint32_t i = 0; i < 128; i++)
        CHECK_IS(got[i], i < next_value); /* each once */
    CHECK(look(&owner).most <= slots);
    drop(&thief);
    has_all_slots(&owner);
    drop(&owner);
    return met;
}

static int64_t meet_everywhere(void)
{
    int64_t meetings = 0;
    for (int pair = 0; pair < 2 * OWNERS * THIEVES; pair++) {
        void (*one)(void) = owners[pair / 2 % OWNERS], (*other)(void) = thieves[pair / 2 / OWNERS];
        for (int setting = 0; setting < 8; setting++) {
            int64_t slots = setting < 4 ? 2 : 4, before = setting % 4;
            for (int64_t k = 1;; k++) {
                say_about("pair %d, %d slots, %d records, point %d", pair, (int)slots, (int)before, (int)k);
                if (!meet(slots, (int)before, pair % 2 ? one : other, pair % 2 ? other : one, k))
                    break;
                meetings++;
            }
        }
    }
    return meetings;
}

int main(void)
{
    int64_t kills = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int64_t k = 1;; k++) {
            say_about("%s, killed at fault point %" PRId64, cases[i].what, k);
            if (!run_case(&cases[i], k))
                break;
            kills++;
        }
        CHECK(kills > 0);
    }
    printf("ok (%" PRId64 " kills, %" PRId64 " meetings)\n", kills, meet_everywhere());
    return 0;
}
