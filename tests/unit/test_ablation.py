"""Comparisons compare what they say: variants differ in one thing, measures are the same for all, tables add up."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from data_prep.catalog import read_catalog
from ernie_m.ablation import catalog_data, cells, learning_data, measures, recipes, report, variants
from ernie_m.ablation.asked import plan_of
from ernie_m.ablation.comparison import ComparisonPlan, _scores_of, do, run_cells
from ernie_m.ablation.figures import mean_by_layer, number_of
from ernie_m.ablation.fine_tuning import check, fine_tunings
from ernie_m.ablation.jobs import Job, Part
from ernie_m.base.config import build, differing_keys, read_recipe
from ernie_m.base.console import InputError
from ernie_m.base.locks import exclusive
from ernie_m.base.run_files import LOCK_FILE, METRICS_FILE
from ernie_m.base.shipped import RECIPES
from ernie_m.base.special_tokens import Specials
from ernie_m.rows.batch import Example, LossRequest
from ernie_m.rows.corruption import CorruptionConfig
from ernie_m.rows.dataloader import to_device
from ernie_m.rows.objectives import LOSS_INDEX, OBJECTIVES
from ernie_m.rows.packing import PackedRow, pack
from ernie_m.rows.row_source import RowSettings
from ernie_m.training.recipe import TrainingConfig

if TYPE_CHECKING:
    from conftest import EncoderOf

    from ernie_m.corpus.folder import CorpusFolder
from ernie_m.corpus.aligned_files import aligned_files

SETTINGS = RowSettings(64, Specials.xlm_r(101), CorruptionConfig(mask_rate=0.3), measures.EVALUATION_SEED)
CPU = torch.device("cpu")


def pairs_of(count: int, seed: int = 0) -> list[Example]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(4, 14, (count, 2))
    return [Example(tuple(rng.integers(4, 100, n, dtype=np.int32) for n in row), (1, 2)) for row in sizes]


# -- variants --------------------------------------------------------------------------------------------------------


def test_the_objectives_of_table_6_differ_in_their_rows_alone() -> None:
    compared = variants.objectives(None, None, [])
    assert [v.title for v in compared] == [
        "no further pre-training",
        "MMLM",
        "MMLM + TLM",
        "MMLM + CAMLM",
        "MMLM + CAMLM + BTMLM",
        "MMLM + TLM + CAMLM + BTMLM",
    ]
    assert [v.is_trained for v in compared] == [False] + [True] * 5
    assert len({v.num_steps for v in compared}) == 1
    for variant in compared[2:]:
        assert all(line.startswith("stages:") for line in differing_keys(compared[1].recipe, variant.recipe))
    assert compared[5].paper == {"xnli": 76.9, "ner": 79.6}


def test_a_budget_scales_stages_in_proportion_and_the_warm_up_with_them() -> None:
    recipe = read_recipe(RECIPES / "exp5.yaml")
    scaled = recipes.budgeted(recipe, 1000, ["optimizer.beta2=0.95"])
    assert [stage["steps"] for stage in scaled["stages"]] == [750, 250]
    assert scaled["optimizer"]["warmup_steps"] == 50
    assert scaled["optimizer"]["beta2"] == 0.95
    assert recipe["stages"][0]["steps"] == 150_000, "the recipe itself is left alone"
    with pytest.raises(InputError, match="--steps 1: expected a whole number, at least one for each of 2 stages"):
        recipes.budgeted(recipe, 1, [])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, "missing key stages"),
        ({"stages": 5}, "stages: 5; expected a list"),
        ({"stages": [{"rows": {"MMLM": 1}}]}, r"missing key stages\[0\].steps"),
        ({"stages": [{"steps": 0, "rows": {"MMLM": 1}}]}, r"stages\[0\]..*steps: 0; expected a whole number"),
        ({"stages": [{"steps": "many", "rows": {"MMLM": 1}}]}, r"stages\[0\].steps: 'many'; expected"),
        ({"stages": [{"steps": 5, "rows": {"MMLM": 1}}], "optimizer": None}, "optimizer: None; expected a mapping"),
    ],
)
def test_a_budget_for_what_is_no_recipe_says_what_is_wrong_with_it(content: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        recipes.budgeted(content, 10, [])


def test_a_budget_scales_the_points_of_weights_and_leaves_numbers_and_overrides_as_they_are() -> None:
    recipe = read_recipe(RECIPES / "xlm_unsupervised.yaml")
    assert recipe["objective_weights"] == {"AE": "0:1, 100000:0.1, 300000:0"}
    scaled = recipes.budgeted(recipe, 1000, [])
    assert scaled["objective_weights"] == {"AE": "0:1, 200:0.1, 600:0"}
    of = build(TrainingConfig, recipe, "whole").weights, build(TrainingConfig, scaled, "scaled").weights
    assert all(of[0].at(500 * step) == pytest.approx(of[1].at(step)) for step in range(0, 1000, 7))
    assert recipes.budgeted({**recipe, "objective_weights": {"AE": "1e-1", "BT": 2}}, 9, [])["objective_weights"] == {
        "AE": "1e-1",
        "BT": 2,
    }
    typed = recipes.budgeted(recipe, 1000, ["objective_weights.AE=0:1, 500:0.2"])
    assert typed["objective_weights"] == {"AE": "0:1, 500:0.2"}
    few = recipes.budgeted(recipe, 2, [])["objective_weights"]["AE"]
    assert few == "0:1, 1:0.1, 2:0", "points that would meet stay apart"
    assert recipes.budgeted(recipe, None, [])["objective_weights"] == recipe["objective_weights"]
    with pytest.raises(InputError, match=r"objective_weights\.AE: .*expected a number"):
        recipes.budgeted({**recipe, "objective_weights": {"AE": "0:1, x:2"}}, 1000, [])


def test_a_shape_gives_all_but_the_stages() -> None:
    taken = recipes.recipe_of("exp3", "small")
    small, exp3 = read_recipe(RECIPES / "small.yaml"), read_recipe(RECIPES / "exp3.yaml")
    assert taken["stages"] == exp3["stages"] != small["stages"]
    assert {k: v for k, v in taken.items() if k != "stages"} == {k: v for k, v in small.items() if k != "stages"}
    with pytest.raises(InputError, match="recipe smal: no such file"):
        recipes.recipe_of("exp3", "smal")


def test_variants_of_BTMLM_differ_from_the_usual_one_in_one_thing() -> None:
    compared = {v.name: v for v in variants.btmlm("scratch", 1000, [])}
    usual = compared["btmlm"]
    transfer = {v.name: v for v in variants.transfer("scratch", 1000, [])}
    assert (usual.recipe, compared["camlm"].recipe) == (transfer["btmlm"].recipe, transfer["camlm"].recipe)

    def of(name: str) -> tuple[list[int], dict[str, float], float]:
        stages = compared[name].config.stages
        return [stage.steps for stage in stages], stages[-1].rows, compared[name].config.data.corruption.pseudo_token_share

    steps, rows, share = of("btmlm")
    assert [of("begin_25"), of("begin_50")] == [([250, 750], rows, share), ([500, 500], rows, share)]
    for name, number in {"rows_1": 1, "rows_4": 4}.items():
        own = of(name)
        assert (own[0], own[2]) == (steps, share)
        assert (own[1]["BTMLM"], sum(own[1].values())) == (number, sum(rows.values()))
    shares = {name: of(name) for name in compared if name.startswith("pseudo_")}
    assert shares == {f"pseudo_{percent:02d}": (steps, rows, percent / 100) for percent in (5, 15, 20)}
    assert len(compared) == 2 + 2 + 2 + 3
    assert [v.name for v in variants.btmlm("scratch", None, ["data.corruption.pseudo_token_share=0.05"])][-1] == "pseudo_20"
    assert all(v.num_steps == 1000 for v in compared.values())
    with pytest.raises(InputError, match=r"--steps 1.*btmlm has 2 stages"):
        variants.btmlm("scratch", 1, [])


def test_pseudo_shares_differ_in_the_share_alone_and_need_BTMLM() -> None:
    compared = variants.pseudo_shares("exp5", "small", 100, [])
    shares = [v.config.data.corruption.pseudo_token_share for v in compared]
    assert shares == [0.05, 0.10, 0.15, 0.20]
    for variant in compared[1:]:
        (line,) = differing_keys(compared[0].recipe, variant.recipe)
        assert line.startswith("data.corruption.pseudo_token_share")
    with pytest.raises(InputError, match="no BTMLM"):
        variants.pseudo_shares("exp3", None, None, [])


def test_the_MMLM_twin_computes_as_much_in_more_steps() -> None:
    """CAMLM predicts a smaller share of its positions, BTMLM generates: the twin's number of steps is another."""
    twin, full = variants.scratch(str(RECIPES / "small.yaml"), 4000, [], vocab_size=12_000)
    assert (twin.name, full.name) == ("small_mmlm", "small_full")
    one_step = recipes.flops(twin.config, 12_000) / twin.num_steps
    assert abs(recipes.flops(twin.config, 12_000) - recipes.flops(full.config, 12_000)) <= one_step / 2
    assert twin.num_steps != full.num_steps == 4000
    assert [set(stage.rows) for stage in twin.config.stages] == [{"MMLM"}]
    changed = differing_keys(twin.recipe, full.recipe)
    assert all(line.startswith("stages:") for line in changed)


