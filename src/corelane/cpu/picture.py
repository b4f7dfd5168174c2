"""A topology as boxes within boxes, in text: `Topology.draw`.

Owns nothing. What contains what is found from the sets of CPUs alone: a node may be a part of a package or hold
several, and a cache may lie across two nodes. Boxes that cross others have no place in such a picture and are told in a
line.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from corelane._values import flag, integer
from corelane.cpu.lists import cpu_list, format_cpus
from corelane.cpu.model import Topology

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

__all__ = ["draw", "head", "size_text"]

_NARROWEST = 40
_LONG = 50  # lines: a picture that is longer shows one of those that are alike
_MOST_NODES = 16  # in a table of distances
_NOTHING, _GROUPS, _ALL = 0, 1, 2  # of what neighbours that look the same are drawn once: boxes of cores, cores too
_LINES = "┌─┐│└┘"
_ASCII = "+-+|++"


@dataclass
class _Box:
    """What is drawn as a box. `look` is what it shows but for its numbers: neighbours that look the same may be drawn
    once. `words` are a core's CPUs."""

    title: str
    cpus: frozenset[int]
    look: Any
    words: list[str] = field(default_factory=list)
    inner: list[_Box] = field(default_factory=list)

    def signature(self) -> Any:
        return (self.look, tuple(box.signature() for box in self.inner))


def draw(
    topology: Topology,
    width: int | None = None,
    *,
    mark: Iterable[int] | str | None = None,
    allowed: Iterable[int] | str | None = None,
    ascii: bool = False,
    collapse: bool | None = None,
) -> str:
    """See `Topology.draw`."""
    flag("ascii", ascii)
    if collapse is not None:
        flag("collapse", collapse)
    if width is None:
        width = max(_NARROWEST, shutil.get_terminal_size().columns)
    integer(_NARROWEST, 100_000)("width", width)
    online = topology.online
    mine = online if mark is None else frozenset(cpu_list("mark", mark))
    free = online if allowed is None else frozenset(cpu_list("allowed", allowed))
    boxes, crossing = _boxes(topology, _marks(topology, mine, free))
    edges = _ASCII if ascii else _LINES
    lines = []
    for folded in (_NOTHING, _GROUPS, _ALL) if collapse is None else (_ALL,) if collapse else (_NOTHING,):
        lines = _flow(boxes, width, edges, folded)
        if len(lines) <= _LONG:
            break
    told = head(topology), *lines, *crossing, *_notes(topology), *_legend(topology, mine, free, mark is not None)
    return "\n".join(part for line in told for part in _wrapped(line, width))


def size_text(size: int) -> str:
    """Bytes as people write them: 32 KiB, 27.5 MiB."""
    value, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"


# ---- what is in what -------------------------------------------------------------------------------------------------


def _marks(topology: Topology, mine: frozenset[int], free: frozenset[int]) -> dict[int, str]:
    """What stands behind the number of each CPU."""
    some = mine & topology.online != topology.online
    marks = {}
    for cpu in topology.cpus:
        text = "*" if some and cpu.id in mine else ""
        text += "" if cpu.id in free else "x"
        marks[cpu.id] = text + "i" * cpu.isolated + "n" * cpu.nohz_full
    return marks


def _boxes(topology: Topology, marks: dict[int, str]) -> tuple[list[_Box], list[str]]:
    """The outermost boxes, and a line for each that crosses another."""
    found: list[_Box] = []
    crossing: list[str] = []
    for title, cpus, look in _groups(topology):
        within: list[_Box] | None = found
        while within is not None:
            holder = next((box for box in within if cpus and cpus <= box.cpus), None)
            if holder is None:
                break
            within = holder.inner
        assert within is not None
        if any(box.cpus & cpus for box in within):
            crossing.append(f"{title}: CPUs {format_cpus(cpus)}, across other boxes")
            continue
        within.append(_Box(title, cpus, look))
    wide = max(len(f"{cpu}{marks[cpu]}") for cpu in marks)
    for core in topology.cores:
        words = [f"{cpu}{marks[cpu]}".rjust(wide) for cpu in core.cpus]
        cpus = frozenset(core.cpus)
        within = found
        while holder := next((box for box in within if cpus <= box.cpus), None):
            within = holder.inner
        within.append(_Box(f"core {core.index}", cpus, tuple(marks[cpu] for cpu in core.cpus), words))
    _sort(found)
    return found, crossing


