"""Topologies: machines that we do not own and the one that we run on, by number and against lscpu, hwloc and numactl;
what is missing, what is malformed, what changes while we look."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import needs, needs_linux
from machines import MACHINES, Machine, Made, Place, in_memory, private, tree

from corelane import cpu
from corelane.cpu import hardware
from corelane.cpu.sysctl import topology_of
from corelane.cpu.sysfs import SysFiles
from corelane.errors import CpuError

PATIENCE = 60


every_machine = pytest.mark.parametrize("name", MACHINES)


def output(*argv):
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def counts(topology):
    return Counter(cache.name for cache in topology.caches)


# ---- each machine, by number -----------------------------------------------------------------------------------------


def test_two_packages_with_smt():
    found = cpu.topology(tree("xeon"))
    assert (found.packages, len(found.cores), len(found.cpus), found.smt) == (2, 40, 80, 2)
    assert counts(found) == {"L1d": 40, "L1i": 40, "L2": 40, "L3": 2}
    assert found.siblings(0) == (0, 40)
    assert found.cores[39].cpus == (39, 79)
    for ask in (found.siblings, found.neighbours):
        with pytest.raises(KeyError, match=r"CPU 80 is not online here \(online: 0-79\)"):
            ask(80)
    assert (found.by_id[59].package, found.by_id[60].package) == (0, 1)
    assert found.neighbours(60) == (*range(20, 40), *range(60, 80))
    assert [node.distances for node in found.nodes] == [{0: 10, 1: 21}, {0: 21, 1: 10}]
    assert found.nodes[1].memory == 99081216 * 1024
    assert found.isolated == {2, 3, 42, 43}
    assert found.nohz_full == set(), "(null) is what old kernels say for none"
    assert found.by_id[7].max_khz == 3900000
    assert found.by_id[7].capacity is None
    assert found.model == "Intel(R) Xeon(R) Gold 6248 CPU @ 2.50GHz"
    last = found.caches[-1]
    assert (last.level, last.kind, last.size, last.ways, last.line) == (3, "unified", 28160 * 1024, 11, 64)


def test_many_last_level_caches_and_nodes():
    found = cpu.topology(tree("epyc"))
    assert (found.packages, len(found.cores), len(found.cpus), found.smt) == (2, 128, 256, 2)
    assert counts(found) == {"L1d": 128, "L1i": 128, "L2": 128, "L3": 16}
    assert len(found.nodes) == 8
    assert found.nodes[0].distances == {0: 10, 1: 12, 2: 12, 3: 12, 4: 32, 5: 32, 6: 32, 7: 32}
    assert found.nodes[7].cpus == (*range(112, 128), *range(240, 256))
    assert found.neighbours(9) == (*range(8, 16), *range(136, 144))
    assert found.nohz_full == set(range(8, 16))
    assert {each.die for each in found.cpus} == {0}
    assert {each.cluster for each in found.cpus} == {None}


def test_big_and_little_cores():
    found = cpu.topology(tree("big_little"))
    assert (found.packages, len(found.cores), len(found.cpus), found.smt) == (1, 6, 6, 1)
    assert [each.capacity for each in found.cpus] == [485] * 4 + [1024] * 2
    assert [each.max_khz for each in found.cpus] == [1416000] * 4 + [1800000] * 2
    assert [each.cluster for each in found.cpus] == [0] * 4 + [1] * 2
    l2 = [(cache.size, cache.cpus) for cache in found.caches if cache.level == 2]
    assert l2 == [(512 << 10, (0, 1, 2, 3)), (1 << 20, (4, 5))]
    l1i = [cache.size >> 10 for cache in found.caches if cache.name == "L1i"]
    assert l1i == [32] * 4 + [48] * 2
    assert [cache.ways for cache in found.caches if cache.name == "L1i"] == [2] * 4 + [3] * 2
    assert [(node.id, node.cpus, node.distances) for node in found.nodes] == [(0, tuple(range(6)), {})]
    assert found.nodes[0].memory == 4 << 30, "of /proc/meminfo, as there are no nodes"


def test_performance_and_efficiency_cores():
    found = cpu.topology(tree("hybrid"))
    assert (len(found.cores), len(found.cpus), found.smt) == (12, 20, 2)
    assert [len(core.cpus) for core in found.cores] == [2] * 8 + [1] * 4
    assert Counter(each.kind for each in found.cpus) == {"performance": 16, "efficiency": 4}
    assert counts(found) == {"L1d": 12, "L1i": 12, "L2": 9, "L3": 1}
    assert [cache.size >> 10 for cache in found.caches if cache.name == "L2"] == [1280] * 8 + [2048]
    assert [cache.size >> 10 for cache in found.caches if cache.name == "L1d"] == [48] * 8 + [32] * 4
    assert {each.cluster for each in found.cpus if each.id >= 16} == {0}
    assert {each.cluster for each in found.cpus if each.id < 16} == {None}


def test_a_small_virtual_machine():
    found = cpu.topology(tree("vm"))
    assert (found.packages, len(found.cores), found.smt, len(found.nodes)) == (1, 2, 1, 1)
    assert found.neighbours(0) == (0, 1)
    assert found.by_id[1].capacity == 1024


def test_holes_offline_cpus_and_numbers_beyond_1024():
    found = cpu.topology(tree("holes"))
    assert found.online == {0, 1, 4, 5, 8, 9, 12, 13, 1024, 1025, 1028, 1029, 1032, 1033}
    assert found.offline == {each for each in (*range(16), *range(1024, 1040)) if each not in found.online}
    assert found.possible == set(range(2048))
    assert [core.cpus for core in found.cores][-2:] == [(1028, 1029), (1032, 1033)]
    assert {each.package for each in found.cpus} == {0, 1}, "the firmware says 0 and 8"
    assert [node.id for node in found.nodes] == [0, 8, 255]
    assert found.nodes[2].cpus == ()
    assert found.nodes[2].memory == 16515072 * 1024
    assert found.nodes[1].distances == {0: 40, 8: 10, 255: 80}
    assert found.by_id[1033].node == 8
    assert found.caches[-1].cpus == (1032, 1033)
    assert found.caches[-1].line == 128


def test_firmware_that_tells_nothing():
    found = cpu.topology(tree("arm_vm"))
    assert (found.packages, len(found.cores), found.caches) == (1, 4, ())
    assert found.neighbours(2) == (2,)


def test_a_sandbox_with_lists_alone():
    found = cpu.topology(tree("bare"))
    assert (found.packages, len(found.cores), len(found.cpus), found.caches) == (1, 3, 3, ())


@every_machine
def test_the_lists_agree_with_each_other(name):
    found = cpu.topology(tree(name))
    assert sorted(each for core in found.cores for each in core.cpus) == sorted(found.online)
    for index, core in enumerate(found.cores):
        assert core.index == index
        assert {(found.by_id[each].core, found.by_id[each].package) for each in core.cpus} == {(index, core.package)}
    for node in found.nodes:
        assert all(found.by_id[each].node == node.id for each in node.cpus)
    assert all(set(cache.cpus) <= found.online and cache.cpus for cache in found.caches)
    assert not found.offline & found.online
    assert found.online <= found.possible
    assert pickle.loads(pickle.dumps(found)) == found


@every_machine
def test_as_json_it_is_all_there(name):
    found = cpu.topology(tree(name))
    data = json.loads(json.dumps(found.as_dict()))
    assert [cpu.Cpu(**each) for each in data["cpus"]] == list(found.cpus)
    assert [cpu.Core(**each | {"cpus": tuple(each["cpus"])}) for each in data["cores"]] == list(found.cores)
    assert [cpu.Cache(**each | {"cpus": tuple(each["cpus"])}) for each in data["caches"]] == list(found.caches)
    for each, node in zip(data["nodes"], found.nodes, strict=True):
        distances = {int(to): distance for to, distance in each["distances"].items()}
        assert cpu.Node(**each | {"cpus": tuple(each["cpus"]), "distances": distances}) == node
    for field in ("online", "offline", "possible", "isolated", "nohz_full"):
        assert data[field] == sorted(getattr(found, field))
    assert (data["model"], data["packages"], data["smt"]) == (found.model, found.packages, found.smt)


# ---- against the tools that people trust -----------------------------------------------------------------------------


def lscpu(root, *columns):
    lines = [line for line in output("lscpu", "-s", root, f"-p={','.join(columns)}").splitlines() if line[0] != "#"]
    return [[int(word) if word else None for word in line.split(",")] for line in lines]


@needs_linux
@needs("lscpu")
@pytest.mark.parametrize("name", [*(name for name in MACHINES if name != "bare"), "/"])
def test_lscpu_reads_the_same(name):
    root = "/" if name == "/" else tree(name)
    found = cpu.topology(root, refresh=True)
    numa = any(node.distances for node in found.nodes)
    rows = lscpu(root, "CPU", "CORE", "SOCKET", "NODE")
    assert [(row[0], row[2], row[3]) for row in rows] == [
        (each.id, each.package, each.node if numa else None) for each in found.cpus
    ]
    if name == "big_little":  # lscpu counts the cores of each type of CPU from 0
        assert [row[1] for row in rows] == [0, 1, 2, 3, 0, 1]
    else:
        assert [row[1] for row in rows] == [each.core for each in found.cpus]


def hwloc(root):
    """What hwloc makes of a tree: the CPUs of each core, package and cache with its size, and each node's memory."""
    text = output("lstopo-no-graphics", "--if", "fsroot", "-i", root, "--of", "xml")
    text = re.sub(r"<!DOCTYPE[^>]*>", "", text)
    found = {"Core": [], "Package": [], "PU": [], "Caches": [], "NUMANode": {}}
    for each in ElementTree.fromstring(text).iter("object"):
        kind, cpuset = each.get("type"), each.get("cpuset") or ""
        words = [int(word or "0", 16) for word in cpuset.split(",")] if cpuset else []
        mask = sum(word << 32 * at for at, word in enumerate(reversed(words)))
        cpus = tuple(at for at in range(mask.bit_length()) if mask >> at & 1)
        if kind == "NUMANode":
            found[kind][int(each.get("os_index"))] = (cpus, int(each.get("local_memory")))
        elif re.fullmatch(r"L\di?Cache", kind):
            level = int(kind[1])
            suffix = "i" if kind[2] == "i" else "d" if level == 1 else ""
            found["Caches"].append((f"L{level}{suffix}", cpus, int(each.get("cache_size"))))
        elif kind in found:
            found[kind].append(cpus)
    return found


