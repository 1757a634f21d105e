"""How far text alone carries: translation by AE and BT without any pair, from MLM and from nothing, at equal steps.

    python benchmarks/unsupervised.py --to DIR                                                  generated sentences
    python benchmarks/unsupervised.py --to DIR --pairs pairs.yaml --test heldout/fr-en --languages en,fr     real ones

1. Text of two languages of which no line translates another (`unsupervised_text`). One BPE of both.
2. An encoder by MMLM. From it, and from nothing, a translation model, trained by AE and BT.
3. BLEU (sacrebleu, raw text, greedy) of the test in both directions at each checkpoint, beside those of the source
   copied, and of the source word by word, by the nearest static embedding of MLM's. Round trip loss and share of copied
   tokens, which need no pairs: of the checkpoints that copy little the one with the best round trip is chosen.

Given again, it goes on where it was. Prints the table; scores.json and curves.png in DIR. Exits with 1 unless the chosen
checkpoint from MLM has 3 times the BLEU of copying in both directions.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import sacrebleu
import yaml
from unsupervised_text import Text, call, generated, without_pairs, word_by_word

from ernie_m.base.command_line import run as run_command
from ernie_m.base.console import InputError
from ernie_m.base.files import write_json, written_atomically
from ernie_m.base.plots import plotting, save_figure
from ernie_m.base.ranges import Range
from ernie_m.base.run_files import COMPLETE_FILE
from ernie_m.base.table import table
from ernie_m.corpus.texts import read_lines
from ernie_m.runs.best_checkpoint import best_of
from ernie_m.runs.checkpoint import committed_folders, step_of
from ernie_m.runs.metrics import COPIED, ROUND_TRIP, read_metrics

TIMES_COPYING = 3.0
STARTS = ("MLM", "nothing")
Steps = Annotated[int, Range(least=10, most=10**7)]


@dataclass(frozen=True)
class Budget:
    """Shape and length of all runs."""

    width: int
    layers: int
    rows: int
    mlm_steps: int
    steps: int
    checkpoints: int

    def recipe(self, steps: int, rows: dict[str, int], rate: float, every: int, seed: int, **more: Any) -> dict[str, Any]:
        """Training on these objectives at this peak rate."""
        shape = {"num_layers": self.layers, "num_heads": 4, "hidden_size": self.width, "ffn_size": 4 * self.width}
        rates = {"peak_learning_rate": rate, "beta2": 0.98, "warmup_steps": max(1, steps // 10), "schedule": "inverse_sqrt"}
        return {
            "stages": [{"steps": steps, "rows": rows}],
            "seed": seed,
            "model": shape
            | {"dropout": 0.0, "attention_dropout": 0.0, "initializer_range": 0.07, "language_embedding": "all"}
            | more.pop("model", {}),
            "data": {"sequence_length": 128, "alpha": 1.0, "positions": "restarting", "corruption": {"mask_rate": 0.3}},
            "batch": {"rows_per_step": self.rows, "micro_batch_rows": self.rows},
            "optimizer": rates,
            "engine": {"zero_stage": 0, "precision": "fp32"},
            "output": {"log_every": 50, "save_every": every, "keep_last": self.checkpoints + 1}
            | {"evaluate_every": every, "held_out_pairs": 200},
            **more,
        }


def unsupervised(
    *,
    to: str,
    pairs: str | None = None,
    test: str | None = None,
    languages: str = "en,fr",
    lines: Annotated[int, Range(least=100, most=10**7)] = 4000,
    vocab_size: Annotated[int, Range(least=300, most=10**6)] = 1500,
    mlm_steps: Steps = 1500,
    steps: Steps = 1500,
    width: Annotated[int, Range(least=8, most=2**14)] = 128,
    layers: Annotated[int, Range(least=1, most=100)] = 2,
    rows: Annotated[int, Range(least=1, most=10**6)] = 8,
    checkpoints: Annotated[int, Range(least=1, most=1000)] = 5,
    seeds: Annotated[int, Range(least=1, most=1000)] = 1,
    starts: str = ",".join(STARTS),
) -> None:
    """Prepare, train, translate, print.

    Args:
        to: folder for everything
        pairs: catalog of corpora of pairs of these languages, of which one side each is read; default: generated sentences
        test: with --pairs, a prefix: PREFIX.en and PREFIX.fr hold its sentences, line by line
        languages: two; of generated sentences one is en
        lines: of generated sentences of each language
        vocab_size: of the BPE
        mlm_steps: of the pre-training
        steps: of each translation model
        width: of all models
        layers: of the encoder, and of the decoder
        rows: of a step, each of 128 positions
        checkpoints: how often each translation model is scored
        seeds: of all runs: 0, 1, ..
        starts: of MLM and nothing, those that are trained
    """
    out, names, started = Path(to).resolve(), languages.split(","), time.monotonic()
    if (pairs is None) != (test is None):
        raise InputError("--pairs and --test: give both, or neither for generated sentences")
    if unknown := set(starts.split(",")) - set(STARTS):
        raise InputError(f"--starts {unknown.pop()}: expected {' or '.join(STARTS)}, or both with a comma between")
    text = (
        without_pairs(Path(pairs), Path(str(test)), out / "text")
        if pairs
        else generated(names, out / "raw", out / "text", lines)
    )
    data = shards(out, text, vocab_size)
    budget = Budget(width, layers, rows, mlm_steps, steps, checkpoints)
    found: dict[str, Any] = {}
    for seed in range(seeds):
        mlm = train(out, f"mlm_{seed}", data, budget.recipe(mlm_steps, {"MMLM": 1}, 2e-3, max(1, mlm_steps // 2), seed))
        for start in starts.split(","):
            found[f"{start}_{seed}"] = translation(out, data, budget, text, seed, mlm if start == "MLM" else None)
        for direction in text.directions:
            found.setdefault("copying", {})["-".join(direction)] = score(text, direction, side(text, direction[0]))
            found.setdefault(f"word by word_{seed}", {})["-".join(direction)] = by_words(out, mlm, text, direction)
    write_json(out / "scores.json", found)
    print(table(*shown(found, text)))
    draw(found, text, out / "curves.png")
    print(f"{time.monotonic() - started:.0f} seconds; written: {out / 'scores.json'}, {out / 'curves.png'}")
    raise SystemExit(0 if all(is_three_times(found, text, seed) for seed in range(seeds)) else 1)


def shards(out: Path, text: Text, vocab_size: int) -> Path:
    """A BPE, and the text in its pieces."""
    data, tokenizer = out / "data", out / "bpe.model"
    if not tokenizer.is_file():
        model = ("--model_type", "bpe", "--vocab_size", vocab_size)
        call("data_prep", "train-tokenizer", "--catalog", text.catalog, "--out", tokenizer, *model)
    if not (data / "manifest.json").is_file():
        call("data_prep", "build", "--catalog", text.catalog, "--tokenizer", tokenizer, "--out", data)
    return data


def train(out: Path, name: str, data: Path, recipe: dict[str, Any]) -> Path:
    """A finished run of this recipe."""
    path, folder = out / f"{name}.yaml", out / name
    if not (folder / COMPLETE_FILE).is_file():
        with written_atomically(path) as aside:
            aside.write_text(yaml.safe_dump(recipe))
        print(f"\n== {name}", flush=True)
        call("ernie_m", "pretrain", "--recipe", path, "--data", data, "--run", folder)
    return folder


def translation(out: Path, data: Path, budget: Budget, text: Text, seed: int, mlm: Path | None) -> list[dict[str, Any]]:
    """What a translation model from there has at each checkpoint: step, BLEU of each direction, round trip, copied."""
    weights = {"AE": f"0:1, {budget.steps}:0.1"}
    starts = {"init_encoder": str(mlm), "init_decoder": str(mlm)} if mlm else {}
    more = {"model": {"decoder": "shared"}, "objective_weights": weights, **starts}
    every = max(1, budget.steps // budget.checkpoints)
    recipe = budget.recipe(budget.steps, {"AE": 1, "BT": 1}, 1e-3, every, seed, **more)
    folder = train(out, f"{'MLM' if mlm else 'nothing'}_{seed}", data, recipe)
    measured = {line["step"]: line for line in read_metrics(folder) if ROUND_TRIP in line}
    points = []
    for checkpoint in sorted(committed_folders(folder / "checkpoints"), key=step_of):
        step = step_of(checkpoint)
        if step in measured:
            bleu = {"-".join(d): translated(out, folder, checkpoint.name, text, d) for d in text.directions}
            points.append({"step": step, **bleu, ROUND_TRIP: measured[step][ROUND_TRIP], COPIED: measured[step][COPIED]})
    return points


def translated(out: Path, folder: Path, checkpoint: str, text: Text, direction: tuple[str, str]) -> float:
    """BLEU of a checkpoint's translations."""
    source, target = direction
    written = out / f"{folder.name}.{checkpoint}.{source}-{target}.txt"
    if not written.is_file():
        where = ("--model", folder, "--checkpoint", checkpoint, "--from", source, "--to", target)
        call("ernie_m", "translate", *where, "--input", f"{text.test}.{source}", "--output", written)
    return score(text, direction, read_lines(written))


