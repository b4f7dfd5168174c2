"""Locks, semaphores, buffer pools and lossless broadcasts under random signals, as soak.py does for queues.

    python tests/soak_held.py [--seconds 60] [--seed N] [lock] [semaphore] [pool] [broadcast]

Prints a line of JSON for each object; an AssertionError says which promise was broken, and the seed. What is promised:

    no hang       somebody goes on again and again, whoever is dead or stopped
    lock          one at a time; who finds the work half done was told of a death
    semaphore     never more hold a permit than there are; in the end all of them are free
    pool          nobody else writes to a block that is held, or on its way; in the end all are free
    broadcast     a reader sees each record that the writer it watches has put, once, in order, whole
"""

import mmap
import random
import time

from soak import NOT_NOW, Storm, from_command_line, is_whole, record_of

import corelane as cl

# In the notes: numbers of 8 bytes. From FLAGS and KILLING on, one for each place.
STOP, WRONG, FIRST, SECOND, INSIDE, TIMES, FLAGS, KILLING, END = 0, 1, 2, 3, 4, 5, 16, 32, 48
PLACES = 4


class Notes:
    """What all processes see, and their deaths leave as it is."""

    def __init__(self):
        self._map = mmap.mmap(-1, 8 * END)
        self.numbers = memoryview(self._map).cast("Q")

    def __getitem__(self, index):
        return self.numbers[index]

    def __setitem__(self, index, value):
        self.numbers[index] = value


class Held(Storm):
    """A process in each place attaches the object, and does `turn` until it is told to stop."""

    def __init__(self, seed):
        super().__init__(type(self).__name__.lower(), seed)
        self.object = self.create()
        self.notes = Notes()

    def choose_road(self):
        return self.pick.choice(("attach", "inherit"))

    def live(self, place, who, road):
        if road == "inherit":
            self.object.register()
            handle = self.object
        else:
            handle = type(self.object).attach(self.object.segment.fileno())
        pick = random.Random(who)
        while not self.notes[STOP]:
            self.turn(handle, place, who, pick)
        handle.close()

    def done(self):
        """How many turns; several processes may count at once, so that one of them is not counted."""
        return self.notes[TIMES]

    def kill(self, place):
        self.notes[KILLING + place] = 1
        super().kill(place)
        self.notes[FLAGS + place] = 0
        self.notes[KILLING + place] = 0

    def wrong(self, what):
        self.notes[WRONG] += 1
        raise AssertionError(what)  # in the child, whose end by itself is seen

    def check(self):
        assert self.notes[WRONG] == 0, f"{self.said()}: {self.notes[WRONG]} times, see above"
        self.check_whole()
        return {**self.figures(), "turns": self.notes[TIMES]}

    def soak(self, seconds):
        places = list(range(PLACES))
        state = self.run(seconds, places)
        self.notes[STOP] = 1
        self.join(places, state, goes_on=False)


class Lock(Held):
    def create(self):
        return cl.Lock.create(members=32)

    def turn(self, lock, place, who, pick):
        notes = self.notes
        with lock:
            if lock.recovered is None and (notes[FIRST] != notes[SECOND] or notes[INSIDE]):
                self.wrong(f"{who}: {notes[INSIDE]} left it half done, and nobody was told")
            notes[INSIDE] = who
            notes[FIRST] = notes[SECOND] + 1
            if pick.random() < 0.1:
                time.sleep(pick.random() * 0.002)
            if notes[INSIDE] != who:
                self.wrong(f"{who}: {notes[INSIDE]} was let in, too")
            notes[SECOND] = notes[FIRST]
            notes[TIMES] += 1
            notes[INSIDE] = 0

    def check_whole(self):
        self.object.recover()
        assert self.object.acquire(timeout=1)
        self.object.release()


