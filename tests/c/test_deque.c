/* Deques: newest first for the owner, oldest first for thieves, each record once; the owner's place, claims, what a death
 * leaves; memory that cannot be. */
#include "deque_handles.h"

#include <pthread.h>
#include <sys/mman.h>

enum { SLOTS = 8 };

/* Until it is time to ask for leases again. */
static int64_t in_time(int64_t (*attempt)(cl_deque *), cl_deque *deque)
{
    int64_t rc, until = now_ns() + PATIENCE;
    while ((rc = attempt(deque)) == -EAGAIN && now_ns() < until)
        usleep(200);
    return rc;
}

/* ---- one participant -------------------------------------------------------------------------------------------------- */

static void is_a_deque(void)
{
    say_about("one participant");
    int fds = count_fds();
    handle one = make(5, 3, 0);
    CHECK_IS(look(&one).slots, 8); /* rounded up */
    CHECK_IS(push(one.deque, 1), -EPERM);
    CHECK_IS(pop(one.deque), -EPERM);
    CHECK_IS(cl_deque_disown(one.deque), -EPERM);
    CHECK_IS(cl_deque_own(one.deque), 1);
    CHECK_IS(cl_deque_own(one.deque), 0);
    CHECK_IS(look(&one).owner, getpid());
    for (uint32_t lap = 0; lap < 50; lap++) {
        for (uint32_t i = 0; i < SLOTS; i++)
            CHECK_IS(push(one.deque, i), 0);
        CHECK_IS(push(one.deque, 9), -EAGAIN);
        for (uint32_t i = 0; i < lap % SLOTS; i++)
            CHECK_IS(steal(one.deque), i);
        for (uint32_t i = SLOTS; i > lap % SLOTS; i--)
            CHECK_IS(pop(one.deque), i - 1);
        CHECK_IS(pop(one.deque), -EAGAIN);
        CHECK_IS(steal(one.deque), -EAGAIN);
    }
    cl_deque_report report = look(&one);
    CHECK_IS(report.pushed, 50 * SLOTS);
    CHECK_IS(report.popped + report.stolen, 50 * SLOTS);
    CHECK_IS(report.most, SLOTS);
    CHECK_IS(report.joined, 1);
    CHECK_IS(report.is_owner, 1);
    has_all_slots(&one);
    for (uint32_t i = 0; i < 3; i++)
        CHECK_IS(push(one.deque, i), 0);
    for (uint32_t i = 0; i < 3; i++)
        CHECK_IS(steal(one.deque), i);
    CHECK_IS(one.deque->shared->top, one.deque->bottom); /* thieves begin where there is something */
    drop(&one);
    CHECK_IS(count_fds(), fds);
}

/* An old one stays, and what is above it comes and goes: no position is used up by that. */
static void reuses_what_is_popped(void)
{
    say_about("an old one stays");
    handle one = make(4, 1, 0);
    CHECK_IS(cl_deque_own(one.deque), 1);
    CHECK_IS(push(one.deque, 1), 0);
    for (uint32_t i = 0; i < 100; i++) {
        for (uint32_t j = 0; j < 3; j++)
            CHECK_IS(push(one.deque, j), 0);
        for (uint32_t j = 3; j > 0; j--)
            CHECK_IS(pop(one.deque), j - 1);
    }
    CHECK_IS(steal(one.deque), 1);
    has_all_slots(&one);
    drop(&one);
}

static void takes_records_of_any_size(void)
{
    say_about("sizes");
    handle one = make(4, 1, 0);
    uint8_t data[SIZE], room[SIZE];
    CHECK_IS(cl_deque_own(one.deque), 1);
    for (int i = 0; i < SIZE; i++)
        data[i] = (uint8_t)i;
    for (int size = 0; size <= SIZE; size++) {
        CHECK_IS(cl_deque_push(one.deque, data, size), 0);
        CHECK_IS(size % 2 ? cl_deque_pop(one.deque, room, SIZE) : cl_deque_steal(one.deque, room, SIZE), size);
        CHECK(memcmp(data, room, (size_t)size) == 0);
    }
    CHECK_IS(cl_deque_push(one.deque, data, SIZE + 1), -EMSGSIZE);
    CHECK_IS(cl_deque_push(one.deque, data, -1), -EMSGSIZE);
    CHECK_IS(cl_deque_pop(one.deque, room, SIZE - 1), -EMSGSIZE);
    CHECK_IS(cl_deque_steal(one.deque, room, SIZE - 1), -EMSGSIZE);
    drop(&one);
    one = make(1, 1, 0); /* one slot is enough */
    CHECK_IS(cl_deque_own(one.deque), 1);
    for (uint32_t i = 0; i < 100; i++) {
        CHECK_IS(push(one.deque, i), 0);
        CHECK_IS(push(one.deque, i), -EAGAIN);
        CHECK_IS(i % 3 ? pop(one.deque) : steal(one.deque), i);
        CHECK_IS(i % 2 ? pop(one.deque) : steal(one.deque), -EAGAIN);
    }
    drop(&one);
}

