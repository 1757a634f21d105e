"""One member of an archive as pieces of plain bytes: of a .zip, or of a .tar, plain or packed.

Archives are streamed and nothing is written to the disk, so names such as `../x` in them do no harm. The standard library
reads headers and lists of members whole into memory, however long they are: so it gets files that refuse long reads.
"""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from data_prep.inputs import Input
from data_prep.limits import DEFAULT_LIMITS, Expansion, Limits, ShortReads, TooLongError, refuse
from data_prep.readers.streams import DECOMPRESSORS, PIECE_BYTES, damage_named, require_content, unpacked
from data_prep.records import Count, no_count
from ernie_m.base.console import InputError
from ernie_m.base.language_codes import agree

TAR_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.bz2", ".tar.zst")
ENDS_KNOWN = (".zip", *DECOMPRESSORS)
"""Files that show themselves whether they are whole."""
NOT_TEXT = ("readme", "license", "licence")  # what OPUS puts beside the text
ZIP_METHODS = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "LZMA"}
SHOWN = 6
MOST_GLOBAL_HEADERS = 1000  # of a tar archive: attributes that count for all further members


def is_zip(path: Input) -> bool:
    """Whether the name says it is a zip archive."""
    return path.name.lower().endswith(".zip")


def is_tar(path: Input) -> bool:
    """Whether the name says it is a tar archive, packed or not."""
    return path.name.lower().endswith(TAR_SUFFIXES)


def read_pieces(path: Input, count: Count, limits: Limits = DEFAULT_LIMITS) -> Iterator[bytes]:
    """The plain content of a file; an archive must hold exactly one text.

    Raises InputError when it is missing, empty, truncated, damaged, beyond the limits, or not of the kind its name says.
    """
    if is_zip(path):
        return read_zip_member(path, _only_member, count, limits)
    if is_tar(path):
        return read_tar_member(path, _may_be_text, "a text", count, limits)
    return unpacked(path, count, limits)


def read_zip_member(
    path: Input, choose: Callable[[list[str], Input], str], count: Count, limits: Limits = DEFAULT_LIMITS
) -> Iterator[bytes]:
    """The content of the member that `choose(names, path)` picks; `count` gets the member's compressed bytes."""
    require_content(path)
    with damage_named(path, "zip"), ShortReads(path, limits.zip_directory_bytes) as opened:
        try:
            archive = zipfile.ZipFile(opened)
        except TooLongError as error:
            found = f"its list of members has {error} bytes"
            raise refuse(path, found, "zip_directory_bytes", limits) from None
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        info = archive.getinfo(choose(names, path))
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # those the library unpacks without a limit
            kind = ZIP_METHODS.get(info.compress_type, f"method {info.compress_type}")
            raise InputError(f"{path}: {info.filename} is packed by {kind}, expected deflate; unpack it, or pack it again")
        packed_share = info.compress_size / max(info.file_size, 1)
        expansion = Expansion(path, limits)
        expansion.add(packed=info.compress_size)
        with archive.open(info) as file:
            while piece := file.read(PIECE_BYTES):
                count(int(len(piece) * packed_share))
                expansion.add(plain=len(piece))
                yield piece


def read_tar_member(
    path: Input, is_wanted: Callable[[str], bool], wanted: str, count: Count, limits: Limits = DEFAULT_LIMITS
) -> Iterator[bytes]:
    """The content of the one member whose name `is_wanted`; the archive is read once, to its end."""
    packed = unpacked(path, count, limits)
    readable = _Readable(packed, path, limits)
    found: str | None = None
    names: list[str] = []
    num_members = 0
    with damage_named(path, "tar"):
        for archive, member in _members(readable):
            num_members += 1
            if num_members <= SHOWN:
                names.append(member.name)
            if not (member.isfile() and is_wanted(member.name)):
                continue
            if member.issparse():
                raise InputError(f"{path}: {member.name} is a sparse file; expected text; unpack it, or pack it again")
            if found is not None:
                raise InputError(f"{path}: both {found} and {member.name} are {wanted}; expected one, split the archive")
            found = member.name
            file: Any = archive.extractfile(member)
            while piece := file.read(PIECE_BYTES):
                yield piece
    for _ in packed:  # what follows the archive's end: the checksum at the end of the stream is checked too
        pass
    if found is None:
        raise InputError(
            f"{path}: no member is {wanted}; it holds {_listed(names, num_members)}; check the languages in the catalog"
        )


