"""The only importer of the C extension.

Owns the two modules of the shared object: `ffi` and `lib` (cffi; every call releases the GIL) and `fast` (calls too
short for that). Tells the core where the exec trampoline is. Deliberately has no wrappers: those live with their
subject.
"""

from __future__ import annotations

import errno
import os
from importlib.machinery import ExtensionFileLoader, ModuleSpec

from corelane import _native
from corelane.errors import CallFailed, NotSupported

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any


__all__ = ["PLATFORM", "check", "fast", "ffi", "lib"]

ffi: Any = _native.ffi
lib: Any = _native.lib


def _load_fast() -> Any:
    # A second PyInit in the same shared object, so that it shares the first one's globals. Not through importlib.util,
    # whose import would take a quarter of this package's.
    path = str(_native.__file__)
    loader = ExtensionFileLoader("corelane._fast", path)
    module = loader.create_module(ModuleSpec("corelane._fast", loader, origin=path))
    loader.exec_module(module)
    return module


fast: Any = _load_fast()

PLATFORM: str = {lib.CL_PLATFORM_LINUX: "linux", lib.CL_PLATFORM_PORTABLE: "portable"}.get(lib.cl_platform(), "darwin")


def check(rc: int, what: str) -> int:
    """Return `rc` if it is no error, else raise.

    Args:
        rc: what a function of the core returned: >= 0, or -errno.
        what: the object and what was asked of it, for the message.

    Raises:
        NotSupported: the platform lacks it (ENOSYS, ENOTSUP).
        CallFailed: any other errno.
    """
    if rc >= 0:
        return rc
    number = -rc
    if number in (errno.ENOSYS, errno.ENOTSUP):
        raise NotSupported(f"{what}: this platform has no such call ({os.strerror(number)})")
    raise CallFailed(number, f"{what}: {os.strerror(number)}")


check(
    lib.cl_set_trampoline(os.fsencode(os.path.join(os.path.dirname(str(_native.__file__)), "_exec"))),
    "the exec trampoline's path",
)
