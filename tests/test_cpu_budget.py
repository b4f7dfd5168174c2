"""The true count: on trees of files that stand for machines which this is not, and live where that can be arranged."""

import contextlib
import errno
import itertools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers import descriptors, needs_linux, script, wait_until

from corelane import cpu
from corelane.cpu import counting
from corelane.errors import CpuError

_numbers = itertools.count()


def mount(root, point, kind, options, number=30):
    """A line of /proc/self/mountinfo."""
    return f"{number} 23 0:{number} {root} {point} rw,relatime shared:{number} - {kind} {kind} {options}\n"


V2 = "/sys/fs/cgroup"


class Tree:
    """A machine's files below a directory."""

    def __init__(self, path):
        self.path = path
        self.write("/sys/devices/system/cpu/online", "0-7\n")
        self.write("/proc/self/status", "Name:\tx\nCpus_allowed:\tff\nCpus_allowed_list:\t0-7\n")

    def write(self, name, text):
        file = Path(f"{self.path}{name}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return str(file)

    def cgroups(self, own, mounts):
        self.write("/proc/self/cgroup", own)
        self.write("/proc/self/mountinfo", "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n" + mounts)

    def budget(self, environ=(), **options):
        return cpu.budget(self.path, dict(environ), **options)


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def names(limits):
    return [limit.name for limit in limits]


def limit_of(budget, name):
    (found,) = [limit for limit in budget.limits if limit.name == name]
    return found


# ---- trees of files --------------------------------------------------------------------------------------------------


def test_a_machine_without_limits(tree):
    found = tree.budget()
    assert (found.cpus, found.quota, found.count) == (frozenset(range(8)), None, 8)
    assert found.binding == ()
    assert "all CPUs that are online" in found.explain().splitlines()[0]


def test_a_container_with_a_cpuset_and_a_quota(tree):
    """Version 2 in a namespace of its own: cpuset 4-7, 2.5 CPUs' worth of time."""
    tree.cgroups("0::/\n", mount("/", V2, "cgroup2", "rw,nsdelegate"))
    tree.write(f"{V2}/cgroup.controllers", "cpuset cpu memory\n")
    tree.write(f"{V2}/cgroup.type", "domain\n")
    tree.write(f"{V2}/cpuset.cpus.effective", "4-7\n")
    tree.write(f"{V2}/cpuset.cpus", "4-7\n")
    where = tree.write(f"{V2}/cpu.max", "250000 100000\n")
    found = tree.budget()
    assert found.cpus == {4, 5, 6, 7}
    assert found.quota == 2.5
    assert found.count == 3  # rounded up
    (binding,) = found.binding
    assert (binding.value, binding.where, binding.text) == (2.5, where, "250000 100000\n")
    table = found.explain()
    assert table.splitlines()[0] == "count 3: quota (cgroup v2)"
    assert where in table
    assert "4: 4-7" in table
    assert not found.ignored


@pytest.mark.parametrize(
    ("quota", "count"), [("1000", 1), ("50000", 1), ("100000", 1), ("100001", 2), ("300000", 3), ("max", 8)]
)
def test_a_quota_is_rounded_up_and_never_to_none(tree, quota, count):
    tree.cgroups("0::/a\n", mount("/", V2, "cgroup2", "rw"))
    tree.write(f"{V2}/a/cpu.max", f"{quota} 100000\n")
    assert tree.budget().count == count


@pytest.mark.parametrize("lowest", ["", "/a", "/a/b", "/a/b/c"])
def test_the_lowest_quota_of_all_parents_binds(tree, lowest):
    tree.cgroups("0::/a/b/c\n", mount("/", V2, "cgroup2", "rw"))
    for directory in ("", "/a", "/a/b", "/a/b/c"):
        tree.write(f"{V2}{directory}/cpu.max", "150000 100000\n" if directory == lowest else "600000 100000\n")
    found = tree.budget()
    assert (found.quota, found.count) == (1.5, 2)
    assert [limit.where for limit in found.binding] == [f"{tree.path}{V2}{lowest}/cpu.max"]


def test_a_cpuset_that_is_not_set_is_the_parents(tree):
    tree.cgroups("0::/a/b\n", mount("/", V2, "cgroup2", "rw"))
    tree.write(f"{V2}/a/b/cpuset.cpus", "\n")
    tree.write(f"{V2}/a/cpuset.cpus.effective", "2,5\n")
    assert tree.budget().cpus == {2, 5}


@pytest.mark.parametrize("together", ["cpu,cpuacct", "cpuacct,cpu"])
def test_version_1(tree, together):
    tree.cgroups(
        f"4:{together}:/job\n3:cpuset:/job/step\n1:name=systemd:/user\n",
        mount("/", f"{V2}/{together}", "cgroup", f"rw,{together}") + mount("/", f"{V2}/cpuset", "cgroup", "rw,cpuset"),
    )
    where = tree.write(f"{V2}/{together}/job/cpu.cfs_quota_us", "150000\n")
    tree.write(f"{V2}/{together}/job/cpu.cfs_period_us", "100000\n")
    tree.write(f"{V2}/{together}/cpu.cfs_quota_us", "-1\n")
    tree.write(f"{V2}/{together}/cpu.cfs_period_us", "100000\n")
    tree.write(f"{V2}/cpuset/job/step/cpuset.cpus", "0-5\n")
    tree.write(f"{V2}/cpuset/job/step/cpuset.effective_cpus", "1-5\n")
    found = tree.budget()
    assert (found.cpus, found.quota, found.count) == ({1, 2, 3, 4, 5}, 1.5, 2)
    assert limit_of(found, "quota (cgroup v1)").where == where


def test_both_versions_at_once(tree):
    """Hybrid: quota and cpuset in version 1, version 2 has neither, though files of that name are there by mistake."""
    tree.cgroups(
        "2:cpu:/job\n0::/session\n",
        mount("/", f"{V2}/cpu", "cgroup", "rw,cpu") + mount("/", f"{V2}/unified", "cgroup2", "rw"),
    )
    tree.write(f"{V2}/unified/cgroup.controllers", "memory\n")
    tree.write(f"{V2}/unified/session/cpu.max", "100000 100000\n")
    tree.write(f"{V2}/cpu/job/cpu.cfs_quota_us", "400000\n")
    tree.write(f"{V2}/cpu/job/cpu.cfs_period_us", "100000\n")
    assert tree.budget().count == 4
    tree.write(f"{V2}/unified/cgroup.controllers", "cpu memory\n")
    assert tree.budget().count == 1


def test_a_container_that_sees_its_own_part_of_version_1(tree):
    """The mount's top is the container's own directory, and /proc tells the path from the host's root."""
    tree.cgroups("2:cpu:/docker/abc/inner\n", mount("/docker/abc", f"{V2}/cpu", "cgroup", "rw,cpu"))
    tree.write(f"{V2}/cpu/cpu.cfs_quota_us", "300000\n")
    tree.write(f"{V2}/cpu/cpu.cfs_period_us", "100000\n")
    tree.write(f"{V2}/cpu/inner/cpu.cfs_quota_us", "200000\n")
    tree.write(f"{V2}/cpu/inner/cpu.cfs_period_us", "100000\n")
    found = tree.budget()
    assert found.count == 2
    assert [limit.value for limit in found.limits if limit.name.startswith("quota")] == [2.0, 3.0]
    assert not found.ignored


@pytest.mark.parametrize(
    ("own", "top", "count"),
    [
        ("/", "/..", 2),  # the mount is of the time before the namespace: what is above limits us too
        ("/", "/../..", 2),
        ("/../x", "/..", 1),  # beside the namespace's root, below the mount's
        ("/../x", "/", 8),  # moved out of the namespace: nothing that is mounted limits us
        ("/../../x", "/..", 8),
        ("/..", "/", 8),
        ("/other", "/docker/abc", 2),  # a container is told another path than it is shown
        ("/docker/abcdef", "/docker/abc", 2),  # no part of a name is a directory
        ("/gone/x", "/", 2),  # removed, or not shown
        ("/x (deleted)", "/", 1),
        ("/gone (deleted)", "/", 2),
    ],
)
def test_paths_in_namespaces_and_partial_mounts(tree, own, top, count):
    tree.cgroups(f"0::{own}\n", mount(top, V2, "cgroup2", "rw"))
    tree.write(f"{V2}/cpu.max", "200000 100000\n")
    tree.write(f"{V2}/x/cpu.max", "100000 100000\n")
    tree.write(f"{V2}def/cpu.max", "100000 100000\n")
    found = tree.budget()
    assert found.count == count
    is_found = own in ("/../x", "/x (deleted)") and count == 1
    assert names(found.ignored) == ([] if is_found else ["cgroup v2 cpu,cpuset"])
    assert is_found or f"{own}" in found.explain()


def test_of_several_mounts_that_which_shows_our_directory(tree):
    tree.cgroups(
        "0::/job\n",
        mount("/other", "/mnt/other", "cgroup2", "rw") + mount("/", V2, "cgroup2", "rw", 31),
    )
    tree.write("/mnt/other/cpu.max", "100000 100000\n")
    tree.write(f"{V2}/job/cpu.max", "300000 100000\n")
    found = tree.budget()
    assert found.count == 3
    assert not found.ignored


def test_a_mount_point_with_blanks(tree):
    tree.cgroups("0::/a b\n", mount("/", r"/odd\040place\134x", "cgroup2", "rw"))
    tree.write("/odd place\\x/a b/cpu.max", "100000 100000\n")
    assert tree.budget().count == 1


def test_a_hierarchy_that_is_not_mounted_is_named(tree):
    tree.cgroups("2:cpuset:/job\n", "")
    assert "it is not mounted here" in tree.budget().explain()


def test_offline_cpus_and_numbers_beyond_1024(tree):
    tree.write("/sys/devices/system/cpu/online", "0-3,1100-1103\n")
    tree.write("/proc/self/status", "Cpus_allowed_list:\t2-5,1102-1200\n")
    found = tree.budget()
    assert found.cpus == {2, 3, 1102, 1103}
    assert names(found.binding) == ["affinity"]


def test_a_cpuset_that_shares_nothing_with_the_affinity_is_ignored(tree):
    """They are read one after the other, and may change in between."""
    tree.cgroups("0::/a\n", mount("/", V2, "cgroup2", "rw"))
    tree.write(f"{V2}/a/cpuset.cpus.effective", "4-7\n")
    found = tree.budget(affinity="0-1")
    assert (found.cpus, found.count) == ({0, 1}, 2)
    assert names(found.ignored) == ["cpuset (cgroup v2)"]


@pytest.mark.parametrize("affinity", [[], "3-1", "a-b", -1, ""])
def test_an_affinity_that_is_none(tree, affinity):
    with pytest.raises(ValueError, match="cpus"):
        tree.budget(affinity=affinity)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (f"{V2}/a/cpu.max", "100000 100000\n"),  # a parent gives the controller out, and the files come
        (f"{V2}/cpu.max", "100000 100000\n"),
        (f"{V2}/a/cpuset.cpus.effective", "0-1\n"),
        (f"{V2}/cpuset.cpus.effective", "0-2\n"),
        ("/proc/self/cgroup", "0::/b\n"),
    ],
)
def test_what_makes_a_kept_budget_stale(tree, name, text):
    tree.cgroups("0::/a\n", mount("/", V2, "cgroup2", "rw"))
    tree.write(f"{V2}/a/cgroup.type", "domain\n")
    tree.write(f"{V2}/cpuset.cpus.effective", "0-7\n")
    kept = counting._evaluate(str(tree.path), {}.get, None, None, False)
    assert counting.is_current(kept)
    tree.write(name, text)
    assert not counting.is_current(kept)


