"""XLM-R as its authors released it, in fairseq's format: model.pt, with dict.txt and sentencepiece.bpe.model beside it.

1. model.pt is a pickle of tensors by name (`model`) and of the command line that trained them (`args`, in later releases
   `cfg`). Tensors, plain containers and argparse's Namespace are unpickled, nothing else.
2. Old names become those of fairseq's present class, by fairseq's own rules
   (`upgrade_state_dict_named` in its roberta/model.py and multihead_attention.py).
3. The shape follows from the tensors. The number of heads and the activation, which no tensor shows, are in the command
   line.

transformers' convert_roberta_original_pytorch_checkpoint_to_pytorch.py reads the same names into the same places.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ernie_m.base.console import InputError
from ernie_m.base.files import sha256_of
from ernie_m.interop.layout import FAIRSEQ
from ernie_m.interop.weight_files import load_pickled

MODEL_FILE = "model.pt"
FINAL_NORM = f"{FAIRSEQ.prefix}.layer_norm.weight"
"""The norm after the last layer; only a pre-LN encoder has it."""
LAYER_NORM_EPS = 1e-5  # torch's default, which fairseq leaves as it is

_IN_LAYER = re.compile(rf"{re.escape(FAIRSEQ.prefix)}\.layers\.(\d+)\.")
_FUSED = re.compile(r"(.+\.self_attn\.)in_proj_(weight|bias)")


class FairseqFile:
    """Names, shapes and values of the tensors of one model.pt, under present names, and its command line.

    Raises InputError for a file that is broken, holds other objects, or is no checkpoint of fairseq's.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, path.parent
        content = load_pickled(path, (argparse.Namespace,))
        stored = content.get("model")
        if not isinstance(stored, dict):
            raise InputError(f"{path}: no tensors under `model`; expected a checkpoint of fairseq's")
        self.command_line = _command_line(content, path)
        self._tensors = dict(_by_present_names(stored))
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def read(self, name: str) -> Tensor:
        """One tensor, as stored, on the CPU."""
        return self._tensors[name]

    def sha256(self, on_progress: Callable[[], None] = lambda: None) -> str:
        """The hash of the file."""
        return sha256_of(self.path, on_progress=on_progress)

    def num_bytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size

    def model_shape(self) -> dict[str, Any]:
        """Values for the keys of `layout.CONFIG_KEYS`. Raises InputError when the file does not have them."""
        activation = self.command_line.get("activation_fn", "gelu")
        if activation != "gelu":
            raise InputError(f"{self.path}: activation_fn {activation!r}; this encoder has 'gelu'")
        if not isinstance(self.command_line.get("encoder_attention_heads"), int):
            raise InputError(f"{self.path}: its args have no encoder_attention_heads; expected those of fairseq's RoBERTa")
        vocab_size, hidden_size = self._matrix("embed_tokens")
        return {
            "num_layers": 1 + max((int(match[1]) for match in map(_IN_LAYER.match, self.shapes) if match), default=-1),
            "hidden_size": hidden_size,
            "num_heads": self.command_line["encoder_attention_heads"],
            "ffn_size": self._matrix("layers.0.fc1")[0],
            "max_positions": self._matrix("embed_positions")[0],
            "layer_norm_eps": LAYER_NORM_EPS,
            "vocab_size": vocab_size,
        }

    def _matrix(self, name: str) -> tuple[int, ...]:
        whole = f"{FAIRSEQ.prefix}.{name}.weight"
        if len(self.shapes.get(whole, ())) != 2:
            found = ", ".join(sorted(self.shapes)[:2]) or "none"
            raise InputError(f"{self.path}: no matrix {whole}; expected those of fairseq's XLM-R, found e.g. {found}")
        return self.shapes[whole]


def _command_line(content: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Options of the model: `args`, or `cfg.model` of releases with configuration files."""
    cfg = content.get("cfg")
    for found in (content.get("args"), cfg.get("model") if isinstance(cfg, dict) else None):
        if isinstance(found, argparse.Namespace):
            return vars(found)
        if isinstance(found, dict):
            return found
    raise InputError(
        f"{path}: neither `args` nor `cfg` with a model; expected a checkpoint of fairseq's, not its tensors alone"
    )


def _by_present_names(stored: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for old, tensor in stored.items():
        if not isinstance(tensor, Tensor):
            continue
        name = re.sub(r"^decoder\.", "encoder.", old).replace(".emb_layer_norm.", ".layernorm_embedding.")
        if fused := _FUSED.fullmatch(name):
            for part, rows in zip("qkv", tensor.chunk(3), strict=False):
                yield f"{fused[1]}{part}_proj.{fused[2]}", rows
        else:
            yield name, tensor
