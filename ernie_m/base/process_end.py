"""What a process leaves behind when it is ended: nothing half-made after a SIGTERM, no process of its own after a kill -9.

    python -m ernie_m.base.process_end PARENT COMMAND [WORD ...]

runs a command in a group of processes that is its own, and asks all of them to stop when the process PARENT is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)
"""What ends a process that does not listen to it."""


class _CleanEnd:
    """The blocks of this process that clean up behind themselves; see `clean_end`."""

    def __init__(self) -> None:
        self._open = 0
        self._received: int | None = None

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():  # signals reach no other
            self._open += 1
            if self._open == 1:
                _replace(signal.SIG_DFL, self._raise)

    def __exit__(self, *error: object) -> None:
        if threading.current_thread() is threading.main_thread():
            self._open -= 1
            if self._open == 0:
                _replace(self._raise, signal.SIG_DFL)
                if self._received is not None:
                    os.kill(os.getpid(), self._received)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if self._received is None:  # a second one must not end the cleaning up
            self._received = number
            raise SystemExit(128 + number)


clean_end = _CleanEnd()
"""A context: in `with clean_end`, a signal that would end this process raises SystemExit, so that each `finally` is reached.

Behind the outermost block the signal ends it. A handler that somebody has set stays.
"""


def _replace(old: object, new: object) -> None:
    for number in ENDING:
        if signal.getsignal(number) == old:
            signal.signal(number, new)  # type: ignore[arg-type]


def end_with_parent(parent: int, number: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent, of that id, dies, however it does; on Linux alone."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, number)
        if os.getppid() != parent:  # it died before the request
            os.kill(os.getpid(), number)


def ending_with_us(command: Sequence[str]) -> list[str]:
    """The command, to be started in a new session: all of its processes are asked to stop when this one is gone."""
    return [sys.executable, "-m", __name__, str(os.getpid()), *command]


def run_below(command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Run a command to its end; its exit code. However this process ends before, all that the command started is stopped."""
    with subprocess.Popen(ending_with_us(command), env=environment, start_new_session=True) as child:
        try:
            return child.wait()
        except BaseException:  # Ctrl-C, which reaches this session alone
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
            child.wait()
            raise


def _run(parent: int, command: Sequence[str]) -> int:
    def pass_on(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        os.killpg(0, number)

    child = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, pass_on)
    end_with_parent(parent, signal.SIGTERM)
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(_run(int(sys.argv[1]), sys.argv[2:]))
