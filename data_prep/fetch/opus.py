"""OPUS (https://opus.nlpl.eu): its interface says which file has a corpus's pair, and in which order it lists them."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlencode, urlsplit

from data_prep.connection import RetryPolicy, json_answer, mirrored
from data_prep.fetch.sources import Remote, address_of, pair_entry
from ernie_m.base.command_line import nearest
from ernie_m.base.console import InputError

INTERFACE = "https://opus.nlpl.eu/opusapi/"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# de-en.strict.txt.zip, which OPUS may list beside de-en.txt.zip, is a part of the same pairs, and is passed over
FILE = re.compile(r"/OPUS-(?P<name>[^/]+)/(?P<version>[^/]+)/moses/(?P<pair>[A-Za-z_]+-[A-Za-z_]+)\.txt\.zip")


def opus_file(name: str, source: str, target: str, mirror: str | None, retry_policy: RetryPolicy) -> Remote:
    """The newest Moses file of a pair, in whichever order OPUS lists it.

    Raises InputError, with the nearest language or corpus that OPUS has, when there is none.
    """
    for first, second in ((source, target), (target, source)):
        wanted = {"corpus": name, "source": first, "target": second, "preprocessing": "moses", "version": "latest"}
        for item in _asked(wanted, "corpora", mirror, retry_policy):
            url = str(item.get("url", "")) if isinstance(item, dict) else ""
            found = FILE.fullmatch(urlsplit(url).path) if url.startswith(("https://", "http://")) else None
            path = f"opus/{found['name']}/{found['version']}/{found['pair']}.txt.zip" if found else ""
            if path and found and set(found["pair"].split("-")) == {source, target} and address_of(path):
                return Remote(url, pair_entry(name.lower(), "moses", (source, target), path), "; OPUS lists it: try later")
    raise InputError(_explained(name, source, target, mirror, retry_policy))


def _asked(wanted: dict[str, str], key: str, mirror: str | None, retry_policy: RetryPolicy) -> list[Any]:
    url = mirrored(f"{INTERFACE}?{urlencode(wanted)}", mirror)
    answer = json_answer(url, retry_policy)
    listed = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(listed, list):
        raise InputError(f"{url}: the answer has no list `{key}`; OPUS's interface has changed, download the file yourself")
    return listed


def _explained(name: str, source: str, target: str, mirror: str | None, retry_policy: RetryPolicy) -> str:
    languages = [str(code) for code in _asked({"languages": "True", "corpus": name}, "languages", mirror, retry_policy)]
    if not languages:
        names = [str(known) for known in _asked({"corpora": "True"}, "corpora", mirror, retry_policy)]
        hint = nearest(name, names) or "; see https://opus.nlpl.eu for its corpora (upper and lower case count)"
        return f"--corpus opus/{name}: OPUS has no corpus {name}{hint}"
    for code in (source, target):
        if code not in languages:
            hint = nearest(code, languages) or f", expected one of {' '.join(languages)}"
            return f"--lang {source}-{target}: OPUS's {name} has no language `{code}`{hint}"
    return f"--lang {source}-{target}: OPUS's {name} has both languages, but no file of this pair; choose another corpus"