def _sort(boxes: list[_Box]) -> None:
    # Memory without CPUs stands last.
    boxes.sort(key=lambda box: min(box.cpus, default=1 << 30))
    for box in boxes:
        _sort(box.inner)


def _groups(topology: Topology) -> list[tuple[str, frozenset[int], Any]]:
    """What may hold cores, from the largest to the smallest, and of the same CPUs what holds the other: title, CPUs,
    and what the title says without its number."""
    cores = {frozenset(core.cpus) for core in topology.cores}
    by_package: dict[int, set[int]] = {}
    by_die: dict[tuple[int, int], set[int]] = {}
    by_cluster: dict[int, set[int]] = {}
    for cpu in topology.cpus:
        by_package.setdefault(cpu.package, set()).add(cpu.id)
        by_die.setdefault((cpu.package, cpu.die), set()).add(cpu.id)
        if cpu.cluster is not None:
            by_cluster.setdefault(cpu.cluster, set()).add(cpu.id)
    groups: list[tuple[str, frozenset[int], int, Any]] = []
    for package, cpus in by_package.items():
        groups.append((f"package {package}", frozenset(cpus), 0, "package"))
    for node in topology.nodes:
        if node.distances:
            memory = f"{size_text(node.memory)}" + ("" if node.cpus else ", no CPUs")
            groups.append((f"NUMA node {node.id}: {memory}", frozenset(node.cpus), 2, ("node", bool(node.cpus))))
    for cache in topology.caches:
        cpus_of = frozenset(cache.cpus)
        if cache.kind != "instruction" and (cpus_of not in cores or cache.level >= 3):
            title = f"{cache.name} {size_text(cache.size)}" if cache.size else cache.name
            groups.append((title, cpus_of, 10 - cache.level, title))
    # Dies and clusters are worth a box only where nothing else has the same CPUs.
    known = {cpus for _, cpus, _, _ in groups} | cores
    for (_, die), cpus in by_die.items():
        if frozenset(cpus) not in known:
            groups.append((f"die {die}", frozenset(cpus), 1, "die"))
    known |= {cpus for _, cpus, _, _ in groups}
    for cluster, cpus in by_cluster.items():
        if frozenset(cpus) not in known:
            groups.append((f"cluster {cluster}", frozenset(cpus), 3, "cluster"))
    groups.sort(key=lambda group: (-len(group[1]), group[2]))
    return [(title, cpus, look) for title, cpus, _, look in groups]


# ---- boxes as lines --------------------------------------------------------------------------------------------------


def _flow(boxes: Sequence[_Box], width: int, edges: str, folded: int) -> list[str]:
    """Boxes side by side, and in as many rows as it takes."""
    rows: list[list[list[str]]] = [[]]
    used = 0
    for drawn in _drawn(boxes, width, edges, folded):
        across = len(drawn[0])
        if rows[-1] and used + 1 + across > width:
            rows.append([])
        used = used + 1 + across if rows[-1] else across
        rows[-1].append(drawn)
    lines: list[str] = []
    for row in rows:
        if len(row) == 1 and not row[0][0].strip():
            del row[0][0]  # of a paragraph that stands beside nothing
        for at in range(max((len(drawn) for drawn in row), default=0)):
            parts = [drawn[at] if at < len(drawn) else " " * len(drawn[0]) for drawn in row]
            lines.append(" ".join(parts).rstrip())
    return lines


def _drawn(boxes: Sequence[_Box], width: int, edges: str, folded: int) -> Iterable[list[str]]:
    at = 0
    while at < len(boxes):
        box = boxes[at]
        alike = 1
        fold = folded == _ALL or (folded == _GROUPS and box.inner)
        while fold and at + alike < len(boxes) and boxes[at + alike].signature() == box.signature():
            alike += 1
        yield _framed(box, width, edges, folded)
        if alike > 2:
            others = frozenset[int]().union(*(other.cpus for other in boxes[at + 1 : at + alike]))
            yield _paragraph(f"and {alike - 1} more like it: CPUs {format_cpus(others)}", width)
            at += alike
        else:
            at += 1


def _framed(box: _Box, width: int, edges: str, folded: int) -> list[str]:
    room = width - 4
    body = _flow(box.inner, room, edges, folded) if box.inner else _words(box.words, room)
    title = box.title if len(box.title) <= room else f"{box.title[: room - 3]}..."
    across = max(len(title), *(len(line) for line in body), 0)
    top = f"{edges[0]} {title} ".ljust(across + 3, edges[1]) + edges[2]
    inside = [f"{edges[3]} {line.ljust(across)} {edges[3]}" for line in body]
    return [top, *inside, edges[4] + edges[1] * (across + 2) + edges[5]]


