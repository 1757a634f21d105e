"""A recipe: everything that decides what a run learns, put together from the sections that each owner declares."""

from __future__ import annotations

from dataclasses import field

from ernie_m.config import Section, section
from ernie_m.console import InputError
from ernie_m.dataloader import DataConfig, StageConfig
from ernie_m.divergence import GuardConfig
from ernie_m.engine import BatchConfig, EngineConfig, OptimizerConfig
from ernie_m.model import ModelConfig, longest_document
from ernie_m.objectives import OBJECTIVES


@section
class OutputConfig(Section):
    """What is shown and kept; may change when a run is resumed."""

    log_every: int = 10
    """Steps between console lines; metrics.jsonl has every step."""
    log_samples: bool = False
    """Write which rows each step was made of to samples.jsonl."""
    peak_tflops: float | None = None
    """Matmul peak of a rank's device that MFU is told by, TFLOP/s; null: its data sheet's, else measured at the start."""
    save_every: int = 1000
    """Steps between checkpoints."""
    save_every_minutes: float = 20.0
    """Minutes after which a checkpoint is due even so; 0 never."""
    save_in_background: bool = True
    """Copy the state to host memory and write behind the training, where the memory allows it."""
    keep_last: int = 2
    """Checkpoints kept."""
    keep_every: int = 0
    """Steps of which the first checkpoint is kept for good, e.g. 10000; 0 none."""
    dead_after_seconds: float = 60.0
    """A rank without a sign of life for so long ends the job."""
    hung_after_seconds: float = 100.0
    """A rank that lives but makes no progress for so long, while the others wait for it, ends the job."""
    evaluate_every: int = 1000
    """Steps between measurements of the cross-lingual gain on held-out pairs; 0 never."""
    held_out_pairs: int = 512
    """Held-out pairs used for it."""

    def check(self) -> None:
        for key in ("log_every", "save_every", "keep_last"):
            self.require(getattr(self, key) > 0, key, "a positive number")
        self.require(self.peak_tflops is None or self.peak_tflops > 0, "peak_tflops", "a positive number, or null")
        for key in ("evaluate_every", "keep_every", "save_every_minutes"):
            self.require(getattr(self, key) >= 0, key, "0 or more")
        for key in ("dead_after_seconds", "hung_after_seconds"):
            self.require(getattr(self, key) >= 1, key, "1 second or more")


@section
class TrainingConfig(Section):
    """A recipe."""

    stages: tuple[StageConfig, ...]
    """Stretches of training, in order, each with its mix of objectives."""
    seed: int = 0
    """Everything random follows from it."""
    init_from: str | None = None
    """Weights to start from: a Hugging Face folder or hub id (XLM-R, ERNIE-M, an export), or a run; null draws them."""
    objective_weights: dict[str, float] = field(default_factory=dict)
    """Factor of each objective's mean loss; 1 where not named."""
    model: ModelConfig = ModelConfig()
    """Shape of the encoder."""
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
        unknown = [name for name in self.objective_weights if name not in OBJECTIVES]
        self.require(not unknown, "objective_weights", f"objectives out of {', '.join(OBJECTIVES)}")
        if self.data.sequence_length > longest_document(self.model):
            raise InputError(
                f"data.sequence_length: {self.data.sequence_length}; model.max_positions {self.model.max_positions} allows "
                f"{longest_document(self.model)}"
            )
