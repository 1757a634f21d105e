"""What ERNIE-M's paper (arXiv 2012.15674) reports, to stand beside our scores; None where it gives nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

REPEATED: dict[tuple[str, str, Size], float] = {("xnli", "transfer", "base"): 77.98, ("xnli", "transfer", "large"): 82.17}
"""What others measured with the released weights, mean of the first metric over all languages of the row."""

DATA_SETS = {
    "xnli": "XNLI",
    "pawsx": "PAWS-X",
    "ner": "CoNLL",
    "mlqa": "MLQA",
    "xquad": "XQuAD",
    "tydiqa": "TyDiQA-GoldP",
    "tatoeba": "Tatoeba",
}
"""Task -> the data set that its rows are of."""
_TATOEBA = "afr ara ben bul cmn deu ell est eus fin fra heb hin hun ind ita jav jpn kat kaz kor mal mar nld pes por rus spa"
_SMALL_TATOEBA = {"jav": 205, "kat": 746, "kaz": 575, "mal": 687, "swh": 390, "tam": 307, "tel": 234, "tha": 548}
TEST_SIZES: dict[str, dict[str, int]] = {
    "xnli": dict.fromkeys(_XNLI_LANGUAGES, 5010),
    "pawsx": dict.fromkeys(["de", "en", "es", "fr", "ja", "ko", "zh"], 2000),
    "ner": {"en": 3453, "de": 3005, "es": 1517, "nl": 5195},
    "mlqa": {"en": 11590, "ar": 5335, "de": 4517, "es": 5253, "hi": 4918, "vi": 5495, "zh": 5137},
    "xquad": dict.fromkeys(["ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh"], 1190),
    "tydiqa": {"ar": 921, "bn": 113, "en": 440, "fi": 782, "id": 565, "ko": 276, "ru": 812, "sw": 499, "te": 669},
    "tatoeba": dict.fromkeys([*_TATOEBA.split(), "tgl", "tur", "urd", "vie"], 1000) | _SMALL_TATOEBA,
}
"""Task -> language -> examples of the official test set: pairs; sentences, -DOCSTART- not counted; questions."""


def difference(task: str, tested: Mapping[str, int]) -> str | None:
    """How the test data (language -> number of examples) differ from the paper's test set; None if they do not.

    File names do not count, only languages and numbers of examples.
    """
    sizes, name = TEST_SIZES[task], DATA_SETS[task]
    for language, count in tested.items():
        if language not in sizes:
            return f"{language}, which is not among {name}'s"
        if count != sizes[language]:
            return f"{count:,} examples in {language}, of which {name}'s test set has {sizes[language]:,}"
    return None


def row_of(task: str, setting: str, size: Size, difference: str | None) -> tuple[PaperRow | None, str | None]:
    """The paper's row for a model of its base or large size, or a line that says why there is none.

    `difference`: how the data differ from the paper's. If they do, there is no row.
    """
    if difference:
        return None, f"no row of the paper: tested on {difference}; its rows are of {DATA_SETS[task]}'s test set"
    row = ROWS.get((task, setting, size))
    return row, None if row else f"the paper has no row for {DATA_SETS[task]}, {setting}, of its {size} model"
