"""Which checkpoint of a run that translates is the best one, by what the run measured when it made it.

1. Trained on pairs: the one with the lowest loss of held-out pairs, `held_out_loss/MT`.
2. Without pairs: the one with the lowest loss of round trips, `round_trip_loss`, of those at which the model copies less
   than half of the tokens it writes. A model that copies has a low round trip loss and translates nothing.

A checkpoint counts if something was measured at its step: output.save_every and output.evaluate_every should agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ernie_m.base.console import InputError
from ernie_m.runs.metrics import COPIED, HELD_OUT_LOSS, ROUND_TRIP, read_metrics

BEST = "best"
"""What `--checkpoint` says for it."""
MOST_COPIED = 0.5
TRAINED_ON_PAIRS, OF_PAIRS = "loss/MT", f"{HELD_OUT_LOSS}/MT"
TRAINED_BACK = "loss/BT"


def best_step(run: Path, steps: Sequence[int]) -> int:
    """Of these steps, which have checkpoints, the best one; of equally good ones the last.

    Raises InputError if nothing was measured at any of them.
    """
    lines = read_metrics(run)
    is_on_pairs = any(TRAINED_ON_PAIRS in line for line in lines)
    key, listed = OF_PAIRS if is_on_pairs else ROUND_TRIP, ", ".join(map(str, sorted(steps)))
    if lines and not any({TRAINED_BACK, key, TRAINED_ON_PAIRS} & line.keys() for line in lines):
        raise InputError(f"--checkpoint {BEST}: of runs that translate, and {run} does not; name one of {listed}")
    measured = [line for line in lines if line["step"] in steps and line.get(key) is not None]
    if not measured:
        raise InputError(
            f"--checkpoint {BEST}: {run} has no {key} at the steps of its checkpoints; name one of {listed}, or train with "
            "output.evaluate_every and output.save_every equal"
        )
    return best_of(measured, key)


def best_folder(run: Path, folders: Sequence[Path]) -> Path | None:
    """Of these checkpoints the best one; None if nothing was measured at any."""
    by_step = {int(folder.name.removeprefix("step_")): folder for folder in folders}
    try:
        return by_step[best_step(run, [*by_step])]
    except InputError:
        return None


def best_of(measured: Sequence[dict[str, Any]], key: str) -> int:
    """The step of the best of these lines of metrics."""
    translating = [line for line in measured if line.get(COPIED, 0.0) < MOST_COPIED]
    best = min(translating or measured, key=lambda line: (line[key], -line["step"]))
    return int(best["step"])
