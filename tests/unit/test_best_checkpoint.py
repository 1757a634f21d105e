"""Which checkpoint is the best: by held-out pairs where pairs were trained, else by round trips that are no copies."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from ernie_m.base.console import InputError
from ernie_m.base.run_files import METRICS_FILE
from ernie_m.runs.best_checkpoint import best_folder, best_step
from ernie_m.runs.checkpoint import folder_name
from ernie_m.runs.checkpoint_commit import Retention


def run_with(folder: Path, *lines: dict[str, float]) -> Path:
    (folder / METRICS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def trip(step: int, loss: float, copied: float) -> dict[str, float]:
    return {"step": step, "round_trip_loss": loss, "round_trip_copied": copied, "held_out_loss/MT": 10.0 - step}


def test_without_pairs_it_is_the_best_round_trip_of_those_that_do_not_copy(tmp_path: Path) -> None:
    run = run_with(tmp_path, trip(1, 3.0, 0.1), trip(2, 1.0, 0.9), trip(3, 2.0, 0.2), trip(4, 2.5, 0.1), trip(5, 0.5, 0.0))
    assert best_step(run, [1, 2, 3, 4]) == 3, "2 copies, 5 has no checkpoint, and the loss of pairs is not looked at"
    assert best_step(run, [2]) == 2, "nothing else is there"


def test_with_pairs_it_is_the_one_with_the_lowest_loss_of_held_out_pairs(tmp_path: Path) -> None:
    run = run_with(tmp_path, {"step": 1, "loss/MT": 4.0}, trip(1, 1.0, 0.1), trip(2, 3.0, 0.1))
    assert best_step(run, [1, 2]) == 2


def test_what_was_not_measured_cannot_be_chosen(tmp_path: Path) -> None:
    run = run_with(tmp_path, {"step": 5, "loss/BT": 4.0}, trip(7, 1.0, 0.1))
    with pytest.raises(InputError, match=r"--checkpoint best: .* has no round_trip_loss at the steps .* name one of 5, 10"):
        best_step(run, [10, 5])


def test_a_run_that_does_not_translate_has_no_best_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--checkpoint best: of runs that translate, and \S* does not; name one of 5, 10"):
        best_step(run_with(tmp_path, {"step": 5, "loss/MMLM": 4.0}), [10, 5])


def test_the_best_checkpoint_stays_beside_the_newest_ones(tmp_path: Path) -> None:
    run = run_with(tmp_path, trip(1, 3.0, 0.1), trip(2, 1.0, 0.1), trip(3, 2.0, 0.2), trip(4, 2.5, 0.1))
    folders = [tmp_path / folder_name(step) for step in (4, 3, 2, 1)]
    assert Retention(1, best=partial(best_folder, run)).superfluous(folders) == [folders[1], folders[3]]
    assert Retention(1).superfluous(folders) == folders[1:]
    assert Retention(1, best=partial(best_folder, tmp_path / "none")).superfluous(folders) == folders[1:]
