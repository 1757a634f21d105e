"""How a data file was understood, told once."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ernie_m.console import Choice


def announce(choices: Iterable[Choice]) -> None:
    """Print a line for each, on the first rank alone."""
    if os.environ.get("RANK", "0") == "0":
        for choice in choices:
            print(choice, flush=True)
