"""Our weights as a Hugging Face folder: XLM-R's class, which every release of transformers has, or ERNIE-M's.

The fused query-key-value matrix is split. The language embedding is not exported: only masks carry it. The MLM head of a
run that has one is exported to XLM-R's class. ERNIE-M's class (in transformers up to 4.57) has no place for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaModel
from transformers.utils import logging

from ernie_m.base.console import InputError
from ernie_m.base.files import write_json
from ernie_m.base.special_tokens import BOS_ID, EOS_ID, PAD_ID
from ernie_m.corpus.any_vocabulary import open_vocabulary
from ernie_m.interop.layout import CONFIG_KEYS, ERNIE_M, LAYOUTS, XLM_ROBERTA, Layout
from ernie_m.interop.tokenizer_export import refuse_unwritable, write_tokenizer
from ernie_m.interop.weight_files import CONFIG_FILE, SAFETENSORS
from ernie_m.models.shape import ModelConfig, longest_document
from ernie_m.rows.objectives import TOKEN

FORMATS = tuple(LAYOUTS)


def hugging_face_config(config: ModelConfig) -> dict[str, Any]:
    """The same shape under Hugging Face's names, which both classes share."""
    values = {**vars(config), "vocab_size": config.vocab}
    return {theirs: values[ours] for ours, theirs in CONFIG_KEYS.items()} | {
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "initializer_range": config.initializer_range,
        "bos_token_id": BOS_ID,
        "pad_token_id": PAD_ID,
        "eos_token_id": EOS_ID,
    }


def to_hugging_face(weights: dict[str, Tensor], config: ModelConfig, layout: Layout = XLM_ROBERTA) -> dict[str, Tensor]:
    """Names and shapes of XLMRobertaForMaskedLM or ErnieMModel from ours."""
    theirs: dict[str, Tensor] = {}
    for ours, names in layout.with_prefix(layout.encoder_names(config.num_layers)).items():
        theirs |= zip(names, weights[ours].chunk(len(names)), strict=True)
    theirs |= {name: weights[ours] for ours, name in layout.head.items() if ours in weights}
    if layout.token_type is not None:
        theirs[f"{layout.prefix}.{layout.token_type}"] = torch.zeros(1, config.hidden_size)
    return theirs


def export(
    weights: dict[str, Tensor], config: ModelConfig, tokenizer: Path, to: Path, model_type: str = "xlm-roberta"
) -> None:
    """Write safetensors, config and tokenizer into `to`; `model_type` is one of FORMATS.

    The tokenizer is never of ERNIE-M's class, which splits digits, punctuation and Chinese characters, and training did not
    (ernie_m/interop/tokenizer_export.py). Raises InputError for a tokenizer with another layout than XLM-R's, and for a
    model that adds the language embedding to all tokens.
    """
    if config.language_embedding == "all":
        raise InputError("model.language_embedding=all: cannot be exported, neither class has a language embedding")
    vocabulary = open_vocabulary(tokenizer)
    refuse_unwritable(vocabulary)
    if model_type == ERNIE_M.model_type:
        content = {name: tensor.contiguous() for name, tensor in to_hugging_face(weights, config, ERNIE_M).items()}
        save_file(content, to / SAFETENSORS, metadata={"format": "pt"})
        description = {"model_type": model_type, "architectures": ["ErnieMModel"], "act_dropout": 0.0}
        write_json(to / CONFIG_FILE, hugging_face_config(config) | description)
    else:
        _save_xlm_roberta(weights, config, to)
    write_tokenizer(vocabulary, to, longest_document(config))
    (to / SAFETENSORS).chmod((to / CONFIG_FILE).stat().st_mode)  # safetensors makes them the owner's alone


def _save_xlm_roberta(weights: dict[str, Tensor], config: ModelConfig, to: Path) -> None:
    logging.disable_progress_bar()
    shape, theirs = XLMRobertaConfig(**hugging_face_config(config), type_vocab_size=1), to_hugging_face(weights, config)
    model: PreTrainedModel
    if TOKEN in config.head_names:
        model = XLMRobertaForMaskedLM(shape)
        theirs |= {"lm_head.decoder.weight": weights["embeddings.word.weight"]}
        theirs |= {"lm_head.decoder.bias": theirs["lm_head.bias"]}
    else:
        model = XLMRobertaModel(shape, add_pooling_layer=False)
        theirs = {name.removeprefix(f"{XLM_ROBERTA.prefix}."): tensor for name, tensor in theirs.items()}
    model.load_state_dict(theirs)
    model.save_pretrained(to)
