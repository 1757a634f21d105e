"""How much of the text the encoder's tokenizer knows: a line at the start, and an alarm for each badly known language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ernie_m.corpus.unknown_pieces import Pieces, count_features, unknown_ids_of
from ernie_m.downstream.task import Setup, Task
from ernie_m.downstream.task_files import TaskData

SAMPLED = 300
"""Examples of a part and language, spread over all of them; by then the share of a file is known well enough."""


def tell_unknown(task: Task[Any], data: TaskData, setup: Setup) -> None:
    """Print the share of unknown pieces of the training examples and of each tested language."""
    counted = {f"train {'+'.join(data.num_train)}": _counted(task, data.train, setup)} if data.train else {}
    counted |= {f"test {language}": _counted(task, examples, setup) for language, examples in data.predicted.items()}
    _tell(counted, setup.tokenizer)


def tell_unknown_texts(texts: Mapping[str, Sequence[str]], tokenizer: Any) -> None:
    """The same for texts by name."""
    encoded = {name: (tokenizer(text) for text in some[:SAMPLED]) for name, some in texts.items()}
    _tell({name: count_features(features, tokenizer) for name, features in encoded.items()}, tokenizer)


def _tell(counted: Mapping[str, Pieces], tokenizer: Any) -> None:
    if unknown_ids_of(tokenizer) is None:
        print("unknown pieces: not counted, the tokenizer spells everything in bytes and has none", flush=True)
        return
    shares = ", ".join(f"{name} {pieces.shown}" for name, pieces in counted.items())
    print(f"unknown pieces, of up to {SAMPLED} examples each: {shares}", flush=True)
    for name, pieces in counted.items():
        if alarm := pieces.alarm(name):
            print(f"alarm: {alarm}", flush=True)


def _counted(task: Task[Any], examples: Sequence[Any], setup: Setup) -> Pieces:
    sample = list(examples[:: -(-len(examples) // SAMPLED) or 1])
    return count_features(task.features(sample, setup, False), setup.tokenizer)
