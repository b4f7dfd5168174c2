"""Snapshots of the environment, for children that inherit it: it must not change under the C core.

Owns nothing; a snapshot belongs to the engine or the spawn that made it.
"""

from __future__ import annotations

import os
import sys

from corelane._ffi import check, fast, ffi, lib

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["capture", "new_snapshot"]

_POINTER, _STRINGS, _CHARS = ffi.typeof("cl_environ *"), ffi.typeof("char *[]"), ffi.typeof("char[]")


def new_snapshot() -> tuple[Any, int]:
    """An empty snapshot and its address, for `capture`."""
    made = ffi.new("cl_environ **")
    check(lib.cl_environ_new(made), "an environment snapshot")
    return ffi.gc(made[0], lib.cl_environ_free), int(ffi.cast("uintptr_t", made[0]))


def capture_os_environ(address: int) -> None:
    """Fill the snapshot at `address` from `os.environ`, which Python itself keeps whole between threads."""
    environ = os.environb
    pairs = [(name, environ.get(name)) for name in list(environ)]
    chars = [ffi.new(_CHARS, name + b"=" + value) for name, value in pairs if value is not None]
    check(lib.cl_environ_load(ffi.cast(_POINTER, address), ffi.new(_STRINGS, [*chars, ffi.NULL])), "a snapshot")


# Fill the snapshot at an address. The GIL keeps os.environ's setenv(3) from moving C's table while C copies it; without
# a GIL only Python's own copy can be read while other threads write.
capture: Callable[[int], None] = (
    fast.capture_environ if getattr(sys, "_is_gil_enabled", lambda: True)() else capture_os_environ
)
