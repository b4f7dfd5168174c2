"""Models of what processes do with shared memory, checked by Spin in every order of steps there is. Each model must
hold, and each of its mutations must be found: else the model would prove nothing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

MODELS = Path(__file__).resolve().parent / "model"
FULL = os.environ.get("CORELANE_FULL", "") not in ("", "0")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("spin"), reason="there is no spin here (Debian and Ubuntu: apt install spin)"),
    pytest.mark.skipif(not shutil.which("gcc"), reason="there is no gcc here, which spin's output is made for"),
]

# So few slots and so many records that a walk could be longer than it may be.
TOMBSTONES = "CONSUMERS=1 INDEXES=3 SLOTS=1 FIRST_PUTS=7 SECOND_PUTS=0 CANCELS"
# model, what it is checked with
HOLDS = [
    ("queue", "CONSUMERS=1 INDEXES=3 KILLS=2"),
    ("queue", "CONSUMERS=1 INDEXES=3 KILLS=2 AT_MOST_ONCE"),
    ("queue", "CONSUMERS=1 INDEXES=2 KILLS=2 JOIN_LATE"),
    ("queue", "CONSUMERS=2 INDEXES=3 KILLS=2 FIRST_PUTS=1 SECOND_PUTS=0"),
    ("queue", "CONSUMERS=1 INDEXES=3 KILLS=0 CANCELS"),
    ("queue", f"KILLS=1 {TOMBSTONES}"),
    ("ring", "KILLS=0"),
    ("ring", "KILLS=0 ONE_PRODUCER ONE_CONSUMER"),
    ("ring", "KILLS=2 FIRST=1 RECORDS=2 AT_ONCE=1 ONE_CONSUMER"),
    ("ring", "KILLS=2 RECORDS=2 ONE_PRODUCER"),
    ("deque", "STAYS=1 THIEVES=1 KILLS=2"),
    ("deque", "STAYS=1 THIEVES=1 KILLS=1 AT_MOST_ONCE"),
    ("deque", "STAYS=1 THIEVES=2 KILLS=0"),
    ("deque", "STAYS=1 SUCCESSOR THIEVES=1 KILLS=1 PUSHES=2 POPS=1"),
    ("deque", "STAYS=0 SUCCESSOR THIEVES=1 KILLS=1 PUSHES=2 POPS=1"),
    ("broadcast", "KILLS=2 SECOND=0"),
    ("broadcast", "KILLS=2 FIRST=SKIP SECOND=0"),
    ("broadcast", "KILLS=2 FIRST=EVICT SECOND=0"),
    ("broadcast", "KILLS=1 SECOND=BLOCK INDEXES=1"),
    ("broadcast", "KILLS=0 SECOND=SKIP"),
    ("lock", "KILLS=0 INDEXES=2 ROUNDS=2"),
    ("lock", "KILLS=0 INDEXES=3"),
    ("lock", "KILLS=2"),
    ("barrier", "KILLS=0 RESETS=0 GIVES_UP=0"),
    ("barrier", "KILLS=0 RESETS=1 GIVES_UP=0 ROUNDS=1"),
    ("barrier", "KILLS=0 RESETS=0 GIVES_UP=1 ROUNDS=1"),
    ("barrier", "KILLS=1 RESETS=1 GIVES_UP=1 PROCESSES=2"),
    ("barrier", "KILLS=1 RESETS=0 GIVES_UP=0 ROUNDS=1"),
]
HOLDS_BUT_TAKES_LONG = [
    ("queue", "CONSUMERS=2 KILLS=1 FIRST_PUTS=1"),
    ("queue", "CONSUMERS=2 KILLS=2 FIRST_PUTS=1"),
    ("queue", "CONSUMERS=2 INDEXES=3 KILLS=2 JOIN_LATE FIRST_PUTS=1 SECOND_PUTS=0"),
    ("queue", "CONSUMERS=1 INDEXES=3 KILLS=2 CANCELS"),
    ("queue", "CONSUMERS=1 INDEXES=3 KILLS=0 SLOTS=1 FIRST_PUTS=4 SECOND_PUTS=3 CANCELS"),
    ("queue", f"KILLS=2 {TOMBSTONES}"),
    ("ring", "KILLS=1 FIRST=1 RECORDS=2"),
    ("ring", "KILLS=1"),
    ("ring", "KILLS=2 ONE_CONSUMER"),
    ("ring", "KILLS=2 FIRST=3 ONE_PRODUCER"),
    ("ring", "KILLS=2 CAPACITY=1 ROOM=1 FIRST=1 RECORDS=2 AT_ONCE=1"),
    ("deque", "STAYS=1 THIEVES=2 KILLS=1 PUSHES=2"),
    ("deque", "STAYS=0 SUCCESSOR THIEVES=1 KILLS=2 PUSHES=2 POPS=1"),
    ("broadcast", "KILLS=1 SECOND=SKIP"),
    ("broadcast", "KILLS=1 SECOND=EVICT"),
    ("broadcast", "KILLS=2 SECOND=BLOCK INDEXES=1"),
    ("lock", "KILLS=0 INDEXES=3 ROUNDS=2"),
    ("lock", "KILLS=2 INDEXES=3"),
    ("barrier", "KILLS=0 RESETS=1 GIVES_UP=1 ROUNDS=1"),
    ("barrier", "KILLS=1 RESETS=1 GIVES_UP=0 ROUNDS=1"),
    ("barrier", "KILLS=1 RESETS=0 GIVES_UP=0"),
    ("barrier", "KILLS=2 RESETS=0 GIVES_UP=0 ROUNDS=1"),
]
MUTATIONS = [
    ("queue", "IDLE_IGNORES_DEAD", "CONSUMERS=2 KILLS=1 FIRST_PUTS=1"),
    ("queue", "NO_LEASE", "CONSUMERS=1 INDEXES=2 KILLS=2 JOIN_LATE"),
    ("queue", "CURSOR_FIRST", "CONSUMERS=1 INDEXES=3 KILLS=1"),
    ("queue", "NO_LAP", "CONSUMERS=1 INDEXES=3 KILLS=0"),
    ("queue", "REPAIRS_FIRST", "CONSUMERS=2 INDEXES=3 SLOTS=1 KILLS=1 FIRST_PUTS=2 SECOND_PUTS=0"),
    ("queue", "JOIN_KEEPS", "CONSUMERS=2 INDEXES=3 KILLS=1 JOIN_LATE FIRST_PUTS=1 SECOND_PUTS=0"),
    ("queue", "ASK_BY_TIME", "CONSUMERS=1 INDEXES=3 KILLS=0"),
    ("queue", "HEAD_STAYS", f"KILLS=0 {TOMBSTONES}"),
    ("queue", "HEAD_STORED", "CONSUMERS=1 INDEXES=3 KILLS=0 SLOTS=1 FIRST_PUTS=1 SECOND_PUTS=6 CANCELS"),
    ("queue", "HEAD_TO_TAIL", f"KILLS=0 {TOMBSTONES}"),
    ("ring", "NO_LEASE", "KILLS=0"),
    ("ring", "INDEX_FIRST", "KILLS=0"),
    ("ring", "FROM_ZERO", "KILLS=0"),
    ("ring", "COMMIT_FIRST", "KILLS=0"),
    ("ring", "RELEASE_FIRST", "KILLS=0"),
    ("ring", "LEASE_FIRST", "KILLS=0"),
    ("ring", "ONE_WORD_LOOK", "KILLS=0"),
    ("ring", "NO_TURNS", "KILLS=0"),
    ("ring", "NO_LAST_LOOK", "KILLS=1 ONE_PRODUCER ONE_CONSUMER"),
    ("ring", "NO_SECOND_LOOK", "KILLS=0"),
    ("ring", "NO_LOOK", "KILLS=0"),
    ("ring", "NO_COMPARE", "KILLS=0"),
    ("ring", "WANTS_TOO_MUCH", "KILLS=0"),
    ("ring", "SILENT_CLOSE", "KILLS=0 ONE_PRODUCER ONE_CONSUMER"),
    ("ring", "KEEPS_CLOSED", "KILLS=0"),
    ("deque", "ONE_CLAIM", "STAYS=1 THIEVES=2 KILLS=1"),
    ("deque", "PUSH_ABOVE", "STAYS=1 THIEVES=2 KILLS=1"),
    ("deque", "ORPHAN_BACK", "STAYS=1 THIEVES=2 KILLS=1 POPS=1"),
    ("deque", "NO_RECOVERY", "STAYS=1 THIEVES=1 KILLS=1"),
    ("deque", "TOP_FIRST", "STAYS=1 THIEVES=2 KILLS=1"),
    ("deque", "BACK_BELOW", "STAYS=1 THIEVES=2 KILLS=1"),
    ("deque", "PLACE_FIRST", "STAYS=1 SUCCESSOR THIEVES=1 KILLS=1 POPS=1"),
    ("deque", "BOTTOM_OF_EMPTY", "STAYS=1 SUCCESSOR THIEVES=1 KILLS=1 POPS=1"),
    ("broadcast", "NO_SECOND_LOOK", "KILLS=0 SECOND=0"),
    ("broadcast", "PLACE_BY_STORE", "KILLS=0 FIRST=EVICT SECOND=0 RECORDS=5"),
    ("broadcast", "OVERWRITE_FIRST", "KILLS=0 FIRST=SKIP SECOND=0"),
    ("broadcast", "RELEASE_BY_STORE", "KILLS=0 FIRST=SKIP SECOND=0"),
    ("broadcast", "RELEASE_FIRST", "KILLS=0 SECOND=0"),
    ("broadcast", "TAIL_FIRST", "KILLS=0 SECOND=0"),
    ("broadcast", "DEAD_BLOCKS", "KILLS=1 SECOND=0"),
    ("broadcast", "NO_LEASE", "KILLS=1 SECOND=BLOCK INDEXES=1"),
    ("broadcast", "ASK_BY_TIME", "KILLS=0 SECOND=0"),
    ("broadcast", "SUCCESSOR_EARLY", "KILLS=0 SECOND=0"),
    ("lock", "ASK_BY_TIME", "KILLS=0 INDEXES=3"),
    ("lock", "NO_LEASE", "KILLS=2"),
    ("lock", "NOT_TOLD", "KILLS=1"),
    ("lock", "JOIN_KEEPS", "KILLS=1"),
    ("lock", "LOOK_FIRST", "KILLS=0 INDEXES=3"),
    ("lock", "NO_COMPARE", "KILLS=0 INDEXES=3"),
    ("barrier", "STATE_FIRST", "KILLS=0 RESETS=0 GIVES_UP=0"),
    ("barrier", "NO_COMPARE", "KILLS=0 RESETS=0 GIVES_UP=0"),
    ("barrier", "NO_ASK", "KILLS=1 RESETS=0 GIVES_UP=0 ROUNDS=1"),
    ("barrier", "DEAD_COUNT", "KILLS=1 RESETS=0 GIVES_UP=0 ROUNDS=1"),
    ("barrier", "ANY_END", "KILLS=0 RESETS=1 GIVES_UP=0 ROUNDS=1"),
    ("barrier", "RESET_KEEPS", "KILLS=0 RESETS=1 GIVES_UP=0 ROUNDS=1"),
]


def check(model, defines, directory, seconds, optimise="-O1"):
    """Spin's verdict on a model: what its verifier printed."""

    def run(*argv, timeout=120):
        done = subprocess.run(argv, cwd=directory, capture_output=True, text=True, check=False, timeout=timeout)
        assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout}{done.stderr}"
        return done.stdout

    run("spin", "-a", *(f"-D{each}" for each in defines.split()), str(MODELS / f"{model}.pml"))
    # SAFETY: assertions are all it looks for. HC4: states are kept as hashes of 64 bits.
    run("gcc", optimise, "-w", "-DSAFETY", "-DHC4", "-DMEMLIM=8000", "-o", "pan", "pan.c")
    # -E: a process that waits for ever is no error in itself; the models say themselves who may.
    said = run("./pan", "-E", "-m500000", timeout=seconds)
    assert "max search depth too small" not in said, said
    assert "out of memory" not in said, said
    return said


@pytest.mark.parametrize(("model", "defines"), HOLDS)
def test_a_model_holds(model, defines, tmp_path):
    said = check(model, defines, tmp_path, 170)
    assert "errors: 0" in said, said


@pytest.mark.skipif(not FULL, reason="takes many minutes: set CORELANE_FULL=1")
@pytest.mark.parametrize(("model", "defines"), HOLDS_BUT_TAKES_LONG)
def test_a_large_model_holds(model, defines, tmp_path):
    said = check(model, defines, tmp_path, 3600)
    assert "errors: 0" in said, said


@pytest.mark.parametrize(("model", "mutation", "defines"), MUTATIONS)
def test_a_mutation_is_found(model, mutation, defines, tmp_path):
    said = check(model, f"{defines} {mutation}", tmp_path, 170, "-O0")  # most are found sooner than compiled
    assert "errors: 1" in said, said
    assert "assertion violated" in said, said
    assert mutation in (MODELS / f"{model}.pml").read_text()
