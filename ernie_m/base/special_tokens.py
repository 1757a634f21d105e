"""Ids of the special tokens, laid out as in XLM-R (fairseq): four in front, the mask at the end.

An id in this project is a *model id*. A SentencePiece model numbers its pieces <unk>=0 <s>=1 </s>=2 first=3;
fairseq put <s> <pad> </s> <unk> in front, so a real piece's model id is its SentencePiece id + 1.
"""

BOS_ID = 0  # <s>, also [CLS]
PAD_ID = 1
EOS_ID = 2  # </s>, also [SEP]
UNK_ID = 3
FAIRSEQ_OFFSET = 1
FIRST_PIECE_ID = 4

BOS, PAD, EOS, UNK, MASK = "<s>", "<pad>", "</s>", "<unk>", "<mask>"

XLM_R_VOCAB_SIZE = 250_002
FIRST_POSITION_ID = 2  # position ids start after the pad id, as in RoBERTa
NO_LANGUAGE = 0  # language id of a token that carries none


def mask_id(vocab_size: int) -> int:
    """Id of <mask>: the last one of the vocabulary."""
    return vocab_size - 1


def vocab_size_of(num_pieces: int) -> int:
    """Model vocabulary of a SentencePiece model of `num_pieces` (its <unk> <s> </s> included): + <pad> + <mask>."""
    return num_pieces + 2
