"""The suite of pipelines: three stages, end to end, by Python's and by the shell.

Owns nothing but the contenders it starts.
"""

import importlib.util

from corelane.cli.bench.contenders import Available, python_contender
from corelane.cli.bench.report import Section
from corelane.cli.bench.spawn import Effort, Watch, measure

QUICK = Effort(rounds=3, tiny=20, real=1, warm_up=1)
FULL = Effort(rounds=9, tiny=60, real=1, warm_up=1)

_LABELS = {
    "corelane_pipeline": "corelane a | b | c",
    "bash_by_corelane": "bash -c, by corelane",
    "bash_by_subprocess": "bash -c, by subprocess",
    "subprocess_pipeline": "subprocess.Popen, chained",
    "plumbum_pipeline": "plumbum a | b | c",
}


def sections(available: Available, effort: Effort, watch: Watch) -> list[Section]:
    """A pipeline of a few bytes, and one of a GiB."""
    labels = dict(_LABELS)
    if importlib.util.find_spec("plumbum") is None:
        available.notices.append("plumbum is skipped: not installed")
        del labels["plumbum_pipeline"]
    found = []
    for kind, title, count in (
        ("small", "echo | cat | wc, captured", effort.tiny),
        ("big", "1 GiB through three stages", effort.real),
    ):
        series = measure(
            [python_contender(f"{mode}+{kind}", label) for mode, label in labels.items()],
            available.true,
            title,
            rounds=effort.rounds,
            count=count,
            warm_up=effort.warm_up,
            watch=watch,
            on_skip=available.notices.append,
        )
        found.append(
            Section(f"pipeline_{kind}", title, f"bash_by_subprocess+{kind}", f"corelane_pipeline+{kind}", series)
        )
    return found
