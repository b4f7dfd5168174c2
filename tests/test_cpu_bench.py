"""`corelane bench cpu`: its contenders call what they say, its figures add up, the ping-pong leaves nobody behind."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from helpers import PATIENCE, descriptors, needs_linux

from corelane.cli.bench import cpu as subject
from corelane.cli.bench import cpu_worker, pictures, pingpong, suite, table
from corelane.cli.bench.contenders import Available
from corelane.cli.bench.protocol import Contender, Round, Series, Server
from corelane.cli.bench.report import Report, Tail

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def available(tmp_path_factory):
    if not (ROOT / "benchmarks" / "c").is_dir():
        pytest.skip("the C sources are not here")
    os.environ.setdefault("CORELANE_BENCH_BUILD", str(tmp_path_factory.mktemp("bench")))
    found = Available.load(rust=False, may_wait=False)
    if found.native is None:
        pytest.skip(found.notices[0])
    return found


@needs_linux
@pytest.mark.parametrize("mode", [mode for mode in cpu_worker.MODES if not mode.startswith("corelane")])
def test_what_the_others_answer(mode, monkeypatch):
    if mode == "lscpu" and not shutil.which("lscpu"):
        pytest.skip("there is no lscpu here")
    monkeypatch.setattr(psutil, "PROCFS_PATH", "/proc")  # which one of them changes: that is undone
    call = cpu_worker.MODES[mode](4)
    call()  # psutil compares with the time before
    answer = call()
    if mode.endswith("_set"):
        assert answer is None
    elif mode == "psutil_load" or mode.endswith("_place"):
        assert len(answer) == 4
    elif mode.endswith("_get"):
        assert set(answer) == os.sched_getaffinity(0)
    else:
        assert answer


def test_the_made_up_machine_is_one():
    made = cpu_worker._made_up(256)
    assert made.online == frozenset(range(256))
    assert (made.packages, made.smt, len(made.cores), len(made.nodes)) == (2, 2, 128, 2)
    assert made.siblings(7) == (6, 7)
    assert made.neighbours(17) == tuple(range(16, 32))
    assert cpu_worker._made_up(1).online == {0}


@needs_linux
def test_psutil_reads_the_made_up_load(monkeypatch):
    monkeypatch.setattr(psutil, "PROCFS_PATH", os.path.join(cpu_worker._fixture(256), "proc"))
    assert len(psutil.cpu_times(percpu=True)) == 256


@needs_linux
def test_a_contender_serves():
    server = Server(subject._contender("os_get/1", "os"))
    try:
        one = server.round(50, "-")
    finally:
        server.close()
    assert len(one.samples) == 1  # the time per call
    assert 0 < one.samples[0] <= one.wall


def test_every_row_has_a_contender():
    for plan in subject.PLANS:
        assert {mode.partition("/")[0] for mode in plan.rows} <= set(cpu_worker.MODES)
        assert plan.ours in plan.rows
    assert "cpu" in suite.SUBJECTS
    assert "cpu" in suite.UNPINNED  # it places its players itself


@needs_linux
def test_what_is_asked_again_and_again_is_not_looked_for_anew():
    """The cached topology costs what a caller pays for it, not the look for new CPUs that comes once a second."""
    (plan,) = (plan for plan in subject.PLANS if "corelane_topology/1" in plan.rows)
    server = Server(subject._contender("corelane_topology/1", "cached"))
    try:
        rounds = [server.round(plan.count // subject.QUICK.less, "-") for _ in range(5)]
    finally:
        server.close()
    assert min(one.samples[0] for one in rounds) < 3000  # ns; one look is some 30,000


@needs_linux
def test_placements_stay_within_our_cpus():
    ours = os.sched_getaffinity(0)
    for one in pingpong.placements():
        for options in (one.ping, one.pong, one.neighbours or {}):
            assert set(options.get("cpus", ())) <= ours


@needs_linux
def test_a_round_of_ping_pong(available):
    """Each sample is a time, the neighbours are gone, and no descriptor is left."""
    before, us = descriptors(), psutil.Process()
    program = str(available.native.pingpong)
    place = {"cpus": {max(os.sched_getaffinity(0))}}
    one = pingpong.play(program, pingpong.Placement("x", "x", place, place, {}), 40)
    assert one.samples
    assert 0 < min(one.samples) <= max(one.samples) <= one.wall
    assert descriptors() == before
    assert not us.children()


@needs_linux
def test_a_ping_pong_that_is_refused_leaves_nobody(available):
    refused = {"cpus": {60000}}  # no such CPU
    with pytest.raises(OSError, match="pingpong"):
        pingpong.play(str(available.native.pingpong), pingpong.Placement("x", "x", refused, {}, {}), 40)
    assert not psutil.Process().children()


@needs_linux
def test_without_the_right_a_placement_is_left_out(available, monkeypatch):
    real = pingpong.play

    def play(program, placement, ms):
        urgent = placement.ping.keys() & {"nice", "sched"}
        return real(program, pingpong.Placement("x", "x", {"cpus": {60000}} if urgent else {}, {}, None), 5)

    monkeypatch.setattr(pingpong, "play", play)
    monkeypatch.setattr(available, "notices", [])
    tail = pingpong.tail(available, pingpong.PingEffort(2, 5), lambda title, total: lambda series, number: None)
    assert {"alone", "plain", "pinned"} <= set(tail.series)
    assert not {"nice", "fifo"} & set(tail.series)
    assert [notice for notice in available.notices if "nice -20, is skipped" in notice]
    assert {len(one.rounds) for one in tail.series.values()} == {2}


def some_tail():
    def series(key, times):
        rounds = [Round(tuple(range(times, 1000 * times + 1, times)), 1, 0) for _ in range(3)]
        return Series(Contender(key, f"label {key}", (), ""), rounds)

    return Tail(
        "pingpong", "a title", "plain", {key: series(key, n) for key, n in (("plain", 400), ("nice_away", 100))}
    )


def test_a_tail_adds_up():
    tail = some_tail()
    assert tail.gain("nice_away", 0.999) == 4.0
    found = tail.as_dict()["placements"]["nice_away"]
    assert found["percentiles_us"] == {"50": 50.1, "90": 90.1, "99": 99.1, "99.9": 100.0, "99.99": 100.0}
    assert (found["samples"], found["longest_us"], found["gain_at_99.9"]) == (3000, 100.0, 4.0)
    (target,) = pingpong.targets(tail)
    assert (target.measured, target.met) == (4.0, True)


def test_a_tail_is_shown_drawn_and_recorded(tmp_path):
    report = Report({"CPU": "some"}, True, tails=[some_tail()])
    console = suite._console()
    with console.capture() as shown:
        console.print(table.tail_table(report.tails[0], console))
    assert "4.00x" in shown.get()
    spec = importlib.util.spec_from_file_location("record", ROOT / "benchmarks" / "record.py")
    record = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(record)
    assert "| label nice_away | 50.1 | 99.1 | 100.0 | 100 | 4.0x |" in "\n".join(record.lines(report.as_dict()))
    if pictures.available():
        (path,) = pictures.draw(report, tmp_path)
        assert path.name == "pingpong.png"
        assert path.stat().st_size > 1000


@needs_linux
def test_pingpong_ends_when_its_peer_does(available):
    program = str(available.native.pingpong)
    for argv, status in ((["pong"], 0), (["ping", "50", "0"], 1)):
        done = subprocess.run([program, *argv], stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE)
        assert done.returncode == status, argv
    assert subprocess.run([program, "nonsense"], capture_output=True, timeout=PATIENCE).returncode == 2


@needs_linux
@pytest.mark.parametrize("mode", [mode for mode in cpu_worker.MODES if mode.startswith("corelane")])
def test_what_corelane_answers(mode):
    answer = cpu_worker.MODES[mode](4)()
    if mode == "corelane_get":
        assert answer == os.sched_getaffinity(0)
    elif mode == "corelane_load":
        assert list(answer.cpus) == [0, 1, 2, 3]
        assert answer.waiting is not None  # it is not spared what psutil does not read
    elif "topology" in mode:
        assert answer.online
    elif "plan" in mode:
        assert len(answer) == (2 if mode.endswith("exclusive") else 4)


@needs_linux
@pytest.mark.slow
def test_the_whole_subject(tmp_path):
    argv = [
        sys.executable,
        "-m",
        "corelane",
        "bench",
        "cpu",
        "--quick",
        "--no-rust",
        "--json",
        str(tmp_path / "report"),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=6 * PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "report").read_text())
    assert set(found["sections"]) == {plan.key for plan in subject.PLANS}
    assert "psutil.cpu_percent vs load()" in done.stdout
