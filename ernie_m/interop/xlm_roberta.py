"""Our weights <-> Hugging Face's XLM-R class, which fits the architecture (token type embedding zero).

Going out, the fused query-key-value matrix is split and the language embedding of masks stays behind: real tokens
never carried it. Coming in, XLM-R's one token type vector is added to the position table, which changes no hidden state.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaTokenizer
from transformers.utils import logging

from ernie_m.console import InputError
from ernie_m.files import sha256_of
from ernie_m.model import Encoder, ModelConfig
from ernie_m.special_tokens import BOS_ID, EOS_ID, PAD_ID
from ernie_m.vocabulary import TOKENIZER_FILE, Vocabulary

# ours -> theirs; {i} is the layer. The fused qkv and the tied output matrix are handled beside this table.
NAMES = {
    "embeddings.word": "roberta.embeddings.word_embeddings",
    "embeddings.position": "roberta.embeddings.position_embeddings",
    "embeddings.norm": "roberta.embeddings.LayerNorm",
    "layers.{i}.attention_out": "roberta.encoder.layer.{i}.attention.output.dense",
    "layers.{i}.attention_norm": "roberta.encoder.layer.{i}.attention.output.LayerNorm",
    "layers.{i}.ffn_in": "roberta.encoder.layer.{i}.intermediate.dense",
    "layers.{i}.ffn_out": "roberta.encoder.layer.{i}.output.dense",
    "layers.{i}.ffn_norm": "roberta.encoder.layer.{i}.output.LayerNorm",
    "head.dense": "lm_head.dense",
    "head.norm": "lm_head.layer_norm",
}
QKV = ("query", "key", "value")
THEIR_SELF_ATTENTION = "roberta.encoder.layer.{i}.attention.self"
TOKEN_TYPE = "roberta.embeddings.token_type_embeddings.weight"


def hugging_face_config(config: ModelConfig) -> XLMRobertaConfig:
    """The same shape in Hugging Face's terms."""
    return XLMRobertaConfig(
        vocab_size=config.vocab,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        intermediate_size=config.ffn_size,
        hidden_act="gelu",
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.attention_dropout,
        max_position_embeddings=config.max_positions,
        type_vocab_size=1,
        initializer_range=config.initializer_range,
        layer_norm_eps=config.layer_norm_eps,
        bos_token_id=BOS_ID,
        pad_token_id=PAD_ID,
        eos_token_id=EOS_ID,
    )


def to_hugging_face(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Names and shapes of XLMRobertaForMaskedLM from ours."""
    theirs = {}
    for ours, their in _pairs(config.num_layers):
        for kind in ("weight", "bias"):
            if f"{ours}.{kind}" in weights:
                theirs[f"{their}.{kind}"] = weights[f"{ours}.{kind}"]
    for i in range(config.num_layers):
        for kind in ("weight", "bias"):
            parts = weights[f"layers.{i}.qkv.{kind}"].chunk(3)
            for name, part in zip(QKV, parts, strict=True):
                theirs[f"{THEIR_SELF_ATTENTION.format(i=i)}.{name}.{kind}"] = part
    theirs[TOKEN_TYPE] = torch.zeros(1, config.hidden_size)
    theirs["lm_head.decoder.weight"] = weights["embeddings.word.weight"]
    theirs["lm_head.bias"] = theirs["lm_head.decoder.bias"] = weights["head.decoder_bias"]
    return theirs


def from_hugging_face(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our names and shapes from XLMRobertaForMaskedLM's; language embeddings, which XLM-R has not, are left out."""
    ours = {}
    for our, their in _pairs(config.num_layers):
        for kind in ("weight", "bias"):
            if f"{their}.{kind}" in weights:
                ours[f"{our}.{kind}"] = weights[f"{their}.{kind}"]
    for i in range(config.num_layers):
        for kind in ("weight", "bias"):
            parts = [weights[f"{THEIR_SELF_ATTENTION.format(i=i)}.{name}.{kind}"] for name in QKV]
            ours[f"layers.{i}.qkv.{kind}"] = torch.cat(parts)
    ours["embeddings.position.weight"] = ours["embeddings.position.weight"] + weights[TOKEN_TYPE]
    ours["head.decoder_weight"] = ours["embeddings.word.weight"]
    ours["head.decoder_bias"] = weights["lm_head.bias"]
    return ours


def export(weights: dict[str, Tensor], config: ModelConfig, tokenizer: Path, to: Path) -> None:
    """Write a folder that AutoModel, AutoModelForMaskedLM and AutoTokenizer load: safetensors, config, tokenizer.

    Raises InputError for a BPE tokenizer (transformers' XLM-R class would read it as a unigram one and give other ids) and
    for a model whose every token carries its language.
    """
    if config.language_embedding == "all":
        raise InputError("model.language_embedding=all: cannot be exported, XLM-R's class has no language embedding")
    if not Vocabulary(tokenizer).is_unigram:
        raise InputError(f"{tokenizer}: a BPE model, which XLM-R's tokenizer class cannot hold; expected a unigram one")
    logging.disable_progress_bar()
    model = XLMRobertaForMaskedLM(hugging_face_config(config))
    model.load_state_dict(to_hugging_face(weights, config))
    model.save_pretrained(to)
    shutil.copyfile(tokenizer, to / TOKENIZER_FILE)
    assert sha256_of(to / TOKENIZER_FILE) == sha256_of(tokenizer)
    XLMRobertaTokenizer.from_pretrained(to, model_max_length=config.max_positions - 2).save_pretrained(to)


def load_into(model: Encoder, weights: dict[str, Tensor]) -> None:
    """Put converted weights into `model`; language embeddings keep their values (zero at start)."""
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {"embeddings.language.weight"}, missing


def _pairs(num_layers: int) -> list[tuple[str, str]]:
    layers = [(a.format(i=i), b.format(i=i)) for a, b in NAMES.items() if "{i}" in a for i in range(num_layers)]
    return [(a, b) for a, b in NAMES.items() if "{i}" not in a] + layers