static void is_filled_in_place(void)
{
    say_about("reserve, commit, cancel");
    handle one = make(2, 2, 0);
    cl_deque_claim claim, other, copy;
    CHECK_IS(cl_deque_reserve(one.deque, &claim), -EPERM);
    CHECK_IS(cl_deque_own(one.deque), 1);
    CHECK_IS(cl_deque_reserve(one.deque, &claim), 0);
    CHECK_IS(claim.size, SIZE);
    CHECK_IS(steal(one.deque), -EAGAIN); /* not yet */
    CHECK_IS(cl_deque_blocked_by(one.deque), 0);
    CHECK_IS(push(one.deque, 1), -EBUSY);
    CHECK_IS(pop(one.deque), -EBUSY);
    CHECK_IS(cl_deque_reserve(one.deque, &other), -EBUSY);
    memset(claim.data, 7, 4);
    CHECK_IS(cl_deque_commit(one.deque, &claim, SIZE + 1), -EMSGSIZE);
    copy = claim;
    CHECK_IS(cl_deque_commit(one.deque, &claim, 4), 0);
    CHECK_IS(cl_deque_commit(one.deque, &claim, 4), -EINVAL);
    CHECK_IS(cl_deque_commit(one.deque, &copy, 4), -EINVAL);
    CHECK_IS(cl_deque_reserve(one.deque, &other), 0);
    CHECK_IS(cl_deque_commit(one.deque, &copy, 4), -EINVAL); /* of the one before */
    CHECK_IS(cl_deque_cancel(one.deque, &other), 0);
    CHECK_IS(cl_deque_cancel(one.deque, &other), -EINVAL);
    CHECK_IS(cl_deque_claim_oldest(one.deque, &claim), 0);
    CHECK_IS(claim.size, 4);
    CHECK_IS(claim.data[3], 7);
    CHECK_IS(cl_deque_release(one.deque, &claim), 0);
    say_about("reserved by an owner that goes");
    CHECK_IS(cl_deque_reserve(one.deque, &claim), 0);
    CHECK_IS(cl_deque_disown(one.deque), 0);
    CHECK_IS(cl_deque_commit(one.deque, &claim, 4), -EPERM);
    CHECK_IS(cl_deque_own(one.deque), 1);
    CHECK_IS(cl_deque_commit(one.deque, &claim, 4), -EINVAL);
    CHECK_IS(pop(one.deque), -EAGAIN);
    has_all_slots(&one);
    drop(&one);
}

/* ---- claims ----------------------------------------------------------------------------------------------------------- */

static cl_deque_claim claim_newest(handle *one, uint32_t value)
{
    cl_deque_claim claim;
    CHECK_IS(cl_deque_claim_newest(one->deque, &claim), 0);
    CHECK_IS(*(uint32_t *)(void *)claim.data, value);
    return claim;
}

static cl_deque_claim claim_oldest(handle *one, uint32_t value)
{
    cl_deque_claim claim;
    CHECK_IS(cl_deque_claim_oldest(one->deque, &claim), 0);
    CHECK_IS(*(uint32_t *)(void *)claim.data, value);
    return claim;
}

static void works_on_what_it_has(void)
{
    say_about("claims at the owner's end");
    handle one = make(8, 2, 0), two = join(fd_of(&one));
    CHECK_IS(cl_deque_own(one.deque), 1);
    for (uint32_t i = 0; i < 3; i++)
        CHECK_IS(push(one.deque, i), 0);
    cl_deque_claim task = claim_newest(&one, 2), copy = task;
    CHECK_IS(push(one.deque, 20), 0); /* its parts */
    CHECK_IS(push(one.deque, 21), 0);
    CHECK_IS(pop(one.deque), 21);
    CHECK_IS(steal(two.deque), 0);
    CHECK_IS(steal(two.deque), 1);
    CHECK_IS(steal(two.deque), 20); /* past what is worked on */
    CHECK_IS(steal(two.deque), -EAGAIN);
    CHECK_IS(pop(one.deque), -EAGAIN);
    CHECK_IS(cl_deque_release(one.deque, &task), 0);
    CHECK_IS(cl_deque_release(one.deque, &task), -EINVAL);
    CHECK_IS(cl_deque_release(one.deque, &copy), -EINVAL);
    CHECK_IS(look(&one).size, 0);
    has_all_slots(&one);

    say_about("what lies below is found");
    for (uint32_t i = 0; i < 2; i++)
        CHECK_IS(push(one.deque, i), 0);
    task = claim_newest(&one, 1);
    CHECK_IS(push(one.deque, 10), 0);
    CHECK_IS(pop(one.deque), 10);
    CHECK_IS(cl_deque_release(one.deque, &task), 0); /* its position is over */
    CHECK_IS(pop(one.deque), 0);
    CHECK_IS(pop(one.deque), -EAGAIN);
    for (uint32_t i = 0; i < 6; i++)
        CHECK_IS(push(one.deque, i), 0);
    for (uint32_t i = 0; i < 6; i++)
        CHECK_IS(steal(two.deque), i);
    has_all_slots(&one);

    say_about("one in another, done in any order");
    for (int order = 0; order < 6; order++) {
        for (uint32_t i = 0; i < 3; i++)
            CHECK_IS(push(one.deque, i), 0);
        cl_deque_claim claims[3];
        for (uint32_t i = 3; i > 0; i--)
            claims[i - 1] = claim_newest(&one, i - 1);
        CHECK_IS(steal(two.deque), -EAGAIN);
        CHECK_IS(cl_deque_blocked_by(two.deque), getpid());
        int first = order % 3, second = (first + 1 + order / 3) % 3;
        CHECK_IS(cl_deque_release(one.deque, &claims[first]), 0);
        CHECK_IS(push(one.deque, 50), 0);
        CHECK_IS(cl_deque_release(one.deque, &claims[second]), 0);
        CHECK_IS(push(one.deque, 51), 0);
        CHECK_IS(steal(two.deque), 50);
        CHECK_IS(cl_deque_release(one.deque, &claims[3 - first - second]), 0);
        CHECK_IS(order % 2 ? pop(one.deque) : steal(two.deque), 51);
        CHECK_IS(steal(two.deque), -EAGAIN);
        has_all_slots(&one);
    }
    drop(&two);
    drop(&one);
}

