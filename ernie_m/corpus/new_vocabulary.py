"""A tokenizer with other pieces: with new ones for a language, without those that no corpus uses; and what changed.

1. `learned`: pieces for the new text. Those that would change a line of the old languages' text are left out, round by
   round, and others are learned in their place.
2. `kept_pieces`: the pieces that the corpora use under the new tokenizer; the pieces that these need; special tokens;
   characters of the corpora's scripts.
3. `measured`: tokens before and after of each text, and its lines whose pieces are others now.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ernie_m.base.console import InputError, Progress
from ernie_m.base.process_end import clean_end
from ernie_m.corpus.any_vocabulary import AnyVocabulary, open_vocabulary
from ernie_m.corpus.edit_json import EditableJson
from ernie_m.corpus.edit_sentencepiece import EditableSentencePiece
from ernie_m.corpus.editable import Editable, RowSources, characters_of, counted_runs, usual_scripts
from ernie_m.corpus.joins import JoinLearner, NewPiece
from ernie_m.corpus.texts import Text
from ernie_m.corpus.tokenizer_files import MODEL_CONFIG, companions_of, is_json
from ernie_m.corpus.vocabulary import TEXTS_AT_A_TIME

ROUNDS = 10
"""How often pieces that changed old text are replaced by others; later ones are left out alone."""
MOST_WORDS = 500_000
"""Distinct words that pieces are learned from, the most frequent ones."""


@dataclass(frozen=True)
class Measure:
    """One text before and after."""

    name: str
    lines: int
    words: int
    """As spaces cut them."""
    tokens: tuple[int, int]
    unknown: tuple[int, int]
    changed: int
    """Lines that are cut into other pieces than before."""

    def row(self) -> list[str]:
        """For a table."""
        before, after = (count / max(1, self.words) for count in self.tokens)
        share = f"{self.changed:,} of {self.lines:,}"
        unknown = f"{self.unknown[0]:,} {self.unknown[1]:,}"
        return [self.name, f"{self.words:,}", f"{before:.3f}", f"{after:.3f}", unknown, share]


HEADER = ("text", "words", "tokens a word before", "after", "unknown before, after", "lines cut otherwise")


def open_editable(path: Path) -> Editable:
    """The pieces of a tokenizer's file; raises InputError for one whose pieces cannot be changed."""
    return EditableJson(path) if is_json(path) else EditableSentencePiece(path)


def opened(editable: Editable, content: bytes) -> AnyVocabulary:
    """The tokenizer with that content, beside the same other files."""
    with clean_end, tempfile.TemporaryDirectory() as folder:
        for beside in (*companions_of(editable.path), editable.path.with_name(MODEL_CONFIG)):
            if beside.is_file():
                shutil.copyfile(beside, Path(folder) / beside.name)
        path = Path(folder) / editable.path.name
        path.write_bytes(content)
        return open_vocabulary(path)


def batches(texts: Iterable[Text]) -> Iterator[list[str]]:
    """Their lines, TEXTS_AT_A_TIME together."""
    for text in texts:
        lines = iter(text.lines)
        while batch := list(itertools.islice(lines, TEXTS_AT_A_TIME)):
            yield batch


def learned(editable: Editable, texts: Sequence[Text], num: int, unchanged: Sequence[Text]) -> list[NewPiece]:
    """At most `num` new pieces for `texts`; those that would be in a line of `unchanged` are left out.

    Raises InputError for texts without a word, or out of which no piece can be learned.
    """
    words = Counter(word for batch in batches(texts) for line in batch for word in editable.words(line))
    names = ", ".join(text.name for text in texts)
    if not words:
        raise InputError(f"text {names}: no line with a word in it; expected text of the new language, one a line")
    runs = counted_runs(editable, Counter(dict(words.most_common(MOST_WORDS))))
    left_out: set[str] = set()
    for _ in range(ROUNDS):
        learner = JoinLearner(runs, editable.names, editable.joined)
        new = learner.learn(num, left_out, editable.with_steps)
        if not (found := _found(editable, new, unchanged)):
            break
        left_out |= found
    while found := _found(editable, new, unchanged):
        new = _without(new, found, editable.with_steps)
    if not new:
        all_old = f"each of {len(left_out):,} would change old text; give less of that"
        reason = all_old if left_out else "no two of its pieces stand together twice; expected more text"
        raise InputError(f"text {names}: no new piece: {reason}")
    return new


