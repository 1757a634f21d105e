"""A model before it has weights, and as at step 0: our own encoder here, those of transformers in foreign.py."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ernie_m.base.console import InputError
from ernie_m.base.special_tokens import Specials
from ernie_m.interop.layout import LANGUAGES
from ernie_m.interop.start_weights import Target
from ernie_m.models.pretraining import PretrainingModel
from ernie_m.models.shape import AnyModel, Attention, ModelConfig, longest_document
from ernie_m.models.translation import OwnModel, model_of
from ernie_m.rows.objective import TOKEN
from ernie_m.runs.ranks import Voters

Device = torch.device | str
OF_WORDS = ("word vectors", "another model's word embedding")
"""Kinds of starts that have nothing else."""
SHOWN = 4  # names of unused tensors


@dataclass(frozen=True)
class Started:
    """What a run was started from: for a file in its folder, and for the console."""

    path: str
    kind: str
    sha256: str
    vocabulary: str
    fresh: tuple[str, ...]
    """Our parameters that the weights do not have."""
    unused: tuple[str, ...]
    """Tensors of the weights that this encoder does not have."""
    side: str | None = None
    """Of a model that translates, encoder or decoder; None: all of the model."""

    def lines(self) -> list[str]:
        """For the console."""
        starting = "starting" if self.side is None else f"the {self.side} starts"
        lines = [f"{starting} from {self.path} ({self.kind}, SHA-256 {self.sha256[:12]}...): {self.vocabulary}"]
        if self.kind in OF_WORDS:
            return [*lines, "  starts anew: all but the word embedding, drawn from the seed"]
        if any(".across_" in name for name in self.fresh):
            lines.append("  starts anew: attention across with its norm, its matrices drawn from the seed")
        if LANGUAGES in self.fresh:
            lines.append("  starts anew: language embeddings, at zero")
        if any(name.startswith("heads.token.") for name in self.fresh):
            drawn = "its matrix drawn from the seed, biases zero, norm one"
            lines.append(f"  starts anew: the MLM head, {drawn}; its output matrix is the word embedding")
        others = {name.split(".")[1]: None for name in self.fresh if name.startswith("heads.") and ".token." not in name}
        lines += [f"  starts anew: the {head} head, its matrices drawn from the seed" for head in others]
        if self.unused:
            more = f" and {len(self.unused) - SHOWN} more" if len(self.unused) > SHOWN else ""
            lines.append(f"  not used: {', '.join(self.unused[:SHOWN])}{more}")
        return lines


def _nothing_to_keep(run: Path) -> None:
    """Our own encoder is described by the run's configuration."""


@dataclass(frozen=True)
class StepZero:
    """A model at the start of training, fp32, on the CPU. `started`: the weights it has; None if none are of one start.

    `keep` writes into the run's folder what of the model is not in its configuration or its checkpoints.
    """

    model: PretrainingModel
    started: Started | None = None
    sides: Mapping[str, Started] = field(default_factory=dict)
    """Key of the recipe -> what that side of a model that translates was started from."""
    keep: Callable[[Path], None] = _nothing_to_keep

    @property
    def starts(self) -> list[Started]:
        """All that it was started from."""
        return [*([self.started] if self.started else []), *self.sides.values()]

    def recorded(self) -> dict[str, Any]:
        """The starts, for a file in the run's folder."""
        one = {key: value for key, value in vars(self.started).items() if key != "side"} if self.started else {}
        return {**one, **{key: vars(started) for key, started in self.sides.items()}}


class Architecture(ABC):
    """A model before it has weights."""

    config: AnyModel
    """The section `model`, as a run records it."""

    @abstractmethod
    def empty(self, device: Device = "cpu", attention: Attention | None = None) -> PretrainingModel:
        """The model on the CPU, made for `device`, its weights to be filled; with another attention backend if wanted."""

    @abstractmethod
    def step_zero(
        self, seed: int, target: Target, ranks: Voters, device: Device = "cpu", attention: Attention | None = None
    ) -> StepZero:
        """The model of step 0 on every rank, made for `device`; `seed`: of what is drawn. A collective."""

    @abstractmethod
    def shape(self) -> ModelConfig:
        """For counting FLOPs."""

    @abstractmethod
    def longest_document(self) -> int | None:
        """Most positions of one document; None: no limit."""

    @abstractmethod
    def check_vocabulary(self, target: Target) -> str:
        """In words: what shows that ids mean the same as in the data. Raises InputError if they do not."""

    @property
    def has_own_head(self) -> bool:
        """Whether its head of masked words is written by every export whose class holds one, asked for or not."""
        return True

    def check_head(self) -> None:
        """Raise InputError unless an export can hold the head of masked words that it is trained with."""
        if TOKEN not in self.config.head_names:
            raise InputError(
                "--head: no objective of the run trains a head of masked words, as CAMLM, TLM or MMLM do; leave it out"
            )


@dataclass(frozen=True)
class Own(Architecture):
    """Our own encoder of a resolved shape, or the model that translates."""

    config: ModelConfig
    specials: Specials

    def empty(self, device: Device = "cpu", attention: Attention | None = None) -> OwnModel:
        config = replace(self.config, attention=attention or self.config.attention)
        return model_of(config, device, self.specials)

    def step_zero(
        self, seed: int, target: Target, ranks: Voters, device: Device = "cpu", attention: Attention | None = None
    ) -> StepZero:
        return StepZero(self.empty(device, attention).initialise(seed))

    def shape(self) -> ModelConfig:
        return self.config

    def longest_document(self) -> int:
        return longest_document(self.config)

    def check_vocabulary(self, target: Target) -> str:
        return "its vocabulary is the data's"
