"""A command's options as the C core's structs.

Owns what the structs point to, the descriptors opened for one run, and that run's cgroup. A Packed whose streams are
all fixed (inherited, pipes, /dev/null, plain descriptors, bytes) is made once per Command and shared by all threads,
because the core only reads it; one that had to open something is made for one run and closed after it.
"""

from __future__ import annotations

import errno
import os
import resource
import signal

from corelane._ffi import PLATFORM, ffi, lib
from corelane.cpu.lists import kernel_mask
from corelane.cpu.policies import Deadline
from corelane.errors import NotSupported, spawn_failed
from corelane.process import cgroup, dropped
from corelane.process.explain import ADVICE
from corelane.process.opened import close, opened
from corelane.process.redirect import DEVNULL, PIPE, STDOUT, File, Redirection, is_opened

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

    from corelane.process.command import Command

__all__ = ["Packed", "nanoseconds", "open_file", "opens_something", "pack", "packed_like"]

_COMMAND, _LAUNCH, _OPTIONS = (ffi.typeof(f"{name} *") for name in ("cl_command", "cl_launch", "cl_run_options"))
_STRINGS, _CHARS = ffi.typeof("char *[]"), ffi.typeof("char[]")
_PIECES, _LIMITS, _MOVES = (ffi.typeof(f"{name}[]") for name in ("cl_piece", "cl_limit", "cl_fd_move"))
_STRATEGIES = {
    "auto": lib.CL_STRATEGY_AUTO,
    "clone3": lib.CL_STRATEGY_CLONE3,
    "vfork": lib.CL_STRATEGY_VFORK,
    "posix_spawn": lib.CL_STRATEGY_POSIX_SPAWN,
    "fork": lib.CL_STRATEGY_FORK,
}
_CONTAIN = {
    "auto": lib.CL_CONTAIN_AUTO,
    "none": lib.CL_CONTAIN_NONE,
    "group": lib.CL_CONTAIN_GROUP,
    "cgroup": lib.CL_CONTAIN_CGROUP,
}
_LIMIT_ACTIONS = {"fail": lib.CL_LIMIT_FAIL, "truncate": lib.CL_LIMIT_TRUNCATE, "kill": lib.CL_LIMIT_KILL}
_FLAGS = {"new_session": lib.CL_OPT_NEW_SESSION, "foreground": lib.CL_OPT_FOREGROUND,
          "no_new_privs": lib.CL_OPT_NO_NEW_PRIVS, "reset_on_fork": lib.CL_OPT_RESET_ON_FORK,
          "best_effort": lib.CL_OPT_BEST_EFFORT}  # fmt: skip
# option -> (its bit, its field): everything that is one number for both sides.
_NUMBERS = {
    "umask": (lib.CL_OPT_UMASK, "umask"),
    "process_group": (lib.CL_OPT_PROCESS_GROUP, "process_group"),
    "nice": (lib.CL_OPT_NICE, "nice"),
    "io_priority": (lib.CL_OPT_IO_PRIORITY, "io_priority"),
    "autogroup": (lib.CL_OPT_AUTOGROUP, "autogroup"),
    "oom_score_adj": (lib.CL_OPT_OOM_SCORE_ADJ, "oom_score_adj"),
}
_STREAMS = ("stdin", "stdout", "stderr")
_REFUSABLE_ON_LINUX = ("sched", "uclamp", "cpus", "io_priority", "memory_policy", "autogroup", "oom_score_adj")
_LINUX_ONLY = (*_REFUSABLE_ON_LINUX, "no_new_privs", "die_with_parent", "cgroup")
_DRAIN = 0.1  # seconds that pipes are read on after the child has ended, while somebody else still holds them


def nanoseconds(seconds: float) -> int:
    """A span for the core."""
    return int(seconds * 1e9)


def _new_launch() -> Any:
    launch = ffi.new(_LAUNCH)
    launch.cgroup_fd = -1
    return launch


