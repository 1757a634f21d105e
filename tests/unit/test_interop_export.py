"""What an exported folder tells of its run, and who else can use it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoTokenizer

from ernie_m.base.console import InputError
from ernie_m.base.files import sha256_of
from ernie_m.commands.export import export as export_command
from ernie_m.corpus.folder import MANIFEST_FILE, CorpusFolder
from ernie_m.interop.export import export
from ernie_m.interop.model_card import PAPERS, _objectives_of, model_card
from ernie_m.interop.source import open_source
from ernie_m.models.model import Encoder
from ernie_m.rows.objectives import OBJECTIVES
from ernie_m.runs.checkpoint import Checkpoint
from ernie_m.runs.checkpoint_store import CheckpointStore
from ernie_m.runs.ranks import Voters
from ernie_m.runs.run_folder import RunFolder
from tests.fixtures.ernie_m_export import CONFIG, TEXTS, random_encoder, train_tokenizer
from tests.interop_fixtures import TOLERANCE, as_batch, target_of

METRICS = [
    {"step": 1, "loss/MMLM": 9.0, "loss/CAMLM": 8.0, "loss/CAMLM/de-en": 8.0, "learning_rate": 1e-4, "tokens": 1000},
    {"step": 2, "loss/MMLM": 7.0, "learning_rate": 2e-4, "tokens": 1100},
    {"step": 2, "cross_lingual_gain": 0.25, "held_out_loss/CAMLM": 6.5},
    {"step": 3, "loss/MMLM": 5.0, "learning_rate": 2e-4, "tokens": 1200},
    {"step": 3, "cross_lingual_gain": 1.25, "held_out_loss/CAMLM": 5.5},
    {"step": 4, "loss/MMLM": 1.0, "learning_rate": 2e-4, "tokens": 9999},
    {"step": 4, "cross_lingual_gain": 9.25},
]
CONTRAST = "| sentence | XLCO | no |"


def configuration_of(languages: list[str], data: Path, tokenizer: Path) -> dict[str, Any]:
    manifest = data / MANIFEST_FILE
    return {
        "stages": [
            {"steps": 2, "rows": {"MMLM": 1.0, "CAMLM": 2.0}, "name": "first"},
            {"steps": 5, "rows": {"MMLM": 1.0, "BTMLM": 1.0}},
        ],
        "seed": 5,
        "init_from": "hf/xlmr",
        "objective_weights": {},
        "model": dict(vars(CONFIG)),
        "data": {"sequence_length": 128, "alpha": 0.3},
        "batch": {"rows_per_step": 2048, "micro_batch_rows": 8},
        "optimizer": {"peak_learning_rate": 2e-4},
        "output": {"log_every": 10},
        "data_identity": {
            "folder": str(data),
            "manifest_sha256": sha256_of(manifest) if manifest.is_file() else "gone",
            "tokenizer_sha256": sha256_of(tokenizer),
            "languages": languages,
        },
    }


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with a checkpoint of step 3 and lines up to step 4; its data folder holds the tokenizer alone."""
    data = tmp_path / "data"
    data.mkdir()
    tokenizer = train_tokenizer(data / "sentencepiece.bpe.model", 64)
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        folder.start(configuration_of(["de", "en", "fr", "sw"], data, tokenizer), from_scratch=False)
    (folder.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in METRICS))
    weights = {f"{name}@0:weight": parameter.data.view(-1) for name, parameter in random_encoder().named_parameters()}
    CheckpointStore(folder.checkpoints, Voters(0, 1)).save(3, weights, {})
    return folder


@pytest.fixture(scope="module")
def command() -> Callable[..., None]:
    """The command's function."""
    return export_command


