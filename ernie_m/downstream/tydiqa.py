"""TyDiQA-GoldP: questions that speakers of 9 languages asked, each with the passage that answers it.

Trained on its own English part, as in XTREME; a model trained on SQuAD is scored by `--score_only`. Ids begin with the
language's English name (`finnish-…`), so files with all languages are taken apart by them. XTREME's training files have
short ids that come twice; a question is trained on as often as it stands there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from ernie_m.base.console import InputError
from ernie_m.downstream.squad import Question, read_squad
from ernie_m.downstream.submission import Submission, answers_by_id
from ernie_m.downstream.task import Part
from ernie_m.downstream.xquad import Xquad

LANGUAGES = {
    "arabic": "ar",
    "bengali": "bn",
    "english": "en",
    "finnish": "fi",
    "indonesian": "id",
    "korean": "ko",
    "russian": "ru",
    "swahili": "sw",
    "telugu": "te",
}
"""First part of a question's id -> language."""


class Tydiqa(Xquad):
    """F1 and exact match of extracted answers, by SQuAD v1.1's rules for every language, as XTREME scores them."""

    name = "tydiqa"
    settings: ClassVar[Mapping[str, str | None]] = {"transfer": "en", "all": None}
    patterns: ClassVar[Mapping[Part, tuple[str, ...]]] = {
        "train": (
            "tydiqa.goldp.{language}.train.json",
            "*/tydiqa.goldp.{language}.train.json",
            "tydiqa-goldp-v1.1-train.json",
        ),
        "validation": (
            "tydiqa.goldp.{language}.dev.json",
            "*/tydiqa.goldp.{language}.dev.json",
            "tydiqa-goldp-v1.1-dev/tydiqa-goldp-dev-*.json",
            "tydiqa-goldp-v1.1-dev.json",
        ),
        "test": (
            "tydiqa.goldp.{language}.dev.json",
            "*/tydiqa.goldp.{language}.dev.json",
            "tydiqa-goldp-v1.1-dev/tydiqa-goldp-dev-*.json",
            "tydiqa-goldp-v1.1-dev.json",
        ),
    }
    """XTREME's names, and those as published. Its test set is the published dev set, in both."""
    xtreme = Submission("tydiqa", "json", answers_by_id)

    def read(self, path: Path, language: str | None) -> dict[str, list[Question]]:
        """Questions of one file by language: that of its name, else that of each question's id."""
        questions = read_squad(path, unique=not path.name.endswith("train.json"))
        if language is not None:
            return {language: questions}
        found: dict[str, list[Question]] = {}
        for question in questions:
            name = question.id.partition("-")[0]
            if name not in LANGUAGES:
                raise InputError(
                    f"{question.where}: neither the file's name nor the id tells the language; expected an id such as "
                    f"finnish-1-0 (known: {', '.join(LANGUAGES)}), or name it: LANGUAGE={path}"
                )
            found.setdefault(LANGUAGES[name], []).append(question)
        return found

    def split_key(self, example: Question, index: int) -> str:
        """The passage: some have several questions."""
        return example.context
