"""Pieces taken out of and added to a tokenizer.json: unigram, BPE (of characters or bytes), WordPiece.

MODELS has what differs between the kinds: which pieces need which others, and how the model's part of the file is written.
Ids in the rest of the file (added tokens, special tokens around a text) are changed to match.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ernie_m.base.console import InputError
from ernie_m.base.special_tokens import BYTE_PIECES
from ernie_m.corpus.editable import RowSources, once, order_of, scores_of, sources_of, steps_to
from ernie_m.corpus.joins import MOST_CHARACTERS, SPACE, NewPiece, is_word
from ernie_m.corpus.json_vocabulary import JsonVocabulary
from ernie_m.corpus.special_roles import ids_by_name, roles_of, special_names
from ernie_m.corpus.spelling import BYTES, INSIDE, spelling_of
from ernie_m.corpus.tokenizer_files import read_object

Model = dict[str, Any]
Order = Sequence[int | NewPiece]


@dataclass(frozen=True)
class Kind:
    """A kind of model of the `tokenizers` library."""

    with_steps: bool
    needed: Callable[[Model, Iterable[str], Sequence[NewPiece]], Iterable[str]]
    """(model, names of the pieces that stay, new pieces) -> names of pieces that they cannot be made without."""
    rewritten: Callable[[Model, Order, Mapping[int, str], Sequence[NewPiece]], None]
    """Write the model's part anew, in place: (model, order of the new ids, old names, new pieces)."""


def _characters_and_lowest(model: Model, names: Iterable[str], new: Sequence[NewPiece]) -> Iterable[str]:
    lowest = min((score, name) for place, (name, score) in enumerate(model["vocab"]) if place != model.get("unk_id"))
    return {lowest[1], *"".join([*names, *(piece.name for piece in new)])}


def _rewritten_unigram(model: Model, order: Order, names: Mapping[int, str], new: Sequence[NewPiece]) -> None:
    old = model["vocab"]
    scores = dict(zip((piece.name for piece in new), scores_of(new, lambda i: old[i][1]), strict=True))
    inside = [token for token in order if not isinstance(token, int) or token < len(old)]
    model["vocab"] = [old[token] if isinstance(token, int) else [token.name, scores[token.name]] for token in inside]
    if model.get("unk_id") is not None:
        model["unk_id"] = inside.index(model["unk_id"])


def _merges(model: Model) -> list[tuple[str, str]]:
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    return [(left, right) for left, right in pairs]


def _steps(model: Model, names: Iterable[str], new: Sequence[NewPiece]) -> set[tuple[str, str]]:
    """The merges that make these pieces."""
    all_merges = [*_merges(model), *((piece.left, piece.right) for piece in new)]
    rank = {pair: float(at) for at, pair in reversed([*enumerate(all_merges)])}
    wanted = [*names, *(piece.name for piece in new)]
    return {step for name in wanted for step in steps_to(name, lambda left, right: rank.get((left, right)))}


def _parts_of_steps(model: Model, names: Iterable[str], new: Sequence[NewPiece]) -> Iterable[str]:
    return {part for step in _steps(model, names, new) for part in (*step, "".join(step))}


def _rewritten_bpe(model: Model, order: Order, names: Mapping[int, str], new: Sequence[NewPiece]) -> None:
    """Old merges keep their order, new ones come behind them; merges that make no kept piece go with the pieces."""
    is_text = any(isinstance(merge, str) for merge in model["merges"][:1])
    inside = _inside(model, order, names)
    kept = {*inside}
    merges = [pair for pair in _merges(model) if {*pair, "".join(pair)} <= kept]
    merges += [(piece.left, piece.right) for piece in new]
    model["vocab"] = {name: i for i, name in enumerate(inside)}
    model["merges"] = [" ".join(pair) if is_text else [*pair] for pair in merges]


def _rewritten_word_piece(model: Model, order: Order, names: Mapping[int, str], new: Sequence[NewPiece]) -> None:
    model["vocab"] = {name: i for i, name in enumerate(_inside(model, order, names))}


def _inside(model: Model, order: Order, names: Mapping[int, str]) -> list[str]:
    """The names that the model holds, in their new order: without those that are added tokens alone."""
    old = {*model["vocab"]}
    found = [names[token] if isinstance(token, int) else token.name for token in order]
    return [name for token, name in zip(order, found, strict=True) if not isinstance(token, int) or name in old]


MODELS = {
    "Unigram": Kind(False, _characters_and_lowest, _rewritten_unigram),
    "BPE": Kind(True, _parts_of_steps, _rewritten_bpe),
    "WordPiece": Kind(False, lambda model, names, new: (), _rewritten_word_piece),
}