/* Parents that push: their positions are over one by one, with nobody who steals. */
static void goes_round_without_thieves(void)
{
    say_about("without thieves");
    handle one = make(4, 2, 0), two = join(fd_of(&one));
    CHECK_IS(cl_deque_own(one.deque), 1);
    CHECK_IS(push(one.deque, 0), 0);
    for (uint32_t i = 0; i < 1000; i++) {
        cl_deque_claim task = claim_newest(&one, i);
        CHECK_IS(push(one.deque, i + 1), 0);
        CHECK_IS(cl_deque_release(one.deque, &task), 0);
    }
    CHECK_IS(steal(two.deque), 1000);
    CHECK_IS(look(&one).pushed, 1001);
    CHECK_IS(look(&one).popped, 1000);
    has_all_slots(&one);
    drop(&two);
    drop(&one);
}

static void gives_back(int32_t flags)
{
    say_about("giving back, flags %d", flags);
    int lost = flags & CL_DEQUE_AT_MOST_ONCE;
    handle one = make(32, 2, flags), two = join(fd_of(&one));
    CHECK_IS(cl_deque_own(one.deque), 1);
    for (int newest = 0; newest < 2; newest++) {
        for (uint32_t i = 0; i < 3; i++)
            CHECK_IS(push(one.deque, i), 0);
        cl_deque_claim claim = newest ? claim_newest(&one, 2) : claim_oldest(&two, 0);
        cl_deque *with = newest ? one.deque : two.deque;
        CHECK_IS(cl_deque_give_back(with, &claim), 0);
        CHECK_IS(cl_deque_give_back(with, &claim), -EINVAL);
        CHECK_IS(pop(one.deque), newest ? 1 : 2);
        CHECK_IS(pop(one.deque), newest ? 0 : 1);
        if (!lost)
            CHECK_IS(newest ? steal(two.deque) : pop(one.deque), newest ? 2 : 0); /* what came back is looked for last */
        CHECK_IS(pop(one.deque), -EAGAIN);
    }
    CHECK_IS(look(&one).lost, lost ? 2 : 0);
    CHECK_IS(look(&one).redelivered, lost ? 0 : 2);
    if (!lost) {
        say_about("but not for ever");
        int found = 0;
        for (uint32_t i = 0; i < 4; i++)
            CHECK_IS(push(one.deque, i), 0);
        cl_deque_claim again = claim_oldest(&two, 0);
        CHECK_IS(cl_deque_give_back(two.deque, &again), 0);
        for (uint32_t i = 4; i < 12; i++) {
            found += steal(two.deque) == 0;
            CHECK_IS(push(one.deque, i), 0);
        }
        CHECK_IS(found, 1);
        for (int i = 0; i < 4; i++)
            CHECK(pop(one.deque) > 0);
        say_about("the owner finds it, too");
        CHECK_IS(push(one.deque, 5), 0);
        cl_deque_claim claim = claim_newest(&one, 5);
        CHECK_IS(push(one.deque, 6), 0);
        CHECK_IS(cl_deque_give_back(one.deque, &claim), 0);
        CHECK_IS(pop(one.deque), 6);
        CHECK_IS(pop(one.deque), 5);
        CHECK_IS(pop(one.deque), -EAGAIN);
    }
    has_all_slots(&one);
    drop(&two);
    drop(&one);
}

static void is_full_behind_a_claim(void)
{
    say_about("a claim that a push comes round to");
    handle one = make(2, 2, 0), two = join(fd_of(&one));
    CHECK_IS(cl_deque_own(one.deque), 1);
    CHECK_IS(push(one.deque, 1), 0);
    cl_deque_claim claim = claim_oldest(&two, 1);
    CHECK_IS(push(one.deque, 2), 0);
    CHECK_IS(pop(one.deque), 2);
    CHECK_IS(push(one.deque, 3), 0);
    CHECK_IS(steal(two.deque), 3);
    CHECK_IS(push(one.deque, 4), -EAGAIN);
    CHECK_IS(cl_deque_blocked_by(one.deque), getpid());
    CHECK_IS(cl_deque_release(two.deque, &claim), 0);
    CHECK_IS(push(one.deque, 4), 0);
    CHECK_IS(pop(one.deque), 4);
    has_all_slots(&one);
    drop(&two);
    drop(&one);
}

static void is_shut(void)
{
    say_about("shut");
    handle one = make(4, 2, 0), two = join(fd_of(&one));
    cl_deque_claim claim;
    CHECK_IS(cl_deque_own(one.deque), 1);
    CHECK_IS(push(one.deque, 1), 0);
    CHECK_IS(push(one.deque, 2), 0);
    CHECK_IS(cl_deque_reserve(one.deque, &claim), 0);
    CHECK_IS(cl_deque_shut(two.deque), 0);
    CHECK_IS(cl_deque_commit(one.deque, &claim, 4), -EPIPE);
    CHECK_IS(push(one.deque, 3), -EPIPE);
    CHECK_IS(cl_deque_reserve(one.deque, &claim), -EPIPE);
    CHECK_IS(steal(two.deque), 1);
    claim = claim_oldest(&two, 2);
    CHECK_IS(pop(one.deque), -EAGAIN); /* two may die over it yet */
    CHECK_IS(cl_deque_blocked_by(one.deque), getpid());
    CHECK_IS(cl_deque_wait(one.deque, now_ns() + 5 * MS), -ETIMEDOUT);
    CHECK_IS(steal(two.deque), -EPIPE);
    CHECK_IS(cl_deque_wait(two.deque, -1), 1);
    CHECK_IS(cl_deque_give_back(two.deque, &claim), 0);
    CHECK_IS(cl_deque_wait(one.deque, -1), 1);
    CHECK_IS(pop(one.deque), 2);
    CHECK_IS(pop(one.deque), -EPIPE);
    CHECK_IS(steal(two.deque), -EPIPE);
    drop(&one);
    drop(&two);
}

