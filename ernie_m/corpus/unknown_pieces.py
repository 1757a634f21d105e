"""Does the tokenizer know this language? By the share of unknown pieces.

An unknown piece is <unk>. A model with byte fallback never gives <unk>; there a piece of a single byte is unknown.
Neighbouring unknown characters of a word are one <unk>, and the space before the word is a known piece. So completely
unknown text has a share of about 50 %, not 100 % (with byte fallback near 100 %).

The limits were chosen on the Universal Declaration of Human Rights in 388 languages, under models of 4 to 388 languages:
languages that the tokenizer was trained on stay below 2.5 % (nearly all below 0.5 %). Languages in a known script, but with
some letters of their own, have 3 to 20 % (under a model of English, French, German and Spanish: Polish 8 %, Yoruba 18 %).
Those in an unknown script have 40 to 50 %.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ernie_m.base.console import InputError
from ernie_m.base.special_tokens import BYTE_PIECES

ALARM_SHARE = 0.03
LIMIT_SHARE = 0.20


@dataclass(frozen=True)
class Pieces:
    """Pieces of some text, and how many of them are unknown."""

    total: int = 0
    unknown: int = 0

    @property
    def share(self) -> float:
        """Unknown pieces in all, from 0 to 1."""
        return self.unknown / max(self.total, 1)

    def __add__(self, other: Pieces) -> Pieces:
        return Pieces(self.total + other.total, self.unknown + other.unknown)

    @property
    def shown(self) -> str:
        """'0.02 %'."""
        return f"{100 * self.share:.2f} %"

    def alarm(self, what: str) -> str | None:
        """A line for text that the tokenizer knows badly, named by `what`; None for other text."""
        if self.share <= ALARM_SHARE:
            return None
        known = "knows little of it" if self.share <= LIMIT_SHARE else "does not know it"
        return f"{self.shown} of the pieces of {what} are unknown to the tokenizer: it {known}"

    def refuse_unknown(self, what: str) -> None:
        """Raise InputError for text of which too much is unknown."""
        if self.share > LIMIT_SHARE:
            raise InputError(
                f"{self.alarm(what)} (more than {100 * LIMIT_SHARE:.0f} %); train one on it (data_prep train-tokenizer) or "
                "choose another, correct the catalog's language or file, or add --allow_unknown to take the text as it is"
            )


def count(ids: np.ndarray, unknown_ids: np.ndarray) -> Pieces:
    """Count the pieces in ids of any shape, which should hold no special tokens."""
    if len(unknown_ids) == 1:
        return Pieces(ids.size, int(np.count_nonzero(ids == unknown_ids[0])))
    return Pieces(ids.size, int(np.isin(ids, unknown_ids).sum()))


def unknown_ids_of(tokenizer: Any) -> np.ndarray | None:
    """The ids of unknown pieces in a tokenizer of transformers; None where it has none (byte-level BPE)."""
    ids = [] if tokenizer.unk_token_id is None else [tokenizer.unk_token_id]
    vocabulary = tokenizer.get_vocab()
    if all(name in vocabulary for name in (BYTE_PIECES[0], BYTE_PIECES[-1])):
        ids += [vocabulary[name] for name in BYTE_PIECES]
    return np.array(ids) if ids else None


def count_features(features: Iterable[Mapping[str, Any]], tokenizer: Any) -> Pieces:
    """Count the pieces in features made by a tokenizer of transformers, without special tokens."""
    unknown_ids = unknown_ids_of(tokenizer)
    if unknown_ids is None:
        return Pieces()
    special = np.setdiff1d(np.array(tokenizer.all_special_ids), unknown_ids)
    total = Pieces()
    for feature in features:
        for name, ids in feature.items():
            if name.endswith("_ids") and name != "token_type_ids":
                values = np.asarray(ids)
                total += count(values[~np.isin(values, special)], unknown_ids)
    return total
