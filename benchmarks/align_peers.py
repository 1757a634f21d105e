"""`ernie-m align` of a sentence encoder beside what one would try first: sentence-transformers, the same pairs and time.

    python benchmarks/align_peers.py --model e5 --pairs en-br.tsv --languages en,br --watch tatoeba --minutes 4 --to DIR

1. `ernie-m align --minutes M`: its own choices; exported with its own share of the start kept, and with none.
2. `SentenceTransformerTrainer`, MultipleNegativesRankingLoss, 64 pairs a step, no pair with repeats in a batch, rate 2e-5
   (its documentation's) and 5e-5 (layers' rate in ours), warm-up of a tenth, linear decay. A few steps are timed first, as
   ours are; the number of steps follows. It reads the pairs that ours trains on, and runs in the same precision.
3. All are measured by `ernie_m.aligning.measures` on what is watched: last layer, mean, plain and centred.

Given again, it goes on; prints the table, writes scores.json. Needs `pip install sentence-transformers datasets`.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from apart import OUT_OF_MEMORY, answer, apart

from ernie_m.aligning import measures
from ernie_m.base.command_line import run as run_command
from ernie_m.base.console import InputError
from ernie_m.base.files import read_json, write_json
from ernie_m.base.ranges import Range
from ernie_m.base.run_files import COMPLETE_FILE
from ernie_m.base.table import table
from ernie_m.corpus.any_vocabulary import open_vocabulary
from ernie_m.corpus.folder import CorpusFolder
from ernie_m.models.gain import some_examples

RATES = (2e-5, 5e-5)
BATCH, TIMED, WARMUP = 64, 6, 0.1
LONGEST = 256


@dataclass(frozen=True)
class Setup:
    """What a peer's process is told."""

    model: str
    data: str
    to: str
    minutes: float
    rate: float
    seed: int
    bf16: bool


def align_peers(
    *,
    model: str,
    pairs: str,
    watch: str,
    to: str,
    languages: str | None = None,
    minutes: Annotated[float, Range(above=0, most=10**4)] = 4.0,
    seeds: Annotated[int, Range(least=1, most=1000)] = 3,
    bf16: bool = False,
) -> None:
    """Align an encoder by `ernie-m align` and by sentence-transformers, on the same pairs for the same time; compare them.

    Args:
        model: folder of a sentence encoder
        pairs: as `ernie-m align --pairs`
        watch: as `ernie-m align --watch`
        to: folder for everything
        languages: as `ernie-m align --languages`
        minutes: of training, for each
        seeds: of each: 0, 1, ..
        bf16: train all in bf16 instead of fp32
    """
    out = Path(to).resolve()
    out.mkdir(parents=True, exist_ok=True)
    asked = {"model": model, "pairs": pairs, "watch": watch, "minutes": minutes, "bf16": bf16}
    if (out / "asked.json").is_file() and read_json(out / "asked.json") != asked:
        raise InputError(f"--to {to}: begun with other options; give another folder")
    write_json(out / "asked.json", asked)
    told = ["--languages", languages] if languages else []
    precision = [f"engine.precision={'bf16' if bf16 else 'fp32'}"]
    scores: dict[str, list[dict[str, Any]]] = {"before": [scored(out, "before", model, watch)]}
    for seed in range(seeds):
        ours = out / f"align_{seed}"
        words = ["--pairs", pairs, *told, "--watch", watch, "--minutes", minutes]
        call("align", "--model", model, *words, "--to", ours, f"seed={seed}", *precision)
        kept = out / f"align_{seed}_keep0"
        if not kept.is_dir():
            call("export", "--run", ours / "run", "--to", kept, "--keep", 0)
        found = {"align": ours / "model", "align, nothing kept": kept}
        for rate in RATES:
            folder = out / f"peer_{rate:.0e}_{seed}"
            peer(Setup(model, str(ours / "data"), str(folder), minutes, rate, seed, bf16))
            found[f"sentence-transformers, {rate:.0e}"] = folder
        for name, folder in found.items():
            scores.setdefault(name, []).append(scored(out, folder_name(out, folder), str(folder), watch))
    write_json(out / "scores.json", scores)
    print(table(*shown(scores)))


def folder_name(out: Path, folder: Path) -> str:
    """The name of a model's scores."""
    return "_".join(folder.relative_to(out).parts)


