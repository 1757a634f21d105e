"""Files of word links, and how good links are: precision, recall and alignment error rate against gold.

| form | a line | counts from |
|---|---|---|
| Pharaoh | a pair: `0-0 1-2 3p4`; `-` a sure link, `p` (or `P`, `?`) a possible one; empty: no links | 0 |
| text | a pair: `source ||| target ||| 0-0 1-2`, or the same with tabs | 0 |
| WPT | a link: `pair source target`, then `S` or `P` if it is said; of the shared tasks of 2003 and 2005 | 1 |

Sure links are possible ones too. With A the links found, S the sure and P the possible ones: precision |A∩P| / |A|, recall
|A∩S| / |S|, error rate 1 - (|A∩S| + |A∩P|) / (|A| + |S|) (Och and Ney 2003).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ernie_m.base.console import InputError
from ernie_m.corpus.texts import unpacked

Link = tuple[int, int]
AUTO, PHARAOH, TEXT, WPT = "auto", "pharaoh", "text", "wpt"
FORMS = (AUTO, PHARAOH, TEXT, WPT)
FIRST_INDEX = {PHARAOH: 0, TEXT: 0, WPT: 1}
_LINK = re.compile(r"([0-9]{1,9})([-pP?])([0-9]{1,9})(?::\S+)?")
_WPT = re.compile(r"\s*([0-9]{1,9})\s+([0-9]{1,9})\s+([0-9]{1,9})(?:\s+([SP]))?(?:\s+[-+.eE\d]+)?\s*")
SHOWN = 60  # characters of a line in a message
MOST_PAIRS = 10**6
"""Of a gold file that numbers them."""
MOST_OF_LINE = 1 << 20
NO_SURE_LINKS = "the gold has no sure links, so no recall"
ENOUGH_PAIRS = 10
"""Pairs with links by which a file that counts from 1 is recognised."""


@dataclass(frozen=True)
class GoldPair:
    """The links of one pair; `possible` holds the sure ones too. `source` and `target`: its words, if the file has them."""

    sure: frozenset[Link]
    possible: frozenset[Link]
    source: tuple[str, ...] | None = None
    target: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Score:
    """Precision, recall and alignment error rate, 0 to 1, and what they were counted from."""

    pairs: int
    found: int
    sure: int
    precision: float | None
    """None where no link was found."""
    recall: float | None
    """None where no link of the gold is sure."""
    aer: float

    @property
    def cells(self) -> list[str]:
        """Error rate, precision and recall in percent; `-` for what there is not."""
        return ["-" if value is None else f"{100 * value:.1f} %" for value in (self.aer, self.precision, self.recall)]

    @property
    def shown(self) -> str:
        counted = f"{self.pairs:,} pairs, {self.found:,} links" + f"; {NO_SURE_LINKS}" * (not self.sure)
        return "AER {}, precision {}, recall {}".format(*self.cells) + f" ({counted})"


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, maybe packed. Raises InputError for a file that is missing or is none."""
    if path.is_dir():
        raise InputError(f"{path}: a folder; expected a file of word links, a line a pair")
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected word links, a line a pair")
    with unpacked(path) as file:
        for number, line in enumerate(lines_of(file, path), 1):
            try:
                yield line.decode("utf-8" if number > 1 else "utf-8-sig").rstrip("\r\n")
            except UnicodeDecodeError:
                raise InputError(f"{path}:{number}: not UTF-8; convert the file") from None


