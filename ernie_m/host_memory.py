"""What the C library does with memory that is freed: glibc's mallopt, for those who know better than its guesses.

Both functions change this process alone, and nothing where the C library is another one.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_NEVER = -1
_LARGEST_KEPT = 32 << 20  # glibc allows no more on machines of 64 bits


def keep_freed_memory() -> None:
    """Keep what is freed, up to blocks of 32 MiB: for work that allocates the same again and again.

    A training step on CPU asks for gigabytes of activations and gradients. Fresh from the kernel each time, a page at a
    time, these cost more than the element-wise work that is done in them (docs/log.md). The few larger blocks still come
    and go (kept as well, they would leave holes: a third more memory at the peak), but in huge pages, which torch asks for
    when its first tensor finds THP_MEM_ALLOC_ENABLE set.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    _set(_MMAP_THRESHOLD, _LARGEST_KEPT)
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
