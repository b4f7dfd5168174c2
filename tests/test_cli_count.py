"""`corelane count` from outside: the number, and where it comes from."""

import json
import subprocess

import pytest
from helpers import CORELANE, PATIENCE

from corelane import cpu


def count(*argv):
    return subprocess.run([CORELANE, "count", *argv], capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_it_is_what_the_package_says():
    budget = cpu.budget()
    assert count().stdout == f"{budget.count}\n"
    assert count("--list").stdout == f"{cpu.format_cpus(budget.cpus)}\n"
    assert count("--explain").stdout == f"{budget.explain()}\n"
    told = json.loads(count("--json").stdout)
    assert told == json.loads(json.dumps(budget.as_dict()))
    assert (told["count"], told["cpus"]) == (budget.count, sorted(budget.cpus))
    assert {"name", "cpus", "amount", "where", "text", "binds", "ignored"} == set(told["limits"][0])


def test_a_tree_of_another_machine(tmp_path):
    for name, text in {
        "sys/devices/system/cpu/online": "0-7\n",
        "proc/self/cgroup": "0::/\n",
        "proc/self/mountinfo": "30 23 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
        "sys/fs/cgroup/cpuset.cpus.effective": "4-7\n",
        "sys/fs/cgroup/cpu.max": "250000 100000\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    done = count("--root", str(tmp_path), "--explain")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("count 3: quota (cgroup v2)\n")
    assert count("--root", str(tmp_path), "--list").stdout == "4-7\n"


@pytest.mark.parametrize(
    ("argv", "says"), [(["--list", "--json"], "ask for one"), (["--root", "/no/such/place"], "/no/such/place")]
)
def test_what_cannot_be_answered(argv, says):
    done = count(*argv)
    assert (done.returncode, done.stdout) == (125, "")
    assert says in done.stderr
