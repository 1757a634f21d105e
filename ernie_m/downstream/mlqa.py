"""Answers found in a text: MLQA and XQuAD; trained on SQuAD (`transfer`) or on
its translations too (`translate-train-all`).

A row of the table is a language of context and question (`de`), or both where they differ: `de-en` has German contexts and
answers, English questions. The score's normalisation is that of the context's language.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from transformers import AutoModelForQuestionAnswering

from ernie_m.base.config import section
from ernie_m.base.console import Choice
from ernie_m.base.ranges import Range
from ernie_m.downstream.announce import announce
from ernie_m.downstream.classification import language_known
from ernie_m.downstream.encoders import Size
from ernie_m.downstream.mlqa_score import MLQA, RULES, answer_score, normaliser
from ernie_m.downstream.spans import AnswerCount, SpanLimits, best_texts, span_features
from ernie_m.downstream.squad import Question, read_squad
from ernie_m.downstream.submission import Submission, answers_by_id
from ernie_m.downstream.task import Hyperparameters, Logits, Part, Scored, Setup, Task

SQUAD_FILES = ("train-v1.1.json", "dev-v1.1.json")
"""SQuAD's own names, which say no language: English."""
SQUAD_ID_LENGTH = 24
LARGEST_FRAME = 4  # special tokens around question and context: <s> A </s></s> B </s>


@section
class MlqaHyperparameters(Hyperparameters):
    """Those of every task, and how contexts are read and answers chosen."""

    doc_stride: Annotated[int, Range(least=1, most=2**16)] = 128
    """Tokens from the start of one window of a long context to that of the next."""
    max_query_length: Annotated[int, Range(least=1, most=2**16)] = 64
    """Tokens a question is cut to."""
    max_answer_length: Annotated[int, Range(least=1, most=2**16)] = 100
    """Tokens of the longest answer that may be given."""
    n_best: Annotated[int, Range(least=1, most=1000)] = 20
    """Likeliest starts and likeliest ends of a window that are paired."""
    answer_rules: str = MLQA
    """Normalisation of answers: mlqa, by language; or squad, English for all, as XQuAD is commonly scored."""

    def check(self) -> None:
        super().check()
        room = self.max_length - LARGEST_FRAME
        self.require(self.max_query_length < room, "max_query_length", f"less than max_length - {LARGEST_FRAME} = {room}")
        self.require(self.answer_rules in RULES, "answer_rules", " or ".join(RULES))


