"""Spawn a child and capture what it writes to stdout and stderr."""

import subprocess

import pytest

import corelane as cl

KIB, MIB = 1 << 10, 1 << 20


@pytest.mark.benchmark(group="spawn + capture, tiny")
@pytest.mark.parametrize("mode", ["corelane_capture", "subprocess_capture"])
def test_capture_a_few_bytes(benchmark, spawner, tiny_out, mode):
    benchmark(spawner(mode, tiny_out))


@pytest.mark.parametrize("size", [64 * KIB, 16 * MIB], ids=["64 KiB", "16 MiB"])
@pytest.mark.parametrize("who", ["corelane", "subprocess"])
def test_capture_much(benchmark, tiny_out, who, size):
    benchmark.group = f"capture {size // KIB} KiB"
    argv = [tiny_out, str(size), "0"]
    command = cl.Command(*argv, capture=True)
    spawn = command.run if who == "corelane" else lambda: subprocess.run(argv, capture_output=True, check=True)
    assert len(benchmark(spawn).stdout) == size
