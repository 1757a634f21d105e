"""Requests to stop: caught at any moment, obeyed only when somebody polls."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ernie_m.base import interruption
from ernie_m.base.console import InputError
from ernie_m.base.interruption import SIGNALS, Interruption, StopRequest, seconds_of
from ernie_m.base.run_files import STOP_FILE


@pytest.fixture(autouse=True)
def _handlers_restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_signal_is_a_request_and_nothing_else(number: signal.Signals) -> None:
    ours = Interruption()
    ours.listen()
    assert ours.request() is None
    os.kill(os.getpid(), number)
    assert ours.request() == StopRequest("signal", f"{number.name} was received")
    assert ours.request() is not None, "it stays one"


WORKER = """
import sys, time
from ernie_m.base.interruption import Interruption
ours = Interruption()
ours.listen()
print("listening", flush=True)
started = time.monotonic()
while (request := ours.request()) is None:
    time.sleep(0.005)  # a signal interrupts it; the step goes on
print("step finished,", request.message, flush=True)
raise SystemExit(75)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_process_ends_its_step_first_and_by_itself(number: signal.Signals) -> None:
    worker = subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "listening\n"
    for _ in range(3):  # a launcher may send it again
        worker.send_signal(number)
    output, _ = worker.communicate(timeout=30)
    assert output == f"step finished, {number.name} was received\n"
    assert worker.returncode == 75


def test_time_is_up_after_exit_after_and_not_before() -> None:
    assert Interruption(exit_after=600).request() is None
    ours = Interruption(exit_after=0.05)
    time.sleep(0.06)
    request = ours.request()
    assert request is not None
    assert request.kind == "time"
    assert request.message == "--exit_after 0 s is over"


def test_a_signal_counts_more_than_the_time() -> None:
    """The supervisor starts again after "time"; a person who sends a signal is told so."""
    ours = Interruption(exit_after=0)
    ours.listen()
    os.kill(os.getpid(), signal.SIGTERM)
    request = ours.request()
    assert request is not None
    assert request.kind == "signal"


def test_the_stop_file_stops_once_and_is_looked_for_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "LOOK_EVERY", 600.0)
    ours = Interruption()
    (tmp_path / STOP_FILE).touch()
    assert ours.request() is None, "nobody watches yet"
    (tmp_path / STOP_FILE).unlink()
    ours.watch(tmp_path)
    assert ours.request() is None
    (tmp_path / STOP_FILE).touch()
    assert ours.request() is None, "a shared folder is not asked at every micro-batch"
    monkeypatch.setattr(interruption, "LOOK_EVERY", 0.0)
    ours = Interruption()
    ours.watch(tmp_path)
    request = ours.request()
    assert request == StopRequest("signal", f"{tmp_path / STOP_FILE} was found")
    ours.obeyed()
    assert list(tmp_path.iterdir()) == []
    ours.obeyed()
    assert ours.request() == request, "this process still stops"
    again = Interruption()
    again.watch(tmp_path)
    assert again.request() is None, "the next start does not"


@pytest.mark.parametrize("made", [Path.mkdir, lambda path: path.write_bytes(b"\xff")], ids=["a folder", "not text"])
def test_whatever_has_the_name_of_the_stop_file_stops(made: Callable[[Path], object], tmp_path: Path) -> None:
    """A request that cannot be read must not end the training without a save."""
    made(tmp_path / STOP_FILE)
    ours = Interruption()
    ours.watch(tmp_path)
    assert getattr(ours.request(), "kind", None) == "signal"
    ours.obeyed()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("55m", 3300), ("1h30m", 5400), ("90s", 90), ("90", 90), ("2h", 7200), ("1h2m3s", 3723), ("1h5s", 3605), ("0h1s", 1)],
)
def test_times_are_read(text: str, seconds: int) -> None:
    assert seconds_of(text, "--exit_after") == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "-5", "soon", "5x", "m", "5m1h", "1.5h", "5 m", "55m ", "²"])
def test_what_is_no_time_is_one_clear_line(text: str) -> None:
    with pytest.raises(InputError, match=r"--exit_after: .*; expected a time such as 55m, 1h30m or 90s"):
        seconds_of(text, "--exit_after")
