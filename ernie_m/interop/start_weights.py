"""Weights that a model starts from, once they are found to fit, and the model that is to be filled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ernie_m.base.console import InputError
from ernie_m.base.special_tokens import FIRST_POSITION_ID
from ernie_m.corpus.editable import RowSources
from ernie_m.corpus.manifest import Manifest
from ernie_m.interop.layout import LANGUAGES, POSITIONS
from ernie_m.interop.new_rows import with_rows
from ernie_m.interop.other_vocabulary import PIECE_ROWS
from ernie_m.models.shape import AnyModel

INIT_FROM = "init_from"


@dataclass(frozen=True)
class Target:
    """The model that is to be filled: its resolved section `model`, and the languages and the tokenizer of its data."""

    config: AnyModel
    languages: tuple[str, ...]
    tokenizer: Path
    tokenizer_sha256: str
    first_position: int = FIRST_POSITION_ID
    """Position id of a sentence's first token."""

    @staticmethod
    def of(config: AnyModel, data: Path, manifest: Manifest) -> Target:
        """A model of that resolved section on the data folder `data`."""
        tokenizer = data / manifest.tokenizer_file
        first = manifest.specials.first_position
        return Target(config, tuple(manifest.languages), tokenizer, manifest.tokenizer_sha256, first)


class Tensors(Protocol):
    """Tensors by name, out of files."""

    def read(self, name: str) -> Tensor:
        """One tensor on the CPU, in the type it is stored in."""

    def sha256(self, on_progress: Callable[[], None] = ...) -> str:
        """A hash of all files that they are read from; `on_progress` is called for each part that was hashed."""

    def num_bytes(self) -> int:
        """Bytes that `sha256` reads."""


class NamedTensors(Tensors, Protocol):
    """Tensors under another class's names."""

    folder: Path
    shapes: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Source:
    """Weights that fit the target. `names`: each of our parameters that they have -> the tensors it is made of."""

    path: Path
    kind: str
    vocabulary: str
    """What shows that its ids are the data's, in words."""
    tensors: Tensors
    names: Mapping[str, tuple[str, ...]]
    unused: tuple[str, ...] = ()
    token_type: str | None = None
    language_rows: Mapping[int, int] | None = None
    """Our language id -> its, for languages that both have; None when it has no language embedding."""
    rows: RowSources | None = None
    """Which of its rows each of our pieces starts from, when its vocabulary is another; None when it is the data's."""
    first_positions: tuple[int, int] = (0, 0)
    """Position ids of the first token, its and ours: from there on its position table goes into ours."""
    key: str = INIT_FROM
    """Of the recipe, that names it."""

    def fill_parameters(self, parameters: Mapping[str, Tensor]) -> list[str]:
        """Put the weights into these parameters (fp32), one at a time. Returns the names of those that it does not have.

        Raises InputError for numbers that are not finite.
        """
        left = []
        with torch.no_grad():
            for name, parameter in parameters.items():
                if name == LANGUAGES and self.language_rows:
                    theirs = self._read(*self.names[LANGUAGES]).view(-1, parameter.shape[1])
                    for ours, row in self.language_rows.items():
                        parameter[ours] = theirs[row]
                elif name == LANGUAGES:
                    left.append(name)
                elif self.rows is not None and name in PIECE_ROWS and name in self.names:
                    (theirs_name,) = self.names[name]
                    theirs = self._read(theirs_name).view(-1, *parameter.shape[1:])
                    parameter.copy_(with_rows(theirs, self.rows))
                elif name == POSITIONS and name in self.names:
                    self._fill_positions(parameter)
                elif name in self.names:
                    self._fill(self.names[name], parameter)
                else:
                    left.append(name)
            if self.token_type:
                parameters[POSITIONS].add_(self._read(self.token_type)[0])
        return left

    def _fill_positions(self, parameter: Tensor) -> None:
        its, ours = self.first_positions
        theirs = self._read(*self.names[POSITIONS]).view(-1, parameter.shape[1])
        count = min(its, ours)  # rows in front of the first token's, the padding's among them
        parameter[ours - count :] = theirs[its - count :]

    def _fill(self, names: tuple[str, ...], parameter: Tensor) -> None:
        for name, rows in zip(names, parameter.chunk(len(names)), strict=True):
            rows.copy_(self._read(name).view(rows.shape))

    def _read(self, name: str) -> Tensor:
        tensor = self.tensors.read(name)
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{self.key}: {self.path}: {name} holds numbers that are not finite; take another checkpoint")
        return tensor
