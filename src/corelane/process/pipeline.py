"""Pipelines: commands, and functions between them, each reading what the one before it writes.

A Pipeline, and a Function in it, are values and own nothing. What runs is in `stages.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from corelane.process.command import Command, Runnable, refuse_engine_only
from corelane.process.options import normalise
from corelane.process.redirect import PIPE, is_plain

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any, Unpack

    from corelane.process.piped import PipelineProcess
    from corelane.process.stages import PipelineResult
    from corelane.process.typed import Options
    from corelane.process.work import Work

__all__ = ["Function", "Pipeline", "over_chunks", "over_lines"]

# What belongs to the pipeline, however many stages it has. Everything else is given to each command.
WHOLE = {
    "capture", "check", "contain", "cgroup", "die_with_parent", "drain", "encoding", "errors", "foreground", "grace",
    "max_output", "on_limit", "retry", "stderr", "stdin", "stdout", "strategy", "timeout", "max_line", "tee_stdout",
    "tee_stderr",
}  # fmt: skip
_OF_EACH = {"max_output", "on_limit", "drain", "encoding", "errors", "die_with_parent", "strategy", "timeout", "grace"}
_OF_A_STAGE = {"check", "stderr"}  # also
_NOWHERE = {
    "new_session": "all stages are one process group",
    "process_group": "all stages are one process group",
    "controlling_terminal": "all stages are one process group",
    "tee_stdout": "nobody would watch it; write what was captured to it",
    "tee_stderr": "nobody would watch it; write what was captured to it",
}


class Function:
    """A Python function as a stage; made by `over_lines` and `over_chunks`.

    Attributes:
        function: what was given.
        unit: "lines" or "chunks".
    """

    __slots__ = ("function", "unit")

    def __init__(self, function: Callable[[Iterator[Any]], Iterable[Any]], unit: str) -> None:
        if not callable(function):
            raise TypeError(f"over_{unit} takes a function, not {function!r}")
        self.function = function
        self.unit = unit

    def __or__(self, other: Any) -> Pipeline:
        return Pipeline(self, other)

    def __ror__(self, other: Any) -> Pipeline:
        return Pipeline(other, self)

    def option(self, name: str, default: Any = None) -> Any:
        """As of a Command; it has none."""
        return default

    def without_objects(self) -> Function:
        """This, or, where its function cannot be pickled (a lambda, a closure), one with only its name."""
        import pickle

        try:
            pickle.dumps(self.function)
        except Exception:  # whatever its own `__reduce__` raises
            return Function(_Name(_name_of(self.function)), self.unit)
        return self

    @property
    def args(self) -> tuple[str]:
        """What stands for it where a command's arguments would."""
        return (str(self),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Function) and (self.function, self.unit) == (other.function, other.unit)

    def __hash__(self) -> int:
        return hash((self.function, self.unit))

    def __str__(self) -> str:
        return f"over_{self.unit}({_name_of(self.function)})"

    __repr__ = __str__


