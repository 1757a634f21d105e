"""What a file is by its first bytes, so that a web page, a table or an archive under another name is not read as text.

Only what is surely something else is refused: a text may hold anything, so one line that looks like markup decides nothing.
"""

from __future__ import annotations

import codecs
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from data_prep.catalog import Corpus
from data_prep.inputs import Input
from data_prep.limits import DEFAULT_LIMITS, Limits
from data_prep.readers.archives import is_tar, read_pieces
from data_prep.records import no_count
from ernie_m.base.console import InputError
from ernie_m.base.language_codes import agree

HEAD_BYTES = 1 << 14


class Kind(NamedTuple):
    """A format that files have, told by bytes at a fixed place."""

    name: str
    magic: bytes
    suffixes: tuple[str, ...] = ()
    """Names under which it is read; none: it is not read at all."""
    offset: int = 0


KINDS = (
    Kind("gzip", b"\x1f\x8b", (".gz", ".tgz")),
    Kind("xz", b"\xfd7zXZ\0", (".xz",)),
    Kind("bzip2", b"BZh", (".bz2",)),
    Kind("zip", b"PK\x03\x04", (".zip",)),
    Kind("zstandard", b"\x28\xb5\x2f\xfd", (".zst",)),
    Kind("lzma (the old format of one stream)", b"\x5d\0\0"),
    Kind("tar", b"ustar", (".tar",), offset=257),
    Kind("Parquet", b"PAR1", (".parquet",)),
    Kind("Arrow", b"ARROW1"),
    Kind("7-Zip", b"7z\xbc\xaf\x27\x1c"),
    Kind("RAR", b"Rar!"),
    Kind("LZ4", b"\x04\x22\x4d\x18"),
    Kind("PDF", b"%PDF-"),
    Kind("SQLite", b"SQLite format 3\0"),
    Kind("Avro", b"Obj\x01"),
    Kind("ORC", b"ORC"),
    *(Kind("pickle", bytes([0x80, protocol])) for protocol in range(2, 6)),
    Kind("Arrow (a stream)", b"\xff\xff\xff\xff"),
    Kind("NumPy", b"\x93NUMPY"),
    Kind("HDF5", b"\x89HDF"),
    Kind("an old Office document", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
    Kind("a picture", b"\x89PNG"),
    Kind("a picture", b"\xff\xd8\xff"),
    Kind("a program", b"\x7fELF"),
    Kind("lzip", b"LZIP"),
    Kind("compress (.Z)", b"\x1f\x9d"),
    Kind("Snappy", b"\xff\x06\0\0sNaPpY"),
)
PACKED = (".gz", ".xz", ".bz2", ".zst", ".zip")
OF_TWO_TEXTS = ("moses", "multiun", "iitb")
CONTROL = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")  # in every packed file, in no text
IN_LETTERS = {
    "a pointer of Git LFS": re.compile(rb"version https://git-lfs\.github\.com/spec/"),
    "a pointer of Xet": re.compile(rb"# xet version \d+\s"),
    "PDF": re.compile(rb"%PDF-\d\.\d\s*[\r\n]"),
    "RTF": re.compile(rb"\{\\rtf\d"),
    "WARC": re.compile(rb"WARC/\d\.\d\r\n"),
}
"""Formats that begin with letters which no text begins with."""
_COMMENTS = rb"(?:<!--(?>.*?-->)\s*+)*+"
WEB_PAGE = re.compile(
    rb"\s*(?:<\?xml[^>]*>\s*)?" + _COMMENTS + rb"(?:<!doctype\s+html|<html[\s>]|<head[\s>])", re.IGNORECASE | re.DOTALL
)
XML = re.compile(rb"\s*<\?xml\s[^>]*>\s*<")
JSON_LIST = re.compile(rb"\s*\[\s*\{\s*\"[^\"\n]{1,60}\"\s*:")
REMEDY = {
    "lzma (the old format of one stream)": "unpack it with `unlzma`",
    "a pointer of Git LFS": "`git lfs pull` brings the file itself",
    "a pointer of Xet": "download the file itself",
}


def refuse_other_content(corpus: Corpus) -> None:
    """Raise InputError for a file that is surely not of the corpus's format, saying what it is."""
    _refuse_swapped(corpus)
    for path in corpus.files:
        _refuse_no_file(path)
        if not path.is_file():
            continue  # said by whoever reads it
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if corpus.format == "parquet" and (others := [kind.name for kind in _kinds_of(head) if kind.name != "Parquet"]):
            raise InputError(f"{path}: its content is {others[0]}, expected Parquet; unpack it, or correct the format")
        _refuse_packing(path, head)
        if corpus.format in OF_TWO_TEXTS and (path.suffix.lower() == ".zip" or is_tar(path)):
            continue
        if corpus.format == "parquet":
            continue  # its reader knows
        _refuse_content(path, unpacked_head(path, head, corpus.limits), corpus.format)


def refuse_no_text(path: Input, head: bytes) -> None:
    """Raise InputError for a file, by its first bytes, that is surely neither text nor packed text, whatever its format."""
    _refuse_packing(path, head)
    head = unpacked_head(path, head).removeprefix(codecs.BOM_UTF8)
    _refuse_letters(path, head)
    _refuse_web_page(path, head, "text")


def unpacked_head(path: Input, head: bytes, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """The first plain bytes of a file; nothing of a damaged one, or of an archive of several texts."""
    if path.suffix.lower() not in PACKED and not is_tar(path):
        return head
    plain = b""
    with suppress(InputError):
        for piece in read_pieces(path, no_count, limits):
            plain += piece
            if len(plain) >= HEAD_BYTES:
                break
    return plain[:HEAD_BYTES]


def _refuse_no_file(path: Input) -> None:
    if path.name == "-":
        raise InputError(
            f"{path}: standard input is read once, and a build reads its files more than once; save it as a file"
        )
    if path.is_fifo():
        raise InputError(f"{path}: a pipe, and a build reads its files more than once; save what comes out of it as a file")
    if path.is_dir():
        raise InputError(f"{path}: a folder; expected a file")


def _refuse_swapped(corpus: Corpus) -> None:
    """Two files whose names end in the codes of each other's language."""
    if len(corpus.files) != 2 or len(corpus.languages) != 2:
        return
    codes = [Path(path.stem if path.suffix.lower() in PACKED else path.name).suffix[1:] for path in corpus.files]
    crossed = zip(codes, reversed(corpus.languages), strict=True)
    straight = zip(codes, corpus.languages, strict=True)
    if all(agree(code, language) for code, language in crossed) and not any(agree(c, language) for c, language in straight):
        raise InputError(
            f"{corpus.files[0]}: named as {codes[0]}, and the catalog says that source and target are "
            f"{' and '.join(corpus.languages)}; write languages: [{corpus.languages[1]}, {corpus.languages[0]}]"
        )


def _refuse_packing(path: Input, head: bytes) -> None:
    for kind in _kinds_of(head):
        if path.suffix.lower() in kind.suffixes:
            continue
        if kind.suffixes:
            end = kind.suffixes[0]
            raise InputError(
                f"{path}: its content is {kind.name}, its name says otherwise; give it a name that ends in {end}"
            )
        raise _not_text(path, kind.name)
    _refuse_letters(path, head)


def _refuse_letters(path: Input, head: bytes) -> None:
    for name, letters in IN_LETTERS.items():
        if letters.match(head):
            raise _not_text(path, name)


def _not_text(path: Input, name: str) -> InputError:
    remedy = REMEDY.get(name, "convert it to text, or take it out of the catalog")
    return InputError(f"{path}: its content is {name}, not text; {remedy}")


def _refuse_content(path: Input, head: bytes, form: str) -> None:
    head = head.removeprefix(codecs.BOM_UTF8)
    if path.suffix.lower() in PACKED or is_tar(path):
        for kind in _kinds_of(head):
            if kind.name == "tar" and not is_tar(path):
                raise InputError(f"{path}: holds a tar archive; give it a name such as {path.stem}.tar{path.suffix}")
            raise InputError(f"{path}: holds {kind.name} inside; expected text in the format {form}; unpack it once more")
        _refuse_letters(path, head)
    _refuse_web_page(path, head, f"text in the format {form}")
    if form != "tmx" and XML.match(head) and _mostly(head, b"<"):
        raise InputError(f"{path}: XML; expected text in the format {form}; download the text, or extract it")
    if JSON_LIST.match(head) and _mostly(head, b"[", b"]", b"{", b"}", b'"'):
        raise InputError(f"{path}: JSON, one list; expected text in the format {form}; `jq -c '.[]'` makes an object a line")
    if form != "jsonl" and _is_json_lines(head):
        raise InputError(f"{path}: JSON, an object a line; expected text in the format {form}; give `format: jsonl`")


def _refuse_web_page(path: Input, head: bytes, expected: str) -> None:
    if WEB_PAGE.match(head):
        title = re.search(rb"<title>([^<]*)", head, re.IGNORECASE)
        told = f" ({' '.join(title[1].decode('utf-8', 'replace').split())[:80]})" if title else ""
        raise InputError(f"{path}: a web page{told}; expected {expected}; download the file itself")


def _mostly(head: bytes, *starts: bytes) -> bool:
    """Whether more than half of the lines begin with one of these."""
    lines = [line.lstrip() for line in head.split(b"\n") if line.strip()]
    return sum(line.startswith(starts) for line in lines) > len(lines) / 2


def _kinds_of(head: bytes) -> list[Kind]:
    """The formats whose marks are there; none of a text that happens to begin so."""
    return [kind for kind in KINDS if head.startswith(kind.magic, kind.offset) and CONTROL.search(head)]


def _is_json_lines(head: bytes) -> bool:
    """Whether the first lines are all JSON objects; a line that is longer than the head tells nothing but its beginning."""
    lines = [line for line in head.split(b"\n")[:5] if line.strip()]
    if not lines or not all(line.lstrip().startswith(b"{") for line in lines):
        return False
    if len(lines) == 1 and len(head) == HEAD_BYTES:
        return bool(re.match(rb'\s*\{\s*"[^"]{1,60}"\s*:', head))
    try:
        return all(isinstance(json.loads(line), dict) for line in lines[: max(1, len(lines) - 1)])
    except (ValueError, RecursionError):
        return False
