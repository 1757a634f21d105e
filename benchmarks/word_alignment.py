"""Our aligner beside fast_align's C++, on gold links and on a larger text, in one run: error rate, seconds, memory.

    python -P benchmarks/word_alignment.py --gold XL-WA/data --languages es,ru,hu,nl --fast_align fast_align/ \\
        --text Tatoeba.de-en.txt --sizes 1,10000,50000,200000

(-P, since benchmarks/data_prep.py beside this file would hide the package.)

1. --gold is the folder `data` of https://github.com/SapienzaNLP/XL-WA: <language>/{train,dev,test}.tsv, English first.
   Aligners see the text of all three, in lower case, and are scored on the words of `test`.
2. --fast_align is a checkout of https://github.com/clab/fast_align. It is compiled here with g++ -O3 and run with its usual
   options (-d -o -v, both ways, atools), on one core.
3. Units: words; the ids of a SentencePiece model and of a WordPiece one, each trained on the pair's text. Links of ids are
   brought to words: two words are linked where two of their pieces are.
4. --text, lines `source ||| target`, says how fast each is and how much memory it takes, on SentencePiece ids, by size;
   of one pair: what interpreter and libraries take.

Each aligner runs in a process of its own, whose highest memory is the kernel's (VmHWM). Not counted: the time that numba
compiles, which it keeps between runs (the first run of all has the memory of compiling).
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from data_prep.tokenizer_training import train_tokenizer
from data_prep.word_alignment.symmetrization import SYMMETRIZATIONS
from ernie_m.base.command_line import run
from ernie_m.base.console import InputError
from ernie_m.base.table import table
from ernie_m.corpus.vocabulary import EncodedTexts, Vocabulary
from ernie_m.corpus.word_links import GoldPair, Link, read_gold, score

ENGINES = ("numba", "numpy")
ATOOLS = dict(zip(SYMMETRIZATIONS, ("intersect", "grow-diag-final-and", "union"), strict=True))
Words = Sequence[str]


class Text(NamedTuple):
    """Pairs as numbers, and the word that each number's unit is of."""

    sides: tuple[list[list[int]], list[list[int]]]
    words: tuple[list[list[int]], list[list[int]]]


class Result(NamedTuple):
    """What one aligner made of a text."""

    links: dict[str, list[set[Link]]]
    seconds: float
    memory: int
    types: int = 0
    """Pairs of ids that its model keeps."""


def of_words(pairs: Sequence[tuple[Words, Words]]) -> Text:
    """Each word a number."""
    numbers: dict[str, int] = {}
    return encoded(pairs, lambda word: [numbers.setdefault(word, len(numbers))])


def encoded(pairs: Sequence[tuple[Words, Words]], pieces_of: Callable[[str], list[int]]) -> Text:
    """Each word by itself."""
    sides: tuple[list[list[int]], list[list[int]]] = [], []
    words: tuple[list[list[int]], list[list[int]]] = [], []
    known: dict[str, list[int]] = {}
    for pair in pairs:
        for side, numbers, sentence in zip(sides, words, pair, strict=True):
            pieces = [known[word] if word in known else known.setdefault(word, pieces_of(word)) for word in sentence]
            side.append(list(itertools.chain.from_iterable(pieces)))
            numbers.append([number for number, found in enumerate(pieces) for _ in found])
    return Text(sides, words)


def sentence_piece(pairs: Sequence[tuple[Words, Words]], size: int, folder: Path) -> Text:
    """Ids of a unigram model of the pairs' text."""
    lines = "".join(" ".join(sentence) + "\n" for pair in pairs for sentence in pair)
    (folder / "text.txt").write_text(lines, encoding="utf-8")
    (folder / "c.yaml").write_text("corpora: [{name: text, format: cc100, path: text.txt, language: mul}]")
    train_tokenizer(folder / "c.yaml", folder / "spm.model", size, overwrite=True)
    vocabulary = Vocabulary(folder / "spm.model")
    return encoded(pairs, lambda word: vocabulary.encode(word).tolist())


