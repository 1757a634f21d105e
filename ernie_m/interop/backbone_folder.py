"""An encoder of transformers that a run trains: where it comes from, and what of it the run keeps.

1. `open_backbone`: a Hugging Face folder or hub id, looked at before ranks are started. Its weights are those of step 0.
2. `BackboneSource.keep_in` writes RUN/backbone: configuration, tokenizer, what is not trained, hashes; no trained weights.
3. `open_kept`: from then on resuming, measuring and exporting read RUN/backbone and a checkpoint, and nothing else.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoModelForMaskedLM, PreTrainedModel

from ernie_m.base.console import InputError, Progress
from ernie_m.base.files import HASHED_MIB, folder_written_atomically, read_json, remove, sha256_of, sha256_of_all, write_json
from ernie_m.interop.encoder import Loaded, OpenEncoder, open_encoder
from ernie_m.interop.opening import configuration_of, filled, skeleton_of
from ernie_m.interop.weight_files import (
    CONFIG_FILE,
    SENTENCE_FILES,
    WeightFiles,
    module_folders,
    read_config,
    tokenizer_files,
)

SOURCE_FILE, CONSTANTS_FILE = "source.json", "constants.safetensors"


@dataclass(frozen=True)
class Backbone:
    """An encoder of transformers without its weights: as the recipe calls it, and where its configuration lies."""

    name: str
    folder: Path
    config: Any
    has_head: bool
    """Whether its own head of masked words is taken too."""

    @property
    def auto_class(self) -> Any:
        return AutoModelForMaskedLM if self.has_head else AutoModel

    def skeleton(self) -> PreTrainedModel:
        """Its modules on the meta device."""
        return skeleton_of(self.auto_class, self.config, self.name, trust_remote_code=False)


@dataclass(frozen=True)
class BackboneSource(Backbone):
    """The Hugging Face folder itself."""

    opened: OpenEncoder

    @cached_property
    def sha256(self) -> str:
        """Of its files, weights too."""
        paths = [self.folder / CONFIG_FILE, *WeightFiles(self.folder).files]
        paths += [self.folder / carried for carried in carried_files(self.folder)]
        progress = Progress("hashing the backbone", sum(path.stat().st_size for path in paths) >> 20, "MiB")
        digest = sha256_of_all(paths, self.folder, lambda: progress.advance(HASHED_MIB))
        progress.close()
        return digest

    def load(self) -> Loaded:
        """The model with its weights; InputError where its own head lacks some."""
        loaded = self.opened.load(self.auto_class)
        prefix = f"{loaded.model.base_model_prefix}."
        lost = [key for key in loaded.missing if self.has_head and not key.startswith(prefix)]
        if lost:
            raise InputError(
                f"{self.name}: {len(lost)} weights of its head of masked words are missing, first {min(lost)}; expected a "
                "whole head, or none"
            )
        return loaded

    def keep_in(self, folder: Path, loaded: Loaded, constants: tuple[str, ...]) -> None:
        """Write what the run keeps of it; `constants`: names of what is not trained."""
        with folder_written_atomically(folder) as aside:
            self.config.save_pretrained(aside)
            for name in carried_files(self.folder):
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.folder / name, aside / name)
            save_file(self.constants(loaded, constants), aside / CONSTANTS_FILE, metadata={"format": "pt"})
            kept = {str(path.relative_to(aside)): sha256_of(path) for path in sorted(aside.rglob("*")) if path.is_file()}
            content = {"name": self.name, "has_head": self.has_head, "sha256": self.sha256, "kept": kept}
            write_json(aside / SOURCE_FILE, content)
            remove(folder)

    def constants(self, loaded: Loaded, names: tuple[str, ...]) -> dict[str, Tensor]:
        """The tensors of the files that training does not change, and those that the model has no place for."""
        values, files = loaded.model.state_dict(), WeightFiles(self.folder)
        stored = {name: values[name] for name in names if name not in loaded.missing}
        unused = {name: files.read(name) for name in loaded.unexpected if name in files.shapes}
        return {name: tensor.detach().clone().contiguous() for name, tensor in (stored | unused).items()}


@dataclass(frozen=True)
class KeptBackbone(Backbone):
    """RUN/backbone."""

    sha256: str
    """Of the files that it was taken from."""
    gets_head: bool = False
    """Whether it came without a head, and is put into its class's *ForMaskedLM."""

    def with_head(self) -> KeptBackbone:
        """The same in the class that has a head of masked words."""
        return self if self.has_head else replace(self, has_head=True, gets_head=True)

    def constants(self) -> dict[str, Tensor]:
        """What training does not change, by the names of its class; also what the class has no place for."""
        kept = load_file(self.folder / CONSTANTS_FILE)
        if not self.gets_head:
            return kept
        bare = replace(self, has_head=False).skeleton()
        own = bare.state_dict().keys()
        return {f"{bare.base_model_prefix}.{name}" if name in own else name: tensor for name, tensor in kept.items()}

    def empty(self) -> PreTrainedModel:
        """The model with all its constants; all else is zero, to be filled from a checkpoint."""
        skeleton, constants = self.skeleton(), self.constants()
        aliases = skeleton.state_dict().keys() - {name for name, _ in skeleton.named_parameters()}
        aliases -= {name for name, _ in skeleton.named_buffers()}
        values = {
            name: constants[name] if name in constants else torch.zeros(tensor.shape, dtype=tensor.dtype)
            for name, tensor in skeleton.state_dict().items()
            if name not in aliases
        }
        return filled(skeleton, values, f"{self.folder}: its model cannot be made")[0]


def open_backbone(name: str) -> BackboneSource:
    """The encoder of a folder or hub id; raises InputError, in one line, for what cannot be trained."""
    opened = open_encoder(name, trust_remote_code=None)
    head = opened.head(AutoModelForMaskedLM, ())
    return BackboneSource(name, opened.folder, opened.config, head.is_kept, opened)


def open_kept(folder: Path) -> KeptBackbone:
    """What a run keeps of its encoder; raises InputError when it is not there, or is not what was written."""
    path = folder / SOURCE_FILE
    try:
        content = read_json(path)
        name, has_head, sha256, kept = (content[key] for key in ("name", "has_head", "sha256", "kept"))
        if strange := [file for file in kept if Path(file).is_absolute() or ".." in Path(file).parts]:
            raise InputError(f"{path}: names {strange[0][:80]!r}, which lies elsewhere; restore it")
        altered = [file for file, digest in kept.items() if sha256_of(folder / file) != digest]
    except OSError as error:
        raise InputError(f"{error.filename or path}: {error.strerror}; expected what the run kept of its backbone") from None
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not written by a run ({type(error).__name__}: {error}); restore it") from None
    if altered:
        raise InputError(f"{folder / altered[0]}: not what the run wrote there; restore it")
    config, _ = configuration_of(str(folder), folder, read_config(folder), trust_remote_code=False)
    return KeptBackbone(name, folder, config, has_head, sha256)


def carried_files(folder: Path) -> list[str]:
    """Files beside configuration and weights that go with the encoder, relative to `folder`: those of its tokenizer and,
    where it is one of sentence-transformers, those of its further modules."""
    found = [path.name for path in tokenizer_files(folder)] + [name for name in SENTENCE_FILES if (folder / name).is_file()]
    for module in module_folders(folder):
        found += [str(file.relative_to(folder)) for file in sorted((folder / module).rglob("*")) if file.is_file()]
    return found
