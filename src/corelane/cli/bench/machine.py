"""The machine a figure was taken on: a ratio without its CPU, kernel and neighbours is a rumour.

Owns nothing; every answer is read once from the system and falls back to "unknown". It never measures
anything.
"""

import os
import platform
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

UNKNOWN = "unknown"


def _first_line(path: str) -> str:
    """The first line of a file, or "" where it cannot be read."""
    with suppress(OSError):
        return Path(path).read_text(errors="replace").partition("\n")[0].strip()
    return ""


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Processor", "cpu model"):
                return value.strip()
    if sys.platform == "darwin":
        with suppress(OSError, subprocess.SubprocessError):
            asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return platform.processor() or UNKNOWN


def governor() -> str:
    """The frequency governor of CPU 0, or "none visible" (usual in virtual machines)."""
    return _first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "none visible"


def sharing() -> str:
    """Who else may use these cores: SMT siblings, a hypervisor, the load at this moment."""
    parts = []
    siblings = _first_line("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list")
    if siblings:
        parts.append("SMT siblings share cores" if siblings.strip("0") else "one thread a core")
    with suppress(OSError):
        if " hypervisor" in Path("/proc/cpuinfo").read_text(errors="replace"):
            parts.append("a virtual machine: the host's cores may be shared")
    parts.append(f"load {os.getloadavg()[0]:.1f}")
    return ", ".join(parts)


def usable_cpus() -> int:
    """How many CPUs this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_available_mib() -> int:
    """Memory that can be taken without swapping and within the control group's limit, in MiB."""
    import psutil

    available = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # no limit is the word "max"
        limit = int((group / "memory.max").read_text())
        available = min(available, limit - int((group / "memory.current").read_text()))
    return max(0, available) >> 20


def describe() -> dict[str, str]:
    """The header of every report: a name and a value for each line."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return {
        "CPU": f"{cpu_model()}, {usable_cpus()} usable of {os.cpu_count()}",
        "cores": sharing(),
        "governor": governor(),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "Python": python,
    }
