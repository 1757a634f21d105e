"""Fetch one file to its final name, with as many connections and commands as needed.

1. Bytes go to `<name>.part`, locked against a second fetch; `<name>.part.json` remembers which version of the remote
   file they are of (its ETag or Last-Modified) and how long it is.
2. A later connection asks for the rest of that same version (Range with If-Range). A server that cannot do that, or
   has another version by now, sends the file from the start: then we start over.
3. Only a file as long as the server said, and with the checksum that was asked for, gets its final name. If the server
   does not say how long it is, what is packed must unpack to its end.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from data_prep.connection import DroppedError, RangeRefusedError, RetryPolicy, opened, persist, read_piece
from data_prep.readers.archives import ENDS_KNOWN, check_whole
from data_prep.remote_version import PARTIAL_CONTENT, Version, is_same, start_of, version_of
from ernie_m.base.console import InputError, Progress
from ernie_m.base.files import fsync_path, open_log, read_json, sha256_of, write_json
from ernie_m.base.locks import lock

PIECE_BYTES = 1 << 18


def download(url: str, path: Path, *, sha256: str = "", hint: str = "", retry_policy: RetryPolicy | None = None) -> bool:
    """Bring `url` to `path`; False when it was there already.

    Raises InputError (NotFoundError: with `hint`), GaveUpError, or OSError when the disk is full; what came until then
    is kept, and the next call goes on with it. A `.part` that no fetch of ours began is somebody's: InputError.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(_part_of(path)) as file:
            if not path.exists():  # another fetch may have finished it before we had the lock
                _refuse_foreign(path, os.fstat(file.fileno()).st_size)
                job = _PartialDownload(url, path, file, hint, retry_policy or RetryPolicy(), bool(sha256))
                job.bring()
                os.fsync(file.fileno())
                _check(_part_of(path), sha256)
                os.replace(_part_of(path), path)
                fsync_path(path.parent)
                _memory_of(path).unlink(missing_ok=True)
                return True
            _part_of(path).unlink(missing_ok=True)
    _check(path, sha256)
    return False


def _part_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _memory_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.part.json")


def _remembered(path: Path) -> Version | None:
    """What was stored about the partial file of `path`; None if nothing was, or nothing by us."""
    try:
        return Version(**read_json(_memory_of(path)))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _refuse_foreign(path: Path, have: int) -> None:
    """Raise InputError for a partial file without our notes: a fetch writes them before the first byte."""
    if _remembered(path) is None and (have or os.path.lexists(_memory_of(path))):
        raise InputError(
            f"{_part_of(path)}: not of a fetch of ours ({_memory_of(path).name} does not tell of which file it is); rename "
            "or remove both, and give the same command again"
        )


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[io.FileIO]:
    with open_log(part) as file:  # unbuffered: its size is what we have, also after a full disk
        try:
            lock(file.fileno(), part)
        except BlockingIOError:
            raise InputError(f"{part}: another fetch is writing it; wait for that one, or end it and try again") from None
        yield file


def _check(path: Path, sha256: str) -> None:
    if sha256 and (actual := sha256_of(path)) != sha256.lower():
        raise InputError(
            f"{path}: its SHA-256 is {actual}, expected {sha256.lower()}; remove it and fetch again, or correct --sha256"
        )


@dataclass
class _PartialDownload:
    """The filling of one partial file."""

    url: str
    path: Path
    file: io.FileIO
    hint: str
    retry_policy: RetryPolicy
    is_checked: bool
    """Whether a checksum will tell if the file is whole."""

    def have(self) -> int:
        return os.fstat(self.file.fileno()).st_size

    def bring(self) -> None:
        try:
            persist(self.url, self.retry_policy, self.connect, self.have)
        except BaseException:
            if not self.have():  # nothing to go on with: leave no trace
                _part_of(self.path).unlink(missing_ok=True)
                _memory_of(self.path).unlink(missing_ok=True)
            raise

    def connect(self) -> None:
        """One connection; returns when the partial file is whole, raises DroppedError when it is not yet."""
        expected = _remembered(self.path) or Version()
        if self.have() and expected.length == self.have():
            return  # whole; the last command was ended before the renaming, or had another checksum in mind
        if not expected.validator or self.have() > (expected.length or self.have()):
            self.file.truncate(0)
        start = self.have()
        headers = {"Range": f"bytes={start}-", "If-Range": expected.validator} if start else {}
        try:
            with opened(self.url, headers, self.retry_policy, self.hint) as response:
                self._receive(response, start, expected)
        except RangeRefusedError:
            self.file.truncate(0)
            raise

    def _receive(self, response: http.client.HTTPResponse, start: int, expected: Version) -> None:
        if response.headers.get_content_type() == "text/html":
            raise InputError(f"{self.url}: the server sent a web page, expected the file; see in a browser what it asks for")
        if response.status != PARTIAL_CONTENT:
            self.file.truncate(0)
            start = 0
        version = version_of(response)
        if start:
            if start_of(response) != start or not is_same(version, expected):  # it ignored our Range, or our If-Range
                self.file.truncate(0)
                raise DroppedError("the file has changed on the server; starting over")
            version = Version(expected.validator, version.length)
        if version.length is not None:
            self._require_space(version.length - start)
        write_json(_memory_of(self.path), asdict(version))
        self._copy(response, start, version.length)

    def _copy(self, response: http.client.HTTPResponse, start: int, length: int | None) -> None:
        note = f"after {start:,} fetched before" if start else ""
        progress = Progress(self.path.name, None if length is None else length - start, "bytes")
        have = start
        try:
            while length is None or have < length:
                piece = read_piece(response, PIECE_BYTES if length is None else min(PIECE_BYTES, length - have))
                if not piece:
                    break
                if length is None and have + len(piece) > self.retry_policy.most_unknown_bytes:
                    self.file.truncate(0)
                    raise InputError(
                        f"{self.url}: more than {self.retry_policy.most_unknown_bytes:,} bytes from a server that does not "
                        "tell how many there are; expected an end before; raise --most_gb if you trust it"
                    )
                self._write(piece)
                have += len(piece)
                progress.advance(len(piece), note)
        finally:
            progress.close(note)
        if length is not None and self.have() != length:  # what is on the disk counts
            raise DroppedError(f"it broke off at {self.have():,} of {length:,} bytes")
        if length is None and not self.is_checked:
            self._require_end(has_end=response.chunked)
        if not self.have():
            raise InputError(
                f"{self.url}: the server sent an empty file, expected the corpus; see in a browser what is there"
            )

    def _require_end(self, has_end: bool) -> None:
        """The server told no length, so that breaking off looks like the end: what is packed must be whole.

        has_end: the answer itself has an end, which is believed of what is not packed.
        """
        if self.path.suffix.lower() not in ENDS_KNOWN:
            if has_end:
                return
            raise InputError(f"{self.url}: the server does not tell its length; give what you expect with --sha256")
        try:
            check_whole(_part_of(self.path), self.path.name)
        except InputError:
            have = self.have()
            self.file.truncate(0)
            raise DroppedError(f"it ended at {have:,} bytes without having told a length, and is not whole") from None

    def _write(self, piece: bytes) -> None:
        rest = memoryview(piece)
        try:
            while rest:
                rest = rest[self.file.write(rest) :]
        except OSError as error:
            kept = f"{self.have():,} bytes are kept, give the same command again to go on"
            raise OSError(error.errno, f"{error.strerror}; {kept}", str(_part_of(self.path))) from None

    def _require_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if needed > free:
            raise InputError(
                f"{self.path}: {needed:,} bytes are still to come and its disk has {free:,} free; "
                "free some space or take another --to"
            )
