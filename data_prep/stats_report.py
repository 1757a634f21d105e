"""`python -m data_prep stats`: the numbers of a data folder as text, JSON, a plot and a page."""

from __future__ import annotations

from pathlib import Path

from data_prep.stats import DrawPlan, folder_stats, report
from ernie_m.base.console import InputError
from ernie_m.base.files import refuse_existing, require_folder_of, write_json


def stats(
    data: Path,
    alpha: float,
    plan: DrawPlan | None = None,
    json: Path | None = None,
    plot: Path | None = None,
    html: Path | None = None,
    overwrite: bool = False,
) -> str:
    """The report as text; also written to `json`, `plot` and `html` where they are given. Raises InputError."""
    written: dict[Path, str] = {}
    for option, path in (("--json", json), ("--plot", plot), ("--html", html)):
        if path is not None and (other := written.setdefault(path.absolute(), option)) != option:
            raise InputError(f"{option} {path}: {other} is the same file; expected a file for each")
        if path is not None:
            require_folder_of(option, path)
            refuse_existing(option, path, overwrite=overwrite)
    found = folder_stats(data, alpha, plan)
    if json is not None:
        write_json(json, found.to_json())
    if plot is not None:
        from data_prep.mixture_plot import draw

        draw(found, plot)
    if html is not None:
        from data_prep.stats_page import write_page

        write_page(found, data, html)
    return report(found)
