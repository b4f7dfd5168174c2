"""Command: a program, its arguments and its options as an immutable value.

Owns no process and no descriptor. What the C core reads is packed at the first run and kept with the command, which is
why it must not change; it is not part of its identity and is not pickled.
"""

from __future__ import annotations

from collections.abc import Iterator

from corelane.process import stream
from corelane.process.engine import execute
from corelane.process.options import normalise
from corelane.process.pack import Packed, pack
from corelane.process.process import Process
from corelane.process.redirect import PIPE, is_plain
from corelane.process.shell import quote
from corelane.process.values import text

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Unpack, overload

    from corelane.process.async_process import Spawning
    from corelane.process.pipeline import Pipeline
    from corelane.process.result import Result
    from corelane.process.sequence import Sequence as Steps
    from corelane.process.sequence import SequenceResult
    from corelane.process.stages import PipelineResult
    from corelane.process.typed import Options, Path
    from corelane.process.work import Work

__all__ = ["Command", "Runnable", "read", "run"]

# A Process has no engine behind it that would keep these.
_ENGINE_ONLY = {"timeout", "retry", "grace", "drain", "max_output", "on_limit", "max_line", "tee_stdout", "tee_stderr"}


class Runnable:
    """What can be run: a Command, a Pipeline (`a | b`) or a Sequence (`a.then(b)`)."""

    __slots__ = ()

    def __or__(self, other: Any) -> Pipeline:
        from corelane.process.pipeline import Pipeline

        return Pipeline(self, other)

    def __ror__(self, other: Any) -> Pipeline:
        from corelane.process.pipeline import Pipeline

        return Pipeline(other, self)

    def then(self, *others: Runnable | Sequence[Path]) -> Steps:
        """This, and then the others, each if the one before it succeeded; see `Sequence`."""
        from corelane.process.sequence import Sequence

        return Sequence(self, *others)

    def run(self) -> Any:
        """Run to the end; see `corelane.run`."""
        from corelane.process.work import run_one

        return run_one(self)

    async def run_async(self) -> Any:
        """Run to the end without holding the event loop; see `corelane.run_async`."""
        from corelane.process import aio

        return await aio.run_async(self)

    def read(self) -> str:
        """Run it and return its stdout, wherever it was to go, as text exactly as written (with its last newline)."""
        is_captured = self.option("stdout", PIPE if self.option("capture") else None) is PIPE
        captured = self if is_captured else self.with_options(stdout=PIPE)
        text: str = captured.run().text
        return text

    def spawn(self, **options: Unpack[Options]) -> Any:
        """Start it and return a Process, or what stands for the Processes of a Pipeline."""
        raise NotImplementedError

    def lines(self, *, keepends: bool = False) -> Iterator[str]:
        """Run it and yield its stdout line by line, in bounded memory; see `stream.lines`."""
        return stream.lines(self.with_options(stdout=PIPE, capture=None), keepends)

    def chunks(self, size: int = 65536) -> Iterator[bytes]:
        """Run it and yield its stdout in pieces of at most `size` bytes, as they come; see `stream.chunks`."""
        return stream.chunks(self.with_options(stdout=PIPE, capture=None), size)

    def _process(self, for_run: bool) -> Any:
        """The Process, not yet its caller's: should that not come about, it is killed."""
        raise NotImplementedError

    def with_options(self, **options: Unpack[Options]) -> Any:
        """The same with some options changed; None takes one back to its default."""
        raise NotImplementedError

    def option(self, name: str, default: Any = None) -> Any:
        """One option's value, or `default` if it was not given."""
        raise NotImplementedError

    def _work(self, index: int | None, use: str, parent: Work | None) -> Work:
        raise NotImplementedError