def word_piece(pairs: Sequence[tuple[Words, Words]], size: int, folder: Path) -> Text:
    """Ids of a WordPiece model of the pairs' text."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator((" ".join(sentence) for pair in pairs for sentence in pair), trainer)
    return encoded(pairs, lambda word: tokenizer.encode(word).ids)


def ours(text: Text, name: str, folder: Path, *which: str) -> Result:
    """By our aligner with this engine, in a process of its own."""
    sides = {key: as_texts(side) for key, side in zip(("source", "target"), text.sides, strict=True)}
    offsets = {f"{key}_offsets": side.offsets for key, side in sides.items()}
    np.savez(folder / "text.npz", **{key: side.values for key, side in sides.items()}, **offsets)
    program = str(Path(__file__).with_name("word_alignment_process.py"))
    files = [str(folder / "text.npz"), name, str(folder / "links.npz")]
    _, memory = timed([sys.executable, "-P", program, *files, *which], folder / "out")
    answer = np.load(folder / "links.npz")
    links = {}
    for number, method in enumerate(SYMMETRIZATIONS if which else SYMMETRIZATIONS[:1]):
        values, offsets_of = answer[f"values_{number}"], answer[f"offsets_{number}"].tolist()
        links[method] = [set(map(tuple, values[a:b].reshape(-1, 2).tolist())) for a, b in itertools.pairwise(offsets_of)]
    return Result(links, float(answer["seconds"]), memory, int(answer["types"]))


def as_texts(side: list[list[int]]) -> EncodedTexts:
    """End to end."""
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in side])]).astype(np.int64)
    return EncodedTexts(np.fromiter(itertools.chain.from_iterable(side), np.int32, offsets[-1]), offsets)


def theirs(
    text: Text, programs: Path, folder: Path, options: Sequence[str] = (), methods: Sequence[str] = SYMMETRIZATIONS
) -> Result:
    """By fast_align, with these options beside the usual ones."""
    lines = (" ||| ".join(" ".join(map(str, ids)) for ids in pair) for pair in zip(*text.sides, strict=True))
    (folder / "text").write_text("".join(line + "\n" for line in lines))
    command = [str(programs / "fast_align"), "-i", str(folder / "text"), "-d", "-o", "-v", *options]
    runs = [timed([*command, *turned], folder / name) for name, turned in (("forward", []), ("backward", ["-r"]))]
    links, seconds = {}, [seconds for seconds, _ in runs]
    for method in methods:
        both = ["-i", str(folder / "forward"), "-j", str(folder / "backward")]
        took, _ = timed([str(programs / "atools"), *both, "-c", ATOOLS[method]], folder / "links")
        seconds += [took] if method == SYMMETRIZATIONS[0] else []
        rows = (folder / "links").read_text().splitlines()
        links[method] = [{(int(i), int(j)) for i, _, j in (word.partition("-") for word in row.split())} for row in rows]
    return Result(links, sum(seconds), max(memory for _, memory in runs))


def highest_memory(process: int) -> int:
    """The most memory that a process has had, in bytes; 0 when it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return 0


