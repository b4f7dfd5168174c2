"""Parsers of single values: each takes an option's name and what the caller wrote, and returns its immutable, hashable
normal form, or raises TypeError or ValueError with the name, the value, and what would be right.

Owns nothing and looks at nothing but its argument.
"""

from __future__ import annotations

import codecs
import os
import resource
import signal as _signal
import sys
from collections.abc import Callable, Iterable, Mapping

from corelane._values import integer

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any


def text(name: str, value: Any) -> str | bytes:
    """A str, bytes or path that the kernel can be given: without NUL, and in the file system's encoding."""
    if not isinstance(value, (str, bytes, os.PathLike)):
        raise TypeError(f"{name} must be str, bytes or a path, not {value!r} ({type(value).__name__})")
    plain: str | bytes = os.fspath(value)
    if ("\0" if isinstance(plain, str) else b"\0") in plain:  # type: ignore[operator]
        raise ValueError(f"{name} has a NUL character, which the kernel would take for its end: {plain!r}")
    if isinstance(plain, str) and not plain.isascii():
        try:
            os.fsencode(plain)
        except UnicodeEncodeError:
            encoding = sys.getfilesystemencoding()
            raise ValueError(f"{name} cannot be written in {encoding}: {plain!r}; give it as bytes") from None
    return plain


_OF_SUBPROCESS = {-1: "PIPE", -2: "STDOUT", -3: "DEVNULL"}


def descriptor(name: str, value: Any) -> int | Any:
    """A descriptor's number as it is, or an object with fileno(), kept to be asked at the run."""
    if isinstance(value, bool) or (isinstance(value, int) and not 0 <= value < 2**31):
        theirs = _OF_SUBPROCESS.get(value)
        hint = f"; if that is subprocess.{theirs}: here it is corelane.{theirs}" if theirs else ""
        raise ValueError(f"{name} must be a descriptor, not {value!r}{hint}")
    if hasattr(value, "getvalue"):
        raise TypeError(
            f"{name} cannot be {value!r}: it is memory of ours, which no other process can read or write; "
            "feed its contents as stdin=, and capture output with capture=True"
        )
    if hasattr(value, "segment") and type(value).__module__.startswith("corelane.shm."):
        # A Ring and its like have a fileno(), but that is their bell's.
        raise TypeError(
            f"{name} cannot be {value!r:.80} ({type(value).__name__}) itself: pass on the segment that it is in, "
            "fds={3: it.segment}, and attach that in the child"
        )
    if not isinstance(value, int) and not callable(getattr(value, "fileno", None)):
        raise TypeError(f"{name} must be a descriptor or have fileno(), not {value!r:.80} ({type(value).__name__})")
    return value


def signal_number(name: str, value: Any) -> int:
    """A signal by number, name ("TERM", "SIGTERM") or member of signal.Signals."""
    if isinstance(value, str):
        member = getattr(_signal, value if value.startswith("SIG") else f"SIG{value}", None)
        if not isinstance(member, _signal.Signals):
            raise ValueError(f"{name}: there is no signal named {value!r}")
        return int(member)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a signal, not {value!r}")
    if not 1 <= value < _signal.NSIG:
        raise ValueError(f"{name}: there is no signal {value}")
    return int(value)


def signal_set(changeable: bool) -> Callable[[str, Any], tuple[int, ...]]:
    def parse(name: str, value: Any) -> tuple[int, ...]:
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise TypeError(f"{name} must be a collection of signals, not {value!r}")
        numbers = tuple(sorted({signal_number(name, each) for each in value}))
        for number in numbers:
            if changeable and number in (_signal.SIGKILL, _signal.SIGSTOP):
                raise ValueError(f"{name}: nothing can change what {_signal.Signals(number).name} does")
        return numbers

    return parse


