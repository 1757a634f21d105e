"""A dictionary of the words that a data folder's links join most often: which word translates which, as the aligner sees it.

1. Words are what white space separates, in lower case and without punctuation around them; in languages that are written
   without spaces each token is one. Two words are linked where two of their tokens are.
2. Stop words are left out: the STOP_WORDS most frequent words of each language. So are words with digits, and pairs that
   are spelt alike: one word in one vocabulary has one embedding, so they would measure nothing.
3. The pairs with most links come first, and a word is in one pair only (competitive linking: Melamed 2000). So both sides
   have as many words, and each has one translation among the other side's.

A dictionary made by people is read from a file instead (MUSE's form).
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ernie_m.base.console import InputError
from ernie_m.corpus.any_vocabulary import AnyVocabulary, open_vocabulary
from ernie_m.corpus.columns import LINKS
from ernie_m.corpus.folder import CorpusFolder, Shard, Stream
from ernie_m.corpus.json_vocabulary import JsonVocabulary
from ernie_m.corpus.spelling import INSIDE
from ernie_m.corpus.texts import read_lines
from ernie_m.corpus.words import begins_word

MOST_PAIRS = 200_000
"""Sentence pairs that are counted, of each pair of languages."""
STOP_WORDS = 100
LEAST_LINKS = 3
"""Links that two words have at least."""
WITHOUT_SPACES = frozenset({"bo", "ja", "km", "lo", "my", "th", "wuu", "yue", "zh"})
NO_WORD = -1


@dataclass(frozen=True)
class Dictionary:
    """Words and their translations: source[i] and target[i], the most frequent pair first, no word twice on a side."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    links: tuple[int, ...] = ()
    """How often the two were linked; empty for one that was read from a file."""

    def __len__(self) -> int:
        return len(self.source)


def dictionaries(folder: CorpusFolder, size: int = 1000) -> dict[str, Dictionary]:
    """Of each pair of languages of a folder with links, 'en-es' -> up to `size` pairs of words; without empty ones."""
    vocabulary = open_vocabulary(folder.tokenizer_path)
    streams = folder.parallel()
    for stream in streams:
        folder.require_column(LINKS.name, stream)
    found = {stream.name: dictionary_of(stream, vocabulary, size) for stream in streams}
    return {name: dictionary for name, dictionary in found.items() if len(dictionary)}


def dictionary_of(stream: Stream, vocabulary: AnyVocabulary, size: int) -> Dictionary:
    """The dictionary of one pair of languages."""
    sides = [_Side(vocabulary, language) for language in stream.languages]
    linked = [_linked_words(shard, rows, sides) for shard, rows in _first_rows(stream)]
    pairs_K2, links_K = np.unique(np.concatenate([np.zeros((0, 2), np.int64), *linked]), axis=0, return_counts=True)
    order = np.argsort(-links_K, kind="stable")  # of equally many links, words that were seen first come first
    stops = [side.stop_words() for side in sides]
    taken: tuple[set[int], set[int]] = set(), set()
    chosen: list[tuple[str, str, int]] = []
    for (i, j), links in zip(pairs_K2[order].tolist(), links_K[order].tolist(), strict=True):
        if len(chosen) == size or links < LEAST_LINKS:
            break
        words = sides[0].words[i], sides[1].words[j]
        if i in stops[0] or j in stops[1] or i in taken[0] or j in taken[1] or words[0] == words[1]:
            continue
        taken[0].add(i)
        taken[1].add(j)
        chosen.append((*words, links))
    source, target, counts = zip(*chosen, strict=True) if chosen else ((), (), ())
    return Dictionary(source, target, counts)


def read_dictionary(path: Path, size: int) -> Dictionary:
    """The first `size` pairs of a file, a word and its translation a line, space or tab between; a word once a side.

    Raises InputError naming the line.
    """
    lines = read_lines(path, "a word and its translation a line")
    pairs: dict[str, str] = {}
    targets: set[str] = set()
    for number, line in enumerate(lines, 1):
        words = line.split("\t") if "\t" in line else line.split()
        if not line.strip():
            continue
        if len(words) != 2 or not all(word.strip() for word in words):
            raise InputError(f"{path}:{number}: {line[:60]!r}, expected a word and its translation, a tab or space between")
        source, target = (word.strip() for word in words)
        if len(pairs) < size and source not in pairs and target not in targets and source != target:
            pairs[source] = target
            targets.add(target)
    if not pairs:
        raise InputError(f"{path}: no pair of two different words; expected a word and its translation a line")
    return Dictionary(tuple(pairs), tuple(pairs.values()))


