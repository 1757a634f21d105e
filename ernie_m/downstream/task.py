"""What a fine-tuning task gives to the frame: where its files are, how they are read, and how answers are scored.

One file a task, with one subclass of `Task`. Nothing in it knows of seeds, ranks, checkpoints or tables: that is
`ernie_m.downstream.seed`, `.experiment` and `.report`. An *example* is the task's own type; a *language* is a row of the
result table (`de`, or `de-en` where context and question differ).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
from transformers import DataCollatorWithPadding

from ernie_m.base.config import Section, hints_of, section
from ernie_m.base.ranges import Range
from ernie_m.downstream.encoders import Size as Size
from ernie_m.downstream.submission import Submission
from ernie_m.interop.encoder import OpenEncoder

Part = Literal["train", "validation", "test"]
Example = TypeVar("Example")
Logits = np.ndarray | tuple[np.ndarray, ...]


@section
class Hyperparameters(Section):
    """How one seed is trained. A task that needs more extends it; each key can be given as key=value."""

    learning_rate: Annotated[float, Range(above=0, most=10)]
    """Highest learning rate, that of the head; lower layers have less by `layer_decay`."""
    batch_size: Annotated[int, Range(least=1, most=2**16)]
    """Examples an update, over all ranks."""
    epochs: Annotated[int, Range(least=1, most=10**5)]
    """Passes over the training examples."""
    max_length: Annotated[int, Range(least=8, most=2**16)]
    """Most tokens of a feature, special tokens included; longer ones are cut."""
    layer_decay: Annotated[float, Range(above=0, most=1)] = 1.0
    """Layer i of L learns with decay^(L-i) of the rate, embeddings with decay^(L+1), heads with all of it."""
    weight_decay: Annotated[float, Range(least=0, most=10, zero="none")] = 0.0
    """Decoupled weight decay of matrices; biases and layer norms have none."""
    warmup_share: Annotated[float, Range(least=0, below=1, zero="none")] = 0.1
    """Share of the updates in which the rate rises linearly; after it, it falls linearly to zero."""
    adam_epsilon: Annotated[float, Range(above=0, most=1)] = 1e-6
    """Added to the root of Adam's second moment."""
    clip: Annotated[float, Range(above=0, most=1e6)] = 1.0
    """Largest norm of the gradient."""
    micro_batch: Annotated[int, Range(least=0, most=2**16, zero="by itself")] = 0
    """Examples a rank puts through the model at a time; 0: up to 32, in training as many of these as the batch gives it."""
    evaluate_every: Annotated[int, Range(least=0, most=10**9, zero="an epoch")] = 0
    """Updates between two looks at the validation score; 0: an epoch."""


OF_TRAINING = frozenset(hints_of(Hyperparameters)) - {"max_length", "micro_batch"}
"""Hyperparameters that do nothing where a model is only scored."""


@dataclass(frozen=True)
class Setup:
    """What features and scores depend on, beside the examples."""

    tokenizer: Any
    """The encoder's own (`OpenEncoder.tokenizer`)."""
    hyperparameters: Any
    """The task's (sub)class of Hyperparameters; `max_length` already fits the encoder's positions."""
    labels: tuple[str, ...]
    """Names of the classes in the order of the logits; empty for a task without classes."""
    setting: str
    """One of the task's settings."""


@dataclass(frozen=True)
class Scored:
    """The result on the examples of one language."""

    metrics: dict[str, float]
    """Each of the task's metrics, in percent; none for examples without labels."""
    predictions: list[Any]
    """What was predicted, one an example in their order, fit for JSON."""


