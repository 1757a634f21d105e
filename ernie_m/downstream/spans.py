"""Answers as spans of tokens: question and context to features, logits back to text.

1. The question is cut to `max_query_length` tokens, the context read in windows that start `doc_stride` tokens apart. (The
   tokenizers' own `stride` is another thing: how much windows share.)
2. An answer's characters become the smallest run of tokens that covers them, by the tokenizer's offsets. In a window
   that does not hold all of it the answer is the first token.
3. The best span is that with the largest sum of start and end logit, over all windows: both among the context's tokens,
   at most `max_answer_length` of them, and the start in the window with most context around it. Its text is
   cut from the context by two offsets, not made of tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ernie_m.base.console import InputError, Progress
from ernie_m.downstream.squad import Question
from ernie_m.downstream.windows import window_of_each

QUESTIONS_AT_ONCE = 2048
FIRST_TOKEN = 0


@dataclass(frozen=True)
class SpanLimits:
    """In tokens."""

    max_length: int
    doc_stride: int
    max_query_length: int


@dataclass
class AnswerCount:
    """How many answers map to tokens and back exactly, and how many do not."""

    exact: int = 0
    widened: int = 0
    """An answer's border lies within a token: the run that covers it holds more than the answer."""
    too_long: int = 0
    """No window holds all of it."""
    out_of_place: int = 0
    """The context has other text, or no token, at the answer's place. Such a question is left out of training."""
    first_out_of_place: str = ""


def span_features(
    questions: Sequence[Question], tokenizer: Any, limits: SpanLimits, with_answers: bool
) -> tuple[list[dict[str, Any]], AnswerCount]:
    """One feature a window, in the questions' order, and what became of the answers.

    Beside the model's inputs: `example_index`; `first` and `offset_C2`, the place of the context's tokens in the feature and
    their characters; `may_start_C`, those that an answer may start at here; with answers `start_positions`,
    `end_positions`. Raises InputError when max_length leaves no room for a context.
    """
    features: list[dict[str, Any]] = []
    counts = AnswerCount()
    progress = Progress("tokenizing questions", len(questions), "questions")
    for start in range(0, len(questions), QUESTIONS_AT_ONCE):
        chosen = questions[start : start + QUESTIONS_AT_ONCE]
        for number, windows in enumerate(_encoded(chosen, tokenizer, limits)):
            for feature in windows:
                feature["example_index"] = start + number
            if not with_answers or _mark_answer(chosen[number], windows, counts):
                features.extend(windows)
        progress.advance(len(chosen))
    progress.close()
    return features, counts


def best_texts(
    questions: Sequence[Question],
    features: Sequence[Mapping[str, Any]],
    start_FS: np.ndarray,
    end_FS: np.ndarray,
    n_best: int,
    max_answer_length: int,
) -> list[str]:
    """The best answer to each question, from the logits [features, length] of its windows; "" for one without features."""
    texts, scores = [""] * len(questions), np.full(len(questions), -np.inf)
    for feature, start_S, end_S in zip(features, start_FS, end_FS, strict=True):
        offset_C2, number = feature["offset_C2"], feature["example_index"]
        if not len(offset_C2):
            continue  # a context without tokens
        context = slice(feature["first"], feature["first"] + len(offset_C2))
        allowed_C = np.where(feature["may_start_C"], start_S[context].astype(np.float64), -np.inf)
        starts, ends = _largest(allowed_C, n_best), _largest(end_S[context].astype(np.float64), n_best)
        length_NN = ends[None, :] - starts[:, None] + 1
        score_NN = allowed_C[starts][:, None] + end_S[context][ends][None, :]
        score_NN = np.where((length_NN >= 1) & (length_NN <= max_answer_length), score_NN, -np.inf)
        row, column = np.unravel_index(score_NN.argmax(), score_NN.shape)
        if score_NN[row, column] > scores[number]:
            scores[number] = score_NN[row, column]
            texts[number] = _text(questions[number].context, offset_C2[starts[row]], offset_C2[ends[column]])
    return texts


def _largest(values_C: np.ndarray, count: int) -> np.ndarray:
    return np.argsort(-values_C, kind="stable")[:count]


def _text(context: str, first_2: np.ndarray, last_2: np.ndarray) -> str:
    return context[first_2[0] : last_2[1]].strip()


