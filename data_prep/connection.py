"""What can go wrong with a server, as four kinds of errors.

`DroppedError`: worth another try; `NotFoundError`: the address is wrong; `GaveUpError`: tried long enough; any other
refusal is an InputError. `persist` turns the first into the third.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import http.client
import json
import re
import socket
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from data_prep.remote_version import PARTIAL_CONTENT
from ernie_m.base.console import InputError, printable
from ernie_m.base.secret_names import shown_url, without_user

USER_AGENT = "ernie-m data_prep fetch"
PASSING_TROUBLE = (408, 425, 429)  # and every 5xx
LONGEST_WAIT_SECONDS = 60.0
MOST_ANSWER_BYTES = 1 << 26  # of an answer that is read whole
NOT_SATISFIABLE = 416
SHOWN = 200

T = TypeVar("T")


class DroppedError(Exception):
    """The connection broke or was silent for too long, or the server is busy: another try may succeed."""


class RangeRefusedError(DroppedError):
    """The server has nothing from the asked byte on."""


class NotFoundError(InputError):
    """There is no such file on the server."""


class GaveUpError(ConnectionError):
    """Tried long enough; the bytes received so far are kept."""


@dataclass(frozen=True)
class RetryPolicy:
    """When to try again, and when to give up."""

    tries: int = 8
    """Tries in a row that bring nothing new before giving up."""
    first_wait_seconds: float = 1.0
    """Before the second try; doubled for each further one, to at most a minute."""
    timeout_seconds: float = 60.0
    """A silence longer than this is a dropped connection, and so are headers that take twice as long."""
    most_unknown_bytes: int = 16 << 30
    """An answer that does not tell its length is ended behind so many."""


def mirrored(url: str, mirror: str | None) -> str:
    """`url` with `mirror` in the place of its scheme and host; InputError for a mirror that is no http(s) address."""
    if mirror is None:
        return url
    if not re.fullmatch(r"https?://[^\s/?#]+[^\s?#]*", mirror):
        raise InputError(f"--mirror {mirror}: expected an address such as https://mirror.example.org")
    parts = urlsplit(url)
    return mirror.rstrip("/") + parts.path + (f"?{parts.query}" if parts.query else "")


@contextlib.contextmanager
def opened(
    url: str, headers: dict[str, str], retry_policy: RetryPolicy, hint: str = ""
) -> Iterator[http.client.HTTPResponse]:
    """The server's answer; `hint` goes into the message of a NotFoundError.

    Raises DroppedError (RangeRefusedError for 416), NotFoundError, or InputError for any other refusal.
    """
    user, bare = _split_user(url)
    request = urllib.request.Request(bare, headers={"User-Agent": USER_AGENT, **headers})
    if user:  # for this host alone, whoever it sends us on to
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}")
    url = shown_url(url)
    try:
        response = urllib.request.build_opener(_Redirects, _Plain, _TLS).open(request, timeout=retry_policy.timeout_seconds)
    except urllib.error.HTTPError as error:
        error.close()
        raise _refusal(url, error.code, _told(error.reason), hint) from None
    except urllib.error.URLError as error:
        raise DroppedError(_told(error.reason)) from None
    except (OSError, http.client.HTTPException) as error:
        raise DroppedError(_told(error)) from None
    except InputError:
        raise
    except ValueError as error:  # urllib's, of an address that is none
        raise InputError(f"{url}: the server sends us on to an address that is none ({_told(error)})") from None
    with response:
        _refuse_odd(url, response)
        yield response


def _refuse_odd(url: str, response: http.client.HTTPResponse) -> None:
    """Raise InputError for an answer that is not the file, or does not tell where it ends."""
    if response.status not in (http.client.OK, PARTIAL_CONTENT):
        raise InputError(f"{url}: the server answered {response.status} {_told(response.reason)}, expected the file")
    coding = ", ".join(response.headers.get_all("Content-Encoding", [])).strip().lower()
    if coding not in ("", "identity"):
        raise InputError(f"{url}: the server packed the file by itself ({_told(coding)}), expected it as it is")
    lengths = dict.fromkeys(
        text.strip() for one in response.headers.get_all("Content-Length", []) for text in one.split(",")
    )
    if len(lengths) > 1:
        raise InputError(f"{url}: the server tells two lengths ({_told(' and '.join(lengths))}), expected one")


def _split_user(url: str) -> tuple[str, str]:
    """("user:password" or "", the URL without it)."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    return unquote(user), urlunsplit(parts._replace(netloc=host)) if at else url


