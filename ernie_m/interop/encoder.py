"""Open any Hugging Face encoder. Fine-tuning, evaluation, comparisons and pages all do it here.

1. It is a folder or a hub id, as for `init_from`. A model that is no encoder of text is refused, and the message says what
   it is. A folder with Python code of its own is refused too, unless the user allows it.
2. Weights are used in fp32, whatever type they are stored in. ernie_m.interop.weight_files reads them; it unpickles
   nothing but tensors.
3. The tokenizer pads and cuts on the right, because positions are counted from the left.
4. ERNIE-M's class is not in transformers 5. Such a folder becomes XLM-R's class, which computes the same.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from ernie_m.base.console import Choice, InputError
from ernie_m.base.run_files import CONFIG_FILE as RUN_CONFIG_FILE
from ernie_m.interop.layout import ERNIE_M, LANGUAGE_NUMBERS, XLM_ROBERTA
from ernie_m.interop.opening import (
    check_foreign_code,
    check_kind,
    check_parameters,
    check_sizes,
    configuration_of,
    filled,
    longest_input,
    skeleton_of,
    tokenizer_of,
)
from ernie_m.interop.weight_files import CONFIG_FILE, WeightFiles, folder_of, read_config, tokenizer_files

_NUMBER = re.compile(r"\.\d+\.")
"""Of a layer, in the name of a weight."""


@dataclass(frozen=True)
class Head:
    """The head on an encoder: its classes in the order of the logits, and whether the folder's own head is kept."""

    classes: tuple[str, ...]
    is_kept: bool
    choice: Choice | None
    """What was done with the folder's own head; None when it has none."""


@dataclass(frozen=True)
class Loaded:
    """A model with its folder's weights in fp32: parameters that the folder lacks (drawn, or tied to others) and tensors of
    the folder that the model has no place for."""

    model: PreTrainedModel
    missing: frozenset[str]
    unexpected: tuple[str, ...]


@dataclass(frozen=True)
class OpenEncoder:
    """An encoder that can be used: its name, folder, configuration and tokenizer."""

    name: str
    folder: Path
    config: Any
    tokenizer: Any
    """A fast one, which pads and cuts on the right. `model_max_length`: what the position table has room for."""
    trust_remote_code: bool
    choices: tuple[Choice, ...]
    """What is used in another way than the folder says, with the reason."""

    @property
    def title(self) -> str:
        return Path(self.name).name

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that its configuration names, in the order of a head's logits."""
        return _class_names(self.config)

    def files(self) -> list[Path]:
        """All files that its scores depend on: configuration, weights, tokenizer."""
        return [self.folder / CONFIG_FILE, *WeightFiles(self.folder).files, *tokenizer_files(self.folder)]

    def head(self, auto_class: Any, classes: tuple[str, ...]) -> Head:
        """Whether the folder's head has these classes: the same names, in any case and order. No weight is read."""
        stored = WeightFiles(self.folder).shapes
        names = _head_names(self.skeleton(auto_class))
        if not any(name in stored for name in names):
            return Head(classes, is_kept=False, choice=None)
        if not classes:
            return Head(classes, True, Choice("head", "the folder's goes on", "it has no classes, nor has the task's"))
        own = self.class_names
        ours = {name.casefold(): name for name in classes}
        folded = [name.casefold() for name in own]
        if sorted(folded) == sorted(ours) and all(name in stored for name in names):
            kept = tuple(ours[name] for name in folded)
            return Head(kept, True, Choice("head", "the folder's goes on", f"its classes are the task's: {', '.join(own)}"))
        wanted = f"the folder's is of {_shown(own)}, the task's classes are {_shown(classes)}"
        return Head(classes, False, Choice("head", "starts new", wanted))

    def model(self, auto_class: Any, classes: tuple[str, ...] = ()) -> PreTrainedModel:
        """The encoder in fp32, with the head of `auto_class`; its configuration names the classes.

        The head is the folder's if it has the same classes (`head`), else a new one, drawn from torch's random state. Raises
        InputError for weights that are missing, of another shape or not finite.
        """
        return self.load(auto_class, classes).model

    def load(self, auto_class: Any, classes: tuple[str, ...] = ()) -> Loaded:
        """`model`, with what transformers says of loading it."""
        head = self.head(auto_class, classes)
        skeleton = self.skeleton(auto_class, head.classes)
        tensors = self._tensors()
        small = {name: str(t.dtype) for name, t in tensors.items() if t.dtype.itemsize == 1 and t.dtype != torch.bool}
        if small:
            raise InputError(
                f"{self.name}: {min(small)} is stored as {small[min(small)]}; expected weights of 16 bits or more"
            )
        if not head.is_kept:
            dropped = _head_names(skeleton)
            tensors = {name: tensor for name, tensor in tensors.items() if name not in dropped}
        model, info = filled(skeleton, tensors, f"{self.name}: its weights cannot be loaded")
        self._check(model, info)
        return Loaded(model, frozenset(info["missing_keys"]), tuple(sorted(info["unexpected_keys"])))

    def untrained(self) -> PreTrainedModel:
        """The same shape with weights drawn from seed 0: a baseline that only finds equal names, digits and punctuation."""
        self.skeleton(AutoModel)  # refuses a configuration that does not fit the weights
        with torch.random.fork_rng():
            torch.manual_seed(0)
            config = copy.deepcopy(self.config)
            model: PreTrainedModel = AutoModel.from_config(
                config, dtype=torch.float32, trust_remote_code=self.trust_remote_code
            )
            return model

    def skeleton(self, auto_class: Any, classes: tuple[str, ...] = ()) -> PreTrainedModel:
        """The model's modules without weights, on the meta device."""
        config = copy.deepcopy(self.config)
        if classes:
            config.id2label = dict(enumerate(classes))
            config.label2id = {name: number for number, name in enumerate(classes)}
        skeleton = skeleton_of(auto_class, config, self.name, self.trust_remote_code)
        check_parameters(self.name, skeleton, WeightFiles(self.folder).shapes)
        return skeleton

    def _tensors(self) -> dict[str, Tensor]:
        """All tensors of the files, under the names that the model's class has for them."""
        files = WeightFiles(self.folder)
        if read_config(self.folder).get("model_type") != ERNIE_M.model_type:
            return {name: files.read(name) for name in files.shapes}
        names = ERNIE_M.renamed(XLM_ROBERTA, self.config.num_hidden_layers, files.shapes)
        missing = sorted(set(names) - set(files.shapes))
        if missing:
            raise InputError(f"{self.name}: {len(missing)} weights of the encoder are missing, first {missing[0]}")
        kind = f"{XLM_ROBERTA.prefix}.{XLM_ROBERTA.token_type}"  # ERNIE-M has no token types
        tensors = {names.get(name, name): files.read(name) for name in files.shapes}
        return tensors | {kind: torch.zeros(1, self.config.hidden_size)}

    def _check(self, model: PreTrainedModel, found: Any) -> None:
        if found["mismatched_keys"]:
            name, stored, expected = min(found["mismatched_keys"])
            raise InputError(
                f"{self.name}: {name} has the shape {tuple(stored)}, by config.json {tuple(expected)}; take a whole folder"
            )
        prefix = f"{model.base_model_prefix}."
        is_bare = not any(name.startswith(prefix) for name, _ in model.named_parameters())
        lost = [key for key in found["missing_keys"] if (is_bare or key.startswith(prefix)) and "pooler." not in key]
        if lost:
            raise InputError(
                f"{self.name}: {len(lost)} weights of the encoder are missing, first {min(lost)}; expected a whole encoder"
            )
        of_more = _of_more_layers(model, found["unexpected_keys"])
        if of_more:
            raise InputError(
                f"{self.name}: its files hold {len(of_more)} weights of layers that config.json does not count, first "
                f"{of_more[0]}; expected the config.json of these weights"
            )
        for name, parameter in model.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise InputError(f"{self.name}: {name} holds numbers that are not finite; take another checkpoint")