def _new_run(options: dict[str, Any]) -> Any:
    o = ffi.new(_OPTIONS)
    o.timeout_ns = nanoseconds(options["timeout"]) if "timeout" in options else -1
    o.grace_ns = nanoseconds(options.get("grace", 0.0))
    o.drain_ns = nanoseconds(options.get("drain", _DRAIN))
    o.max_output = options.get("max_output", -1)
    o.limit_action = _LIMIT_ACTIONS[options.get("on_limit", "fail")]
    o.buffer = options.get("buffer_size", (0, 0, 0))[1:]
    o.tee = (-1, -1)
    return o


# What every command without options has in common: the core only reads it.
_PLAIN_LAUNCH = _new_launch()
_LAUNCH_OF = {"run": _PLAIN_LAUNCH, "spawn": _PLAIN_LAUNCH, "many": _new_launch()}
_LAUNCH_OF["many"].stream[0].kind = lib.CL_IO_NULL
_PLAIN_RUN = _new_run({})


class Packed:
    """The structs of one command, and what keeps them alive.

    Attributes:
        command, launch, options: cl_command, cl_launch and cl_run_options.
        inherits_environ: whether the core needs a snapshot of the environment at the run.
        captures: whether stdout and stderr are drained into the Result.
        scope: the run's own cgroup, or None.
        reusable: nothing was opened, so that it serves any number of runs.
    """

    __slots__ = ("_files", "_keep", "captures", "command", "inherits_environ", "launch", "options", "reusable", "scope")

    def __init__(self) -> None:
        self.command = ffi.new(_COMMAND)
        self.launch = _PLAIN_LAUNCH
        self.options = _PLAIN_RUN
        self.inherits_environ = True
        self.captures = (False, False)
        self.scope: cgroup.Scope | None = None
        self.reusable = True
        self._keep: list[Any] = []
        self._files: list[Any] = []

    def close(self) -> None:
        """Close what was opened for the run, and remove its cgroup."""
        for file in self._files:
            close(file)
        if self.scope is not None and not self.scope.close():
            dropped.waiting.append(self.scope.is_gone)

    # -- the parts, in the order of api/spawn.h ------------------------------------------------------------------

    def kept(self, owner: Any) -> Any:
        """Keep the owner of memory alive; a struct's field only points to it."""
        self._keep.append(owner)
        return owner

    def strings(self, each: list[bytes]) -> Any:
        chars = [ffi.new(_CHARS, one) for one in each]
        self._keep.append(chars)
        return self.kept(ffi.new(_STRINGS, [*chars, ffi.NULL]))

    def open(self, command: Command, which: int, file: Any) -> int:
        """A descriptor of what `is_opened`, closed after the run; see `open_file`."""
        self.reusable = False
        self._files.append(open_file(command, which, file))
        return int(self._files[-1].fd)

    def number_of(self, source: Any) -> int:
        """The descriptor of a number or an object with fileno(); what the object has buffered is written first."""
        if isinstance(source, int):
            return source
        self.reusable = False
        flush = getattr(source, "flush", None)
        if flush is not None and getattr(source, "writable", lambda: False)():
            flush()
        number = source.fileno()
        if not isinstance(number, int) or not 0 <= number < 2**31:
            raise ValueError(f"{source!r} has no descriptor: its fileno() is {number!r}")
        return number

    def pack_options(self, options: dict[str, Any], tied: bool) -> None:
        c = self.command
        bits = 0
        for name, bit in _FLAGS.items():
            bits |= bit if options.get(name) else 0
        for name, (bit, field) in _NUMBERS.items():
            if name in options:
                bits |= bit
                setattr(c, field, options[name])
        if not options.get("close_others", True):
            bits |= lib.CL_OPT_KEEP_OTHERS
        death = options.get("die_with_parent", signal.SIGKILL if tied else 0)
        if death:
            bits |= lib.CL_OPT_DEATH_SIGNAL
            c.death_signal = death
        c.options = bits
        c.strategy = _STRATEGIES[options.get("strategy", "auto")]
        c.contain = _CONTAIN[options.get("contain", "auto")]
        self.pack_place(options)
        self.pack_resources(options)
        self.pack_account(options)

    def pack_place(self, options: dict[str, Any]) -> None:
        c = self.command
        if "program" in options:
            c.program = self.strings([os.fsencode(options["program"])])[0]
        if "env" in options:
            c.env = self.strings([name + b"=" + value for name, value in options["env"]])
            self.inherits_environ = False
        elif "env_add" in options or "env_remove" in options:
            changes = [name + b"=" + value for name, value in options.get("env_add", ())]
            c.env_changes = self.strings([*changes, *options.get("env_remove", ())])
        cwd = options.get("cwd")
        if isinstance(cwd, int):
            c.options |= lib.CL_OPT_CWD_FD
            c.cwd_fd = cwd
        elif cwd is not None:
            c.cwd = self.strings([os.fsencode(cwd)])[0]
        if "controlling_terminal" in options:
            c.options |= lib.CL_OPT_TERMINAL
            c.terminal_fd = self.number_of(options["controlling_terminal"])
        for name in ("signal_mask", "signal_defaults", "signal_ignores"):
            setattr(c, name, sum(1 << (number - 1) for number in options.get(name, ())))

    def pack_resources(self, options: dict[str, Any]) -> None:
        c = self.command
        if "rlimits" in options:
            limits = [
                {"resource": getattr(resource, f"RLIMIT_{name.upper()}"), "soft": soft, "hard": hard}
                for name, soft, hard in options["rlimits"]
            ]
            c.limits, c.limit_count = self.kept(ffi.new(_LIMITS, limits)), len(limits)
        if "fds" in options:
            moves = [{"source": self.number_of(source), "target": target} for target, source in options["fds"]]
            c.moves, c.move_count = self.kept(ffi.new(_MOVES, moves)), len(moves)
        if "cpus" in options:
            mask = kernel_mask(options["cpus"])
            c.cpus, c.cpus_size = self.kept(ffi.from_buffer("uint8_t[]", mask)), len(mask)
        if "sched" in options:
            self.pack_policy(options["sched"], options)
        if "uclamp" in options:
            c.options |= lib.CL_OPT_UCLAMP
            c.util_min, c.util_max = options["uclamp"]
        if "memory_policy" in options:
            c.options |= lib.CL_OPT_MEMORY_POLICY
            c.memory_policy, nodes = options["memory_policy"]
            if nodes:
                mask = kernel_mask(nodes)
                c.nodes, c.nodes_size = self.kept(ffi.from_buffer("uint8_t[]", mask)), len(mask)

    def pack_policy(self, policy: tuple[int, int] | Deadline, options: dict[str, Any]) -> None:
        c = self.command
        c.options |= lib.CL_OPT_SCHEDULER
        if not isinstance(policy, Deadline):
            c.sched_policy, c.sched_priority = policy
            return
        c.sched_policy = lib.CL_SCHED_DEADLINE
        c.runtime_ns, c.deadline_ns, c.period_ns = policy.nanoseconds
        if options.get("reset_on_fork", True):  # else the child could not fork at all: EAGAIN
            c.options |= lib.CL_OPT_RESET_ON_FORK

    def pack_account(self, options: dict[str, Any]) -> None:
        if not options.keys() & {"user", "group", "extra_groups"}:
            return
        c = self.command
        uid, gid, groups = account(options.get("user"), options.get("group"), options.get("extra_groups"))
        if uid is not None:
            c.options |= lib.CL_OPT_UID
            c.uid = uid
        if gid is not None:
            c.options |= lib.CL_OPT_GID
            c.gid = gid
        if groups is not None:
            c.options |= lib.CL_OPT_GROUPS
            c.groups, c.group_count = self.kept(ffi.new("uint32_t[]", groups)), len(groups)

    def pack_stream(self, command: Command, which: int, value: Any) -> None:
        stream = self.launch.stream[which]
        if value is PIPE:
            stream.kind = lib.CL_IO_PIPE
        elif value is DEVNULL:
            stream.kind = lib.CL_IO_NULL
        elif value is STDOUT:
            stream.kind = lib.CL_IO_STDOUT
        elif is_opened(value):
            stream.kind = lib.CL_IO_FD
            stream.fd = self.open(command, which, value)
        else:
            stream.kind = lib.CL_IO_FD
            stream.fd = self.number_of(value)

    def pack_streams(self, command: Command, options: dict[str, Any]) -> list[bytes]:
        """The three streams; returns what is to be fed to stdin."""
        feed: list[bytes] = []
        self.launch = _new_launch()
        for which, name in enumerate(_STREAMS):
            value = options.get(name, PIPE if which and options.get("capture") else None)
            if isinstance(value, (str, bytes, tuple)):
                encoded = encode(value, options.get("encoding", "utf-8")) if isinstance(value, str) else value
                feed = [encoded] if isinstance(encoded, bytes) else list(encoded)
                value = PIPE
            if value is not None:
                self.pack_stream(command, which, value)
            self.launch.stream[which].pipe_size = options.get("pipe_size", (0, 0, 0))[which]
        self.captures = tuple(self.launch.stream[i].kind == lib.CL_IO_PIPE for i in (1, 2))
        return feed

    def pack_run(self, command: Command, options: dict[str, Any], feed: list[bytes]) -> None:
        o = self.options = _new_run(options)
        for which, name in ((1, "tee_stdout"), (2, "tee_stderr")):
            if name in options:
                tee = options[name]
                o.tee[which - 1] = self.open(command, which, tee) if is_opened(tee) else self.number_of(tee)
        if feed:
            buffers = [self.kept(ffi.from_buffer(piece)) for piece in feed]
            o.feed = self.kept(ffi.new(_PIECES, [{"data": b, "size": len(b)} for b in buffers]))
            o.feed_count = len(feed)

    def pack_cgroup(self, command: Command, options: dict[str, Any], scope: cgroup.Scope | None) -> None:
        if scope is not None:
            self.command.contain = lib.CL_CONTAIN_CGROUP
            self.launch.cgroup_fd = scope.fd
            self.reusable = False
            return
        target = options.get("cgroup")
        if options.get("contain") == "cgroup":
            self.scope = cgroup.Scope.create(target, command)
            self.launch.cgroup_fd = self.scope.fd
            self.reusable = False
        elif target is not None:
            self._files.append(cgroup.open_target(target, command))
            self.launch.cgroup_fd = self._files[-1].fd
            self.reusable = False
            if cgroup.is_v1(target):
                self.command.options |= lib.CL_OPT_CGROUP_V1


