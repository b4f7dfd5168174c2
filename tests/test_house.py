"""The rules of the house: what ARCHITECTURE.md promises about the whole, each as a test."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import corelane
from corelane import _ffi, _native

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
CC = os.environ.get("CC", "cc").split()

_spec = importlib.util.spec_from_file_location("native_build", CSRC / "native_build.py")
native_build = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(native_build)

COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)
# A declaration ends at the first semicolon outside braces.
PIECE = re.compile(rf"(?P<comment>{COMMENT.pattern})|(?P<code>(?:[^;{{}}/]|\{{[^}}]*\}})+;)", re.S)


def run(*argv, **options):
    """The output of a command; a failure shows what it printed."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout}{done.stderr}"
    return done.stdout


def complaints(compiler, *flags, source):
    """What the compiler has to say about a source."""
    argv = [*compiler, *flags, f"-I{CSRC}", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-"]
    return subprocess.run(argv, input=source, capture_output=True, text=True, check=False).stderr


def tokens(text):
    return re.findall(r"\w+|[^\w\s]", COMMENT.sub(" ", text))


def prototypes(text):
    """(name, the comment right before it) of each function declared in a header."""
    comment = ""
    for piece in PIECE.finditer(text):
        if piece["comment"]:
            comment = piece["comment"]
        else:
            function = re.match(r"(?!typedef)[\w\s*]*?\b(cl_\w+)\s*\(", piece["code"].strip())
            if function:
                yield function[1], comment
            comment = ""


# ---- C and Python read the same declarations ----


def test_cffi_reads_what_the_compiler_sees():
    """A macro of a system header can change a declaration after cffi has read its text."""
    seen, here = [], False
    for line in run(*CC, "-E", f"-I{CSRC}", str(CSRC / "corelane.h")).splitlines():
        marker = re.match(r'#(?:line)? \d+ "(.*?)"', line)
        if marker:
            here = Path(marker[1]).parent == CSRC / "api"
        elif here:
            seen.append(line)
    assert tokens("\n".join(seen)) == tokens(native_build.cdef())


def test_the_extension_has_every_function_of_the_headers():
    """Catches an extension that was built from older headers, and a name that slipped past cffi."""
    declared = {name for name, _ in prototypes(native_build.cdef())}
    assert declared
    lib = _ffi.lib
    assert declared == {name for name in dir(lib) if callable(getattr(lib, name))}


def test_this_is_the_build_that_was_asked_for():
    lib = _ffi.lib
    native = lib.CL_PLATFORM_DARWIN if sys.platform == "darwin" else lib.CL_PLATFORM_LINUX
    assert lib.cl_platform() == (lib.CL_PLATFORM_PORTABLE if native_build.PORTABLE else native)


@pytest.mark.parametrize("header", sorted((CSRC / "api").glob("*.h")), ids=lambda path: path.name)
def test_an_api_header_says_all_a_caller_needs(header):
    text = header.read_text()
    assert f"csrc/api/{header.name}" in native_build.API, "cdef() does not read it"
    assert not re.search(r"^\s*#", text, re.M), "only declarations: cffi has no preprocessor"
    silent = [name for name, comment in prototypes(text) if "Blocks:" not in comment or "Threads:" not in comment]
    assert not silent, "their comments lack 'Blocks:' or 'Threads:'"


@pytest.mark.parametrize("header", sorted(CSRC.glob("*.h")), ids=lambda path: path.name)
def test_a_header_stands_alone(header):
    assert complaints(CC, "-xc", "-std=gnu11", source=f'#include "{header.name}"\n') == ""


def test_the_public_header_is_strict_c11():
    assert complaints(CC, "-xc", "-std=c11", "-pedantic", source='#include "corelane.h"\n') == ""


@pytest.mark.skipif(not shutil.which("c++"), reason="there is no C++ compiler here")
def test_the_public_header_is_cpp():
    assert complaints(["c++"], "-xc++", "-pedantic", source='#include "corelane.h"\n') == ""


# ---- what is built ----


def test_the_extension_exports_its_two_modules_and_nothing_else():
    """The core's names must not meet those of another library in the same process."""
    external = ["-gU"] if sys.platform == "darwin" else ["-D", "--defined-only"]
    lines = run("nm", *external, _native.__file__).splitlines()
    # The linker's own marks; some toolchains export them from every shared object.
    marks = {"_init", "_fini", "_edata", "_end", "__bss_start"}
    names = {line.split()[-1].split("@")[0] for line in lines} - marks
    prefix = "_" if sys.platform == "darwin" else ""
    assert names == {prefix + "PyInit__native", prefix + "PyInit__fast"}


def test_the_trampoline_lies_beside_the_extension():
    assert os.access(Path(_native.__file__).with_name("_exec"), os.X_OK)


def test_the_sources_in_the_list_are_the_sources_there_are():
    """A file that no build names would be compiled by nobody."""
    listed = {*native_build.COMMON, *native_build.SYSTEM.values(), *native_build.PYTHON}
    listed.update(native_build.trampoline(), *native_build.PLATFORM.values())
    assert listed == {str(path.relative_to(ROOT)) for path in CSRC.rglob("*.c")}


# ---- who imports whom ----


def test_imports_go_down_only():
    """The floors are the layers contract in pyproject.toml."""
    linter = "import sys; from importlinter.cli import lint_imports_command as lint; lint(['--no-cache'])"
    assert "1 kept, 0 broken" in run(sys.executable, "-c", linter, cwd=ROOT)


def test_only_ffi_touches_the_extension():
    """By any road: an import statement, or the module's name given to a loader."""
    guilty = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        if path.name == "_ffi.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module or ''}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names = [node.value] if re.fullmatch(r"[\w.]+", node.value) else []
            else:
                continue
            if any(part in ("_native", "_fast") for name in names for part in name.split(".")):
                guilty.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not guilty


def test_import_is_cheap():
    """A command line tool pays for every module on every start."""
    heavy = {"numpy", "psutil", "asyncio", "click", "rich", "subprocess"}
    code = "import sys; before = set(sys.modules); import corelane; print(*set(sys.modules) - before)"
    loaded = set(run(sys.executable, "-c", code).split())
    assert "corelane" in loaded
    assert not loaded & heavy


def test_every_exported_name_exists():
    """`__all__` and what is loaded on first use are two lists; neither may promise what the other lacks."""
    assert [name for name in corelane.__all__ if not hasattr(corelane, name)] == []
    assert set(corelane.__all__) <= set(dir(corelane))


# ---- what the repository may not say ----


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout: nothing tells our files from others")
def test_no_file_names_a_registry_host_or_a_private_path():
    """Whoever builds this may use a mirror; where the files once lay is nobody's business."""
    # In pieces, so that this file is no exception to its own rule.
    hosts = [("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("crates", "io"), ("deb", "debian")]
    forbidden = re.compile("|".join([*(rf"{a}\.{b}" for a, b in hosts), "/" + "work" + "/"]))
    # A container that mounts the checkout is not its owner, and git would refuse.
    git = ["git", "-c", "safe.directory=*", "-C", str(ROOT)]
    guilty = []
    for name in run(*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        path = ROOT / name
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            guilty += [f"{name}: {found[0]}" for found in forbidden.finditer(text)]
    assert not guilty


@pytest.mark.parametrize("package", ["cpu", "process", "shm", "cli"])
def test_every_module_is_on_the_map(package):
    known = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    names = {path.name for path in (ROOT / "src" / "corelane" / package).glob("*.py")} - {"__init__.py"}
    assert [name for name in sorted(names) if f"`{name}`" not in known] == []


def test_platform_is_a_file_and_not_an_if():
    """Conditions stand in sys_*.c and in headers' guards; elsewhere only a constant that old headers lack is given, and
    python/ asks about Python. Nowhere inside a function."""
    free = {"internal.h", "corelane.h", "atomic.h", "queue.h", "wake.h"}
    for path in sorted([*(ROOT / "csrc").rglob("*.c"), *(ROOT / "csrc").rglob("*.h")]):
        lines = path.read_text().splitlines()
        inside = False
        for number, line in enumerate(lines):
            inside = line == "{" or (inside and line != "}")
            if not line.lstrip().startswith(("#if", "#el")):
                continue
            where = f"{path.name}:{number + 1}: {line}"
            assert not inside, where
            if path.name.startswith("sys_") or path.name in free or path.parent.name == "python":
                continue
            name = line.removeprefix("#ifndef ")
            if path.suffix == ".h" and lines[number + 1] == f"#define {name}" and lines[-1] == "#endif":
                continue  # a header's guard
            assert lines[number + 1].startswith(f"#define {name} "), where
            assert lines[number + 2] == "#endif", where
