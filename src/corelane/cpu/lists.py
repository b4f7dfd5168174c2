"""Sets of CPUs as people, kernels and batch systems write them: numbers, lists ("0-3,8"), masks ("0x10f").

Owns nothing and looks at nothing but its argument: whether such a CPU exists is not asked here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

from corelane._values import integer

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

__all__ = ["MOST_CPUS", "cpu_list", "format_cpus", "format_mask", "from_kernel_mask", "kernel_mask", "parse_cpus"]

MOST_CPUS = 65536  # more than any kernel is built for (NR_CPUS), so that a typing error takes no memory

_RANGE = re.compile(r"(\d+)(?:-(\d+)(?::(\d+)(?:/(\d+))?)?)?")
_MASK = re.compile(r"(?:0x)?([0-9a-f]+(?:,[0-9a-f]{1,8})*)", re.IGNORECASE)


def cpu_list(name: str, value: Any, kind: str = "CPU", most: int = MOST_CPUS) -> tuple[int, ...]:
    """CPUs, sorted and each once.

    Args:
        name: the parameter, for messages.
        value: one number; a collection of numbers; or text: the kernel's list syntax ("0-3,8"; "0-7:2", every second;
            "0-7:2/4", the first two of every four), or a mask with 0x ("0x10f"), as taskset(1) and Slurm print it.
        kind, most: for other things that are numbered and listed so (NUMA nodes): what one is called, and how many
            there can be.

    Raises:
        TypeError: it is none of those. ValueError: it is empty, malformed, negative, or beyond what any kernel has.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value,)
    if isinstance(value, str):
        cpus = _of_mask(name, value) if value.strip()[:2] in ("0x", "0X") else _of_list(name, value, kind, most)
    elif isinstance(value, Iterable) and not isinstance(value, (bytes, bytearray)):
        parse = integer(0, most - 1)
        cpus = {parse(name, each) for each in value}
    else:
        raise TypeError(f"{name} must be {kind} numbers or a list like '0-3,8', not {value!r}")
    if not cpus:
        raise ValueError(f"{name} is empty: a process needs at least one {kind}")
    if max(cpus) >= most:
        raise ValueError(f"{name}: {kind} {max(cpus)} is beyond what any kernel has")
    return tuple(sorted(cpus))


def _of_list(name: str, text: str, kind: str, most: int) -> set[int]:
    cpus: set[int] = set()
    if not text.strip():
        return cpus
    work = 0
    for part in text.strip().split(","):
        match = _RANGE.fullmatch(part.strip())
        if not match or not part.isascii():
            raise ValueError(f"{name}: {part!r} in {text!r} is neither a {kind} nor a range like 0-3")
        first, last = int(match[1]), int(match[2] or match[1])
        used, group = (int(match[3]), int(match[4])) if match[4] else (1, int(match[3] or 1))
        if last < first:
            raise ValueError(f"{name}: the range {part!r} runs backwards")
        if last >= most:
            raise ValueError(f"{name}: {kind} {last} is beyond what any kernel has")
        if not 0 < used <= group:
            raise ValueError(f"{name}: in {part!r}, a step is at least 1, and no more are used of a group than it has")
        work += last - first + 1
        if work > 4 * MOST_CPUS:  # nobody repeats so much: it would only take time, and anybody may write a variable
            raise ValueError(f"{name}: {text[:20]!r}... has the same {kind}s again and again")
        cpus.update(cpu for cpu in range(first, last + 1) if (cpu - first) % group < used)
    return cpus


def _of_mask(name: str, text: str) -> set[int]:
    match = _MASK.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{name}: {text!r} is no hexadecimal mask like 0x10f")
    first, *words = match[1].split(",")  # the kernel prints groups of 32 bits, the highest first
    digits = first + "".join(word.zfill(8) for word in words)
    if len(digits.lstrip("0")) * 4 > MOST_CPUS:
        raise ValueError(f"{name}: {text[:20]!r}... has CPUs beyond what any kernel has")
    return _of_bits(int(digits, 16))


def _of_bits(bits: int) -> set[int]:
    return {cpu for cpu, bit in enumerate(reversed(bin(bits)[2:])) if bit == "1"}


def parse_cpus(value: Any, *, mask: bool = False) -> frozenset[int]:
    """A set of CPUs from any way of writing it.

    Args:
        value: a number, numbers, or text: "0-3,8", "0-7:2", "0x10f".
        mask: text is a mask also without its 0x ("ff,00000000" as sysfs prints it).

    Returns:
        The numbers of the CPUs.

    Raises:
        TypeError: it is none of those. ValueError: it is empty, malformed, negative, or beyond what any kernel has.
    """
    if mask and isinstance(value, str):
        cpus = _of_mask("cpus", value)
        if not cpus:
            raise ValueError(f"cpus: no bit is set in {value!r}")
        return frozenset(cpus)
    return frozenset(cpu_list("cpus", value))


def format_cpus(cpus: Iterable[int]) -> str:
    """The kernel's list syntax, as short as it is without steps: {0, 1, 2, 8} is "0-2,8"; nothing is ""."""
    spans: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if spans and cpu == spans[-1][1] + 1:
            spans[-1][1] = cpu
        else:
            spans.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def format_mask(cpus: Iterable[int]) -> str:
    """A hexadecimal mask, as taskset(1) and Slurm read it: {0, 1, 2, 3, 8} is "0x10f"; nothing is "0x0"."""
    return hex(sum(1 << cpu for cpu in set(cpus)))


def kernel_mask(cpus: Iterable[int], size: int = 0) -> bytes:
    """The mask as sched_setaffinity(2) reads it: whole native words of 64 bits, at least `size` bytes."""
    numbers = set(cpus)
    bits = sum(1 << cpu for cpu in numbers)
    words = max((max(numbers, default=0) // 64 + 1), (size + 7) // 8)
    if sys.byteorder == "little":
        return bits.to_bytes(words * 8, "little")
    return b"".join(((bits >> 64 * i) & (2**64 - 1)).to_bytes(8, "big") for i in range(words))


def from_kernel_mask(mask: bytes) -> frozenset[int]:
    """The CPUs of a mask of whole native words of 64 bits, as sched_getaffinity(2) writes it."""
    if sys.byteorder != "little":
        mask = b"".join(mask[i : i + 8][::-1] for i in range(0, len(mask), 8))
    return frozenset(_of_bits(int.from_bytes(mask, "little")))
