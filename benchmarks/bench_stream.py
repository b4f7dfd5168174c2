"""Bytes that go through: lines and chunks of a child's output, and what it is fed, each beside subprocess."""

import subprocess

import pytest

import corelane as cl

MIB = 1 << 20
LINES = 100_000


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A file of many lines, as logs have them."""
    path = tmp_path_factory.mktemp("stream") / "text"
    path.write_text("".join(f"{number:6} a line as logs have them, of 60 characters\n" for number in range(LINES)))
    return path


@pytest.mark.benchmark(group="100,000 lines")
@pytest.mark.parametrize("who", ["corelane", "subprocess"])
def test_lines(benchmark, text, who):
    command = cl.Command("cat", text)

    def ours():
        return sum(1 for _ in command.lines())

    def theirs():
        with subprocess.Popen(["cat", text], stdout=subprocess.PIPE, text=True) as process:
            return sum(1 for _ in process.stdout)

    assert benchmark(ours if who == "corelane" else theirs) == LINES


@pytest.mark.benchmark(group="64 MiB in chunks")
@pytest.mark.parametrize("who", ["corelane", "subprocess"])
def test_chunks(benchmark, tiny_out, who):
    argv = [tiny_out, str(64 * MIB), "0"]
    command = cl.Command(*argv)

    def ours():
        return sum(map(len, command.chunks(65536)))

    def theirs():
        with subprocess.Popen(argv, stdout=subprocess.PIPE, bufsize=0) as process:
            return sum(map(len, iter(lambda: process.stdout.read(65536), b"")))

    assert benchmark(ours if who == "corelane" else theirs) == 64 * MIB


@pytest.mark.parametrize("size", [1000, 16 * MIB], ids=["1 kB", "16 MiB"])
@pytest.mark.parametrize("who", ["corelane", "subprocess"])
def test_feed(benchmark, who, size):
    benchmark.group = f"feed and capture {size:,} bytes"
    data = bytes(size)
    command = cl.Command("cat", stdin=data, capture=True)

    def theirs():
        return subprocess.run(["cat"], input=data, capture_output=True, check=True)

    assert len(benchmark(command.run if who == "corelane" else theirs).stdout) == size
