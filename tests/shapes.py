"""Machines of any shape, as topologies built by hand."""

from corelane.cpu.model import Cache, Core, Cpu, Node, Topology


def machine(
    *,
    packages=1,
    nodes=1,
    caches=1,
    cores=1,
    smt=1,
    numbers=None,
    online=None,
    isolated=(),
    capacities=None,
    memory=None,
    distances=None,
):
    """A topology: `nodes` in each package, `caches` in each node, and so on.

    Args:
        numbers: the CPUs' numbers, in the order first threads of all cores, then all second threads, as Linux numbers
            them on most servers; default: 0, 1, 2...
        online, isolated: which of them are; places in that order.
        capacities: of each place.
    """
    places = [
        (package, node, cache, core, thread)
        for thread in range(smt)
        for package in range(packages)
        for node in range(package * nodes, (package + 1) * nodes)
        for cache in range(node * caches, (node + 1) * caches)
        for core in range(cache * cores, (cache + 1) * cores)
    ]
    numbers = range(len(places)) if numbers is None else numbers
    there = range(len(places)) if online is None else sorted(online)
    offline = frozenset(numbers[at] for at in range(len(places)) if at not in there)
    rows = {
        numbers[at]: (*places[at], at in isolated, capacities[at] if capacities else None)
        for at in sorted(there, key=lambda at: numbers[at])
    }
    return _topology(rows, nodes * packages, offline, memory, distances)


def _topology(rows, nodes, offline=frozenset(), memory=None, distances=None):
    def parts(level):
        found = {}
        for number, row in sorted(rows.items()):
            found.setdefault(row[level], []).append(number)
        return {key: tuple(found[key]) for key in sorted(found, key=lambda key: found[key][0])}

    package = {key: at for at, key in enumerate(parts(0))}
    core = {key: at for at, key in enumerate(parts(3))}
    local = parts(1)
    return Topology(
        cpus=tuple(
            Cpu(number, core[row[3]], package[row[0]], row[1], isolated=row[5], capacity=row[6])
            for number, row in sorted(rows.items())
        ),
        cores=tuple(
            Core(core[key], package[rows[cpus[0]][0]], rows[cpus[0]][1], cpus) for key, cpus in parts(3).items()
        ),
        caches=tuple(Cache(3, "unified", 1 << 20, cpus) for cpus in parts(2).values()),
        nodes=tuple(
            Node(
                node,
                local.get(node, ()),
                memory[node] if memory else 1 << 30,
                dict(enumerate(distances[node])) if distances else {},
            )
            for node in range(nodes)
        ),
        offline=offline,
        possible=frozenset(rows) | offline,
    )


def relabelled(topology, to):
    """The same machine with other numbers for its CPUs, `to` mapping each."""
    rows = {}
    for cpu in topology.cpus:
        cache = min(topology.neighbours(cpu.id))
        rows[to[cpu.id]] = (cpu.package, cpu.node, cache, cpu.core, 0, cpu.isolated, cpu.capacity)
    return _topology(rows, len(topology.nodes))
