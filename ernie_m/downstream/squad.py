"""Questions about texts in SQuAD's JSON, version 1.1: SQuAD itself, MLQA, XQuAD and machine translations of them.

{"version": "1.1", "data": [{"title": ..., "paragraphs": [{"context": ..., "qas": [
    {"id": ..., "question": ..., "answers": [{"text": ..., "answer_start": code points into the context}]}]}]}]}
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_m.base.console import InputError, is_unicode

_NAMES = {dict: "an object", list: "a list", str: "a text", int: "a number"}


@dataclass(frozen=True)
class Answer:
    """A right answer, and where in the context it starts, in code points."""

    text: str
    start: int


@dataclass(frozen=True)
class Question:
    """A question with its context, each as it stands in the file, and its right answers: none in XTREME's test files."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]
    title: str
    where: str
    """File and question id."""

    def starts_where_it_says(self) -> bool:
        """Whether the first answer stands in the context at its place."""
        return self.context.startswith(self.answers[0].text, self.answers[0].start)


def read_squad(path: Path, unique: bool = True) -> list[Question]:
    """Questions of one file, in its order.

    Raises InputError, with the place in the file, for text that is not JSON, for keys that are missing or of another type,
    for a question that cannot be answered (SQuAD 2.0) and, where ids are to be `unique`, for one that stands there twice.
    """
    content = _json(path)
    questions: list[Question] = []
    known: set[str] = set()
    for place, article in _each(content, "data", str(path), ""):
        title = _get(article, "title", str, str(path), place) if "title" in article else ""
        for inner, paragraph in _each(article, "paragraphs", str(path), place):
            context = _get(paragraph, "context", str, str(path), inner)
            for innermost, entry in _each(paragraph, "qas", str(path), inner):
                question = _question(entry, context, title, path, innermost)
                if unique and question.id in known:
                    raise InputError(f"{question.where}: the id stands there twice; expected each question once")
                known.add(question.id)
                questions.append(question)
    if not questions:
        raise InputError(f"{path}: no questions; expected data -> paragraphs -> qas, as in SQuAD v1.1")
    return questions


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected JSON as SQuAD v1.1 has it") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: byte {error.start:,} is not UTF-8; expected JSON in UTF-8, as SQuAD v1.1 has it"
        ) from None
    except RecursionError:
        raise InputError(f"{path}: levels without end; expected JSON as SQuAD v1.1 has it") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {error.lineno}, column {error.colno}: not JSON ({error.msg}); expected JSON as SQuAD v1.1 has it"
        ) from None
    except ValueError:
        raise InputError(f"{path}: a number of thousands of digits; expected JSON as SQuAD v1.1 has it") from None
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: {type(content).__name__} at the top; expected an object with `data`, as SQuAD v1.1 has it"
        )
    return content


def _question(entry: dict[str, Any], context: str, title: str, path: Path, place: str) -> Question:
    key = _get(entry, "id", str, str(path), place)
    where = f"{path}, question {key}"
    if entry.get("is_impossible"):
        raise InputError(f"{where}: has no answer (SQuAD 2.0); expected SQuAD v1.1, where every question has one")
    answers = tuple(
        Answer(_get(answer, "text", str, where, inner), _get(answer, "answer_start", int, where, inner))
        for inner, answer in _each(entry, "answers", where, "")
    )
    if all(not answer.text for answer in answers):  # XTREME writes an empty text in place of what it takes out
        answers = ()
    return Question(key, _get(entry, "question", str, where, ""), context, answers, title, where)


def _each(entry: dict[str, Any], key: str, where: str, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and content of each object in the list `entry[key]`."""
    for number, item in enumerate(_get(entry, key, list, where, place)):
        inner = f"{place}{'.' if place else ''}{key}[{number}]"
        if not isinstance(item, dict):
            raise InputError(f"{where}: {inner} is {item!r:.40}; expected an object, as in SQuAD v1.1")
        yield inner, item


def _get(entry: dict[str, Any], key: str, kind: type, where: str, place: str) -> Any:
    at = f"{where}: {place}" if place else where
    if key not in entry:
        raise InputError(f"{at}: no `{key}`; expected {_NAMES[kind]} there, as in SQuAD v1.1")
    if not isinstance(entry[key], kind):
        raise InputError(f"{at}: `{key}` is {entry[key]!r:.40}; expected {_NAMES[kind]}, as in SQuAD v1.1")
    if kind is str and not is_unicode(entry[key]):
        raise InputError(f"{at}: `{key}` holds half a character (a lone surrogate); expected Unicode text")
    return entry[key]