def open_file(command: Any, which: int, file: Any) -> Any:
    """The owner of a descriptor of what `is_opened`.

    Args:
        command: what is to have it, and which: as its stdin (0), stdout (1) or stderr (2).

    Raises:
        SpawnFailed: it cannot be opened; also the OSError that open() would have raised.
    """
    try:
        if not isinstance(file, File):
            return file._open_stream(which)
        write = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if file.append else os.O_TRUNC)
        return opened(file.path, write if which else os.O_RDONLY)
    except OSError as error:
        number = error.errno or errno.EIO
        why = f"{os.strerror(number)}{': ' if number in ADVICE else ''}{ADVICE.get(number, '')}"
        what = getattr(file, "path", file)
        raise spawn_failed(
            f"cannot start {command}: its {_STREAMS[which]} {what!r} cannot be opened: {why}",
            command=command,
            stage="open",
            errno=number,
        ) from None


def opens_something(command: Command) -> bool:
    """Whether packing it opens files, or makes a cgroup, for one run."""
    options = command.options_given
    files = [options.get(name) for name in (*_STREAMS, "tee_stdout", "tee_stderr", "controlling_terminal", "cgroup")]
    files += [source for _, source in options.get("fds", ())]
    return options.get("contain") == "cgroup" or any(
        one is not None and not isinstance(one, (int, bytes, tuple, Redirection)) for one in files
    )