/* ---- participants ------------------------------------------------------------------------------------------------------ */

static void has_so_many_participants(void)
{
    say_about("participants");
    handle one = make(2, 2, 0), two = join(fd_of(&one)), three = attach(fd_of(&one), 0);
    CHECK_IS(cl_deque_own(one.deque), 1);
    CHECK_IS(cl_deque_own(two.deque), -EBUSY);
    CHECK_IS(cl_deque_blocked_by(two.deque), getpid());
    CHECK_IS(push(two.deque, 1), -EPERM);
    CHECK_IS(cl_deque_join(two.deque), 2);
    CHECK_IS(cl_deque_join(three.deque), -EUSERS);
    CHECK_IS(steal(three.deque), -ENOTCONN);
    CHECK_IS(cl_deque_own(three.deque), -ENOTCONN);
    CHECK_IS(push(one.deque, 1), 0);
    cl_deque_leave(one.deque);
    CHECK_IS(push(one.deque, 1), -ENOTCONN);
    CHECK_IS(look(&two).owner, 0);
    CHECK_IS(cl_deque_join(three.deque), 1); /* the same place: but it is not the owner */
    CHECK_IS(push(three.deque, 1), -EPERM);
    CHECK_IS(cl_deque_own(two.deque), 1);
    CHECK_IS(pop(two.deque), 1);
    CHECK_IS(look(&three).joined, 2);
    handle reader = attach(fd_of(&one), CL_SEGMENT_READ_ONLY);
    CHECK_IS(cl_deque_join(reader.deque), -EACCES);
    CHECK_IS(cl_deque_shut(reader.deque), -EACCES);
    CHECK_IS(cl_deque_wait(reader.deque, -1), -ENOTCONN);
    CHECK_IS(look(&reader).joined, 2);
    drop(&reader);
    drop(&one);
    drop(&two);
    drop(&three);
}

/* Records, positions that are over, claims that stay with the one before: a successor goes on at the right place. */
static void goes_on_after_another_owner(void)
{
    uint32_t seed = 1;
    for (int round = 0; round < 3000; round++) {
        say_about("successors, round %d", round);
        handle all[2];
        cl_deque_claim claims[4];
        int claimed_by[4], count = 0, size = 0;
        all[0] = make(1LL << round % 4, 2, 0);
        all[1] = join(fd_of(&all[0]));
        for (int i = 0; i < 30; i++) {
            seed = seed * 1103515245 + 12345;
            int which = seed >> 30 & 1, what = (int)(seed >> 16 & 7);
            handle *one = &all[which];
            if (what == 0 && cl_deque_own(one->deque) == -EBUSY) {
                CHECK_IS(cl_deque_disown(all[!which].deque), 0);
                CHECK_IS(cl_deque_own(one->deque), 1);
            } else if (what <= 3 && look(one).is_owner) {
                size += push(one->deque, (uint32_t)i) == 0;
            } else if (what == 4 && count < 4) {
                int64_t rc = cl_deque_claim_newest(one->deque, &claims[count]);
                claimed_by[count] = which;
                count += rc == 0;
            } else if (what == 5) {
                size -= pop(one->deque) >= 0;
            } else if (what == 6) {
                size -= steal(one->deque) >= 0;
            } else if (count) {
                count--;
                int back = seed >> 20 & 1;
                cl_deque *with = all[claimed_by[count]].deque;
                CHECK_IS(back ? cl_deque_give_back(with, &claims[count]) : cl_deque_release(with, &claims[count]), 0);
                size -= !back;
            }
            CHECK_IS(look(one).size, size);
        }
        while (count--)
            CHECK_IS(cl_deque_release(all[claimed_by[count]].deque, &claims[count]), 0);
        if (look(&all[0]).is_owner)
            CHECK_IS(cl_deque_disown(all[0].deque), 0);
        has_all_slots(&all[1]);
        drop(&all[0]);
        drop(&all[1]);
    }
}

