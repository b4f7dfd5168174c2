"""Thread budgets: what libraries read in the environment, and the pools of those that are loaded."""

import os
import sys
import threading

import pytest
from helpers import script

import corelane as cl
from corelane import cpu

NAMES = {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"} | {
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS",
}


def test_what_a_child_is_given():
    assert cpu.thread_environment(3) == dict.fromkeys(NAMES, "3")
    assert cpu.thread_environment() == dict.fromkeys(NAMES, str(cpu.count()))
    code = "import os; print(os.environ['OMP_NUM_THREADS'])"
    assert cl.read([sys.executable, "-c", code], env_add=cpu.thread_environment(3)) == "3\n"


def test_it_restores_exactly(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")  # one a level: not a number
    before = dict(os.environ)
    with cpu.limit_threads(2) as outer:
        assert {os.environ[name] for name in NAMES} == {"2"}
        with cpu.limit_threads(1):
            assert os.environ["OMP_NUM_THREADS"] == "1"
        assert os.environ["OMP_NUM_THREADS"] == "2"
        assert outer.n == 2
    assert dict(os.environ) == before
    outer.restore()  # a second time changes nothing
    assert dict(os.environ) == before


def test_what_threadpoolctl_sets_when_it_is_imported_goes_too():
    code = """
import json, os
from corelane import cpu
os.environ.pop("KMP_DUPLICATE_LIB_OK", None)
before = dict(os.environ)
with cpu.limit_threads(1):
    pass
print(json.dumps(dict(os.environ) == before))
"""
    assert script(code) is True


def test_it_restores_after_an_error(monkeypatch):
    before = dict(os.environ)
    with pytest.raises(LookupError), cpu.limit_threads(1):
        raise LookupError
    assert dict(os.environ) == before


def test_it_says_whom_it_reached():
    code = """
import json, sys
from corelane import cpu
with cpu.limit_threads(1) as limit:
    said = [repr(limit)]
sys.modules["threadpoolctl"] = None
with cpu.limit_threads(1) as limit:
    print(json.dumps([*said, repr(limit)]))
"""
    there, absent = script(code)
    assert there == "<ThreadLimit of 1: 0 of the loaded libraries obey>"
    assert absent == "<ThreadLimit of 1: what is loaded already keeps its threads (threadpoolctl is not installed)>"


def test_it_stays_without_a_block():
    code = """
import json, os
from corelane import cpu
cpu.limit_threads(2)
print(json.dumps(os.environ["OMP_NUM_THREADS"]))
"""
    assert script(code) == "2"


def test_a_child_inherits_it():
    with cpu.limit_threads(1):
        assert cl.read(["printenv", "OMP_NUM_THREADS"]).strip() == "1"


def test_another_mapping_alone():
    before = dict(os.environ)
    environ = {"OMP_NUM_THREADS": "7", "HOME": "/"}
    limit = cpu.limit_threads(2, environ=environ)
    assert environ == {**dict.fromkeys(NAMES, "2"), "HOME": "/"}
    assert limit.libraries is None
    assert repr(limit) == "<ThreadLimit of 2: what is loaded already keeps its threads (another environment)>"
    assert dict(os.environ) == before
    limit.restore()
    assert environ == {"OMP_NUM_THREADS": "7", "HOME": "/"}


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", True])
def test_no_number_of_threads(n):
    before = dict(os.environ)
    for function in (cpu.limit_threads, cpu.thread_environment):
        with pytest.raises((TypeError, ValueError), match="n must be"):
            function(n)
    assert dict(os.environ) == before


def test_a_mapping_that_refuses_is_left_as_it_was():
    class Refusing(dict):
        def __setitem__(self, name, value):
            if name == "MKL_NUM_THREADS":
                raise KeyError(name)
            super().__setitem__(name, value)

    environ = Refusing(HOME="/")
    with pytest.raises(KeyError):
        cpu.limit_threads(2, environ=environ)
    assert environ == {"HOME": "/"}


def test_a_loaded_library_really_changes():
    """NumPy's own OpenBLAS has one thread inside of the block, which the kernel's count of threads shows too."""
    threadpoolctl = pytest.importorskip("threadpoolctl", reason="threadpoolctl is not installed")
    import numpy

    def threads():
        pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
        return {pool["filepath"]: pool["num_threads"] for pool in pools}

    before = threads()
    if not before:
        pytest.skip("this NumPy has no BLAS that threadpoolctl knows")
    with threadpoolctl.threadpool_limits(2):
        two = threads()
        with cpu.limit_threads(1) as limit:
            assert set(threads().values()) == {1}
            assert set(before) <= set(limit.libraries)
            assert numpy.allclose(numpy.ones((64, 64)) @ numpy.ones((64, 64)), 64)
        assert threads() == two  # exactly what was there, not what the library began with
    assert threads() == before


def test_a_library_that_is_loaded_later_reads_it():
    code = """
import json
from corelane import cpu
cpu.limit_threads(1)
import numpy
tasks = __import__("os").listdir("/proc/self/task") if __import__("sys").platform == "linux" else [1]
print(json.dumps(len(tasks)))
"""
    assert script(code) == 1


def test_without_threadpoolctl_the_environment_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    with cpu.limit_threads(1) as limit:
        assert limit.libraries is None
        assert os.environ["OMP_NUM_THREADS"] == "1"


def test_it_starts_no_thread():
    before = threading.active_count()
    with cpu.limit_threads(1):
        assert threading.active_count() == before
