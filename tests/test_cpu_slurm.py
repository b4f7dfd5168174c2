"""The true count inside of real Slurm steps, against what taskset(1) prints there and what Slurm says it did."""

import contextlib
import json
import os
import shutil
import subprocess
import sys

import pytest
import slurm

from corelane.cpu import parse_cpus

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="slurmd's affinity plugin is Linux's"),
    pytest.mark.skipif(not shutil.which("taskset"), reason="taskset is not installed (Debian: util-linux)"),
]
needs_two_cpus = pytest.mark.skipif(os.cpu_count() < 2, reason="there is one CPU only")

TASK = """
import json, os, subprocess
from corelane import cpu
budget = cpu.budget()
told = subprocess.run(["taskset", "-p", str(os.getpid())], capture_output=True, text=True, check=True).stdout
names = ("SLURM_CPUS_PER_TASK", "SLURM_CPU_BIND", "SLURM_LOCALID")
# One write, so that two tasks' lines are two lines.
os.write(1, json.dumps({
    "count": cpu.count(), "cpus": sorted(budget.cpus), "taskset": told.rpartition(" ")[2].strip(),
    "binding": [limit.name for limit in budget.binding], "limits": [limit.name for limit in budget.limits],
    "ignored": [limit.name for limit in budget.ignored if limit.name.startswith("SLURM")],
    "explain": cpu.explain(), **{name: os.environ.get(name) for name in names},
}).encode() + b"\\n")
"""


@pytest.fixture(scope="module")
def cluster():
    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(slurm.Slurm())
        except slurm.NoSlurm as why:
            pytest.skip(str(why))
        yield running


def tasks(cluster, *options):
    """What each task of a step says of itself, by its number on the node."""
    printed = cluster.srun(*options, sys.executable, "-c", TASK)
    found = [json.loads(line) for line in printed.splitlines()]
    for task in found:
        # The kernel's word, through a tool that people trust.
        assert task["cpus"] == sorted(parse_cpus(task["taskset"], mask=True)), task
        assert task["ignored"] == [], task
    return sorted(found, key=lambda task: int(task["SLURM_LOCALID"]))


def test_a_step_of_one_cpu(cluster):
    (task,) = tasks(cluster, "-c1")
    assert task["SLURM_CPUS_PER_TASK"] == "1"
    assert task["count"] == 1
    assert {"affinity", "SLURM_CPUS_PER_TASK", "SLURM_CPU_BIND"} <= set(task["binding"]) or os.cpu_count() == 1
    assert "SLURM_CPUS_PER_TASK" in task["explain"].splitlines()[0]


@needs_two_cpus
def test_a_step_of_two_cpus(cluster):
    (task,) = tasks(cluster, "-c2")
    assert task["count"] == int(task["SLURM_CPUS_PER_TASK"]) == 2
    assert "SLURM_CPUS_PER_TASK" in task["explain"].splitlines()[0]


@needs_two_cpus
@pytest.mark.skipif(not shutil.which("salloc"), reason="salloc is not installed")
def test_outside_of_the_tasks_is_the_whole_job(cluster):
    """A batch script has the variables of `sbatch -n2 -c1`, and the CPUs of both tasks; so does salloc's command."""
    argv = ["salloc", "-Q", "-n2", "-c1", sys.executable, "-c", TASK]
    told = subprocess.run(argv, env=cluster.env, capture_output=True, text=True, timeout=60, check=True).stdout
    task = json.loads(told)
    assert task["SLURM_CPUS_PER_TASK"] == "1"
    assert (task["count"], task["ignored"]) == (2, ["SLURM_CPUS_PER_TASK"])
    assert "SLURM_CPUS_PER_TASK" not in task["binding"]


@needs_two_cpus
def test_a_task_that_frees_itself_is_still_held_to_what_was_granted(cluster):
    """Nothing but a cgroup keeps a task from widening its affinity; its neighbours' CPUs are not its own for that."""
    printed = cluster.srun("-c1", "taskset", "0x3", sys.executable, "-c", TASK)
    task = json.loads(printed)
    assert parse_cpus(task["taskset"], mask=True) == {0, 1}
    assert set(task["cpus"]) == parse_cpus(task["SLURM_CPU_BIND"].rpartition(":")[2], mask=True)
    assert task["count"] == 1
    assert "affinity" not in task["binding"]
    assert {"SLURM_CPUS_PER_TASK", "SLURM_CPU_BIND"} <= set(task["binding"])


@needs_two_cpus
@pytest.mark.parametrize(("option", "cpu"), [("map_cpu:1", 1), ("map_cpu:0", 0), ("mask_cpu:0x2", 1)])
def test_one_task_bound_to_a_cpu(cluster, option, cpu):
    (task,) = tasks(cluster, "-c2", f"--cpu-bind={option}")
    assert option.partition(":")[0] in task["SLURM_CPU_BIND"]
    assert task["cpus"] == [cpu]
    assert task["count"] == 1  # two were granted, and one of them is within reach
    assert "SLURM_CPU_BIND" in task["binding"]


@needs_two_cpus
@pytest.mark.parametrize("option", ["map_cpu:1,0", "verbose,mask_cpu:0x2,0x1", "quiet,map_cpu:1,0"])
def test_each_of_two_tasks_finds_its_own_item(cluster, option):
    assert [task["cpus"] for task in tasks(cluster, "-n2", f"--cpu-bind={option}")] == [[1], [0]]
