"""The checks of `ernie_m.interop.encoder`: a folder without code of its own, an encoder of text, a fast tokenizer.

What does not pass is refused in one line.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, XLMRobertaConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging

from ernie_m.base.console import Choice, InputError
from ernie_m.interop.layout import ERNIE_M
from ernie_m.interop.source import check_configuration
from ernie_m.interop.tokenizer_export import TOKENIZER_CONFIG
from ernie_m.interop.weight_files import CONFIG_FILE, read_config

KERNELS = tuple(f"{start}{kind}_implementation" for kind in ("attn", "experts") for start in ("", "_"))
SIDES = ("padding_side", "truncation_side")
SIZES = ("num_hidden_layers", "hidden_size", "vocab_size")
MOST_OF = {"layer": 1000, "expert": 10_000, "label": 10**6}
"""What a key of the configuration holds that counts such."""
FREE_PARAMETERS = 10**8  # heads and poolers that are new
ADAPTER = "adapter_config.json"
OF_ITS_CLASS = ("model_type", "type_vocab_size", "architectures", "dtype", "transformers_version")


def longest_input(model: nn.Module, tokenizer: Any) -> int:
    """Tokens that a text may have, special ones included: the least that tokenizer, configuration and position table allow.

    A position table with a row for padding (RoBERTa) does not use its rows up to that one. Without a table (relative
    positions) configuration and tokenizer decide.
    """
    limits = [int(tokenizer.model_max_length)]
    said = getattr(model.config, "max_position_embeddings", None)
    if isinstance(said, int) and said > 0:
        limits.append(said)
    for name, module in model.named_modules():
        table = getattr(module, "weight", None)
        if name.rpartition(".")[2] == "position_embeddings" and isinstance(table, Tensor) and "entity" not in name:
            padding = getattr(module, "padding_idx", None)
            limits.append(table.shape[0] - (0 if padding is None else padding + 1))
    return min(limits)


def check_foreign_code(name: str, folder: Path, content: dict[str, Any], trust_remote_code: bool | None) -> None:
    """Raise InputError for a folder with code that the user did not allow, for an adapter, and for quantised weights.

    `trust_remote_code`: None where nobody can allow it.
    """
    path = folder / TOKENIZER_CONFIG
    described = {CONFIG_FILE: content} | ({TOKENIZER_CONFIG: read_config(folder, path.name)} if path.is_file() else {})
    for file, of_file in described.items():
        if "auto_map" in of_file and not trust_remote_code:
            way_out = "read it, and give --trust_remote_code if it is to be"
            if trust_remote_code is None:
                way_out = "expected an encoder whose class is in transformers"
            raise InputError(f"{name}: brings Python code of its own (auto_map in {file}), which is not run; {way_out}")
    kernels = [key for key in KERNELS if "/" in json.dumps(content.get(key))]
    if kernels and not trust_remote_code:  # transformers fetches and runs what is named there
        raise InputError(f"{name}: {CONFIG_FILE} names code of the hub ({kernels[0]}), which is not run; take the key out")
    if (folder / ADAPTER).is_file():
        raise InputError(f"{name}: an adapter ({ADAPTER}), not an encoder; merge it into its encoder first")
    if "quantization_config" in content:
        raise InputError(f"{name}: quantised weights (quantization_config); expected whole ones")


def check_sizes(name: str, content: dict[str, Any]) -> None:
    """Raise InputError for a configuration with so many layers, experts or classes that making their list would not end."""
    for key, value in content.items():
        most = next((most for part, most in MOST_OF.items() if part in key), None)
        if most is not None and isinstance(value, int) and abs(value) > most:
            raise InputError(f"{name}: {CONFIG_FILE} says {key} {_shown(value)}; expected at most {most:,}")


def _shown(value: int) -> str:
    return f"{value:,}" if abs(value) < 1 << 64 else "beyond 2^64"


def check_parameters(name: str, model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise InputError for a model far larger than its weights: what they lack would be drawn, in as much memory."""
    described, stored = sum(weight.numel() for weight in model.parameters()), sum(map(math.prod, shapes.values()))
    if described > 2 * stored + FREE_PARAMETERS:
        raise InputError(
            f"{name}: {CONFIG_FILE} describes {described:,} parameters, its weights have {stored:,}; take a whole folder"
        )


