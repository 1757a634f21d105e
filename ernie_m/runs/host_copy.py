"""A copy of this rank's state in host memory: the only part of a save that the training waits for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from ernie_m.base.console import Choice

COPY_THREADS = 2  # one core does not fill the memory's bandwidth; a third gains nothing
PIECE = 1 << 22  # elements copied at a time


class HostCopy:
    """One buffer, used again for every copy: making it costs more than filling it."""

    def __init__(self) -> None:
        self._buffer = torch.empty(0)
        self._threads = ThreadPoolExecutor(COPY_THREADS, thread_name_prefix="copy")

    def reserve(self, num_elements: int, pinned: bool) -> None:
        """Allocate memory for fp32 numbers and touch every page; otherwise the first copy would wait for the kernel."""
        if self._buffer.numel() < num_elements or (num_elements and pinned != self._buffer.is_pinned()):
            self._buffer = torch.empty(0)  # free the old one first
            self._buffer = torch.zeros(num_elements, pin_memory=pinned)

    def of(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies of flat fp32 tensors; valid until the next call."""
        on_gpu = any(tensor.is_cuda for tensor in tensors.values())
        self.reserve(sum(tensor.numel() for tensor in tensors.values()), on_gpu)
        copies: dict[str, Tensor] = {}
        offset = 0
        for key, tensor in tensors.items():
            copies[key] = self._buffer[offset : offset + tensor.numel()]
            offset += tensor.numel()
        if on_gpu:
            for key, tensor in tensors.items():
                copies[key].copy_(tensor, non_blocking=True)
            torch.cuda.synchronize()
        else:
            pieces = [
                (copies[key][start : start + PIECE], tensor[start : start + PIECE])
                for key, tensor in tensors.items()
                for start in range(0, tensor.numel(), PIECE)
            ]
            list(self._threads.map(lambda pair: pair[0].copy_(pair[1]), pieces))
        return copies


def choose_saving(in_background: bool, state_bytes: int, ranks_on_host: int) -> Choice:
    """Whether to save in the background: host memory must hold a copy of the state of all ranks of this host."""
    if not in_background:
        return Choice("saving", "synchronous", "asked for")
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    needed = state_bytes * ranks_on_host
    sizes = f"{needed / 1e9:.1f} GB of host memory, {available / 1e9:.1f} GB are free"
    if needed > 0.8 * available:
        return Choice("saving", "synchronous", f"a copy would take {sizes}")
    return Choice("saving", "in the background", f"a copy takes {sizes}")
