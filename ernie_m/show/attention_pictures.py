"""Who reads whom in rows as training packs them: the dense mask of a real row of each objective, and a part of it large
enough to read its tokens. docs/draw_objectives.py draws its small example with the same code."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from ernie_m.corpus.any_vocabulary import AnyVocabulary
from ernie_m.models.attention import build_mask
from ernie_m.models.pretraining import PretrainingModel, stage_1
from ernie_m.models.pseudo_parallel import fill_placeholders
from ernie_m.rows.batch import PAD_DOCUMENT, PackedBatch
from ernie_m.rows.dataloader import PretrainingData, to_device
from ernie_m.rows.objective import HEADS, SENTENCE, Objective
from ernie_m.rows.objectives import OBJECTIVES
from ernie_m.rows.packing import pack
from ernie_m.rows.schedule import RowAddress
from ernie_m.runs.skip_steps import SkipSteps
from ernie_m.show.figures import as_image, isolated

LEGIBLE = 44
"""Positions whose tokens are written out."""
INCH = 0.17
"""A position's side, large."""
OF_ITS_OWN, ITS_TRANSLATION = "?", "its translation"
"""What is asked for where it is no token of the text: one that the model writes (BTMLM), and a sentence (XLCO)."""
GROUP_COLORS = ("#1f4e9c", "#c77c11", "#4f9bd9", "#b5413b")
DARK = "#606060"
GROUP_WORDS = {
    "X": "X: the sentence",
    "Y": "Y: its translation",
    "MX": "MX: masks of X",
    "MY": "MY: masks of Y",
    "P": "P: pseudo tokens",
}


@dataclass(frozen=True)
class View:
    """One row as one forward sees it: a packed batch of a single row, on the CPU."""

    title: str
    objective: Objective
    batch: PackedBatch[Tensor]
    asked: Mapping[int, int | str]
    """Position -> the token that is asked for there, or, where no token is, what is."""

    @property
    def mask(self) -> np.ndarray:
        """The mask that attention uses in training: bool [S, S], query by key."""
        mask = build_mask("sdpa", self.batch)
        return np.asarray(mask[0, 0].numpy())

    def column(self, name: str) -> np.ndarray:
        """An integer of each position, int [S], e.g. 'group'."""
        return np.asarray(getattr(self.batch, f"{name}_BS")[0].numpy())


def last_rows(
    data: PretrainingData, step: int, stage_ends: Sequence[int], skipped: SkipSteps
) -> dict[str, tuple[int, list[RowAddress]]]:
    """Objective -> the last step up to `step` that trained on it, and its rows there; those not yet trained are left out.

    `stage_ends`: number of steps at the end of each stage.
    """
    found: dict[str, tuple[int, list[RowAddress]]] = {}
    for last in sorted({step, *(end - 1 for end in stage_ends if end <= step)}, reverse=True):
        while last >= 0 and last in skipped:
            last -= 1
        for address in data.schedule.rows_of_step(last) if last >= 0 else ():
            of_step, rows = found.setdefault(address.objective, (last, []))
            if of_step == last:
                rows.append(address)
    return {name: found[name] for name in OBJECTIVES if name in found}


def packed(data: PretrainingData, addresses: Sequence[RowAddress]) -> PackedBatch[Tensor]:
    """Rows of one objective as a micro-batch of training, on the CPU."""
    generates = OBJECTIVES[addresses[0].objective].is_pseudo_parallel
    return to_device(pack(data.rows(addresses), data.config.sequence_length, generates), torch.device("cpu"))


def views(data: PretrainingData, address: RowAddress, model: PretrainingModel) -> Iterator[View]:
    """A row as each forward of training sees it: one, or BTMLM's two, the second with what `model` wrote in the first."""
    objective, batch = OBJECTIVES[address.objective], packed(data, [address])
    asked = _asked(batch)
    if batch.generation is None:
        yield View(objective.name, objective, batch, asked)
        return
    written = dict.fromkeys(batch.generation.placeholders_K.tolist(), OF_ITS_OWN)
    yield View(f"{objective.name}, stage 1: generation", objective, stage_1(batch, batch.generation), written)
    yield View(f"{objective.name}, stage 2: training", objective, fill_placeholders(model, batch), asked)


def _asked(batch: PackedBatch[Tensor]) -> dict[int, int | str]:
    heads = [head for head in HEADS for _ in range(batch.head_sizes.get(head, 0))]
    found = zip(batch.predicted_N.tolist(), batch.labels_N.tolist(), heads, strict=True)
    return {position: ITS_TRANSLATION if head == SENTENCE else label for position, label, head in found}


