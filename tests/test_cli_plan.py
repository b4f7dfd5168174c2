"""`corelane plan` from outside: what it prints, and what it says to what makes no sense."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers import CORELANE, PATIENCE, needs_linux

from corelane import cpu


def plan(*argv):
    return subprocess.run(
        [CORELANE, "plan", *map(str, argv)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def printed(*argv):
    done = plan(*argv)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_table_is_the_plans():
    assert printed(2, "--policy", "spread") == f"{cpu.plan(2, 'spread')}\n"


def test_json_is_the_plans():
    found = json.loads(printed(3, "--json", "--policy", "numa-local"))
    assert found == cpu.plan(3, "numa-local").as_dict()
    assert found == json.loads(printed(3, "--format", "json", "--policy", "numa-local"))


def test_a_line_for_each_worker():
    found = cpu.plan(3)
    assert printed(3, "--format", "list").split() == [cpu.format_cpus(mask) for mask in found]
    assert printed(3, "--format", "mask").split() == [cpu.format_mask(mask) for mask in found]
    assert printed(3, "--format", "taskset").splitlines()[0] == f"taskset -c {cpu.format_cpus(found[0])}"


@pytest.mark.skipif(not shutil.which("taskset"), reason="taskset is not installed")
def test_the_loop_of_the_help_waits_for_its_workers(tmp_path):
    text = plan("--help").stdout
    loop = text[text.index("corelane plan 4") : text.index("}", text.index("corelane plan 4")) + 1]
    (tmp_path / "worker").write_text("#!/bin/sh\nsleep 0.3\necho done\n")
    (tmp_path / "worker").chmod(0o755)
    path = f"{Path(CORELANE).parent}{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(
        ["sh", "-c", f"{loop}\necho end"],
        stdout=subprocess.PIPE, text=True, cwd=tmp_path, env={**os.environ, "PATH": path},
    ) as shell:  # fmt: skip
        assert shell.communicate(timeout=PATIENCE)[0].split() == ["done"] * 4 + ["end"]


@needs_linux
def test_its_choice_is_what_it_may_use():
    last = max(os.sched_getaffinity(0))
    assert printed(2, "--cpus", last, "--format", "list") == f"{last}\n{last}\n"
    code = (
        f"import os; os.sched_setaffinity(0, {{{last}}}); os.execv({CORELANE!r}, ['corelane', 'plan', '1', '--json'])"
    )
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert json.loads(done.stdout)["cpus"] == str(last)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["0"], "n must be from 1"),
        (["x"], "'x' is not a valid integer"),
        (["1", "--policy", "dense"], "'dense'"),
        (["1", "--per", "0"], "per must be from 1"),
        (["1", "--avoid", "0-65535"], "leaves nothing"),
        (["1", "--avoid", "3-1"], "runs backwards"),
        (["1", "--cpus", "65535"], "--cpus: CPU 65535 is not online here (online: "),
        (["1", "--cpus", "3-1"], "--cpus: the range"),
        (["1", "--numa", "4000"], "no node 4000"),
        (["100000", "--policy", "exclusive"], "do not fit"),
        (["1", "--root", "/no/such/place"], "/no/such/place"),
    ],
)
def test_what_makes_no_sense(argv, says):
    done = plan(*argv)
    assert done.returncode == 125
    assert done.stdout == ""
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@needs_linux
@pytest.mark.parametrize("command", [["plan", "1"], ["topology"], ["topology", "-p"]])
def test_what_cannot_be_written_is_said(command):
    with open("/dev/full", "w") as full:
        done = subprocess.run([CORELANE, *command], stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (125, "corelane: stdout: No space left on device\n")
