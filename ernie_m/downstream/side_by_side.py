"""Scores of several encoders on one task, side by side: a column an encoder, a row a language, each with its spread.

What is compared is what `finetune` wrote to results.json. Means are over the languages that all have; whatever makes columns
not comparable (other files, settings, protocols, hyperparameters, numbers of seeds) is said in a line below.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_m.base.console import InputError
from ernie_m.base.files import read_json
from ernie_m.base.language_codes import CODE
from ernie_m.base.plots import plotting, save_figure
from ernie_m.base.table import table
from ernie_m.downstream.report import SOURCE_LANGUAGE, Spread, mark_paper
from ernie_m.downstream.settings import RESULTS_FILE, SETTINGS_FILE

ZERO_SHOT = "zero-shot"
SAME = ("setting", "protocol")
"""Keys of results.json in which columns should agree."""
PARTS = {"train": "training files", "validation": "validation files", "test": "test files"}
"""Parts of the data of settings.json in which they should agree too, and how they are called."""
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Column:
    """The scores of one encoder."""

    title: str
    task: str
    metric: str
    languages: Mapping[str, Spread]
    num_seeds: int
    told: Mapping[str, str]
    """What the comparison depends on, by name."""
    hyperparameters: Mapping[str, str]
    paper: Mapping[str, float]
    """The paper's row by language, where these are its test files."""

    def over(self, languages: Sequence[str]) -> float:
        """Mean over languages."""
        return statistics.fmean(self.languages[language].mean for language in languages)


def results_file(path: Path) -> Path:
    """The results.json that is meant by it, or by the folder that holds it."""
    return path / RESULTS_FILE if path.is_dir() else path


def read_column(path: Path) -> Column:
    """The column of a results.json, or of the folder that holds it. Raises InputError for anything else."""
    file = results_file(path)
    if not file.is_file():
        raise InputError(f"{file}: no such file; expected the {RESULTS_FILE} of `finetune`, or its folder")
    try:
        content = read_json(file)
        if content.get("not_scored") and "languages" not in content:
            raise InputError(f"{file}: predictions alone, no scores; expected results on test files with labels")
        title = " ".join(Path(content["encoder"]).name.split())
        task, setting, languages = content["task"], content["setting"], content["languages"]
        if setting == ZERO_SHOT:
            at, metric, num_seeds = content["layer"], "accuracy", 1
            if at < 0:
                raise TypeError(f"layer {at}")
            scores = {name: Spread(of["trained"]["to_english"][at], None) for name, of in languages.items()}
        else:
            metric, num_seeds = next(iter(content["average"])), max(1, len(content["seeds"]))
            scores = {name: Spread(**of[metric]) for name, of in languages.items()}
        paper = {name: float(score) for name, score in ((content.get("paper") or {}).get("languages") or {}).items()}
        for name, of in scores.items():
            if not CODE.fullmatch(name):
                raise TypeError(f"{name} is no language")
            if not _is_percent(of.mean) or not (of.sd is None or _is_percent(of.sd)):
                raise TypeError(f"the score in {name} is no number from 0 to 100")
    except InputError:
        raise
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, StopIteration, RecursionError) as error:
        raise InputError(f"{file}: not a {RESULTS_FILE} of `finetune` ({type(error).__name__}: {error})") from None
    settings = _settings(file.with_name(SETTINGS_FILE))
    told = {key: str(content.get(key)) for key in SAME} | _files(settings)
    chosen = settings.get("hyperparameters")
    hyperparameters = {key: str(value) for key, value in chosen.items()} if isinstance(chosen, dict) else {}
    return Column(title, task, metric, scores, num_seeds, told, hyperparameters, paper)


def _is_percent(value: Any) -> bool:
    """Whether it is a number from 0 to 100, give or take a rounding."""
    return isinstance(value, float | int) and not isinstance(value, bool) and -1e-6 < value < 100 + 1e-6


def _settings(path: Path) -> dict[str, Any]:
    """What the scores depend on; nothing where it is not told."""
    try:
        found = read_json(path)
    except (OSError, ValueError, RecursionError):
        found = {}
    return found if isinstance(found, dict) else {}


def _files(settings: Mapping[str, Any]) -> dict[str, str]:
    """What tells the files of each part: their hashes, without the places where they lie."""
    data = settings.get("data")
    parts = data if isinstance(data, dict) and "test" in data else {"test": data}  # zero-shot: test files alone
    return {name: _hashes(parts.get(part)) for part, name in PARTS.items()}


def _hashes(files: Any) -> str:
    try:
        return json.dumps(sorted(of["sha256"] for of in files.values()))
    except (KeyError, AttributeError, TypeError):
        return UNKNOWN


