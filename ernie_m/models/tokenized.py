"""Texts as a Hugging Face encoder reads them: tokenized once, whoever reads them then, and cut where it reads no further."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LONGEST = 512
"""Tokens of a text that are read at most, special ones included; fewer where the encoder has room for fewer."""
TEXTS_AT_A_TIME = 1024


class Tokenized:
    """Texts as tokens of `tokenizer`, a fast one of Hugging Face's.

    `longest`: tokens that are read at most. `num_cut`: how many of the texts are longer. `characters`: length of each text.
    `offsets`: of each text where its tokens begin and end in it; special tokens begin where they end.
    """

    def __init__(self, tokenizer: Any, texts: Sequence[str]) -> None:
        self._tokenizer, self.longest = tokenizer, min(LONGEST, int(tokenizer.model_max_length))
        self.characters, self.num_cut = list(map(len, texts)), 0
        self.offsets: list[list[tuple[int, int]]] = []
        self._inputs: list[dict[str, list[int]]] = []
        for start in range(0, len(texts), TEXTS_AT_A_TIME):
            some = list(texts[start : start + TEXTS_AT_A_TIME])
            read = tokenizer(some, truncation=True, max_length=self.longest, return_offsets_mapping=True)
            self.num_cut += sum(bool(of_text.overflowing) for of_text in read.encodings)
            self.offsets += read.pop("offset_mapping")
            self._inputs += [dict(zip(read, of_text, strict=True)) for of_text in zip(*read.values(), strict=True)]

    def __len__(self) -> int:
        return len(self._inputs)

    def batch(self, chosen: Sequence[int]) -> Any:
        """What the encoder takes of these texts, padded: input_ids, attention_mask, and what else it asks for, [B, S]."""
        return self._tokenizer.pad([self._inputs[i] for i in chosen], return_tensors="pt")
