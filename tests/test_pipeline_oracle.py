"""Random pipelines of real little programs against bash with pipefail: the same bytes, and the same return code, but
for the rule that is ours: who died of SIGPIPE because a later one had ended has not failed."""

import os
import shlex
import shutil
import signal
import subprocess

import pytest
from faults_child import nothing_left
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import corelane as cl

SIZES = st.one_of(st.integers(0, 10), st.integers(0, 100_000), st.sampled_from([4096, 65536, 65537, 1_000_000]))
ENDLESS = ["yes"]


def sh(template):
    return lambda n: ["sh", "-c", template.format(n % 200)]


# What each writes does not depend on who is faster; nor does its own status, but for SIGPIPE, where it would be 0.
STAGES = st.one_of(
    st.sampled_from(
        [
            ["cat"], ["tr", "a-m", "n-z"], ["wc", "-c"], ["true"], ["false"], ["dd", "bs=512", "status=none"],
            ["dd", "bs=70000", "status=none", "iflag=fullblock"], ["sh", "-c", "cat; kill -9 $$"],
            ["sh", "-c", "exec <&-; exit 0"], ["sh", "-c", "cat >/dev/null"],
        ]
    ),
    SIZES.map(lambda n: ["head", "-c", str(n)]),
    SIZES.map(lambda n: ["tail", "-c", str(n)]),
    st.integers(0, 199).map(sh("cat; exit {}")),
    st.integers(0, 199).map(sh("exit {}")),
    st.sampled_from([["sh", "-c", "kill -9 $$"]]),
)  # fmt: skip
SOURCES = st.one_of(STAGES, SIZES.map(lambda n: ["head", "-c", str(n), "/dev/zero"]), st.just(ENDLESS))
needs_bash = pytest.mark.skipif(not shutil.which("bash"), reason="bash is the oracle")


def by_bash(stages, data):
    """What it wrote, and the status of each stage: -N for signal N."""
    line = " | ".join(shlex.join(stage) for stage in stages)
    reader, writer = os.pipe()
    script = f'{line}; echo "${{PIPESTATUS[@]}}" >&{writer}'
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script], input=data, capture_output=True, pass_fds=[writer], check=False
    )
    os.close(writer)
    with open(reader) as said:
        codes = [int(code) for code in said.read().split()]
    return done.stdout, [
        code if code <= 128 or stage_exits(stage, code) else 128 - code
        for stage, code in zip(stages, codes, strict=True)
    ]


def stage_exits(stage, code):
    """Whether it is its own exit code, which looks like a signal's."""
    return stage[0] == "sh" and stage[-1].endswith(f"exit {code}")


def failed(codes):
    """The code of the last that failed, by our rule."""
    kept = [code for n, code in enumerate(codes) if code and not (code == -signal.SIGPIPE and n < len(codes) - 1)]
    return kept[-1] if kept else 0


def is_settled(stages, n):
    """Whether how stage `n` ends does not depend on who is faster: all after it read to the end."""
    return all(reads_all(stage) for stage in stages[n + 1 :])


def reads_all(stage):
    whole = stage[0] in ("cat", "tr", "wc", "tail", "dd") or stage[-1].startswith("cat")
    return whole and stage != ["tail", "-c", "0"]


@needs_bash
@pytest.mark.slow
@settings(
    derandomize=True, max_examples=120, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(source=SOURCES, rest=st.lists(STAGES, min_size=1, max_size=4), size=SIZES)
def test_like_bash(source, rest, size):
    stages = [source, *rest]
    if source == ENDLESS and reads_all(rest[0]):
        stages.insert(1, ["head", "-c", str(size)])
    data = bytes(range(97, 123)) * (size // 26 + 1)
    out, codes = by_bash(stages, data[:size])
    with nothing_left():
        done = cl.run(cl.Pipeline(*stages), stdin=data[:size], stdout=cl.PIPE, check=False)
    ours = [stage.returncode for stage in done.stages]
    assert done.stdout == out
    assert done.returncode == failed(codes), (ours, codes)
    for n, codes_of in enumerate(zip(ours, codes, strict=True)):
        # Of a stage whose reader ends early either is right: SIGPIPE, or that it had written all by then.
        is_a_race = -signal.SIGPIPE in codes_of and not is_settled(stages, n)
        assert is_a_race or ours[n] == codes[n], (ours, codes)
