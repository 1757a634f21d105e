"""Static embeddings of words that translate each other, before and after training, joined by lines: have they met?

The second figure of arXiv 2106.01732: t-SNE of the word embedding's rows of the pairs that word links join most often,
without stop words (ernie_m.corpus.word_pairs). A picture flatters, so word translation stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from transformers import AutoModel

from ernie_m.corpus.columns import LINKS
from ernie_m.corpus.folder import CorpusFolder
from ernie_m.corpus.word_pairs import LEAST_LINKS, Dictionary, dictionaries
from ernie_m.interop.encoder import OpenEncoder
from ernie_m.models.retrieval import accuracy_at_1
from ernie_m.models.word_translation import pieces_of, static_vectors
from ernie_m.show.figures import as_image, isolated
from ernie_m.show.overview import Table
from ernie_m.show.sentence_map import projected

DRAWN = 100
"""Pairs of words in the picture."""
NAMED = 12
"""Of them, those whose words are written."""
LEAST_PAIRS = 3
COLORS = ("#1f4e9c", "#c77c11")


@dataclass(frozen=True)
class WordVectors:
    """Static embeddings of the words of a dictionary that an encoder knows, a row a pair, fp32 [N, D] each."""

    words: tuple[tuple[str, str], ...]
    source_ND: Tensor
    target_ND: Tensor

    @property
    def accuracy(self) -> float:
        """Word translation, mean of both ways, in percent."""
        return 50 * sum(accuracy_at_1(self.source_ND, self.target_ND))


def dictionaries_of(folder: CorpusFolder) -> dict[str, Dictionary] | str:
    """The dictionaries of the data's links, the largest first; or why there are none."""
    if find_spec("sklearn") is None:
        return "scikit-learn, which lays out the map, is not installed: pip install -e '.[show]'"
    if LINKS.name not in folder.manifest.columns:
        return f"the data has no word links (`{LINKS.made_by}`)"
    found = {name: of for name, of in dictionaries(folder).items() if len(of) >= LEAST_PAIRS}
    ordered = dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))
    return ordered or f"the data's links join fewer than {LEAST_PAIRS} pairs of words {LEAST_LINKS} times"


def vectors(table_VD: Tensor, tokenizer: Any, dictionary: Dictionary) -> WordVectors:
    """Of a word embedding and the tokenizer that goes with it."""
    sides = zip(pieces_of(tokenizer, dictionary.source), pieces_of(tokenizer, dictionary.target), strict=True)
    words = zip(dictionary.source, dictionary.target, strict=True)
    known = [(pair, ids) for pair, ids in zip(words, sides, strict=True) if all(ids)]
    pieces = (static_vectors(table_VD, [ids[side] for _, ids in known]) for side in (0, 1))
    return WordVectors(tuple(pair for pair, _ in known), *pieces)


def planes(of: WordVectors) -> tuple[np.ndarray, np.ndarray]:
    """Points of the plane of the first DRAWN pairs, [pairs, 2] each, laid out together."""
    source_ND, target_ND = of.source_ND[:DRAWN], of.target_ND[:DRAWN]
    plane = projected(torch.cat([source_ND, target_ND]))
    return plane[: len(source_ND)], plane[len(source_ND) :]


@as_image
def maps(drawn: Mapping[str, WordVectors], languages: Sequence[str]) -> Figure:
    """Maps beside each other: a line joins the two words of each pair."""
    figure = Figure(figsize=(4.8 * len(drawn) + 0.8, 4.8), layout="constrained")
    axes = figure.subplots(1, len(drawn), squeeze=False)[0]
    for axis, (title, of) in zip(axes, drawn.items(), strict=True):
        sides = planes(of)
        for ends in zip(*sides, strict=True):
            axis.plot(*zip(*ends, strict=True), color="#999999", linewidth=0.5, zorder=1)
        for side, (plane_N2, name) in enumerate(zip(sides, languages, strict=True)):
            axis.scatter(*plane_N2.T, s=9, color=COLORS[side], linewidths=0, label=name, zorder=2)
            for pair, place in list(zip(of.words, plane_N2, strict=False))[:NAMED]:
                axis.text(*place, isolated(pair[side]), fontsize=6, color=COLORS[side], zorder=3)
        axis.set_title(f"{title}: word translation {of.accuracy:.1f} %")
        axis.set_xticks([])
        axis.set_yticks([])
    axes[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=1.6)
    return figure


def section(encoders: Mapping[str, OpenEncoder], found: Mapping[str, Dictionary]) -> dict[str, Any]:
    """The map of the pair of languages with most words, and word translation of all, of encoders by title."""
    tables: dict[str, Any] = {
        title: opened.model(AutoModel).get_input_embeddings().weight for title, opened in encoders.items()
    }

    def of(title: str, name: str) -> WordVectors:
        return vectors(tables[title], encoders[title].tokenizer, found[name])

    name = next(iter(found))
    drawn = {title: of(title, name) for title in encoders}
    print(f"map of {min(DRAWN, len(found[name]))} pairs of words", flush=True)
    rows = [[pair, f"{len(found[pair]):,}", *(f"{of(title, pair).accuracy:.1f} %" for title in encoders)] for pair in found]
    return {
        "about": f"The {min(DRAWN, len(found[name]))} pairs of words of {name} that the data's word links join most often, "
        f"without stop words, as t-SNE lays out their static embeddings (cosine, a fixed seed); the first {NAMED} are "
        "written. Places compare within a map only. A picture flatters: the table tells how often a word's nearest one, "
        "among all of the other side, is its translation (mean of both ways).",
        "maps": maps(drawn, name.split("-")),
        "translation": Table(("pair", "words", *encoders), rows),
    }
