"""Lines of text that a person names: where they end, and what of a file is no text."""

from __future__ import annotations

import gzip
import lzma
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ernie_m.base.console import InputError
from ernie_m.corpus.aligned_files import read_aligned, read_parallel
from ernie_m.corpus.texts import FileLines, read_lines
from ernie_m.corpus.word_links import read_gold
from ernie_m.corpus.word_pairs import read_dictionary
from ernie_m.downstream import columns


def test_lines_end_at_line_feeds_alone(tmp_path: Path) -> None:
    path = tmp_path / "in"
    for text, lines in (
        ("a\u2028b\nc\x0cd\n", ["a\u2028b", "c\x0cd"]),
        ("", []),
        ("\n", [""]),
        ("a", ["a"]),
        ("a\n\n", ["a", ""]),
        ("a\rb\nc\ufeff\n", ["a\rb", "c\ufeff"]),
    ):
        path.write_text(text, encoding="utf-8", newline="")
        assert read_lines(path) == lines
    path.write_bytes(b"fine\n\xff\n")
    with pytest.raises(InputError, match="line 2: not UTF-8; convert the text"):
        read_lines(path)
    with pytest.raises(InputError, match="a folder; expected a file of text, a sentence a line"):
        read_lines(tmp_path)


READERS: dict[str, Callable[[Path], Sequence[object]]] = {
    "lines": read_lines,
    "aligned": lambda path: read_aligned(path, path)[0],
    "parallel": lambda path: read_parallel([path])[0],
    "of a vocabulary": lambda path: [*FileLines(path)],
    "dictionary": lambda path: [read_dictionary(path, 10).source, read_dictionary(path, 10).target],
    "word links": read_gold,
    "columns": lambda path: [*columns.lines_of(path)],
}


@pytest.mark.parametrize("name", READERS)
def test_a_packed_file_is_read_as_what_it_holds_and_a_damaged_one_is_told(name: str, tmp_path: Path) -> None:
    content = b"0-0 1-1\n" if name == "word links" else b"house haus\ndog\thund\n"
    (tmp_path / "plain").write_bytes(content)
    plain = READERS[name](tmp_path / "plain")
    for suffix, packed in ((".gz", gzip.compress(content)), (".xz", lzma.compress(content))):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(packed)
        assert READERS[name](path) == plain
        path.write_bytes(packed[:-5])
        with pytest.raises(InputError, match=f"a{suffix}: truncated, damaged or no {suffix} file"):
            READERS[name](path)


@pytest.mark.parametrize("name", sorted({*READERS} - {"word links"}))
def test_what_an_editor_adds_is_no_text(name: str, tmp_path: Path) -> None:
    lines = ["house haus", "a\u2028b\tdog"]
    for ends, mark in (("\n", ""), ("\r\n", "\ufeff")):
        (tmp_path / ends.encode().hex()).write_bytes((mark + "".join(line + ends for line in lines)).encode())
    plain, edited = (READERS[name](tmp_path / ends.encode().hex()) for ends in ("\n", "\r\n"))
    assert len(plain) == len(lines)
    assert plain == edited


def test_a_pipe_of_the_shell_is_read(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"one\ntwo\n")
    os.close(writing)
    assert read_lines(Path(f"/dev/fd/{reading}")) == ["one", "two"]
    os.close(reading)
