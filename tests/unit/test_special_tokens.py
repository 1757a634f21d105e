"""Ids as in XLM-R."""

from __future__ import annotations

from ernie_m.base import special_tokens as t


def test_ids_are_those_of_XLM_R() -> None:
    assert (t.BOS_ID, t.PAD_ID, t.EOS_ID, t.UNK_ID) == (0, 1, 2, 3)
    assert (t.BOS, t.PAD, t.EOS, t.UNK, t.MASK) == ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    assert t.vocab_size_of(250_000) == t.XLM_R_VOCAB_SIZE == 250_002
    assert t.mask_id(t.XLM_R_VOCAB_SIZE) == 250_001
    assert t.FIRST_POSITION_ID == t.PAD_ID + 1
    assert t.FIRST_PIECE_ID == t.UNK_ID + 1 == 3 + t.FAIRSEQ_OFFSET  # SentencePiece's first real piece is number 3
