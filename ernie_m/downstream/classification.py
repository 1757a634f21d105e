"""Classification of sentence pairs: what XNLI and PAWS-X share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from transformers import AutoModelForSequenceClassification

from ernie_m.base.console import InputError
from ernie_m.downstream.columns import first_row, rows_of
from ernie_m.downstream.task import Logits, Scored, Setup, Task


class Pair(NamedTuple):
    """Two sentences and the name of their class, None where the file does not tell it."""

    first: str
    second: str
    label: str | None


class PairFeatures(Sequence[Mapping[str, Any]]):
    """Tokenized when indexed: translate-train has six million pairs, whose ids need more memory than their text."""

    def __init__(self, examples: Sequence[Pair], setup: Setup, with_answers: bool) -> None:
        self._examples, self._setup, self._with_answers = examples, setup, with_answers
        self._class_of = {label: number for number, label in enumerate(setup.labels)}

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: Any) -> Any:
        """Input ids and mask of pair `index`, cut to max_length from the longer sentence; `labels` where wanted."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        pair = self._examples[index]
        longest = self._setup.hyperparameters.max_length
        feature = dict(self._setup.tokenizer(pair.first, pair.second, truncation="longest_first", max_length=longest))
        if self._with_answers:
            assert pair.label is not None
            feature["labels"] = self._class_of[pair.label]
        return feature


class PairClassification(Task[Pair]):
    """Accuracy of a class for each pair; the classes are fixed and known by name."""

    metrics = ("accuracy",)
    auto_class = AutoModelForSequenceClassification
    classes: ClassVar[tuple[str, ...]]

    def labels(self, train: Sequence[Pair]) -> tuple[str, ...]:
        """The benchmark's classes; a folder that was trained on them keeps its own order (`OpenEncoder.head`)."""
        return self.classes

    def features(self, examples: Sequence[Pair], setup: Setup, with_answers: bool) -> PairFeatures:
        """One a pair."""
        return PairFeatures(examples, setup, with_answers)

    def score(
        self,
        examples: Sequence[Pair],
        features: Sequence[Mapping[str, Any]],
        logits: Logits,
        setup: Setup,
        language: str,
    ) -> Scored:
        """Share of pairs whose largest logit is that of their class; predictions are names."""
        assert isinstance(logits, np.ndarray)
        assert logits.shape == (len(examples), len(setup.labels)), (logits.shape, len(examples), setup.labels)
        predictions = [setup.labels[number] for number in logits.argmax(axis=1)]
        if not self.is_labelled(examples[0]):
            return Scored({}, predictions)
        right = sum(predicted == pair.label for predicted, pair in zip(predictions, examples, strict=True))
        return Scored({"accuracy": 100 * right / len(examples)}, predictions)

    def is_labelled(self, example: Pair) -> bool:
        """Whether its class is known."""
        return example.label is not None

    def trivial_score(self, examples: Sequence[Pair]) -> float:
        """The share of the largest class."""
        return 100 * Counter(pair.label for pair in examples).most_common(1)[0][1] / len(examples)


def read_pairs(path: Path, first_line: int, expected: str, names: Mapping[str, str]) -> list[Pair]:
    """Pairs from the tab-separated lines of a file, from `first_line` (1) on: the last three columns of each are two
    sentences and the label, which stands for a class by `names`.

    XTREME's test files have the two sentences alone. Raises InputError with file and line for anything else.
    """
    num_columns = len(expected.split(", "))
    if len(first_row(path)) == 2:
        return [Pair(first, second, None) for _, (first, second) in rows_of(path, "two sentences", 2)]
    return [
        Pair(row[-3], row[-2], class_named(row[-1], names, f"{path}, line {number}"))
        for number, row in rows_of(path, expected, num_columns)
        if number >= first_line
    ]


def class_named(text: str, names: Mapping[str, str], where: str) -> str:
    """The class that `text` stands for; raises InputError naming `where` and what is known."""
    try:
        return names[text]
    except KeyError:
        raise InputError(f"{where}: label {text!r}; expected one of {', '.join(names)}") from None


def language_known(language: str | None, path: Path) -> str:
    """`language`; raises InputError when the file's name does not tell it."""
    if language is None:
        raise InputError(f"{path}: neither name nor content tells the language; name it: LANGUAGE={path}")
    return language
