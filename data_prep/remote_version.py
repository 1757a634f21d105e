"""Which version of a remote file an answer is of, and which part of it."""

from __future__ import annotations

import http.client
import re
from dataclasses import dataclass

PARTIAL_CONTENT = 206
CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]+/([0-9]{1,18})")


@dataclass(frozen=True)
class Version:
    """Which version of a remote file the bytes belong to."""

    validator: str = ""
    """Its strong ETag, else its Last-Modified; empty when the server tells neither."""
    length: int | None = None
    """In bytes; None when the server does not tell."""


def version_of(response: http.client.HTTPResponse) -> Version:
    """Of which version, and how long, the file is that an answer is of, or a part of."""
    tag = response.headers.get("ETag", "")
    validator = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")  # If-Range takes no weak tag
    if response.status == PARTIAL_CONTENT:
        found = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        return Version(validator, int(found[2]) if found else None)
    return Version(validator, response.length)


def is_same(version: Version, expected: Version) -> bool:
    """Whether a 206 answer is of the expected version. Servers may omit the validator because they checked our If-Range."""
    same_length = expected.length is None or version.length == expected.length
    return same_length and version.validator in ("", expected.validator)


def start_of(response: http.client.HTTPResponse) -> int | None:
    """The byte that a part begins with; None where the answer does not say."""
    found = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return int(found[1]) if found else None