@needs_linux
@needs("lstopo-no-graphics")
@pytest.mark.parametrize("name", [name for name in MACHINES if name != "bare"])
def test_hwloc_reads_the_same(name):
    found, theirs = cpu.topology(tree(name)), hwloc(tree(name))
    assert sorted(theirs["PU"]) == [(each.id,) for each in found.cpus]
    assert sorted(theirs["Core"]) == sorted(core.cpus for core in found.cores)
    assert sorted(theirs["Caches"]) == sorted((cache.name, cache.cpus, cache.size) for cache in found.caches)
    packages = {}
    for each in found.cpus:
        packages.setdefault(each.package, []).append(each.id)
    if name != "arm_vm":  # hwloc makes no package of -1
        assert sorted(theirs["Package"]) == sorted(map(tuple, packages.values()))
    if any(node.distances for node in found.nodes):
        assert theirs["NUMANode"] == {node.id: (node.cpus, node.memory) for node in found.nodes}
    else:
        assert len(theirs["NUMANode"]) == 1


@needs_linux
@needs("hwloc-calc")
def test_hwloc_counts_this_machine_as_we_do():
    found = cpu.topology(refresh=True)
    visible = ["hwloc-calc", "--disallowed", "-N"]
    assert int(output(*visible, "pu", "all")) == len(found.cpus)
    assert int(output(*visible, "core", "all")) == len(found.cores)
    assert int(output(*visible, "package", "all")) == found.packages
    last = max((cache.level for cache in found.caches), default=0)
    if last > 1:
        theirs = int(output(*visible, f"L{last}", "all"))
        assert theirs == sum(cache.level == last and cache.kind != "instruction" for cache in found.caches)


