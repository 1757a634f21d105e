"""Are our ids those of transformers' XLM-R tokenizer? Counted on real text, and every difference explained.

    python -P benchmarks/tokenizer_parity.py --data corpora/ [--tokenizer sentencepiece.bpe.model]

(-P, since benchmarks/data_prep.py beside this file would hide the package.)

1. Lines are read from cc100/*.txt.xz and from the texts of scripts/*.zip (e.g. the Universal Declaration of Human Rights,
   one file a language) below --data.
2. Without --tokenizer a unigram model of XLM-R's layout is trained on them.
3. `Vocabulary` (SentencePiece's C++) and transformers (Rust, converted from the same file) encode every line.
4. Each difference gets a class; one without a class is a failure (exit code 1). SentencePiece's ids are the right ones: it
   is what XLM-R was trained with.
"""

from __future__ import annotations

import lzma
import re
import shutil
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import sentencepiece
from transformers import XLMRobertaTokenizer
from transformers.utils import logging

from data_prep.tokenizer_training import train_tokenizer
from ernie_m.base.command_line import run
from ernie_m.base.console import InputError
from ernie_m.base.special_tokens import BOS, EOS, FAIRSEQ_OFFSET, MASK, PAD, UNK, UNK_ID
from ernie_m.corpus.vocabulary import TOKENIZER_FILE, Vocabulary

SPECIAL_NAME = re.compile("|".join(map(re.escape, (BOS, EOS, MASK, PAD, UNK))))
BATCH = 2048
NEAR_TIE = 1e-3  # nats between two segmentations: what float32 sums of a long line lose
UNKNOWN_PENALTY = 10.0  # SentencePiece's: an unknown character scores this below the worst piece
SHOWN_PER_CLASS = 3


class Line(NamedTuple):
    """A line and where it is from."""

    source: str
    text: str


class Judge:
    """Says why two segmentations of a line differ."""

    def __init__(self, tokenizer: Path, theirs: XLMRobertaTokenizer) -> None:
        self._processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
        self._normalizer = theirs.backend_tokenizer.normalizer
        pieces = range(3, self._processor.get_piece_size())
        self._unknown = min(self._processor.get_score(piece) for piece in pieces) - UNKNOWN_PENALTY

    def difference(self, text: str, ours: Sequence[int], theirs: Sequence[int]) -> str:
        """The class of a difference, or 'unexplained'."""
        if SPECIAL_NAME.search(text):
            return "a special token's name in the text (transformers makes it the special token)"
        normalised = self._processor.normalize(text)
        if normalised != "".join("▁" + word for word in self._normalizer.normalize_str(text).split()):
            return "normalisation (transformers maps combining sequences otherwise)"
        if abs(self._score(ours) - self._score(theirs)) < NEAR_TIE:
            return "near tie (the two sum the same scores in another precision)"
        return "unexplained"

    def _score(self, ids: Sequence[int]) -> float:
        return sum(self._unknown if i == UNK_ID else self._processor.get_score(i - FAIRSEQ_OFFSET) for i in ids)


def real_lines(data: Path) -> Iterator[Line]:
    """Stripped lines that are not empty; a line ends at \\n alone."""
    for path in sorted(data.glob("cc100/*.txt.xz")):
        with lzma.open(path, "rt", encoding="utf-8", newline="\n") as file:
            yield from (Line(path.name.split(".")[0], text) for line in file if (text := line.strip()))
    for path in sorted(data.glob("scripts/*.zip")):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                for line in archive.read(name).decode("utf-8", "replace").split("\n"):
                    if text := line.strip():
                        yield Line(f"{path.stem}/{Path(name).stem}", text)


def trained(lines: Sequence[Line], folder: Path, vocab_size: int) -> Path:
    """A model of these lines, made as users make theirs."""
    (folder / "text.txt").write_text("".join(line.text + "\n" for line in lines), encoding="utf-8")
    (folder / "c.yaml").write_text("corpora: [{name: text, format: cc100, path: text.txt, language: mul}]")
    train_tokenizer(folder / "c.yaml", folder / "spm.model", vocab_size, max_sentences=100_000)
    return folder / "spm.model"


def compare(lines: Sequence[Line], tokenizer: Path, folder: Path) -> bool:
    """Print what was compared and each class of difference; whether all were explained."""
    shutil.copyfile(tokenizer, folder / TOKENIZER_FILE)
    vocabulary, theirs = Vocabulary(folder / TOKENIZER_FILE), XLMRobertaTokenizer.from_pretrained(folder)
    judge = Judge(tokenizer, theirs)
    if len(theirs) != vocabulary.size:
        raise SystemExit(f"transformers' vocabulary has {len(theirs):,} ids, ours {vocabulary.size:,}")
    classes: Counter[str] = Counter()
    num_tokens, seconds = 0, [0.0, 0.0]
    for start in range(0, len(lines), BATCH):
        batch = lines[start : start + BATCH]
        times = [time.perf_counter()]
        ours = [vocabulary.encode(line.text).tolist() for line in batch]
        times.append(time.perf_counter())
        their = theirs([line.text for line in batch], add_special_tokens=False)["input_ids"]
        times.append(time.perf_counter())
        seconds = [total + stop - begin for total, begin, stop in zip(seconds, times, times[1:], strict=False)]
        num_tokens += sum(map(len, ours))
        for line, a, b in zip(batch, ours, their, strict=True):
            if a != b:
                kind = judge.difference(line.text, a, b)
                classes[kind] += 1
                if classes[kind] <= SHOWN_PER_CLASS:
                    print(f"  {line.source}: {kind}: {_shown(theirs, a, b)}")
    sources = len({line.source for line in lines})
    print(
        f"{len(lines):,} lines of {sources} sources, {num_tokens:,} tokens, {vocabulary.size:,} ids; "
        f"ours {seconds[0]:.1f} s, transformers {seconds[1]:.1f} s\n"
        f"equal: {len(lines) - classes.total():,}; different: {classes.total():,}"
    )
    for kind, count in classes.most_common():
        print(f"{count:8,}  {kind}")
    return "unexplained" not in classes


def _shown(theirs: XLMRobertaTokenizer, a: Sequence[int], b: Sequence[int]) -> str:
    """The pieces around the first difference."""
    first = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    around = slice(max(0, first - 1), first + 4)
    return " ".join(theirs.convert_ids_to_tokens(a[around])) + "  |  " + " ".join(theirs.convert_ids_to_tokens(b[around]))


def main(*, data: str, tokenizer: str | None = None, vocab_size: int = 40_000) -> None:
    """Compare our ids with transformers' on every line below `data`.

    Args:
        data: folder with cc100/*.txt.xz and scripts/*.zip.
        tokenizer: SentencePiece unigram model, e.g. XLM-R's sentencepiece.bpe.model; without it one is trained.
        vocab_size: of the one that is trained.
    """
    logging.set_verbosity_error()
    lines = list(real_lines(Path(data)))
    if not lines:
        raise InputError(f"--data {data}: no cc100/*.txt.xz or scripts/*.zip with text in it")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = trained(lines, folder, vocab_size) if tokenizer is None else Path(tokenizer)
        (folder / "hf").mkdir()
        if not compare(lines, model, folder / "hf"):
            raise SystemExit(1)


if __name__ == "__main__":
    run(main, "tokenizer_parity")
