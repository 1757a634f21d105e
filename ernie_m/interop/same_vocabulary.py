"""Does an id mean the same piece to weights and data? The tokenizer files are compared; if they differ, their pieces.

Weights with other ids still load, but are worse than random ones, and nothing later shows it. So every file beside the
weights that says what an id means is compared: sentencepiece.bpe.model, ERNIE-M's vocab.txt, fairseq's dict.txt or, if
none of them is there, tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ernie_m.base.console import InputError
from ernie_m.base.files import read_json
from ernie_m.base.special_tokens import FAIRSEQ_OFFSET, FIRST_PIECE_ID, ROLES
from ernie_m.corpus.any_vocabulary import open_vocabulary
from ernie_m.corpus.vocabulary import TOKENIZER_FILE, Vocabulary
from ernie_m.interop.weight_files import DICTIONARY_TEXT, TOKENIZER_JSON, VOCABULARY_TEXT

TOLERATED = 1e-3
"""Share of ids that may differ, since some tokenizers have rare pieces replaced. Different tokenizers share few ids."""


class OtherVocabularyError(InputError):
    """The weights' ids mean other pieces than the data's."""


OVERWRITES = " #fairseq:overwrite"


def check_vocabulary(folder: Path, tokenizer: Path, tokenizer_sha256: str) -> str:
    """In words: what shows that the weights in `folder` have the ids of `tokenizer`, or that nothing there shows it.

    Raises InputError when they differ, with the first id that differs.
    """
    found = []
    model, text, fast = (folder / name for name in (TOKENIZER_FILE, VOCABULARY_TEXT, TOKENIZER_JSON))
    dictionary = folder / DICTIONARY_TEXT
    if model.is_file():
        vocabulary = Vocabulary(model)
        if vocabulary.fingerprint == tokenizer_sha256:
            found.append(f"{model.name} is the data's (SHA-256 {tokenizer_sha256[:12]}...)")
        else:
            found.append(_compared(model, _pieces(vocabulary), tokenizer))
    if text.is_file():
        found.append(_compared(text, _lines(text)[FIRST_PIECE_ID:-1], tokenizer))
    if dictionary.is_file():
        found.append(_compared(dictionary, _pieces_of_dictionary(dictionary), tokenizer))
    if fast.is_file() and not found:
        found.append(_compared(fast, _pieces_of_json(fast), tokenizer))
    return "; ".join(found) or "no tokenizer lies beside the weights: whether their ids are the data's is not known"


def _pieces(vocabulary: Vocabulary) -> list[str]:
    """The pieces of ids FIRST_PIECE_ID to the last before <mask>."""
    return [piece.piece for piece in vocabulary.model_proto().pieces[FIRST_PIECE_ID - FAIRSEQ_OFFSET :]]


def _lines(path: Path) -> list[str]:
    """The lines. They end at the line feed alone, since pieces hold U+2028 and the like."""
    try:
        return path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8; fetch it again") from None


def _pieces_of_dictionary(path: Path) -> list[str]:
    """The pieces of fairseq's dict.txt, `piece count` in each line; it leaves out <s> <pad> </s> <unk> and <mask>."""
    pieces = []
    for number, line in enumerate(_lines(path), start=1):
        piece, _, count = line.removesuffix(OVERWRITES).rpartition(" ")
        if not piece or not count.isdecimal():
            raise InputError(f"{path}, line {number}: {line!r}; expected a piece, a space and a count")
        pieces.append(piece)
    return pieces


def _pieces_of_json(path: Path) -> list[str]:
    try:
        vocabulary = read_json(path)["model"]["vocab"]
        return [str(piece) for piece, _ in vocabulary[FIRST_PIECE_ID:-1]]
    except (UnicodeDecodeError, ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path}: not a unigram tokenizer of the `tokenizers` library; XLM-R's is one") from None


def _compared(path: Path, theirs: Sequence[str], tokenizer: Path) -> str:
    ours = _pieces(Vocabulary(tokenizer))
    way_out = f"build the data with the weights' own tokenizer, or start from weights of {tokenizer}"
    if len(theirs) != len(ours):
        raise OtherVocabularyError(
            f"{path}: {len(theirs):,} pieces, the data's tokenizer {tokenizer} has {len(ours):,}; {way_out}"
        )
    differing = [i for i, (their, our) in enumerate(zip(theirs, ours, strict=True)) if their != our]
    if not differing:
        return f"{path.name} has the data's pieces"
    first = differing[0]
    example = f"id {first + FIRST_PIECE_ID} is {theirs[first]!r}, in the data {ours[first]!r}"
    if len(differing) > TOLERATED * len(ours):
        raise OtherVocabularyError(
            f"{path}: {len(differing):,} of {len(ours):,} ids mean other pieces: {example}; {way_out}"
        )
    return f"{path.name} has the data's pieces but for {len(differing)} ({example})"


def check_same_tokenizer(folder: Path, tokenizer: Path, tokenizer_sha256: str) -> str:
    """In words: what shows that the tokenizer in `folder`, of any kind, is the data's, which lies at `tokenizer`.

    Raises InputError when an id means another piece, or another token plays a special role.
    """
    theirs, ours = open_vocabulary(folder), open_vocabulary(tokenizer)
    way_out = f"build the data with --tokenizer {folder}"
    for role in ROLES:
        its, of_data = getattr(theirs.specials, role), getattr(ours.specials, role)
        if its != of_data:
            raise InputError(f"{theirs.path}: its {role} is {its}, in the data {of_data}; {way_out}")
    if theirs.fingerprint == tokenizer_sha256:
        return f"{theirs.path.name} is the data's (SHA-256 {tokenizer_sha256[:12]}...)"
    if theirs.size != ours.size:
        raise InputError(f"{theirs.path}: {theirs.size:,} ids, the data's tokenizer has {ours.size:,}; {way_out}")
    pieces = zip(theirs.pieces(range(theirs.size)), ours.pieces(range(ours.size)), strict=True)
    differing = [(i, its, of_data) for i, (its, of_data) in enumerate(pieces) if its != of_data]
    if not differing:
        return f"{theirs.path.name} has the data's pieces"
    example = "id {} is {!r}, in the data {!r}".format(*differing[0])
    if len(differing) > TOLERATED * ours.size:
        raise InputError(f"{theirs.path}: {len(differing):,} of {ours.size:,} ids mean other pieces: {example}; {way_out}")
    return f"{theirs.path.name} has the data's pieces but for {len(differing)} ({example})"
