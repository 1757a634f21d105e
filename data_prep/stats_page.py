"""`stats --html`: a data folder as one page to look at: its mixture, what was left out of each corpus and why, warnings."""

from __future__ import annotations

import base64
import importlib
import tempfile
from pathlib import Path
from typing import Any

from data_prep.mixture_plot import draw
from data_prep.ownership import REPORT_FILE
from data_prep.stats import FolderStats, StreamStats
from ernie_m.base.console import InputError
from ernie_m.base.files import read_json, written_atomically
from ernie_m.base.process_end import clean_end
from ernie_m.corpus.unknown_pieces import Pieces

TEMPLATE = "stats_page.html.jinja"


def write_page(found: FolderStats, data: Path, path: Path) -> None:
    """Write the page under `path`, atomically. Raises InputError where jinja2 is missing, or the report damaged."""
    try:
        jinja2 = importlib.import_module("jinja2")
    except ImportError:
        raise InputError("--html needs jinja2: pip install 'ernie-m[show]'") from None
    with clean_end, tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "mixture.png"
        draw(found, picture)
        encoded = base64.b64encode(picture.read_bytes()).decode("ascii")
    corpora = _corpora(data)
    content = {
        "title": data.resolve().name,
        "picture": f"data:image/png;base64,{encoded}",
        "kinds": [(kind, [_row(stream) for stream in streams]) for kind, streams in found.kinds],
        "alpha": found.alpha,
        "corpora": corpora,
        "left_out": [corpus for corpus in corpora if corpus["left_out"]],
    }
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    options = {"autoescape": True, "undefined": jinja2.StrictUndefined, "trim_blocks": True}
    text = jinja2.Environment(loader=loader, **options).get_template(TEMPLATE).render(content)
    with written_atomically(path) as aside:
        aside.write_text(text, encoding="utf-8")


def _row(stream: StreamStats) -> list[str]:
    repeats = "" if stream.repeats is None else f"{stream.repeats:.2f}"
    numbers = [f"{stream.rows:,}", f"{stream.held_out_rows:,}", f"{stream.tokens:,}", f"{stream.mean_length:.1f}"]
    return [stream.name, *numbers, f"{100 * stream.share:.2f} %", f"{100 * stream.p:.2f} %", repeats]


def _corpora(data: Path) -> list[dict[str, Any]]:
    """What report.json says of each corpus; nothing where there is none."""
    path = data / REPORT_FILE
    if not path.exists():
        return []
    try:
        corpora = read_json(path)["corpora"]
        return [_corpus(corpus) for corpus in corpora]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({type(error).__name__}: {error}); build the folder again") from None


def _corpus(told: dict[str, Any]) -> dict[str, Any]:
    unknown = {language: Pieces(**pieces).shown for language, pieces in told.get("pieces", {}).items()}
    return {
        "name": told["name"],
        "about": f"{told['format']}, {' '.join(told['languages'])}: {', '.join(told['files'])}",
        "left_out": told["left_out"] or "",
        "numbers": f"{told['lines_read']:,} lines read, {told['rows']:,} rows, {told['tokens']:,} tokens",
        "unknown": ", ".join(f"{language} {share}" for language, share in sorted(unknown.items())),
        "alignment": told["alignment"]["score"],
        "rejected": [
            {
                "reason": reason,
                "lines": f"{found['lines']:,}",
                "share": f"{100 * found['lines'] / max(1, told['lines_read']):.2f} %",
                "first": [(f"{first['line']:,}", first["text"]) for first in found["first"]],
            }
            for reason, found in sorted(told["rejected"].items(), key=lambda one: -one[1]["lines"])
        ],
        "warnings": [*told.get("alarms", []), *told.get("warnings", [])],
    }
