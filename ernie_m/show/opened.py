"""A run opened for looking: one checkpoint's weights, those that it started with, its data order and vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ernie_m.ablation.measured_model import MeasuredModel
from ernie_m.base.config import build, read_saved
from ernie_m.base.console import InputError
from ernie_m.base.run_files import CONFIG_FILE, DATA_IDENTITY
from ernie_m.corpus.any_vocabulary import AnyVocabulary, open_vocabulary
from ernie_m.interop.architecture import Architecture
from ernie_m.interop.build_model import architecture_of_run, trained_model
from ernie_m.interop.start import step_zero_again
from ernie_m.models.pretraining import PretrainingModel
from ernie_m.models.shape import ModelConfig
from ernie_m.rows.dataloader import DATA_ORDER, PretrainingData
from ernie_m.rows.run_data import open_data
from ernie_m.runs.checkpoint import Checkpoint, checkpoint_of
from ernie_m.training.recipe import TrainingConfig


@dataclass(frozen=True)
class OpenedRun:
    """What the page is made of. Models are on the CPU, in fp32 and without dropout."""

    path: Path
    configuration: Mapping[str, Any]
    config: TrainingConfig
    checkpoint: Checkpoint
    data: PretrainingData
    vocabulary: AnyVocabulary

    @property
    def language_ids(self) -> dict[str, int]:
        return self.data.folder.language_ids

    @property
    def data_order_problem(self) -> str | None:
        """Why this release does not know the run's rows; None when it does."""
        order = self.configuration[DATA_IDENTITY].get("data_order", 1)
        if order == DATA_ORDER:
            return None
        return f"the run has data order {order}, this release {DATA_ORDER}: its rows would not be those that were trained"

    def after(self) -> MeasuredModel:
        """The checkpoint's weights."""
        model = trained_model(self.path, self.configuration, self.checkpoint, attention="sdpa")
        return self._measured_model(model, self.checkpoint.step)

    def before(self) -> MeasuredModel:
        """The weights of step 0: drawn from the run's seed and, where `init_from` has others, replaced by those.

        Raises InputError when what the run started from is no longer there, or is not what it was.
        """
        way_out = "name a Hugging Face folder of these weights with --before, or leave them out with --before none"
        try:
            return self._measured_model(step_zero_again(self.path, self.configuration, self.data.folder.folder).model, 0)
        except InputError as error:
            raise InputError(f"{error}; {way_out}") from None

    @cached_property
    def architecture(self) -> Architecture:
        return architecture_of_run(self.path, self.configuration)

    @property
    def shape(self) -> ModelConfig:
        """The model's shape, in the terms of our own encoder."""
        return self.architecture.shape()

    def _measured_model(self, model: PretrainingModel, step: int) -> MeasuredModel:
        of_model = model.eval(), self.architecture
        return MeasuredModel(*of_model, step, self.config.data, self.vocabulary, self.language_ids)


def open_run(run: Path, data: Path | None = None, checkpoint: str | None = None) -> OpenedRun:
    """Open the run folder `run` at `checkpoint` (step_00001000, or 1000; default: the newest whole one).

    Raises InputError when it is none, has no such checkpoint yet, or when its data is not at hand.
    """
    opened = open_data(run, data)
    configuration = read_saved(run)
    content = {key: value for key, value in configuration.items() if key != DATA_IDENTITY}
    config = build(TrainingConfig, content, str(run / CONFIG_FILE))
    if config.model.translates:
        raise InputError(f"{run}: its model translates (model.decoder); expected a run of an encoder alone")
    vocabulary = open_vocabulary(opened.folder.tokenizer_path)
    return OpenedRun(run, configuration, config, checkpoint_of(run, checkpoint), opened, vocabulary)
