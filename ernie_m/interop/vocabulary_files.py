"""The files of a folder's tokenizer under another vocabulary: one that decides, and those that follow it.

A SentencePiece model in XLM-R's layout decides where there is one, else tokenizer.json. Both are changed by the same rule,
and must then agree. What only lists the pieces (vocab.txt, vocab.json, merges.txt, added_tokens.json) is written anew.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ernie_m.base.console import InputError
from ernie_m.base.files import write_json
from ernie_m.corpus.any_vocabulary import AnyVocabulary, open_vocabulary
from ernie_m.corpus.editable import Editable, RowSources
from ernie_m.corpus.joins import NewPiece
from ernie_m.corpus.new_vocabulary import open_editable
from ernie_m.corpus.tokenizer_files import TOKENIZER_FILE, TOKENIZER_JSON, read_object
from ernie_m.corpus.vocabulary import Vocabulary
from ernie_m.interop.tokenizer_export import TOKENIZER_CONFIG, write_tokenizer
from ernie_m.interop.weight_files import CONFIG_FILE

XLM_R_CLASSES = ("XLMRobertaTokenizer", "XLMRobertaTokenizerFast")
COPIED = ("special_tokens_map.json",)
UNLIMITED = 512  # model_max_length where neither file tells


@dataclass(frozen=True)
class TokenizerFolder:
    """What is there: the file that decides, and its twin of the other format, if any."""

    folder: Path
    first: Editable
    twin: Editable | None
    notes: tuple[str, ...]
    """What is left out, in words."""

    @property
    def vocabulary(self) -> AnyVocabulary:
        """The tokenizer as it is."""
        return open_vocabulary(self.first.path)


def read_tokenizer(folder: Path) -> TokenizerFolder:
    """The tokenizer of a Hugging Face folder. Raises InputError for one that cannot be changed."""
    model, fast = folder / TOKENIZER_FILE, folder / TOKENIZER_JSON
    notes = []
    if model.is_file() and fast.is_file():
        first, twin = open_editable(fast), _as_twin(model)
        if twin is not None and twin.names == first.names:
            return TokenizerFolder(folder, twin, first, ())
        notes.append(f"{TOKENIZER_FILE} has not the pieces of {TOKENIZER_JSON} at their ids, and is left out")
        return TokenizerFolder(folder, first, None, tuple(notes))
    if fast.is_file():
        return TokenizerFolder(folder, open_editable(fast), None, ())
    if not model.is_file():
        raise InputError(
            f"{folder}: neither {TOKENIZER_JSON} nor {TOKENIZER_FILE}; where transformers can open its tokenizer, "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes a tokenizer.json"
        )
    told = read_object(folder / TOKENIZER_CONFIG) or read_object(folder / CONFIG_FILE)
    if (name := told.get("tokenizer_class") or XLM_R_CLASSES[0]) not in XLM_R_CLASSES:
        raise InputError(f"{folder}: {TOKENIZER_FILE} of a {name}, whose ids are not XLM-R's; save its tokenizer.json first")
    return TokenizerFolder(folder, open_editable(model), None, ())


def _as_twin(model: Path) -> Editable | None:
    try:
        return open_editable(model)
    except InputError:
        return None


def write_changed(
    tokenizer: TokenizerFolder, kept: set[int], new: Sequence[NewPiece], to: Path
) -> tuple[RowSources, Mapping[int, int]]:
    """Write all files of the tokenizer into `to`. Returns where rows come from, and new ids by old ones."""
    content, rows = tokenizer.first.rewritten(kept, new)
    (to / tokenizer.first.path.name).write_bytes(content)
    if tokenizer.twin is not None:
        content, others = tokenizer.twin.rewritten(kept, new)
        (to / tokenizer.twin.path.name).write_bytes(content)
        twins = ((rows.ids, others.ids), (rows.offsets, others.offsets))
        assert all(np.array_equal(*both) for both in twins), "twins went apart"
    new_ids = {int(old): i for i, old in enumerate(rows.same()) if old >= 0}
    if (to / TOKENIZER_JSON).is_file():
        _write_companions(tokenizer.folder, to, new_ids)
    else:
        _write_fast(tokenizer.folder, to)
    return rows, new_ids


def _write_fast(folder: Path, to: Path) -> None:
    """A SentencePiece model came alone: transformers makes the tokenizer.json of it, as for an export."""
    told = read_object(folder / TOKENIZER_CONFIG)
    room = read_object(folder / CONFIG_FILE).get("max_position_embeddings", UNLIMITED + 2)
    vocabulary = Vocabulary(to / TOKENIZER_FILE)
    aside = to / "made"
    aside.mkdir()
    write_tokenizer(vocabulary, aside, int(told.get("model_max_length", room - 2)))
    for path in aside.iterdir():
        path.replace(to / path.name)
    aside.rmdir()
    write_json(to / TOKENIZER_CONFIG, read_object(to / TOKENIZER_CONFIG) | told)


def _write_companions(folder: Path, to: Path, new_ids: Mapping[int, int]) -> None:
    model = read_object(to / TOKENIZER_JSON)["model"]
    if (folder / TOKENIZER_CONFIG).is_file():
        told = read_object(folder / TOKENIZER_CONFIG)
        if isinstance(added := told.get("added_tokens_decoder"), dict):
            told["added_tokens_decoder"] = {str(new_ids[int(i)]): token for i, token in added.items() if int(i) in new_ids}
        write_json(to / TOKENIZER_CONFIG, told)
    if (folder / "added_tokens.json").is_file():
        added = read_object(folder / "added_tokens.json")
        write_json(to / "added_tokens.json", {name: new_ids[i] for name, i in added.items() if i in new_ids})
    for name in COPIED:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, to / name)
    for name, written in SLOW_FILES.items():
        if (folder / name).is_file() and model["type"] in ("BPE", "WordPiece"):
            (to / name).write_text(written(model), encoding="utf-8")


def _lines(model: Mapping[str, Any]) -> str:
    return "".join(f"{name}\n" for name in sorted(model["vocab"], key=model["vocab"].__getitem__))


def _merges(model: Mapping[str, Any]) -> str:
    pairs = (merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
    return "".join(f"{line}\n" for line in ("#version: 0.2", *pairs))


SLOW_FILES = {
    "vocab.txt": _lines,
    "vocab.json": lambda model: json.dumps(model["vocab"], ensure_ascii=False),
    "merges.txt": _merges,
}
"""File of a slow tokenizer -> its content by the model's part of tokenizer.json."""
