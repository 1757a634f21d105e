"""Texts that are tokenized once are what their tokenizer makes of them, batch by batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ernie_m.models import tokenized
from ernie_m.models.tokenized import Tokenized
from tests.tokenizer_fixtures import KINDS, sentences


@pytest.mark.parametrize("kind", list(KINDS))
def test_batches_offsets_and_cuts_are_the_tokenizers(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    monkeypatch.setattr(tokenized, "TEXTS_AT_A_TIME", 3)
    lines = [*sentences("en")[:4], "on Monday", "", *sentences("zh")[:4]]
    tokenizer = AutoTokenizer.from_pretrained(KINDS[kind](lines, tmp_path / "tokenizer"))
    tokenizer.model_max_length = 12
    texts = Tokenized(tokenizer, lines)
    whole = [len(tokenizer(line)["input_ids"]) for line in lines]
    assert (len(texts), texts.longest, texts.characters) == (len(lines), 12, [len(line) for line in lines])
    assert 0 < texts.num_cut == sum(length > 12 for length in whole) < len(lines)
    for chosen in ([4], [3, 5, 1], list(range(len(lines)))):
        some = [lines[i] for i in chosen]
        expected = tokenizer(some, padding=True, truncation=True, max_length=12, return_offsets_mapping=True)
        offsets, found = expected.pop("offset_mapping"), texts.batch(chosen)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], torch.tensor(expected[key])) for key in expected)
        lengths = [sum(mask) for mask in expected["attention_mask"]]
        assert [texts.offsets[i] for i in chosen] == [of[:length] for of, length in zip(offsets, lengths, strict=True)]
