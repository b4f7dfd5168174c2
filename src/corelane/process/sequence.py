"""Sequences: `a.then(b)`, one after the other, as long as each succeeds. A Sequence is a value and owns nothing."""

from __future__ import annotations

from corelane.process.command import Command, Runnable
from corelane.process.parts import PartsResult, of_part
from corelane.process.work import Driver, Work, work_of

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any, NoReturn, Unpack

    from corelane.process.typed import Options

__all__ = ["Sequence", "SequenceResult"]


class Sequence(Runnable):
    """Commands and Pipelines of which each starts when the one before it has succeeded: `a.then(b)`, as a shell's `&&`.
    Immutable, hashable and picklable.

    One with check=False succeeds however it ends.

    Args:
        *steps: Commands, lists of arguments, Pipelines and Sequences.
        **options: for each of them.

    Attributes:
        steps: the Commands and Pipelines.
    """

    __slots__ = ("steps",)

    steps: tuple[Any, ...]

    def __init__(self, *steps: Any, **options: Unpack[Options]) -> None:
        flat: list[Any] = []
        for step in steps:
            if isinstance(step, Sequence):
                flat += step.steps
            elif isinstance(step, Runnable):
                flat.append(step)
            elif isinstance(step, (list, tuple)):
                flat.append(Command(*step))
            else:
                raise TypeError(f"a step is a Command, a list of arguments or a Pipeline, not {step!r}")
        if not flat:
            raise ValueError("a sequence needs at least one command")
        if options:
            flat = [step.with_options(**options) for step in flat]
        object.__setattr__(self, "steps", tuple(flat))

    def with_options(self, **options: Unpack[Options]) -> Sequence:
        """This sequence with some options changed, of each of its commands: `timeout` and `retry`, too."""
        return Sequence(*self.steps, **options)

    def option(self, name: str, default: Any = None) -> Any:
        """As of a Command: a Sequence has no options of its own, so one that all of its commands share."""
        values = {step.option(name, default) for step in self.steps} if name in ("encoding", "errors") else set()
        return values.pop() if len(values) == 1 else default

    def without_objects(self) -> Sequence:
        """This sequence without the options that hold open files and the like: what can be pickled."""
        return Sequence(*(step.without_objects() for step in self.steps))

    def spawn(self, **options: Unpack[Options]) -> NoReturn:
        """No: nobody would start the next one while the caller is busy.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"{self}: a sequence is run, with run, read or run_many; spawn and stream its commands one by one"
        )

    def _process(self, for_run: bool) -> NoReturn:
        self.spawn()

    if TYPE_CHECKING:

        def run(self) -> SequenceResult: ...

        async def run_async(self) -> SequenceResult: ...

    def _work(self, index: int | None, use: str, parent: Work | None) -> Work:
        return Steps(self, index, use, parent)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("a Sequence is immutable: use with_options or then")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a Sequence is immutable")

    def __copy__(self) -> Sequence:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Sequence:
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self.steps == other.steps

    def __hash__(self) -> int:
        return hash(self.steps)

    def __reduce__(self) -> tuple[Any, ...]:
        return Sequence, self.steps

    def __str__(self) -> str:
        whole = " && ".join(map(str, self.steps))
        return whole if len(whole) <= 200 else whole[:197] + "..."

    def __repr__(self) -> str:
        return f"Sequence({', '.join(map(repr, self.steps))})"


class SequenceResult(PartsResult):
    """What a run of a Sequence left behind.

    Attributes:
        steps: a Result for each of its commands that was run.
        error: of the one that failed.
    """

    __slots__ = ()

    @property
    def steps(self) -> tuple[Any, ...]:
        return self._parts

    @property
    def returncode(self) -> int | None:
        """The return code of the last command that was run."""
        code: int | None = self._parts[-1].returncode
        return code

    @property
    def stdout(self) -> bytes | None:
        """What was captured of all of them, one after the other; None if nothing was."""
        return self._joined("stdout")


class Steps(Work):
    """A sequence that runs."""

    __slots__ = ("_done", "_running", "_use")

    def __init__(self, sequence: Sequence, index: int | None, use: str, parent: Work | None) -> None:
        super().__init__(sequence, index, parent)
        self._use = use
        self._running: Work | None = None
        self._done: list[Any] = []

    def start(self, driver: Driver) -> None:
        self.tries += 1
        self._done = []
        self._next(driver)

    def _next(self, driver: Driver) -> None:
        self._running = work_of(self.command.steps[len(self._done)], None, self._use, self)
        self._running.start(driver)

    def part_ended(self, driver: Driver, part: Work, result: Any) -> None:
        self._done.append(result)
        if result.error is None and len(self._done) < len(self.command.steps) and not self.killed:
            self._next(driver)
            return
        whole = SequenceResult(self.command, tuple(self._done))
        whole.error = of_part(result.error, self.command, whole, f"step {len(self._done)}")
        self.ended(driver, whole)

    def kill(self, driver: Driver) -> bool:
        self.killed = True
        return self._running is not None and self._running.kill(driver)
