"""The programs of examples/ do what they say."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import psutil
import pytest

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


# ---- the sidecar -----------------------------------------------------------------------------------------------------

linux = pytest.mark.skipif(sys.platform != "linux", reason="shared memory is not there yet on this platform")


def example(name, *argv):
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@linux
def test_a_sidecar_hears_of_every_request_that_was_told():
    with example("sidecar.py", "50000") as proc:
        said, complaints = proc.communicate(timeout=PATIENCE)
    assert (proc.returncode, complaints) == (0, "")
    *_, heard, told = said.splitlines()
    told, dropped = map(int, re.fullmatch(r"told of (\d+) requests, dropped (\d+)", told).groups())
    assert json.loads(heard)["requests"] == told > 0
    assert told + dropped == 50000


@linux
def test_a_sidecar_that_is_killed_has_a_successor():
    with example("sidecar.py") as proc:
        first = int(proc.stdout.readline().split()[1])
        os.kill(first, signal.SIGKILL)
        lines = iter(proc.stdout.readline, "")
        second = int(next(line for line in lines if line.startswith("sidecar")).split()[1])
        next(line for line in lines if line.startswith("{"))  # it hears of requests
        proc.send_signal(signal.SIGINT)
        said, complaints = proc.communicate(timeout=PATIENCE)
    assert (proc.returncode, complaints) == (0, "")
    assert second != first
    assert said.splitlines()[-1].startswith("told of ")


# ---- the camera ------------------------------------------------------------------------------------------------------


@linux
def test_one_looks_at_every_frame_and_one_at_what_it_can():
    with example("frames.py", "40") as proc:
        said, complaints = proc.communicate(timeout=PATIENCE)
    assert (proc.returncode, complaints) == (0, "")
    told = {next(iter(line)): line for line in map(json.loads, said.splitlines())}
    assert told["camera"]["camera"] == 40
    assert told["recorder"] == {"recorder": 40, "lost": 0, "in_order": True}
    assert told["preview"]["preview"] + told["preview"]["lost"] == 40


# ---- the Slurm job ---------------------------------------------------------------------------------------------------


def slurm(jobs, **variables):
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    return subprocess.Popen(
        ["bash", str(EXAMPLES / "slurm_array.sh"), str(jobs)],
        env={**os.environ, "PATH": path, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_slurm_job_runs_as_plain_bash(tmp_path):
    (tmp_path / "jobs").write_text("echo one\necho 'two words'\n")
    with slurm(tmp_path / "jobs") as proc:
        said, complaints = proc.communicate(timeout=PATIENCE)
    assert (proc.returncode, sorted(said.splitlines()), complaints) == (0, ["one", "two words"], "")
    with slurm(tmp_path / "jobs") as proc:
        assert proc.communicate(timeout=PATIENCE) == ("", "")  # all of it is done


def test_the_tasks_of_an_array_share_the_lines(tmp_path):
    (tmp_path / "jobs").write_text("".join(f"echo {n}\n" for n in range(10)))
    found = []
    for task in range(3):
        with slurm(tmp_path / "jobs", SLURM_ARRAY_TASK_ID=str(task), SLURM_ARRAY_TASK_COUNT="3") as proc:
            found += proc.communicate(timeout=PATIENCE)[0].split()
    assert sorted(found) == [str(n) for n in range(10)]


def test_a_slurm_job_goes_on_after_a_term(tmp_path):
    """The job that runs is let to its end; those after it are for the next time. No scontrol is here to requeue it."""
    wait = f"sh -c 'touch {tmp_path}/up; until test -e {tmp_path}/go; do sleep 0.01; done; echo first'\n"
    (tmp_path / "jobs").write_text(wait + "echo second\n")
    with slurm(tmp_path / "jobs", SLURM_CPUS_PER_TASK="1") as proc:
        deadline = time.monotonic() + PATIENCE
        while not (tmp_path / "up").exists():
            assert time.monotonic() < deadline, "the first job has not started"
            time.sleep(0.002)
        proc.send_signal(signal.SIGTERM)
        assert "no more is started" in proc.stderr.readline()
        (tmp_path / "go").touch()
        said, complaints = proc.communicate(timeout=PATIENCE)
    assert (proc.returncode, said) == (143, "first\n")
    assert "stopped by SIGTERM: 1 done, 0 failed, 1 not started" in complaints
    with slurm(tmp_path / "jobs", SLURM_CPUS_PER_TASK="1") as proc:
        assert proc.communicate(timeout=PATIENCE)[0] == "second\n"


# ---- C ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="shared memory is not there yet on this platform")
def test_c_talks_to_python():
    command = [sys.executable, "-W", "error", str(EXAMPLES / "c_talks_to_python.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    said = re.fullmatch(
        r"(\d+) readings, none missing, (\d+) of them with the new gain; the sensor has ended with 0\n", done.stdout
    )
    readings, loud = map(int, said.groups())
    assert 0 < loud < readings
