"""What every benchmark file needs: the children, built once, and the ways to spawn them.

`make bench` runs all of it; `pytest benchmarks --benchmark-disable` runs each operation once, as CI does. The
figures of these files are for comparing one change with the next on one machine; the ratios that corelane
promises come from `corelane bench`, which measures by the protocol of README.md.
"""

from collections.abc import Callable

import pytest

from corelane.cli.bench import worker
from corelane.cli.bench.contenders import Available


@pytest.fixture(scope="session")
def available() -> Available:
    """The children and the C baseline; skips where no C compiler is there to build them."""
    found = Available.load(rust=False, may_wait=False)
    if found.native is None:
        pytest.skip(found.notices[0])
    return found


@pytest.fixture(scope="session")
def tiny(available: Available) -> str:
    """The path of a static program that only exits."""
    return available.tiny


@pytest.fixture(scope="session")
def tiny_out(available: Available) -> str:
    """The path of a static program that writes a few bytes to stdout and to stderr."""
    return available.tiny_out


@pytest.fixture
def spawner() -> Callable[[str, str], Callable[[], object]]:
    """spawner(mode, program) gives the function that spawns once; the modes are those of the harness's
    worker.
    """

    def make(mode: str, program: str) -> Callable[[], object]:
        spawn = worker.sync_contender(mode, program)
        assert spawn is not None, f"the worker knows no contender {mode!r}"
        return spawn

    return make
