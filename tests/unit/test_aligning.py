"""What `align` decides before it trains, what it refuses, and what it measures."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ernie_m.aligning import choices, inputs, measures, report
from ernie_m.aligning.choices import Encoder, closed, filled, keep_of, passes_of_a_step, recipe_for, timed
from ernie_m.aligning.line import Asked, Line
from ernie_m.base.config import build
from ernie_m.base.console import Choice, InputError
from ernie_m.base.rank_facts import RankFacts
from ernie_m.base.special_tokens import Specials
from ernie_m.commands.align import align
from ernie_m.corpus.folder import CorpusFolder
from ernie_m.rows.dataloader import PretrainingData
from ernie_m.rows.schedule import Schedule
from ernie_m.training.recipe import TrainingConfig

LINES = "the house\tdas Haus\nthe river\tder Fluss\n"
SENTENCES = Encoder("e5", Path("e5"), False, False, Choice("pooling", "mean", "as it is used"), 256)
WORDS = replace(SENTENCES, name="xlm-r", predicts_words=True)


def files(folder: Path) -> None:
    (folder / "ok.tsv").write_text(LINES, encoding="utf-8")
    (folder / "three.tsv").write_text("1.2\ta\tb\n1.1\tc\td\n", encoding="utf-8")
    (folder / "one.tsv").write_text("a b\nc d\n", encoding="utf-8")
    (folder / "same.tsv").write_text("a\ta\nb\tb\nc\td\n", encoding="utf-8")
    (folder / "news.de").write_text("das Haus\n", encoding="utf-8")
    (folder / "news.en").write_text("the house\n", encoding="utf-8")
    (folder / "pairs.docx").write_text("x", encoding="utf-8")
    (folder / "cut.tsv.gz").write_bytes(gzip.compress(LINES.encode())[:-12])
    (folder / "cut.tsv.bz2").write_bytes(b"no bz2")
    (folder / "a.tmx").write_text("<tmx/>", encoding="utf-8")
    (folder / "a.zip").write_bytes(b"")
    (folder / "folder").mkdir()
    (folder / "uneven").mkdir()
    for side, lines in (("fr", "un\ndeux\n"), ("en", "one\n")):
        (folder / "uneven" / f"t.fr-en.{side}").write_text(lines, encoding="utf-8")
    (folder / "OK.TSV.GZ").write_bytes(gzip.compress(b"1\ta\tb\n"))


REFUSED = [
    ({"pairs": "three.tsv"}, r"three.tsv, line 1: 3 columns; expected two with a tab between them, de and en"),
    ({"pairs": "one.tsv"}, r"one.tsv, line 1: 1 column; expected two"),
    ({"pairs": "same.tsv"}, r"both sides are the same text in 2 of the first 3 pairs; expected two languages"),
    ({"pairs": "news.de+news.de"}, r"both sides are the same text in 1 of the first 1 pairs"),
    ({"pairs": "news.de+news.en+ok.tsv"}, r"3 files; expected two"),
    ({"pairs": "news.de+news.fr"}, r"news.fr: no such file"),
    ({"pairs": "nothing.tsv"}, r"--pairs \S*nothing.tsv: no such file, nor"),
    ({"pairs": "pairs.docx"}, r"not known by its ending; expected .tmx, .zip, .tsv, or two files: a.de\+a.en"),
    ({"pairs": "cut.tsv.gz"}, r"cut.tsv.gz: truncated, damaged or no .gz file"),
    ({"pairs": "cut.tsv.bz2"}, r"cut.tsv.bz2: truncated, damaged or no .bz2 file"),
    ({"pairs": "folder"}, r"a folder without manifest.json; expected files, or one made by `data_prep build`"),
    ({"languages": "de"}, r"--languages de: expected two different codes"),
    ({"languages": "de,de"}, r"--languages de,de: expected two different codes"),
    ({"languages": "de,en,fr"}, r"--languages de,en,fr: expected two different codes"),
    ({"languages": None}, r"--languages is missing: .* e.g. --languages de,en"),
    ({"text": "wiki.txt"}, r"--text wiki.txt: expected LANGUAGE=FILE"),
    ({"text": "de=wiki.txt"}, r"--text de=wiki.txt: no such file"),
    ({"watch": "folder"}, r"--watch \S*folder: no pairs there; expected line-aligned files such as"),
    ({"watch": "uneven"}, r"t.fr-en.fr has 2 lines, \S*t.fr-en.en 1"),
    ({"gold": "g=nothing.txt"}, r"--gold g=nothing.txt: no such file"),
    ({"pairs": "ok.tsv,./ok.tsv"}, r"--pairs ./ok.tsv: the same file as ok.tsv; name it once"),
    ({"pairs": "OK.TSV.GZ"}, r"OK.TSV.GZ, line 1: 3 columns; expected two"),
    ({"recipe": "alike"}, r"recipe alike: no such file"),
    ({"overrides": ("seed",)}, r"'seed': expected key.path=value"),
    ({"pooling": "max"}, r"--pooling max: expected mean or first"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_cannot_be_aligned_is_a_line_and_leaves_nothing(
    change: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(choices, "open_backbone", lambda name: type("B", (), {"folder": tmp_path, "has_head": False}))
    monkeypatch.setattr(choices, "sketch_of", lambda config: type("S", (), {"longest_document": 512}))
    asked = Asked(**{"model": "any", "pairs": "ok.tsv", "languages": "de,en", **change})
    with pytest.raises(InputError, match=message) as refused:
        Line(asked, tmp_path / "out", RankFacts(), lambda *_: None).run()
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_languages_that_a_folder_of_data_lacks_are_refused(corpus_folder: CorpusFolder, tmp_path: Path) -> None:
    def asked(**options: str) -> Line:
        return Line(Asked("any", str(corpus_folder.folder), **options), tmp_path / "out", RankFacts(), lambda *_: None)

    for languages in (None, "de,en", "en,de"):
        assert asked(**({"languages": languages} if languages else {}))._catalog() is None
    with pytest.raises(InputError, match=r"--languages de,br: \S+ has pairs of .*de-en.*; leave it out"):
        asked(languages="de,br")._catalog()
    with pytest.raises(InputError, match="--text de=x: --pairs is a data_prep folder"):
        asked(text="de=x")._catalog()


def test_a_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    files(tmp_path)
    asked = Asked("any", str(tmp_path / "ok.tsv"), "de,en")
    with pytest.raises(InputError, match=r"not made by align \(no align.json there\); give a new folder"):
        Line(asked, tmp_path, RankFacts(), lambda *_: None).run()
    assert not (tmp_path / "align.json").exists()


def test_files_of_pairs_become_a_catalog_that_data_prep_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    from data_prep.catalog import read_catalog

    files(tmp_path)
    monkeypatch.chdir(tmp_path)
    catalog = inputs.catalog_of("ok.tsv,news,a.tmx,a.zip", "de=news.de", ("de", "en"), 0.1)
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(catalog), encoding="utf-8")
    corpora = read_catalog(tmp_path / "catalog.yaml")
    assert [corpus.format for corpus in corpora] == ["tsv", "moses", "tmx", "moses", "cc100"]
    assert all(corpus.languages == ("de", "en") and corpus.held_out == 0.1 for corpus in corpora[:-1])
    assert corpora[1].files == (tmp_path / "news.de", tmp_path / "news.en")
    of_two = inputs.catalog_of("news.de+news.en", None, ("de", "en"), 0.1)["corpora"][0]
    assert {key: of_two[key] for key in ("source", "target")} == {
        key: catalog["corpora"][1][key] for key in ("source", "target")
    }


def test_files_of_several_language_pairs_are_corpora_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path)
    monkeypatch.chdir(tmp_path)
    corpora = inputs.catalog_of("fr-en=ok.tsv,ok.tsv,zh_Hant-en=a.tmx", None, ("de", "en"), 0.1)["corpora"]
    assert [corpus["languages"] for corpus in corpora] == [["fr", "en"], ["de", "en"], ["zh-Hant", "en"]]
    assert [corpus["name"] for corpus in corpora] == ["pairs1.fr-en", "pairs2.de-en", "pairs3.zh-Hant-en"]
    assert inputs.catalog_of("fr-en=ok.tsv", None, None, 0.1)["corpora"][0]["languages"] == ["fr", "en"]
    for pairs, message in (
        ("fr-en=ok.tsv,ok.tsv", "--pairs de-en=ok.tsv"),
        ("en-en=ok.tsv", "expected two different codes"),
    ):
        with pytest.raises(InputError, match=message):
            inputs.catalog_of(pairs, None, None, 0.1)


@pytest.mark.parametrize(
    ("encoder", "has_text", "recipe"),
    [
        (SENTENCES, False, "align_sentences"),
        (replace(WORDS, is_sentence_encoder=True), True, "align_sentences"),
        (WORDS, False, "align"),
        (WORDS, True, "align_text"),
    ],
)
def test_what_is_trained_follows_from_what_the_encoder_is(encoder: Encoder, has_text: bool, recipe: str) -> None:
    assert recipe_for(encoder, None, has_text).value == recipe
    assert recipe_for(encoder, "mine.yaml", has_text).value == "mine.yaml"


def decided(encoder: Encoder, folder: CorpusFolder, *overrides: str, ranks: int = 1, passes: float = 2.0) -> dict[str, Any]:
    recipe = recipe_for(encoder, None, False).value
    content, _ = filled(encoder, recipe, folder, overrides, ranks)
    content, _ = timed(content, passes_of_a_step(content, folder), passes, None, lambda: math.nan)
    return closed(content)


def test_a_row_of_sentences_holds_about_64_pairs_and_passes_are_passes(corpus_folder: CorpusFolder) -> None:
    content = decided(SENTENCES, corpus_folder)
    config = build(TrainingConfig, content, "test")
    data = PretrainingData(corpus_folder, config.data, Schedule(config.stages, config.batch.rows_per_step), 0)
    rows = [data.row(address) for step in range(config.stages[0].steps) for address in data.schedule.rows_of_step(step)]
    pairs = [len(row.documents) for row in rows]
    assert 50 < np.mean(pairs) < 80
    there = sum(stream.num_rows for stream in corpus_folder.parallel())
    assert sum(pairs) == pytest.approx(2 * there, rel=0.2)  # a row holds more or less of them, by its draw
    assert max(int(row.documents.lengths_E.max()) for row in rows) <= 256
    assert config.optimizer.rate_factors == {"embeddings": 20}
    assert (content["model"]["pooling"], content["model"]["backbone"]) == ("mean", "e5")


def test_what_the_user_gives_stays(corpus_folder: CorpusFolder) -> None:
    given = ("data.sequence_length=256", "model.pooling=first", "optimizer.warmup_steps=0", "batch.rows_per_step=4")
    content = decided(SENTENCES, corpus_folder, *given)
    assert content["data"]["sequence_length"] == 256
    assert content["model"]["pooling"] == "first"
    assert content["optimizer"]["warmup_steps"] == 0
    assert content["batch"]["rows_per_step"] == 4


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_the_rows_of_a_step_divide_over_the_ranks(ranks: int, corpus_folder: CorpusFolder) -> None:
    content = decided(SENTENCES, corpus_folder, ranks=ranks)
    assert build(TrainingConfig, content, "test").batch.accumulation_steps(ranks) >= 1


def test_a_new_head_of_words_learns_alone_first_and_slowly(corpus_folder: CorpusFolder) -> None:
    content, said = filled(SENTENCES, "align", corpus_folder, (), 1)
    content, _ = timed(content, passes_of_a_step(content, corpus_folder), 4.0, None, lambda: math.nan)
    first, rest = content["stages"]
    assert first["train"] == ["heads"]
    assert "train" not in rest
    assert first["steps"] == pytest.approx((first["steps"] + rest["steps"]) / 4, abs=1)
    assert content["optimizer"]["peak_learning_rate"] == 2e-5
    assert any(choice.subject == "stages" for choice in said)
    own, _ = filled(WORDS, "align", corpus_folder, (), 1)
    assert len(own["stages"]) == 1


def test_minutes_bound_the_steps_and_the_decay_ends_with_them(corpus_folder: CorpusFolder) -> None:
    content, _ = filled(SENTENCES, "align_sentences", corpus_folder, (), 1)
    of_a_step = passes_of_a_step(content, corpus_folder)
    short, why = timed(content, of_a_step, 2.0, 1.0, lambda: 10.0)
    assert short["stages"][0]["steps"] == 6
    assert "10.00 s a step here, 1 minutes allow 6" in why.reason
    whole, _ = timed(content, of_a_step, 2.0, None, lambda: math.nan)
    unbound, _ = timed(content, of_a_step, 2.0, 1e5, lambda: 10.0)
    assert unbound["stages"] == whole["stages"]
    config = build(TrainingConfig, closed(short), "test")
    assert config.optimizer.learning_rate(6, 6) == 0


def test_a_recipe_without_pairs_is_refused(corpus_folder: CorpusFolder) -> None:
    with pytest.raises(InputError, match="none of its stages reads pairs"):
        filled(WORDS, "align", corpus_folder, ("stages=[{steps: 1, rows: {MMLM: 1}}]",), 1)


def test_without_a_mask_token_sentences_are_trained_and_words_are_refused(
    corpus_folder: CorpusFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = corpus_folder.manifest
    monkeypatch.setattr(corpus_folder, "manifest", replace(manifest, specials=replace(manifest.specials, mask=None)))
    assert decided(SENTENCES, corpus_folder)["stages"][0]["steps"] > 0
    with pytest.raises(
        InputError, match="CAMLM: the tokenizer has no mask token; expected an objective without masks, such as XLCO"
    ):
        decided(WORDS, corpus_folder)


def test_a_step_of_fewer_rows_than_objectives_is_refused_as_in_training(corpus_folder: CorpusFolder) -> None:
    for given, message in (("1", "mixes 2 objectives and needs"), ("many", "batch.rows_per_step: 'many'")):
        with pytest.raises(InputError, match=message):
            filled(WORDS, "align", corpus_folder, (f"batch.rows_per_step={given}",), 1)


def test_masks_that_the_tokenizer_lacks_are_refused_before_anything_is_built() -> None:
    maskless = replace(Specials.xlm_r(101), mask=None)
    choices.check_masks("align_sentences", (), maskless)
    for recipe, given in (("align", ()), ("align_sentences", ("stages=[{steps: 1, rows: {XLCO: 1, TLM: 1}}]",))):
        with pytest.raises(InputError, match="the tokenizer has no mask token"):
            choices.check_masks(recipe, given, maskless)


def test_one_language_on_both_sides_is_told() -> None:
    class Words:
        def decode(self, ids: np.ndarray) -> str:
            return " ".join(f"{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in ids)

    draw = np.random.default_rng(0)
    sides = [draw.integers(low, low + 30, (25, 6)) for low in (0, 0, 100)]
    sets = {name: [*zip(sides[0], sides[of], strict=True)] for name, of in (("de-en", 1), ("de-br", 2))}
    shared = measures.shared_words({**sets, "few": sets["de-en"][:5]}, Words())  # type: ignore[arg-type]
    assert [*shared] == ["de-en", "de-br"]
    (told,) = choices.of_sides(shared)
    assert str(told).startswith("sides of de-en: ")
    assert "is it one language" in told.reason


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "first"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode_max_tokens": True}, None),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, None),
        ([], None),
    ],
)
def test_pooling_is_the_files_or_a_line(
    content: Any, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [{"path": "", "type": "a.Transformer"}, {"path": "1_Pooling", "type": "a.Pooling"}]
    (tmp_path / "modules.json").write_text(json.dumps(listed), encoding="utf-8")
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps(content), encoding="utf-8")
    monkeypatch.setattr(choices, "open_backbone", lambda name: type("B", (), {"folder": tmp_path, "has_head": False}))
    monkeypatch.setattr(choices, "sketch_of", lambda config: type("S", (), {"longest_document": 512}))
    if expected is None:
        with pytest.raises(InputError, match=r"pooling .*mean or first"):
            choices.look_at("any", None)
    else:
        assert choices.look_at("any", None).pools == expected


@pytest.mark.parametrize(("objective", "asked", "kept"), [("XLCO", None, "0.3"), ("CAMLM", None, "0"), ("XLCO", 0.5, "0.5")])
def test_the_share_kept_has_a_reason(objective: str, asked: float | None, kept: str) -> None:
    choice = keep_of({"stages": [{"steps": 1, "rows": {objective: 1}}]}, asked)
    assert choice.value == kept
    assert choice.reason


def test_pairs_of_which_a_side_repeats_are_not_measured() -> None:
    a, b, c, d, e = (np.array(ids) for ids in ([1], [2, 3], [4], [5], [6, 7]))
    nothing = np.array([], int)
    assert [[*map(list, pair)] for pair in measures.distinct([(a, b), (c, b), (c, d), (d, e), (e, nothing)])] == [
        [[5], [6, 7]]
    ]


def test_figures_are_those_of_plain_arithmetic() -> None:
    rng = torch.Generator().manual_seed(0)
    source, target = (torch.randn(2, 7, 4, generator=rng, dtype=torch.float64) + 2 for _ in range(2))
    found = measures.figures(source, target)
    cosine = torch.nn.functional.cosine_similarity(source[1][:, None], target[1][None], dim=-1)
    right = [(cosine.argmax(dim=way) == torch.arange(7)).float().mean().item() * 100 for way in (1, 0)]
    assert found["layers"][1] == pytest.approx(right)
    assert found["unrelated"][1] == pytest.approx(cosine[~torch.eye(7, dtype=torch.bool)].mean().item(), abs=1e-6)
    moved = measures.figures(source + 50, target - 30)
    assert moved["centred"] == found["centred"]
    assert found["centred"] != found["layers"], "the test sees a difference"
    assert moved["unrelated"][1] < -0.9


def test_sentences_are_measured_as_training_reads_them() -> None:
    specials = Specials.xlm_r(101)
    assert measures.as_read(np.array([7, 8, 9]), specials, 10).tolist() == [0, 7, 8, 9, 2]
    assert measures.as_read(np.array([7, 8, 9]), specials, 4).tolist() == [0, 7, 8, 2]


def test_watched_sets_of_the_same_codes_are_both_there(tmp_path: Path) -> None:
    for name in ("tatoeba.fra-eng", "flores.fra-eng", "tatoeba.deu-eng"):
        for code in name.partition(".")[2].split("-"):
            (tmp_path / f"{name}.{code}").write_text("a\nb\n", encoding="utf-8")
    names = [files.name for files in measures.watched_files(tmp_path)]
    assert sorted(names) == [
        "deu-eng",
        "flores.fra-eng",
        "tatoeba.fra-eng",
    ]


def test_what_was_lost_is_said() -> None:
    def of(*accuracies: float) -> dict[str, Any]:
        return {"pairs": 9, "layers": [[0.0, 0.0], [*accuracies]], "centred": [[1.0, 1.0]] * 2, "unrelated": [0.5, 0.5]}

    watched = {"fr-en": of(90, 92), "de-en": of(95, 97), "tatoeba.bre-eng": of(20, 20)}
    before = {"held_out": {"en-br": of(10, 20)}, "watched": watched, "gain": None}
    now = {"fr-en": of(91, 93), "de-en": of(90, 92), "tatoeba.bre-eng": of(30, 40)}
    after = {"held_out": {"en-br": of(30, 40)}, "watched": now, "gain": None}
    shown = report.for_terminal(before, after, "mean")
    assert "Watched, tatoeba.bre-eng, whose languages are trained: +15.0 points." in shown
    assert "Watched, not trained: -2.0 points on average of 2, the least de-en with -5.0." in shown
    assert "No cross-lingual gain" in shown
    gained = report.for_terminal(before | {"gain": 0.1}, after | {"gain": 0.35}, "mean")
    linked = report.for_terminal(
        before | {"links": {"en-es": [30.0, 14.4, 20]}}, after | {"links": {"en-es": [29.0, 15, 13]}}, "mean"
    )
    assert "gold en-es, error rate in the best layer, %: 14.4 (layer 1) before, 13.0 (layer 2) after." in linked
    assert "error rate" not in shown
    assert "+0.100 nats a mask before, +0.350 nats a mask after" in gained
    assert "no head of masked words before, +0.350" in report.for_terminal(before, after | {"gain": 0.35}, "mean")


def test_tasks_of_srun_that_cannot_meet_are_refused_before_anything_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else rank 0 would build data and time steps first, and then be told."""
    for name, value in {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"one of 2 ranks, but not where they meet; this works: MASTER_ADDR=.* srun -n 2"):
        align(model="e5", pairs="pairs.tsv", to=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
