"""The options of a Command as type checkers and editors see them; nothing imports this at run time. What each means is
said in Command's docstring, what each accepts in `options.py`; a test compares the names."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Mapping, Sequence
from typing import IO, Any, Literal, Protocol, TypedDict

from corelane.cpu.policies import Deadline
from corelane.process.redirect import File, Redirection
from corelane.process.retry import Retry

__all__ = ["Options", "Path"]


class HasFileno(Protocol):
    def fileno(self) -> int: ...


Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Descriptor = int | HasFileno
Stream = Redirection | File | os.PathLike[str] | os.PathLike[bytes] | int | HasFileno | IO[Any]
Bytes = bytes | bytearray | memoryview
Signal = int | str | signal.Signals
Limit = int | Literal["unlimited"]
Environment = Mapping[str, Any] | Mapping[bytes, Any]  # Any: Mapping is invariant in its keys, and both kinds may mix
Sizes = int | Mapping[str, int]


class Options(TypedDict, total=False):
    program: Path | None
    cwd: Path | int | None
    env: Environment | None
    env_add: Environment | None
    env_remove: Collection[str | bytes] | None
    umask: int | None
    user: str | int | None
    group: str | int | None
    extra_groups: Collection[str | int] | None
    no_new_privs: bool | None
    stdin: Stream | str | Bytes | Sequence[Bytes] | None
    stdout: Stream | None
    stderr: Stream | None
    fds: Mapping[int, Descriptor] | None
    close_others: bool | None
    pipe_size: Sizes | None
    buffer_size: Sizes | None
    process_group: int | None
    new_session: bool | None
    controlling_terminal: Descriptor | None
    foreground: bool | None
    contain: Literal["auto", "group", "cgroup", "none"] | None
    cgroup: Path | None
    die_with_parent: bool | Signal | None
    signal_mask: Collection[Signal] | None
    signal_defaults: Collection[Signal] | None
    signal_ignores: Collection[Signal] | None
    rlimits: Mapping[str, Limit | tuple[Limit, Limit]] | None
    nice: int | None
    sched: str | tuple[str, int] | Deadline | None
    reset_on_fork: bool | None
    uclamp: tuple[int | None, int | None] | None
    cpus: int | str | Collection[int] | None
    io_priority: str | tuple[str, int] | None
    memory_policy: str | tuple[str, int | str | Collection[int]] | None
    autogroup: int | None
    best_effort: bool | None
    oom_score_adj: int | None
    strategy: Literal["auto", "clone3", "vfork", "posix_spawn", "fork"] | None
    capture: bool | None
    check: bool | None
    timeout: float | None
    retry: Retry | None
    grace: float | None
    drain: float | None
    encoding: str | None
    errors: str | None
    max_output: int | None
    on_limit: Literal["fail", "truncate", "kill"] | None
    max_line: int | None
    tee_stdout: Descriptor | None
    tee_stderr: Descriptor | None
