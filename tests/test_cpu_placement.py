"""Plans: what each policy promises, over machines of any shape, and over some that everybody knows."""

import json
import pickle
import random
from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from shapes import machine, relabelled

from corelane import cpu
from corelane.errors import CpuError

POLICIES = ["compact", "spread", "least-loaded", "exclusive", "numa-local"]
XEON = machine(packages=2, caches=1, cores=4, smt=2)  # 0-7 are cores, 8-15 their siblings
EPYC = machine(packages=1, nodes=2, caches=2, cores=4, smt=2)
PLAIN = machine(cores=4)


def plan(n, policy="compact", *, topology=XEON, budget=None, **options):
    options.setdefault("load", dict.fromkeys(topology.online, 0.0))
    return cpu.plan(n, policy, topology=topology, budget=topology.online if budget is None else budget, **options)


def masks(*arguments, **options):
    return [sorted(mask) for mask in plan(*arguments, **options)]


def uses(found, cpus):
    return Counter(dict.fromkeys(cpus, 0)) + Counter() | Counter(each for mask in found for each in mask)


# ---- any machine -----------------------------------------------------------------------------------------------------


@st.composite
def requests(draw):
    """A machine, some of its CPUs, and what is asked of them."""
    topology = draw(machines())
    budget = draw(st.sets(st.sampled_from(sorted(topology.online)), min_size=1))
    load = {each: draw(st.sampled_from([0.0, 0.02, 0.5, 1.0, 3.0])) for each in topology.online}
    options = {
        "policy": draw(st.sampled_from(POLICIES)),
        "per": draw(st.integers(1, min(4, len(budget)))),
        "smt": draw(st.sampled_from([None, True, False])),
        "load": load,
    }
    return topology, frozenset(budget), draw(st.integers(1, 40)), options


@st.composite
def machines(draw):
    shape = {
        "packages": draw(st.integers(1, 2)),
        "nodes": draw(st.integers(1, 2)),
        "caches": draw(st.integers(1, 3)),
        "cores": draw(st.integers(1, 3)),
        "smt": draw(st.sampled_from([1, 2, 4])),
    }
    whole = machine(**shape)
    count = len(whole.cpus)
    there = draw(st.sets(st.sampled_from(range(count)), min_size=1))  # the others are offline
    numbers = draw(st.permutations(range(count)))
    step = draw(st.sampled_from([1, 3]))
    isolated = draw(st.sets(st.sampled_from(range(count)))) if draw(st.booleans()) else ()
    return machine(**shape, numbers=[each * step for each in numbers], online=there, isolated=isolated)


def made(topology, budget, n, options):
    """The plan, or None where that is one of the refusals that are documented."""
    try:
        return plan(n, topology=topology, budget=budget, **options)
    except (CpuError, ValueError) as error:
        said, exclusive = str(error), options["policy"] == "exclusive"
    assert "do not fit" in said if exclusive and "per=" not in said else "per=" in said
    assert exclusive or options["smt"] is False or options["policy"] == "numa-local"
    return None


@given(requests())
def test_what_every_plan_keeps_to(request):
    topology, budget, n, options = request
    found = made(topology, budget, n, options)
    if found is None:
        return
    assert len(found) == n
    assert found.cpus <= budget
    for mask in found:
        assert len(mask) == options["per"]
        assert mask <= budget  # never outside of it
    used = Counter(each for mask in found for each in mask)
    counts = [used[each] for each in found.cpus]
    if options["smt"] is False:
        cores = Counter(topology.by_id[each].core for each in used)
        assert max(cores.values()) == 1
    if options["policy"] == "exclusive":
        owners = {}
        for worker, mask in enumerate(found):
            for each in mask:
                assert owners.setdefault(topology.by_id[each].core, worker) == worker
    elif options["policy"] == "numa-local":
        for mask in found:
            assert len({topology.by_id[each].node for each in mask}) == 1
        for node in topology.nodes:
            local = [used[each] for each in found.cpus & set(node.cpus)]
            assert not any(local) or max(local) - min(local) <= 1
    else:
        assert max(counts) - min(counts) <= 1  # balanced within one, and so complete
    if options["policy"] == "numa-local" and options["per"] == 1:
        assert max(counts) - min(counts) <= 1
    assert str(found).count("\n") >= n
    json.dumps(found.as_dict())


