"""Text -> ids without segmenting a word again that was seen before; the ids are SentencePiece's, bit for bit.

1. The texts are cut at U+0020 and the words looked up, all at once (word_table.py). A known word's ids lie in a flat pool.
2. A word that comes for the second time is encoded by SentencePiece, alone, and kept with a *limit*: up to which sum of
   scores of a text the ids hold (segmentation_gap.py says why there is one). For BPE there is no limit. About
   half of all words never come again; long words, and words of scripts without spaces between words, are not kept at all.
3. A text is put together from its words if each is kept and the text is within the smallest of their limits. Every other
   text is encoded whole, by SentencePiece. So are all texts where the model does not allow this (word_independence.py).
4. Looking up words of such scripts would be in vain: where most of a sample is written in them, nothing is looked up.

What is in the cache decides how fast ids are found, never which.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_prep.words.segmentation_gap import SegmentationGap
from data_prep.words.word_independence import SPACE, why_words_depend
from data_prep.words.word_table import ABSENT, MAX_BYTES, Words, WordTable
from ernie_m.base.console import Choice
from ernie_m.corpus.any_vocabulary import AnyVocabulary
from ernie_m.corpus.vocabulary import EncodedTexts, Vocabulary, joined

MAX_WORDS = 400_000  # about 100 MB with their ids and the trie of a model of 250,000 pieces
CHARACTERS_AT_A_TIME = 1 << 19
SEEN_ENOUGH = 2  # times
SAMPLED_TEXTS, SAMPLED_CHARACTERS = 32, 64

# No raw U+2581 (word_independence.py; U+0000 is seen before); and Thai to Tibetan, Myanmar, Khmer, Tai, Javanese, CJK, Yi.
NOT_KEPT = re.compile(
    f"[{SPACE}\u0e00-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u2e80-\ua4cf\ua980-\ua9ff\uaa60-\uaadf\uf900-\ufaff"
    "\uff00-\uffef\U00016fe0-\U0001b2ff\U00020000-\U0003ffff]"
)


class Column:
    """An array that grows at its end, in steps of twice its size."""

    def __init__(self, dtype: Any) -> None:
        self._room = np.zeros(0, dtype)
        self._size = 0

    @property
    def filled(self) -> np.ndarray:
        """What is there: a view, good until more is added."""
        return self._room[: self._size]

    def add(self, values: np.ndarray) -> None:
        """Put `values` behind what is there."""
        end = self._size + len(values)
        if end > len(self._room):
            room = np.empty(max(end, 2 * len(self._room)), self._room.dtype)
            room[: self._size] = self.filled
            self._room = room
        self._room[self._size : end] = values
        self._size = end


class WordCache:
    """Encodes texts with `vocabulary`, remembering words; `choice` says whether words are remembered, and why not.

    Counters: `words_seen` and, of them, `words_known`; `texts_seen` and, of them, `texts_whole`, those encoded whole.
    """

    def __init__(self, vocabulary: AnyVocabulary, max_words: int = MAX_WORDS) -> None:
        self.vocabulary = vocabulary
        self.max_words = max_words
        self._model = vocabulary if isinstance(vocabulary, Vocabulary) else None
        proto = None if self._model is None else self._model.model_proto()
        reason = "its proof is for SentencePiece models" if proto is None else why_words_depend(proto)
        self.choice = Choice("word cache", "off" if reason else "on", reason or "no piece and no rule reaches over a space")
        self._is_on = reason is None
        self._gap = SegmentationGap(proto) if self._model and self._model.is_unigram and self._is_on else None
        self.words_seen = self.words_known = self.texts_seen = self.texts_whole = 0
        self.clear()

    def clear(self) -> None:
        """Forget all words; the counters stay."""
        self._table = WordTable(self.max_words)
        # by place in the table; a word that is absent or only noted has no ids and holds in no text. Written, not np.zeros:
        # a rank's memory is then the same for a short corpus and a long one
        self._start = np.full(self.max_words + 1, 0, np.int64)  # in the pool
        self._length = np.full(self.max_words + 1, 0, np.int32)
        self._limit = np.full(self.max_words + 1, 0, np.float32)
        self._is_kept = np.full(self.max_words + 1, False)
        self._times_seen = np.full(self.max_words + 1, 0, np.uint8)  # before it was kept
        self._was_used = np.full(self.max_words + 1, False)
        self._pool = Column(np.int32)

    def encode_batch(self, texts: Sequence[str]) -> EncodedTexts:
        """The ids that `vocabulary.encode_batch(texts)` gives."""
        if not self._is_on:
            return self._whole(texts)
        ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
        parts, start = [], 0
        while start < len(texts):
            stop = int(np.searchsorted(ends, (ends[start - 1] if start else 0) + CHARACTERS_AT_A_TIME, side="right"))
            part = texts[start : max(stop, start + 1)]
            parts.append(self._whole(part) if _mostly_without_spaces(part) else self._by_words(part))
            start += len(part)
        return joined(parts)

    def _whole(self, texts: Sequence[str]) -> EncodedTexts:
        self.texts_seen += len(texts)
        self.texts_whole += len(texts)
        return self.vocabulary.encode_batch(texts)

    def _by_words(self, texts: Sequence[str]) -> EncodedTexts:
        utf8 = "\0".join([*texts, ""]).encode()
        if utf8.count(0) != len(texts):
            # U+0000 within a text; a word that is never kept in its place has the text encoded whole
            utf8 = "\0".join([SPACE if "\0" in text else text for text in texts] + [""]).encode()
        words = Words(utf8)
        starts = np.cumsum(words.num_words) - words.num_words
        places = self._places(words)
        lengths = self._length[places]
        num_tokens = np.add.reduceat(lengths, starts, dtype=np.int64)
        is_whole = ~self._holds(num_tokens, places, starts)
        self._was_used[places] = True
        self.texts_seen += len(texts)
        if is_whole.any():
            encoded = self._mixed(texts, is_whole, places, lengths, words.num_words, num_tokens)
        else:
            encoded = EncodedTexts(self._gathered(places, lengths), _offsets(num_tokens))
        if self._table.num_words == self.max_words:
            self._forget_unused()
        return encoded

    def _holds(self, num_tokens: np.ndarray, places: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Whether each text is below the limits of all its words; no piece scores worse than -`largest`."""
        limits = np.minimum.reduceat(self._limit[places], starts)
        return num_tokens * (self._gap.largest if self._gap else 0.0) < limits

    def _mixed(
        self,
        texts: Sequence[str],
        is_whole: np.ndarray,
        places: np.ndarray,
        lengths: np.ndarray,
        num_words: np.ndarray,
        num_tokens: np.ndarray,
    ) -> EncodedTexts:
        whole = self.vocabulary.encode_batch([texts[i] for i in np.flatnonzero(is_whole).tolist()])
        self.texts_whole += len(whole.offsets) - 1
        num_tokens[is_whole] = np.diff(whole.offsets)
        by_words = np.repeat(~is_whole, num_words)
        is_from_whole = np.repeat(is_whole, num_tokens)
        values = np.empty(len(is_from_whole), np.int32)
        values[is_from_whole] = whole.values
        values[~is_from_whole] = self._gathered(places[by_words], lengths[by_words])
        return EncodedTexts(values, _offsets(num_tokens))

    def _gathered(self, places: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The ids of the words, end to end."""
        ends = np.cumsum(lengths, dtype=np.int64)
        from_result_to_pool = self._start[places] - (ends - lengths)
        return self._pool.filled[np.repeat(from_result_to_pool, lengths) + np.arange(ends[-1] if len(ends) else 0)]

    def _places(self, words: Words) -> np.ndarray:
        """Look the words up; note the new ones, and keep those that were seen often enough."""
        places = self._table.find(words)
        pending = np.flatnonzero(~self._is_kept[places])
        self.words_seen += len(places)
        self.words_known += len(places) - len(pending)
        if len(pending):
            self._note(words, pending[places[pending] == ABSENT])
            places[pending] = self._table.find(words, pending)
            noted = pending[places[pending] != ABSENT]
            noted_places, first, counts = np.unique(places[noted], return_index=True, return_counts=True)
            times = np.minimum(self._times_seen[noted_places] + counts, SEEN_ENOUGH)
            self._times_seen[noted_places] = times
            often = times == SEEN_ENOUGH
            if often.any():
                self._keep(noted_places[often], [word.decode() for word in words.bytes_of(noted[first[often]])])
        return places

    def _note(self, words: Words, absent: np.ndarray) -> None:
        """Put absent words that are worth it into the table, as far as there is room."""
        absent = absent[words.sizes[absent] <= MAX_BYTES]
        _, first = np.unique(words.hashes[absent], return_index=True)
        new = absent[np.sort(first)]  # of words with the same hash only the first is noted; the others stay absent
        is_worth = [word.isascii() or not NOT_KEPT.search(word.decode()) for word in words.bytes_of(new)]
        self._table.add(words, new[is_worth][: self.max_words - self._table.num_words])

    def _keep(self, places: np.ndarray, words: list[str]) -> None:
        encoded = self.vocabulary.encode_batch(words)
        self._start[places] = encoded.offsets[:-1] + len(self._pool.filled)
        self._length[places] = np.diff(encoded.offsets)
        limits = self._gap.limits(self._model.normalised(words), *encoded) if self._gap and self._model else np.inf
        self._limit[places] = limits
        self._is_kept[places] = True
        self._pool.add(encoded.values)

    def _forget_unused(self) -> None:
        """Full: keep the words that came again since the last time, and of them (the older) no more than half the room."""
        places = np.flatnonzero(self._is_kept & self._was_used)[: self.max_words // 2]
        lengths, limits = self._length[places], self._limit[places]
        values = self._gathered(places, lengths)
        self._table.keep(places)
        for column in (self._start, self._length, self._limit, self._is_kept, self._times_seen, self._was_used):
            column.fill(0)
        new = 1 + np.arange(len(places))
        self._start[new] = _offsets(lengths)[:-1]
        self._length[new], self._limit[new], self._is_kept[new] = lengths, limits, True
        self._pool = Column(np.int32)
        self._pool.add(values)


def _mostly_without_spaces(texts: Sequence[str]) -> bool:
    """Whether looking up words would be in vain, by a few characters of a few texts."""
    sample = "".join(text[:SAMPLED_CHARACTERS] for text in texts[:: 1 + len(texts) // SAMPLED_TEXTS])
    return 2 * len(NOT_KEPT.findall(sample)) > len(sample)


def _offsets(lengths: np.ndarray) -> np.ndarray:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
