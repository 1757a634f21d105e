"""Greedy decoding: with a cache as without, one as many, and transformers' own generate; lines of text through a run."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from ernie_m.base.console import InputError
from ernie_m.base.special_tokens import BOS_ID, EOS_ID, PAD_ID, Specials, mask_id
from ernie_m.commands.translate import translate
from ernie_m.corpus.vocabulary import Vocabulary
from ernie_m.interop.open_translator import OpenTranslator
from ernie_m.models.decoding import longest_target, translated
from ernie_m.models.translation import TranslationModel
from ernie_m.rows.batch import Example
from ernie_m.rows.corruption import CorruptionConfig
from ernie_m.rows.dataloader import to_device
from ernie_m.rows.layout import Layout
from ernie_m.rows.objectives import MT, OBJECTIVE_INDEX
from ernie_m.rows.packing import PackedRow, pack
from ernie_m.translation.lines import Share, Translator
from tests.fixtures.ernie_m_export import train_tokenizer
from tests.properties.test_halves import theirs_of, translation_model

CPU = torch.device("cpu")
LONGEST = 64


def sources_of(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(4, mask_id(101), n, dtype=np.int32) for n in lengths]


def ending(model: TranslationModel, bias: float) -> TranslationModel:
    """The model with a taste for the end, so that some targets end early and some at their longest."""
    with torch.no_grad():
        model.token_head.decoder_bias[EOS_ID] = bias
    return model


def likeliest_next(model: TranslationModel, source: np.ndarray, target: np.ndarray) -> list[int]:
    """What the model says at each position of the target, without a cache: a row of halves through the whole model."""
    example = Example((source, target), (1, 2))
    document = Layout(MT, CorruptionConfig(), Specials.xlm_r(101)).lay_out(example, 0)
    batch = to_device(pack([PackedRow([document], OBJECTIVE_INDEX["MT"], 0)], 128), CPU)
    logits = model.token_head.logits(model.hidden_states(batch)[0, 64 : 64 + len(target) + 1])
    logits[:, [BOS_ID, PAD_ID, 3, mask_id(101)]] = -torch.inf
    return logits.argmax(-1).tolist()


@pytest.mark.parametrize(("decoder", "taste"), [("separate", 1.0), ("shared", 2.0)])
def test_each_token_is_the_likeliest_after_those_before_it_computed_without_a_cache(decoder: str, taste: float) -> None:
    model, sources = ending(translation_model(decoder, language_embedding="all"), taste), sources_of(9, 1, 17, 5)
    targets = translated(model, sources, (1, 2), LONGEST)
    ends = set()
    with torch.no_grad():
        for source, target in zip(sources, targets, strict=True):
            expected, limit = likeliest_next(model, source, target), longest_target(len(source))
            assert expected[: len(target)] == target.tolist()
            ends.add(len(target) < limit)
            assert len(target) == limit or expected[-1] == EOS_ID
    assert ends == {True, False}, "some end by themselves, some at their longest"
    other = translated(model, sources, (1, 3), LONGEST)
    assert any(not np.array_equal(a, b) for a, b in zip(targets, other, strict=True)), "the language decides"


def test_a_batch_of_one_gives_what_a_batch_of_many_gives() -> None:
    model, sources = ending(translation_model(), 1.0), sources_of(9, 1, 17, 5, 12)
    together = translated(model, sources, (1, 2), LONGEST)
    alone = [translated(model, [source], (1, 2), LONGEST)[0] for source in sources]
    assert [target.tolist() for target in together] == [target.tolist() for target in alone]


@pytest.mark.filterwarnings("ignore")
def test_transformers_generates_the_same_tokens() -> None:
    model, (source,) = ending(translation_model(language_embedding="none"), 1.0), sources_of(17)
    theirs = theirs_of(model)
    settings = {"decoder_start_token_id": BOS_ID, "pad_token_id": PAD_ID, "eos_token_id": EOS_ID, "bos_token_id": BOS_ID}
    theirs.generation_config = GenerationConfig(**settings)
    ids = torch.tensor([[BOS_ID, *source.tolist(), EOS_ID]])
    limit = longest_target(17)
    never = [[BOS_ID], [PAD_ID], [3], [mask_id(101)]]
    generated = theirs.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False, num_beams=1, bad_words_ids=never
    )
    (target,) = translated(model, [source], (1, 2), LONGEST)
    assert generated[0, 1 : 1 + len(target)].tolist() == target.tolist()


def test_lines_come_back_in_their_order_empty_ones_empty_and_long_ones_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vocabulary = Vocabulary(train_tokenizer(tmp_path / "spm.model", 64))
    model = ending(translation_model(vocab_size=vocabulary.size, language_embedding="all"), 0.5)
    lines = ["ni ya na", "", "na " * 40, "ya", "   "]
    found = Translator(model, vocabulary, (1, 2), 34, 40).lines(lines)
    one_by_one = [Translator(model, vocabulary, (1, 2), 34, 1).lines([line])[0] for line in lines]
    assert found == one_by_one
    parts: list[Any] = []
    for rank in (1, 0):  # two processes, one after the other
        shared = Translator(model, vocabulary, (1, 2), 34, 40).lines(lines, Share(rank, 2, lambda mine: [*parts, mine]))
        parts.append({i: found[i] for i in range(len(lines)) if i not in (2,)})
        assert shared == (found if rank == 0 else [])
    assert [bool(line) for line in found] == [True, False, True, True, False]
    assert "line 3: " in capsys.readouterr().err


def test_languages_are_two_of_the_models() -> None:
    opened = OpenTranslator(translation_model(), Any, 64, ("de", "en", "fr"))  # type: ignore[arg-type]
    assert opened.numbers("fr", "en") == (3, 2)
    for languages, expected in (
        (("fr", "fr"), "--to fr: the same as --from; expected another of de, en, fr"),
        (("xx", "en"), "--from xx: expected one of the model's languages: de, en, fr"),
        (("en", "fra"), "--to fra, did you mean `fr`? expected one of the model's"),
        (("en", None), "--to is missing: expected one of the model's languages"),
    ):
        with pytest.raises(InputError, match=re.escape(expected)):
            opened.numbers(*languages)
    folder = OpenTranslator(translation_model(), Any, 64, (), ("fr", "en"))  # type: ignore[arg-type]
    assert folder.numbers(None, None) == folder.numbers("fr", "en") == (0, 0)
    with pytest.raises(InputError, match="--from en: the folder translates from fr to en"):
        folder.numbers("en", "fr")


@pytest.mark.parametrize(("stream", "option"), [("stdin", "input"), ("stdout", "output")])
def test_a_stream_that_the_shell_closed_is_told_before_a_model_is_opened(
    stream: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, stream, None)
        with pytest.raises(InputError, match=f"--{option} is missing: the standard {option} is closed; name a file"):
            translate(model="nowhere", from_="de", to="en")
