"""Where a child's streams come from and go to: PIPE, DEVNULL, STDOUT, File, and the parsers for them. Owns nothing: a
File is opened anew at each run, by whoever packs the command for it."""

from __future__ import annotations

import os

from corelane._values import flag
from corelane.process.values import descriptor, text

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

__all__ = ["DEVNULL", "PIPE", "STDOUT", "File", "Redirection", "is_opened", "is_plain", "stderr", "stdin", "stdout"]


class Redirection:
    """PIPE, DEVNULL and STDOUT: compared by identity, also after pickling."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"corelane.{self._name}"

    def __reduce__(self) -> str:
        return self._name


PIPE = Redirection("PIPE")
DEVNULL = Redirection("DEVNULL")
STDOUT = Redirection("STDOUT")


class File:
    """A file as a child's stream, opened anew at each run. Immutable and hashable.

    Args:
        path: where it is; relative to the directory of *this* process.
        append: add to what is there, instead of truncating it.
    """

    __slots__ = ("append", "path")

    path: str | bytes
    append: bool

    def __init__(self, path: str | bytes | os.PathLike[Any], append: bool = False) -> None:
        object.__setattr__(self, "path", text("path", path))
        object.__setattr__(self, "append", flag("append", append))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("a File is immutable")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, File) and (self.path, self.append) == (other.path, other.append)

    def __hash__(self) -> int:
        return hash((self.path, self.append))

    def __reduce__(self) -> tuple[Any, ...]:
        return File, (self.path, self.append)

    def __repr__(self) -> str:
        return f"File({self.path!r}{', append=True' if self.append else ''})"


def is_opened(value: Any) -> bool:
    """Whether it is opened anew at each run: a File, or a segment of shared memory, which this floor does not know."""
    return isinstance(value, File) or hasattr(value, "_open_stream")


def is_plain(value: Any) -> bool:
    """Whether an option's value means the same in another process, unlike a file object."""
    if isinstance(value, tuple):
        return all(map(is_plain, value))
    return isinstance(value, (str, bytes, int, float, File, Redirection))


def stdin(name: str, value: Any) -> Any:
    """What stdin accepts: any stream, and bytes, str or a batch of bytes to be fed."""
    if isinstance(value, (str, bytes)):
        return value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, (list, tuple)):
        pieces = tuple(bytes(each) for each in value if isinstance(each, (bytes, bytearray, memoryview)))
        if len(pieces) != len(value):
            raise TypeError(f"{name}: a batch must be of bytes-like pieces, not {value!r}")
        return pieces
    if value is STDOUT:
        raise ValueError(f"{name} cannot be STDOUT; that is for stderr")
    return stderr(name, value)


def stderr(name: str, value: Any) -> Any:
    """What stderr accepts: PIPE, DEVNULL, STDOUT, a File or path, a descriptor or file object."""
    if isinstance(value, (Redirection, File)):
        return value
    if isinstance(value, os.PathLike):
        return File(value)
    if isinstance(value, (str, bytes)):
        raise TypeError(f"{name}: to use the file {value!r} give pathlib.Path({value!r}), or File(..., append=True)")
    return descriptor(name, value)


def stdout(name: str, value: Any) -> Any:
    """What stdout accepts: any stream but STDOUT."""
    if value is STDOUT:
        raise ValueError("stdout cannot be STDOUT; that is for stderr, and means: wherever stdout goes")
    return stderr(name, value)
