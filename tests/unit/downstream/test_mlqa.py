"""MLQA's and XQuAD's files are found and scored by the language of their contexts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from ernie_m.base.console import InputError
from ernie_m.downstream.mlqa import Mlqa, MlqaHyperparameters, context_language
from ernie_m.downstream.squad import Answer, Question
from ernie_m.downstream.task import Setup
from ernie_m.downstream.task_files import FileOptions, load

TASK = Mlqa()


def write(path: Path, key: str, context: str = "in Berlin") -> None:
    path.parent.mkdir(exist_ok=True)
    entry = {"id": key, "question": "Where?", "answers": [{"text": context[3:], "answer_start": 3}]}
    path.write_text(json.dumps({"data": [{"title": "T", "paragraphs": [{"context": context, "qas": [entry]}]}]}))


@pytest.fixture(params=["in folders", "flat"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """As MLQA's archive and SQuAD lie side by side, or all in one folder."""
    flat = request.param == "flat"
    write(tmp_path / ("" if flat else "squad") / "train-v1.1.json", "squad")
    for context, question in (("en", "en"), ("de", "de"), ("de", "en"), ("en", "de")):
        for part in ("dev", "test"):
            name = f"{part}-context-{context}-question-{question}.json"
            write(tmp_path / ("" if flat else part) / name, f"{part} {context} {question}")
    return tmp_path


def keys(examples: dict[str, list[Question]]) -> dict[str, list[str]]:
    return {language: [question.id for question in found] for language, found in examples.items()}


def test_transfer_trains_and_chooses_in_english_and_tests_where_context_and_question_agree(folder: Path) -> None:
    data = load(TASK, "transfer", FileOptions(folder, {}))
    assert [question.id for question in data.train] == ["squad"]
    assert keys(data.validation) == {"en": ["dev en en"]}
    assert keys(data.test) == {"en": ["test en en"], "de": ["test de de"]}


def test_pairs_of_languages_are_tested_where_they_are_named(folder: Path) -> None:
    found = [next(folder.rglob(f"test-context-{pair}.json")) for pair in ("de-question-en", "en-question-de")]
    named = ",".join(map(str, found))
    data = load(TASK, "transfer", FileOptions(folder, {"test": named}))
    assert keys(data.test) == {"de-en": ["test de en"], "en-de": ["test en de"]}


def test_a_file_without_a_language_in_its_name_is_one_line(tmp_path: Path) -> None:
    write(tmp_path / "questions.json", "q")
    with pytest.raises(InputError, match=r"questions.json: neither name nor content tells the language"):
        TASK.read(tmp_path / "questions.json", None)
    assert list(TASK.read(tmp_path / "questions.json", "ro")) == ["ro"]


def setup(tokenizer: Any, **chosen: Any) -> Setup:
    values = {
        "learning_rate": 1e-3,
        "batch_size": 8,
        "epochs": 1,
        "max_length": 64,
        "doc_stride": 20,
        "max_query_length": 20,
        **chosen,
    }
    return Setup(tokenizer, MlqaHyperparameters(**values), (), "transfer")


@pytest.mark.parametrize(
    ("language", "f1"), [("de", 100.0), ("de-en", 100.0), ("en-de", 66.66666666666667), ("zh", 66.66666666666667)]
)
def test_answers_are_normalised_in_the_language_of_the_context(tiny_encoder: Path, language: str, f1: float) -> None:
    """`die Mauer` is `Mauer` in German, two words elsewhere."""
    chosen = setup(AutoTokenizer.from_pretrained(tiny_encoder))
    context = "Da steht die Mauer."
    question = Question("q", "Was?", context, (Answer("Mauer", context.index("Mauer")),), "T", "f")
    features = TASK.features([question], chosen, with_answers=False)
    start, end = np.zeros((1, 64), np.float32), np.zeros((1, 64), np.float32)
    offsets = features[0]["offset_C2"].tolist()
    at = next(n for n, (a, b) in enumerate(offsets) if b > context.index("die"))
    to = next(n for n, (a, b) in enumerate(offsets) if b >= context.index("Mauer") + 5)
    start[0, features[0]["first"] + at] = end[0, features[0]["first"] + to] = 5
    scored = TASK.score([question], features, (start, end), chosen, language)
    assert scored.predictions == [{"id": "q", "prediction": "die Mauer", "answers": ["Mauer"]}]
    assert scored.metrics["f1"] == pytest.approx(f1)
    assert scored.metrics["em"] == (100.0 if f1 == 100 else 0.0)


def test_languages_that_the_rules_do_not_know_are_refused_before_training(tiny_encoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    TASK.check({"en": [], "zh-en": [], "ar": []}, setup(tokenizer))
    with pytest.raises(InputError, match=r"no normalisation for answers in `el`.*leave it out, or give answer_rules=squad"):
        TASK.check({"en": [], "el": []}, setup(tokenizer))
    TASK.check({"en": [], "el": []}, setup(tokenizer, answer_rules="squad"))


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"answer_rules": "mine"}, r"answer_rules: 'mine'; expected mlqa or squad"),
        ({"max_query_length": 60}, r"max_query_length: 60; expected less than max_length - 4 = 60"),
        ({"doc_stride": 0}, r"doc_stride: 0; expected a whole number from 1 to 65,536"),
    ],
)
def test_values_that_make_no_sense_are_one_line(chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        setup(None, **chosen)


def test_translations_fall_to_the_same_part_of_a_cut_dev_file(real_data: Path) -> None:
    for source, languages in (("mlqa", ("en", "de", "zh")), ("xquad", ("en", "ar", "hi"))):
        data = load(TASK, "translate-train-all", FileOptions(real_data / source, {}, from_dev=True))
        parts = {
            "train": data.train,
            **{k: [q for found in getattr(data, k).values() for q in found] for k in ("validation", "test")},
        }
        ids = {part: {question.id for question in found} for part, found in parts.items()}
        assert set(data.test) >= set(languages)
        assert not ids["train"] & ids["test"]
        assert not ids["train"] & ids["validation"]
        assert not ids["validation"] & ids["test"]
        assert len(data.train) > 2 * sum(map(len, data.test.values()))
        if source == "xquad":
            contexts = {part: {question.context for question in found} for part, found in parts.items()}
            assert not contexts["train"] & contexts["test"], "articles stay whole"


@pytest.mark.parametrize(("language", "expected"), [("de", "de"), ("de-en", "de"), ("zh_CN", "zh"), ("ZH-EN", "zh")])
def test_the_language_of_the_context_is_the_first(language: str, expected: str) -> None:
    assert context_language(language) == expected


@pytest.mark.parametrize(("size", "rate", "decay"), [("base", 3e-4, 0.8), ("large", 8e-5, 0.9)])
def test_hyperparameters_are_the_released_ones(size: Any, rate: float, decay: float) -> None:
    chosen = TASK.defaults("transfer", size)
    assert (chosen.learning_rate, chosen.layer_decay, chosen.batch_size, chosen.epochs) == (rate, decay, 32, 2)
    assert (chosen.max_length, chosen.doc_stride, chosen.max_query_length) == (384, 128, 64)
    assert (chosen.max_answer_length, chosen.n_best) == (100, 20)