class EditableJson:
    """A tokenizer.json. Raises InputError for a kind that has no rule here, and for one that JsonVocabulary refuses."""

    def __init__(self, path: Path) -> None:
        JsonVocabulary(path)
        self.path, self._content = path, read_object(path)
        model = self._content["model"]
        self._model, kind = model, str(model.get("type"))
        if kind not in MODELS:
            raise InputError(f"tokenizer {path}: its model is a {kind}; pieces can be changed of {', '.join(MODELS)}")
        if reason := _why_not(model):
            raise InputError(f"tokenizer {path}: {reason}; pieces of such a one cannot be changed")
        self._kind, self._spelling = MODELS[kind], spelling_of(self._content)
        self.with_steps = self._kind.with_steps
        self._ids = ids_by_name(self._content)
        self.names = {i: name for name, i in self._ids.items()}
        special = special_names(self._content, roles_of(self._content, path))
        special |= {token["content"] for token in self._content["added_tokens"] or ()}
        special |= {*BYTE_PIECES} if model.get("byte_fallback") else set()
        self.fixed = {self._ids[name] for name in special if name in self._ids}
        self._tokenizer = Tokenizer.from_str(json.dumps(self._content))

    def words(self, line: str) -> Iterable[str]:
        tokenizer = self._tokenizer
        text = tokenizer.normalizer.normalize_str(line) if tokenizer.normalizer else line
        words = [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)] if tokenizer.pre_tokenizer else [text]
        if self._spelling is not BYTES:
            return words
        texts = map(self._spelling.text, words)
        return [word for word, shown in zip(words, texts, strict=True) if shown is not None and is_word(shown)]

    def segmented(self, word: str) -> list[int]:
        return [token.id for token in self._tokenizer.model.tokenize(word)]

    def joined(self, left: str, right: str) -> str | None:
        name = self._spelling.joined(left, right) if left else right
        text = self._spelling.text(name)
        if text is None:  # bytes of a word: `words` gives no others
            return name
        is_fine = is_word(text) and SPACE not in text[1:] and len(text) <= MOST_CHARACTERS
        return name if is_fine or text == SPACE else None

    def text(self, name: str) -> str | None:
        return self._spelling.text(name)

    def with_needed(self, ids: set[int], new: Sequence[NewPiece]) -> set[int]:
        names = [self.names[i] for i in sorted(ids - self.fixed)]
        needed = self._kind.needed(self._model, names, new)
        return ids | {self._ids[name] for name in needed if name in self._ids}

    def rewritten(self, kept: set[int], new: Sequence[NewPiece]) -> tuple[bytes, RowSources]:
        order = self._order(kept | self.fixed, new)
        content = copy.deepcopy(self._content)
        self._kind.rewritten(content["model"], order, self.names, new)
        new_id = {token: i for i, token in enumerate(order) if isinstance(token, int)}
        for token in content["added_tokens"] or ():
            token["id"] = new_id[token["id"]]
        if content.get("padding"):
            content["padding"]["pad_id"] = new_id[content["padding"]["pad_id"]]
        _renumber_around(content.get("post_processor"), new_id)
        return json.dumps(content, ensure_ascii=False).encode("utf-8"), sources_of(order)

    def _order(self, kept: set[int], new: Sequence[NewPiece]) -> list[int | NewPiece]:
        """The model's own tokens, new pieces among them, then tokens that are only added, as the library numbers them."""
        vocabulary = self._model["vocab"]
        own = {*vocabulary} if isinstance(vocabulary, dict) else {name for name, _ in vocabulary}
        inside = {i: name for i, name in self.names.items() if name in own}
        added = sorted(i for i in self.names if i not in inside and i in kept)
        return [*order_of(inside, self.fixed.__contains__, kept, once(new)), *added]


def _why_not(model: Model) -> str | None:
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model["type"] == "BPE" and model.get(key):
            return f"it is a BPE with {key} {model[key]!r}"
    if model["type"] == "WordPiece" and model.get("continuing_subword_prefix", INSIDE) != INSIDE:
        return f"its pieces inside words begin with {model['continuing_subword_prefix']!r}, expected {INSIDE!r}"
    return None


def _renumber_around(processor: dict[str, Any] | None, new_id: Mapping[int, int]) -> None:
    """The ids that a post-processor adds to a text."""
    for inner in (processor or {}).get("processors", ()):
        _renumber_around(inner, new_id)
    for key in ("sep", "cls"):
        if processor and key in processor:
            processor[key] = [processor[key][0], new_id[processor[key][1]]]
    for token in (processor or {}).get("special_tokens", {}).values():
        token["ids"] = [new_id[i] for i in token["ids"]]
