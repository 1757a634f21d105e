"""What tests of fine-tuning share: a tiny encoder in Hugging Face's layout, and where real evaluation files are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaTokenizer

from data_prep import embedded
from data_prep.tokenizer_training import train_tokenizer
from ernie_m.vocabulary import TOKENIZER_FILE

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
