"""Held-out losses of a model that translates, against one pair at a time; round trips and what is copied in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ernie_m.base.console import InputError
from ernie_m.base.special_tokens import EOS_ID, Specials, mask_id
from ernie_m.corpus.vocabulary import Vocabulary
from ernie_m.models.beams import Search, searched
from ernie_m.models.decoding import translated
from ernie_m.models.held_out_translation import Rows, measured, pair_rows, round_trip_rows
from ernie_m.models.translation import TranslationModel
from ernie_m.rows.batch import Example
from ernie_m.rows.corruption import CorruptionConfig
from ernie_m.rows.dataloader import to_device
from ernie_m.rows.layout import Layout
from ernie_m.rows.objectives import MT, OBJECTIVE_INDEX
from ernie_m.rows.own_pairs import most_written
from ernie_m.rows.packing import PackedRow, pack
from ernie_m.rows.row_source import RowSettings
from ernie_m.training.held_out_bleu import bleu_of, directions_of, read_lines_of
from ernie_m.training.held_out_bleu import translated as translated_lines
from ernie_m.translation.scores import scores
from tests.fixtures.ernie_m_export import train_tokenizer
from tests.properties.test_halves import REQUEST, translation_model

CPU = torch.device("cpu")
SETTINGS = RowSettings(64, Specials.xlm_r(101), CorruptionConfig(), seed=0)


def examples(languages: tuple[int, ...], count: int, longest: int) -> list[Example]:
    rng = np.random.default_rng(count)
    lengths = rng.integers(1, longest, (count, len(languages)))
    return [Example(tuple(rng.integers(4, mask_id(101), n, dtype=np.int32) for n in row), languages) for row in lengths]


def model_of(taste: float) -> TranslationModel:
    model = translation_model(language_embedding="all")
    with torch.no_grad():
        model.token_head.decoder_bias[EOS_ID] = taste
    return model


def alone(model: TranslationModel, source: np.ndarray, target: np.ndarray, languages: tuple[int, int]) -> tuple[float, int]:
    """Summed nll of one pair, and over how many tokens."""
    document = Layout(MT, CorruptionConfig(), Specials.xlm_r(101)).lay_out(Example((source, target), languages), 0)
    batch = to_device(pack([PackedRow([document], OBJECTIVE_INDEX["MT"], 0)], 128), CPU)
    with torch.no_grad():
        return float(model(batch, REQUEST)[1].sum()), len(target) + 1


def test_losses_of_pairs_are_those_of_each_alone_in_both_directions() -> None:
    model, pairs = model_of(0.0), [*examples((1, 2), 9, 20), *examples((2, 3), 7, 20), *examples((1, 2), 1, 2)]
    too_long = Example((np.full(40, 7, np.int32), np.full(3, 8, np.int32)), (1, 2))
    rows = pair_rows([*pairs, too_long], SETTINGS)
    found = measured(model, rows, SETTINGS, CPU, rows_at_a_time=2)
    sums: dict[tuple[int, int], list[float]] = {}
    for pair in pairs:
        for turn in (1, -1):
            languages = (pair.languages[::turn][0], pair.languages[::turn][1])
            nll, count = alone(model, *pair.sentences[::turn], languages)
            entry = sums.setdefault(languages, [0.0, 0.0])
            entry[0], entry[1] = entry[0] + nll, entry[1] + count
    assert found.losses == {key: pytest.approx(nll / count, rel=1e-5) for key, (nll, count) in sums.items()}
    assert found.loss == pytest.approx(sum(nll for nll, _ in sums.values()) / sum(n for _, n in sums.values()), rel=1e-5)
    assert found.copied is None


def split(model: TranslationModel, rows: Rows) -> list[torch.Tensor]:
    """What two ranks would add up."""
    parts: list[list[torch.Tensor]] = [[], []]
    for rank, own in enumerate(parts):
        measured(model, rows, SETTINGS, CPU, 2, rank, 2, lambda sums, own=own: own.append(sums.clone()) or sums.clamp(min=1))
    return [a + b for a, b in zip(*parts, strict=True)]


def test_round_trips_are_translations_there_and_their_loss_back_on_any_number_of_ranks() -> None:
    model, texts = model_of(1.5), [*examples((1,), 9, 14), *examples((2,), 5, 14), *examples((3,), 4, 14)]
    rows = round_trip_rows(texts, [1, 2, 3], SETTINGS)
    found = measured(model, rows, SETTINGS, CPU, rows_at_a_time=2)
    assert set(found.losses) == {(own, to) for own in (1, 2, 3) for to in (1, 2, 3) if own != to}
    total = count = copied = num_written = 0.0
    for number, text in enumerate(texts):
        (ids,), (own,) = text.sentences, text.languages
        to = [language for language in (1, 2, 3) if language != own][number % 2]
        (written,) = translated(model, [ids], (own, to), most_written(len(ids)) + 2)
        nll, n = alone(model, written, ids, (to, own))
        both = min(len(written), len(ids))
        total, count = total + nll, count + n
        copied, num_written = copied + int((written[:both] == ids[:both]).sum()), num_written + len(written)
    assert (found.loss, found.copied) == pytest.approx((total / count, copied / num_written), rel=1e-5)
    sums, written_sums = split(model, rows)
    assert float(sums[0].sum() / sums[1].sum()) == pytest.approx(found.loss, rel=1e-6)
    assert float(written_sums[0] / written_sums[1]) == found.copied


def one_rank(rank: int = 0, world_size: int = 1, gather: Callable[[Any], Any] = lambda mine: [mine]) -> Any:
    return SimpleNamespace(rank=rank, world_size=world_size, gather=gather, is_first=rank == 0, device=CPU)


def test_bleu_of_raw_lines_is_that_of_what_the_model_writes_on_any_number_of_ranks(tmp_path: Path) -> None:
    vocabulary = Vocabulary(train_tokenizer(tmp_path / "spm.model", 64))
    model = translation_model(vocab_size=vocabulary.size, language_embedding="all")
    with torch.no_grad():
        model.token_head.decoder_bias[EOS_ID] = 0.5
    settings = RowSettings(64, model.specials, CorruptionConfig(), seed=0)
    lines = {"en": ["ni ya na", "", "ya", "na " * 60, "ya na ni ya"], "fr": ["na  ya", "ya", "ni", "na", "Ya é"]}
    directions = directions_of(lines, {"en": 1, "fr": 2}, vocabulary, settings)
    assert [direction.name for direction in directions] == ["en-fr", "fr-en"]
    whole = bleu_of(lines, directions, vocabulary, settings, model, one_rank(), lambda: None, lambda done: done)[0]
    for direction in directions:
        sources, numbers = [vocabulary.encode(line) for line in lines[direction.source]], (1, 2)
        numbers = numbers if direction.source == "en" else numbers[::-1]
        limits = [most_written(len(ids)) for ids in sources]
        expected = [
            " ".join(vocabulary.decode(searched(model, [ids], numbers, [limit], Search())[0].tolist()).split())
            if len(ids) > 0 and limit + 2 <= 32
            else ""
            for ids, limit in zip(sources, limits, strict=True)
        ]
        assert any(expected)
        assert whole[f"bleu/{direction.name}"] == scores(expected, [lines[direction.target]], direction.target).bleu
        parts: list[dict[int, str]] = []
        for rank in (1, 0):
            ranks = one_rank(rank, 2, lambda mine, parts=parts: parts.append(mine) or parts)
            both = translated_lines(direction, vocabulary, settings, model, ranks, lambda: None, lambda done: done)
        assert [both.get(i, "") for i in range(5)] == expected
    assert whole["bleu"] == pytest.approx((whole["bleu/en-fr"] + whole["bleu/fr-en"]) / 2)


def test_lines_for_bleu_are_two_files_of_as_many_lines(tmp_path: Path) -> None:
    (tmp_path / "t.en").write_text("a\nb\nc\n")
    with pytest.raises(InputError, match=r"output\.bleu_text: .*t: 1 files of .*; expected e\.g\. .*t\.en and"):
        read_lines_of(str(tmp_path / "t"), ["en", "fr"], 2)
    (tmp_path / "t.fr").write_text("a\nb\n")
    with pytest.raises(InputError, match=r"output\.bleu_text: .*t\.en has 3 lines, .*t\.fr 2"):
        read_lines_of(str(tmp_path / "t"), ["en", "fr"], 2)
    (tmp_path / "t.fr").write_text("a\nb\nc\n")
    assert read_lines_of(str(tmp_path / "t"), ["de", "en", "fr"], 2) == {"en": ["a", "b"], "fr": ["a", "b"]}
