"""What benchmarks/data_prep.py compares with, each in a process of its own: the bare loop, `datasets`, datatrove.

    python -m benchmarks.data_prep_peers datatrove TOKENIZER CATALOG

The last line of the output: MB of text a second.
"""

from __future__ import annotations

import json
import lzma
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece

ROOT = Path(__file__).resolve().parents[1]


def lines_of(catalog: Path) -> tuple[list[str], int]:
    """The lines that are not empty, and the bytes of text."""
    contents = [lzma.decompress(path.read_bytes()) for path in sorted(catalog.parent.glob("*.txt.xz"))]
    return [line for content in contents for line in content.decode().split("\n") if line], sum(map(len, contents))


def rate_of(work: Callable[[], object], size: int) -> float:
    """MB/s of `work`."""
    started = time.perf_counter()
    work()
    return size / (time.perf_counter() - started) / 1e6


def bare(tokenizer: Path, catalog: Path) -> float:
    """`for line in lines: processor.encode(line)`."""
    lines, size = lines_of(catalog)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
    encode = processor.encode
    return rate_of(lambda: [None for line in lines if encode(line) is None], size)


def with_datasets(tokenizer: Path, catalog: Path) -> float:
    """`datasets.map` with XLM-R's fast tokenizer, batched, to Arrow files; reading the same .txt.xz files."""
    import datasets
    from transformers import XLMRobertaTokenizerFast

    _, size = lines_of(catalog)
    fast = XLMRobertaTokenizerFast.from_pretrained(tokenizer.parent)
    files, folder = sorted(map(str, catalog.parent.glob("*.txt.xz"))), catalog.parent / "datasets"
    shutil.rmtree(folder, ignore_errors=True)

    def work() -> None:
        raw = datasets.load_dataset("text", data_files=files, split="train", cache_dir=str(folder / "cache"))
        encoded = raw.map(
            lambda batch: {"input_ids": fast(batch["text"], add_special_tokens=False)["input_ids"]},
            batched=True,
            remove_columns=["text"],
        )
        encoded.save_to_disk(str(folder / "out"))

    return rate_of(work, size)


def with_datatrove(tokenizer: Path, catalog: Path) -> float:
    """datatrove's DocumentTokenizer on the same lines, a document a line."""
    return by_datatrove(tokenizer, catalog, [])


def with_datatrove_filters(tokenizer: Path, catalog: Path) -> float:
    """The same behind filters of the measures of `filters: strict`, all lines taken for English ones."""
    import pycld2
    from datatrove.pipeline.filters import LambdaFilter
    from fontTools.unicodedata import script

    from data_prep.filters.measures import MARKUP, repeated_share

    def is_english(text: str) -> bool:
        is_sure, _, found = pycld2.detect(text[:100], hintLanguage="en")
        return len(text) < 30 or not is_sure or sum(share for _, code, share, _ in found if code == "en") >= 50

    def is_latin(text: str) -> bool:
        visible = [letter for letter in text if not letter.isspace()]
        return sum(script(letter) == "Latn" for letter in visible) >= 0.5 * len(visible)

    def is_text(text: str) -> bool:
        return sum(found.end() - found.start() for found in MARKUP.finditer(text)) <= 0.2 * len(text)

    def is_varied(text: str) -> bool:
        return len(text) < 40 or repeated_share(text) <= 0.3

    tests = (is_latin, is_text, is_varied, is_english)
    return by_datatrove(
        tokenizer, catalog, [LambdaFilter(lambda document, test=test: test(document.text)) for test in tests]
    )