def limits(name: str, value: Any) -> tuple[tuple[str, int, int], ...]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping like {{'nofile': 64}}, not {value!r}")
    found = []
    for key, bounds in value.items():
        if not isinstance(key, str) or not hasattr(resource, f"RLIMIT_{key.upper()}"):
            known = sorted(n[7:].lower() for n in dir(resource) if n.startswith("RLIMIT_"))
            raise ValueError(f"{name}: there is no limit {key!r}; there are {', '.join(known)}")
        soft, hard = bounds if isinstance(bounds, (tuple, list)) and len(bounds) == 2 else (bounds, bounds)
        pair = [_limit_value(f"{name}[{key!r}]", bound) for bound in (soft, hard)]
        if pair[0] > pair[1]:
            raise ValueError(f"{name}[{key!r}]: the soft limit {soft} is above the hard limit {hard}")
        found.append((key.lower(), pair[0], pair[1]))
    return tuple(sorted(found))


def _limit_value(name: str, value: Any) -> int:
    if value in ("unlimited", resource.RLIM_INFINITY):
        return 2**64 - 1
    return integer(0, 2**63 - 1)(name, value)


def fd_map(name: str, value: Any) -> tuple[tuple[int, Any], ...]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must map the child's numbers to descriptors of ours, not {value!r}")
    pairs = []
    for target, source in value.items():
        if isinstance(target, bool) or not isinstance(target, int) or not 3 <= target < 2**31:
            raise ValueError(f"{name}: {target!r} is no number from 3 up (0, 1 and 2 are stdin, stdout and stderr)")
        pairs.append((target, descriptor(f"{name}[{target}]", source)))
    return tuple(sorted(pairs, key=lambda pair: pair[0]))


def _variable(name: str, key: Any) -> bytes:
    plain = os.fsencode(text(f"{name}: a variable's name", key))
    if not plain or b"=" in plain:
        raise ValueError(f"{name}: a variable's name cannot be empty or have '=': {key!r}")
    return plain


def environment(name: str, value: Any) -> tuple[tuple[bytes, bytes], ...]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping of strings, not {value!r}")
    return tuple(
        sorted((_variable(name, key), os.fsencode(text(f"{name}[{key!r}]", each))) for key, each in value.items())
    )


def variables(name: str, value: Any) -> tuple[bytes, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a collection of names, not the single {value!r}")
    return tuple(sorted({_variable(name, key) for key in value}))


def account(name: str, value: Any) -> str | int:
    return value if isinstance(value, str) and value else integer(0, 2**32 - 2)(name, value)


def accounts(name: str, value: Any) -> tuple[str | int, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a collection of groups, not {value!r}")
    return tuple(account(name, each) for each in value)


def death_signal(name: str, value: Any) -> int:
    if isinstance(value, bool):
        return int(_signal.SIGKILL) if value else 0
    return signal_number(name, value)


def program(name: str, value: Any) -> str | bytes:
    program = text(name, value)
    if not program:
        raise ValueError(f"{name} is an empty string")
    return program


def directory(name: str, value: Any) -> str | bytes | int:
    return int(descriptor(name, value)) if isinstance(value, int) else text(name, value)


def per_stream(name: str, value: Any) -> tuple[int, int, int]:
    size = integer(1, 2**31 - 1)
    if not isinstance(value, Mapping):
        return (size(name, value),) * 3
    unknown = set(value) - {"stdin", "stdout", "stderr"}
    if unknown:
        raise ValueError(f"{name}: {sorted(unknown)} are no streams")
    stdin, stdout, stderr = (
        size(f"{name}[{stream!r}]", value[stream]) if stream in value else 0 for stream in ("stdin", "stdout", "stderr")
    )
    return stdin, stdout, stderr


def word(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {value!r}")
    return value


def encoding(name: str, value: Any) -> str:
    try:
        "".encode(word(name, value))
    except LookupError:
        raise ValueError(f"{name}: Python knows no encoding {value!r}") from None
    return str(value)


def error_handler(name: str, value: Any) -> str:
    try:
        codecs.lookup_error(word(name, value))
    except LookupError:
        raise ValueError(f"{name}: Python knows no error handler {value!r}") from None
    return str(value)