@given(requests(), st.randoms(use_true_random=False))
def test_other_numbers_make_the_same_plan(request, chance):
    topology, budget, n, options = request
    numbers = sorted(topology.online)
    fresh = numbers.copy()
    chance.shuffle(fresh)
    to = dict(zip(numbers, fresh, strict=True))
    other = relabelled(topology, to)
    one = made(topology, budget, n, options)
    load = {to[each]: value for each, value in options["load"].items()}
    two = made(other, frozenset(to[each] for each in budget), n, options | {"load": load})
    assert (one is None) == (two is None)
    if one is not None:
        assert shape_of(one) == shape_of(two)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_alike_but_for_an_isolated_sibling(seed):
    """0, 1 and 2 are one CPU of a core each, but 3 beside 0 is in the tree of the isolated ones."""
    topology = machine(cores=3, smt=2, isolated=[3])
    fresh = random.Random(seed).sample(range(6), 6)
    one = plan(2, per=2, topology=topology, budget="0-3")
    two = plan(2, per=2, topology=relabelled(topology, dict(enumerate(fresh))), budget=set(fresh[:4]))
    assert shape_of(one) == shape_of(two)


def shape_of(found):
    """What must not depend on numbers: what each worker spans, and how much of each core, cache, node and package is
    used."""
    topology = found.topology
    spans, levels = [], []
    for mask in found:
        spans.append([len({label(topology, each)[level] for each in mask}) for level in range(4)])
    for level in range(4):
        used = Counter(label(topology, each)[level] for mask in found for each in mask)
        levels.append(sorted(used.values()))
    return spans, levels


def label(topology, number):
    each = topology.by_id[number]
    return each.core, topology.neighbours(number), each.node, each.package


@given(requests(), st.data())
def test_what_is_avoided_is_not_used(request, data):
    topology, budget, n, options = request
    avoid = data.draw(st.sets(st.sampled_from(sorted(budget)), max_size=len(budget) - 1))
    assume(options["per"] <= len(budget - avoid))
    found = made(topology, budget, n, options | {"avoid": avoid})
    if found is not None:
        assert not found.cpus & avoid
        again = made(topology, budget - avoid, n, options)
        assert again.masks == found.masks


@given(requests())
def test_the_same_again(request):
    topology, budget, n, options = request
    one, two = (made(topology, budget, n, options) for _ in range(2))
    assert one == two
    if one is not None:
        assert pickle.loads(pickle.dumps(one)) == one


@given(machines(), st.integers(1, 12))
def test_exclusive_fits_as_many_as_there_are_cores(topology, per):
    cores = len(topology.cores)
    assert len(plan(cores, "exclusive", topology=topology)) == cores
    with pytest.raises(CpuError, match=f"hold {cores};"):
        plan(cores + 1, "exclusive", topology=topology)


# ---- machines that everybody knows -----------------------------------------------------------------------------------


def test_compact_fills_core_by_core():
    assert masks(4) == [[0], [8], [1], [9]]
    assert masks(3, per=2) == [[0, 8], [1, 9], [2, 10]]
    assert masks(2, smt=False) == [[0], [1]]


def test_compact_does_not_tear_a_worker_apart():
    """Three of four cores: the fourth is left, rather than a worker over two caches."""
    topology = machine(caches=2, cores=4)
    assert masks(2, per=3, topology=topology) == [[0, 1, 2], [4, 5, 6]]


def test_spread_goes_over_packages_then_cores_then_siblings():
    assert masks(4, "spread") == [[0], [4], [1], [5]]
    assert masks(9, "spread")[8] == [8]
    assert masks(2, "spread", per=2) == [[0, 1], [4, 5]]
    assert masks(2, "spread", per=2, smt=True) == [[0, 8], [4, 12]]
    assert masks(8, "spread", per=2) == [[0, 8], [4, 12], [1, 9], [5, 13], [2, 10], [6, 14], [3, 11], [7, 15]]