def by_datatrove(tokenizer: Path, catalog: Path, filters: list[Any]) -> float:
    """MB/s of a pipeline of datatrove's: lines, filters, tokenizer."""
    from datatrove.data import Document
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.tokens import DocumentTokenizer
    from transformers import XLMRobertaTokenizerFast

    lines, size = lines_of(catalog)
    folder = catalog.parent / "datatrove"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    fast = XLMRobertaTokenizerFast.from_pretrained(tokenizer.parent)
    fast.backend_tokenizer.save(str(folder / "tokenizer.json"))
    documents = (Document(text=line, id=str(number)) for number, line in enumerate(lines))
    pipeline = [
        lambda data, rank, world_size: documents,
        *filters,
        DocumentTokenizer(
            output_folder=str(folder / "out"),
            tokenizer_name_or_path=str(folder / "tokenizer.json"),
            eos_token=None,
            shuffle_documents=False,
            save_filename="data",
        ),
    ]
    executor = LocalPipelineExecutor(pipeline=pipeline, logging_dir=str(folder / "logs"), tasks=1, workers=1)
    return rate_of(executor.run, size)


def with_datatrove_minhash(tokenizer: Path, catalog: Path) -> float:
    """datatrove's four steps of MinHash on the same lines, to lines without near duplicates; by the processor's time.

    Its defaults are ours: 5 words, 14 bands of 8 minima. Words are what stands between white space, which is faster than the
    splitter of English that it would take.
    """
    from datatrove.data import Document
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )

    class Words:
        """Its interface of a splitter."""

        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

    lines, size = lines_of(catalog)
    folder = catalog.parent / "minhash"
    shutil.rmtree(folder, ignore_errors=True)

    def documents(data: Any, rank: int, world_size: int) -> Any:
        return (Document(text=line, id=str(number)) for number, line in enumerate(lines))

    signature = MinhashDedupSignature(str(folder / "signatures"), language=UNSPLIT)
    signature.word_tokenizer = Words()
    kept: list[str] = []
    steps: list[tuple[list[Any], int]] = [
        ([documents, signature], 1),
        ([MinhashDedupBuckets(str(folder / "signatures"), str(folder / "buckets"))], signature.config.num_buckets),
        ([MinhashDedupCluster(str(folder / "buckets"), str(folder / "remove"))], 1),
        ([documents, MinhashDedupFilter(str(folder / "remove")), lambda data, rank, world_size: gather(data, kept)], 1),
    ]
    before = time.process_time()
    for number, (pipeline, tasks) in enumerate(steps):
        logs = str(folder / "logs" / str(number))
        LocalPipelineExecutor(pipeline=pipeline, logging_dir=logs, tasks=tasks, workers=1).run()
    seconds = time.process_time() - before
    print(f"datatrove keeps {len(kept):,} of {len(lines):,} lines", file=sys.stderr)
    return size / seconds / 1e6


def gather(data: Any, kept: list[str]) -> Any:
    """Notes the texts that come by."""
    for document in data:
        kept.append(document.text)
        yield document


UNSPLIT = "grt_Beng"  # a language for which datatrove splits at white space, so that it asks for no further package


MEASUREMENTS: dict[str, Callable[..., float]] = {
    "bare": bare,
    "datasets": with_datasets,
    "datatrove": with_datatrove,
    "datatrove with filters": with_datatrove_filters,
    "datatrove's MinHash": with_datatrove_minhash,
}


def measured(name: str, *arguments: Path) -> float:
    """One of MEASUREMENTS in a new process on one core; MB/s."""
    command = [sys.executable, "-m", "benchmarks.data_prep_peers", name, *map(str, arguments)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    result = subprocess.run(
        command, capture_output=True, text=True, preexec_fn=on_cores({0}), env=environment, check=False, cwd=ROOT
    )
    if result.returncode:
        raise SystemExit(f"{name} failed:\n{result.stderr[-3000:]}")
    for line in result.stderr.splitlines():
        if " keeps " in line:
            print(line)
    return float(result.stdout.splitlines()[-1])


def on_cores(cores: set[int] | None) -> Callable[[], None] | None:
    """Pins a new process and its threads."""
    return None if cores is None else lambda: os.sched_setaffinity(0, cores)


if __name__ == "__main__":
    print(json.dumps(MEASUREMENTS[sys.argv[1]](*map(Path, sys.argv[2:]))))
