"""What a run can start from: XLM-R (in Hugging Face's or fairseq's format), ERNIE-M, an export, or another run.

`open_source` reads only configurations and names of tensors, which is quick; `Source.fill_parameters` reads the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ernie_m.base.config import read_yaml
from ernie_m.base.console import InputError
from ernie_m.base.run_files import CHECKPOINTS_FOLDER, DATA_IDENTITY
from ernie_m.base.run_files import CONFIG_FILE as RUN_CONFIG_FILE
from ernie_m.corpus.editable import RowSources
from ernie_m.interop.checkpoint_tensors import CheckpointTensors
from ernie_m.interop.fairseq import FINAL_NORM, MODEL_FILE, FairseqFile
from ernie_m.interop.layout import CONFIG_KEYS, FAIRSEQ, LANGUAGE_NUMBERS, LANGUAGES, LAYOUTS, OF_SIDES, Layout
from ernie_m.interop.other_vocabulary import rows_between, vocabulary_of
from ernie_m.interop.start_weights import INIT_FROM, NamedTensors, Source, Target
from ernie_m.interop.weight_files import CONFIG_FILE, WeightFiles, folder_of, read_config
from ernie_m.models.model import Encoder
from ernie_m.models.shape import AnyModel, BackboneConfig, ModelConfig
from ernie_m.runs.checkpoint import MANIFEST_FILE, committed_folders
from ernie_m.runs.data_identity import specials_of, tokenizer_of
from ernie_m.runs.run_folder import model_config

REQUIRED = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
REFUSED = {
    "xlm-roberta-xl": "its layer norms stand in front of each block (pre-LN), this encoder's behind it (post-LN): its "
    "weights would compute something else; expected XLM-R base or large",
    "roberta": "its ids are those of a BPE of bytes, not of a SentencePiece model; expected XLM-R",
}
SIDES = {"init_encoder": "encoder", "init_decoder": "decoder"}
"""Key of a recipe -> the side of a model that translates which starts from there."""
HEADS = "heads."
OF_AN_ENCODER = "weights of an encoder alone; a model with model.decoder takes them as init_encoder and init_decoder"


def open_source(init_from: str, target: Target, key: str = INIT_FROM) -> Source:
    """Open a folder, a hub id or fairseq's model.pt, for the model or, by `key`, for one side of it.

    Raises InputError when it is unknown or broken, or does not fit `target`.
    """
    side = SIDES.get(key)
    try:
        if side is not None:
            target = replace(target, config=one_side(target.config))
        return replace(_opened(init_from, target, side), key=key)
    except InputError as error:
        raise InputError(f"{key}: {error}") from None


def one_side(config: AnyModel) -> ModelConfig:
    """The encoder that has the shape of one side of a model that translates."""
    if not isinstance(config, ModelConfig) or not config.translates:
        raise InputError("the model has no decoder; expected null, or a recipe with model.decoder, e.g. xlm_mt")
    return replace(config, decoder=None)


def _opened(init_from: str, target: Target, side: str | None) -> Source:
    file = Path(init_from).expanduser()
    if file.is_file() and file.suffix == Path(MODEL_FILE).suffix:
        return _of_fairseq(file, target)
    path = folder_of(init_from)
    if (path / MODEL_FILE).is_file() and not (path / CONFIG_FILE).is_file():
        return _of_fairseq(path / MODEL_FILE, target)
    if (path / RUN_CONFIG_FILE).is_file() or (path / MANIFEST_FILE).is_file():
        return _of_run(path, target, side)
    return _of_hugging_face(path, target, LAYOUTS if side is None else OF_SIDES)


def _shape_of(target: Target, path: Path) -> ModelConfig:
    """Of our own encoder, which all but a run's weights are for."""
    if isinstance(target.config, BackboneConfig):
        raise InputError(
            f"{path}: with model.backbone the weights are the backbone's; expected null, or a run of the same backbone"
        )
    if target.config.translates:
        raise InputError(f"{path}: {OF_AN_ENCODER}")
    return target.config


def _of_hugging_face(path: Path, target: Target, layouts: Mapping[str, Layout]) -> Source:
    shape, content = _shape_of(target, path), read_config(path)
    layout = _layout(path, content, layouts)
    check_configuration(path, layout, content)
    found = {ours: content[theirs] for ours, theirs in CONFIG_KEYS.items()}
    source = _source(path, layout, found, WeightFiles(path), target, shape)
    if source.token_type is None or LANGUAGE_NUMBERS not in content:
        return source
    names = {**source.names, LANGUAGES: (source.token_type,)}
    return replace(source, names=names, language_rows=_shared_languages(target, content[LANGUAGE_NUMBERS]))


def _shared_languages(target: Target, numbers: Mapping[str, int]) -> dict[int, int]:
    """Our language id -> theirs, of the languages that both have."""
    return {ours: numbers[name] for ours, name in enumerate(target.languages, start=1) if name in numbers}


