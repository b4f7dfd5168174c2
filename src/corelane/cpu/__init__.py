"""CPUs: what the machine has, what of it is ours, who goes where and how urgently.

    from corelane import cpu

    cpu.topology(); cpu.count(); cpu.explain()
    with cpu.pinned({1}): ...
    cpu.plan(4, "spread")

Each name is loaded when it is asked for: starting a process needs only the ways of writing a set of CPUs.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

    from corelane.cpu.hardware import topology
    from corelane.cpu.lists import format_cpus, format_mask, parse_cpus
    from corelane.cpu.model import Cache, Core, Cpu, Node, Topology

# One line a name, sorted; a type checker reads the imports above.
_LATER = {
    "Cache": "model",
    "Core": "model",
    "Cpu": "model",
    "Node": "model",
    "Topology": "model",
    "format_cpus": "lists",
    "format_mask": "lists",
    "parse_cpus": "lists",
    "topology": "hardware",
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


__all__ = ["Cache", "Core", "Cpu", "Node", "Topology", "format_cpus", "format_mask", "parse_cpus", "topology"]