def _encoded(questions: Sequence[Question], tokenizer: Any, limits: SpanLimits) -> Iterator[list[dict[str, Any]]]:
    """The windows of each question; those with questions of the same length are tokenized together."""
    texts, lengths = _cut_questions([q.question for q in questions], tokenizer, limits.max_query_length)
    groups: dict[int, list[int]] = defaultdict(list)
    for number, length in enumerate(lengths):
        groups[length].append(number)
    windows: list[list[dict[str, Any]]] = [[] for _ in questions]
    for length, numbers in groups.items():
        room = limits.max_length - length - tokenizer.num_special_tokens_to_add(pair=True)
        if room < 1:
            raise InputError(
                f"max_length {limits.max_length}: a question of {length} tokens leaves no room for its context; "
                "expected a larger max_length or a smaller max_query_length"
            )
        encoded = tokenizer(
            [texts[number] for number in numbers],
            [questions[number].context for number in numbers],
            truncation="only_second",
            max_length=limits.max_length,
            stride=max(0, room - limits.doc_stride),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        for row, sample in enumerate(encoded.pop("overflow_to_sample_mapping")):
            windows[numbers[sample]].append(_window(encoded, row))
        for number in numbers:
            _share_starts(windows[number], step=min(room, limits.doc_stride))
    yield from windows


def _cut_questions(texts: list[str], tokenizer: Any, longest: int) -> tuple[list[str], list[int]]:
    """Questions of at most `longest` tokens, cut behind a token; their lengths in tokens."""
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    lengths = [len(ids) for ids in encoded["input_ids"]]
    cut = list(texts)
    for number, text in enumerate(texts):
        at = longest
        while lengths[number] > longest:  # the end of a cut text may fall into more tokens than before
            cut[number] = text[: encoded["offset_mapping"][number][at - 1][1]]
            lengths[number] = len(tokenizer(cut[number], add_special_tokens=False)["input_ids"])
            at -= 1
    return cut, lengths


def _window(encoded: Any, row: int) -> dict[str, Any]:
    """Inputs of one window as small arrays, and where the context lies in it."""
    kinds = {"input_ids": np.int32}  # masks and types are small numbers: SQuAD makes 90,000 windows, on each rank
    inputs = {key: np.array(of[row], kinds.get(key, np.int8)) for key, of in encoded.items() if key != "offset_mapping"}
    is_context = np.array([part == 1 for part in encoded.sequence_ids(row)])
    places = np.flatnonzero(is_context)
    offset_C2 = np.array(encoded["offset_mapping"][row], dtype=np.int32).reshape(-1, 2)[is_context]
    return {**inputs, "first": int(places[0]) if len(places) else len(is_context), "offset_C2": offset_C2}


def _share_starts(windows: list[dict[str, Any]], step: int) -> None:
    """Mark in which window each token may start an answer: in one window only; windows start `step` tokens apart."""
    ranges = [(number * step, number * step + len(window["offset_C2"])) for number, window in enumerate(windows)]
    owner_T = window_of_each(ranges, ranges[-1][1])
    for number, ((start, end), window) in enumerate(zip(ranges, windows, strict=True)):
        window["may_start_C"] = owner_T[start:end] == number


def _mark_answer(question: Question, windows: list[dict[str, Any]], counts: AnswerCount) -> bool:
    """Add start and end to each window; False when the answer is not where it is said to be, or no token is there."""
    answer = question.answers[0]
    text = answer.text.strip()
    start = answer.start + len(answer.text) - len(answer.text.lstrip())
    end = start + len(text)
    is_covered = any(len(_touching(window["offset_C2"], start, end)) for window in windows)
    if not text or not is_covered or not question.starts_where_it_says():
        counts.out_of_place += 1
        counts.first_out_of_place = counts.first_out_of_place or question.where
        return False
    found: set[str] = set()
    for number, window in enumerate(windows):
        offset_C2, first = window["offset_C2"], window["first"]
        begins_before = number == 0 or offset_C2[0, 0] <= start
        ends_behind = number == len(windows) - 1 or offset_C2[-1, 1] >= end
        window["start_positions"] = window["end_positions"] = FIRST_TOKEN
        if begins_before and ends_behind:
            place_T = _touching(offset_C2, start, end)
            window["start_positions"], window["end_positions"] = int(first + place_T[0]), int(first + place_T[-1])
            found.add(_text(question.context, offset_C2[place_T[0]], offset_C2[place_T[-1]]))
    counts.exact += text in found
    counts.widened += bool(found) and text not in found
    counts.too_long += not found
    return True


def _touching(offset_C2: np.ndarray, start: int, end: int) -> np.ndarray:
    """The tokens that have characters of [start, end)."""
    first_C, last_C = offset_C2[:, 0], offset_C2[:, 1]
    return np.flatnonzero((first_C < last_C) & (last_C > start) & (first_C < end))
