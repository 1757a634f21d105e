"""The vocabulary of a SentencePiece model: text -> model ids, with XLM-R's (fairseq's) numbering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from ernie_m.base.console import InputError
from ernie_m.base.files import sha256_of
from ernie_m.base.special_tokens import (
    BOS,
    BYTE_PIECES,
    EOS,
    FAIRSEQ_OFFSET,
    MASK,
    PAD,
    UNK,
    UNK_ID,
    Specials,
    mask_id,
    vocab_size_of,
)
from ernie_m.corpus.ragged import EncodedTexts
from ernie_m.corpus.special_roles import first_position
from ernie_m.corpus.tokenizer_files import TOKENIZER_FILE

__all__ = ["TOKENIZER_FILE", "EncodedTexts", "Vocabulary", "joined"]

TEXTS_AT_A_TIME = 4096  # bounds the Python lists between SentencePiece and numpy


class Vocabulary:
    """A SentencePiece model seen as a map from text to model ids (int32).

    Raises InputError when `path` is missing or is no SentencePiece model, or its first pieces are not <unk> <s> </s>.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"tokenizer {self.path}: no such file; expected a SentencePiece model (see train-tokenizer)")
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_file=str(self.path))
        except (RuntimeError, OSError):
            raise InputError(f"tokenizer {self.path}: not a SentencePiece model") from None
        first = [self._processor.id_to_piece(i) for i in range(3)]
        if first != ["<unk>", "<s>", "</s>"]:
            raise InputError(f"tokenizer {self.path}: pieces 0-2 are {first}, expected <unk> <s> </s> (XLM-R's layout)")
        self.fingerprint = sha256_of(self.path)
        specials = Specials.xlm_r(vocab_size_of(self._processor.get_piece_size()))
        self.specials = replace(specials, first_position=first_position(self.path, specials.pad, is_behind_pad=True))
        self.size = self.specials.vocab_size
        self.mask_id = mask_id(self.size)
        model = self.model_proto()
        self.is_unigram = model.trainer_spec.model_type == model.trainer_spec.UNIGRAM
        self.kind = "SentencePiece unigram" if self.is_unigram else "SentencePiece BPE"
        names = BYTE_PIECES if model.trainer_spec.byte_fallback else ()
        byte_pieces = [self._processor.piece_to_id(name) + FAIRSEQ_OFFSET for name in names]
        self.unknown_ids = np.array([UNK_ID, *byte_pieces], np.int32)
        """Model ids of unknown pieces: <unk>, and single bytes if the model has them."""

    def model_proto(self) -> Any:
        """The model's own description of itself (a ModelProto), parsed afresh: it is large and seldom needed."""
        content = self._processor.serialized_model_proto()
        return sentencepiece_model_pb2.ModelProto.FromString(content)  # type: ignore[attr-defined]

    def encode(self, text: str) -> np.ndarray:
        """Model ids of one text, without <s> and </s>: int32 [num_tokens]."""
        return _model_ids(np.asarray(self._processor.encode(text), dtype=np.int32))

    def encode_batch(self, texts: Sequence[str]) -> EncodedTexts:
        """Model ids of many texts, without special tokens, on one core: a rank keeps to its own."""
        return joined([self._encoded(texts[i : i + TEXTS_AT_A_TIME]) for i in range(0, len(texts), TEXTS_AT_A_TIME)])

    def _encoded(self, texts: Sequence[str]) -> EncodedTexts:
        try:
            ids = self._processor.encode(list(texts), num_threads=1)  # SentencePiece's own default takes all cores
        except RuntimeError:  # one of them, of which it does not say which
            ids = [self._segmented(text) for text in texts]
        values, offsets = EncodedTexts.of(ids)
        return EncodedTexts(_model_ids(values), offsets)

    def _segmented(self, text: str) -> list[int]:
        """Piece ids; none of a text that SentencePiece cannot segment, such as a word of a hundred thousand letters."""
        try:
            return list(self._processor.encode(text))
        except RuntimeError:
            return []

    def normalised(self, texts: Sequence[str]) -> list[str]:
        """The texts as they are segmented: normalised by the model's rules, with U+2581 at the beginning and for spaces."""
        return list(self._processor.normalize(list(texts)))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of model ids; special tokens are left out."""
        pieces = [int(i) - FAIRSEQ_OFFSET for i in ids if UNK_ID < int(i) < self.mask_id]
        return str(self._processor.decode(pieces))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The piece of each model id, as it is in the model, with U+2581 for a space; special tokens by their names."""
        names = {**dict(enumerate((BOS, PAD, EOS, UNK))), self.mask_id: MASK}
        return [names.get(i) or str(self._processor.id_to_piece(i - FAIRSEQ_OFFSET)) for i in map(int, ids)]


def joined(parts: Sequence[EncodedTexts]) -> EncodedTexts:
    """The texts of all parts, in their order."""
    if len(parts) == 1:
        return parts[0]
    offsets, end = [np.zeros(1, np.int64)], 0
    for part in parts:
        offsets.append(part.offsets[1:] + end)
        end += len(part.values)
    return EncodedTexts(np.concatenate([np.zeros(0, np.int32), *(part.values for part in parts)]), np.concatenate(offsets))


def _model_ids(piece_ids: np.ndarray) -> np.ndarray:
    return np.where(piece_ids == 0, np.int32(UNK_ID), piece_ids + np.int32(FAIRSEQ_OFFSET))
