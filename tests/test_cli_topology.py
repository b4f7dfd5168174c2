"""`corelane topology` from outside: what it prints, and what it says when it cannot."""

import json
import os
import signal
import subprocess
from types import SimpleNamespace

import pytest
from helpers import CORELANE, needs, needs_linux
from machines import tree

from corelane import cpu
from corelane.cli.topology import _ours as ours

PATIENCE = 60


def corelane(*argv, **options):
    options = {"capture_output": True, "text": True, "encoding": "utf-8", "timeout": PATIENCE} | options
    environ = os.environ | {"PYTHONIOENCODING": "utf-8", "COLUMNS": "80"} | options.pop("env", {})
    return subprocess.run([CORELANE, "topology", *map(str, argv)], check=False, env=environ, **options)


def test_the_picture_of_a_tree():
    done = corelane("--root", tree("hybrid"), "--width", 70)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == cpu.topology(tree("hybrid")).draw(70) + "\n"


def test_without_boxes_where_the_encoding_has_none():
    done = corelane("--root", tree("vm"), env={"PYTHONIOENCODING": "ascii"})
    assert done.stdout == cpu.topology(tree("vm")).draw(80, ascii=True) + "\n"
    assert corelane("--root", tree("vm"), "--ascii").stdout == done.stdout


@needs_linux
def test_our_own_cpus_are_marked():
    online = sorted(cpu.topology().online)
    mine = os.sched_getaffinity(0)
    done = corelane(preexec_fn=lambda: os.sched_setaffinity(0, {min(mine)}))
    assert done.returncode == 0
    expected = f"*  yours: CPUs {min(mine)}" if len(online) > 1 else "all CPUs are yours"
    assert expected in done.stdout.splitlines()


def test_json_is_the_dict():
    done = corelane("--json", "--root", tree("holes"))
    assert json.loads(done.stdout) == cpu.topology(tree("holes")).as_dict()


@needs_linux
@needs("lscpu")
@pytest.mark.parametrize("name", ["vm", "holes", "hybrid", "arm_vm", "/"])
def test_parsable_is_what_lscpu_prints(name):
    at = "/" if name == "/" else tree(name)
    theirs = subprocess.run(["lscpu", "-s", at, "-p"], capture_output=True, text=True, timeout=PATIENCE, check=True)
    ours = corelane("-p", "--root", at)
    columns = [line for line in theirs.stdout.splitlines() if not line.startswith("#") or line.startswith("# CPU,")]
    assert [line for line in ours.stdout.splitlines() if not line.startswith("#") or "CPU," in line] == columns


def test_two_ways_of_printing():
    done = corelane("--json", "-p")
    assert done.returncode == 125
    assert "use one" in done.stderr


def test_no_such_machine(tmp_path):
    done = corelane("--root", tmp_path)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == (
        f"corelane: {tmp_path}/sys/devices/system/cpu/online is not there: "
        "CPUs are known from sysfs, which must be mounted at /sys\n"
    )


@pytest.mark.parametrize("width", ["39", "wide"])
def test_a_width_that_is_none(width):
    done = corelane("--width", width)
    assert done.returncode == 125
    assert "--width" in done.stderr


def test_the_limits_around_us_are_marked(monkeypatch):
    """An affinity of one CPU, in a container of two, with a quota: the legend names all three."""
    limits = [
        SimpleNamespace(name="affinity", cpus=frozenset({4}), binds=True, where="sched_getaffinity"),
        SimpleNamespace(name="cpuset", cpus=frozenset({4, 5}), binds=False, where="cpuset.cpus.effective"),
        SimpleNamespace(name="quota", cpus=None, binds=True, where="cpu.max"),
    ]
    budget = SimpleNamespace(cpus=frozenset({4}), limits=limits)
    monkeypatch.setattr(cpu, "budget", lambda: budget, raising=False)
    mine, allowed, lines = ours()
    assert (mine, allowed) == ({4}, {4, 5})
    assert [line.split(":")[0] for line in lines] == ["limit of affinity", "limit of quota"]
    assert "cpu.max" in lines[1]


def test_a_reader_that_takes_the_first_line_only():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = corelane("--json", "--root", tree("holes"), stdout=writer, stderr=subprocess.PIPE, capture_output=False)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, "")
