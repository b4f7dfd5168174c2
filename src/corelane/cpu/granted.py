"""What the environment grants: how many CPUs, and which, a batch system gave this task, or a person this Python.

Owns nothing and looks at nothing but the variables it is given. Such variables are inherited by whatever is started and
written by anybody, so a malformed or stale one must not break a program: it is reported as ignored and limits nothing.
How many threads a library is to start (OMP_NUM_THREADS) is no grant of CPUs, and is not read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from corelane.cpu.limit import Limit
from corelane.cpu.lists import cpu_list

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

__all__ = ["NAMES", "limits"]

# All that is ever looked at: who keeps a budget compares these.
NAMES = (
    "PYTHON_CPU_COUNT",
    "SLURM_CPUS_PER_TASK",
    "SLURM_CPU_BIND",
    "SLURM_CPU_BIND_TYPE",
    "SLURM_CPU_BIND_LIST",
    "SLURM_CPUS_ON_NODE",
    "SLURM_JOB_CPUS_PER_NODE",
    "SLURM_NTASKS",
    "SLURM_NTASKS_PER_NODE",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "SLURM_STEP_ID",
    "PBS_JOBID",
    "PBS_NUM_PPN",
    "NCPUS",
    "LSB_DJOB_NUMPROC",
    "LSB_MCPU_HOSTS",
    "LSB_BIND_CPU_LIST",
)

_WHERE = "environment"
_BINDING = re.compile(r"(?:^|,)\s*(mask_cpu|map_cpu):(.*)", re.IGNORECASE)
_REPEATED = re.compile(r"([^*]+)(?:\*(\d{1,6}))?")
_PER_NODE = re.compile(r"(\d{1,9})(?:\(x(\d{1,9})\))?")
_WHOLE = re.compile(r"\s*\+?(\d{1,9})\s*", re.ASCII)
_MOST_ITEMS = 65536  # of a list, repetitions written out: a typing error takes no memory


class _Malformed(Exception):
    """The reason why a variable is ignored."""


def limits(get: Callable[[str], str | None], option: object = None) -> list[Limit]:
    """The limits in an environment; those that are ignored have the reason in `ignored`.

    Args:
        get: a variable's value, or None.
        option: of `python -X cpu_count=`, which goes before its variable; True for one without a value.
    """
    found: list[Limit] = []

    def look(name: str, parse: Callable[[str], Any], where: str = _WHERE, text: Any = None) -> None:
        text = get(name) if text is None else text
        if text is None:
            return
        try:
            value = parse(str(text))
        except _Malformed as malformed:
            found.append(Limit(name, where=where, text=str(text), ignored=str(malformed)))
            return
        if isinstance(value, frozenset):
            found.append(Limit(name, cpus=value, where=where, text=str(text)))
        elif value is not None:
            found.append(Limit(name, amount=float(value), where=where, text=str(text)))

    if option is not None:
        look("cpu_count", _python, "python -X", "" if option is True else option)
    else:
        look("PYTHON_CPU_COUNT", _python)
    look("SLURM_CPUS_PER_TASK", lambda text: _of_task(_whole(text), get))
    if get("SLURM_CPUS_ON_NODE") is not None:
        look("SLURM_CPUS_ON_NODE", lambda text: _share(_whole(text), get))
    else:
        look("SLURM_JOB_CPUS_PER_NODE", lambda text: _share(_of_node(text, get), get))
    if get("SLURM_CPU_BIND"):
        look("SLURM_CPU_BIND", lambda text: _bound(text, get))
    elif get("SLURM_CPU_BIND_LIST"):
        kind = get("SLURM_CPU_BIND_TYPE") or ""
        look("SLURM_CPU_BIND_LIST", lambda text: _bound(f"{kind.rstrip(':')}:{text}", get))
    look("PBS_NUM_PPN", _whole)
    if get("PBS_JOBID"):  # the name is too short to be PBS's own elsewhere
        look("NCPUS", _whole)
    look("LSB_DJOB_NUMPROC", _whole)
    look("LSB_MCPU_HOSTS", _of_host)
    if (get("LSB_BIND_CPU_LIST") or "").strip():  # empty: nothing was bound
        look("LSB_BIND_CPU_LIST", _cpus)
    return found


def _whole(text: str) -> int:
    match = _WHOLE.fullmatch(text)
    if not match or int(match[1]) < 1:
        raise _Malformed("it is no whole number from 1")
    return int(match[1])


def _python(text: str) -> int | None:
    return None if text.strip() == "default" else _whole(text)


def _cpus(text: str) -> frozenset[int]:
    try:
        return frozenset(cpu_list("it", text.replace(" ", ",") if "," not in text else text))
    except ValueError as error:
        raise _Malformed(str(error)) from None


def _of_task(cpus: int, get: Callable[[str], str | None]) -> int:
    """A task's CPUs. What runs outside of all steps, the batch script or the shell of salloc, is none of several tasks:
    it has what the job has on this node."""
    tasks = _WHOLE.fullmatch(get("SLURM_NTASKS") or "")
    node = next((name for name in ("SLURM_CPUS_ON_NODE", "SLURM_JOB_CPUS_PER_NODE") if get(name) is not None), None)
    if get("SLURM_STEP_ID") is None and tasks and int(tasks[1]) > 1 and node is not None:
        raise _Malformed(f"of each of {int(tasks[1])} tasks, and this is outside of them: {node} is what it has")
    return cpus


def _share(cpus: int, get: Callable[[str], str | None]) -> int:
    """The job's CPUs on this node are of all its tasks there. Only in a step of so many tasks each has its share; the
    batch script may use all, and where SLURM_CPUS_PER_TASK is told that is the share."""
    tasks = get("SLURM_NTASKS_PER_NODE")
    if tasks is None or get("SLURM_STEP_ID") is None or get("SLURM_CPUS_PER_TASK") is not None:
        return cpus
    match = _WHOLE.fullmatch(tasks)
    return max(1, cpus // int(match[1])) if match and int(match[1]) else cpus


def _of_node(text: str, get: Callable[[str], str | None]) -> int:
    """Our node's number of "16(x2),8": 16 for each of the first two, then 8."""
    spans = []
    for part in text.strip().split(","):
        match = _PER_NODE.fullmatch(part.strip())
        if not match or int(match[1]) < 1:
            raise _Malformed(f"{part!r} is not of the form 16 or 16(x2)")
        spans.append((int(match[1]), int(match[2] or 1)))
    if len({cpus for cpus, _ in spans}) == 1:
        return spans[0][0]
    node = _WHOLE.fullmatch(get("SLURM_NODEID") or "")
    if not node:
        raise _Malformed("which of its nodes this is cannot be told without SLURM_NODEID")
    left = int(node[1])
    for cpus, nodes in spans:
        if left < nodes:
            return cpus
        left -= nodes
    raise _Malformed(f"it has no node {int(node[1])}, which SLURM_NODEID says this is")


