"""The weights of a checkpoint of ours, as `init_from` reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ernie_m.base.console import InputError
from ernie_m.base.files import sha256_of
from ernie_m.runs.checkpoint import MANIFEST_FILE, verify
from ernie_m.runs.fragments import WEIGHT, FragmentReader


class CheckpointTensors:
    """The weights of a checkpoint of ours, flat, under our names."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._reader = folder, FragmentReader(folder)
        self.names = self._reader.names

    def read(self, name: str) -> Tensor:
        flat = torch.empty(self._reader.numel(name))
        self._reader.read(name, WEIGHT, 0, flat)
        return flat

    def sha256(self, on_progress: Callable[[], None] = lambda: None) -> str:
        """The hash of its manifest, which holds the hashes of all files. They are checked first."""
        try:
            verify(self._folder, on_progress=on_progress)
        except InputError as error:
            raise InputError(f"{self._folder}: {error}; name an older checkpoint of that run") from None
        return sha256_of(self._folder / MANIFEST_FILE)

    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._folder.iterdir())
