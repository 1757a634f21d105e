"""Chunks: every line in exactly one of them, wherever a file is entered, and in bounded memory."""

from __future__ import annotations

import contextlib
import lzma
import random
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from data_prep import readers
from data_prep.catalog import Corpus
from data_prep.readers import cutting, text_file
from data_prep.readers.cutting import Cutter, bounded, cut_out, cut_stream
from data_prep.readers.lines import MAX_LINE_BYTES, TOO_LONG, decode, end_of_line, split_lines
from data_prep.readers.text_file import cut_chunk, cuts
from data_prep.records import no_count
from ernie_m.base.console import InputError


def in_pieces(content: bytes, size: int) -> Iterator[bytes]:
    return (content[i : i + size] for i in range(0, len(content), size))


def text_of(draw: random.Random, num_lines: int, longest: int = 12, ends: tuple[bytes, ...] = (b"\n", b"\r\n")) -> bytes:
    lines = [bytes(draw.choices(b"ab\r\x00", k=draw.choice([0, 0, draw.randint(1, longest)]))) for _ in range(num_lines)]
    end = draw.choice(ends)
    content = b"".join(line + end for line in lines)
    return content if draw.random() < 0.5 else content + b"last"


@pytest.mark.parametrize("at_empty_lines", [True, False])
def test_a_stream_is_cut_at_line_ends_and_nothing_is_lost_or_moved(at_empty_lines: bool) -> None:
    draw = random.Random(0)
    at_document_ends = 0
    for _ in range(300):
        content = text_of(draw, draw.randint(0, 40))
        size = draw.randint(1, 60)
        chunks = list(cut_stream(in_pieces(content, draw.randint(1, 30)), size, at_empty_lines))
        assert b"".join(chunk for chunk, _ in chunks) == content
        assert all(chunk.endswith(b"\n") and len(chunk) >= size for chunk, _ in chunks[:-1])
        for (before, _), (_, starts_document) in pairwise(chunks):
            assert not starts_document or before.endswith((b"\n\n", b"\n\r\n"))
            at_document_ends += starts_document
        assert [piece for chunk, _ in chunks for piece in split_lines(chunk, False)] == split_lines(content, False)
    assert (at_document_ends > 100) is at_empty_lines


def test_however_the_pieces_fall_the_chunks_are_the_same() -> None:
    draw = random.Random(1)
    for _ in range(50):
        content, size = text_of(draw, 30), draw.randint(1, 40)
        found = [list(cut_stream(in_pieces(content, piece), size, True)) for piece in (1, 2, 7, 1000)]
        assert found[0] == found[1] == found[2] == found[3]


@pytest.mark.parametrize("at_empty_lines", [True, False])
@pytest.mark.parametrize("look_ahead", [14, 1000])
def test_chunks_cut_out_at_any_offsets_hold_every_line_once(
    at_empty_lines: bool, look_ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "LOOK_AHEAD", look_ahead)  # 14: often no empty line in sight, and the next line is taken
    draw = random.Random(2)
    empty = 0
    for _ in range(400):
        content = text_of(draw, draw.randint(1, 40))
        offsets = sorted({0, *(draw.randrange(len(content)) for _ in range(draw.randint(0, 8)) if content)})
        chunks = [
            cut_out(lambda start, content=content: in_pieces(content[start:], 5), start, stop, at_empty_lines)[0]  # type: ignore[misc]
            for start, stop in zip(offsets, [*offsets[1:], None], strict=True)
        ]
        assert b"".join(chunks) == content
        empty += sum(not chunk for chunk in chunks)
        assert all(chunk.endswith(b"\n") for chunk in chunks[:-1] if chunk and not content.endswith(chunk))
    assert empty > 20  # a border behind the end of the chunk itself


def test_of_an_endless_line_only_the_beginning_is_kept_and_its_neighbours_survive() -> None:
    huge = b"x" * (3 * MAX_LINE_BYTES)
    content = b"before\n" + huge + b"\nafter\n"
    pulled = []

    def pieces() -> Iterator[bytes]:
        for piece in in_pieces(content, 1 << 16):
            pulled.append(len(piece))
            yield piece

    chunks = [chunk for chunk, _ in cut_stream(pieces(), 100, True)]
    assert max(map(len, chunks)) < 2 * MAX_LINE_BYTES
    texts, rejected = decode([line for chunk in chunks for line in split_lines(chunk, False)])
    assert (texts[0], texts[-1], len(texts), rejected) == ("before", "after", 3, {1: TOO_LONG})
    stop = MAX_LINE_BYTES
    cut = [cut_out(lambda o: in_pieces(content[o:], 1 << 16), *place, True)[0] for place in ((0, stop), (stop, None))]
    texts, rejected = decode([line for chunk in cut for line in split_lines(chunk, False)])
    assert (texts[0], texts[-1], len(texts), rejected) == ("before", "after", 3, {1: TOO_LONG})
    kept = b"".join(bounded(in_pieces(content, 1 << 16)))
    assert len(kept) < 1.2 * MAX_LINE_BYTES
    assert decode(split_lines(kept, False))[1] == {1: TOO_LONG}
    exact = b"y" * MAX_LINE_BYTES
    assert decode(split_lines(exact + b"\r\n", False)) == ([exact.decode()], {})


