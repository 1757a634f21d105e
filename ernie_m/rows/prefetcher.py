"""What comes next is made on a thread while the present is used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Runs `produce(i)` for i in [first, last) on a thread, up to AHEAD further. The loop over it raises its errors."""

    AHEAD = 2

    def __init__(self, produce: Callable[[int], T], first: int, last: int) -> None:
        self._queue: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=self.AHEAD)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(produce, first, last), daemon=True)
        self._count = last - first
        self._thread.start()

    def _work(self, produce: Callable[[int], T], first: int, last: int) -> None:
        for index in range(first, last):
            try:
                item: tuple[T | None, BaseException | None] = (produce(index), None)
            except BaseException as error:
                item = (None, error)
            while not self._stopped.is_set():
                try:
                    self._queue.put(item, timeout=0.5)
                    break
                except queue.Full:
                    continue
            if self._stopped.is_set() or item[1] is not None:
                return

    def __iter__(self) -> Iterator[T]:
        for _ in range(self._count):
            item, error = self._queue.get()
            if error is not None:
                raise error
            yield item  # type: ignore[misc]

    def close(self) -> None:
        """Stop the thread and drop what it has prepared."""
        self._stopped.set()
        self._thread.join(timeout=5)
