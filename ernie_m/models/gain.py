"""Cross-lingual gain: how much a true translation helps CAMLM predict the masks of a sentence, against a wrong one.

gain = nll(with another pair's translation) - nll(with the true one), in nats per masked token, on held-out pairs. In
training it rises long before retrieval accuracy (retrieval.py) does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ernie_m.base.console import InputError
from ernie_m.base.sampling import generator, key_of
from ernie_m.corpus.folder import HELD_OUT, CorpusFolder, Stream
from ernie_m.models.pretraining import shares, without_training
from ernie_m.rows.batch import Document, Example, LossRequest
from ernie_m.rows.corruption import CorruptionConfig, num_masked
from ernie_m.rows.dataloader import to_device
from ernie_m.rows.objectives import CAMLM, LOSS_INDEX, OBJECTIVE_INDEX
from ernie_m.rows.packing import PackedRow, pack
from ernie_m.rows.row_source import RowSettings

TRUE, SHUFFLED = 0, 1  # metric numbers of the two kinds of rows


@dataclass(frozen=True)
class Gain:
    """Cross-lingual gain in nats per masked token: the difference of two losses, `nll_shuffled` - `nll_true`."""

    gain: float
    nll_true: float
    nll_shuffled: float
    num_predicted: int


def held_out_pairs(folder: CorpusFolder, limit: int) -> list[Example]:
    """Up to `limit` held-out pairs, taken from all language pairs in turn."""
    return some_examples(folder, folder.parallel(HELD_OUT), limit)


def some_examples(folder: CorpusFolder, streams: Sequence[Stream], limit: int) -> list[Example]:
    """Up to `limit` lines or pairs of these streams, the first of each in turn."""
    pairs: list[list[Example]] = []
    for stream in streams:
        languages = tuple(folder.language_ids[language] for language in stream.languages)
        of_stream: list[Example] = []
        for shard in stream.shards:
            if len(of_stream) == limit:
                break  # the others need not be opened
            borders_EC = shard.borders(0, min(shard.entry.rows, limit - len(of_stream)))
            shard.check_ids(folder.manifest.specials, borders_EC[:1], borders_EC[-1:])
            for starts, stops in itertools.pairwise(borders_EC.tolist()):
                columns = zip(shard.values, starts, stops, strict=True)
                of_stream.append(Example(tuple(values[a:b] for values, a, b in columns), languages))
        pairs.append(of_stream)
    in_turn = [of_stream[i] for i in range(max(map(len, pairs), default=0)) for of_stream in pairs if i < len(of_stream)]
    return in_turn[:limit]


def gain_rows(pairs: Sequence[Example], settings: RowSettings) -> list[PackedRow]:
    """CAMLM rows of every pair in both directions, each once with its translation and once with another pair's.

    Both have the same masks of the same sentence, and only these are predicted. Left out: pairs longer than a document may
    be, and language pairs with only one pair, which cannot be shuffled. Raises InputError if no pair is left.
    """
    layout, seed = settings.layout(CAMLM), settings.seed
    usable = [p for p in pairs if int(layout.length(*(max(map(len, p.sentences)),) * 2)) <= settings.document_positions]
    by_languages: dict[tuple[int, ...], list[Example]] = {}
    for pair in usable:
        by_languages.setdefault(pair.languages, []).append(pair)
    documents: dict[int, list[Document]] = {TRUE: [], SHUFFLED: []}
    for languages, group in sorted(by_languages.items()):
        if len(group) < 2:
            continue
        order = generator(seed, "gain", languages).permutation(len(group))
        partner = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
        for i, pair in enumerate(group):
            for side in (0, 1):
                for kind, other in ((TRUE, pair), (SHUFFLED, group[partner[i]])):
                    example = Example(
                        (pair.sentences[side], other.sentences[1 - side]), (languages[side], languages[1 - side])
                    )
                    key = key_of(seed, "gain", languages, i, side)  # the first sentence's masks come from its first numbers
                    documents[kind].append(_first_sentence_only(layout.lay_out(example, key), settings.corruption, example))
    if not documents[TRUE]:
        raise InputError(
            f"no language pair has two held-out pairs that fit a row, of {len(pairs)} pairs and "
            f"{settings.document_positions} positions; take more of them, or keep more with held_out in the catalog"
        )
    return [
        PackedRow(row, OBJECTIVE_INDEX["CAMLM"], kind)
        for kind, d in documents.items()
        for row in in_rows(d, settings.sequence_length)
    ]


def _first_sentence_only(document: Document, corruption: CorruptionConfig, example: Example) -> Document:
    count = int(num_masked(len(example.sentences[0]), corruption.mask_rate))
    first = {name: getattr(document, name)[:count] for name in ("predicted", "labels", "prediction")}
    return replace(document, **first)


def in_rows(documents: Sequence[Document], sequence_length: int) -> list[list[Document]]:
    """Put documents into rows of `sequence_length` positions, in order. A row ends when the next document does not fit."""
    rows: list[list[Document]] = [[]]
    room = sequence_length
    for document in documents:
        if len(document) > room:
            rows.append([])
            room = sequence_length
        rows[-1].append(document)
        room -= len(document)
    return rows


def cross_lingual_gain(
    model: nn.Module,
    rows: Sequence[PackedRow],
    sequence_length: int,
    device: torch.device,
    rows_at_a_time: int = 8,
    rank: int = 0,
    world_size: int = 1,
    sum_over_ranks: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    poll: Callable[[], None] = lambda: None,
) -> Gain:
    """Measure the gain on `rows` (from `gain_rows`). Each rank takes its share; all do the same number of forwards.

    `poll` is called before each forward, on every rank. It may raise, to stop the measurement.
    """
    request = LossRequest(torch.zeros(len(LOSS_INDEX), device=device), num_metrics=2)
    sums = torch.zeros(2, 2, dtype=torch.float64, device=device)
    with without_training(model):
        for own in shares(rows, PackedRow([], 0, TRUE), rows_at_a_time, rank, world_size, poll):
            batch = to_device(pack(own, sequence_length), device)
            _, nll_M = model(batch, request)
            sums[0] += nll_M
            sums[1] += torch.bincount(batch.metric_N, minlength=2)
    (true, shuffled), (num_true, num_shuffled) = sum_over_ranks(sums).tolist()
    nll_true, nll_shuffled = true / num_true, shuffled / num_shuffled
    return Gain(nll_shuffled - nll_true, nll_true, nll_shuffled, int(num_true))
