"""Finds and builds the contenders that are not Python: the raw C baseline and the Rust peers.

The sources are those of the checkout (`benchmarks/c`, `benchmarks/peers/rust`) or a copy beside this module;
the environment variables CORELANE_BENCH_C and CORELANE_BENCH_RUST name other directories. What is built is
kept in a cache directory under a name made of the sources and the compiler, so it is built once and never
stale; CORELANE_BENCH_BUILD moves it. Nothing is downloaded: cargo runs offline.

Owns: that cache directory. It deliberately raises nothing for a missing tool: what cannot be built is left
out and the reason is told to `notice`, for a benchmark without its C baseline is still worth something.
"""

import atexit
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

Notice = Callable[[str], None]

HERE = Path(__file__).resolve().parent
DEBIAN_CRATES = Path("/usr/share/cargo/registry")
BUILD_SECONDS = 300.0

START = ["-static", "-nostdlib", "-fno-builtin", "-fno-stack-protector", "-DTINY_START"]
"""Flags for a program without a libc; where they do not work the plain program is built."""


class BuildFailed(Exception):
    """A compiler is missing or refused; the message says which and what it said."""


@dataclass(frozen=True)
class Native:
    """Programs in C: two children, the baseline server that spawns them, who takes part in the ping-pong, and the
    baselines of messages: in plain C, and by the core itself (None where its sources are not here).
    """

    tiny: Path
    tiny_out: Path
    floor: Path
    pingpong: Path
    ipc_floor: Path | None = None
    ipc_core: Path | None = None


def _directory(variable: str, in_checkout: str, beside: str) -> Path | None:
    """The directory of sources: from the environment, the checkout, or beside this module; None where there
    is none.
    """
    if os.environ.get(variable):
        return Path(os.environ[variable])
    checkout = HERE.parents[3] / "benchmarks" / in_checkout if len(HERE.parents) > 3 else None
    return next((path for path in (checkout, HERE / beside) if path is not None and path.is_dir()), None)


