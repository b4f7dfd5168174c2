"""What the C core is made of: its files, its flags, and how cffi reads its headers.

This is the one place that lists them. cffi calls `ffibuilder()`, setup.py builds the trampoline from it, and
tests/c/Makefile asks it on the command line, so importing it may need no more than the standard library:

    python csrc/native_build.py --sources [--portable]     the core's C files
    python csrc/native_build.py --trampoline               the trampoline's C files
    python csrc/native_build.py --flags                    the compiler flags

Paths are relative to the root of the repository, and so is every build.

Two variables of the environment change a build. CORELANE_PORTABLE=1 takes the files that need only POSIX, so
that Linux can run the whole suite against them; CORELANE_WERROR=1 makes warnings errors.
"""

import argparse
import os
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PORTABLE = os.environ.get("CORELANE_PORTABLE", "") not in ("", "0")

# The order in which both the C compiler (through corelane.h) and cdef() read the public declarations.
API = [
    "csrc/api/system.h",
    "csrc/api/spawn.h",
    "csrc/api/process.h",
    "csrc/api/run.h",
    "csrc/api/batch.h",
    "csrc/api/files.h",
    "csrc/api/notify.h",
    "csrc/api/measure.h",
    "csrc/api/load.h",
    "csrc/api/cpu.h",
    "csrc/api/segment.h",
    "csrc/api/wait.h",
    "csrc/api/queue.h",
    "csrc/api/broadcast.h",
    "csrc/api/ring.h",
    "csrc/api/eventfd.h",
    "csrc/api/deque.h",
    "csrc/api/buffers.h",
    "csrc/api/sync.h",
]

COMMON = [
    "csrc/spawn.c",
    "csrc/spawn_child.c",
    "csrc/spawn_posix.c",
    "csrc/spawn_wire.c",
    "csrc/spawn_paths.c",
    "csrc/report.c",
    "csrc/flight.c",
    "csrc/spawner.c",
    "csrc/stdio.c",
    "csrc/environ.c",
    "csrc/opened.c",
    "csrc/process.c",
    "csrc/cgroup.c",
    "csrc/run.c",
    "csrc/buffer.c",
    "csrc/batch.c",
    "csrc/batch_slots.c",
    "csrc/batch_timers.c",
    "csrc/batch_start.c",
    "csrc/batch_step.c",
    "csrc/batch_pipeline.c",
    "csrc/files.c",
    "csrc/notify.c",
    "csrc/measure.c",
    "csrc/load.c",
    "csrc/cpu.c",
    "csrc/segment.c",
    "csrc/members.c",
    "csrc/queue.c",
    "csrc/queue_object.c",
    "csrc/queue_wait.c",
    "csrc/broadcast.c",
    "csrc/broadcast_object.c",
    "csrc/wake.c",
    "csrc/wait_any.c",
    "csrc/bell.c",
    "csrc/ring.c",
    "csrc/ring_wait.c",
    "csrc/eventfd.c",
    "csrc/segment_stream.c",
    "csrc/deque.c",
    "csrc/deque_object.c",
    "csrc/buffers.c",
    "csrc/buffers_object.c",
    "csrc/sync.c",
    "csrc/sync_lock.c",
    "csrc/sync_semaphore.c",
    "csrc/sync_event.c",
    "csrc/sync_barrier.c",
]
# Platform is a file, not an #if: the build picks one column.
SYSTEM = {"linux": "csrc/sys_linux.c", "darwin": "csrc/sys_darwin.c"}
PLATFORM = {
    "linux": [
        "csrc/clone_linux.c",
        "csrc/flight_linux.c",
        "csrc/exit_linux.c",
        "csrc/others_walk.c",
        "csrc/poller_epoll.c",
        "csrc/fd_linux.c",
        "csrc/lease_linux.c",
        "csrc/memory_linux.c",
        "csrc/bell_pipe.c",
        "csrc/wake_linux.c",
    ],
    "portable": [
        "csrc/clone_none.c",
        "csrc/flight_none.c",
        "csrc/exit_posix.c",
        "csrc/exit_portable.c",
        "csrc/others_walk.c",
        "csrc/poller_poll.c",
        "csrc/fd_linux.c",
        "csrc/files_portable.c",
        "csrc/lease_files.c",
        "csrc/memory_files.c",
        "csrc/hidden_files.c",
        "csrc/bell_fifo.c",
        "csrc/wake_none.c",
        "csrc/wake_naps.c",
    ],
    "darwin": [
        "csrc/clone_none.c",
        "csrc/flight_none.c",
        "csrc/exit_posix.c",
        "csrc/exit_darwin.c",
        "csrc/others_darwin.c",
        "csrc/poller_poll.c",
        "csrc/fd_none.c",
        "csrc/files_darwin.c",
        "csrc/lease_files.c",
        "csrc/memory_files.c",
        "csrc/hidden_files.c",
        "csrc/bell_fifo.c",
        "csrc/wake_darwin.c",
        "csrc/wake_naps.c",
    ],
}
# A second module in the same shared object, for calls too short to release the GIL around.
PYTHON = [
    "csrc/python/fast.c",
    "csrc/python/fast_kept.c",
    "csrc/python/fast_object.c",
    "csrc/python/fast_queue.c",
    "csrc/python/fast_broadcast.c",
    "csrc/python/fast_ring.c",
    "csrc/python/fast_deque.c",
    "csrc/python/fast_buffers.c",
    "csrc/python/fast_sync.c",
]

