"""The models to measure: checkpoints of a finished run, or a recipe's weights at step 0."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import AutoModel

from ernie_m.ablation.measures import (
    EVALUATION_SEED,
    dictionaries_of,
    measured_by_held_out,
    measured_by_links,
    measured_by_retrieval,
    measured_by_words,
    measured_on_pairs,
    read_held_out,
)
from ernie_m.base.config import build
from ernie_m.base.console import InputError
from ernie_m.base.files import folder_written_atomically, require_new_folder
from ernie_m.base.run_files import CONFIG_FILE, DATA_IDENTITY
from ernie_m.corpus.any_vocabulary import AnyVocabulary, open_vocabulary
from ernie_m.corpus.folder import CorpusFolder
from ernie_m.corpus.gold_sets import read_gold_sets
from ernie_m.interop.architecture import Architecture
from ernie_m.interop.build_model import architecture_of, architecture_of_run, trained_model
from ernie_m.interop.encoder import open_encoder
from ernie_m.interop.export import export_model
from ernie_m.interop.start import starts_of, step_zero
from ernie_m.interop.start_weights import Target
from ernie_m.models.pretraining import PretrainingModel
from ernie_m.rows.dataloader import DataConfig
from ernie_m.runs.checkpoint import committed_folders, verify
from ernie_m.runs.data_identity import tokenizer_of
from ernie_m.runs.ranks import Voters, this_device
from ernie_m.runs.run_folder import RunFolder
from ernie_m.training.recipe import read_training


@dataclass(frozen=True)
class MeasureData:
    """Data to measure on.

    `held_out`: folder of XX-en.{XX,en}, `pairs` of each language are used; `tatoeba`: LASER's files; `data`: a data folder,
    for the dictionaries of its word links; `gold`: names and files of gold links.
    """

    held_out: Path | None
    tatoeba: Path | None
    pairs: int
    data: Path | None = None
    gold: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class MeasuredModel:
    """A model with its data settings, vocabulary and language ids."""

    model: PretrainingModel
    architecture: Architecture
    step: int
    data: DataConfig
    vocabulary: AnyVocabulary
    language_ids: dict[str, int]


def of_run(run: Path, data: Path | None) -> Iterator[MeasuredModel]:
    """Every whole checkpoint of a finished run, oldest first; raises InputError when it is not finished."""
    folder = RunFolder(run)
    configuration, newest = folder.read()
    if not folder.is_complete:
        raise InputError(f"{run}: not finished; let its training end first")
    vocabulary = open_vocabulary(tokenizer_of(configuration, data))
    languages = configuration[DATA_IDENTITY]["languages"]
    architecture = architecture_of_run(run, configuration)
    for path in reversed(committed_folders(folder.checkpoints)):
        checkpoint = newest if path == newest.folder else verify(path)
        model = trained_model(run, configuration, checkpoint)
        section = build(DataConfig, configuration["data"], str(run / CONFIG_FILE), "data.")
        ids = {name: 1 + i for i, name in enumerate(languages)}
        yield MeasuredModel(model, architecture, checkpoint.step, section, vocabulary, ids)


def of_recipe(recipe: Path, seed: int, data: Path) -> MeasuredModel:
    """A recipe's model at step 0: as the seed draws it, or with the weights of its `init_from`."""
    config = replace(read_training(recipe), seed=seed)
    manifest = CorpusFolder(data).manifest
    architecture = architecture_of(config.shape, manifest.specials, len(manifest.languages))
    target = Target.of(architecture.config, data, manifest)
    model = step_zero(architecture, config.seed, starts_of(vars(config)), target, Voters(0, 1)).model
    vocabulary = open_vocabulary(data / manifest.tokenizer_file)
    return MeasuredModel(model, architecture, 0, config.data, vocabulary, manifest.language_ids())


def write_hugging_face(model: MeasuredModel, to: Path) -> None:
    """Export a model's weights; `to` is whole or not there. Raises InputError when it holds anything."""
    require_new_folder("--hugging_face", to)
    with folder_written_atomically(to) as aside:
        export_model(
            model.architecture,
            model.model.state_dict(),
            model.vocabulary.path,
            aside,
            languages=tuple(model.language_ids),
        )


def measured(models: Iterator[MeasuredModel], hugging_face: Path, by: MeasureData) -> dict[str, Any]:
    """All measures of the last of `models`; for a curve, also the measures on pairs of each of them.

    {"step", "pairs": {measure: value}, "retrieval": {language: {layer: [to en, from en]}}, "sets": {set: {pair: {layer:
    [there, back]}}} (held-out files, and Tatoeba centred), "curve": [{"step", ...}], "words": {pair: {"pairs", "to_target",
    "to_source"}}, "links": {gold set: {layer: error rate}}}
    """
    device, gold = this_device(), read_gold_sets(dict(by.gold))
    of_words = dictionaries_of(by.data) if by.data is not None else {}
    curve, last = [], None
    for model in models:
        last = model
        if by.held_out is not None:
            pairs = read_held_out(by.held_out, model.vocabulary, model.language_ids, by.pairs)
            settings = model.data.row_settings(model.vocabulary.specials, EVALUATION_SEED)
            on_pairs = measured_on_pairs(model.model, pairs, settings, device)
            curve.append({"step": model.step, **on_pairs})
    assert last is not None
    result: dict[str, Any] = {
        "step": last.step,
        "curve": curve,
        "pairs": {},
        "retrieval": {},
        "sets": {},
        "words": {},
        "links": {},
    }
    if curve:
        result["pairs"] = {key: value for key, value in curve[-1].items() if key != "step"}
    if by.tatoeba is not None or by.held_out is not None or of_words or gold:
        opened = open_encoder(hugging_face)
        encoder: Any = opened.model(AutoModel)
        encoder.to(device)
        languages = list(last.language_ids)
        if by.tatoeba is not None:
            result["retrieval"], centred = measured_by_retrieval(encoder, opened.tokenizer, by.tatoeba, languages)
            result["sets"]["Tatoeba, centred"] = centred
        if by.held_out is not None:
            result["sets"] |= measured_by_held_out(encoder, opened.tokenizer, by.held_out, languages, by.pairs)
        result["words"] = measured_by_words(encoder, opened.tokenizer, of_words)
        result["links"] = measured_by_links(encoder, opened.tokenizer, gold)
    return result