@needs_linux
@needs("numactl")
def test_numactl_sees_the_same_nodes():
    text = output("numactl", "-H")
    found = cpu.topology(refresh=True)
    cpus = {int(node): tuple(map(int, line.split())) for node, line in re.findall(r"node (\d+) cpus:(.*)", text)}
    sizes = {int(node): int(size) for node, size in re.findall(r"node (\d+) size: (\d+) MB", text)}
    assert cpus == {node.id: node.cpus for node in found.nodes}
    assert sizes == {node.id: node.memory >> 20 for node in found.nodes}
    distances = {int(node): line.split() for node, line in re.findall(r"^ +(\d+):((?: +\d+)+) *$", text, re.M)}
    ids = [node.id for node in found.nodes]
    if any(node.distances for node in found.nodes):
        assert distances == {node.id: [str(node.distances[to]) for to in ids] for node in found.nodes}


@needs_linux
def test_this_machine_has_the_cpus_that_the_system_counts():
    found = cpu.topology(refresh=True)
    assert len(found.cpus) == os.sysconf("SC_NPROCESSORS_ONLN")
    assert os.sched_getaffinity(0) <= found.online


# ---- what may be missing, and what may be wrong ----------------------------------------------------------------------


@pytest.fixture
def small():
    """A machine of four CPUs in two cores, to be damaged."""
    places = {each: Place(core=each // 2, node=0) for each in range(4)}
    machine = Machine(places, (private("32K", "32K", "1024K"),), memory={0: 1 << 20}, distances={0: "10"}, khz=(1000,))
    with in_memory() as directory:
        yield machine.write(Path(directory) / "small")


def system(root, name):
    return root / "sys/devices/system" / name


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("cpu/online", "0-x", "'0-x'"),
        ("cpu/online", "", "no CPU at all"),
        ("cpu/present", "3-1", "runs backwards"),
        ("cpu/isolated", "0,,1", "'0,,1'"),
        ("cpu/cpu0/topology/core_cpus_list", "zero", "'zero'"),
        ("cpu/cpu0/topology/core_cpus_list", "", "CPU 0 itself is missing"),
        ("cpu/cpu0/topology/package_cpus_list", "1-3", "CPU 0 itself is missing"),
        ("cpu/cpu0/cache/index2/size", "big", "'big'"),
        ("cpu/cpu0/cache/index2/level", "two", "'two'"),
        ("cpu/cpu0/cache/index2/type", "Magic", "'Magic'"),
        ("cpu/cpu2/cache/index1/shared_cpu_list", "2-", "'2-'"),
        ("cpu/cpufreq/policy2/cpuinfo_max_freq", "fast", "'fast'"),
        ("node/online", "one", "'one'"),
        ("node/node0/cpulist", "0-99999999", "beyond"),
        ("node/node0/distance", "10 20", "2 distances for 1 nodes"),
        ("node/node0/distance", "near", "'near'"),
        ("node/node0/meminfo", "nothing", "MemTotal"),
        ("node/node0/meminfo", "Node 0 MemTotal: much kB", "'much'"),
    ],
)
def test_a_malformed_file_is_named_with_its_text(small, name, text, says):
    path = system(small, name)
    path.write_text(text + "\n")
    with pytest.raises(CpuError) as caught:
        cpu.topology(small)
    assert says in str(caught.value)
    assert str(path) in str(caught.value) or "cpufreq" in name


