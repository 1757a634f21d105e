"""Do XLCO and PLM learn? Each trains the demo's tiny model on the embedded corpus, beside MMLM at equal steps.

    python benchmarks/objectives_learn.py --to learn [--steps 400]

Prints the loss at the first and the last tenth of the steps, and retrieval accuracy@1 on held-out pairs (best layer, mean of
both ways and of four pairs) beside the untrained model's. Given again, it goes on where it was. About 3 minutes a variant on
one core.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

from ernie_m.base.command_line import run as run_command
from ernie_m.base.ranges import Range
from ernie_m.base.run_files import COMPLETE_FILE
from ernie_m.base.table import table
from ernie_m.runs.metrics import read_metrics

PAIRS = ("fr", "ru", "hi", "zh")
VARIANTS = {
    "MMLM": "{MMLM: 1}",
    "MMLM and XLCO": "{MMLM: 1, XLCO: 1}",
    "XLCO": "{XLCO: 1}",
    "PLM": "{PLM: 1}",
}


def objectives_learn(*, to: str = "learn", steps: Annotated[int, Range(least=20, most=10**6)] = 400) -> None:
    """Train every variant for as many steps and print the table.

    Args:
        to: folder for corpus, runs and exports
        steps: of each variant, 16 rows of 128 positions each
    """
    folder = Path(to).resolve()
    raw, tokenizer, data = folder / "raw", folder / "spm.model", folder / "data"
    prepare = ["-m", "data_prep"]
    if not (raw / "catalog.yaml").is_file():
        call([*prepare, "embed", "--out", raw])
    if not tokenizer.is_file():
        call([*prepare, "train-tokenizer", "--catalog", raw / "catalog.yaml", "--out", tokenizer, "--vocab_size", 3000])
    if not (data / "manifest.json").is_file():
        call([*prepare, "build", "--catalog", raw / "catalog.yaml", "--tokenizer", tokenizer, "--out", data])
    rows = [measured(name, mix, folder, data, raw, steps) for name, mix in VARIANTS.items()]
    print(table(["objectives", "loss at first", "at last", "retrieval untrained", "trained"], rows))


def measured(name: str, mix: str, folder: Path, data: Path, raw: Path, steps: int) -> list[str]:
    """One line of the table."""
    run = folder / name.replace(" ", "_")
    exported = run.with_suffix(".hf")
    schedule = [
        f"stages=[{{steps: {steps}, rows: {mix}}}]",
        f"optimizer.warmup_steps={steps // 8}",
        "output.evaluate_every=0",
    ]
    if not (run / COMPLETE_FILE).is_file():
        call(["-m", "ernie_m", "pretrain", "--recipe", "demo", "--data", data, "--run", run, *schedule])
    if not exported.is_dir():
        call(["-m", "ernie_m", "export", "--run", run, "--to", exported])
    found: dict[str, list[float]] = {"untrained": [], "trained": []}
    for language in PAIRS:
        sides = [raw / "heldout" / f"{language}-en.{side}" for side in (language, "en")]
        output = run.with_suffix(f".{language}.json")
        files = ["--source", sides[0], "--target", sides[1], "--output", output]
        call(["-m", "ernie_m", "evaluate", "retrieval", "--model", exported, *files])
        result = json.loads(output.read_text(encoding="utf-8"))
        for which, values in found.items():
            values.append(max(sum(both) / 2 for both in result[which].values()))
    lines = read_metrics(run)
    losses = {key: [line[key] for line in lines if key in line] for key in sorted(lines[0]) if key.count("/") == 1}
    losses = {key: values for key, values in losses.items() if key.startswith("loss/")}
    tenth = max(1, steps // 10)
    first, last = (
        "  ".join(f"{key.removeprefix('loss/')} {sum(part) / len(part):.2f}" for key, part in parts)
        for parts in (
            [(key, values[:tenth]) for key, values in losses.items()],
            [(key, values[-tenth:]) for key, values in losses.items()],
        )
    )
    means = (f"{100 * sum(values) / len(values):.1f} %" for values in found.values())
    return [name, first, last, *means]


def call(words: list[object]) -> None:
    """Run a command of this interpreter; a failure ends everything."""
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    subprocess.run([sys.executable, *map(str, words)], check=True, env=environment)


if __name__ == "__main__":
    run_command(objectives_learn, "benchmarks/objectives_learn.py")
