"""XQuAD: questions of SQuAD's dev set and their contexts, translated by people into 11 languages; trained on SQuAD."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from ernie_m.downstream.encoders import Size
from ernie_m.downstream.mlqa import Mlqa, MlqaHyperparameters
from ernie_m.downstream.mlqa_score import SQUAD
from ernie_m.downstream.submission import Submission, answers_by_id
from ernie_m.downstream.task import Part


class Xquad(Mlqa):
    """F1 and exact match of extracted answers, by SQuAD v1.1's rules for every language, as XTREME scores them."""

    name = "xquad"
    protocol = (
        "F1 of words and exact match of normalised answers, the best of the right ones, by SQuAD v1.1's English rules for "
        "every language, as in XTREME (answer_rules=mlqa: MLQA's own where it has them); unanswered counts as wrong"
    )
    patterns: ClassVar[Mapping[Part, tuple[str, ...]]] = {
        **Mlqa.patterns,
        "validation": ("dev-v1.1.json", "*/dev-v1.1.json"),
        "test": ("xquad.{language}.json", "*/xquad.{language}.json"),
    }
    xtreme = Submission("xquad", "json", answers_by_id)

    def defaults(self, setting: str, size: Size) -> MlqaHyperparameters:
        """MLQA's: the models are the same."""
        return replace(super().defaults(setting, size), answer_rules=SQUAD)