def check_configuration(path: Path, layout: Layout, content: Mapping[str, Any]) -> None:
    """Raise InputError for a config.json of that class that lacks a key, or whose model computes another function."""
    missing = [key for key in CONFIG_KEYS.values() if key not in content]
    if missing:
        raise InputError(f"{path / CONFIG_FILE}: no {missing[0]}; expected the configuration of an {layout.model_type}")
    for key, expected in {**REQUIRED, "pad_token_id": layout.pad}.items():
        if content.get(key, expected) != expected:
            raise InputError(f"{path / CONFIG_FILE}: {key} {content[key]!r}; this encoder has {expected!r}")


def _of_fairseq(path: Path, target: Target) -> Source:
    """XLM-R's model.pt; its vocabulary lies beside it."""
    file, shape = FairseqFile(path), _shape_of(target, path)
    if FINAL_NORM in file.shapes:
        raise InputError(f"{path}: {REFUSED['xlm-roberta-xl']}")
    return _source(path, FAIRSEQ, file.model_shape(), file, target, shape)


def _source(
    path: Path, layout: Layout, found: Mapping[str, Any], files: NamedTensors, target: Target, shape: ModelConfig
) -> Source:
    """`found`: the shape of these weights, under our names. Raises InputError where shape or vocabulary do not fit."""
    vocabulary, rows = vocabulary_of(files.folder, target.tokenizer, target.tokenizer_sha256)
    firsts = layout.first_position, target.first_position
    config = _with_its_vocabulary(shape, found["vocab_size"], rows)
    _check_shape(path, _with_our_first(found, firsts), config)
    names, token_type = _names(layout, files, replace(config, max_positions=int(found["max_positions"])))
    used = {name for theirs in names.values() for name in theirs} | {token_type, layout.output_matrix}
    unused = tuple(sorted(set(files.shapes) - used))
    return Source(path, layout.model_type, vocabulary, files, names, unused, token_type, None, rows, firsts)


def _with_our_first(found: Mapping[str, Any], firsts: tuple[int, int]) -> dict[str, Any]:
    """The shape whose position table begins at our first position."""
    (its, ours), said = firsts, found["max_positions"]
    return {**found, "max_positions": said - its + ours if isinstance(said, int) else said}


def _with_its_vocabulary(config: ModelConfig, vocab_size: int, rows: RowSources | None) -> ModelConfig:
    """The shape that the weights must have: with another vocabulary than the data's, of another size too."""
    return config if rows is None else replace(config, vocab_size=vocab_size)


def _layout(path: Path, content: Mapping[str, Any], layouts: Mapping[str, Layout]) -> Layout:
    model_type = str(content.get("model_type"))
    if model_type not in layouts:
        reason = REFUSED.get(model_type, f"expected {' or '.join(layouts)}")
        raise InputError(f"{path / CONFIG_FILE}: model_type {content.get('model_type')!r}: {reason}")
    return layouts[model_type]


def _check_shape(path: Path, found: Mapping[str, Any], config: ModelConfig) -> None:
    if found["vocab_size"] != config.vocab:
        raise InputError(
            f"{path}: a vocabulary of {found['vocab_size']:,}, the data's tokenizer gives {config.vocab:,}; build the data "
            "with the weights' own tokenizer"
        )
    keys = [key for key in found if key != "vocab_size" and not _same(found[key], getattr(config, key))]
    if keys:
        has, wants = (", ".join(f"{key} {shape[key]}" for key in keys) for shape in (found, vars(config)))
        settings = " ".join(f"model.{key}={found[key]}" for key in keys)
        raise InputError(f"{path}: {has}; the recipe has {wants}: set {settings}, or start from weights of its shape")


def _same(theirs: Any, ours: float) -> bool:
    return isinstance(theirs, int | float) and math.isclose(theirs, ours, rel_tol=1e-9)


