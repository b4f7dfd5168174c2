"""What importing costs: corelane beside the modules of the standard library it stands in for.

Owns the interpreters it starts, one for each sample (a module is imported once in a process), and for the
length of a run a directory of their bytecode: every module comes compiled, also where the environment forbids
writing bytecode. The time is taken inside, around the import statement: the interpreter's own start is not in
it.
"""

import os
import subprocess
import sys
import tempfile

from corelane.cli.bench.protocol import Contender, Round, Series
from corelane.cli.bench.report import Section, Target
from corelane.cli.bench.spawn import Watch

MODULES = ("asyncio", "corelane", "subprocess", "multiprocessing.pool", "concurrent.futures.process")

_TIMED = "import time; start = time.perf_counter_ns(); import {}; print(time.perf_counter_ns() - start)"


def bytecode_environment(directory: str) -> dict[str, str]:
    """The environment of an interpreter that keeps its bytecode in `directory`, whatever this one was told."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": directory}


def _import_ns(module: str, environment: dict[str, str]) -> int:
    """Nanoseconds to import `module` in a fresh interpreter; raises CalledProcessError where that fails."""
    argv = [sys.executable, "-c", _TIMED.format(module)]
    return int(subprocess.run(argv, capture_output=True, check=True, text=True, env=environment).stdout)


def section(rounds: int, count: int, watch: Watch) -> Section:
    """Measures every module `count` times a round, in turn; a first import of each compiles it."""
    title = "import in a fresh interpreter"
    on_round = watch(title, rounds * len(MODULES))
    series = {name: Series(Contender(name, f"import {name}", (), "", ours=name == "corelane")) for name in MODULES}
    with tempfile.TemporaryDirectory(prefix="corelane-bench-") as directory:
        environment = bytecode_environment(directory)
        for name in MODULES:
            _import_ns(name, environment)
        for number in range(rounds):
            first = number % len(MODULES)
            for name in MODULES[first:] + MODULES[:first]:
                samples = tuple(_import_ns(name, environment) for _ in range(count))
                series[name].rounds.append(Round(samples, sum(samples), 0))
                on_round(series[name], number)
    return Section("import", title, "asyncio", "corelane", series)


def targets(found: Section) -> list[Target]:
    """The promise: half of asyncio's import at most."""
    return [Target("import corelane vs import asyncio", 0.5, found.ratio("corelane", "asyncio"))]
