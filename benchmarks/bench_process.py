"""A Process from its start to its end, beside subprocess.Popen, and what is asked of a running one."""

import subprocess

import pytest

import corelane as cl


@pytest.mark.benchmark(group="Process, tiny")
@pytest.mark.parametrize("who", ["corelane", "subprocess"])
def test_start_and_wait(benchmark, tiny, who):
    command = cl.Command(tiny)

    def ours():
        with command.spawn() as process:
            return process.wait()

    def theirs():
        with subprocess.Popen([tiny]) as process:
            return process.wait()

    assert benchmark(ours if who == "corelane" else theirs) == 0


@pytest.mark.benchmark(group="Process with three pipes, tiny")
@pytest.mark.parametrize("who", ["corelane", "subprocess"])
def test_start_with_pipes(benchmark, tiny, who):
    command = cl.Command(tiny, stdin=cl.PIPE, stdout=cl.PIPE, stderr=cl.PIPE)
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)

    def ours():
        with command.spawn() as process:
            return process.stdout.read()

    def theirs():
        with subprocess.Popen([tiny], **pipes) as process:
            return process.stdout.read()

    assert benchmark(ours if who == "corelane" else theirs) == b""


@pytest.mark.benchmark(group="asking a running Process")
@pytest.mark.parametrize("what", ["poll", "state"])
def test_look(benchmark, what):
    with cl.Command("cat", stdin=cl.PIPE).spawn() as process:
        benchmark(process.poll if what == "poll" else lambda: process.state)


@pytest.mark.benchmark(group="one line there and back")
@pytest.mark.parametrize("who", ["corelane", "subprocess"])
def test_round_trip(benchmark, who):
    made = (
        cl.Command("cat", stdin=cl.PIPE, stdout=cl.PIPE).spawn()
        if who == "corelane"
        else subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    )
    with made as process:

        def there_and_back():
            process.stdin.write(b"a line\n")
            process.stdin.flush()
            return process.stdout.readline()

        assert benchmark(there_and_back) == b"a line\n"