static void refuses_the_child_of_a_fork(void)
{
    say_about("a forked child");
    handle one = make(4, 4, 0);
    int status;
    CHECK_IS(cl_deque_own(one.deque), 1);
    CHECK_IS(push(one.deque, 5), 0);
    CHECK_IS(push(one.deque, 6), 0);
    cl_deque_claim claim = claim_newest(&one, 6);
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        CHECK_IS(push(one.deque, 1), -ESTALE);
        CHECK_IS(steal(one.deque), -ESTALE);
        CHECK_IS(cl_deque_own(one.deque), -ESTALE);
        CHECK_IS(cl_deque_wait(one.deque, -1), -ESTALE);
        CHECK_IS(cl_deque_release(one.deque, &claim), -ESTALE);
        CHECK_IS(cl_deque_join(one.deque), 2);
        CHECK_IS(cl_deque_release(one.deque, &claim), -EINVAL); /* it is the parent's */
        CHECK_IS(push(one.deque, 1), -EPERM);
        CHECK_IS(cl_deque_own(one.deque), -EBUSY);
        CHECK_IS(cl_deque_blocked_by(one.deque), getppid());
        CHECK_IS(cl_deque_recover(one.deque), 0); /* which lives */
        CHECK_IS(steal(one.deque), 5);
        CHECK_IS(steal(one.deque), -EAGAIN);
        CHECK_IS(cl_deque_blocked_by(one.deque), getppid());
        _exit(0);
    }
    MUST(waitpid(pid, &status, 0));
    CHECK_IS(status, 0);
    CHECK_IS(cl_deque_release(one.deque, &claim), 0);
    CHECK_IS(cl_deque_recover(one.deque), 1); /* it did not leave */
    CHECK_IS(look(&one).last_dead, pid);
    has_all_slots(&one);
    drop(&one);
}

/* A child that does something to the deque, and stays. */
static pid_t in_another(int fd, void (*work)(handle *))
{
    int ends[2];
    char byte;
    make_pipe(ends);
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        handle mine = join(fd);
        work(&mine);
        CHECK_IS(write(ends[1], "x", 1), 1);
        for (;;)
            pause();
    }
    close(ends[1]);
    CHECK_IS(read(ends[0], &byte, 1), 1);
    close(ends[0]);
    return pid;
}

static void own_and_claim(handle *mine)
{
    CHECK_IS(cl_deque_own(mine->deque), 1);
    for (uint32_t i = 1; i <= 3; i++)
        CHECK_IS(push(mine->deque, i), 0);
    claim_newest(mine, 3);
}

static void claim_one(handle *mine)
{
    cl_deque_claim claim;
    CHECK_IS(cl_deque_claim_oldest(mine->deque, &claim), 0);
}

static void end(pid_t pid)
{
    siginfo_t info;
    MUST(kill(pid, SIGKILL));
    MUST(waitid(P_PID, (id_t)pid, &info, WEXITED)); /* the kernel is done with it */
}

static void goes_on_without_a_dead_owner(int32_t flags)
{
    say_about("an owner that is killed, flags %d", flags);
    int lost = flags & CL_DEQUE_AT_MOST_ONCE;
    handle one = make(4, 4, flags);
    pid_t pid = in_another(fd_of(&one), own_and_claim);
    CHECK_IS(cl_deque_own(one.deque), -EBUSY);
    CHECK_IS(cl_deque_blocked_by(one.deque), pid);
    MUST(kill(pid, SIGSTOP));
    CHECK_IS(cl_deque_recover(one.deque), 0); /* stopped is not dead */
    CHECK_IS(cl_deque_own(one.deque), -EBUSY);
    CHECK_IS(steal(one.deque), 1);
    CHECK_IS(steal(one.deque), 2);
    CHECK_IS(steal(one.deque), -EAGAIN);
    CHECK_IS(cl_deque_blocked_by(one.deque), pid);
    end(pid);
    if (lost)
        CHECK_IS(cl_deque_recover(one.deque), 1);
    else
        CHECK_IS(in_time(steal, one.deque), 3);
    CHECK_IS(look(&one).owner, 0);
    has_all_slots(&one);
    CHECK_IS(look(&one).recoveries, 1);
    CHECK_IS(look(&one).lost, lost);
    CHECK_IS(look(&one).owners, 2);
    drop(&one);
    say_about("and is found by who takes its place, flags %d", flags);
    one = make(4, 4, flags);
    end(in_another(fd_of(&one), own_and_claim));
    CHECK_IS(cl_deque_own(one.deque), 1);
    CHECK_IS(push(one.deque, 9), 0);
    CHECK_IS(pop(one.deque), 9);
    if (!lost)
        CHECK_IS(pop(one.deque), 3);
    CHECK_IS(pop(one.deque), 2);
    CHECK_IS(pop(one.deque), 1);
    has_all_slots(&one);
    drop(&one);
}

static void goes_on_without_a_dead_thief(int32_t flags)
{
    say_about("a thief that is killed, flags %d", flags);
    int lost = flags & CL_DEQUE_AT_MOST_ONCE;
    handle one = make(4, 4, flags);
    CHECK_IS(cl_deque_own(one.deque), 1);
    for (uint32_t i = 1; i <= 4; i++)
        CHECK_IS(push(one.deque, i), 0);
    pid_t pid = in_another(fd_of(&one), claim_one);
    CHECK_IS(steal(one.deque), 2); /* not in its way */
    CHECK_IS(push(one.deque, 5), -EAGAIN);
    CHECK_IS(cl_deque_blocked_by(one.deque), pid);
    CHECK_IS(pop(one.deque), 4);
    CHECK_IS(push(one.deque, 5), 0);
    CHECK_IS(pop(one.deque), 5);
    end(pid);
    CHECK_IS(pop(one.deque), 3);
    if (lost)
        CHECK_IS(cl_deque_recover(one.deque), 1);
    else
        CHECK_IS(in_time(pop, one.deque), 1);
    CHECK_IS(pop(one.deque), -EAGAIN);
    CHECK_IS(look(&one).lost, lost);
    CHECK_IS(look(&one).redelivered, !lost);
    has_all_slots(&one);
    say_about("and a push that comes round to its slot, flags %d", flags);
    for (uint32_t i = 1; i <= 4; i++)
        CHECK_IS(push(one.deque, i), 0);
    end(in_another(fd_of(&one), claim_one));
    CHECK_IS(steal(one.deque), 2);
    ask_now(one.deque);
    CHECK_IS(push(one.deque, 5), lost ? 0 : -EAGAIN); /* there are as many as there are slots, in this order */
    int64_t sum = 0;
    for (int i = 0; i < 3; i++)
        sum += steal(one.deque);
    CHECK_IS(sum, 3 + 4 + (lost ? 5 : 1));
    CHECK_IS(push(one.deque, 6), 0);
    has_all_slots(&one);
    drop(&one);
}

