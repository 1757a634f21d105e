"""Text and archives for the tests of data_prep."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import sentencepiece

from data_prep import readers
from data_prep.build import Options
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


SMALL = Options(chunk_bytes=3000)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but for the lock and what tells of speed."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock" and path.parent.name != "ranks")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def rows_of(folder: Path, name: str, split: str) -> list[dict[str, list[int]]]:
    """A corpus's rows, with pyarrow alone."""
    rows = []
    for path in sorted((folder / "shards" / name).glob(f"{split}-*.arrow")):
        with pa.memory_map(str(path)) as mapped:
            rows += pa.ipc.open_file(mapped).read_all().to_pylist()
    return rows


def bare_ids(tokenizer: Path, text: str) -> list[int]:
    """What fairseq does: SentencePiece's id + 1, and <unk> is 3."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
    return [3 if piece == 0 else piece + 1 for piece in processor.encode(text)]
