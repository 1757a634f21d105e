"""What travels from the data to the model: integers only.

Shape legend, used as name suffixes everywhere:
    B rows of a micro-batch   S positions of a row (sequence length)   L positions of one document
    E examples or the documents made of them   C sentences of an example   T tokens of text
    N predicted positions of a micro-batch   R rows that hold placeholders   K placeholders of a micro-batch
    D hidden size   H heads   V vocabulary   L losses, one a prediction   M metrics, one per (loss, stream)
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
NO_HORIZON = 2**30  # reads ahead without limit


@dataclass(frozen=True)
class Example:
    """One line of text, or one translation pair: `sentences` int32 [num_tokens] each, `languages` their language ids."""

    sentences: tuple[np.ndarray, ...]
    languages: tuple[int, ...]


@dataclass(frozen=True)
class Examples:
    """Examples of C sentences each, side by side, with what their layout needs.

    `tokens_T` int32, sentence after sentence; `lengths_EC` and `languages_EC` int, tokens and language of each sentence;
    `keys_E` uint64, from which all draws of an example come; `targets_E` int, the language of its placeholders.
    """

    tokens_T: np.ndarray
    lengths_EC: np.ndarray
    languages_EC: np.ndarray
    keys_E: np.ndarray
    targets_E: np.ndarray

    @staticmethod
    def joined(parts: Sequence[Examples]) -> Examples:
        """All of them, in their order; at least one part."""
        return Examples(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Examples)))


@dataclass(frozen=True)
class Document:
    """An example laid out for one objective; L positions, numbered from 0 inside the document.

    `predicted` are the positions, ascending, at which the objective's `prediction` (its number there) asks for `labels`.
    A document with placeholders also carries what BTMLM stage 1 sees: `generation_ids` (nothing corrupted),
    `generation_reads`, and `placeholders`, its slots.
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
    generation_ids: np.ndarray
    generation_reads: np.ndarray
    placeholders: np.ndarray

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class Documents:
    """Documents side by side: `joined` is all of them as one, numbered from the first one's start; `lengths_E` of each."""

    joined: Document
    lengths_E: np.ndarray

    @staticmethod
    def of(documents: Sequence[Document]) -> Documents:
        """These documents, one behind the other."""
        lengths_E = np.array([len(document) for document in documents], np.int64)
        starts = (np.cumsum(lengths_E) - lengths_E).tolist()
        moved = [_moved(document, start) for document, start in zip(documents, starts, strict=True)]
        nothing = np.zeros(0, np.int32)
        columns = {f.name: np.concatenate([nothing, *(getattr(d, f.name) for d in moved)]) for f in fields(Document)}
        return Documents(Document(**columns), lengths_E)

    def part(self, first: int, last: int) -> Documents:
        """Documents [first, last), numbered from the start of the first of them."""
        start, stop = int(self._borders[first]), int(self._borders[last])
        spans = dict.fromkeys((f.name for f in fields(Document)), slice(start, stop))
        asked = slice(*np.searchsorted(self.joined.predicted, (start, stop)).tolist())
        spans |= dict.fromkeys(("predicted", "labels", "prediction"), asked)
        spans["placeholders"] = slice(*np.searchsorted(self.joined.placeholders, (start, stop)).tolist())
        cut = Document(**{name: getattr(self.joined, name)[span] for name, span in spans.items()})
        return Documents(_moved(cut, -start), self.lengths_E[first:last])

    @cached_property
    def _borders(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.lengths_E)])

    def __len__(self) -> int:
        return len(self.lengths_E)

    def __getitem__(self, index: int) -> Document:
        number = range(len(self))[index]  # IndexError and negative numbers as in any sequence
        return self.part(number, number + 1).joined

    def __iter__(self) -> Iterator[Document]:
        return map(self.__getitem__, range(len(self)))


def _moved(document: Document, by: int) -> Document:
    """The document with its positions numbered from `by` on."""
    if by == 0:
        return document
    horizon = np.where(document.horizon == NO_HORIZON, document.horizon, document.horizon + np.int32(by))
    predicted, placeholders = (a + np.int32(by) for a in (document.predicted, document.placeholders))
    return replace(document, horizon=horizon, predicted=predicted, placeholders=placeholders)


@dataclass(frozen=True)
class Generation(Generic[A]):
    """What BTMLM stage 1 needs of a micro-batch: the rows that hold placeholders, uncorrupted, and where these are.

    `rows_R` indexes the micro-batch; `placeholders_K` and `slots_K` are the same positions, flat in R x S and in B x S.
    """

    rows_R: A
    input_ids_RS: A
    reads_RS: A
    placeholders_K: A
    slots_K: A


@dataclass(frozen=True)
class PackedBatch(Generic[A]):
    """A micro-batch of rows, each row several documents side by side; int32 arrays, numpy's on the host (ernie_m.rows),
    torch's on the device (ernie_m.models); `map` makes one of the other.

    Padding: document -1, reads 0, input <pad>. `predicted_N` are flat positions in B x S, head after head: `head_sizes` says
    how many are asked of each. `labels_N` are what the head makes of them (token ids, or the way to another position);
    `loss_N` and `metric_N` say which loss (ernie_m.rows.objectives.LOSS_INDEX) and which metric they count for.
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

    def map(self, function: Callable[[A], B]) -> PackedBatch[B]:
        """The same batch with `function` applied to every array."""
        arrays = {name: function(getattr(self, name)) for name in ARRAYS}
        own = self.generation
        generation = None if own is None else Generation(*(function(getattr(own, f.name)) for f in fields(own)))
        return PackedBatch(**arrays, generation=generation, head_sizes=self.head_sizes)


ARRAYS = tuple(f.name for f in fields(PackedBatch) if f.name not in ("generation", "head_sizes"))
"""Names of a batch's own arrays."""


@dataclass(frozen=True)
class LossRequest:
    """What the model's forward needs beside the batch to compute a loss.

    `scales_L` fp32: factor of each loss's summed nll (ernie_m.models.loss.loss_scales). Inside a dataclass on purpose:
    DeepSpeed casts bare tensor arguments to half precision. `trains_backbone`: whether a gradient goes behind the heads.
    """

    scales_L: Tensor
    num_metrics: int
    trains_backbone: bool = True