def _found(editable: Editable, new: Sequence[NewPiece], texts: Sequence[Text]) -> set[str]:
    """The names of the new pieces that these texts are cut into."""
    if not new or not texts:
        return set()
    content, rows = editable.rewritten({*editable.names}, new)
    vocabulary, uses = opened(editable, content), np.zeros(len(rows), np.int64)
    for batch in batches(texts):
        uses += np.bincount(vocabulary.encode_batch(batch).values, minlength=len(rows))
    return {*vocabulary.pieces(np.flatnonzero((uses > 0) & ~rows.is_same).tolist())}


def _without(new: Sequence[NewPiece], names: set[str], with_steps: bool) -> list[NewPiece]:
    """The pieces that are left, without those made of one that is not."""
    gone, left = {*names}, []
    for piece in new:
        if piece.name in gone or (with_steps and {piece.left, piece.right} & gone):
            gone.add(piece.name)
        else:
            left.append(piece)
    return left


def kept_pieces(editable: Editable, texts: Sequence[Text], new: Sequence[NewPiece], also: Iterable[int]) -> set[int]:
    """The old ids that stay when the others are taken out; `also`: ids that stay whatever the texts use.

    Raises InputError for texts without a line.
    """
    content, rows = editable.rewritten({*editable.names}, new)
    vocabulary, uses = opened(editable, content), np.zeros(len(rows), np.int64)
    characters: Counter[str] = Counter()
    progress = Progress("looking for pieces that are used", None, "lines")
    for batch in batches(texts):
        uses += np.bincount(vocabulary.encode_batch(batch).values, minlength=len(rows))
        for line in batch:
            characters.update(line)
        progress.advance(len(batch))
    progress.close()
    if not characters:
        raise InputError(
            f"text {', '.join(text.name for text in texts)}: no line in it; expected the corpora to keep pieces of"
        )
    used = {int(i) for i in rows.same()[(uses > 0) & rows.is_same]}
    stay = used | editable.fixed | characters_of(editable, usual_scripts(characters)) | {*also} & editable.names.keys()
    return editable.with_needed(stay, new)


def measured(old: AnyVocabulary, new: AnyVocabulary, rows: RowSources, texts: Sequence[Text]) -> list[Measure]:
    """Each text under both vocabularies; `rows`: where the new ids come from."""
    return [_measured(old, new, rows.same(), text) for text in texts]


def _measured(old: AnyVocabulary, new: AnyVocabulary, same: np.ndarray, text: Text) -> Measure:
    lines = words = changed = 0
    tokens, unknown = np.zeros(2, np.int64), np.zeros(2, np.int64)
    progress = Progress(f"measuring {text.name}", None, "lines")
    for batch in batches([text]):
        sides = [vocabulary.encode_batch(batch) for vocabulary in (old, new)]
        lines, words = lines + len(batch), words + sum(len(line.split()) for line in batch)
        tokens += [len(side.values) for side in sides]
        unknown += [int(np.isin(side.values, it.unknown_ids).sum()) for side, it in zip(sides, (old, new), strict=True)]
        changed += _changed(sides[0].values, sides[0].offsets, same[sides[1].values], sides[1].offsets)
        progress.advance(len(batch))
    progress.close()
    before, after = ((int(count[0]), int(count[1])) for count in (tokens, unknown))
    return Measure(text.name, lines, words, before, after, changed)


def _changed(ids: np.ndarray, offsets: np.ndarray, others: np.ndarray, others_offsets: np.ndarray) -> int:
    """How many texts have other ids."""

    def same(i: int) -> bool:
        return np.array_equal(ids[offsets[i] : offsets[i + 1]], others[others_offsets[i] : others_offsets[i + 1]])

    return sum(not same(i) for i in range(len(offsets) - 1))