def configuration_of(name: str, folder: Path, content: dict[str, Any], trust_remote_code: bool) -> tuple[Any, list[Choice]]:
    """The configuration that the encoder is made of, and what was chosen in it; raises InputError when it is unknown."""
    if content.get("model_type") == ERNIE_M.model_type:
        check_configuration(folder, ERNIE_M, content)
        known = {key: content[key] for key in XLMRobertaConfig().to_dict() if key in content and key not in OF_ITS_CLASS}
        with one_line(f"{name}/{CONFIG_FILE}: not an encoder that transformers knows"):
            config = XLMRobertaConfig(**known, type_vocab_size=1, dtype=torch.float32)
        reason = "ERNIE-M's is not in transformers 5; the two compute the same"
        return config, [Choice("class of the encoder", "XLM-R's", reason)]
    with one_line(f"{name}/{CONFIG_FILE}: not an encoder that transformers knows"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    config.dtype = torch.float32
    return config, []


def check_kind(where: str, config: Any, is_known: bool) -> None:
    """Raise InputError for what is no encoder of text, and say what it is. `is_known`: its class is transformers'."""
    kind, sizes = str(config.model_type), {key: getattr(config, key, None) for key in SIZES}
    if getattr(config, "is_encoder_decoder", False):
        what = "an encoder with a decoder behind it"
    elif any(getattr(config, key, False) for key in ("is_decoder", "add_cross_attention")) or (
        kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    ):
        what = "a decoder, whose tokens read only what stands before them"
    elif (is_known and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES) or not all(
        isinstance(size, int) for size in sizes.values()
    ):
        what = "no encoder of text"
    elif nothing := [f"{key} is {size}" for key, size in sizes.items() if size is not None and size < 1]:
        what = f"an encoder whose {nothing[0]}"
    else:
        return
    raise InputError(f"{where}: model type {kind}, {what}; expected an encoder such as xlm-roberta")


def tokenizer_of(name: str, folder: Path, trust_remote_code: bool) -> tuple[Any, list[Choice]]:
    """The folder's tokenizer, made to pad and cut on the right; raises InputError for a slow one, or one without padding."""
    with one_line(f"{name}: its tokenizer cannot be loaded"), quietly():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if not tokenizer.is_fast:
        raise InputError(f"{name}: a slow tokenizer ({type(tokenizer).__name__}); expected one with tokenizer.json")
    if not tokenizer.get_vocab().keys() - {*tokenizer.all_special_tokens}:  # transformers makes one up where there is none
        raise InputError(f"{name}: its tokenizer knows special tokens alone; expected its files there, e.g. tokenizer.json")
    if tokenizer.pad_token_id is None:
        raise InputError(f"{name}: its tokenizer has no padding token; expected an encoder's, which has one")
    left = [side for side in SIDES if getattr(tokenizer, side) != "right"]
    for side in left:
        setattr(tokenizer, side, "right")
    reason = "the folder says left; words and answers are looked up at places counted from the left"
    return tokenizer, [Choice(f"tokenizer's {side.replace('_', ' ')}", "right", reason) for side in left]


def skeleton_of(auto_class: Any, config: Any, name: str, trust_remote_code: bool) -> PreTrainedModel:
    """The model's modules on the meta device, without memory. torch's random state does not change."""
    with one_line(f"{name}: no {auto_class.__name__} of it"), torch.random.fork_rng(devices=[]), torch.device("meta"):
        model: PreTrainedModel = auto_class.from_config(config, dtype=torch.float32, trust_remote_code=trust_remote_code)
    return model


def filled(skeleton: PreTrainedModel, tensors: dict[str, Tensor], failure: str) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The skeleton's model with these tensors, in fp32, and what transformers says of loading them.

    Raises InputError that begins with `failure`.
    """
    with one_line(failure), quietly():
        loaded: Any = type(skeleton).from_pretrained(
            None,
            config=skeleton.config,
            state_dict=tensors,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    return loaded[0], loaded[1]


@contextlib.contextmanager
def one_line(what: str) -> Iterator[None]:
    """Turn any error of the block into an InputError. transformers raises a dozen kinds of them for a broken folder."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:160]
        reason = said if said and not isinstance(error, KeyError) else f"{type(error).__name__}: {said}"
        raise InputError(f"{what} ({reason})") from None


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' long warning about a head or pooler that is new on purpose."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
