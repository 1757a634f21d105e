"""The page of a run shows what was trained: the very rows and masks, the very weights, the pseudo tokens they write."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from ernie_m.base.console import InputError
from ernie_m.base.special_tokens import FIRST_PIECE_ID
from ernie_m.commands.show import show
from ernie_m.corpus.folder import CorpusFolder
from ernie_m.models.model import Encoder
from ernie_m.models.pretraining import stage_1
from ernie_m.models.pseudo_parallel import fill_placeholders
from ernie_m.rows.batch import LossRequest, PackedBatch
from ernie_m.rows.dataloader import DATA_ORDER, DataConfig, PretrainingData, to_device
from ernie_m.rows.objectives import LOSS_INDEX
from ernie_m.rows.schedule import RowAddress, Schedule, StageConfig
from ernie_m.runs.metrics import mean_losses, read_metrics
from ernie_m.runs.skip_steps import SkipSteps
from ernie_m.show import attention_pictures, overview, pseudo_tokens
from ernie_m.show.figures import isolated
from ernie_m.show.opened import OpenedRun, open_run
from tests.integration.conftest import TINY_RECIPE, tiny_recipe
from tests.integration.forked_ranks import ForkedRanks, Job
from tests.integration.scripts import run_script

CPU = torch.device("cpu")
FIRST, ALL = 3, 6  # steps of the first stage, and of both
ROWS = TINY_RECIPE["batch"]["rows_per_step"]


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of both stages by the real trainer, without dropout: a step's loss then tells which weights it had."""
    folder = tmp_path_factory.mktemp("shown")
    output = TINY_RECIPE["output"] | {"log_every": 1, "save_every": FIRST, "evaluate_every": FIRST, "keep_last": 9}
    model = {"dropout": 0.0, "attention_dropout": 0.0}
    engine = {"zero_stage": 0}
    recipe = folder / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(tiny_recipe(FIRST, ALL - FIRST, model=model, engine=engine, output=output)))
    job = Job(recipe, data, folder / "a <b>run")
    ForkedRanks().finish(job)
    assert (job.run / "COMPLETE").is_file(), job.text()
    return job.run


@pytest.fixture(scope="module")
def at_second_stage(run: Path) -> OpenedRun:
    """The run at the checkpoint whose weights trained step FIRST, the first one with BTMLM."""
    return open_run(run, checkpoint=str(FIRST))


@pytest.fixture(scope="module")
def launcher() -> Callable[..., None]:
    """The command's function."""
    return show


def whole_step(run: OpenedRun, step: int) -> PackedBatch:
    """All rows of a step as training packs them."""
    (batch,) = run.data.step(step, 0, 1, ROWS)
    return batch


def losses(run: OpenedRun, model: Encoder, step: int) -> dict[str, float]:
    """What training logs for a step that `model` makes."""
    batch = fill_placeholders(model, to_device(whole_step(run, step), CPU))
    names = [metric.name for metric in run.data.metrics]
    with torch.no_grad():
        _, nll_M = model(batch, LossRequest(torch.zeros(len(LOSS_INDEX)), len(names)))
    return mean_losses(names, nll_M.tolist(), np.bincount(batch.metric_N.numpy(), minlength=len(names)).tolist())


def test_before_and_after_are_the_weights_that_training_had(run: Path, at_second_stage: OpenedRun) -> None:
    logged = {line["step"]: line for line in read_metrics(run) if "learning_rate" in line}
    for step, model in ((0, at_second_stage.before().model), (FIRST, at_second_stage.after().model)):
        computed = losses(at_second_stage, model, step)
        expected = {key: value for key, value in logged[step + 1].items() if key.startswith("loss/")}
        assert ("loss/BTMLM" in computed) == (step == FIRST)
        assert computed == pytest.approx(expected, rel=1e-5)
    assert losses(at_second_stage, at_second_stage.before().model, FIRST) != pytest.approx(expected, rel=1e-3)


def reads(batch: PackedBatch, row: int) -> np.ndarray:
    """The rule of docs/attention_rule.md, word for word, in loops."""
    document, group, allowed, horizon = (
        getattr(batch, f"{name}_BS")[row] for name in ("document", "group", "reads", "horizon")
    )
    S = len(document)
    return np.array(
        [
            [
                q == k or (document[q] == document[k] and (int(allowed[q]) >> int(group[k])) & 1 and k <= horizon[q])
                for k in range(S)
            ]
            for q in range(S)
        ],
        dtype=bool,
    )


