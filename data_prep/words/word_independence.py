"""May a text be encoded word by word? Read from the model itself, since it holds for most models, not for all.

SentencePiece maps a text to normal form (`normalizer.cc`), puts U+2581 in front and for each space, and segments the whole.
Cut the raw text at U+0020 and encode the words alone: the ids are those of the whole text, end to end, when

1. normalisation does not look across a raw space. It reads the text from left to right and replaces the longest key of its
   rules that starts where it is; so no key may hold a space together with something else. Runs of spaces, also those that
   rules bring about (U+3000, U+00A8), become one U+2581 and vanish at both ends of the text: a word alone then loses the
   same spaces as within its text, provided that no rule writes two spaces in a row or U+2581;
2. no piece holds U+2581 after its first character, so that no piece lies across the start of a word;
3. U+2581 is a piece itself: as an unknown character it would melt with unknown neighbours into one <unk> over a space;
4. the choice among segmentations is made within the word. BPE compares scores and places, which a context does not change
   (but pieces marked unused are split by a table that other words write to); for unigram see segmentation_gap.py.

A word that holds U+2581 or U+0000 in the raw text is outside of this argument; word_cache.py leaves such texts alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

SPACE = "\u2581"
NODES_AT_A_TIME = 256


def why_words_depend(model: Any) -> str | None:
    """The first condition that a ModelProto fails, in words; None when words may be encoded alone."""
    trainer, rules = model.trainer_spec, model.normalizer_spec
    if trainer.model_type not in (trainer.UNIGRAM, trainer.BPE):
        return "neither a unigram nor a BPE model"
    if trainer.treat_whitespace_as_suffix:
        return "its pieces end with the space"
    for name in ("add_dummy_prefix", "remove_extra_whitespaces", "escape_whitespaces"):
        if not getattr(rules, name):
            return f"its normaliser has {name}=false"
    return _bad_pieces(model) or _bad_rules(rules.precompiled_charsmap)


def _bad_pieces(model: Any) -> str | None:
    kind = model.SentencePiece
    names, scores = [piece.piece for piece in model.pieces], [piece.score for piece in model.pieces]
    types = np.fromiter((piece.type for piece in model.pieces), np.int64, len(names))
    for index in np.flatnonzero((types == kind.USER_DEFINED) | (types == kind.UNUSED)).tolist():
        return f"piece {names[index]!r} is user-defined or unused"
    normal = np.flatnonzero(types == kind.NORMAL).tolist()
    for index in normal:
        if SPACE in names[index][1:]:
            return f"piece {names[index]!r} reaches over a space"
        if not -1e4 <= scores[index] <= 0 and model.trainer_spec.model_type == model.trainer_spec.UNIGRAM:
            return f"piece {names[index]!r} has the score {scores[index]}, no logarithm of a probability"
    if not any(names[index] == SPACE for index in normal):
        return "U+2581 is no piece"
    return None


def _bad_rules(charsmap: bytes) -> str | None:
    """`charsmap`: <size of the trie, uint32><Darts double array of the keys><what they become, each ended by NUL>."""
    if not charsmap:
        return None
    size = int(np.frombuffer(charsmap, "<u4", 1)[0])
    units = np.frombuffer(charsmap, "<u4", size // 4, 4).astype(np.int64)
    outputs = charsmap[4 + size :]
    if b"  " in outputs or SPACE.encode() in outputs:
        return "a rule of its normaliser writes two spaces or U+2581"
    if not _has_only_space_with_space(units, outputs):
        return "a rule of its normaliser has a space in its key"
    return None


def _has_only_space_with_space(units: np.ndarray, outputs: bytes) -> bool:
    """Whether the one key that may hold a space is the space itself, which stays what it is. Walks the whole trie."""
    ahead = [np.zeros(1, np.int64)]
    while ahead:
        nodes = ahead.pop()
        children, is_child = _children(units, nodes)
        at_space = children[:, ord(" ")][is_child[:, ord(" ")]]
        if len(at_space):
            value = units[at_space[0] ^ _offsets(units[at_space[0]])] & 0x7FFFFFFF
            is_whole_key = nodes[0] == 0 and not _children(units, at_space)[1].any()
            if not is_whole_key or outputs[value : value + 2] != b" \0":
                return False
        found = children[is_child]
        ahead.extend(found[i : i + NODES_AT_A_TIME] for i in range(0, len(found), NODES_AT_A_TIME))
    return True


def _children(units: np.ndarray, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the child of each node by each byte would be, and whether it is there: int64 and bool [nodes, 256]."""
    labels = np.arange(256)
    children = (nodes ^ _offsets(units[nodes]))[:, None] ^ labels
    is_child = (units[np.minimum(children, len(units) - 1)] & 0x800000FF) == labels
    is_child &= children < len(units)
    is_child[:, 0] = False  # the byte 0 leads to the value of the key that ends here
    return children, is_child


def _offsets(units: np.ndarray) -> np.ndarray:
    """How far the children of a node are: Darts-clone's layout of a unit."""
    return (units >> 10) << ((units & 0x200) >> 6)
