"""Scores of other settings, other files or other people are not written over and not averaged in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ernie_m.base.console import InputError
from ernie_m.downstream import settings, tatoeba
from ernie_m.downstream.bitext_tuning import BitextTuning
from ernie_m.downstream.experiment import Experiment, check
from ernie_m.downstream.mlqa import Mlqa
from ernie_m.downstream.ner import Ner
from ernie_m.downstream.pawsx import PawsX
from ernie_m.downstream.task import Task
from ernie_m.downstream.task_files import FileOptions, SourceFile, load, named
from ernie_m.downstream.xnli import Xnli
from ernie_m.interop.encoder import open_encoder

ROWS = "a man sleeps\tnobody sleeps\tcontradiction\na man sleeps\ta man rests\tentailment\na man sleeps\the hums\tneutral\n"


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


# -- hashes -------------------------------------------------------------------------------------------------------------


def test_each_of_several_files_of_one_name_counts(tmp_path: Path) -> None:
    files = [SourceFile(write(tmp_path / language / "test_2k.tsv", language), language) for language in ("de", "en", "fr")]
    before = settings.of_data(files, tmp_path)
    assert list(before) == ["de/test_2k.tsv", "en/test_2k.tsv", "fr/test_2k.tsv"]
    for file in files:
        text = file.path.read_text()
        write(file.path, text + "!")
        assert settings.of_data(files, tmp_path) != before, file.path
        write(file.path, text)
    assert settings.of_data(files, tmp_path) == before


def test_a_moved_folder_is_the_same_and_files_named_elsewhere_do_not_hide_each_other(tmp_path: Path) -> None:
    files = [SourceFile(write(tmp_path / "data/en/x.tsv", "1"), "en")]
    before = settings.of_data(files, tmp_path / "data")
    shutil.move(tmp_path / "data", tmp_path / "moved")
    assert settings.of_data([SourceFile(tmp_path / "moved/en/x.tsv", "en")], tmp_path / "moved") == before
    outside = [SourceFile(write(tmp_path / name / "test.tsv", name), None) for name in ("a", "b")]
    told = settings.of_data(outside, tmp_path / "moved")
    assert list(told) == ["1: test.tsv", "2: test.tsv"]
    assert len({of["sha256"][0] for of in told.values()}) == 2
    assert settings.of_data([file._replace(language="de") for file in outside], tmp_path / "moved") != told


def test_both_sides_of_bitext_count(tmp_path: Path) -> None:
    source, target = write(tmp_path / "x.fr-en.fr", "a\n"), write(tmp_path / "x.fr-en.en", "b\n")
    before = settings.of_data([SourceFile(source, "fr")], tmp_path, BitextTuning().read_with)
    write(target, "c\n")
    assert settings.of_data([SourceFile(source, "fr")], tmp_path, BitextTuning().read_with) != before


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_all_files_of_the_encoder_count(name: str, tiny_encoder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_encoder, tmp_path / "hf"))
    encoder = open_encoder(folder)
    before = settings.of_encoder(encoder)
    assert name in before
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    if name.endswith("json"):
        assert settings.of_encoder(encoder) != before


# -- folders ------------------------------------------------------------------------------------------------------------


def test_the_same_settings_may_come_again_and_others_may_not(tmp_path: Path) -> None:
    settings.claim(tmp_path / "to", {"layer": 1})
    (tmp_path / "to/results.json").write_text("{}")
    settings.claim(tmp_path / "to", {"layer": 1})
    with pytest.raises(InputError, match=r"holds scores of other settings \(layer: 1 -> 2\)"):
        settings.claim(tmp_path / "to", {"layer": 2})


@pytest.mark.parametrize("name", ["results.json", "scores.png", "seed_3/result.json"])
def test_files_under_our_names_without_settings_are_left_alone(name: str, tmp_path: Path) -> None:
    theirs = write(tmp_path / name, "mine")
    with pytest.raises(InputError, match=rf"holds {name.split('/')[0]}, and no settings.json says what it is of"):
        settings.claim(tmp_path, {"layer": 1})
    assert theirs.read_text() == "mine"
    assert not (tmp_path / "settings.json").exists()


@pytest.mark.parametrize("content", ['{"task": "xnli", "data": {"test": {"x.tsv": "0"}}}', "[]", "{", "\xff", "[" * 10**5])
def test_settings_of_an_earlier_release_or_of_something_else_are_refused_and_kept(content: str, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=r"settings\.json: not (of this release|the JSON that was written there)"):
        settings.claim(tmp_path, {"layer": 1})
    assert (tmp_path / "settings.json").read_text(encoding="latin-1") == content


@pytest.fixture
def bitext(tmp_path: Path) -> Path:
    for name in ("fra", "eng"):
        write(tmp_path / f"tatoeba/tatoeba.fra-eng.{name}", "April\nMonday\nJapan\n")
    return tmp_path / "tatoeba"


def test_retrieval_writes_over_its_own_scores_alone(tiny_encoder: Path, bitext: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    first = tatoeba.run(tiny_encoder, bitext, to)
    assert tatoeba.run(tiny_encoder, bitext, to) == first
    for change, arguments in (
        ("layer", {"layer": 1}),
        ("untrained", {"untrained": False}),
    ):
        with pytest.raises(InputError, match=rf"other settings \({change}: "):
            tatoeba.run(tiny_encoder, bitext, to, **arguments)  # type: ignore[arg-type]
    write(bitext / "tatoeba.fra-eng.eng", "April\nMonday\nIndia\n")
    with pytest.raises(InputError, match=r"other settings \(data\.tatoeba\.fra-eng\.fra"):
        tatoeba.run(tiny_encoder, bitext, to)
    assert json.loads((to / "results.json").read_text()) == json.loads(json.dumps(first))


def test_retrieval_leaves_the_scores_of_a_fine_tuning_alone(tiny_encoder: Path, bitext: Path, tmp_path: Path) -> None:
    settings.claim(tmp_path / "xnli", {"task": "xnli", "setting": "transfer"})
    theirs = write(tmp_path / "xnli/results.json", "{}")
    with pytest.raises(InputError, match=r"other settings \(task: xnli -> tatoeba|other settings"):
        tatoeba.run(tiny_encoder, bitext, tmp_path / "xnli")
    assert theirs.read_text() == "{}"


# -- one set a language -------------------------------------------------------------------------------------------------


def squad(text: str) -> str:
    answer = {"text": text, "answer_start": 0}
    entry = {"id": "1", "question": "?", "answers": [answer]}
    return json.dumps({"data": [{"paragraphs": [{"context": text, "qas": [entry]}]}]})


@pytest.mark.parametrize(
    ("task", "content"), [(Xnli(), lambda word: ROWS), (Mlqa(), squad), (PawsX(), lambda word: f"{word}\tb\t0\n")]
)
@pytest.mark.parametrize("part", ["validation", "test"])
def test_two_sets_in_one_language_are_not_scored_as_one(
    task: Task[object], content: Callable[[str], str], part: str, tmp_path: Path
) -> None:
    files = {p: write(tmp_path / f"{p}.x", content("one")) for p in ("train", "validation", "test")}
    other = write(tmp_path / "other/set.x", content("two"))
    given = {p: f"en={path}" for p, path in files.items()}
    load(task, "transfer", FileOptions(tmp_path, given))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=rf"two {part} sets in en, whose scores would be mixed.*--{part}_files en=PATH"):
        load(task, "transfer", FileOptions(tmp_path, {**given, part: f"en={files['test']},en={other}"}))  # type: ignore[arg-type]


def test_two_sets_that_a_pattern_finds_are_not_scored_as_one(tmp_path: Path) -> None:
    for folder in ("MLQA", "copy"):
        write(tmp_path / folder / "test-context-de-question-de.json", squad(folder))
    write(tmp_path / "train-v1.1.json", squad("t"))
    write(tmp_path / "dev-v1.1.json", squad("d"))
    with pytest.raises(InputError, match="two test sets in de"):
        load(Mlqa(), "transfer", FileOptions(tmp_path, {}))


def test_several_files_to_train_on_are_put_together_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [write(tmp_path / f"{name}.tsv", ROWS) for name in ("a", "b", "dev", "test")]
    text = ",".join(f"en={path}" for path in paths[:2])
    assert [file.language for file in named(text, (), "--train_files")] == ["en", "en"]
    given = {"train": text, "validation": f"en={paths[2]}", "test": f"en={paths[3]}"}
    data = load(Xnli(), "transfer", FileOptions(tmp_path, given))  # type: ignore[arg-type]
    assert data.num_train == {"en": 6}
    assert "training files in en: 2 together" in capsys.readouterr().out


# -- the paper's test sets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["de", "en", "es", "fr", "zh"])
def test_the_dev_set_of_pawsx_is_known_under_any_name(language: str, real_data: Path, tmp_path: Path) -> None:
    """It has as many pairs as the test set."""
    path = tmp_path / f"test-{language}.tsv"
    path.write_bytes((real_data / f"pawsx/dev-{language}.tsv").read_bytes())
    assert PawsX().difference(PawsX().read(path, language), [path]) == f"PAWS-X's dev set in {language}"


def test_the_test_set_of_pawsx_is_taken_for_what_it_is(real_data: Path) -> None:
    path = real_data / "pawsx/original/test-de.tsv"
    pairs = PawsX().read(path, "de")
    assert len(pairs["de"]) == 2000
    assert PawsX().difference(pairs, [path]) is None
    assert PawsX().difference(pairs, [path.with_name("dev-de.tsv")]) == "dev files by name (dev-de.tsv)"


@pytest.mark.parametrize(
    ("files", "setting", "overrides", "message"),
    [
        (("train-en.tsv", "dev-en.tsv"), "en", (), "no test files of ner"),
        (("train-en.tsv", "dev-en.tsv", "test-de.tsv"), "fr", (), "--setting fr: expected one of en, all"),
        (("train-en.tsv", "dev-en.tsv", "test-de.tsv"), "en", ("epochs=0",), "epochs: 0"),
        (("train-en.tsv", "dev-en.tsv", "test-de.tsv"), "en", ("evaluate_every=999",), "expected at most"),
    ],
)
def test_a_check_refuses_what_a_run_would_without_the_encoder(
    tmp_path: Path, files: Sequence[str], setting: str, overrides: tuple[str, ...], message: str
) -> None:
    for name in files:
        (tmp_path / name).write_text("Paris\tB-LOC\nis\tO\n\nYes\tO\n")
    asked = Experiment(Ner(), setting, "nowhere", FileOptions(tmp_path, {}, False), tmp_path / "to", (1,), overrides)
    with pytest.raises(InputError, match=message):
        check(asked)
    assert not asked.to.exists()


@pytest.mark.parametrize("score_only", [False, True])
def test_a_check_knows_the_languages_that_the_answers_rules_lack(tmp_path: Path, score_only: bool) -> None:
    question = {"id": "1", "question": "Who?", "answers": [{"text": "Ana", "answer_start": 0}]}
    text = json.dumps({"data": [{"paragraphs": [{"context": "Ana sleeps.", "qas": [question]}]}]})
    for name in ("train-v1.1.json", "xquad.en.json", "xquad.el.json"):
        write(tmp_path / name, text)
    asked = Experiment(Mlqa(), "transfer", "nowhere", FileOptions(tmp_path, {}, False), tmp_path / "to", (1,))
    with pytest.raises(InputError, match="el"):
        check(replace(asked, score_only=score_only))
    check(replace(asked, score_only=score_only, overrides=("answer_rules=squad",)))


def test_a_check_of_scoring_alone_asks_for_test_files_alone(tmp_path: Path) -> None:
    (tmp_path / "test-de.tsv").write_text("Paris\tB-LOC\nis\tO\n\nYes\tO\n")
    asked = Experiment(Ner(), "en", "nowhere", FileOptions(tmp_path, {}, False), tmp_path / "to", (1,))
    check(replace(asked, score_only=True))
    with pytest.raises(InputError, match="no train files of ner"):
        check(asked)
