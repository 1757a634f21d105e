"""Which part and layer a parameter belongs to, what it learns with, and the groups that come of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ernie_m.base.console import InputError
from ernie_m.models.parts import Place, places_of, rate_factors_of
from ernie_m.rows.schedule import Schedule, StageConfig
from ernie_m.runs.run_folder import _binding
from ernie_m.training.optimizer import OptimizerConfig, parameter_groups
from tests.backbone_fixtures import FAMILIES, backbone_of, random_model

if TYPE_CHECKING:
    from conftest import EncoderOf


def test_every_parameter_of_our_encoder_has_its_part_and_layer(encoder_of: EncoderOf) -> None:
    model = encoder_of()
    places = places_of(model)
    assert places.keys() == dict(model.named_parameters()).keys()
    for name, place in places.items():
        first, second = name.split(".")[:2]
        expected = {"embeddings": Place("embeddings"), "heads": Place("heads")}
        assert place == (Place("encoder", int(second)) if first == "layers" else expected[first]), name
    assert {place.layer for place in places.values()} == {None, *range(model.num_layers)}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_of_a_backbone_has_its_part_and_layer(family: str) -> None:
    model = backbone_of(random_model(family))
    places = places_of(model)
    words = next(name for name, parameter in model.named_parameters() if parameter is model.words.weight)
    assert places[words] == Place("embeddings")
    shares_layers = family == "Albert"
    for layer in range(model.num_layers):
        own = {name for name, place in places.items() if place == Place("encoder", layer)}
        assert len(own) >= 5 or shares_layers, layer
        assert all(f".{layer}." in name for name in own)
    for name, place in places.items():
        assert (place.part == "heads") == name.startswith("heads."), name
        if place == Place("encoder") and not shares_layers:
            assert "norm" in name.lower() or "pooler" in name, name
        if place.part == "embeddings":
            assert "emb" in name.lower(), name
    if shares_layers:
        with pytest.raises(InputError, match=r"optimizer\.layer_decay: 0\.8; the model has no list of 4 layers"):
            rate_factors_of(model, None, 0.8)


def test_layers_learn_by_depth_and_parts_by_factor(encoder_of: EncoderOf) -> None:
    model = encoder_of()
    last = model.num_layers - 1
    factors = rate_factors_of(model, {"embeddings": 20.0, "encoder": 3.0}, 0.5)
    assert factors["heads.token.dense.weight"] == 1
    assert factors[f"layers.{last}.qkv.bias"] == pytest.approx(3 * 0.5)
    assert factors["layers.0.qkv.weight"] == pytest.approx(3 * 0.5 ** (last + 1))
    assert factors["embeddings.word.weight"] == pytest.approx(20 * 0.5 ** (last + 2))


def test_groups_hold_each_parameter_once_and_are_two_where_all_learn_alike(encoder_of: EncoderOf) -> None:
    model = encoder_of()
    ones = OptimizerConfig(rate_factors=dict.fromkeys(("embeddings", "encoder", "heads"), 1.0), layer_decay=1.0)
    for config in (OptimizerConfig(), ones):
        matrices, vectors = (group.parameters for group in parameter_groups(model, config))
        assert [id(p) for p in matrices] == [id(p) for p in model.parameters() if p.dim() >= 2]
        assert [id(p) for p in vectors] == [id(p) for p in model.parameters() if p.dim() < 2]
    by_part = parameter_groups(model, OptimizerConfig(layer_decay=0.5), places_of(model))
    ids = [id(p) for group in by_part for p in group.parameters]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    assert len({(group.factor, group.part, group.weight_decay) for group in by_part}) == len(by_part)


def test_a_stage_says_which_parts_learn_in_its_steps() -> None:
    rows = {"MMLM": 1.0}
    schedule = Schedule((StageConfig(steps=3, rows=rows, train=("heads",)), StageConfig(steps=2, rows=rows)), 4)
    alone, all_of_it = {"heads"}, {"embeddings", "encoder", "heads"}
    assert [schedule.trained(step) for step in range(5)] == [alone, alone, alone, all_of_it, all_of_it]
    assert schedule.trains_parts
    assert not Schedule((StageConfig(steps=3, rows=rows, train=("encoder", "embeddings", "heads")),), 4).trains_parts


@pytest.mark.parametrize("train", [(), ("head",), ("heads", "pooler")])
def test_parts_that_are_none_are_refused_in_one_line(train: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"^train: .*; expected some of embeddings, encoder, heads, or null for all$"):
        StageConfig(steps=1, rows={"MMLM": 1.0}, train=train)
    with pytest.raises(InputError, match=r"^rate_factors: .*; expected factors of embeddings, encoder, heads$"):
        OptimizerConfig(rate_factors={"head": 2.0})


def test_a_run_from_before_there_were_these_keys_is_bound_by_the_same() -> None:
    before = {"stages": [{"steps": 3, "rows": {"MMLM": 1}}], "optimizer": {"warmup_steps": 3}, "model": {"heads": None}}
    now = {
        "stages": [{"steps": 3, "rows": {"MMLM": 1}, "train": None}],
        "optimizer": {"warmup_steps": 3, "rate_factors": None, "layer_decay": None},
        "model": {"heads": None},
    }
    assert _binding(now) == _binding(before)
    now["optimizer"] = {"warmup_steps": 3, "layer_decay": 0.5}
    assert _binding(now) != _binding(before)
