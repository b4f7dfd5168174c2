"""`corelane bench ipc`: its contenders carry what they are given, its figures add up, nobody is left behind."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from helpers import PATIENCE, descriptors, needs_linux

from corelane.cli.bench import ipc as subject
from corelane.cli.bench import pictures, suite, table, toolchain
from corelane.cli.bench.contenders import Available
from corelane.cli.bench.protocol import Contender, ContenderFailed, Round, Series, Server
from corelane.cli.bench.report import Grid, Latency, Line, Report

ROOT = Path(__file__).resolve().parent.parent
WORKER = Path(subject.WORKER)
NEEDS = {"faster_fifo": "faster_fifo", "zmq_pair": "zmq", "iceoryx2": "iceoryx2"}


def load(name):
    spec = importlib.util.spec_from_file_location(f"bench_{name}", WORKER.with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LINKS = load("ipc_links").LINKS


def skip_if_missing(name):
    needed = next((module for prefix, module in NEEDS.items() if name.startswith(prefix)), None)
    if needed is not None and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")


@pytest.fixture(scope="session")
def floor(tmp_path_factory):
    """The raw C baseline of messages."""
    source = ROOT / "benchmarks" / "c" / "ipc_floor.c"
    cc = toolchain.compiler()
    if cc is None or not source.is_file():
        pytest.skip("there is no C compiler, or the C sources are not here")
    program = tmp_path_factory.mktemp("ipc") / "ipc_floor"
    done = subprocess.run([*cc, "-O1", "-Wall", "-Wextra", "-Werror", "-o", program, source], capture_output=True)
    assert done.returncode == 0, done.stderr
    return program


@pytest.fixture
def players():
    """With a little effort, and without the programs in C."""
    effort = subject.IpcEffort(
        rounds=2, ms=2, sizes=(64,), many=(2,), idle_ms=20, gaps=(0, 5), waiters=9, kills=1, less=frozenset()
    )
    made = subject.Players(Available(None, {}), effort, lambda title, total: lambda series, number: None)
    before, us = descriptors(), psutil.Process()
    yield made
    made.close()
    assert descriptors() == before
    assert not us.children()


def serve(*argv):
    return Server(Contender("x", "x", tuple(map(str, argv)), "x"), PATIENCE)


# ---- who is there ----


def test_every_row_has_a_label_and_a_contender():
    tables = (subject.SPINNING, subject.ASLEEP, subject.BUSY, subject.FLOW, subject.FAN, subject.IDLE)
    keys = {key for keys in tables for key in keys}
    assert keys <= set(subject._LABELS)
    assert {key for key in keys if "." not in key} <= set(LINKS)
    assert all(LINKS[key].WAITS for key in (*subject.IDLE, *subject.ASLEEP) if "." not in key)
    assert "ipc" in suite.SUBJECTS
    assert "ipc" in suite.UNPINNED  # it places its players itself
    assert max(subject.FULL.gaps) == 20


@needs_linux
@pytest.mark.parametrize("name", LINKS)
def test_what_is_sent_is_what_comes(name, stops_the_tracker):
    """Both ends here: a link that loses or spoils records would still be timed."""
    skip_if_missing(name)
    link = LINKS[name](64)
    try:
        link.open_receiver()
        link.open_sender()
        for _ in range(3):
            link.put(link.data)
            assert bytes(link.get()) == b"x" * 64
    finally:
        link.close()


@needs_linux
@pytest.mark.parametrize("name", ["ring_lists", "ring_arrays", "ring_in_place", "queue_lists", "faster_fifo_lists"])
def test_so_many_as_were_asked_for(name):
    skip_if_missing(name)
    link = LINKS[name](8)
    try:
        link.put_all(600)  # two lists, and something
        link.get_all(600)
        link.put(b"the last")
        assert bytes(link.get()) == b"the last"
    finally:
        link.close()


@needs_linux
@pytest.mark.parametrize("name", LINKS)
def test_a_round_of_each(name, players):
    skip_if_missing(name)
    one = players.contender(name)
    trip = players.ask(one, f"rt/{name}", 2, 64)
    assert min(trip["ns"]) > 0
    assert sum(trip["ns"]) == trip["wall_ns"]
    assert players.ask(one, f"flow/{name}", 2, 64)["value"] > 0
    players.end()


@needs_linux
@pytest.mark.parametrize("name", subject.FAN[1:])
def test_many_to_one_and_one_to_many(name, players):
    skip_if_missing(name)
    one = players.contender(name)
    assert players.ask(one, f"fan_in/3/{name}", 2, 64)["value"] > 0
    assert players.ask(one, f"fan_out/3/{name}", 2, 64)["value"] > 0


@needs_linux
@pytest.mark.slow
def test_waiting_memory_and_death(players):
    ring = players.contender("ring")
    assert 0 < players.ask(ring, "idle/5/ring", 20, 64)["value"] <= 100
    with pytest.raises(ContenderFailed, match="never waits"):
        players.ask(players.contender("queue_polled"), "idle/5/queue_polled", 20, 64)
    for name in subject.MEMORY:
        if subject.missing_package(name) is None:
            kib, count = players.ask(players.contender(name, name), f"memory/{name}", 1, 1)["value"]
            assert kib < 1000
            assert 0 <= count < 10
    for name in subject.DEATHS:
        assert len(players.ask(ring, f"death/{name}", 1, 2)["values"]) == 2


# ---- who fails ----


@needs_linux
def test_one_that_hangs_is_given_up(players, monkeypatch):
    monkeypatch.setattr(subject, "PATIENCE", 0.3)
    monkeypatch.setattr(players, "_argv", lambda key: (sys.executable, "-c", "import signal; signal.pause()"))
    monkeypatch.setattr(Server, "close", lambda server: (server._process.kill(), real_close(server)))
    one = players.contender("zmq_pair")
    failed = players.in_turn("a table", [one], lambda one, number: players.ask(one, "rt/x", 1, 1), lambda *_: None)
    assert failed == {"zmq_pair": "failed"}
    assert any("no answer" in notice and "a table" in notice for notice in players.available.notices)


real_close = Server.close


@needs_linux
def test_one_of_ours_that_fails_ends_it(players):
    one = players.contender("ring")
    with pytest.raises(ContenderFailed, match="no such kind"):
        players.in_turn("x", [one], lambda one, number: players.ask(one, "rt/nonsense", 1, 1), lambda *_: None)


@needs_linux
@pytest.mark.parametrize(
    ("serve", "found"),
    [
        ("lambda number: signal.pause()", "nothing"),
        ("lambda number: 1 // 0", "RuntimeError: the other process failed: ZeroDivisionError"),
        ("lambda number: os._exit(3)", "RuntimeError: the other process ended"),
    ],
)
def test_a_peer_that_hangs_or_fails(serve, found):
    """It is killed if need be, reaped, and what it died of is said."""
    script = f"""