def packed_like(other: Packed, command: Command) -> Packed:
    """The structs of a command whose options are those that `other` was made from: only the arguments are new."""
    packed = Packed.__new__(Packed)
    packed.launch, packed.options, packed.captures = other.launch, other.options, other.captures
    packed.inherits_environ, packed.reusable, packed.scope = other.inherits_environ, True, None
    packed._files, packed._keep = [], [other]
    packed.command = ffi.new(_COMMAND, other.command[0])
    packed.command.argv = packed.strings([os.fsencode(arg) for arg in command.args])
    return packed


def encode(stdin: str, encoding: str) -> bytes:
    """The text to be fed, as bytes."""
    try:
        return stdin.encode(encoding)
    except UnicodeEncodeError as error:
        raise ValueError(f"stdin cannot be written in {encoding}: {error}; give bytes, or another encoding=") from None


def account(
    user: str | int | None, group: str | int | None, extra: tuple[str | int, ...] | None
) -> tuple[int | None, int | None, list[int] | None]:
    """Resolve names. A user without groups gets that user's own, as login would: never our supplementary ones."""
    import grp
    import pwd

    def group_id(one: str | int) -> int:
        try:
            return one if isinstance(one, int) else grp.getgrnam(one).gr_gid
        except KeyError:
            raise ValueError(f"there is no group {one!r} on this system") from None

    uid, name, primary = None, None, None
    if user is not None:
        try:
            entry = pwd.getpwnam(user) if isinstance(user, str) else pwd.getpwuid(user)
            uid, name, primary = entry.pw_uid, entry.pw_name, entry.pw_gid
        except KeyError:
            if isinstance(user, str):
                raise ValueError(f"there is no user {user!r} on this system") from None
            uid = user
    gid = group_id(group) if group is not None else primary
    if extra is not None:
        return uid, gid, [group_id(one) for one in extra]
    if user is None:
        return uid, gid, None
    return uid, gid, os.getgrouplist(name, gid) if name is not None and gid is not None else []


