"""Tatoeba retrieval without any training: which sentence of the other language is nearest, layer by layer.

Every layer is measured in both directions, beside an untrained model of the same shape: shared names, digits and punctuation
lift that one above chance. The score is that of one layer chosen in advance, xx -> en as in XTREME. The best layer is shown
too, with the remark that it is chosen on the test set.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoModel

from ernie_m.base.console import InputError
from ernie_m.base.files import write_json
from ernie_m.base.plots import plotting, save_figure
from ernie_m.base.table import table
from ernie_m.corpus.aligned_files import read_aligned
from ernie_m.downstream import encoders, paper, settings
from ernie_m.downstream.announce import announce
from ernie_m.downstream.bitext_tuning import BitextTuning, is_sorted, sides_of
from ernie_m.downstream.settings import PICTURE_FILE, RESULTS_FILE
from ernie_m.downstream.submission import FOLDER, write_submission
from ernie_m.downstream.task_files import SourceFile, find
from ernie_m.downstream.unknown import tell_unknown_texts
from ernie_m.interop.encoder import open_encoder
from ernie_m.models.retrieval import accuracy_at_1, mean_pooled, nearest
from ernie_m.models.tokenized import Tokenized
from ernie_m.runs.ranks import this_device

XX_TO_EN, EN_TO_XX = 0, 1
TRAINED, UNTRAINED = "trained", "untrained"


class Accuracies(NamedTuple):
    """Accuracy@1 in percent of each layer, embeddings first."""

    to_english: list[float]
    from_english: list[float]


Sweep = Mapping[str, Mapping[str, Accuracies]]
"""trained | untrained -> language -> accuracies."""


def run(
    encoder: Path | str, data: Path, to: Path, layer: int = 0, untrained: bool = True, trust_remote_code: bool = False
) -> dict[str, Any]:
    """Measure every `tatoeba.LLL-eng.LLL` of `data`, print the tables, write results.json and scores.png to `to`, and
    what was found to `to`/xtreme/tatoeba. Where English is sorted, as in XTREME's files, nothing is scored.

    `layer` counts as in `hidden_states`; 0 is the middle one. Returns results.json's content. Raises InputError for a folder
    without such files, for files or an encoder that are not as expected, and for a `to` that holds other scores.
    """
    opened, task = open_encoder(encoder, trust_remote_code), BitextTuning()
    chosen = encoders.layer_of(opened.config, layer)
    files, pairs = read(data)
    models = {TRAINED: opened.model(AutoModel)}
    what = {"task": task.name, "setting": "zero-shot", "layer": chosen, "untrained": untrained}
    hashed = {"encoder": settings.of_encoder(opened), "data": settings.of_data(files, data, task.read_with)}
    settings.claim(to, what | hashed)
    announce(opened.choices)
    tell_unknown_texts({f"test {language}": sides[0] for language, sides in pairs.items()}, opened.tokenizer)
    if untrained:
        models[UNTRAINED] = opened.untrained()
    aligned = {language: sides for language, sides in pairs.items() if not is_sorted(sides[1])}
    others = {language: sides for language, sides in pairs.items() if language not in aligned}
    found: dict[str, list[int]] = {}
    sweep = {
        name: measure(model, opened.tokenizer, aligned, name, chosen, found if name == TRAINED else {})
        for name, model in models.items()
    }
    measure(models[TRAINED], opened.tokenizer, others, TRAINED, chosen, found)
    write_submission(to, task.xtreme, found)
    if others:
        told = f"found and not scored, English being sorted: {', '.join(others)}; what was found is in {FOLDER}/"
        print(told, flush=True)
    if not aligned:
        return {}
    counts = {language: len(sides[0]) for language, sides in aligned.items()}
    difference = paper.difference(task.name, counts)
    row, absence = paper.row_of(task.name, "zero-shot", encoders.size_of(opened.config), difference)
    content = summary(sweep, chosen, counts)
    content |= {"encoder": str(encoder), "paper": dict(row.averages) if row else None, "not_the_papers_data": difference}
    write_json(to / RESULTS_FILE, content)
    draw(sweep, chosen, opened.title, to / PICTURE_FILE)
    _print(sweep, chosen, content, row.averages["accuracy"] if row else None)
    print(absence or "the paper's mean is over all its 36 languages")
    print(f"written: {to / RESULTS_FILE}, {to / PICTURE_FILE}", flush=True)
    return content


def read(data: Path) -> tuple[list[SourceFile], dict[str, tuple[list[str], list[str]]]]:
    """(A folder's files, their lines and the English ones by language). Raises InputError where there are none."""
    if not data.is_dir():
        raise InputError(f"--data {data}: no such folder")
    files = find(data, BitextTuning.patterns["test"])
    if not files:
        raise InputError(
            f"{data}: no retrieval files; expected {BitextTuning.patterns['test'][0]} and their .eng beside them"
        )
    return files, {str(file.language): read_aligned(file.path, sides_of(file.path)[1]) for file in files}


def measure(
    model: Any,
    tokenizer: Any,
    pairs: Mapping[str, tuple[Sequence[str], Sequence[str]]],
    note: str,
    layer: int,
    found: dict[str, list[int]],
) -> dict[str, Accuracies]:
    """Accuracies of every layer on each language's (sentences, English translations).

    `found` is given, by language, the line (from 0) of the English sentence that `layer` finds for each sentence.
    """
    device = this_device()
    measured = {}
    for number, (language, sides) in enumerate(pairs.items(), start=1):
        where = f"{language} ({note}, {number} of {len(pairs)})"
        own, english = (mean_pooled(model, Tokenized(tokenizer, side), device, where) for side in sides)
        found[language] = nearest(own[layer], english[layer]).tolist()
        both = [accuracy_at_1(a, b) for a, b in zip(own, english, strict=True)]
        measured[language] = Accuracies(*([100 * share for share in way] for way in zip(*both, strict=True)))
    return measured


def mean_of(of_model: Mapping[str, Accuracies], way: int) -> list[float]:
    """Mean over languages for each layer."""
    return [statistics.fmean(layer) for layer in zip(*(accuracies[way] for accuracies in of_model.values()), strict=True)]


def summary(sweep: Sweep, chosen: int, num_pairs: Mapping[str, int]) -> dict[str, Any]:
    """Content of results.json."""
    means = {name: mean_of(of_model, XX_TO_EN) for name, of_model in sweep.items()}
    best = max(range(len(means[TRAINED])), key=means[TRAINED].__getitem__)
    return {
        "task": "tatoeba",
        "setting": "zero-shot",
        "protocol": f"{BitextTuning.protocol}; layer {chosen} of {len(means[TRAINED]) - 1}, 0 being the embeddings",
        "layer": chosen,
        "average": {name: of_layer[chosen] for name, of_layer in means.items()},
        "best_layer_on_test": {"layer": best, "average": means[TRAINED][best]},
        "layers": {name: {"to_english": means[name], "from_english": mean_of(sweep[name], EN_TO_XX)} for name in sweep},
        "languages": {
            language: {"pairs": count, **{name: of_model[language]._asdict() for name, of_model in sweep.items()}}
            for language, count in num_pairs.items()
        },
    }


def _print(sweep: Sweep, chosen: int, content: Mapping[str, Any], paper_average: float | None) -> None:
    ways = {"xx -> en": XX_TO_EN, "en -> xx": EN_TO_XX}
    head = [f"{name} {way}" for name in sweep for way in ways]
    rows = [
        [
            language,
            str(of["pairs"]),
            *(f"{sweep[name][language][way][chosen]:.1f}" for name in sweep for way in ways.values()),
        ]
        for language, of in content["languages"].items()
    ]
    means = {(name, way): mean_of(sweep[name], way) for name in sweep for way in ways.values()}
    rows.append(["mean", "", *(f"{of_layer[chosen]:.1f}" for of_layer in means.values())])
    print(f"\nlayer {chosen}:\n{table(['language', 'pairs', *head], rows)}\n")
    num_layers = len(means[TRAINED, XX_TO_EN])
    by_layer = [[str(k), *(f"{of_layer[k]:.1f}" for of_layer in means.values())] for k in range(num_layers)]
    print(f"mean over languages, by layer:\n{table(['layer', *head], by_layer)}\n")
    best = content["best_layer_on_test"]
    print(f"best layer {best['layer']}: {best['average']:.1f} (chosen on the test set; not a score to report)")
    if paper_average is not None:
        print(f"the paper's large model: {paper_average:.1f}")
    print(f"protocol: {content['protocol']}")


def draw(sweep: Sweep, chosen: int, title: str, path: Path) -> None:
    """Accuracy xx -> en over layers: a thin line a language, their mean thick, the untrained model's dashed; PNG."""
    pyplot = plotting()
    figure, axis = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for language, accuracies in sweep[TRAINED].items():
        axis.plot(accuracies.to_english, linewidth=0.8, alpha=0.7, label=language)
    for name, of_model in sweep.items():
        axis.plot(mean_of(of_model, XX_TO_EN), "k-" if name == TRAINED else "k--", linewidth=2, label=f"mean, {name}")
    axis.axvline(chosen, color="grey", linewidth=0.8, linestyle=":")
    axis.set_xticks(range(len(next(iter(sweep[TRAINED].values())).to_english)))
    axis.set_xlabel("layer (0: embeddings)")
    axis.set_ylabel("accuracy@1, xx -> en, %")
    axis.set_title(f"Tatoeba retrieval: {title}", fontsize=9, loc="left")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, ncols=3)
    save_figure(figure, path)