def _cache(kind: str, sources: Sequence[Path], extra: str) -> Path:
    """A directory for what is built of exactly these sources and `extra` (the compiler); made where it is
    missing.
    """
    digest = hashlib.sha256(extra.encode())
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    name = f"{kind}-{digest.hexdigest()[:16]}"
    try:
        root = os.environ.get("CORELANE_BENCH_BUILD")
        if not root:
            root = os.path.join(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "corelane", "bench")
        path = Path(root) / name
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # a read-only or an unknown home
        path = Path(tempfile.mkdtemp(prefix="corelane-bench-"))
        atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def _call(argv: Sequence[str], cwd: Path | None = None) -> None:
    """Runs a build command; raises BuildFailed with the first line that looks like its reason."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=BUILD_SECONDS, cwd=cwd)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildFailed(f"{argv[0]}: {error}") from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = next(
            (line for line in lines if "error" in line.lower()), lines[-1] if lines else f"status {done.returncode}"
        )
        raise BuildFailed(f"{Path(argv[0]).name}: {reason}")


def compiler() -> list[str] | None:
    """The C compiler as argv: $CC, or the first of cc, gcc and clang that is there; None without one."""
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    found = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    return [found] if found else None


def _build_once(output: Path, argv: Sequence[str]) -> None:
    """Builds `output` if it is not there, under a name of its own first: a second harness never runs half a
    program.
    """
    if not output.exists():
        partial = output.with_name(f"{output.name}.{os.getpid()}")
        _call([*argv, "-o", str(partial)])
        partial.replace(output)


def _compile(cc: Sequence[str], flags: Sequence[str], output: Path, sources: Sequence[Path]) -> None:
    _build_once(output, [*cc, "-O2", "-std=gnu11", *flags, *map(str, sources)])


def _compile_child(cc: Sequence[str], output: Path, source: Path) -> None:
    """A child without a libc where that works, else the plain program."""
    try:
        _compile(cc, START, output, [source])
    except BuildFailed:
        _compile(cc, [], output, [source])


def build_native(notice: Notice) -> Native | None:
    """Builds the programs in C; None, with a notice, where they cannot be had."""
    directory = _directory("CORELANE_BENCH_C", "c", "c")
    cc = compiler()
    if directory is None or cc is None:
        missing = "no C compiler" if cc is None else "the C sources are not here (set CORELANE_BENCH_C)"
        notice(f"{missing}: no raw C baseline, and /bin/true stands in for the tiny child")
        return None
    platform = "darwin" if sys.platform == "darwin" else "linux"
    sources = sorted([*directory.glob("*.c"), *directory.glob("*.h")])
    try:
        cache = _cache("c", sources, " ".join(cc))
        _compile_child(cc, cache / "tiny", directory / "tiny.c")
        _compile_child(cc, cache / "tiny_out", directory / "tiny_out.c")
        floor_sources = [directory / "spawn_floor.c", *sorted(directory.glob(f"floor_*{platform}.c"))]
        _compile(cc, ["-pthread"], cache / "spawn_floor", floor_sources)
        _compile(cc, [], cache / "pingpong", [directory / "pingpong.c"])
    except (BuildFailed, OSError) as error:
        notice(f"the raw C baseline does not build: {error}")
        return None
    return Native(cache / "tiny", cache / "tiny_out", cache / "spawn_floor", cache / "pingpong")


def build_ipc(native: Native, notice: Notice) -> Native:
    """The same with the baselines of messages, which only that subject needs: with a notice, without them."""
    directory, cc = _directory("CORELANE_BENCH_C", "c", "c"), compiler()
    assert directory is not None
    assert cc is not None
    floor, core = native.tiny.with_name("ipc_floor"), None
    try:
        _compile(cc, [], floor, [directory / "ipc_floor.c"])
    except (BuildFailed, OSError) as error:
        notice(f"the raw C baseline of messages does not build: {error}")
        return native
    listing = directory.parents[1] / "csrc" / "native_build.py"
    try:
        if not listing.is_file():
            raise BuildFailed("the sources of the core are not here")
        core = _build_core(cc, directory, listing)
    except (BuildFailed, OSError) as error:
        notice(f"the C core alone is left out: {error}")
    return replace(native, ipc_floor=floor, ipc_core=core)


def _build_core(cc: Sequence[str], directory: Path, listing: Path) -> Path:
    root = listing.parents[1]

    def told(what: str) -> list[str]:
        asked = [sys.executable, str(listing), what]
        return subprocess.run(asked, check=True, capture_output=True, text=True, timeout=60).stdout.split()

    sources = [root / name for name in told("--sources")]
    program = directory / "ipc_core.c"
    headers = sorted([*listing.parent.glob("*.h"), *listing.parent.glob("api/*.h"), directory / "ipc.h"])
    output = _cache("ipc", [program, *sources, *headers], " ".join(cc)) / "ipc_core"
    # Its flags, without what is said already and what is for those who change it.
    flags = [flag for flag in told("--flags") if not flag.startswith(("-W", "-O", "-std"))]
    _compile(cc, [*flags, f"-I{listing.parent}"], output, [program, *sources])
    return output


def _build_crates(directory: Path, cache: Path) -> dict[str, Path]:
    """Builds duct's and tokio's server in a copy of the sources (cargo writes beside its manifest)."""
    project = cache / "project"
    shutil.copytree(directory, project, dirs_exist_ok=True, ignore=shutil.ignore_patterns("target", "Cargo.lock"))
    argv = ["cargo", "build", "--release", "--offline", "--quiet"]
    if DEBIAN_CRATES.is_dir():
        argv += ["--config", 'source.crates-io.replace-with="debian"']
        argv += ["--config", f'source.debian.directory="{DEBIAN_CRATES}"']
    _call(argv, cwd=project)
    release = project / "target" / "release"
    return {name: release / f"peer_{name}" for name in ("duct", "tokio")}


def crate_versions(binary: Path) -> str:
    """duct x.y.z, tokio x.y.z" of a peer built here, from the lock file beside it; "" where there is none."""
    lock = binary.parents[2] / "Cargo.lock"
    if not lock.is_file():
        return ""
    lines = lock.read_text().splitlines()
    versions = {lines[i].split('"')[1]: lines[i + 1].split('"')[1] for i in range(len(lines)) if "name =" in lines[i]}
    return ", ".join(f"{name} {versions[name]}" for name in ("duct", "tokio") if name in versions)


def build_rust(notice: Notice, *, may_wait: bool) -> dict[str, Path]:
    """The Rust peers that can be had: a server's path for each of std, duct and tokio.

    std needs rustc alone and takes a second. duct and tokio need cargo and their crates on this machine, and
    the first time some ten seconds or more: with `may_wait` false they are used only where they were built
    before.
    """
    directory = _directory("CORELANE_BENCH_RUST", "peers/rust", "rust")
    rustc = shutil.which("rustc")
    if directory is None or rustc is None:
        missing = "no rustc" if rustc is None else "the sources are not here (set CORELANE_BENCH_RUST)"
        notice(f"Rust std, duct and tokio are skipped: {missing}")
        return {}
    sources = sorted([directory / "Cargo.toml", *directory.glob("src/**/*.rs")])
    cache = _cache("rust", sources, rustc)
    found: dict[str, Path] = {}
    try:
        source = directory / "src" / "bin" / "peer_std.rs"
        _build_once(cache / "peer_std", [rustc, "-O", "--edition", "2021", "--crate-name", "peer_std", str(source)])
        found["std"] = cache / "peer_std"
    except BuildFailed as error:
        notice(f"Rust std is skipped: {error}")
    crates = {name: cache / "project" / "target" / "release" / f"peer_{name}" for name in ("duct", "tokio")}
    if all(path.exists() for path in crates.values()):
        return found | crates
    if not may_wait:
        notice("duct and tokio are not built yet: a run without --quick builds them")
    elif shutil.which("cargo") is None:
        notice("duct and tokio are skipped: no cargo")
    else:
        try:
            found |= _build_crates(directory, cache)
        except (BuildFailed, OSError) as error:
            advice = "on Debian: apt install librust-duct-dev librust-tokio-dev"
            notice(f"duct and tokio are skipped: {error} ({advice})")
    return found
