"""The sentences of evaluation sets, in the formats that they are distributed in, found by the content.

| content | sentences | sets |
|---|---|---|
| JSON | every text under `context`, `question`, `sentence…`, `premise`, `hypothesis`, `text` | MLQA, XQuAD, TyDi QA |
| an object a line | the same | XTREME-R, FLORES+ |
| a token and its tag a line | the tokens up to an empty line | CoNLL, WikiANN |
| ten columns and comments (CoNLL-U) | the words up to an empty line, and `# text =` | Universal Dependencies |
| tabs | each field that is more than a label | XNLI, PAWS-X, BUCC |
| else | each line | Tatoeba, FLORES, NTREX |
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_prep.exclusion.letters import FIRST_WIDE
from data_prep.readers.archives import read_pieces
from data_prep.readers.lines import judge_encoding, split_lines
from data_prep.readers.sniffing import HEAD_BYTES, refuse_no_text
from data_prep.readers.streams import require_content
from data_prep.records import no_count
from ernie_m.base.console import InputError

TEXT_KEYS = re.compile(r"context|question|passage|text|premise|hypothesis|sentence\w*")
TAG = re.compile(r"O|[BIESLU]-\S+")
OF_LANGUAGE = re.compile(r"[a-z]{2,3}:")
"""WikiANN writes `en:` in front of every token."""
CONLL_U = re.compile(r"#|[0-9]+(?:[-.][0-9]+)?\t(?:[^\t]*\t){8}")
WORD, OF_TEXT = re.compile(r"[0-9]+\t"), re.compile(r"#\s*text\s*=")
LINES_TO_JUDGE = 200
LABEL_LETTERS = 12


def sentences(path: Path) -> Iterator[str]:
    """Every sentence of a file, packed or not, without line ends. Raises InputError where there is none."""
    require_content(path)
    with path.open("rb") as file:
        refuse_no_text(path, file.read(HEAD_BYTES))
    content = b"".join(read_pieces(path, no_count))
    lines = split_lines(content, is_file_start=True)
    judge_encoding(lines, str(path))
    found = False
    for sentence in _sentences(content, [line.decode(errors="replace") for line in lines], path):
        if any(map(str.isalnum, sentence)):
            found = True
            yield sentence.replace("\n", " ")
    if not found:
        raise InputError(
            f"exclude: {path}: no sentence; expected an evaluation set: text, tab-separated, tokens with tags or JSON"
        )


def _sentences(content: bytes, lines: list[str], path: Path) -> Iterator[str]:
    if content.lstrip()[:1] in (b"{", b"["):
        objects = _objects(content, lines, path)
        yield from (text for one in objects for text in _texts_of(one))
        return
    first = [line for line in lines if line.strip()][:LINES_TO_JUDGE]
    if sum(bool(CONLL_U.match(line)) for line in first) > 0.9 * len(first):
        yield from (line.partition("=")[2] for line in lines if OF_TEXT.match(line))
        yield from _of_tokens(line.split("\t")[1] if line else "" for line in lines if WORD.match(line) or not line)
    elif sum(_has_tag(line) for line in first) > 0.9 * len(first):
        yield from _of_tokens(lines)
    elif sum("\t" in line for line in first) > 0.5 * len(first):
        yield from (field for line in lines for field in line.split("\t") if not _is_label(field))
    else:
        yield from lines


def _objects(content: bytes, lines: list[str], path: Path) -> list[Any]:
    try:
        return [json.loads(content)]
    except (ValueError, RecursionError):
        pass
    try:
        return [json.loads(line) for line in lines if line.strip()]
    except (ValueError, RecursionError) as error:
        raise InputError(f"exclude: {path}: neither JSON nor an object a line ({error}); download it again") from None


def _texts_of(content: Any) -> Iterator[str]:
    if isinstance(content, list):
        for item in content:
            yield from _texts_of(item)
    elif isinstance(content, dict):
        for key, value in content.items():
            if re.fullmatch("answers?", str(key)):
                continue
            if isinstance(value, str) and TEXT_KEYS.fullmatch(str(key)) and len(content) > 1:
                yield value
            else:
                yield from _texts_of(value)


def _has_tag(line: str) -> bool:
    parts = line.split()
    return len(parts) > 1 and bool(TAG.fullmatch(parts[-1]))


def _of_tokens(lines: Iterable[str]) -> Iterator[str]:
    tokens: list[str] = []
    for line in [*lines, ""]:
        parts = line.split()
        if parts and parts[0] != "-DOCSTART-":
            tokens.append(OF_LANGUAGE.sub("", parts[0], count=1))
        elif tokens:
            yield " ".join(tokens)
            tokens = []


def _is_label(field: str) -> bool:
    """Whether a field is a number, an id or one word; of scripts without spaces three letters are as much as a word."""
    text = field.strip()
    is_short = sum(3 if ord(letter) > FIRST_WIDE else 1 for letter in text) < LABEL_LETTERS
    return " " not in text and (text.isascii() or is_short)
