"""Files of a web server, by our own connections: bounded, with time limits, never from https to http (connection.py).

A build reads its files more than once and from places inside, and must be able to go on. So the server has to send parts of
a file (Range) and say how long it is; one that does not is refused in a line.
"""

from __future__ import annotations

import errno
import http.client
from contextlib import ExitStack

from data_prep.connection import DroppedError, NotFoundError, RangeRefusedError, opened, persist, read_piece
from data_prep.inputs import remote_file
from data_prep.inputs.remote_file import PASSED_OVER, RemoteFile
from data_prep.remote_version import PARTIAL_CONTENT, Version, is_same, start_of, version_of
from ernie_m.base.console import InputError
from ernie_m.base.secret_names import shown_url

MOST_AT_ONCE = 1 << 19
ADVICE = "download it, and give the catalog the copy"


class HTTPFile(RemoteFile):
    """One connection at a time, which is kept as long as reading goes forward."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        try:
            self._version = persist(url, remote_file.POLICY, self._ask)
        except NotFoundError:
            raise FileNotFoundError(errno.ENOENT, "the server has no such file", shown_url(url)) from None
        assert self._version.length is not None
        self.size, self.version = self._version.length, self._version.validator
        self._stack = ExitStack()
        self._response: http.client.HTTPResponse | None = None
        self._reached = 0
        """Where the connection stands."""

    def close(self) -> None:
        if not self.closed and hasattr(self, "_stack"):
            self._leave()
        super().close()

    def _ask(self) -> Version:
        try:
            with opened(self.url, {"Range": "bytes=1-"}, remote_file.POLICY) as response:
                version = version_of(response)
                is_part = response.status == PARTIAL_CONTENT and start_of(response) == 1
        except RangeRefusedError:  # nothing behind the first byte
            with opened(self.url, {}, remote_file.POLICY) as response:
                version, is_part = version_of(response), True
        if not is_part or version.length is None:
            raise InputError(
                f"{shown_url(self.url)}: the server does not send parts of a file, or does not say how long it is: a "
                f"build could not go on where it broke off; {ADVICE}"
            )
        return version

    def _piece(self, most: int) -> bytes:
        if self._response is None or not 0 <= self.position - self._reached <= PASSED_OVER:
            self._leave()
            self._connect()
        assert self._response is not None
        try:
            while self._reached < self.position:
                self._read(self._response, self.position - self._reached)
            return self._read(self._response, most)
        except DroppedError:
            self._leave()
            raise

    def _read(self, response: http.client.HTTPResponse, most: int) -> bytes:
        piece = read_piece(response, min(most, MOST_AT_ONCE), is_patient=True)
        if not piece:
            raise DroppedError(f"it broke off at byte {self._reached:,} of {self.size:,}")
        self._reached += len(piece)
        return piece

    def _connect(self) -> None:
        """Begin at `position`."""
        headers = {"Range": f"bytes={self.position}-"} if self.position else {}
        if headers and self._version.validator:
            headers["If-Range"] = self._version.validator
        response = self._stack.enter_context(opened(self.url, headers, remote_file.POLICY))
        found = version_of(response)
        if found.validator not in ("", self._version.validator) or found.length not in (None, self.size):
            raise InputError(f"{shown_url(self.url)}: changed on the server while it was read; start the build over")
        if headers and (start_of(response) != self.position or not is_same(found, self._version)):
            raise InputError(f"{shown_url(self.url)}: the server does not go on at byte {self.position:,}; {ADVICE}")
        self._response, self._reached = response, self.position

    def _leave(self) -> None:
        self._response = None
        self._stack.close()


def open_file(url: str) -> RemoteFile:
    """The file at an address. Raises FileNotFoundError, InputError or GaveUpError."""
    return HTTPFile(url)