/* ---- waiting ------------------------------------------------------------------------------------------------------------ */

static handle waits_on;

static void *wait_and_steal(void *unused)
{
    (void)unused;
    int64_t rc;
    while ((rc = steal(waits_on.deque)) == -EAGAIN) {
        do
            rc = cl_deque_wait(waits_on.deque, now_ns() + PATIENCE);
        while (rc == -EINTR);
        CHECK_IS(rc, 1);
    }
    return (void *)(intptr_t)rc;
}

static void waits_for_work(int64_t spin)
{
    say_about("waiting, spin %d ns", (int)spin);
    handle one = make(4, 4, 0);
    waits_on = join(fd_of(&one));
    cl_deque_set_spin(waits_on.deque, spin);
    CHECK_IS(cl_deque_own(one.deque), 1);
    CHECK_IS(cl_deque_wait(waits_on.deque, now_ns() + 3 * MS), -ETIMEDOUT);
    CHECK_IS(push(one.deque, 1), 0);
    CHECK_IS(cl_deque_wait(waits_on.deque, -1), 1);
    CHECK_IS(pop(one.deque), 1);
    for (int i = 0; i < 20; i++) {
        pthread_t thread;
        void *got;
        CHECK_IS(pthread_create(&thread, NULL, wait_and_steal, NULL), 0);
        if (i % 2)
            usleep(500);
        if (i == 19) {
            CHECK_IS(cl_deque_shut(one.deque), 0);
        } else if (i % 4 == 1) { /* given back */
            CHECK_IS(push(one.deque, 7), 0);
        } else {
            CHECK_IS(push(one.deque, 7), 0);
            cl_deque_claim claim;
            if (cl_deque_claim_newest(one.deque, &claim) == 0)
                CHECK_IS(cl_deque_give_back(one.deque, &claim), 0);
        }
        CHECK_IS(pthread_join(thread, &got), 0);
        CHECK_IS((intptr_t)got, i == 19 ? -EPIPE : 7);
    }
    drop(&waits_on);
    drop(&one);
}

/* ---- threads ------------------------------------------------------------------------------------------------------------ */

enum { THIEVES = 3, RECORDS = 30000 };
static _Atomic int64_t taken_count;
static _Atomic uint8_t taken[RECORDS];
static _Atomic int owner_is_done;
static handle own[THIEVES + 1];

static void has_taken(int64_t value)
{
    CHECK(value >= 0 && value < RECORDS);
    CHECK_IS(atomic_fetch_add(&taken[value], 1), 0);
    taken_count++;
}

static void *thieve(void *which)
{
    handle *mine = &own[(intptr_t)which];
    int64_t last = -1;
    uint32_t seed = (uint32_t)(intptr_t)which;
    while (!owner_is_done || taken_count < RECORDS) {
        cl_deque_claim claim;
        int64_t rc = -EAGAIN;
        seed = seed * 1103515245 + 12345;
        if (seed >> 29) {
            rc = steal(mine->deque);
        } else if (cl_deque_claim_oldest(mine->deque, &claim) == 0) {
            rc = *(uint32_t *)(void *)claim.data;
            sched_yield();
            CHECK_IS(cl_deque_release(mine->deque, &claim), 0);
        }
        CHECK(rc >= 0 || rc == -EAGAIN);
        if (rc < 0) {
            sched_yield();
            continue;
        }
        CHECK(rc > last); /* what is stolen later was pushed later: whoever takes the oldest sees it grow */
        last = rc;
        has_taken(rc);
    }
    return NULL;
}

/* All over one mapping, as ThreadSanitizer knows no other: the participants' objects are of one memory, but each has a lease of
 * its own. Owner: bursts of pushes and pops, now and then a record on which it works while it pushes others. */