def compared(columns: Sequence[Column]) -> dict[str, Any]:
    """The comparison as content of a JSON file. Raises InputError for columns of different tasks."""
    first = columns[0]
    for other in columns[1:]:
        if (other.task, other.metric) != (first.task, first.metric):
            raise InputError(
                f"{first.title} has {first.metric} of {first.task}, {other.title} {other.metric} of {other.task}; expected "
                "results of one task: compare each by itself"
            )
    common = [name for name in first.languages if all(name in column.languages for column in columns)]
    if not common:
        raise InputError(f"{', '.join(c.title for c in columns)}: no language is in all of them; nothing to compare")
    others = [name for name in common if name != SOURCE_LANGUAGE]
    return {
        "task": first.task,
        "metric": first.metric,
        "columns": [
            {
                "title": title,
                "seeds": column.num_seeds,
                "languages": {name: vars(of) for name, of in column.languages.items()},
                "mean": column.over(common),
                "gap": column.languages[SOURCE_LANGUAGE].mean - column.over(others)
                if SOURCE_LANGUAGE in common and others
                else None,
            }
            for title, column in zip(titles(columns), columns, strict=True)
        ],
        "common_languages": common,
        "remarks": remarks(columns),
    }


def titles(columns: Sequence[Column]) -> list[str]:
    """The encoders' names; where two are alike, with their places."""
    names = [column.title for column in columns]
    return [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, start=1)]


def papers(columns: Sequence[Column]) -> dict[str, float]:
    """The paper's score of each language, where any column has its row."""
    return {name: score for column in columns for name, score in column.paper.items()}


def remarks(columns: Sequence[Column]) -> list[str]:
    """What makes the columns not comparable, or less so."""
    lines = []
    for key in columns[0].told:
        said = {column.told[key] for column in columns}
        if len(said) > 1:
            shown = "" if key in PARTS.values() else f": {' | '.join(sorted(said))}"
            lines.append(f"not the same {key}{shown}: differences may come from that")
    common = [key for key in columns[0].hyperparameters if all(key in column.hyperparameters for column in columns)]
    values = {key: [column.hyperparameters[key] for column in columns] for key in common}
    if others := [f"{key} {' | '.join(of)}" for key, of in values.items() if len({*of}) > 1]:
        lines.append(f"not the same hyperparameters: {', '.join(others)}: differences may come from that")
    if few := [title for title, column in zip(titles(columns), columns, strict=True) if column.num_seeds == 1]:
        lines.append(f"one seed, or none: {', '.join(few)}; a difference from these has no known spread")
    return lines


def as_table(columns: Sequence[Column]) -> str:
    """Languages in rows; the mean and the gap of English to the others are over the languages that all have."""
    content = compared(columns)
    names = list(dict.fromkeys(name for column in columns for name in column.languages))
    given = papers(columns)
    head = ["language", *titles(columns), *(["paper"] if given else [])]
    rows = []
    for name in names:
        cells = [str(column.languages[name]) if name in column.languages else "-" for column in columns]
        rows.append([name, *cells, *([f"{given[name]:.1f}" if name in given else "-"] if given else [])])
    rest = [""] if given else []
    rows.append([f"mean of {len(content['common_languages'])}", *(f"{c['mean']:.2f}" for c in content["columns"]), *rest])
    if content["columns"][0]["gap"] is not None:
        rows.append(["en - others", *(f"{c['gap']:.2f}" for c in content["columns"]), *rest])
    return table(head, rows)


def draw(columns: Sequence[Column], path: Path) -> None:
    """A group of bars a language, an encoder a colour, with the spread over seeds; PNG, atomically."""
    pyplot = plotting()
    names = list(dict.fromkeys(name for column in columns for name in column.languages))
    width = 0.8 / len(columns)
    figure, axis = pyplot.subplots(figsize=(2.5 + 0.25 * len(names) * (1 + len(columns)), 4), layout="constrained")
    for number, (title, column) in enumerate(zip(titles(columns), columns, strict=True)):
        places = [x + (number - (len(columns) - 1) / 2) * width for x, name in enumerate(names) if name in column.languages]
        spreads = [column.languages[name] for name in names if name in column.languages]
        errors = [of.sd or 0.0 for of in spreads]
        axis.bar(places, [of.mean for of in spreads], width, yerr=errors, error_kw={"linewidth": 0.8}, label=title)
    if given := papers(columns):
        mark_paper(axis, names, given)
    axis.set_xticks(range(len(names)), names)
    axis.set_ylabel(f"{columns[0].task}, {columns[0].metric}, %")
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    axis.legend(fontsize=7, ncols=4, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    save_figure(figure, path)
