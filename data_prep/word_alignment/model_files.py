"""A trained model on disk: .npy files that all ranks of a machine map, so that they are in memory once."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from data_prep.word_alignment.cells import Types
from data_prep.word_alignment.model import Direction, Model
from data_prep.work_folder import write_array
from ernie_m.base.files import read_json, write_json

MODEL_FILE = "model.json"
_DIRECTIONS = ("forward", "backward")


@dataclass(frozen=True)
class Trained:
    """Facts about a trained model, for people to read."""

    pairs: int
    """That it was trained on."""
    types: int
    """Pairs of ids with a translation probability of their own."""
    tension: tuple[float, float]
    perplexity: tuple[float, float]


def save(folder: Path, model: Model, num_pairs: int) -> None:
    """Write the model; MODEL_FILE last, so a folder with it is whole."""
    write_array(folder / "starts.npy", model.types.starts)
    write_array(folder / "targets.npy", model.types.targets)
    for name, direction in zip(_DIRECTIONS, (model.forward, model.backward), strict=True):
        for key in ("table", "null", "floor"):
            write_array(folder / f"{name}_{key}.npy", getattr(direction, key))
    tension = model.forward.tension, model.backward.tension
    told = Trained(num_pairs, len(model.types.targets), tension, model.perplexity)
    write_json(folder / MODEL_FILE, {**asdict(told), "null_prior": model.null_prior})


def is_whole(folder: Path) -> bool:
    """Whether a model was saved here."""
    return (folder / MODEL_FILE).is_file()


def told(folder: Path) -> Trained:
    """The facts about the model."""
    content = read_json(folder / MODEL_FILE)
    content.pop("null_prior")
    tension, perplexity = (tuple(content.pop(key)) for key in ("tension", "perplexity"))
    return Trained(**content, tension=tension, perplexity=perplexity)


@lru_cache(maxsize=2)
def load(folder: Path) -> Model:
    """The model, mapped."""

    def array(name: str) -> np.ndarray:
        return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r"))

    content = read_json(folder / MODEL_FILE)
    directions = [
        Direction(array(f"{name}_table"), array(f"{name}_null"), array(f"{name}_floor"), tension)
        for name, tension in zip(_DIRECTIONS, content["tension"], strict=True)
    ]
    types = Types(array("starts"), array("targets"))
    forward, backward = directions
    return Model(types, forward, backward, content["null_prior"], tuple(content["perplexity"]))
