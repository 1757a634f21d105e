"""What is held out: what a hash of its name chooses, the same today and later, whatever else is there."""

from __future__ import annotations

import hashlib


def is_held_out(name: str, share: float) -> bool:
    """Whether `name` is of the `share` that is held out."""
    digest = hashlib.blake2b(name.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64