def test_spread_goes_over_caches():
    found = masks(4, "spread", topology=EPYC)
    assert [EPYC.neighbours(mask[0])[0] for mask in found] == [0, 8, 4, 12]


def test_spread_with_what_a_budget_leaves():
    assert masks(3, "spread", budget="0-3,8-11,15") == [[0], [15], [1]]


def test_least_loaded_takes_the_idle():
    load = dict.fromkeys(range(16), 1.0) | {3: 0.1, 5: 0.0, 13: 0.0}
    assert masks(2, "least-loaded", load=load) == [[5], [13]]  # beside ourselves is better than behind others
    assert masks(1, "least-loaded", load=load | {13: 1.0}) == [[5]]
    quiet = dict.fromkeys(range(16), 0.0) | {0: 1.0}
    found = masks(8, "least-loaded", load=quiet)
    assert sorted(found[:7]) == [[each] for each in range(1, 8)]
    assert found[7] != [0]  # a second thread on a core of ours is better than one behind somebody


def test_least_loaded_among_equals_prefers_the_neighbourhood_with_least_to_do():
    topology = machine(caches=2, cores=2)
    assert masks(2, "least-loaded", topology=topology, load={0: 0.5, 1: 0.0, 2: 0.0, 3: 0.0}) == [[2], [3]]


def test_least_loaded_takes_no_notice_of_noise():
    noise = {each: (each * 7 % 3) * 0.01 for each in range(16)}
    assert masks(4, "least-loaded", load=noise) == [[0], [1], [2], [3]]


def test_a_cpu_that_the_load_does_not_know_is_busy():
    assert masks(1, "least-loaded", topology=PLAIN, load={3: 0.5}) == [[3]]


def test_least_loaded_keeps_the_cpus_of_a_worker_together():
    load = dict.fromkeys(range(16), 0.0) | dict.fromkeys([0, 1, 4, 5], 1.0)
    for mask in plan(2, "least-loaded", per=2, load=load):
        assert len({XEON.by_id[each].package for each in mask}) == 1


def test_exclusive_leaves_the_siblings_idle():
    found = plan(8, "exclusive")
    assert [sorted(mask) for mask in found] == [[each] for each in range(8)]
    assert "CPU 8 beside left idle" in found.places[0].reason
    assert masks(4, "exclusive", per=2) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert masks(8, "exclusive", per=2)[0] == [0, 8]
    assert masks(2, "exclusive", per=2, smt=True) == [[0, 8], [1, 9]]
    assert masks(2, "exclusive", per=3, smt=True) == [[0, 1, 8], [2, 3, 10]]


def test_exclusive_takes_isolated_ones_first_and_others_last():
    topology = machine(cores=4, isolated=[2, 3])
    assert masks(3, "exclusive", topology=topology) == [[2], [3], [0]]
    for policy in ("compact", "spread", "least-loaded"):
        assert masks(3, policy, topology=topology) == [[0], [1], [2]]


def test_exclusive_takes_cores_that_strangers_may_use_last():
    found = plan(3, "exclusive", topology=machine(cores=3, smt=2), budget="0-2,4-5")  # 3 beside 0 is not ours
    assert [sorted(mask) for mask in found] == [[1], [2], [0]]
    assert "beside CPU 3, not ours" in found.places[2].reason
    assert masks(2, "exclusive", per=2, avoid="8,12", smt=True) == [[1, 9], [2, 10]]


def test_exclusive_cores_of_different_sizes():
    topology = machine(cores=4, smt=2)  # 0-3, siblings 4-7
    assert masks(2, "exclusive", per=3, topology=topology, budget="0-3,4-5", smt=True) == [[0, 2, 4], [1, 3, 5]]