def test_a_container_that_may_be_given_a_controller(tree):
    tree.cgroups("0::/\n", mount("/", V2, "cgroup2", "rw"))
    tree.write(f"{V2}/cgroup.type", "domain\n")
    tree.write(f"{V2}/cgroup.controllers", "memory\n")
    kept = counting._evaluate(str(tree.path), {}.get, None, None, False)
    assert counting.is_current(kept)
    tree.write(f"{V2}/cgroup.controllers", "cpu memory\n")
    assert not counting.is_current(kept)


# ---- malformed and unreadable ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (f"{V2}/a/cpu.max", "many 100000\n"),
        (f"{V2}/a/cpu.max", "100000\n"),
        (f"{V2}/a/cpu.max", "100000 0\n"),
        (f"{V2}/a/cpu.max", "\n"),
        (f"{V2}/a/cpuset.cpus.effective", "0-x\n"),
        (f"{V2}/cpu1/cpu.cfs_quota_us", "1.5\n"),
        (f"{V2}/cpu1/cpu.cfs_period_us", "0\n"),
        ("/sys/devices/system/cpu/online", "3-1\n"),
        ("/proc/self/status", "Cpus_allowed_list:\tff\n"),
        ("/proc/self/cgroup", "rubbish\n"),
        ("/proc/self/mountinfo", "30 23 - cgroup2\n"),
    ],
)
def test_a_malformed_file_is_named_with_its_text(tree, name, text):
    tree.cgroups("2:cpu:/\n0::/a\n", mount("/", f"{V2}/cpu1", "cgroup", "rw,cpu") + mount("/", V2, "cgroup2", "rw", 31))
    tree.write(f"{V2}/cpu1/cpu.cfs_quota_us", "100000\n")
    tree.write(f"{V2}/cpu1/cpu.cfs_period_us", "100000\n")
    tree.write(f"{V2}/a/cpu.max", "max 100000\n")
    where = tree.write(name, text)
    with pytest.raises(CpuError) as caught:
        tree.budget()
    assert where in str(caught.value)
    assert text.strip().removeprefix("Cpus_allowed_list:\t") in str(caught.value)
    found = tree.budget(best_effort=True)
    assert found.count >= 1
    assert where in found.explain()