def lines_of(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """The lines of a file with their ends. Raises InputError for one that is too long."""
    for number, line in enumerate(iter(lambda: file.readline(MOST_OF_LINE + 1), b""), 1):
        if len(line) > MOST_OF_LINE:
            raise InputError(f"{path}:{number}: a line of more than {MOST_OF_LINE:,} bytes, expected word links of one pair")
        yield line


def parsed_links(text: str, where: str, first_index: int = 0) -> list[tuple[int, int, bool]]:
    """(source, target, is sure) of the links of a Pharaoh line, from 0. Raises InputError that begins with `where`."""
    links = []
    for word in text.split():
        match = _LINK.fullmatch(word)
        if match is None:
            raise InputError(f"{where}: {word[:SHOWN]!r} is no link, expected 0-0 1-2 (or 0p1 for a possible one)")
        link = int(match[1]) - first_index, int(match[3]) - first_index
        if min(link) < 0:
            raise InputError(f"{where}: {word} counts from 0, expected from {first_index} (--first_index)")
        links.append((*link, match[2] == "-"))
    return links


def read_gold(path: Path, form: str = AUTO, first_index: int | None = None) -> list[GoldPair]:
    """The pairs of a file of links, in any of the forms. Raises InputError naming file and line."""
    if form not in FORMS:
        raise InputError(f"--form {form}: expected {', '.join(FORMS)}")
    lines = list(read_lines(path))
    if not any(line.strip() for line in lines):
        raise InputError(f"{path}: empty; expected word links")
    form = _form_of(lines) if form == AUTO else form
    is_told = first_index is not None
    first_index = FIRST_INDEX[form] if first_index is None else first_index
    pairs = _read_wpt(path, lines, first_index) if form == WPT else _read_pairs(path, lines, form == TEXT, first_index)
    if not any(pair.possible for pair in pairs):
        raise InputError(f"{path}: no link in it; expected links between the words of at least one pair")
    if not is_told and form != WPT:
        check_first_index([pair.possible for pair in pairs], path, "--first_index")
    return pairs


def _read_pairs(path: Path, lines: Sequence[str], has_texts: bool, first_index: int) -> list[GoldPair]:
    pairs = []
    for number, line in enumerate(lines, 1):
        where, texts = f"{path}:{number}", None
        if has_texts:
            fields = line.split("|||") if "|||" in line else line.split("\t")
            while len(fields) > 3 and not fields[-1].strip():  # some files end their lines with empty columns
                fields.pop()
            if len(fields) != 3:
                raise InputError(f"{where}: {len(fields)} fields, expected source ||| target ||| links")
            texts, line = (tuple(fields[0].split()), tuple(fields[1].split())), fields[2]
        pairs.append(_pair(parsed_links(line, where, first_index), texts, where))
    return pairs


def _form_of(lines: Sequence[str]) -> str:
    first = next(line for line in lines if line.strip())
    if "|||" in first or "\t" in first.strip():
        return WPT if _WPT.fullmatch(first) else TEXT
    return WPT if _WPT.fullmatch(first) else PHARAOH


def _pair(
    links: Iterable[tuple[int, int, bool]], texts: tuple[tuple[str, ...], tuple[str, ...]] | None, where: str
) -> GoldPair:
    links = list(links)
    if texts is not None:
        check_range(((i, j) for i, j, _ in links), len(texts[0]), len(texts[1]), where)
    possible = frozenset((i, j) for i, j, _ in links)
    return GoldPair(frozenset((i, j) for i, j, is_sure in links if is_sure), possible, *(texts or (None, None)))


def check_first_index(links: Sequence[Iterable[Link]], path: Path, option: str) -> None:
    """Raise InputError for pairs of which none has a link with a word 0: they are counted from 1, and nobody said so."""
    smallest = [min(map(min, found)) for found in map(list, links) if found]
    if len(smallest) >= ENOUGH_PAIRS and min(smallest) > 0:
        raise InputError(
            f"{path}: no link with word 0 in {len(smallest):,} pairs, so it seems to count from 1; "
            f"say {option} 1, or 0 if not"
        )


def check_range(links: Iterable[Link], num_source: int, num_target: int, where: str, units: str = "words") -> None:
    """Raise InputError, beginning with `where`, for a link outside sentences of so many words."""
    for i, j in links:
        if i >= num_source or j >= num_target:
            sizes = f"{num_source} and {num_target} {units}"
            raise InputError(f"{where}: link {i}-{j}, in sentences of {sizes} (from 0; does the file count from 1?)")


def _read_wpt(path: Path, lines: Sequence[str], first_index: int) -> list[GoldPair]:
    links: dict[int, list[tuple[int, int, bool]]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = _WPT.fullmatch(line)
        if match is None:
            raise InputError(f"{path}:{number}: {line[:SHOWN]!r}, expected: pair source target [S|P]")
        pair, i, j = (int(match[k]) for k in (1, 2, 3))
        if pair > MOST_PAIRS:
            raise InputError(f"{path}:{number}: pair {pair:,}, expected at most {MOST_PAIRS:,}")
        if min(i, j) < first_index or pair < 1:
            if pair < 1 or min(i, j) < 0:
                raise InputError(f"{path}:{number}: {line[:SHOWN]!r}, expected pairs from 1 and words from {first_index}")
            continue  # word 0: a link to nothing
        links.setdefault(pair, []).append((i - first_index, j - first_index, match[4] != "P"))
    return [_pair(links.get(pair, ()), None, str(path)) for pair in range(1, max(links, default=0) + 1)]


def score(found: Sequence[set[Link] | frozenset[Link]], gold: Sequence[GoldPair]) -> Score:
    """Of the links found, pair by pair."""
    assert len(found) == len(gold)
    num_found = sum(map(len, found))
    num_sure = sum(len(pair.sure) for pair in gold)
    right = sum(len(links & pair.possible) for links, pair in zip(found, gold, strict=True))
    surely = sum(len(links & pair.sure) for links, pair in zip(found, gold, strict=True))
    total = num_found + num_sure
    return Score(
        pairs=len(gold),
        found=num_found,
        sure=num_sure,
        precision=right / num_found if num_found else None,
        recall=surely / num_sure if num_sure else None,
        aer=1 - (surely + right) / total if total else 1.0,  # nothing found of what is possible
    )