@pytest.mark.parametrize("name", ["cpu/isolated", "cpu/cpu0/cache/index0/size", "node/node0/distance"])
def test_an_unreadable_file_is_named(small, name):
    path = system(small, name)
    path.unlink()
    path.mkdir()  # not even root can read it
    with pytest.raises(CpuError, match="cannot be read") as caught:
        cpu.topology(small)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "junk", ["", "-1", "-", "0", "0-1", "9999999999999999999999", "\x00\xff", "(null)", "K", " \n 3 \n"]
)
def test_any_file_may_say_anything(small, junk):
    """It is a topology or a CpuError with the file's name, and never another error."""
    for path in sorted(small.rglob("*")):
        if path.is_file() and "proc" not in path.parts:
            before = path.read_bytes()
            path.write_bytes(junk.encode("latin-1"))
            refused = ""
            try:
                found = cpu.topology(small, refresh=True)
            except CpuError as error:
                refused = str(error)
            path.write_bytes(before)
            if refused:
                assert "/sys/devices/" in refused
            else:
                assert sorted(each for core in found.cores for each in core.cpus) == sorted(found.online)
                assert found.draw(80)


@needs_linux
def test_a_fifo_that_nobody_writes_to_holds_nobody(small):
    for name in ("proc/cpuinfo", "sys/devices/system/cpu/isolated"):
        path = small / name
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    assert cpu.topology(small).model == ""


def test_no_sysfs_at_all(tmp_path):
    with pytest.raises(CpuError, match=r"must be mounted at /sys"):
        cpu.topology(tmp_path)


@pytest.mark.parametrize("root", [None, 3, ["/"]])
def test_a_root_that_is_no_path(root):
    with pytest.raises(TypeError):
        cpu.topology(root)


