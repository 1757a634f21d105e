"""SentencePiece text -> model ids, with XLM-R's (fairseq's) numbering; what a vocabulary is, by its bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from ernie_m.console import InputError
from ernie_m.files import sha256_of
from ernie_m.special_tokens import FAIRSEQ_OFFSET, UNK_ID, mask_id, vocab_size_of

TOKENIZER_FILE = "sentencepiece.bpe.model"  # the name XLM-R and `transformers` use, whatever the algorithm


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
        self.size = vocab_size_of(self._processor.get_piece_size())
        self.mask_id = mask_id(self.size)
        model = sentencepiece_model_pb2.ModelProto.FromString(self.path.read_bytes())  # type: ignore[attr-defined]
        self.is_unigram = model.trainer_spec.model_type == model.trainer_spec.UNIGRAM

    def encode(self, text: str) -> np.ndarray:
        """Model ids of one text, without <s> and </s>: int32 [num_tokens]."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Model ids of many texts, each int32 [num_tokens], without special tokens."""
        return [_model_ids(np.asarray(ids, dtype=np.int32)) for ids in self._processor.encode(list(texts))]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of model ids; special tokens are left out."""
        pieces = [int(i) - FAIRSEQ_OFFSET for i in ids if UNK_ID < int(i) < self.mask_id]
        return str(self._processor.decode(pieces))


def _model_ids(piece_ids: np.ndarray) -> np.ndarray:
    return np.where(piece_ids == 0, UNK_ID, piece_ids + FAIRSEQ_OFFSET).astype(np.int32)
