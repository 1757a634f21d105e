"""Text -> model ids by a tokenizer.json of the `tokenizers` library: WordPiece, BPE, byte-level BPE, unigram.

The ids of each line are those of transformers' tokenizer of the same folder (`add_special_tokens=False`), with one
difference: the name of a special token in a text, such as [MASK] or </s>, is text here, as it is for SentencePiece. So the
copy that encodes gives its special tokens names that no text has. It does not cut, pad or add special tokens, whatever the
file says. A file that draws ids at random (BPE dropout) is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from ernie_m.base.console import InputError
from ernie_m.base.files import sha256_of
from ernie_m.base.special_tokens import BYTE_PIECES
from ernie_m.corpus.special_roles import ids_by_name, roles_of, special_names, specials_of
from ernie_m.corpus.spelling import steps_of
from ernie_m.corpus.tokenizer_files import read_object
from ernie_m.corpus.vocabulary import TEXTS_AT_A_TIME, EncodedTexts, joined

HIDDEN = "\uffff"
"""In front of the names of special tokens while encoding: a noncharacter of Unicode."""
SHOWN = 40  # characters of a text in a message


class JsonVocabulary:
    """A tokenizer.json seen as a map from text to model ids (int32).

    Raises InputError when `path` is missing or broken, is no encoder's (begin, end, pad, mask), contradicts the
    tokenizer_config.json beside it, or would not give one text the same ids each time.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"tokenizer {self.path}: no such file; expected a tokenizer.json")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else it takes all cores; a rank keeps to its own
        self.fingerprint = sha256_of(self.path)
        content = read_object(self.path)
        try:
            roles, ids = roles_of(content, self.path), ids_by_name(content)
            self.specials = specials_of(content, roles, self.path)
            special = {ids[name] for name in special_names(content, roles)} | {*self.specials.never_text}
            self._special_names = {i: name for name, i in ids.items() if i in special}
            self.kind = _kind(content)
            self.continuing_prefix = str(content["model"].get("continuing_subword_prefix") or "")
            """What begins a piece that goes on with a word: ## in WordPiece; nothing where a space begins a word."""
            self._steps = {step["type"] for step in steps_of(content.get("pre_tokenizer"))}
            _refuse_contradictions(content, self.path)
            self._tokenizer = Tokenizer.from_str(json.dumps(_hidden(content, {*self._special_names.values()}, self.path)))
        except InputError:
            raise
        except Exception as error:  # the library raises no other class
            what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise InputError(f"tokenizer {self.path}: not a tokenizer.json of the `tokenizers` library ({what})") from None
        self._tokenizer.encode_special_tokens = True
        self._refuse_other_ids(content)
        self.size, self.mask_id = self.specials.vocab_size, self.specials.mask
        is_never = np.zeros(self.size, np.bool_)
        is_never[[*self._special_names]] = True
        if self.specials.unknown is not None:
            is_never[self.specials.unknown] = False
        self._is_never = is_never
        self.unknown_ids = np.array(_unknown_ids(content, self.specials.unknown), np.int32)
        """Model ids of unknown pieces. Byte-level BPE knows all text and has none."""

    def encode(self, text: str) -> np.ndarray:
        """Model ids of one text, without special tokens: int32 [num_tokens]."""
        return self.encode_batch([text]).values

    def encode_batch(self, texts: Sequence[str]) -> EncodedTexts:
        """Model ids of many texts, each encoded by itself, without special tokens, on one core."""
        return joined([self._encoded(texts[i : i + TEXTS_AT_A_TIME]) for i in range(0, len(texts), TEXTS_AT_A_TIME)])

    def _encoded(self, texts: Sequence[str]) -> EncodedTexts:
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
        values, offsets = encoded = EncodedTexts.of(ids)
        if (wrong := np.flatnonzero(self._is_never[values])).size:
            text = texts[int(np.searchsorted(offsets, wrong[0], "right")) - 1]
            raise InputError(
                f"tokenizer {self.path}: makes the special token {self._special_names.get(int(values[wrong[0]]))!r} of the "
                f"text {text[:SHOWN]!r}; remove that line from the corpus, or take another tokenizer"
            )
        return encoded

    def decode(self, ids: Sequence[int]) -> str:
        """Text of model ids; special tokens are left out."""
        return str(self._tokenizer.decode([int(i) for i in ids if not self._is_never[int(i)]], skip_special_tokens=True))

    def has_step(self, kind: str) -> bool:
        """Whether its pre-tokenizer has a step of this kind, e.g. Metaspace."""
        return kind in self._steps

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The piece of each model id, as it is in the file."""
        return [self._special_names.get(i) or str(self._tokenizer.id_to_token(i)) for i in map(int, ids)]

    def _refuse_other_ids(self, content: dict[str, Any]) -> None:
        """The library numbers added tokens itself, so the id in a file may differ from the one in use."""
        for token in content["added_tokens"] or ():
            name, said = token["content"], token["id"]
            found = self._tokenizer.token_to_id(HIDDEN + name if said in self._special_names else name)
            if found != said:
                raise InputError(
                    f"tokenizer {self.path}: its added token {name!r} has the id {said}, which its vocabulary lacks "
                    f"(it would become {found}); fetch the file again"
                )


def _kind(content: dict[str, Any]) -> str:
    kind = str(content["model"].get("type", "unknown"))
    steps = [step["type"] for step in steps_of(content.get("pre_tokenizer"))]
    return f"byte-level {kind}" if "ByteLevel" in steps else kind


def _unknown_ids(content: dict[str, Any], unknown: int | None) -> list[int]:
    ids = [] if unknown is None else [unknown]
    if content["model"].get("byte_fallback"):
        vocabulary = ids_by_name(content)
        ids += [vocabulary[name] for name in BYTE_PIECES if name in vocabulary]
    return ids


def _hidden(content: dict[str, Any], names: set[str], path: Path) -> dict[str, Any]:
    """The file's content with other names for its special tokens, and without cutting, padding and added tokens."""
    model = dict(content["model"])
    if model.get("dropout"):
        raise InputError(f"tokenizer {path}: dropout {model['dropout']}: its ids are drawn at random; expected null")
    merges = (merge if isinstance(merge, str) else "".join(merge) for merge in model.get("merges", ()))
    if written := names & {merge.replace(" ", "") for merge in merges}:
        raise InputError(
            f"tokenizer {path}: a merge writes its special token {min(written)!r}; expected one apart from text"
        )

    def renamed(name: str) -> str:
        return HIDDEN + name if name in names else name

    if isinstance(model["vocab"], dict):
        model["vocab"] = {renamed(name): i for name, i in model["vocab"].items()}
    else:
        model["vocab"] = [[renamed(name), score] for name, score in model["vocab"]]
    if model.get("unk_token") is not None:
        model["unk_token"] = renamed(model["unk_token"])
    added = [{**token, "content": renamed(token["content"])} for token in content["added_tokens"] or ()]
    around = {"truncation": None, "padding": None, "post_processor": None}
    return {**content, **around, "model": model, "added_tokens": added}


