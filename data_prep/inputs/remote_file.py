"""A file elsewhere that can be read from any place on; what breaks off is taken up again at the byte where it stopped."""

from __future__ import annotations

import io
from typing import Any

from data_prep.connection import RetryPolicy, persist

POLICY = RetryPolicy()
PASSED_OVER = 1 << 18
"""So many bytes are read and left, rather than asked for anew behind them."""


class RemoteFile(io.RawIOBase):
    """What is common to all kinds. A kind sets `url`, `size` and `version`, and has `_piece`."""

    url: str
    size: int
    """Bytes."""
    version: str
    """Changes when the file does."""

    def __init__(self) -> None:
        super().__init__()
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Nothing is asked for before the next read."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = max(0, start + offset)
        return self.position

    def readinto(self, buffer: Any, /) -> int:
        """Some bytes. Raises InputError, or GaveUpError where the server stays away."""
        most = min(len(buffer), self.size - self.position)
        if most <= 0:
            return 0
        piece = persist(self.url, POLICY, lambda: self._piece(most))
        buffer[: len(piece)] = piece
        self.position += len(piece)
        return len(piece)

    def _piece(self, most: int) -> bytes:
        """1 to `most` bytes at `position`. Raises DroppedError where another try may succeed."""
        raise NotImplementedError
