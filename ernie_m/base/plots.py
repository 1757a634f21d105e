"""Pictures of figures: matplotlib without a screen, and PNG files that are whole under their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ernie_m.base.files import written_atomically


def plotting() -> Any:
    """matplotlib's pyplot, which needs no screen; imported when something is drawn, since that takes a second."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def save_figure(figure: Any, path: Path) -> None:
    """Write the figure as PNG, atomically, and close it."""
    with written_atomically(path) as aside:
        figure.savefig(aside, dpi=120, format="png")
    plotting().close(figure)