def test_compute_counts_the_generation_of_BTMLM() -> None:
    """A forward more of its rows: less than a third of a step without it, which is forward and backward."""
    recipe = read_recipe(RECIPES / "small.yaml")
    costs = []
    for name in ("MMLM", "BTMLM"):
        variant = variants.Variant(name, name, recipe | {"stages": [{"steps": 10, "rows": {name: 1}}]})
        costs.append(recipes.flops(variant.config, 12_000))
    assert 1.2 < costs[1] / costs[0] < 4 / 3


def test_alignlm_variants_differ_in_rows_and_the_weight_of_the_bilingual_loss() -> None:
    untrained, base, tlm, *weighed, camlm = variants.alignlm("learning", 600, ["objective_weights={MMLM: 2}"])
    assert not untrained.is_trained
    assert untrained.recipe == base.recipe
    assert [v.title for v in (base, tlm, camlm)] == ["MMLM", "MMLM + TLM", "MMLM + TLM + CAMLM"]
    assert [v.config.objective_weights for v in weighed] == [{"MMLM": 2, "AlignLM_bilingual": w} for w in (0.1, 0.5, 1.0)]
    assert [v.name for v in weighed] == ["alignlm_010", "alignlm_050", "alignlm_100"]
    for variant in (base, tlm, *weighed, camlm):
        assert variant.num_steps == 600
        changed = differing_keys(base.recipe, variant.recipe)
        assert all(line.startswith(("stages:", "objective_weights.AlignLM_bilingual")) for line in changed)
        pairs = sum(share for name, share in variant.recipe["stages"][0]["rows"].items() if name != "MMLM")
        assert pairs == (0 if variant is base else 3), "as many rows of pairs beside one of text"
    assert (tlm.paper["xnli"], weighed[0].paper["xnli"], camlm.paper) == (75.9, 77.0, {})