def test_an_unreadable_file_is_named(tree):
    """A directory in its place is unreadable to root as well."""
    tree.cgroups("0::/a\n", mount("/", V2, "cgroup2", "rw"))
    (Path(f"{tree.path}{V2}/a/cpu.max")).mkdir(parents=True)
    with pytest.raises(CpuError, match=f"{V2}/a/cpu.max cannot be read: {os.strerror(errno.EISDIR)}"):
        tree.budget()
    assert tree.budget(best_effort=True).count == 8


def test_a_mount_table_cut_off_is_named(tree):
    tree.cgroups("0::/a\n", mount("/", V2, "cgroup2", "rw") + "36 25 0:30 / /mnt rw")
    with pytest.raises(CpuError, match=r"mountinfo.*is no line of a table of mounts"):
        tree.budget()


def test_a_file_of_any_length(tree):
    """A table of mounts may be long, and every second CPU makes a long list."""
    others = "".join(mount("/", f"/mnt/{number}", "ext4", "rw", number) for number in range(100, 3000))
    tree.cgroups("0::/a\n", others + mount("/", V2, "cgroup2", "rw"))
    tree.write("/sys/devices/system/cpu/online", "0-8191\n")
    tree.write("/proc/self/status", "Cpus_allowed_list:\t0-8191\n")
    tree.write(f"{V2}/a/cpuset.cpus.effective", ",".join(map(str, range(1, 8192, 2))) + "\n")
    assert tree.budget().cpus == set(range(1, 8192, 2))
    exactly = "4," * 2047 + "5\n"
    assert len(exactly) == 4096
    tree.write(f"{V2}/a/cpuset.cpus.effective", exactly)
    assert tree.budget().cpus == {4, 5}


def test_a_tree_that_tells_of_no_cpus(tmp_path):
    with pytest.raises(CpuError, match="online is missing"):
        cpu.budget(str(tmp_path), {})


# ---- the environment -------------------------------------------------------------------------------------------------

SLURM_STEP = {"SLURM_STEP_ID": "0", "SLURM_LOCALID": "1", "SLURM_NODEID": "2"}


@pytest.mark.parametrize(
    ("environ", "count"),
    [
        ({"SLURM_CPUS_PER_TASK": "3"}, 3),
        ({"SLURM_CPUS_PER_TASK": "12"}, 8),
        ({"SLURM_CPUS_ON_NODE": "6"}, 6),
        ({"SLURM_CPUS_ON_NODE": "6", "SLURM_NTASKS_PER_NODE": "2", **SLURM_STEP}, 3),
        ({"SLURM_CPUS_ON_NODE": "6", "SLURM_NTASKS_PER_NODE": "2"}, 6),  # the batch script has it all
        ({"SLURM_CPUS_ON_NODE": "2", "SLURM_NTASKS_PER_NODE": "5", **SLURM_STEP}, 1),
        ({"SLURM_CPUS_ON_NODE": "6", "SLURM_NTASKS_PER_NODE": "2", "SLURM_CPUS_PER_TASK": "5", **SLURM_STEP}, 5),
        ({"SLURM_CPUS_ON_NODE": "6", "SLURM_NTASKS": "1", "SLURM_CPUS_PER_TASK": "2"}, 2),
        ({"SLURM_CPUS_ON_NODE": "6", "SLURM_NTASKS": "3", "SLURM_CPUS_PER_TASK": "2", **SLURM_STEP}, 2),
        ({"SLURM_NTASKS": "3", "SLURM_CPUS_PER_TASK": "2"}, 2),  # nothing says what the node has
        ({"SLURM_JOB_CPUS_PER_NODE": "4(x3)"}, 4),
        ({"SLURM_JOB_CPUS_PER_NODE": "7(x2),5,6", **SLURM_STEP}, 5),
        ({"SLURM_JOB_CPUS_PER_NODE": "7", "SLURM_CPUS_ON_NODE": "2"}, 2),
        ({"PBS_NUM_PPN": "2"}, 2),
        ({"NCPUS": "2"}, 8),
        ({"NCPUS": "2", "PBS_JOBID": "1.host"}, 2),
        ({"LSB_DJOB_NUMPROC": "2"}, 2),
        ({"LSB_MCPU_HOSTS": f"elsewhere 1 {os.uname().nodename} 4", "LSB_DJOB_NUMPROC": "5"}, 4),
        ({"LSB_MCPU_HOSTS": "elsewhere 1"}, 8),
        ({"LSB_BIND_CPU_LIST": ""}, 8),
        ({"PYTHON_CPU_COUNT": "2"}, 2),
        ({"PYTHON_CPU_COUNT": "64"}, 8),  # to Python an order, to us a limit: there are no more
        ({"PYTHON_CPU_COUNT": "default"}, 8),
        ({"OMP_NUM_THREADS": "2"}, 8),  # says how many threads, not how many CPUs
    ],
)
def test_numbers_of_the_environment(tree, environ, count):
    found = tree.budget(environ)
    assert found.count == count
    assert found.ignored == ()
    assert (count == 8) or all(limit.where == "environment" for limit in found.binding)
    assert (count == 8) or found.binding


