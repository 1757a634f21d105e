"""What ERNIE-M's paper (arXiv 2012.15674) reports, to stand beside our scores; None where it gives nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ernie_m.downstream.encoders import Size


@dataclass(frozen=True)
class PaperRow:
    """One row of the paper's tables, in percent."""

    averages: Mapping[str, float]
    """Metric -> mean over all its languages."""
    languages: Mapping[str, float] = field(default_factory=dict)
    """Language -> first metric, where the row is given by language."""

    def over(self, languages: Sequence[str]) -> float | None:
        """Mean of the first metric over these languages; None unless each of them is given."""
        if not languages or any(language not in self.languages for language in languages):
            return None
        return sum(self.languages[language] for language in languages) / len(languages)


_XNLI_LANGUAGES = ["en", "fr", "es", "de", "el", "bg", "ru", "tr", "ar", "vi", "th", "zh", "hi", "sw", "ur"]
_XNLI_BASE = (85.5, 80.1, 81.2, 79.2, 79.1, 80.4, 78.1, 76.8, 76.3, 78.3, 75.8, 77.4, 72.9, 69.5, 68.8)

ROWS: dict[tuple[str, str, Size], PaperRow] = {
    ("xnli", "transfer", "base"): PaperRow({"accuracy": 77.3}, dict(zip(_XNLI_LANGUAGES, _XNLI_BASE, strict=True))),
    ("xnli", "transfer", "large"): PaperRow({"accuracy": 82.0}),
    ("xnli", "translate-train-all", "base"): PaperRow({"accuracy": 80.6}),
    ("xnli", "translate-train-all", "large"): PaperRow({"accuracy": 84.2}),
    ("ner", "en", "base"): PaperRow({"f1": 79.56}),
    ("ner", "en", "large"): PaperRow({"f1": 81.64}),
    ("ner", "all", "base"): PaperRow({"f1": 89.32}),
    ("ner", "all", "large"): PaperRow({"f1": 90.81}),
    ("mlqa", "transfer", "base"): PaperRow({"f1": 68.7, "em": 50.2}),
    ("mlqa", "transfer", "large"): PaperRow({"f1": 73.7, "em": 55.3}),
    ("pawsx", "transfer", "large"): PaperRow({"accuracy": 89.5}),
    ("pawsx", "translate-train-all", "large"): PaperRow({"accuracy": 91.8}),
    ("tatoeba", "zero-shot", "large"): PaperRow({"accuracy": 87.9}),
    ("tatoeba", "hardest-negative", "large"): PaperRow({"accuracy": 93.3}),
}


DATA_SETS = {"xnli": "XNLI", "pawsx": "PAWS-X", "ner": "CoNLL", "mlqa": "MLQA", "tatoeba": "Tatoeba"}
"""Task -> the data set that its rows are of."""


def row_of(task: str, setting: str, size: Size, tested: Collection[str]) -> PaperRow | None:
    """The paper's row of a task, for a model of its base or large size; None beside scores on any other data set.

    `tested`: the data sets that were tested on (`Task.data_set`).
    """
    return ROWS.get((task, setting, size)) if set(tested) == {DATA_SETS.get(task)} else None


def absence(task: str, setting: str, size: Size, tested: Collection[str]) -> str | None:
    """Why the paper's column is empty, in a line; None when there is a row."""
    if row_of(task, setting, size, tested):
        return None
    others = sorted(set(tested) - {DATA_SETS.get(task)})
    if others:
        shown = ", ".join(others[:3]) + (" ..." if len(others) > 3 else "")
        return f"the paper has no row for {shown}; its rows are of {DATA_SETS.get(task, 'other tasks')}"
    return f"the paper has no row for {DATA_SETS[task]}, {setting}, of its {size} model"
