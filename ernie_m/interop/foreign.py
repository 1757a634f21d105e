"""Encoders of transformers as architectures. Only runs that have one import this: it loads transformers' models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from ernie_m.base.console import InputError
from ernie_m.base.run_files import BACKBONE_FOLDER
from ernie_m.base.special_tokens import Specials
from ernie_m.interop.architecture import Architecture, Device, Started, StepZero
from ernie_m.interop.backbone_folder import BackboneSource, KeptBackbone, open_backbone, open_kept
from ernie_m.interop.same_vocabulary import check_same_tokenizer
from ernie_m.interop.start_weights import Target
from ernie_m.models.backbones.encoder import ForeignEncoder
from ernie_m.models.shape import Attention, BackboneConfig, ModelConfig
from ernie_m.rows.objective import TOKEN
from ernie_m.runs.checkpoint import committed_folders
from ernie_m.runs.ranks import Voters
from ernie_m.runs.run_folder import RunFolder


@dataclass(frozen=True)
class Foreign(Architecture):
    """An encoder of transformers, out of its own folder or out of a run's."""

    config: BackboneConfig
    specials: Specials
    backbone: BackboneSource | KeptBackbone

    def empty(self, device: Device = "cpu", attention: Attention | None = None) -> ForeignEncoder:
        assert isinstance(self.backbone, KeptBackbone), "one from outside comes with its weights"
        return self._around(self.backbone.empty(), device, attention)

    def step_zero(
        self, seed: int, target: Target, ranks: Voters, device: Device = "cpu", attention: Attention | None = None
    ) -> StepZero:
        source = self.backbone
        assert isinstance(source, BackboneSource), "a run keeps no weights of it"
        if not ranks.all_agree(ranks.from_first(source.sha256) == source.sha256):
            raise InputError(
                f"model.backbone: {source.name}: some hosts have other files than rank 0; give all hosts the same"
            )
        loaded = source.load()
        model = self._around(loaded.model, device, attention, seed)
        theirs, kind = model.names_in_class(), f"{model.config.model_type} of transformers"
        fresh = tuple(name for name, _ in model.named_parameters() if name not in theirs)
        vocabulary = self.check_vocabulary(target)
        started = Started(str(source.folder), kind, source.sha256, vocabulary, fresh, loaded.unexpected)
        return StepZero(model, started, keep=lambda run: source.keep_in(run / BACKBONE_FOLDER, loaded, model.constants))

    def blank(self) -> tuple[PreTrainedModel, dict[str, Tensor]]:
        """(the model of its class, whose trained weights are to be filled; what of its files training does not change)."""
        if isinstance(self.backbone, KeptBackbone):
            return self.backbone.empty(), self.backbone.constants()
        loaded = self.backbone.load()
        return loaded.model, self.backbone.constants(loaded, self.sketch.constants)

    @property
    def has_own_head(self) -> bool:
        return self.backbone.has_head

    def check_head(self) -> None:
        if self.has_own_head:
            return
        super().check_head()
        if self.specials.mask is None:
            raise InputError("--head: the tokenizer has no mask token, so nobody could ask that head; leave it out")
        whole = replace(self, backbone=replace(self.backbone, has_head=True)).sketch
        trained, own = _head_of(self.sketch), _head_of(whole)
        if own != trained:
            of_class = f"that of {type(whole.whole).__name__} {', '.join(own) or 'none but the output matrix'}"
            raise InputError(f"--head: the new head has {', '.join(trained)}, {of_class}: it cannot hold it; leave it out")

    def with_head(self) -> Foreign:
        """The same in its class's *ForMaskedLM. Raises InputError as `check_head`."""
        self.check_head()
        assert isinstance(self.backbone, KeptBackbone)
        return replace(self, backbone=self.backbone.with_head())

    @cached_property
    def sketch(self) -> ForeignEncoder:
        """The model on the meta device: what it is, without weights."""
        return self._around(self.backbone.skeleton(), "cpu", "sdpa")

    def shape(self) -> ModelConfig:
        return self.sketch.shape

    def longest_document(self) -> int | None:
        return self.sketch.longest_document

    def check_vocabulary(self, target: Target) -> str:
        words, folder = self.sketch.vocab_size, self.backbone.folder
        if self.specials.vocab_size > words:
            raise InputError(
                f"model.backbone: {self.config.backbone}: {words:,} words, the data's tokenizer has "
                f"{self.specials.vocab_size:,}; build the data with --tokenizer {folder}"
            )
        return check_same_tokenizer(folder, target.tokenizer, target.tokenizer_sha256)

    def _around(self, model: Any, device: Device, attention: Attention | None, seed: int = 0) -> ForeignEncoder:
        config = self.config
        return ForeignEncoder(
            model,
            attention or config.attention,
            device,
            config.attention_dropout,
            config.activation_checkpointing,
            seed,
            self.backbone.name,
            self.specials,
            config.head_names,
            config.pooling,
            config.dropout,
        )


def _head_of(model: ForeignEncoder) -> dict[str, Any]:
    """Name -> shape of each tensor of its head of masked words but the output matrix, which every head has."""
    head = {name: tensor.shape for name, tensor in model.heads[TOKEN].state_dict().items()}
    del head["decoder_weight"]
    return head


def foreign_of(config: BackboneConfig, specials: Specials, run: Path | None) -> Foreign:
    """The encoder that a recipe names. If the run in folder `run` has a checkpoint, it is what that run keeps."""
    goes_on = run is not None and committed_folders(RunFolder(run).checkpoints)
    if run is not None and goes_on:
        return foreign_of_run(config, specials, run)
    source = open_backbone(config.backbone)
    if run is not None and source.folder.resolve().is_relative_to(run.resolve()):
        raise InputError(f"model.backbone: {config.backbone} lies in the run's own folder {run}; choose another --run")
    return _checked(config, specials, source)


def foreign_of_run(config: BackboneConfig, specials: Specials, run: Path) -> Foreign:
    """The encoder that the run in folder `run` keeps."""
    return _checked(config, specials, open_kept(run / BACKBONE_FOLDER))


def sketch_of(config: BackboneConfig) -> ForeignEncoder:
    """The encoder on the meta device, without data and without reading weights."""
    source = open_backbone(config.backbone)
    return Foreign(config, Specials.xlm_r(source.config.vocab_size), source).sketch


def _checked(config: BackboneConfig, specials: Specials, backbone: BackboneSource | KeptBackbone) -> Foreign:
    if config.backbone_sha256 not in (None, backbone.sha256):
        raise InputError(
            f"model.backbone: {config.backbone}: its files have SHA-256 {backbone.sha256[:12]}..., expected "
            f"{str(config.backbone_sha256)[:12]}... (model.backbone_sha256)"
        )
    return Foreign(replace(config, backbone_sha256=backbone.sha256), specials, backbone)
