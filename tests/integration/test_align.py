"""`ernie-m align` from pairs to a table: two small encoders, a real run each; given again; what it refuses."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from ernie_m.base.console import InputError
from ernie_m.base.run_files import CHECKPOINTS_FOLDER, COMPLETE_FILE
from ernie_m.commands.align import align
from ernie_m.interop.build_model import trained_model
from ernie_m.runs.checkpoint import LATEST_FILE, committed_folders, step_of
from ernie_m.runs.run_folder import RunFolder
from tests.integration.conftest import start_local_ranks
from tests.integration.scripts import run_script
from tests.tokenizer_fixtures import metaspace

WORDS = ("river", "stone", "bread", "night", "child", "house", "green", "small", "winter", "letter", "garden", "music")
NUM_PAIRS = 120
OF_SENTENCES = {"passes": 30, "held_out": 0.2}
QUICK = ("engine.zero_stage=0", "optimizer.peak_learning_rate=1e-3", "output.log_every=1000",
         "output.save_every=10", "output.keep_last=99")  # fmt: skip


def sentence_pairs(seed: int = 0) -> list[tuple[str, str]]:
    """Sentences, and the same with each word read backwards: a language that can be learnt."""
    draw = random.Random(seed)
    found = {" ".join(draw.choices(WORDS, k=draw.randint(3, 6))) for _ in range(NUM_PAIRS)}
    return [(text, " ".join(word[::-1] for word in text.split())) for text in sorted(found)]


def write_pairs(path: Path, seed: int = 0) -> Path:
    path.write_text("".join(f"{a}\t{b}\n" for a, b in sentence_pairs(seed)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return metaspace([text for pair in sentence_pairs() for text in pair], tmp_path_factory.mktemp("tokenizer"), 120)


def encoder(tokenizer: Path, folder: Path, suffix: str) -> Path:
    """A random encoder of two layers with that tokenizer."""
    shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    words = len(AutoTokenizer.from_pretrained(folder))
    config = transformers.XLMRobertaConfig(
        vocab_size=words, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=66, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        initializer_range=0.2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(3)
        getattr(transformers, f"XLMRoberta{suffix}")(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sentences(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence encoder: without a head of masked words, pooled by its first token."""
    folder = encoder(tokenizer, tmp_path_factory.mktemp("sentences"), "Model")
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def words(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder(tokenizer, tmp_path_factory.mktemp("words"), "ForMaskedLM")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.tsv")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched")
    for side, texts in zip(("xx", "yy"), zip(*sentence_pairs(seed=9), strict=True), strict=True):
        (folder / f"other.xx-yy.{side}").write_text("\n".join(texts[:40]) + "\n", encoding="utf-8")
    return folder