@pytest.mark.parametrize(
    "missing",
    [
        "cpu/cpu0/cache/index2/size",
        "cpu/cpu0/cache/index0/id",
        "cpu/present",
        "cpu/possible",
        "cpu/isolated",
        "cpu/offline",
        "cpu/cpufreq/policy0/cpuinfo_max_freq",
        "node/node0/meminfo",
    ],
)
def test_what_may_be_missing_is_missing_alone(small, missing):
    before = cpu.topology(small)
    system(small, missing).unlink()
    after = cpu.topology(small, refresh=True)
    assert [core.cpus for core in after.cores] == [core.cpus for core in before.cores]
    assert len(after.caches) == len(before.caches)
    assert after.online == before.online


def test_a_cache_without_a_level_is_left_out(small):
    for each in (0, 2):  # what their siblings have are links
        system(small, f"cpu/cpu{each}/cache/index2/level").unlink()
    assert counts(cpu.topology(small)) == {"L1d": 2, "L1i": 2}


def test_a_cpu_without_its_place_is_a_core_of_its_own(small):
    """As in the moment between the list and its directory's end."""
    shutil.rmtree(system(small, "cpu/cpu2"))
    shutil.rmtree(system(small, "cpu/cpu3"))
    for name in ("package_cpus_list", "core_siblings_list"):
        for each in range(2):
            system(small, f"cpu/cpu{each}/topology/{name}").write_text("0-1\n")
    assert [core.cpus for core in cpu.topology(small).cores] == [(0, 1), (2,), (3,)]


def test_ids_serve_where_there_are_no_lists(small):
    for each in range(4):
        for path in system(small, f"cpu/cpu{each}/topology").glob("*_list"):
            path.unlink()
        system(small, f"cpu/cpu{each}/topology/physical_package_id").write_text(f"{each // 2 * 7}\n")
    found = cpu.topology(small)
    assert [core.cpus for core in found.cores] == [(0, 1), (2, 3)]
    assert [each.package for each in found.cpus] == [0, 0, 1, 1]


