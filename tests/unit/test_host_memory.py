"""What is freed stays with the process, or goes back at once, as asked."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from ernie_m.base import host_memory
for name in sys.argv[1:]:
    getattr(host_memory, name)()
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones({size}, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([pages() for _ in range(4)])
"""


def page_faults(size: int, *functions: str) -> list[int]:
    """Of filling and freeing `size` bytes, four times."""
    command = [sys.executable, "-c", PROGRAM.replace("{size}", str(size)), *functions]
    return [
        int(n) for n in subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip("[]\n").split(",")
    ]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
class TestGlibc:
    def test_kept_memory_is_asked_for_once(self) -> None:
        size = 64 << 20  # more than glibc would keep by itself
        assert page_faults(size)[-1] > 10, "else this proves nothing"
        first, *others = page_faults(size, "keep_freed_memory")
        assert first > 10
        assert max(others) < 3

    def test_large_blocks_are_returned_at_once(self) -> None:
        size = 4 << 20  # what glibc learns to keep after the first
        assert page_faults(size)[-1] < 10, "else this proves nothing"
        assert min(page_faults(size, "return_large_blocks")) > 2