class Command(Runnable):
    """A program with its arguments and options: immutable, hashable, picklable, and cheap to run again.

    Args:
        program, *args: str, bytes or paths. Each is one argument, whatever it contains: no shell is involved. A
            program without a slash is looked up in the child's PATH, after the change to `cwd`; one with a slash is
            relative to `cwd` if that is given.
        **options: see below. None takes an option back to its default.

    Where and as what:
        program: what to exec, if it is not the first argument.
        cwd: a path, or a descriptor of a directory.
        env: replaces the environment ({} empties it); env_add and env_remove change the inherited one.
            Without them it is the environment at the time of each run.
        umask: 0 to 0o777. user, group, extra_groups: names or ids (a user brings their own groups; forks).
        no_new_privs: True: set-user-id bits have no effect.
    Streams:
        stdin, stdout, stderr: PIPE, DEVNULL, a descriptor, a file object, a pathlib.Path or File(path, append=True), a
            shm.Segment; stdin also bytes, str or a list of bytes; stderr also STDOUT. Default: ours.
        fds: {number in the child: descriptor or file object of ours}, numbers from 3.
        close_others: False lets the child inherit what other libraries opened without CLOEXEC.
        pipe_size, buffer_size: bytes, or {"stdin": bytes, "stdout": bytes, "stderr": bytes}.
    Groups, terminal, scope:
        contain: "auto" (default), "group", "cgroup" or "none": what is killed together with the child.
        cgroup: directory of the cgroup to be born in (or, with contain="cgroup", to make one in).
        process_group: 0 for a new one, or one to join. new_session: True for setsid.
        controlling_terminal: a terminal for the new session. foreground: True lends it our terminal.
        die_with_parent: True (default for runs), False (default for spawn), or the signal to get.
    Signals: signal_mask (blocked in the child), signal_defaults, signal_ignores.
    Resources:
        rlimits: {"nofile": 64, "cpu": (1, 2), "core": "unlimited"} (soft and hard, or both at once).
        nice: -20 to 19. sched: "batch", "idle", "other", ("fifo", 1..99), ("rr", 1..99), cpu.Deadline(...).
        reset_on_fork: with sched: what the child forks has the policy "other" (default: with a Deadline).
        uclamp: (lowest, highest) utilisation of 1024, None: unchanged.
        cpus: {2, 3} or "2-3,8" or "0x10c". io_priority: "none", "idle", ("best-effort", 0..7), ("realtime", 0..7).
        memory_policy: "local", ("bind", "0-1"), ("interleave", nodes), ("preferred", node), ("preferred-many", nodes).
        autogroup: nice value of the new session's autogroup, -20 to 19. oom_score_adj: -1000 to 1000.
        best_effort: True: what the system refuses of these is left out, and in `not_applied` of the Result or Process.
    How: strategy: "auto", "clone3", "vfork", "posix_spawn" or "fork".
    The run:
        capture: True is PIPE for stdout and stderr, where not given. check: False: no error for a failed child.
        timeout: seconds; then the scope gets SIGKILL, or, with grace=seconds, SIGTERM first. Always raises.
        retry: a Retry: what failed is tried again; each try has its own timeout.
        drain: seconds that pipes are read on after the child ended while others hold them (0.1).
        encoding ("utf-8"), errors ("strict"): for text.
        max_output: bytes of each captured stream; on_limit: "fail" (kill and raise), "truncate" or "kill".
        max_line: characters of one line of lines(). tee_stdout, tee_stderr: descriptors that get a copy.

    Raises:
        TypeError, ValueError: an argument or option is wrong; nothing was started.
    """

    __slots__ = ("__weakref__", "_derived", "_hash", "_options", "_packed", "args")

    args: tuple[str | bytes, ...]
    _options: dict[str, Any]
    _packed: dict[str, Packed]
    _derived: dict[str, Any]
    _hash: int | None

    def __init__(self, *args: Path, **options: Unpack[Options]) -> None:
        if not args:
            raise ValueError("a command needs at least a program")
        put = object.__setattr__
        put(
            self,
            "args",
            tuple([arg if type(arg) is str and arg.isascii() and "\0" not in arg else _argument(arg) for arg in args]),
        )
        if not self.args[0]:
            raise ValueError("the program is an empty string")
        put(self, "_options", normalise(options) if options else {})
        put(self, "_packed", {})
        put(self, "_derived", {})
        put(self, "_hash", None)

    @classmethod
    def shell(cls, script: str, *args: Path, **options: Unpack[Options]) -> Command:
        """The one road through a shell: `sh -c script`.

        Args:
            script: shell text. Put words into it with `cl.quote`, or leave them out of it:
            *args: become "$1", "$2", ... of the script, and are never parsed.
            **options: as for Command.
        """
        if not isinstance(script, str):
            raise TypeError(f"the script must be a str, not {script!r}")
        if script.startswith(("-", "+")):
            script = " " + script  # else sh would take it for an option
        return cls("/bin/sh", "-c", script, "sh", *args, **options)

    def with_options(self, **options: Unpack[Options]) -> Command:
        """This command with some options changed; None takes one back to its default."""
        new = Command.__new__(Command)
        new.__setstate__((self.args, normalise(options, self._options)))
        return new

    def with_args(self, *args: Path) -> Command:
        """This command with more arguments at its end."""
        return self.like((*self.args, *args))

    def like(self, args: Sequence[Path]) -> Command:
        """A command with this one's options, and other arguments."""
        new = Command(*args)
        object.__setattr__(new, "_options", self._options)
        return new

    def without_objects(self) -> Command:
        """This command without the options that hold open files and the like: what can be pickled."""
        held = [name for name, value in self._options.items() if not is_plain(value)]
        return self.with_options(**dict.fromkeys(held)) if held else self

    @property
    def options_given(self) -> dict[str, Any]:
        """The options that are not at their default, each in its normal form. Not to be changed."""
        return self._options

    def option(self, name: str, default: Any = None) -> Any:
        """One option's value, or `default` if it was not given."""
        return self._options.get(name, default)

    # ---- running -----------------------------------------------------------------------------------------------

    def run(self) -> Result:
        """Run to the end; see `corelane.run`."""
        return execute(self)

    def read(self) -> str:
        """Run it and return its stdout, wherever it was to go, as text exactly as written (with its last newline)."""
        is_captured = self.option("stdout", PIPE if self.option("capture") else None) is PIPE
        captured = self if is_captured else self._variant("read", stdout=PIPE)
        return captured.run().text

    if TYPE_CHECKING:

        async def run_async(self) -> Result: ...

    def _work(self, index: int | None, use: str, parent: Work | None) -> Work:
        from corelane.process.work import Job

        return Job(self, index, parent, use)

    def spawn(self, **options: Unpack[Options]) -> Process:
        """Start it and return a Process, which is best used as a context manager.

        Args:
            **options: as for Command; in force for this child only.

        Raises:
            SpawnFailed: it could not be started.
            ValueError: an option of runs is set, here or in the command: nothing would enforce it.
        """
        process = Process(self._to_spawn(options))
        process._kill_dropped = False  # it is its caller's now: an exception before this line would have ended it
        return process

    def spawn_async(self, **options: Unpack[Options]) -> Spawning:
        """Start it under asyncio, without holding the event loop: `async with cmd.spawn_async() as process`, or
        `process = await cmd.spawn_async()`. Either gives an AsyncProcess, once the child has exec'd.

        Args:
            **options: as for `spawn`.

        Raises:
            ValueError: as `spawn`; SpawnFailed comes from the await.
        """
        from corelane.process.async_process import Spawning

        return Spawning(self._to_spawn(options))

    def _to_spawn(self, options: Options) -> Command:
        command = self.with_options(**options) if options else self
        refuse_engine_only(command, options)
        return command

    def _process(self, for_run: bool) -> Process:
        return Process(self, for_run=for_run)

    def lines(self, *, keepends: bool = False) -> Iterator[str]:
        """Run it and yield its stdout line by line, in bounded memory; see `stream.lines`."""
        return stream.lines(self._variant("stream", stdout=PIPE, capture=None), keepends)

    def chunks(self, size: int = 65536) -> Iterator[bytes]:
        """Run it and yield its stdout in pieces of at most `size` bytes, as they come; see `stream.chunks`."""
        return stream.chunks(self._variant("stream", stdout=PIPE, capture=None), size)

    # ---- for run and Process -----------------------------------------------------------------------------------

    def packed(self, use: str) -> Packed:
        """What the core reads, for a "run", "spawn" or one of "many"; the caller closes it unless it is `reusable`."""
        kept = self._packed.get(use)
        if kept is not None:
            return kept
        fresh = pack(self, use)
        if fresh.reusable:
            self._packed[use] = fresh
        return fresh

    def _variant(self, name: str, **options: Any) -> Command:
        variant: Command | None = self._derived.get(name)
        if variant is None:
            variant = self._derived[name] = self.with_options(**options)
        return variant

    # ---- being a value -----------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a Command is immutable: use with_options({name}=...) or with_args(...)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a Command is immutable")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Command):
            return NotImplemented
        return self.args == other.args and self._options == other._options

    def __hash__(self) -> int:
        if self._hash is None:
            try:
                value = hash((self.args, frozenset(self._options.items())))
            except TypeError:  # a file object of some library's that is not hashable: its presence will have to do
                value = hash((self.args, frozenset(self._options)))
            object.__setattr__(self, "_hash", value)
        assert self._hash is not None
        return self._hash

    def __getstate__(self) -> tuple[Any, ...]:
        return self.args, self._options

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        for name, value in zip(("args", "_options"), state, strict=True):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_hash", None)
        object.__setattr__(self, "_packed", {})
        object.__setattr__(self, "_derived", {})

    def __copy__(self) -> Command:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Command:
        return self

    def __str__(self) -> str:
        whole = quote(*self.args[:200])  # enough: each is a character and a blank at least
        return whole if len(self.args) <= 200 and len(whole) <= 200 else whole[:197] + "..."

    def __repr__(self) -> str:
        parts = [repr(arg) for arg in self.args] + [f"{name}={value!r}" for name, value in self._options.items()]
        return f"Command({', '.join(parts)})"


