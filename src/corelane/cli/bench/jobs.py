"""The suite of job tools: a command for each line of stdin, end to end, by `corelane batch`, xargs and GNU parallel.

Owns nothing but the contenders it starts. A sample is the time per job over a whole round, with the tool's own start.
"""

import shutil

from corelane.cli.bench.contenders import Available
from corelane.cli.bench.report import Section
from corelane.cli.bench.spawn import Effort, Watch, measure

AT_ONCE = 4

QUICK = Effort(rounds=3, tiny=500, real=500, warm_up=50)
FULL = Effort(rounds=5, tiny=2000, real=1000, warm_up=50)

_LABELS = {
    f"xargs/{AT_ONCE}": "xargs -P (output may mix)",
    f"corelane_batch/{AT_ONCE}": "corelane batch",
    f"parallel/{AT_ONCE}": "GNU parallel",
}


def sections(available: Available, effort: Effort, watch: Watch) -> list[Section]:
    """Jobs of tiny, and of /bin/true."""
    labels = {}
    for key, label in _LABELS.items():
        tool = key.partition("/")[0]
        if tool.startswith("corelane") or shutil.which(tool):
            labels[key] = label
        else:
            available.notices.append(f"{tool} is skipped: not installed")
    found = []
    for kind, title, program, count in (
        ("tiny", f"jobs, {AT_ONCE} at a time, tiny", available.tiny, effort.tiny),
        ("true", f"jobs, {AT_ONCE} at a time, /bin/true", available.true, effort.real),
    ):
        series = measure(
            available.many(labels),
            program,
            title,
            rounds=effort.rounds,
            count=count,
            warm_up=effort.warm_up,
            watch=watch,
            on_skip=available.notices.append,
        )
        found.append(Section(f"jobs_{kind}", title, f"xargs/{AT_ONCE}", f"corelane_batch/{AT_ONCE}", series))
    return found