FLAGS = [
    "-std=gnu11",
    # For clone() and its constants; said once, so that no file depends on the order of its includes.
    "-D_GNU_SOURCE",
    "-O2",
    "-pthread",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    # These three are never just a warning: each lets a wrong call compile and return wrong values.
    "-Werror=implicit-function-declaration",
    "-Werror=incompatible-pointer-types",
    "-Werror=int-conversion",
]


def system() -> str:
    """The name of the system in the file names: linux or darwin."""
    if sys.platform not in SYSTEM:
        raise SystemExit(f"corelane has no {sys.platform} files: it builds on Linux and macOS")
    return sys.platform


def sources(portable: bool = PORTABLE) -> list[str]:
    """The C files of the core, which knows nothing of Python."""
    variant = "portable" if portable and system() == "linux" else system()
    return [*COMMON, SYSTEM[system()], *PLATFORM[variant]]


def trampoline() -> list[str]:
    """The C files of the small program that does what posix_spawn has no attribute for, then execs."""
    return ["csrc/trampoline.c", "csrc/spawn_child.c", "csrc/spawn_wire.c", "csrc/report.c", SYSTEM[system()]]


def headers() -> list[str]:
    """Everything whose change means a rebuild: all headers, and this file, which holds the flags."""
    found = sorted((ROOT / "csrc").rglob("*.h"))
    return [*(str(path.relative_to(ROOT)) for path in found), "csrc/native_build.py"]


def flags() -> list[str]:
    """The compiler flags of every C file here."""
    werror = os.environ.get("CORELANE_WERROR", "") not in ("", "0")
    return [*FLAGS, *(["-Werror"] if werror else [])]


def limited_api() -> bool:
    """Whether this interpreter takes the stable ABI; before 3.15 the free-threaded ones have none."""
    return not sysconfig.get_config_var("Py_GIL_DISABLED")


def cdef() -> str:
    """The declarations that cffi reads: the very text that the compiler includes."""
    return "\n".join((ROOT / name).read_text(encoding="utf-8") for name in API)


def ffibuilder():
    """The cffi builder of `corelane._native` (setup.py: cffi_modules)."""
    from cffi import FFI

    ffi = FFI()
    ffi.cdef(cdef())
    ffi.set_source(
        "corelane._native",
        '#include "corelane.h"',
        sources=[*sources(), *PYTHON],
        depends=headers(),
        include_dirs=["csrc"],
        # Set here rather than in fast.c, so that both modules of the shared object are held to the same ABI.
        define_macros=[("Py_LIMITED_API", "0x030b0000")] if limited_api() else [],
        extra_compile_args=flags(),
        extra_link_args=["-pthread"] if system() == "linux" else [],
    )
    return ffi


def main() -> None:
    """Print one of the lists, for a Makefile."""
    parser = argparse.ArgumentParser(description="lists what the C core is built from")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--sources", action="store_true", help="the core's C files")
    what.add_argument("--trampoline", action="store_true", help="the trampoline's C files")
    what.add_argument("--flags", action="store_true", help="the compiler flags")
    parser.add_argument("--portable", action="store_true", default=PORTABLE, help="the portable variant of --sources")
    args = parser.parse_args()
    print(*(sources(args.portable) if args.sources else trampoline() if args.trampoline else flags()))


if __name__ == "__main__":
    main()