def refuse_engine_only(command: Runnable, options: Mapping[str, Any]) -> None:
    """For spawn: `options` are those given to it."""
    wrong = {name for name in _ENGINE_ONLY if command.option(name) is not None}
    wrong |= {"capture", "check"}.intersection(options)
    if wrong:
        raise ValueError(f"{min(wrong)}= belongs to runs; a Process has wait(timeout), terminate(grace) and its pipes")


def _argument(arg: Any) -> str | bytes:
    if isinstance(arg, (list, tuple)):
        raise TypeError(f"each argument is given by itself: Command(*{arg!r})")
    return text("an argument", arg)


def as_command(command: Any, options: Mapping[str, Any]) -> Any:
    """The Command meant by an argv, or a Command, Pipeline or Sequence, with more options.

    Raises:
        TypeError: `command` is a str (which would ask for a shell), or no argv at all.
        ValueError: it is empty.
    """
    if isinstance(command, Runnable):
        return command.with_options(**options) if options else command
    if isinstance(command, (str, bytes)):
        raise TypeError(
            f"{command!r} is one string: give a list like ['grep', '-c', 'x'], or, to have a shell parse it, "
            "Command.shell(text)"
        )
    if not isinstance(command, (list, tuple)):
        raise TypeError(f"a command is a Command or a list of arguments, not {command!r} ({type(command).__name__})")
    return Command(*command, **options)


