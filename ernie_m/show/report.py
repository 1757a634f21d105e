"""The page: fills report.html.jinja with each section's content, or with the reason why it is left out."""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from ernie_m.ablation.measured_model import MeasuredModel, write_hugging_face
from ernie_m.base.console import InputError
from ernie_m.interop.encoder import OpenEncoder, open_encoder
from ernie_m.models.pretraining import PretrainingModel
from ernie_m.rows.objectives import OBJECTIVES
from ernie_m.runs.skip_steps import SkipSteps
from ernie_m.show import attention_pictures, overview, pseudo_tokens, retrieval, sentence_map, word_map
from ernie_m.show.bitext_folder import BitextFolder, shared_sentences
from ernie_m.show.opened import OpenedRun
from ernie_m.show.overview import Table

NAMED = 12  # pairs of languages without a number
MARK = "run-of-ernie-m"
"""Name of the page's mark, which holds the run's name."""
NO_BITEXT = "no bitext was given (--bitext FOLDER)"


@dataclass(frozen=True)
class PageOptions:
    """What to show of a run. `before`: an encoder, 'start' for the run's weights of step 0, or 'none'."""

    bitext: BitextFolder | None
    before: OpenEncoder | str
    step: int
    layer: int = 0


def page(run: OpenedRun, options: PageOptions, scratch: Path) -> str:
    """The whole page as HTML; `scratch` is a folder for exported weights, to be removed by the caller.

    Raises InputError for a layer that the model does not have, and for missing weights of the start.
    """
    lines = overview.metrics_up_to(run)
    languages = {number: name for name, number in run.language_ids.items()}
    after = run.after()
    content = {
        "mark": MARK,
        "run": run.path.resolve().name,
        "title": f"{run.path.resolve().name} after {run.checkpoint.step:,} steps",
        "overview": {
            "facts": overview.facts(run, lines),
            "stages": overview.stages(run),
            "streams": overview.streams(run),
            "scores": overview.scores(lines),
            "recipe": overview.recipe(run),
            "curves": overview.curves(lines) if lines else None,
        },
        **_of_rows(run, options, after.model, languages),
        **_of_encoders(run, options, after, scratch),
    }
    loader = PackageLoader("ernie_m.show", ".")
    template = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return template.get_template("report.html.jinja").render(content)


def check_same_run(page: Path, run: Path) -> None:
    """Raise InputError when the file `page` is there and is no page of that run: nothing else is written over."""
    if page.exists():
        start = page.read_bytes()[:4096].decode("utf-8", errors="replace")
        found = re.search(rf'<meta name="{MARK}" content="([^"]*)">', start)
        if found is None or html.unescape(found[1]) != run.resolve().name:
            what = f"the page of another run, {html.unescape(found[1])}" if found else "not a page of this command"
            raise InputError(f"--output {page}: there already, and {what}; give another file, or remove it")


# -- rows of training ------------------------------------------------------------------------------------------------


def _of_rows(run: OpenedRun, options: PageOptions, model: PretrainingModel, languages: Mapping[int, str]) -> dict[str, Any]:
    """Sections 'rules' and 'written'."""
    if run.data_order_problem:
        return dict.fromkeys(("rules", "written"), run.data_order_problem)
    ends = list(itertools.accumulate(stage.steps for stage in run.config.stages))
    last = attention_pictures.last_rows(run.data, options.step, ends, SkipSteps.read(run.path))
    rules = []
    for name, (step, rows) in last.items():
        address = next((row for row in rows if run.data.row(row).num_tokens), rows[0])
        row_id = next(r["id"] for r in run.data.describe_step(step) if (r["objective"], r["draw"]) == (name, address.draw))
        for view in attention_pictures.views(run.data, address, model):
            positions = attention_pictures.legible_part(view)
            about = f"step {step:,}, row {row_id}: {_packed_words(view)}; written out: {_part_words(view, positions)}"
            picture = attention_pictures.picture(view, positions, run.vocabulary, languages)
            rules.append({"title": view.title, "about": about, "picture": picture})
    pseudo = next((name for name in last if OBJECTIVES[name].is_pseudo_parallel), None)
    if pseudo is None:
        is_later = any(OBJECTIVES[name].is_pseudo_parallel for name in run.data.schedule.objectives)
        written: Any = (
            f"up to step {options.step:,} the run has not trained on BTMLM" if is_later else "the recipe has no BTMLM"
        )
    else:
        step, rows = last[pseudo]
        written = {
            "about": f"Sentences of BTMLM's rows of step {step:,}, and what {_writer_words(run, step)} puts behind them "
            "in another language, all tokens at once, from the sentence as it is. Special tokens are never written; "
            "probabilities are among all other pieces.",
            "examples": pseudo_tokens.written(run.data, rows, model, run.vocabulary, languages),
        }
    return {"rules": rules, "written": written}


def _packed_words(view: attention_pictures.View) -> str:
    document_S = view.column("document")
    padding = int((document_S < 0).sum())
    return f"{document_S.max() + 1} documents, {padding} positions of padding"


def _part_words(view: attention_pictures.View, positions: np.ndarray) -> str:
    document_S = view.column("document")
    shown = np.unique(document_S[positions])
    whole = len(positions) == np.isin(document_S, shown).sum()
    names = " and ".join(str(number + 1) for number in shown)
    which = f"document{'s' if len(shown) > 1 else ''} {names}"
    return f"{which}, whole" if whole else f"the first positions of each group of {which}"


