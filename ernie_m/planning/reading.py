"""How many keys a token reads, counted on rows of prepared data, to know the attention FLOPs that are needed."""

from __future__ import annotations

from pathlib import Path

from ernie_m.corpus.folder import CorpusFolder
from ernie_m.rows.batch import PAD_DOCUMENT
from ernie_m.rows.dataloader import PretrainingData
from ernie_m.rows.read_pairs import pairs_read
from ernie_m.rows.schedule import Schedule, StageConfig
from ernie_m.training.recipe import TrainingConfig

COUNTED_ROWS = 256
"""Rows of each objective that are counted. Streams are drawn as in training, so each has the same weight as there."""


def counted_keys(config: TrainingConfig, folder: Path) -> dict[str, float]:
    """Objective -> mean keys that a real token of its rows reads; InputError where the data lacks what the recipe needs."""
    found = {}
    for name in sorted({name for stage in config.stages for name in stage.rows}):
        schedule = Schedule((StageConfig(steps=1, rows={name: 1}),), COUNTED_ROWS)
        data = PretrainingData(CorpusFolder(folder), config.data, schedule, config.seed)
        (batch,) = data.step(0, 0, 1, COUNTED_ROWS)
        found[name] = pairs_read(batch) / int((batch.document_BS != PAD_DOCUMENT).sum())
    return found
