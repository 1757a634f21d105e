"""Jobs of a comparison: done once, resumed, kept going beside one that fails, and stopped when asked to."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from ernie_m.ablation.jobs import Job, Jobs, Part, steps_done
from ernie_m.base.console import EXIT_STOPPED, InputError
from ernie_m.base.run_files import METRICS_FILE, STOP_FILE


def note(tmp_path: Path, word: str, what: str = "note", code: int = 0) -> Part:
    """A command that appends `word` to a file, and is done by its marker."""
    program = f"open({str(tmp_path / 'written')!r}, 'a').write({word!r} + '\\n'); raise SystemExit({code})"
    return Part(what, (sys.executable, "-c", program), tmp_path / f"{what}.done.json")


def do(tmp_path: Path, *jobs: list[Part], side_by_side: int = 1) -> Jobs:
    numbered = [Job(f"job{i}", list(parts), tmp_path / f"job{i}.log") for i, parts in enumerate(jobs)]
    made = Jobs(numbered, side_by_side, os.environ)
    made.run()
    return made


def written(tmp_path: Path) -> list[str]:
    path = tmp_path / "written"
    return path.read_text().split() if path.is_file() else []


def test_parts_run_in_order_and_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    chain = [note(tmp_path, "a", "first"), note(tmp_path, "b", "second")]
    do(tmp_path, chain)
    assert written(tmp_path) == ["a", "b"]
    do(tmp_path, chain)
    assert written(tmp_path) == ["a", "b"]


def test_another_command_is_not_done_and_what_comes_behind_it_is_done_anew(tmp_path: Path) -> None:
    do(tmp_path, [note(tmp_path, "a", "first"), note(tmp_path, "b", "second")])
    do(tmp_path, [note(tmp_path, "a2", "first"), note(tmp_path, "b", "second")])
    assert written(tmp_path) == ["a", "b", "a2", "b"]


def test_a_job_that_fails_is_named_with_its_log_and_the_others_go_on(tmp_path: Path) -> None:
    bad = Part("training", (sys.executable, "-c", "raise SystemExit('error: no such data')"), tmp_path / "bad.json")
    behind = note(tmp_path, "never", "behind")
    with pytest.raises(InputError, match=r"job0: training ended with exit code 1 \(error: no such data\); see .*job0\.log"):
        do(tmp_path, [bad, behind], [note(tmp_path, "good", "other")])
    assert written(tmp_path) == ["good"]
    assert not (tmp_path / "bad.json").exists()


def test_a_command_that_says_yes_but_is_not_complete_has_failed(tmp_path: Path) -> None:
    part = Part("training", (sys.executable, "-c", ""), judges_itself=lambda: False)
    with pytest.raises(InputError, match="job0: training ended with exit code 0"):
        do(tmp_path, [part])


def test_a_folder_left_by_a_killed_command_is_removed_before_it_starts_again(tmp_path: Path) -> None:
    left = tmp_path / "export"
    left.mkdir()
    (left / "half").write_text("")
    program = f"import os; os.mkdir({str(left)!r})"
    do(tmp_path, [Part("export", (sys.executable, "-c", program), tmp_path / "export.json", replaces=left)])
    assert list(left.iterdir()) == []


def test_so_many_jobs_are_at_work_at_once(tmp_path: Path) -> None:
    """Each waits for the other's file: one after the other they would wait in vain."""
    meet = (
        "import pathlib, sys, time\nmine, other = map(pathlib.Path, sys.argv[1:])\nmine.touch()\n"
        "ends = time.monotonic() + 20\nwhile not other.exists():\n    assert time.monotonic() < ends\n    time.sleep(0.01)\n"
    )
    paths = [str(tmp_path / "a"), str(tmp_path / "b")]
    parts = [
        Part("meet", (sys.executable, "-c", meet, *order), tmp_path / f"{i}.json")
        for i, order in enumerate((paths, paths[::-1]))
    ]
    do(tmp_path, parts[:1], parts[1:], side_by_side=2)


@pytest.mark.parametrize("code", [EXIT_STOPPED, 0])
def test_asked_to_stop_a_training_is_asked_through_its_folder_and_nothing_new_starts(tmp_path: Path, code: int) -> None:
    """Neither where it stops nor where it was just done."""
    run = tmp_path / "run"
    run.mkdir()
    train = f"import pathlib, time\nrun = pathlib.Path({str(run)!r})\n(run / 'started').touch()\n"
    train += f"while not (run / {STOP_FILE!r}).exists(): time.sleep(0.01)\n"
    stopping = threading.Event()
    command = (sys.executable, "-c", train + f"raise SystemExit({code})")
    part = Part("training", command, judges_itself=lambda: code == 0 and stopping.is_set(), run=run, num_steps=9)

    def stop() -> None:
        while not (run / "started").exists():  # by then the signal is listened to
            time.sleep(0.01)
        stopping.set()
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=stop, daemon=True).start()
    started = time.monotonic()
    with pytest.raises(SystemExit) as stopped:
        do(tmp_path, [part, note(tmp_path, "behind", "x")], [note(tmp_path, "next", "y")])
    assert stopped.value.code == EXIT_STOPPED
    assert time.monotonic() - started < 15
    assert written(tmp_path) == []
    assert not (run / STOP_FILE).exists()  # or the next start would stop at once
    assert signal.getsignal(signal.SIGTERM) == before


def test_progress_is_the_last_whole_line_that_names_a_step(tmp_path: Path) -> None:
    assert steps_done(None) == steps_done(tmp_path) == 0
    lines = [json.dumps({"step": n, "loss/MMLM": 1.0}) for n in (1, 2, 3)]
    (tmp_path / METRICS_FILE).write_text("\n".join(lines) + '\n{"step": 4, "lo')
    assert steps_done(tmp_path) == 3
