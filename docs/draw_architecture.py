"""Draw docs/architecture.png from the code: the rooms of the package, who imports whom, and the way of a token.

    python docs/draw_architecture.py

Names and order come from `ernie_m.ROOMS`, a room's line from its docstring, the dots from the imports in its files.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from ernie_m import ROOMS

ROOT = Path(__file__).resolve().parents[1]
PICTURE = Path(__file__).with_name("architecture.png")
OUTSIDE = "data_prep"
WAY = (
    ("text", "a line, or a pair", "data_prep/readers/__init__.py"),
    ("ids", "of the tokenizer", "ernie_m/corpus/vocabulary.py"),
    ("shard", "Arrow file, in the manifest", "ernie_m/corpus/folder.py"),
    ("row", "documents, packed", "ernie_m/rows/packing.py"),
    ("batch", "of one micro-batch", "ernie_m/rows/batch.py"),
    ("loss", "of predicted positions", "ernie_m/models/loss.py"),
    ("checkpoint", "verified, any ranks", "ernie_m/runs/checkpoint.py"),
    ("Hugging Face", "a folder", "ernie_m/interop/export.py"),
)
"""What a token is at each station, in words, and the file where it becomes that."""
DARK, LIGHT, LINE = "#1f4e79", "#e8f0f8", "#9db4c8"


@dataclass(frozen=True)
class Room:
    """A room: its name, the first sentence of its docstring, and the rooms that its files import."""

    name: str
    summary: str
    imports: frozenset[str]


def rooms() -> list[Room]:
    """The rooms of the package from the ground up, then data_prep."""
    return [*(room(name, ROOT / "ernie_m" / name) for name in ROOMS), room(OUTSIDE, ROOT / OUTSIDE)]


def room(name: str, folder: Path) -> Room:
    """Read one room's files."""
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    summary = " ".join(docstring.split("\n\n")[0].split()).split(". ")[0].rstrip(".")
    imported = {used for path in sorted(folder.rglob("*.py")) for used in rooms_imported_by(path)}
    return Room(name, summary, frozenset(imported - {name}))


def rooms_imported_by(path: Path) -> set[str]:
    """Rooms of ernie_m whose modules a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        parts = [name.split(".") for name in names]
        found |= {part[1] for part in parts if part[0] == "ernie_m" and len(part) > 1 and part[1] in ROOMS}
    return found


def draw_way(axis: Axes) -> None:
    """The stations of a token from left to right, with the file of each."""
    axis.set_xlim(0, len(WAY))
    axis.set_ylim(0, 1)
    for index, (name, words, path) in enumerate(WAY):
        assert (ROOT / path).is_file(), path
        box = FancyBboxPatch((index + 0.05, 0.45), 0.8, 0.38, boxstyle="round,pad=0.02", facecolor=DARK, edgecolor=DARK)
        axis.add_patch(box)
        axis.text(index + 0.45, 0.64, name, ha="center", va="center", color="white", fontsize=11, weight="bold")
        axis.text(index + 0.45, 0.32, words, ha="center", va="center", fontsize=8)
        shown = path.removeprefix("ernie_m/").removesuffix("/__init__.py")
        axis.text(index + 0.45, 0.16, shown, ha="center", va="center", fontsize=7.5, family="monospace", color=DARK)
        if index + 1 < len(WAY):
            ends = (index + 0.87, 0.64), (index + 1.03, 0.64)
            axis.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=11, color=DARK))
    axis.set_title("The way of a token", loc="left", fontsize=12, weight="bold")


def draw_rooms(axis: Axes, shown: list[Room]) -> None:
    """A line for each room, the first one lowest; a dot in the column of each room that it imports."""
    left, width, columns = 0.0, 8.1, {name: 8.75 + 0.5 * index for index, name in enumerate(ROOMS)}
    heights = {
        entry.name: float(index) + (1.3 if entry.name != OUTSIDE else -len(ROOMS)) for index, entry in enumerate(shown)
    }
    axis.set_xlim(left, max(columns.values()) + 0.6)
    axis.set_ylim(-0.55, len(ROOMS) + 2.9)
    for entry in shown:
        y = heights[entry.name]
        box = FancyBboxPatch((0.05, y - 0.36), width, 0.72, boxstyle="round,pad=0.02", facecolor=LIGHT, edgecolor=LINE)
        axis.add_patch(box)
        axis.text(0.15, y, entry.name, va="center", fontsize=10.5, weight="bold", color=DARK)
        axis.text(1.7, y, textwrap.fill(entry.summary, 82), va="center", fontsize=8, linespacing=1.1)
        axis.plot([width + 0.2, max(columns.values()) + 0.3], [y, y], color=LINE, linewidth=0.5, zorder=0)
        for name in sorted(entry.imports):
            axis.plot(columns[name], y, "o", color=DARK, markersize=7)
        if entry.name in columns:
            axis.plot(columns[entry.name], y, "s", color=LINE, markersize=7)
    for name, x in columns.items():
        axis.text(x, len(ROOMS) + 0.95, name, rotation=55, ha="left", va="bottom", fontsize=8.5)
        axis.plot([x, x], [-0.4, len(ROOMS) + 0.8], color=LINE, linewidth=0.5, zorder=0)
    axis.text(0.05, len(ROOMS) + 1.0, "The rooms, from the ground up", fontsize=12, weight="bold")
    axis.text(width, len(ROOMS) + 1.0, "imports ●", fontsize=9, ha="right", color=DARK)


def picture() -> Figure:
    """The whole picture."""
    figure, (way, house) = pyplot.subplots(2, 1, figsize=(12, 9.2), height_ratios=(1.5, 8), layout="constrained")
    draw_way(way)
    draw_rooms(house, rooms())
    for axis in (way, house):
        axis.axis("off")
    return figure


def main(path: Path = PICTURE) -> None:
    """Write the picture."""
    picture().savefig(path, dpi=80, metadata={"Software": None})


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
