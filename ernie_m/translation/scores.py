"""Scores of translations against raw references: BLEU and chrF of sacrebleu, with the signatures that say how they count."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ernie_m.base.console import InputError

TOKENIZERS: Mapping[str, str] = {"zh": "zh", "ja": "char", "th": "char", "lo": "char", "km": "char", "my": "char"}
"""Target language -> sacrebleu's tokenizer, where words do not stand between spaces; 13a for the others."""
DEFAULT_TOKENIZER = "13a"


@dataclass(frozen=True)
class Scores:
    """BLEU and chrF of a corpus, 0 to 100, and how they were counted."""

    bleu: float
    chrf: float
    bleu_signature: str
    chrf_signature: str

    @property
    def cells(self) -> list[str]:
        return [f"{self.bleu:.2f}", f"{self.chrf:.2f}"]


def scores(found: Sequence[str], references: Sequence[Sequence[str]], target: str | None) -> Scores:
    """Of translations, against one or several references of each. `target`: the language, which decides on the tokenizer.

    Raises InputError if sacrebleu is not installed.
    """
    require_sacrebleu()
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    tokenizer = TOKENIZERS.get((target or "").partition("-")[0], DEFAULT_TOKENIZER)
    bleu, chrf = BLEU(tokenize=tokenizer), CHRF()
    values = [metric.corpus_score(list(found), [list(one) for one in references]).score for metric in (bleu, chrf)]
    return Scores(*values, *(metric.get_signature().format() for metric in (bleu, chrf)))


def require_sacrebleu() -> None:
    """Raise InputError if it is not installed."""
    if importlib.util.find_spec("sacrebleu") is None:
        raise InputError("sacrebleu is not installed; pip install 'ernie-m[translation]'")