def ours(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """One of our commands in a process of its own: DeepSpeed makes one engine in each."""
    return run_script("-m", "ernie_m", *words, timeout=600)


def asked(model: Path, pairs: Path, to: Path, **changes: Any) -> dict[str, Any]:
    return {"model": str(model), "pairs": str(pairs), "languages": "en,xx", "to": str(to), **changes}


def options_of(options: dict[str, Any]) -> list[str]:
    """The same as words of a command."""
    return [*QUICK, *(f"--{key}={value}" for key, value in options.items())]


@pytest.fixture(scope="module")
def aligned(sentences: Path, pairs: Path, watched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence encoder, aligned from beginning to end."""
    to = tmp_path_factory.mktemp("aligned") / "out"
    done = ours("align", *options_of(asked(sentences, pairs, to, watch=str(watched), **OF_SENTENCES)))
    assert done.returncode == 0, done.stderr
    return to


def test_a_sentence_encoder_finds_more_translations_and_stays_what_it_is(aligned: Path, sentences: Path) -> None:
    before, after = (json.loads((aligned / f"{name}.json").read_text(encoding="utf-8")) for name in ("before", "after"))
    was, now = (sum(of["held_out"]["en-xx"]["layers"][-1]) for of in (before, after))
    assert now > was + 20, (was, now)
    assert before["held_out"]["en-xx"]["pairs"] >= 15
    assert before["gain"] is None
    for name in ("tokenizer.json", "tokenizer_config.json", "modules.json", "1_Pooling/config.json"):
        assert (aligned / "model" / name).read_bytes() == (sentences / name).read_bytes()
    model = AutoModel.from_pretrained(aligned / "model")
    assert type(model) is transformers.XLMRobertaModel
    assert not any("head" in name for name in load_file(aligned / "model/model.safetensors"))


def test_what_is_exported_keeps_its_share_of_the_start(aligned: Path, sentences: Path) -> None:
    """0.3 of the weights before: the trained ones, put together again, are those of the checkpoint."""
    configuration, checkpoint = RunFolder(aligned / "run").read()
    trained = trained_model(aligned / "run", configuration, checkpoint, attention="sdpa").state_dict()
    before, after = (load_file(folder / "model.safetensors") for folder in (sentences, aligned / "model"))
    name = "encoder.layer.0.output.dense.weight"
    torch.testing.assert_close(after[name], 0.3 * before[name] + 0.7 * trained[f"encoder.{name}"])
    assert not torch.equal(after[name], before[name])


def test_the_export_opens_in_sentence_transformers(aligned: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    text, tokenizer = "river stone night", AutoTokenizer.from_pretrained(aligned / "model")
    vector = library.SentenceTransformer(str(aligned / "model"), device="cpu").encode([text], convert_to_tensor=True)[0]
    with torch.no_grad():
        states = (
            AutoModel.from_pretrained(aligned / "model").eval()(**tokenizer(text, return_tensors="pt")).last_hidden_state
        )
    torch.testing.assert_close(vector, states[0, 0])


def test_the_table_and_the_reasons_are_on_the_card(aligned: Path) -> None:
    card = (aligned / "model/README.md").read_text(encoding="utf-8")
    assert card.count("## Before and after") == 1
    assert "| en-xx |" in card
    assert "| xx-yy (watched) |" in card
    assert "recipe: align_sentences (a sentence encoder: it has modules.json" in card
    assert "pooling: first (1_Pooling/config.json)" in card
    assert "en-xx" in (aligned / "table.txt").read_text(encoding="utf-8")


def test_given_again_it_does_nothing_and_other_options_are_refused(
    aligned: Path, sentences: Path, pairs: Path, watched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = asked(sentences, pairs, aligned, watch=str(watched), **OF_SENTENCES)
    stood = {path: path.stat().st_mtime_ns for path in aligned.rglob("*") if path.is_file()}
    align(*QUICK, **same)
    assert "complete, nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in aligned.rglob("*") if path.is_file()} == stood
    with pytest.raises(InputError, match=r"begun with other options \(passes: 30.0 -> 3"):
        align(*QUICK, **(same | {"passes": 3}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"is_decoder": True},
            "model type xlm-roberta, a decoder, whose tokens read only what stands before them",
        ),
        ({"model_type": "gpt2"}, "model type gpt2, a decoder"),
        (
            {"model_type": "own", "auto_map": {"AutoModel": "own.OwnModel"}},
            "brings Python code of its own .* expected an encoder whose class is in transformers",
        ),
    ],
    ids=["decoder", "another decoder", "remote code"],
)
def test_a_model_that_cannot_be_aligned_is_a_line_and_leaves_nothing(
    changes: dict[str, Any], message: str, words: Path, pairs: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(words, tmp_path / "model"))
    content = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps(content | changes), encoding="utf-8")
    with pytest.raises(InputError, match=message) as refused:
        align(**asked(model, pairs, tmp_path / "out"))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_an_encoder_that_predicts_words_keeps_its_head_and_reads_text_too(words: Path, pairs: Path, tmp_path: Path) -> None:
    """On two ranks, by the real launcher; its text is read too, and its own head of masked words is exported."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{a}\n\n" for a, _ in sentence_pairs(seed=5)), encoding="utf-8")
    to = tmp_path / "out"
    options = options_of(asked(words, pairs, to, text=f"en={text}", passes=4))
    job = start_local_ranks(2, "launcher/align.py", *options)
    output, _ = job.communicate(timeout=300)
    assert job.returncode == 0, output
    assert "recipe: align_text (it predicts masked words, with text)" in output
    assert output.count("the encoder:") == 1, "rank 0 alone tells"
    before, after = (json.loads((to / f"{name}.json").read_text(encoding="utf-8")) for name in ("before", "after"))
    assert after["gain"] != before["gain"]
    assert type(AutoModelForMaskedLM.from_pretrained(to / "model")) is transformers.XLMRobertaForMaskedLM
    stages = RunFolder(to / "run").read()[0]["stages"]
    assert [{*stage["rows"]} for stage in stages] == [{"CAMLM", "TLM", "MMLM"}, {"CAMLM", "TLM", "MMLM", "BTMLM"}]
    assert stages[0]["steps"] == pytest.approx(3 * stages[1]["steps"], abs=3)


def test_stopped_it_goes_on_to_the_same_weights(aligned: Path, sentences: Path, pairs: Path, watched: Path) -> None:
    """What a kill in the training leaves: data, recipe, and a checkpoint of the first steps."""
    to = aligned.parent / "stopped"
    made_later = shutil.ignore_patterns("model", "table.txt", "after.json", COMPLETE_FILE, LATEST_FILE)
    shutil.copytree(aligned, to, ignore=made_later)
    first, *later = committed_folders(to / "run" / CHECKPOINTS_FOLDER)
    assert later, "some steps are left to do"
    for checkpoint in later:
        shutil.rmtree(checkpoint)
    output = ours("align", *options_of(asked(sentences, pairs, to, watch=str(watched), **OF_SENTENCES))).stdout
    assert f"starting at step {step_of(first)}" in output
    resumed, whole = (load_file(folder / "model/model.safetensors") for folder in (to, aligned))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert (to / "table.txt").read_text(encoding="utf-8") == (aligned / "table.txt").read_text(encoding="utf-8")
