"""The operator's look at a step's data: the rows that were trained, in words, on real shards."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ernie_m.base.config import to_mapping
from ernie_m.base.files import sha256_of
from ernie_m.corpus.folder import MANIFEST_FILE, CorpusFolder
from ernie_m.corpus.vocabulary import Vocabulary
from ernie_m.rows.dataloader import DataConfig, PretrainingData
from ernie_m.rows.schedule import Schedule, StageConfig
from ernie_m.runs.run_folder import RunFolder
from ernie_m.runs.skip_steps import SkipSteps
from ernie_m.training.engine import BatchConfig
from ernie_m.training.recipe import TrainingConfig
from tests.integration.scripts import run_script

CONFIG = TrainingConfig(
    stages=(StageConfig(steps=4, rows={"MMLM": 1, "CAMLM": 1}), StageConfig(steps=4, rows={"TLM": 1, "BTMLM": 1})),
    seed=5,
    data=DataConfig(sequence_length=128),
    batch=BatchConfig(rows_per_step=8, micro_batch_rows=2),
)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder as its start leaves it: there is no checkpoint yet."""
    folder = RunFolder(tmp_path_factory.mktemp("inspected"))
    identity = {"folder": str(data), "manifest_sha256": sha256_of(data / MANIFEST_FILE)}
    folder.start(to_mapping(CONFIG) | {"data_identity": identity}, from_scratch=False)
    return folder.path


def inspected(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_script("launcher/inspect_step.py", *arguments)


def test_a_step_is_shown_with_the_text_that_was_trained(run: Path, data: Path, tmp_path: Path) -> None:
    shown = inspected("--run", run, "--step", 6, "--decode", "--output", tmp_path / "rows.json")
    assert shown.returncode == 0, shown.stderr
    trained = PretrainingData(CorpusFolder(data), CONFIG.data, Schedule(CONFIG.stages, 8), CONFIG.seed)
    vocabulary = Vocabulary(trained.folder.tokenizer_path)
    lines = shown.stdout.splitlines()
    assert lines[0] == f"step 6 of {run}: 8 rows; --skip_steps 6:7 leaves it out"
    assert [line.split()[0] for line in lines if not line.startswith(" ")][1:] == trained.sample_ids(6)
    texts = [line.strip().partition(": ") for line in lines if line.startswith("    ")]
    assert {language for language, _, _ in texts} <= set(trained.folder.manifest.languages)
    expected = [
        vocabulary.decode(ids.tolist())
        for address in trained.schedule.rows_of_step(6)
        for sentences in trained.sentences(address.objective, address.draw)
        for ids in sentences
    ]
    assert [text for _, _, text in texts] == expected
    assert sum(len(text.split()) > 3 for text in expected) > 20
    assert json.loads((tmp_path / "rows.json").read_text())["rows"] == trained.describe_step(6)


def test_rows_of_one_objective_and_steps_that_are_skipped_already(run: Path) -> None:
    SkipSteps.parse("2:4").write(run)
    shown = inspected("--run", run, "--step", 3, "--objective", "CAMLM")
    assert shown.returncode == 0, shown.stderr
    first, *rows = shown.stdout.splitlines()
    assert first.endswith("4 rows; skipped in this run")
    assert len(rows) == 4
    assert all(row.startswith("CAMLM/") and "  lines " in row for row in rows)


def test_what_cannot_be_shown_is_one_clear_line(run: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / MANIFEST_FILE).write_text("{}")
    for arguments, message in (
        (("--run", run, "--step", 8), "--step 8: expected 0 .. 7"),
        (("--run", run, "--step", "last"), "--step last: expected a whole number from 0"),
        (("--run", run, "--step", 0, "--objective", "CLM"), "--objective CLM: expected one of MMLM, TLM, CAMLM, BTMLM"),
        (("--run", data, "--step", 0), "not a run folder"),
        (("--run", run, "--step", 0, "--data", tmp_path), "not the data this run was started on"),
        (("--run", run, "--step", 0, "--data", run), "name the run's data folder with --data"),
        (("--run", run, "--step", 0, "--output", tmp_path / "no" / "rows.json"), "does not exist; create it first"),
        (("--run", run, "--step", 0, "--output", tmp_path / MANIFEST_FILE), "there already, and not of run"),
    ):
        refused = inspected(*arguments)
        assert refused.returncode == 2
        assert message in refused.stderr
        assert refused.stderr.count("\n") == 1
    taught = inspected("--help")
    assert "--decode" in taught.stdout + taught.stderr
