"""SQuAD's JSON is read whole; what is broken in it is named by its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ernie_m.base.console import InputError
from ernie_m.downstream.squad import read_squad


def content(**changes: Any) -> dict[str, Any]:
    question = {"id": "q1", "question": "Wer?", "answers": [{"text": "Anna", "answer_start": 3}], **changes}
    other = {"id": "q2", "question": "Was?", "answers": [{"text": "Ü", "answer_start": 0}, {"text": "a", "answer_start": 6}]}
    return {"version": "1.1", "data": [{"title": "T", "paragraphs": [{"context": "Üb Anna", "qas": [question, other]}]}]}


def write(folder: Path, what: Any) -> Path:
    path = folder / "file.json"
    path.write_bytes(what if isinstance(what, bytes) else json.dumps(what).encode())
    return path


def test_questions_come_with_context_title_and_all_answers(tmp_path: Path) -> None:
    first, second = read_squad(write(tmp_path, content()))
    assert (first.id, first.question, first.context, first.title) == ("q1", "Wer?", "Üb Anna", "T")
    assert [(a.text, a.start) for a in second.answers] == [("Ü", 0), ("a", 6)]
    assert first.where.endswith("file.json, question q1")
    assert first.starts_where_it_says()
    moved = read_squad(write(tmp_path, content(answers=[{"text": "Anna", "answer_start": 2}])))[0]
    assert not moved.starts_where_it_says()


def without(key: str) -> dict[str, Any]:
    made = content()
    del made["data"][0]["paragraphs"][0][key]
    return made


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (b'{"data": [', r"file.json, line 1, column \d+: not JSON .*; expected JSON as SQuAD v1.1 has it"),
        (b'{"data": "\xff"}', r"byte 10 is not UTF-8"),
        ([1], r"file.json: list at the top; expected an object with `data`"),
        ({"data": {}}, r"`data` is \{\}; expected a list"),
        ({"data": [3]}, r"data\[0\] is 3; expected an object"),
        ({"data": []}, r"file.json: no questions; expected data -> paragraphs -> qas"),
        ({"version": "1.1"}, r"file.json: no `data`; expected a list there"),
        (without("context"), r"data\[0\].paragraphs\[0\]: no `context`; expected a text"),
        (without("qas"), r"data\[0\].paragraphs\[0\]: no `qas`; expected a list"),
        (content(id=7), r"data\[0\].paragraphs\[0\].qas\[0\]: `id` is 7; expected a text"),
        (content(id="q2"), r"question q2: the id stands there twice"),
        (content(question=None), r"question q1: `question` is None; expected a text"),
        (content(answers=[{"text": "Anna"}]), r"question q1: answers\[0\]: no `answer_start`; expected a number"),
        (json.dumps(content()).replace("3", "9" * 5000).encode(), r"a number of thousands of digits; expected JSON"),
        (content(id="\ud800"), r"qas\[0\]: `id` holds half a character"),
        (content(question="W\udc00"), r"question q1: `question` holds half a character"),
        (content(answers=[], is_impossible=True), r"question q1: has no answer \(SQuAD 2.0\); expected SQuAD v1.1"),
    ],
)
def test_what_is_broken_is_named_by_its_place(tmp_path: Path, what: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_squad(write(tmp_path, what))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone: no such file"):
        read_squad(tmp_path / "gone")


def test_real_files_are_whole_and_answers_stand_where_they_say(real_data: Path) -> None:
    expected = {"de": 512, "en": 1148, "zh": 504}
    for language, count in expected.items():
        questions = read_squad(real_data / "mlqa" / f"dev-context-{language}-question-{language}.json")
        assert len(questions) == count, "the number that MLQA's README gives"
        assert all(question.starts_where_it_says() for question in questions)
    files = sorted((real_data / "xquad").glob("xquad.*.json"))
    assert len(files) >= 6
    for path in files:
        questions = read_squad(path)
        assert len(questions) == 1190
        assert all(question.starts_where_it_says() for question in questions)
