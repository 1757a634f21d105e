"""XNLI: does a premise entail a hypothesis, in 15 languages. Trained on English MultiNLI or on its translations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from ernie_m.base.console import InputError, is_unicode
from ernie_m.downstream.classification import Pair, PairClassification, class_named, language_known, read_pairs
from ernie_m.downstream.columns import first_row, lines_of, rows_of
from ernie_m.downstream.submission import Submission, a_line_each
from ernie_m.downstream.task import Hyperparameters, Part, Size

# MultiNLI's machine translations write "contradictory".
NAMES = {
    "entailment": "entailment",
    "neutral": "neutral",
    "contradiction": "contradiction",
    "contradictory": "contradiction",
}
MULTINLI_HEAD = ["premise", "hypo", "label"]
NEEDED = ("language", "gold_label", "sentence1", "sentence2")  # columns of xnli.*.tsv and keys of xnli.*.jsonl


class Xnli(PairClassification):
    """Cross-lingual natural language inference."""

    name = "xnli"
    settings: ClassVar[Mapping[str, str | None]] = {"transfer": "en", "translate-train-all": None}
    protocol = "accuracy on all pairs of a language; classes by name; a cut pair loses tokens of its longer sentence"
    classes = ("entailment", "neutral", "contradiction")
    xtreme = Submission("xnli", "tsv", a_line_each())
    patterns: ClassVar[Mapping[Part, tuple[str, ...]]] = {
        "train": (
            "train-{language}.tsv",
            "multinli.train.{language}.tsv",
            "multinli/multinli.train.{language}.tsv",
            "XNLI-MT-1.0/multinli/multinli.train.{language}.tsv",
        ),
        "validation": ("dev-{language}.tsv", "xnli.dev.tsv", "XNLI-1.0/xnli.dev.tsv", "xnli.dev.jsonl"),
        "test": ("test-{language}.tsv", "xnli.test.tsv", "XNLI-1.0/xnli.test.tsv", "xnli.test.jsonl"),
    }

    def defaults(self, setting: str, size: Size) -> Hyperparameters:
        """As released; weight decay is not mentioned there."""
        transfer = setting == "transfer"
        return Hyperparameters(
            learning_rate=5e-5,
            batch_size=32 if transfer else 128,
            epochs=5 if transfer else {"base": 2, "large": 1}[size],
            max_length=256,
            layer_decay=0.8,
        )

    def read(self, path: Path, language: str | None) -> dict[str, list[Pair]]:
        """XNLI's tsv and jsonl with all languages, MultiNLI's translations, XTREME's three columns (two of a test file)."""
        if path.suffix == ".jsonl":
            return _read_jsonl(path)
        head = first_row(path)
        if "gold_label" in head:
            return _read_original(path, head)
        first_line = 2 if head == MULTINLI_HEAD else 1
        return {language_known(language, path): read_pairs(path, first_line, "premise, hypothesis, label", NAMES)}

    def split_key(self, example: Pair, index: int) -> str:
        """Three hypotheses in a row share their premise, at the same lines in every language."""
        return str(index // 3)


def _read_original(path: Path, head: list[str]) -> dict[str, list[Pair]]:
    if missing := [name for name in NEEDED if name not in head]:
        raise InputError(f"{path}, line 1: no column {missing[0]}; expected a head with {', '.join(NEEDED)}")
    at = [head.index(name) for name in NEEDED]
    examples: dict[str, list[Pair]] = {}
    for number, row in rows_of(path, "those of its first line", len(head)):
        if number > 1:
            language, label, premise, hypothesis = (row[column] for column in at)
            pair = Pair(premise, hypothesis, class_named(label, NAMES, f"{path}, line {number}"))
            examples.setdefault(language, []).append(pair)
    return examples


def _read_jsonl(path: Path) -> dict[str, list[Pair]]:
    examples: dict[str, list[Pair]] = {}
    for number, line in lines_of(path):
        try:
            content = json.loads(line)
            language, label, premise, hypothesis = texts = [content[key] for key in NEEDED]
            if not is_unicode("".join(texts)):
                raise ValueError("half a character")
        except (ValueError, RecursionError, KeyError, TypeError):
            raise InputError(f"{path}, line {number}: expected a JSON object with {', '.join(NEEDED)}, all texts") from None
        pair = Pair(premise, hypothesis, class_named(label, NAMES, f"{path}, line {number}"))
        examples.setdefault(language, []).append(pair)
    return examples