def _names(layout: Layout, files: NamedTensors, config: ModelConfig) -> tuple[dict[str, tuple[str, ...]], str | None]:
    """Our parameters -> their tensors, and the token type's name. Raises InputError if one lacks or has another shape."""
    encoder, token_type = layout.encoder_names(config.num_layers), layout.token_type
    if any(name.startswith(f"{layout.prefix}.") for name in files.shapes):
        encoder = layout.with_prefix(encoder)
        token_type = f"{layout.prefix}.{token_type}" if token_type else None
    head = {ours: (theirs,) for ours, theirs in layout.head.items()}
    names = encoder | (head if any(theirs in files.shapes for (theirs,) in head.values()) else {})
    missing = [name for theirs in names.values() for name in theirs if name not in files.shapes]
    missing += [token_type] if token_type and token_type not in files.shapes else []
    if missing:
        raise InputError(
            f"{files.folder}: {missing[0]} is missing ({len(missing)} in all); expected those of an {layout.model_type}, "
            f"found e.g. {', '.join(sorted(files.shapes)[:2]) or 'none'}"
        )
    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in Encoder(config).named_parameters()}
    for ours, theirs in names.items():
        expected = (shapes[ours][0] // len(theirs), *shapes[ours][1:])
        for name in theirs:
            if files.shapes[name] != expected:
                raise InputError(f"{files.folder}: {name} has the shape {files.shapes[name]}, expected {expected}")
    _check_output_matrix(layout, files, names)
    return names, token_type


def _check_output_matrix(layout: Layout, files: NamedTensors, names: Mapping[str, tuple[str, ...]]) -> None:
    """Raise InputError when an output matrix is stored that is not the word embedding: ours is."""
    if layout.output_matrix in files.shapes:
        assert layout.output_matrix is not None
        if not torch.equal(files.read(layout.output_matrix), files.read(names["embeddings.word.weight"][0])):
            raise InputError(
                f"{files.folder}: {layout.output_matrix} is not the word embedding; expected a checkpoint that ties them"
            )


def _of_run(path: Path, target: Target, side: str | None) -> Source:
    """A run folder (its newest checkpoint), or one checkpoint of a run."""
    run = path if (path / RUN_CONFIG_FILE).is_file() else path.resolve().parents[1]
    configuration = read_yaml(run / RUN_CONFIG_FILE)
    if DATA_IDENTITY not in configuration:
        raise InputError(f"{run / RUN_CONFIG_FILE}: not a run's; expected a Hugging Face folder, a hub id or a run folder")
    folders = committed_folders(run / CHECKPOINTS_FOLDER) if run == path else [path]
    if not folders:
        raise InputError(f"{run}: no checkpoint under {run / CHECKPOINTS_FOLDER}")
    identity, found = configuration[DATA_IDENTITY], model_config(configuration)
    vocabulary, piece_rows = "the data's tokenizer", None
    if identity["tokenizer_sha256"] != target.tokenizer_sha256:
        vocabulary, piece_rows = _from_its_vocabulary(run, configuration, target)
    first = target.first_position if piece_rows is None else specials_of(configuration).first_position
    firsts = first, target.first_position
    _check_same_kind(path, found, target, piece_rows, firsts)
    tensors = CheckpointTensors(folders[0])
    its = {language: number for number, language in enumerate(identity["languages"], start=1)}
    names, unused = _names_of_run(path, found, target, side, tensors.names)
    rows = _shared_languages(target, its)
    return Source(folders[0], "a run of ours", vocabulary, tensors, names, unused, None, rows, piece_rows, firsts)


def _names_of_run(
    path: Path, found: AnyModel, target: Target, side: str | None, stored: Iterable[str]
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Our parameters -> the run's, and those of it that the side has no place for.

    Raises InputError for another kind of run.
    """
    if side is None:
        if found.translates:
            raise InputError(f"{path}: a run of a model with a decoder; expected one of an encoder alone")
        if target.config.translates:
            raise InputError(f"{path}: {OF_AN_ENCODER}")
    if found.translates:
        shared = {name.removeprefix("encoder."): name for name in stored if name.startswith("encoder.embeddings.")}
        of_side = {name.removeprefix(f"{side}."): name for name in stored if name.startswith(f"{side}.")}
        own = {**shared, **of_side, **{name: name for name in stored if name.startswith(HEADS)}}
    else:
        own = {name: name for name in stored}
    names: dict[str, tuple[str, ...]] = {ours: (theirs,) for ours, theirs in own.items()}
    if side == "encoder":
        names = {ours: theirs for ours, theirs in names.items() if not ours.startswith(HEADS)}
    used = {name for theirs in names.values() for name in theirs}
    unused = [] if side is None else sorted(name for name in stored if name not in used)
    return names, tuple(unused)


def _from_its_vocabulary(run: Path, configuration: dict[str, Any], target: Target) -> tuple[str, RowSources | None]:
    """A backbone's tokenizer is the data's, whatever file it is in."""
    if isinstance(target.config, BackboneConfig):
        return "the backbone's tokenizer", None
    try:
        tokenizer = tokenizer_of(configuration, None)
    except InputError as error:
        raise InputError(f"{run}: was trained with another tokenizer than the data's, and that is gone: {error}") from None
    return rows_between(tokenizer, target.tokenizer)


def _check_same_kind(path: Path, found: AnyModel, target: Target, rows: RowSources | None, firsts: tuple[int, int]) -> None:
    """Raise InputError for a run of another shape than ours, or of another backbone."""
    if isinstance(found, ModelConfig) and isinstance(target.config, ModelConfig):
        shape = {**vars(found), "vocab_size": found.vocab}
        ours = _with_its_vocabulary(target.config, found.vocab, rows)
        return _check_shape(path, _with_our_first({key: shape[key] for key in CONFIG_KEYS}, firsts), ours)
    its, wanted = (getattr(config, "backbone_sha256", None) for config in (found, target.config))
    if its != wanted:
        its_name, our_name = (getattr(config, "backbone", "our own encoder") for config in (found, target.config))
        raise InputError(
            f"{path}: a run of {its_name}, this one trains {our_name} (or other files of that name); export that run with "
            "`ernie-m export`, and name the folder as model.backbone"
        )
    return None
