"""A process that is ended leaves nothing half-made behind, and one that is killed no process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ernie_m.base.process_end import clean_end, run_below

AS_IN_A_TERMINAL = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
"""
"""Under nohup, or behind a shell's &, a process is born deaf to some signals."""
WRITER = f"""{AS_IN_A_TERMINAL}
import sys, time
from pathlib import Path
from ernie_m.base.files import folder_written_atomically, written_atomically
with folder_written_atomically(Path(sys.argv[1])) as folder, written_atomically(folder / "file") as file:
    file.write_text("half")
    print("open", flush=True)
    time.sleep(600)
"""
COMPARISON = """
import os, sys
from pathlib import Path
from ernie_m.ablation.jobs import Job, Jobs, Part
Jobs([Job("job", [Part("part", tuple(sys.argv[2:]))], Path(sys.argv[1]))], 1, os.environ).run()
"""
BELOW = f"""{AS_IN_A_TERMINAL}
import sys
from ernie_m.base.process_end import run_below
run_below(sys.argv[2:])
"""
CHILD = """
import os, subprocess, sys, time
below = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1] + ".aside", "w").write(f"{os.getpid()} {below.pid}")
os.rename(sys.argv[1] + ".aside", sys.argv[1])
time.sleep(600)
"""
PATIENCE = 60.0  # seconds


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_command_that_is_ended_by_a_signal_leaves_no_temporary_file_or_folder(
    tmp_path: Path, number: signal.Signals
) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "to")], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "open\n"
    assert len(list(tmp_path.rglob("*"))) == 2
    writer.send_signal(number)
    output, _ = writer.communicate(timeout=PATIENCE)
    assert (output, writer.returncode) == ("", -number), "as if nothing had listened"
    assert list(tmp_path.iterdir()) == []


def test_who_listens_to_signals_goes_on_doing_so_where_files_are_written() -> None:
    heard: list[int] = []
    others = signal.getsignal(signal.SIGHUP)
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with clean_end, clean_end:
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        ours = signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]
    assert ours is not before
    assert signal.getsignal(signal.SIGHUP) == others


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process of its parent's death, others do not")
@pytest.mark.parametrize(
    ("program", "number"),
    [(COMPARISON, signal.SIGKILL), *((BELOW, number) for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT))],
    ids=["comparison-SIGKILL", "below-SIGKILL", "below-SIGTERM", "below-SIGINT"],
)
def test_no_process_that_a_command_starts_outlives_it(program: str, number: signal.Signals, tmp_path: Path) -> None:
    """Nor what these have started, as a launcher its ranks."""
    listed = tmp_path / "listed"
    command = [sys.executable, "-c", CHILD, str(listed)]
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "log"), *command], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while not listed.is_file():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    below = psutil.Process(parent.pid).children(recursive=True)
    assert {int(word) for word in listed.read_text().split()} <= {process.pid for process in below}
    parent.send_signal(number)
    parent.wait(timeout=PATIENCE)
    _, alive = psutil.wait_procs(below, timeout=PATIENCE)
    for process in alive:
        process.kill()
    assert not alive


@pytest.mark.parametrize(
    ("ending", "code"), [("", 0), ("raise SystemExit(75)", 75), ("import os; os.kill(os.getpid(), 9)", 137)]
)
def test_a_command_that_is_run_below_gives_its_exit_code(ending: str, code: int) -> None:
    assert run_below([sys.executable, "-c", ending]) == code