def timed(command: Sequence[str], output: Path) -> tuple[float, int]:
    """Seconds of a command on one core, and the most memory it had, in bytes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started, highest = time.perf_counter(), [0]
    with open(output, "wb") as file, open(output.with_suffix(".err"), "wb") as errors:
        child = subprocess.Popen(command, stdout=file, stderr=errors, env=environment)

        def watch() -> None:
            while child.poll() is None:
                highest[0] = max(highest[0], highest_memory(child.pid))
                time.sleep(0.01)

        watcher = threading.Thread(target=watch)
        watcher.start()
        child.wait()
        seconds = time.perf_counter() - started
        watcher.join()
    if child.returncode:
        raise InputError(f"{command[0]}: exit code {child.returncode}: {output.with_suffix('.err').read_text()[-300:]}")
    return seconds, highest[0]


def compiled(source: Path, to: Path) -> Path:
    """fast_align and atools, built from a checkout."""
    if not (source / "src" / "fast_align.cc").is_file():
        raise InputError(f"--fast_align {source}: no src/fast_align.cc there; expected a checkout of clab/fast_align")
    for program, files in (("fast_align", ("fast_align", "ttables")), ("atools", ("atools", "alignment_io"))):
        paths = [str(source / "src" / f"{name}.cc") for name in files]
        flags = ["-std=c++11", "-O3", "-w", "-fopenmp", f"-I{source}"]
        subprocess.run(["g++", *flags, *paths, "-o", str(to / program)], check=True)
    return to


def read_pairs(folder: Path) -> tuple[list[tuple[Words, Words]], list[GoldPair]]:
    """The pairs of train, dev and test, in lower case, and the gold of test, the last ones."""
    pairs: list[tuple[Words, Words]] = []
    gold: list[GoldPair] = []
    for split in ("train", "dev", "test"):
        found = [pair for pair in read_gold(folder / f"{split}.tsv", "text") if pair.source and pair.target]
        pairs += [tuple([word.lower() for word in side or ()] for side in (pair.source, pair.target)) for pair in found]  # type: ignore[misc]
        gold = found
    return pairs, gold


def on_words(links: Sequence[set[Link]], text: Text, first: int) -> list[set[Link]]:
    """Links of words, of the pairs from `first` on."""
    words = zip(text.words[0][first:], text.words[1][first:], strict=True)
    return [{(a[i], b[j]) for i, j in found} for found, (a, b) in zip(links[first:], words, strict=True)]


def main(
    *,
    gold: str,
    languages: str,
    fast_align: str,
    text: str | None = None,
    sizes: str = "",
    vocab_size: int = 4000,
    text_vocab_size: int = 8000,
) -> None:
    """Print error rates of both aligners on each language, then seconds and memory.

    Args:
        gold: the folder `data` of XL-WA.
        languages: its folders to take, with commas between them.
        fast_align: a checkout of clab/fast_align.
        text: `source ||| target` lines to measure speed and memory on.
        sizes: numbers of pairs, with commas between them: the first ones of --text. Default: all of it.
        vocab_size: pieces of the tokenizers that are trained on each pair of languages.
        text_vocab_size: of the one that is trained on --text.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        programs, rows, wins = compiled(Path(fast_align), folder), [], []
        for language in languages.split(","):
            pairs, of_test = read_pairs(Path(gold) / language)
            first, best = len(pairs) - len(of_test), {}
            units = {
                "words": of_words(pairs),
                "SentencePiece": sentence_piece(pairs, vocab_size, folder),
                "WordPiece": word_piece(pairs, vocab_size, folder),
            }
            for unit, content in units.items():
                for aligner, result in (
                    ("fast_align", theirs(content, programs, folder)),
                    ("fast_align -a 0.05", theirs(content, programs, folder, ["-a", "0.05"])),  # our prior
                    ("ours", ours(content, "numba", folder, "all")),
                ):
                    scores = [score(on_words(result.links[m], content, first), of_test) for m in SYMMETRIZATIONS]
                    best[unit, aligner] = [100 * found.aer for found in scores]
                    cells = [f"{100 * found.aer:.1f}" for found in scores]
                    rows.append([f"en-{language}", unit, aligner, *cells, f"{100 * scores[0].precision:.1f}"])
                    print("  ".join(rows[-1]), file=sys.stderr, flush=True)
            wins.append(best)
        head = ["pair", "unit", "aligner", *(f"AER {method}" for method in SYMMETRIZATIONS), "precision of intersection"]
        print(table(head, rows))
        default = SYMMETRIZATIONS.index("grow-diag-final-and")
        for unit in ("SentencePiece", "WordPiece"):
            ahead = sum(best[unit, "ours"][0] <= best["words", "fast_align"][default] for best in wins)
            same = sum(best[unit, "ours"][0] <= best[unit, "fast_align"][0] + 0.05 for best in wins)
            print(
                f"{unit} ids, ours by intersection: on {ahead} of {len(wins)} pairs at most fast_align's AER on words by "
                f"{SYMMETRIZATIONS[default]}; on {same} at most its AER on the same ids by intersection (to 0.05)"
            )
        if text is not None:
            print()
            by_size(Path(text), [int(size) for size in sizes.split(",") if size], programs, folder, text_vocab_size)


def by_size(path: Path, sizes: Sequence[int], programs: Path, folder: Path, vocab_size: int) -> None:
    """Seconds and memory from text of ids to links by intersection, of the first pairs of a text."""
    lines = (line.lower().split(" ||| ") for line in path.read_text(encoding="utf-8").splitlines())
    pairs = [(line[0].split(), line[1].split()) for line in lines if len(line) == 2 and line[0].split() and line[1].split()]
    whole = sentence_piece(pairs, vocab_size, folder)
    rows, are_same, below_from = [], True, dict.fromkeys(ENGINES, 0)
    for size in sizes or [len(pairs)]:
        content = Text((whole.sides[0][:size], whole.sides[1][:size]), whole.words)
        cells = sum(len(a) * len(b) for a, b in zip(*content.sides, strict=True))
        peer = theirs(content, programs, folder, methods=SYMMETRIZATIONS[:1])
        found = {name: ours(content, name, folder) for name in ENGINES}
        for name, result in (("fast_align (C++, -O3)", peer), *found.items()):
            counts = [f"{number:,}" for number in (len(content.sides[0]), cells, found[ENGINES[0]].types)]
            speed = [f"{result.seconds:.1f}", f"{peer.seconds / result.seconds:.2f}"]
            rows.append([*counts, name, *speed, f"{result.memory / 2**20:,.0f}"])
            print("  ".join(rows[-1]), file=sys.stderr, flush=True)
            if name in ENGINES:
                below_from[name] = 0 if result.memory > peer.memory else below_from[name] or size
        are_same &= found["numba"].links == found["numpy"].links
    print(f"{path.name}, {vocab_size:,} pieces; both directions, one core")
    head = ["pairs", "cells", "types kept", "aligner", "seconds", "times the C++", "memory, MiB"]
    print(table(head, rows))
    for name, size in below_from.items():
        told = f"below the C++'s from {size:,} pairs on" if size else "not below the C++'s at the largest size"
        print(f"memory of ours, {name}: {told}")
    print(f"links of numba and numpy are {'the same' if are_same else 'DIFFERENT'}")


if __name__ == "__main__":
    run(main, "benchmarks/word_alignment.py")
