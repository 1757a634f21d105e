"""How far text alone carries: translation by AE and BT without any pair, on generated text, beside copying the source.

    python benchmarks/unsupervised.py --out FOLDER [--languages en,fr] [--lines 4000] [--mlm_steps 1500] [--steps 2000]

1. Sentences of the embedded corpus in two languages, of different facts: none translates another. One BPE of both. Pairs are
   held out whole.
2. An encoder by MMLM; from it both sides of a translation model, trained by AE and BT.
3. BLEU (sacrebleu, raw text) of held-out pairs in both directions at each checkpoint, beside BLEU of the source itself;
   round trip loss and share of copied tokens, which the run measures without pairs.

Goes on where it was stopped. Exits with 1 unless the best checkpoint has 3 times the BLEU of copying in both directions.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import sacrebleu
import yaml

from ernie_m.base.table import table
from ernie_m.runs.checkpoint import committed_folders, step_of
from ernie_m.runs.metrics import COPIED, ROUND_TRIP, read_metrics

TIMES_COPYING, CHECKPOINTS = 3.0, 5
MODEL = {"num_layers": 3, "num_heads": 4, "dropout": 0.1, "attention_dropout": 0.1, "language_embedding": "all"}


def run(*command: object) -> None:
    """A command of ours; its output goes on, and its failure is ours."""
    subprocess.run([sys.executable, "-m", *map(str, command)], check=True)


def prepare(out: Path, languages: list[str], lines: int) -> Path:
    """Shards of text in these languages, from sentences of different facts."""
    raw, data, tokenizer = out / "raw", out / "data", out / "bpe.model"
    if not (raw / "catalog.yaml").is_file():
        run("data_prep", "embed", "--out", raw, "--lines", lines, "--pairs", 200, "--held_out", 200)
    catalog = yaml.safe_load((raw / "catalog.yaml").read_text())
    own = [corpus for corpus in catalog["corpora"] if corpus.get("language") in languages]
    own += [corpus | {"held_out": 1} for corpus in catalog["corpora"] if {*corpus.get("languages", ())} == {*languages}]
    (raw / "text.yaml").write_text(yaml.safe_dump({"corpora": own}))
    if not tokenizer.is_file():
        model = ("--model_type", "bpe", "--vocab_size", 1500)
        run("data_prep", "train-tokenizer", "--catalog", raw / "text.yaml", "--out", tokenizer, *model)
    if not (data / "manifest.json").is_file():
        run("data_prep", "build", "--catalog", raw / "text.yaml", "--tokenizer", tokenizer, "--out", data)
    return data


def train(out: Path, name: str, data: Path, recipe: dict[str, Any]) -> Path:
    """A finished run of this recipe."""
    path, folder = out / f"{name}.yaml", out / name
    path.write_text(yaml.safe_dump(recipe))
    run("ernie_m", "pretrain", "--recipe", path, "--data", data, "--run", folder)
    return folder


def recipe(width: int, seed: int, rows: dict[str, int], steps: int, **more: Any) -> dict[str, Any]:
    """Training on these objectives."""
    shape = MODEL | {"hidden_size": width, "ffn_size": 4 * width} | more.pop("model", {})
    every = max(1, steps // CHECKPOINTS)
    return {
        "stages": [{"steps": steps, "rows": rows}],
        "seed": seed,
        "model": shape,
        "data": {"sequence_length": 128, "alpha": 0.7, "positions": "restarting"},
        "batch": {"rows_per_step": 16, "micro_batch_rows": 16},
        "optimizer": {"peak_learning_rate": 1e-3, "warmup_steps": max(1, steps // 20), "schedule": "inverse_sqrt"},
        "engine": {"zero_stage": 0, "precision": "fp32"},
        "output": {"log_every": 50, "save_every": every, "keep_last": CHECKPOINTS + 1, "evaluate_every": every},
        **more,
    }


def bleu(run_folder: Path, checkpoint: str, direction: tuple[str, str], raw: Path, out: Path) -> float:
    """BLEU of the held-out pairs in one direction."""
    source, target = direction
    pair = "-".join([*sorted({*direction} - {"en"}), "en"])
    written = out / f"{checkpoint}.{source}-{target}"
    if not written.is_file():
        files = ("--input", raw / "heldout" / f"{pair}.{source}", "--output", written)
        where = ("--model", run_folder, "--checkpoint", checkpoint, "--from", source, "--to", target)
        run("ernie_m", "translate", *where, *files)
    return score(written, raw / "heldout" / f"{pair}.{target}")


def score(found: Path, reference: Path) -> float:
    """BLEU of two files of lines."""
    hypotheses, references = (path.read_text(encoding="utf-8").splitlines() for path in (found, reference))
    return float(sacrebleu.corpus_bleu(hypotheses, [references]).score)


def main() -> None:
    """Prepare, train, translate, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--languages", default="en,fr", help="two, one of them en")
    for name, default in (("lines", 4000), ("mlm_steps", 1500), ("steps", 2000), ("width", 128), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    out, languages, started = options.out, options.languages.split(","), time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    data, raw = prepare(out, languages, options.lines), out / "raw"
    mlm = train(out, "mlm", data, recipe(options.width, options.seed, {"MMLM": 1}, options.mlm_steps))
    weights = {"AE": f"0:1, {options.steps}:0.1"}
    starts = {"init_encoder": str(mlm), "init_decoder": str(mlm)}
    more = {"model": {"decoder": "shared"}, "objective_weights": weights, **starts}
    translation = train(
        out, "translation", data, recipe(options.width, options.seed, {"AE": 1, "BT": 1}, options.steps, **more)
    )
    directions = [(languages[0], languages[1]), (languages[1], languages[0])]
    pair = "-".join([*sorted({*languages} - {"en"}), "en"])
    copied = [score(raw / "heldout" / f"{pair}.{a}", raw / "heldout" / f"{pair}.{b}") for a, b in directions]
    measured = {line["step"]: line for line in read_metrics(translation) if ROUND_TRIP in line}
    rows, best = [["copying", *(f"{value:.1f}" for value in copied), "", ""]], [0.0, 0.0]
    for folder in sorted(committed_folders(translation / "checkpoints"), key=step_of):
        scores = [bleu(translation, folder.name, direction, raw, out) for direction in directions]
        line = measured[step_of(folder)]
        own = f"{line[ROUND_TRIP]:.3f}", f"{100 * line[COPIED]:.0f} %"
        rows.append([f"step {step_of(folder)}", *(f"{value:.1f}" for value in scores), *own])
        best = max(best, scores, key=min)
    print(table(["", *(f"BLEU {a}-{b}" for a, b in directions), "round trip", "copied"], rows))
    print(f"{time.monotonic() - started:.0f} seconds")
    raise SystemExit(0 if all(own >= TIMES_COPYING * value for own, value in zip(best, copied, strict=True)) else 1)


if __name__ == "__main__":
    main()
