"""The programs of examples/ do what they say."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PATIENCE = 30


@contextlib.contextmanager
def service(*argv):
    command = [sys.executable, "-W", "error", str(EXAMPLES / "service.py"), *argv]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as proc:
        try:
            yield proc
        finally:
            proc.kill()


def test_a_service_is_restarted_until_it_succeeds(tmp_path):
    script = 'echo x >>"$1"; test "$(wc -l <"$1")" = 3'
    with service("sh", "-c", script, "sh", str(tmp_path / "starts")) as proc:
        said, complaints = proc.communicate(timeout=PATIENCE)
    assert (proc.returncode, complaints) == (0, "")
    words = [line.split(maxsplit=1)[1] for line in said.splitlines()]
    failed, done = ["is started", "has ended with 1"], ["is started", "has ended with 0"]
    assert words == [*failed, *failed, *done]


def test_a_service_is_stopped_with_all_that_it_has_started():
    # Both leave at SIGTERM. End of file on stdout proves that none of them is left.
    with service("sh", "-c", "sleep 1000 & wait") as proc:
        program = psutil.Process(int(proc.stdout.readline().removesuffix(" is started\n")))
        deadline = time.monotonic() + PATIENCE
        while not program.children():
            assert time.monotonic() < deadline, "it has not started anything"
            time.sleep(0.002)
        proc.send_signal(signal.SIGTERM)
        said, complaints = proc.communicate(timeout=PATIENCE)
    assert (proc.returncode, said.split()[-1], complaints) == (0, "stopped", "")


def test_a_service_that_cannot_be_started_is_an_error(tmp_path):
    with service(os.fspath(tmp_path / "none")) as proc:
        said, complaints = proc.communicate(timeout=PATIENCE)
    assert (proc.returncode, said) == (1, "")
    assert complaints.startswith("cannot start ")
