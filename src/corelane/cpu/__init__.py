"""CPUs: what the machine has, what of it is ours, who goes where and how urgently.

    what there is         topology; load, LoadSampler
    what is ours          count, available, budget, explain, watch_budget; limit_threads, thread_environment
    on which CPUs         get_affinity, set_affinity, pinned; parse_cpus, format_cpus, format_mask
    how urgently          get_priority, set_priority, get_nice, set_nice, get_io_priority, set_io_priority, Deadline;
                          get_qos, set_qos (macOS); get_memory_policy, set_memory_policy
    who goes where        plan, rebalance, apply_moves; priority_class, AffinityManager
    what costs latency    diagnose

The other names are the values that these take and return. `pid` is a process, `tid` a thread, neither the calling one
(threads.py); `cpus` any way of writing a set of CPUs (lists.py); `best_effort` has what the system refuses returned or
left out instead of raised; `root` is where another machine's files are.

Each name is loaded when it is asked for: starting a process needs only the ways of writing a set of CPUs.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

    from corelane.cpu.affinity import get_affinity, pinned, set_affinity
    from corelane.cpu.classes import PRIORITY_CLASSES, ClassRule, PriorityClass, priority_class
    from corelane.cpu.counting import available, budget, count, explain
    from corelane.cpu.doctor import Advice, Cost, Diagnosis, Evidence, Finding, diagnose
    from corelane.cpu.hardware import topology
    from corelane.cpu.limit import Budget, Limit
    from corelane.cpu.lists import format_cpus, format_mask, parse_cpus
    from corelane.cpu.manager import AffinityManager, CpuStatistics, Placed
    from corelane.cpu.model import Cache, Core, Cpu, Node, Topology
    from corelane.cpu.moves import Move, apply_moves, rebalance
    from corelane.cpu.placement import POLICIES, Place, Plan, plan
    from corelane.cpu.policies import Deadline
    from corelane.cpu.priority import (
        get_io_priority,
        get_memory_policy,
        get_nice,
        get_priority,
        get_qos,
        set_io_priority,
        set_memory_policy,
        set_nice,
        set_priority,
        set_qos,
    )
    from corelane.cpu.sampler import Load, LoadSampler, Pressure, load
    from corelane.cpu.thread_limits import ThreadLimit, limit_threads, thread_environment
    from corelane.cpu.watch import Watch, watch_budget

# One line a name, sorted; a type checker reads the imports above.
_LATER = {
    "Advice": "doctor",
    "AffinityManager": "manager",
    "Budget": "limit",
    "Cache": "model",
    "ClassRule": "classes",
    "Core": "model",
    "Cost": "doctor",
    "Cpu": "model",
    "CpuStatistics": "manager",
    "Deadline": "policies",
    "Diagnosis": "doctor",
    "Evidence": "doctor",
    "Finding": "doctor",
    "Limit": "limit",
    "Load": "sampler",
    "LoadSampler": "sampler",
    "Move": "moves",
    "Node": "model",
    "POLICIES": "placement",
    "PRIORITY_CLASSES": "classes",
    "Place": "placement",
    "Placed": "manager",
    "Plan": "placement",
    "Pressure": "sampler",
    "PriorityClass": "classes",
    "ThreadLimit": "thread_limits",
    "Topology": "model",
    "Watch": "watch",
    "apply_moves": "moves",
    "available": "counting",
    "budget": "counting",
    "count": "counting",
    "diagnose": "doctor",
    "explain": "counting",
    "format_cpus": "lists",
    "format_mask": "lists",
    "get_affinity": "affinity",
    "get_io_priority": "priority",
    "get_memory_policy": "priority",
    "get_nice": "priority",
    "get_priority": "priority",
    "get_qos": "priority",
    "limit_threads": "thread_limits",
    "load": "sampler",
    "parse_cpus": "lists",
    "pinned": "affinity",
    "plan": "placement",
    "priority_class": "classes",
    "rebalance": "moves",
    "set_affinity": "affinity",
    "set_io_priority": "priority",
    "set_memory_policy": "priority",
    "set_nice": "priority",
    "set_priority": "priority",
    "set_qos": "priority",
    "thread_environment": "thread_limits",
    "topology": "hardware",
    "watch_budget": "watch",
}


if not TYPE_CHECKING:  # to which any name would exist

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module 'corelane.cpu' has no attribute {name!r}")
        import importlib

        found = globals()[name] = getattr(importlib.import_module(f"corelane.cpu.{_LATER[name]}"), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


__all__ = [
    "POLICIES",
    "PRIORITY_CLASSES",
    "Advice",
    "AffinityManager",
    "Budget",
    "Cache",
    "ClassRule",
    "Core",
    "Cost",
    "Cpu",
    "CpuStatistics",
    "Deadline",
    "Diagnosis",
    "Evidence",
    "Finding",
    "Limit",
    "Load",
    "LoadSampler",
    "Move",
    "Node",
    "Place",
    "Placed",
    "Plan",
    "Pressure",
    "PriorityClass",
    "ThreadLimit",
    "Topology",
    "Watch",
    "apply_moves",
    "available",
    "budget",
    "count",
    "diagnose",
    "explain",
    "format_cpus",
    "format_mask",
    "get_affinity",
    "get_io_priority",
    "get_memory_policy",
    "get_nice",
    "get_priority",
    "get_qos",
    "limit_threads",
    "load",
    "parse_cpus",
    "pinned",
    "plan",
    "priority_class",
    "rebalance",
    "set_affinity",
    "set_io_priority",
    "set_memory_policy",
    "set_nice",
    "set_priority",
    "set_qos",
    "thread_environment",
    "topology",
    "watch_budget",
]
