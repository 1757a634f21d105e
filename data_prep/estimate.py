"""What a build will need (rows, tokens, disk, time), from samples all over each corpus.

The sample also checks, before hours of work, that every file exists, is what its name says, and holds usable lines.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep import readers
from data_prep.catalog import Corpus
from data_prep.clean import clean
from data_prep.convert import vocabulary_of
from data_prep.readers.sampling import MOST_TEXT, MOST_TEXT_OF_ESTIMATE, PLACES
from data_prep.row_keys import KEY, RowKeys
from ernie_m.base.console import InputError, duration
from ernie_m.base.table import table
from ernie_m.corpus.unknown_pieces import Pieces
from ernie_m.corpus.unknown_pieces import count as count_pieces

BYTES_PER_TOKEN = 4
BYTES_PER_ROW = 4.2  # a list offset a column, and a bit
ENCODED_ONE_IN = 8
SPACE_RESERVE = 1.1


@dataclass(frozen=True)
class Estimate:
    """Of one corpus."""

    corpus: Corpus
    input_bytes: int
    text_bytes: int
    rows: int
    tokens: int
    seconds: float
    """On one core; of repeated lines their keys, not the comparison, which takes a part of that."""
    pieces: dict[str, Pieces]
    """Language -> those of the sampled lines."""

    @property
    def disk_bytes(self) -> int:
        """Bytes of the shards; while repeated lines are removed, twice that and what they are compared by."""
        size = self.tokens * BYTES_PER_TOKEN + self.rows * BYTES_PER_ROW * len(self.corpus.languages)
        near = self.corpus.deduplicate_near
        keys = KEY.itemsize * bool(self.corpus.deduplicate) + (near.bytes_per_row if near else 0)
        return int((1 + self.corpus.is_compared) * size + keys * self.rows)


def estimate(corpus: Corpus, tokenizer: Path, most_text: int = MOST_TEXT) -> Estimate:
    """Read, clean and encode lines from all over a corpus; raises InputError when there is no usable one.

    Of a stream no more than about `most_text` bytes of text are read.
    """
    vocabulary, started = vocabulary_of(tokenizer), time.monotonic()
    unknown = vocabulary.unknown_ids
    sample = readers.sample(corpus, most_text)
    reading = time.monotonic() - started

    def encoded(texts: Sequence[list[str]], chosen: list[int]) -> list[Pieces]:
        some = [[side[index] for index in chosen] for side in texts]
        RowKeys(corpus).add(some)
        return [count_pieces(vocabulary.encode_batch(side).values, unknown) for side in some]

    with readers.named(corpus):
        groups = (lines for chunk in sample.chunks for lines in readers.parse(corpus, chunk))
        kept, texts, _ = clean(next(groups), corpus)  # what is loaded at first use is no price of a line
        encoded(texts, kept[:1].tolist())
        rows, tokens, encoding, started = 0, 0, 0.0, time.process_time()  # others on this machine cost nothing
        pieces = [Pieces()] * len(corpus.languages)
        for lines in (lines for chunk in sample.chunks for lines in readers.parse(corpus, chunk)):
            kept, texts, _ = clean(lines, corpus)
            rows += len(kept)
            chosen, before = kept[::ENCODED_ONE_IN].tolist(), time.process_time()
            sides = encoded(texts, chosen)
            pieces = [before + now for before, now in zip(pieces, sides, strict=True)]
            tokens += sum(side.total for side in sides) * len(kept) // max(1, len(chosen))
            encoding += time.process_time() - before
    factor = max(1.0, sample.text_bytes / max(1, sum(map(readers.text_bytes, sample.chunks))))
    text, rows, tokens = sample.text_bytes, int(rows * factor), int(tokens * factor)
    seconds = reading + (time.process_time() - started + (ENCODED_ONE_IN - 1) * encoding) * factor
    known = dict(zip(corpus.languages, pieces, strict=True))
    return Estimate(corpus, readers.input_bytes(corpus), text, rows, tokens, seconds, known)


def described(corpus: Corpus, language: str) -> str:
    """A side of a corpus, for a message."""
    path = corpus.files[corpus.languages.index(language) if len(corpus.files) > 1 else 0]
    return f"{language} in corpus {corpus.name} ({path})"


def alarms_of(corpus: Corpus, pieces: dict[str, Pieces]) -> list[str]:
    """A line for each language of the corpus that the tokenizer knows badly."""
    found = (of_language.alarm(described(corpus, language)) for language, of_language in sorted(pieces.items()))
    return [alarm for alarm in found if alarm is not None]


def refuse_unknown(corpus: Corpus, pieces: dict[str, Pieces]) -> None:
    """Raise InputError for a corpus with a language that the tokenizer does not know."""
    for language, of_language in sorted(pieces.items()):
        of_language.refuse_unknown(described(corpus, language))


def shown(estimates: list[Estimate], out: Path, num_ranks: int) -> str:
    """The table of --estimate."""
    rows = [
        [
            e.corpus.name,
            size(e.input_bytes),
            size(e.text_bytes),
            f"{e.rows:,}",
            f"{e.tokens:,}",
            size(e.disk_bytes),
            duration(e.seconds / num_ranks),
        ]
        for e in estimates
    ]
    alarms = [alarm for e in estimates for alarm in alarms_of(e.corpus, e.pieces)]
    disk, seconds = sum(e.disk_bytes for e in estimates), sum(e.seconds for e in estimates)
    head = ["corpus", "files", "text", "rows", "tokens", "shards", f"time on {num_ranks}"]
    return (
        f"{table(head, rows)}\n\nabout {size(disk)} of shards ({size(free_bytes(out))} free at {out}), "
        f"at most {duration(seconds / num_ranks)} on {num_ranks} rank{'s' * (num_ranks > 1)}; "
        f"guessed from {PLACES} places of each corpus; of one stream, from its first {size(MOST_TEXT_OF_ESTIMATE)} of text"
        + "".join(f"\nalarm: {alarm}" for alarm in alarms)
    )


def refuse_too_little_space(disk_bytes: int, out: Path) -> None:
    """Raise InputError when shards of about so many bytes will probably not fit on the disk."""
    needed, free = int(SPACE_RESERVE * disk_bytes), free_bytes(out)
    if needed > free:
        raise InputError(
            f"{out}: the shards will take about {size(needed)} and {size(free)} are free; make room, choose another --out, "
            "or add --skip_space_check if you know better"
        )


def free_bytes(out: Path) -> int:
    """Free space on the disk where `out` is or will be."""
    return shutil.disk_usage(nearest_folder(out)).free


def nearest_folder(out: Path) -> Path:
    """`out`, or where it is not there yet the nearest folder above it that is: on the disk that it will be on."""
    return next(folder for folder in (out.resolve(), *out.resolve().parents) if folder.exists())


def size(num_bytes: float) -> str:
    """1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"
