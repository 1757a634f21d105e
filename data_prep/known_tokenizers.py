"""Which tokenizer is this? XLM-R's own is known by its bytes; a file that only looks like it is refused.

XLM-R's weights fit the ids of its own sentencepiece.bpe.model and of no other. A file that was cut
short or changed, or a model of ours under that name, would give wrong ids, and nothing later would show it.
"""

from __future__ import annotations

import re

from ernie_m.base.console import Choice, InputError
from ernie_m.base.special_tokens import XLM_R_VOCAB_SIZE, vocab_size_of
from ernie_m.corpus.any_vocabulary import AnyVocabulary
from ernie_m.corpus.json_vocabulary import JsonVocabulary
from ernie_m.corpus.vocabulary import TOKENIZER_FILE, Vocabulary

XLM_R_SHA256 = "cfc8146abe2a0488e9e2a0c56de7952f7c11ab059eca145a0a727afce0db2865"
XLM_R_BYTES = 5_069_051
SHOWN = 12  # hex digits of a hash that are shown: enough to tell files apart


def recognised(vocabulary: AnyVocabulary, expected_sha256: str | None = None) -> Choice:
    """What `vocabulary` is, for the log; `expected_sha256` is the beginning of the hash that the user means to have.

    Raises InputError when the hash is not the expected one, when the file ends too early, and, unless the user expects
    just this file, when it has XLM-R's name and number of pieces but other bytes.
    """
    if expected_sha256 is not None:
        _refuse_other_than(expected_sha256, vocabulary)
    if isinstance(vocabulary, JsonVocabulary):
        return _described(vocabulary)
    if vocabulary.fingerprint == XLM_R_SHA256:
        return Choice("tokenizer", "XLM-R's own", f"SHA-256 {XLM_R_SHA256[:SHOWN]}...")
    _refuse_truncated(vocabulary)
    looks_like_xlm_r = vocabulary.path.name == TOKENIZER_FILE and vocabulary.size == XLM_R_VOCAB_SIZE
    if looks_like_xlm_r and expected_sha256 is None:
        raise InputError(
            f"tokenizer {vocabulary.path}: has XLM-R's name and number of pieces, but its SHA-256 is "
            f"{vocabulary.fingerprint[:SHOWN]}... ({vocabulary.path.stat().st_size:,} bytes), expected "
            f"{XLM_R_SHA256[:SHOWN]}... ({XLM_R_BYTES:,} bytes): a damaged or changed download; fetch it again, or, if the "
            f"model is your own, say so by --tokenizer_sha256 {vocabulary.fingerprint[:SHOWN]}"
        )
    pieces = vocabulary.size - vocab_size_of(0)
    return Choice(
        "tokenizer",
        f"a {vocabulary.kind} model of our own or unknown origin, {pieces:,} pieces",
        f"SHA-256 {vocabulary.fingerprint[:SHOWN]}..., not XLM-R's {XLM_R_SHA256[:SHOWN]}...: its weights do not fit",
    )


def _described(vocabulary: JsonVocabulary) -> Choice:
    specials = vocabulary.specials
    ids = {name: getattr(specials, name) for name in ("begin", "end", "pad", "mask")}
    roles = {name: "none" if i is None else vocabulary.pieces([i])[0] for name, i in ids.items()}
    return Choice(
        "tokenizer",
        f"a {vocabulary.kind} tokenizer.json, {vocabulary.size:,} ids, {specials.num_replaceable:,} of which may replace "
        f"others; {', '.join(f'{name} {piece}' for name, piece in roles.items())}; positions from {specials.first_position}",
        f"SHA-256 {vocabulary.fingerprint[:SHOWN]}...",
    )


def _refuse_other_than(expected: str, vocabulary: AnyVocabulary) -> None:
    prefix = expected.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{8,64}", prefix):
        raise InputError(f"--tokenizer_sha256 {expected}: expected the first 8 to 64 hexadecimal digits of a SHA-256")
    if not vocabulary.fingerprint.startswith(prefix):
        raise InputError(
            f"tokenizer {vocabulary.path}: its SHA-256 is {vocabulary.fingerprint}, --tokenizer_sha256 expects {prefix}; "
            "take the file that was meant, or correct the option"
        )


def _refuse_truncated(vocabulary: Vocabulary) -> None:
    """A model cut between two pieces still loads, as a smaller one: trainer and normalizer come behind the pieces."""
    model = vocabulary.model_proto()
    if not (model.HasField("trainer_spec") and model.HasField("normalizer_spec")):
        raise InputError(
            f"tokenizer {vocabulary.path}: ends behind its piece {len(model.pieces):,}, without the settings that a "
            "SentencePiece model closes with; the file is truncated, fetch it again"
        )
