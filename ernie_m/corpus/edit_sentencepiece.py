"""Pieces taken out of and added to a SentencePiece model in XLM-R's layout, unigram or BPE."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import sentencepiece

from ernie_m.base.special_tokens import BOS_ID, FAIRSEQ_OFFSET, FIRST_PIECE_ID, PAD_ID
from ernie_m.corpus.editable import RowSources, once, order_of, scores_of, sources_of, steps_to
from ernie_m.corpus.joins import MOST_CHARACTERS, SPACE, NewPiece, is_word
from ernie_m.corpus.vocabulary import Vocabulary

_WORD = re.compile(f"{SPACE}*[^{SPACE}]+|{SPACE}+")


class EditableSentencePiece:
    """The model behind a Vocabulary. Ids are model ids."""

    def __init__(self, path: Path) -> None:
        vocabulary = Vocabulary(path)
        self.path, self._vocabulary, self._model = path, vocabulary, vocabulary.model_proto()
        self.with_steps = not vocabulary.is_unigram
        self.names = dict(enumerate(vocabulary.pieces(range(vocabulary.size))))
        normal = self._model.SentencePiece.NORMAL
        pieces = self._model.pieces
        self._scores = {at + FAIRSEQ_OFFSET: piece.score for at, piece in enumerate(pieces) if at + 1 >= FIRST_PIECE_ID}
        self.fixed = {*range(BOS_ID, FIRST_PIECE_ID), vocabulary.mask_id}
        self.fixed |= {i for i in self._scores if pieces[i - FAIRSEQ_OFFSET].type != normal}
        self.lowest = min(self._scores, key=self._scores.__getitem__, default=PAD_ID)
        self._ids = {name: i for i, name in self.names.items()}
        self._bare = sentencepiece.SentencePieceProcessor(model_proto=self._without_rules())

    def _without_rules(self) -> bytes:
        """The same pieces for text that is normalised already."""
        model = self._vocabulary.model_proto()
        rules = model.normalizer_spec
        rules.name, rules.precompiled_charsmap = "identity", b""
        rules.add_dummy_prefix = rules.remove_extra_whitespaces = False
        return bytes(model.SerializeToString())

    def words(self, line: str) -> Iterable[str]:
        return _WORD.findall(self._vocabulary.normalised([line])[0])

    def segmented(self, word: str) -> list[int]:
        return [FIRST_PIECE_ID - 1 if i == 0 else i + FAIRSEQ_OFFSET for i in self._bare.encode(word)]

    def joined(self, left: str, right: str) -> str | None:
        name = left + right
        is_fine = is_word(name) and SPACE not in name[1:] and len(name) <= MOST_CHARACTERS
        return name if is_fine or name == SPACE else None

    def text(self, name: str) -> str | None:
        return name

    def with_needed(self, ids: set[int], new: Sequence[NewPiece]) -> set[int]:
        """Unigram: the characters of each piece, so that an unknown one is as unknown as before, and the piece with the
        lowest score, which the price of an unknown one hangs on. BPE: what each piece is merged from."""
        names = [*(self.names[i] for i in ids - self.fixed), *(piece.name for piece in new)]
        if not self.with_steps:
            return {*ids, self.lowest, *(self._ids[one] for one in {*"".join(names)} & self._ids.keys())}
        ranks = self._ranks(new)
        made = {part for name in names for step in steps_to(name, ranks) for part in (*step, "".join(step))}
        return ids | {self._ids[name] for name in made if name in self._ids}

    def _ranks(self, new: Sequence[NewPiece]) -> Callable[[str, str], float | None]:
        order = {self.names[i]: -score for i, score in self._scores.items()}
        order |= {name: -score for name, score in self._new_scores(new).items()}
        return lambda left, right: order.get(left + right)

    def rewritten(self, kept: set[int], new: Sequence[NewPiece]) -> tuple[bytes, RowSources]:
        order = order_of(self.names, self.fixed.__contains__, kept | self.fixed, new)
        model = self._vocabulary.model_proto()
        pieces = [*model.pieces]
        del model.pieces[FIRST_PIECE_ID - FAIRSEQ_OFFSET :]
        scores = self._new_scores(new)
        for token in order[FIRST_PIECE_ID:-1]:
            if isinstance(token, int):
                model.pieces.append(pieces[token - FAIRSEQ_OFFSET])
            else:
                model.pieces.add(piece=token.name, score=scores[token.name])
        model.trainer_spec.vocab_size = len(model.pieces)
        return bytes(model.SerializeToString()), sources_of(order)

    def _new_scores(self, new: Sequence[NewPiece]) -> dict[str, float]:
        if not self.with_steps:
            return dict(zip((piece.name for piece in new), scores_of(new, self._scores.__getitem__), strict=True))
        lowest = min(self._scores.values(), default=0.0)
        return {piece.name: lowest - 1 - place for place, piece in enumerate(once(new))}
