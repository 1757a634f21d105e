"""A model that translates, through the commands: trained on pairs, resumed bit for bit, translating."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from ernie_m.base.console import InputError
from ernie_m.base.files import sha256_of
from ernie_m.base.run_files import START_FILE
from ernie_m.commands.plan import plan
from ernie_m.commands.translate import translate
from ernie_m.corpus.any_vocabulary import open_vocabulary
from ernie_m.corpus.folder import HELD_OUT, CorpusFolder
from ernie_m.corpus.manifest import Manifest
from ernie_m.interop.build_model import trained_model
from ernie_m.interop.start import step_zero_again
from ernie_m.runs.metrics import read_metrics
from ernie_m.runs.run_folder import RunFolder
from ernie_m.show.opened import open_run
from tests.integration.conftest import TINY_RECIPE
from tests.integration.test_training import losses, single, unfinished_copy

RECIPE = TINY_RECIPE | {
    "stages": [{"steps": 6, "rows": {"MT": 1, "AE": 1, "BT": 1}}],
    "objective_weights": {"AE": "0:1, 5:0"},
    "model": TINY_RECIPE["model"] | {"decoder": "shared", "language_embedding": "all"},
    "output": {"log_every": 1, "save_every": 3, "evaluate_every": 3, "held_out_pairs": 16},
}


@pytest.fixture(scope="module")
def recipe(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The decoder starts from word vectors."""
    folder = tmp_path_factory.mktemp("recipe")
    vocabulary, rng = open_vocabulary(data / Manifest.read(data).tokenizer_file), np.random.default_rng(0)
    vectors = rng.normal(0, 0.02, (vocabulary.size, RECIPE["model"]["hidden_size"]))
    pieces = zip(vocabulary.pieces(range(vocabulary.size)), vectors.tolist(), strict=True)
    (folder / "vectors.txt").write_text("".join(f"{piece} {' '.join(map(str, vector))}\n" for piece, vector in pieces))
    (folder / "mt.yaml").write_text(yaml.safe_dump(RECIPE | {"init_decoder": f"embeddings:{folder / 'vectors.txt'}"}))
    return folder / "mt.yaml"


@pytest.fixture(scope="module")
def run(recipe: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mt") / "run"
    finished = single(recipe, data, folder)
    assert finished.returncode == 0, finished.stderr
    return folder


def test_a_run_resumed_from_its_middle_ends_bit_for_bit_the_same(
    run: Path, recipe: Path, data: Path, tmp_path: Path
) -> None:
    again, held_out = unfinished_copy(run, tmp_path), [stream.languages for stream in CorpusFolder(data).parallel(HELD_OUT)]
    shutil.rmtree(again / "checkpoints" / "step_00000006")
    (again / "checkpoints" / "latest").write_text("step_00000003\n")
    resumed = single(recipe, data, again)
    assert resumed.returncode == 0, resumed.stderr
    assert "starting at step 3" in resumed.stdout
    assert losses(again) == losses(run)
    assert sorted(losses(run)) == [1, 2, 3, 4, 5, 6]
    for folder in (run, again):
        weights = {line["step"]: line["weight/AE"] for line in read_metrics(folder) if "weight/AE" in line}
        assert weights == {step: pytest.approx(1 - (step - 1) / 5) for step in range(1, 7)}
        assert [step for step, of_step in sorted(losses(folder).items()) if "loss/AE" in of_step] == [1, 2, 3, 4, 5]
        assert all("loss/BT" in of_step for of_step in losses(folder).values())
        measured = [line for line in read_metrics(folder) if "held_out_loss/MT" in line]
        assert [line["step"] for line in measured] == [3, 6]
        assert measured[1]["held_out_loss/MT"] < measured[0]["held_out_loss/MT"]
        directions = {key.rpartition("/")[2] for key in measured[0] if key.startswith("held_out_loss/MT/")}
        assert directions == {"-".join(pair) for stream in held_out for pair in (stream, stream[::-1])}
        assert {"round_trip_loss", "round_trip_copied"} <= measured[0].keys()
    files = [path for path in (run / "checkpoints" / "step_00000006").iterdir() if path.name.startswith("rank_")]
    assert files
    for path in files:
        assert path.read_bytes() == (again / "checkpoints" / "step_00000006" / path.name).read_bytes()


def test_what_a_side_starts_from_is_told_recorded_and_looked_for_again(run: Path, data: Path, tmp_path: Path) -> None:
    configuration, _ = RunFolder(run).read()
    recorded = json.loads((run / START_FILE).read_text())["init_decoder"]
    vectors = Path(recorded["path"])
    assert recorded["sha256"] == sha256_of(vectors)
    assert recorded["kind"] == "word vectors"
    assert step_zero_again(run, configuration, data).sides["init_decoder"].sha256 == recorded["sha256"]
    moved = tmp_path / "vectors.txt"
    moved.write_text(vectors.read_text().replace("0.0", "0.1", 1))
    with pytest.raises(InputError, match="other bytes than the run started from"):
        step_zero_again(run, configuration | {"init_decoder": f"embeddings:{moved}"}, data)


def test_it_translates_a_file_line_by_line_and_replaces_no_other(run: Path, data: Path, tmp_path: Path) -> None:
    source, target = (stream := CorpusFolder(data).parallel()[0]).languages
    assert stream.num_rows > 50
    lines = ["a b", "", "c"]
    (tmp_path / "in").write_text("\n".join(lines) + "\n")
    files = {"run": str(run), "input": str(tmp_path / "in"), "output": str(tmp_path / "out")}
    translate(**files, direction=f"{source}-{target}")
    found = (tmp_path / "out").read_text()
    assert [bool(line) for line in found.splitlines()] == [True, False, True]
    with pytest.raises(InputError, match="exists and stays as it is"):
        translate(**files, direction=f"{target}-{source}")
    translate(**files, direction=f"{target}-{source}", overwrite=True)
    with pytest.raises(InputError, match=r"--input .*nowhere: no such file"):
        translate(run=str(run), direction=f"{source}-{target}", input=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=f"--direction {source}-xx.*expected two languages of the model"):
        translate(**files, direction=f"{source}-xx", overwrite=True)
    assert (tmp_path / "out").is_file()


def test_what_knows_encoders_alone_says_so(run: Path, recipe: Path) -> None:
    configuration, checkpoint = RunFolder(run).read()
    for opens in (lambda: trained_model(run, configuration, checkpoint), lambda: open_run(run)):
        with pytest.raises(InputError, match="expected a run of an encoder alone"):
            opens()
    with pytest.raises(InputError, match=re.escape("its model has a decoder; plans are of encoders alone")):
        plan(recipe=str(recipe))
