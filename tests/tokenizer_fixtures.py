"""Real words of eighty languages, and small tokenizers in Hugging Face's layout, trained by the `tokenizers` library."""

from __future__ import annotations

import datetime
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import babel
from babel import dates, units
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from transformers.models.bert import BertTokenizer

# XLM-R's languages as far as CLDR has enough of them; fil is its tl, nb its no.
CODES = (
    "af am ar as az be bg bn br bs ca cs cy da de el en eo es et eu fa fi fil fr fy ga gd gl gu ha he hi hr hu hy id is "
    "it ja jv ka kk km kn ko ku ky lo lt lv mg mk ml mn mr ms my nb ne nl or pa pl ps pt ro ru sd si sk sl so sq sr sv "
    "sw ta te th tr ug uk ur uz vi yi zh zh_Hant"
)
LOCALES = CODES.split()
SENTENCES = 150  # a language
BERT = ["[PAD]", *(f"[unused{i}]" for i in range(4)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
SMALL = 600
"""Ids of each vocabulary, about."""


def sentences(code: str) -> list[str]:
    """Lists of names, dates and quantities in one language."""
    draw, locale = random.Random(code), babel.Locale.parse(code)
    names = [*locale.territories.values(), *locale.languages.values(), *locale.currencies.values()]
    found = []
    for _ in range(SENTENCES):
        day = datetime.date(draw.randint(1900, 2100), draw.randint(1, 12), draw.randint(1, 28))
        words = [*draw.sample(names, 4), dates.format_date(day, "full", locale)]
        words.append(units.format_unit(draw.randint(1, 99), "length-kilometer", locale=locale))
        draw.shuffle(words)
        found.append(", ".join(words[:3]) + ". " + " ".join(words[3:]))
    return found


def word_piece(lines: Sequence[str], folder: Path, size: int = SMALL) -> Path:
    """BERT's: its normaliser without lower case, its pre-tokenizer, ids that were never used, as BertTokenizer saves it."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        lines, trainers.WordPieceTrainer(vocab_size=size, special_tokens=BERT, show_progress=False)
    )
    BertTokenizer(vocab=tokenizer.get_vocab(with_added_tokens=False), do_lower_case=False).save_pretrained(folder)
    return folder


def byte_level(lines: Sequence[str], folder: Path, size: int = SMALL) -> Path:
    """RoBERTa's: byte-level BPE without a space in front, <s> x </s></s> y </s>."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=ROBERTA, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return saved(tokenizer, folder, ROBERTA)


def metaspace(lines: Sequence[str], folder: Path, size: int = SMALL) -> Path:
    """XLM-R's: unigram with U+2581 for a space, the mask last."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" {2,}", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=ROBERTA[:4], unk_token="<unk>", show_progress=False, max_piece_length=8
    )
    tokenizer.train_from_iterator(lines, trainer)
    content = json.loads(tokenizer.to_str())
    content["model"]["vocab"].append(["<mask>", 0.0])
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.add_special_tokens(["<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return saved(tokenizer, folder, ROBERTA)


def saved(tokenizer: Tokenizer, folder: Path, names: Sequence[str]) -> Path:
    """A folder of it, as transformers' general class saves one whose special tokens are named as RoBERTa's."""
    begin, pad, end, unknown, mask = names
    roles = {"bos_token": begin, "cls_token": begin, "pad_token": pad, "eos_token": end, "sep_token": end}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=unknown, mask_token=mask, **roles)
    fast.save_pretrained(folder)
    return folder


KINDS: dict[str, Callable[..., Path]] = {"WordPiece": word_piece, "byte-level BPE": byte_level, "Unigram": metaspace}


def changed(
    folder: Path, to: Path, change: Callable[[dict[str, Any]], object], config: dict[str, Any] | None = None
) -> Path:
    """A copy whose tokenizer.json was changed, and beside it, instead of what was there, this tokenizer_config.json."""
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    change(content)
    to.mkdir(parents=True, exist_ok=True)
    (to / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    if config is not None:
        (to / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return to


def llama(lines: Sequence[str], folder: Path, size: int = SMALL) -> Path:
    """EuroBERT's, out of Llama 3: whole words need no merges, special tokens come behind the model's, pairs begin anew."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    words = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(words, "isolated"), as_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        lines, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens(["<|begin|>", "<|end|>", "<|reserved|>", "<|mask|>", "<|pad|>"])
    template = processors.TemplateProcessing(
        single="<|begin|> $A <|end|>",
        pair="<|begin|> $A <|end|> <|begin|> $B <|end|>",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("<|begin|>", "<|end|>")],
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(), template])
    roles = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "mask_token": "<|mask|>", "pad_token": "<|pad|>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles).save_pretrained(folder)
    return folder


def gemma(lines: Sequence[str], folder: Path, size: int = SMALL) -> Path:
    """mmBERT's, out of Gemma: BPE of characters with U+2581 for a space, bytes for what is unknown, unused ids."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    special, unused = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"], [f"<unused{i}>" for i in range(3)]
    names = [*special, *unused, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=names, limit_alphabet=200, max_token_length=8, show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    content = json.loads(tokenizer.to_str())
    added = [token for token in content["added_tokens"] if token["content"] in (*special, *unused)]
    content["added_tokens"] = [{**token, "special": token["content"] in special} for token in added]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", pair="<bos> $A <eos> $B <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    roles = {"bos_token": "<bos>", "eos_token": "<eos>", "mask_token": "<mask>", "pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles).save_pretrained(folder)
    return folder
