"""What is held out: what a hash of a text or a name chooses, the same today and later, whatever else is there."""

from __future__ import annotations

import hashlib


def is_chosen(text: str, share: float) -> bool:
    """Whether `text` is of the `share`, 0 to 1, that is chosen; what is chosen at one share is so at every larger one."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64
