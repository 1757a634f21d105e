"""A model that translates as a Hugging Face folder: an EncoderDecoderModel of XLM-R's classes, which
`AutoModelForSeq2SeqLM` loads.

That class has no languages: a folder translates in one direction. The language embedding of the source is the encoder's
token type, which the class adds to every token, that of the target the decoder's. Embeddings that the two sides share are
written once for each, and the output matrix beside the word embedding: the class has all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import EncoderDecoderConfig, GenerationConfig, XLMRobertaConfig

from ernie_m.base.command_line import nearest
from ernie_m.base.console import InputError
from ernie_m.base.files import write_json
from ernie_m.base.special_tokens import BOS_ID, EOS_ID, PAD_ID, Specials
from ernie_m.corpus.any_vocabulary import AnyVocabulary, open_vocabulary
from ernie_m.corpus.tokenizer_files import TOKENIZER_FILE
from ernie_m.interop.export import hugging_face_config
from ernie_m.interop.layout import CONFIG_KEYS, KINDS, LANGUAGES, POSITIONS, XLM_ROBERTA
from ernie_m.interop.source import check_configuration
from ernie_m.interop.tokenizer_export import refuse_unwritable, write_tokenizer
from ernie_m.interop.weight_files import CONFIG_FILE, SAFETENSORS, WeightFiles, folder_of, read_config
from ernie_m.models.shape import ModelConfig, longest_document
from ernie_m.models.translation import TranslationModel

MODEL_TYPE, CLASS = "encoder-decoder", "EncoderDecoderModel"
DIRECTION = "translates"
"""Key of config.json: source and target language."""
SIDES = {"encoder": "encoder.", "decoder": f"decoder.{XLM_ROBERTA.prefix}."}
"""Our side -> how the names of its parameters begin in that class."""
OUTPUT_MATRIX = f"decoder.{XLM_ROBERTA.output_matrix}"
ACROSS = {
    "across_query": ("self.query",),
    "across_key_value": ("self.key", "self.value"),
    "across_out": ("output.dense",),
    "across_norm": ("output.LayerNorm",),
}


def names_in_class(num_layers: int) -> dict[str, tuple[str, ...]]:
    """Our parameters -> those of the class that each is made of; without language embeddings."""
    of_side = XLM_ROBERTA.encoder_names(num_layers)
    names = {
        f"{side}.{ours}": tuple(f"{prefix}{name}" for name in theirs)
        for side, prefix in SIDES.items()
        for ours, theirs in of_side.items()
    }
    for i in range(num_layers):
        for ours, theirs in ACROSS.items():
            for kind in KINDS:
                across = (f"{SIDES['decoder']}encoder.layer.{i}.crossattention.{name}.{kind}" for name in theirs)
                names[f"decoder.layers.{i}.{ours}.{kind}"] = tuple(across)
    return {**names, **{ours: (f"decoder.{theirs}",) for ours, theirs in XLM_ROBERTA.head.items()}}


def direction_of(direction: str | None, languages: Sequence[str]) -> tuple[str, str]:
    """The two languages of a direction such as fr-en; InputError if it is missing, or if the model has not both."""
    for source in languages:  # a language may have a hyphen in its name
        target = (direction or "").removeprefix(f"{source}-")
        if target != direction and target in languages and target != source:
            return source, target
    pairs = [f"{source}-{target}" for source in languages for target in languages if source != target]
    shown = ", ".join(pairs[:6]) + (" ..." if len(pairs) > 6 else "")
    if direction is None:
        raise InputError(f"--direction is missing: a folder of a model that translates has one of {shown}")
    raise InputError(
        f"--direction {direction}{nearest(direction, pairs) or ':'} expected two languages of the model: {shown}"
    )


def export_translation(
    model: TranslationModel, languages: Sequence[str], direction: tuple[str, str], tokenizer: Path, to: Path
) -> None:
    """Write weights, configurations and tokenizer into `to`. Raises InputError for a tokenizer not in XLM-R's layout."""
    vocabulary = open_vocabulary(tokenizer)
    refuse_unwritable(vocabulary)
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    theirs: dict[str, Tensor] = {}
    for ours, names in names_in_class(model.num_layers).items():
        theirs |= zip(names, weights[ours].chunk(len(names)), strict=True)
    for (side, prefix), language in zip(SIDES.items(), direction, strict=True):
        number = 1 + list(languages).index(language)
        theirs[f"{prefix}{XLM_ROBERTA.token_type}"] = weights[f"{side}.{LANGUAGES}"][[number]]
    width = model.config.hidden_size
    pooler = {"weight": torch.zeros(width, width), "bias": torch.zeros(width)}  # the class makes one, which nothing reads
    theirs |= {f"{SIDES['encoder']}pooler.dense.{kind}": tensor for kind, tensor in pooler.items()}
    theirs[OUTPUT_MATRIX] = theirs[f"{SIDES['decoder']}embeddings.word_embeddings.weight"]
    theirs[f"{OUTPUT_MATRIX.removesuffix('weight')}bias"] = weights["heads.token.decoder_bias"]
    save_file({name: tensor.clone() for name, tensor in theirs.items()}, to / SAFETENSORS, metadata={"format": "pt"})
    _write_configurations(model, direction, to)
    write_tokenizer(vocabulary, to, longest_document(model.config))
    (to / SAFETENSORS).chmod((to / CONFIG_FILE).stat().st_mode)  # safetensors lets only the owner read them


