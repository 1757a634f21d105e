"""What the C library does with freed memory: glibc's mallopt, for code whose pattern of allocations we know.

Both functions change this process only. They do nothing where the C library is not glibc.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # malloc.h
_NEVER = -1


def keep_freed_memory() -> None:
    """Take large blocks from the heap too, and give nothing back: for work that allocates the same sizes again and again.

    A training step on CPU asks for gigabytes of activations and gradients. If the kernel provides them anew each time, page
    by page, that costs more than the element-wise work in them (docs/log/speed.md). Call it when the training begins: blocks
    of other sizes that were freed before would stay as holes.
    """
    _set(_MMAP_MAX, 0)
    _set(_TRIM_THRESHOLD, _NEVER)


def return_large_blocks() -> None:
    """Give blocks of a MiB and more back at once: for work whose blocks differ.

    By default glibc raises its threshold, and holes of the size of a block stay in the heap. Then memory grows with the
    amount of data that has passed through.
    """
    _set(_MMAP_THRESHOLD, 1 << 20)


def _set(option: int, value: int) -> None:
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(option, value)
