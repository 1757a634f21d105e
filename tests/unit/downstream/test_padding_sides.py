"""A tokenizer that pads and cuts on the left changes no score: every task is scored as with one that does on the right."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep import embedded
from ernie_m.downstream import tatoeba
from ernie_m.downstream.bitext_tuning import BitextTuning, SentencePair
from ernie_m.downstream.classification import Pair
from ernie_m.downstream.conll import Sentence
from ernie_m.downstream.mlqa import Mlqa
from ernie_m.downstream.ner import Ner
from ernie_m.downstream.pawsx import PawsX
from ernie_m.downstream.squad import Answer, Question
from ernie_m.downstream.task import Setup, Task
from ernie_m.downstream.xnli import Xnli
from ernie_m.interop.encoder import open_encoder

COUNT, LONGEST = 12, 40


@pytest.fixture(scope="module")
def left(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same encoder with a tokenizer that pads and cuts on the left."""
    folder = Path(shutil.copytree(tiny_encoder, tmp_path_factory.mktemp("left") / "hf"))
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | {"padding_side": "left", "truncation_side": "left"}), encoding="utf-8")
    return folder


def text(number: int, language: str = "en") -> str:
    return embedded.sentence(0, number, language)


def words(number: int, draw: random.Random) -> Sentence:
    """One to thirty words, a few of them longer than a window."""
    found = " ".join(text(7 * number + k) for k in range(1 + 3 * (number % 3))).split()
    return Sentence(tuple(found), tuple(draw.choice(("O", "B-PER", "B-LOC")) for _ in found), f"line {number}")


def question(number: int) -> Question:
    """A context of several windows; the answer is one of its words."""
    context = " ".join(text(11 * number + k) for k in range(1 + number % 4))
    answer = context.split()[-2]
    return Question(str(number), text(number), context, (Answer(answer, context.index(answer)),), "", str(number))


def examples_of(task: Task[Any]) -> Sequence[Any]:
    draw = random.Random(1)
    if isinstance(task, Ner):
        return [words(number, draw) for number in range(COUNT)]
    if isinstance(task, Mlqa):
        return [question(number) for number in range(COUNT)]
    if isinstance(task, BitextTuning):
        return [SentencePair(text(n), text(n, "fr")) for n in range(COUNT)]
    classes = task.labels(())
    return [Pair(text(n) + (" " + text(n + 40)) * (n % 3), text(n + 1), classes[n % len(classes)]) for n in range(COUNT)]


def scored(task: Task[Any], folder: Path) -> tuple[Mapping[str, float], list[Any], float]:
    """Scores, predictions and the loss on the same examples, in batches of five."""
    encoder, examples = open_encoder(folder), examples_of(task)
    chosen = task.defaults(next(iter(task.settings)), "base")
    small = {"max_length": LONGEST, **({"doc_stride": 12, "max_query_length": 10} if isinstance(task, Mlqa) else {})}
    hyperparameters = type(chosen)(**{**vars(chosen), **small})
    setup = Setup(encoder.tokenizer, hyperparameters, task.labels(examples), next(iter(task.settings)))
    torch.manual_seed(2)
    model = task.model(encoder, setup).eval()
    features, collate = task.features(examples, setup, True), task.collator(setup)
    taken = {"input_ids", "attention_mask", "labels", "start_positions", "end_positions", "source_ids", "target_ids"}
    outputs, losses, lengths = [], [], []
    with torch.no_grad():
        for start in range(0, len(features), 5):
            batch = [features[i] for i in range(start, min(start + 5, len(features)))]
            inputs = collate([{k: v for k, v in feature.items() if k in taken} for feature in batch])
            found = dict(model(**inputs))
            losses.append(float(found.pop("loss", 0.0)))
            kinds = [key for key in ("logits", "start_logits", "end_logits", "source", "target") if key in found]
            outputs.append([found[key].numpy() for key in kinds])
            lengths.append(max(part.shape[1] for part in outputs[-1]))
    parts = tuple(np.concatenate([padded(of[i], max(lengths)) for of in outputs]) for i in range(len(outputs[0])))
    plain = task.features(examples, setup, False)
    result = task.score(examples, plain, parts if len(parts) > 1 else parts[0], setup, "en")
    return result.metrics, result.predictions, sum(losses)


def padded(part: np.ndarray, length: int) -> np.ndarray:
    """As transformers' Trainer puts batches of unequal length together, where the second axis is the length."""
    if part.shape[1] >= length:
        return part
    widths = [(0, 0), (0, length - part.shape[1]), *[(0, 0)] * (part.ndim - 2)]
    return np.pad(part, widths, constant_values=-100)


@pytest.mark.parametrize("task", [Xnli(), PawsX(), Ner(), Mlqa(), BitextTuning()], ids=lambda task: task.name)
def test_scores_losses_and_predictions_do_not_depend_on_the_side_of_padding(
    task: Task[Any], tiny_encoder: Path, left: Path
) -> None:
    assert scored(task, left) == scored(task, tiny_encoder)


def test_retrieval_does_not_depend_on_the_side_of_padding(tiny_encoder: Path, left: Path, tmp_path: Path) -> None:
    for name, language in (("fra", "fr"), ("eng", "en")):
        lines = "".join(f"{text(number, language)}\n" for number in range(30))
        (tmp_path / f"tatoeba.fra-eng.{name}").write_text(lines, encoding="utf-8")
    found = [tatoeba.run(of, tmp_path, tmp_path / to)["languages"] for of, to in ((left, "a"), (tiny_encoder, "b"))]
    assert found[0] == found[1]
