"""Text and archives for the tests of data_prep."""

from __future__ import annotations

import io
import random
import tarfile
from typing import NamedTuple

from data_prep import readers
from data_prep.catalog import Corpus
from data_prep.records import no_count

TEXT = "the house is small and green der hund läuft schnell über die brücke el río 猫 坐在 垫子 上 полет"
WORDS = TEXT.split()


def sentences(count: int, seed: int) -> list[str]:
    """Distinct-ish sentences of a few words."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(2, 9))) + f" {draw.randint(0, 999)}." for _ in range(count)]


def tarred(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    """A tar archive of these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class Record(NamedTuple):
    """A line of a corpus, numbered in its file."""

    line: int
    texts: tuple[str, ...]
    document: int
    reason: str | None


def read(corpus: Corpus, chunk_bytes: int = 1 << 30) -> list[Record]:
    """All lines of a corpus that are not document borders."""
    found: list[Record] = []
    line = document = 0
    for chunk in readers.chunks(corpus, chunk_bytes, no_count):
        document += chunk.starts_document
        last = 0
        for lines in readers.parse(corpus, chunk):
            columns = zip(lines.numbers.tolist(), zip(*lines.texts, strict=True), lines.documents.tolist(), strict=True)
            for index, (number, texts, last) in enumerate(columns):
                found.append(Record(line + number, texts, document + last, lines.rejected.get(index)))
        line, document = line + readers.num_lines(chunk), document + last
    return found
