"""Why a child could not be started, in words. Looks at the file system after the fact, only to explain: what happened
is what the core reported."""

from __future__ import annotations

import contextlib
import errno
import os

from corelane._ffi import lib
from corelane.cpu.policies import written
from corelane.errors import CpuRefused, SpawnFailed, cpu_refused, spawn_failed

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from corelane.process.command import Command

__all__ = ["ADVICE", "STAGES", "explain"]

STAGES: dict[int, str] = {
    getattr(lib, name): name.removeprefix("CL_STAGE_").lower() for name in dir(lib) if name.startswith("CL_STAGE_")
}

ADVICE: dict[int, str] = {
    errno.EAGAIN: "the limit on processes is reached (ulimit -u, pids.max); wait for some to end",
    errno.EMFILE: "this process has too many descriptors open (ulimit -n); close some or raise the limit",
    errno.ENFILE: "the system has too many files open (fs.file-max); ask the administrator to raise it",
    errno.ENOMEM: "there is no memory for another process",
    errno.E2BIG: "the arguments and the environment are too long; pass the data through stdin or a file",
    errno.ENOEXEC: "the file is neither a binary of this machine nor a script with a #! line; "
    "to run shell text use Command.shell",
    errno.ENAMETOOLONG: "no file can have so long a name",
    errno.ELOOP: "its symbolic links lead in a circle",
    errno.ETXTBSY: "somebody still has the program open for writing",
}
_STAGE_ADVICE: dict[str, str] = {
    "limits": "a limit above the hard one of this process needs CAP_SYS_RESOURCE",
    "uid": "changing the user needs CAP_SETUID",
    "gid": "changing the group needs CAP_SETGID",
    "groups": "changing the groups needs CAP_SETGID",
    "foreground": "foreground=True needs a controlling terminal",
    "terminal": "that descriptor must be a terminal that no session has as its own",
    "group": "the group must exist in our session",
    "pipe": "see pipe_size= and /proc/sys/fs/pipe-max-size, and the limits on descriptors",
    "descriptors": "a descriptor given to the child is not open, or the limit on them is reached",
    "trampoline": "corelane's helper program is missing or not executable: reinstall corelane",
}


# Those that best_effort goes on without, and the option that each carries out.
_OPTION_OF = {
    "nice": "nice",
    "scheduler": "sched",
    "uclamp": "uclamp",
    "affinity": "cpus",
    "io_priority": "io_priority",
    "memory_policy": "memory_policy",
    "autogroup": "autogroup",
    "oom": "oom_score_adj",
}
_STEP_OF = {option: step for step, option in _OPTION_OF.items()}


def _about_step(command: Command, step: str, number: int) -> str:
    try:
        from corelane.cpu.refusals import advice
    except (ImportError, OSError):  # we have given up the rights to read it: the failure must be told all the same
        return ""
    # A deadline's CPUs are those that the child was given before it.
    cpus = command.option("cpus") if step == "scheduler" else None
    return advice(step, number, command.option(_OPTION_OF[step]), obtained=cpus or ())


def refused_step(command: Command, option: str, number: int) -> CpuRefused:
    """The error for an option that a child with best_effort went on without.

    Args:
        option: "nice", "sched", "cpus", ... number: the errno.
    """
    what = f"{written(option, command.option(option))} of {command}"
    return cpu_refused(what, number, _about_step(command, _STEP_OF[option], number))


def explain(command: Command, stage_number: int, number: int) -> SpawnFailed:
    """The error for a failed spawn.

    Args:
        command: what was to be started.
        stage_number: CL_STAGE_*.
        number: the errno.
    """
    stage = STAGES.get(stage_number, "none")
    if stage == "exec":
        why = _about_program(command, number)
    elif stage == "cwd":
        why = f"its working directory {command.option('cwd')!r} cannot be entered"
    elif stage in _OPTION_OF:
        option = _OPTION_OF[stage]
        why = f"{written(option, command.option(option))}: {_about_step(command, stage, number)}"
    else:
        why = ADVICE.get(number) or _STAGE_ADVICE.get(stage, "")
    reason = f"[{stage}] {os.strerror(number)}" + (f": {why}" if why else "")
    return spawn_failed(f"cannot start {command}: {reason}", command=command, stage=stage, errno=number)


def _about_program(command: Command, number: int) -> str:
    program = os.fsdecode(command.option("program") or command.args[0])
    if number == errno.ENOENT and "/" not in program:
        cwd = _directory(command.option("cwd")) or ""
        for directory in _child_path(command).split(":"):
            where = os.path.join(cwd, directory, program)
            if os.path.isfile(where):
                return f"the file {where!r} is there, but {_interpreter(where)} is not"
        return f"there is no {program!r} in PATH={_child_path(command)!r}"
    if number in (errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.ENOEXEC) and "/" in program:
        return _about_file(command, program, number)
    if number == errno.EACCES:
        return f"the {program!r} found in PATH may not be executed"
    return ADVICE.get(number, "")


def _child_path(command: Command) -> str:
    env = command.option("env")
    path = dict(command.option("env_add", ()) if env is None else env).get(b"PATH")
    if path is None and env is None and b"PATH" not in command.option("env_remove", ()):
        path = os.environb.get(b"PATH")
    return "/bin:/usr/bin" if path is None else os.fsdecode(path)


def _directory(cwd: str | bytes | int | None) -> str | None:
    """Where the child's relative paths begin, as a path of ours; None if a descriptor has none here."""
    if not isinstance(cwd, int):
        return os.fsdecode(cwd or "")
    path = f"/proc/self/fd/{cwd}"
    return path if os.path.isdir(path) else None


def _about_file(command: Command, program: str, number: int) -> str:
    cwd = command.option("cwd")
    directory = _directory(cwd)
    if directory is None:
        return ADVICE.get(number, "")
    where = os.path.join(directory, program)
    if not os.path.lexists(where):
        relative = "" if os.path.isabs(program) or cwd is None else f" (relative to the child's cwd {cwd!r})"
        return f"there is no file {program!r}{relative}"
    if os.path.isdir(where):
        return f"{program!r} is a directory"
    if number == errno.ENOENT:
        return f"the file {program!r} is there, but {_interpreter(where)} is not"
    if number == errno.EACCES and not os.access(where, os.X_OK):
        return f"{program!r} is not executable: chmod +x it"
    return ADVICE.get(number, "")


def _interpreter(path: str) -> str:
    first = b""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO would have us wait for a writer
        try:
            first = os.read(fd, 256).partition(b"\n")[0]
        finally:
            os.close(fd)
    if first.startswith(b"#!"):
        return f"the interpreter {os.fsdecode(first[2:].split()[0] if first[2:].split() else b'')!r} of its #! line"
    return "the dynamic loader it was linked for"