def _members(readable: _Readable) -> Iterator[tuple[Any, tarfile.TarInfo]]:
    """All members of an archive, none of which is remembered."""
    readable.begin_header()
    archive: Any
    file: Any = readable  # has what tarfile needs
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (member := archive.next()) is not None:
            readable.end_header(len(archive.pax_headers))
            yield archive, member
            archive.members.clear()
            readable.begin_header()


def is_language_file(name: str, language: str, exactly: bool = False) -> bool:
    """Whether a member's name ends in .<language>, e.g. Tatoeba.de-en.de; `de_DE` counts for `de` unless `exactly`."""
    base = name.rpartition("/")[2]
    return not base.startswith("._") and "." in base and agree(base.rpartition(".")[2], language, exactly)


def choose_language_member(names: list[str], path: Input, language: str) -> str:
    """The one name that ends in .<language>, an exact code before a related one; InputError when there is not one."""
    for exactly in (True, False):
        candidates = [name for name in names if is_language_file(name, language, exactly)]
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise InputError(f"{path}: {_listed(candidates)} all end in .{language}; expected one, split the archive")
    raise InputError(f"{path}: no member ends in .{language}; it holds {_listed(names)}; check the languages in the catalog")


def check_whole(path: Input, name: str) -> None:
    """Raise InputError unless the packed file, called `name` later (with an end in ENDS_KNOWN), is there to its end."""
    suffix = Path(name).suffix.lower()
    if suffix == ".zip":  # the list of members comes last
        with damage_named(path, "zip"), ShortReads(path, DEFAULT_LIMITS.zip_directory_bytes) as opened:
            zipfile.ZipFile(opened)
    else:
        for _ in unpacked(path, no_count, suffix=suffix):
            pass


def _may_be_text(name: str) -> bool:
    return not name.rpartition("/")[2].lower().startswith((*NOT_TEXT, "._"))


def _only_member(names: list[str], path: Input) -> str:
    texts = list(filter(_may_be_text, names))
    if len(texts) != 1:
        raise InputError(f"{path}: holds {_listed(names)}; expected exactly one text; unpack the one to read")
    return texts[0]


def _listed(names: list[str], count: int | None = None) -> str:
    """The first of `count` names, or of all that there are."""
    count = len(names) if count is None else count
    shown = [name if len(name) <= 100 else f"{name[:100]}..." for name in islice(names, SHOWN)]
    return ", ".join(shown) + (f" and {count - SHOWN} more" if count > SHOWN else "") or "nothing"


class _Readable:
    """The seekable file that tarfile asks for, over pieces: it goes forward only, and counts what headers take."""

    def __init__(self, pieces: Iterator[bytes], path: Input, limits: Limits) -> None:
        self._pieces, self._path, self._limits = pieces, path, limits
        self._pending, self._position = b"", 0
        self._in_header, self._of_header, self._of_headers = False, 0, 0

    def begin_header(self) -> None:
        """What is read from here on is a header, kept in memory."""
        self._in_header, self._of_header = True, 0

    def end_header(self, num_global: int) -> None:
        """The header is read; there are so many attributes for all members."""
        self._in_header = False
        if num_global > MOST_GLOBAL_HEADERS:
            raise self._refusal()

    def _refusal(self) -> InputError:
        found = f"a header near byte {self._position:,} of the archive is too long, or all its headers are"
        return refuse(self._path, found, "tar_header_bytes", self._limits)

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = 0) -> int:
        assert whence == 0, "tarfile seeks from the start"
        if position < self._position:
            raise tarfile.ReadError("it points backwards")
        while self._position < position and self._skip(position - self._position):
            pass
        return self._position

    def _skip(self, size: int) -> int:
        if not self._pending:
            self._pending = next(self._pieces, b"")
        skipped = min(size, len(self._pending))
        self._pending, self._position = self._pending[skipped:], self._position + skipped
        return skipped

    def read(self, size: int) -> bytes:
        if size < 0:
            raise tarfile.ReadError("a header gives a negative size")
        if self._in_header:
            self._of_header += size
            self._of_headers += size
            most = self._limits.tar_header_bytes
            if self._of_header > most + 2 * tarfile.BLOCKSIZE or self._of_headers > 256 * most:
                raise self._refusal()
        parts, missing = [self._pending], size - len(self._pending)
        while missing > 0 and (piece := next(self._pieces, b"")):
            parts.append(piece)
            missing -= len(piece)
        content = b"".join(parts)
        content, self._pending = content[:size], content[size:]
        self._position += len(content)
        return content
