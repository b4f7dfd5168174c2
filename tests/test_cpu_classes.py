"""Priority classes: the table, what a class comes to, and what the system says to it."""

import os
import resource
import subprocess

import pytest
from helpers import needs_linux, needs_root, script
from shapes import machine

import corelane as cl
from corelane import cpu
from corelane.errors import CpuRefused

FLAT = machine(cores=8)
XEON = machine(packages=1, cores=4, smt=2)  # siblings of 0-3 are 4-7


def priority(name, budget="0-7", topology=FLAT, **options):
    return cpu.priority_class(name, budget=budget, topology=topology, load=dict.fromkeys(range(8), 0.0), **options)


def test_the_table_is_there_to_be_read():
    assert list(cpu.PRIORITY_CLASSES) == ["critical", "high", "normal", "low"]
    nices = [rule.nice for rule in cpu.PRIORITY_CLASSES.values()]
    assert nices == sorted(nices) == [-10, -5, 0, 10]
    with pytest.raises(TypeError):
        cpu.PRIORITY_CLASSES["low"] = None


def test_cpus_by_class():
    assert priority("critical").cpus == set(range(8))
    assert priority("high").cpus == {0, 1, 2, 3}
    assert priority("low").cpus == {4, 5, 6, 7}
    load = dict.fromkeys(range(8), 1.0) | {6: 0.2}
    assert cpu.priority_class("normal", budget="0-7", topology=FLAT, load=load).cpus == {6}


@pytest.mark.parametrize("count", range(1, 9))
def test_halves_are_never_empty_and_meet_nowhere(count):
    budget = set(range(count))
    high, low = priority("high", budget).cpus, priority("low", budget).cpus
    assert high | low == budget
    assert high
    assert low
    assert count == 1 or not high & low
    assert len(high) - len(low) == (count % 2 if count > 1 else 0)


def test_halves_do_not_cut_a_core():
    high, low = priority("high", topology=XEON).cpus, priority("low", topology=XEON).cpus
    assert (high, low) == ({0, 1, 4, 5}, {2, 3, 6, 7})
    assert priority("high", "0-2,4-6", XEON).cpus == {0, 1, 4, 5}
    assert priority("high", "0,4", XEON).cpus == {0}  # there is but one core
    assert cpu.priority_class("low", budget="500-503").cpus == {502, 503}  # this machine does not know them


def test_one_cpu_is_everybodys():
    assert {priority(name, {3}).cpus for name in cpu.PRIORITY_CLASSES} == {frozenset({3})}


def test_options_are_those_of_a_command():
    found = priority("critical")
    assert found.options == {"cpus": frozenset(range(8)), "nice": -10, "io_priority": ("best-effort", 0)}
    cl.Command("true", **found.options)
    assert priority("normal").options == {"cpus": frozenset({0}), "nice": 0}


def test_every_field_can_be_given():
    found = priority("low", cpus="1,3", nice=3, sched="batch", io_priority="idle")
    assert found.options == {"cpus": frozenset({1, 3}), "nice": 3, "sched": "batch", "io_priority": "idle"}
    assert priority("low", cpus=None, nice=None, io_priority=None).options == {}


def test_real_time_only_when_asked():
    assert all("sched" not in priority(name).options for name in cpu.PRIORITY_CLASSES)
    assert priority("critical", real_time=True).sched == ("fifo", 10)
    assert priority("high", real_time=True).sched == ("fifo", 5)
    with pytest.raises(ValueError, match="critical, high"):
        priority("low", real_time=True)
    with pytest.raises(ValueError, match="either"):
        priority("critical", real_time=True, sched="batch")


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"name": "urgent"}, ValueError, "critical, high, normal, low"),
        ({"nice": -21}, ValueError, "nice must be from -20 to 19"),
        ({"nice": 1.5}, TypeError, "nice"),
        ({"real_time": 1}, TypeError, "real_time"),
        ({"sched": "nonsense"}, ValueError, "sched must be one of"),
        ({"sched": ("fifo", 100)}, ValueError, "sched: priority must be from 1 to 99"),
        ({"io_priority": ("best-effort", 8)}, ValueError, "io_priority: level must be from 0 to 7"),
        ({"cpus": "x"}, ValueError, "cpus"),
        ({"budget": ()}, ValueError, "budget"),
        ({"budget": "0-9"}, ValueError, "8-9"),
    ],
)
def test_bad_input(options, error, says):
    with pytest.raises(error, match=says):
        priority(**({"name": "low"} | options))


@needs_linux
def test_the_defaults_are_this_machines():
    ours = os.sched_getaffinity(0)
    for name in cpu.PRIORITY_CLASSES:
        assert cpu.priority_class(name).cpus <= ours


@pytest.fixture
def sleeper():
    process = subprocess.Popen(["sleep", "60"])
    yield process.pid
    process.kill()
    process.wait()


@needs_linux
def test_a_running_process(sleeper):
    last = max(os.sched_getaffinity(0))
    found = cpu.priority_class("low", cpus={last})
    assert found.apply(sleeper) == ()
    assert os.sched_getaffinity(sleeper) == {last}
    assert os.getpriority(os.PRIO_PROCESS, sleeper) == 10
    assert cpu.priority_class("low", cpus=None, sched="batch").apply(sleeper) == ()
    assert os.sched_getscheduler(sleeper) == os.SCHED_BATCH


@needs_linux
@needs_root
def test_what_is_refused_without_the_right_is_said():
    """In a process of its own, which gives up its rights first."""
    code = """
import json, os, subprocess
from corelane import cpu
from corelane.errors import CpuRefused
import psutil
found = cpu.priority_class("critical", cpus=None, real_time=True)
os.setgid(65534); os.setuid(65534)  # who may not even read the libraries, perhaps
child = subprocess.Popen(["sleep", "60"])
try:
    said = [str(each) for each in found.apply(child.pid, best_effort=True)]
    try:
        found.apply(child.pid)
    except PermissionError as error:
        said.append(str(error) if isinstance(error, CpuRefused) else "?")
finally:
    child.kill(); child.wait()
print(json.dumps(said))
"""
    nice, sched, raised = script(code, preexec_fn=_no_rights)
    assert nice.startswith("nice -10 ")
    assert "CAP_SYS_NICE" in nice
    assert "fifo" in sched
    assert "CAP_SYS_NICE" in sched
    assert raised == nice


def _no_rights():
    resource.setrlimit(resource.RLIMIT_NICE, (0, 0))
    resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))


@needs_linux
def test_a_process_that_is_gone(sleeper):
    os.kill(sleeper, 9)
    os.waitpid(sleeper, 0)
    with pytest.raises(ProcessLookupError):
        cpu.priority_class("low", cpus=None).apply(sleeper, best_effort=True)
    with pytest.raises(ValueError, match="pid"):
        cpu.priority_class("low", cpus=None).apply(0)


def test_the_refusal_is_the_right_error():
    assert issubclass(CpuRefused, OSError)
