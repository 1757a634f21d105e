"""Do 1.16 million shards open, and mix for training, in less than 2 seconds and 200 MB?

    python benchmarks/manifest_scale.py [--shards_per_corpus 10000]

1. Writes manifest.json and shards.arrow of 116 made-up corpora (96 languages, 20 pairs) into a temporary folder, through
   the same code as a build; no shard files.
2. Opens that folder in a fresh process and builds the data order of a recipe with all five objectives, as training does.
3. Prints seconds (from the start of Python, imports included) and peak resident memory (of the whole process, Python,
   numpy and pyarrow included). Exits with 1 when one is over its budget.

Linux alone: the peak is the kernel's VmHWM.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ernie_m.base.special_tokens import Specials
from ernie_m.corpus.folder import HELD_OUT, TRAIN, CorpusEntry, CorpusFolder, Manifest, ShardEntry, shard_file
from ernie_m.rows.dataloader import DataConfig, PretrainingData
from ernie_m.rows.objective import GIVEN
from ernie_m.rows.objectives import OBJECTIVES
from ernie_m.rows.schedule import Schedule, StageConfig

NUM_LANGUAGES, NUM_PAIRS = 96, 20
MOST_SECONDS, MOST_MEGABYTES, MOST_SECONDS_OF_WRITING = 2.0, 200.0, 10.0
HELD_OUT_EVERY = 10  # shards of a pair


def main() -> None:
    """Write, open, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards_per_corpus", type=int, default=10_000)
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)  # what the fresh process does
    options = parser.parse_args()
    if options.open:
        open_folder(options.open)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = write_folder(folder, options.shards_per_corpus)
        table = (folder / "shards.arrow").stat().st_size
        print(f"{(NUM_LANGUAGES + NUM_PAIRS) * options.shards_per_corpus:,} shards, table of {table / 1e6:.1f} MB")
        started = time.perf_counter()
        command = [sys.executable, __file__, "--open", str(folder)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds = time.perf_counter() - started
    found = json.loads(output)
    print(f"open, order and mixture of {found['streams']} streams: {found['opened']:.2f} s + {found['ordered']:.2f} s")
    verdicts = [
        verdict("writing", written, MOST_SECONDS_OF_WRITING, "s"),
        verdict("whole process", seconds, MOST_SECONDS, "s"),
        verdict("peak resident memory", found["peak_megabytes"], MOST_MEGABYTES, "MB"),
    ]
    raise SystemExit(0 if all(verdicts) else 1)


def verdict(what: str, value: float, most: float, unit: str) -> bool:
    """Print a figure beside its budget; whether it keeps it."""
    print(f"{what}: {value:.2f} {unit}, budget {most:g} {unit}: {'kept' if value < most else 'MISSED'}")
    return value < most


def write_folder(folder: Path, shards_per_corpus: int) -> float:
    """A manifest and a table that a build of that size would have left; seconds that it took, without making the entries."""
    rng = np.random.default_rng(0)
    languages = [f"l{number:02}" for number in range(NUM_LANGUAGES)]
    chosen = [(language,) for language in languages]
    chosen += [tuple(sorted(rng.choice(languages, 2, replace=False).tolist())) for _ in range(NUM_PAIRS)]
    corpora, seconds = [], 0.0
    for number, codes in enumerate(chosen):
        name = f"c{number:03}.{'-'.join(codes)}"
        shards = made_shards(name, len(codes), shards_per_corpus, rng)
        started = time.perf_counter()
        corpora.append(CorpusEntry(name, "made", codes, shards_per_corpus * 10**6, {}, shards))
        seconds += time.perf_counter() - started
    tokenizer = folder / "sentencepiece.bpe.model"
    tokenizer.write_bytes(bytes(5_000_000))  # as large as XLM-R's: it is hashed on opening
    digest = hashlib.sha256(tokenizer.read_bytes()).hexdigest()
    started = time.perf_counter()
    Manifest(tokenizer.name, digest, Specials.xlm_r(250_002), tuple(corpora)).write(folder)
    return seconds + time.perf_counter() - started


def made_shards(corpus: str, num_languages: int, num_shards: int, rng: np.random.Generator) -> list[ShardEntry]:
    """Shards of up to 64 Mi tokens, of lines of 25 tokens; of pairs some are held out."""
    entries = []
    for number, tokens in enumerate(rng.integers(2**22, 2**26, (num_shards, num_languages)).tolist()):
        rows, digest = tokens[0] // 25, hashlib.sha256(f"{corpus} {number}".encode()).hexdigest()
        split = HELD_OUT if num_languages == 2 and number >= num_shards - num_shards // HELD_OUT_EVERY else TRAIN
        documents = rows // 30 if num_languages == 1 else 0
        size = 4 * (sum(tokens) + rows * num_languages)
        entries.append(ShardEntry(shard_file(corpus, split, number), split, rows, tuple(tokens), size, digest, documents))
    return entries


def open_folder(folder: Path) -> None:
    """What the fresh process does: open, build the data order, say how long each took and how much memory was the most."""
    started = time.perf_counter()
    corpus = CorpusFolder(folder)
    opened = time.perf_counter() - started
    stage = StageConfig(
        steps=1_000_000, rows={name: 1.0 for name, objective in OBJECTIVES.items() if objective.source == GIVEN}
    )
    data = PretrainingData(corpus, DataConfig(), Schedule((stage,), rows_per_step=2048), seed=0)
    ordered = time.perf_counter() - started - opened
    assert "torch" not in sys.modules
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    megabytes = int(peak.split()[1]) * 1024 / 1e6
    figures = {"opened": opened, "ordered": ordered, "peak_megabytes": megabytes, "streams": len(data.metrics)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