class Mlqa(Task[Question]):
    """F1 and exact match of extracted answers."""

    name: ClassVar[str] = "mlqa"
    settings: ClassVar[Mapping[str, str | None]] = {"transfer": "en", "translate-train-all": None}
    metrics: ClassVar[tuple[str, ...]] = ("f1", "em")
    protocol: ClassVar[str] = (
        "F1 of words and exact match of normalised answers, the best of the right ones, by MLQA's own rules for the "
        "context's language (answer_rules=squad: SQuAD v1.1's English ones for all); unanswered counts as wrong"
    )
    patterns: ClassVar[Mapping[Part, tuple[str, ...]]] = {
        "train": (
            "{language}_squad-translate-train-train-v1.1.json",
            "squad.translate.train.en-{language}.json",
            "train-v1.1.json",
            "*/train-v1.1.json",
        ),
        "validation": (
            "dev-context-{language}-question-{language}.json",
            "*/dev-context-{language}-question-{language}.json",
            "dev-v1.1.json",
            "*/dev-v1.1.json",
            "xquad.{language}.json",
        ),
        "test": (
            "test-context-{language}-question-{language}.json",
            "*/test-context-{language}-question-{language}.json",
            "xquad.{language}.json",
            "test-context-{context}-question-{question}.json",
        ),
    }
    """MLQA's test files in one language, since its average is over those; the others if they are named, or alone
    in a folder. XTREME's layouts and MLQA's own of the translations of SQuAD."""
    auto_class: ClassVar[Any] = AutoModelForQuestionAnswering
    xtreme: ClassVar[Submission] = Submission("mlqa", "json", answers_by_id)

    def defaults(self, setting: str, size: Size) -> MlqaHyperparameters:
        """The same in both settings."""
        return MlqaHyperparameters(
            learning_rate={"base": 3e-4, "large": 8e-5}[size],
            batch_size=32,
            epochs=2,
            max_length=384,
            layer_decay={"base": 0.8, "large": 0.9}[size],
        )

    def read(self, path: Path, language: str | None) -> dict[str, list[Question]]:
        """Questions of one file, all in one language or pair of languages."""
        return {language_known(language or ("en" if path.name in SQUAD_FILES else None), path): read_squad(path)}

    def labels(self, train: Sequence[Question]) -> tuple[str, ...]:
        """None: an answer is a span, not a class."""
        return ()

    def features(self, examples: Sequence[Question], setup: Setup, with_answers: bool) -> Sequence[Mapping[str, Any]]:
        """One a window (`spans.span_features`); prints how the answers map to tokens."""
        chosen = setup.hyperparameters
        limits = SpanLimits(chosen.max_length, chosen.doc_stride, chosen.max_query_length)
        features, counts = span_features(examples, setup.tokenizer, limits, with_answers)
        if with_answers:
            announce([answers_choice(counts)])
        return features

    def check(self, examples: Mapping[str, Sequence[Question]], setup: Setup) -> None:
        """The answer rules must know the tested languages."""
        for language in examples:
            normaliser(context_language(language), setup.hyperparameters.answer_rules)

    def score(
        self,
        examples: Sequence[Question],
        features: Sequence[Mapping[str, Any]],
        logits: Logits,
        setup: Setup,
        language: str,
    ) -> Scored:
        """F1 and exact match; a prediction has the id that MLQA's own script asks for."""
        assert isinstance(logits, tuple)
        chosen = setup.hyperparameters
        start_FS, end_FS = logits[0], logits[1]
        assert len(start_FS) == len(end_FS) == len(features), (start_FS.shape, end_FS.shape, len(features))
        texts = best_texts(examples, features, start_FS, end_FS, chosen.n_best, chosen.max_answer_length)
        predictions = {example.id: text for example, text in zip(examples, texts, strict=True)}
        if not self.is_labelled(examples[0]):
            return Scored({}, [{"id": key, "prediction": text} for key, text in predictions.items()])
        answers = {example.id: [answer.text for answer in example.answers] for example in examples}
        score = answer_score(predictions, answers, context_language(language), chosen.answer_rules)
        return Scored(
            {"f1": score.f1, "em": score.exact_match},
            [{"id": key, "prediction": text, "answers": answers[key]} for key, text in predictions.items()],
        )

    def is_labelled(self, example: Question) -> bool:
        """Whether a right answer is known."""
        return bool(example.answers)

    def trivial_score(self, examples: Sequence[Question]) -> float:
        """No constant answer is right."""
        return 0.0

    def split_key(self, example: Question, index: int) -> str:
        """The article in XQuAD, whose translations keep its title; the question in MLQA, whose translations keep its id."""
        return example.title if example.title and len(example.id) == SQUAD_ID_LENGTH else example.id


def context_language(language: str) -> str:
    """`de` of the row `de-en`."""
    return language.replace("_", "-").partition("-")[0].lower()


def answers_choice(counts: AnswerCount) -> Choice:
    """How the right answers map to tokens, in a line."""
    details = f"{counts.widened:,} begin or end within a token and are widened to it, {counts.too_long:,} fit no window"
    if counts.out_of_place:
        details += (
            f"; {counts.out_of_place:,} are not where the file says and are left out, first {counts.first_out_of_place}"
        )
    return Choice("answers that are whole tokens", f"{counts.exact:,}", details)