import importlib.util, os, signal
spec = importlib.util.spec_from_file_location("w", {str(WORKER)!r})
w = importlib.util.module_from_spec(spec); spec.loader.exec_module(w)
w.PATIENCE = 0.05
peer = w.Peer(max(os.sched_getaffinity(0)), lambda: None, {serve})
peer.tell(1)
try:
    print(peer.result() if "pause" not in {serve!r} else "nothing")
except RuntimeError as error:
    print("RuntimeError:", error)
peer.close()
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    print("reaped")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.startswith(found), done.stdout + done.stderr
    assert done.stdout.endswith("\nreaped\n"), done.stderr


@needs_linux
def test_what_is_not_installed_is_said_in_the_table(players, monkeypatch):
    monkeypatch.setattr(subject.importlib.util, "find_spec", lambda name: None)
    there, missing = players.split(("c.futex", "ring", "faster_fifo", "zmq_pair"))
    assert [one.key for one in there] == ["ring"]
    assert missing == {"raw C futex": "not built", "faster-fifo": "not installed", "pyzmq ipc PAIR": "not installed"}
    found = subject._grid(players, "k", "t", [], {"a": str}, lambda *_: None, missing)
    console = suite._console()
    with console.capture() as shown:
        console.print(table.grid_table(found, console))
    assert "not installed" in shown.get()


@needs_linux
def test_with_one_cpu_nobody_spins(players, monkeypatch):
    monkeypatch.setattr(subject.os, "sched_getaffinity", lambda pid: {3})
    assert subject.players_cpus() == (3, 3)
    players.mine, players.theirs, players.alone = 3, 3, True
    assert players.where == "both on CPU 3"
    assert players.why_not("ring_spin", spins=True).startswith("needs two")
    assert players.why_not("ring") is None


# ---- raw C ----


@needs_linux
@pytest.mark.parametrize("kind", ["rt/ring", "rt/futex", "rt/pipe"])
def test_raw_c_round_trips(floor, kind):
    if len(os.sched_getaffinity(0)) < 2 and kind == "rt/ring":
        pytest.skip("one CPU: while one spins, the other cannot run")
    mine, theirs = subject.players_cpus()
    server = serve(floor)
    try:
        first, second = (server.ask(f"run {kind} 2 64 {mine} {theirs}") for _ in range(2))
    finally:
        server.close()
    assert min(first["ns"] + second["ns"]) > 0
    assert sum(second["ns"]) <= second["wall_ns"]


@needs_linux
@pytest.mark.parametrize(
    "kind",
    ["flow/ring", "flow/pipe", "fan_in/2/vyukov", "fan_out/2/vyukov", "op/vyukov", "idle/1/futex", "idle/0/pipe"],
)
def test_raw_c_figures(floor, kind):
    mine, theirs = subject.players_cpus()
    if mine == theirs and not kind.startswith(("op", "idle", "flow/pipe")):
        pytest.skip("one CPU: while one spins, the other cannot run")
    server = serve(floor)
    try:
        values = [server.ask(f"run {kind} 3 {size} {mine} {theirs}")["value"] for size in (64, 100)]
        assert server.ask("end") == {"ok": 1}
        with pytest.raises(ContenderFailed, match="no such command"):
            server.ask("run nonsense 1 1 0 0")
    finally:
        server.close()
    assert min(values) > 0