def open_encoder(name: str | Path, trust_remote_code: bool | None = False) -> OpenEncoder:
    """The encoder of a folder or of a hub id.

    Raises InputError for what is not there, is no encoder of text that transformers knows, would run code of its own, or has
    a tokenizer that is broken, slow or another's. `trust_remote_code`: None where such code cannot be allowed.
    """
    folder = folder_of(str(name))
    if not (folder / CONFIG_FILE).is_file():
        is_run = (folder / RUN_CONFIG_FILE).is_file()
        way_out = "which `ernie-m export` makes of this run" if is_run else "e.g. of `ernie-m export`"
        raise InputError(f"{name}: no config.json there; expected a Hugging Face folder, {way_out}")
    content = read_config(folder)
    check_foreign_code(str(name), folder, content, trust_remote_code)
    check_sizes(str(name), content)
    is_allowed = bool(trust_remote_code)
    config, choices = configuration_of(str(name), folder, content, is_allowed)
    check_kind(f"{name}/{CONFIG_FILE}", config, is_known="auto_map" not in content)
    tokenizer, of_tokenizer = tokenizer_of(str(name), folder, is_allowed)
    highest = max(tokenizer.get_vocab().values())
    if highest >= config.vocab_size:
        raise InputError(
            f"{name}: its tokenizer has ids up to {highest:,}, its word table {config.vocab_size:,} rows; expected the "
            "tokenizer of these weights"
        )
    skeleton = skeleton_of(AutoModel, copy.deepcopy(config), str(name), is_allowed)
    tokenizer.model_max_length = longest_input(skeleton, tokenizer)
    told = (*choices, *of_tokenizer, *_of_languages(content))
    return OpenEncoder(str(name), folder, config, tokenizer, is_allowed, told)


def _of_languages(content: Mapping[str, Any]) -> list[Choice]:
    """That text is read as of no language, where the folder was trained with one on every token."""
    languages = content.get(LANGUAGE_NUMBERS)
    if not isinstance(languages, dict) or content.get("type_vocab_size") != 1 + len(languages):
        return []
    reason = (
        f"its token types are {_shown(tuple(map(str, languages)))}, and nothing here says which; in training each token had "
        "one: `ernie-m export --language` makes a folder that reads all text as of one"
    )
    return [Choice("language of the text", "none", reason)]


def _of_more_layers(model: PreTrainedModel, unexpected: Iterable[str]) -> list[str]:
    """Those of these names that differ from one of the model's in the numbers of layers alone."""

    def without_number(name: str) -> str:
        return _NUMBER.sub(".", name.removeprefix(f"{model.base_model_prefix}."))

    names = {*map(without_number, model.state_dict())}
    return sorted(name for name in unexpected if _NUMBER.search(name) and without_number(name) in names)


def _head_names(model: PreTrainedModel) -> set[str]:
    """Names of the head's parameters; none for an encoder without a head."""
    if model.base_model is model:
        return set()
    return {name for name in model.state_dict() if not name.startswith(f"{model.base_model_prefix}.")}


def _class_names(config: Any) -> tuple[str, ...]:
    names = getattr(config, "id2label", None) or {}
    return tuple(str(names[number]) for number in sorted(names))


def _shown(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