class _Side:
    """The words of one language that were seen, numbered as they came, and how often."""

    def __init__(self, vocabulary: AnyVocabulary, language: str) -> None:
        self.vocabulary, self.words = vocabulary, list[str]()
        self.counts: list[int] = []
        self._begins = _begins(vocabulary, language)
        self._by_ids: dict[bytes, int] = {}
        self._by_text: dict[str, int] = {}

    def words_of(self, values: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of rows of tokens: the place of the word that each token is of, int64 [tokens], and each place's word, int64
        [places], NO_WORD for what is none."""
        begins = self._begins[values].copy()
        begins[offsets[:-1][offsets[:-1] < offsets[1:]]] = True
        starts = np.flatnonzero(begins)
        place_T = np.cumsum(begins) - 1
        borders = [*starts.tolist(), len(values)]
        number_P = np.array([self._number(values[a:b]) for a, b in itertools.pairwise(borders)], np.int64)
        for number, count in zip(*np.unique(number_P[number_P >= 0], return_counts=True), strict=True):
            self.counts[number] += int(count)
        return place_T, number_P

    def stop_words(self) -> set[int]:
        """The most frequent words."""
        order = np.argsort(-np.array(self.counts, np.int64), kind="stable")
        return set(order[:STOP_WORDS].tolist())

    def _number(self, ids: np.ndarray) -> int:
        key = ids.tobytes()
        if key not in self._by_ids:
            is_known = self.vocabulary.specials.unknown not in ids.tolist()
            word = _word(self.vocabulary.decode(ids.tolist())) if is_known else ""
            if word and word not in self._by_text:
                self._by_text[word] = len(self.words)
                self.words.append(word)
                self.counts.append(0)
            self._by_ids[key] = self._by_text[word] if word else NO_WORD
        return self._by_ids[key]


def _begins(vocabulary: AnyVocabulary, language: str) -> np.ndarray:
    """Of each id, whether a word begins with it, bool [vocabulary]. WordPiece splits at punctuation, which is none."""
    if language in WITHOUT_SPACES:
        return np.ones(vocabulary.size, np.bool_)
    if isinstance(vocabulary, JsonVocabulary) and vocabulary.kind == "WordPiece":
        return np.array([not piece.startswith(INSIDE) for piece in vocabulary.pieces(range(vocabulary.size))])
    return begins_word(vocabulary)


def _word(text: str) -> str:
    """In lower case, without what is no letter (or mark of one) around it; empty if it is no word."""
    if any(character.isdigit() for character in text):
        return ""
    places = [place for place, character in enumerate(text) if unicodedata.category(character)[0] in "LM"]
    return text[places[0] : places[-1] + 1].lower() if places else ""


def _first_rows(stream: Stream) -> Iterator[tuple[Shard, int]]:
    left = MOST_PAIRS
    for shard in stream.shards:
        if left <= 0:
            return
        rows = min(left, shard.entry.rows)
        left -= rows
        yield shard, rows


def _linked_words(shard: Shard, rows: int, sides: Sequence[_Side]) -> np.ndarray:
    """Numbers of the words of every link between words, int64 [links, 2]; two words of a pair count once."""
    items_L2, starts = shard.items(LINKS.name, 0, rows)
    row_L = np.repeat(np.arange(rows), np.diff(starts))
    places, numbers = [], []
    for column, side in enumerate(sides):
        offsets = shard.offsets[column][: rows + 1]
        place_T, number_P = side.words_of(shard.values[column][: offsets[-1]], offsets)
        places.append(place_T[offsets[row_L] + items_L2[:, column]])
        numbers.append(number_P)
    linked_P2 = np.unique(np.stack(places, axis=1), axis=0)
    words_P2 = np.stack([number_P[linked_P2[:, side]] for side, number_P in enumerate(numbers)], axis=1)
    return words_P2[(words_P2 >= 0).all(axis=1)]
