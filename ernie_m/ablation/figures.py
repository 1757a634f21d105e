"""The figures of a comparison's tables, from the measures of each run (ernie_m.ablation.measured_model.measured)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


def results_of(results: Mapping[str, Sequence[Mapping[str, Any]]], key: str) -> dict[str, list[float]]:
    """Variant -> one number a seed: 'gain', 'perplexity/MMLM' ..., a benchmark's name, or one of NUMBERS."""
    return {name: [number_of(result, key) for result in of_seeds] for name, of_seeds in results.items()}


def number_of(result: Mapping[str, Any], key: str) -> float:
    """One number of one run's measures."""
    if key in NUMBERS:
        return NUMBERS[key][1](result)
    if key in result["fine_tuned"]:
        return float(result["fine_tuned"][key])
    return float(result["pairs"][key])


def mean_by_layer(retrieval: Mapping[str, Mapping[str, Sequence[float]]]) -> list[float]:
    """Accuracy in percent of each layer, mean of both ways and all languages."""
    layers = sorted(next(iter(retrieval.values())), key=int)
    return [100 * sum(sum(of[k]) / 2 for of in retrieval.values()) / len(retrieval) for k in layers]


def error_by_layer(links: Mapping[str, Mapping[str, float]]) -> list[float]:
    """Alignment error rate of each layer's states in percent, mean of all gold sets."""
    layers = sorted(next(iter(links.values())), key=int)
    return [100 * sum(of[k] for of in links.values()) / len(links) for k in layers]


def word_accuracy(words: Mapping[str, Mapping[str, float]]) -> float:
    """Word translation in percent, mean of both ways and all pairs of languages."""
    return 100 * sum(of["to_target"] + of["to_source"] for of in words.values()) / (2 * len(words))


NUMBERS: dict[str, tuple[str, Callable[[Mapping[str, Any]], float]]] = {
    "retrieval": ("retrieval", lambda result: max(mean_by_layer(result["retrieval"]))),
    "last_layer": ("retrieval", lambda result: mean_by_layer(result["retrieval"])[-1]),
    "words": ("words", lambda result: word_accuracy(result["words"])),
    "links": ("links", lambda result: min(error_by_layer(result["links"]))),
    "links_static": ("links", lambda result: error_by_layer(result["links"])[0]),
}
"""Numbers that are made of several figures: the measure that they are of, and how. 'retrieval' and 'links' are those of the
best layer, 'links_static' of the embeddings."""