# ---- what is made of it ----


def some_latency():
    def series(key, ns):
        rounds = [Round(tuple(range(ns, 1000 * ns + 1, ns)), 1, 0) for _ in range(3)]
        return Series(Contender(key, f"label {key}", (), key, ours=key == "ring_spin"), rounds)

    both = {key: series(key, ns) for key, ns in (("c.ring", 100), ("ring_spin", 300))}
    return Latency("ipc_rt_spin", "a title", "c.ring", "ring_spin", both, {"absent": "not installed"})


def some_grid():
    lines = {
        "c.ring": Line("raw", False, [[10.0, 20.0, 30.0], [1e6, 1e6, 1e6]]),
        "ring_lists": Line("lists", True, [[20.0, 30.0, 30.0], None]),
        "ring_in_place": Line("place", True, [None, [2e6, 2e6, 1e6]]),
    }
    sizes = [64, 1 << 20]
    names = [subject.size_text(size) for size in sizes]
    shown = [subject._flow_shown(size) for size in sizes]
    return Grid("ipc_flow", "a grid", names, shown, "c.ring", lines, {"absent": "not installed"}, sizes)


def test_a_grid_adds_up():
    grid = some_grid()
    assert grid.columns == ["64 B", "1 MiB"]
    assert grid.value("ring_lists", 0) == 30.0
    assert grid.value("ring_lists", 1) is None
    assert grid.ratio("ring_lists", "c.ring", 0) == 1.5  # 2, 1.5 and 1: of the same rounds
    assert grid.ratio("ring_lists", "c.ring", 1) is None
    assert grid.ratio("nobody", "c.ring", 0) is None
    assert grid.texts("c.ring") == ["50.00 M/s", "1.05 GB/s"]
    assert grid.texts("ring_lists") == ["33.33 M/s", "-"]
    found = grid.as_dict()
    assert found["contenders"]["ring_in_place"]["rounds"] == [None, [2e6, 2e6, 1e6]]
    assert json.loads(json.dumps(found)) == found


def test_targets_are_of_the_same_rounds():
    found = {one.label: one for one in subject.targets([some_latency()], [some_grid()])}
    assert found["Ring, round trip, spinning, vs raw C ring"].measured == 3.0
    lists = found["Ring, 64 B in lists, vs raw C ring"]
    assert (round(lists.measured, 3), lists.met) == (0.667, True)
    place = found["the same in place"]
    assert (place.measured, place.met) == (0.5, False)
    assert found["Ring, 64 B one by one, vs multiprocessing.Queue"].met is None


@pytest.mark.slow
def test_it_is_shown_drawn_and_recorded(tmp_path):
    report = Report({"CPU": "some"}, True, sections=[some_latency()], grids=[some_grid()])
    console = suite._console()
    with console.capture() as shown:
        console.print(table.latency_table(report.sections[0], console))
        console.print(table.grid_table(report.grids[0], console))
    assert "3.00x" in shown.get()
    assert shown.get().count("not installed") == 2
    spec = importlib.util.spec_from_file_location("record", ROOT / "benchmarks" / "record.py")
    record = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(record)
    recorded = "\n".join(record.lines(report.as_dict()))
    assert "| label ring_spin | 150.30 | 297.30 | 300.00 | 3.00x |" in recorded
    assert "| lists | 33.33 M/s | - |" in recorded
    assert "| absent | not installed | - |" in recorded
    whole = Report({"CPU": "a", "cores": "b", "kernel": "c"}, False).as_dict()
    joined = record.joined(whole, report.as_dict() | {"machine": {"CPU": "x", "cores": "y", "kernel": "z"}})
    assert set(joined["grids"]) == {"ipc_flow"}
    assert "in a run of their own (ipc)" in joined["machine"]
    if pictures.available():
        drawn = pictures.draw(report, tmp_path)
        assert [path.name for path in drawn] == ["ipc_rt_spin.png", "ipc_flow.png"]
        assert all(path.stat().st_size > 1000 for path in drawn)


@needs_linux
@pytest.mark.slow
def test_the_whole_subject(tmp_path):
    argv = [
        sys.executable,
        "-m",
        "corelane",
        "bench",
        "ipc",
        "--quick",
        "--no-rust",
        "--json",
        str(tmp_path / "report"),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=6 * PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "report").read_text())
    assert set(found["grids"]) == {
        f"ipc_{key}" for key in ("flow", "fan_in", "fan_out", "op", "idle", "memory", "death")
    }
    assert {"ipc_rt_sleep"} <= set(found["sections"])
    assert "Ring, round trip, asleep" in done.stdout
    assert not psutil.Process().children()
