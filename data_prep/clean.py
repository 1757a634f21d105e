"""Which records are kept, and in what form. A pair is judged whole, so that its sides stay aligned."""

from __future__ import annotations

import hashlib

from data_prep.records import Record
from ernie_m.corpus import HELD_OUT, TRAIN

MAX_CHARACTERS = 20_000
EMPTY = "empty"
TOO_MANY_CHARACTERS = f"more than {MAX_CHARACTERS} characters"
NO_TOKENS = "no tokens"


def clean(record: Record) -> Record:
    """The record with its texts stripped, or rejected with the reason."""
    if record.reason is not None:
        return record.rejected(record.reason)
    texts = tuple(text.strip() for text in record.texts)
    if not all(texts):
        return record.rejected(EMPTY)
    if max(map(len, texts)) > MAX_CHARACTERS:
        return record.rejected(TOO_MANY_CHARACTERS)
    return record._replace(texts=texts)


def split_of(source: str, held_out: float) -> str:
    """`train` or `held_out`, by the source text alone: every copy of a sentence, in any corpus, lands in the same split.

    A text held out at one fraction is held out at every larger one.
    """
    digest = hashlib.blake2b(source.encode("utf-8"), digest_size=8).digest()
    return HELD_OUT if int.from_bytes(digest, "big") < held_out * 2**64 else TRAIN
