"""Weights under another vocabulary than the data's: which of their rows each of the data's pieces starts from.

A piece that both have takes its row, whatever its id; special tokens by their role. Any other starts as the mean of the rows
of the pieces that the weights' own tokenizer cuts it into. What that does not know starts as the mean of all rows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ernie_m.base.files import sha256_of
from ernie_m.base.special_tokens import ROLES
from ernie_m.corpus.any_vocabulary import AnyVocabulary, open_vocabulary
from ernie_m.corpus.editable import RowSources
from ernie_m.corpus.new_vocabulary import open_editable
from ernie_m.corpus.spelling import spelling_at
from ernie_m.corpus.tokenizer_files import TOKENIZER_FILE, TOKENIZER_JSON, is_json
from ernie_m.interop.same_vocabulary import OtherVocabularyError, check_vocabulary

PIECE_ROWS = ("embeddings.word.weight", "heads.token.decoder_bias")
"""Our parameters with a row a piece."""


def vocabulary_of(folder: Path, tokenizer: Path, tokenizer_sha256: str) -> tuple[str, RowSources | None]:
    """In words, what the weights in `folder` mean by an id, and the rows to take where that is another than the data's.

    Raises InputError where another vocabulary cannot be told: no tokenizer beside the weights, or files that contradict it.
    """
    beside = [folder / name for name in (TOKENIZER_FILE, TOKENIZER_JSON) if (folder / name).is_file()]
    if beside and is_json(tokenizer):
        return _compared(beside[-1], tokenizer)
    try:
        return check_vocabulary(folder, tokenizer, tokenizer_sha256), None
    except OtherVocabularyError:
        if not beside:
            raise
    if not is_json(beside[0]):  # other lists of pieces must say what it says
        check_vocabulary(folder, beside[0], sha256_of(beside[0]))
    return rows_between(beside[0], tokenizer)


def _compared(theirs: Path, ours: Path) -> tuple[str, RowSources | None]:
    """The same for a tokenizer.json as the data's."""
    its, of_data = open_vocabulary(theirs), open_vocabulary(ours)
    if its.specials == of_data.specials and its.pieces(range(its.size)) == of_data.pieces(range(of_data.size)):
        return f"{theirs.name} has the data's pieces", None
    return rows_between(theirs, ours)


def rows_between(theirs: Path, ours: Path) -> tuple[str, RowSources]:
    """In words, how the pieces of the tokenizer `ours` start from rows of weights with the tokenizer `theirs`; and those."""
    rows = rows_by_piece(open_vocabulary(theirs), open_vocabulary(ours))
    counts = np.diff(rows.offsets)
    same, nothing = int(rows.is_same.sum()), int((counts == 0).sum())
    told = f"another vocabulary ({theirs.name}): of {len(rows):,} rows {same:,} are copied by piece"
    told += f", {len(rows) - same - nothing:,} start as the mean of the pieces that it cuts them into"
    return told + (f", {nothing:,} as the mean of all rows" if nothing else ""), rows


def rows_by_piece(theirs: AnyVocabulary, ours: AnyVocabulary) -> RowSources:
    """Of each of our ids the ids of theirs that its row starts from; `theirs` must lie where it was opened."""
    roles = [(getattr(ours.specials, role), getattr(theirs.specials, role)) for role in ROLES]
    of_role = {mine: its for mine, its in roles if None not in (mine, its)}
    our_roles, its_roles = ({*ids} for ids in zip(*roles, strict=True))
    editable, spelling, its_spelling = open_editable(theirs.path), spelling_at(ours.path), spelling_at(theirs.path)
    # Tokenizers of one kind share names, those of bytes that are no text too; others share what the names stand for.
    key, its_key = (str, str) if spelling is its_spelling else (spelling.text, its_spelling.text)
    its_ids = {its_key(name): i for i, name in editable.names.items() if i not in its_roles}
    its_ids.pop(None, None)
    not_text = its_roles | {*theirs.unknown_ids.tolist()}
    sources: list[tuple[int, ...]] = []
    is_same: list[bool] = []
    for i, name in enumerate(ours.pieces(range(ours.size))):
        same = of_role.get(i) if i in our_roles else its_ids.get(key(name))
        text = spelling.text(name) if same is None and i not in our_roles else None
        parts = editable.segmented(its_spelling.name(text)) if text else []
        sources.append(tuple(part for part in parts if part not in not_text) if same is None else (same,))
        is_same.append(same is not None)
    return RowSources.of(sources, is_same)