def by_words(out: Path, mlm: Path, text: Text, direction: tuple[str, str]) -> float:
    """BLEU of the source, word by word."""
    folder = out / f"{mlm.name}.hugging_face"
    if not folder.is_dir():
        call("ernie_m", "export", "--run", mlm, "--to", folder)
    return score(text, direction, word_by_word(folder, text, direction, side(text, direction[0])))


def side(text: Text, language: str) -> list[str]:
    """The test's lines in this language."""
    return read_lines(Path(f"{text.test}.{language}"))


def score(text: Text, direction: tuple[str, str], found: list[str]) -> float:
    """BLEU of lines in the target language."""
    return float(sacrebleu.corpus_bleu(found, [side(text, direction[1])], force=True).score)  # word by word has spaces


def chosen(points: list[dict[str, Any]]) -> dict[str, Any]:
    """What `--checkpoint best` takes: the best round trip among those that copy little."""
    return next(point for point in points if point["step"] == best_of(points, ROUND_TRIP))


def is_three_times(found: dict[str, Any], text: Text, seed: int) -> bool:
    """Whether the one from MLM beats copying by so much."""
    best = chosen(found[f"MLM_{seed}"]) if f"MLM_{seed}" in found else {}
    return all(best.get("-".join(d), 0) >= TIMES_COPYING * found["copying"]["-".join(d)] for d in text.directions)


