"""The picture of a topology: exact for small machines; that it fits, collapses and marks for the large ones."""

import re

import pytest
from machines import MACHINES, Machine, Made, Place, private, tree

from corelane import cpu


@pytest.fixture(scope="module")
def machine():
    """The topologies of the machines, each read when it is first asked for."""
    found = {}

    def topology(name):
        if name not in found:
            found[name] = cpu.topology(tree(name))
        return found[name]

    return topology


def test_a_virtual_machine(machine):
    assert (
        machine("vm").draw(80)
        == """\
AMD EPYC: 1 package, 2 cores, 2 CPUs, 3.9 GiB
┌ package 0 ────────────────────┐
│ ┌ NUMA node 0: 3.9 GiB ─────┐ │
│ │ ┌ L3 32 MiB ────────────┐ │ │
│ │ │ ┌ core 0 ┐ ┌ core 1 ┐ │ │ │
│ │ │ │ 0      │ │ 1      │ │ │ │
│ │ │ └────────┘ └────────┘ │ │ │
│ │ └───────────────────────┘ │ │
│ └───────────────────────────┘ │
└───────────────────────────────┘
each core: L1d 32 KiB, L1i 32 KiB, L2 1 MiB"""
    )


def test_big_and_little_with_marks_in_ascii(machine):
    assert (
        machine("big_little").draw(60, mark={0, 4}, allowed=range(5), ascii=True)
        == """\
machine: 1 package, 6 cores, 6 CPUs, 4 GiB
+ package 0 --------------------------------------+
| + L2 512 KiB ---------------------------------+ |
| | + core 0 + + core 1 + + core 2 + + core 3 + | |
| | | 0*     | |  1     | |  2     | |  3     | | |
| | +--------+ +--------+ +--------+ +--------+ | |
| +---------------------------------------------+ |
| + L2 1 MiB -------------+                       |
| | + core 4 + + core 5 + |                       |
| | | 4*     | | 5x     | |                       |
| | +--------+ +--------+ |                       |
| +-----------------------+                       |
+-------------------------------------------------+
cores 0-3, each: L1d 32 KiB, L1i 32 KiB
cores 4-5, each: L1d 32 KiB, L1i 48 KiB
CPUs 0-3: capacity 485 of 1024, up to 1.42 GHz
CPUs 4-5: capacity 1024 of 1024, up to 1.80 GHz
*  yours: CPUs 0,4
x  not allowed here: CPUs 5"""
    )


def test_holes_and_memory_without_cpus(machine):
    assert (
        machine("holes").draw(80).splitlines()[-14:]
        == """\
│ ┌ NUMA node 8: 128 GiB ─────────────────────────────┐ │
│ │ ┌ L3 10 MiB ──────────────────┐ ┌ L3 10 MiB ────┐ │ │
│ │ │ ┌ core 4 ───┐ ┌ core 5 ───┐ │ │ ┌ core 6 ───┐ │ │ │
│ │ │ │ 1024 1025 │ │ 1028 1029 │ │ │ │ 1032 1033 │ │ │ │
│ │ │ └───────────┘ └───────────┘ │ │ └───────────┘ │ │ │
│ │ └─────────────────────────────┘ └───────────────┘ │ │
│ └───────────────────────────────────────────────────┘ │
└───────────────────────────────────────────────────────┘
┌ NUMA node 255: 15.8 GiB, no CPUs ┐
└──────────────────────────────────┘
each core: L1d 32 KiB, L1i 32 KiB, L2 512 KiB
distance   0   8 255
node 0    10  40  80
node 8    40  10  80
node 255  80  80  10
offline: CPUs 2-3,6-7,10-11,14-15,1026-1027,1030-1031,1034-1039""".splitlines()[-14:]
    )


def test_isolated_and_nohz_full_are_marked(machine):
    text = machine("xeon").draw(100, mark=range(10))
    assert "│ 2*i 42i │" in text
    assert "*  yours: CPUs 0-9" in text
    assert "i  isolated: CPUs 2-3,42-43" in text
    assert "nohz_full" not in text


def test_all_cpus_are_not_worth_a_mark_each(machine):
    text = machine("vm").draw(80, mark={0, 1})
    assert "*" not in text
    assert text.endswith("all CPUs are yours")


