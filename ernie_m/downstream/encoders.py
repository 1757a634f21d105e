"""Any Hugging Face encoder from its folder: its size and limits, a head on top, and the learning rate of each layer.

Layers are found by the structure, not by a model's name: the lists of modules as long as `num_hidden_layers`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from ernie_m.console import InputError

Size = Literal["base", "large"]
LARGE_HIDDEN_SIZE = 1024


def read_config(folder: Path) -> Any:
    """The encoder's configuration; raises InputError when `folder` holds none that this transformers knows."""
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no config.json there; expected a Hugging Face folder, e.g. of launcher/export.py")
    try:
        config = AutoConfig.from_pretrained(folder)
    except (ValueError, KeyError, OSError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{folder}/config.json: not an encoder that transformers knows ({reason})") from None
    if not isinstance(getattr(config, "num_hidden_layers", None), int) or getattr(config, "is_encoder_decoder", False):
        raise InputError(f"{folder}/config.json: model type {config.model_type}; expected an encoder such as xlm-roberta")
    return config


def size_of(config: Any) -> Size:
    """Which column of the paper's fine-tuning table fits: large from a width of 1024 on."""
    return "large" if config.hidden_size >= LARGE_HIDDEN_SIZE else "base"


def load_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer; raises InputError for one that cannot be loaded or is not a fast one."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (ValueError, KeyError, OSError, ImportError) as error:
        raise InputError(f"{folder}: its tokenizer cannot be loaded ({' '.join(str(error).split())[:160]})") from None
    if not tokenizer.is_fast:
        raise InputError(f"{folder}: a slow tokenizer ({type(tokenizer).__name__}); expected one with tokenizer.json")
    return tokenizer


def load_model(auto_class: Any, folder: Path, labels: tuple[str, ...]) -> PreTrainedModel:
    """The encoder of `folder` under the head that `auto_class` gives it, with the classes' names in its configuration.

    The head is new, drawn from torch's random state, unless the folder has one for the same classes; then that one goes on,
    in the folder's order of classes (`class_order`). Raises InputError when weights of the encoder itself are missing.
    """
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: number for number, label in enumerate(labels)}}
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # else a page on the head, which is new on purpose
    logging.disable_progress_bar()
    try:
        model, found = auto_class.from_pretrained(folder, output_loading_info=True, **(names if labels else {}))
    except (ValueError, OSError, RuntimeError) as error:
        raise InputError(f"{folder}: its weights cannot be loaded ({' '.join(str(error).split())[:200]})") from None
    finally:
        logging.set_verbosity(verbosity)
    prefix = f"{model.base_model_prefix}."
    lost = sorted(key for key in found["missing_keys"] if key.startswith(prefix) and ".pooler." not in key)
    if lost:
        raise InputError(
            f"{folder}: {len(lost)} weights of the encoder are missing, first {lost[0]}; expected a whole encoder"
        )
    return model


def class_order(config: Any, labels: tuple[str, ...]) -> tuple[str, ...]:
    """The classes in the order of the folder's own head, where it was trained on the same ones, else as they are."""
    names = getattr(config, "id2label", None) or {}
    own = tuple(str(names[number]) for number in sorted(names))
    return own if sorted(own) == sorted(labels) else labels


def longest_input(config: Any, tokenizer: Any) -> int:
    """Tokens a text may have, special ones included: by the position table and by the tokenizer.

    RoBERTa's tables give their first positions up to the padding id away; without a table (relative positions) the
    tokenizer alone decides.
    """
    limit = int(tokenizer.model_max_length)
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        is_roberta = config.model_type in ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text")
        limit = min(limit, positions - (config.pad_token_id + 1 if is_roberta else 0))
    return limit


def layer_of(config: Any, asked: int) -> int:
    """Number of the layer that sentences are pooled from: `asked`, or XTREME's middle one for 0 (7 of 12, 13 of 24).

    Counted as in transformers' `hidden_states`, whose 0 are the embeddings. Raises InputError for one that is not there.
    """
    num_layers = int(config.num_hidden_layers)
    if not 0 <= asked <= num_layers:
        raise InputError(f"layer: {asked}; expected 1 .. {num_layers}, or 0 for the middle one")
    return asked or num_layers // 2 + 1


def learning_rate_shares(model: Any, decay: float) -> dict[str, float]:
    """Parameter name -> its share of the learning rate: layer i of L decay^(L-i), embeddings decay^(L+1), all else 1.

    All else is the heads, a pooler, and a norm after the last layer. Raises InputError for an encoder whose layers are
    not to be told apart (shared ones, as ALBERT's).
    """
    if decay == 1.0:
        return dict.fromkeys((name for name, _ in model.named_parameters()), 1.0)
    place = place_of(model)
    num_layers = int(model.config.num_hidden_layers)
    shares = {}
    for name, _ in model.named_parameters():
        layer = place(name)
        shares[name] = 1.0 if layer is None else decay ** (num_layers - layer)
    return shares


def place_of(model: Any) -> Callable[[str], int | None]:
    """Parameter name -> number of its layer from 0, -1 for embeddings, None for what is above the layers."""
    num_layers = int(model.config.num_hidden_layers)
    lists = [
        re.escape(name)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == num_layers and name.startswith(f"{model.base_model_prefix}.")
    ]
    if not lists:
        kind = model.config.model_type
        raise InputError(f"layer_decay: {kind} has no list of {num_layers} layers; expected one, or give layer_decay=1")
    in_layer = re.compile(rf"(?:{'|'.join(lists)})\.(\d+)\.")
    base = re.compile(rf"{re.escape(model.base_model_prefix)}\.(?:.*[._])?emb(?:ed\w*)?(?:[._]|$)")

    def place(name: str) -> int | None:
        if match := in_layer.match(name):
            return int(match[1])
        return -1 if base.match(name) else None

    return place