def test_exclusive_that_does_not_fit_says_what_would():
    with pytest.raises(CpuError) as caught:
        plan(9, "exclusive")
    assert "9 exclusive workers of 1 CPU do not fit: the 8 cores of CPUs 0-15 hold 8" in str(caught.value)
    assert "at most 8 workers" in str(caught.value)
    with pytest.raises(CpuError, match="hold 1; ask for at most 1 worker, or"):
        plan(2, "exclusive", per=2, topology=machine(cores=2))
    with pytest.raises(CpuError, match="smt=None"):
        plan(5, "exclusive", per=2, smt=False)
    with pytest.raises(CpuError, match="isolated CPUs 2-3"):
        plan(3, "exclusive", topology=machine(cores=4, isolated=[2, 3]), budget="0-1")


def test_numa_local():
    found = plan(6, "numa-local", topology=EPYC, per=2)
    assert [found.places[each].node for each in range(6)] == [0, 1] * 3
    assert found.options(1) == {"cpus": found[1], "memory_policy": ("preferred", (1,))}
    assert plan(1, "spread", topology=EPYC).options(0) == {"cpus": frozenset({0})}
    assert "memory_policy" not in plan(1, "numa-local", topology=PLAIN).options(0)


def test_numa_local_gives_big_nodes_more():
    found = plan(6, "numa-local", topology=EPYC, budget="0-7,16-23,8-11")  # 16 of node 0, 4 of node 1
    assert Counter(place.node for place in found.places) == {0: 5, 1: 1}
    with pytest.raises(ValueError, match="the biggest has 16"):
        plan(1, "numa-local", topology=EPYC, per=17)


def test_numa_local_suggests_memory_where_there_is_some():
    topology = machine(
        nodes=3, cores=2, memory=[0, 1 << 30, 1 << 30], distances=[[10, 30, 20], [30, 10, 20], [20, 20, 10]]
    )
    assert plan(1, "numa-local", topology=topology, budget="0-1").options(0)["memory_policy"] == ("preferred", (2,))


def test_only_some_nodes():
    assert masks(3, "spread", topology=EPYC, numa=1) == [[8], [12], [9]]
    assert plan(1, topology=EPYC, numa="0-1").cpus == EPYC.online
    with pytest.raises(ValueError, match="no node 7; nodes of this machine: 0-1"):
        plan(1, topology=EPYC, numa=[7])
    with pytest.raises(ValueError, match="numa=1 leaves nothing"):
        plan(1, topology=EPYC, numa=1, budget="0-3")


def test_big_cores_come_first():
    topology = machine(caches=2, cores=4, capacities=[400] * 4 + [1024] * 4)
    assert masks(2, topology=topology) == [[4], [5]]
    assert masks(3, "spread", topology=topology) == [[4], [0], [5]]


def test_a_worker_that_is_not_planned_for():
    found = plan(2, topology=PLAIN)
    for ask in (found.__getitem__, found.options):
        with pytest.raises(IndexError, match="no worker 2: the plan is for 2, from 0 on"):
            ask(2)
    assert found[-1] == found[1]
    assert found[1:] == found.masks[1:]


def test_more_workers_than_cpus():
    found = plan(10, topology=PLAIN)
    assert [sorted(mask) for mask in found][:5] == [[0], [1], [2], [3], [0]]
    assert "shared" in found.notes[0]
    assert plan(2, topology=PLAIN, budget=1).notes == ("2 CPUs are asked for and 1 is there: they are shared",)
    assert "CPUs shared with workers 4,8" in found.places[0].reason


def test_very_many_workers_on_few_cpus():
    """Each has nearly all others beside it: naming them all for each would take minutes, and gigabytes to print."""
    found = plan(20_000, per=2, topology=XEON)
    assert "CPUs shared with 2499 others" in found.places[0].reason
    assert len(str(found)) < 100 * len(found)
    assert len({id(mask) for mask in found}) == 8  # and of masks that are the same there is one
    beside = plan(2, topology=XEON, budget={0, 8}).places[0].reason
    assert "cores shared with worker 1" in beside
    assert "cores shared with 1000 others" in plan(2000, topology=XEON, budget={0, 8}).places[0].reason


