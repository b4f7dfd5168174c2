"""numpy arrays in shared memory.

A SharedArray is a numpy array whose memory is a segment's. Its dtype and shape are written in the segment, so that
another program needs its name alone. Nothing is copied.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from numpy.lib import format as npy

from corelane._ffi import lib
from corelane.errors import Corrupted
from corelane.shm.segment import Handle, Segment, started

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike

    from corelane.shm.segment import HasFileno

__all__ = ["SharedArray", "array", "attach_array"]

_DIMENSIONS = 64 if int(np.__version__.split(".")[0]) >= 2 else 32  # of any numpy array


class SharedArray(np.ndarray[Any, Any]):
    """An array in a segment. Slices and views of it are in the same memory and keep it alive.

    `segment` is the Segment it is in, for `close`, `unlink`, its name; `handle` is what another process attaches it by.
    What is computed from it is an array of its own: `segment` is None there. Pickling it copies the data, as that of
    any array; pickle its `handle` to share them. But a process that multiprocessing starts has the same memory, however
    it is started, if it is given the array, or a part of it, as an argument.
    """

    segment: Segment | None = None

    def __array_finalize__(self, source: Any) -> None:
        # A view is in the same memory, a copy or a result is not, and both come here.
        segment = getattr(source, "segment", None)
        if segment is not None and np.may_share_memory(self, source):
            self.segment = segment

    @property
    def handle(self) -> Handle:
        """What another process attaches the whole array by.

        Raises:
            ValueError: this is an array that was computed, not one in shared memory; or its segment is closed.
        """
        if self.segment is None:
            raise ValueError("this array is not in shared memory: copy it into one made by shm.array")
        return self.segment.handle

    def __reduce_ex__(self, protocol: Any) -> Any:
        segment = self.segment
        if segment is None or segment.closed or started() is None:
            return super().__reduce_ex__(protocol)
        begin = np.frombuffer(segment.buf, "u1").__array_interface__["data"][0]
        offset = self.__array_interface__["data"][0] - begin
        return _given, (segment, self.dtype, self.shape, offset, self.strides, self.flags.writeable)


def _given(
    segment: Segment,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    offset: int,
    strides: tuple[int, ...],
    writeable: bool,
) -> SharedArray:
    """In a process that has been started: the argument, in the memory of who gave it."""
    made = SharedArray(shape, dtype, segment.buf, offset, strides)
    made.segment = segment
    if not writeable:
        made.flags.writeable = False
    return made


def array(shape: int | Sequence[int], dtype: DTypeLike = "f8", name: str | None = None, **options: Any) -> SharedArray:
    """Make an array in shared memory, all zeros.

    Args:
        shape: its extents; at least one element in all.
        dtype: any numpy dtype without Python objects in it, structured ones too.
        name, options: as in `Segment.create`: mode, owner, group, keep, huge_pages, populate, lock, numa.

    Returns:
        The array. It is shared for as long as anybody has it.

    Raises:
        TypeError: the dtype has Python objects. ValueError: no elements. As `Segment.create`.
    """
    kind = np.dtype(dtype)
    if kind.hasobject:
        raise TypeError(f"an array of {kind} cannot be shared: Python objects are pointers into one process's memory")
    if kind.subdtype is not None:
        raise ValueError(f"dtype must be of one element: {kind} is an array, whose extents belong to the shape")
    extents = _extents(shape)
    count = math.prod(extents)
    if kind.itemsize < 1:
        raise ValueError(f"dtype must have a size, as {kind} has not")
    about = repr({"descr": npy.dtype_to_descr(kind), "shape": extents}).encode()
    segment = Segment()
    segment._create(count * kind.itemsize, name, lib.CL_SEGMENT_ARRAY, about=about, **options)
    return _view(segment, extents, kind)


def _extents(shape: Any) -> tuple[int, ...]:
    several = isinstance(shape, (tuple, list)) or (hasattr(shape, "__len__") and np.ndim(shape) == 1)
    try:
        extents = tuple(operator.index(extent) for extent in (shape if several else (shape,)))
    except TypeError:
        raise TypeError(f"shape must be an integer or a tuple of integers, not {shape!r}") from None
    if any(extent < 1 for extent in extents):
        raise ValueError(f"shape must have extents of at least 1, not {extents}")
    if len(extents) > _DIMENSIONS:
        raise ValueError(f"shape must have at most {_DIMENSIONS} extents, not {len(extents)}")
    return extents


def attach_array(target: str | int | HasFileno | Handle, *, readonly: bool = False) -> SharedArray:
    """Attach an array that there is already.

    Args:
        target: its name, its handle, or a descriptor that was passed here.
        readonly: the array cannot be written through this.

    Raises:
        Corrupted: it is no array, or what it says of itself is not so. As `Segment.attach`.
    """
    segment = Segment()
    segment._attach(target, lib.CL_SEGMENT_ARRAY, readonly)
    extents, kind = _described(segment)
    return _view(segment, extents, kind)


def _described(segment: Segment) -> tuple[tuple[int, ...], np.dtype[Any]]:
    import ast

    # A copy: another process may write there while it is read.
    text = bytes(segment._about).rstrip(b"\0")
    try:
        told = ast.literal_eval(text.decode())
        kind = npy.descr_to_dtype(told["descr"])
        extents = tuple(told["shape"])
        size = kind.itemsize
        for extent in extents:
            if type(extent) is not int or extent < 1:
                raise ValueError(extent)
            size *= extent
        if kind.hasobject or kind.subdtype is not None or size != segment.size or len(extents) > _DIMENSIONS:
            raise ValueError(size)
    except Exception as error:
        segment.close()
        raise Corrupted(f"{segment!r} does not say what array it is: {text[:80]!r} ({error})") from None
    return extents, kind


def _view(segment: Segment, shape: tuple[int, ...], dtype: np.dtype[Any]) -> SharedArray:
    made: SharedArray = np.frombuffer(segment.buf, dtype).reshape(shape).view(SharedArray)
    made.segment = segment
    return made
