"""From a step number to this rank's micro-batches: a pure function of (seed, step).

1. `Schedule` (ernie_m.rows.schedule) says how many rows of each objective a step has. From this it computes the number of an
   objective's first row in any step.
2. `PretrainingData` draws the stream of each row from the objective's mixture (token shares smoothed by alpha). The
   stream's `RowSource` gives the row's text. Nothing depends on ranks, workers or restarts. Rows of one objective in a
   micro-batch are laid out together; each comes out as it would alone.
3. The ranks take the rows of a step in turn, so that micro-batch m of every rank holds the same kind of rows.
4. `Prefetcher` (ernie_m.rows.prefetcher) prepares the next steps on a thread while the device works.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from ernie_m.base.config import Section, section
from ernie_m.base.console import InputError
from ernie_m.base.ranges import Range
from ernie_m.base.sampling import Draw, Mixture, smoothed
from ernie_m.base.special_tokens import Specials
from ernie_m.corpus.any_vocabulary import open_vocabulary
from ernie_m.corpus.folder import CorpusFolder, Stream
from ernie_m.corpus.words import begins_any_word
from ernie_m.rows.batch import Examples, PackedBatch
from ernie_m.rows.corruption import CorruptionConfig
from ernie_m.rows.layout import Positions
from ernie_m.rows.objective import NOISED, WRITTEN, Objective
from ernie_m.rows.objectives import OBJECTIVE_INDEX, OBJECTIVES
from ernie_m.rows.packing import PackedRow, pack
from ernie_m.rows.row_source import RowSettings, RowSource
from ernie_m.rows.schedule import RowAddress, Schedule

if TYPE_CHECKING:
    import torch

DATA_ORDER = 3
"""Number of the data order. It goes up when a (seed, step) gives other rows or other masks; a run cannot change its own.

1: a random generator for each row. 2: the same rows; masks, directions and target languages come from a key of each example.
3: no row is empty; a pair that is cut at the end of a row goes on in another; windows hold equal positions, not tokens."""

LOOKED_AT = 100_000
"""Lines of a stream whose lengths are looked at for `too_long`: a moment's work for any corpus, enough to tell a share."""


@section
class DataConfig(Section):
    """What a row is and how languages are mixed."""

    sequence_length: Annotated[int, Range(least=16, most=2**16)] = 512
    """Positions of a row, S."""
    longest_document: Annotated[int, Range(least=16, most=2**16)] | None = None
    """Positions of a text or pair at most, longer ones are cut: for rows longer than the model's positions; null: a row."""
    alpha: Annotated[float, Range(least=0, most=1, zero="all languages alike")] = 0.3
    """Exponent of language sampling, on token counts: XLM-R 0.3, XLM 0.7; 1 keeps the proportions of the corpus."""
    positions: Positions = "running"
    """Position ids of a pair's second sentence: running on behind the first, or restarting (XLM)."""
    corruption: CorruptionConfig = CorruptionConfig()
    """What is masked and generated."""

    @property
    def document_positions(self) -> int:
        """Positions that one document may take."""
        return min(self.sequence_length, self.longest_document or self.sequence_length)

    def row_settings(self, specials: Specials, seed: int, begins_word: np.ndarray | None = None) -> RowSettings:
        """What shapes the rows of text of that vocabulary; `begins_word`: of each id, for noise."""
        shape = self.sequence_length, specials, self.corruption, seed, self.longest_document, self.positions
        return RowSettings(*shape, begins_word)


@dataclass(frozen=True)
class Metric:
    """What a mean loss is taken over: one prediction of an objective (named by its loss), on one stream."""

    objective: str
    loss: str
    stream: str

    @property
    def name(self) -> str:
        """As in metrics.jsonl: CAMLM/de-en."""
        return f"{self.loss}/{self.stream}"