def test_none_of_the_cpus_are_ours(machine):
    assert machine("vm").draw(80, mark={7}).endswith("*  yours: CPUs none")


@pytest.mark.parametrize("collapse", [None, True, False])
@pytest.mark.parametrize("width", [40, 61, 80, 200])
@pytest.mark.parametrize("name", MACHINES)
def test_it_fits_and_its_boxes_close(machine, name, width, collapse):
    found = machine(name)
    lines = found.draw(width, collapse=collapse).splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert text.count("┌") == text.count("└") == text.count("┐") == text.count("┘")
    shown = {int(word) for line in lines if "│" in line for word in re.findall(r"(?<=[ │])\d+(?=[*xin]* )", line)}
    if collapse is False:
        assert found.online <= shown
    assert len(lines) < 90 or collapse is False or width < 61


def test_what_looks_the_same_is_drawn_once(machine):
    found = machine("epyc")
    text = found.draw(100, collapse=True)
    assert "and 7 more like it: CPUs 17-23,145-151" in text
    assert len(text.splitlines()) <= 60
    assert found.draw(100) == found.draw(100, collapse=None)
    # The first is ours and the second is not: they do not look the same.
    marked = found.draw(100, collapse=True, mark={0})
    assert "and 6 more like it: CPUs 2-7,130-135" in marked


def test_a_short_picture_is_whole(machine):
    assert machine("xeon").draw(100) == machine("xeon").draw(100, collapse=False)
    assert "more like it" in machine("xeon").draw(100, collapse=True)


def test_a_cache_across_nodes_holds_them(tmp_path):
    """Sub-NUMA clustering: one L3, two nodes."""
    places = {each: Place(core=each, node=each // 2) for each in range(4)}
    caches = (*private("32K", "32K", "1024K"), Made(3, "Unified", "16384K", 16, ("group",)))
    made = Machine(places, (caches,), memory={0: 1 << 20, 1: 1 << 20}, distances={0: "10 11", 1: "11 10"})
    text = cpu.topology(made.write(tmp_path / "x")).draw(100)
    assert text.index("L3 16 MiB") < text.index("NUMA node 0") < text.index("NUMA node 1")


def test_boxes_that_cross_are_told_in_a_line():
    cpus = tuple(cpu.Cpu(id=each, core=each, package=0, node=each // 2) for each in range(4))
    cores = tuple(cpu.Core(each, 0, each // 2, (each,)) for each in range(4))
    nodes = tuple(cpu.Node(at, (2 * at, 2 * at + 1), 0, {0: 10, 1: 20}) for at in range(2))
    found = cpu.Topology(cpus, cores, (cpu.Cache(3, "unified", 1 << 20, (1, 2)),), nodes)
    assert "L3 1 MiB: CPUs 1-2, across other boxes" in found.draw(100)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"mark": []}, ValueError),
        ({"mark": "a-b"}, ValueError),
        ({"allowed": 1.5}, TypeError),
        ({"ascii": 1}, TypeError),
        ({"collapse": "no"}, TypeError),
    ],
)
def test_bad_input(machine, options, error):
    with pytest.raises(error, match=next(iter(options))):
        machine("vm").draw(80, **options)


def test_a_list_is_a_set_of_cpus(machine):
    assert machine("hybrid").draw(80, mark="0-3") == machine("hybrid").draw(80, mark={0, 1, 2, 3})


def test_the_width_of_the_terminal(machine, monkeypatch):
    monkeypatch.setenv("COLUMNS", "47")
    assert machine("xeon").draw() == machine("xeon").draw(47)
    monkeypatch.setenv("COLUMNS", "5")
    assert machine("vm").draw() == machine("vm").draw(40)


@pytest.mark.parametrize(("width", "error"), [(39, ValueError), (-1, ValueError), (80.0, TypeError), (True, TypeError)])
def test_a_width_that_is_none(machine, width, error):
    with pytest.raises(error, match="width"):
        machine("vm").draw(width)


@pytest.mark.parametrize("name", ["vm", "xeon"])
def test_a_machine_in_a_line(name, machine):
    assert str(machine(name)) == machine(name).draw(100).splitlines()[0]