static void works_between_threads(int64_t slots)
{
    say_about("threads, %d slots", (int)slots);
    pthread_t threads[THIEVES];
    uint32_t next = 0, seed = 5;
    own[THIEVES] = make(slots, THIEVES + 1, 0);
    cl_deque *mine = own[THIEVES].deque;
    taken_count = owner_is_done = 0;
    memset((void *)taken, 0, sizeof taken);
    for (intptr_t i = 0; i < THIEVES; i++) {
        own[i] = join(fd_of(&own[THIEVES]));
        own[i].deque->shared = mine->shared; /* one mapping */
        own[i].deque->slots = mine->slots;
    }
    CHECK_IS(cl_deque_own(mine), 1);
    for (intptr_t i = 0; i < THIEVES; i++)
        CHECK_IS(pthread_create(&threads[i], NULL, thieve, (void *)i), 0);
    while (next < RECORDS) {
        seed = seed * 1103515245 + 12345;
        int burst = 1 + (int)(seed >> 28), pops = (int)(seed >> 24 & 15);
        for (int i = 0; i < burst && next < RECORDS; i++) {
            int64_t rc = push(mine, next);
            CHECK(rc == 0 || rc == -EAGAIN);
            next += rc == 0;
        }
        cl_deque_claim claim;
        int works = (seed >> 20 & 3) == 0 && cl_deque_claim_newest(mine, &claim) == 0;
        if (works && next < RECORDS)
            next += push(mine, next) == 0;
        for (int i = 0; i < pops; i++) {
            int64_t rc = pop(mine);
            CHECK(rc >= 0 || rc == -EAGAIN);
            if (rc >= 0)
                has_taken(rc);
        }
        if (works) {
            has_taken(*(uint32_t *)(void *)claim.data);
            CHECK_IS(cl_deque_release(mine, &claim), 0);
        }
        if ((seed >> 16 & 7) == 0)
            sched_yield();
    }
    owner_is_done = 1;
    for (int64_t rc; (rc = pop(mine)) >= 0;)
        has_taken(rc);
    for (int i = 0; i < THIEVES; i++)
        CHECK_IS(pthread_join(threads[i], NULL), 0);
    CHECK_IS(taken_count, RECORDS);
    cl_deque_report report = look(&own[THIEVES]);
    CHECK_IS(report.pushed, RECORDS);
    CHECK_IS(report.popped + report.stolen, RECORDS);
    CHECK_IS(report.recoveries, 0);
    if (getenv("CORELANE_TELL"))
        fprintf(stderr, "%d slots: %" PRId64 " popped, %" PRId64 " stolen\n", (int)slots, report.popped, report.stolen);
    for (int i = 0; i < THIEVES; i++)
        drop(&own[i]);
    has_all_slots(&own[THIEVES]);
    drop(&own[THIEVES]);
}

/* ---- memory that cannot be ----------------------------------------------------------------------------------------------- */

static uint64_t seed = 88172645463325252ULL;

static uint64_t next_random(void) /* xorshift64 */
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static int is_an_answer(int64_t rc)
{
    return rc == 0 || rc == -EAGAIN || rc == -EBADMSG || rc == -EPIPE || rc == -EPERM;
}

/* Any answer will do, but an end. What is claimed lies in the slots. */
static void use_it(handle *one)
{
    uint8_t room[SIZE];
    cl_deque_claim claim;
    int64_t rc = cl_deque_own(one->deque);
    CHECK(rc == 1 || rc == 0 || rc == -EBUSY || rc == -EBADMSG);
    for (int i = 0; i < 6; i++) {
        CHECK(is_an_answer(cl_deque_push(one->deque, room, (int64_t)(next_random() % SIZE))));
        rc = cl_deque_pop(one->deque, room, SIZE);
        CHECK((rc >= 0 && rc <= SIZE) || is_an_answer(rc));
        rc = cl_deque_steal(one->deque, room, SIZE);
        CHECK((rc >= 0 && rc <= SIZE) || is_an_answer(rc));
        rc = i % 2 ? cl_deque_claim_newest(one->deque, &claim) : cl_deque_claim_oldest(one->deque, &claim);
        CHECK(is_an_answer(rc));
        if (rc == 0) {
            CHECK(claim.size <= SIZE && claim.data >= one->deque->slots &&
                  claim.data < one->deque->slots + SLOTS * one->deque->stride);
            memcpy(room, claim.data, (size_t)claim.size);
            CHECK_IS(i % 3 ? cl_deque_release(one->deque, &claim) : cl_deque_give_back(one->deque, &claim), 0);
        }
        rc = cl_deque_wait(one->deque, 0);
        CHECK(rc == 1 || rc == -ETIMEDOUT || rc == -EBADMSG || rc == -EINTR);
    }
    look(one);
    cl_deque_blocked_by(one->deque);
    cl_deque_disown(one->deque);
}

static void set_words(handle *one, cl__word word, int which)
{
    for (int i = 0; i < SLOTS; i++) {
        if (which < 0 || which == i)
            cl__deque_slot(one->deque, (uint64_t)i)->word = word;
    }
}

static void survives_any_word(void)
{
    static const uint64_t laps[] = {0, 1, 2, 5, CL__LAP_MASK / 2, CL__LAP_MASK - 1, CL__LAP_MASK};
    static const uint32_t owners[] = {0, 1, 2, 3, 4, 5, 4095};
    for (size_t lap = 0; lap < sizeof laps / sizeof *laps; lap++) {
        for (unsigned state = 0; state < 16; state++) {
            handle one = make(SLOTS, 4, 0), two = join(fd_of(&one));
            cl_deque_set_spin(one.deque, 0);
            cl_deque_set_spin(two.deque, 0);
            for (size_t owner = 0; owner < sizeof owners / sizeof *owners; owner++) {
                say_about("words of lap %" PRIu64 ", state %u, owner %u", laps[lap], state, owners[owner]);
                cl__word word = cl__word_of(laps[lap], (enum cl__state)state, owners[owner]);
                set_words(&one, word, (int)(owner % SLOTS));
                use_it(&one);
                set_words(&one, word, -1);
                ask_now(one.deque);
                use_it(&one);
                use_it(&two);
            }
            drop(&two);
            drop(&one);
        }
    }
}

static void survives_any_image(void)
{
    handle one = make(SLOTS, 4, 0), two = join(fd_of(&one));
    cl_segment_report report;
    CHECK_IS(cl_segment_report_of(one.segment, &report), 0);
    for (int image = 0; image < 400; image++) {
        say_about("random image %d", image);
        uint64_t *words = (uint64_t *)report.data;
        for (int64_t i = 0; i < report.size / 8; i++)
            words[i] = image % 4 == 0 || next_random() % 8 == 0 ? next_random() >> next_random() % 64 : words[i];
        if (image % 3)
            one.deque->shared->shut = 0;
        if (image % 5)
            one.deque->shared->owner = 0;
        use_it(&one);
        use_it(&two);
    }
    drop(&two);
    drop(&one);
}

