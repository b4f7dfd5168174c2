"""`corelane bench`: corelane beside the others on this machine, now.

Owns the contenders' processes for the length of a run, and a cache directory of built baselines
(toolchain.py). Invariant: every figure is a ratio within one run, by the protocol of protocol.py. It
deliberately passes no judgement on a machine: a target that is missed is printed as missed, and the status is
still 0.
"""

from corelane.cli.bench.suite import SUBJECTS, run

__all__ = ["SUBJECTS", "run"]
