"""Two early measures of cross-lingual transfer.

*Cross-lingual gain*: how much a true translation helps CAMLM predict the masks of a sentence, against somebody else's:
nll(shuffled translation) - nll(true one), in nats per masked token. It moves long before retrieval does.

*Retrieval*: accuracy@1 of finding a sentence's translation by cosine of mean-pooled hidden states, both ways.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ernie_m.base.console import InputError, Progress
from ernie_m.base.sampling import generator, key_of
from ernie_m.base.special_tokens import Specials
from ernie_m.corpus.folder import HELD_OUT, CorpusFolder
from ernie_m.models.pretraining import without_training
from ernie_m.rows.batch import Document, Example, LossRequest
from ernie_m.rows.corruption import num_masked
from ernie_m.rows.dataloader import to_device
from ernie_m.rows.layout import Layout
from ernie_m.rows.objectives import CAMLM, LOSS_INDEX, OBJECTIVE_INDEX, CorruptionConfig
from ernie_m.rows.packing import PackedRow, pack

TRUE, SHUFFLED = 0, 1  # metric numbers of the gain's two kinds of rows


@dataclass(frozen=True)
class Gain:
    """Cross-lingual gain in nats per masked token, and the two losses it is the difference of."""

    gain: float
    nll_true: float
    nll_shuffled: float
    num_predicted: int


def held_out_pairs(folder: CorpusFolder, limit: int) -> list[Example]:
    """Up to `limit` held-out pairs, taken from all language pairs in turn."""
    streams = folder.parallel(HELD_OUT)
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


def gain_rows(
    pairs: Sequence[Example], corruption: CorruptionConfig, specials: Specials, sequence_length: int, seed: int
) -> list[PackedRow]:
    """CAMLM rows of every pair in both directions, each once with its translation and once with another pair's.

    Both see the same masks of the same sentence, and only those are predicted. Pairs that are too long are left out;
    a language pair with fewer than two has nothing to shuffle. Raises InputError when no pair is left.
    """
    layout = Layout(CAMLM, corruption, specials)
    usable = [p for p in pairs if int(layout.length(*(max(map(len, p.sentences)),) * 2)) <= sequence_length]
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
                    documents[kind].append(_first_sentence_only(layout.lay_out(example, key), corruption, example))
    if not documents[TRUE]:
        raise InputError("no language pair has two held-out pairs that fit a row; keep more with held_out in the catalog")
    return [
        PackedRow(row, OBJECTIVE_INDEX["CAMLM"], kind)
        for kind, d in documents.items()
        for row in in_rows(d, sequence_length)
    ]


def _first_sentence_only(document: Document, corruption: CorruptionConfig, example: Example) -> Document:
    count = int(num_masked(len(example.sentences[0]), corruption.mask_rate))
    first = {name: getattr(document, name)[:count] for name in ("predicted", "labels", "prediction")}
    return replace(document, **first)


def in_rows(documents: Sequence[Document], sequence_length: int) -> list[list[Document]]:
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
    """Measure the gain on `rows` (from `gain_rows`); with several ranks each takes its part, all do as many forwards.

    `poll` is called before each forward, on all ranks alike, and may end it all by an exception.
    """
    together = world_size * rows_at_a_time
    padded = [*rows, *[PackedRow([], 0, TRUE)] * (-len(rows) % together)]
    request = LossRequest(torch.zeros(len(LOSS_INDEX), device=device), num_metrics=2)
    sums = torch.zeros(2, 2, dtype=torch.float64, device=device)
    with without_training(model):
        for start in range(0, len(padded), together):
            poll()
            batch = to_device(pack(padded[start : start + together][rank::world_size], sequence_length), device)
            _, nll_M = model(batch, request)
            sums[0] += nll_M
            sums[1] += torch.bincount(batch.metric_N, minlength=2)
    (true, shuffled), (num_true, num_shuffled) = sum_over_ranks(sums).tolist()
    nll_true, nll_shuffled = true / num_true, shuffled / num_shuffled
    return Gain(nll_shuffled - nll_true, nll_true, nll_shuffled, int(num_true))


def read_aligned(source: Path, target: Path) -> tuple[list[str], list[str]]:
    """Two line-aligned UTF-8 files; raises InputError when they are missing, empty or of unequal length."""
    sides = []
    for path in (source, target):
        try:
            text = path.read_bytes().decode("utf-8")
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; expected a sentence a line, aligned with the other file") from None
        except UnicodeDecodeError as error:
            line = path.read_bytes()[: error.start].count(b"\n") + 1
            raise InputError(f"{path}, line {line}: not UTF-8; convert the file") from None
        sides.append([line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else [])
    if not sides[0] or not sides[1]:
        raise InputError(f"{source if not sides[0] else target}: empty; expected a sentence a line")
    if len(sides[0]) != len(sides[1]):
        raise InputError(f"{source} has {len(sides[0])} lines, {target} {len(sides[1])}; expected line-aligned files")
    return sides[0], sides[1]


def accuracy_at_1(source_ND: Tensor, target_ND: Tensor, piece: int = 2048) -> tuple[float, float]:
    """Share of sentences whose nearest neighbour by cosine is their translation: source -> target, target -> source."""
    found = []
    for queries, keys in ((source_ND, target_ND), (target_ND, source_ND)):
        neighbours = nearest(queries, keys, piece)
        found.append((neighbours == torch.arange(len(queries), device=neighbours.device)).float().mean().item())
    return found[0], found[1]


def nearest(queries_ND: Tensor, keys_KD: Tensor, piece: int = 2048) -> Tensor:
    """Number of the nearest key by cosine for each query: int64 [N]."""
    queries_ND, keys_KD = (nn.functional.normalize(side.float(), dim=1) for side in (queries_ND, keys_KD))
    return torch.cat([(part @ keys_KD.T).argmax(dim=1) for part in queries_ND.split(piece)])


def mean_over_tokens(states_BSD: Tensor, mask_BS: Tensor) -> Tensor:
    """Mean of the states of real tokens (mask 1), special ones included; axes in front of B are kept: [..., B, D]."""
    weights = mask_BS[:, :, None].to(states_BSD.dtype)
    return (states_BSD * weights).sum(-2) / weights.sum(-2)


def mean_pooled(model: nn.Module, tokenizer: Any, sentences: Sequence[str], device: torch.device, note: str) -> Tensor:
    """Mean over tokens of every layer's hidden states of a Hugging Face encoder: fp32 [layers + 1, N, D] on the CPU."""
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    pooled: list[Tensor] = [torch.empty(0)] * len(sentences)
    progress = Progress(f"encoding {note}", len(sentences), "sentences")
    longest = min(512, tokenizer.model_max_length)
    model.eval().to(device)
    with torch.no_grad():
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            texts = [sentences[i] for i in chosen]
            inputs = tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt").to(device)
            layers = model(**inputs, output_hidden_states=True).hidden_states
            if not layers or {layer.shape[:2] for layer in layers} != {inputs["attention_mask"].shape}:
                raise InputError(f"{type(model).__name__}: its layers do not give a state a token, which pooling needs")
            states = torch.stack(layers)
            means = mean_over_tokens(states, inputs["attention_mask"]).float().cpu()
            for column, i in enumerate(chosen):
                pooled[i] = means[:, column]
            progress.advance(len(chosen))
    progress.close()
    return torch.stack(pooled, dim=1)
