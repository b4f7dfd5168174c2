"""The options of a command: their names, what each accepts, and the one form each is kept in.

Owns no resources. Everything is checked here, before anything is started, and turned into an immutable, hashable
value, so that two commands with the same options are equal however those were written. What depends on the moment of
the run (opening a path, the environment, the terminal) is not done here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from corelane import _values
from corelane.cpu import lists, policies
from corelane.process import redirect, retry, values
from corelane.process.redirect import PIPE

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

__all__ = ["check_together", "normalise"]

# name -> parser. None always means "not given" and is dropped, so every option has a way back to its default.
_PARSERS: dict[str, Callable[[str, Any], Any]] = {
    # where and as what
    "program": values.program,
    "cwd": values.directory,
    "env": values.environment,
    "env_add": values.environment,
    "env_remove": values.variables,
    "umask": _values.integer(0, 0o777),
    "user": values.account,
    "group": values.account,
    "extra_groups": values.accounts,
    "no_new_privs": _values.flag,
    # descriptors
    "stdin": redirect.stdin,
    "stdout": redirect.stdout,
    "stderr": redirect.stderr,
    "fds": values.fd_map,
    "close_others": _values.flag,
    "pipe_size": values.per_stream,
    "buffer_size": values.per_stream,
    # groups, terminal, scope
    "process_group": _values.integer(0, 2**31 - 1),
    "new_session": _values.flag,
    "controlling_terminal": values.descriptor,
    "foreground": _values.flag,
    "contain": _values.choice("auto", "group", "cgroup", "none"),
    "cgroup": values.text,
    "die_with_parent": values.death_signal,
    # signals
    "signal_mask": values.signal_set(False),
    "signal_defaults": values.signal_set(True),
    "signal_ignores": values.signal_set(True),
    # resources
    "rlimits": values.limits,
    "nice": policies.nice,
    "sched": policies.scheduler,
    "reset_on_fork": _values.flag,
    "uclamp": policies.uclamp,
    "cpus": lists.cpu_list,
    "io_priority": policies.io_priority,
    "memory_policy": policies.memory_policy,
    "autogroup": policies.nice,
    "best_effort": _values.flag,
    "oom_score_adj": _values.integer(-1000, 1000),
    # how
    "strategy": _values.choice("auto", "clone3", "vfork", "posix_spawn", "fork"),
    # the run
    "capture": _values.flag,
    "check": _values.flag,
    "timeout": _values.seconds,
    "retry": retry.option,
    "grace": _values.seconds,
    "drain": _values.seconds,
    "encoding": values.encoding,
    "errors": values.error_handler,
    "max_output": _values.integer(0, 2**62),
    "on_limit": _values.choice("fail", "truncate", "kill"),
    "max_line": _values.integer(1, 2**62),
    "tee_stdout": values.descriptor,
    "tee_stderr": values.descriptor,
}


def normalise(given: Mapping[str, Any], kept: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Check options and bring each into its one immutable form.

    Args:
        given: options by name, as the caller wrote them. None takes an option back to its default.
        kept: options in their normal form that hold beside those given.

    Returns:
        Those that are set, the kept ones among them. "auto" for `contain` and `strategy` is the default and dropped.

    Raises:
        TypeError, ValueError: an unknown name, a wrong type or value, or options that contradict each other; the
            message names the option and what it would take.
    """
    options: dict[str, Any] = {**kept} if kept else {}
    for name, value in given.items():
        parser = _PARSERS.get(name)
        if parser is None:
            raise TypeError(f"there is no option {name!r}{_nearest(name)}")
        options.pop(name, None)
        if value is not None and (parsed := parser(name, value)) is not None:
            options[name] = parsed
    if options:
        check_together(options)
    return options


# What people who know subprocess write first.
_ELSEWHERE = {
    "capture_output": "capture=True",
    "max_workers": "concurrency= of run_many",
    "shell": "Command.shell(text)",
    "text": "encoding=, or Result.text",
    "universal_newlines": "encoding=, or Result.text",
    "input": "stdin=, which takes bytes and text",
    "pass_fds": "fds={number: descriptor}",
    "close_fds": "close_others=",
    "preexec_fn": "the options that do in C what it was for: cwd, umask, rlimits, nice, cpus, ...",
    "start_new_session": "new_session=True",
    "bufsize": "buffer_size=",
    "executable": "program=",
    "restore_signals": "signal_defaults=",
}


def _nearest(name: str) -> str:
    import difflib

    if name in _ELSEWHERE:
        return f"; here that is {_ELSEWHERE[name]}"
    near = difflib.get_close_matches(name, _PARSERS, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def check_together(options: dict[str, Any]) -> None:
    def has(name: str) -> bool:
        return bool(options.get(name))

    def refuse(what: str) -> None:
        raise ValueError(what)

    if has("new_session") and "process_group" in options:
        refuse("new_session makes a group of its own: process_group cannot be given with it")
    if has("foreground") and (has("new_session") or options.get("process_group")):
        refuse("foreground needs a group of the child's own in our session: no new_session, no process_group")
    if "controlling_terminal" in options and not has("new_session"):
        refuse("controlling_terminal needs new_session=True: only a session leader without a terminal can take one")
    if "autogroup" in options and not has("new_session"):
        refuse("autogroup needs new_session=True: it is a session's, so it would be changed for ours, too")
    if "reset_on_fork" in options and "sched" not in options:
        refuse("reset_on_fork goes with a policy: give sched= too")
    if options.get("contain") in ("group", "cgroup") and options.get("process_group"):
        refuse(
            f"contain={options['contain']!r} would kill all of process_group {options['process_group']}, "
            "which is not only the child's; give one of the two"
        )
    if has("capture") and "stdout" in options and "stderr" in options:
        refuse("capture=True makes PIPE of those of stdout and stderr that are not given: here both are")
    if "env" in options and ("env_add" in options or "env_remove" in options):
        refuse("env replaces the environment; env_add and env_remove change the inherited one: give either")
    both = dict(options.get("env_add", ())).keys() & set(options.get("env_remove", ()))
    if both:
        refuse(f"env_add and env_remove both name {os.fsdecode(min(both))!r}")
    both = set(options.get("signal_defaults", ())) & set(options.get("signal_ignores", ()))
    if both:
        refuse(f"signal_defaults and signal_ignores both name signal {min(both)}")
    forks = [name for name in ("user", "group", "extra_groups") if name in options]
    if forks and options.get("strategy") in ("clone3", "vfork"):
        refuse(f"{forks[0]} needs strategy 'fork': on a shared address space it would change this process too")
    for name in ("tee_stdout", "tee_stderr"):
        if name in options and options.get(name[4:], PIPE if has("capture") else None) is not PIPE:
            refuse(f"{name} copies what is captured: it needs capture=True or {name[4:]}=PIPE")
