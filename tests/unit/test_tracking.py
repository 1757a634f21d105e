"""A run that was interrupted has one curve, in TensorBoard's own event files and in W&B's."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ernie_m.base.console import InputError
from ernie_m.base.run_files import WANDB_FILE
from ernie_m.training.tracking import KINDS, Tracker, WandbTracker


def lines_of(steps: range, factor: float = 1.0) -> list[dict[str, Any]]:
    return [{"step": step, "loss/MMLM": factor / step, "loss_scale": None} for step in steps]


def write_two_sessions(kind: str, run: Path) -> None:
    """Killed behind step 8, with a checkpoint of step 5; the second session sees other losses, to tell them apart."""
    first = Tracker.open(kind, run, {"seed": 7}, 0)
    first.write(lines_of(range(1, 9)))
    first.write([{"step": 8, "cross_lingual_gain": 0.5}])
    first.close()
    second = Tracker.open(kind, run, {"seed": 7}, 5)
    second.write(lines_of(range(6, 12), factor=2.0))
    second.close()


def test_two_sessions_are_one_TensorBoard_curve(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_two_sessions("tensorboard", tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars("loss/MMLM")]
    assert shown == [(s, pytest.approx((1.0 if s <= 5 else 2.0) / s)) for s in range(1, 12)]
    assert sorted(events.Tags()["scalars"]) == ["cross_lingual_gain", "loss/MMLM"], "None is left out"
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: a LevelDB log behind a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    content, position, parts = path.read_bytes(), 7, b""
    while position + 7 <= len(content):
        if (left := 32768 - position % 32768) < 7:  # no header fits the rest of the block
            position += left
            continue
        length, kind = struct.unpack("<HB", content[position + 4 : position + 7])
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def wandb_sessions(run: Path) -> list[tuple[set[str], dict[int, dict[str, float]]]]:
    """Of each session in the order of starts: ids of its runs, and what was logged by step."""
    import wandb

    wandb.teardown()  # ends its service process, which writes the files behind our back
    sessions = []
    for path in sorted((run / "wandb").glob("*run-*/*.wandb"), key=lambda found: found.stat().st_mtime_ns):
        ids, steps = set(), {}
        for record in wandb_records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                ids.add((record.run.run_id, record.run.project, record.run.display_name))
            if kind == "history":
                items = {
                    (item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item
                }
                steps[int(items["_step"])] = {key: value for key, value in items.items() if not key.startswith("_")}
        sessions.append((ids, steps))
    return sessions


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """W&B writes into the run's folder alone."""
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb_config"))
    monkeypatch.delenv("WANDB_PROJECT", raising=False)


@pytest.mark.usefixtures("offline")
def test_two_sessions_are_one_run_at_WandB(tmp_path: Path) -> None:
    run = tmp_path / "exp7"
    run.mkdir()
    write_two_sessions("wandb", run)
    stored = json.loads((run / WANDB_FILE).read_text())
    (first_ids, first), (second_ids, second) = wandb_sessions(run)
    assert first_ids == second_ids == {(stored["id"], "ernie-m", "exp7")}
    curve = {s: values["loss/MMLM"] for s, values in {**first, **second}.items()}
    assert curve == {s: (1.0 if s <= 5 else 2.0) / s for s in range(1, 12)}, "the axis is the number of finished steps"
    assert first[8] == {"loss/MMLM": 1 / 8, "cross_lingual_gain": 0.5}, "lines of one step are one point"


@pytest.mark.usefixtures("offline")
def test_steps_that_WandB_has_already_are_not_sent_again(tmp_path: Path) -> None:
    """What it says it has is known only online: here it is told."""
    tracker = Tracker.open("wandb", tmp_path, {}, 5)
    assert isinstance(tracker, WandbTracker)
    assert tracker._first_step == 0
    tracker._first_step = tracker._newest = 9
    tracker.write(lines_of(range(6, 12)))
    tracker.close()
    ((_, steps),) = wandb_sessions(tmp_path)
    assert sorted(steps) == [9, 10, 11]


@pytest.mark.usefixtures("offline")
def test_what_comes_late_is_shown_at_WandBs_newest_step(tmp_path: Path) -> None:
    """A save in the background tells of itself when training is further."""
    tracker = Tracker.open("wandb", tmp_path, {}, 0)
    tracker.write([*lines_of(range(1, 5)), {"step": 2, "save_seconds": 1.5}])
    tracker.write(lines_of(range(5, 6)))
    tracker.close()
    ((_, steps),) = wandb_sessions(tmp_path)
    assert sorted(steps) == [1, 2, 3, 4, 5]
    assert steps[4] == {"loss/MMLM": 1 / 4, "save_seconds": 1.5}


@pytest.mark.usefixtures("offline")
def test_the_project_is_the_one_of_the_first_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    Tracker.open("wandb", tmp_path, {}, 0).close()
    monkeypatch.setenv("WANDB_PROJECT", "another")
    Tracker.open("wandb", tmp_path, {}, 0).close()
    (first, _), (second, _) = wandb_sessions(tmp_path)
    assert first == second
    assert {project for _, project, _ in first} == {"mine"}


@pytest.mark.usefixtures("offline")
def test_a_broken_memory_of_the_run_is_an_error_never_another_run(tmp_path: Path) -> None:
    for content in ("", "[]", '{"id": "x"}'):
        (tmp_path / WANDB_FILE).write_text(content)
        with pytest.raises(InputError, match=r"wandb.json: expected .*delete it to begin another"):
            Tracker.open("wandb", tmp_path, {}, 0)


@pytest.mark.parametrize(("kind", "package"), [("tensorboard", "tensorboard"), ("wandb", "wandb")])
def test_a_missing_package_is_one_line_with_the_command(tmp_path: Path, kind: str, package: str) -> None:
    """In a fresh process: whether it is installed here does not matter."""
    program = (
        f"import sys; sys.modules[{package!r}] = None; from pathlib import Path; "
        "from ernie_m.base.console import run_cleanly; "
        "from ernie_m.training.tracking import Tracker; "
        f"run_cleanly(lambda: Tracker.open({kind!r}, Path({str(tmp_path)!r}), {{}}, 0))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert f"is not installed; pip install {package}" in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_another_kind_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tracker 'mlflow'; expected one of " + ", ".join(KINDS)):
        Tracker.open("mlflow", tmp_path, {}, 0)
