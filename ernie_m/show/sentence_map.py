"""The same sentences in all languages as points of a plane, before and after training: do translations lie together?

Points come from scikit-learn's t-SNE (cosine, started from PCA, a fixed seed). Each map is fitted alone, so places can be
compared within a map, not between two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ernie_m.show.bitext_folder import PIVOT, BitextFolder, pivot_first, translations
from ernie_m.show.figures import as_image
from ernie_m.show.retrieval import PooledStates

LEAST_POINTS = 6
SENTENCES_A_LANGUAGE = 40
EXAMPLES = 5
EXAMPLE_LENGTHS = range(12, 90)  # characters: what can be read beside a picture
PERPLEXITY = 30.0
COLORS = (
    *("#1f4e9c", "#d1495b", "#2e8b57", "#e3a018", "#7b3fa0", "#17a2b8", "#8c564b"),
    *("#e377c2", "#555555", "#9acd32", "#ff7f0e", "#00c48c", "#a05195", "#6a8caf"),
)
MARKERS = ("o", "s", "^", "D", "v")


@dataclass(frozen=True)
class Points:
    """The sentences of a map: of each point its language, its meaning (translations have the same) and its place."""

    languages: tuple[str, ...]
    meanings: tuple[int, ...]
    places: tuple[tuple[int, int], ...]
    examples: tuple[int, ...]
    """Meanings whose translations are joined by lines."""

    def __len__(self) -> int:
        return len(self.places)


def chosen_points(bitext: BitextFolder, a_language: int = SENTENCES_A_LANGUAGE) -> Points:
    """Sentences in as many languages as there are first, until each language but English has `a_language` of them."""
    count = dict.fromkeys(bitext.languages, 0)
    chosen = []
    for places in translations(bitext):
        if any(count[language] < a_language for language in places if language != PIVOT):
            chosen.append(places)
            for language in places:
                count[language] += 1
    points = [(language, n, place) for n, places in enumerate(chosen) for language, place in sorted(places.items())]
    languages, meanings, places_of = zip(*points, strict=True)
    return Points(languages, meanings, places_of, _examples(bitext, chosen))


def _examples(bitext: BitextFolder, chosen: Sequence[Mapping[str, tuple[int, int]]]) -> tuple[int, ...]:
    """Numbers of sentences that can be read beside a picture: each time the one with most languages not yet shown."""
    readable = [n for n, places in enumerate(chosen) if len(_text(bitext, places)) in EXAMPLE_LENGTHS]
    left = readable or list(range(len(chosen)))
    seen: set[str] = set()
    found: list[int] = []
    while left and len(found) < EXAMPLES:
        best = max(left, key=lambda n: (len(set(chosen[n]) - seen), len(chosen[n]), -n))
        left.remove(best)
        found.append(best)
        seen |= set(chosen[best])
    return tuple(found)


def _text(bitext: BitextFolder, places: Mapping[str, tuple[int, int]]) -> str:
    """The sentence in English, else in its first language."""
    language = pivot_first(places)[0]
    group, line = places[language]
    return bitext.groups[group].sentences[language][line]


def states_of(points: Points, pooled: PooledStates) -> Tensor:
    """Mean-pooled states of all points: fp32 [N, D]."""
    return torch.stack(
        [
            pooled.states[group, language][line]
            for language, (group, line) in zip(points.languages, points.places, strict=True)
        ]
    )


def projected(states_ND: Tensor) -> np.ndarray:
    """Points of the plane: [N, 2]. Needs three states or more."""
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(states_ND) - 1) / 3)
    plane = TSNE(metric="cosine", init="pca", perplexity=perplexity, random_state=0)
    return np.asarray(plane.fit_transform(states_ND.double().numpy()))


def neighbours(points: Points, states_ND: Tensor) -> tuple[float, float]:
    """Share of points whose nearest other one, by cosine, is a translation; and of those where it is of their language."""
    unit_ND = torch.nn.functional.normalize(states_ND, dim=1)
    nearest = (unit_ND @ unit_ND.T).fill_diagonal_(-2).argmax(dim=1).numpy()
    meanings, languages = np.array(points.meanings), np.array(points.languages)
    return float((meanings[nearest] == meanings).mean()), float((languages[nearest] == languages).mean())


def example_texts(points: Points, bitext: BitextFolder) -> list[list[tuple[str, str]]]:
    """(language, text) of every translation of each example."""
    where = list(zip(points.meanings, points.languages, points.places, strict=True))
    return [
        [(language, bitext.groups[group].sentences[language][line]) for m, language, (group, line) in where if m == meaning]
        for meaning in points.examples
    ]


@as_image
def maps(planes: Mapping[str, np.ndarray], points: Points) -> Figure:
    """Maps beside each other; translations of the examples are joined, with the example's number at their middle."""
    figure = Figure(figsize=(4.6 * len(planes) + 0.8, 4.6), layout="constrained")
    axes = figure.subplots(1, len(planes), squeeze=False)[0]
    languages, meanings = np.array(points.languages), np.array(points.meanings)
    names = pivot_first({*points.languages})
    for axis, (title, plane_N2) in zip(axes, planes.items(), strict=True):
        for number, name in enumerate(names):
            of_language = plane_N2[languages == name]
            color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
            axis.scatter(*of_language.T, s=11, color=color, marker=marker, linewidths=0, alpha=0.75, label=name)
        for number, meaning in enumerate(points.examples, start=1):
            own = plane_N2[meanings == meaning]
            middle = own.mean(axis=0)
            for end in own:
                axis.plot(*zip(middle, end, strict=True), color="black", linewidth=0.6, alpha=0.8)
            box = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": "black", "linewidth": 0.5}
            axis.text(*middle, str(number), fontsize=6, ha="center", va="center", bbox=box)
        axis.set_title(title)
        axis.set_xticks([])
        axis.set_yticks([])
    axes[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=1.6)
    return figure
