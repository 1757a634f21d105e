"""Figures as the page holds them: SVG whose texts stay texts, so that the browser finds fonts for every script, and whose
bytes follow from what is drawn alone."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import matplotlib
from matplotlib.figure import Figure

P = ParamSpec("P")

FIRST_STRONG, POP_ISOLATE = "\u2068", "\u2069"
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ernie-m",
    "text.parse_math": False,  # pieces hold dollar signs
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}


def as_image(draw: Callable[P, Figure]) -> Callable[P, str]:
    """Make of a function that draws a figure one that gives it as the address of an <img>: data:image/svg+xml;base64,..."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> str:
        content = io.BytesIO()
        with matplotlib.rc_context(STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the browser's fonts are others
            draw(*args, **kwargs).savefig(content, format="svg", metadata={"Date": None, "Creator": None})
        return "data:image/svg+xml;base64," + base64.b64encode(content.getvalue()).decode("ascii")

    return drawn


def isolated(text: str) -> str:
    """The text for a label: right-to-left scripts keep to themselves, what does not print shows its code."""
    shown = "".join(c if c.isprintable() else f"‹U+{ord(c):04X}›" for c in text)
    return f"{FIRST_STRONG}{shown}{POP_ISOLATE}"
