"""The tokenizer of an exported folder. It gives the same ids as in the data, with transformers and without."""

from __future__ import annotations

import shutil
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast, XLMRobertaTokenizer

from ernie_m.base.console import InputError
from ernie_m.base.files import read_json, sha256_of, write_json
from ernie_m.base.special_tokens import BOS, EOS, MASK, PAD, UNK, Specials
from ernie_m.corpus.any_vocabulary import AnyVocabulary
from ernie_m.corpus.bpe_json import bpe_json
from ernie_m.corpus.tokenizer_files import TOKENIZER_FILE, TOKENIZER_JSON, companions_of
from ernie_m.corpus.vocabulary import Vocabulary

TOKENIZER_CONFIG = "tokenizer_config.json"
ROLES = {"bos_token": BOS, "cls_token": BOS, "pad_token": PAD, "eos_token": EOS, "sep_token": EOS, "unk_token": UNK}


def refuse_unwritable(vocabulary: AnyVocabulary) -> None:
    """Raise InputError for a tokenizer that cannot go with a model of XLM-R's or ERNIE-M's class."""
    ours, theirs = vocabulary.specials, Specials.xlm_r(vocabulary.size)
    for name in ("begin", "end", "pad", "mask"):
        if getattr(ours, name) != getattr(theirs, name):
            raise InputError(
                f"tokenizer {vocabulary.path}: its {name} is {getattr(ours, name)}, expected {getattr(theirs, name)}, as in "
                "XLM-R's layout, which the exported class of models has"
            )
    if isinstance(vocabulary, Vocabulary) and not vocabulary.is_unigram:
        bpe_json(vocabulary)


def write_tokenizer(vocabulary: AnyVocabulary, to: Path, longest: int) -> None:
    """Write the tokenizer's files into `to`; `longest`: positions that a text may take, special tokens included.

    A tokenizer.json is copied unchanged, with the files beside it. A SentencePiece model is copied too. If it is a unigram
    model, XLM-R's class reads it. That class would give other ids for a BPE model, so a tokenizer.json is made of it.
    """
    if not isinstance(vocabulary, Vocabulary):
        for path in (vocabulary.path, *companions_of(vocabulary.path)):
            shutil.copyfile(path, to / (TOKENIZER_JSON if path == vocabulary.path else path.name))
        return
    shutil.copyfile(vocabulary.path, to / TOKENIZER_FILE)
    assert sha256_of(to / TOKENIZER_FILE) == vocabulary.fingerprint
    if vocabulary.is_unigram:
        XLMRobertaTokenizer.from_pretrained(to, model_max_length=longest).save_pretrained(to)
        _change_config(to, {})
    else:
        tokenizer = Tokenizer.from_str(bpe_json(vocabulary))
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token=MASK, model_max_length=longest, **ROLES)
        fast.save_pretrained(to)
        _change_config(to, {"tokenizer_class": "PreTrainedTokenizerFast"})  # transformers 4 knows no other name for it


def _change_config(folder: Path, changes: dict[str, str]) -> None:
    """For releases of transformers before 5."""
    path = folder / TOKENIZER_CONFIG
    content = read_json(path)
    content.pop("extra_special_tokens", None)  # <s> and </s> once more, as a list, where transformers 4 wants a mapping
    write_json(path, content | changes)
