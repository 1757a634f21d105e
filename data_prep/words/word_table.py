"""A set of short words, looked up a hundred thousand at a time, in numpy.

A Python dictionary needs an object for each word it is asked for; cutting the text into those and following them through
memory takes longer than SentencePiece takes to segment half of them. Here a word is six columns of eight bytes, read in
place from the text's UTF-8, zeros behind its end. Two words are the same if their sizes and columns are: nothing is taken
on trust of a hash.
"""

from __future__ import annotations

import numpy as np

COLUMN_BYTES, NUM_COLUMNS = 8, 6
MAX_BYTES = COLUMN_BYTES * NUM_COLUMNS
ABSENT = 0  # the place of words that are not in the table; the others' count from 1
FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)  # odd and irregular
KEEP_BYTES = np.array([(1 << 8 * i) - 1 for i in range(COLUMN_BYTES + 1)], np.uint64)


ALL_WORDS = slice(None)


class Words:
    """The words between the spaces of texts, where they lie in `utf8`: the texts' bytes with a NUL after each.

    `starts`, `sizes` (bytes), `hashes`: [words]; `num_words`: int64 [texts].
    """

    def __init__(self, utf8: bytes) -> None:
        self.utf8 = utf8 + bytes(COLUMN_BYTES)
        characters = np.frombuffer(utf8, np.uint8)
        ends = np.flatnonzero((characters == ord(" ")) | (characters == 0))
        self.starts = np.concatenate([[0], ends[:-1] + 1])
        self.sizes = ends - self.starts
        self.num_words = np.diff(np.flatnonzero(characters[ends] == 0), prepend=-1)
        self._windows = np.ndarray((len(utf8),), "<u8", self.utf8, 0, (1,))  # eight bytes from each place on
        self.first_column = self.column(0, slice(None))
        self.hashes = self.first_column * FACTORS[0]
        longer = np.arange(0)
        for number in range(1, NUM_COLUMNS):
            longer = np.flatnonzero(self.sizes > 8) if number == 1 else longer[self.sizes[longer] > 8 * number]
            self.hashes[longer] = (self.hashes[longer] ^ self.column(number, longer)) * FACTORS[1]
        self.hashes = (self.hashes ^ (self.hashes >> np.uint64(32))) * FACTORS[0]

    def column(self, number: int, chosen: np.ndarray | slice) -> np.ndarray:
        """Bytes 8 * number ... of the chosen words, which are longer than that (or number is 0): uint64."""
        start = COLUMN_BYTES * number
        return self._windows[self.starts[chosen] + start] & KEEP_BYTES[np.minimum(self.sizes[chosen] - start, COLUMN_BYTES)]

    def bytes_of(self, chosen: np.ndarray) -> list[bytes]:
        """The chosen words themselves."""
        starts = self.starts[chosen]
        ends = (starts + self.sizes[chosen]).tolist()
        return [self.utf8[start:end] for start, end in zip(starts.tolist(), ends, strict=True)]


class WordTable:
    """Words and their places: 1, 2, ... in the order of their coming. At most `max_words`; linear probing."""

    def __init__(self, max_words: int) -> None:
        bits = max(4, (2 * max_words).bit_length())
        self.max_words, self.num_words = max_words, 0
        self._shift, self._mask = np.uint64(64 - bits), (1 << bits) - 1
        self._place_at = np.full(1 << bits, ABSENT, np.int32)
        self._columns = np.full((max_words + 1, NUM_COLUMNS), 0, np.uint64)  # written, not np.zeros: all memory is taken now
        self._sizes = np.full(max_words + 1, MAX_BYTES + 1, np.uint8)
        self._hashes = np.full(max_words + 1, 0, np.uint64)

    def find(self, words: Words, chosen: np.ndarray | slice = ALL_WORDS) -> np.ndarray:
        """The places of the chosen words, ABSENT for those that are not here: int32."""
        slots = (words.hashes[chosen] >> self._shift).astype(np.int64)
        places = self._place_at[slots]
        left = np.flatnonzero(~self._are(places, words, chosen) & (places != ABSENT))
        all_chosen = np.arange(len(words.starts))[chosen] if len(left) else np.arange(0)
        while len(left):
            slots[left] = (slots[left] + 1) & self._mask
            places[left] = self._place_at[slots[left]]
            left = left[~self._are(places[left], words, all_chosen[left]) & (places[left] != ABSENT)]
        return places

    def _are(self, places: np.ndarray, words: Words, chosen: np.ndarray | slice) -> np.ndarray:
        """Whether each of the chosen words is the one at the place beside it."""
        sizes = words.sizes[chosen]
        same = (self._columns[places, 0] == words.first_column[chosen]) & (self._sizes[places] == sizes)
        longer = np.flatnonzero(same & (sizes > COLUMN_BYTES))
        at = np.arange(len(words.starts))[chosen] if len(longer) else np.arange(0)
        for number in range(1, NUM_COLUMNS):
            longer = longer[sizes[longer] > COLUMN_BYTES * number]
            equal = self._columns[places[longer], number] == words.column(number, at[longer])
            same[longer[~equal]] = False
            longer = longer[equal]
        return same

    def add(self, words: Words, chosen: np.ndarray) -> np.ndarray:
        """Give the chosen words, distinct and not here yet, of at most MAX_BYTES, their places: int64."""
        places = self.num_words + 1 + np.arange(len(chosen))
        sizes = words.sizes[chosen]
        self._sizes[places] = sizes
        self._hashes[places] = words.hashes[chosen]
        for number in range(NUM_COLUMNS):
            reaching = np.flatnonzero(sizes > COLUMN_BYTES * number)
            self._columns[places[reaching], number] = words.column(number, chosen[reaching])
        self._enter(places)
        return places

    def keep(self, places: np.ndarray) -> None:
        """Forget all other words; these get the places 1, 2, ... in the order given, which must be ascending."""
        columns, sizes, hashes = self._columns[places], self._sizes[places], self._hashes[places]
        self.num_words = 0
        self._columns.fill(0)
        self._place_at.fill(ABSENT)
        new = 1 + np.arange(len(places))
        self._columns[new], self._sizes[new], self._hashes[new] = columns, sizes, hashes
        self._enter(new)

    def _enter(self, places: np.ndarray) -> None:
        self.num_words += len(places)
        slots = (self._hashes[places] >> self._shift).astype(np.int64)
        while len(places):
            free = self._place_at[slots] == ABSENT
            self._place_at[slots[free]] = places[free]  # of several that want a slot, the last one gets it
            left = self._place_at[slots] != places
            places, slots = places[left], (slots[left] + 1) & self._mask