@pytest.mark.parametrize("name", ["SLURM_CPUS_ON_NODE", "SLURM_JOB_CPUS_PER_NODE"])
def test_a_batch_script_is_none_of_its_tasks(tree, name):
    found = tree.budget({name: "6", "SLURM_NTASKS": "3", "SLURM_CPUS_PER_TASK": "2"})
    assert (found.count, names(found.binding), names(found.ignored)) == (6, [name], ["SLURM_CPUS_PER_TASK"])
    assert f"of each of 3 tasks, and this is outside of them: {name} is what it has" in found.explain()


@pytest.mark.parametrize(
    ("environ", "cpus"),
    [
        ({"SLURM_CPU_BIND": "quiet,mask_cpu:0x00000006"}, {1, 2}),
        ({"SLURM_CPU_BIND": "mask_cpu:6"}, {1, 2}),
        ({"SLURM_CPU_BIND": "verbose,map_cpu:3"}, {3}),
        ({"SLURM_CPU_BIND": "map_cpu:0x5"}, {5}),
        ({"SLURM_CPU_BIND": "quiet,mask_cpu:0x3,0xc", **SLURM_STEP}, {2, 3}),
        ({"SLURM_CPU_BIND": "mask_cpu:0x3*2,0xc", **SLURM_STEP}, {0, 1}),
        ({"SLURM_CPU_BIND": "map_cpu:1,2,3", **SLURM_STEP, "SLURM_LOCALID": "5"}, {3}),  # in turn
        ({"SLURM_CPU_BIND_TYPE": "mask_cpu:", "SLURM_CPU_BIND_LIST": "0x3"}, {0, 1}),
        ({"SLURM_CPU_BIND_TYPE": "none", "SLURM_CPU_BIND_LIST": ""}, set(range(8))),
        ({"SLURM_CPU_BIND": "quiet,cores"}, set(range(8))),
        ({"LSB_BIND_CPU_LIST": "1,3"}, {1, 3}),
        ({"LSB_BIND_CPU_LIST": "1 3"}, {1, 3}),
    ],
)
def test_bindings_of_the_environment(tree, environ, cpus):
    found = tree.budget(environ)
    assert found.cpus == cpus
    assert found.count == len(cpus)
    assert found.ignored == ()


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"SLURM_CPUS_PER_TASK": "two"}, "whole number"),
        ({"SLURM_CPUS_PER_TASK": "0"}, "whole number"),
        ({"SLURM_CPUS_PER_TASK": ""}, "whole number"),
        ({"SLURM_CPUS_PER_TASK": "-1"}, "whole number"),
        ({"SLURM_CPUS_PER_TASK": "1.5"}, "whole number"),
        ({"SLURM_CPUS_PER_TASK": "\u0663"}, "whole number"),
        ({"SLURM_CPUS_PER_TASK": "9" * 5000}, "whole number"),
        ({"SLURM_JOB_CPUS_PER_NODE": "4(y3)"}, "not of the form"),
        ({"SLURM_JOB_CPUS_PER_NODE": "4,5"}, "SLURM_NODEID"),
        ({"SLURM_JOB_CPUS_PER_NODE": "4,5", "SLURM_NODEID": "2"}, "no node 2"),
        ({"SLURM_CPU_BIND": "mask_cpu:0x3,0xc"}, "SLURM_LOCALID"),
        ({"SLURM_CPU_BIND": "mask_cpu:0xg"}, "no hexadecimal mask"),
        ({"SLURM_CPU_BIND": "map_cpu:x"}, "'x' is no CPU"),
        ({"SLURM_CPU_BIND": "map_cpu:1*999999999"}, "neither a CPU"),
        ({"SLURM_CPU_BIND": "map_cpu:1*0"}, "neither a CPU"),
        ({"SLURM_CPU_BIND": "map_cpu:1*65536,2"}, "neither a CPU"),
        ({"SLURM_CPU_BIND": "map_cpu:"}, "neither a CPU"),
        ({"SLURM_CPU_BIND": "map_cpu:99"}, "none of its CPUs"),
        ({"SLURM_CPU_BIND": "mask_cpu:0x0"}, "empty"),
        ({"LSB_BIND_CPU_LIST": "a,b"}, "neither a CPU"),
        ({"LSB_BIND_CPU_LIST": "100-200"}, "none of its CPUs"),
        ({"LSB_MCPU_HOSTS": "host"}, "no list of hosts"),
        ({"LSB_MCPU_HOSTS": "host many"}, "whole number"),
        ({"PBS_NUM_PPN": "\0"}, "whole number"),
        ({"PYTHON_CPU_COUNT": "many"}, "whole number"),
    ],
)
def test_what_others_wrote_breaks_no_program(tree, environ, reason):
    found = tree.budget(environ)
    assert (found.count, found.quota) == (8, None)
    (ignored,) = found.ignored
    assert ignored.name in environ
    assert reason in ignored.ignored
    assert ignored.name not in names(found.limits)
    assert f"ignored: {ignored.name}: " in found.explain()


def test_two_that_are_as_low_both_bind(tree):
    found = tree.budget({"SLURM_CPUS_PER_TASK": "2", "PYTHON_CPU_COUNT": "2"}, affinity="3-4")
    assert names(found.binding) == ["affinity", "PYTHON_CPU_COUNT", "SLURM_CPUS_PER_TASK"]