/* While somebody scribbles. */
static _Atomic int scribbling;

static void *scribble(void *data)
{
    _Atomic uint64_t *words = data;
    uint64_t state = 7;
    while (scribbling) {
        state = state * 6364136223846793005ULL + 1442695040888963407ULL;
        size_t at = (state >> 33) % ((sizeof(cl__deque_memory) + (size_t)cl__members_size(4) + SLOTS * 128) / 8);
        atomic_store_explicit(&words[at], (state >> 20) >> (state >> 58), memory_order_relaxed);
    }
    return NULL;
}

static void survives_a_scribbler(void)
{
    say_about("a scribbler");
    if (UNDER_TSAN)
        return; /* the payload's bytes are no atomics: what it would report is what is done here */
    pthread_t thread;
    handle one = make(SLOTS, 4, 0);
    scribbling = 1;
    CHECK_IS(pthread_create(&thread, NULL, scribble, one.deque->shared), 0);
    int64_t until = now_ns() + 300 * MS;
    while (now_ns() < until) {
        uint8_t room[SIZE];
        cl_deque_claim claim;
        one.deque->shared->owner = 0;
        cl_deque_own(one.deque);
        cl_deque_push(one.deque, room, SIZE);
        CHECK(cl_deque_pop(one.deque, room, SIZE) <= SIZE);
        CHECK(cl_deque_steal(one.deque, room, SIZE) <= SIZE);
        if (cl_deque_claim_oldest(one.deque, &claim) == 0) {
            CHECK(claim.size <= SIZE);
            cl_deque_release(one.deque, &claim);
        }
        cl_deque_recover(one.deque);
    }
    scribbling = 0;
    CHECK_IS(pthread_join(thread, NULL), 0);
    drop(&one);
}

static int64_t open_fails(cl_segment_plan *whole)
{
    cl_segment *segment;
    cl_deque *deque;
    CHECK_IS(cl_segment_new(&segment), 0);
    CHECK_IS(cl_segment_create(segment, NULL, whole), 0);
    int64_t rc = cl_deque_open(&deque, segment);
    if (rc == 0)
        cl_deque_free(deque);
    cl_segment_free(segment);
    return rc;
}

static void is_not_believed(void)
{
    static const cl_deque_plan bad[] = {
        {0, 1, 1, 0}, {CL_DEQUE_SLOTS + 1, 1, 1, 0}, {1, 0, 1, 0}, {1, (1 << 30) + 1LL, 1, 0}, {1, 1, 0, 0},
        {1, 1, 4096, 0}, {1, 1, 1, 2}, {-1, 1, 1, 0}, {1, -1, 1, 0}, {INT64_MAX, INT64_MAX, 1, 0},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        say_about("bad plan %zu", i);
        cl_segment_plan whole = {.mode = 0600, .owner = -1, .group = -1};
        cl_deque_plan copy = bad[i], good = {4, 8, 4, 0};
        CHECK_IS(cl_deque_describe(&copy, &whole), -EINVAL);
        CHECK_IS(cl_deque_describe(&good, &whole), 0);
        CHECK_IS(open_fails(&whole), 0);
        whole.about = (const char *)&bad[i];
        CHECK_IS(open_fails(&whole), -EBADMSG);
    }
    say_about("what is not so");
    cl_segment_plan whole = {.mode = 0600, .owner = -1, .group = -1};
    cl_deque_plan huge = {CL_DEQUE_SLOTS, 1 << 30, 1, 0}, good = {4, 8, 4, 0}, three = {3, 8, 4, 0}, eight = {8, 8, 4, 0};
    CHECK_IS(cl_deque_describe(&huge, &whole), -ENOMEM);
    CHECK_IS(cl_deque_describe(&good, &whole), 0);
    whole.about = (const char *)&three;
    CHECK_IS(open_fails(&whole), -EBADMSG);
    whole.about = (const char *)&eight; /* more than there is */
    CHECK_IS(open_fails(&whole), -EBADMSG);
    whole.about = (const char *)&good;
    whole.layout++;
    CHECK_IS(open_fails(&whole), -EBADMSG);
    whole.layout--;
    whole.kind = CL_SEGMENT_QUEUE;
    CHECK_IS(open_fails(&whole), -EBADMSG);
}

int main(void)
{
    is_a_deque();
    reuses_what_is_popped();
    takes_records_of_any_size();
    is_filled_in_place();
    works_on_what_it_has();
    goes_round_without_thieves();
    gives_back(0);
    gives_back(CL_DEQUE_AT_MOST_ONCE);
    is_full_behind_a_claim();
    is_shut();
    has_so_many_participants();
    goes_on_after_another_owner();
    refuses_the_child_of_a_fork();
    goes_on_without_a_dead_owner(0);
    goes_on_without_a_dead_owner(CL_DEQUE_AT_MOST_ONCE);
    goes_on_without_a_dead_thief(0);
    goes_on_without_a_dead_thief(CL_DEQUE_AT_MOST_ONCE);
    waits_for_work(0);
    waits_for_work(CL__SPIN_NS);
    works_between_threads(1);
    works_between_threads(2);
    works_between_threads(8);
    works_between_threads(64);
    survives_any_word();
    survives_any_image();
    survives_a_scribbler();
    is_not_believed();
    puts("ok");
    return 0;
}