def _writer_words(run: OpenedRun, step: int) -> str:
    if step == run.checkpoint.step:
        return "the checkpoint, which is the model of that step,"
    return f"the checkpoint (not the model of that step: this one has made {run.checkpoint.step:,} steps)"


# -- sentences of a bitext -------------------------------------------------------------------------------------------


def _exported(run: OpenedRun, options: PageOptions, after: MeasuredModel, scratch: Path) -> dict[str, OpenEncoder] | str:
    """Before and after, by title, as encoders of Hugging Face; or why they cannot be."""
    models = {"before": run.before()} if options.before == "start" else {}
    models["after"] = after
    try:
        for when, model in models.items():
            write_hugging_face(model, scratch / when)
    except InputError as error:  # a BPE tokenizer, a language at every token
        return str(error)
    opened = {when: open_encoder(scratch / when) for when in models}
    if isinstance(options.before, OpenEncoder):
        opened = {"before": options.before, **opened}
    names = {"before": f"before: {options.before.title if isinstance(options.before, OpenEncoder) else 'step 0'}"}
    names["after"] = f"after: step {run.checkpoint.step:,}"
    return {names[when]: encoder for when, encoder in opened.items()}


def _of_encoders(run: OpenedRun, options: PageOptions, after: MeasuredModel, scratch: Path) -> dict[str, Any]:
    """Sections 'retrieval', 'map' and 'words'."""
    dictionaries = word_map.dictionaries_of(run.data.folder)
    content: dict[str, Any] = {"retrieval": NO_BITEXT, "map": NO_BITEXT, "words": dictionaries}
    if options.bitext is None and isinstance(dictionaries, str):
        return content
    encoders = _exported(run, options, after, scratch)
    if isinstance(encoders, str):
        of_bitext = NO_BITEXT if options.bitext is None else encoders
        of_words = dictionaries if isinstance(dictionaries, str) else encoders
        return {"retrieval": of_bitext, "map": of_bitext, "words": of_words}
    if options.bitext is not None:
        content |= _of_sentences(options.bitext, options.layer, encoders)
    if not isinstance(dictionaries, str):
        content["words"] = word_map.section(encoders, dictionaries)
    return content


def _of_sentences(bitext: BitextFolder, layer: int, encoders: Mapping[str, OpenEncoder]) -> dict[str, Any]:
    """Sections 'retrieval' and 'map'."""
    encoded = {title: retrieval.pooled(opened, bitext, layer, title) for title, opened in encoders.items()}
    return {"retrieval": _retrieval(bitext, encoded), "map": _map(bitext, encoded)}


def _retrieval(bitext: BitextFolder, ordered: Mapping[str, retrieval.PooledStates]) -> dict[str, Any]:
    *before, after = ordered.values()
    languages, shared = bitext.languages, shared_sentences(bitext)
    num_shared = retrieval.counts(languages, shared)
    maps = {title: retrieval.cells(of, languages, shared) for title, of in ordered.items()}
    pairs = list(itertools.combinations(range(len(languages)), 2))
    few = [(i, j) for i, j in pairs if num_shared[i, j] < retrieval.LEAST_SHARED]
    joined = sum(s.over_english for s in shared.values())
    best = {title: (int(np.argmax(of.mean_sweep())), max(of.mean_sweep())) for title, of in ordered.items()}
    return {
        "layers": _layer_words(ordered),
        "over_english": f"{joined} pairs of languages share no file and are joined through equal English sentences."
        if joined
        else "",
        "least": retrieval.LEAST_SHARED,
        "empty": [f"{languages[i]}-{languages[j]} ({num_shared[i, j]})" for i, j in few[:NAMED]]
        + [f"and {len(few) - NAMED} more"] * (len(few) > NAMED),
        "heat_maps": retrieval.heat_maps(maps, languages, num_shared),
        "sweeps": retrieval.sweeps(after, before[0] if before else None),
        "best": "Best layer on these same sentences (not a score to report): "
        + "; ".join(f"{title}: layer {layer}, {100 * share:.1f} %" for title, (layer, share) in best.items()),
        "left_out": bitext.left_out,
    }


def _layer_words(ordered: Mapping[str, retrieval.PooledStates]) -> str:
    layers = {title: f"layer {of.layer} of {of.num_layers}" for title, of in ordered.items()}
    if len(set(layers.values())) == 1:
        return next(iter(layers.values()))
    return ", ".join(f"{layer} ({title})" for title, layer in layers.items())


def _map(bitext: BitextFolder, ordered: Mapping[str, retrieval.PooledStates]) -> Any:
    points = sentence_map.chosen_points(bitext)
    if len(points) < sentence_map.LEAST_POINTS:
        return f"the bitext has only {len(points)} sentences, a map needs {sentence_map.LEAST_POINTS}"
    print(f"map of {len(points)} sentences", flush=True)
    states = {title: sentence_map.states_of(points, of) for title, of in ordered.items()}
    planes = {title: sentence_map.projected(of) for title, of in states.items()}
    near = {title: sentence_map.neighbours(points, of) for title, of in states.items()}
    return {
        "about": f"{len(points):,} sentences, {len(set(points.meanings)):,} meanings in {len(set(points.languages))} "
        "languages, the same in each map, as t-SNE lays out their states (the layer above, cosine, a fixed seed). Places "
        "compare within a map only.",
        "maps": sentence_map.maps(planes, points),
        "neighbours": Table(
            ("", "nearest other sentence is a translation", "is of the same language"),
            [[title, f"{100 * a:.1f} %", f"{100 * b:.1f} %"] for title, (a, b) in near.items()],
        ),
        "examples": sentence_map.example_texts(points, bitext),
    }
