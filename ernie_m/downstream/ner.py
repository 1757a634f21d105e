"""Named entities: CoNLL-2002/2003 and WikiANN; trained on English (`en`) or on every language (`all`).

1. A word is predicted at its first piece, once. A word without a piece (a zero-width space) becomes the unknown piece.
2. A sentence too long for the encoder is read in overlapping windows of whole words. Each word is predicted in the window
   with most context around it. Nothing is cut off, so every word that is scored was read.
3. Scores are of entities, exactly as conlleval counts them: on words, type and both borders right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support
from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification

from ernie_m.base.config import section
from ernie_m.base.console import InputError
from ernie_m.base.ranges import Range
from ernie_m.downstream.announce import announce
from ernie_m.downstream.classification import language_known
from ernie_m.downstream.conll import OUTSIDE, Sentence, read_columns
from ernie_m.downstream.encoders import Size
from ernie_m.downstream.submission import Submission, a_line_each
from ernie_m.downstream.task import Hyperparameters, Logits, Part, Scored, Setup, Task
from ernie_m.downstream.windows import window_of_each, word_windows

CONLL_LANGUAGES = {"eng": "en", "deu": "de", "esp": "es", "ned": "nl"}
"""Names of CoNLL's files (eng.train, esp.testa ...) -> language."""
NOT_SCORED = -100
SENTENCES_AT_ONCE = 1000


@section
class NerHyperparameters(Hyperparameters):
    """Those of every task, and how long sentences are cut."""

    overlap: Annotated[int, Range(least=0, most=2**16, zero="none")] = 128
    """Pieces that neighbouring windows of a long sentence share, at most half a window."""


class Ner(Task[Sentence]):
    """Entity F1 on CoNLL columns and WikiANN."""

    name: ClassVar[str] = "ner"
    settings: ClassVar[Mapping[str, str | None]] = {"en": "en", "all": None}
    metrics: ClassVar[tuple[str, ...]] = ("f1", "precision", "recall")
    protocol: ClassVar[str] = (
        "entity F1 as conlleval counts it (seqeval, default mode): micro-averaged over entities of words, type and both "
        "borders right; one prediction a word, at its first piece; long sentences in windows, none truncated"
    )
    patterns: ClassVar[Mapping[Part, tuple[str, ...]]] = {
        "train": ("{language}.train", "eng.train", "train-{language}.tsv", "{language}/train"),
        "validation": ("{language}.testa", "eng.testa", "dev-{language}.tsv", "{language}/dev"),
        "test": ("{language}.testb", "test-{language}.tsv", "{language}/test"),
    }
    """CoNLL's names, of which `eng` alone is English, and WikiANN's in two layouts."""
    auto_class: ClassVar[Any] = AutoModelForTokenClassification
    xtreme = Submission(
        "panx", "tsv", lambda predictions: "\n".join(map(a_line_each(), (of["predicted"] for of in predictions)))
    )

    def defaults(self, setting: str, size: Size) -> NerHyperparameters:
        """As released for CoNLL."""
        of_all = {"base": 3e-4, "large": 2e-4}[size]
        return NerHyperparameters(
            learning_rate=4e-4 if setting == "en" else of_all,
            batch_size=8,
            epochs=10,
            max_length=512,
            weight_decay=0.01,
            layer_decay=0.9 if (setting, size) == ("all", "large") else 0.8,
        )

    def read(self, path: Path, language: str | None) -> dict[str, list[Sentence]]:
        """Sentences of one file of CoNLL or WikiANN; the language is that of the name, or what every token carries."""
        found = read_columns(path)
        announce(found.choices)
        name = path.name.partition(".")[0]
        language = language_known(language or found.prefix or CONLL_LANGUAGES.get(name), path)
        return {CONLL_LANGUAGES.get(language, language): found.sentences}

    def labels(self, train: Sequence[Sentence]) -> tuple[str, ...]:
        """Outside, and B- and I- of the entity types that are trained on."""
        types = sorted({tag[2:] for sentence in train for tag in sentence.tags} - {""})
        return (OUTSIDE, *(f"{start}-{kind}" for kind in types for start in "BI"))

    def classes_to_score(self, own: tuple[str, ...]) -> tuple[str, ...]:
        """The model's own: which entity types there are is said by what it was trained on."""
        return own

    def check(self, examples: Mapping[str, Sequence[Sentence]], setup: Setup) -> None:
        """Raise InputError for an entity type that was not trained on."""
        for sentence in (sentence for of_language in examples.values() for sentence in of_language):
            if unknown := {tag[2:] for tag in sentence.tags} - {label[2:] for label in setup.labels}:
                raise InputError(
                    f"{sentence.where}: entities of type {min(unknown)}, which is not learnt (learnt: "
                    f"{', '.join(setup.labels)}); train and test on files with the same types"
                )

    def features(self, examples: Sequence[Sentence], setup: Setup, with_answers: bool) -> Sequence[Mapping[str, Any]]:
        """One a window of words, for nearly every sentence just one; `labels` at the first pieces of words."""
        number_of = {label: number for number, label in enumerate(setup.labels)}
        features = list(_windows(examples, setup))
        for feature in features if with_answers else ():
            tags = examples[feature["example_index"]].tags
            label_L = np.full(len(feature["input_ids"]), NOT_SCORED)
            label_L[feature["position_W"]] = [number_of[tags[word]] for word in feature["word_W"]]
            feature["labels"] = label_L.tolist()
        return features

    def collator(self, setup: Setup) -> Callable[[list[Any]], Mapping[str, Any]]:
        """Padded to the longest of the batch, labels too."""
        return DataCollatorForTokenClassification(setup.tokenizer)

    def score(
        self,
        examples: Sequence[Sentence],
        features: Sequence[Mapping[str, Any]],
        logits: Logits,
        setup: Setup,
        language: str,
    ) -> Scored:
        """Entity scores over words; a prediction has words, right tags and predicted ones."""
        assert isinstance(logits, np.ndarray)
        predicted: list[list[str | None]] = [[None] * len(sentence.words) for sentence in examples]
        for feature, logits_LC in zip(features, logits, strict=True):
            tags = predicted[feature["example_index"]]
            for word, best in zip(feature["word_W"], logits_LC[feature["position_W"]].argmax(axis=1), strict=True):
                assert tags[word] is None, "a word was predicted twice"
                tags[word] = setup.labels[best]
        assert all(tag is not None for tags in predicted for tag in tags), "a word was not predicted"
        if not self.is_labelled(examples[0]):
            words = (list(sentence.words) for sentence in examples)
            return Scored({}, [{"words": of, "predicted": tags} for of, tags in zip(words, predicted, strict=True)])
        gold = [list(sentence.tags) for sentence in examples]
        precision, recall, f1, _ = precision_recall_fscore_support(gold, predicted, average="micro", zero_division=0)
        return Scored(
            metrics={"f1": 100 * float(f1), "precision": 100 * float(precision), "recall": 100 * float(recall)},
            predictions=[
                {"words": list(sentence.words), "gold": list(sentence.tags), "predicted": tags}
                for sentence, tags in zip(examples, predicted, strict=True)
            ],
        )

    def is_labelled(self, example: Sentence) -> bool:
        """Whether its words have tags."""
        return bool(example.tags)

    def trivial_score(self, examples: Sequence[Sentence]) -> float:
        """0: an answer without entities finds none."""
        return 0.0

    def split_key(self, example: Sentence, index: int) -> str:
        """The text itself: WikiANN holds some sentences more than once."""
        return " ".join(example.words)