def legible_part(view: View, limit: int = LEGIBLE) -> np.ndarray:
    """Positions to write out, ascending: the first documents, up to three, that fit `limit` together; of a row without one,
    the first positions of each group of the shortest document."""
    document_S, group_S = view.column("document"), view.column("group")
    lengths = np.bincount(document_S[document_S != PAD_DOCUMENT])
    fitting = np.flatnonzero(lengths <= limit)
    if len(fitting):
        first = int(fitting[0])
        together = [n for n in range(first, min(first + 3, len(lengths))) if lengths[first : n + 1].sum() <= limit]
        return np.flatnonzero(np.isin(document_S, together))
    shortest = np.flatnonzero(document_S == lengths.argmin())
    groups = np.unique(group_S[shortest])
    parts = [shortest[group_S[shortest] == group][: limit // len(groups)] for group in groups]
    return np.sort(np.concatenate(parts))


def labels(
    view: View, positions: np.ndarray, vocabulary: AnyVocabulary, languages: Mapping[int, str]
) -> tuple[list[str], list[str]]:
    """A label for each position: position id, piece, a mask's language; and the same with what must be predicted."""
    ids, places, language = (view.column(name)[positions] for name in ("input_ids", "position_ids", "language"))
    plain, asking = [], []
    for position, token, piece, place, number in zip(
        positions.tolist(), ids, vocabulary.pieces(ids), places, language, strict=True
    ):
        wanted = f" {languages[int(number)]}" if token == vocabulary.mask_id and int(number) in languages else ""
        text = f"{place} {isolated(piece)}{wanted}"
        plain.append(text)
        if position in view.asked:
            target = view.asked[position]
            text += " → " + (target if isinstance(target, str) else isolated(vocabulary.pieces([target])[0]))
        asking.append(text)
    return plain, asking


def draw_rule(
    axis: Any, mask: np.ndarray, keys: Sequence[str], queries: Sequence[str], groups: np.ndarray | None = None
) -> None:
    """Draw a mask [query, key] with a label for each position; `groups` colours the cells by the key's."""
    colors = [DARK] * len(keys) if groups is None else [GROUP_COLORS[group] for group in groups]
    color_K3 = np.array([to_rgb(color) for color in colors])
    axis.imshow(np.where(mask[:, :, None], color_K3[None], 1.0), interpolation="none")
    axis.set_xticks(range(len(keys)), keys, rotation=90, rotation_mode="anchor", ha="right", va="center", fontsize=7)
    axis.set_yticks(range(len(queries)), queries, fontsize=7)
    ends = -0.5, len(keys) - 0.5
    for lines in (axis.hlines, axis.vlines):
        lines(np.arange(len(keys) - 1) + 0.5, *ends, colors="#dddddd", linewidths=0.4)
    axis.tick_params(length=0)
    axis.set_xlabel("key: is read", labelpad=4 + _unmeasured(keys))
    axis.set_ylabel("query: reads", labelpad=4 + _unmeasured(queries))


def _unmeasured(labels: Sequence[str]) -> float:
    """How many points wider East Asian labels may be in the browser: matplotlib's fonts lack these characters."""
    return 2.8 * max(sum(unicodedata.east_asian_width(c) in "WF" for c in label) for label in labels)


@as_image
def picture(view: View, positions: np.ndarray, vocabulary: AnyVocabulary, languages: Mapping[int, str]) -> Figure:
    """A part of a row, large enough to read, and the whole row, small."""
    side = 1.8 + INCH * len(positions)
    figure = Figure(figsize=(side + 3.4, max(side, 3.2)), layout="constrained")
    large, small = figure.subplots(1, 2, width_ratios=(side, 2.6))
    group_S, mask_SS = view.column("group"), view.mask
    keys, queries = labels(view, positions, vocabulary, languages)
    draw_rule(large, mask_SS[np.ix_(positions, positions)], keys, queries, group_S[positions])
    for tick, position in zip(large.get_yticklabels(), positions.tolist(), strict=True):
        tick.set_fontweight("bold" if position in view.asked else "normal")
    color_S3 = np.array([to_rgb(GROUP_COLORS[group]) for group in group_S])
    small.imshow(np.where(mask_SS[:, :, None], color_S3[None], 1.0), interpolation="none")
    small.set(xticks=[], yticks=[], title=f"the whole row, {len(group_S)} positions")
    handles = [
        Patch(color=color, label=GROUP_WORDS[group])
        for group, color in zip(view.objective.groups, GROUP_COLORS, strict=False)
    ]
    small.legend(
        handles=handles,
        fontsize=7,
        loc="upper left",
        bbox_to_anchor=(0, -0.02),
        title="cells: the key's group",
        alignment="left",
    )
    return figure
