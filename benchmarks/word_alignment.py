"""Our aligner beside fast_align's C++, on gold links and on a larger text, in one run: error rate, seconds, memory.

    python -P benchmarks/word_alignment.py --gold XL-WA/data --languages es,ru,hu,nl --fast_align fast_align/ \\
        --text Tatoeba.de-en.txt

(-P, since benchmarks/data_prep.py beside this file would hide the package.)

1. --gold is the folder `data` of https://github.com/SapienzaNLP/XL-WA: <language>/{train,dev,test}.tsv, English first.
   Aligners see the text of all three, in lower case, and are scored on the words of `test`.
2. --fast_align is a checkout of https://github.com/clab/fast_align. It is compiled here with g++ -O3 and run with its usual
   options (-d -o -v, both ways, atools), on one core.
3. Units: words; the ids of a SentencePiece model and of a WordPiece one, each trained on the pair's text. Links of ids are
   brought to words: two words are linked where two of their pieces are.
4. --text, lines `source ||| target`, says how fast each is, on SentencePiece ids.

Each aligner runs in a process of its own, whose highest memory is the kernel's (VmHWM). Not counted: the time that numba
compiles, which it keeps between runs.
"""

from __future__ import annotations

import itertools
import json
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
from data_prep.word_alignment.cells import SortedPairs
from data_prep.word_alignment.decoding import links_of
from data_prep.word_alignment.engines import engine
from data_prep.word_alignment.model import Settings, train
from data_prep.word_alignment.symmetrization import SYMMETRIZATIONS
from ernie_m.base.command_line import run
from ernie_m.base.console import InputError
from ernie_m.base.table import table
from ernie_m.corpus.vocabulary import EncodedTexts, Vocabulary
from ernie_m.corpus.word_links import GoldPair, Link, read_gold, score

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


def ours(text: Text, name: str, folder: Path) -> Result:
    """By our aligner with this engine, in a process of its own."""
    path = folder / "text.json"
    path.write_text(json.dumps(text.sides))
    timed([sys.executable, "-P", __file__, "--inside", str(path), name], folder / "out.json")
    answer = json.loads((folder / "out.json").read_text())
    links = {method: [set(map(tuple, row)) for row in rows] for method, rows in answer["links"].items()}
    return Result(links, answer["seconds"], answer["memory"])


def inside(path: str, name: str) -> None:
    """What that process does; the time is that from ids to links."""
    both = [as_texts(side) for side in json.loads(Path(path).read_text())]
    one = [as_texts([[1, 2], [2]])] * 2
    links_of(train(SortedPairs.of(*one), 3, Settings(), engine(name)), *one, SYMMETRIZATIONS[1], engine(name))  # compiles
    started = time.perf_counter()
    vocab_size = 1 + int(max(side.values.max() for side in both))
    model = train(SortedPairs.of(*both), vocab_size, Settings(), engine(name))
    found = {method: links_of(model, *both, method, engine(name)) for method in SYMMETRIZATIONS[:1]}
    seconds, memory = time.perf_counter() - started, highest_memory("self")  # one symmetrisation, as of the peer
    found |= {method: links_of(model, *both, method, engine(name)) for method in SYMMETRIZATIONS[1:]}
    links = {
        method: [values[a:b].reshape(-1, 2).tolist() for a, b in itertools.pairwise(offsets.tolist())]
        for method, (offsets, values) in found.items()
    }
    print(json.dumps({"seconds": seconds, "memory": memory, "links": links}))


def as_texts(side: list[list[int]]) -> EncodedTexts:
    """End to end."""
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in side])]).astype(np.int64)
    return EncodedTexts(np.fromiter(itertools.chain.from_iterable(side), np.int32, offsets[-1]), offsets)


def theirs(text: Text, programs: Path, folder: Path, options: Sequence[str] = ()) -> Result:
    """By fast_align, with these options beside the usual ones."""
    lines = (" ||| ".join(" ".join(map(str, ids)) for ids in pair) for pair in zip(*text.sides, strict=True))
    (folder / "text").write_text("".join(line + "\n" for line in lines))
    command = [str(programs / "fast_align"), "-i", str(folder / "text"), "-d", "-o", "-v", *options]
    runs = [timed([*command, *turned], folder / name) for name, turned in (("forward", []), ("backward", ["-r"]))]
    links, seconds = {}, [seconds for seconds, _ in runs]
    for method, name in ATOOLS.items():
        both = ["-i", str(folder / "forward"), "-j", str(folder / "backward")]
        took, _ = timed([str(programs / "atools"), *both, "-c", name], folder / "links")
        seconds += [took] if method == SYMMETRIZATIONS[0] else []
        rows = (folder / "links").read_text().splitlines()
        links[method] = [{(int(i), int(j)) for i, _, j in (word.partition("-") for word in row.split())} for row in rows]
    return Result(links, sum(seconds), max(memory for _, memory in runs))


def highest_memory(process: str) -> int:
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
                highest[0] = max(highest[0], highest_memory(str(child.pid)))
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
    vocab_size: int = 4000,
    text_vocab_size: int = 8000,
) -> None:
    """Print error rates of both aligners on each language, then seconds and memory.

    Args:
        gold: the folder `data` of XL-WA.
        languages: its folders to take, with commas between them.
        fast_align: a checkout of clab/fast_align.
        text: `source ||| target` lines to measure speed on.
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
                    ("ours", ours(content, "numba", folder)),
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
            speed(Path(text), programs, folder, text_vocab_size)


def speed(path: Path, programs: Path, folder: Path, vocab_size: int) -> None:
    """Seconds and memory from text of ids to links by intersection."""
    lines = (line.lower().split(" ||| ") for line in path.read_text(encoding="utf-8").splitlines())
    pairs = [(line[0].split(), line[1].split()) for line in lines if len(line) == 2 and line[0].split() and line[1].split()]
    content = sentence_piece(pairs, vocab_size, folder)
    cells = sum(len(a) * len(b) for a, b in zip(*content.sides, strict=True))
    results = {
        "fast_align (C++, -O3)": theirs(content, programs, folder),
        "ours, numba": ours(content, "numba", folder),
        "ours, numpy": ours(content, "numpy", folder),
    }
    peer = next(iter(results.values()))
    rows = [
        [name, f"{r.seconds:.1f}", f"{peer.seconds / r.seconds:.2f}", f"{r.memory / 2**20:,.0f}"]
        for name, r in results.items()
    ]
    print(f"{path.name}: {len(pairs):,} pairs, {cells:,} cells, {vocab_size:,} pieces; both directions, one core")
    print(table(["aligner", "seconds", "times the C++", "memory, MiB"], rows))
    one, other = (results[f"ours, {name}"].links for name in ("numba", "numpy"))
    print(f"links of numba and numpy are {'the same' if one == other else 'DIFFERENT'}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(*sys.argv[2:])
    else:
        run(main, "benchmarks/word_alignment.py")
