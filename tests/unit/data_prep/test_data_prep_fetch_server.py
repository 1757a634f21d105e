"""A file server with bad habits, for the tests of fetch; and that it has them."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import struct
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from data_prep.catalog import read_catalog
from data_prep.connection import RetryPolicy
from data_prep.fetch import fetch

QUICK = RetryPolicy(tries=4, first_wait_seconds=0.001, timeout_seconds=5)


class Shop(ThreadingHTTPServer):
    """A file server with the bad habits that are asked for; `asked` lists the requests that came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Shopkeeper)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.answers: dict[tuple[tuple[str, str], ...], bytes] = {}
        """Query -> JSON, for OPUS's interface."""
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.validator = "ETag"
        self.edition = 1
        """Counted up when a file changes and its Last-Modified with it."""
        self.knows_ranges = self.minds_if_range = self.tells_length = True
        self.repeats_validator = True
        """Whether a 206 has the validator too."""
        self.breaks_after: list[int] = []
        """Body bytes after which the next answers break off."""
        self.refusals: list[int] = []
        """Statuses of the next answers."""
        self.says: str | None = None
        """In the status line of refusals."""
        self.sends_on: dict[str, str] = {}
        """Path -> address that the next one who asks is sent to."""
        self.promised_too_much = 0
        self.content_type = "application/octet-stream"
        self.half_way: threading.Event | None = None
        """Set once half of the next answer is sent; the rest waits for `may_go_on`."""
        self.may_go_on = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a client that went away is what these tests are about."""

    @property
    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.asked]


class Shopkeeper(BaseHTTPRequestHandler):
    server: Shop

    def do_GET(self) -> None:
        shop = self.server
        shop.asked.append((self.path, dict(self.headers)))
        if where := shop.sends_on.pop(self.path, None):
            self.send_response(302)
            self.send_header("Location", where)
            self.end_headers()
            return
        parts = urlsplit(self.path)
        content = shop.answers.get(tuple(sorted(parse_qsl(parts.query)))) if parts.query else shop.files.get(parts.path)
        if shop.refusals or content is None:
            self.send_error(shop.refusals.pop(0) if shop.refusals else 404, shop.says)
            return
        tags = {"ETag": f'"{hashlib.md5(content).hexdigest()}"', "weak": f'W/"{hashlib.md5(content).hexdigest()}"'}
        tag = tags.get(shop.validator) or f"Sat, {shop.edition:02d} Aug 2020 10:00:00 GMT"
        start = 0
        wanted = self.headers.get("Range") if shop.knows_ranges else None
        if wanted and (not shop.minds_if_range or self.headers.get("If-Range") in (None, tag)):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        if shop.validator and (not start or shop.repeats_validator):
            self.send_header("ETag" if shop.validator in tags else "Last-Modified", tag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content) + shop.promised_too_much}")
        if shop.tells_length:
            self.send_header("Content-Length", str(len(content) - start + shop.promised_too_much))
        self.send_header("Content-Type", shop.content_type)
        self.end_headers()
        self._send(content[start:])

    def _send(self, body: bytes) -> None:
        shop = self.server
        last = shop.breaks_after.pop(0) if shop.breaks_after else len(body)
        half_way, shop.half_way = shop.half_way, None
        if half_way is not None:
            self.wfile.write(body[: last // 2])
            half_way.set()
            shop.may_go_on.wait(10)
            body, last = body[last // 2 :], last - last // 2
        self.wfile.write(body[:last])
        if last % 2 and last < len(body):  # a reset now and then, instead of an orderly end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def opened_shop() -> Iterator[Shop]:
    with Shop() as shop:
        thread = threading.Thread(target=shop.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield shop
        shop.may_go_on.set()
        shop.shutdown()
        thread.join()


def stock(shop: Shop, *paths: str) -> None:
    """Some bytes of its own at each path."""
    for path in paths:
        shop.files[path] = 1000 * b"x" + path.encode()


def get(shop: Shop, to: Path, **what: Any) -> None:
    """The command, with this shop as every publisher."""
    fetch(to, mirror=shop.address, retry_policy=QUICK, **what)


def named(to: Path) -> dict[str, tuple[tuple[str, ...], str]]:
    """Name -> (languages, path) of the catalog in `to`."""
    corpora = read_catalog(to / "catalog.yaml")
    return {c.name: (c.languages, str(c.files[0].relative_to(to))) for c in corpora}


def test_it_sends_a_range_and_breaks_off_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with opened_shop() as shop:
        shop.files["/a"], shop.breaks_after = b"0123456789", [4]
        request = urllib.request.Request(f"{shop.address}/a", headers={"Range": "bytes=3-"})
        for body in (b"3456", b"3456789"):
            with urllib.request.urlopen(request) as response:
                assert (response.status, response.headers["Content-Range"]) == (206, "bytes 3-9/10")
                assert b"".join(iter(lambda response=response: response.read1(9), b"")) == body  # type: ignore[misc]
    assert shop.ranges == ["bytes=3-"] * 2
