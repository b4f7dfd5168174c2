"""Thread budgets: how many threads the numeric libraries of children and of this process are to start.

Owns what it changed, from `limit_threads` to `restore`: variables of the environment and, through threadpoolctl where
that is installed, the pools of libraries that are loaded. Both belong to the whole process, not to a thread.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import MutableMapping

from corelane._values import integer
from corelane.cpu.counting import count
from corelane.cpu.lists import MOST_CPUS

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

__all__ = ["ThreadLimit", "limit_threads", "thread_environment"]

# Libraries that start a thread for each CPU that they see, inside of whatever program uses them. Deliberately not here:
# OMP_THREAD_LIMIT, which takes threads even from a program that asks for a number of them by itself;
# NUMBA_NUM_THREADS, which Numba reads again later, and raises if its threads run;
# GOMAXPROCS, which is of whole programs, and those look at the affinity and the quota themselves.
_NAMES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS",
)
_DUPLICATES = "KMP_DUPLICATE_LIB_OK"  # which threadpoolctl sets when it is imported


def thread_environment(n: int | None = None) -> dict[str, str]:
    """The variables that numeric libraries read when they are loaded, for `env_add=` of a child.

    Args:
        n: threads; None for `count()`.

    Raises:
        TypeError, ValueError: `n` is no number from 1.
    """
    return dict.fromkeys(_NAMES, str(_checked(n)))


def limit_threads(n: int | None = None, *, environ: MutableMapping[str, str] | None = None) -> ThreadLimit:
    """Let the numeric libraries (OpenMP, OpenBLAS, MKL, BLIS, Accelerate, NumExpr, Rayon, Polars) use `n` threads.

    Those that are loaded later, and those of children, read it in the environment. Those that are loaded already take
    it through threadpoolctl, if that is installed (`libraries` of what is returned says which did). The limit is the
    whole process's, not the calling thread's.

    Args:
        n: threads; None for `count()`.
        environ: change this mapping only, and nothing of the running process.

    Returns:
        What restores it all: by `restore()`, or at the end of a `with` block. It stays if neither happens.

    Raises:
        TypeError, ValueError: `n` is no number from 1.
    """
    limit = ThreadLimit(_checked(n), environ)
    limit._apply()
    return limit


def _checked(n: Any) -> int:
    return count() if n is None else integer(1, MOST_CPUS)("n", n)


class ThreadLimit:
    """What `limit_threads` changed.

    Attributes:
        n: threads.
        before: the variables as they were; None for one that was not there.
        libraries: the files of the loaded libraries that obey now; None where threadpoolctl is not installed, or was
            not asked: then those keep their threads.
    """

    def __init__(self, n: int, environ: MutableMapping[str, str] | None) -> None:
        self.n = n
        self._environ = os.environ if environ is None else environ
        self._is_ours = environ is None
        self.before: dict[str, str | None] = {}
        self.libraries: tuple[str, ...] | None = None
        self._pools: Any = None

    def _apply(self) -> None:
        try:
            for name, value in thread_environment(self.n).items():
                self.before[name] = self._environ.get(name)
                self._environ[name] = value
            if self._is_ours:
                self._limit_loaded()
        except BaseException:
            self.restore()
            raise

    def _limit_loaded(self) -> None:
        duplicates = self._environ.get(_DUPLICATES)
        try:
            threadpoolctl = importlib.import_module("threadpoolctl")
        except ImportError:
            return
        if self._environ.get(_DUPLICATES) != duplicates:
            self.before[_DUPLICATES] = duplicates
        self._pools = threadpoolctl.threadpool_limits(self.n)
        found = threadpoolctl.threadpool_info()
        self.libraries = tuple(each["filepath"] for each in found if each["num_threads"] <= self.n)

    def restore(self) -> None:
        """Put back what was there, once: limits within limits are to be restored the last one first."""
        before, self.before = self.before, {}
        for name, value in before.items():
            if value is None:
                self._environ.pop(name, None)
            else:
                self._environ[name] = value
        pools, self._pools = self._pools, None
        if pools is not None:
            pools.restore_original_limits()

    def __enter__(self) -> ThreadLimit:
        return self

    def __exit__(self, *exc: object) -> None:
        self.restore()

    def __repr__(self) -> str:
        if self.libraries is None:
            why = "threadpoolctl is not installed" if self._is_ours else "another environment"
            return f"<ThreadLimit of {self.n}: what is loaded already keeps its threads ({why})>"
        return f"<ThreadLimit of {self.n}: {len(self.libraries)} of the loaded libraries obey>"
