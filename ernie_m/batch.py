"""What travels from the data to the model: integers only.

Shape legend, used as name suffixes everywhere:
    B rows of a micro-batch   S positions of a row (sequence length)   L positions of one document
    N predicted positions of a micro-batch   R rows that hold placeholders   K placeholders of a micro-batch
    D hidden size   H heads   V vocabulary   M metrics, one per (objective, stream)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

PAD_DOCUMENT = -1
NO_HORIZON = 2**30  # reads ahead without limit


@dataclass(frozen=True)
class Example:
    """One line of text, or one translation pair: `sentences` int32 [num_tokens] each, `languages` their language ids."""

    sentences: tuple[np.ndarray, ...]
    languages: tuple[int, ...]


@dataclass(frozen=True)
class Document:
    """An example laid out for one objective; L positions, numbered from 0 inside the document.

    `predicted` are the positions whose `labels` the loss asks for. A document with placeholders also carries what
    BTMLM stage 1 sees: `generation_ids` (nothing corrupted), `generation_reads`, and `placeholders`, its slots.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    language: np.ndarray
    group: np.ndarray
    reads: np.ndarray
    horizon: np.ndarray
    predicted: np.ndarray
    labels: np.ndarray
    generation_ids: np.ndarray
    generation_reads: np.ndarray
    placeholders: np.ndarray

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class Generation:
    """What BTMLM stage 1 needs of a micro-batch: the rows that hold placeholders, uncorrupted, and where these are.

    `rows_R` indexes the micro-batch; `placeholders_K` and `slots_K` are the same positions, flat in R x S and in B x S.
    """

    rows_R: Any
    input_ids_RS: Any
    reads_RS: Any
    placeholders_K: Any
    slots_K: Any


@dataclass(frozen=True)
class PackedBatch:
    """A micro-batch of rows, each row several documents side by side; int32 arrays (numpy on the host, torch after `map`).

    Padding: document -1, reads 0, input <pad>. `predicted_N` are flat positions in B x S, `labels_N` their true ids,
    `objective_N` and `metric_N` say which loss and which (objective, stream) metric they count for.
    """

    input_ids_BS: Any
    position_ids_BS: Any
    language_BS: Any
    document_BS: Any
    group_BS: Any
    reads_BS: Any
    horizon_BS: Any
    predicted_N: Any
    labels_N: Any
    objective_N: Any
    metric_N: Any
    generation: Generation | None

    def map(self, function: Callable[[Any], Any]) -> PackedBatch:
        """The same batch with `function` applied to every array."""
        content = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "generation"}
        generation = self.generation and Generation(
            **{f.name: function(getattr(self.generation, f.name)) for f in fields(self.generation)}
        )
        return PackedBatch(**{name: function(array) for name, array in content.items()}, generation=generation)


@dataclass(frozen=True)
class LossRequest:
    """What the model's forward needs beside the batch to compute a loss.

    `scales_O` fp32: factor of each objective's nll (ernie_m.loss.objective_scales). Inside a dataclass on purpose:
    DeepSpeed casts bare tensor arguments to half precision.
    """

    scales_O: Any
    num_metrics: int
