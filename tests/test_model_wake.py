"""The wake-up protocol as a Spin model: no state in which somebody sleeps for ever; and each mutation has one."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

MODEL = Path(__file__).resolve().parent / "model" / "wake.pml"
CC = os.environ.get("CC", "cc").split()

pytestmark = [
    pytest.mark.skipif(not shutil.which("spin"), reason="spin is missing"),
    pytest.mark.skipif(not shutil.which(CC[0]), reason="there is no C compiler here"),
]


def check(directory, *defines, optimise="-O1"):
    """How many errors spin finds, and how many states it has seen."""
    flags = [f"-D{each}" for each in defines]
    subprocess.run(["spin", *flags, "-a", str(MODEL)], cwd=directory, check=True, capture_output=True, timeout=60)
    subprocess.run(
        [*CC, optimise, "-w", "-DSAFETY", "-o", "pan", "pan.c"],
        cwd=directory,
        check=True,
        capture_output=True,
        timeout=120,
    )
    done = subprocess.run(["./pan", "-m100000"], cwd=directory, capture_output=True, text=True, check=True, timeout=60)
    assert "max search depth too small" not in done.stdout
    errors, states = (re.search(pattern, done.stdout) for pattern in (r"errors: (\d+)", r"(\d+) states, stored"))
    assert errors, done.stdout
    assert states, done.stdout
    return int(errors[1]), int(states[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "bounds",
    [
        ["WAITERS=1", "RECORDS=4"],
        ["WAITERS=2", "RECORDS=3"],
        ["WAITERS=3", "RECORDS=1"],
        ["KILL", "WAITERS=1", "RECORDS=4"],
        ["KILL", "WAITERS=2", "RECORDS=3"],
        ["KILL", "WAITERS=3", "RECORDS=1"],
        ["BARRIER", "WAITERS=1", "RECORDS=4"],
        ["BARRIER", "WAITERS=2", "RECORDS=3"],
        ["BARRIER", "WAITERS=3", "RECORDS=1"],
        ["BARRIER", "KILL", "WAITERS=2", "RECORDS=2"],
        ["WANTS", "WAITERS=1", "RECORDS=4"],
        ["BARRIER", "WANTS", "WAITERS=1", "RECORDS=4"],
        ["BARRIER", "WANTS", "KILL", "WAITERS=1", "RECORDS=3"],
    ],
    ids=" ".join,
)
def test_nobody_sleeps_for_ever(tmp_path, bounds):
    errors, states = check(tmp_path, *bounds)
    assert errors == 0
    assert states > 100


@pytest.mark.slow
@pytest.mark.parametrize(
    "mutation",
    ["PLAIN_STORE", "NO_LOOK", "STORE_BIT", "WAKE_ONE", "CLEAR_AFTER_WAKE", "NO_COUNT", "COUNT_FIRST", "NO_COMPARE"],
)
def test_a_mutation_is_found(tmp_path, mutation):
    assert check(tmp_path, "WAITERS=3", mutation, optimise="-O0")[0] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "mutation", ["NO_BARRIER", "BARRIER_FIRST", "BARRIER_LAST", "NO_LOOK", "CLEAR_AFTER_WAKE", "NO_COUNT", "NO_COMPARE"]
)
def test_a_mutation_of_the_barrier_is_found(tmp_path, mutation):
    assert check(tmp_path, "BARRIER", "WAITERS=3", mutation, optimise="-O0")[0] > 0


@pytest.mark.slow
@pytest.mark.parametrize("mutation", ["SAYS_LATE", "NO_BARRIER", "BARRIER_LAST", "NO_LOOK", "NO_COMPARE"])
def test_a_mutation_of_what_is_wanted_is_found(tmp_path, mutation):
    assert check(tmp_path, "BARRIER", "WANTS", "WAITERS=1", mutation, optimise="-O0")[0] > 0
