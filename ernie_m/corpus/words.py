"""Where words begin among the tokens of a line: what a tokenizer says of white space.

A word is what white space of the text separates. Pieces of SentencePiece, and of a tokenizer.json with Metaspace or
byte-level BPE, carry the space in front of them. Those of WordPiece do not: `don't` and `don ' t` have the same ids.
"""

from __future__ import annotations

import numpy as np

from ernie_m.base.console import InputError
from ernie_m.corpus.any_vocabulary import AnyVocabulary
from ernie_m.corpus.joins import SPACE
from ernie_m.corpus.json_vocabulary import JsonVocabulary
from ernie_m.corpus.vocabulary import Vocabulary

BYTE_LEVEL_SPACE = "Ġ"


def begins_word(vocabulary: AnyVocabulary) -> np.ndarray:
    """Of each id whether white space stands in front of it, bool [vocabulary]. Raises InputError when pieces do not say.

    The first token of a line begins a word in any case.
    """
    space = SPACE if isinstance(vocabulary, Vocabulary) else _space_of(vocabulary)
    return np.array([piece.startswith(space) for piece in vocabulary.pieces(range(vocabulary.size))])


def begins_any_word(vocabulary: AnyVocabulary) -> np.ndarray:
    """Of each id whether a word begins with it, bool [vocabulary], for noise: pieces of WordPiece are known by their ##.

    There punctuation is a word of its own. Raises InputError when pieces do not say.
    """
    if isinstance(vocabulary, JsonVocabulary) and vocabulary.continuing_prefix:
        prefix = vocabulary.continuing_prefix
        return np.array([not piece.startswith(prefix) for piece in vocabulary.pieces(range(vocabulary.size))])
    return begins_word(vocabulary)


def word_numbers(ids: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """The word that each token of a line is of, from 0, int64 [tokens]; `begins` from `begins_word`."""
    is_first = begins[ids]
    is_first[:1] = False
    return np.cumsum(is_first)


def _space_of(vocabulary: JsonVocabulary) -> str:
    if vocabulary.has_step("Metaspace"):
        return SPACE
    if vocabulary.has_step("ByteLevel"):
        return BYTE_LEVEL_SPACE
    raise InputError(
        f"{vocabulary.path}: its pieces ({vocabulary.kind}) do not say where white space was, so words cannot be known; "
        "give links between tokens (--units tokens)"
    )
