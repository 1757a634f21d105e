"""Which tokens of a tokenizer.json begin a row, end a sentence, pad, mask: read from it and from the files beside it.

1. Begin, end and the token before a second sentence are those that its post-processor adds. If it adds none,
   tokenizer_config.json's cls_token and sep_token count.
2. Pad and mask have the names that tokenizer_config.json or special_tokens_map.json give them; unknown is what the model
   itself names. If no file names one, a special token with a usual name is taken.
3. A masked token may be replaced by any id but special tokens and unused ones, which were never trained.
4. Positions start behind the pad id in RoBERTa's family, else at 0: config.json names the family; without it, XLM-R's and
   RoBERTa's own names and ids are known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_m.base.console import InputError
from ernie_m.base.special_tokens import BOS, PAD_ID, Specials, ranges_of
from ernie_m.corpus.tokenizer_files import MODEL_CONFIG, read_object

USUAL_NAMES = {
    "pad_token": ("[PAD]", "<pad>", "<|pad|>"),
    "unk_token": ("[UNK]", "<unk>", "<|unk|>"),
    "mask_token": ("[MASK]", "<mask>", "<|mask|>"),
}
UNUSED = re.compile(r"\[unused\d+\]|<unused\d+>|madeupword\d+|<extra_id_\d+>")
POSITIONS_BEHIND_PAD = {
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "data2vec-text", "ernie_m", "ibert"),
    *("lilt", "longformer", "luke", "mpnet", "xmod"),
}
"""Model types (config.json's model_type) whose first position id is the pad id + 1."""


@dataclass(frozen=True)
class Around:
    """The ids that a post-processor adds: before and after a text, and before, between and after the two texts of a pair."""

    before: tuple[int, ...] = ()
    behind: tuple[int, ...] = ()
    between: tuple[int, ...] = ()


def ids_by_name(content: Mapping[str, Any]) -> dict[str, int]:
    """Every token of a tokenizer.json and its id."""
    vocabulary = content["model"]["vocab"]
    if not isinstance(vocabulary, dict):
        vocabulary = {piece: i for i, (piece, _) in enumerate(vocabulary)}
    return {**vocabulary, **{token["content"]: token["id"] for token in content["added_tokens"] or ()}}


def special_names(content: Mapping[str, Any], roles: Mapping[str, str]) -> set[str]:
    """The tokens that no text may be turned into."""
    return {token["content"] for token in content["added_tokens"] or () if token["special"]} | {*roles.values()}


def roles_of(content: Mapping[str, Any], path: Path) -> dict[str, str]:
    """Role (`mask_token`, ...) -> name, for those that a file names or that have a usual name."""
    told = {**read_object(path.with_name("special_tokens_map.json")), **read_object(path.with_name("tokenizer_config.json"))}
    kinds = ("cls_token", "sep_token", *USUAL_NAMES)
    roles = {kind: _name(told[kind]) for kind in kinds if told.get(kind)}
    if content.get("padding"):
        roles.setdefault("pad_token", content["padding"]["pad_token"])
    specials = {token["content"] for token in content["added_tokens"] or () if token["special"]}
    for kind, names in USUAL_NAMES.items():
        if kind not in roles and (found := [name for name in names if name in specials]):
            roles[kind] = found[0]
    model = content["model"]
    if model.get("unk_token") is not None:
        roles["unk_token"] = model["unk_token"]
    if model.get("unk_id") is not None:
        roles["unk_token"] = model["vocab"][model["unk_id"]][0]
    return roles


def _name(value: Any) -> str:
    return str(value["content"] if isinstance(value, dict) else value)


def specials_of(content: Mapping[str, Any], roles: Mapping[str, str], path: Path) -> Specials:
    """What a tokenizer.json's vocabulary says of special tokens; raises InputError for one that no encoder could have."""
    ids = ids_by_name(content)
    faults = [*_faults(content, roles, ids)]
    if faults:
        faults += ["it has no mask token"] * ("mask_token" not in roles)
        raise InputError(f"tokenizer {path}: {'; '.join(faults)}; expected the tokenizer of an encoder with masks")
    around = around_of(content.get("post_processor"))
    begin = around.before[0] if around.before else ids[roles["cls_token"]]
    end = around.behind[0] if around.behind else ids[roles["sep_token"]]
    special = {ids[name] for name in special_names(content, roles)} | {begin, end}
    pad, mask = ids[roles["pad_token"]], ids[roles["mask_token"]] if "mask_token" in roles else None
    if len({pad, mask}) < 2 or {pad, mask} & {begin, end}:
        raise InputError(f"tokenizer {path}: begin {begin}, end {end}, pad {pad} and mask {mask} share ids; expected others")
    return Specials(
        begin=begin,
        end=end,
        begin_second=around.between[1] if len(around.between) > 1 else None,
        pad=pad,
        unknown=ids.get(roles.get("unk_token", "")),
        mask=mask,
        first_position=first_position(path, pad, begin == ids.get(BOS) and pad == PAD_ID),
        vocab_size=max(ids.values()) + 1,
        replaceable=ranges_of(i for name, i in ids.items() if i not in special and not UNUSED.fullmatch(name)),
    )


def _faults(content: Mapping[str, Any], roles: Mapping[str, str], ids: Mapping[str, int]) -> Iterator[str]:
    """Why this is not the tokenizer of an encoder. One without a mask token may be: many sentence encoders never saw one."""
    around, known = around_of(content.get("post_processor")), {*ids.values()}
    for what, put, kind in (("before", around.before, "cls_token"), ("behind", around.behind, "sep_token")):
        if len(put) > 1:
            yield f"it puts {len(put)} tokens {what} a text, expected one"
        elif not put and kind not in roles:
            yield f"it puts no token {what} a text (a decoder's tokenizer?)"
    if around.between and (around.between[0] not in around.behind or len(around.between) > 2):
        between = ", ".join(map(str, around.between))
        yield f"it puts the ids {between} between two texts, expected an end and at most one more"
    if unknown := sorted({*around.before, *around.behind, *around.between} - known):
        yield f"it puts the id {unknown[0]} around a text, which its vocabulary lacks"
    if "pad_token" not in roles:
        yield "it has no pad token"
    for kind, name in sorted(roles.items()):
        if name not in ids and kind != "unk_token":
            yield f"its {kind} {name!r} is not in its vocabulary"


def around_of(processor: Mapping[str, Any] | None) -> Around:
    """The ids that a tokenizer.json's `post_processor` adds."""
    if processor is None:
        return Around()
    if processor["type"] == "Sequence":
        found = map(around_of, processor["processors"])
        return next((around for around in found if around != Around()), Around())
    if processor["type"] in ("BertProcessing", "RobertaProcessing"):
        (_, begin), (_, end) = processor["cls"], processor["sep"]
        return Around((begin,), (end,), (end, end) if processor["type"] == "RobertaProcessing" else (end,))
    if processor["type"] == "TemplateProcessing":
        parts: list[list[int]] = [[], [], [], [], []]  # before and behind a text; before, between and behind a pair
        for template, part in ((processor["single"], 0), (processor["pair"], 2)):
            for piece in template:
                if "Sequence" in piece:
                    part += 1
                else:
                    parts[part].extend(processor["special_tokens"][piece["SpecialToken"]["id"]]["ids"])
        before, behind, _, between, _ = map(tuple, parts)
        return Around(before, behind, between)
    return Around()


def first_position(path: Path, pad: int, is_behind_pad: bool) -> int:
    """Position id of the first token, by the config.json beside the tokenizer `path`; else `is_behind_pad` decides."""
    model_type = read_object(path.with_name(MODEL_CONFIG)).get("model_type")
    return pad + 1 if (is_behind_pad if model_type is None else model_type in POSITIONS_BEHIND_PAD) else 0
