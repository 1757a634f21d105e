"""Packed files: every byte counts, and lines end at \\n alone."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from prep_samples import tarred

from data_prep import readers
from data_prep.catalog import Corpus
from data_prep.readers.archives import (
    choose_language_member,
    is_language_file,
    read_pieces,
    read_tar_member,
    read_zip_member,
)
from data_prep.readers.lines import MAX_LINE_BYTES, TOO_LONG, decode, judge_encoding, split_lines
from data_prep.records import no_count
from ernie_m.base.console import InputError

TEXT = "".join(f"line {i}: naïve 猫\n" for i in range(20)).encode()


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README", "about")
        archive.writestr("corpus.txt", content)
    return buffer.getvalue()


def read_all(path: Path) -> bytes:
    return b"".join(read_pieces(path, no_count))


def read_en_of_tar(path: Path) -> bytes:
    is_english = partial(is_language_file, language="en")
    return b"".join(read_tar_member(path, is_english, "a text ending in .en", no_count))


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "t.txt.gz": gzip.compress,
    "t.txt.xz": lzma.compress,
    "t.txt.bz2": bz2.compress,
    "t.txt.zip": zipped,
}


@pytest.mark.parametrize("name", ["t.txt", *PACKERS])
def test_every_packing_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(PACKERS.get(name, bytes)(TEXT))
    assert read_all(path) == TEXT


@pytest.mark.parametrize("name", PACKERS)
def test_truncation_at_every_byte_is_an_error_that_names_the_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    packed = PACKERS[name](TEXT)
    for length in range(len(packed)):
        path.write_bytes(packed[:length])
        with pytest.raises(InputError, match=name):
            read_all(path)


@pytest.mark.parametrize("wanted_first", [True, False])
def test_truncation_of_a_tgz_at_every_byte_is_an_error(tmp_path: Path, wanted_first: bool) -> None:
    files = {"p/c.en": TEXT, "p/c.hi": b"other\n" * 50}
    packed = tarred(files if wanted_first else dict(reversed(files.items())))
    path = tmp_path / "parallel.tgz"
    path.write_bytes(packed)
    assert read_en_of_tar(path) == TEXT
    for length in range(len(packed)):
        path.write_bytes(packed[:length])
        with pytest.raises(InputError, match=r"parallel\.tgz"):
            read_en_of_tar(path)


def test_truncation_of_a_plain_tar_within_the_member_is_an_error(tmp_path: Path) -> None:
    packed = tarred({"c.hi": b"x\n", "c.en": TEXT}, "w:")
    path = tmp_path / "parallel.tar"
    end = packed.index(TEXT) + len(TEXT)
    for length in range(1, end):
        path.write_bytes(packed[:length])
        with pytest.raises(InputError, match=r"parallel\.tar"):
            read_en_of_tar(path)


@pytest.mark.parametrize("name", ["t.txt.gz", "t.txt.xz", "t.txt.bz2"])
def test_streams_laid_end_to_end_are_all_read_and_a_damaged_second_one_is_an_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    pack = PACKERS[name]
    first, second = pack(TEXT), pack(b"second\n")
    path.write_bytes(first + second)
    assert read_all(path) == TEXT + b"second\n"
    path.write_bytes(first + b"\0" * 8 + second + b"\0" * 4)
    assert read_all(path) == TEXT + b"second\n"
    path.write_bytes(first + b"XX" + second[2:])
    with pytest.raises(InputError, match="truncated, damaged"):
        read_all(path)
    for length in range(len(first) + 1, len(first) + len(second)):
        path.write_bytes((first + second)[:length])
        with pytest.raises(InputError, match="truncated, damaged"):
            read_all(path)


@pytest.mark.parametrize("name", PACKERS)
def test_a_flipped_bit_in_the_middle_is_an_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    packed = bytearray(PACKERS[name](TEXT))
    packed[len(packed) // 2 - 20] ^= 0x10
    path.write_bytes(packed)
    with pytest.raises(InputError, match=name):
        read_all(path)


@pytest.mark.parametrize("name", [*PACKERS, "t.tmx.gz"])
def test_a_web_page_under_a_packed_name_is_an_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"<!DOCTYPE html><html>404</html>" * 20)
    with pytest.raises(InputError, match=r"no (gzip|xz|bzip2|zip) file"):
        read_all(path)


def test_missing_and_empty_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.gz: no such file"):
        read_all(tmp_path / "gone.gz")
    for name in ("e.txt", "e.gz", "e.xz", "e.zip"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(InputError, match=rf"{name}: empty"):
            read_all(tmp_path / name)


def test_a_zip_of_several_texts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "a")
        archive.writestr("b.txt", "b")
    with pytest.raises(InputError, match="exactly one text"):
        read_all(path)


def test_input_bytes_are_counted(tmp_path: Path) -> None:
    for name, pack in PACKERS.items():
        path = tmp_path / name
        path.write_bytes(pack(TEXT * 2000))
        counted: list[int] = []
        for _ in read_pieces(path, counted.append):
            pass
        assert 0.5 * path.stat().st_size < sum(counted) <= path.stat().st_size


def test_an_exact_language_code_wins_over_a_related_one() -> None:
    names = ["README", "c.pt-en.ids", "c.pt-en.pt_BR", "c.pt-en.pt", "c.pt-en.en", "._c.pt"]
    assert choose_language_member(names, Path("c.zip"), "pt") == "c.pt-en.pt"
    assert choose_language_member(names[:3], Path("c.zip"), "pt") == "c.pt-en.pt_BR"
    with pytest.raises(InputError, match=r"no member ends in \.sw; it holds README, .* and \d more|no member"):
        choose_language_member(names, Path("c.zip"), "sw")
    with pytest.raises(InputError, match="expected one"):
        choose_language_member(["a.de", "b.de"], Path("c.zip"), "de")


def test_two_texts_of_a_language_in_a_tar_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.tgz"
    path.write_bytes(tarred({"a.en": b"a\n", "b.en": b"b\n"}))
    with pytest.raises(InputError, match=r"both a\.en and b\.en"):
        read_en_of_tar(path)


def test_a_zip_member_is_chosen_by_the_caller(tmp_path: Path) -> None:
    path = tmp_path / "t.zip"
    path.write_bytes(zipped(TEXT))
    assert b"".join(read_zip_member(path, lambda names, _: names[0], no_count)) == b"about"


def test_lines_end_at_newline_alone() -> None:
    odd = ["a\u2028b", "c\u0085d", "e\rf", "g\0h", "i\ufeffj", "k\x0bl\x0cm\x1cn\x1d", "\u2029", "", "\ufefflater"]
    content = b"\xef\xbb\xbf" + "\n".join(odd).encode() + b"\ncrlf\r\n\r\nlast"
    assert decode(split_lines(content, is_file_start=True)) == ([*odd, "crlf", "", "last"], {})
    assert decode(split_lines(content, is_file_start=False))[0][0] == "\ufeff" + odd[0]


def test_a_final_newline_adds_no_line() -> None:
    assert split_lines(b"a\nb\n", True) == split_lines(b"a\nb", True) == [b"a", b"b"]
    assert split_lines(b"a\n\n", True) == [b"a", b""]
    assert split_lines(b"", True) == []


def test_a_rare_undecodable_line_is_marked_shown_and_keeps_its_place() -> None:
    texts, rejected = decode([b"a", b"x\xff", "ü".encode(), b"\xc3"] + [b"x"] * 5)
    assert texts[:4] == ["a", "x\\xff", "ü", "\\xc3"]
    assert rejected == {1: "not UTF-8", 3: "not UTF-8"}
    assert decode([b"x" * (MAX_LINE_BYTES + 1), b"\xff"])[1] == {0: TOO_LONG, 1: "not UTF-8"}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "latin-1", "cp1251"])
@pytest.mark.parametrize("count", [4, 5000])
def test_a_file_in_another_encoding_stops_with_one_clear_line(encoding: str, count: int) -> None:
    text = "très âgé\n" * count if encoding != "cp1251" else "полёт\n" * count
    with pytest.raises(InputError, match=r"wrong\.txt: [\d,]+ of the first [\d,]+ lines are not UTF-8"):
        judge_encoding(split_lines(text.encode(encoding), True), "wrong.txt")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_english_in_utf_16_is_noticed_though_its_bytes_are_utf_8_too(encoding: str) -> None:
    with pytest.raises(InputError, match="are not UTF-8"):
        judge_encoding(split_lines(("plain text\n" * 50).encode(encoding), True), "f")


def test_exactly_half_undecodable_is_tolerated_and_blank_lines_do_not_vote() -> None:
    judge_encoding([b"\xff", b"a"] * 600, "f")
    with pytest.raises(InputError):
        judge_encoding([b"\xff", b"", b"", b"\xff", b"a"], "f")
    judge_encoding([b"a"] * 1000 + [b"\xff"] * 3000, "f")  # judged by its beginning


@pytest.mark.parametrize("chunk_bytes", [1, 7, 100, 1 << 20])
@pytest.mark.parametrize(("left", "right"), [(5, 3), (3, 5), (0, 2), (1001, 1000), (1000, 70_000)])
def test_unequal_sides_are_fatal_with_both_counts(tmp_path: Path, left: int, right: int, chunk_bytes: int) -> None:
    for name, count in (("T.de", left), ("T.en", right)):
        (tmp_path / name).write_text(f"{name}\n" * count or " " * 0)
    with zipfile.ZipFile(tmp_path / "T.zip", "w") as archive:
        for name in ("T.de", "T.en"):
            archive.write(tmp_path / name, name)
    corpus = Corpus("c", "moses", ("de", "en"), (tmp_path / "T.zip",))
    with pytest.raises(InputError, match=rf"\(de\) has {left:,} lines and .*\(en\) has {right:,}"):
        list(readers.chunks(corpus, chunk_bytes, no_count))
