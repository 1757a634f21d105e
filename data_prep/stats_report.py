"""`python -m data_prep stats`: the numbers of a data folder as text, JSON and a plot."""

from __future__ import annotations

from pathlib import Path

from data_prep.stats import DrawPlan, folder_stats, report
from ernie_m.base.console import InputError
from ernie_m.base.files import refuse_existing, write_json


def stats(
    data: Path,
    alpha: float,
    plan: DrawPlan | None = None,
    json: Path | None = None,
    plot: Path | None = None,
    overwrite: bool = False,
) -> str:
    """The report as text; also written to `json` and drawn to `plot` where given. Raises InputError."""
    for option, path in (("--json", json), ("--plot", plot)):
        if path is not None and not path.parent.is_dir():
            raise InputError(f"{option} {path}: the folder {path.parent} does not exist; create it first")
        if path is not None:
            refuse_existing(option, path, overwrite=overwrite)
    found = folder_stats(data, alpha, plan)
    if json is not None:
        write_json(json, found.to_json())
    if plot is not None:
        from data_prep.mixture_plot import draw

        draw(found, plot)
    return report(found)
