"""The ranks of an MPI communicator as an executor of `concurrent.futures`, which its first rank, the root, feeds.

mpi4py.futures sends a rank its next task only after the last result was received, by a thread that polls a thousand times a
second; if the root computes too, both compete for its interpreter. Here each rank has one task in advance, as the processes
of ProcessPoolExecutor have, so the thread that sends and receives needs to poll only rarely.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

TASKS_A_RANK = 2  # the one that it works on, and the next
LONGEST_PAUSE = 0.05  # seconds between two looks at what has come
NO_MORE = None


class MpiPool(Executor):
    """On the root: an executor on all other ranks, each of which is in `serve`.

    Work, arguments and results are pickled. A rank's exception is raised here by the future, with its traceback as a note.
    """

    def __init__(self, communicator: Any) -> None:
        self._communicator = communicator
        self._waiting: deque[tuple[Future[Any], Any]] = deque()
        self._sent: dict[int, deque[tuple[Future[Any], Any]]] = {r: deque() for r in range(1, communicator.Get_size())}
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="MPI", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """As of `concurrent.futures`."""
        if not self._thread.is_alive():
            raise RuntimeError("the pool of MPI ranks is closed, or MPI has failed")
        future: Future[Any] = Future()
        self._waiting.append((future, (work, arguments, named)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Finish what is not cancelled and release the ranks. Always waits: only one thread at a time may use MPI."""
        if cancel_futures:
            for future, _ in list(self._waiting):
                future.cancel()
        self._is_closing = True
        self._thread.join()

    def _run(self) -> None:
        try:
            pause = Pause()
            while not self._is_closing or self._waiting or any(self._sent.values()):
                if not (self._send() or self._receive()):
                    pause.sleep()
                else:
                    pause = Pause()
            for rank in self._sent:
                self._communicator.send(NO_MORE, rank)
        except Exception as error:  # of MPI: nothing can come any more
            for future, _ in [*self._waiting, *(pair for sent in self._sent.values() for pair in sent)]:
                if not future.cancel():
                    future.set_exception(error)

    def _send(self) -> bool:
        """Send the next task, if there is one, to the rank with the fewest tasks."""
        rank = min(self._sent, key=lambda rank: len(self._sent[rank]))
        if not self._waiting or len(self._sent[rank]) == TASKS_A_RANK:
            return False
        future, task = self._waiting.popleft()
        if future.set_running_or_notify_cancel():
            self._sent[rank].append((future, self._communicator.isend(task, rank)))
        return True

    def _receive(self) -> bool:
        """Receive a result, if one has arrived. A rank does its tasks in order."""
        found = [rank for rank, sent in self._sent.items() if sent and self._communicator.iprobe(rank)]
        for rank in found:
            has_worked, result = self._communicator.recv(None, rank)
            future, request = self._sent[rank].popleft()
            request.wait()
            if has_worked:
                future.set_result(result)
            else:
                future.set_exception(result)
        return bool(found)


def serve(communicator: Any) -> None:
    """On a rank that is not the root: do what its MpiPool sends, until that is shut down."""
    while True:
        pause = Pause()
        while not communicator.iprobe(0):  # a blocking recv would keep a core busy
            pause.sleep()
        try:
            if (task := communicator.recv(None, 0)) is NO_MORE:
                return
            work, arguments, named = task
            answer = True, work(*arguments, **named)
        except BaseException as error:
            error.add_note(f"on rank {communicator.Get_rank()} of a team:\n{traceback.format_exc()}")
            answer = False, error
        communicator.send(answer, 0)


class Pause:
    """A pause between polls that grows from 0.1 ms to LONGEST_PAUSE."""

    def __init__(self) -> None:
        self._seconds = 1e-4

    def sleep(self) -> None:
        """Wait."""
        time.sleep(self._seconds)
        self._seconds = min(LONGEST_PAUSE, 1.5 * self._seconds)
