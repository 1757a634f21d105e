"""The loader works on all documents of a micro-batch at once; here the same is done one token at a time, in plain Python.

Nothing of the code under test computes an expected value: random numbers, masks, layout, packing and the plan of a window
are written out once more. What both share is the objective's own table entry and the manifest's number of rows.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from ernie_m.base.sampling import key_of, mix, numbers_of
from ernie_m.base.special_tokens import (
    BOS_ID,
    EOS_ID,
    FIRST_PIECE_ID,
    FIRST_POSITION_ID,
    NO_LANGUAGE,
    PAD_ID,
    Specials,
    mask_id,
)
from ernie_m.corpus.folder import CorpusFolder, Shard
from ernie_m.rows.batch import ARRAYS, Document, Documents, Example, Examples, PackedBatch
from ernie_m.rows.corruption import INSERT, REPLACE, CorruptionConfig
from ernie_m.rows.dataloader import DataConfig, PretrainingData
from ernie_m.rows.layout import Layout, Positions
from ernie_m.rows.objective import HEADS, LINKED, NEXT, SENTENCES, Objective
from ernie_m.rows.objectives import LOSS_INDEX, OBJECTIVES, PREDICTIONS
from ernie_m.rows.packing import PackedRow, pack
from ernie_m.rows.row_source import WINDOW_POSITIONS, RowSettings, RowSource
from ernie_m.rows.schedule import RowAddress, Schedule, StageConfig
from ernie_m.rows.window_plan import MIN_PIECE
from tests.link_fixtures import some_links

S, WORD = 128, 2**64
Columns = dict[str, list[int]]
SIDE_BY_SIDE = [name for name, objective in OBJECTIVES.items() if not objective.halves]
ALL_EQUAL = StageConfig(steps=50, rows=dict.fromkeys(SIDE_BY_SIDE, 1.0))


def splitmix64(state: int) -> int:
    """The published generator's output function, for the state before its step."""
    z = (state + 0x9E3779B97F4A7C15) % WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % WORD
    return z ^ (z >> 31)


def number(key: int) -> int:
    return splitmix64(key * 0x9E3779B97F4A7C15)


def num_chosen(length: int, rate: float) -> int:
    return max(1, round(length * rate))


def shown_instead(drawn: int, token: int, vocab_size: int) -> int:
    tenth, fraction = divmod(drawn % 2**32 * 10, 2**32)
    if tenth < 8:
        return mask_id(vocab_size)
    return FIRST_PIECE_ID + fraction * (mask_id(vocab_size) - FIRST_PIECE_ID) // 2**32 if tenth == 8 else token