class _Name:
    """What is left of a function that could not be pickled."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, pieces: Any) -> Any:
        raise TypeError(f"{self.__name__} could not be pickled: give a function that a module defines")


def _name_of(function: Any) -> str:
    return str(getattr(function, "__name__", function))


def over_lines(function: Callable[[Iterator[str]], Iterable[str]]) -> Function:
    """A stage of a pipeline that is a Python function over lines.

    Args:
        function: gets an iterator of the lines that the stage before writes, as text without their newlines, and
            returns or yields the lines that the next stage is to read, with or without. It is called in a thread of
            its own; one that ends early ends its input, and one that raises ends the pipeline with its exception.
    """
    return Function(function, "lines")


def over_chunks(function: Callable[[Iterator[bytes]], Iterable[bytes]]) -> Function:
    """A stage of a pipeline that is a Python function over pieces of bytes, of any size; see `over_lines`."""
    return Function(function, "chunks")


class Pipeline(Runnable):
    """Commands whose stdout is the next one's stdin: `a | b | c`. Immutable, hashable and picklable.

    Descriptors are connected directly: only what a Function reads or writes goes through Python. All stages are one
    process group and one scope, with one deadline; none is reaped, and no leftover killed, before all have ended.

    It fails like a shell's with pipefail: by its last stage that failed. A stage that is not the last and died of
    SIGPIPE has not failed, for a later one had seen enough (who sent it is not asked); nor has one with check=False.

    Args:
        *stages: Commands, lists of arguments, Functions and Pipelines. A Command may have check, stderr, the first one
            stdin, the last one stdout, and options that are not of runs (cwd, env, nice, ...); what is of the whole run
            (timeout, capture, ...) is given to the Pipeline: `(a | b).with_options(timeout=5)`.
        **options: see `with_options`.

    Attributes:
        stages: the Commands and Functions.
    """

    __slots__ = ("_built", "_options", "stages")

    stages: tuple[Command | Function, ...]
    _built: dict[int, Command | Function]
    _options: dict[str, Any]

    def __init__(self, *stages: Any, **options: Unpack[Options]) -> None:
        flat: list[Command | Function] = []
        given: dict[str, Any] = {}
        for n, stage in enumerate(stages):
            if isinstance(stage, Pipeline):
                _check_ends(stage, n == 0, n == len(stages) - 1)
                flat += stage.stages
                given.update(stage._options)
            elif isinstance(stage, (Command, Function)):
                flat.append(stage)
            elif isinstance(stage, (list, tuple)):
                flat.append(Command(*stage))
            else:
                raise TypeError(f"a stage is a Command, a list of arguments, or over_lines(function), not {stage!r}")
        if not any(isinstance(stage, Command) for stage in flat):
            raise ValueError("a pipeline needs at least one command")
        for n, stage in enumerate(flat):
            if isinstance(stage, Command):
                _check_stage(stage, n == 0, n == len(flat) - 1)
        self._set(tuple(flat), given)
        if options:
            changed = self.with_options(**options)
            self._set(changed.stages, changed._options)

    def _set(self, stages: tuple[Command | Function, ...], options: dict[str, Any]) -> None:
        put = object.__setattr__
        put(self, "stages", stages)
        put(self, "_options", options)
        put(self, "_built", {})

    def with_options(self, **options: Unpack[Options]) -> Pipeline:
        """This pipeline with some options changed.

        Args:
            **options: as for Command. `stdin` is the first stage's, `stdout` the last one's, `stderr` and `capture` of
                all: each Result of a stage has its own. `timeout`, `grace`, `retry`, `check`, `encoding`, `contain` and
                others of a run are of the whole; `max_output` is of each stream. All else (cwd, env, nice, ...) is
                given to each command.
        """
        given: dict[str, Any] = dict(options)
        for name in given.keys() & _NOWHERE.keys():
            if is_asked(given[name]):
                raise ValueError(f"{name}= is not for a pipeline: {_NOWHERE[name]}")
        whole = {name: value for name, value in given.items() if name in WHOLE}
        each: dict[str, Any] = {name: value for name, value in given.items() if name not in WHOLE}
        stages = self.stages
        if each:
            stages = tuple(s.with_options(**each) if isinstance(s, Command) else s for s in stages)
        new = Pipeline.__new__(Pipeline)
        new._set(stages, normalise(whole, self._options))
        return new

    def option(self, name: str, default: Any = None) -> Any:
        """One option's value, or `default` if it was not given."""
        return self._options.get(name, default)

    def stage(self, n: int) -> Command | Function:
        """Stage `n` as it is run: with its part of the pipeline's options."""
        if n not in self._built:
            stage = self.stages[n]
            self._built[n] = stage.with_options(**self._part_of(n)) if isinstance(stage, Command) else stage
        return self._built[n]

    def _part_of(self, n: int) -> dict[str, Any]:
        options = self._options
        part = {name: options[name] for name in options.keys() & _OF_EACH}
        if n == 0:
            part |= {name: options[name] for name in options.keys() & {"contain", "cgroup", "stdin", "foreground"}}
        elif options.get("contain") == "none" or ("cgroup" in options and options.get("contain") != "cgroup"):
            part |= {name: options[name] for name in options.keys() & {"contain", "cgroup"}}
        if "stderr" in options:
            part["stderr"] = options["stderr"]
        elif options.get("capture") and self.stages[n].option("stderr") is None:
            part["stderr"] = PIPE
        if n == len(self.stages) - 1 and (stdout := self.stdout) is not None:
            part["stdout"] = stdout
        return part

    @property
    def stdin(self) -> Any:
        """Where the first stage's input comes from, or None: ours."""
        return self._options.get("stdin", self.stages[0].option("stdin"))

    @property
    def stdout(self) -> Any:
        """Where the last stage's output goes, or None: ours."""
        given = self._options.get("stdout", self.stages[-1].option("stdout"))
        return PIPE if given is None and self._options.get("capture") else given

    def without_objects(self) -> Pipeline:
        """This pipeline without the options that hold open files and the like: what can be pickled."""
        held = [name for name, value in self._options.items() if not is_plain(value)]
        stages = tuple(stage.without_objects() for stage in self.stages)
        new = Pipeline.__new__(Pipeline)
        new._set(stages, {name: value for name, value in self._options.items() if name not in held})
        return new

    def spawn(self, **options: Unpack[Options]) -> PipelineProcess:
        """Start it and return a PipelineProcess, which is best used as a context manager.

        Args:
            **options: as for `with_options`; in force for this time only.

        Raises:
            SpawnFailed: a stage could not be started; those that were are killed.
            ValueError: an option of runs is set, here or in the pipeline: nothing would enforce it.
        """
        pipeline = self.with_options(**options) if options else self
        refuse_engine_only(pipeline, options)
        if isinstance(pipeline.stdin, (str, bytes, tuple)):
            raise ValueError(f"{pipeline}: a process is not fed; give stdin=PIPE and write to .stdin, or use run")
        process = pipeline._process(for_run=False)
        process._kill_dropped = False  # it is its caller's now; see Command.spawn
        return process

    def _process(self, for_run: bool) -> PipelineProcess:
        from corelane.process.piped import PipelineProcess

        return PipelineProcess(self, for_run=for_run)

    if TYPE_CHECKING:

        def run(self) -> PipelineResult: ...

        async def run_async(self) -> PipelineResult: ...

    def _work(self, index: int | None, use: str, parent: Work | None) -> Work:
        from corelane.process.stages import Stages

        return Stages(self, index, use, parent)

    # ---- being a value -----------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a Pipeline is immutable: use with_options({name}=...)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a Pipeline is immutable")

    def __copy__(self) -> Pipeline:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Pipeline:
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pipeline):
            return NotImplemented
        return self.stages == other.stages and self._options == other._options

    def __hash__(self) -> int:
        return hash((self.stages, frozenset(self._options)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.stages, self._options)

    def __str__(self) -> str:
        whole = " | ".join(map(str, self.stages))
        return whole if len(whole) <= 200 else whole[:197] + "..."

    def __repr__(self) -> str:
        parts = [repr(stage) for stage in self.stages] + [f"{k}={v!r}" for k, v in self._options.items()]
        return f"Pipeline({', '.join(parts)})"


def _restore(stages: tuple[Command | Function, ...], options: dict[str, Any]) -> Pipeline:
    new = Pipeline.__new__(Pipeline)
    new._set(stages, options)
    return new


def is_asked(value: Any) -> bool:
    """Whether an option is more than the default spelled out; 0 is a process group, and a descriptor."""
    return value is not None and value is not False


def _check_stage(stage: Command, is_first: bool, is_last: bool) -> None:
    for name, value in stage.options_given.items():
        if name in _NOWHERE and is_asked(value):
            raise ValueError(f"{stage}: {name}= is not for a stage of a pipeline: {_NOWHERE[name]}")
        if name == "stdin" and not is_first:
            raise ValueError(f"{stage}: its stdin is the stage before it; only the first one can have stdin=")
        if name == "stdout" and not is_last:
            raise ValueError(f"{stage}: its stdout is the next stage's stdin; only the last one can have stdout=")
        if name in WHOLE - _OF_A_STAGE - {"stdin", "stdout"}:
            raise ValueError(
                f"{stage}: {name}= is of the whole pipeline: give it to that, (a | b).with_options({name}=...)"
            )


def _check_ends(part: Pipeline, is_first: bool, is_last: bool) -> None:
    for name, is_there in (("stdin", is_first), ("stdout", is_last)):
        if part.option(name) is not None and not is_there:
            raise ValueError(f"{part}: its {name}= would be lost, for within a pipeline that is another stage's")
