"""numpy arrays as records of one size, for whatever carries records.

Owns nothing. numpy is imported by whoever calls.
"""

from __future__ import annotations

import sys

from corelane._values import integer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    import numpy as np
    from numpy.typing import DTypeLike

__all__ = ["listed", "room_for", "rows_of", "several"]


def several(name: str, records: Iterable[Any]) -> Iterable[Any]:
    """What a call that takes several records was given; one alone, which has no records in it, is refused.

    Args:
        name: of the call, for the error.
    """
    if isinstance(records, (bytes, bytearray, memoryview, str)):
        raise TypeError(f"{name}() takes a list of records, and not one ({type(records).__name__}): {name}([...])")
    return records


def listed(name: str, records: Iterable[Any]) -> list[Any]:
    """As `several`, all of them."""
    return list(several(name, records))


def rows_of(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The elements along the first axis of an array as rows of bytes.

    Args:
        array: of any dtype without Python objects, structured ones too. What is not contiguous is copied first.

    Returns:
        "u1", of shape (records, bytes of one); of shape (0, 0) if there is nothing in it.
    """
    import numpy as np

    if not isinstance(array, np.ndarray):
        raise TypeError(f"array must be a numpy array, not {array!r:.80} ({type(array).__name__}): put() takes bytes")
    if array.dtype.hasobject:
        raise TypeError(f"an array of {array.dtype} cannot be put: Python objects are pointers into one process")
    if array.ndim < 1:
        raise ValueError("array must have at least one axis: its elements are the records")
    if not array.nbytes:
        return np.empty((0, 0), "u1")
    return np.ascontiguousarray(array).reshape(-1).view("u1").reshape(len(array), -1)


def room_for(dtype: DTypeLike, most: int) -> np.ndarray[Any, Any]:
    """An array for at most so many records of a dtype, not filled."""
    import numpy as np

    kind = np.dtype(dtype)
    if kind.hasobject:
        raise TypeError(f"records of {kind} cannot be got: Python objects are pointers into one process's memory")
    if kind.itemsize < 1:
        raise ValueError(f"dtype must have a size, as {kind} has not")
    return np.empty(integer(1, sys.maxsize)("most", most), kind)
