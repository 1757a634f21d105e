"""Ids as in XLM-R, and what a vocabulary says of its special tokens."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ernie_m.base import special_tokens as t
from ernie_m.base.console import InputError
from ernie_m.base.special_tokens import Specials, ranges_of


def test_ids_are_those_of_XLM_R() -> None:
    assert (t.BOS_ID, t.PAD_ID, t.EOS_ID, t.UNK_ID) == (0, 1, 2, 3)
    assert (t.BOS, t.PAD, t.EOS, t.UNK, t.MASK) == ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    assert t.vocab_size_of(250_000) == t.XLM_R_VOCAB_SIZE == 250_002
    assert t.mask_id(t.XLM_R_VOCAB_SIZE) == 250_001
    assert t.FIRST_POSITION_ID == t.PAD_ID + 1
    assert t.FIRST_PIECE_ID == t.UNK_ID + 1 == 3 + t.FAIRSEQ_OFFSET  # SentencePiece's first real piece is number 3


XLM_R = Specials.xlm_r(250_002)
BERT = Specials(101, 102, None, 0, 100, 103, 0, 30_522, ((999, 30_522),))
GAPS = Specials(5, 6, 6, 9, None, 2, 0, 12, ((0, 2), (3, 5), (10, 11)))


def test_XLM_Rs_layout_is_what_the_constants_say() -> None:
    assert Specials(0, 2, 2, 1, 3, 250_001, 2, 250_002, ((4, 250_001),)) == XLM_R
    assert XLM_R.never_text == (0, 1, 2, 250_001)
    assert XLM_R.text_shown == "3 to 250000"


@pytest.mark.parametrize("specials", [XLM_R, BERT, GAPS])
def test_specials_come_back_from_JSON_as_they_went(specials: Specials) -> None:
    assert Specials.from_json(json.loads(json.dumps(specials.to_json())), "here") == specials


@pytest.mark.parametrize("specials", [XLM_R, BERT, GAPS])
def test_text_is_all_of_the_vocabulary_but_what_only_a_layout_writes(specials: Specials) -> None:
    ids = np.arange(-3, specials.vocab_size + 3)
    layout = {specials.begin, specials.end, specials.begin_second, specials.pad, specials.mask}
    expected = [0 <= i < specials.vocab_size and i not in layout for i in ids.tolist()]
    assert specials.are_text(ids).tolist() == expected
    parts = [[*map(int, part.split(" to "))] for part in specials.text_shown.split(", ")]
    shown = {i for part in parts for i in range(part[0], part[-1] + 1)}
    assert shown == set(ids[expected].tolist())


@pytest.mark.parametrize("specials", [BERT, GAPS, Specials.xlm_r(40)])
def test_every_replaceable_id_has_its_number(specials: Specials) -> None:
    found = specials.replacements(np.arange(specials.num_replaceable))
    assert found.dtype == np.int32
    assert found.tolist() == [i for first, last in specials.replaceable for i in range(first, last)]
    assert ranges_of(found.tolist()[::-1]) == specials.replaceable


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"mask": 250_002}, "mask is 250002, expected null or an id from 0 to 250001"),
        ({"pad": None}, "pad is None, expected an id"),
        ({"begin": True}, "begin is True"),
        ({"unknown": "<unk>"}, "unknown is '<unk>', expected null or an id"),
        ({"begin_second": -1}, "begin_second is -1, expected null or an id"),
        ({"pad": 2}, "pad is 2, which is end too"),
        ({"first_position": -1}, "first_position is -1, expected a number from 0"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"replaceable": []}, r"replaceable has \[\], expected ranges"),
        ({"replaceable": [[4, 9], [8, 12]]}, r"replaceable has \[8, 12\], expected ranges .* ascending"),
        ({"replaceable": [[4, 250_003]]}, "replaceable has .* below 250002"),
        ({"replaceable": 7}, "replaceable has 7"),
        ({"replaceable": [[3, 9]]}, "replaceable holds 3, which is unknown"),
        ({"colour": 1}, "colour is no key of it"),
    ],
)
def test_each_fault_of_the_JSON_is_named_by_its_key(change: dict[str, object], fault: str) -> None:
    with pytest.raises(InputError, match=f"^here: {fault}.*; rebuild the data$"):
        Specials.from_json({**XLM_R.to_json(), **change}, "here")


def test_several_faults_of_the_JSON_are_all_named() -> None:
    content = XLM_R.to_json()
    with pytest.raises(InputError, match="begin is missing; mask is missing"):
        Specials.from_json({key: content[key] for key in content if key not in ("begin", "mask")}, "here")
    with pytest.raises(InputError, match="here: list, expected a mapping"):
        Specials.from_json([], "here")
