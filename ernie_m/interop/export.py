"""Our weights as a Hugging Face folder: XLM-R's class, which every release of transformers has, or ERNIE-M's.

The fused query-key-value matrix is split. A language embedding that only masks have is not exported. One that all tokens
have becomes the token types of XLM-R's class, which adds them to each token: type i is language i. If one language is asked
for, it is the only type, and every text is read as text of that language. The MLM head, if the run has one, is exported to
XLM-R's class. ERNIE-M's class (in transformers up to 4.57) has neither head nor types.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaModel
from transformers.utils import logging

from ernie_m.base.command_line import nearest
from ernie_m.base.console import InputError
from ernie_m.base.files import write_json
from ernie_m.base.special_tokens import BOS_ID, EOS_ID, PAD_ID
from ernie_m.corpus.any_vocabulary import open_vocabulary
from ernie_m.interop.architecture import Architecture, Own
from ernie_m.interop.backbone_export import export_backbone
from ernie_m.interop.foreign import Foreign
from ernie_m.interop.layout import CONFIG_KEYS, ERNIE_M, LANGUAGE_NUMBERS, LANGUAGES, LAYOUTS, POSITIONS, XLM_ROBERTA, Layout
from ernie_m.interop.tokenizer_export import refuse_unwritable, write_tokenizer
from ernie_m.interop.weight_files import CONFIG_FILE, SAFETENSORS
from ernie_m.models.shape import ModelConfig, longest_document
from ernie_m.rows.objective import TOKEN

FORMATS = tuple(LAYOUTS)


def language_types(weights: dict[str, Tensor], config: ModelConfig, languages: Sequence[str], only: str | None) -> Tensor:
    """The vectors of the token types, a row each: none; or a row of zeros and each language's; or only that of `only`."""
    if config.language_embedding != "all":
        if only is not None:
            raise InputError(f"--language {only}: the model's tokens carry no language; leave it out")
        return torch.zeros(1, config.hidden_size)
    if only is None:
        return weights[LANGUAGES]
    if only not in languages:
        raise InputError(f"--language {only}{nearest(only, languages) or ':'} expected one of {', '.join(languages)}")
    return weights[LANGUAGES][[1 + list(languages).index(only)]]


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


def to_hugging_face(
    weights: dict[str, Tensor], config: ModelConfig, layout: Layout = XLM_ROBERTA, types_TD: Tensor | None = None
) -> dict[str, Tensor]:
    """Names and shapes of XLMRobertaForMaskedLM or ErnieMModel from ours; `types_TD`: its token types, else one of zeros."""
    types_TD = torch.zeros(1, config.hidden_size) if types_TD is None else types_TD
    theirs: dict[str, Tensor] = {}
    for ours, names in layout.with_prefix(layout.encoder_names(config.num_layers)).items():
        theirs |= zip(names, weights[ours].chunk(len(names)), strict=True)
    theirs |= {name: weights[ours] for ours, name in layout.head.items() if ours in weights}
    if layout.token_type is not None:
        theirs[f"{layout.prefix}.{layout.token_type}"] = types_TD
    elif len(types_TD) == 1:  # adding it to the position table is the same
        (name,) = layout.with_prefix(layout.encoder_names(0))[POSITIONS]
        theirs[name] = theirs[name] + types_TD
    else:
        raise InputError(f"--format {layout.model_type}: its class holds no language for each token; give --language too")
    return theirs


def export(
    weights: dict[str, Tensor],
    config: ModelConfig,
    tokenizer: Path,
    to: Path,
    model_type: str = "xlm-roberta",
    languages: Sequence[str] = (),
    only: str | None = None,
) -> None:
    """Write safetensors, config and tokenizer into `to`; `model_type` is one of FORMATS.

    `languages`: of the model, in order. `only`: the language of every token, for a model in which all tokens have one.
    The tokenizer never has ERNIE-M's class: that splits digits, punctuation and Chinese characters, and training did not
    (ernie_m/interop/tokenizer_export.py). Raises InputError for a tokenizer whose layout is not XLM-R's, and for languages
    if the class has no token types.
    """
    vocabulary, types_TD = open_vocabulary(tokenizer), language_types(weights, config, languages, only)
    refuse_unwritable(vocabulary)
    if model_type == ERNIE_M.model_type:
        theirs = to_hugging_face(weights, config, ERNIE_M, types_TD)
        content = {name: tensor.contiguous() for name, tensor in theirs.items()}
        save_file(content, to / SAFETENSORS, metadata={"format": "pt"})
        description = {"model_type": model_type, "architectures": ["ErnieMModel"], "act_dropout": 0.0}
        write_json(to / CONFIG_FILE, hugging_face_config(config) | description)
    else:
        numbers = {} if len(types_TD) == 1 else {LANGUAGE_NUMBERS: {name: 1 + i for i, name in enumerate(languages)}}
        shape = XLMRobertaConfig(**hugging_face_config(config) | {"type_vocab_size": len(types_TD)} | numbers)
        _save_xlm_roberta(to_hugging_face(weights, config, types_TD=types_TD), shape, TOKEN in config.head_names, to)
    write_tokenizer(vocabulary, to, longest_document(config))
    (to / SAFETENSORS).chmod((to / CONFIG_FILE).stat().st_mode)  # safetensors lets only the owner read them


def export_model(
    architecture: Architecture,
    weights: dict[str, Tensor],
    tokenizer: Path,
    to: Path,
    model_type: str | None = None,
    languages: Sequence[str] = (),
    only: str | None = None,
    head: bool = False,
) -> None:
    """Write the weights of any model into `to`. `model_type` (XLM-R's by default) and languages are for our own encoder.

    `head`: with the head of masked words that training added to an encoder of transformers. Our own has its head anyway,
    where the class holds one. Raises InputError as `export` does, and if the class cannot hold what is asked.
    """
    if isinstance(architecture, Foreign):
        own = architecture.backbone.config.model_type
        if model_type not in (None, own):
            raise InputError(f"--format {model_type}: the run's encoder is a {own} of transformers; leave it out")
        if only is not None:
            raise InputError(f"--language {only}: the run's encoder, a {own} of transformers, has none; leave it out")
        export_backbone(architecture.with_head() if head else architecture, weights, to)
    else:
        assert isinstance(architecture, Own)
        model_type = model_type or XLM_ROBERTA.model_type
        if head:
            architecture.check_head()
            if model_type == ERNIE_M.model_type:
                raise InputError("--head: ERNIE-M's class has no head of masked words; expected --format xlm-roberta")
        export(weights, architecture.config, tokenizer, to, model_type, languages, only)


def _save_xlm_roberta(theirs: dict[str, Tensor], shape: XLMRobertaConfig, has_head: bool, to: Path) -> None:
    logging.disable_progress_bar()
    model: PreTrainedModel
    if has_head:
        model = XLMRobertaForMaskedLM(shape)
        (words,) = XLM_ROBERTA.with_prefix(XLM_ROBERTA.encoder_names(0))["embeddings.word.weight"]
        theirs = theirs | {"lm_head.decoder.weight": theirs[words], "lm_head.decoder.bias": theirs["lm_head.bias"]}
    else:
        model = XLMRobertaModel(shape, add_pooling_layer=False)
        theirs = {name.removeprefix(f"{XLM_ROBERTA.prefix}."): tensor for name, tensor in theirs.items()}
    model.load_state_dict(theirs)
    model.save_pretrained(to)
