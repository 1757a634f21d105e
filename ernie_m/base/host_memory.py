"""What the C library does with memory that is freed: glibc's mallopt, for those who know better than its guesses.

Both functions change this process alone, and nothing where the C library is another one.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # malloc.h
_NEVER = -1


def keep_freed_memory() -> None:
    """Take large blocks from the heap, too, and give nothing back: for work that allocates the same again and again.

    A training step on CPU asks for gigabytes of activations and gradients. Fresh from the kernel each time, a page at a
    time, these cost more than the element-wise work that is done in them (docs/log/speed.md). Call it when that work begins:
    blocks that were freed before, of other sizes, would stay as holes.
    """
    _set(_MMAP_MAX, 0)
    _set(_TRIM_THRESHOLD, _NEVER)


def return_large_blocks() -> None:
    """Give blocks of a MiB and more back at once: for work whose blocks differ.

    Left alone glibc raises its threshold, and holes of the size of a block stay in the heap: memory then grows with what
    has passed through it.
    """
    _set(_MMAP_THRESHOLD, 1 << 20)


def _set(option: int, value: int) -> None:
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(option, value)
