"""Answers map to tokens and back exactly, through windows of long contexts, in scripts with and without spaces."""

from __future__ import annotations

import random
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForQuestionAnswering, DataCollatorWithPadding, XLMRobertaTokenizer

from data_prep import embedded
from data_prep.tokenizer_training import train_tokenizer
from ernie_m.base.console import InputError
from ernie_m.corpus.vocabulary import TOKENIZER_FILE
from ernie_m.downstream import spans
from ernie_m.downstream.mlqa_score import answer_score
from ernie_m.downstream.spans import AnswerCount, SpanLimits, best_texts, span_features
from ernie_m.downstream.squad import Answer, Question, read_squad

LIMITS = SpanLimits(max_length=40, doc_stride=12, max_query_length=10)
NUM_REAL = 120
LANGUAGES = ("en", "zh", "ar", "hi", "ru", "ja")


def question(context: str, start: int, end: int, number: int = 0, asked: str = "Who is it?") -> Question:
    return Question(str(number), asked, context, (Answer(context[start:end], start),), "T", f"file, question {number}")


def drawn(count: int, language: str, seed: int = 0) -> list[Question]:
    """Contexts of several sentences; answers of whole words, in scripts without spaces of whole characters."""
    draw, made = random.Random(f"{seed} {language}"), []
    for number in range(count):
        first = draw.randrange(200)
        context = " ".join(embedded.sentence(0, first + k, language) for k in range(draw.randint(1, 5)))
        borders = [0, *(at + 1 for at, letter in enumerate(context) if letter == " "), len(context) + 1]
        at = draw.randrange(len(borders) - 1)
        end = borders[min(at + draw.randint(1, 2), len(borders) - 1)] - 1
        made.append(question(context, borders[at], end, number, embedded.sentence(0, number, language)))
    return made