# ---- this process ----------------------------------------------------------------------------------------------------


@pytest.fixture
def no_grants(monkeypatch):
    """Not what the one who runs the tests was granted."""
    for name in list(os.environ):
        if name.startswith(("SLURM", "PBS", "LSB", "PYTHON_CPU_COUNT")):
            monkeypatch.delenv(name)


@needs_linux
def test_live_it_follows_the_affinity(no_grants):
    mask = os.sched_getaffinity(0)
    assert cpu.available() == mask
    try:
        os.sched_setaffinity(0, {min(mask)})
        assert cpu.available() == cpu.budget().cpus == {min(mask)}
        assert cpu.count() == 1
    finally:
        os.sched_setaffinity(0, mask)
    assert cpu.available() == mask


@needs_linux
@pytest.mark.parametrize("online", ["0\n", "500-503\n"])
def test_an_invented_list_of_those_online_takes_no_cpu(no_grants, monkeypatch, tmp_path, online):
    """Containers are shown one that begins at 0, whatever their CPUs are; the affinity is the kernel's word."""
    (tmp_path / "online").write_text(online)
    monkeypatch.setattr("corelane.cpu.counting._ONLINE", str(tmp_path / "online"))
    assert cpu.budget(environ={}).cpus == os.sched_getaffinity(0)


@needs_linux
def test_each_thread_has_its_own_affinity(no_grants):
    mask = os.sched_getaffinity(0)
    seen = []

    def look():
        os.sched_setaffinity(0, {max(mask)})
        seen.append(cpu.available())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [{max(mask)}]
    assert cpu.available() == mask


def test_live_it_follows_the_environment(no_grants, monkeypatch):
    before = cpu.count()
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert cpu.count() == 1
    assert "SLURM_CPUS_PER_TASK" in cpu.explain().splitlines()[0]
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "rubbish")
    assert cpu.count() == before
    assert "ignored: SLURM_CPUS_PER_TASK" in cpu.explain()


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="Python itself refuses what this gives it")
def test_pythons_own_setting_is_never_an_error():
    code = "from corelane import cpu; import json; print(json.dumps([cpu.count(), cpu.explain()]))"
    for option in ("cpu_count", "cpu_count=x"):
        done = subprocess.run([sys.executable, "-X", option, "-c", code], capture_output=True, text=True, check=True)
        assert "ignored: cpu_count" in done.stdout


def test_pythons_own_setting_limits():
    code = "from corelane import cpu; print(cpu.count())"
    environ = {**os.environ, "PYTHON_CPU_COUNT": "3"}
    argv = [sys.executable, "-X", "cpu_count=1", "-c", code]
    assert subprocess.run(argv, env=environ, capture_output=True, text=True, check=True).stdout == "1\n"


def test_pythons_own_variable_is_not_looked_at_under_isolation():
    code = "from corelane import cpu; print('PYTHON_CPU_COUNT' in cpu.explain())"
    environ = {**os.environ, "PYTHON_CPU_COUNT": "1"}
    for option, looks in (("-E", "False"), ("-B", "True")):
        argv = [sys.executable, option, "-c", "import sys; sys.path[:0] = sys.argv[1:]; " + code, *sys.path]
        done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == looks


def test_a_variable_that_changes_while_we_read_spoils_nothing(no_grants, monkeypatch):
    """We look at the variables, another thread sets one, we evaluate with it, and it is unset again."""
    before = cpu.count()
    evaluate = counting._evaluate

    def set_late(*arguments):
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
        return evaluate(*arguments)

    monkeypatch.setattr(counting, "_kept", {})
    monkeypatch.setattr(counting, "_evaluate", set_late)
    assert cpu.count() == 1
    monkeypatch.setattr(counting, "_evaluate", evaluate)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK")
    assert cpu.count() == before


def test_nothing_changed_is_nothing_read_anew(no_grants):
    """The same object: the files were compared, not parsed again; and no descriptor is kept."""
    before = descriptors()
    assert cpu.budget() is cpu.budget()
    assert descriptors() == before


def test_every_order_of_asking_gives_functions():
    """A module of the name would hide the function once it is imported."""
    code = (
        "import sys, json\nfrom corelane import cpu\n"
        "for name in sys.argv[1:]: getattr(cpu, name)\n"
        "print(json.dumps([n for n in cpu.__all__ if type(getattr(cpu, n)).__name__ == 'module']))"
    )
    for first in ("count", "watch_budget", "limit_threads"):
        assert script(code, first) == []


# ---- a real quota ----------------------------------------------------------------------------------------------------

CPU_V1 = Path("/sys/fs/cgroup/cpu")
CPUSET_V1 = Path("/sys/fs/cgroup/cpuset")


@contextlib.contextmanager
def cgroup_v1(controller):
    """A cgroup of version 1 that processes can be put into."""
    if not (controller / "tasks").exists():
        pytest.skip(f"no cgroup v1 hierarchy is mounted at {controller}")
    made = controller / f"corelane-test-{os.getpid()}-{next(_numbers)}"
    try:
        made.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made in {controller} ({error.strerror})")
    try:
        if controller == CPUSET_V1:
            for name in ("cpuset.cpus", "cpuset.mems"):
                (made / name).write_text((controller / name).read_text())
        yield made
    finally:
        wait_until(lambda: _removed(made), f"{made} to be empty")


def _removed(directory):
    try:
        directory.rmdir()
    except OSError:
        return False
    return True


INSIDE = """
import json, os, sys
from corelane import cpu
before = cpu.count()
for tasks in sys.argv[1:]:
    open(tasks, "w").write(str(os.getpid()))
print(json.dumps([before, cpu.count(), cpu.budget().quota, cpu.explain()]))
"""


@needs_linux
def test_a_real_quota_is_found_also_when_it_is_a_parents(no_grants):
    with cgroup_v1(CPU_V1) as group:
        (group / "cpu.cfs_quota_us").write_text("50000")
        inner = group / "inner"
        inner.mkdir()
        try:
            before, count, quota, table = script(INSIDE, inner / "tasks")
        finally:
            wait_until(lambda: _removed(inner), "the inner cgroup to be empty")
    assert before == len(os.sched_getaffinity(0))
    assert (count, quota) == (1, 0.5)
    assert f"{group}/cpu.cfs_quota_us" in table


