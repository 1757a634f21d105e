"""Which files a tokenizer has: a SentencePiece model alone, or a tokenizer.json with some files beside it.

`--tokenizer` may name a SentencePiece model, a tokenizer.json of the `tokenizers` library, a folder in Hugging Face's
layout, or a hub id that is in the hub's local cache; nothing is fetched.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ernie_m.base.console import InputError
from ernie_m.base.files import read_json, sha256_of

TOKENIZER_FILE = "sentencepiece.bpe.model"  # the name XLM-R and `transformers` use, whatever the algorithm
TOKENIZER_JSON = "tokenizer.json"
COMPANIONS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
"""Files beside a tokenizer.json that belong to it: roles of special tokens, and the vocabulary for slow tokenizers."""
MODEL_CONFIG = "config.json"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_EXPECTED = "expected a SentencePiece model (see train-tokenizer), a tokenizer.json, or a Hugging Face folder with one"


def tokenizer_file(path: Path) -> Path:
    """The file that `path` (a file, a folder or a cached hub id) means: a tokenizer.json or a SentencePiece model.

    Raises InputError where there is none.
    """
    if path.is_dir():
        for name in (TOKENIZER_JSON, TOKENIZER_FILE):
            if (path / name).is_file():
                return path / name
        raise InputError(
            f"tokenizer {path}: a folder without {TOKENIZER_JSON} or {TOKENIZER_FILE}; where transformers can open it, "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes its tokenizer.json"
        )
    if path.exists():
        return path
    if _HUB_ID.fullmatch(str(path)) and not path.parent.exists():
        if (cached := _cached(str(path))) is not None:
            return cached
        raise InputError(
            f"tokenizer {path}: no such file or folder, and no hub id whose {TOKENIZER_JSON} is in the local cache; "
            f"fetch it (`hf download {path}`), or give a file; {_EXPECTED}"
        )
    raise InputError(f"tokenizer {path}: no such file; {_EXPECTED}")


def _cached(hub_id: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache  # only where it is needed: it takes a while to import

    found = try_to_load_from_cache(hub_id, TOKENIZER_JSON)
    return Path(found) if isinstance(found, str) else None


def is_json(path: Path) -> bool:
    """Whether a tokenizer's file is one of the `tokenizers` library."""
    return path.suffix == ".json"


def name_in_data(path: Path) -> str:
    """What a data folder calls its copy of the file."""
    return TOKENIZER_JSON if is_json(path) else TOKENIZER_FILE


def companions_of(path: Path) -> list[Path]:
    """The files beside a tokenizer.json that belong to it; a SentencePiece model has none."""
    return [beside for beside in map(path.with_name, COMPANIONS) if beside.is_file()] if is_json(path) else []


def companion_hashes(path: Path) -> dict[str, str]:
    """Name -> SHA-256 of `companions_of`."""
    return {beside.name: sha256_of(beside) for beside in companions_of(path)}


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object's content, {} where there is no such file; raises InputError for anything else."""
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"tokenizer {path}: not valid JSON ({error}); fetch it again") from None
    if not isinstance(content, dict):
        raise InputError(f"tokenizer {path}: expected a mapping of keys, found {type(content).__name__}; fetch it again")
    return content