def perfect(features: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a model that knows: highest at the marked tokens, at the first one where there is no answer."""
    shape = (len(features), max(len(feature["input_ids"]) for feature in features))
    starts, ends = np.full(shape, -100.0, np.float32), np.full(shape, -100.0, np.float32)
    for row, feature in enumerate(features):
        starts[row, : len(feature["input_ids"])] = ends[row, : len(feature["input_ids"])] = 0
        starts[row, feature["start_positions"]] = ends[row, feature["end_positions"]] = 9
    return starts, ends


def within_reach(features: list[dict[str, Any]]) -> set[int]:
    """Questions whose whole answer is in the window that may answer with its first token."""
    return {
        feature["example_index"]
        for feature in features
        if feature["start_positions"] and feature["may_start_C"][feature["start_positions"] - feature["first"]]
    }


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_model_that_knows_the_tokens_gives_the_answers_back(tokenizer: Any, language: str) -> None:
    questions = drawn(60, language)
    features, counts = span_features(questions, tokenizer, LIMITS, with_answers=True)
    assert len(features) > 2 * len(questions), "most contexts take several windows"
    texts = best_texts(questions, features, *perfect(features), n_best=20, max_answer_length=100)
    reachable = within_reach(features)
    for number, q in enumerate(questions):
        assert number not in reachable or q.answers[0].text in texts[number], "perhaps widened, never cut"
    right = {number for number, q in enumerate(questions) if q.answers[0].text == texts[number]}
    assert counts.exact + counts.widened + counts.too_long == len(questions)
    assert counts.exact - (len(questions) - len(reachable)) <= len(right) <= counts.exact
    assert len(right) > 0.6 * len(questions), counts  # how many answers are too long hangs on the sentences


def test_windows_start_a_stride_apart_and_hold_the_contexts_own_tokens(tokenizer: Any) -> None:
    """The tokenizers' `stride` would be the overlap."""
    questions = drawn(40, "en", seed=1)
    features, _ = span_features(questions, tokenizer, LIMITS, with_answers=False)
    assert [f["example_index"] for f in features] == sorted(f["example_index"] for f in features)
    for number, q in enumerate(questions):
        whole = tokenizer(q.context, add_special_tokens=False, return_offsets_mapping=True)
        mine = [feature for feature in features if feature["example_index"] == number]
        started = np.zeros(len(whole["input_ids"]), int)
        for k, feature in enumerate(mine):
            count = len(feature["offset_C2"])
            at = slice(k * LIMITS.doc_stride, k * LIMITS.doc_stride + count)
            place = slice(feature["first"], feature["first"] + count)
            assert feature["input_ids"][place].tolist() == whole["input_ids"][at]
            assert feature["offset_C2"].tolist() == [list(pair) for pair in whole["offset_mapping"][at]]
            assert len(feature["input_ids"]) <= LIMITS.max_length
            assert k == len(mine) - 1 or len(feature["input_ids"]) == LIMITS.max_length, "all but the last are full"
            started[at] += feature["may_start_C"]
            asked = tokenizer.decode(feature["input_ids"][1 : feature["first"] - 2])
            assert unicodedata.normalize("NFKC", q.question).startswith(asked), "cut behind a token"
            assert 1 <= feature["first"] - 3 <= LIMITS.max_query_length
        assert (started == 1).all(), "an answer may start at each token in one window"


def test_questions_tokenized_in_several_goes_give_the_same_features(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = drawn(20, "en", seed=4)
    at_once, counts = span_features(questions, tokenizer, LIMITS, with_answers=True)
    monkeypatch.setattr(spans, "QUESTIONS_AT_ONCE", 3)
    in_several, counts_of_several = span_features(questions, tokenizer, LIMITS, with_answers=True)
    assert counts == counts_of_several
    for one, other in zip(at_once, in_several, strict=True):
        assert {key: np.array(value).tolist() for key, value in one.items()} == {
            key: np.array(value).tolist() for key, value in other.items()
        }


def slow_best(
    questions: list[Question], features: list[Any], starts: np.ndarray, ends: np.ndarray, n_best: int, longest: int
) -> list[str]:
    """Every pair in turn."""
    best = [(-np.inf, "")] * len(questions)
    for row, feature in enumerate(features):
        count, first, number = len(feature["offset_C2"]), feature["first"], feature["example_index"]
        may = [c for c in range(count) if feature["may_start_C"][c]]
        likely_starts = sorted(may, key=lambda c: -starts[row, first + c])[:n_best]
        likely_ends = sorted(range(count), key=lambda c: -ends[row, first + c])[:n_best]
        for s in likely_starts:
            for e in likely_ends:
                score = float(starts[row, first + s]) + float(ends[row, first + e])
                if s <= e < s + longest and score > best[number][0]:
                    text = questions[number].context[feature["offset_C2"][s][0] : feature["offset_C2"][e][1]]
                    best[number] = (score, text.strip())
    return [text for _, text in best]


@pytest.mark.parametrize(("n_best", "longest"), [(20, 100), (3, 5), (1, 2), (100, 1)])
def test_the_best_span_is_that_of_a_search_through_all_pairs(tokenizer: Any, n_best: int, longest: int) -> None:
    questions = [*drawn(25, "en", seed=2), *drawn(25, "zh", seed=2)]
    features, _ = span_features(questions, tokenizer, LIMITS, with_answers=False)
    rng = np.random.default_rng(n_best)
    shape = (len(features), LIMITS.max_length)
    starts, ends = rng.normal(size=shape).astype(np.float32), rng.normal(size=shape).astype(np.float32)
    texts = best_texts(questions, features, starts, ends, n_best, longest)
    assert texts == slow_best(questions, features, starts, ends, n_best, longest)
    assert len(set(texts)) > 10


def test_a_space_that_a_token_brings_along_is_no_part_of_the_answer() -> None:
    """Byte-level tokenizers count the space before a word to its token."""
    feature = {
        "example_index": 0,
        "first": 1,
        "offset_C2": np.array([[0, 2], [2, 9]]),
        "may_start_C": np.array([True, True]),
    }
    logits = np.array([[0.0, 0.0, 1.0, 0.0]])
    assert best_texts([question("in Berlin", 3, 9)], [feature], logits, logits, 20, 100) == ["Berlin"]


def test_question_and_padding_are_never_the_answer(tokenizer: Any) -> None:
    questions = drawn(30, "fr", seed=3)
    features, _ = span_features(questions, tokenizer, LIMITS, with_answers=False)
    starts = np.full((len(features), LIMITS.max_length + 7), 50.0, np.float32)
    ends = starts.copy()
    for row, feature in enumerate(features):
        place = slice(feature["first"], feature["first"] + len(feature["offset_C2"]))
        starts[row, place] = ends[row, place] = -50
    texts = best_texts(questions, features, starts, ends, 20, 100)
    assert all(text in q.context for text, q in zip(texts, questions, strict=True))


def test_answers_that_cannot_map_back_are_counted_by_reason(tokenizer: Any) -> None:
    context = embedded.sentence(0, 0, "en") + " internationalisation"
    start = context.index("internationalisation")
    long = " ".join(embedded.sentence(0, n, "en") for n in range(12))
    questions = [
        question(context, start, len(context), 0),
        question(context, start + 1, len(context) - 1, 1),
        question(long, 0, len(long), 2),
        Question("3", "Who?", context, (Answer("nobody", 0),), "", "file, question 3"),
        Question("4", "Who?", context, (Answer(" ", context.index(" ")),), "", "file, question 4"),
        question("", 0, 0, 5),
    ]
    features, counts = span_features(questions, tokenizer, LIMITS, with_answers=True)
    assert counts == AnswerCount(exact=1, widened=1, too_long=1, out_of_place=3, first_out_of_place="file, question 3")
    assert {feature["example_index"] for feature in features} == {0, 1, 2}, "those out of place are not trained on"
    assert all(f["start_positions"] == f["end_positions"] == 0 for f in features if f["example_index"] == 2)
    scored, _ = span_features(questions, tokenizer, LIMITS, with_answers=False)
    assert {feature["example_index"] for feature in scored} == set(range(6)), "but scored"
    zeros = np.zeros((len(scored), LIMITS.max_length), np.float32)
    assert best_texts(questions, scored, zeros, zeros, 20, 100)[5] == "", "nothing in it to answer with"


def test_a_question_that_leaves_no_room_is_one_line(tokenizer: Any) -> None:
    with pytest.raises(InputError, match=r"max_length 12: a question of 8 tokens leaves no room for its context"):
        span_features(drawn(5, "en"), tokenizer, SpanLimits(12, 12, 8), with_answers=False)


def test_a_batch_of_features_goes_through_a_model(tokenizer: Any, tiny_encoder: Path) -> None:
    features, _ = span_features(drawn(4, "en"), tokenizer, LIMITS, with_answers=True)
    model = AutoModelForQuestionAnswering.from_pretrained(tiny_encoder)
    kept = ("input_ids", "attention_mask", "start_positions", "end_positions")
    batch = DataCollatorWithPadding(tokenizer)([{key: feature[key] for key in kept} for feature in features[:5]])
    assert batch["input_ids"].shape == (5, max(len(feature["input_ids"]) for feature in features[:5]))
    assert model(**batch).loss.isfinite()


REAL = ("xquad/xquad.ar", "xquad/xquad.hi", "xquad/xquad.zh", "mlqa/dev-context-zh-question-zh")


@pytest.fixture(scope="module")
def tokenizer_of_real_text(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A unigram model that has seen the letters of the files."""
    folder = tmp_path_factory.mktemp("real")
    contexts = {q.context.replace("\n", " ") for name in REAL for q in read_squad(real_data / f"{name}.json")[:NUM_REAL]}
    (folder / "text.txt").write_text("\n".join(sorted(contexts)), encoding="utf-8")
    (folder / "c.yaml").write_text("corpora: [{name: text, format: cc100, path: text.txt, language: mul}]")
    train_tokenizer(folder / "c.yaml", folder / "spm.model", 5000)
    (folder / "hf").mkdir()
    shutil.copyfile(folder / "spm.model", folder / "hf" / TOKENIZER_FILE)
    return XLMRobertaTokenizer.from_pretrained(folder / "hf")


@pytest.mark.parametrize("name", REAL)
def test_real_answers_come_back_from_their_tokens(tokenizer_of_real_text: Any, real_data: Path, name: str) -> None:
    questions = read_squad(real_data / f"{name}.json")[:NUM_REAL]
    features, counts = span_features(questions, tokenizer_of_real_text, SpanLimits(384, 128, 64), with_answers=True)
    assert (counts.out_of_place, counts.too_long) == (0, 0)
    texts = best_texts(questions, features, *perfect(features), n_best=20, max_answer_length=100)
    same = [text == q.answers[0].text.strip() for text, q in zip(texts, questions, strict=True)]
    assert sum(same) == counts.exact > 0.85 * len(questions)
    predictions = {q.id: text for q, text in zip(questions, texts, strict=True)}
    score = answer_score(predictions, {q.id: [q.answers[0].text] for q in questions}, name[-2:])
    assert score.f1 > 97
