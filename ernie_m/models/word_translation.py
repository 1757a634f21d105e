"""Word translation: is a word's nearest neighbour, by cosine of static embeddings, its translation?

A static embedding is a row of the word embedding, before positions and layers; of a word of several pieces, their mean. So
this asks whether words that translate each other have met in the table itself (the second figure of arXiv 2106.01732).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ernie_m.base.console import InputError
from ernie_m.corpus.word_pairs import Dictionary
from ernie_m.models.retrieval import accuracy_at_1

SPACES = frozenset({"▁", "Ġ"})
"""Pieces of white space alone, which some tokenizers put in front of a word without spaces."""


@dataclass(frozen=True)
class WordTranslation:
    """Accuracy@1 of finding a word's translation among all words of the other side, 0 to 1, and over how many pairs."""

    pairs: int
    to_target: float
    to_source: float

    @property
    def ways(self) -> tuple[float, float]:
        """Both accuracies."""
        return self.to_target, self.to_source


def static_vectors(word_embedding_VD: Tensor, words: Sequence[Sequence[int]]) -> Tensor:
    """The mean of each word's rows, fp32 [N, D]; `words` has the ids of each one's pieces, at least one."""
    ids_P = torch.tensor([i for ids in words for i in ids], dtype=torch.long, device=word_embedding_VD.device)
    lengths_N = torch.tensor([len(ids) for ids in words], device=ids_P.device)
    return F.embedding_bag(ids_P, word_embedding_VD.detach().float(), lengths_N.cumsum(0) - lengths_N, mode="mean")


def pieces_of(tokenizer: Any, words: Sequence[str]) -> list[list[int]]:
    """Ids of each word's pieces, as it is written behind a space, by Hugging Face's tokenizer; empty if one is unknown."""
    encoded = tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
    spaces = {number for piece in SPACES if (number := tokenizer.convert_tokens_to_ids(piece)) is not None}
    spaces -= {tokenizer.unk_token_id}
    return [[] if tokenizer.unk_token_id in ids else [i for i in ids if i not in spaces] for ids in encoded]


def known_pairs(tokenizer: Any, dictionary: Dictionary) -> tuple[list[list[int]], list[list[int]]]:
    """The pieces of both words of each pair that the tokenizer knows and writes in different pieces."""
    both = zip(pieces_of(tokenizer, dictionary.source), pieces_of(tokenizer, dictionary.target), strict=True)
    known = [(source, target) for source, target in both if source and target and source != target]
    return [source for source, _ in known], [target for _, target in known]


def word_translation(encoder: nn.Module, tokenizer: Any, dictionary: Dictionary) -> WordTranslation:
    """Of any Hugging Face encoder. Pairs with pieces that it does not know are left out."""
    source, target = known_pairs(tokenizer, dictionary)
    if not source:
        raise InputError(f"{type(encoder).__name__}: its tokenizer knows no pair of the dictionary")
    table_VD: Tensor = encoder.get_input_embeddings().weight  # type: ignore[operator]
    found = accuracy_at_1(static_vectors(table_VD, source), static_vectors(table_VD, target))
    return WordTranslation(len(source), *found)


def translations(encoder: nn.Module, tokenizer: Any, dictionaries: Mapping[str, Dictionary]) -> dict[str, WordTranslation]:
    """Of each dictionary."""
    return {name: word_translation(encoder, tokenizer, dictionary) for name, dictionary in dictionaries.items()}
