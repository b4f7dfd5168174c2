"""run_many: many commands at once, through one C engine.

Owns the engine of one call, from its first item on: running out, an error and leaving the loop all kill and reap what
still runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from corelane.process import dropped
from corelane.process.batch import unstarted
from corelane.process.command import Command, Runnable, as_command
from corelane.process.pack import opens_something, packed_like
from corelane.process.work import WRONG, Driver, Job, work_of

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Unpack, overload

    from corelane.process.result import Result
    from corelane.process.typed import Options, Path
    from corelane.process.work import Work

__all__ = ["run_many"]


class Items:
    """The items of one call: each pulled when there is room for it, and its Result held back until it is its turn.

    Attributes:
        room: how many more may be pulled.
        ready: Results for the caller.
    """

    def __init__(self, concurrency: int | None, ordered: bool, options: dict[str, Any]) -> None:
        if concurrency is None:
            from corelane.cpu.counting import usable

            concurrency = usable()
        if isinstance(concurrency, bool) or not isinstance(concurrency, int):
            raise TypeError(f"concurrency must be a number of commands, not {concurrency!r}")
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}")
        self._template = Command("true", **options)  # what is wrong with the options is wrong for all of them
        refuse_tee(self._template)
        self._options = options
        self._ordered = bool(ordered)
        self._shared = None if opens_something(self._template) else self._template.packed("many")
        self._held: dict[int, Result] = {}  # by index: those that are not their turn yet
        self._pulled = self._turn = 0
        self.room = concurrency
        self.ready: deque[Result] = deque()

    def add(self, given: Any) -> Work | None:
        """One more was pulled: the work to be started for it, or None if it is refused, and that is its Result."""
        index = self._pulled
        self._pulled += 1
        self.room -= 1
        try:
            if type(given) in (list, tuple):  # what most are: they share all but their arguments
                command = self._template.like(given)
                if self._shared is not None:
                    command._packed["many"] = packed_like(self._shared, command)
                return Job(command, index)
            return work_of(self._with_options(given), index)
        except WRONG as error:  # of this item alone
            result = unstarted(given, error)
            result.index = index
            self.through(result)
            return None

    def _with_options(self, given: Any) -> Any:
        """A Command, Pipeline or Sequence with the options of the call; the same one may come many times."""
        if type(given) is not Command:
            return as_command(given, self._options)
        kept = given._derived.get("many")
        if kept is None or kept[0] is not self._options:
            command = as_command(given, self._options)
            refuse_tee(command)
            kept = given._derived["many"] = self._options, command
        return kept[1]

    def through(self, result: Result) -> None:
        """A Result has come. Its place is free when the caller takes it: unread ones are bounded, too."""
        if not self._ordered:
            self.ready.append(result)
            return
        assert result.index is not None
        self._held[result.index] = result
        while self._turn in self._held:
            self.ready.append(self._held.pop(self._turn))
            self._turn += 1

    def take(self) -> Result:
        """The next one that is ready."""
        self.room += 1
        return self.ready.popleft()


def refuse_tee(command: Runnable) -> None:
    for name in ("tee_stdout", "tee_stderr"):
        if command.option(name) is not None:
            raise ValueError(
                f"{name}= is for a single run: nobody would watch many tees; write Result.{name[4:]} to it"
            )


def refuse_single(commands: Any) -> None:
    if isinstance(commands, (str, bytes, Runnable)):
        raise TypeError(f"commands must be an iterable of commands, not the single {commands!r}")


if TYPE_CHECKING:

    @overload
    def run_many(
        commands: Iterable[Command | Sequence[Path]],
        *,
        concurrency: int | None = None,
        ordered: bool = False,
        **options: Unpack[Options],
    ) -> Iterator[Result]: ...
    @overload
    def run_many(
        commands: Iterable[Runnable | Sequence[Path]],
        *,
        concurrency: int | None = None,
        ordered: bool = False,
        **options: Unpack[Options],
    ) -> Iterator[Any]: ...


def run_many(
    commands: Iterable[Runnable | Sequence[Path]],
    *,
    concurrency: int | None = None,
    ordered: bool = False,
    **options: Unpack[Options],
) -> Iterator[Any]:
    """Run many commands, some at a time.

    Args:
        commands: lists of arguments, Commands, Pipelines or Sequences; pulled one by one, as there is room for them.
        concurrency: how many run at once (default: `cpu.count()`). At most so many results wait unread.
        ordered: yield in the order of `commands`, rather than as they end.
        **options: as for Command, for all of them; `timeout` and `retry` are of each (of each step, in a Sequence).
            Without `stdin` it is /dev/null.

    Yields:
        A Result for each command, with its `index` in `commands`, and `error`: what `run` would have raised. Nothing is
        raised for a child, or for a command that is none. The engine moves while the next result is waited for: what
        happens while the caller is busy elsewhere, a deadline too, is served at the next one.

    Leaving the loop kills what still runs; so does an exception of the iterable's, which goes on to the caller.

    Raises:
        TypeError, ValueError: an argument or option is wrong; nothing was started.
    """
    refuse_single(commands)
    return _run_many(iter(commands), Items(concurrency, ordered, dict(options)))


def _run_many(commands: Iterator[Any], items: Items) -> Iterator[Result]:
    if dropped.waiting:
        dropped.reap()
    driver = Driver()
    more = True
    try:
        while more or driver.busy:
            while more and items.room:
                try:
                    given = next(commands)
                except StopIteration:
                    more = False
                    break
                work = items.add(given)
                if work is not None:
                    work.start(driver)
            driver.turn()
            for _, result in driver.take():
                items.through(result)
            while items.ready:
                yield items.take()
    finally:
        driver.close()