class PretrainingData:
    """Every step's micro-batches, from an opened corpus folder.

    Raises InputError if the folder has no text, no pairs, or not the optional columns that an objective needs.
    """

    def __init__(self, folder: CorpusFolder, config: DataConfig, schedule: Schedule, seed: int) -> None:
        self.folder, self.config, self.schedule = folder, config, schedule
        moves_words = any(OBJECTIVES[name].source == NOISED for name in schedule.objectives)
        begins = begins_any_word(open_vocabulary(folder.tokenizer_path)) if moves_words else None
        self._settings = config.row_settings(folder.manifest.specials, seed, begins)
        self._sources: dict[str, list[RowSource]] = {}
        self._mixtures: dict[str, Mixture] = {}
        self.metrics: list[Metric] = []
        self._first_metric: dict[str, int] = {}
        for name in schedule.objectives:
            sources = self._sources_of(OBJECTIVES[name])
            if not sources:
                kind = "parallel" if OBJECTIVES[name].num_given == 2 else "monolingual"
                raise InputError(f"{folder.folder}: no {kind} text, which {name} needs; add a {kind} corpus or drop {name}")
            self._sources[name] = sources
            shares = smoothed([source.stream.num_tokens for source in sources], config.alpha)
            self._mixtures[name] = Mixture(shares, seed, name, "mixture")
            self._first_metric[name] = len(self.metrics)
            losses = [prediction.loss for prediction in OBJECTIVES[name].predictions]
            self.metrics += [Metric(name, loss, source.stream.name) for source in sources for loss in losses]

    def _sources_of(self, objective: Objective) -> list[RowSource]:
        sources = []
        for stream in self._streams_of(objective):
            targets = self._target_languages(objective, stream) if objective.generates else []
            source = RowSource(objective, stream, self.folder.language_ids, self._settings, targets)
            if source.rows_per_epoch > 0:
                for column in objective.columns:
                    self.folder.require_column(column, stream)
                sources.append(source)
        return sources

    def _streams_of(self, objective: Objective) -> list[Stream]:
        return self.folder.parallel() if objective.num_given == 2 else self.folder.monolingual()

    def _target_languages(self, objective: Objective, stream: Stream) -> list[int]:
        """The languages in which the model writes.

        BTMLM: those that have pairs with the sentence's; all others if none has. BT: all others that the model learns to
        write, those of texts, and of pairs if it is trained on pairs.
        """
        language = stream.languages[0]
        if objective.source == WRITTEN:
            learnt = self._languages_written
        else:
            partners = {other for pair in self.folder.parallel() if language in pair.languages for other in pair.languages}
            learnt = partners or set(self.folder.language_ids)
        others = learnt - {language}
        if not others:
            raise InputError(f"{self.folder.folder}: {objective.name} needs at least two languages, found only {language}")
        return sorted(self.folder.language_ids[other] for other in others)

    @property
    def _languages_written(self) -> set[str]:
        """The languages that a decoder learns to write."""
        trained = [OBJECTIVES[name] for name in self.schedule.objectives if OBJECTIVES[name].halves]
        return {language for objective in trained for stream in self._streams_of(objective) for language in stream.languages}

    @property
    def languages_written(self) -> list[int]:
        """Their ids, ascending."""
        return sorted(self.folder.language_ids[language] for language in self._languages_written)

    def too_long(self) -> list[str]:
        """A line for each objective and stream of which examples are left out: a side is longer than half a row."""
        shares = [(source, source.without_room(LOOKED_AT)) for of_name in self._sources.values() for source in of_name]
        return [
            f"{source.objective.name}/{source.stream.name}: {100 * share:.2g} % of the lines looked at, the first "
            f"{LOOKED_AT:,} at most, are longer than half a row and left out; a longer data.sequence_length takes them"
            for source, share in shares
            if share > 0
        ]

    def row(self, address: RowAddress) -> PackedRow:
        """One row of training."""
        return self.rows([address])[0]

    def rows(self, addresses: Sequence[RowAddress]) -> list[PackedRow]:
        """Rows of training. Rows of one objective that follow each other are laid out together."""
        rows = []
        for name, own in itertools.groupby(addresses, key=lambda address: address.objective):
            drawn = [self._drawn(address) for address in own]
            examples = [source.examples(draw.visit) for source, draw in drawn]
            settings, last, joined = self._settings, 0, Examples.joined(examples)
            if not settings.holds(joined.tokens_T):
                for source, draw in drawn:
                    source.locate(draw.visit).check_ids(settings.specials)
            documents = drawn[0][0].layout.lay_out_all(joined)
            for part, (_, draw) in zip(examples, drawn, strict=True):
                first, last = last, last + len(part.keys_E)
                metric = self._first_metric[name] + draw.stream * len(OBJECTIVES[name].predictions)
                rows.append(PackedRow(documents.part(first, last), OBJECTIVE_INDEX[name], metric))
        return rows

    def _drawn(self, address: RowAddress) -> tuple[RowSource, Draw]:
        draw = self._mixtures[address.objective][address.draw]
        return self._sources[address.objective][draw.stream], draw

    def sample_ids(self, step: int) -> list[str]:
        """A name for each row of global step `step`, e.g. 'CAMLM/de-en/00001234': its objective, stream and visit.

        A name does not depend on ranks or shards. In all steps, the same name is the same text with the same masks.
        """
        return [self._sample_id(address) for address in self.schedule.rows_of_step(step)]

    def _sample_id(self, address: RowAddress) -> str:
        source, draw = self._drawn(address)
        return f"{address.objective}/{source.stream.name}/{draw.visit:08d}"

    def describe_step(self, step: int) -> list[dict[str, Any]]:
        """Where the text of each row of global step `step` comes from, ready for JSON; opens the shards.

        A row is {"id", "objective", "draw", "stream", "visit", "shard": file relative to the data folder,
        "lines": [[first, last], ...]}: for each document of the row, its lines in the shard, counted from 0.
        """
        described = []
        for address in self.schedule.rows_of_step(step):
            source, draw = self._drawn(address)
            location = source.locate(draw.visit)
            described.append(
                {
                    "id": self._sample_id(address),
                    "objective": address.objective,
                    "draw": address.draw,
                    "stream": source.stream.name,
                    "visit": draw.visit,
                    "shard": location.shard.entry.file,
                    "lines": [list(span) for span in location.lines()],
                }
            )
        return described

    def sentences(self, objective: str, draw_number: int) -> list[tuple[np.ndarray, ...]]:
        """Token ids of each document of a row, one sentence per language of its stream; nothing masked or added."""
        source, draw = self._drawn(RowAddress(objective, draw_number))
        location = source.locate(draw.visit)
        location.check_ids(self._settings.specials)
        return location.sentences()

    def step(self, step: int, rank: int, world_size: int, micro_batch_rows: int) -> list[PackedBatch[np.ndarray]]:
        """This rank's micro-batches of global step `step`, numpy arrays."""
        num_rows, batches = self.schedule.rows_per_step, []
        for start in range(0, num_rows, world_size * micro_batch_rows):
            together = range(start, min(start + world_size * micro_batch_rows, num_rows))
            rows = self.rows(self.schedule.rows_of_step(step, together[rank::world_size]))
            generates = self.schedule.generates(step, together)
            batches.append(pack(rows, self.config.sequence_length, generates, self._settings.specials))
        return batches


def to_device(batch: PackedBatch[np.ndarray], device: torch.device) -> PackedBatch[torch.Tensor]:
    """The batch as torch tensors on `device`."""
    import torch  # here: programs that only look at the data order start faster without torch

    return batch.map(lambda array: sent(torch.from_numpy(array), device))


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host on `device`; the host does not wait for what a GPU has still to do."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
