"""Whether a call may go on in a run's folder."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ernie_m.base.config import read_yaml
from ernie_m.base.console import InputError, reason_of
from ernie_m.base.files import remove, sha256_of
from ernie_m.base.run_files import CONFIG_FILE, OF_TRAINING
from ernie_m.interop.build_model import load_weights
from ernie_m.models.model import Encoder
from ernie_m.runs import run_folder
from ernie_m.runs.checkpoint import read_manifest
from ernie_m.runs.checkpoint_store import CheckpointStore
from ernie_m.runs.data_identity import tokenizer_of
from ernie_m.runs.run_folder import RunFolder, identity_of, model_config

CONFIGURATION = {
    "seed": 0,
    "stages": [{"steps": 5, "rows": {"MMLM": 1.0}}],
    "optimizer": {"peak_learning_rate": 1e-4, "warmup_steps": 10},
    "batch": {"rows_per_step": 8, "micro_batch_rows": 2},
    "engine": {"zero_stage": 1, "precision": "auto"},
    "output": {"log_every": 10},
    "model": {"num_layers": 2, "hidden_size": 8, "num_heads": 2, "ffn_size": 16, "vocab_size": 50, "num_languages": 3},
    "data": {"sequence_length": 128},
    "data_identity": {"folder": "/data/one", "manifest_sha256": "aa", "tokenizer_sha256": "bb", "languages": ["de", "en"]},
}


def changed(section: str | None, **values: object) -> dict:
    if section is None:
        return CONFIGURATION | values
    return CONFIGURATION | {section: CONFIGURATION[section] | values}  # type: ignore[operator]


FREELY_CHANGED = (
    changed("output", log_every=1, save_every=7),
    changed("data_identity", folder="/moved/elsewhere"),
    changed("engine", precision="bf16"),
    changed("engine", zero_stage=3),
    changed("batch", micro_batch_rows=1),
    CONFIGURATION | {"guards": {"max_skipped_updates": 3}},
)


@pytest.fixture
def started(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.check(CONFIGURATION)
    with folder.locked():
        folder.start(CONFIGURATION, from_scratch=False)
    return folder


def test_a_new_or_empty_folder_may_be_used(tmp_path: Path) -> None:
    RunFolder(tmp_path / "new").check(CONFIGURATION)
    RunFolder(tmp_path).check(CONFIGURATION)


def test_somebody_elses_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    for from_scratch in (False, True):
        with pytest.raises(
            InputError, match=r"not empty and not a run folder \(no config.yaml of ours\); choose another --run"
        ):
            RunFolder(tmp_path).check(CONFIGURATION, from_scratch)
    (tmp_path / "config.yaml").write_text("somebody: else\n")
    with pytest.raises(InputError, match="not a run folder"):
        RunFolder(tmp_path).check(CONFIGURATION, from_scratch=True)


def test_torn_settings_are_named_as_such(started: RunFolder) -> None:
    path = started.path / "config.yaml"
    path.write_text(path.read_text().partition("data_identity")[0])
    with pytest.raises(InputError, match=r"not a run folder \(config\.yaml lacks data_identity: incomplete"):
        started.check(CONFIGURATION)


def test_from_scratch_may_change_the_configuration(started: RunFolder) -> None:
    started.check(changed(None, seed=1), from_scratch=True)


def test_the_same_configuration_may_go_on(started: RunFolder) -> None:
    assert read_yaml(started.path / "config.yaml") == CONFIGURATION
    started.check(CONFIGURATION)
    for free in FREELY_CHANGED:
        started.check(free)
        assert identity_of(free) == identity_of(CONFIGURATION), "its checkpoints are this run's"


@pytest.mark.parametrize(
    ("present", "difference"),
    [
        (changed("optimizer", peak_learning_rate=2e-4), "optimizer.peak_learning_rate: 0.0001 -> 0.0002"),
        (changed(None, seed=1), "seed: 0 -> 1"),
        (changed("data_identity", tokenizer_sha256="cc"), "data_identity.tokenizer_sha256: 'bb' -> 'cc'"),
        (changed("data_identity", manifest_sha256="cc"), "data_identity.manifest_sha256: 'aa' -> 'cc'"),
        (changed(None, stages=[{"steps": 6, "rows": {"MMLM": 1.0}}]), r"stages: .*'steps': 5.*'steps': 6"),
        (changed("model", dropout=0.5), "model.dropout: None -> 0.5"),
        (changed("batch", rows_per_step=16), "batch.rows_per_step: 8 -> 16"),
    ],
)
def test_another_configuration_is_refused_naming_what_differs(started: RunFolder, present: dict, difference: str) -> None:
    with pytest.raises(InputError, match=difference) as caught:
        started.check(present)
    assert "--from_scratch" in str(caught.value)
    assert str(started.path) in str(caught.value)
    assert "log_every" not in str(caught.value)
    assert identity_of(present) != identity_of(CONFIGURATION), "its checkpoints are not this run's"


def test_all_differences_are_named_at_once(started: RunFolder) -> None:
    with pytest.raises(InputError, match=r"optimizer\.warmup_steps: 10 -> 20; seed: 0 -> 3"):
        started.check(changed("optimizer", warmup_steps=20) | {"seed": 3})


def test_from_scratch_deletes_our_files_and_no_others(started: RunFolder) -> None:
    (started.checkpoints / "step_00000001").mkdir(parents=True)
    (started.path / "tensorboard").mkdir()
    for name in ("metrics.jsonl", "samples.jsonl", "spikes.jsonl", "skipped_steps.json", "incidents.jsonl", "wandb.json"):
        (started.path / name).write_text("x")
    for name in ("curves.png", "stop_requested", "notes.txt", "restarts.jsonl", ".lock"):
        (started.path / name).write_text("x")
    started.complete({"steps": 5})
    started.stopped("signal", 5, "SIGTERM was received")
    assert started.is_complete
    started.start(changed(None, seed=9), from_scratch=True)
    assert sorted(p.name for p in started.path.iterdir()) == [
        *(".lock", "checkpoints", "config.yaml", "notes.txt", "restarts.jsonl")
    ]
    assert not list(started.checkpoints.iterdir())
    assert read_yaml(started.path / "config.yaml")["seed"] == 9
    assert not started.is_complete


def with_checkpoints_behind_a_link(run: RunFolder, disk: Path) -> Path:
    """A trained run whose checkpoints lie on a bigger disk; the folder there."""
    far = disk / "far"
    (far / "step_00000005").mkdir(parents=True)
    (far / "step_00000005" / "rank_00000.safetensors").write_text("x")
    (far / "latest").write_text("step_00000005")
    run.checkpoints.rmdir()
    run.checkpoints.symlink_to(far)
    (run.path / "metrics.jsonl").write_text("x")
    run.complete({"steps": 5})
    return far


def test_from_scratch_empties_checkpoints_behind_a_link_and_keeps_the_link(started: RunFolder, tmp_path: Path) -> None:
    far = with_checkpoints_behind_a_link(started, tmp_path)
    (far / "elsewhere").symlink_to(tmp_path / "not ours")
    (tmp_path / "not ours").mkdir()
    (tmp_path / "not ours" / "kept").write_text("x")
    started.start(changed(None, seed=9), from_scratch=True)
    assert sorted(p.name for p in started.path.iterdir()) == [".lock", "checkpoints", "config.yaml"]
    assert started.checkpoints.readlink() == far
    assert list(far.iterdir()) == []
    assert (tmp_path / "not ours" / "kept").is_file(), "links in there are not followed"
    started.check(changed(None, seed=9))


def test_a_run_may_begin_with_a_link_to_an_empty_folder_for_its_checkpoints(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    (tmp_path / "far").mkdir()
    run.path.mkdir()
    run.checkpoints.symlink_to(tmp_path / "far")
    run.check(CONFIGURATION)
    (tmp_path / "far" / "somebody's").write_text("x")
    with pytest.raises(InputError, match="not empty and not a run folder"):
        run.check(CONFIGURATION)


def content_of(folder: Path) -> dict[str, str]:
    return {str(p): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_from_scratch_touches_nothing_when_the_disk_behind_the_link_is_gone(started: RunFolder, tmp_path: Path) -> None:
    far = with_checkpoints_behind_a_link(started, tmp_path)
    far.rename(tmp_path / "unmounted")
    before = content_of(tmp_path)
    with pytest.raises(InputError, match=r"checkpoints: a link to .*far, which is not there; bring its disk back"):
        started.start(changed(None, seed=9), from_scratch=True)
    assert content_of(tmp_path) == before


@pytest.mark.parametrize("place", ["run", "far", "far/step_00000005"])
def test_from_scratch_touches_nothing_when_a_part_is_read_only(started: RunFolder, tmp_path: Path, place: str) -> None:
    with_checkpoints_behind_a_link(started, tmp_path)
    before, folder = content_of(tmp_path), tmp_path / place
    with read_only(folder), pytest.raises(OSError, match="not writable") as caught:
        started.start(changed(None, seed=9), from_scratch=True)
    assert caught.value.filename == str(
        folder if place == "run" else started.checkpoints / folder.relative_to(tmp_path / "far")
    )
    assert content_of(tmp_path) == before
    started.start(changed(None, seed=9), from_scratch=True)
    assert not started.is_complete


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """By its mode, or for root, whom no mode stops, by a mount."""
    mount = [["mount", "--bind", str(folder), str(folder)], ["mount", "-o", "remount,bind,ro", str(folder)]]
    if os.geteuid() == 0:
        if any(subprocess.run(command, capture_output=True, check=False).returncode for command in mount):
            pytest.skip("root is stopped by no mode, and mounting is not allowed here")
        yield
        subprocess.run(["umount", str(folder)], check=True)
        return
    folder.chmod(0o555)
    yield
    folder.chmod(0o755)


def test_a_place_where_nothing_can_be_saved_is_refused_at_the_start(started: RunFolder) -> None:
    with read_only(started.checkpoints), pytest.raises(OSError, match="not writable") as caught:
        started.start(CONFIGURATION, from_scratch=False)
    assert caught.value.filename == str(started.checkpoints)
    started.checkpoints.rmdir()
    started.checkpoints.write_text("a file")
    with pytest.raises(FileExistsError) as there:
        started.start(CONFIGURATION, from_scratch=False)
    assert reason_of(there.value).startswith("a file is in the way, expected a folder")


@pytest.mark.parametrize("kill_at", range(1, len(OF_TRAINING)))
def test_from_scratch_killed_anywhere_leaves_a_run_folder(started: RunFolder, tmp_path: Path, kill_at: int) -> None:
    with_checkpoints_behind_a_link(started, tmp_path)
    child = os.fork()
    if child == 0:
        removed = []

        def remove_or_die(path: Path, keep_link: bool = False) -> None:
            removed.append(path)
            if len(removed) > kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            remove(path, keep_link)

        run_folder.remove = remove_or_die  # type: ignore[attr-defined]
        started.start(changed(None, seed=9), from_scratch=True)
        os._exit(0)
    os.waitpid(child, 0)
    again = RunFolder(started.path)
    assert not again.is_complete, "it never promises what is gone"
    if kill_at < len(OF_TRAINING) - 1:
        again.check(CONFIGURATION)
        with pytest.raises(InputError, match=r"seed: 0 -> 9.*--from_scratch"):
            again.check(changed(None, seed=9))
    again.check(changed(None, seed=9), from_scratch=True)
    again.start(changed(None, seed=9), from_scratch=True)
    assert sorted(p.name for p in started.path.iterdir()) == [".lock", "checkpoints", "config.yaml"]


def test_what_a_lock_and_a_supervisor_leave_is_no_reason_to_refuse_a_first_start(tmp_path: Path) -> None:
    for name in (".lock", "restarts.jsonl"):
        (tmp_path / name).write_text("x")
    RunFolder(tmp_path).check(CONFIGURATION)


def test_one_job_at_a_time_holds_the_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "new" / "run")
    with folder.locked() as is_owner:
        assert is_owner()
        folder.check(CONFIGURATION)
        with (
            pytest.raises(InputError, match=r"another job is at work in this run folder \(process \d+ on "),
            folder.locked(),
        ):
            pass
        assert is_owner()
    with folder.locked():
        pass


def test_why_a_job_ended_is_noted_until_the_next_start(started: RunFolder) -> None:
    started.stopped("time", 4, "--exit_after 10 s is over")
    note = json.loads((started.path / "last_stop.json").read_text())
    assert {key: note[key] for key in ("kind", "step", "message")} == {
        "kind": "time",
        "step": 4,
        "message": "--exit_after 10 s is over",
    }
    assert isinstance(note["time"], float)
    started.start(CONFIGURATION, from_scratch=False)
    assert not (started.path / "last_stop.json").exists()


def test_starting_again_keeps_what_is_there(started: RunFolder) -> None:
    (started.path / "metrics.jsonl").write_text("x")
    started.start(CONFIGURATION, from_scratch=False)
    assert (started.path / "metrics.jsonl").read_text() == "x"


def test_completion_is_a_marker_that_says_what_was_done(started: RunFolder) -> None:
    assert not started.is_complete
    started.complete({"steps": 5})
    assert started.completed() == {"steps": 5}


class Alone:
    rank, world_size = 0, 1

    def all_agree(self, mine: bool) -> bool:
        return mine

    def from_first(self, value: Any) -> Any:
        return value


def test_tools_read_configuration_and_newest_checkpoint(started: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no whole checkpoint under"):
        started.read()
    model = Encoder(model_config(CONFIGURATION))
    model.initialise(seed=1)
    weights = {f"{name}@0:weight": parameter.data.view(-1) for name, parameter in model.named_parameters()}
    CheckpointStore(started.checkpoints, Alone()).save(3, weights, {})
    configuration, checkpoint = started.read()
    assert (configuration, checkpoint.step) == (CONFIGURATION, 3)
    assert checkpoint == read_manifest(started.checkpoints / "step_00000003")
    saved = started.path / "config.yaml"
    for lacking in ("tokenizer_sha256", "data_identity", "model"):
        kept = saved.read_text()
        saved.write_text(kept.replace(f"{lacking}:", f"x_{lacking}:"))
        with pytest.raises(InputError, match=rf"config\.yaml: (data_identity\.)?{lacking}\S* is missing; expected"):
            started.read()
        saved.write_text(kept)
    shape = model_config(configuration)
    assert (shape.num_layers, shape.vocab, shape.num_languages) == (2, 50, 3)
    loaded = load_weights(started.path, configuration, checkpoint)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(InputError, match=r"layers\.2\..*on one side only"):
        load_weights(started.path, changed("model", num_layers=3), checkpoint)
    with pytest.raises(InputError, match="elements, expected"):
        load_weights(started.path, changed("model", ffn_size=24), checkpoint)
    with pytest.raises(InputError, match="not a run folder"):
        RunFolder(tmp_path / "elsewhere").read()


def test_the_tokenizer_must_be_the_one_of_the_run(tmp_path: Path) -> None:
    path = tmp_path / "sentencepiece.bpe.model"
    configuration = changed("data_identity", folder=str(tmp_path))
    with pytest.raises(InputError, match="no such file; name the run's data folder with --data"):
        tokenizer_of(configuration, None)
    path.write_bytes(b"model")
    with pytest.raises(InputError, match="not the tokenizer this run was trained with"):
        tokenizer_of(configuration, tmp_path)
    right = changed("data_identity", folder="/nowhere", tokenizer_sha256=sha256_of(path))
    assert tokenizer_of(right, tmp_path) == path


@pytest.mark.parametrize("content", ["", "done", "[]", "{}", '{"steps": null}', '{"steps": "all"}'])
def test_a_complete_file_that_no_training_wrote_is_named(content: str, started: RunFolder) -> None:
    started.complete({"steps": 5, "version": "1"})
    assert started.completed() == {"steps": 5, "version": "1"}
    (started.path / "COMPLETE").write_text(content)
    with pytest.raises(InputError, match=r"COMPLETE: not written by a finished training .*remove it"):
        started.completed()


@pytest.mark.parametrize("name", [".", "checkpoints"])
def test_a_link_that_leads_nowhere_is_refused_before_anything_is_made(name: str, tmp_path: Path) -> None:
    """A disk that is not mounted: mkdir would say that the folder exists, or the first save would fail hours later."""
    run = tmp_path / "run"
    link = run if name == "." else run / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / "big disk" / "run")
    with pytest.raises(InputError, match=r"a symbolic link to .*big disk/run, which is not there"):
        RunFolder(run).check(CONFIGURATION)
    assert link.is_symlink()


def test_a_run_killed_before_its_first_file_was_whole_may_be_started(tmp_path: Path) -> None:
    left = tmp_path / f".{CONFIG_FILE}.123.tmp"
    left.touch()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".latest.99.tmp").touch()
    (tmp_path / "checkpoints").rename(tmp_path.parent / f"{tmp_path.name}-checkpoints")
    RunFolder(tmp_path).check(CONFIGURATION)
    (tmp_path.parent / f"{tmp_path.name}-checkpoints").rename(tmp_path / "checkpoints")
    RunFolder(tmp_path).start(CONFIGURATION, from_scratch=False)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["checkpoints", CONFIG_FILE]
