"""BLEU while a model trains: lines of a file translated as BT translates, against the lines of another, raw both.

1. `read_lines_of`: files PREFIX.LANGUAGE, whose lines translate each other, in two languages or more of the data's.
2. `bleu_of`: each line becomes the text of a row of BT, in each direction. The model fills its slots, as in a step: greedy,
   at most 1.3 n + 5 tokens. What it wrote is decoded and scored by sacrebleu. No reference goes through the vocabulary.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ernie_m.base.console import InputError
from ernie_m.corpus.aligned_files import read_parallel
from ernie_m.corpus.any_vocabulary import AnyVocabulary
from ernie_m.models.back_translation import back_translated
from ernie_m.models.pretraining import AllAgree, PretrainingModel, shares, without_training
from ernie_m.rows.batch import Document, Example
from ernie_m.rows.dataloader import to_device
from ernie_m.rows.halves import least_length
from ernie_m.rows.objectives import BT, OBJECTIVE_INDEX
from ernie_m.rows.packing import PackedRow, pack
from ernie_m.rows.row_source import RowSettings
from ernie_m.runs.metrics import BLEU
from ernie_m.runs.ranks import Ranks
from ernie_m.translation.scores import require_sacrebleu, scores

KEY = "output.bleu_text"
ROWS_AT_A_TIME = 8


def read_lines_of(prefix: str, languages: Sequence[str], limit: int) -> dict[str, list[str]]:
    """The first lines of PREFIX.LANGUAGE, of each of these languages that has such a file.

    Raises InputError if fewer than two have, if one has more or fewer lines than another, and without sacrebleu.
    """
    try:
        require_sacrebleu()
        files = {language: Path(f"{prefix}.{language}") for language in languages if Path(f"{prefix}.{language}").is_file()}
        if len(files) < 2:
            wanted = " and ".join(f"{prefix}.{language}" for language in languages[:2])
            raise InputError(f"{len(files)} files of the data's languages; expected e.g. {wanted}, aligned line by line")
        return {x: lines[:limit] for x, lines in zip(files, read_parallel([*files.values()]), strict=True)}
    except InputError as error:
        raise InputError(f"{KEY}: {prefix}: {error}") from None


@dataclass(frozen=True)
class Direction:
    """Rows of BT whose texts are the source lines, and the lines' numbers in each row."""

    source: str
    target: str
    rows: list[tuple[PackedRow, list[int]]]

    @property
    def name(self) -> str:
        return f"{self.source}-{self.target}"


def directions_of(
    lines: Mapping[str, Sequence[str]], numbers: Mapping[str, int], vocabulary: AnyVocabulary, settings: RowSettings
) -> list[Direction]:
    """From each language into each other one. `numbers`: of the languages. A line that no row has room for is left out."""
    layout = settings.layout(BT)
    found = []
    for source, target in itertools.permutations(lines, 2):
        rows: list[tuple[list[Document], list[int]]] = []
        room = 0
        for number, line in enumerate(lines[source]):
            example = Example((vocabulary.encode(line),), (numbers[source],))
            document = layout.lay_out(example, 0, numbers[target])
            length = least_length(document)
            if not len(example.sentences[0]) or length > settings.sequence_length:
                continue
            if not rows or length > room:
                rows.append(([], []))
                room = settings.sequence_length
            rows[-1][0].append(document)
            rows[-1][1].append(number)
            room -= length
        packed = [(PackedRow(documents, OBJECTIVE_INDEX[BT.name], 0), own) for documents, own in rows]
        found.append(Direction(source, target, packed))
    return found


def bleu_of(
    lines: Mapping[str, Sequence[str]],
    directions: Sequence[Direction],
    vocabulary: AnyVocabulary,
    settings: RowSettings,
    model: PretrainingModel,
    ranks: Ranks,
    poll: Callable[[], None],
    all_agree: AllAgree,
) -> tuple[dict[str, float], str]:
    """`bleu` and `bleu/en-fr`, and what the console says; on other ranks than the first nothing. A collective."""
    started, values = time.monotonic(), {}
    signature, count = "", len(next(iter(lines.values())))
    for direction in directions:
        found = translated(direction, vocabulary, settings, model, ranks, poll, all_agree)
        if ranks.is_first:
            hypotheses = [found.get(number, "") for number in range(count)]
            scored = scores(hypotheses, [lines[direction.target]], direction.target)
            values[f"{BLEU}/{direction.name}"], signature = scored.bleu, scored.bleu_signature
    if not ranks.is_first:
        return {}, ""
    each = ", ".join(f"{name.removeprefix(f'{BLEU}/')} {value:.1f}" for name, value in values.items())
    told = f"BLEU {each} ({count:,} pairs, {time.monotonic() - started:.0f} s; {signature})"
    return {BLEU: float(np.mean([*values.values()])), **values}, told


def translated(
    direction: Direction,
    vocabulary: AnyVocabulary,
    settings: RowSettings,
    model: PretrainingModel,
    ranks: Ranks,
    poll: Callable[[], None],
    all_agree: AllAgree,
) -> dict[int, str]:
    """Translations by the numbers of their lines, on the first rank. Each translates its share, in as many forwards."""
    padding: tuple[PackedRow, list[int]] = (PackedRow([], OBJECTIVE_INDEX[BT.name], 0), [])
    mine: dict[int, str] = {}
    for own in shares(direction.rows, padding, ROWS_AT_A_TIME, ranks.rank, ranks.world_size, poll):
        batch = pack([row for row, _ in own], settings.sequence_length, BT.generates, settings.specials)
        with without_training(model):
            found: torch.Tensor = model(
                to_device(batch, ranks.device), generate=partial(back_translated, all_agree=all_agree)
            )
        numbers = [number for _, of_row in own for number in of_row]
        for number, ids in zip(numbers, found.cpu().numpy(), strict=False):  # a batch without texts has an empty one
            kept = ids[ids != settings.specials.end].tolist()
            mine[number] = " ".join(vocabulary.decode(kept).split())
    return {number: line for of_rank in ranks.gather(mine) or [] for number, line in of_rank.items()}