def test_bounded_changes_no_line_that_fits() -> None:
    draw = random.Random(3)
    for _ in range(100):
        content = text_of(draw, 30)
        assert b"".join(bounded(in_pieces(content, draw.randint(1, 20)))) == content


def test_lines_are_handed_out_by_number() -> None:
    draw = random.Random(4)
    for _ in range(100):
        content = text_of(draw, 30, ends=(b"\n",))
        cutter, found, total = Cutter(in_pieces(content, draw.randint(1, 20)), False), b"", 0
        while (part := cutter.lines(draw.randint(1, 9), 1000))[1]:
            found, total = found + part[0], total + part[1]
        assert (found, total) == (content, len(split_lines(content, False)))


def many_lines(num_bytes: int) -> bytes:
    draw = random.Random(5)
    return b"".join(b"%d %s\n\n" % (i, bytes(draw.choices(b"abcdef ", k=40))) for i in range(num_bytes // 48))


def test_the_end_of_a_line_is_found_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(3)
    for piece_bytes in (1, 7, 64):
        monkeypatch.setattr("data_prep.readers.lines.PIECE_BYTES", piece_bytes)
        for _ in range(100):
            content = bytes(draw.choices(b"ab\n", k=draw.randrange(1, 60)))
            start = draw.randrange(len(content))
            ends = [place + 1 for place, byte in enumerate(content) if byte == 10 and place >= start]
            assert [end_of_line(content, n, start) for n in range(len(ends) + 1)] == [start, *ends]
            with pytest.raises(AssertionError):
                end_of_line(content, len(ends) + 1, start)


def test_a_plain_file_and_an_xz_of_many_blocks_are_cut_up_and_all_else_is_a_stream(tmp_path: Path) -> None:
    content = many_lines(200_000)
    (tmp_path / "t.txt").write_bytes(content)
    blocks = tmp_path / "blocks.txt.xz"
    subprocess.run(["xz", "--stdout", "--block-size=20000", str(tmp_path / "t.txt")], check=True, stdout=blocks.open("wb"))
    (tmp_path / "streams.txt.xz").write_bytes(b"".join(lzma.compress(piece) for piece in in_pieces(content, 15_000)))
    (tmp_path / "one.txt.xz").write_bytes(lzma.compress(content))
    for name in ("t.txt", "blocks.txt.xz", "streams.txt.xz"):
        places = cuts(tmp_path / name, 30_000)
        assert places is not None
        assert 4 <= len(places) <= 7
        assert b"".join(cut_chunk(tmp_path / name, place, True).content[0] for place in reversed(places)) != content
        assert b"".join(cut_chunk(tmp_path / name, place, True).content[0] for place in places) == content
    assert cuts(tmp_path / "one.txt.xz", 30_000) is None
    assert cuts(tmp_path / "one.txt.xz", 1 << 20) is None  # small: nothing to cut


def test_documents_and_line_numbers_do_not_depend_on_the_chunks(tmp_path: Path) -> None:
    path = tmp_path / "en.txt"
    path.write_bytes(many_lines(20_000) + b"no empty line\n" * 500)
    corpus = Corpus("m", "cc100", ("en",), (path,))

    def all_lines(chunks: Iterator[readers.Chunk]) -> list[tuple[int, str, int]]:
        found, line, document = [], 0, 0
        for chunk in chunks:
            document += chunk.starts_document
            last = 0
            for lines in readers.parse(corpus, chunk):
                for number, text, last in zip(lines.numbers, lines.texts[0], lines.documents, strict=True):
                    found.append((line + int(number), text, document + int(last)))
            line, document = line + readers.num_lines(chunk), document + int(last)
        return found

    whole = all_lines(readers.chunks(corpus, 1 << 30, no_count))
    places = cuts(path, 700)
    assert places is not None
    assert len(places) > 30
    for chunks in (readers.chunks(corpus, 700, no_count), iter([readers.cut_chunk(corpus, place) for place in places])):
        found = all_lines(chunks)
        assert [entry[:2] for entry in found] == [entry[:2] for entry in whole]
        same = [[a[2] == b[2] for a, b in pairwise(entries)] for entries in (found, whole)]
        assert same[0] == same[1]


def test_damage_in_a_block_is_an_error_of_the_chunk_that_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_file, "PIECE_BYTES", 1000)
    monkeypatch.setattr(cutting, "FIRST_LOOK", 1000)
    content = many_lines(200_000)
    packed = [lzma.compress(piece) for piece in in_pieces(content, 20_000)]
    broken = bytearray(packed[3])
    broken[len(broken) // 2] ^= 1
    path = tmp_path / "b.txt.xz"
    path.write_bytes(b"".join([*packed[:3], bytes(broken), *packed[4:]]))
    places = cuts(path, 20_000)
    assert places is not None
    for place in places:
        expected = pytest.raises(InputError, match=r"b\.txt\.xz: truncated, damaged or no xz file")
        with expected if place.index == 3 else contextlib.nullcontext():
            cut_chunk(path, place, True)
    path.write_bytes(b"".join(packed)[:-7])
    with pytest.raises(InputError, match="truncated, damaged"):
        cuts(path, 20_000)