def test_alignlm_takes_the_papers_numbers_unless_another_recipe_is_given() -> None:
    base, tlm = variants.alignlm("alignlm", None, [])[1:3]
    assert base.config.optimizer.peak_learning_rate == 5e-5
    assert tlm.config.objective_weights == {}, "the recipe's own weight is of a loss that TLM has not"


def test_learning_variants_have_equal_steps_and_positions() -> None:
    untrained, *trained = variants.learning(None, [])
    assert not untrained.is_trained
    assert [v.title for v in trained] == [
        "MMLM",
        "MMLM + TLM",
        "MMLM + TLM + CAMLM",
        "MMLM + TLM + CAMLM + BTMLM",
    ]
    for variant in trained:
        assert variant.num_steps == 2500
        assert all(line.startswith("stages:") for line in differing_keys(trained[0].recipe, variant.recipe))


# -- data ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with the names of the learning comparison's corpora."""
    names = [f"cc100/{code}.txt.xz" for code in learning_data.LANGUAGES]
    names += [f"parallel/{pair['path']}" for pair in learning_data.PAIRS]
    for name in names:
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "source"


def test_every_sentence_of_the_pairs_is_also_text_of_its_language(source: Path, tmp_path: Path) -> None:
    pairs, everything = tmp_path / "pairs.yaml", tmp_path / "catalog.yaml"
    learning_data.write_catalogs(source, tmp_path / "sides", pairs, everything)
    alone, together = read_catalog(pairs), read_catalog(everything)
    assert [c for c in together if len(c.languages) == 2] == alone
    expected = {(f"{c.name}.{code}", code) for c in alone for code in c.languages}
    assert expected <= {(c.name, c.languages[0]) for c in together if len(c.languages) == 1}
    assert all(c.held_out == 0 for c in alone), "the evaluation has files of its own"


def test_a_source_without_a_corpus_is_refused_by_its_name(source: Path, tmp_path: Path) -> None:
    (source / "cc100" / "zh.txt.xz").unlink()
    with pytest.raises(InputError, match=r"cc100/zh\.txt\.xz: no such file; expected --source"):
        learning_data.write_catalogs(source, tmp_path / "sides", tmp_path / "pairs.yaml", tmp_path / "catalog.yaml")


# -- measures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", measures.RULES)
def test_perplexity_equals_that_of_each_document_alone(rule: str, encoder_of: EncoderOf) -> None:
    """Packing and batching change nothing, and every predicted token counts once."""
    model, pairs = encoder_of(), pairs_of(9)
    rows = measures.perplexity_rows(rule, pairs, SETTINGS)
    documents = [document for row in rows for document in row.documents]
    assert len(documents) == 9 * (3 - OBJECTIVES[rule].num_sentences)
    nll, count = 0.0, 0
    for document in documents:
        batch = to_device(pack([PackedRow([document], 0, 0)], 64), CPU)
        nll += float(model(batch, LossRequest(torch.zeros(len(LOSS_INDEX)), 1))[1].sum())
        count += len(document.labels)
    assert measures.perplexity(model, rows, 64, CPU) == pytest.approx(math.exp(nll / count), rel=1e-5)