def test_a_card_tells_data_steps_objectives_recipe_and_scores(
    run: RunFolder, corpus_folder: CorpusFolder, tmp_path: Path
) -> None:
    data, manifest = corpus_folder.folder, corpus_folder.manifest
    configuration = configuration_of(manifest.languages, data, data / manifest.tokenizer_file)
    card = model_card(run.path, configuration, Checkpoint(run.path, 3, 1, {}, {}), data, "xlm-roberta")
    _, front, body = card.split("---\n", 2)
    head = yaml.safe_load(front)
    assert head["language"] == manifest.languages
    assert head["pipeline_tag"] == "fill-mask"
    assert "after 3 steps" in body
    assert "| 2 of 2 | MMLM 1, CAMLM 2 |\n| 1 of 5 | MMLM 1, BTMLM 1 |" in body
    assert "`hf/xlmr`; 2,048 rows of 128 positions a step, 3,300 tokens in all" in body, "step 4 is behind the checkpoint"
    tokens = {stream.name: stream.num_tokens for stream in corpus_folder.monolingual()}
    pairs = [stream for stream in corpus_folder.parallel() if "sw" in stream.languages]
    assert pairs == []
    assert f"| sw | {tokens['sw']:,} |" in body
    assert f"| m.sw | made | sw | 80 | {tokens['sw']:,} |" in body
    of_pair = next(stream for stream in corpus_folder.parallel() if stream.languages == ("de", "en"))
    assert f"| p.de-en | made | de-en | {of_pair.num_rows:,} | {of_pair.num_tokens:,} |" in body, "held-out pairs left out"
    assert "against another sentence) | 1.2500 | 3 |" in body
    assert "`held_out_loss/CAMLM` | 5.5000 | 3 |" in body
    assert "loss of MMLM, nats a predicted token, mean of the last 3 steps | 7.0000 | 3 |" in body
    assert "loss of CAMLM, nats a predicted token, mean of the last 1 steps | 8.0000 | 3 |" in body
    recipe = yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])
    assert recipe["optimizer"] == {"peak_learning_rate": 2e-4}
    assert recipe["model"]["num_layers"] == 2
    assert not {"output", "data_identity"} & recipe.keys()


@pytest.mark.parametrize(
    ("rows", "heads", "model_type", "shown", "tag"),
    [
        ({"MMLM": 1.0, "CAMLM": 2.0}, None, "xlm-roberta", ["| token | MMLM, CAMLM | yes |"], "fill-mask"),
        ({"MMLM": 1.0}, None, "ernie_m", ["| token | MMLM | no |"], "feature-extraction"),
        ({"XLCO": 1.0}, None, "xlm-roberta", [CONTRAST], "feature-extraction"),
        ({"XLCO": 1.0, "TLM": 1.0}, None, "xlm-roberta", ["| token | TLM | yes |", CONTRAST], "fill-mask"),
        ({"XLCO": 1.0}, ("token", "sentence"), "xlm-roberta", ["| token | none | yes |", CONTRAST], "fill-mask"),
    ],
)
def test_a_card_names_the_heads_what_trains_them_and_which_are_exported(
    rows: dict[str, float], heads: tuple[str, ...] | None, model_type: str, shown: list[str], tag: str, run: RunFolder
) -> None:
    data = run.path.parent / "data"
    configuration = configuration_of(["de", "en"], data, data / "sentencepiece.bpe.model")
    configuration |= {"stages": [{"steps": 5, "rows": rows}], "model": {**configuration["model"], "heads": heads}}
    card = model_card(run.path, configuration, Checkpoint(run.path, 3, 1, {}, {}), data, model_type)
    _, front, body = card.split("---\n", 2)
    table = "\n".join(["| head | losses | in this folder |", "| --- | --- | --- |", *shown])
    assert f"{table}\n\n" in body
    assert yaml.safe_load(front)["pipeline_tag"] == tag
    assert ("AutoModelForMaskedLM" in body) == (tag == "fill-mask")


