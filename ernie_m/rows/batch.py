"""What travels from the data to the model: integers only.

Shape legend, used as name suffixes everywhere:
    B rows of a micro-batch   S positions of a row (sequence length)   L positions of one document
    E examples, or the documents made of them   C sentences of an example   T tokens of text
    N predicted positions of a micro-batch   R rows that hold placeholders   K placeholders of a micro-batch
    G texts that are translated back   P sources of predictions   I items of an optional column   W integers of an item
    D hidden size   H heads   V vocabulary   L losses, one per prediction   M metrics, one per (loss, stream)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

A = TypeVar("A")
"""Array type of a batch: np.ndarray on the host, torch's Tensor on a device."""
B = TypeVar("B")
PAD_DOCUMENT = -1
NO_HORIZON = 2**30  # no limit: the token may read to the end of its document


@dataclass(frozen=True)
class Example:
    """One line of text, or one translation pair: `sentences` int32 [num_tokens] each, `languages` their language ids.

    `columns`: optional columns by name, int [I, W]. Their integers count the example's tokens, sentence after sentence.
    """

    sentences: tuple[np.ndarray, ...]
    languages: tuple[int, ...]
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Examples:
    """Examples of C sentences each, joined into flat arrays, with what their layout needs.

    `tokens_T` int32, sentence after sentence. `lengths_EC` and `languages_EC` int, number of tokens and language of each
    sentence. `keys_E` uint64, the random key of each example. `targets_E` int, the language of its placeholders.
    `columns`: optional columns by name, int [I, W]; their integers are indices into T.
    """

    tokens_T: np.ndarray
    lengths_EC: np.ndarray
    languages_EC: np.ndarray
    keys_E: np.ndarray
    targets_E: np.ndarray
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    @staticmethod
    def joined(parts: Sequence[Examples]) -> Examples:
        """Join at least one part, in order; all have the same columns."""
        names = [f.name for f in fields(Examples) if f.name != "columns"]
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        before = np.cumsum([0] + [len(part.tokens_T) for part in parts]).tolist()
        columns = {
            name: np.concatenate([part.columns[name] + start for part, start in zip(parts, before, strict=False)])
            for name in parts[0].columns
        }
        return Examples(**arrays, columns=columns)