def _words(words: Sequence[str], width: int) -> list[str]:
    return _wrapped(" ".join(words), width) if words else []


def _paragraph(text: str, width: int) -> list[str]:
    """A text that may stand beside boxes: at the height of what is in them."""
    lines = ["", *_wrapped(text, min(width, 40))]
    across = max(len(line) for line in lines)
    return [line.ljust(across) for line in lines]


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most so many columns, broken at spaces or behind commas; what stands in front stays there."""
    lines = []
    while len(text) > width:
        space = text.rfind(" ", 1, width + 1)
        comma = text.rfind(",", 1, width) + 1
        at = space if space > width // 2 else comma or (space if space > 0 else width)
        lines.append(text[:at].rstrip())
        text = text[at:].lstrip() if lines[-1].strip() else text.lstrip()
    return [*lines, text]


# ---- words around the picture ----------------------------------------------------------------------------------------


def _several(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "s")


def head(topology: Topology) -> str:
    """All of it in a line."""
    parts = [_several(topology.packages, "package"), _several(len(topology.cores), "core")]
    parts.append(_several(len(topology.cpus), "CPU"))
    memory = sum(node.memory for node in topology.nodes)
    if memory:
        parts.append(size_text(memory))
    return f"{topology.model or 'machine'}: " + ", ".join(parts)


def _notes(topology: Topology) -> Iterable[str]:
    """What the boxes have no room for: caches within a core, kinds of CPUs, distances of nodes."""
    cores = {frozenset(core.cpus): core.index for core in topology.cores}
    within: dict[int, list[str]] = {}
    for cache in topology.caches:
        index = cores.get(frozenset(cache.cpus))
        if index is not None and (cache.level < 3 or cache.kind == "instruction"):
            within.setdefault(index, []).append(f"{cache.name} {size_text(cache.size)}" if cache.size else cache.name)
    makes: dict[str, list[int]] = {}
    for index in sorted(within):
        makes.setdefault(", ".join(within[index]), []).append(index)
    for make, indexes in makes.items():
        whose = "each core" if len(indexes) == len(topology.cores) else f"cores {format_cpus(indexes)}, each"
        yield f"{whose}: {make}"
    kinds: dict[tuple[str, int | None, int | None], list[int]] = {}
    for cpu in topology.cpus:
        kinds.setdefault((cpu.kind, cpu.capacity, cpu.max_khz), []).append(cpu.id)
    if len(kinds) > 1:
        for (kind, capacity, khz), cpus in kinds.items():
            words = [kind] if kind else []
            words += [f"capacity {capacity} of 1024"] if capacity is not None else []
            words += [f"up to {khz / 1e6:.2f} GHz"] if khz is not None else []
            if words:
                yield f"CPUs {format_cpus(cpus)}: " + ", ".join(words)
    if 1 < len(topology.nodes) <= _MOST_NODES:
        yield from _distances(topology)


def _distances(topology: Topology) -> Iterable[str]:
    ids = [node.id for node in topology.nodes]
    wide = max(len(str(value)) for node in topology.nodes for value in (node.id, *node.distances.values())) + 1
    first = max(len(f"node {node}") for node in ids)
    yield "distance".ljust(first) + "".join(str(node).rjust(wide) for node in ids)
    for node in topology.nodes:
        yield f"node {node.id}".ljust(first) + "".join(str(node.distances.get(to, "?")).rjust(wide) for to in ids)


def _legend(topology: Topology, mine: frozenset[int], free: frozenset[int], asked: bool) -> Iterable[str]:
    online = topology.online
    if asked and mine & online == online:
        yield "all CPUs are yours"
    elif asked:
        yield f"*  yours: CPUs {format_cpus(mine & online) or 'none'}"
    if online - free:
        yield f"x  not allowed here: CPUs {format_cpus(online - free)}"
    if topology.isolated:
        yield f"i  isolated: CPUs {format_cpus(topology.isolated)}"
    if topology.nohz_full:
        yield f"n  nohz_full: CPUs {format_cpus(topology.nohz_full)}"
    if topology.offline:
        yield f"offline: CPUs {format_cpus(topology.offline)}"
