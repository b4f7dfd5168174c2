"""numpy arrays in shared memory: of every kind, attached elsewhere, copied by nobody."""

import multiprocessing
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from helpers import needs_linux

import corelane as cl
from corelane import shm

pytestmark = needs_linux


@pytest.mark.parametrize(
    "dtype",
    ["f8", "u1", ">i4", "?", "c16", "S7", "U3", "M8[ns]", [("x", "f4"), ("y", "i8", (2, 3))],
     np.dtype({"names": ["a", "b"], "formats": ["u1", "f8"], "offsets": [0, 8], "itemsize": 32}), [("größe", "f4")]],
    ids=str,
)  # fmt: skip
def test_of_every_kind(dtype, name):
    array = shm.array((3, 4), dtype, name)
    assert (array.shape, array.dtype) == ((3, 4), np.dtype(dtype))
    assert not array.view(np.ndarray).tobytes().strip(b"\0")
    other = shm.attach_array(name)
    assert (other.shape, other.dtype) == (array.shape, array.dtype)
    array.view("u1")[...] = 65
    assert other.tobytes() == array.tobytes()
    array.segment.close()


def test_another_program(name):
    array = shm.array((1000,), "i8", name)
    code = (
        "import sys, numpy as np; from corelane import shm\n"
        "a = shm.attach_array(sys.argv[1]); a[:] = np.arange(1000); print(a.sum(), a.segment.name)"
    )
    done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, check=True)
    assert done.stdout == f"499500 {name}\n"
    assert (array == np.arange(1000)).all()


def test_by_its_handle_and_by_its_descriptor():
    array = shm.array(10, "u2")
    for target in (pickle.loads(pickle.dumps(array.handle)), array.segment, array.segment.fileno()):
        shm.attach_array(target)[3] += 1
    assert array[3] == 3


def test_a_slice_keeps_the_memory_alive():
    row = shm.array((10, 10))[3]
    assert isinstance(row, shm.SharedArray)
    row[:] = 3
    assert row.segment is not None
    assert row.sum() == 30
    row.segment.close()
    assert row.sum() == 30


def test_what_is_computed_is_not_shared():
    array = shm.array(10)
    for result in (array + 1, array.copy(), np.sort(array), array[array > 0]):
        assert result.segment is None
    with pytest.raises(ValueError, match="not in shared memory"):
        _ = (array + 1).handle
    copied = pickle.loads(pickle.dumps(array))
    copied[0] = 1
    assert array[0] == 0


def test_other_libraries_take_it_without_a_copy():
    array = shm.array(10)
    np.from_dlpack(array)[2] = 5
    memoryview(array)[3] = 6.0
    assert array.tolist()[:5] == [0, 0, 5, 6, 0]


def test_read_only(name):
    array = shm.array(3, "f4", name)
    reader = shm.attach_array(name, readonly=True)
    array[0] = 1
    assert reader[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        reader[0] = 2
    array.segment.close()


@pytest.mark.parametrize("dtype", ["O", [("a", "O")], "V0", ("f4", (2,))])
def test_kinds_that_cannot_be(dtype):
    with pytest.raises((TypeError, ValueError), match=r"cannot be shared|must have a size|must be of one element"):
        shm.array(3, dtype)


@pytest.mark.parametrize("shape", [0, (3, 0), -1])
def test_shapes_that_cannot_be(shape):
    with pytest.raises(ValueError, match="at least 1"):
        shm.array(shape)


@pytest.mark.parametrize("shape", [2.9, (2.9,), "34", None, [3, "4"]])
def test_shapes_that_are_none(shape):
    with pytest.raises(TypeError, match="shape must be an integer or a tuple of integers, not"):
        shm.array(shape)


def test_a_shape_of_more_extents_than_numpy_has(name):
    with pytest.raises(ValueError, match="at most"):
        shm.array((1,) * 65, "u1", name)
    with pytest.raises(FileNotFoundError):
        shm.attach_array(name)


def test_a_shape_of_numpys_integers():
    assert shm.array(np.int64(3)).shape == (3,)
    assert shm.array(np.array([2, 3])).shape == (2, 3)


def test_what_is_no_array(name):
    with shm.Segment.create(100, name), pytest.raises(cl.Corrupted, match="of kind bytes, not array"):
        shm.attach_array(name)


@pytest.mark.parametrize("said", [b"\xff" * 20, b"{'descr': '|O', 'shape': (1,)}", b"{'descr': '<f8', 'shape': (100,)}",
                                  b"{'descr': '<f8', 'shape': (-1,)}", b"__import__('os')", b"{}",
                                  b"{'descr': '|u1', 'shape': (24," + b"1," * 70 + b")}",
                                  b"{'descr': ('|u1', (24,)), 'shape': (1,)}"])  # fmt: skip
def test_what_an_array_says_is_not_believed(said):
    array = shm.array(3)
    os.pwrite(array.segment.fileno(), said.ljust(3000, b"\0"), 256)
    with pytest.raises(cl.Corrupted, match="does not say what array it is"):
        shm.attach_array(array.segment)


def _write(whole, part, backwards, looked_at):
    whole[0, 0] = 1
    part[:] = 2
    backwards[0] = 3
    assert not looked_at.flags.writeable
    assert looked_at.tolist() == whole[0].tolist()


@pytest.mark.usefixtures("stops_the_tracker")
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_process_that_is_started_with_one_has_the_same_memory(method):
    frames = shm.array((3, 4), "i4")
    looked_at = frames[0]
    looked_at.flags.writeable = False
    arguments = (frames, frames[1:, 2], frames[0][::-1], looked_at)
    worker = multiprocessing.get_context(method).Process(target=_write, args=arguments)
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert frames.tolist() == [[1, 0, 0, 3], [0, 0, 2, 0], [0, 0, 2, 0]]


@pytest.mark.usefixtures("stops_the_tracker")
def test_what_was_computed_is_copied_to_a_process_that_is_started():
    frames = shm.array(5, "i4")
    closed = shm.array(5, "i4")
    closed.segment.close()
    worker = multiprocessing.get_context("spawn").Process(target=_fill, args=(frames + 1, closed, frames[2:2]))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert closed.tolist() == [0] * 5


def _fill(computed, closed, empty):
    assert (computed.segment, closed.segment, empty.size) == (None, None, 0)
    computed[:] = closed[:] = 7
