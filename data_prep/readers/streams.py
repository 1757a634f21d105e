"""Files of any packing as pieces of plain bytes.

Plain, .gz, .xz, .bz2, one member of a .zip, one member of a .tar/.tgz/.tar.gz/.tar.xz/.tar.bz2. The decompressors are
called directly, because the standard library's file objects treat damage after the first stream of an .xz or .bz2 as the end
of the file, and an empty .gz as an empty text. Here every byte of the file must be valid.
"""

from __future__ import annotations

import bz2
import contextlib
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import xz

from data_prep.records import Count
from ernie_m.base.console import InputError
from ernie_m.base.language_codes import agree

PIECE_BYTES = 1 << 14  # of packed input: small, so that what has been read of a file is known closely
TAR_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.bz2")
NOT_TEXT = ("readme", "license", "licence")  # what OPUS puts beside the text

Decompressor = Callable[[], Any]
DECOMPRESSORS: dict[str, tuple[str, Decompressor]] = {
    ".gz": ("gzip", lambda: zlib.decompressobj(wbits=31)),
    ".tgz": ("gzip", lambda: zlib.decompressobj(wbits=31)),
    ".xz": ("xz", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ)),
    ".bz2": ("bzip2", bz2.BZ2Decompressor),
}


def is_zip(path: Path) -> bool:
    """Whether the name says it is a zip archive."""
    return path.name.lower().endswith(".zip")


def is_tar(path: Path) -> bool:
    """Whether the name says it is a tar archive, packed or not."""
    return path.name.lower().endswith(TAR_SUFFIXES)


def read_pieces(path: Path, count: Count) -> Iterator[bytes]:
    """The plain content of a file; a zip must hold exactly one text.

    Raises InputError when the file is missing, empty, truncated, damaged or not of the kind its name says.
    """
    if is_zip(path):
        return read_zip_member(path, _only_member, count)
    return _unpacked(path, count)


def read_zip_member(path: Path, choose: Callable[[list[str], Path], str], count: Count) -> Iterator[bytes]:
    """The content of the member that `choose(names, path)` picks; `count` gets the member's compressed bytes."""
    require_content(path)
    with damage_named(path, "zip"), zipfile.ZipFile(path) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        info = archive.getinfo(choose(names, path))
        packed_share = info.compress_size / max(info.file_size, 1)
        with archive.open(info) as file:
            while piece := file.read(PIECE_BYTES):
                count(int(len(piece) * packed_share))
                yield piece


def read_tar_member(path: Path, is_wanted: Callable[[str], bool], wanted: str, count: Count) -> Iterator[bytes]:
    """The content of the one member whose name `is_wanted`; the archive is read once, to its end."""
    packed = _unpacked(path, count)
    readable: Any = _Readable(packed)
    found: str | None = None
    names: list[str] = []
    with damage_named(path, "tar"), tarfile.open(fileobj=readable, mode="r|") as archive:
        for member in archive:
            names.append(member.name)
            file = archive.extractfile(member) if member.isfile() and is_wanted(member.name) else None
            if file is None:
                continue
            if found is not None:
                raise InputError(f"{path}: both {found} and {member.name} are {wanted}; expected one, split the archive")
            found = member.name
            while piece := file.read(PIECE_BYTES):
                yield piece
    for _ in packed:  # what follows the archive's end: the checksum at the end of the stream is checked too
        pass
    if found is None:
        raise InputError(f"{path}: no member is {wanted}; it holds {_listed(names)}; check the languages in the catalog")


def is_language_file(name: str, language: str, exactly: bool = False) -> bool:
    """Whether a member's name ends in .<language>, e.g. Tatoeba.de-en.de; `de_DE` counts for `de` unless `exactly`."""
    base = name.rpartition("/")[2]
    return not base.startswith("._") and "." in base and agree(base.rpartition(".")[2], language, exactly)


def choose_language_member(names: list[str], path: Path, language: str) -> str:
    """The one name that ends in .<language>, an exact code before a related one; InputError when there is not one."""
    for exactly in (True, False):
        candidates = [name for name in names if is_language_file(name, language, exactly)]
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise InputError(f"{path}: {_listed(candidates)} all end in .{language}; expected one, split the archive")
    raise InputError(f"{path}: no member ends in .{language}; it holds {_listed(names)}; check the languages in the catalog")


def _only_member(names: list[str], path: Path) -> str:
    texts = [name for name in names if not name.rpartition("/")[2].lower().startswith((*NOT_TEXT, "._"))]
    if len(texts) != 1:
        raise InputError(f"{path}: holds {_listed(names)}; expected exactly one text; unpack the one to read")
    return texts[0]


def _listed(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "nothing"


def require_content(path: Path) -> None:
    """Raise InputError when the file is missing or empty."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; correct the path in the catalog (it is relative to the catalog's folder)")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: empty (0 bytes), expected text; download it again or take it out of the catalog")


def _raw_pieces(path: Path, count: Count) -> Iterator[bytes]:
    require_content(path)
    with open(path, "rb") as file:
        while piece := file.read(PIECE_BYTES):
            count(len(piece))
            yield piece


def _unpacked(path: Path, count: Count) -> Iterator[bytes]:
    raw = _raw_pieces(path, count)
    kind, new_decompressor = DECOMPRESSORS.get(path.suffix.lower(), ("", None))
    if new_decompressor is None:
        yield from raw
        return
    with damage_named(path, kind):
        yield from _decompressed(raw, new_decompressor)


def _decompressed(raw: Iterable[bytes], new_decompressor: Decompressor) -> Iterator[bytes]:
    """Unpack one or more compressed streams, laid end to end with or without zero padding."""
    decompressor, started = None, False
    for packed in raw:
        while packed:
            if decompressor is None:
                packed = packed.lstrip(b"\0") if started else packed
                if not packed:
                    break
                decompressor, started = new_decompressor(), True
            if plain := decompressor.decompress(packed):
                yield plain
            packed = b""
            if decompressor.eof:
                packed, decompressor = decompressor.unused_data, None
    if decompressor is not None:
        raise EOFError("it ends in the middle of a compressed stream")


@contextlib.contextmanager
def damage_named(path: Path, kind: str) -> Iterator[None]:
    """Turn every error of a damaged packed file into one InputError that names the file."""
    try:
        yield
    except (EOFError, lzma.LZMAError, xz.XZError, zlib.error, zipfile.BadZipFile, tarfile.TarError) as error:
        reason = str(error)
    except (NotImplementedError, RuntimeError) as error:  # zipfile: unknown compression, encryption
        reason = str(error)
    except OSError as error:
        if error.errno is not None:  # the disk's trouble; bz2 reports damage as an OSError without a number
            raise
        reason = str(error)
    else:
        return
    raise InputError(f"{path}: truncated, damaged or no {kind} file ({reason}); download it again")


class _Readable:
    """The `read` that tarfile asks for, over pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces, self.pending = pieces, b""

    def read(self, size: int) -> bytes:
        parts, missing = [self.pending], size - len(self.pending)
        while missing > 0 and (piece := next(self.pieces, b"")):
            parts.append(piece)
            missing -= len(piece)
        content = b"".join(parts)
        self.pending = content[size:]
        return content[:size]