def test_an_old_kernel_whose_ids_say_nothing(tmp_path):
    places = {each: Place(package=each // 2, core=each) for each in range(4)}
    root = Machine(places, old=True, cpuinfo="arm").write(tmp_path / "x")
    for path in system(root, "cpu").glob("cpu?/topology/physical_package_id"):
        path.write_text("-1\n")
    assert [each.package for each in cpu.topology(root).cpus] == [0, 0, 1, 1]


def test_a_part_of_the_machine_is_seen_in_some_containers(small):
    """lxcfs shortens `online`, and leaves all else as the host has it."""
    system(small, "cpu/online").write_text("1-2\n")
    found = cpu.topology(small)
    assert found.online == {1, 2}
    assert [core.cpus for core in found.cores] == [(1,), (2,)]
    assert all(set(cache.cpus) <= {1, 2} for cache in found.caches)
    assert found.nodes[0].cpus == (1, 2)
    assert found.offline == {0, 3}


def test_a_core_that_lacks_a_level_of_cache(tmp_path):
    """Its last level lies at the index where others have the level it lacks."""
    last = Made(3, "Unified", "2048K", 16, ("group",))
    little, big = (*private("32K", "32K", ""), last), (*private("32K", "32K", "512K"), last)
    places = {each: Place(core=each, kind=each // 2) for each in range(4)}
    found = cpu.topology(Machine(places, (little, big), cpuinfo="arm", dies=False).write(tmp_path / "x"))
    shared = {(cache.name, cache.cpus) for cache in found.caches if cache.level > 1}
    assert shared == {("L2", (2,)), ("L2", (3,)), ("L3", (0, 1, 2, 3))}


def test_caches_of_one_level_and_several_sizes(tmp_path):
    """One die with more L3 than the other (a 7950X3D)."""
    l3 = [Made(3, "Unified", "98304K", 16, ("group",)), Made(3, "Unified", "32768K", 8, ("group",))]
    kinds = [(*private("32K", "32K", "1024K"), last) for last in l3]
    places = {each: Place(core=each, group=each // 2, kind=each // 2) for each in range(4)}
    found = cpu.topology(Machine(places, tuple(kinds)).write(tmp_path / "x"))
    assert [(cache.size >> 20, cache.ways) for cache in found.caches if cache.level == 3] == [(96, 16), (32, 8)]


def test_lists_longer_than_a_page(tmp_path):
    """Every second of some thousand CPUs: what a buffer of a page cannot hold."""
    base = tmp_path / "sys/devices/system/cpu"
    base.mkdir(parents=True)
    online = range(0, 60000, 2)
    (base / "online").write_text(",".join(map(str, online)) + "\n")
    assert hardware._changing(str(tmp_path))[0] == ",".join(map(str, online))


# ---- known, and changing ---------------------------------------------------------------------------------------------


def test_it_is_read_once(small):
    first = cpu.topology(small)
    shutil.rmtree(small)
    assert cpu.topology(small) is first
    assert cpu.topology(os.fspath(small)) is first
    assert cpu.topology(os.fsencode(small)) is first
    with pytest.raises(CpuError):
        cpu.topology(small, refresh=True)


def test_hotplug_is_noticed_within_a_second(small, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(hardware, "time", SimpleNamespace(monotonic=lambda: now[0]))
    first = cpu.topology(small)
    system(small, "cpu/online").write_text("0-2\n")
    now[0] += 0.9
    assert cpu.topology(small) is first
    now[0] += 0.2
    second = cpu.topology(small)
    assert second.online == {0, 1, 2}
    now[0] += 1.1
    looks = []
    changing = hardware._changing
    monkeypatch.setattr(hardware, "_changing", lambda root: looks.append(root) or changing(root))
    assert cpu.topology(small) is second, "nothing has changed: nothing is read anew"
    assert cpu.topology(small) is second
    assert len(looks) == 1, "looked at twice in a second"
    system(small, "cpu/isolated").write_text("2\n")
    now[0] += 1.1
    assert cpu.topology(small).isolated == {2}


def test_refresh_reads_what_is_not_watched(small):
    first = cpu.topology(small)
    system(small, "node/node0/meminfo").write_text("Node 0 MemTotal: 2048 kB\n")
    assert cpu.topology(small) is first
    assert cpu.topology(small, refresh=True).nodes[0].memory == 2048 << 10


def test_a_cpu_that_goes_while_we_read(small, monkeypatch):
    """The list says that CPU 3 is online; then its directory is gone. We read once more, and have neither an error nor
    a core that is not there."""
    read = hardware._read

    def interrupted(root):
        if system(small, "cpu/cpu3").exists():
            system(small, "cpu/online").write_text("0-2\n")
            shutil.rmtree(system(small, "cpu/cpu3"))
            system(small, "cpu/cpu2/topology/core_cpus_list").write_text("\n")  # what it says in that moment
            try:
                return read(root)
            finally:
                system(small, "cpu/cpu2/topology/core_cpus_list").write_text("2\n")
        return read(root)

    monkeypatch.setattr(hardware, "_read", interrupted)
    system(small, "cpu/online").write_text("0-3\n")
    assert [core.cpus for core in cpu.topology(small).cores] == [(0, 1), (2,)]


def test_many_threads_have_one_answer(small):
    found, failures = [], []
    start = threading.Barrier(8)

    def read():
        try:
            start.wait(PATIENCE)
            for _ in range(5):
                found.append(cpu.topology(small, refresh=True))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not failures
    assert len(found) == 40
    assert all(each == found[0] for each in found)


def test_no_file_is_read_whose_answer_is_known(monkeypatch):
    """256 CPUs have more than 14,000 files of their own."""
    read, names = SysFiles.read, []
    monkeypatch.setattr(
        SysFiles, "read", lambda self, these: read(self, [names.append(name) or name for name in these])
    )
    cpu.topology(tree("epyc"), refresh=True)
    assert len(names) < 2500
    assert sum("package_cpus" in name for name in names) < 8
    assert sum("core_cpus" in name for name in names) < 140


def test_roots_are_not_kept_for_ever(small, tmp_path):
    for at in range(20):
        (tmp_path / f"link{at}").symlink_to(small)
        cpu.topology(tmp_path / f"link{at}")
    assert len(hardware._known) <= hardware._MOST_ROOTS


def test_the_function_is_not_hidden_by_a_module():
    """`from corelane.cpu.x import ...` sets the attribute x of the package: no module may be named as a function is."""
    code = "import corelane.cpu.hardware, corelane.cpu as c; from corelane.cpu import *; print(callable(c.topology))"
    assert output(sys.executable, "-c", code).strip() == "True"


# ---- macOS -----------------------------------------------------------------------------------------------------------

M1 = {
    "machdep.cpu.brand_string": "Apple M1",
    "hw.packages": 1,
    "hw.physicalcpu": 8,
    "hw.logicalcpu": 8,
    "hw.memsize": 17179869184,
    "hw.cachelinesize": 128,
    "hw.l1dcachesize": 65536,
    "hw.l1icachesize": 131072,
    "hw.l2cachesize": 4194304,
    "hw.nperflevels": 2,
    "hw.perflevel0.name": "Performance",
    "hw.perflevel0.physicalcpu": 4,
    "hw.perflevel0.logicalcpu": 4,
    "hw.perflevel0.l1dcachesize": 131072,
    "hw.perflevel0.l1icachesize": 196608,
    "hw.perflevel0.l2cachesize": 12582912,
    "hw.perflevel0.cpusperl2": 4,
    "hw.perflevel1.name": "Efficiency",
    "hw.perflevel1.physicalcpu": 4,
    "hw.perflevel1.logicalcpu": 4,
    "hw.perflevel1.l1dcachesize": 65536,
    "hw.perflevel1.l1icachesize": 131072,
    "hw.perflevel1.l2cachesize": 4194304,
    "hw.perflevel1.cpusperl2": 4,
}
INTEL = {
    "machdep.cpu.brand_string": "Intel(R) Core(TM) i9-9880H CPU @ 2.30GHz",
    "hw.packages": 1,
    "hw.physicalcpu": 8,
    "hw.logicalcpu": 16,
    "hw.memsize": 34359738368,
    "hw.cachelinesize": 64,
    "hw.cpufrequency_max": 2300000000,
    "hw.l1dcachesize": 32768,
    "hw.l1icachesize": 32768,
    "hw.l2cachesize": 262144,
    "hw.l3cachesize": 16777216,
}


def test_apple_silicon():
    found = topology_of(M1)
    assert (found.model, found.packages, len(found.cores), len(found.cpus), found.smt) == ("Apple M1", 1, 8, 8, 1)
    assert [each.kind for each in found.cpus] == ["efficiency"] * 4 + ["performance"] * 4
    l2 = [(cache.size, cache.cpus) for cache in found.caches if cache.level == 2]
    assert l2 == [(4 << 20, (0, 1, 2, 3)), (12 << 20, (4, 5, 6, 7))]
    assert [cache.size >> 10 for cache in found.caches if cache.name == "L1d"] == [64] * 4 + [128] * 4
    assert (found.nodes[0].memory, found.nodes[0].distances) == (16 << 30, {})
    assert found.caches[0].line == 128


def test_an_intel_mac_with_smt():
    found = topology_of(INTEL)
    assert (len(found.cores), len(found.cpus), found.smt) == (8, 16, 2)
    assert found.siblings(3) == (2, 3)
    assert counts(found) == {"L1d": 8, "L1i": 8, "L2": 8, "L3": 1}
    assert found.neighbours(0) == tuple(range(16))
    assert found.by_id[0].max_khz == 2300000
    assert {each.kind for each in found.cpus} == {""}


def test_a_mac_with_two_packages():
    found = topology_of(INTEL | {"hw.packages": 2})
    assert [each.package for each in found.cpus] == [0] * 8 + [1] * 8
    assert [cache.cpus for cache in found.caches if cache.level == 3] == [tuple(range(8)), tuple(range(8, 16))]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "hw.physicalcpu is not there"),
        (INTEL | {"hw.logicalcpu": 15}, "do not fit"),
        (INTEL | {"hw.physicalcpu": 0}, "do not fit"),
        (INTEL | {"hw.memsize": "much"}, "hw.memsize says 'much'"),
        (INTEL | {"hw.packages": -1}, "hw.packages says -1"),
        (M1 | {"hw.perflevel1.physicalcpu": 5}, "do not fit"),
    ],
)
def test_values_of_no_mac(values, says):
    with pytest.raises(CpuError, match=re.escape(says)):
        topology_of(values)


@pytest.mark.skipif(sys.platform == "darwin", reason="there it is not refused")
def test_elsewhere_sysctl_is_refused_by_name():
    from corelane.cpu.sysctl import read_sysctl

    with pytest.raises(CpuError, match=r"sysctl machdep\.cpu\.brand_string cannot be read"):
        read_sysctl()