def _bound(text: str, get: Callable[[str], str | None]) -> frozenset[int] | None:
    """Our task's CPUs of "quiet,mask_cpu:0x3,0xc": one item a task of this node, used in turn when there are fewer.
    What names no CPUs (cores, rank, none) limits by the affinity alone."""
    match = _BINDING.search(text)
    if not match:
        return None
    kind, items = match[1].lower(), _items(match[2])
    if len(items) == 1:
        item = items[0]
    else:
        local = _WHOLE.fullmatch(get("SLURM_LOCALID") or "")
        if not local:
            raise _Malformed("which of its tasks this is cannot be told without SLURM_LOCALID")
        item = items[int(local[1]) % len(items)]
    is_hex = item[:2] in ("0x", "0X")
    if kind == "mask_cpu":
        return _cpus(item if is_hex else "0x" + item)
    try:
        return _cpus(str(int(item, 16 if is_hex else 10)))
    except ValueError:
        raise _Malformed(f"{item!r} is no CPU") from None


def _items(text: str) -> list[str]:
    """A list with repetitions written out: "0x3*2,0xc" is for three tasks."""
    items: list[str] = []
    for part in text.split(","):
        match = _REPEATED.fullmatch(part.strip())
        times = int(match[2] or 1) if match else 0
        if not match or not times or len(items) + times > _MOST_ITEMS:
            raise _Malformed(f"{part!r} is neither a CPU or mask nor one with *times")
        items += [match[1].strip()] * times
    return items


def _of_host(text: str) -> int | None:
    """Our host's number of "host1 4 host2 8"; nothing if it names other hosts only."""
    words = text.split()
    if not words or len(words) % 2:
        raise _Malformed("it is no list of hosts, each with a number")
    ours = os.uname().nodename
    of_host = {host: _whole(number) for host, number in zip(words[::2], words[1::2], strict=True)}
    return of_host.get(ours) or {host.partition(".")[0]: n for host, n in of_host.items()}.get(ours.partition(".")[0])
