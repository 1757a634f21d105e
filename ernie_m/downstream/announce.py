"""Print once how a data file was understood."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ernie_m.base.console import Choice
from ernie_m.base.launchers import rank_of


def announce(choices: Iterable[Choice]) -> None:
    """Print a line for each, on the first rank alone."""
    if rank_of(os.environ) == 0:
        for choice in choices:
            print(choice, flush=True)