@dataclass(frozen=True)
class Document:
    """An example laid out for one objective; L positions, numbered from 0 inside the document.

    All arrays are int32. [L]: `input_ids`, `position_ids`, `language`, `group`, `reads`, `horizon`.
    `predicted`: predicted positions, ascending. For each of them, `labels` has its label, `prediction` the number of its
    prediction in the objective, and `num_sources` how many positions its head reads instead of its own (0: its own).
    `sources`: these positions, one prediction after the other.
    A document with placeholders also carries what BTMLM's generation reads: `generation_ids` (nothing corrupted) and
    `generation_reads`, both [L], and `placeholders`, their positions.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    language: np.ndarray
    group: np.ndarray
    reads: np.ndarray
    horizon: np.ndarray
    predicted: np.ndarray
    labels: np.ndarray
    prediction: np.ndarray
    num_sources: np.ndarray
    sources: np.ndarray
    generation_ids: np.ndarray
    generation_reads: np.ndarray
    placeholders: np.ndarray

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class Documents:
    """Documents side by side. `joined`: all of them as one, with positions counted through all; `lengths_E`: of each."""

    joined: Document
    lengths_E: np.ndarray

    @staticmethod
    def of(documents: Sequence[Document]) -> Documents:
        """Join these documents, in order."""
        lengths_E = np.array([len(document) for document in documents], np.int64)
        starts = (np.cumsum(lengths_E) - lengths_E).tolist()
        moved = [_moved(document, start) for document, start in zip(documents, starts, strict=True)]
        nothing = np.zeros(0, np.int32)
        columns = {f.name: np.concatenate([nothing, *(getattr(d, f.name) for d in moved)]) for f in fields(Document)}
        return Documents(Document(**columns), lengths_E)

    def part(self, first: int, last: int) -> Documents:
        """Documents [first, last); positions count from the start of document `first`."""
        start, stop = int(self._borders[first]), int(self._borders[last])
        spans = dict.fromkeys((f.name for f in fields(Document)), slice(start, stop))
        asked = slice(*np.searchsorted(self.joined.predicted, (start, stop)).tolist())
        spans |= dict.fromkeys(("predicted", "labels", "prediction", "num_sources"), asked)
        spans["sources"] = slice(*self._borders_of_sources[[asked.start, asked.stop]].tolist())
        spans["placeholders"] = slice(*np.searchsorted(self.joined.placeholders, (start, stop)).tolist())
        cut = Document(**{name: getattr(self.joined, name)[span] for name, span in spans.items()})
        return Documents(_moved(cut, -start), self.lengths_E[first:last])

    @cached_property
    def _borders(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.lengths_E)])

    @cached_property
    def _borders_of_sources(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.joined.num_sources)])

    def __len__(self) -> int:
        return len(self.lengths_E)

    def __getitem__(self, index: int) -> Document:
        number = range(len(self))[index]  # raises IndexError and takes negative numbers, as any sequence
        return self.part(number, number + 1).joined

    def __iter__(self) -> Iterator[Document]:
        return map(self.__getitem__, range(len(self)))


def _moved(document: Document, by: int) -> Document:
    """The document with `by` added to all its positions."""
    if by == 0:
        return document
    horizon = np.where(document.horizon == NO_HORIZON, document.horizon, document.horizon + np.int32(by))
    positions = {name: getattr(document, name) + np.int32(by) for name in ("predicted", "sources", "placeholders")}
    return replace(document, horizon=horizon, **positions)


@dataclass(frozen=True)
class Generation(Generic[A]):
    """What BTMLM's generation reads of a micro-batch: the rows that hold placeholders, before corruption.

    `rows_R`: their numbers in the micro-batch. `placeholders_K` and `slots_K`: the placeholders, flat in R x S and in B x S.
    """

    rows_R: A
    input_ids_RS: A
    reads_RS: A
    placeholders_K: A
    slots_K: A


@dataclass(frozen=True)
class BackTranslation(Generic[A]):
    """What back-translation reads of a micro-batch, and where it writes.

    `text_ids_GT`: texts with their special tokens, padded; `lengths_G`: of each. `from_G`: its language, `to_G`: that of its
    translation. `slots_GK`: the room of the translation, with its special tokens, flat in B x S; -1 behind it.
    """

    text_ids_GT: A
    lengths_G: A
    from_G: A
    to_G: A
    slots_GK: A


@dataclass(frozen=True)
class Sources(Generic[A]):
    """Positions whose states predictions read instead of the predicted position's own.

    `positions_P`: flat in B x S, one prediction after the other. `counts_N`: how many each prediction has; 0: it reads its
    own state. `sizes`: how many the predictions of each head have.
    """

    positions_P: A
    counts_N: A
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class PackedBatch(Generic[A]):
    """A micro-batch: rows of documents side by side, as int32 arrays.

    The arrays are numpy's on the host (ernie_m.rows) and torch's on the device (ernie_m.models); `map` converts.
    Padding: document -1, reads 0, input <pad>. `predicted_N`: predicted positions, flat in B x S, grouped by head;
    `head_sizes`: how many each head has. `labels_N`: what the head must predict there (a token id, or the distance to
    another position). `loss_N` and `metric_N`: which loss (ernie_m.rows.objectives.LOSS_INDEX) and which metric each counts
    for. `sources`: None if each prediction reads the state of its own position. The slots of `back_translation` show masks.
    """

    input_ids_BS: A
    position_ids_BS: A
    language_BS: A
    document_BS: A
    group_BS: A
    reads_BS: A
    horizon_BS: A
    predicted_N: A
    labels_N: A
    loss_N: A
    metric_N: A
    generation: Generation[A] | None = None
    head_sizes: Mapping[str, int] = field(default_factory=dict)
    sources: Sources[A] | None = None
    back_translation: BackTranslation[A] | None = None

    @property
    def generates(self) -> bool:
        """Whether the model writes into it before the loss."""
        return self.generation is not None or self.back_translation is not None

    def map(self, function: Callable[[A], B]) -> PackedBatch[B]:
        """Apply `function` to every array of the batch."""
        arrays = {name: function(getattr(self, name)) for name in ARRAYS}
        own = self.generation
        generation = None if own is None else Generation(*(function(getattr(own, f.name)) for f in fields(own)))
        read = self.sources
        sources = None if read is None else Sources(function(read.positions_P), function(read.counts_N), read.sizes)
        text = self.back_translation
        back = None if text is None else BackTranslation(*(function(getattr(text, f.name)) for f in fields(text)))
        sizes = self.head_sizes
        return PackedBatch(**arrays, generation=generation, head_sizes=sizes, sources=sources, back_translation=back)


ARRAYS = tuple(
    f.name for f in fields(PackedBatch) if f.name not in ("generation", "head_sizes", "sources", "back_translation")
)
"""Names of a batch's own arrays."""


def num_real_tokens(batch: PackedBatch[np.ndarray]) -> int:
    """Tokens of the data in a micro-batch. Slots of translations are not counted: how many are used is not known yet."""
    own = batch.back_translation
    num_slots = 0 if own is None else int((own.slots_GK >= 0).sum())
    return int((batch.document_BS != PAD_DOCUMENT).sum()) - num_slots


@dataclass(frozen=True)
class LossRequest:
    """What the model's forward needs beside the batch to compute a loss.

    `scales_L` fp32: the factor of each loss's summed nll (ernie_m.models.loss.loss_scales). It is inside a dataclass because
    DeepSpeed casts plain tensor arguments to half precision. `trains_backbone`: whether the gradient goes past the heads.
    `weights_M` fp32: one more factor, of each metric's nll; None: 1 each.
    """

    scales_L: Tensor
    num_metrics: int
    trains_backbone: bool = True
    weights_M: Tensor | None = None
