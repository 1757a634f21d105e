"""The main job, small: raw corpus files -> shards -> pre-training on two ranks -> evaluation -> Hugging Face folder.

    ernie-m demo --to demo

Every step is a command as a user would type it, and is printed before it runs. The same command again continues the demo.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

from ernie_m.base.command_line import run as run_command
from ernie_m.base.console import duration, fail
from ernie_m.base.files import read_json
from ernie_m.base.hostfile import free_port
from ernie_m.base.process_end import run_below
from ernie_m.base.ranges import Range
from ernie_m.base.run_files import CHECKPOINTS_FOLDER, COMPLETE_FILE, CURVES_FILE
from ernie_m.runs.checkpoint import LATEST_FILE
from ernie_m.runs.job_defaults import TRAINING

PAIRS = ("fr", "ru", "el", "ar", "hi", "zh", "ko", "th")  # held-out files that retrieval is measured on, with English


def demo(
    *,
    to: str = "demo",
    ranks: Annotated[int, Range(least=0, most=1024, zero="as many as it finds fit")] = 0,
    recipe: str = "demo",
    vocab_size: Annotated[int, Range(least=1, most=2**24)] = 3000,
) -> None:
    """Run all steps on a generated corpus, in minutes on two CPU cores, and print the results.

    Args:
        to: folder for everything the demo makes
        ranks: local processes to train on; 0 takes every GPU, or two processes where there is none
        recipe: name or path of a recipe
        vocab_size: of the SentencePiece tokenizer trained on the corpus
    """
    import torch

    started = time.monotonic()
    ranks = ranks or torch.cuda.device_count() or 2
    folder = Path(to).resolve()
    raw, tokenizer, data, run, exported = (folder / name for name in ("raw", "spm.model", "data", "run", "hugging_face"))
    prepare, ours = ([sys.executable, "-m", name] for name in ("data_prep", "ernie_m"))
    catalog = raw / "catalog.yaml"
    if not catalog.is_file():
        call([*prepare, "embed", "--out", raw])
    if not tokenizer.is_file():
        call([*prepare, "train-tokenizer", "--catalog", catalog, "--out", tokenizer, "--vocab_size", vocab_size])
    if not (data / "manifest.json").is_file():
        call([*prepare, "build", "--catalog", catalog, "--tokenizer", tokenizer, "--out", data])
    call([*prepare, "verify", "--data", data])
    launch = [Path(sys.executable).parent / "deepspeed", "--num_gpus", ranks, "--master_port", free_port()]
    call([*launch, "--module", TRAINING, "--recipe", recipe, "--data", data, "--run", run])
    if not (run / COMPLETE_FILE).is_file():
        fail(f"{run}: training did not finish; the same command goes on from its last checkpoint", 1)
    if not exported.is_dir():
        call([*ours, "export", "--run", run, "--to", exported])
    evaluate = [*ours, "evaluate"]
    call([*evaluate, "gain", "--run", run, "--output", folder / "gain.json"])
    for language in PAIRS:
        sides = [raw / "heldout" / f"{language}-en.{side}" for side in (language, "en")]
        files = ["--source", sides[0], "--target", sides[1], "--output", folder / f"retrieval.{language}-en.json"]
        call([*evaluate, "retrieval", "--model", exported, *files])
    summarise(folder, run, exported, time.monotonic() - started)


def call(command: list[object]) -> None:
    """Print a command and run it; a failure ends the demo with its exit code."""
    words = [str(word) for word in command]
    print(f"\n$ {shlex.join(words)}", flush=True)
    # One thread a rank: more would compete for the cores.
    environment = {"OMP_NUM_THREADS": "1", **os.environ} if "pretrain" in " ".join(words) else None
    code = run_below(words, environment)
    if code:
        fail(f"`{shlex.join(words)}` ended with exit code {code}", code)


def summarise(folder: Path, run: Path, exported: Path, seconds: float) -> None:
    """Print the table of results and the paths of what was made."""
    print("\nretrieval accuracy@1 on held-out pairs, best layer, mean of both ways")
    print(f"{'pair':<8}{'untrained':>11}{'trained':>9}{'ratio':>7}")
    totals = {"untrained": 0.0, "trained": 0.0}
    for language in PAIRS:
        result = read_json(folder / f"retrieval.{language}-en.json")
        best = {name: max(sum(both) / 2 for both in result[name].values()) for name in totals}
        totals = {name: totals[name] + best[name] / len(PAIRS) for name in totals}
        print(_line(f"{language}-en", best))
    print(_line("mean", totals))
    gain = read_json(folder / "gain.json")
    print(f"\ncross-lingual gain  {gain['gain']:+.3f} nats on {gain['num_predicted']:,} masks of held-out pairs")
    checkpoints = run / CHECKPOINTS_FOLDER
    checkpoint = checkpoints / (checkpoints / LATEST_FILE).read_text(encoding="utf-8").strip()
    made = {"shards": folder / "data", "checkpoint": checkpoint, "Hugging Face": exported, "loss curves": run / CURVES_FILE}
    for what, path in made.items():
        print(f"{what:<14}{path}")
    print(f"\ndone in {duration(seconds)}")


def _line(name: str, accuracy: dict[str, float]) -> str:
    ratio = accuracy["trained"] / max(accuracy["untrained"], 1e-9)
    return f"{name:<8}{100 * accuracy['untrained']:>10.1f}%{100 * accuracy['trained']:>8.1f}%{ratio:>6.1f}x"


def main(called: str = "ernie-m demo") -> None:
    """Run on the arguments of this process; `called` is what the user typed."""
    run_command(demo, called)


if __name__ == "__main__":
    main()
