"""Words remembered against SentencePiece alone, on one core: are all ids the same, and how fast is each?

    python benchmarks/encoder.py --model spm.model --data FOLDER [--batch 8192] [--repeats 3]

Every file under FOLDER is read: text, .xz, .gz, and the members of .zip and .tgz; markup is text like any other. Per group
of files (the folder below FOLDER, or the file) and for all files in one go, it prints MB/s of SentencePiece
(`Vocabulary.encode_batch`), of the cache at first sight, on the second reading and on the third, when nearly all words are
known. Every text of every reading is compared, bit for bit; the exit code is 1 if one differs. Give --model more than once
to see several models, e.g. a unigram and a BPE one.
"""

from __future__ import annotations

import argparse
import gzip
import io
import lzma
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data_prep.words.word_cache import WordCache
from ernie_m.corpus.vocabulary import EncodedTexts, Vocabulary

READINGS = ("first", "second", "third")


def contents(name: str, raw: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of a file, opened as far as it is packed."""
    if name.endswith((".tgz", ".tar.gz")):
        with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is not None:
                    yield from contents(f"{name}/{member.name}", file.read())
    elif name.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(raw)) as packed:
            for inner in packed.namelist():
                yield from contents(f"{name}/{inner}", packed.read(inner))
    elif name.endswith(".xz"):
        yield from contents(name[:-3], lzma.decompress(raw))
    elif name.endswith(".gz"):
        yield from contents(name[:-3], gzip.decompress(raw))
    else:
        yield name, raw


def texts_under(folder: Path) -> dict[str, list[str]]:
    """The lines of each group of files."""
    groups: dict[str, list[str]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        for name, raw in contents(path.name, path.read_bytes()):
            group = path.name if path.name.endswith(".zip") and name.count("/") > 0 else name
            groups.setdefault(group, []).extend(line for line in raw.decode("utf-8", "replace").split("\n") if line)
    return {name: texts for name, texts in groups.items() if texts}


def timed(encode: Callable[[list[str]], EncodedTexts], texts: list[str], batch: int) -> tuple[float, list[EncodedTexts]]:
    """Seconds and ids."""
    started = time.perf_counter()
    encoded = [encode(texts[i : i + batch]) for i in range(0, len(texts), batch)]
    return time.perf_counter() - started, encoded


def num_different(ours: list[EncodedTexts], theirs: list[EncodedTexts]) -> int:
    """Texts whose ids differ."""
    total = 0
    for a, b in zip(ours, theirs, strict=True):
        if not (np.array_equal(a.values, b.values) and np.array_equal(a.offsets, b.offsets)):
            pairs = zip(np.split(a.values, a.offsets[1:-1]), np.split(b.values, b.offsets[1:-1]), strict=True)
            total += sum(not np.array_equal(x, y) for x, y in pairs)
    return total


def measure(name: str, texts: list[str], vocabulary: Vocabulary, batch: int, repeats: int) -> int:
    """Print one line; the number of texts that differ. Of `repeats` timings the best counts, for both sides."""
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    cache = WordCache(vocabulary)
    alone, seconds, different, told = np.inf, dict.fromkeys(READINGS, np.inf), 0, ""
    for _ in range(repeats):
        once, expected = timed(vocabulary.encode_batch, texts, batch)
        alone = min(alone, once)
        cache.clear()
        for reading in READINGS:
            before = np.array([cache.words_seen, cache.words_known, cache.texts_whole])
            once, encoded = timed(cache.encode_batch, texts, batch)
            seen, known, whole = np.array([cache.words_seen, cache.words_known, cache.texts_whole]) - before
            seconds[reading] = min(seconds[reading], once)
            different += num_different(encoded, expected)
            if reading == "third":
                told = (
                    f"{known / max(1, seen):7.2%} of {seen:,} words known, {whole / len(texts):6.2%} of {len(texts):,} whole"
                )
    rates = "  ".join(f"{r} {megabytes / seconds[r]:6.1f} ({alone / seconds[r]:4.2f}x)" for r in READINGS)
    print(
        f"{name[-40:]:40} {megabytes:6.2f} MB  alone {megabytes / alone:5.1f} MB/s  {rates}  {told}  {different} differ",
        flush=True,
    )
    return different


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, action="append", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--min_megabytes", type=float, default=0.15, help="smaller groups count in the last line alone")
    arguments = parser.parse_args()
    groups = texts_under(arguments.data)
    different = 0
    for path in arguments.model:
        vocabulary = Vocabulary(path)
        print(f"{path.name}: {vocabulary.size:,} ids; {WordCache(vocabulary).choice}")
        for name, texts in groups.items():
            if sum(map(len, texts)) >= arguments.min_megabytes * 1e6:
                different += measure(name, texts, vocabulary, arguments.batch, arguments.repeats)
        everything = [text for texts in groups.values() for text in texts]
        different += measure("all files", everything, vocabulary, arguments.batch, arguments.repeats)
    raise SystemExit(1 if different else 0)


if __name__ == "__main__":
    main()
