"""Writes a SentencePiece BPE model as a tokenizer.json, since no class of transformers reads one in XLM-R's layout.

SentencePiece starts from characters. Again and again it joins the two neighbours whose joined piece has the best score. The
`tokenizers` library joins the two whose merge comes first in a list. So each piece gives a merge for every way to cut it
into two pieces, and the list is sorted by score. Each word is segmented by itself, so the model must have no piece with a
space inside.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from ernie_m.base.console import InputError
from ernie_m.base.special_tokens import BOS, EOS, FAIRSEQ_OFFSET, FIRST_PIECE_ID, MASK, PAD, UNK
from ernie_m.corpus.joins import SPACE
from ernie_m.corpus.vocabulary import Vocabulary


def bpe_json(vocabulary: Vocabulary) -> str:
    """The content of the tokenizer.json that gives the ids of this BPE model.

    Raises InputError for a model whose text is not normalised and cut as XLM-R's.
    """
    model = vocabulary.model_proto()
    if reason := _why_not(model):
        raise InputError(f"{vocabulary.path}: {reason}, which a tokenizer.json cannot be made for; train one as XLM-R's is")
    pieces = [piece.piece for piece in model.pieces[FIRST_PIECE_ID - FAIRSEQ_OFFSET :]]
    ids = {name: i for i, name in enumerate([BOS, PAD, EOS, UNK, *pieces, MASK])}
    assert len(ids) == vocabulary.size, "a piece is there twice"
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(name, ids[name]) for name in (BOS, PAD, EOS, UNK, MASK)],
        "normalizer": _normaliser(model.normalizer_spec.precompiled_charsmap),
        "pre_tokenizer": {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True},
        "post_processor": _post_processor(),
        "decoder": {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": UNK,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": ids,
            "merges": [list(pair) for pair in _merges(model)],
        },
    }
    return json.dumps(content, ensure_ascii=False)


def _why_not(model: Any) -> str | None:
    trainer, rules, kinds = model.trainer_spec, model.normalizer_spec, model.SentencePiece
    if trainer.model_type != trainer.BPE:
        return "not a BPE model"
    if trainer.byte_fallback:
        return "it spells unknown characters in bytes"
    if not (rules.add_dummy_prefix and rules.remove_extra_whitespaces and rules.escape_whitespaces):
        return "its spaces are not treated as XLM-R's are"
    for piece in model.pieces[FIRST_PIECE_ID - FAIRSEQ_OFFSET :]:
        if piece.type != kinds.NORMAL:
            return f"its piece {piece.piece!r} is of a kind of its own"
        if SPACE in piece.piece[1:]:
            return f"its piece {piece.piece!r} reaches over a space"
    return None


def _merges(model: Any) -> Iterator[tuple[str, str]]:
    """(left, right) merges, best first; those of one piece by the length of the left part."""
    pieces = model.pieces[FIRST_PIECE_ID - FAIRSEQ_OFFSET :]
    known = {piece.piece for piece in pieces}
    for piece in sorted(pieces, key=lambda it: -it.score):  # stable: equal scores keep the order of their ids
        name = piece.piece
        for cut in range(1, len(name)):
            if name[:cut] in known and name[cut:] in known:
                yield name[:cut], name[cut:]


def _added(name: str, i: int) -> dict[str, Any]:
    is_mask = name == MASK  # it includes the space before it, as in XLM-R
    return {
        "id": i,
        "content": name,
        "single_word": False,
        "lstrip": is_mask,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def _normaliser(charsmap: bytes) -> dict[str, Any]:
    """SentencePiece's rules; then spaces at both ends are removed, and several spaces become one."""
    steps: list[dict[str, Any]] = []
    if charsmap:
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode("ascii")})
    steps.append({"type": "Replace", "pattern": {"Regex": "^ +| +$"}, "content": ""})
    steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    return {"type": "Sequence", "normalizers": steps}


def _post_processor() -> dict[str, Any]:
    """<s> x </s>, and of a pair <s> x </s> </s> y </s>."""
    begin, end = ({"SpecialToken": {"id": name, "type_id": 0}} for name in (BOS, EOS))
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    tokens = {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in ((BOS, 0), (EOS, 2))}
    pair = [begin, first, end, end, second, end]
    return {"type": "TemplateProcessing", "single": [begin, first, end], "pair": pair, "special_tokens": tokens}
