"""A recipe: everything that decides what a run learns, put together from the sections that each owner declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any

from ernie_m.base.config import Section, build, merge_overrides, read_recipe, section
from ernie_m.base.console import InputError
from ernie_m.base.curve import CurveRange
from ernie_m.base.ranges import Range
from ernie_m.models.shape import AnyModel, ModelConfig, longest_document
from ernie_m.rows.dataloader import DataConfig, Metric
from ernie_m.rows.objective import TOKEN, WRITTEN
from ernie_m.rows.objectives import MT, OBJECTIVES, PREDICTIONS, heads_of
from ernie_m.rows.schedule import StageConfig
from ernie_m.rows.weights import ObjectiveWeights
from ernie_m.training.divergence import GuardConfig
from ernie_m.training.engine import BatchConfig, EngineConfig
from ernie_m.training.optimizer import OptimizerConfig


@section
class OutputConfig(Section):
    """What is shown and kept; may change when a run is resumed."""

    log_every: Annotated[int, Range(least=1, most=10**9)] = 10
    """Steps between console lines; metrics.jsonl has every step."""
    log_samples: bool = False
    """Write which rows each step was made of to samples.jsonl."""
    peak_tflops: Annotated[float, Range(above=0, most=1e6)] | None = None
    """Matmul peak of a rank's device that MFU is told by, TFLOP/s; null: its data sheet's, else measured at the start."""
    save_every: Annotated[int, Range(least=1, most=10**9)] = 1000
    """Steps between checkpoints."""
    save_every_minutes: Annotated[float, Range(least=0, most=1e6, zero="never")] = 20.0
    """Minutes after which a checkpoint is saved in any case; 0 never."""
    save_in_background: bool = True
    """Copy the state to host memory and write it while the training goes on, if there is enough memory."""
    keep_last: Annotated[int, Range(least=1, most=10**6)] = 2
    """Checkpoints kept."""
    keep_every: Annotated[int, Range(least=0, most=10**9, zero="none")] = 0
    """Of so many steps, the first checkpoint is never deleted, e.g. 10000; 0: all may be."""
    keep_best: bool = False
    """Of a run that translates, also keep the checkpoint that `--checkpoint best` takes."""
    dead_after_seconds: Annotated[float, Range(least=1, most=1e6)] = 60.0
    """A rank without a sign of life for so long ends the job."""
    hung_after_seconds: Annotated[float, Range(least=1, most=1e6)] = 100.0
    """A rank that lives but makes no progress for so long, while the others wait for it, ends the job."""
    evaluate_every: Annotated[int, Range(least=0, most=10**9, zero="never")] = 1000
    """Steps between measurements of the cross-lingual gain on held-out pairs; 0 never."""
    held_out_pairs: Annotated[int, Range(least=0, most=10**6, zero="nothing is measured")] = 512
    """Held-out pairs used for it."""
    bleu_text: str | None = None
    """With model.decoder: PREFIX of files PREFIX.en, PREFIX.fr of lines that translate each other and are not trained on.
    Their BLEU, of raw text, is measured with the rest."""
    bleu_pairs: Annotated[int, Range(least=1, most=10**6)] = 100
    """First lines of these files used for it. Each direction costs about as much as a step of BT on so many lines."""

    def check(self) -> None:
        for key in ("keep_best", "bleu_text"):
            if getattr(self, key):
                self.require(
                    self.evaluate_every > 0, "evaluate_every", f"1 at least with {key}, or nothing is measured for it"
                )
        if self.keep_best:
            self.require(self.held_out_pairs > 0, "held_out_pairs", "1 at least with keep_best, which is chosen by them")


@section
class TrainingConfig(Section):
    """A recipe."""

    stages: tuple[StageConfig, ...]
    """Stretches of training, in order, each with its mix of objectives."""
    seed: Annotated[int, Range(least=0, most=2**63 - 1, zero="a seed like others")] = 0
    """Everything random follows from it."""
    init_from: str | None = None
    """Weights to start from: a Hugging Face folder or hub id (XLM-R, ERNIE-M, an export), or a run; null draws them."""
    init_encoder: str | None = None
    """With model.decoder, what the encoder starts from: as init_from, BERT too, or embeddings:FILE (word vectors, or another
    model's word embedding); null draws it."""
    init_decoder: str | None = None
    """The same for the decoder and its head. Attention across is new."""
    objective_weights: dict[str, Annotated[float | str, CurveRange(least=0, most=1e6, zero="nothing is learnt from it")]] = (
        field(default_factory=dict)
    )
    """Factor of each mean loss, named like its objective; 1 where not named. A text gives points of a line
    over the steps, '0:1, 100000:0.1, 300000:0': where that ends at 0, no more rows of the objective are drawn."""
    stream_weights: dict[str, dict[str, Annotated[float, Range(least=0, most=1e6, zero="nothing is learnt from it")]]] = (
        field(default_factory=dict)
    )
    """One more factor of a loss on some streams, e.g. {AlignLM_bilingual: {de-en: 0.5}}; 1 where not named. The loss is
    still divided by all of its predictions."""
    model: AnyModel = ModelConfig()
    """Shape of the encoder, or which one of transformers it is (model.backbone)."""
    data: DataConfig = DataConfig()
    """Rows and language mixture."""
    batch: BatchConfig = BatchConfig()
    """Size of a step."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """AdamW and its schedule."""
    engine: EngineConfig = EngineConfig()
    """ZeRO stage and precision."""
    output: OutputConfig = OutputConfig()
    """Logging, saving, evaluating."""
    guards: GuardConfig = GuardConfig()
    """When losses alarm or stop."""

    def check(self) -> None:
        self.require(bool(self.stages), "stages", "at least one stage")
        for key in ("objective_weights", "stream_weights"):
            unknown = [name for name in getattr(self, key) if name not in PREDICTIONS]
            self.require(not unknown, key, f"losses out of {', '.join(PREDICTIONS)}")
        missing = [name for name in self.heads if name not in (self.model.heads or self.heads)]
        if missing:
            raise InputError(f"model.heads: {self.model.heads}; expected null, or all that the stages ask: {self.heads}")
        if isinstance(self.model, ModelConfig) and self.data.document_positions > longest_document(self.model):
            raise InputError(
                f"data.sequence_length: {self.data.sequence_length}; model.max_positions {self.model.max_positions} allows "
                f"{longest_document(self.model)}; set it to that, or data.longest_document for longer rows of several texts"
            )
        for number, stage in enumerate(self.stages):
            if not any(map(self.weights.teaches, stage.rows)):
                raise InputError(
                    f"objective_weights: all of stages[{number}] ({', '.join(stage.rows)}) weighs nothing; give one of "
                    "them a weight above 0, or drop the stage"
                )
        self.weights.drawn(self.stages)
        self._check_translation()

    def _check_translation(self) -> None:
        """A model with a decoder reads rows of two halves and no others, and its two sides start each for itself."""
        names = [name for stage in self.stages for name in stage.rows]
        if not isinstance(self.model, ModelConfig) or not self.model.translates:
            for key in ("bleu_text", "keep_best"):
                if asked := getattr(self.output, key):
                    raise InputError(f"output.{key}: {asked}; the model has no decoder: leave it out")
            for key in ("init_encoder", "init_decoder"):
                if start := getattr(self, key):
                    raise InputError(f"{key}: {start}; the model has no decoder: leave it out, or set model.decoder")
            if writes := [name for name in names if OBJECTIVES[name].source == WRITTEN]:
                raise InputError(f"stages: {writes[0]}; needs a model that translates: set model.decoder, or drop it")
            if MT.name in names:
                self._check_languages(f"rows of {MT.name}")
            return
        other = [name for name in names if not OBJECTIVES[name].halves]
        if other:
            halves = [name for name, objective in OBJECTIVES.items() if objective.halves]
            raise InputError(f"stages: {other[0]}; a model with model.decoder learns {', '.join(halves)}; drop one")
        self._check_languages("model.decoder")
        if self.init_from:
            raise InputError(
                f"init_from: {self.init_from}; a model with model.decoder takes it as init_encoder and init_decoder"
            )

    def _check_languages(self, why: str) -> None:
        if isinstance(self.model, ModelConfig) and self.model.language_embedding != "all":
            raise InputError(
                f"model.language_embedding: {self.model.language_embedding}; with {why} expected all: it alone tells which "
                "language to write"
            )

    def factors_of(self, metrics: Sequence[Metric]) -> list[float] | None:
        """The factor of each metric by `stream_weights`; None if there is none.

        Raises InputError for a stream on which its loss is not taken.
        """
        for loss, table in self.stream_weights.items():
            streams = [metric.stream for metric in metrics if metric.loss == loss]
            for name in table:
                if name not in streams:
                    there = ", ".join(streams) or "none, since no stage trains it"
                    raise InputError(f"stream_weights.{loss}.{name}: no such stream; those of {loss}: {there}")
        if not any(self.stream_weights.values()):
            return None
        return [self.stream_weights.get(metric.loss, {}).get(metric.stream, 1.0) for metric in metrics]

    @property
    def num_steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    @property
    def weights(self) -> ObjectiveWeights:
        """The factor of each mean loss, at each step."""
        return ObjectiveWeights(self.objective_weights)

    @property
    def without_effect(self) -> list[str]:
        """A line for each setting that does not work: said, not refused, since stages may be changed on a command line."""
        warmup, lines = self.optimizer.warmup_steps, []
        if warmup >= self.num_steps:
            lines = [f"learning rate: warm-up of {warmup} steps ends behind the last of {self.num_steps}; never at its peak"]
        names = {name for stage in self.stages for name in stage.rows}
        trained = {prediction.loss for name in names for prediction in OBJECTIVES[name].predictions}
        idle = [loss for loss in self.objective_weights if loss not in trained]
        return lines + [f"objective_weights.{loss}: no stage trains it; without effect" for loss in idle]

    @property
    def heads(self) -> tuple[str, ...]:
        """Heads that the objectives of the stages need."""
        return heads_of({name for stage in self.stages for name in stage.rows})

    @property
    def shape(self) -> AnyModel:
        """The model section with its heads; None stands for the token head alone, as in runs from before there were more."""
        wanted = self.model.heads or self.heads
        return replace(self.model, heads=None if wanted == (TOKEN,) else wanted)


def read_training(path: Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """The recipe in a file, with `key.path=value` overrides; raises InputError for what does not fit."""
    return build(TrainingConfig, merge_overrides(read_recipe(path), overrides), str(path))


def total_steps(recipe: Mapping[str, Any]) -> int:
    """Steps of all stages of a recipe that is still plain YAML."""
    return sum(stage["steps"] for stage in recipe["stages"])
