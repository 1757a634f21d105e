"""Figures for the page: SVG in which text stays text, so that the browser finds fonts for every script.

The same drawing gives the same bytes.
"""

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
    """Turn a function that draws a figure into one that returns the address for an <img>: data:image/svg+xml;base64,..."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> str:
        content = io.BytesIO()
        with matplotlib.rc_context(STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the browser's fonts are others
            draw(*args, **kwargs).savefig(content, format="svg", metadata={"Date": None, "Creator": None})
        return "data:image/svg+xml;base64," + base64.b64encode(content.getvalue()).decode("ascii")

    return drawn


def isolated(text: str) -> str:
    """A label's text: right-to-left text is isolated, and characters that do not print show their code."""
    shown = "".join(c if c.isprintable() else f"‹U+{ord(c):04X}›" for c in text)
    return f"{FIRST_STRONG}{shown}{POP_ISOLATE}"
