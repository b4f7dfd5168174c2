"""What one more option costs, and what each way of cloning costs: corelane beside raw C that does the same.

Owns nothing but the contenders it starts. An option is applied by the child between clone and exec; here raw
C makes the same system call at the same place, so the difference is what corelane's generality costs.
"""

import sys

from corelane.cli.bench.contenders import OUR_DEFAULTS, Available, python_contender
from corelane.cli.bench.protocol import Contender, Series
from corelane.cli.bench.report import Comparison, Pair, Target
from corelane.cli.bench.spawn import Effort, Watch, measure

PORTABLE_OPTIONS = ("umask", "cwd", "nice", "rlimit", "fds", "group", "session", "cwd_fd", "env", "ignore")
LINUX_OPTIONS = ("cpus", "no_new_privs", "death_signal", "sched", "io_priority", "oom")
QUICK_OPTIONS = ("cwd", "nice", "rlimit", "cpus")

STRATEGIES = {"clone3": "clone_pidfd", "vfork": "vfork", "posix_spawn": "posix_spawn", "fork": "fork"}
"""corelane's strategy and the raw C mode that stands beside it."""

OPTION_BOUND_US = 5.0


def _pairs(
    available: Available, wanted: dict[str, tuple[str, str]], title: str, effort: Effort, watch: Watch
) -> dict[str, Pair]:
    """Measures label -> (C mode, corelane mode) in one set of rounds; without a C compiler pairs lack C."""
    contenders: list[Contender] = []
    for label, (c_mode, our_mode) in wanted.items():
        c = available.c(c_mode, f"raw C {label}")
        contenders += [c] if c else []
        contenders.append(python_contender(our_mode, f"corelane {label}"))
    series = measure(
        contenders,
        available.tiny,
        title,
        rounds=effort.rounds,
        count=effort.tiny,
        warm_up=effort.warm_up,
        watch=watch,
        on_skip=available.notices.append,
    )

    def floor(c_mode: str) -> Series | None:
        return series.get(f"c.{c_mode}")

    return {label: Pair(label, floor(c_mode), series[our_mode]) for label, (c_mode, our_mode) in wanted.items()}


def strategy_names() -> list[str]:
    """corelane's strategies that this system has."""
    return list(STRATEGIES) if sys.platform == "linux" else ["posix_spawn", "fork"]


def option_names() -> list[str]:
    """The measured options that this system has."""
    return [*PORTABLE_OPTIONS, *(LINUX_OPTIONS if sys.platform == "linux" else ())]


def options(available: Available, effort: Effort, watch: Watch, *, quick: bool) -> Comparison:
    """Every option alone, and all that go together. Without containment and parent-death signal, unless
    asked.
    """
    names = option_names()
    if quick:
        names = [name for name in QUICK_OPTIONS if name in names]
    together = "+".join(name for name in names if name != "group")  # a session leader cannot change its group
    wanted = {"no option": ("vfork", "corelane+bare")}
    wanted |= {name: (f"vfork+{name}", f"corelane+bare+{name}") for name in names}
    wanted["all of these" if quick else "all but group"] = (f"vfork+{together}", f"corelane+bare+{together}")
    pairs = _pairs(available, wanted, "options", effort, watch)
    plain = pairs.pop("no option")
    return Comparison("options", "cost of each option, child tiny", list(pairs.values()), plain)


def strategies(available: Available, effort: Effort, watch: Watch) -> Comparison:
    """Every strategy of corelane beside the same call in raw C."""
    wanted = {name: (STRATEGIES[name], f"corelane+bare+strategy={name}") for name in strategy_names()}
    wanted = {"the default": (OUR_DEFAULTS if sys.platform == "linux" else "vfork", "corelane"), **wanted}
    pairs = _pairs(available, wanted, "strategies", effort, watch)
    return Comparison("strategies", "strategies, child tiny", list(pairs.values()))


def targets(comparison: Comparison) -> list[Target]:
    """The dearest single option, by what it adds in corelane over what the same option adds in raw C."""
    extra = []
    for pair in comparison.pairs:
        added = comparison.added_us(pair)
        if added is not None and added[0] is not None:
            extra.append(added[1] - added[0])
    measured = max(extra) if extra else None
    return [Target("dearest option, over the same in raw C", OPTION_BOUND_US, measured, unit=" us")]
