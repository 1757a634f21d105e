"""Where the files of corpora are opened: on a disk, or at an address (https://, s3://, hf://, ...). The one opener.

1. A catalog's path becomes an `Input` (`input_at`): a Path, or a `Remote`, which has what readers ask of a Path.
2. What is opened of either can be read and entered anywhere. A remote file is streamed and never stored; where a connection
   breaks off, the next one goes on at the byte (remote_file.py).
3. http and https go through our own connections (over_http.py), all else through fsspec (by_fsspec.py): `PROTOCOLS`.

A remote file has the name, size and content of a local copy, so that the same bytes come of both.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from ernie_m.base.command_line import nearest, with_home_expanded
from ernie_m.base.console import InputError
from ernie_m.base.secret_names import shown_url

if TYPE_CHECKING:
    from data_prep.inputs.remote_file import RemoteFile

BUFFER_BYTES = 1 << 19

OVER_HTTP, BY_FSSPEC = "over_http", "by_fsspec"
OF_FSSPEC = ("s3", "gs", "az", "hf", "file", "memory")
"""No others: fsspec knows some that run commands, and some that unpack archives."""
PROTOCOLS = {**dict.fromkeys(("http", "https"), OVER_HTTP), **dict.fromkeys(OF_FSSPEC, BY_FSSPEC)}
"""Protocol -> the module here that reads it; loaded where it is needed, with all that speaks to servers."""


class Status(NamedTuple):
    """What readers ask of `Path.stat`."""

    st_size: int
    st_mtime_ns: int
    """Of a remote file: a number that changes with its version."""


@dataclass(frozen=True)
class Remote:
    """A file at an address. Shown without secrets."""

    url: str = field(repr=False)

    @property
    def name(self) -> str:
        """The last part of its path."""
        parts = urlsplit(self.url)
        return PurePosixPath(unquote(parts.path)).name or parts.netloc

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def suffixes(self) -> list[str]:
        return PurePosixPath(self.name).suffixes

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    def __str__(self) -> str:
        return shown_url(self.url)

    def exists(self) -> bool:
        """Whether there is such a file. Raises InputError or OSError where nobody can tell."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    is_file = exists

    def is_dir(self) -> bool:
        return False

    is_fifo = is_dir

    def stat(self) -> Status:
        """Asked once by each process. Raises FileNotFoundError, InputError, or OSError where the server is not reached."""
        return _status(self.url)

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """Its bytes, from any place on."""
        assert mode == "rb", "remote files are only read"
        return io.BufferedReader(raw(self), BUFFER_BYTES)


Input = Path | Remote


@lru_cache(maxsize=1 << 16)
def _status(url: str) -> Status:
    with contextlib.closing(_opened(url)) as file:
        version = int.from_bytes(hashlib.blake2b(file.version.encode(), digest_size=7).digest(), "big")
        return Status(file.size, version)


def raw(path: Input) -> io.RawIOBase:
    """The file, opened without a buffer. Raises FileNotFoundError, InputError or OSError."""
    return io.FileIO(path) if isinstance(path, Path) else _opened(path.url)


def input_at(text: str, folder: Path) -> Input:
    """What a catalog in `folder` means by a path. Raises InputError for an address that nothing reads."""
    if not is_address(text):
        return folder / with_home_expanded(text, "the path")
    scheme = scheme_of(text)
    if scheme not in PROTOCOLS or "::" in text:
        hint = nearest(scheme, PROTOCOLS) or ","
        known = ", ".join(f"{name}://" for name in PROTOCOLS)
        raise InputError(f"{shown_url(text)}: not an address that can be read{hint} expected one of {known}")
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise InputError(f"{shown_url(text)}: not an address ({error})") from None
    if PROTOCOLS[scheme] == OVER_HTTP and re.search(r"[\s\x00-\x20\x7f]|[^\x00-\x7f]", text):
        raise InputError(f"{shown_url(text)}: no address has such characters or spaces; write them as %20 and so on")
    if not (parts.netloc or parts.path.strip("/")):
        raise InputError(f"{shown_url(text)}: an address without a file")
    return Remote(text)


def is_address(text: str) -> bool:
    """Whether a catalog's path is an address."""
    return "://" in text


def matching(text: str) -> list[str]:
    """The addresses that one with * stands for, sorted. Raises InputError where the server cannot tell."""
    scheme = scheme_of(text)
    if PROTOCOLS[scheme] == OVER_HTTP:
        raise InputError(f"{shown_url(text)}: a server of {scheme} does not list its files; give a list of addresses")
    return sorted(_module(text).matching(text))


def _opened(url: str) -> RemoteFile:
    file: RemoteFile = _module(url).open_file(url)
    return file


def _module(url: str) -> Any:
    return importlib.import_module(f"{__name__}.{PROTOCOLS[scheme_of(url)]}")


def scheme_of(url: str) -> str:
    """The protocol of an address, in lower case."""
    return url.partition("://")[0].lower()