def test_pairs_of_which_none_fits_a_document_are_told() -> None:
    pairs = [Example(tuple(np.full(100, 7, np.int32) for _ in range(2)), (1, 2))]
    with pytest.raises(InputError, match="none of 1 held-out pairs fits the 64 positions of a document"):
        measures.perplexity_rows("MMLM", pairs, SETTINGS)


def test_every_model_is_measured_by_the_same_masks(encoder_of: EncoderOf) -> None:
    rows = [measures.perplexity_rows("TLM", pairs_of(5), SETTINGS) for _ in range(2)]
    for one, other in zip(*([d for row in some for d in row.documents] for some in rows), strict=True):
        assert np.array_equal(one.input_ids, other.input_ids)
        assert np.array_equal(one.labels, other.labels)
    result = measures.measured_on_pairs(encoder_of(), pairs_of(5), SETTINGS, CPU)
    assert set(result) == {"perplexity/MMLM", "perplexity/TLM", "perplexity/CAMLM", "gain"}
    assert all(math.isfinite(value) for value in result.values())


class Letters(nn.Module):
    """An encoder whose hidden states are its input's one-hot: sentences of the same letters are neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, output_hidden_states: bool) -> Any:
        layer = nn.functional.one_hot(input_ids, 128).float()

        class Output:
            hidden_states = (layer, layer.flip(-1))

        return Output()


def letter_tokenizer() -> Any:
    """A token a letter: its code point."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(WordLevel({"[PAD]": 0, **{chr(code): code for code in range(1, 128)}}, "[PAD]"))
    backend.pre_tokenizer = Split(Regex("."), "isolated")
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", model_max_length=16, model_input_names=names)


def test_retrieval_takes_the_languages_of_the_data_each_way_in_every_layer(tmp_path: Path) -> None:
    content = {
        "deu": ("abc\nxyz\nmmm", "cba\nzyx\nmm"),
        "fra": ("ab\ncd", "cd\nab"),
        "ell": ("a", "a"),
        "bre": ("a\nb", "a\nb"),
    }
    for code, (foreign, english) in content.items():
        (tmp_path / f"tatoeba.{code}-eng.{code}").write_text(foreign + "\n")
        (tmp_path / f"tatoeba.{code}-eng.eng").write_text(english + "\n")
    found, centred = measures.measured_by_retrieval(Letters(), letter_tokenizer(), tmp_path, ["br", "de", "en", "fr"])
    right, wrong = {"0": [1.0, 1.0], "1": [1.0, 1.0]}, {"0": [0.0, 0.0], "1": [0.0, 0.0]}
    assert found == {"br": right, "de": right, "fr": wrong}, "three letters are any language's, not only the 36 of the paper"
    assert set(centred) == {"br", "de", "fr"}
    with pytest.raises(InputError, match=r"no tatoeba\.LLL-eng files in languages of the run \(zh\)"):
        measures.measured_by_retrieval(Letters(), letter_tokenizer(), tmp_path, ["zh"])


def test_held_out_files_give_pairs_with_english_and_others_plain_and_centred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measures, "FEWEST_HELD_OUT", 3)
    content = {
        "x.de-en": ("abc\nxyz\nmmm", "cba\nzyx\nmm"),
        "de-fr": ("ab\ncd\nef", "cd\nab\nef"),
        "en-it": ("a\nb", "a\nb"),
    }
    for name, sides in content.items():
        for code, text in zip(name.rpartition(".")[2].split("-"), sides, strict=True):
            (tmp_path / f"{name}.{code}").write_text(text + "\n")
    languages = ["de", "en", "fr", "it"]
    names = {f.name: f.paths[1].name for f in aligned_files(tmp_path, languages)}
    assert names == {"de-en": "x.de-en.en", "de-fr": "de-fr.fr", "en-it": "en-it.it"}
    found = measures.measured_by_held_out(Letters(), letter_tokenizer(), tmp_path, languages, 10)
    assert found["held out, en"] == {"de-en": {"0": [1.0, 1.0], "1": [1.0, 1.0]}}, "too few lines in en-it"
    assert found["held out, others"]["de-fr"]["0"] == pytest.approx([1 / 3, 1 / 3])
    assert set(found) == {f"held out, {kind}{how}" for kind in ("en", "others") for how in ("", ", centred")}
    for code, text in (("de", "ab\ncd\nef"), ("en", "cd\nab\nef")):
        (tmp_path / f"y.de-en.{code}").write_text(text + "\n")
    found = measures.measured_by_held_out(Letters(), letter_tokenizer(), tmp_path, languages, 10)
    of_each = {name: layers["0"] for name, layers in found["held out, en"].items()}
    assert of_each == {"x.de-en": [1.0, 1.0], "y.de-en": pytest.approx([1 / 3, 1 / 3])}, "none stands for the other"


