"""Strict configuration: nothing is dropped silently, every message names the key and the way out."""

from __future__ import annotations

import re
from dataclasses import field
from pathlib import Path
from typing import Literal

import pytest

from ernie_m.base.config import Section, build, differing_keys, merge_overrides, read_recipe, read_yaml, section, to_mapping
from ernie_m.base.console import InputError
from ernie_m.base.shipped import RECIPES
from ernie_m.rows.dataloader import Metric
from ernie_m.training.recipe import TrainingConfig, total_steps


@section
class Inner(Section):
    rate: float = 0.5
    count: int = 3
    name: str = "a"

    def check(self) -> None:
        self.require(self.rate > 0, "rate", "a positive number")


@section
class Outer(Section):
    needed: int
    inner: Inner = Inner()
    flag: bool = False
    kind: Literal["x", "y"] = "x"
    size: int | None = None
    parts: tuple[Inner, ...] = ()
    shares: dict[str, float] = field(default_factory=dict)


def made(**content: object) -> Outer:
    return build(Outer, {"needed": 1, **content}, "r.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"inner": {"rates": 1}}, "r.yaml: unknown key inner.rates; did you mean inner.rate?"),
        ({"zzz": 1}, "r.yaml: unknown key zzz; known: needed, inner, flag, kind, size, parts, shares"),
        ({3: 1}, "r.yaml: unknown key 3; known: needed"),
        ({"parts": [{"rate": 1}, {"conut": 2}]}, "r.yaml: unknown key parts[1].conut; did you mean parts[1].count?"),
        ({"inner": {"rate": "fast"}}, "r.yaml: inner.rate: 'fast'; expected float"),
        ({"inner": {"rate": True}}, "r.yaml: inner.rate: True; expected float"),
        ({"inner": {"count": 1.5}}, "r.yaml: inner.count: 1.5; expected int"),
        ({"inner": {"count": True}}, "r.yaml: inner.count: True; expected int"),
        ({"inner": {"count": None}}, "r.yaml: inner.count: None; expected int"),
        ({"inner": {"name": 7}}, "r.yaml: inner.name: 7; expected str"),
        ({"flag": "yes"}, "r.yaml: flag: 'yes'; expected bool"),
        ({"flag": 1}, "r.yaml: flag: 1; expected bool"),
        ({"kind": "z"}, "r.yaml: kind: 'z'; expected one of x, y"),
        ({"inner": 5}, "r.yaml: inner: 5; expected a mapping of keys"),
        ({"inner": None}, "r.yaml: inner: None; expected a mapping of keys"),
        ({"parts": {"rate": 1}}, "r.yaml: parts: {'rate': 1}; expected a list"),
        ({"shares": [1]}, "r.yaml: shares: [1]; expected a mapping of keys"),
        ({"shares": {"a": "b"}}, "r.yaml: shares.a: 'b'; expected float"),
        ({"size": "big"}, "r.yaml: size: 'big'; expected int"),
        ({"inner": {"rate": -1}}, "r.yaml: inner.rate: -1.0; expected a positive number"),
        ({"parts": [{"rate": 0}]}, "r.yaml: parts[0].rate: 0.0; expected a positive number"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(content: dict, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        made(**content) if all(isinstance(key, str) for key in content) else build(Outer, content, "r.yaml")


def test_a_missing_key_is_named() -> None:
    with pytest.raises(InputError, match=r"r\.yaml: missing key needed"):
        build(Outer, {"flag": True}, "r.yaml")


def test_what_fits_is_converted() -> None:
    config = made(inner={"rate": "1e-4", "count": 2}, size=None, parts=[{"rate": 1}], shares={"a": 1, "b": "2.5"}, kind="y")
    assert config == Outer(
        needed=1, inner=Inner(rate=1e-4, count=2), parts=(Inner(rate=1.0),), shares={"a": 1.0, "b": 2.5}, kind="y"
    )
    assert type(config.parts[0].rate) is float
    assert made(size=4).size == 4


def test_defaults_stand_where_nothing_is_said() -> None:
    assert made() == Outer(needed=1)
    assert made(inner={"count": 9}).inner == Inner(count=9)


def test_a_section_goes_to_a_mapping_and_back() -> None:
    config = made(inner={"rate": 0.25}, parts=[{"count": 1}], shares={"a": 2})
    mapping = to_mapping(config)
    assert mapping["parts"] == [{"rate": 0.5, "count": 1, "name": "a"}]
    assert build(Outer, mapping, "saved") == config


def test_overrides_change_one_key_each_and_read_values_as_YAML() -> None:
    content = {"inner": {"rate": 1.0, "count": 3}, "needed": 1}
    overrides = ["inner.rate=1e-4", "flag=true", "shares={a: 2}", "size=null", "inner.name=x=y", "parts=[{count: 4}]"]
    merged = merge_overrides(content, overrides)
    assert content == {"inner": {"rate": 1.0, "count": 3}, "needed": 1}, "the recipe itself must stay"
    config = build(Outer, merged, "r.yaml")
    assert config == Outer(
        needed=1, inner=Inner(rate=1e-4, name="x=y"), flag=True, shares={"a": 2.0}, parts=(Inner(count=4),)
    )


@pytest.mark.parametrize(
    "override",
    [
        "inner.rate",
        "=1",
        "needed.deeper=1",
        "",
        "shares={a: 1",
        "inner.name=a: b: c",
        "needed=2026-13-45",
        ".needed=1",
        "inner..rate=1",
        "inner.=1",
    ],
)
def test_overrides_that_are_none_are_refused(override: str) -> None:
    with pytest.raises(InputError, match="argument"):
        merge_overrides({"needed": 1}, [override])


def test_a_recipe_takes_from_the_one_it_extends(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("needed: 1\ninner: {rate: 0.1, count: 5}\nparts: [{count: 1}, {count: 2}]\n")
    (tmp_path / "middle.yaml").write_text("extends: base\ninner: {rate: 0.2}\n")
    (tmp_path / "top.yaml").write_text("extends: middle\nflag: true\nparts: [{count: 7}]\n")
    config = build(Outer, read_recipe(tmp_path / "top.yaml"), "top.yaml")
    assert config == Outer(needed=1, inner=Inner(rate=0.2, count=5), flag=True, parts=(Inner(count=7),))
    (tmp_path / "lost.yaml").write_text("extends: nowhere\n")
    with pytest.raises(InputError, match=r"lost\.yaml: extends: nowhere; expected .*nowhere\.yaml, or .* small"):
        read_recipe(tmp_path / "lost.yaml")


def test_a_recipe_of_ones_own_extends_a_shipped_one_unless_one_of_that_name_lies_beside_it(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("extends: xlm_mt\nseed: 7\n")
    assert read_recipe(own) == {**read_recipe(RECIPES / "xlm_mt.yaml"), "seed": 7}
    (tmp_path / "xlm_mt.yaml").write_text("seed: 1\nstages: []\n")
    assert read_recipe(own) == {"seed": 7, "stages": []}


def test_recipes_that_extend_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b\n")
    (tmp_path / "b.yaml").write_text("extends: a\n")
    with pytest.raises(InputError, match="extends"):
        read_recipe(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1\nb: 2\n", "line 2: not valid YAML"),
        (b"- 1\n", "expected a YAML mapping of keys, found list"),
        (b"", "expected a YAML mapping of keys, found NoneType"),
        (b"\xff\xfe", "not UTF-8 text"),
        (b"a: 2026-13-45", "not valid YAML"),
    ],
)
def test_broken_YAML_is_one_clear_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_differing_keys_names_all_and_only_what_differs() -> None:
    saved = {"a": 1, "b": {"c": [1, 2], "d": 3}, "gone": True}
    present = {"a": 1, "b": {"c": [1, 3], "d": 3}, "new": "x"}
    assert differing_keys(saved, present) == ["b.c: [1, 2] -> [1, 3]", "gone: True -> None", "new: None -> 'x'"]
    assert differing_keys(saved, saved) == []


ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("recipe", sorted((ROOT / "launcher" / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_builds_and_comes_back_from_its_saved_form(recipe: Path) -> None:
    config = build(TrainingConfig, read_recipe(recipe), str(recipe))
    assert config.stages
    assert build(TrainingConfig, to_mapping(config), "saved") == config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.num_heads=5"], "model.num_heads: 5; expected a divisor of hidden_size=128"),
        (["data.sequence_length=600"], "data.sequence_length: 600; model.max_positions 514 allows 512"),
        (["stages=[]"], "stages"),
        (["stages=[{steps: 1, rows: {MLM: 1}}]"], "stages[0].rows: {'MLM': 1.0}; expected objectives out of MMLM"),
        (["objective_weights={camlm: 1}"], "objective_weights"),
        (["stream_weights={camlm: {de-en: 1}}"], "stream_weights: {'camlm'"),
        (["stream_weights={CAMLM: {de-en: -1}}"], "stream_weights.CAMLM.de-en: -1.0; expected a number from 0"),
        (["engine={zero_stage: 0, precision: fp16}"], "engine.precision: 'fp16'; expected zero_stage 1, 2 or 3"),
        (
            ["model.attention=flex", "model.attention_dropout=0.1"],
            "model.attention_dropout: 0.1; expected 0 with attention=flex",
        ),
        (["model.decoder=separate"], "stages: MMLM; a model with model.decoder learns MT, AE, BT; drop one"),
        (["stages=[{steps: 1, rows: {BT: 1}}]"], "stages: BT; needs a model that translates: set model.decoder, or drop it"),
        (
            ["model.decoder=separate", "stages=[{steps: 1, rows: {MT: 1}}]"],
            "model.language_embedding: masked; with model.decoder expected all",
        ),
        (["stages=[{steps: 1, rows: {MT: 1}}]"], "model.language_embedding: masked; with rows of MT expected all"),
        (
            ["model={decoder: shared, language_embedding: all}", "stages=[{steps: 1, rows: {MT: 1}}]", "init_from=x"],
            "init_from: x; a model with model.decoder takes it as init_encoder and init_decoder",
        ),
        (["optimizer.peak_learningrate=1"], "did you mean optimizer.peak_learning_rate?"),
        (["optimizer.peak_learning_rate=nan"], "optimizer.peak_learning_rate: nan; expected a number above 0, up to 10"),
    ],
)
def test_mistakes_in_a_real_recipe_are_named(overrides: list[str], message: str) -> None:
    content = merge_overrides(read_recipe(ROOT / "launcher" / "recipes" / "demo.yaml"), overrides)
    with pytest.raises(InputError, match=re.escape(message)):
        build(TrainingConfig, content, "demo.yaml")


def test_factors_of_streams_are_found_by_loss_and_stream() -> None:
    base = read_recipe(ROOT / "launcher" / "recipes" / "alignlm.yaml")
    metrics = [Metric("AlignLM", loss, stream) for stream in ("de-en", "en-fr") for loss in ("AlignLM", "AlignLM_bilingual")]
    config = build(TrainingConfig, merge_overrides(base, ["stream_weights={AlignLM_bilingual: {en-fr: 0.5}}"]), "recipe")
    assert config.factors_of(metrics) == [1.0, 1.0, 1.0, 0.5]
    assert build(TrainingConfig, base, "recipe").factors_of(metrics) is None
    for unknown, there in (("AlignLM_bilingual: {fr-en: 1}", "de-en, en-fr"), ("TLM: {de-en: 1}", "none, since no stage")):
        other = build(TrainingConfig, merge_overrides(base, [f"stream_weights={{{unknown}}}"]), "recipe")
        with pytest.raises(InputError, match=f"no such stream; .*{there}"):
            other.factors_of(metrics)


def test_settings_without_effect_are_told() -> None:
    base = read_recipe(ROOT / "launcher" / "recipes" / "alignlm.yaml")
    assert build(TrainingConfig, base, "recipe").without_effect == []
    changed = merge_overrides(base, ["objective_weights={AlignLM_bilingual: 0, CAMLM: 1, TLM: '0:1, 9:0'}"])
    told = [f"objective_weights.{loss}: no stage trains it; without effect" for loss in ("CAMLM", "TLM")]
    assert build(TrainingConfig, changed, "recipe").without_effect == told
    steps = total_steps(base)
    late = build(TrainingConfig, merge_overrides(base, [f"optimizer.warmup_steps={steps}"]), "recipe").without_effect
    assert late == [f"learning rate: warm-up of {steps} steps ends behind the last of {steps}; never at its peak"]


@pytest.mark.parametrize(
    ("recipe", "override", "expected"),
    [
        ("base", "output.keep_best=true", "output.keep_best: True; the model has no decoder: leave it out"),
        ("base", "output.bleu_text=x", "output.bleu_text: x; the model has no decoder: leave it out"),
        ("xlm_mt", "output.evaluate_every=0", "output.evaluate_every: 0; expected 1 at least with keep_best"),
        ("xlm_mt", "output={bleu_text: x, evaluate_every: 0}", "evaluate_every: 0; expected 1 at least with bleu_text"),
        ("xlm_mt", "output.held_out_pairs=0", "held_out_pairs: 0; expected 1 at least with keep_best"),
    ],
)
def test_what_would_never_be_measured_is_refused(recipe: str, override: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        build(TrainingConfig, merge_overrides(read_recipe(RECIPES / f"{recipe}.yaml"), [override]), recipe)
    assert expected in str(caught.value)
