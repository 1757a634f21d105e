"""Opens whatever `--tokenizer` names: `open_vocabulary`."""

from __future__ import annotations

from pathlib import Path

from ernie_m.corpus.json_vocabulary import JsonVocabulary
from ernie_m.corpus.tokenizer_files import is_json, tokenizer_file
from ernie_m.corpus.vocabulary import Vocabulary

AnyVocabulary = Vocabulary | JsonVocabulary
"""Both have `path`, `fingerprint`, `kind`, `specials`, `size`, `mask_id`, `unknown_ids`, and encode and decode alike."""


def open_vocabulary(path: str | Path) -> AnyVocabulary:
    """The vocabulary of a SentencePiece model, a tokenizer.json, a folder with one, or a cached hub id.

    Raises InputError for anything else.
    """
    file = tokenizer_file(Path(path).expanduser())
    return JsonVocabulary(file) if is_json(file) else Vocabulary(file)
