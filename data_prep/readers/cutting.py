"""Where a stream of text is cut into chunks: at an empty line or at the end of a line, never inside a line.

A chunk is the unit of work and of restart, and, without its rejected lines, the content of one shard. So its start and end
must depend on the file only, not on the reader:

1. A chunk has a nominal size. It goes on to the next *border* behind it: the end of the first empty line that starts there
   within LOOK_AHEAD bytes (where documents are separated by empty lines), else the end of the line.
2. A stream is cut one chunk after the other. A file that can be entered anywhere is cut at fixed offsets instead, and
   every chunk finds its own two borders: `border behind offset o` is a function of the bytes from o on, so neighbours agree.
3. Of a line without an end in sight only the beginning is kept, so memory is bounded; it is rejected later as too long.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from data_prep.readers.lines import MAX_LINE_BYTES, end_of_line

LOOK_AHEAD = MAX_LINE_BYTES + 2  # what is kept of an endless line is still too long to be taken for a whole one
FIRST_LOOK = 1 << 14
LINE_END = re.compile(rb"\n")
EMPTY_LINE = re.compile(rb"\n\r?\n")

PiecesFrom = Callable[[int], Iterable[bytes]]
"""Opens a file at an offset of its plain text."""


class Border(NamedTuple):
    """The bytes up to the end of a border, how many were passed (an endless line is not kept whole), and its kind."""

    kept: bytes
    passed: int
    is_document_end: bool


class Cutter:
    """Reads pieces of a stream and hands out stretches that end at borders."""

    def __init__(self, pieces: Iterable[bytes], at_empty_lines: bool) -> None:
        self._pieces = iter(pieces)
        self._pending = b""
        self._at_empty_lines = at_empty_lines

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end of the stream."""
        return b"".join(self._parts(size))

    def gathered(self, size: int) -> io.BytesIO:
        """The same, to be written on to: joining the parts of a large chunk would need twice its memory."""
        file = io.BytesIO()
        for part in self._parts(size):
            file.write(part)
        return file

    def _parts(self, size: int) -> Iterator[bytes]:
        missing, piece = size, self._pending
        while len(piece) < missing:
            missing -= len(piece)
            self._pending = b""
            yield piece
            piece = next(self._pieces, b"")
            if not piece:
                break
        self._pending = piece[missing:]
        yield piece[:missing]

    def to_border(self) -> Border:
        """Read on to the next border."""
        ahead, step = b"", FIRST_LOOK
        border = EMPTY_LINE if self._at_empty_lines else LINE_END
        while len(ahead) < LOOK_AHEAD:
            piece = self.read(min(step, LOOK_AHEAD - len(ahead)))
            known, ahead, step = len(ahead), ahead + piece, 2 * step
            if found := border.search(ahead, max(0, known - 2)):
                return self._border(ahead, found.end(), self._at_empty_lines)
            if not piece:
                return self._border(ahead, ahead.find(b"\n") + 1 or len(ahead), False)
        if stop := ahead.find(b"\n") + 1:
            return self._border(ahead, stop, False)
        return Border(ahead, len(ahead) + self._pass_line(), False)

    def _border(self, ahead: bytes, stop: int, is_document_end: bool) -> Border:
        self._pending = ahead[stop:] + self._pending
        return Border(ahead[:stop], stop, is_document_end)

    def lines(self, count: int, most_bytes: int) -> tuple[bytes, int]:
        """The next lines with their ends, and how many: `count`, or fewer in about `most_bytes`, or all that are left.

        Only at the end of the text are both fewer; a line may be longer than `most_bytes`.
        """
        gathered = io.BytesIO()  # joining parts would need twice the memory
        found = last = 0
        while found < count and (not found or gathered.tell() < most_bytes) and (piece := self.read(1 << 16)):
            here = piece.count(b"\n")
            if found + here >= count:
                stop = end_of_line(piece, count - found)
                self._pending = piece[stop:] + self._pending
                gathered.write(piece[:stop])
                return _content(gathered), count
            found += here
            last = gathered.tell() + piece.rfind(b"\n") + 1 if here else last
            gathered.write(piece)
        if found and gathered.tell() >= most_bytes:
            gathered.seek(last)
            self._pending = gathered.read() + self._pending
            gathered.truncate(last)
            return _content(gathered), found
        content = _content(gathered)
        return content, found + (bool(content) and not content.endswith(b"\n"))

    def is_at_end(self) -> bool:
        """Whether nothing is left."""
        first = self.read(1)
        self._pending = first + self._pending
        return not first

    def _pass_line(self) -> int:
        """Skip what is left of a line with its end; the number of bytes skipped."""
        passed = 0
        while piece := self.read(1 << 16):
            stop = piece.find(b"\n") + 1
            if stop:
                self._pending = piece[stop:] + self._pending
                return passed + stop
            passed += len(piece)
        return passed


def bounded(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same lines, an endless one cut to its beginning: for readers that ask for lines by number."""
    length = 0  # of the line so far
    for piece in pieces:
        last = piece.rfind(b"\n") + 1
        if last == 0:
            room = max(0, LOOK_AHEAD - length)
            length += len(piece)
            if room:
                yield piece[:room]
            continue
        first = piece.find(b"\n")
        yield piece[: max(0, LOOK_AHEAD - length)] + piece[first:] if length + first > LOOK_AHEAD else piece
        length = len(piece) - last


def cut_stream(pieces: Iterable[bytes], chunk_bytes: int, at_empty_lines: bool) -> Iterator[tuple[bytes, bool]]:
    """All of a stream as (chunk, whether it starts a document)."""
    cutter = Cutter(pieces, at_empty_lines)
    starts_document = True
    while (gathered := cutter.gathered(chunk_bytes)).tell():
        border = cutter.to_border()
        gathered.write(border.kept)
        yield _content(gathered), starts_document
        starts_document = border.is_document_end


def _content(gathered: io.BytesIO) -> bytes:
    """What was gathered; nothing else keeps it."""
    content = gathered.getvalue()
    gathered.close()
    return content


def cut_out(pieces_from: PiecesFrom, start: int, stop: int | None, at_empty_lines: bool) -> tuple[bytes, bool]:
    """The chunk between the border behind `start` (0: the beginning) and the one behind `stop` (None: the end of the file).

    `pieces_from(offset)` opens the file there.
    """
    cutter = Cutter(pieces_from(start), at_empty_lines)
    first = cutter.to_border() if start else Border(b"", 0, True)
    if stop is None:
        return _content(cutter.gathered(sys.maxsize)), first.is_document_end
    if start + first.passed <= stop:
        gathered = cutter.gathered(stop - start - first.passed)
        gathered.write(cutter.to_border().kept)
        return _content(gathered), first.is_document_end
    last = Cutter(pieces_from(stop), at_empty_lines).to_border()  # our first border lies behind `stop` already
    return cutter.read(max(0, stop + last.passed - start - first.passed)), first.is_document_end
