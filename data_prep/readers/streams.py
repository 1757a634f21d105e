"""Files of any packing as pieces of plain bytes.

Plain, .gz, .xz, .bz2; archives: data_prep.readers.archives. The decompressors are called directly, because the standard
library's file objects treat damage after the first stream of an .xz or .bz2 as the end of the file, and an empty .gz as an
empty text. Here every byte of the file must be valid. No piece is longer than PLAIN_BYTES, whatever a byte stands for.
"""

from __future__ import annotations

import bz2
import contextlib
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import xz
import zstandard

from data_prep.inputs import Input
from data_prep.limits import DEFAULT_LIMITS, Expansion, Limits, refuse
from data_prep.records import Count
from ernie_m.base.console import InputError
from ernie_m.corpus import texts

PIECE_BYTES = 1 << 14  # of packed input: small, so that what has been read of a file is known closely
PLAIN_BYTES = 1 << 18  # of what comes out of them
ZSTANDARD_BYTES = 1 << 6
"""At once: a block of 4 bytes may stand for 128 KiB."""
ZSTANDARD_WINDOW = 1 << 27
"""Memory of one stream: what `zstd --ultra -22` and `--long=27` need."""
DAMAGE = (
    zstandard.ZstdError,
    xz.XZError,
    zipfile.BadZipFile,
    tarfile.TarError,
    NotImplementedError,  # zipfile's: unknown compression
    RuntimeError,  # and encryption
)


class Decompressor(Protocol):
    """As bz2 and lzma have it."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    @property
    def needs_input(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Gzip:
    """zlib's decompressor with the manners of the other two."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


class _Zstandard:
    """zstandard's decompressor with the manners of the others; it knows no limit, so it gets little at a time."""

    def __init__(self) -> None:
        self._zstandard = zstandard.ZstdDecompressor(max_window_size=ZSTANDARD_WINDOW).decompressobj()
        self._waiting = b""

    @property
    def eof(self) -> bool:
        return self._zstandard.eof

    @property
    def unused_data(self) -> bytes:
        return self._zstandard.unused_data + self._waiting

    @property
    def needs_input(self) -> bool:
        return not self._waiting

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        data = self._waiting + data
        self._waiting = data[ZSTANDARD_BYTES:]
        return self._zstandard.decompress(data[:ZSTANDARD_BYTES])


def _xz(limits: Limits) -> Decompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=limits.xz_memory_mib << 20)


DECOMPRESSORS: dict[str, tuple[str, Callable[[Limits], Decompressor]]] = {
    ".gz": ("gzip", lambda _: _Gzip()),
    ".tgz": ("gzip", lambda _: _Gzip()),
    ".xz": ("xz", _xz),
    ".bz2": ("bzip2", lambda _: bz2.BZ2Decompressor()),
    ".zst": ("zstandard", lambda _: _Zstandard()),
}


def require_content(path: Input) -> None:
    """Raise InputError when the file is missing or empty."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: a folder, pipe or device; expected a file")
    if not path.is_file():
        raise InputError(f"{path}: no such file; correct the path in the catalog (it is relative to the catalog's folder)")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: empty (0 bytes), expected text; download it again or take it out of the catalog")


def unpacked(path: Input, count: Count, limits: Limits = DEFAULT_LIMITS, suffix: str | None = None) -> Iterator[bytes]:
    """The plain content of a file that is no archive; `suffix`: what it is packed as, if its name does not say so.

    Raises InputError when it is missing, empty, truncated, damaged, beyond the limits, or not of the kind its name says.
    """
    raw = _raw_pieces(path, count)
    kind, new_decompressor = DECOMPRESSORS.get(path.suffix.lower() if suffix is None else suffix, ("", None))
    if new_decompressor is None:
        yield from raw
        return
    expansion = Expansion(path, limits)
    with damage_named(path, kind):
        try:
            for plain in _decompressed(raw, lambda: new_decompressor(limits), expansion):
                expansion.add(plain=len(plain))
                yield plain
        except lzma.LZMAError as error:
            if "Memory usage limit" not in str(error):
                raise
            found = f"needs more than {limits.xz_memory_mib} MiB of memory to unpack"
            raise refuse(path, found, "xz_memory_mib", limits) from None
        except zstandard.ZstdError as error:
            if "too much memory" not in str(error):
                raise
            most = ZSTANDARD_WINDOW >> 20
            raise InputError(
                f"{path}: needs a window of more than {most} MiB to unpack; pack it again without `--long`, or with `=27`"
            ) from None


def _raw_pieces(path: Input, count: Count) -> Iterator[bytes]:
    require_content(path)
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            count(len(piece))
            yield piece


def _decompressed(
    raw: Iterable[bytes], new_decompressor: Callable[[], Decompressor], expansion: Expansion
) -> Iterator[bytes]:
    """Unpack one or more compressed streams, laid end to end with or without zero padding."""
    decompressor, started = None, False
    for piece in raw:
        expansion.add(packed=len(piece))
        packed = piece
        while packed or (decompressor is not None and not decompressor.needs_input):
            if decompressor is None:
                packed = packed.lstrip(b"\0") if started else packed
                if not packed:
                    break
                decompressor, started = new_decompressor(), True
            plain = decompressor.decompress(packed, PLAIN_BYTES)
            for start in range(0, len(plain), PLAIN_BYTES):
                yield plain[start : start + PLAIN_BYTES] if len(plain) > PLAIN_BYTES else plain
            packed = b""
            if decompressor.eof:
                packed, decompressor = decompressor.unused_data, None
    if decompressor is not None:
        raise EOFError("it ends in the middle of a compressed stream")


def damage_named(path: Input, kind: str) -> contextlib.AbstractContextManager[None]:
    """Turn every error of a damaged packed file into one InputError that names the file."""
    return texts.damage_named(path, kind, DAMAGE)
