"""Words and their places: the same word, the same place, whatever the hash."""

from __future__ import annotations

import numpy as np

from data_prep.words.word_table import ABSENT, Words, WordTable


def test_words_of_one_hash_stay_apart() -> None:
    """Also words that begin alike, for several columns, and a table that is full to its last place."""
    texts = ["", "a", "b", "abcdefgh", "abcdefghi", "abcdefgh" * 2, "abcdefgh" * 6, "abcdefgh" * 5 + "x", "ü"]
    for same_hash in (False, True):
        words, table = Words("".join(text + " " for text in texts).encode()[:-1] + b"\0"), WordTable(len(texts))
        if same_hash:
            words.hashes[:] = 1 << 63
        assert (table.find(words) == ABSENT).all()
        half = np.arange(0, len(texts), 2)
        assert table.add(words, half).tolist() == [1, 2, 3, 4, 5]
        assert table.find(words).tolist() == [1, 0, 2, 0, 3, 0, 4, 0, 5]
        table.add(words, np.arange(1, len(texts), 2))
        assert table.find(words).tolist() == [1, 6, 2, 7, 3, 8, 4, 9, 5]
        table.keep(np.array([2, 3, 6]))
        assert table.find(words).tolist() == [0, 3, 1, 0, 2, 0, 0, 0, 0]
