"""Which data a run was started on: the section of its config.yaml that the trainer writes, and what is read from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ernie_m.base.console import InputError
from ernie_m.base.files import sha256_of
from ernie_m.base.run_files import CONFIG_FILE, DATA_IDENTITY
from ernie_m.base.special_tokens import Specials
from ernie_m.corpus.manifest import MANIFEST_FILE, Manifest
from ernie_m.corpus.tokenizer_files import TOKENIZER_FILE, TOKENIZER_JSON
from ernie_m.models.shape import AnyModel, BackboneConfig
from ernie_m.rows.dataloader import DATA_ORDER
from ernie_m.runs.run_folder import model_config

SPECIAL_TOKENS = "special_tokens"


def data_identity(data: Path, manifest: Manifest, model: AnyModel) -> dict[str, Any]:
    """The section for a run of this model on the data folder with this manifest."""
    return {
        "folder": str(data.resolve()),
        "manifest_sha256": sha256_of(data / MANIFEST_FILE),
        "tokenizer_sha256": manifest.tokenizer_sha256,
        "languages": manifest.languages,
        "data_order": DATA_ORDER,
        **specials_recorded(manifest.specials, model),
    }


def specials_recorded(specials: Specials, model: AnyModel) -> dict[str, Any]:
    """What a run's `data_identity` says of its special tokens.

    Of our own encoder in XLM-R's layout nothing, as in earlier releases: the size of its vocabulary says it.
    """
    is_known = not isinstance(model, BackboneConfig) and specials == Specials.xlm_r(specials.vocab_size)
    return {} if is_known else {SPECIAL_TOKENS: specials.to_json()}


def specials_of(configuration: Mapping[str, Any]) -> Specials:
    """The special tokens of a run's vocabulary, from its saved configuration."""
    recorded = configuration[DATA_IDENTITY].get(SPECIAL_TOKENS)
    if recorded is not None:
        return Specials.from_json(recorded, f"{CONFIG_FILE}: {DATA_IDENTITY}.{SPECIAL_TOKENS}")
    model = model_config(configuration)
    if isinstance(model, BackboneConfig):
        raise InputError(f"{CONFIG_FILE}: {DATA_IDENTITY}.{SPECIAL_TOKENS} is missing; expected what the run wrote there")
    return Specials.xlm_r(model.vocab)


def tokenizer_of(configuration: dict[str, Any], data: Path | None) -> Path:
    """The tokenizer file of the run's data, its fingerprint checked; raises InputError when it is another's."""
    identity = configuration[DATA_IDENTITY]
    folder = data or Path(identity["folder"])
    path = folder / (TOKENIZER_JSON if (folder / TOKENIZER_JSON).is_file() else TOKENIZER_FILE)
    if not path.is_file():
        raise InputError(f"{path}: no such file; name the run's data folder with --data")
    if sha256_of(path) != identity["tokenizer_sha256"]:
        raise InputError(f"{path}: not the tokenizer this run was trained with; name its data folder with --data")
    return path
