"""Predictions as XTREME's evaluation reads them: a folder a task, a file a language, one line (or key) an example.

    xtreme/xnli/test-de.tsv    a class a line            xtreme/mlqa/test-de.json      question id -> answer
    xtreme/panx/test-de.tsv    a tag a line, a blank     xtreme/tatoeba/test-de.tsv    line (from 0) of the English side
                               line between sentences

Source: evaluate.py of google-research/xtreme. Folders of several tasks lie beside each other in what is handed in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_m.base.console import Choice
from ernie_m.base.files import written_atomically
from ernie_m.base.language_codes import agree, macrolanguage
from ernie_m.downstream.announce import announce

FOLDER = "xtreme"


@dataclass(frozen=True)
class Submission:
    """How a task's predictions of one language are written."""

    task: str
    """XTREME's name of the task, which is the folder's."""
    suffix: str
    """`tsv`, or `json` for questions."""
    text: Callable[[Sequence[Any]], str]
    """The file's content, from the task's predictions in the order of the examples."""


def a_line_each(of_one: Callable[[Any], str] = str) -> Callable[[Sequence[Any]], str]:
    """Content with one line a prediction."""
    return lambda predictions: "".join(f"{of_one(prediction)}\n" for prediction in predictions)


def answers_by_id(predictions: Sequence[Mapping[str, Any]]) -> str:
    """A JSON object question id -> answer."""
    return json.dumps({of["id"]: of["prediction"] for of in predictions}, ensure_ascii=False, indent=1) + "\n"


def write_submission(to: Path, submission: Submission | None, predictions: Mapping[str, Sequence[Any]]) -> None:
    """`to`/xtreme/TASK/test-LL.SUFFIX for each language, each file whole or not at all.

    XTREME's codes are those of macrolanguages (zh for cmn). It has no pairs of languages: `de-en` is left out. Of several
    with one code, as cmn and zh, that which the code means is written (else the first), and a line names the others.
    """
    if submission is None:
        return
    folder = to / FOLDER / submission.task
    folder.mkdir(parents=True, exist_ok=True)
    of_code: dict[str, list[str]] = {}
    for language in sorted(predictions):
        if "-" not in language:
            of_code.setdefault(macrolanguage(language), []).append(language)
    for code, languages in of_code.items():
        path = folder / f"test-{code}.{submission.suffix}"
        first, *others = sorted(languages, key=lambda language: not agree(language, code, exactly=True))
        with written_atomically(path) as aside:
            aside.write_text(submission.text(predictions[first]), encoding="utf-8")
        if others:
            announce([Choice(f"{path}", f"of {first}", f"XTREME's code of {', '.join(others)} is {code} too: left out")])