def slow_document(
    objective: Objective,
    example: Example,
    corruption: CorruptionConfig,
    vocab_size: int,
    key: int,
    target: int,
    restarts: bool = False,
) -> Columns:
    """One example, token by token."""
    mask, tokens, drawn = mask_id(vocab_size), [], 0  # of a token: id, what is shown, position, language, group
    masks, predicted, labels, firsts = [], [], [], []
    for sentence, (ids, language) in enumerate(zip(example.sentences, example.languages, strict=True)):
        numbers = [number(key + drawn + i) for i in range(len(ids))]
        chosen = sorted(range(len(ids)), key=lambda i: (numbers[i] >> 40, i))[: num_chosen(len(ids), corruption.mask_rate)]
        drawn += len(ids)
        begin = len(tokens) if objective.apart or restarts else 0
        firsts.append(len(tokens))
        first = EOS_ID if sentence and not objective.apart else BOS_ID
        tokens.append((first, first, len(tokens) - begin + FIRST_POSITION_ID, language, sentence))
        for i, token in enumerate(ids.tolist()):
            shown, position = token, len(tokens) - begin + FIRST_POSITION_ID
            if i in chosen and objective.corruption == REPLACE:
                shown = shown_instead(numbers[i], token, vocab_size)
                predicted.append(len(tokens))
                labels.append(token)
            if i in chosen and objective.corruption == INSERT:
                masks.append((mask, mask, position, language, sentence + len(example.sentences)))
                labels.append(token)
            tokens.append((token, shown, position, language, sentence))
        tokens.append((EOS_ID, EOS_ID, len(tokens) - begin + FIRST_POSITION_ID, language, sentence))
    if objective.corruption == INSERT:
        predicted = list(range(len(tokens), len(tokens) + len(masks)))
    asked = objective.predictions[0].asked
    causal = [number_of for number_of, group in enumerate(objective.groups) if group in objective.causal]
    if asked == NEXT:
        pairs = list(itertools.pairwise(range(len(tokens))))
        predicted = [i for i, j in pairs if tokens[i][4] == tokens[j][4] and tokens[i][4] in causal]
        labels = [tokens[i + 1][0] for i in predicted]
    if asked == SENTENCES:
        predicted, labels = firsts, [firsts[1] - firsts[0], firsts[0] - firsts[1]]
    found = [(position, label, 0, []) for position, label in zip(predicted, labels, strict=True)]
    found += linked(objective, example, firsts, predicted, labels)
    found.sort(key=lambda prediction: prediction[0])
    tokens += masks
    placeholders = []
    if objective.is_pseudo_parallel:
        for _ in range(num_chosen(len(example.sentences[0]), corruption.pseudo_token_share)):
            placeholders.append(len(tokens))
            tokens.append((mask, mask, len(tokens) + FIRST_POSITION_ID, target, 1))
    columns = dict(
        zip(
            ("original", "input_ids", "position_ids", "language", "group"), map(list, zip(*tokens, strict=True)), strict=True
        )
    )
    original = columns.pop("original")
    stage_1 = objective.generation_reads or objective.reads
    bit = {group: 1 << i for i, group in enumerate(objective.groups)}
    of_group = [
        [sum(bit[g] for g in table[group].split()) for group in objective.groups] for table in (objective.reads, stage_1)
    ]
    return {
        **columns,
        "reads": [of_group[0][group] for group in columns["group"]],
        "horizon": [index if group in causal else 2**30 for index, group in enumerate(columns["group"])],
        "predicted": [position for position, *_ in found],
        "labels": [label for _, label, *_ in found],
        "prediction": [number_of for _, _, number_of, _ in found],
        "num_sources": [len(sources) for *_, sources in found],
        "sources": [source for *_, sources in found for source in sources],
        "generation_ids": original if objective.is_pseudo_parallel else columns["input_ids"],
        "generation_reads": [of_group[1][group] for group in columns["group"]],
        "placeholders": placeholders,
    }  # fmt: skip


def linked(
    objective: Objective, example: Example, firsts: list[int], predicted: list[int], labels: list[int]
) -> list[tuple[int, int, int, list[int]]]:
    """Once more each predicted token that has links, with the tokens at their other ends."""
    found = []
    for number_of, prediction in enumerate(objective.predictions):
        if prediction.asked != LINKED:
            continue
        n = len(example.sentences[0])
        places = [firsts[0] + 1 + t if t < n else firsts[1] + 1 + t - n for t in range(n + len(example.sentences[1]))]
        if objective.apart:
            raise AssertionError("the second sentence begins with two specials here; none is linked and apart")
        links = [(places[i], places[j]) for i, j in example.columns["links"].tolist()]
        for position, label in zip(predicted, labels, strict=True):
            ends = sorted([j for i, j in links if i == position] + [i for i, j in links if j == position])
            if ends:
                found.append((position, label, number_of, ends))
    return found


def columns_of(document: Document) -> Columns:
    return {field.name: getattr(document, field.name).tolist() for field in fields(Document)}


def random_examples(
    objective: Objective, count: int, seed: int, longest: int = 40
) -> tuple[list[Example], list[int], list[int]]:
    rng = np.random.default_rng(seed)
    examples = [
        Example(
            tuple(
                rng.integers(FIRST_PIECE_ID, 900, n, dtype=np.int32)
                for n in rng.integers(1, longest, objective.num_sentences)
            ),
            tuple(rng.integers(1, 9, objective.num_sentences).tolist()),
        )
        for _ in range(count)
    ]
    if objective.columns:
        links = [some_links(list(map(len, example.sentences)), seed) for seed, example in enumerate(examples)]
        examples = [replace(example, columns={"links": own}) for example, own in zip(examples, links, strict=True)]
    return examples, rng.integers(0, WORD, count, np.uint64).tolist(), rng.integers(1, 9, count).tolist()