def test_a_quota_is_a_note():
    class Budget:
        cpus = frozenset(range(4))
        quota = 2.5

    assert "2.5 CPUs' worth" in str(plan(4, topology=PLAIN, budget=Budget()))
    assert plan(2, topology=PLAIN, budget=Budget()).notes == ()


# ---- what a plan is --------------------------------------------------------------------------------------------------


def test_a_plan_is_a_sequence_of_cpus():
    found = plan(3, "spread")
    assert (len(found), found[1], found[-1], list(found)) == (3, {4}, {1}, [{0}, {4}, {1}])
    assert found[1:] == (frozenset({4}), frozenset({1}))
    assert {4} in found
    with pytest.raises(AttributeError):
        found.policy = "compact"
    assert hash(found) == hash(plan(3, "spread"))


def test_its_table():
    assert str(plan(3, "spread", topology=machine(packages=2, nodes=1, cores=2))) == "\n".join(
        [
            "3 workers of 1 CPU, spread, from CPUs 0-3",
            "worker  CPUs  node  why",
            "     0  0     0     core 0, package 0",
            "     1  2     1     core 2, package 1",
            "     2  1     0     core 1, package 0",
        ]
    )


def test_its_plain_form():
    assert plan(1, "numa-local", topology=EPYC, per=2).as_dict() == {
        "policy": "numa-local",
        "per": 2,
        "cpus": "0-31",
        "workers": [
            {
                "worker": 0,
                "cpus": [0, 1],
                "list": "0-1",
                "mask": "0x3",
                "node": 0,
                "memory_policy": ["preferred", [0]],
                "reason": "cores 0-1 of one cache",
            }
        ],
        "notes": [],
    }


def test_this_machine():
    for policy in POLICIES:
        found = cpu.plan(1, policy)
        assert len(found[0]) == 1


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n": 0}, "n must be from 1"),
        ({"n": -3}, "n must be from 1"),
        ({"n": 1 << 40}, "n must be from 1"),
        ({"per": 0}, "per must be from 1"),
        ({"per": 17}, "per=17: a worker cannot have more CPUs than the 16"),
        ({"per": 9, "smt": False}, "more cores than the 8"),
        ({"policy": "dense"}, "compact, spread, least-loaded, exclusive, numa-local, not 'dense'"),
        ({"avoid": "0-15"}, "avoid=0-15 leaves nothing of the CPUs 0-15"),
        ({"avoid": "3-1"}, "avoid.*runs backwards"),
        ({"avoid": -1}, "avoid"),
        ({"budget": "0-16"}, "budget: CPUs 16 cannot be planned for: the topology does not have them"),
        ({"budget": ""}, "budget.*empty"),
        ({"numa": "x"}, "numa.*'x'"),
        ({"load": {0: -1.0}, "policy": "least-loaded"}, "load of CPU 0"),
    ],
)
def test_bad_values(options, says):
    with pytest.raises(ValueError, match=says):
        plan(**({"n": 1} | options))


@pytest.mark.parametrize(
    "options",
    [
        {"n": 1.0},
        {"n": True},
        {"per": "2"},
        {"avoid": 1.5},
        {"smt": 1},
        {"budget": 1.5},
        {"numa": 1.5},
        {"avoid": False},
    ],
)
def test_bad_types(options):
    with pytest.raises(TypeError, match=next(iter(options))):
        plan(**({"n": 1} | options))


def test_offline_cpus_are_said_to_be():
    with pytest.raises(ValueError, match="CPUs 2 are offline"):
        plan(1, topology=machine(cores=4, online=[0, 1, 3]), budget="0-3")


def test_nothing_is_avoided():
    for nothing in ((), "", set(), None, []):
        assert plan(1, avoid=nothing).cpus == XEON.online
    assert plan(1, avoid=0).cpus == XEON.online - {0}
    import numpy as np

    assert plan(1, avoid=np.array([1, 2]).tolist()).cpus == XEON.online - {1, 2}
