"""A program in C, built from the C core alone, and a Python program: readings one way, commands the other.

    python examples/c_talks_to_python.py [SENSOR]

Builds examples/c/sensor.c (unless SENSOR, a built one, is given), makes a ring and a queue with names, and starts it.
The records are structs there and numpy dtypes here: the same bytes, and nothing that packs or parses.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import corelane as cl

ROOT = Path(__file__).resolve().parent.parent

# As the structs of examples/c/sensor.c.
READING = np.dtype([("when", "i8"), ("value", "f8"), ("number", "u4"), ("gain", "f4")])
COMMAND = np.dtype([("what", "i4"), ("gain", "f4")])
SET_GAIN, STOP = 1, 2
PATIENCE = 10  # seconds


def build(target: Path) -> None:
    """Compile the sensor, and the C core into it."""
    listed = [sys.executable, "csrc/native_build.py", "--sources"]
    sources = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    compiler = [*os.environ.get("CC", "cc").split(), "-std=gnu11", "-D_GNU_SOURCE", "-O2", "-pthread", "-Icsrc"]
    subprocess.run([*compiler, "-o", target, "examples/c/sensor.c", *sources, "-lm"], cwd=ROOT, check=True)


def command(what: int, gain: float = 0.0) -> np.ndarray:
    """One command, as bytes that the sensor understands."""
    return np.array([(what, gain)], COMMAND)


def talk(sensor: Path) -> None:
    """Get readings until there is enough of them, and tell the sensor so."""
    with (
        cl.Ring.create(1 << 16, f"readings-{os.getpid()}") as ring,
        cl.Queue.create(16, COMMAND.itemsize, f"commands-{os.getpid()}") as commands,
        cl.Command(sensor, ring.name, commands.name).spawn() as process,
    ):
        found = [ring.records_out(READING, 1000, timeout=PATIENCE)]
        while found[-1]["number"][-1] < 100:
            found.append(ring.records_out(READING, 1000, timeout=PATIENCE))
        commands.put(command(SET_GAIN, 2.5).data)
        while found[-1]["gain"][-1] != 2.5:
            found.append(ring.records_out(READING, 1000, timeout=PATIENCE))
        commands.put(command(STOP).data)
        try:
            while True:
                found.append(ring.records_out(READING, 1000, timeout=PATIENCE))
        except cl.Closed:  # all that it had put was got
            pass
        code = process.wait()
    readings = np.concatenate(found)
    assert (readings["number"] == np.arange(len(readings))).all()
    assert (np.diff(readings["when"]) > 0).all()
    assert np.allclose(readings["value"], readings["gain"] * np.sin(readings["number"] / 100))
    loud = int((readings["gain"] == 2.5).sum())
    print(f"{len(readings)} readings, none missing, {loud} of them with the new gain; the sensor has ended with {code}")


def main() -> None:
    """Build it, if need be, and talk to it."""
    if len(sys.argv) > 1:
        talk(Path(sys.argv[1]).resolve())
        return
    with tempfile.TemporaryDirectory() as directory:
        sensor = Path(directory) / "sensor"
        build(sensor)
        talk(sensor)


if __name__ == "__main__":
    main()
