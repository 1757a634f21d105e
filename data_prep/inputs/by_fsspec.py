"""Files of object stores and hubs, by fsspec and the package that it needs for each protocol.

Credentials come from where these packages look for them (environment, files of the user), not from the catalog.
"""

from __future__ import annotations

import errno
import re
from functools import lru_cache
from typing import Any

from data_prep.connection import DroppedError, persist
from data_prep.inputs import remote_file, scheme_of
from data_prep.inputs.remote_file import RemoteFile
from ernie_m.base.console import InputError, printable
from ernie_m.base.secret_names import shown_url, without_secrets

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "hf": "huggingface_hub"}
"""Protocol -> the package that reads it beside fsspec."""
BLOCK_BYTES = 4 << 20
"""Asked for at once."""
REFUSED = re.compile("Credential|Auth|Forbidden|Denied|Permission|Gated|Repository|ParamValidation", re.IGNORECASE)
"""Names of errors that another try does not help."""
SHOWN = 300


class FsspecFile(RemoteFile):
    """A file of fsspec's, opened again where reading it fails."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self._file: Any = None
        self._system, self._path = _system(url)
        self.size, self.version = persist(url, remote_file.POLICY, self._facts)

    def close(self) -> None:
        self._leave()
        super().close()

    def _facts(self) -> tuple[int, str]:
        try:
            self._system.invalidate_cache()
            info = self._system.info(self._path)
            if info.get("type") != "file" or info.get("size") is None:
                raise InputError(f"{shown_url(self.url)}: a folder, or without a length; expected a file")
            return int(info["size"]), str(self._system.ukey(self._path))
        except Exception as error:
            raise _told(self.url, error) from None

    def _piece(self, most: int) -> bytes:
        try:
            if self._file is None:
                self._file = self._system.open(self._path, "rb", block_size=BLOCK_BYTES)
            self._file.seek(self.position)  # always: of memory:// all openings are one file
            piece = bytes(self._file.read(most))
            if not piece:
                raise DroppedError(f"it ended at byte {self.position:,} of {self.size:,}")
            return piece
        except Exception as error:
            self._leave()
            if self._facts() != (self.size, self.version):
                raise InputError(f"{shown_url(self.url)}: changed while it was read; start the build over") from None
            raise _told(self.url, error) from None

    def _leave(self) -> None:
        file, self._file = getattr(self, "_file", None), None
        if file is not None:
            file.close()


def open_file(url: str) -> RemoteFile:
    """The file at an address. Raises FileNotFoundError, InputError or GaveUpError."""
    return FsspecFile(url)


def matching(url: str) -> list[str]:
    """The addresses that a pattern stands for."""
    system, path = _system(url)

    def find() -> list[str]:
        try:
            return [str(system.unstrip_protocol(found)) for found in system.glob(path)]
        except Exception as error:
            raise _told(url, error) from None

    return persist(url, remote_file.POLICY, find)


@lru_cache(maxsize=1024)
def _system(url: str) -> tuple[Any, str]:
    """fsspec's file system, and what it calls the file. Raises InputError where a package is not installed."""
    scheme = scheme_of(url)
    try:
        from fsspec.core import url_to_fs  # only where it is needed: it takes a while to import

        system, path = url_to_fs(url)
    except ImportError:
        packages = " ".join(dict.fromkeys(("fsspec", PACKAGES.get(scheme, "fsspec"))))
        raise InputError(f"{shown_url(url)}: {scheme}:// needs {packages}: pip install {packages}") from None
    except Exception as error:
        raise _told(url, error) from None
    return system, str(path)


def _told(url: str, error: Exception) -> Exception:
    """What an error of some library means here."""
    if isinstance(error, InputError | DroppedError):
        return error
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "no such file", shown_url(url))
    text = printable(" ".join(without_secrets(str(error), url).split()))[:SHOWN]
    message = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if REFUSED.search(type(error).__name__) or isinstance(error, ValueError | TypeError):
        return InputError(f"{shown_url(url)}: {message}; see that the address is right and that you are logged in")
    return DroppedError(message)