@needs_linux
def test_a_watch_hears_of_a_real_quota(no_grants):
    """Of our own cgroup's and its parent's, written by another process; and not of what changes nothing."""
    code = """
import json, os, select, subprocess, sys
from corelane import cpu
group = sys.argv[1]
open(f"{group}/inner/tasks", "w").write(str(os.getpid()))
def write(where, text):
    subprocess.run(["sh", "-c", 'echo "$1" >"$0"', where, text], check=True)
def readable():
    return bool(select.select([watch], [], [], 5)[0])
seen = []
with cpu.watch_budget(lambda old, new: seen.append((old.quota, new.quota))) as watch:
    quiet = not select.select([watch], [], [], 0)[0]
    write(f"{group}/inner/cpu.cfs_quota_us", "50000"); first = readable(); watch.check()
    again = bool(select.select([watch], [], [], 0)[0]) or watch.check()
    write(f"{group}/inner/cpu.cfs_quota_us", "-1"); readable(); watch.check()
    write(f"{group}/cpu.cfs_quota_us", "25000"); second = readable(); watch.check()
    write(f"{group}/cpu.cfs_quota_us", "25000"); third = readable(), watch.check()
print(json.dumps([quiet, first, again, second, third, seen]))
"""
    with cgroup_v1(CPU_V1) as group:
        inner = group / "inner"
        inner.mkdir()
        try:
            quiet, first, again, second, third, seen = script(code, group)
        finally:
            wait_until(lambda: _removed(inner), "the inner cgroup to be empty")
    assert (quiet, first, again, second, third) == (True, True, False, True, [True, False])
    assert seen == [[None, 0.5], [0.5, None], [None, 0.25]]


@needs_linux
def test_a_watch_follows_a_move_to_another_cgroup(no_grants):
    """The move itself is found by the next check; from then on the new cgroup's files are those that are watched."""
    code = """
import json, os, select, sys
from corelane import cpu
group = sys.argv[1]
seen = []
with cpu.watch_budget(lambda old, new: seen.append(new.quota)) as watch:
    open(f"{group}/cpu.cfs_quota_us", "w").write("70000")
    open(f"{group}/tasks", "w").write(str(os.getpid()))
    watch.check()
    open(f"{group}/cpu.cfs_quota_us", "w").write("60000")
    told = bool(select.select([watch], [], [], 5)[0])
    watch.check()
print(json.dumps([told, seen]))
"""
    with cgroup_v1(CPU_V1) as group:
        assert script(code, group) == [True, [0.7, 0.6]]


@needs_linux
def test_a_watch_hears_of_a_cgroup_that_was_removed_and_made_again(no_grants):
    """Also when nobody looked in between: the names are the same, and the files are others."""
    code = """
import json, os, select, sys
from corelane import cpu
group = sys.argv[1]
inner = f"{group}/inner"
os.mkdir(inner)
open(f"{inner}/tasks", "w").write(str(os.getpid()))
seen = []
with cpu.watch_budget(lambda old, new: seen.append(new.quota)) as watch:
    open(f"{group}/tasks", "w").write(str(os.getpid()))
    os.rmdir(inner)
    os.mkdir(inner)
    open(f"{inner}/tasks", "w").write(str(os.getpid()))
    watch.check()
    open(f"{inner}/cpu.cfs_quota_us", "w").write("60000")
    told = bool(select.select([watch], [], [], 5)[0])
    watch.check()
print(json.dumps([told, seen]))
"""
    with cgroup_v1(CPU_V1) as group:
        try:
            assert script(code, group) == [True, [0.6]]
        finally:
            wait_until(lambda: _removed(group / "inner"), "the inner cgroup to be empty")


@needs_linux
def test_a_watch_hears_what_is_written_while_it_is_made(no_grants):
    """We read no quota, somebody writes one, we begin to watch: we must look once more."""
    code = """
import json, os, sys
from corelane import cpu
import corelane.cpu.watch as module
group = sys.argv[1]
open(f"{group}/tasks", "w").write(str(os.getpid()))
live = module.live
def slow(thread):
    found = live(thread)
    if found.budget.quota is None:
        with open(f"{group}/cpu.cfs_quota_us", "w") as quota:
            quota.write("50000")
    return found
module.live = slow
with cpu.watch_budget(print) as watch:
    print(json.dumps(watch.budget.quota))
"""
    with cgroup_v1(CPU_V1) as group:
        assert script(code, group) == 0.5


@needs_linux
def test_a_watch_hears_of_a_real_cpuset(no_grants):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one CPU only")
    code = """
import json, os, select, subprocess, sys
from corelane import cpu
group, last = sys.argv[1:]
open(f"{group}/tasks", "w").write(str(os.getpid()))
seen = []
with cpu.watch_budget(lambda old, new: seen.append(sorted(new.cpus))) as watch:
    subprocess.run(["sh", "-c", 'echo "$1" >"$0"', f"{group}/cpuset.cpus", last], check=True)
    told = bool(select.select([watch], [], [], 5)[0])
    watch.check()
print(json.dumps([told, seen]))
"""
    last = max(os.sched_getaffinity(0))
    with cgroup_v1(CPUSET_V1) as group:
        assert script(code, group, last) == [True, [[last]]]


@needs_linux
def test_a_real_cpuset(no_grants):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one CPU only")
    with cgroup_v1(CPUSET_V1) as group:
        last = max(os.sched_getaffinity(0))
        (group / "cpuset.cpus").write_text(str(last))
        _, count, _, table = script(INSIDE, group / "tasks")
    assert count == 1
    assert f"1: {last}" in table
    assert str(group) in table


@needs_linux
@pytest.mark.parametrize("name", ["/proc/self/cgroup", f"{V2}/cpu.max", "/sys/devices/system/cpu/online"])
def test_what_is_no_file_of_the_kernels(tree, name):
    """A FIFO that nobody writes to holds nobody; a file without an end takes no memory."""
    tree.cgroups("0::/\n", mount("/", V2, "cgroup2", "rw"))
    path = Path(tree.write(name, ""))
    path.unlink()
    os.mkfifo(path)
    assert tree.budget(best_effort=True).count >= 1
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(CpuError, match=f"{name} does not end"):
        tree.budget()