def _check_platform(options: dict[str, Any]) -> None:
    strategy = options.get("strategy", "auto")
    if PLATFORM != "linux" and strategy not in ("auto", "posix_spawn"):
        raise NotSupported(f"strategy {strategy!r} needs Linux's clone; this build of corelane has only 'posix_spawn'")
    if PLATFORM == "darwin":
        for name in _LINUX_ONLY:
            if options.get("best_effort") and name in _REFUSABLE_ON_LINUX:
                continue  # the child says that it has none
            if options.get(name) or options.get("contain") == name:
                raise NotSupported(f"{name}= has no counterpart on macOS")


def pack(command: Command, use: str, scope: cgroup.Scope | None = None) -> Packed:
    """Make the structs of a command.

    Args:
        command: whose options are already checked.
        use: "run", "many" or "spawn". The child of a run dies with us unless told otherwise, that of a Process does
            not; one of many has no stdin unless told otherwise: they would all read the same.
        scope: the cgroup of the pipeline that it is a later stage of.

    Raises:
        SpawnFailed: a file could not be opened. ValueError: no such user, or a closed file object.
        CgroupUnavailable, NotSupported.
    """
    options = command.options_given
    tied = use != "spawn" and PLATFORM != "darwin"
    packed = Packed()
    try:
        packed.command.argv = packed.strings([os.fsencode(arg) for arg in command.args])
        if options or scope:
            _check_platform(options)
            packed.pack_options(options, tied)
            feed = packed.pack_streams(command, options)
            packed.pack_run(command, options, feed)
            packed.pack_cgroup(command, options, scope)
            if use == "many" and "stdin" not in options:
                packed.launch.stream[0].kind = lib.CL_IO_NULL
        else:
            packed.launch = _LAUNCH_OF[use]
            if tied:
                packed.command.options = lib.CL_OPT_DEATH_SIGNAL
                packed.command.death_signal = signal.SIGKILL
    except BaseException:
        packed.close()
        raise
    return packed
