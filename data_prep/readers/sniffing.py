"""What a file is by its first bytes, so that a web page, a table or an archive under another name is not read as text.

Only what is surely something else is refused: a text may hold anything, so one line that looks like markup decides nothing.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from data_prep.catalog import Corpus
from data_prep.inputs import Input
from data_prep.limits import DEFAULT_LIMITS, Limits
from data_prep.readers.archives import read_pieces
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
    Kind("pickle", b"\x80\x04\x95"),
)
PACKED = (".gz", ".xz", ".bz2", ".zst", ".zip")
CONTROL = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")  # in every packed file, in no text
WEB_PAGE = re.compile(rb"\s*(<!doctype\s+html|<html[\s>])", re.IGNORECASE)
REMEDY = {"lzma (the old format of one stream)": "unpack it with `unlzma`"}


def refuse_other_content(corpus: Corpus) -> None:
    """Raise InputError for a file that is surely not of the corpus's format, saying what it is."""
    _refuse_swapped(corpus)
    for path in corpus.files:
        _refuse_no_file(path)
        if not path.is_file():
            continue  # said by whoever reads it
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        _refuse_packing(path, head)
        if path.suffix.lower() == ".zip" and corpus.format in ("moses", "multiun"):
            continue  # of many texts
        if corpus.format == "parquet":
            continue  # its reader knows
        _refuse_content(path, unpacked_head(path, head, corpus.limits), corpus.format)


def unpacked_head(path: Input, head: bytes, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """The first plain bytes of a file; nothing of a damaged one, or of an archive of several texts."""
    if path.suffix.lower() not in PACKED:
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
        remedy = REMEDY.get(kind.name, "convert it to text, or take it out of the catalog")
        raise InputError(f"{path}: its content is {kind.name}, not text; {remedy}")


def _refuse_content(path: Input, head: bytes, form: str) -> None:
    if path.suffix.lower() in PACKED:
        for kind in _kinds_of(head):
            if kind.name == "tar" and ".tar" not in path.suffixes:
                raise InputError(f"{path}: holds a tar archive; give it a name such as {path.stem}.tar{path.suffix}")
            if kind.name != "tar":
                raise InputError(
                    f"{path}: holds {kind.name} inside; expected text in the format {form}; unpack it once more"
                )
    if WEB_PAGE.match(head):
        title = re.search(rb"<title>([^<]*)", head, re.IGNORECASE)
        told = f" ({' '.join(title[1].decode('utf-8', 'replace').split())[:80]})" if title else ""
        raise InputError(f"{path}: a web page{told}; expected text in the format {form}; download the file itself")
    if form != "jsonl" and _is_json_lines(head):
        raise InputError(f"{path}: JSON, an object a line; expected text in the format {form}; give `format: jsonl`")


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
