"""A model that translates, through the commands: trained on pairs, resumed bit for bit, translating."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sacrebleu.metrics.chrf import CHRF

from ernie_m.base.command_line import checked_arguments
from ernie_m.base.console import InputError
from ernie_m.base.files import sha256_of
from ernie_m.base.run_files import START_FILE
from ernie_m.commands.evaluate import Commands
from ernie_m.commands.export import export
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
    (tmp_path / "in").write_text("a b\n\nc\n")
    files: Any = {"model": str(run), "input": str(tmp_path / "in"), "output": str(tmp_path / "out")}
    translate(**files, from_=source, to=target)
    found = (tmp_path / "out").read_text()
    assert [bool(line) for line in found.splitlines()] == [True, False, True]
    with pytest.raises(InputError, match="exists and stays as it is"):
        translate(**files, from_=target, to=source)
    translate(**files, from_=target, to=source, overwrite=True, beams=3)
    with pytest.raises(InputError, match=r"nowhere: no such file"):
        translate(model=str(run), from_=source, to=target, input=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"--to xx.*expected one of the model's languages"):
        translate(**files, from_=source, to="xx", overwrite=True)
    for given, message in (
        ({"output": str(tmp_path), "overwrite": True}, "--output .*: a folder; expected the name of a file to write"),
        ({"length_penalty": 0.5}, "--length_penalty 0.5: nothing is compared with one beam"),
        ({"longest": 10_000}, r"--longest 10000: .* positions for (\d+) tokens; expected 1 .. \1$"),
    ):
        options: Any = {**files, "output": None, **given}
        with pytest.raises(InputError, match=message):
            translate(from_=source, to=target, **options)
    with pytest.raises(InputError, match="--beams 0: expected a whole number from 1"):
        checked_arguments(translate, "translate", ["--model", "x", "--beams", "0"])
    assert checked_arguments(translate, "translate", ["--model=x", "--from=fr"]) == ["--model='x'", "--from_='fr'"]
    assert (tmp_path / "out").is_file()


def test_two_processes_write_what_one_does_in_the_order_of_the_input(
    run: Path,
    data: Path,
    tmp_path: Path,
    start_ranks: Callable[..., subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, target = CorpusFolder(data).parallel()[0].languages
    (tmp_path / "in").write_text("a b\n\nthe small house\nx\ny z\n")
    options = {"model": str(run), "to": target, "input": str(tmp_path / "in"), "batch_tokens": 8}
    one: Any = options
    translate(**one, from_=source, output=str(tmp_path / "one"))
    words = [f"--{key}={value}" for key, value in {**options, "from": source, "output": tmp_path / "two"}.items()]
    job = start_ranks(2, "launcher/translate.py", *words)
    shown, _ = job.communicate(timeout=240)
    assert job.returncode == 0, shown
    assert (tmp_path / "two").read_text() == (tmp_path / "one").read_text()
    assert len((tmp_path / "two").read_text().splitlines()) == 5
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="--output is missing: a launcher's"):
        translate(**one, from_=source)


def test_in_a_slurm_batch_script_it_is_a_program_like_others(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = CorpusFolder(data).parallel()[0].languages
    (tmp_path / "in").write_text("a b\nc\n")
    for name, value in {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1"}.items():
        monkeypatch.setenv(name, value)
    translate(model=str(run), from_=source, to=target, input=str(tmp_path / "in"))
    assert len(capsys.readouterr().out.splitlines()) == 2
    monkeypatch.setenv("SLURM_NTASKS", "2")
    with pytest.raises(InputError, match="one of 2 ranks, but not where they meet; this works: MASTER"):
        translate(model=str(run), from_=source, to=target, input=str(tmp_path / "in"), output=str(tmp_path / "out"))


def test_an_export_translates_as_its_run_does(run: Path, data: Path, tmp_path: Path) -> None:
    source, target = CorpusFolder(data).parallel()[0].languages
    (tmp_path / "in").write_text("a b\n\nthe small house\n")
    export(run=str(run), to=str(tmp_path / "hf"), direction=f"{source}-{target}")
    for name, model in (("own", run), ("theirs", tmp_path / "hf")):
        out = str(tmp_path / name)
        translate(model=str(model), from_=source, to=target, input=str(tmp_path / "in"), output=out)
    assert (tmp_path / "own").read_bytes() == (tmp_path / "theirs").read_bytes()
    card = (tmp_path / "hf" / "README.md").read_text()
    assert f"# Translation from {source} to {target}, after 6 steps" in card
    assert "pipeline_tag: translation" in card
    assert "Started with the weights of `embeddings:" in card
    for given, expected in (
        ({}, f"--direction is missing: .* one of .*{source}-{target}"),
        ({"direction": "xx-en"}, "--direction xx-en.*expected two languages of the model"),
        ({"direction": f"{source}-{target}", "language": source}, f"--language {source}: the run's model translates"),
        ({"direction": f"{source}-{target}", "keep": 0.5}, "--keep 0.5: the run's model translates"),
    ):
        options: Any = given
        with pytest.raises(InputError, match=expected):
            export(run=str(run), to=str(tmp_path / "other"), **options)
    assert not (tmp_path / "other").exists()
    with pytest.raises(InputError, match=r"--checkpoint 3: .* is no run folder"):
        translate(model=str(tmp_path / "hf"), checkpoint="3")


def test_translations_are_scored_on_raw_text(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = CorpusFolder(data).parallel()[0].languages
    texts = {"source": "a b\nthe house\n", "one": "A b, c d.\nthe green house here\n", "two": "a b\nthe house\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    files: Any = {name: str(tmp_path / name) for name in ("source", "one", "two")}
    references = {"source": files["source"], "reference": f"{files['one']},{files['two']}"}
    evaluate = Commands().translation
    evaluate(**references, hypothesis=files["two"], to="en", output=str(tmp_path / "scores.json"))
    shown = capsys.readouterr().out
    assert "2 sentences, 2 references each" in shown
    assert "nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|version:" in shown
    figures = json.loads((tmp_path / "scores.json").read_text())
    expected = CHRF().corpus_score(texts["two"].splitlines(), [texts[name].splitlines() for name in ("one", "two")])
    assert figures["translated"]["chrf"] == pytest.approx(expected.score) == pytest.approx(100)
    output = str(tmp_path / "of_model.json")
    of_model = {**references, "model": str(run), "from_": source, "to": target, "output": output}
    evaluate(**of_model)
    assert "translated" in capsys.readouterr().out
    (tmp_path / "two").write_text("one line\n")
    for given, message in (
        ({**references, "hypothesis": files["source"]}, "source has 2 lines, .*two 1; expected line-aligned files"),
        (references, "--model: give a model"),
        ({**references, "reference": ",", "hypothesis": files["one"]}, "--reference ,: expected a file"),
        *(
            ({**references, "hypothesis": files["one"], key: value}, f"--{key} {value}: of a model that translates")
            for key, value in {"checkpoint": "best", "beams": 2, "length_penalty": 0.5, "batch_tokens": 8}.items()
        ),
        ({**of_model, "beams": 2}, "of_model.json: there already, and not of measure translation.* beams 2; give another"),
        ({**references, "model": "x", "hypothesis": "y"}, "--model: give a model"),
        ({"source": str(tmp_path / "no"), "reference": files["one"], "model": "x"}, "no: no such file"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(**given)


def test_what_knows_encoders_alone_says_so(run: Path, recipe: Path) -> None:
    configuration, checkpoint = RunFolder(run).read()
    for opens in (lambda: trained_model(run, configuration, checkpoint), lambda: open_run(run)):
        with pytest.raises(InputError, match="expected a run of an encoder alone"):
            opens()
    with pytest.raises(InputError, match=re.escape("its model has a decoder; plans are of encoders alone")):
        plan(recipe=str(recipe))
