"""The one place that builds the model which a recipe or a run names: our own encoder, or one of transformers.

`architecture_of` says which. From it come the empty model, which a checkpoint fills, and the model of step 0. Training,
measuring, planning and exporting know no more than a PretrainingModel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ernie_m.base.console import InputError
from ernie_m.base.special_tokens import Specials
from ernie_m.interop.architecture import Architecture, Device, Own
from ernie_m.interop.start_weights import Target
from ernie_m.models.decoding import Translates
from ernie_m.models.model import Encoder
from ernie_m.models.prefix import PrefixModel
from ernie_m.models.pretraining import PretrainingModel
from ernie_m.models.shape import AnyModel, Attention, ModelConfig
from ernie_m.models.translation import TranslationModel
from ernie_m.rows.dataloader import DataConfig
from ernie_m.rows.objectives import MT
from ernie_m.runs.checkpoint import Checkpoint
from ernie_m.runs.data_identity import specials_of
from ernie_m.runs.fragments import FragmentReader
from ernie_m.runs.run_folder import model_config


def architecture_of(config: AnyModel, specials: Specials, num_languages: int, run: Path | None = None) -> Architecture:
    """The architecture that the section `model` names, on data with these special tokens and so many languages.

    `run`: a run that may have a checkpoint; then what it keeps of its encoder is taken. Raises InputError for what cannot be
    trained.
    """
    if isinstance(config, ModelConfig):
        return Own(config.resolved(specials.vocab_size, num_languages), specials)
    from ernie_m.interop.foreign import foreign_of

    return foreign_of(config, specials, run)


def architecture_of_run(run: Path, configuration: Mapping[str, Any]) -> Architecture:
    """The architecture of the run in folder `run`, from its saved configuration and what it keeps of its encoder."""
    config, specials = model_config(configuration), specials_of(configuration)
    if isinstance(config, ModelConfig):
        return Own(config, specials)
    from ernie_m.interop.foreign import foreign_of_run

    return foreign_of_run(config, specials, run)


def check_fits(architecture: Architecture, data: DataConfig, target: Target) -> str:
    """In words: what shows that ids mean the same to the model as in the data.

    Raises InputError for other ids, and for documents that may be longer than the model has positions for.
    """
    longest = architecture.longest_document()
    if longest is not None and data.document_positions > longest:
        raise InputError(
            f"data.sequence_length: {data.sequence_length}; the model has positions for documents of {longest}; set it to "
            "that, or data.longest_document for longer rows of several texts"
        )
    return architecture.check_vocabulary(target)


def trained_model(
    run: Path,
    configuration: Mapping[str, Any],
    checkpoint: Checkpoint,
    device: Device = "cpu",
    attention: Attention | None = None,
) -> PretrainingModel:
    """The encoder of a verified checkpoint of a run, fp32, on the CPU, made for `device`."""
    if model_config(configuration).translates:
        raise InputError(f"{run}: its model translates (model.decoder); expected a run of an encoder alone")
    model = architecture_of_run(run, configuration).empty(device, attention)
    FragmentReader(checkpoint.folder).fill_weights(model)
    return model


def translator_of(
    run: Path, configuration: Mapping[str, Any], checkpoint: Checkpoint, device: torch.device
) -> TranslationModel:
    """The model of a run with a decoder, with the weights of a verified checkpoint."""
    config = model_config(configuration)
    if not isinstance(config, ModelConfig) or not config.translates:
        raise InputError(
            f"{run}: its model has no decoder, and did not learn MT last; expected a run that translates, e.g. of "
            "recipe xlm_mt"
        )
    model = TranslationModel(config, device, specials_of(configuration))
    FragmentReader(checkpoint.folder).fill_weights(model)
    return model.to(device).eval()


def any_translator_of(
    run: Path, configuration: Mapping[str, Any], checkpoint: Checkpoint, device: torch.device
) -> Translates:
    """As `translator_of`; also of a run without a decoder that learnt MT last: a prefix language model."""
    config, specials = model_config(configuration), specials_of(configuration)
    if not isinstance(config, ModelConfig) or config.translates or MT.name not in configuration["stages"][-1]["rows"]:
        return translator_of(run, configuration, checkpoint, device)
    encoder = Encoder(config, device, specials)
    FragmentReader(checkpoint.folder).fill_weights(encoder)
    return PrefixModel(encoder, specials).to(device).eval()


def load_weights(run: Path, configuration: Mapping[str, Any], checkpoint: Checkpoint) -> dict[str, Tensor]:
    """fp32 weights of a verified checkpoint, on the CPU: the state dict of the run's model."""
    return trained_model(run, configuration, checkpoint, attention="sdpa").state_dict()


def counted_shape(config: AnyModel) -> ModelConfig:
    """The shape for counting FLOPs, memory and parameters. Raises InputError if an encoder of transformers is not there."""
    if isinstance(config, ModelConfig):
        return config
    from ernie_m.interop.foreign import sketch_of

    return replace(sketch_of(config).shape, activation_checkpointing=config.activation_checkpointing)
