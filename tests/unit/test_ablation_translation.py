"""XLM's table: its rows differ in what the two sides start from, its pre-trainings are shared, the paper's BLEU beside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ernie_m.ablation import translation, translation_report
from ernie_m.ablation.comparison import ComparisonPlan
from ernie_m.ablation.jobs import Job, Part
from ernie_m.ablation.translation import KINDS, PREFIX, TABLE_2, TranslationPlan, _startable, pretrainings, rows
from ernie_m.base.config import differing_keys
from ernie_m.base.console import InputError
from ernie_m.base.files import write_json
from ernie_m.base.shipped import RECIPES

SHARED = ComparisonPlan(Path("/to"), Path("/data"), seeds=2)


def plan(kind: str, **given: str) -> TranslationPlan:
    return TranslationPlan(SHARED, KINDS[kind], Path("/test"), given)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_differ_in_what_encoder_and_decoder_start_from_and_share_the_pre_trainings(kind: str) -> None:
    compared = {v.name: v for v in rows(plan(kind), None, 100, ["model.num_layers=2"])}
    alone = compared.pop(PREFIX, None)
    assert len(compared) == 10
    starts = {"nothing": None} | {name: f"/to/runs/{name}_seed0" for name in ("clm", "mlm")}
    starts["embeddings"] = "embeddings:/to/runs/mlm_seed0"
    for encoder, decoder in TABLE_2:
        variant = compared[f"{encoder}_{decoder}"]
        assert (variant.config.init_encoder, variant.config.init_decoder) == (starts[encoder], starts[decoder])
        differing = differing_keys(compared["nothing_nothing"].recipe, variant.recipe)
        assert {line.partition(":")[0] for line in differing} <= {"init_encoder", "init_decoder"}
        assert (variant.num_steps, variant.config.model.num_layers) == (100, 2)  # type: ignore[union-attr]
        told = dict(zip(("there", "back"), TABLE_2[encoder, decoder], strict=True))
        assert variant.paper == (told if kind == "unsupervised" else {})
    assert (alone is not None) == (kind == "supervised")
    if alone is not None:
        assert (alone.config.init_from, alone.config.model.translates) == (starts["mlm"], False)
        differing = differing_keys(compared["nothing_nothing"].recipe, alone.recipe)
        assert {line.partition(":")[0] for line in differing} == {"init_from", "model.decoder", "output.keep_best"}


def test_pre_trainings_are_of_one_stack_of_the_same_shape_and_given_ones_are_not_trained(tmp_path: Path) -> None:
    recipe = str(RECIPES / "xlm_unsupervised.yaml")
    found = {v.name: v for v in pretrainings(plan("unsupervised"), recipe, 50, ["model.decoder=shared"])}
    assert {name: [*v.config.stages[0].rows] for name, v in found.items()} == {"clm": ["CLM"], "mlm": ["MMLM"]}
    assert all(not v.config.model.translates and v.num_steps == 50 for v in found.values())
    shape = tmp_path / "shape.yaml"
    halves = "[{steps: 300, rows: {MT: 1}}, {steps: 300, rows: {MT: 1}}]"
    shape.write_text(f"extends: xlm_mt\nstages: {halves}\noptimizer: {{warmup_steps: 60}}\n")
    for steps, warmup in ((1500, 150), (None, 20_000)):  # a tenth, as of the translation model's own steps
        of_shape = pretrainings(plan("supervised"), str(shape), steps, [])
        assert {v.config.optimizer.warmup_steps for v in of_shape} == {warmup}
        assert {v.num_steps for v in of_shape} == {steps or 200_000}
    own = {v.name: v for v in pretrainings(plan("supervised"), None, None, [])}
    assert own["mlm"].config.batch.rows_per_step == 4096, "without a recipe they are XLM's own"
    given = plan("supervised", mlm="/mine")
    assert [v.name for v in pretrainings(given, None, None, [])] == ["clm"]
    compared = {v.name: v for v in rows(given, None, None, [])}
    assert compared["mlm_clm"].config.init_encoder == compared[PREFIX].config.init_from == "/mine"
    vectors = {v.name: v for v in rows(replace(given, embeddings="/vectors.txt"), None, None, [])}
    assert vectors["embeddings_embeddings"].config.init_decoder == "embeddings:/vectors.txt"


def test_rows_from_what_is_given_can_be_checked_before_a_pre_training() -> None:
    given = plan("supervised", clm="/mine")
    compared = rows(given, None, None, [])
    ready = [v.name for v in _startable(compared, [str(given.start("mlm"))])]
    assert ready == ["nothing_nothing", "nothing_clm", "clm_nothing", "clm_clm"]
    assert len(_startable(compared, [])) == len(compared) == 11


def scored(bleu: float) -> dict[str, Any]:
    of = lambda value: {"bleu": value, "chrf": 2 * value, "bleu_signature": "b", "chrf_signature": "c"}  # noqa: E731
    return {"sentences": 9, "translated": of(bleu), "source copied": of(0.5)}


def test_the_table_has_both_directions_beside_the_papers_and_copying(tmp_path: Path) -> None:
    compared = rows(plan("unsupervised"), None, None, [])[:2]
    results = {v.name: [{"en-fr": scored(1.0 + seed), "fr-en": scored(5.0)} for seed in range(2)] for v in compared}
    head, cells = translation_report.head_and_rows(KINDS["unsupervised"], compared, results)
    assert head[1:] == ["BLEU en-fr", "chrF en-fr", "paper", "BLEU fr-en", "chrF fr-en", "paper"]
    assert cells[0] == ["source copied", "0.5", "1.0", "", "0.5", "1.0", ""]
    assert cells[1] == ["nothing, nothing", "1.5 ± 0.7", "3.0 ± 1.4", "13.0", "5.0 ± 0.0", "10.0 ± 0.0", "15.8"]
    head, cells = translation_report.head_and_rows(KINDS["supervised"], compared, results)
    assert "paper" not in head
    for kind in KINDS.values():
        (tmp_path / "comparison.png").unlink(missing_ok=True)
        translation_report.write(kind, compared, results, tmp_path)
        assert "2 seeds" in (tmp_path / "results.md").read_text()
        assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("only", "trained"),
    [
        ("nothing_nothing", []),
        ("nothing_nothing,mlm_nothing", ["mlm"]),
        ("embeddings_embeddings", ["mlm"]),
        ("prefix_lm", ["mlm"]),
        ("clm_mlm", ["clm", "mlm"]),
    ],
)
def test_of_the_rows_that_are_asked_for_alone_the_pre_trainings_are_trained_and_what_is_finished_is_shown(
    only: str, trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = ComparisonPlan(tmp_path / "to", tmp_path / "data", seeds=2, only=tuple(only.split(",")))
    of = TranslationPlan(shared, KINDS["supervised"], tmp_path / "test", {})
    done: list[str] = []

    def finish(jobs: list[Job], plan: ComparisonPlan) -> None:
        for job in jobs:
            done.append(job.name)
            for part in job.parts[1:]:
                assert part.marker is not None
                assert part.succeeded()
                write_json(plan.to / "measures" / part.marker.name, scored(1.0))

    monkeypatch.setattr(translation, "do", finish)
    monkeypatch.setattr(translation, "training_part", lambda *_: Part("training", ()))
    monkeypatch.setattr(TranslationPlan, "directions", [("en", "fr"), ("fr", "en")])
    for language in ("en", "fr"):
        (tmp_path / f"test.{language}").write_text("a\n")
    found, scores = translation.run(of, None, None, None, [])
    asked = only.split(",")
    assert done == [f"{name}_seed0" for name in trained] + [f"{name}_seed{seed}" for seed in range(2) for name in asked]
    assert [v.name for v in found] == [*scores] == asked
    more = replace(of, shared=replace(shared, only=("clm_nothing",)))
    assert {v.name for v in translation.run(more, None, None, None, [])[0]} == {*asked, "clm_nothing"}, "of both commands"
    (tmp_path / "test.fr").write_text("a\nb\n")
    with pytest.raises(InputError, match=r"test\.en has 1 lines, .*test\.fr 2; expected line-aligned files"):
        translation.run(more, None, None, None, [])
    (tmp_path / "test.fr").write_text("a\n")
    with pytest.raises(InputError, match=r"--only mlm: expected some of nothing_nothing, .*prefix_lm"):
        translation.run(replace(of, shared=replace(shared, only=("mlm",))), None, None, None, [])
    whole = replace(of, shared=replace(shared, only=()))
    with pytest.raises(InputError, match=r"row clm_mlm: init_decoder: another start .* leave it out with --only"):
        translation.run(whole, None, None, None, ["model.decoder=shared"])