class Task(ABC, Generic[Example]):
    """A benchmark. The frame never looks into an example; it hands them from `read` to `features` and `score`."""

    name: ClassVar[str]
    """Its command, e.g. `xnli`."""
    settings: ClassVar[Mapping[str, str | None]]
    """Setting -> language that is trained on, or None for all there are. The first is the default."""
    metrics: ClassVar[tuple[str, ...]]
    """Names of the scores; the first chooses the best epoch on validation and leads the table."""
    protocol: ClassVar[str]
    """How it is scored, in a line; it is printed under every table."""
    patterns: ClassVar[Mapping[Part, tuple[str, ...]]]
    """Names the files may have below the data folder, most likely first: `dev-{language}.tsv`. Placeholders give the
    language; two different ones are joined with a hyphen. The first pattern that matches anything is taken."""
    auto_class: ClassVar[Any]
    """Class of transformers that puts the head on, e.g. AutoModelForSequenceClassification."""
    xtreme: ClassVar[Submission | None] = None
    """How XTREME's evaluation reads the predictions; None where it has no such task."""

    @abstractmethod
    def defaults(self, setting: str, size: Size) -> Hyperparameters:
        """The paper's hyperparameters of a setting."""

    @abstractmethod
    def read(self, path: Path, language: str | None) -> dict[str, list[Example]]:
        """Examples of one file by language, in the file's order.

        `language` is what the file's name says, None where it says nothing. Raises InputError, with file and line or
        key, for content that is not as expected, and when the language can be known from neither name nor content.
        """

    @abstractmethod
    def labels(self, train: Sequence[Example]) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits; empty for none."""

    def classes_to_score(self, own: tuple[str, ...]) -> tuple[str, ...]:
        """The classes by which a model that was fine-tuned elsewhere is scored, of its `own`: here, the benchmark's."""
        return self.labels([])

    def check(self, examples: Mapping[str, Sequence[Example]], setup: Setup) -> None:
        """Raise InputError for examples (by language) that this setup cannot score. Called before the training."""

    @abstractmethod
    def features(self, examples: Sequence[Example], setup: Setup, with_answers: bool) -> Sequence[Mapping[str, Any]]:
        """Inputs of the model: one or more for an example, in their order; may be computed when indexed.

        Keys that the model's forward does not take are for `score` and do not reach the model. `with_answers` adds what the
        loss needs (`labels`, `start_positions` ...). Raises InputError for answers the classes do not know.
        """

    def collator(self, setup: Setup) -> Callable[[list[Any]], Mapping[str, Any]]:
        """What makes a batch of features: here, all padded to the longest of the batch."""
        return DataCollatorWithPadding(setup.tokenizer)

    @abstractmethod
    def score(
        self,
        examples: Sequence[Example],
        features: Sequence[Mapping[str, Any]],
        logits: Logits,
        setup: Setup,
        language: str,
    ) -> Scored:
        """Scores of one language from the logits of its features (in their order; shorter ones padded with -100).

        Examples without labels have predictions and no metrics.
        """

    @abstractmethod
    def trivial_score(self, examples: Sequence[Example]) -> float:
        """The first metric, in percent, of an answer that does not look at the example, e.g. the largest class's share."""

    def model(self, encoder: OpenEncoder, setup: Setup) -> Any:
        """The encoder under this task's head, drawn from torch's random state; a `torch.nn.Module` with
        `config`, `base_model_prefix` and `save_pretrained`."""
        return encoder.model(self.auto_class, setup.labels)

    def is_labelled(self, example: Example) -> bool:
        """Whether it has what it is scored by. XTREME gives its test files out without; such are predicted alone."""
        return True

    def difference(self, test: Mapping[str, Sequence[Example]], paths: Sequence[Path]) -> str | None:
        """What shows that examples are not the paper's test set although their number agrees; None if nothing does."""
        return None

    def read_with(self, path: Path) -> Sequence[Path]:
        """The files that `read` opens for one, itself first."""
        return [path]

    def split_key(self, example: Example, index: int) -> str:
        """Examples with the same key stay together when a dev file is split (`--from_dev`); `index` is that in its file.

        Translations of an example need the same key; otherwise one language is trained on what another is tested on.
        """
        return str(index)