@needs_linux
def test_without_a_descriptor_left_it_is_that_which_is_said():
    """And not that the administrator must make the kernel's files readable; nor is it a plain OSError."""
    code = """
import json, os, resource
from corelane import cpu
from corelane.errors import CpuError
calls = [cpu.count, lambda: cpu.topology(refresh=True), cpu.load, lambda: cpu.set_affinity(0, os.getpid())]
cpu.get_affinity()
try:
    cpu.watch_budget(print).close()
    cpu.set_affinity(60000)
except CpuError:
    pass
for call in calls:
    call()
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
said = []
for call in calls:
    try:
        call()
    except CpuError as error:
        said.append(str(error))
print(json.dumps(said))
"""
    said = script(code)
    assert len(said) == 4
    assert all("too many descriptors open" in each and "administrator" not in each for each in said)


# ---- watching --------------------------------------------------------------------------------------------------------


def change(monkeypatch, number):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", str(number))


def test_check_calls_back_once_for_a_change(no_grants, monkeypatch):
    seen = []
    change(monkeypatch, 1)
    with cpu.watch_budget(lambda old, new: seen.append((old.count, new.count))) as watch:
        assert not watch.check()
        monkeypatch.delenv("SLURM_CPUS_PER_TASK")
        now = cpu.count()
        assert watch.check() == (now > 1)
        assert not watch.check()
        assert watch.budget.count == now
    assert seen == ([(1, now)] if now > 1 else [])


@needs_linux
def test_a_watch_sees_the_affinity_of_its_maker_only(no_grants):
    mask = os.sched_getaffinity(0)
    if len(mask) < 2:
        pytest.skip("there is one CPU only")
    seen = []
    with cpu.watch_budget(lambda old, new: seen.append(new.cpus)) as watch:
        thread = threading.Thread(target=lambda: (os.sched_setaffinity(0, {min(mask)}), watch.check()))
        thread.start()
        thread.join()
        assert seen == []
        try:
            os.sched_setaffinity(0, {min(mask)})
            thread = threading.Thread(target=watch.check)
            thread.start()
            thread.join()
        finally:
            os.sched_setaffinity(0, mask)
    assert seen == [{min(mask)}]


def test_a_watch_leaves_nothing_behind(no_grants):
    before, threads = descriptors(), threading.active_count()
    for poll in (None, 0.01, 1e12):
        watch = cpu.watch_budget(print, poll=poll)
        watch.close()
        watch.close()
        with pytest.raises(ValueError, match="closed"):
            watch.check()
        with pytest.raises(ValueError, match="closed"):
            watch.fileno()
    assert descriptors() == before
    assert threading.active_count() == threads


@needs_linux
def test_a_watch_outlives_a_maker_that_python_did_not_start(no_grants):
    code = """
import _thread, json, os, threading, time
from corelane import cpu
made = []
_thread.start_new_thread(lambda: made.append((cpu.watch_budget(print), threading.get_native_id())), ())
until = time.monotonic() + 20
while not made or os.path.exists(f"/proc/self/task/{made[0][1]}"):
    assert time.monotonic() < until
    time.sleep(0.001)
print(json.dumps(made[0][0].check()))
"""
    assert script(code) is False


@needs_linux
def test_a_forked_child_is_not_held_by_the_lock_of_a_watch(no_grants):
    """The polling thread, or another one, may be in the middle of a check when somebody forks."""
    code = """
import json, os, signal, threading, warnings
from corelane import cpu
warnings.simplefilter("ignore")
watch = cpu.watch_budget(print)
holder = threading.Thread(target=watch._lock.acquire)
holder.start()
holder.join()
pid = os.fork()
if pid == 0:
    signal.alarm(10)
    changed = watch.check()
    watch.close()
    os._exit(changed)
print(json.dumps(os.waitpid(pid, 0)[1]))
"""
    assert script(code) == 0


@needs_linux
@pytest.mark.parametrize("call", ["check", "close"])
def test_a_signals_handler_may_use_a_watch_in_the_middle_of_a_check(no_grants, call):
    """Also where the polling thread waits for the lock that the interrupted check holds."""
    code = f"""
import json, signal, threading, time
from corelane import cpu
from corelane.cpu import watch as module
signal.alarm(20)
watch, live, calls = cpu.watch_budget(print, poll=0.001), module.live, []

def interrupted(thread):
    if threading.current_thread() is threading.main_thread() and not calls:
        calls.append(thread)
        time.sleep(0.05)  # the polling thread comes to wait for the lock
        watch.{call}()
    return live(thread)

module.live = interrupted
changed = watch.check()
watch.close()
print(json.dumps([changed, len(calls)]))
"""
    assert script(code) == [False, 1]


def test_a_dropped_watch_leaves_nothing_behind(no_grants):
    before = descriptors()
    cpu.watch_budget(print)
    assert descriptors() == before


def test_no_thread_unless_polling_is_asked_for(no_grants, monkeypatch):
    threads = threading.active_count()
    with cpu.watch_budget(print):
        assert threading.active_count() == threads
    heard = threading.Event()
    change(monkeypatch, 1)
    with cpu.watch_budget(lambda old, new: heard.set(), poll=0.01):
        assert threading.active_count() == threads + 1
        monkeypatch.delenv("SLURM_CPUS_PER_TASK")
        if cpu.count() > 1:
            assert heard.wait(20)


def test_a_callback_that_raises_in_the_thread_is_told_of_and_the_thread_goes_on(no_grants, monkeypatch):
    monkeypatch.setenv("PYTHON_CPU_COUNT", "1")
    told, calls = [], []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_value))

    def callback(old, new):
        calls.append(new.cpus)
        raise LookupError("from the callback")

    everything = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    if len(everything) < 2:
        pytest.skip("there is one CPU only")
    with cpu.watch_budget(callback, poll=0.01):
        change(monkeypatch, 1)
        monkeypatch.delenv("PYTHON_CPU_COUNT")
        monkeypatch.delenv("SLURM_CPUS_PER_TASK")
        wait_until(lambda: len(told) == 1, "the first call")
        change(monkeypatch, 1)
        wait_until(lambda: len(told) == 2, "the second call")
    assert [str(error) for error in told] == ["from the callback"] * 2


