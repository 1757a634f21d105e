"""Finished cells of a comparison: what one variant with one seed measured, as a small file that can be kept with the code.

TO/cells/VARIANT_seedN.json is written when a run and its measures are done. A folder of such files stands for their runs in
another TO, on another machine, on another day: they are taken as they are, if their recipe and the way they were measured
are those of the comparison.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ernie_m import __version__
from ernie_m.ablation.variants import Variant
from ernie_m.base.config import differing_keys
from ernie_m.base.console import InputError
from ernie_m.base.files import read_json, sha256_of, write_json
from ernie_m.corpus.manifest import MANIFEST_FILE

SCHEME = 1


class Cell(NamedTuple):
    """A variant and a seed."""

    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        return f"{self.variant.name}_seed{self.seed}"


def write(folder: Path, cell: Cell, measured_by: Mapping[str, Any], data: Path, result: Mapping[str, Any]) -> None:
    """Write a cell's file; `result` are its measures, of which the curve is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "scheme": SCHEME,
        "variant": cell.variant.name,
        "seed": cell.seed,
        "recipe": cell.variant.recipe,
        "measured_by": dict(measured_by),
        "data": sha256_of(data / MANIFEST_FILE),
        "machine": f"{platform.machine()}, ernie_m {__version__}",
        "result": _rounded({**result, "curve": []}),
    }
    write_json(folder / f"{cell.name}.json", content, indent=None)  # a line: cells are kept with the code


def _rounded(content: Any) -> Any:
    """Numbers with five digits that count: a file that people keep with the code is small."""
    if isinstance(content, dict):
        return {key: _rounded(of) for key, of in content.items()}
    if isinstance(content, list):
        return [*map(_rounded, content)]
    return float(f"{content:.5g}") if isinstance(content, float) else content


def read(folder: Path, cells: Sequence[Cell], measured_by: Mapping[str, Any] | None) -> dict[str, Any]:
    """Name -> content of those of `cells` that are in the folder; `measured_by` None: measured in any way.

    Raises InputError for a file of another recipe, measured otherwise, or that is not what was written there.
    """
    found = {}
    for cell in cells:
        path = folder / f"{cell.name}.json"
        if path.is_file():
            found[cell.name] = _checked(path, cell, measured_by)
    return found


def _checked(path: Path, cell: Cell, measured_by: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        content = dict(read_json(path))
        told = {"recipe": content["recipe"], "measured_by": content["measured_by"], "seed": content["seed"]}
        lacking = {"pairs", "sets", "retrieval"} - content["result"].keys() | {"data", "scheme"} - content.keys()
        if lacking:
            raise KeyError(min(lacking))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not a finished cell ({type(error).__name__}: {error}); remove it") from None
    by = told["measured_by"] if measured_by is None else dict(measured_by)
    wanted = {"recipe": cell.variant.recipe, "measured_by": by, "seed": cell.seed}
    if content.get("scheme") != SCHEME or (differing := differing_keys(told, json.loads(json.dumps(wanted)))):
        why = (
            "of another release"
            if content.get("scheme") != SCHEME
            else f"of another comparison ({'; '.join(differing[:3])})"
        )
        raise InputError(f"{path}: {why}; expected cells of the same recipe, measured alike: name another --finished")
    return content


def remarks(cells: Mapping[str, Mapping[str, Any]], wanted: Sequence[Cell]) -> list[str]:
    """What is there of what is wanted, and whether all cells are of the same data."""
    missing = [cell.name for cell in wanted if cell.name not in cells]
    lines = [
        f"{len(wanted) - len(missing)} of {len(wanted)} cells are there"
        + (f"; missing: {', '.join(missing)}" if missing else "")
    ]
    if len({of["data"] for of in cells.values()}) > 1:
        lines.append("cells are of different data (another version of the packages?): differences may come from that")
    return lines