@pytest.mark.parametrize("name", ["MMLM", "TLM", "CAMLM", "BTMLM"])
def test_a_picture_is_the_dense_mask_of_a_row_of_training(at_second_stage: OpenedRun, name: str) -> None:
    model = at_second_stage.after().model
    last = attention_pictures.last_rows(at_second_stage.data, FIRST, [FIRST, ALL], SkipSteps())
    step, (address, *_) = last[name]
    assert step == (FIRST - 1 if name == "TLM" else FIRST), "TLM is not in the second stage"
    row = at_second_stage.data.schedule.rows_of_step(step).index(address)
    trained = whole_step(at_second_stage, step)
    *first, view = attention_pictures.views(at_second_stage.data, address, model)
    filled = fill_placeholders(model, to_device(trained, CPU)).map(lambda tensor: tensor.numpy())
    np.testing.assert_array_equal(view.mask, reads(filled, row))
    for column in ("input_ids", "position_ids", "language", "document"):
        np.testing.assert_array_equal(view.column(column), getattr(filled, f"{column}_BS")[row])
    of_row = trained.predicted_N // 128 == row
    assert view.asked == dict(zip(trained.predicted_N[of_row] % 128, trained.labels_N[of_row], strict=True))
    assert view.mask.any()
    if name == "BTMLM":
        (generation,) = first
        assert not np.array_equal(generation.mask, view.mask), "the sentence does not read the placeholders"
        number = trained.generation.rows_R.tolist().index(row)
        np.testing.assert_array_equal(generation.column("input_ids"), trained.generation.input_ids_RS[number])
        slots = trained.generation.slots_K
        assert list(generation.asked) == (slots[slots // 128 == row] % 128).tolist()


def test_written_tokens_are_those_that_the_training_step_generates(at_second_stage: OpenedRun) -> None:
    model, vocabulary, data = at_second_stage.after().model, at_second_stage.vocabulary, at_second_stage.data
    languages = {number: name for name, number in at_second_stage.language_ids.items()}
    _, rows = attention_pictures.last_rows(data, FIRST, [FIRST, ALL], SkipSteps())["BTMLM"]
    examples = pseudo_tokens.written(data, rows, model, vocabulary, languages)
    trained = to_device(whole_step(at_second_stage, FIRST), CPU)
    generation = trained.generation
    assert generation is not None
    with torch.no_grad():
        generated = model(trained)
        hidden = model.hidden_states(stage_1(trained, generation))
        logits = model.token_head.logits(hidden.flatten(0, 1)[generation.placeholders_K])
    best = logits[:, FIRST_PIECE_ID:-1].softmax(dim=1).amax(dim=1)
    of_document: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for slot, *token in zip(generation.slots_K.tolist(), generated.tolist(), best.tolist(), strict=True):
        row, position = divmod(slot, 128)
        of_document.setdefault((row, int(trained.document_BS[row, position])), []).append((token[0], token[1]))
    sentences = {}
    for row in range(ROWS):
        address = data.schedule.rows_of_step(FIRST)[row]
        for number, (ids,) in enumerate(data.sentences(*vars(address).values()) if address in rows else ()):
            sentences[row, number] = vocabulary.decode(ids.tolist())
    expected = [(sentences[place], tokens) for place, tokens in of_document.items()]
    shown = [(e.sentence, [(token.id, token.candidates[0][1]) for token in e.tokens]) for e in examples]
    assert len(shown) == pseudo_tokens.EXAMPLES
    for sentence, tokens in shown:
        close = [(text, [(token, pytest.approx(p, rel=1e-5)) for token, p in of_text]) for text, of_text in expected]
        assert (sentence, tokens) in close
    assert len({(e.language, e.target_language) for e in examples}) > 1
    for example in examples:
        assert example.language != example.target_language
        assert [piece for piece, kind in example.trained if kind == "pseudo"] == [t.piece for t in example.tokens]
        for token in example.tokens:
            probabilities = [probability for _, probability in token.candidates]
            assert token.candidates[0][0] == token.piece == vocabulary.pieces([token.id])[0]
            assert probabilities == sorted(probabilities, reverse=True)
            assert 0 < sum(probabilities) <= 1


def test_labels_are_the_real_pieces_and_what_is_asked_for(at_second_stage: OpenedRun) -> None:
    languages = {number: name for name, number in at_second_stage.language_ids.items()}
    model, vocabulary = at_second_stage.after().model, at_second_stage.vocabulary
    last = attention_pictures.last_rows(at_second_stage.data, FIRST, [FIRST, ALL], SkipSteps())
    (view,) = attention_pictures.views(at_second_stage.data, last["CAMLM"][1][0], model)
    positions = attention_pictures.legible_part(view, limit=128)
    plain, asking = attention_pictures.labels(view, positions, vocabulary, languages)
    group, place = view.column("group"), view.column("position_ids")
    original = {(group[p], view.column("document")[p], place[p]): label for p, label in zip(positions, plain, strict=True)}
    for position, label in zip(positions.tolist(), asking, strict=True):
        if position in view.asked:  # an inserted mask asks for the piece at its own place in its own sentence
            of = original[group[position] - 2, view.column("document")[position], place[position]]
            language = languages[int(view.column("language")[position])]
            number, piece = of.split(" ", 1)
            assert label == f"{number} {isolated('<mask>')} {language} → {piece}"
    assert "▁" in "".join(plain)
    assert [label for label in plain if "<mask>" in label] == [
        label.partition(" → ")[0] for label in asking if " → " in label
    ], "every inserted mask is asked for something, nothing else is"
    source = base64.b64decode(
        attention_pictures.picture(view, positions, vocabulary, languages).partition("base64,")[2]
    ).decode()
    assert set(asking) <= {unescape(found) for found in re.findall(r">([^<>]+)</text>", source)}


def test_where_a_sentence_is_asked_for_no_piece_is_shown(at_second_stage: OpenedRun, data: Path) -> None:
    schedule = Schedule((StageConfig(steps=1, rows={"XLCO": 1}),), rows_per_step=1)
    pairs = PretrainingData(CorpusFolder(data), DataConfig(sequence_length=128), schedule, seed=0)
    (view,) = attention_pictures.views(pairs, RowAddress("XLCO", 0), at_second_stage.after().model)
    every = np.arange(view.batch.input_ids_BS.shape[1])
    _, asking = attention_pictures.labels(view, every, at_second_stage.vocabulary, {})
    asked = [label for position, label in zip(every.tolist(), asking, strict=True) if position in view.asked]
    assert len(asked) > 1
    assert all(label.endswith(" → its translation") for label in asked)


def test_a_part_of_a_long_row_has_positions_of_every_group(at_second_stage: OpenedRun) -> None:
    model = at_second_stage.after().model
    last = attention_pictures.last_rows(at_second_stage.data, FIRST, [FIRST, ALL], SkipSteps())
    (view,) = attention_pictures.views(at_second_stage.data, last["CAMLM"][1][0], model)
    part = attention_pictures.legible_part(view, limit=8)
    assert len(part) == 8
    assert np.bincount(view.column("group")[part]).tolist() == [2, 2, 2, 2]
    assert len(np.unique(view.column("document")[part])) == 1
    whole = attention_pictures.legible_part(view, limit=10_000)
    assert np.unique(view.column("document")[whole]).tolist() == [0, 1, 2][: view.column("document").max() + 1]


def test_steps_left_out_are_not_shown_as_trained(at_second_stage: OpenedRun) -> None:
    found = attention_pictures.last_rows(
        at_second_stage.data, FIRST, [FIRST, ALL], SkipSteps.parse(f"{FIRST - 1}:{FIRST + 1}")
    )
    assert {name: step for name, (step, _) in found.items()} == dict.fromkeys(("MMLM", "TLM", "CAMLM"), FIRST - 2)


def test_thinned_curves_keep_means_and_the_last_step() -> None:
    lines = [{"step": n, "loss/MMLM": float(n)} | ({"loss/TLM": 1.0} if n % 3 == 0 else {}) for n in range(1, 11)]
    thin = overview.thinned(lines, most=4)
    assert [line["step"] for line in thin] == [3, 6, 9, 10]
    assert [line["loss/MMLM"] for line in thin] == [2.0, 5.0, 8.0, 10.0]
    assert "loss/TLM" not in thin[-1]
    assert overview.thinned(lines) == lines


# -- the page --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bitext(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Held-out pairs of a few languages, one sentence of which is hostile."""
    folder = tmp_path_factory.mktemp("bitext")
    for path in (embedded / "heldout").iterdir():
        if path.name.partition("-")[0] in ("fr", "zh", "ar"):
            shutil.copy(path, folder)
    text = (folder / "fr-en.fr").read_text(encoding="utf-8").split("\n")
    (folder / "fr-en.fr").write_text("\n".join(["<script>alert('$x$')</script>", *text[1:]]), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def page(run: Path, bitext: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page as the real launcher writes it."""
    output = tmp_path_factory.mktemp("page") / "report.html"
    result = run_script("launcher/show.py", "--run", run, "--bitext", bitext, "--output", output)
    assert result.returncode == 0, result.stderr
    assert [path.name for path in output.parent.iterdir()] == ["report.html"]
    return output.read_text(encoding="utf-8")


def test_the_page_holds_all_that_it_shows(page: str) -> None:
    addresses = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s>)]+)""", page)
    assert len(addresses) == 1 + 3 + 5, "curves; heat maps, layers, map; MMLM, TLM, CAMLM, both stages of BTMLM"
    assert all(address.startswith("data:image/svg+xml;base64,") for address in addresses)
    assert "http" not in page
    assert "<script" not in page
    assert re.findall("Left out: [^(]*", page) == ["Left out: the data has no word links "]
    assert "a &lt;b&gt;run" in page
    for objective in ("MMLM", "TLM", "CAMLM", "BTMLM, stage 1: generation", "BTMLM, stage 2: training"):
        assert f"<h3>{objective}</h3>" in page


def test_the_same_inputs_give_the_same_bytes(
    page: str, run: Path, bitext: Path, launcher: Callable[..., None], tmp_path: Path
) -> None:
    launcher(run=str(run), bitext=str(bitext), output=str(tmp_path / "again.html"))
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_what_cannot_be_shown_is_left_out_in_words(run: Path, launcher: Callable[..., None], tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(run, old)
    configuration = yaml.safe_load((old / "config.yaml").read_text())
    del configuration["data_identity"]["data_order"]
    (old / "config.yaml").write_text(yaml.safe_dump(configuration))
    (old / "metrics.jsonl").unlink()
    launcher(run=str(old), output=str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert page.count("Left out: no bitext was given (--bitext FOLDER).") == 2
    assert page.count(f"Left out: the run has data order 1, this release {DATA_ORDER}") == 2
    assert "Left out: curves; the run has no metrics yet" in page
    launcher(run=str(run), output=str(tmp_path / "first.html"), checkpoint="step_00000003")
    assert "Left out: up to step 2 the run has not trained on BTMLM." in (tmp_path / "first.html").read_text()


def test_bad_input_is_one_clear_line(run: Path, data: Path, launcher: Callable[..., None], tmp_path: Path) -> None:
    unsaved, empty = tmp_path / "unsaved", tmp_path / "empty"
    shutil.copytree(run, unsaved)
    shutil.rmtree(unsaved / "checkpoints")
    empty.mkdir()
    for arguments, message in (
        ({"run": str(tmp_path)}, "not a run folder"),
        ({"run": str(unsaved)}, "no whole checkpoint under"),
        ({"run": str(unsaved), "checkpoint": "3"}, "--checkpoint 3: no such checkpoint in .*; the run has none yet"),
        ({"checkpoint": "7"}, "--checkpoint 7: .*; expected one of step_00000003, step_00000006"),
        ({"data": str(empty)}, "name the run's data folder with --data"),
        ({"bitext": str(tmp_path / "nowhere")}, "--bitext .*nowhere: no such folder"),
        ({"bitext": str(empty)}, "no aligned files in two languages of the run"),
        ({"step": ALL}, f"--step {ALL}: expected 0 .. {ALL - 1}"),
        ({"layer": 3}, "--layer 3: expected 1 .. 2, or 0 for the middle one"),
        ({"before": str(empty)}, "--before .*empty: expected start, none, or a Hugging Face folder"),
        ({"sentences": 10}, "--sentences 10: expected with --bitext alone"),
        ({"output": str(tmp_path / "no" / "page.html")}, "--output .*page.html: expected an HTML file to write"),
    ):
        with pytest.raises(InputError, match=message):
            launcher(**{"run": str(run), "output": str(tmp_path / "page.html"), **arguments})
    assert not list(tmp_path.glob("*.html"))


def test_weights_that_a_run_started_from_must_be_what_they_were(
    at_second_stage: OpenedRun, run: Path, tmp_path: Path
) -> None:
    assert at_second_stage.config.init_from is None

    def from_weights(name: Path) -> OpenedRun:
        configuration = {**at_second_stage.configuration, "init_from": str(name)}
        return replace(at_second_stage, path=tmp_path, configuration=configuration)

    started = from_weights(run)
    model = started.before().model
    expected = open_run(run).after().model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items()), "the newest checkpoint's"
    (tmp_path / "started_from.json").write_text(json.dumps({"sha256": "0" * 64}))
    with pytest.raises(InputError, match=r"other bytes than the run started from .*--before none"):
        started.before()
    with pytest.raises(InputError, match=r"gone: no such folder.*; name a Hugging Face folder .* with --before"):
        from_weights(tmp_path / "gone").before()