if TYPE_CHECKING:

    @overload
    def run(command: Pipeline, **options: Unpack[Options]) -> PipelineResult: ...
    @overload
    def run(command: Steps, **options: Unpack[Options]) -> SequenceResult: ...
    @overload
    def run(command: Command | Sequence[Path], **options: Unpack[Options]) -> Result: ...
    @overload
    def run(command: Runnable, **options: Unpack[Options]) -> Any: ...


def run(command: Runnable | Sequence[Path], **options: Unpack[Options]) -> Any:
    """Run a program to its end, or a Pipeline, or a Sequence.

    Args:
        command: a list of arguments, a Command, a Pipeline or a Sequence.
        **options: as for Command.

    Returns:
        The Result.

    Raises:
        SpawnFailed: it could not be started (also the matching OSError: FileNotFoundError, PermissionError, ...).
        ProcessTimeout: it ran longer than `timeout`; its scope was killed.
        NonZeroExit, Signaled, StatusUnknown: it failed, and `check` is not False.
        OutputLimitExceeded: it wrote more than `max_output`, with on_limit="fail".
        TypeError, ValueError: an argument or option is wrong; nothing was started.
    """
    return as_command(command, options).run()


def read(command: Runnable | Sequence[Path], **options: Unpack[Options]) -> str:
    """Run a program and return its stdout as text; see `run` and `Command.read`.

    Raises:
        ValueError: it is told at once to send its stdout elsewhere. Else as `run`.
    """
    given = options.get("stdout")
    if given is not None and given is not PIPE:
        raise ValueError(f"read returns the stdout, which cannot go to {given!r} too: leave stdout out, or use run")
    text: str = as_command(command, options).read()
    return text
