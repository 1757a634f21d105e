"""Small Hugging Face folders with a tokenizer of each kind, to be given other vocabularies."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import sentencepiece
import torch
from transformers import (
    BertConfig,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PretrainedConfig,
    PreTrainedModel,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaTokenizer,
)
from transformers.models.bert import BertForMaskedLM

from ernie_m.corpus.any_vocabulary import open_vocabulary
from tests.tokenizer_fixtures import byte_level, gemma, llama, metaspace, sentences, word_piece

OLD, NEW = ("en", "fr", "de", "ru"), "br"
SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
MANY = 900
"""Ids of each vocabulary, about."""


def old_lines() -> dict[str, list[str]]:
    """Lines of the languages that the tokenizers are trained on."""
    return {code: sentences(code) for code in OLD}


def sentence_piece(lines: Sequence[str], folder: Path, size: int = MANY, model_type: str = "unigram") -> Path:
    """A SentencePiece model alone, in XLM-R's layout."""
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=content, vocab_size=size - 2, model_type=model_type,
        character_coverage=1.0, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=1, minloglevel=3,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sentencepiece.bpe.model").write_bytes(content.getvalue())
    return folder


def sentence_piece_bpe(lines: Sequence[str], folder: Path, size: int = MANY) -> Path:
    """The other algorithm."""
    return sentence_piece(lines, folder, size, "bpe")


def both_files(lines: Sequence[str], folder: Path, size: int = MANY) -> Path:
    """XLM-R's: the SentencePiece model, and the tokenizer.json that transformers makes of it."""
    sentence_piece(lines, folder, size)
    XLMRobertaTokenizer.from_pretrained(folder, model_max_length=62).save_pretrained(folder)
    return folder


KINDS: dict[str, Callable[..., Path]] = {
    "XLM-R": both_files,
    "SentencePiece unigram": sentence_piece,
    "SentencePiece BPE": sentence_piece_bpe,
    "unigram": metaspace,
    "byte-level BPE": byte_level,
    "WordPiece": word_piece,
    "llama": llama,
    "gemma": gemma,
}
OF_CHARACTERS = {"XLM-R", "SentencePiece unigram", "unigram"}
"""Kinds whose new pieces join old ones and move no border, by the way their scores are placed."""


def add_model(folder: Path, more_rows: int = 0, config: type[PretrainedConfig] = XLMRobertaConfig) -> PreTrainedModel:
    """Put a random encoder with an MLM head, for the tokenizer there, into the folder; `more_rows` have no token."""
    specials = open_vocabulary(folder).specials
    ids = {"pad_token_id": specials.pad, "bos_token_id": specials.begin, "eos_token_id": specials.end}
    ids |= {"cls_token_id": specials.begin, "sep_token_id": specials.end}
    shape = config(vocab_size=specials.vocab_size + more_rows, max_position_embeddings=200, **SHAPE, **ids)
    classes = {XLMRobertaConfig: XLMRobertaForMaskedLM, ModernBertConfig: ModernBertForMaskedLM, BertConfig: BertForMaskedLM}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model: PreTrainedModel = classes[config](shape).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return model


def write(path: Path, lines: Sequence[str]) -> Path:
    """A text file."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def changed_json(folder: Path, name: str, **changes: object) -> None:
    """Other values of keys of a JSON file."""
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
