"""What is taken for a secret: a variable by its name or its value; and a URL as it may be shown.

The one owner of this rule: what reaches other hosts, logs and messages asks here.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

_WORDS = "TOKEN(?!IZ)|KEY|SECRET|PASS|CREDENTIAL|JWT|BEARER|COOKIE|_PWD"
_SECRET = re.compile(_WORDS, re.IGNORECASE)
_IN_VALUE = re.compile(rf"(?:^|[?&;])[\w.-]*(?:{_WORDS}|SIG)[\w.-]*=[^&;\s]", re.IGNORECASE)
"""A pair in a URL's query or in a connection string."""
_NO_SECRET = re.compile("(NCCL|UCX|MV2)_[A-Z_]*PKEY|HF_HUB_DISABLE_IMPLICIT_TOKEN")  # PKEY: InfiniBand's partition key
_USER_IN_URL = re.compile(r"://[^\s/?#]*@|://[^\s/@]*:[^\s@]+@")
HIDDEN = "***"


def is_secret(name: str, value: str) -> bool:
    """Whether a variable is taken for a secret: by its name, or by its value, a URL with a user or a pair of such a name."""
    is_named = _SECRET.search(name) and not _NO_SECRET.fullmatch(name)
    return bool(is_named or _USER_IN_URL.search(value) or _IN_VALUE.search(value))


def shown_url(url: str) -> str:
    """A URL for messages: without user and password, and without the values of its query, which may be signatures."""
    base, mark, query = without_user(url).partition("?")
    names = "&".join(f"{pair.partition('=')[0]}={HIDDEN}" if "=" in pair else HIDDEN for pair in query.split("&"))
    return base + (f"?{names}" if mark else "")


def without_user(url: str) -> str:
    """A URL whose query is our own, for messages."""
    return _USER_IN_URL.sub(f"://{HIDDEN}@", url)


def without_secrets(text: str, url: str) -> str:
    """A library's message about a URL, with nothing of it that `shown_url` hides."""
    parts = urlsplit(url)
    hidden = [*parts.netloc.rpartition("@")[0].split(":"), parts.netloc.rpartition("@")[0]]
    hidden += [pair.partition("=")[2] or pair for pair in parts.query.split("&")]
    text = text.replace(url, shown_url(url))
    for secret in sorted({form for one in hidden for form in (one, unquote(one))}, key=len, reverse=True):
        text = text.replace(secret, HIDDEN) if len(secret) > 2 else text  # one or two letters occur in all texts
    return text