def side_by_side(examples: list[Example], keys: list[int], targets: list[int]) -> Examples:
    before = np.cumsum([0] + [sum(map(len, example.sentences)) for example in examples]).tolist()
    columns = {
        name: np.concatenate([e.columns[name] + start for e, start in zip(examples, before, strict=False)])
        for name in examples[0].columns
    }
    return Examples(
        np.concatenate([sentence for example in examples for sentence in example.sentences]),
        np.array([list(map(len, example.sentences)) for example in examples]),
        np.array([example.languages for example in examples]),
        np.array(keys, np.uint64),
        np.array(targets),
        columns,
    )


@pytest.mark.parametrize(
    ("mask_rate", "share", "positions"), [(0.15, 0.1, "running"), (0.4, 0.2, "restarting"), (0.02, 0.05, "running")]
)
def test_documents_laid_out_together_are_those_of_the_oracle(
    objective: Objective, mask_rate: float, share: float, positions: Positions
) -> None:
    corruption = CorruptionConfig(mask_rate=mask_rate, pseudo_token_share=share)
    examples, keys, targets = random_examples(objective, 150, seed=3)
    layout = Layout(objective, corruption, Specials.xlm_r(1000), positions)
    documents, restarts = layout.lay_out_all(side_by_side(examples, keys, targets)), positions == "restarting"
    assert len(documents) == 150
    for document, example, key, target in zip(documents, examples, keys, targets, strict=True):
        assert columns_of(document) == slow_document(objective, example, corruption, 1000, key, target, restarts)
    assert all(getattr(documents.joined, field.name).dtype == np.int32 for field in fields(Document))


def test_documents_are_the_same_alone_and_in_any_company(objective: Objective) -> None:
    corruption, (examples, keys, targets) = CorruptionConfig(), random_examples(objective, 60, seed=4)
    together = Layout(objective, corruption, Specials.xlm_r(1000)).lay_out_all(side_by_side(examples, keys, targets))
    for first, last in ((0, 60), (7, 8), (13, 40), (59, 60), (5, 5)):
        part = together.part(first, last)
        assert part.lengths_E.tolist() == together.lengths_E[first:last].tolist()
        if last > first:
            own = side_by_side(*(v[first:last] for v in (examples, keys, targets)))
            apart = Layout(objective, corruption, Specials.xlm_r(1000)).lay_out_all(own)
            assert columns_of(part.joined) == columns_of(apart.joined)
        assert columns_of(Documents.of([together[i] for i in range(first, last)]).joined) == columns_of(part.joined)


def test_random_numbers_are_splitmix64() -> None:
    assert [splitmix64(1234567)] == [6457827717110365317], "the published sequence's first number for this seed"
    keys, counts = np.array([0, 5, WORD - 2, 77], np.uint64), np.array([3, 0, 4, 1])
    expected = [number(key + i) for key, count in zip(keys.tolist(), counts.tolist(), strict=True) for i in range(count)]
    assert numbers_of(keys, counts).tolist() == expected
    assert mix(WORD - 1) == int(mix(np.array([WORD - 1], np.uint64))[0]) == number(WORD - 1)


# -- plans of windows ----------------------------------------------------------------------------------------------


Span = tuple[int, int]


def slow_text(source: RowSource, shard: Shard, rows: tuple[int, int], num_rows: int) -> list[tuple[list[Span], bool]]:
    """The lines of a window's rows, each with whether it starts a document: by positions, long lines cut at its borders."""
    entry = shard.entry
    totals = np.array([entry.rows]), np.array([entry.tokens]), np.array([entry.documents])
    weight = float(source._measure(*totals).weight[0])
    is_text = source.objective.merges_lines
    offsets = [column.tolist() for column in shard.offsets]  # of numpy's numbers, one at a time, ten times as slow

    def before(line: int) -> float:
        return sum(column[line] for column in offsets) + line * weight

    def border(row: int) -> list[int]:
        target = row / num_rows * before(entry.rows)
        line = entry.rows if row == num_rows else next(i for i in range(entry.rows + 1) if before(i) >= target)
        begins, ends = ([column[max(0, i)] for column in offsets] for i in (line - 1, line))
        tokens = [stop - start for start, stop in zip(begins, ends, strict=True)]
        if row in (0, num_rows) or sum(tokens) <= source.settings.sequence_length:
            return ends
        share = min(sum(tokens), max(0, round(target - before(line - 1))))
        return [start + math.ceil(n * share / sum(tokens)) for start, n in zip(begins, tokens, strict=True)]

    first, last = map(border, rows)
    text = []
    for line in range(entry.rows):
        columns = zip(offsets, first, last, strict=True)
        spans = [(max(o[line], least), min(o[line + 1], most)) for o, least, most in columns]
        if min(stop - start for start, stop in spans) > 0:
            text.append((spans, is_text and bool(shard.starts_document[line])))
    return text