def shown(found: dict[str, Any], text: Text) -> tuple[list[str], list[list[str]]]:
    """A table of all that was scored; the chosen checkpoint of each run has a star."""
    directions = ["-".join(direction) for direction in text.directions]
    rows = []
    for name, values in found.items():
        for point in values if isinstance(values, list) else [values]:
            star = " *" if isinstance(values, list) and point is chosen(values) else ""
            told = [f"step {point['step']}{star}"] if "step" in point else [""]
            own = [f"{point[ROUND_TRIP]:.3f}", f"{100 * point[COPIED]:.0f} %"] if "step" in point else ["", ""]
            rows.append([name, *told, *(f"{point[direction]:.1f}" for direction in directions), *own])
    return ["from", "", *(f"BLEU {direction}" for direction in directions), "round trip", "copied"], rows


def draw(found: dict[str, Any], text: Text, path: Path) -> None:
    """BLEU over steps, a panel a direction."""
    pyplot = plotting()
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained", sharey=True)
    colours = {"MLM": "tab:blue", "nothing": "tab:grey", "copying": "black", "word by word": "tab:orange"}
    for axis, direction in zip(axes, ("-".join(direction) for direction in text.directions), strict=True):
        for name, values in found.items():
            start, _, seed = name.partition("_")
            label = start if seed in ("", "0") else None
            if isinstance(values, list):
                steps, scores = [point["step"] for point in values], [point[direction] for point in values]
                axis.plot(steps, scores, color=colours[start], label=label and f"from {start}", marker=".")
            else:
                axis.axhline(values[direction], color=colours[start], label=label, linestyle=":")
        axis.set(xlabel="steps of AE and BT", title=direction)
    axes[0].set_ylabel("BLEU")
    axes[0].legend()
    save_figure(figure, path)


if __name__ == "__main__":
    run_command(unsupervised, "unsupervised.py")
