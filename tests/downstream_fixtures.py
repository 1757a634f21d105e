"""What tests of fine-tuning share: a tiny encoder in Hugging Face's layout, and where real evaluation files are."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaTokenizer

from data_prep import embedded
from data_prep.tokenizer_training import train_tokenizer
from ernie_m.corpus.vocabulary import TOKENIZER_FILE

REAL_DATA = Path(os.environ.get("ERNIE_M_REAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
"""Public evaluation files; they are not part of the repository, and tests on them say so and skip."""
NUM_LAYERS, MAX_POSITIONS = 2, 130
MARKS = {"entailment": "1 1 1", "neutral": "2 2 2", "contradiction": "3 3 3"}  # what the hypotheses give the class away by


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of public evaluation sets, `eval/xnli/dev-en.tsv` and so on; skips where there is none."""
    if not (REAL_DATA / "eval").is_dir():
        pytest.skip(f"{REAL_DATA / 'eval'}: no such folder; set ERNIE_M_REAL_DATA to one with eval/xnli, eval/pawsx ...")
    return REAL_DATA / "eval"


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an XLM-R with 2 layers of 32, random weights, 128 tokens at most and a real unigram tokenizer."""
    made = tmp_path_factory.mktemp("tiny_encoder")
    lines = [embedded.sentence(0, i, language) for language in embedded.LANGUAGES for i in range(80)]
    (made / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    (made / "c.yaml").write_text("corpora: [{name: text, format: cc100, path: text.txt, language: mul}]")
    train_tokenizer(made / "c.yaml", made / "spm.model", 1200)
    folder = made / "hf"
    folder.mkdir()
    shutil.copyfile(made / "spm.model", folder / TOKENIZER_FILE)
    tokenizer = XLMRobertaTokenizer.from_pretrained(folder, model_max_length=MAX_POSITIONS - 2)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=MAX_POSITIONS,
        type_vocab_size=1,
        initializer_range=0.1,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    XLMRobertaForMaskedLM(config).save_pretrained(folder)
    return folder


EXACT = ("learning_rate=1e-3", "layer_decay=0.5", "batch_size=16", "epochs=1", "max_length=40", "adam_epsilon=0.01")
"""With a large epsilon Adam's updates depend on the gradient's scale, as they do with clipping."""


def without_dropout(encoder: Path, to: Path) -> Path:
    """A copy whose training depends on nothing but its examples."""
    folder = Path(shutil.copytree(encoder, to))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def plain_accuracies(folder: Path, data: Path, language: str) -> np.ndarray:
    """[2 ways, layers + 1] in percent: a sentence at a time without padding, float64 means, cosines and arg-max."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    sides = []
    for name in (language, "eng"):
        vectors = []
        for line in (data / f"tatoeba.{language}-eng.{name}").read_text(encoding="utf-8").rstrip("\n").split("\n"):
            with torch.no_grad():
                inputs = tokenizer(line, return_tensors="pt", truncation=True, max_length=128)
                states = model(**inputs, output_hidden_states=True).hidden_states
            vectors.append([layer[0].double().numpy().mean(axis=0) for layer in states])
        layers = np.array(vectors).transpose(1, 0, 2)
        sides.append(layers / np.linalg.norm(layers, axis=2, keepdims=True))
    found = []
    for queries, keys in (sides, sides[::-1]):
        cosine = np.einsum("lnd,lkd->lnk", queries, keys)
        found.append((cosine.argmax(axis=2) == np.arange(cosine.shape[1])).mean(axis=1) * 100)
    return np.array(found)


def write_pairs(path: Path, language: str, count: int, seed: int) -> None:
    labels = [list(MARKS)[i % 3] for i in range(count)]
    rows = [f"{embedded.sentence(seed, i, language)}\t{MARKS[label]}\t{label}\n" for i, label in enumerate(labels)]
    path.write_text("".join(rows), encoding="utf-8")


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """XNLI in XTREME's layout whose classes can be learnt in seconds, in any language."""
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder / "train-en.tsv", "en", 192, 1)
    write_pairs(folder / "dev-en.tsv", "en", 48, 2)
    write_pairs(folder / "test-en.tsv", "en", 36, 3)
    write_pairs(folder / "test-fr.tsv", "fr", 36, 4)
    return folder