def call(*words: object) -> None:
    """Run a command of ernie-m."""
    subprocess.run([sys.executable, "-m", "ernie_m", *map(str, words)], check=True)


def peer(setup: Setup) -> None:
    """Train sentence-transformers' encoder in a process of its own, if that is not done yet."""
    folder = Path(setup.to)
    if not (folder / COMPLETE_FILE).is_file():
        result = apart(__file__, setup, "train")
        if result.returncode or OUT_OF_MEMORY in result.stdout.splitlines()[-1]:
            raise SystemExit(result.stderr[-2000:] or result.stdout)
        (folder / COMPLETE_FILE).write_text(result.stdout.splitlines()[-1])
        print(f"{folder.name}: {result.stdout.splitlines()[-1]}", flush=True)


def trained(setup: Setup) -> dict[str, Any]:
    """Fine-tune by sentence-transformers; its folder is Hugging Face's."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from sentence_transformers.training_args import BatchSamplers

    rows = Dataset.from_list([{"anchor": a, "positive": b} for a, b in training_pairs(setup.data)])

    def fitted(steps: int, folder: str) -> tuple[SentenceTransformer, float]:
        encoder = SentenceTransformer(setup.model, device="cpu" if not torch.cuda.is_available() else "cuda")
        encoder.max_seq_length = LONGEST
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            learning_rate=setup.rate,
            warmup_steps=round(WARMUP * steps),
            bf16=setup.bf16,
            use_cpu=not torch.cuda.is_available(),
            batch_sampler=BatchSamplers.NO_DUPLICATES,
            seed=setup.seed,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        loss = MultipleNegativesRankingLoss(encoder)
        started = time.perf_counter()
        SentenceTransformerTrainer(model=encoder, args=arguments, train_dataset=rows, loss=loss).train()
        return encoder, time.perf_counter() - started

    with tempfile.TemporaryDirectory() as aside:
        one, more = (fitted(count, aside)[1] for count in (1, TIMED))
    a_step = (more - one) / (TIMED - 1) if more > one else more / TIMED
    steps = max(1, int(60 * setup.minutes / a_step))
    encoder, seconds = fitted(steps, setup.to)
    transformer: Any = encoder[0]
    transformer.auto_model.save_pretrained(setup.to)
    transformer.tokenizer.save_pretrained(setup.to)
    return {"steps": steps, "seconds": seconds, "passes": steps * BATCH / len(rows)}


def training_pairs(data: str) -> list[tuple[str, str]]:
    """The pairs that ours trains on, as text."""
    folder = CorpusFolder(Path(data))
    vocabulary = open_vocabulary(folder.tokenizer_path)
    examples = some_examples(folder, folder.parallel(), limit=10**9)
    return [(vocabulary.decode(of.sentences[0].tolist()), vocabulary.decode(of.sentences[1].tolist())) for of in examples]


def scored(out: Path, name: str, model: str, watch: str) -> dict[str, Any]:
    """Watched set -> [accuracy, centred, cosine of what is unrelated] in the last layer; accuracies: means of both ways."""
    path = out / f"{name}.json"
    if not path.is_file():
        vocabulary = open_vocabulary(Path(model))
        sets = measures.watched_sets(Path(watch), vocabulary)
        found = measures.retrieval(model, sets, vocabulary.specials, "mean", LONGEST, name)
        of = {
            key: [statistics.mean(s["layers"][-1]), statistics.mean(s["centred"][-1]), s["unrelated"][-1]]
            for key, s in found.items()
        }
        write_json(path, of)
    return dict(read_json(path))


def shown(scores: dict[str, list[dict[str, Any]]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: accuracy, centred in brackets, mean and sample standard deviation over seeds."""
    names = list(scores["before"][0])
    rows = []
    for name, of_seeds in scores.items():
        cells = []
        for key in names:
            plain, centred = ([of[key][i] for of in of_seeds] for i in (0, 1))
            spread = f" ± {statistics.stdev(plain):.1f}" if len(plain) > 1 else ""
            cells.append(f"{statistics.mean(plain):.1f}{spread} ({statistics.mean(centred):.1f})")
        rows.append([name, *cells])
    return ["encoder", *names], rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        answer(sys.argv[2], {"train": trained}, Setup)
    else:
        run_command(align_peers, "align_peers.py")