def _refusal(url: str, status: int, reason: str, hint: str) -> Exception:
    if status in (404, 410):
        return NotFoundError(f"{url}: the server has no such file ({status}){hint}")
    if status == NOT_SATISFIABLE:
        return RangeRefusedError("the server has nothing from here on")
    if status in PASSING_TROUBLE or status >= 500:
        return DroppedError(f"the server answered {status} {reason}")
    return InputError(f"{url}: the server answered {status} {reason}, expected the file; see in a browser what it asks for")


def _told(reason: object) -> str:
    """In one line, and not a long one."""
    return printable(" ".join(str(reason).split()))[:SHOWN] or type(reason).__name__


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Goes where the server says, but not from https to http; another host is told."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        if after.scheme not in ("http", "https") or (before.scheme, after.scheme) == ("https", "http"):
            raise InputError(
                f"{shown_url(req.full_url)}: the server sends us on to {shown_url(newurl)}, which others on the way could "
                "change; expected https; "
                "if it is meant to be so, give that address with --mirror, and what you expect with --sha256"
            )
        if before.hostname != after.hostname:
            print(f"{shown_url(req.full_url)}: goes on at {printable(str(after.hostname))}", file=sys.stderr, flush=True)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextlib.contextmanager
def _cut_off(connection: socket.socket) -> Iterator[None]:
    """End the connection, with DroppedError, if what is read of it takes more than twice its timeout.

    The timeout itself begins again with each byte, and headers without end are many bytes.
    """
    seconds, is_cut = 2 * (connection.gettimeout() or RetryPolicy.timeout_seconds), threading.Event()

    def cut() -> None:
        is_cut.set()
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connection, socket.SHUT_RDWR)  # TLS too is read in the other thread

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException):
        if not is_cut.is_set():
            raise
    finally:
        timer.cancel()
    if is_cut.is_set():
        raise DroppedError(f"the server said nothing of the file in {seconds:g} s")


class _Bounded(http.client.HTTPConnection):
    """Waits for the head of an answer, whatever comes before it, for so long and no longer."""

    def getresponse(self) -> http.client.HTTPResponse:
        connection = self.sock
        with _cut_off(connection):
            response = super().getresponse()
        vars(response)["connection"] = connection
        return response


class _BoundedTLS(_Bounded, http.client.HTTPSConnection):
    pass


class _Plain(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Bounded, req)


class _TLS(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_BoundedTLS, req, context=ssl.create_default_context())


def read_piece(response: http.client.HTTPResponse, most_bytes: int, is_patient: bool = False) -> bytes:
    """The next bytes, as soon as some are there; b"" at the end; raises DroppedError.

    is_patient: wait until there are as many as asked for (faster for whoever reads on; a server must not take minutes).
    """
    try:
        with _cut_off(vars(response)["connection"]):  # what stands between pieces may have no end
            return response.read(most_bytes) if is_patient else response.read1(most_bytes)
    except (OSError, http.client.HTTPException) as error:
        raise DroppedError(_told(error)) from None


def persist(url: str, retry_policy: RetryPolicy, step: Callable[[], T], reached: Callable[[], int] = lambda: 0) -> T:
    """Call `step` until it is not DroppedError, with growing waits; raises GaveUpError when `reached()` no longer grows.

    Each progress resets the count of tries: an 80 GB file may break off a hundred times. Only bytes beyond the furthest
    point so far count as progress; otherwise a server that cannot resume and always breaks off would be asked forever.
    """
    furthest, failures = reached(), 0
    while True:
        try:
            return step()
        except DroppedError as dropped:
            now = reached()
            failures = 1 if now > furthest else failures + 1
            furthest = max(now, furthest)
            if failures >= retry_policy.tries:
                kept = f"; {now:,} bytes are kept" if now else ""
                message = f"gave up ({dropped}){kept}; give the same command again to go on"
                raise GaveUpError(errno.ECONNABORTED, message, shown_url(url)) from None
            seconds = min(retry_policy.first_wait_seconds * 2 ** (failures - 1), LONGEST_WAIT_SECONDS)
            print(f"{shown_url(url)}: {dropped}; trying again in {seconds:g} s", file=sys.stderr, flush=True)
            time.sleep(seconds)


def json_answer(url: str, retry_policy: RetryPolicy) -> Any:
    """A small answer as JSON; raises InputError when it is something else."""

    def read() -> bytes:
        with opened(url, {}, retry_policy) as response:
            content = bytearray()
            while len(content) < MOST_ANSWER_BYTES and (piece := read_piece(response, 1 << 16)):
                content += piece
            return bytes(content)

    content = persist(url, retry_policy, read)
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise InputError(
            f"{without_user(url)}: the answer is not JSON, expected OPUS's list; see in a browser what is there"
        ) from None