def _windows(sentences: Sequence[Sentence], setup: Setup) -> Iterator[dict[str, Any]]:
    """Inputs of each window, with `position_W`: where the words `word_W` that it answers for have their first pieces."""
    tokenizer, longest = setup.tokenizer, setup.hyperparameters.max_length
    room = longest - tokenizer.num_special_tokens_to_add()
    overlap = min(setup.hyperparameters.overlap, room // 2)
    for first in range(0, len(sentences), SENTENCES_AT_ONCE):
        words_of = [list(sentence.words) for sentence in sentences[first : first + SENTENCES_AT_ONCE]]
        planned: list[tuple[int, int, np.ndarray]] = []  # sentence, its first word here, its words answered for here
        texts: list[list[str]] = []
        for number, (words, lengths) in enumerate(zip(words_of, _lengths(words_of, tokenizer), strict=True)):
            words[:] = [word if pieces else tokenizer.unk_token for word, pieces in zip(words, lengths, strict=True)]
            for start, end, word_W in _plan([max(1, pieces) for pieces in lengths], room, overlap):
                planned.append((number, start, word_W))
                texts.append(words[start:end])
        encoded = tokenizer(texts, is_split_into_words=True, truncation=True, max_length=longest)
        for row, (number, start, word_W) in enumerate(planned):
            first_piece: dict[int | None, int] = {}
            for position, word in enumerate(encoded.word_ids(row)):
                first_piece.setdefault(word, position)
            yield {key: values[row] for key, values in encoded.items()} | {
                "example_index": first + number,
                "word_W": word_W,
                "position_W": np.array([first_piece[word - start] for word in word_W.tolist()]),
            }


def _plan(lengths: Sequence[int], room: int, overlap: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Windows [start, end) of a sentence's words, and the words that each answers for, at least one."""
    windows = word_windows(lengths, room, overlap)
    piece_of = np.concatenate([[0], np.cumsum(lengths)])  # word -> its first piece
    window_P = window_of_each([(piece_of[start], piece_of[end]) for start, end in windows], piece_of[-1])
    for number, (start, end) in enumerate(windows):
        word_W = np.flatnonzero(window_P[piece_of[:-1]] == number)
        if len(word_W):
            yield start, end, word_W


def _lengths(words_of: Sequence[Sequence[str]], tokenizer: Any) -> Iterator[list[int]]:
    """Number of pieces of each word."""
    encoded = tokenizer(words_of, is_split_into_words=True, add_special_tokens=False, verbose=False)
    for row, words in enumerate(words_of):
        yield np.bincount(np.array(encoded.word_ids(row), dtype=int), minlength=len(words)).tolist()
