"""The table of objectives: lengths, cuts and layouts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from ernie_m.base.console import InputError
from ernie_m.base.special_tokens import BOS_ID, EOS_ID, FIRST_PIECE_ID, Specials, mask_id
from ernie_m.rows.batch import Document, Example
from ernie_m.rows.corruption import CorruptionConfig, num_masked
from ernie_m.rows.layout import Layout
from ernie_m.rows.objective import Objective, Prediction
from ernie_m.rows.objectives import BTMLM, CAMLM, CLM, MMLM, OBJECTIVE_INDEX, OBJECTIVES, TLM
from tests.link_fixtures import some_links

VOCAB_SIZE, MASK = 101, mask_id(101)


def laid_out(
    objective: Objective, lengths: Sequence[int], seed: int = 0, corruption: CorruptionConfig | None = None
) -> tuple[Example, Document]:
    rng = np.random.default_rng(seed)
    sentences = [rng.integers(FIRST_PIECE_ID, MASK, n, dtype=np.int32) for n in lengths[: objective.num_sentences]]
    columns = {"links": some_links([*map(len, sentences)], seed)} if objective.columns else {}
    example = Example(tuple(sentences), (5, 6)[: len(sentences)], columns)
    return example, Layout(objective, corruption or CorruptionConfig(mask_rate=0.3), Specials.xlm_r(VOCAB_SIZE)).lay_out(
        example, seed, 9
    )


def test_length_is_that_of_the_layout(objective: Objective) -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for seed in range(150):
        lengths = rng.integers(1, 60, objective.num_sentences).tolist()
        corruption = CorruptionConfig(
            mask_rate=float(rng.uniform(0.02, 0.6)), pseudo_token_share=float(rng.uniform(0.05, 0.2))
        )
        _, document = laid_out(objective, lengths, seed, corruption)
        length = int(Layout(objective, corruption, Specials.xlm_r(VOCAB_SIZE)).length(*lengths))
        assert length == len(document)
        seen.add(length)
    assert len(seen) > 30


def test_length_takes_arrays_and_its_mean_is_expected_length(objective: Objective) -> None:
    corruption = CorruptionConfig()
    columns = np.random.default_rng(1).lognormal(np.log(25), 0.5, (objective.num_sentences, 4000)).astype(int) + 1
    lengths = Layout(objective, corruption, Specials.xlm_r(VOCAB_SIZE)).length(*columns)
    one_by_one = [
        int(Layout(objective, corruption, Specials.xlm_r(VOCAB_SIZE)).length(*column)) for column in columns.T[:50].tolist()
    ]
    assert lengths[:50].tolist() == one_by_one
    assert Layout(objective, corruption, Specials.xlm_r(VOCAB_SIZE)).expected_length(*columns.mean(axis=1)) == pytest.approx(
        lengths.mean(), rel=0.01
    )


def test_fitted_fits_and_wastes_little(objective: Objective) -> None:
    rng, corruption = np.random.default_rng(2), CorruptionConfig()
    cut = 0
    for _ in range(300):
        lengths = rng.integers(1, 200, objective.num_sentences).tolist()
        capacity = int(rng.integers(4, 160))
        kept = Layout(objective, corruption, Specials.xlm_r(VOCAB_SIZE)).fitted(lengths, capacity)
        if kept is None:
            assert Layout(objective, corruption, Specials.xlm_r(VOCAB_SIZE)).length(*[1] * len(lengths)) > capacity, (
                f"{lengths} could have been cut to {capacity}"
            )
            continue
        length = int(Layout(objective, corruption, Specials.xlm_r(VOCAB_SIZE)).length(*kept))
        assert length <= capacity
        assert all(1 <= k <= n for k, n in zip(kept, lengths, strict=True))
        if list(kept) == lengths:
            continue
        cut += 1
        assert Layout(objective, corruption, Specials.xlm_r(VOCAB_SIZE)).length(*lengths) > capacity, "what fits is not cut"
        assert capacity - length <= 4, f"{lengths} cut to {kept}, {length} of {capacity}"
        if objective.num_sentences == 2:
            assert abs(kept[0] * sum(lengths) - lengths[0] * sum(kept)) <= sum(lengths), f"{lengths} cut to {kept}"
    assert cut > 100


def test_fitted_gives_up_when_not_even_one_token_fits(objective: Objective) -> None:
    assert Layout(objective, CorruptionConfig(), Specials.xlm_r(VOCAB_SIZE)).fitted([9] * objective.num_sentences, 2) is None


def test_MMLM_hides_content_alone_and_labels_are_the_truth() -> None:
    example, document = laid_out(MMLM, [30])
    original = np.concatenate([[BOS_ID], example.sentences[0], [EOS_ID]])
    assert np.array_equal(document.labels, original[document.predicted])
    assert len(document.predicted) == 9
    assert 1 <= document.predicted.min() <= document.predicted.max() <= 30
    untouched = np.setdiff1d(np.arange(32), document.predicted)
    assert np.array_equal(document.input_ids[untouched], original[untouched])
    assert (document.input_ids == MASK).sum() >= 4
    assert document.position_ids.tolist() == list(range(2, 34))
    assert set(document.language.tolist()) == {5}


def test_TLM_runs_positions_on_and_tells_languages_apart() -> None:
    example, document = laid_out(TLM, [10, 7])
    assert document.position_ids.tolist() == list(range(2, 23))
    assert document.language.tolist() == [5] * 12 + [6] * 9
    assert document.input_ids[[0, 11, 12, 20]].tolist() == [BOS_ID, EOS_ID, EOS_ID, EOS_ID]
    first, second = document.predicted[document.predicted < 12], document.predicted[document.predicted > 12]
    assert (len(first), len(second)) == (3, 2)
    labels = np.concatenate([example.sentences[0][first - 1], example.sentences[1][second - 13]])
    assert np.array_equal(document.labels, labels)


def test_restarting_positions_begin_again_in_a_pairs_second_sentence_and_nothing_else_changes(objective: Objective) -> None:
    example = laid_out(objective, [10, 7])[0]
    running, restarting = (
        vars(Layout(objective, CorruptionConfig(), Specials.xlm_r(VOCAB_SIZE), positions).lay_out(example, 3, 9))
        for positions in ("running", "restarting")
    )
    for name in running.keys() - {"position_ids"}:
        assert np.array_equal(running[name], restarting[name]), name
    if objective.num_sentences == 1 or objective.apart:
        assert np.array_equal(running["position_ids"], restarting["position_ids"]), (
            "placeholders still follow their sentence"
        )
        return
    of_first = running["group"] % 2 == 0  # X and, where there are any, its masks
    assert np.array_equal(running["position_ids"] - restarting["position_ids"], np.where(of_first, 0, 12))
    assert restarting["position_ids"][12:21].tolist() == list(range(2, 11)), "</s> y </s>"


def test_CAMLM_keeps_the_sentences_whole_and_adds_masks_that_share_place_and_language() -> None:
    example, document = laid_out(CAMLM, [10, 7])
    whole = np.concatenate([[BOS_ID], example.sentences[0], [EOS_ID, EOS_ID], example.sentences[1], [EOS_ID]])
    assert np.array_equal(document.input_ids[:21], whole)
    assert document.predicted.tolist() == list(range(21, 26))
    assert (document.input_ids[21:] == MASK).all()
    originals = document.position_ids[21:] - 2
    assert len(set(originals.tolist())) == 5
    assert np.array_equal(document.labels, whole[originals])
    assert np.array_equal(document.language[21:], document.language[originals])
    assert document.group.tolist() == [0] * 12 + [1] * 9 + [2] * 3 + [3] * 2
    assert set(document.labels.tolist()).isdisjoint({BOS_ID, EOS_ID, MASK})


def test_BTMLM_appends_slots_in_the_target_language_behind_the_sentence() -> None:
    example, document = laid_out(BTMLM, [30], corruption=CorruptionConfig(pseudo_token_share=0.1))
    assert len(document) == 35
    assert document.placeholders.tolist() == [32, 33, 34]
    assert document.position_ids.tolist() == list(range(2, 37)), "placeholders take the next positions"
    assert document.language.tolist() == [5] * 32 + [9] * 3
    assert (document.input_ids[32:] == MASK).all()
    original = np.concatenate([[BOS_ID], example.sentences[0], [EOS_ID]])
    assert np.array_equal(document.generation_ids[:32], original)
    assert (document.generation_ids[32:] == MASK).all()
    assert document.predicted.max() <= 30, "only the sentence's masks are predicted, never a slot"
    assert np.array_equal(document.labels, original[document.predicted])
    assert not np.array_equal(document.input_ids[:32], original)


def test_CLM_predicts_every_next_token() -> None:
    example, document = laid_out(CLM, [10])
    original = np.concatenate([[BOS_ID], example.sentences[0], [EOS_ID]])
    assert np.array_equal(document.input_ids, original)
    assert document.predicted.tolist() == list(range(11))
    assert np.array_equal(document.labels, original[1:])
    assert document.horizon.tolist() == list(range(12))


def test_the_layout_follows_from_the_generator_alone(objective: Objective) -> None:
    (_, one), (_, same) = laid_out(objective, [40, 30]), laid_out(objective, [40, 30])
    for name in vars(one):
        assert np.array_equal(getattr(one, name), getattr(same, name)), name
        assert getattr(one, name).dtype == np.int32 or name == "placeholders"


def test_a_new_objective_is_one_entry() -> None:
    """Rule 14 of the house: masks that do not know of each other, with nothing but a table entry."""
    alone = Objective(
        "ALONE", 2, "insert", ("X", "Y", "MX", "MY"), {**CAMLM.reads, "MX": "Y", "MY": "X"}, (Prediction("ALONE"),)
    )
    _, document = laid_out(alone, [5, 5])
    assert (document.reads[document.group == 2] == 0b0010).all()
    assert (document.reads[document.group == 3] == 0b0001).all()


def test_numbers_of_masks_do_not_depend_on_the_draw(objective: Objective) -> None:
    counts = {int((laid_out(objective, [40, 30], seed)[1].prediction == 0).sum()) for seed in range(20)}
    assert len(counts) == 1
    if objective is TLM:
        assert counts == {int(num_masked(40, 0.3) + num_masked(30, 0.3))}


def test_objective_numbers_are_those_of_the_table() -> None:
    assert list(OBJECTIVES) == ["MMLM", "TLM", "CAMLM", "BTMLM", "CLM", "XLCO", "PLM", "MT", "AlignLM", "AE", "BT"]
    assert [OBJECTIVE_INDEX[name] for name in OBJECTIVES] == list(range(11))
    assert all(objective.name == name for name, objective in OBJECTIVES.items())


@pytest.mark.parametrize(
    ("key", "value"), [("mask_rate", 0.0), ("mask_rate", 1.0), ("pseudo_token_share", 0.04), ("pseudo_token_share", 0.3)]
)
def test_corruption_refuses_rates_that_make_no_sense(key: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{key}: {value}; expected a number (above|from) 0"):
        CorruptionConfig(**{key: value})