def _write_configurations(model: TranslationModel, direction: tuple[str, str], to: Path) -> None:
    shape = {**hugging_face_config(model.config), "type_vocab_size": 1}
    sides = XLMRobertaConfig(**shape), XLMRobertaConfig(**shape, is_decoder=True, add_cross_attention=True)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(*sides)
    special = {"decoder_start_token_id": BOS_ID, "bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
    content = {**config.to_dict(), **special, "architectures": [CLASS], "dtype": "float32", DIRECTION: list(direction)}
    write_json(to / CONFIG_FILE, {**content, "vocab_size": model.config.vocab})
    longest = {"max_length": longest_document(model.config), "suppress_tokens": never_written(model.specials)}
    GenerationConfig(**special, **longest, num_beams=1, do_sample=False).save_pretrained(to)


def never_written(specials: Specials) -> list[int]:
    """The ids that no target holds."""
    pieces = {i for first, last in specials.replaceable for i in range(first, last)}
    return sorted({*range(specials.vocab_size)} - pieces - {specials.end})


@dataclass(frozen=True)
class TranslationFolder:
    """A model of such a folder, on its device. `direction`: its languages, if the folder names them."""

    model: TranslationModel
    vocabulary: AnyVocabulary
    direction: tuple[str, str] | None


def read_folder(name: str, device: torch.device) -> TranslationFolder:
    """Open a folder or hub id. Raises InputError for what is no encoder-decoder of XLM-R's classes, or not whole."""
    path = folder_of(name)
    content = read_config(path)
    config = _config_of(path, content)
    vocabulary = open_vocabulary(path / TOKENIZER_FILE if (path / TOKENIZER_FILE).is_file() else path)
    if vocabulary.size != config.vocab:
        raise InputError(
            f"{path}: its tokenizer has {vocabulary.size:,} ids, its weights {config.vocab:,}; take a whole folder"
        )
    begins = content.get("decoder_start_token_id")
    if begins not in (None, vocabulary.specials.begin):
        raise InputError(
            f"{path / CONFIG_FILE}: decoder_start_token_id {begins}; expected {vocabulary.specials.begin}, which begins text"
        )
    specials = replace(vocabulary.specials, first_position=XLM_ROBERTA.first_position)  # the tokenizer cannot know the class
    model = TranslationModel(config, device, specials)
    _fill(model, WeightFiles(path))
    said = content.get(DIRECTION)
    direction = (str(said[0]), str(said[1])) if isinstance(said, list) and len(said) == len(SIDES) else None
    return TranslationFolder(model.to(device).eval(), vocabulary, direction)


def _config_of(path: Path, content: Mapping[str, Any]) -> ModelConfig:
    kinds = [content.get("model_type"), *((content.get(side) or {}).get("model_type") for side in SIDES)]
    if kinds != [MODEL_TYPE, *[XLM_ROBERTA.model_type] * len(SIDES)]:
        own = f"{kinds[0]} of {kinds[1]} and {kinds[2]}" if kinds[0] == MODEL_TYPE else kinds[0]
        raise InputError(
            f"{path / CONFIG_FILE}: model type {own}; expected a run, or an {MODEL_TYPE} of {XLM_ROBERTA.model_type}, as "
            "`ernie-m export --direction` makes one"
        )
    shapes = []
    for side in SIDES:
        own_content = {**content[side], "is_decoder": False}
        check_configuration(path, XLM_ROBERTA, own_content)
        shapes.append({ours: own_content[theirs] for ours, theirs in CONFIG_KEYS.items()})
    if shapes[0] != shapes[1]:
        key = next(key for key in shapes[0] if shapes[0][key] != shapes[1][key])
        raise InputError(
            f"{path / CONFIG_FILE}: {key} {shapes[0][key]} of the encoder, {shapes[1][key]} of the decoder; expected two "
            "sides of one shape"
        )
    if not content["decoder"].get("add_cross_attention"):
        raise InputError(f"{path / CONFIG_FILE}: the decoder has no add_cross_attention; expected one that reads the source")
    return ModelConfig(**shapes[0], num_languages=1, decoder="separate", language_embedding="none", dropout=0.0)


def _fill(model: TranslationModel, files: WeightFiles) -> None:
    parameters, names = dict(model.named_parameters()), names_in_class(model.num_layers)
    types = {f"{side}.{POSITIONS}": f"{prefix}{XLM_ROBERTA.token_type}" for side, prefix in SIDES.items()}
    lacking = [name for theirs in (*names.values(), types.values()) for name in theirs if name not in files.shapes]
    if lacking:
        raise InputError(f"{files.folder}: {lacking[0]} is missing ({len(lacking)} in all); expected a whole {CLASS}")
    with torch.no_grad():
        for ours, theirs in names.items():
            for name, rows in zip(theirs, parameters[ours].chunk(len(theirs)), strict=True):
                if files.shapes[name] != tuple(rows.shape):
                    raise InputError(
                        f"{files.folder}: {name} has the shape {files.shapes[name]}, expected {tuple(rows.shape)}"
                    )
                rows.copy_(files.read(name))
        for ours, name in types.items():
            parameters[ours].add_(files.read(name)[0])
        words = parameters["decoder.embeddings.word.weight"]
        if OUTPUT_MATRIX in files.shapes and not torch.equal(files.read(OUTPUT_MATRIX), words):
            raise InputError(f"{files.folder}: {OUTPUT_MATRIX} is not the decoder's word embedding; expected a tied one")
