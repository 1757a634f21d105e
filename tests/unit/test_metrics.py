"""Metrics survive kills and resumes, and their names come from the table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ernie_m.base.run_files import METRICS_FILE
from ernie_m.runs.metrics import ConsoleLine, LineLog, draw_curves, mean_losses, read_lines, read_metrics


def lines_of(*steps: int) -> list[dict[str, float]]:
    return [{"step": step, "loss/MMLM": 1.0 / step} for step in steps]


def logged(folder: Path, resume_step: int, *steps: int) -> None:
    log = LineLog(folder / METRICS_FILE, resume_step)
    log.write(lines_of(*steps))
    log.close()


def test_resume_drops_the_lines_behind_the_checkpoint(tmp_path: Path) -> None:
    logged(tmp_path, 0, 1, 2, 3, 4, 5)
    logged(tmp_path, 3, 4, 5, 6)
    assert read_metrics(tmp_path) == lines_of(1, 2, 3, 4, 5, 6)
    logged(tmp_path, 0)
    assert read_metrics(tmp_path) == []


def test_a_torn_last_line_is_left_out_and_overwritten(tmp_path: Path) -> None:
    logged(tmp_path, 0, 1, 2, 3)
    path = tmp_path / METRICS_FILE
    path.write_bytes(path.read_bytes()[:-7])
    assert read_metrics(tmp_path) == lines_of(1, 2)
    logged(tmp_path, 3, 4)
    assert read_metrics(tmp_path) == lines_of(1, 2, 4)
    assert [json.loads(text)["step"] for text in path.read_text().splitlines()] == [1, 2, 4]


@pytest.mark.parametrize("wrong", ['"high"', "[1.5]", '{"mean": 1.5}'])
@pytest.mark.parametrize("key", ["loss/CAMLM", "cross_lingual_gain", "tokens"])
def test_a_line_with_a_figure_that_is_no_number_is_left_out(tmp_path: Path, key: str, wrong: str) -> None:
    good = [{"step": step, "loss/CAMLM": 2.0, "cross_lingual_gain": None} for step in (1, 3)]
    texts = [json.dumps(good[0]), f'{{"step": 2, "{key}": {wrong}}}', json.dumps(good[1])]
    (tmp_path / METRICS_FILE).write_text("\n".join(texts) + "\n")
    assert read_metrics(tmp_path) == good
    assert draw_curves(tmp_path).is_file()


def test_lines_are_on_disk_at_once(tmp_path: Path) -> None:
    log = LineLog(tmp_path / METRICS_FILE, 0)
    log.write(lines_of(1))
    assert read_metrics(tmp_path) == lines_of(1)
    log.close()


def test_numbers_that_are_not_finite_are_null_and_the_file_stays_json(tmp_path: Path) -> None:
    log = LineLog(tmp_path / "spikes.jsonl", 0)
    log.write([{"step": 1, "loss": float("nan"), "norm": float("inf"), "rows": ["MMLM/en/00000001"], "none": None}])
    log.sync()
    log.close()
    text = (tmp_path / "spikes.jsonl").read_text()
    assert "NaN" not in text
    expected = {"step": 1, "loss": None, "norm": None, "rows": ["MMLM/en/00000001"], "none": None}
    assert read_lines(tmp_path / "spikes.jsonl") == [expected]


def test_a_folder_without_metrics_has_none(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


def test_means_are_over_tokens_not_over_means() -> None:
    names = ["MMLM/en", "MMLM/sw", "CAMLM/de-en", "CAMLM/en-fr"]
    losses = mean_losses(names, [20.0, 9.0, 6.0, 0.0], [10, 1, 2, 0])
    assert losses == {
        "loss/MMLM": 29 / 11,
        "loss/MMLM/en": 2.0,
        "loss/MMLM/sw": 9.0,
        "loss/CAMLM": 3.0,
        "loss/CAMLM/de-en": 3.0,
    }
    with pytest.raises(ValueError, match="zip"):
        mean_losses(names, [1.0], [1])


NUMBERS = {
    "tokens_per_second": 12345.6,
    "mfu": 0.4123,
    "padding_share": 0.0211,
    "time_share/generation": 0.0873,
    "time_share/loading": 0.0006,
    "time_share/saving": 0.00049,
    "time_share/evaluation": 0.0,
    "slowest_loading": 0.9,
}


def test_the_console_line_says_how_far_and_shows_whole_objectives_alone() -> None:
    console = ConsoleLine(num_steps=200, first_step=100, started=0.0)
    line = console.format(150, {"loss/CAMLM": 3.25, "loss/CAMLM/de-en": 9.0}, 1e-4, NUMBERS)
    assert line.startswith("step 150/200 (75 %)  CAMLM 3.250  lr 1.00e-04  12,346 tokens/s  MFU 41.2 %  padding 2.1 %  ")
    assert "de-en" not in line


def test_the_console_line_says_where_time_went_if_it_went_there() -> None:
    line = ConsoleLine(num_steps=200, first_step=100, started=0.0).format(150, {}, 1e-4, NUMBERS)
    assert "  padding 2.1 %  generation 8.7 %  loading 0.1 %  ETA " in line


@pytest.mark.parametrize("with_gain", [False, True])
def test_curves_are_drawn(tmp_path: Path, with_gain: bool) -> None:
    log = LineLog(tmp_path / METRICS_FILE, 0)
    log.write([{"step": i, "loss/MMLM": 1 / i, "loss/MMLM/en": 1 / i} for i in range(1, 120)])
    if with_gain:
        log.write([{"step": 100, "cross_lingual_gain": 0.5}])
    log.close()
    path = draw_curves(tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curves.png", "metrics.jsonl"]


def test_lines_that_find_no_room_wait_and_are_told(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for the full disk, in a process of its own."""
    program = (
        "import errno, resource, signal, sys; from pathlib import Path; import ernie_m.runs.metrics as m\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); m.DISK_IS_FULL = (errno.EFBIG,)\n"
        "log = m.LineLog(Path(sys.argv[1]), 0); log.write([{'step': 1}]); assert log.sync() is None\n"
        "hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]; resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))\n"
        "log.write([{'step': 2}]); log.write([{'step': 3}]); assert 'have no room' in log.sync()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard)); assert log.sync() is None; log.close()\n"
    )
    path = tmp_path / METRICS_FILE
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("alarm: ") == 1
    assert read_lines(path) == [{"step": 1}, {"step": 2}, {"step": 3}]
