"""Is a translation model better when encoder and decoder start from MLM? Real pairs, from MLM and from nothing, equal steps.

    python benchmarks/translation_starts.py --pairs pairs.yaml --tests heldout=heldout/fr-en,tatoeba=tatoeba/fr-en --to DIR

1. pairs.yaml is a catalog of corpora of pairs of two languages. Their sides are text too; one BPE; shards.
2. Recipe xlm_mlm, small, on the sides: one run.
3. Recipe xlm_mt of the same shape, in both directions, for each seed: from that run, and from nothing.
4. BLEU and chrF (sacrebleu, raw text, greedy) of each test in both directions: files PREFIX.LANGUAGE, a sentence a line.

Given again, it goes on where it was; a run or a score is done once. Prints the table; scores.json and curves.png in DIR.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import yaml

from ernie_m.base.command_line import run as run_command
from ernie_m.base.config import read_yaml
from ernie_m.base.console import InputError
from ernie_m.base.files import write_json
from ernie_m.base.plots import plotting, save_figure
from ernie_m.base.ranges import Range
from ernie_m.base.run_files import COMPLETE_FILE
from ernie_m.base.table import table
from ernie_m.commands.evaluate import Commands
from ernie_m.runs.metrics import read_metrics

STARTS = ("nothing", "MLM")
SMALL = (
    *("model.num_layers=2", "model.hidden_size=128", "model.num_heads=4", "model.ffn_size=512"),
    *("model.initializer_range=0.07", "model.dropout=0", "model.attention_dropout=0", "data.corruption.mask_rate=0.3"),
    *("batch.rows_per_step=4", "batch.micro_batch_rows=4", "optimizer.peak_learning_rate=2e-3"),
    *("engine.zero_stage=0", "engine.precision=fp32", "output.log_every=50"),
)
HELD_OUT_LOSS, EVALUATIONS = "held_out_loss/MT", 5
Scores = dict[str, dict[str, Any]]


def translation_starts(
    *,
    pairs: str,
    tests: str,
    to: str = "translation_starts",
    mlm_steps: Annotated[int, Range(least=20, most=10**7)] = 1500,
    steps: Annotated[int, Range(least=20, most=10**7)] = 600,
    seeds: Annotated[int, Range(least=1, most=1000)] = 3,
    vocab_size: Annotated[int, Range(least=300, most=10**6)] = 4000,
) -> None:
    """Train all, score all, print the table.

    Args:
        pairs: catalog (YAML) of corpora of pairs of the same two languages
        tests: name=PREFIX, several with commas between; PREFIX.fr and PREFIX.en hold a test's sentences, line by line
        to: folder for data, runs and scores
        mlm_steps: of the pre-training, 4 rows of 256 positions each
        steps: of each translation model, 4 rows of 128 positions of sources and 128 of targets each
        seeds: of the translation models: 0, 1, ..; the pre-training has seed 0
        vocab_size: of the BPE
    """
    folder = Path(to).resolve()
    corpora = catalogued(Path(pairs))
    languages = sorted(corpora[0]["languages"])
    files = tests_of(tests, languages)
    data = prepared(folder, Path(pairs), corpora, vocab_size)
    mlm = trained(folder / "mlm", "xlm_mlm", data, f"[{{steps: {mlm_steps}, rows: {{MMLM: 1}}}}]", mlm_steps)
    scores: Scores = {}
    for seed in range(seeds):
        for start in STARTS:
            more = [f"seed={seed}", *([f"init_encoder={mlm}", f"init_decoder={mlm}"] if start == "MLM" else [])]
            run = folder / f"mt_{start}_{seed}"
            trained(run, "xlm_mt", data, f"[{{steps: {steps}, rows: {{MT: 1}}}}]", steps, *more)
            for name, prefix in files.items():
                for direction in (languages, languages[::-1]):
                    scores |= scored(run, name, prefix, direction)
            write_json(folder / "scores.json", scores)
    draw(folder, seeds)
    for name in files:
        for a, b in (languages, languages[::-1]):
            print(f"\n{name}, {a}-{b}")
            print(table(["start", "BLEU", "chrF", "BLEU a seed"], rows_of(scores, f"{name}.{a}-{b}", seeds)))


def catalogued(pairs: Path) -> list[dict[str, Any]]:
    """The catalog's corpora, their paths made absolute: the data's catalog lies elsewhere."""
    if not pairs.is_file():
        raise InputError(f"--pairs {pairs}: no such file; expected a catalog (YAML) of corpora of pairs")
    corpora = read_yaml(pairs).get("corpora") or []
    if len({tuple(sorted(corpus.get("languages", ()))) for corpus in corpora}) != 1 or "languages" not in corpora[0]:
        raise InputError(f"{pairs}: expected corpora of pairs, all of the same two languages")
    return [corpus | {"path": str((pairs.parent / corpus["path"]).resolve())} for corpus in corpora]


def tests_of(tests: str, languages: Iterable[str]) -> dict[str, Path]:
    """Prefix of the two files of each test, which are there."""
    found = {}
    for test in tests.split(","):
        name, _, prefix = test.partition("=")
        for language in languages:
            if not Path(f"{prefix}.{language}").is_file():
                raise InputError(f"--tests {test}: no file {prefix}.{language}; expected name=PREFIX, PREFIX.LANGUAGE")
        found[name] = Path(prefix).resolve()
    return found


def call(*arguments: object) -> None:
    """A command of ours; its output goes on."""
    done = subprocess.run([sys.executable, "-m", *map(str, arguments)], env=os.environ | {"PYTHONUNBUFFERED": "1"})
    if done.returncode:
        raise SystemExit(done.returncode)


def prepared(folder: Path, pairs: Path, corpora: list[dict[str, Any]], vocab_size: int) -> Path:
    """Shards of the pairs and of their sides as text, pairs held out by the catalog left out of both."""
    sides, catalog, tokenizer, data = (folder / name for name in ("sides", "catalog.yaml", "bpe.model", "data"))
    folder.mkdir(parents=True, exist_ok=True)
    if not catalog.is_file():
        call("data_prep.sides", "--catalog", pairs, "--to", sides, "--overwrite")
        text = [
            {"name": f"{corpus['name']}.{language}", "format": "cc100", "language": language}
            | {"path": str(sides / f"{corpus['name']}.{language}.txt")}
            for corpus in corpora
            for language in corpus["languages"]
        ]
        catalog.write_text(yaml.safe_dump({"corpora": text + corpora}), encoding="utf-8")
    if not tokenizer.is_file():
        bpe = ("--model_type", "bpe", "--vocab_size", vocab_size)
        call("data_prep", "train-tokenizer", "--catalog", catalog, "--out", tokenizer, *bpe)
    if not (data / "manifest.json").is_file():
        call("data_prep", "build", "--catalog", catalog, "--tokenizer", tokenizer, "--out", data)
    return data


def trained(run: Path, recipe: str, data: Path, stages: str, steps: int, *more: str) -> Path:
    """A finished run of this recipe, small."""
    if not (run / COMPLETE_FILE).is_file():
        print(f"\n== {run.name}: {recipe}, {steps} steps", flush=True)
        every = max(1, steps // EVALUATIONS)
        lengths = (f"stages={stages}", f"optimizer.warmup_steps={max(1, steps // 10)}")
        kept = (f"output.save_every={steps}", f"output.evaluate_every={every}", "output.held_out_pairs=200")
        where = ("--recipe", recipe, "--data", data, "--run", run)
        call("ernie_m", "pretrain", *where, *SMALL, *lengths, *kept, *more)
    return run


def scored(run: Path, name: str, prefix: Path, direction: list[str]) -> Scores:
    """What `ernie-m evaluate translation` finds, under run.test.direction."""
    a, b = direction
    key = f"{run.name}.{name}.{a}-{b}"
    output = run.parent / f"{key}.json"
    if not output.is_file():
        print(f"== {key}", flush=True)
        sides = {"source": f"{prefix}.{a}", "reference": f"{prefix}.{b}", "from_": a, "to": b}
        Commands().translation(model=str(run), output=str(output), **sides)
    return {key: json.loads(output.read_text(encoding="utf-8"))}


def rows_of(scores: Scores, which: str, seeds: int) -> list[list[str]]:
    """Mean ± sample standard deviation over the seeds for each start, beside copying the source."""
    copied = scores[f"mt_{STARTS[0]}_0.{which}"]["source copied"]
    rows = [["source copied", f"{copied['bleu']:.1f}", f"{copied['chrf']:.1f}", ""]]
    for start in STARTS:
        own = [scores[f"mt_{start}_{seed}.{which}"]["translated"] for seed in range(seeds)]
        means = [spread([score[measure] for score in own]) for measure in ("bleu", "chrf")]
        rows.append([start, *means, ", ".join(f"{score['bleu']:.1f}" for score in own)])
    return rows


def spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def draw(folder: Path, seeds: int) -> None:
    """Held-out loss over steps, a line a run."""
    pyplot = plotting()
    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    for start, colour in zip(STARTS, ("tab:grey", "tab:blue"), strict=True):
        for seed in range(seeds):
            lines = [line for line in read_metrics(folder / f"mt_{start}_{seed}") if HELD_OUT_LOSS in line]
            label = f"from {start}" if seed == 0 else None
            steps, losses = [line["step"] for line in lines], [line[HELD_OUT_LOSS] for line in lines]
            axes.plot(steps, losses, color=colour, label=label, marker=".")
    axes.set(xlabel="steps of translation", ylabel="held-out loss, nats a token")
    axes.legend()
    save_figure(figure, folder / "curves.png")


if __name__ == "__main__":
    run_command(translation_starts, "translation_starts.py")
