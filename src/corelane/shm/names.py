"""Where segments with a name lie, and what a name may be.

Owns nothing. A name is a file of that directory with a prefix of ours, so that what lies around can be found.
"""

from __future__ import annotations

import os
import re

from corelane._ffi import ffi, lib

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["DIRECTORY", "PREFIX", "entries", "path_of"]

DIRECTORY: str = os.fsdecode(ffi.string(lib.cl_segment_directory()))
PREFIX = "corelane."
_NAME = re.compile(r"[A-Za-z0-9._+-]+")
_LONGEST = 255 - len(PREFIX)  # NAME_MAX


def path_of(name: Any) -> str:
    """The path of a segment's file.

    Raises:
        TypeError: the name is not a str. ValueError: it is empty, too long, or has other characters than ASCII letters,
            digits and any of "._+-".
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, not {name!r} ({type(name).__name__})")
    if not _NAME.fullmatch(name):
        raise ValueError(f"name must be of ASCII letters, digits and any of ._+- and have at least one, not {name!r}")
    if len(name) > _LONGEST:
        raise ValueError(f"name must have at most {_LONGEST} characters, not {len(name)}: {name[:20]!r}...")
    return os.path.join(DIRECTORY, PREFIX + name)


def entries() -> Iterator[tuple[str, str]]:
    """(name, path) of each file that has a name of ours, sorted; whether it is a segment is another question.

    What begins as one and is none that `path_of` takes is not ours: anybody may put a file there.
    """
    try:
        found = sorted(each for each in os.listdir(DIRECTORY) if each.startswith(PREFIX))
    except FileNotFoundError:
        return
    for each in found:
        name = each.removeprefix(PREFIX)
        if _NAME.fullmatch(name):
            yield name, os.path.join(DIRECTORY, each)
