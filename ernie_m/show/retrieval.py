"""Retrieval between all languages of a bitext: accuracy@1 by cosine of mean-pooled states, of one layer between each two
languages, and of every layer against English."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from transformers import AutoModel

from ernie_m.downstream.encoders import layer_of
from ernie_m.interop.encoder import OpenEncoder
from ernie_m.models.retrieval import accuracy_at_1, mean_pooled
from ernie_m.models.tokenized import Tokenized
from ernie_m.runs.ranks import this_device
from ernie_m.show.bitext_folder import PIVOT, BitextFolder, SharedSentences, pivot_first
from ernie_m.show.figures import as_image

LEAST_SHARED = 20
"""Sentences that two languages must share for a cell: among fewer, chance alone is above 5 %."""


@dataclass(frozen=True)
class PooledStates:
    """What an encoder makes of a bitext: mean-pooled states fp32 [N, D] of one layer by (group, language), and the sweep,
    'fr' or 'fr (news)' -> of each layer, embeddings first, accuracy@1 [to the pivot, from it]."""

    layer: int
    num_layers: int
    states: Mapping[tuple[int, str], Tensor]
    sweep: Mapping[str, Sequence[tuple[float, float]]]

    def mean_sweep(self) -> list[float]:
        """Mean over languages and both ways of each layer."""
        return np.mean(np.array(list(self.sweep.values())), axis=(0, 2)).tolist()

    def rows(self, places: Sequence[tuple[int, int]], language: str) -> Tensor:
        """States of sentences given as (group, line): [N, D]."""
        return torch.stack([self.states[group, language][line] for group, line in places])


def pooled(opened: OpenEncoder, bitext: BitextFolder, layer: int, note: str) -> PooledStates:
    """Encode a bitext; `layer` as in `hidden_states`, 0 the middle one. Raises InputError for a layer that is not there."""
    chosen = layer_of(opened.config, layer)
    encoder = opened.model(AutoModel)
    device = this_device()
    states: dict[tuple[int, str], Tensor] = {}
    sweep: dict[str, list[tuple[float, float]]] = {}
    total, done = sum(len(group.sentences) for group in bitext.groups), 0
    for number, group in enumerate(bitext.groups):
        pivot, *others = pivot_first(group.sentences)
        of_pivot = None
        for language in (pivot, *others):
            done += 1
            where = f"{group.name}, {language} ({note}, {done} of {total})"
            texts = Tokenized(opened.tokenizer, group.sentences[language])
            of_language = mean_pooled(encoder, texts, device, where)
            states[number, language] = of_language[chosen].clone()  # a copy, so that the other layers are freed
            if of_pivot is None:
                of_pivot = of_language
                continue
            name = language if pivot == PIVOT and language not in sweep else f"{language}-{pivot} ({group.name})"
            sweep[name] = [accuracy_at_1(own, other) for own, other in zip(of_language, of_pivot, strict=True)]
    return PooledStates(chosen, int(opened.config.num_hidden_layers), states, dict(sorted(sweep.items())))


def cells(of: PooledStates, languages: Sequence[str], shared: Mapping[tuple[str, str], SharedSentences]) -> np.ndarray:
    """Accuracy@1 [L, L], 0 .. 1: row the language of the query, column the one searched; NaN where too little is shared."""
    found = np.full((len(languages), len(languages)), np.nan)
    for (a, b), sentences in shared.items():
        if len(sentences.places) >= LEAST_SHARED:
            of_a, of_b = (
                of.rows(side, name) for side, name in zip(zip(*sentences.places, strict=True), (a, b), strict=True)
            )
            i, j = languages.index(a), languages.index(b)
            found[i, j], found[j, i] = accuracy_at_1(of_a, of_b)
    return found


def counts(languages: Sequence[str], shared: Mapping[tuple[str, str], SharedSentences]) -> np.ndarray:
    """Number of sentences behind each cell: int [L, L]."""
    found = np.zeros((len(languages), len(languages)), np.int64)
    for (a, b), sentences in shared.items():
        i, j = languages.index(a), languages.index(b)
        found[i, j] = found[j, i] = len(sentences.places)
    return found


@as_image
def heat_maps(maps: Mapping[str, np.ndarray], languages: Sequence[str], num_shared: np.ndarray) -> Figure:
    """Heat maps side by side: accuracy in percent, with the number of sentences below it."""
    num, side = len(languages), 1.2 + 0.42 * len(languages)
    known = [of[np.isfinite(of)] for of in maps.values()]
    top = max(0.1, np.ceil(10 * max((of.max() for of in known if of.size), default=1.0)) / 10)  # one scale for all
    figure = Figure(figsize=(len(maps) * side + 0.6, side + 0.3), layout="constrained")
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    for axis, (title, accuracy_LL) in zip(axes, maps.items(), strict=True):
        axis.set_facecolor("#ececec")
        image = axis.imshow(100 * np.ma.masked_invalid(accuracy_LL), vmin=0, vmax=100 * top, cmap="viridis")
        for i, j in np.ndindex(num, num):
            is_known = np.isfinite(accuracy_LL[i, j])
            color = "white" if is_known and accuracy_LL[i, j] < 0.6 * top else "black"
            if is_known:
                axis.text(j, i - 0.12, f"{100 * accuracy_LL[i, j]:.0f}", ha="center", va="center", color=color, fontsize=7)
            if i != j:
                how_many = f"{num_shared[i, j]:,}" if is_known else "–"
                axis.text(j, i + 0.27, how_many, ha="center", va="center", color=color, fontsize=4.5)
        axis.set_xticks(range(num), languages)
        axis.set_yticks(range(num), languages)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.set(title=title, xlabel="searched in", ylabel="query")
    figure.colorbar(image, ax=list(axes), label="accuracy@1, %", shrink=0.8)
    return figure


@as_image
def sweeps(after: PooledStates, before: PooledStates | None) -> Figure:
    """Accuracy by layer: a line a language, the mean thick, the one before dashed."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axis = figure.subplots()
    for number, (name, layers) in enumerate(after.sweep.items()):
        line = 100 * np.array(layers).mean(axis=1)
        axis.plot(line, linewidth=0.8, alpha=0.8, color=f"C{number}", linestyle="-" if number < 10 else ":", label=name)
    axis.plot(100 * np.array(after.mean_sweep()), "k-", linewidth=2, label="mean")
    if before is not None:
        axis.plot(100 * np.array(before.mean_sweep()), "k--", linewidth=2, label="mean, before")
    axis.axvline(after.layer, color="grey", linewidth=0.8, linestyle=":")
    axis.set(xlabel="layer (0: embeddings)", ylabel="accuracy@1, mean of both ways, %")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), ncols=1 + len(after.sweep) // 18)
    return figure