class Shifted(Letters):
    """Sentences that end in `!`, the other language's, are moved far away in one direction."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, output_hidden_states: bool) -> Any:
        states = super().forward(input_ids, attention_mask, output_hidden_states).hidden_states
        is_other = (input_ids == ord("!")).any(1)
        moved = nn.functional.one_hot(torch.tensor(ord("b")), 128) * 100.0

        class Output:
            hidden_states = tuple(state + is_other[:, None, None] * moved for state in states)

        return Output()


def test_centring_takes_out_what_all_sentences_of_a_language_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "FEWEST_HELD_OUT", 3)
    (tmp_path / "de-en.de").write_text("ab\nac\nadd\naee\n")
    (tmp_path / "de-en.en").write_text("ab!\nac!\nadd!\naee!\n")
    found = measures.measured_by_held_out(Shifted(), letter_tokenizer(), tmp_path, ["de", "en"], 10)
    assert found["held out, en"]["de-en"]["0"][0] < 1
    assert found["held out, en, centred"]["de-en"]["0"] == [1.0, 1.0]


# -- finished cells --------------------------------------------------------------------------------------------------


def finished(folder: Path, compared: list[variants.Variant], *seeds: int, by: Any = None) -> None:
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    (data / "manifest.json").write_text("{}")
    for variant in compared:
        for seed in seeds:
            measured = result_of(0.1 * seed, {"0": [0.1, 0.1], "1": [0.2, 0.4]}, 70.0)
            cells.write(folder / "cells", cells.Cell(variant, seed), by or {"pairs": 5}, data, measured)


def test_finished_cells_are_taken_and_only_what_is_missing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compared = variants.transfer("scratch", 100, [])
    finished(tmp_path, compared[1:3], 0, 1)
    plan = ComparisonPlan(tmp_path / "to", tmp_path / "data", 2, finished=tmp_path / "cells")
    results, told = run_cells(compared, plan, None)
    assert {name: len(of) for name, of in results.items()} == {"mmlm": 2, "tlm": 2}
    assert told[0].startswith("4 of 14 cells are there; missing: untrained_seed0, camlm_seed0")
    report.write("From scratch", compared, results, told, tmp_path / "to")
    printed = capsys.readouterr().out
    assert "0.05 ± 0.07" in printed
    assert "7.5 ± 0.0 / 7.5 ± 0.0 / 7.5 ± 0.0" in printed, "held out: the last layer is the middle one and the best"
    with pytest.raises(InputError, match=r"no finished cell in .*; --source or --data names the data"):
        run_cells(compared, ComparisonPlan(tmp_path / "empty", tmp_path, 1), None)
    assert not (tmp_path / "empty").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "results.md").write_text("of somebody else")
    with pytest.raises(InputError, match=r"other holds results.md, and no recipes of a comparison"):
        run_cells(compared, replace(plan, to=tmp_path / "other"), None)


def test_data_that_is_made_already_needs_no_job_and_its_vocabulary_counts(
    corpus_without_links: CorpusFolder, tmp_path: Path
) -> None:
    folder, held_out = corpus_without_links.folder, str(tmp_path)
    given = catalog_data.data_of(None, str(folder), held_out, tmp_path, 16_000)
    assert given == (folder, held_out, corpus_without_links.manifest.vocab_size, [])
    assert catalog_data.data_of(None, None, None, tmp_path, 16_000).jobs is None, "nothing is run without data"


@pytest.mark.parametrize(
    ("given", "message"),
    [(("s", "d", None), "give one"), ((None, None, "h"), "--held_out"), (("s", None, "h"), "no catalog.yaml there")],
)
def test_options_of_data_that_exclude_each_other_are_refused(
    tmp_path: Path, given: tuple[str | None, str | None, str | None], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        catalog_data.data_of(*given, tmp_path, 16_000)


def test_of_a_catalog_with_several_corpora_one_is_named_whose_held_out_pairs_are_measured(tmp_path: Path) -> None:
    (tmp_path / "catalog.yaml").touch()
    for corpus in ("libreoffice", "freedict"):
        (tmp_path / corpus / "held_out").mkdir(parents=True)
    with pytest.raises(InputError, match=r"2 of its corpora have held-out pairs; --held_out names the folder of one"):
        catalog_data.data_of(str(tmp_path), None, None, tmp_path / "to", 300)
    chosen = str(tmp_path / "libreoffice" / "held_out")
    assert catalog_data.data_of(str(tmp_path), None, chosen, tmp_path / "to", 300).held_out == chosen


def test_what_is_measured_is_kept_out_of_data_that_is_made_of_a_catalog(tmp_path: Path) -> None:
    source, others, tatoeba = tmp_path / "source", tmp_path / "others", tmp_path / "tatoeba"
    own = source / "libreoffice/held_out"
    own.mkdir(parents=True)
    others.mkdir()
    (source / "catalog.yaml").touch()

    def build_of(held_out: Path | None) -> str:
        chosen = str(held_out) if held_out else None
        jobs = catalog_data.data_of(str(source), None, chosen, tmp_path / "to", 300, str(tatoeba)).jobs
        assert jobs is not None
        return " ".join(jobs[0].parts[1].command)

    assert build_of(None).endswith(f"--exclude {tatoeba}/tatoeba.*"), "its own held-out pairs are"
    (tmp_path / "link").symlink_to(own)
    assert build_of(own) == build_of(tmp_path / "link") == build_of(None)
    assert build_of(others).endswith(f"--exclude {tatoeba}/tatoeba.*,{others}/*")


def test_a_cell_is_measured_otherwise_where_a_file_of_its_sets_is_another_one(tmp_path: Path) -> None:
    (tmp_path / "de-en.de").write_text("Haus\n")
    plan = ComparisonPlan(tmp_path / "to", tmp_path / "data", 1, held_out=tmp_path)
    before = plan.measured_by
    assert before == ComparisonPlan(tmp_path / "other", tmp_path / "other", 2, held_out=tmp_path).measured_by
    (tmp_path / "de-en.de").write_text("Baum\n")
    assert plan.measured_by != before


@pytest.mark.parametrize(
    ("recipe", "title"),
    [
        ({"model": {"num_layers": 3}}, "From scratch"),
        ({"model": {"backbone": "a/e5"}}, "From e5"),
        ({"init_from": "x/y"}, "From y"),
    ],
)
def test_a_comparison_is_named_by_what_its_models_start_from(recipe: dict[str, Any], title: str) -> None:
    assert recipes.start_in(recipe) == title


@pytest.mark.parametrize(
    ("steps", "by", "message"),
    [(100, {"pairs": 6}, r"mmlm_seed0\.json: of another comparison \(measured_by"), (99, {"pairs": 5}, r"stages")],
)
def test_cells_of_another_recipe_or_measured_otherwise_are_refused(
    tmp_path: Path, steps: int, by: Any, message: str
) -> None:
    finished(tmp_path, variants.transfer("scratch", 100, []), 0)
    wanted = [cells.Cell(variant, 0) for variant in variants.transfer("scratch", steps, [])[1:]]
    with pytest.raises(InputError, match=message):
        cells.read(tmp_path / "cells", wanted, by)
    (tmp_path / "cells/mmlm_seed0.json").write_text("{}")
    with pytest.raises(InputError, match=r"mmlm_seed0\.json: not a finished cell"):
        cells.read(tmp_path / "cells", wanted, by)


def test_variants_of_transfer_differ_in_rows_and_at_equal_compute_in_steps() -> None:
    compared = {v.name: v for v in variants.transfer("scratch", 1000, [])}
    assert [v.num_steps for v in compared.values()] == [1000] * 7
    assert not compared["untrained"].is_trained
    stages = compared["btmlm"].recipe["stages"]
    assert [stage["steps"] for stage in stages] == [750, 250]
    assert stages[0]["rows"] == compared["camlm"].recipe["stages"][0]["rows"], "BTMLM begins late, after CAMLM's rows"
    equal = {v.name: v for v in variants.transfer("scratch", 1000, [], vocab_size=16_000)}
    assert equal["mmlm"].num_steps == 1000
    assert len({v.num_steps for v in equal.values()}) > 2
    spent = [recipes.flops(v.config, 16_000) for v in equal.values()]
    assert max(spent) / min(spent) < 1.01
    with pytest.raises(InputError, match="--steps 1: btmlm has 2 stages and would have 1 of them; give more"):
        variants.transfer("scratch", 1, [])


# -- reports ---------------------------------------------------------------------------------------------------------


def result_of(gain: float, layers: dict[str, list[float]], xnli: float) -> dict[str, Any]:
    retrieval = {"de": layers, "fr": {k: [v / 2 for v in both] for k, both in layers.items()}}
    curve = [{"step": step, "gain": gain * step / 10, "perplexity/TLM": 50.0 / step} for step in (5, 10)]
    pairs = {"gain": gain, "perplexity/MMLM": 20.0, "perplexity/TLM": 10.0, "perplexity/CAMLM": 30.0}
    tuned = {"fine_tuned": {"xnli": xnli}, "as_in_the_paper": ["xnli"], "gap": {"xnli": 2 * gain}}
    words = {
        "en-es": {"pairs": 10, "to_target": gain, "to_source": 0.1},
        "en-fr": {"pairs": 8, "to_target": 0, "to_source": 0},
    }
    links = {"en-es": {"0": 0.5, "1": 0.5 - gain, "2": 0.45}, "en-fr": {"0": 0.3, "1": 0.3 - gain, "2": 0.35}}
    sets = {"held out, en": {"de-en": {k: [v / 4 for v in both] for k, both in layers.items()}}}
    measured = {"retrieval": retrieval, "sets": sets, "curve": curve, "pairs": pairs, "words": words, "links": links}
    return {"step": 10, **measured, **tuned}


def test_the_table_gives_mean_and_spread_and_the_papers_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compared = variants.objectives(None, None, [])[:2]
    seeds = [
        result_of(0.1, {"0": [0.2, 0.4], "1": [0.4, 0.8]}, 70.0),
        result_of(0.3, {"0": [0.4, 0.8], "1": [0.1, 0.2]}, 72.0),
    ]
    results = {v.name: seeds for v in compared}
    assert mean_by_layer(seeds[0]["retrieval"]) == pytest.approx([22.5, 45.0])
    assert number_of(seeds[1], "retrieval") == pytest.approx(45.0)
    head, rows = report.head_and_rows(compared, results)
    row = dict(zip(head, rows[1], strict=True))
    assert row["gain, nats"] == "0.20 ± 0.14"
    assert row["Tatoeba, best layer, %"] == "45.0 ± 0.0"
    assert row["last layer, %"] == "28.1 ± 23.9"
    assert row["word translation, %"] == "7.5 ± 3.5", "of 5 and 10: mean of both ways and both pairs"
    assert (row["state AER, best layer, %"], row["embeddings, %"]) == ("20.0 ± 14.1", "40.0 ± 0.0")
    assert (row["xnli, %"], row["xnli, paper"]) == ("71.00 ± 1.41", "75.8")
    other = {v.name: [*seeds, seeds[0] | {"as_in_the_paper": []}] for v in compared}
    head, rows = report.head_and_rows(compared, other)
    assert rows[1][head.index("xnli, paper")] == "-", "one seed was scored on other data than the paper's"
    report.write("A title", compared, results, ["a remark"], tmp_path)
    assert "mean ± sample standard deviation over 2 seeds" in capsys.readouterr().out
    assert "| exp1 | MMLM | 45.0 ± 0.0 |" in (tmp_path / "results.md").read_text()
    assert json.loads((tmp_path / "results.json").read_text())["results"]["exp1"][1]["pairs"]["gain"] == 0.3
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_each_set_has_its_own_column_in_the_layer_that_is_best_over_all_sets() -> None:
    compared = variants.objectives(None, None, [])[:2]
    seeds = [result_of(0.1, {"0": [0.2, 0.4]}, 70.0), result_of(0.3, {"0": [0.4, 0.8]}, 72.0)]
    head, rows = report.by_set(compared, {v.name: seeds for v in compared})
    assert head == ["variant", "words en-es", "words en-fr", "AER en-es", "AER en-fr"]
    assert rows[0] == ["exp0", "15.0 ± 7.1", "0.0 ± 0.0", "30.0 ± 14.1", "10.0 ± 14.1"]


def test_what_was_not_measured_is_said_and_not_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compared = variants.objectives(None, None, [])[:1]
    nothing = {"step": 10, "retrieval": {}, "sets": {}, "curve": [], "pairs": {}, "words": {}, "links": {}, "fine_tuned": {}}
    report.write("A title", compared, {compared[0].name: [nothing]}, [], tmp_path)
    out = capsys.readouterr().out
    assert "no measures to show: --tatoeba, --held_out and --finetune name what to measure by" in out
    assert f"written: {tmp_path / 'results.md'}, {tmp_path / 'results.json'}\n" in out
    assert not (tmp_path / "comparison.png").exists()


def test_one_seed_has_no_spread() -> None:
    assert report.mean_and_spread([12.34], 1) == "12.3"
    assert report.mean_and_spread([1.0, 2.0, 3.0], 2) == "2.00 ± 1.00"


def test_the_curve_of_figure_6_is_the_exp_of_mean_losses_of_the_steps_that_have_BTMLM(tmp_path: Path) -> None:
    lines = [{"step": n, "loss/MMLM": 9.0} for n in range(1, 5)]
    lines += [{"step": n, "loss/MMLM": 9.0, "loss/BTMLM": float(n % 2)} for n in range(5, 9)]
    (tmp_path / METRICS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert report.smoothed_perplexity(tmp_path, num_points=2) == [(6, math.exp(0.5)), (8, math.exp(0.5))]
    compared, runs = variants.pseudo_shares("exp5", None, None, [])[:1], {"pseudo_05": [tmp_path, tmp_path]}
    report.draw_pseudo_perplexity(compared, runs, tmp_path / "figure.png")
    ends = f"{math.exp(0.0):.1f} ± 0.0"  # the last of four steps is its tenth
    assert report.pseudo_perplexity(compared, runs).endswith(f"last tenth of its steps: 5 % pseudo tokens {ends}")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / METRICS_FILE).write_text(json.dumps({"step": 2, "loss/MMLM": 9.0}) + "\n")
    assert report.pseudo_perplexity(compared, runs).endswith("5 % pseudo tokens not logged")
    report.draw_pseudo_perplexity(compared, runs, tmp_path / "figure.png")


def test_benchmarks_are_named_with_their_folders(tmp_path: Path) -> None:
    (one, other) = fine_tunings(f"xnli={tmp_path},ner={tmp_path}", "--seeds 2 epochs=1")
    assert (one.task, other.task, one.options) == ("xnli", "ner", ("--seeds", "2", "epochs=1"))
    assert fine_tunings(None, "") == ()
    for text, options, expected in (
        ("xnli=nowhere", "", "--finetune xnli=nowhere: expected TASK=FOLDER"),
        (f"ner={tmp_path},ner={tmp_path}", "", "a second folder for ner; expected one a task"),
        (",", "", "--finetune ,: expected TASK=FOLDER"),
        (None, "--seeds 2", "--finetune is missing: expected TASK=FOLDER"),
        (f"ner={tmp_path}", "--seeds 2 --to=x", "--finetune_options --to=x: the comparison says it of each run"),
        (f"ner={tmp_path}", "--check", "--finetune_options --check: the comparison says it"),
        (f"ner={tmp_path}", "'--seeds 2", "--finetune_options '--seeds 2: No closing quotation"),
    ):
        with pytest.raises(InputError, match=expected):
            fine_tunings(text, options)


def test_options_that_name_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--only ,: expected names of the table"):
        plan_of(str(tmp_path / "data"), str(tmp_path / "to"), 1, 1, 2, only=",")
    with pytest.raises(InputError, match="--deepspeed '--num_gpus: No closing quotation"):
        plan_of(str(tmp_path / "data"), str(tmp_path / "to"), 1, 1, 2, deepspeed="'--num_gpus")


def test_sets_of_which_nothing_could_be_measured_are_refused_before_a_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no held-out pairs XX-en.XX and XX-en.en in languages of the run \(en, fr\)"):
        measures.check_sets(tmp_path, None, ("fr", "en"))
    with pytest.raises(InputError, match=r"no tatoeba.LLL-eng files in languages of the run \(fr, en\)"):
        measures.check_sets(None, tmp_path, ("fr", "en"))
    for name in ("fr-en.fr", "fr-en.en", "tatoeba.fra-eng.fra"):
        (tmp_path / name).write_text("a\nb\n", encoding="utf-8")
    measures.check_sets(tmp_path, None, ("fr", "en"))
    with pytest.raises(InputError, match=r"tatoeba.fra-eng.eng: no such file"):
        measures.check_sets(tmp_path, tmp_path, ("fr", "en"))


def test_fine_tuning_without_scores_is_told(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"not_scored": ["de"]}')
    with pytest.raises(InputError, match=r"results.json: no scores, as where no test file has labels"):
        _scores_of(tmp_path / "results.json")


def test_what_fine_tuning_would_refuse_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    """Data and trainings come first, and take hours: nothing of them is begun."""
    ner = tmp_path / "ner"
    ner.mkdir()
    for name in ("train-en.tsv", "dev-en.tsv", "test-de.tsv"):
        (ner / name).write_text("Paris\tB-LOC\nis\tO\n\nYes\tO\n")
    check(fine_tunings(f"ner={ner}", "epochs=1"), tmp_path / "to")
    plan = ComparisonPlan(tmp_path / "to", tmp_path / "data", 1, fine_tuning=fine_tunings(f"ner={ner}", "epoch=2"))
    with pytest.raises(InputError, match=r"--finetune ner: .*unknown key epoch; did you mean epochs"):
        run_cells(variants.transfer("scratch", 100, []), plan, [])
    assert not plan.to.exists()


def test_a_mean_over_seeds_is_taken_at_the_steps_that_all_have() -> None:
    """A run that was stopped in between saved there, too."""
    lines = [[(500.0, 1.0), (1000.0, 2.0)], [(500.0, 3.0), (730.0, 9.0), (1000.0, 4.0)]]
    assert report.mean_line(lines) == report.mean_line(lines[::-1]) == [(500.0, 2.0), (1000.0, 3.0)]


def test_one_comparison_at_a_time_is_at_work_in_a_folder(tmp_path: Path) -> None:
    plan, ran = ComparisonPlan(tmp_path, tmp_path, 1), tmp_path / "ran"
    job = Job("variant_seed0", [Part("training", ("touch", str(ran)), tmp_path / "done.json")], tmp_path / "log")
    with exclusive(tmp_path / LOCK_FILE, "held"), pytest.raises(InputError, match="another comparison is at work in this"):
        do([job], plan)
    assert not ran.exists()
    do([job], plan)
    assert ran.exists()
