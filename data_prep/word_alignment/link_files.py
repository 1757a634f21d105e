"""Links from a file, and text for the program that makes it: a line for each row of a corpus, in the order of its shards.

1. `export` writes `source ||| target` lines, of words as text or of tokens as ids, as fast_align and others read them.
2. Their output, Pharaoh lines `0-0 1-2`, has as many lines. `located` counts them and notes where each shard's begin.
3. `read_rows` parses a shard's lines, checks every link against its sentences, and spreads links of words over their tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ernie_m.base.console import InputError, Progress
from ernie_m.base.files import refuse_existing, require_outside, written_atomically
from ernie_m.corpus.any_vocabulary import AnyVocabulary, open_vocabulary
from ernie_m.corpus.folder import CorpusEntry, Shard
from ernie_m.corpus.ragged import Ragged
from ernie_m.corpus.word_links import check_range, lines_of, parsed_links
from ernie_m.corpus.words import begins_word, word_numbers

WORDS, TOKENS = "words", "tokens"
UNITS = (WORDS, TOKENS)


@dataclass(frozen=True)
class Place:
    """Where the lines of a shard begin in a file of links."""

    path: Path
    offset: int
    first_line: int
    """From 1."""


def located(path: Path, corpus: CorpusEntry) -> list[Place]:
    """The place of each shard's lines, in the corpus's order. Raises InputError unless there is a line for each row."""
    rows = corpus.shards.rows.tolist()
    if not path.is_file():
        raise InputError(
            f"--pharaoh {corpus.name}={path}: no such file; expected a line of links for each row of the corpus"
        )
    starts, expected = {}, sum(rows)
    line, wanted = 0, set(np.cumsum([0, *rows]).tolist())
    with open(path, "rb") as file:
        offset = 0
        for content in lines_of(file, path):
            if not line:
                _as_text(content, f"{path}:1")
            if line in wanted:
                starts[line] = offset
            offset += len(content)
            line += 1
    if line != expected:
        raise InputError(
            f"--pharaoh {corpus.name}={path}: {line:,} lines, the corpus has {expected:,} rows; align the text that "
            f"`align --export` writes, a line a row"
        )
    starts[line] = offset
    return [Place(path, starts[first], first + 1) for first in np.cumsum([0, *rows[:-1]]).tolist()]


def refuse_unknown_units(units: str) -> None:
    """Raise InputError for anything but words and tokens."""
    if units not in UNITS:
        raise InputError(f"--units {units}: expected {', '.join(UNITS)}")


def read_rows(shard: Shard, place: Place, tokenizer: Path | None) -> Ragged:
    """The links of a shard's rows; with `tokenizer` those of the file are between words, else between tokens."""
    begins = None if tokenizer is None else _begins(tokenizer)
    counts, values = np.zeros(shard.entry.rows + 1, np.int64), [np.zeros(0, np.int32)]
    with open(place.path, "rb") as file:
        file.seek(place.offset)
        for row, sentences in enumerate(_rows(shard)):
            where = f"{place.path}:{place.first_line + row}"
            links = [(i, j) for i, j, _ in parsed_links(_as_text(file.readline(), where), where)]
            items = _of_tokens(links, sentences, where) if begins is None else _of_words(links, sentences, begins, where)
            counts[row + 1] = items.size
            values.append(items.astype(np.int32).ravel())
    return Ragged(np.cumsum(counts).astype(np.int32), np.concatenate(values))


def _as_text(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{where}: not UTF-8; expected a text file with lines 0-0 1-2") from None


def _of_tokens(links: list[tuple[int, int]], sentences: tuple[np.ndarray, ...], where: str) -> np.ndarray:
    check_range(links, len(sentences[0]), len(sentences[1]), where, TOKENS)
    return np.array(sorted(set(links)), np.int64).reshape(-1, 2)


def _of_words(links: list[tuple[int, int]], sentences: tuple[np.ndarray, ...], begins: np.ndarray, where: str) -> np.ndarray:
    """Every token of a word is linked to every token of the other."""
    numbers = [word_numbers(ids, begins) for ids in sentences]
    num_words = [int(words[-1]) + 1 for words in numbers]
    check_range(links, num_words[0], num_words[1], where, WORDS)
    is_linked = np.zeros(num_words, bool)
    is_linked[tuple(np.array(links, np.int64).reshape(-1, 2).T)] = True
    return np.argwhere(is_linked[numbers[0][:, None], numbers[1][None]])


def _rows(shard: Shard) -> Iterator[tuple[np.ndarray, ...]]:
    shard.borders(0, shard.entry.rows)  # checked
    for row in range(shard.entry.rows):
        yield tuple(v[o[row] : o[row + 1]] for v, o in zip(shard.values, shard.offsets, strict=True))


@lru_cache(maxsize=1)
def _begins(tokenizer: Path) -> np.ndarray:
    return begins_word(open_vocabulary(tokenizer))


def export(
    data: Path, corpora: list[CorpusEntry], tokenizer: Path, to: Path, units: str, overwrite: bool = False
) -> list[Path]:
    """Write <corpus>.txt for each corpus of pairs; the files.

    Raises InputError when words cannot be known, for a folder in `data`, and for files that are there already, unless
    `overwrite`.
    """
    refuse_unknown_units(units)
    require_outside("--export", to, {"--data": data})
    refuse_existing("--export", *(to / f"{corpus.name}.txt" for corpus in corpora), overwrite=overwrite)
    vocabulary = open_vocabulary(tokenizer)
    begins = begins_word(vocabulary) if units == WORDS else None
    to.mkdir(parents=True, exist_ok=True)
    progress = Progress("export", sum(int(corpus.shards.rows.sum()) for corpus in corpora), "rows")
    written = []
    for corpus in corpora:
        written.append(to / f"{corpus.name}.txt")
        with written_atomically(written[-1]) as aside, open(aside, "w", encoding="utf-8", newline="\n") as file:
            for entry in corpus.shards:
                for sentences in _rows(Shard(data, entry, 2)):
                    texts = (" ".join(_words_of(ids, vocabulary, begins)) for ids in sentences)
                    file.write(" ||| ".join(texts) + "\n")
                progress.advance(entry.rows)
    progress.close()
    return written


def _words_of(ids: np.ndarray, vocabulary: AnyVocabulary, begins: np.ndarray | None) -> list[str]:
    if begins is None:
        return [str(number) for number in ids.tolist()]
    borders = np.flatnonzero(np.diff(word_numbers(ids, begins), prepend=-1))
    return [_word(word, vocabulary) for word in np.split(ids, borders[1:])]


def _word(ids: np.ndarray, vocabulary: AnyVocabulary) -> str:
    """The word's text; its pieces where the tokenizer does not know some of it, or where it would look like several."""
    text = vocabulary.decode(ids.tolist()).strip()
    if len(text.split()) != 1 or text == "|||" or np.isin(ids, vocabulary.unknown_ids).any():
        return "".join(vocabulary.pieces(ids.tolist()))
    return text
