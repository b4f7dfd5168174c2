"""Who is measured: every contender by name, with what must be there for it to run.

Owns nothing. `Available.load()` builds what needs building once; the lists below then say who takes part in
which table and in which order. A contender whose tool or package is missing is left out with a notice; one of
corelane's own is never left out.
"""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from corelane.cli.bench import toolchain
from corelane.cli.bench.protocol import Contender

Notice = Callable[[str], None]

WORKER = str(Path(__file__).with_name("worker.py"))

OUR_DEFAULTS = "clone_pidfd+sigmask+group+close_fds+death_signal"
"""What corelane does for every run unless told otherwise, in raw C: a pidfd, an empty signal mask, a process group of
its own, no descriptor left to inherit, death with the parent."""

# The floor of a table comes first, then ours, then Python's, then Rust's.
WAIT_TABLE = (
    "c.vfork", *([f"c.{OUR_DEFAULTS}"] if sys.platform == "linux" else []), "c.posix_spawn",
    "corelane", "corelane_cold", "corelane_on_asyncio", "corelane_on_uvloop",
    "os.posix_spawn", "subprocess", "asyncio_on_asyncio", "asyncio_on_uvloop",
    "rust.std", "rust.duct", "rust.tokio_current", "rust.tokio_multi",
)  # fmt: skip
CAPTURE_TABLE = (
    "c.capture",
    "corelane_capture", "corelane_on_asyncio_capture", "corelane_on_uvloop_capture",
    "subprocess_capture", "asyncio_on_asyncio_capture", "asyncio_on_uvloop_capture",
    "rust.std_output", "rust.duct_read", "rust.tokio_current_output", "rust.tokio_multi_output",
)  # fmt: skip

_PYTHON = {
    "corelane": "corelane Command.run()",
    "corelane_cold": "corelane cl.run([...])",
    "corelane_capture": "corelane capture=True",
    "os.posix_spawn": "os.posix_spawn + waitpid",
    "subprocess": "subprocess.run",
    "subprocess_capture": "subprocess.run, captured",
    "corelane_on_asyncio": "corelane run_async",
    "corelane_on_asyncio_capture": "corelane run_async, captured",
    "corelane_on_asyncio_hold": "corelane run_async",
    "corelane_on_uvloop": "corelane run_async, uvloop",
    "corelane_on_uvloop_capture": "corelane run_async, uvloop",
    "corelane_on_uvloop_hold": "corelane run_async, uvloop",
    "asyncio_on_asyncio": "asyncio exec + wait",
    "asyncio_on_asyncio_capture": "asyncio exec + communicate",
    "asyncio_on_asyncio_hold": "asyncio exec",
    "asyncio_on_uvloop": "uvloop exec + wait",
    "asyncio_on_uvloop_capture": "uvloop exec + communicate",
    "asyncio_on_uvloop_hold": "uvloop exec",
}

_RUST = {
    "rust.std": ("std", "status", "Rust std status"),
    "rust.std_output": ("std", "output", "Rust std output"),
    "rust.duct": ("duct", "run", "Rust duct run"),
    "rust.duct_read": ("duct", "read", "Rust duct read (stdout)"),
    "rust.tokio_current": ("tokio", "current/status", "Rust tokio status, 1 thread"),
    "rust.tokio_multi": ("tokio", "multi/status", "Rust tokio status, threads"),
    "rust.tokio_current_output": ("tokio", "current/output", "Rust tokio output, 1 thread"),
    "rust.tokio_multi_output": ("tokio", "multi/output", "Rust tokio output, threads"),
}

_C = {
    "vfork": "raw C vfork",
    "posix_spawn": "raw C posix_spawn",
    "fork": "raw C fork",
    "clone_pidfd": "raw C clone + pidfd",
    OUR_DEFAULTS: "raw C, our defaults",
    "capture": "raw C vfork, pipes, poll",
}


def python_contender(mode: str, label: str = "") -> Contender:
    """A Python contender: `mode` is one of worker.py's, ours where it begins with corelane."""
    return Contender(
        mode, label or _PYTHON[mode], (sys.executable, "-P", WORKER), mode, ours=mode.startswith("corelane")
    )


def _needs_uvloop(key: str) -> bool:
    return "uvloop" in key


@dataclass
class Available:
    """What is available on this machine, and the programs that are spawned."""

    native: toolchain.Native | None
    rust: dict[str, Path]
    notices: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, *, rust: bool, may_wait: bool) -> "Available":
        """Builds what can be built. `rust` false leaves Rust out; `may_wait` allows the build that takes
        longest.
        """
        notices: list[str] = []
        native = toolchain.build_native(notices.append)
        peers = toolchain.build_rust(notices.append, may_wait=may_wait) if rust else {}
        return cls(native, peers, notices)

    @property
    def tiny(self) -> str:
        """The child that only exits, or /bin/true where there is no compiler."""
        return str(self.native.tiny) if self.native else self.true

    @property
    def tiny_out(self) -> str:
        """The child that writes four bytes to stdout and to stderr."""
        return str(self.native.tiny_out) if self.native else self.true

    @property
    def true(self) -> str:
        """The system's own `true`: a small program as most are, with a dynamic linker to run."""
        return next(path for path in ("/bin/true", "/usr/bin/true") if Path(path).exists())

    def c(self, mode: str, label: str = "") -> Contender | None:
        """The raw C baseline in one of its modes; None where it was not built."""
        if self.native is None:
            return None
        return Contender(f"c.{mode}", label or _C[mode], (str(self.native.floor),), mode)

    def find(self, key: str) -> Contender | None:
        """The contender of that key; None where it is not to be had here."""
        if key.startswith("c."):
            return self.c(key[2:])
        if key.startswith("rust."):
            binary, mode, label = _RUST[key]
            return Contender(key, label, (str(self.rust[binary]),), mode) if binary in self.rust else None
        if _needs_uvloop(key) and importlib.util.find_spec("uvloop") is None:
            return None
        return python_contender(key)

    def many(self, labels: dict[str, str]) -> list[Contender]:
        """The contenders of these keys for many at once, with their labels, where they are to be had. A key is the
        contender and its mode.
        """
        found = []
        for key, label in labels.items():
            kind, _, mode = key.partition("/")
            if key.startswith("c."):
                one = self.c(key[2:], label)
            elif key.startswith("rust."):
                binary = self.rust.get(kind[5:])
                one = None if binary is None else Contender(key, label, (str(binary),), mode)
            elif _needs_uvloop(kind) and importlib.util.find_spec("uvloop") is None:
                one = None
            else:
                one = python_contender(key, label)
            found += [] if one is None else [one]
        return found

    def table(self, keys: tuple[str, ...]) -> list[Contender]:
        """The contenders of these keys that are to be had, in order; notes uvloop's absence once."""
        found = {key: self.find(key) for key in keys}
        missing = "uvloop is skipped: not installed"
        if any(_needs_uvloop(key) and one is None for key, one in found.items()) and missing not in self.notices:
            self.notices.append(missing)
        return [one for one in found.values() if one is not None]

    def versions(self) -> dict[str, str]:
        """The versions of what is compared with, for the report's header."""
        lines = {}
        if "tokio" in self.rust:
            lines["Rust crates"] = toolchain.crate_versions(self.rust["tokio"])
        if importlib.util.find_spec("uvloop") is not None:
            from importlib.metadata import version

            lines["uvloop"] = version("uvloop")
        return lines