def slow_flowing(text: list[tuple[list[Span], bool]], capacity: int, num_rows: int) -> list[list[Any]]:
    """Document after document: pieces of text as long as the room of their row."""
    documents: list[list[int]] = []
    for ((start, stop),), is_first in text:
        if is_first or not documents:
            documents.append([start, stop])
        documents[-1][1] = stop
    planned: list[list[Any]] = [[]]
    room = capacity
    for start, stop in documents:
        while start < stop:
            if room < 2 + min(MIN_PIECE, stop - start):
                if len(planned) == num_rows:
                    return planned
                planned.append([])
                room = capacity
            end = min(stop, start + room - 2)
            planned[-1].append(((start, end),))
            room -= 2 + end - start
            start = end
    return planned + [[]] * (num_rows - len(planned))


class SlowFitting:
    """Longest first, each where it fits tightest; what is left is joined with the content of the emptiest rows."""

    def __init__(self, objective: Objective, text: list[tuple[list[Span], bool]], capacity: int, num_rows: int) -> None:
        self.objective, self.capacity, self.num_rows = objective, capacity, num_rows
        self.layout = Layout(objective, CorruptionConfig(), Specials.xlm_r(1000))
        self.least = max(1, min(MIN_PIECE, capacity // 16))
        self.examples = [tuple(spans) for spans, _ in text]

    def length(self, spans: tuple[Span, ...]) -> int:
        return int(self.layout.length(*(stop - start for start, stop in spans)))

    def planned(self) -> list[list[tuple[Span, ...]]]:
        rows: list[list[tuple[Span, ...]]] = [[] for _ in range(self.num_rows)]
        left = []
        for example in sorted(self.examples, key=lambda e: (-self.length(e), e)):
            rooms = [self.capacity - sum(map(self.length, row)) for row in rows]
            fitting = [(room, i) for i, room in enumerate(rooms) if room >= self.length(example)]
            (rows[min(fitting)[1]] if fitting else left).append(example)
        if left:
            rooms = [self.capacity - sum(map(self.length, row)) for row in rows]
            emptiest = sorted(range(self.num_rows), key=lambda i: (-rooms[i], i))
            needed, best, chosen = sum(map(self.length, left)), math.inf, []
            while best > 0 and len(chosen) < self.num_rows:
                enough = [k for k in range(1, self.num_rows + 1) if sum(rooms[i] for i in emptiest[:k]) >= needed]
                chosen = emptiest[: min(enough, default=self.num_rows)]
                poured, lost = self.poured([e for i in chosen for e in rows[i]] + left, len(chosen))
                if lost > best:
                    break
                if lost < best:
                    best, found = lost, list(zip(chosen, poured, strict=True))
                needed = sum(rooms[i] for i in chosen) + lost
            for i, row in found:
                rows[i] = row
        return [sorted(row) for row in rows]

    def poured(self, examples: list[tuple[Span, ...]], num_rows: int) -> tuple[list[list[tuple[Span, ...]]], int]:
        rows: list[list[tuple[Span, ...]]] = []
        pool = list(examples)
        for _ in range(num_rows):
            rows.append([])
            while (room := self.capacity - sum(map(self.length, rows[-1]))) > 0 and pool:
                longest = max(pool, key=self.order)
                fitting = max((e for e in pool if self.length(e) <= room), key=self.order, default=None)
                cut = None
                is_tight = fitting is not None and 64 * (room - self.length(fitting)) <= self.capacity
                if fitting is not longest and not is_tight:
                    cut = self.cut(longest, room)
                if cut is not None:
                    pool.remove(longest)
                    pool += [cut[1]] if min(stop - start for start, stop in cut[1]) > 0 else []
                elif fitting is not None:
                    pool.remove(fitting)
                else:
                    break
                rows[-1].append(cut[0] if cut is not None else fitting)
        return rows, sum(map(self.length, pool))

    def order(self, example: tuple[Span, ...]) -> tuple[Any, ...]:
        whole = next(i for i, e in enumerate(self.examples) if e[0][0] <= example[0][0] < e[0][1])
        begins = tuple(own[0] - its[0] for own, its in zip(example, self.examples[whole], strict=True))
        return self.length(example), whole, begins

    def cut(self, example: tuple[Span, ...], room: int) -> tuple[tuple[Span, ...], tuple[Span, ...]] | None:
        sizes = [stop - start for start, stop in example]
        total, parts = sum(sizes), []
        for share in range(total, 0, -1):
            part = [math.ceil(n * share / total) for n in sizes]
            ends = [start + n for (start, _), n in zip(example, part, strict=True)]
            own = tuple((start, end) for (start, _), end in zip(example, ends, strict=True))
            if self.length(own) <= room:
                parts.append((own, tuple((end, stop) for (_, stop), end in zip(example, ends, strict=True)), sum(part)))
                if total - sum(part) >= self.least or share <= total - self.least:
                    break
        if not parts or parts[-1][2] < self.least:
            return None
        return parts[-1][:2]


def slow_spread(rows: list[list[Any]]) -> list[list[Any]]:
    """A row without text takes every other piece of the row that has most, or half of the longest piece."""
    for empty in (i for i, row in enumerate(rows) if not row):
        most = max(range(len(rows)), key=lambda i: (len(rows[i]), -i))
        if len(rows[most]) > 1:
            rows[empty], rows[most] = rows[most][::2], rows[most][1::2]
            continue
        by_size = [(min(b - a for a, b in piece), -piece[0][0], i) for i, row in enumerate(rows) for piece in row]
        _, _, longest = max(by_size)
        (piece,) = rows[longest]
        middle = [a + (b - a) // 2 for a, b in piece]
        rows[longest] = [tuple((a, m) for (a, _), m in zip(piece, middle, strict=True))]
        rows[empty] = [tuple((m, b) for (_, b), m in zip(piece, middle, strict=True))]
    return rows


@pytest.mark.parametrize("sequence_length", [16, 32, 96, 512])
def test_rows_of_a_window_hold_what_the_oracle_plans(
    corpus_folder: CorpusFolder, objective: Objective, sequence_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ernie_m.rows.row_source.WINDOW_POSITIONS", 2048)
    monkeypatch.setattr("ernie_m.rows.row_source.LEAST_ROWS", 4)
    assert WINDOW_POSITIONS != 2048, "smaller ones are planned here: the oracle is slow, and most windows end inside a shard"
    stream = (corpus_folder.parallel() if objective.num_sentences == 2 else corpus_folder.monolingual())[0]
    settings = RowSettings(sequence_length, Specials.xlm_r(30_000), CorruptionConfig(), 0)
    source = RowSource(objective, stream, corpus_folder.language_ids, settings, (1,))
    per_window, seen, index = 2048 // sequence_length, 0, 0
    for shard, num_rows in zip(stream.shards, source._rows_of_shards().tolist(), strict=True):
        num_windows = max(1, num_rows // per_window)
        for window in {*range(0, num_windows, 4), num_windows - 1}:
            first, last = window * per_window, num_rows if window + 1 == num_windows else (window + 1) * per_window
            text = slow_text(source, shard, (first, last), num_rows)
            planned = (
                slow_flowing(text, sequence_length, last - first)
                if objective.merges_lines
                else SlowFitting(objective, text, sequence_length, last - first).planned()
            )
            for row, expected in enumerate(slow_spread([list(row) for row in planned]), start=index + first):
                found = source._location(row)
                assert found.shard.entry == shard.entry
                spans = zip(found.starts_EC.tolist(), found.stops_EC.tolist(), strict=True)
                assert [tuple(zip(*span, strict=True)) for span in spans] == sorted(expected)
                seen += len(expected)
        index += num_rows
    assert seen > 50


# -- rows and micro-batches ----------------------------------------------------------------------------------------


def slow_row(data: PretrainingData, address: RowAddress) -> list[Columns]:
    """The documents of a row: direction, target language and masks of each from its own numbers."""
    source, draw = data._drawn(address)
    name = source.stream.name
    row_key = number(key_of(data._settings.seed, address.objective, name, "draws") + draw.visit)
    languages = [data.folder.language_ids[language] for language in source.stream.languages]
    documents = []
    for index, sentences in enumerate(data.sentences(address.objective, address.draw)):
        key, choice = (number(row_key + 2 * index + i) for i in (0, 1))
        turn = slice(None, None, -1) if len(languages) == 2 and choice >= 2**63 else slice(None)
        target = NO_LANGUAGE
        if source.objective.is_pseudo_parallel:
            targets = data._target_languages(source.objective, source.stream)
            target = targets[choice % 2**32 * len(targets) // 2**32]
        columns = {}
        if source.objective.columns:
            columns["links"] = slow_links(source, draw.visit, index, turned=turn.step == -1)
        example = Example(tuple(sentences[turn]), tuple(languages[turn]), columns)
        documents.append(
            slow_document(source.objective, example, data.config.corruption, data.folder.manifest.vocab_size, key, target)
        )
    return documents


def slow_links(source: RowSource, visit: int, index: int, turned: bool) -> np.ndarray:
    """The links of a document of a row: those of its line that lie in the part which the row has, counted in that part."""
    location, links = source.locate(visit), []
    starts, stops = location.starts_EC[index].tolist(), location.stops_EC[index].tolist()
    offsets = [column.tolist() for column in location.shard.offsets]
    (line,) = (i for i in range(len(offsets[0]) - 1) if offsets[0][i] <= starts[0] < offsets[0][i + 1])
    written, _ = location.shard.items("links", line, line + 1)
    for i, j in written.tolist():
        places = [offsets[0][line] + i, offsets[1][line] + j]
        if all(start <= place < stop for place, start, stop in zip(places, starts, stops, strict=True)):
            first, second = (place - start for place, start in zip(places, starts, strict=True))
            lengths = [stop - start for start, stop in zip(starts, stops, strict=True)]
            links.append((second, lengths[1] + first) if turned else (first, lengths[0] + second))
    return np.array(links, np.int64).reshape(-1, 2)


def test_links_follow_the_cutting_and_turning_of_their_pairs(corpus_folder: CorpusFolder) -> None:
    """Rows so short that most pairs are cut: each document has the links of its own part, in its own direction."""
    stage = StageConfig(steps=50, rows={"AlignLM": 1})
    data = PretrainingData(corpus_folder, DataConfig(sequence_length=32), Schedule((stage,), 8), seed=5)
    seen = Counter[str]()
    for address in itertools.chain.from_iterable(map(data.schedule.rows_of_step, range(25))):
        source, draw = data._drawn(address)
        examples, location = source.examples(draw.visit), source.locate(draw.visit)
        found, start = examples.columns["links"].tolist(), 0
        for index, lengths in enumerate(examples.lengths_EC.tolist()):
            line = location.lines()[index][0]
            whole = [int(offsets[line + 1] - offsets[line]) for offsets in location.shard.offsets]
            turned = examples.languages_EC[index].tolist() != list(source.languages)
            assert lengths == (location.stops_EC - location.starts_EC)[index].tolist()[:: -1 if turned else 1]
            expected = (slow_links(source, draw.visit, index, turned) + start).tolist()
            own = sorted(sorted(link) for link in found if start <= link[0] < start + sum(lengths))
            assert own == sorted(expected)
            assert all(start <= i < start + lengths[0] <= j < start + sum(lengths) for i, j in own)
            seen["turned"] += turned
            seen["links"] += len(expected)
            seen["lost"] += len(location.shard.items("links", line, line + 1)[0]) - len(expected)
            seen["cut"] += lengths != whole[:: -1 if turned else 1]
            start += sum(lengths)
        assert len(examples.tokens_T) == start
    assert min(seen.values()) > 100, seen


def slow_batch(rows: list[tuple[list[Columns], int, int]], generates: bool) -> dict[str, Any]:
    """Rows of (documents, objective, metric), document after document."""
    padding = {
        "input_ids": PAD_ID,
        "position_ids": PAD_ID,
        "language": NO_LANGUAGE,
        "group": 0,
        "reads": 0,
        "horizon": 2**30,
    }
    grid: dict[str, Any] = {f"{name}_BS": [] for name in (*padding, "document")}
    ragged: list[list[int]] = []
    flat: dict[str, list[int]] = {name: [] for name in ("predicted_N", "labels_N", "loss_N", "metric_N")}
    generation: dict[str, list[Any]] = {
        name: [] for name in ("rows_R", "input_ids_RS", "reads_RS", "placeholders_K", "slots_K")
    }
    for index, (documents, objective, metric) in enumerate(rows):
        row: dict[str, list[int]] = {name: [] for name in (*padding, "document", "generation_ids", "generation_reads")}
        slots = []
        for number_of, document in enumerate(documents):
            start = len(row["document"])
            for name in (*padding, "generation_ids", "generation_reads"):
                row[name] += document[name] if name != "horizon" else [min(h + start, 2**30) for h in document[name]]
            row["document"] += [number_of] * len(document["input_ids"])
            first_loss = LOSS_INDEX[list(OBJECTIVES.values())[objective].predictions[0].loss]
            flat["predicted_N"] += [index * S + start + i for i in document["predicted"]]
            flat["labels_N"] += document["labels"]
            flat["loss_N"] += [first_loss + number_of for number_of in document["prediction"]]
            flat["metric_N"] += [metric + number_of for number_of in document["prediction"]]
            borders = np.cumsum([0, *document["num_sources"]]).tolist()
            ragged += [
                [index * S + start + i for i in document["sources"][first:last]]
                for first, last in itertools.pairwise(borders)
            ]
            slots += [start + i for i in document["placeholders"]]
        rest = S - len(row["document"])
        for name, value in (*padding.items(), ("document", -1)):
            grid[f"{name}_BS"].append(row[name] + [value] * rest)
        if slots:
            generation["placeholders_K"] += [len(generation["rows_R"]) * S + slot for slot in slots]
            generation["slots_K"] += [index * S + slot for slot in slots]
            generation["rows_R"].append(index)
            generation["input_ids_RS"].append(row["generation_ids"] + [PAD_ID] * rest)
            generation["reads_RS"].append(row["generation_reads"] + [0] * rest)
    heads = [HEADS.index(list(PREDICTIONS.values())[loss].head) for loss in flat["loss_N"]]
    by_head = sorted(range(len(heads)), key=heads.__getitem__)
    flat = {name: [column[i] for i in by_head] for name, column in flat.items()}
    assert bool(generation["rows_R"]) <= generates
    ragged = [ragged[i] for i in by_head]
    if any(ragged):
        flat |= {"sources.positions_P": list(itertools.chain(*ragged)), "sources.counts_N": list(map(len, ragged))}
    return {**grid, **flat, **({f"generation.{k}": v for k, v in generation.items()} if generates else {})}


def content_of(batch: PackedBatch) -> dict[str, Any]:
    arrays = {name: getattr(batch, name) for name in ARRAYS}
    if batch.sources is not None:
        arrays |= {"sources.positions_P": batch.sources.positions_P, "sources.counts_N": batch.sources.counts_N}
        assert sum(batch.sources.sizes.values()) == len(batch.sources.positions_P)
    if batch.generation is not None:
        arrays |= {f"generation.{name}": value for name, value in vars(batch.generation).items()}
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.int32)}
    return {name: array.tolist() for name, array in arrays.items()}


@pytest.mark.parametrize(("world_size", "micro_batch_rows"), [(1, 10), (2, 5), (5, 2)])
def test_micro_batches_are_those_of_the_oracle(corpus_folder: CorpusFolder, world_size: int, micro_batch_rows: int) -> None:
    """Steps of all objectives, on every rank: what the trainer is given, to the last number."""
    data = PretrainingData(corpus_folder, DataConfig(sequence_length=S), Schedule((ALL_EQUAL,), 20), seed=5)
    directions, targets = Counter[bool](), Counter[int]()
    for step in (0, 49):
        addresses = data.schedule.rows_of_step(step)
        for rank in range(world_size):
            batches = data.step(step, rank, world_size, micro_batch_rows)
            assert len(batches) == 20 // (world_size * micro_batch_rows)
            for number_of, batch in enumerate(batches):
                start = number_of * world_size * micro_batch_rows
                together = addresses[start : start + world_size * micro_batch_rows]
                rows = []
                for address in together[rank::world_size]:
                    metric = f"{address.objective}/{data._drawn(address)[0].stream.name}"
                    order = list(OBJECTIVES).index(address.objective)
                    rows.append((slow_row(data, address), order, [metric.name for metric in data.metrics].index(metric)))
                    for document in rows[-1][0] if OBJECTIVES[address.objective].num_sentences == 2 else ():
                        directions[document["language"][0] < document["language"][-1]] += 1
                generates = any(address.objective == "BTMLM" for address in together)
                expected = slow_batch(rows, generates)
                found = content_of(batch)
                if generates and not expected["generation.rows_R"]:  # another rank's: it takes part with its first row
                    assert found.pop("generation.rows_R") == [0]
                    assert found.pop("generation.slots_K") == found.pop("generation.placeholders_K") == []
                    found = {k: v for k, v in found.items() if not k.startswith("generation.")}
                    expected = {k: v for k, v in expected.items() if not k.startswith("generation.")}
                assert found == expected
                targets.update(
                    lang for row in rows for d in row[0] for lang in np.array(d["language"])[d["placeholders"]].tolist()
                )
    assert len(directions) == 2
    assert min(directions.values()) > 15
    assert len(targets) == 3


def test_a_rank_pays_for_its_own_rows_alone(corpus_folder: CorpusFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses, mixture look-ups, permutations, plans: of 400 rows of a step a rank of 100 touches 4."""
    counts = Counter[str]()

    def count(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def counted(*arguments: Any, **keywords: Any) -> Any:
            counts[name] += 1
            return original(*arguments, **keywords)

        monkeypatch.setattr(owner, name, counted)

    count(PretrainingData, "_drawn")
    count(RowSource, "locate")
    count(RowSource, "_plan_window")
    count(RowAddress, "__init__")
    data = PretrainingData(corpus_folder, DataConfig(sequence_length=S), Schedule((ALL_EQUAL,), 400), seed=5)
    batches = data.step(7, rank=63, world_size=100, micro_batch_rows=1)
    assert len(batches) == 4
    assert counts["_drawn"] == counts["locate"] == counts["__init__"] == 4
    assert 0 < counts["_plan_window"] <= 4


def test_rows_packed_at_once_are_rows_packed_one_by_one(corpus_folder: CorpusFolder) -> None:
    data = PretrainingData(corpus_folder, DataConfig(sequence_length=S), Schedule((ALL_EQUAL,), 15), seed=5)
    addresses = data.schedule.rows_of_step(3)
    at_once, apart = data.rows(addresses), [data.row(address) for address in addresses]
    rebuilt = [PackedRow(list(row.documents), row.objective, row.metric) for row in apart]
    contents = [content_of(pack(rows, S, generates=True)) for rows in (at_once, apart, rebuilt)]
    assert contents[0] == contents[1] == contents[2]


def test_rows_of_a_step_are_the_same_however_they_are_asked_for() -> None:
    stages = (StageConfig(steps=3, rows={"MMLM": 1, "CLM": 2}), ALL_EQUAL)
    for rows_per_step, step in itertools.product((len(OBJECTIVES), 20), (0, 2, 3, 9)):
        schedule = Schedule(stages, rows_per_step)
        every = schedule.rows_of_step(step)
        assert len(every) == rows_per_step
        for start, stop, stride in itertools.product(range(rows_per_step), range(1, rows_per_step + 1), (1, 3)):
            chosen = range(start, stop, stride)
            assert schedule.rows_of_step(step, chosen) == every[start:stop:stride]
            holds = any(address.objective == "BTMLM" for address in every[start:stop])
            assert schedule.generates(step, range(start, stop)) == holds
