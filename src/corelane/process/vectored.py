"""Batches of buffers through writev(2) and readv(2). Owns nothing; the descriptors stay the caller's."""

from __future__ import annotations

import os
from collections.abc import Sequence

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

__all__ = ["read_batch", "write_batch"]

_MOST = os.sysconf("SC_IOV_MAX")


def write_batch(fd: int, pieces: Sequence[Any]) -> int:
    """Write all pieces to a blocking descriptor.

    Args:
        pieces: bytes-like objects.

    Returns:
        The number of bytes: all of them.
    """
    left = [view for piece in pieces if (view := memoryview(piece).cast("B")).nbytes]
    total = sum(view.nbytes for view in left)
    at = 0
    while at < len(left):
        wrote = os.writev(fd, left[at : at + _MOST])
        while at < len(left) and wrote >= left[at].nbytes:
            wrote -= left[at].nbytes
            at += 1
        if wrote:
            left[at] = left[at][wrote:]
    return total


def read_batch(fd: int, buffers: Sequence[Any]) -> int:
    """Fill buffers in order with what one readv(2) gives.

    Args:
        buffers: writable bytes-like objects.

    Returns:
        The number of bytes; 0 at the end of the file.
    """
    return os.readv(fd, buffers[:_MOST])