def test_a_hook_that_raises_does_not_end_the_thread(no_grants, monkeypatch, capsys):
    looks = []

    def hook(args):
        raise ValueError("from the hook")

    def malformed(thread):
        looks.append(thread)
        raise CpuError(f"look {len(looks)}")

    monkeypatch.setattr(threading, "excepthook", hook)
    with cpu.watch_budget(print, poll=0.001):
        monkeypatch.setattr("corelane.cpu.watch.live", malformed)
        wait_until(lambda: len(looks) > 3, "the thread to look a few times")
    assert "from the hook" in capsys.readouterr().err


def test_a_file_that_stays_malformed_is_told_of_once(no_grants, monkeypatch):
    told, looks = [], []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_value))
    with cpu.watch_budget(print, poll=0.001):

        def malformed(thread):
            looks.append(thread)
            raise CpuError("cpu.max: 'x' is no quota")

        monkeypatch.setattr("corelane.cpu.watch.live", malformed)
        wait_until(lambda: len(looks) > 3, "the thread to look a few times")
    assert len(told) == 1


def test_a_callback_that_raises_in_check_raises_there(no_grants, monkeypatch):
    def callback(old, new):
        raise LookupError("from the callback")

    if cpu.count() == 1:
        pytest.skip("there is one CPU only")
    with cpu.watch_budget(callback) as watch:
        change(monkeypatch, 1)
        with pytest.raises(LookupError, match="from the callback"):
            watch.check()
        assert not watch.check()  # it was told of that one


def test_a_callback_may_close_its_own_watch(no_grants, monkeypatch):
    if cpu.count() == 1:
        pytest.skip("there is one CPU only")
    before, threads = descriptors(), threading.active_count()
    told = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    watch = cpu.watch_budget(lambda old, new: watch.close(), poll=0.01)
    change(monkeypatch, 1)
    wait_until(lambda: threading.active_count() == threads, "the thread to end")
    assert told == []
    assert descriptors() == before


@needs_linux
def test_a_forked_childs_copy_takes_no_news_from_its_parent(no_grants, tmp_path):
    code = """
import json, os, select, subprocess, sys
from corelane import cpu
from corelane._ffi import lib
watch = cpu.watch_budget(print)
file = sys.argv[1]
lib.cl_notify_add(watch._notify, os.fsencode(file))
open(file, "w").write("x")
pid = os.fork()
if not pid:
    watch.check(); watch.close(); os._exit(0)
status = os.waitpid(pid, 0)[1]
print(json.dumps([status, bool(select.select([watch], [], [], 0)[0])]))
"""
    file = tmp_path / "file"
    file.touch()
    assert script(code, file) == [0, True]


@needs_linux
def test_a_limit_on_watches_is_an_error_that_says_so(no_grants):
    code = """
import json, os, resource
from corelane import cpu
cpu.count(), cpu.Watch
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
try:
    while True:
        os.dup(0)
except OSError:
    pass
try:
    cpu.watch_budget(print)
except OSError as error:
    print(json.dumps([error.errno, str(error)]))
"""
    number, text = script(code)
    assert number == errno.EMFILE
    assert "hearing of writes to the files of our cgroups" in text
    assert "fs.inotify.max_user_instances" in text


@pytest.mark.parametrize("poll", [0, -1, float("nan"), "1", True])
def test_a_poll_that_is_no_time(poll):
    with pytest.raises((TypeError, ValueError), match="poll"):
        cpu.watch_budget(print, poll=poll)


def test_a_callback_that_cannot_be_called():
    with pytest.raises(TypeError, match="callback"):
        cpu.watch_budget(None)


@needs_linux
def test_an_event_loop_waits_for_a_watch(no_grants):
    code = """
import asyncio, json, os, sys
from corelane import cpu
group = sys.argv[1]
open(f"{group}/tasks", "w").write(str(os.getpid()))

async def main():
    heard = asyncio.get_running_loop().create_future()
    with cpu.watch_budget(lambda old, new: heard.set_result(new.quota)) as watch:
        asyncio.get_running_loop().add_reader(watch, watch.check)
        with open(f"{group}/cpu.cfs_quota_us", "w") as quota:
            quota.write("50000")
        try:
            return await asyncio.wait_for(heard, 20)
        finally:
            asyncio.get_running_loop().remove_reader(watch)

print(json.dumps(asyncio.run(main())))
"""
    with cgroup_v1(CPU_V1) as group:
        assert script(code, group) == 0.5


# ---- beside others ---------------------------------------------------------------------------------------------------

COUNTS = Path(__file__).resolve().parent.parent / "benchmarks" / "counts.py"


@pytest.mark.slow
@needs_linux
@pytest.mark.skipif(not COUNTS.exists(), reason="the benchmarks are not in this tree")
def test_the_table_beside_others(no_grants):
    """What the page says of corelane's column, measured anew; the row of Slurm has its own tests."""
    argv = [sys.executable, str(COUNTS), "--json", "--without", "srun -c1"]
    rows = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    assert rows["plain"]["corelane"] == cpu.count()
    for name, row in rows.items():
        assert name == "plain" or row["corelane"] in (1, None), rows
    assert rows["plain"]["os.cpu_count"] == os.cpu_count()


def test_who_has_to_have_a_number_gets_one(monkeypatch):
    assert counting.usable() == cpu.count()

    def unreadable():
        raise CpuError("a file of the kernel is malformed")

    monkeypatch.setattr(counting, "count", unreadable)
    assert counting.usable() == cpu.budget(best_effort=True).count


def test_a_budget_in_a_line():
    assert str(cpu.Budget(frozenset({0, 1}), 0.5, 1)) == "1 CPU of 0-1, quota 0.5"
    assert str(cpu.Budget(frozenset({0, 1}), None, 2)) == "2 CPUs of 0-1"
