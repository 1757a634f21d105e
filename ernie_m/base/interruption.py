"""Requests to stop: a signal, a time limit, a file, or an output that nobody reads any more. The training polls them.

A signal handler only notes the request. DeepSpeed's launcher sends SIGTERM to one rank after the other, half a minute
apart; so the ranks must agree (ernie_m.training.training_loop) at which step all of them save and stop.
"""

from __future__ import annotations

import re
import select
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from ernie_m.base.console import InputError, SurvivingOutput
from ernie_m.base.files import remove
from ernie_m.base.run_files import STOP_FILE

LOOK_EVERY = 1.0  # seconds between looks at the shared folder
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_DURATION = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?")


@dataclass(frozen=True)
class StopRequest:
    """Why to stop: `kind` is written to last_stop.json, `message` is for people."""

    kind: Literal["signal", "time"]
    message: str


class Interruption:
    """What asks this process to stop. Call `listen` early: before it, a signal ends the process at once."""

    def __init__(self, exit_after: float | None = None) -> None:
        """`exit_after`: seconds from now."""
        self._ends = time.monotonic() + exit_after if exit_after is not None else None
        self._exit_after = exit_after
        self._signal: StopRequest | None = None
        self._stop_file: Path | None = None
        self._look_again = 0.0

    def listen(self) -> None:
        """Catch the signals from here on."""
        for number in SIGNALS:
            signal.signal(number, self._caught)
        sys.stdout, sys.stderr = SurvivingOutput(sys.stdout), SurvivingOutput(sys.stderr)

    def watch(self, run: Path) -> None:
        """Also look for RUN/stop_requested, which reaches ranks on other hosts; a signal does not."""
        self._stop_file = run / STOP_FILE

    def request(self) -> StopRequest | None:
        """Why this process was asked to stop, or None."""
        now = time.monotonic()
        if self._signal is None and now >= self._look_again:
            self._look_again = now + LOOK_EVERY
            if _is_abandoned(1):
                self._signal = StopRequest("signal", "the launcher that reads this rank's output is gone")
            if self._stop_file is not None and self._stop_file.exists():
                self._signal = StopRequest("signal", _words_in(self._stop_file) or f"{self._stop_file} was found")
        if self._signal is None and self._ends is not None and now >= self._ends:
            return StopRequest("time", f"--exit_after {self._exit_after:.0f} s is over")
        return self._signal

    def obeyed(self) -> None:
        """The stop is done: remove the file, or it would stop the next start too."""
        if self._stop_file is not None:
            remove(self._stop_file)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        self._signal = StopRequest("signal", f"{signal.Signals(number).name} was received")


def _words_in(path: Path) -> str:
    """In one line; "" for what cannot be read: another user's file asks to stop as well as one of ours."""
    with suppress(OSError):
        return " ".join(path.read_text(encoding="utf-8", errors="replace").split())
    return ""


def _is_abandoned(descriptor: int) -> bool:
    """Whether this is a pipe whose reader is gone.

    That is how a rank on another host learns that its launcher was stopped.
    """
    poll = select.poll()
    poll.register(descriptor, 0)  # errors are always told
    return any(events & select.POLLERR for _, events in poll.poll(0))


def seconds_of(text: str, option: str) -> float:
    """'1h30m', '55m', '90s' or '90' (seconds) -> seconds; raises InputError for anything else."""
    found = _DURATION.fullmatch(f"{text}s" if text.isdecimal() else text)
    parts = [int(part or 0) for part in found.groups()] if found else []
    if not any(parts):
        raise InputError(f"{option}: {text!r}; expected a time such as 55m, 1h30m or 90s")
    return float(parts[0] * 3600 + parts[1] * 60 + parts[2])