def _refuse_contradictions(content: dict[str, Any], path: Path) -> None:
    """If transformers' class builds the steps again from tokenizer_config.json, that must agree with the file."""
    config = read_object(path.with_name("tokenizer_config.json"))
    name = str(config.get("tokenizer_class") or "").removesuffix("Fast")
    if name in ("", "PreTrainedTokenizer", "TokenizersBackend"):  # these take the file as it is
        return
    settings = {"do_lower_case": True} if name == "BertTokenizer" else {}
    settings |= {key: config[key] for key in SAME_IN_FILE if config.get(key) is not None}
    for key, said in settings.items():
        kind, name_in_file = SAME_IN_FILE[key]
        steps = [*steps_of(content.get("normalizer")), *steps_of(content.get("pre_tokenizer"))]
        for found in (step[name_in_file] for step in steps if step["type"] == kind):
            if found is not None and found != said:
                raise InputError(
                    f"tokenizer {path}: {name_in_file} of its {kind} is {found}, of tokenizer_config.json {key} is {said}, "
                    f"and transformers' {name} goes by the latter; make them the same"
                )


SAME_IN_FILE = {
    "do_lower_case": ("BertNormalizer", "lowercase"),
    "strip_accents": ("BertNormalizer", "strip_accents"),
    "tokenize_chinese_chars": ("BertNormalizer", "handle_chinese_chars"),
    "add_prefix_space": ("ByteLevel", "add_prefix_space"),
}
"""Key of tokenizer_config.json -> the step of a tokenizer.json, and its key there, that mean the same."""