def test_our_own_encoder_has_its_head_anyway_where_the_class_holds_one_which_is_told(
    run: RunFolder, command: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(run=str(run.path), to=str(tmp_path / "hf"), head=True)
    assert "note: --head adds nothing here" in capsys.readouterr().out
    assert "lm_head.dense.weight" in load_file(tmp_path / "hf/model.safetensors")
    with pytest.raises(InputError, match="--head: ERNIE-M's class has no head of masked words"):
        command(run=str(run.path), to=str(tmp_path / "em"), head=True, format="ernie_m")
    assert not (tmp_path / "em").exists()


@pytest.mark.parametrize("model_type", ["xlm-roberta", "ernie_m"])
def test_the_command_exports_either_class_with_a_card(
    model_type: str, run: RunFolder, command: Callable[..., None], tmp_path: Path
) -> None:
    to = tmp_path / "hf"
    command(run=str(run.path), to=str(to), format=model_type)
    assert json.loads((to / "config.json").read_text())["model_type"] == model_type
    card = (to / "README.md").read_text()
    assert ("ERNIE-M's class, which transformers has up to 4.57" in card) == (model_type == "ernie_m")
    assert "Languages: de, en, fr, sw. Its manifest was not at hand" in card
    model = Encoder(CONFIG)
    source = open_source(str(to), target_of(CONFIG, to / "sentencepiece.bpe.model"))
    assert source.kind == model_type
    source.fill_parameters(dict(model.named_parameters()))
    assert torch.equal(model.layers[1].qkv.weight, random_encoder().layers[1].qkv.weight)
    modes = {path.stat().st_mode & 0o044 for path in to.iterdir()}
    assert len(modes) == 1, "whoever may read one file may read all"
    assert "extra_special_tokens" not in json.loads((to / "tokenizer_config.json").read_text()), "transformers 4 fails on it"


def test_an_unknown_format_is_refused_before_anything_is_made(
    run: RunFolder, command: Callable[..., None], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="--format erniem, did you mean `ernie_m`"):
        command(run=str(run.path), to=str(tmp_path / "hf"), format="erniem")
    assert not (tmp_path / "hf").exists()


def test_an_export_is_written_neither_into_its_run_nor_into_the_data_that_this_was_started_on(
    run: RunFolder, command: Callable[..., None], tmp_path: Path
) -> None:
    for to in (run.path / "hf", run.path / "checkpoints" / "hf", tmp_path / "data" / "hf"):
        with pytest.raises(InputError, match=rf"--to {to}: lies in (--run|the run's data) \S+, which is read"):
            command(run=str(run.path), to=str(to))
        assert not to.exists()


@pytest.mark.filterwarnings("ignore")
def test_sentence_transformers_pools_the_mean_of_the_last_layer(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    tokenizer = train_tokenizer(tmp_path / "spm.model", 64)
    model, texts = random_encoder(), [*TEXTS, "ni ya"]
    (tmp_path / "hf").mkdir()
    export(model.state_dict(), CONFIG, tokenizer, tmp_path / "hf")
    encoded = library.SentenceTransformer(str(tmp_path / "hf"), device="cpu").encode(texts, convert_to_tensor=True)
    inputs = AutoTokenizer.from_pretrained(tmp_path / "hf")(
        texts, padding=True, truncation=True, max_length=18, return_tensors="pt"
    )
    real = inputs["attention_mask"].bool()
    assert not real.all()
    with torch.no_grad():
        hidden = model.hidden_states(as_batch(inputs["input_ids"]))
    for row in range(len(texts)):
        torch.testing.assert_close(encoded[row], hidden[row][real[row]].mean(0), **TOLERANCE)


def test_cards_name_the_paper_of_each_objective_that_was_trained() -> None:
    assert {name for names in PAPERS.values() for name in names} == set(OBJECTIVES)
    told = _objectives_of({"stages": [{"rows": {"CLM": 1}}, {"rows": {"MMLM": 1, "CAMLM": 2}}]})
    assert told.startswith("Pre-trained by MMLM, CLM (XLM, ")
    assert "; CAMLM (ERNIE-M, " in told
    assert "AlignLM" not in told
    assert "ERNIE-M" not in _objectives_of({"stages": [{"rows": {"MMLM": 1, "TLM": 1}}]})
