"""What a person sees: one line for a mistake, a reason for each choice, progress with an ETA."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from ernie_m.base.console import FIRST_SPEAKS, NEXT_SPEAKS, Choice, InputError, Progress, duration, fail, run_cleanly


def raising(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


OUT_OF_MEMORY = (
    "error: rank 0: out of memory ({}); take fewer rows at a time (batch.micro_batch_rows in pre-training, micro_batch in "
    "fine-tuning) or more memory\n"
)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("data: no\n   such folder"), 2, "error: data: no such folder\n"),
        (FileNotFoundError(2, "No such file or directory", "x.txt"), 3, "error: x.txt: No such file or directory\n"),
        (OSError(28, "No space left on device"), 3, "error: input/output: No space left on device\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (MemoryError(), 3, OUT_OF_MEMORY.format("MemoryError")),
        (
            RuntimeError("could not create a primitive"),
            3,
            OUT_OF_MEMORY.format("RuntimeError: could not create a primitive"),
        ),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(SystemExit) as caught:
        run_cleanly(raising(error))
    assert caught.value.code == code
    assert capsys.readouterr() == ("", line)


def test_with_several_ranks_the_first_speaks_first_unless_only_one_knows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher ends all ranks with the first that ends: a quick rank 1 must not silence rank 0.

    Who is not ended meanwhile met what rank 0 did not, as on a host without the data: it must not end without a word.
    """
    waited: list[float] = []
    monkeypatch.setattr("ernie_m.base.console.time.sleep", waited.append)
    monkeypatch.setattr("ernie_m.base.console.signal.signal", lambda *_: None)
    alone, both = "error: rank 3: broken shard\n", "error: broken shard\n"
    second = [FIRST_SPEAKS + NEXT_SPEAKS]
    cases: tuple[tuple[str, bool, list[float], str], ...] = (
        ("3", False, second, alone),
        ("3", True, [], alone),
        ("0", False, [], both),
    )
    monkeypatch.setenv("LOCAL_RANK", "1")
    for rank, only_here, seconds, line in cases:
        monkeypatch.setenv("RANK", rank)
        waited.clear()
        with pytest.raises(SystemExit) as caught:
            run_cleanly(raising(InputError("broken shard", only_here=only_here)))
        assert caught.value.code == 2
        assert waited == seconds
        assert capsys.readouterr().err == line


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SystemExit):
            run_cleanly(partial(folder.mkdir, parents=True, exist_ok=True))
        assert capsys.readouterr().err.startswith(f"error: {folder}: a file is in the way, expected a folder; ")


def test_our_own_mistakes_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_cleanly(lambda: 1 // 0)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        run_cleanly(raising(RuntimeError("a fault of ours")))


def test_success_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    run_cleanly(lambda: None)
    assert capsys.readouterr() == ("", "")


def test_fail_exits_with_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        fail("two\nlines", 7)
    assert caught.value.code == 7
    assert capsys.readouterr().err == "error: two lines\n"


def test_an_InputError_is_a_ValueError_and_a_choice_gives_its_reason() -> None:
    assert issubclass(InputError, ValueError)
    assert str(Choice("attention", "sdpa", "cpu device")) == "attention: sdpa (cpu device)"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-5, "0s"),
        (59.9, "59s"),
        (60, "1m00s"),
        (71, "1m11s"),
        (3599, "59m59s"),
        (3600, "1h00m"),
        (3700, "1h01m"),
        (360000, "100h00m"),
    ],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_prints_share_and_ETA_in_lines_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    progress = Progress("build", 200, "lines", stream, every=0.0)
    progress.advance(50)
    progress.advance(50, note="m.en")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("build: 100/200 lines (50 %), ETA ")
    assert lines[1].endswith("lines/s m.en")


def test_progress_knows_no_rate_from_the_first_count_which_holds_compiling_and_what_a_run_before_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter([0.0, 60.0, 62.0, 70.0, 72.0])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    stream = io.StringIO()
    progress = Progress("train", 1008, "cells", stream, every=0.0)
    for cells in (8, 200, 800):
        progress.advance(cells, note="en-br")
    progress.close()
    assert stream.getvalue().splitlines() == [
        "train: 8/1,008 cells (1 %) en-br",
        "train: 208/1,008 cells (21 %), ETA 8s, 100 cells/s en-br",
        "train: 1,008/1,008 cells (100 %), ETA 0s, 100 cells/s en-br",
        "train: 1,008/1,008 cells (100 %), ETA 0s, 14 cells/s",
    ]


def test_progress_is_silent_for_short_jobs_and_rewrites_its_line_on_a_terminal() -> None:
    quiet = io.StringIO()
    progress = Progress("build", None, "lines", quiet)
    progress.advance(10)
    progress.close()
    assert quiet.getvalue() == ""
    terminal = Terminal()
    progress = Progress("build", None, "lines", terminal)
    progress.advance(10)
    progress.close()
    assert terminal.getvalue().startswith("\r\x1b[Kbuild: 10 lines, 0s, ")
    assert terminal.getvalue().endswith("\n")