class Semaphore(Held):
    permits, turns = 2, 0

    def create(self):
        return cl.Semaphore.create(self.permits, members=32)

    def turn(self, semaphore, place, who, pick):
        notes = self.notes
        with semaphore:
            self.turns += 1
            notes[FLAGS + place] = who << 32 | self.turns  # of this turn, so that it is known again
            if pick.random() < 0.1:
                time.sleep(pick.random() * 0.002)
            # Who is of the same turn at both looks, and not being killed in between, had a permit all the time; all of
            # these had one between the first look and the second.
            first, killing, second = (
                [notes[at + each] for each in range(PLACES)] for at in (FLAGS, KILLING, FLAGS)
            )  # fmt: skip
            inside = [i for i in range(PLACES) if first[i] and first[i] == second[i] and not killing[i]]
            if len(inside) > self.permits:
                self.wrong(f"{who}: {len(inside)} hold a permit, of {self.permits}")
            notes[TIMES] += 1
            notes[FLAGS + place] = 0

    def check_whole(self):
        self.object.recover()
        assert self.object.value == self.permits, f"{self.said()}: {self.object!r}"


class Pool(Held):
    blocks = 6

    def create(self):
        return cl.BufferPool.create(self.blocks, 256, members=32)

    def turn(self, pool, place, who, pick):
        try:
            block = pool.acquire(timeout=0.05)
        except cl.PoolExhausted:
            return
        mine = who.to_bytes(8, "little") * 32
        with block:
            block.view[:] = mine
            if pick.random() < 0.3:
                time.sleep(pick.random() * 0.002)
            if pick.random() < 0.3:
                with pool.open(block.send()) as same:
                    self.look(same.view, mine)
            else:
                self.look(block.view, mine)
        self.notes[TIMES] += 1

    def look(self, view, mine):
        if view != mine:
            self.wrong(f"somebody wrote {bytes(view[:8]).hex()} into a block of {mine[:8].hex()}")

    def check_whole(self):
        self.object.recover()
        assert self.object.stats().allocated == 0, f"{self.said()}: {self.object.stats()}"
        held = [self.object.acquire(timeout=0) for _ in range(self.blocks)]
        assert len(held) == self.blocks


class Broadcast(Held):
    """The first place writes, the others read."""

    def create(self):
        return cl.Broadcast.create(8, 232, lossless=True, members=32)

    def live(self, place, who, road):
        attach = cl.Broadcast.attach
        with attach(self.object.segment.fileno(), policy="block", subscribe=place > 0) as handle:
            (self.read if place else self.write)(handle, who, random.Random(who))

    def write(self, handle, who, pick):
        number = 0
        while not self.notes[STOP]:
            number += 1
            record = record_of(who, number, pick.randrange(200))
            while not self.notes[STOP]:
                try:
                    handle.put(record, 0.05)
                    break
                except (*NOT_NOW, cl.ReaderBlocks):  # a reader is stopped; the writer before us is not quite dead
                    continue

    def read(self, handle, who, pick):
        last = {}
        while not self.notes[STOP]:
            try:
                record = handle.get(0.05)
            except (cl.PeerDied, cl.Closed, cl.QueueEmpty):
                continue
            if not is_whole(record):
                self.wrong(f"{who}: a torn record")
            writer, number = (int.from_bytes(record[at : at + 4], "little") for at in (0, 4))
            if last.setdefault(writer, number - 1) != number - 1:
                self.wrong(f"{who}: {number} of {writer} came after {last[writer]}")
            last[writer] = number
            self.notes[TIMES] += 1

    def check_whole(self):
        self.object.take()  # the last writer's place is free
        stats = self.object.stats()
        assert (stats.skipped, stats.evictions) == (0, 0), f"{self.said()}: {stats}"


KINDS = {each.__name__.lower(): each for each in (Lock, Semaphore, Pool, Broadcast)}


def soak(name, seconds, seed):
    """What has happened in so many seconds; raises AssertionError."""
    one = KINDS[name](seed)
    try:
        one.soak(seconds)
        return one.check()
    finally:
        one.close()


if __name__ == "__main__":
    from_command_line(__doc__, KINDS, soak)
