"""The right files are found, cut and read; what is missing is said with the way out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from ernie_m.base.console import InputError
from ernie_m.downstream.bitext_tuning import BitextTuning
from ernie_m.downstream.pawsx import PawsX
from ernie_m.downstream.task_files import PARTS, FileOptions, dev_part, find, load, load_test, named
from ernie_m.downstream.xnli import Xnli

ROWS = "a man sleeps\tnobody sleeps\tcontradiction\na man sleeps\ta man rests\tentailment\na man sleeps\the hums\tneutral\n"


def folder_of(to: Path, *names: str, content: str = ROWS) -> Path:
    for name in names:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (to / name).write_text(content, encoding="utf-8")
    return to


def test_a_placeholder_gives_the_language_and_different_ones_are_joined(tmp_path: Path) -> None:
    folder_of(tmp_path, "c-de-q-de.json", "c-de-q-en.json", "c-de-q-.json", "c-de-q-en.json.bak", "sub/c-de-q-en.json")
    found = find(tmp_path, ("none-{language}", "c-{context}-q-{question}.json"))
    assert [(file.path.name, file.language) for file in found] == [("c-de-q-de.json", "de"), ("c-de-q-en.json", "de-en")]


def test_the_same_placeholder_twice_means_the_same_language(tmp_path: Path) -> None:
    folder_of(tmp_path, "tatoeba.fra-eng.fra", "tatoeba.fra-eng.eng", "tatoeba.deu-eng.deu", "tatoeba.deu-eng.eng")
    assert [file.language for file in find(tmp_path, BitextTuning.patterns["test"])] == ["deu", "fra"]


def test_the_first_pattern_that_fits_anything_is_taken(tmp_path: Path) -> None:
    folder_of(tmp_path, "XNLI-1.0/xnli.dev.tsv", "dev-en.tsv", "dev-zh-Hans.tsv")
    found = find(tmp_path, Xnli.patterns["validation"])
    assert [file.language for file in found] == ["en", "zh-Hans"]
    (tmp_path / "dev-en.tsv").unlink()
    assert find(tmp_path, Xnli.patterns["validation"], "en")[0].path.name == "xnli.dev.tsv", "not that of another language"


def test_bitext_is_found_by_its_languages_whatever_stands_before_them(tmp_path: Path) -> None:
    folder_of(tmp_path, "train/fr-en.fr", "train/fr-en.en", "train/OPUS.de-en.de", "train/OPUS.de-en.en", "train/x/sw-en.sw")
    found = find(tmp_path, BitextTuning.patterns["train"])
    assert [(file.path.name, file.language) for file in found] == [("OPUS.de-en.de", "de-en"), ("fr-en.fr", "fr-en")]


@pytest.mark.parametrize("language", ["../../evil", "", "a b", "de/", "-de", "дe"])
def test_a_language_that_is_no_code_is_refused_for_it_names_files(tmp_path: Path, language: str) -> None:
    folder_of(tmp_path, "some.tsv")
    with pytest.raises(InputError, match=r"some\.tsv: language '.*'; expected a code such as de"):
        load_test(Xnli(), FileOptions(tmp_path, {"test": f"{language}={tmp_path}/some.tsv"}))
    content = f"language\tgold_label\tsentence1\tsentence2\n{language}\tneutral\ta\tb\n"
    folder_of(tmp_path, "xnli.test.tsv", content=content)
    with pytest.raises(InputError, match=r"xnli\.test\.tsv: language '.*'; expected a code such as de"):
        load_test(Xnli(), FileOptions(tmp_path, {}))


def test_named_files_take_their_language_from_the_option_or_the_name(tmp_path: Path) -> None:
    folder_of(tmp_path, "my.tsv", "de/dev_2k.tsv", "dev-fr.tsv")
    text = f"en={tmp_path}/my.tsv, {tmp_path}/de/dev_2k.tsv,{tmp_path}/dev-fr.tsv,{tmp_path}/my.tsv"
    files = named(text, PawsX.patterns["validation"], "--validation_files")
    assert [file.language for file in files] == ["en", "de", "fr", None]


def test_files_of_another_part_keep_the_language_that_their_name_says(tmp_path: Path) -> None:
    folder_of(tmp_path, "train-en.tsv", "dev-en.tsv", "dev-de.tsv", content=ROWS)
    data = load(Xnli(), "transfer", FileOptions(tmp_path, {"test": f"{tmp_path}/dev-de.tsv,{tmp_path}/dev-en.tsv"}))
    assert set(data.test) == {"de", "en"}


def test_transfer_trains_and_chooses_on_english_alone_and_tests_on_all(tmp_path: Path) -> None:
    names = [f"{part}-{language}.tsv" for part in ("train", "dev", "test") for language in ("en", "de")]
    folder = folder_of(tmp_path, *names)
    data = load(Xnli(), "transfer", FileOptions(folder, {}))
    assert data.num_train == {"en": 3}
    assert set(data.validation) == {"en"}
    assert list(data.test) == ["de", "en"]
    data = load(Xnli(), "translate-train-all", FileOptions(folder, {}))
    assert data.num_train == {"de": 3, "en": 3}
    assert set(data.validation) == {"de", "en"}


def test_cut_dev_files_share_no_example_and_put_translations_in_the_same_part(real_data: Path) -> None:
    data = load(Xnli(), "transfer", FileOptions(real_data / "xnli", {}, from_dev=True))
    assert set(data.test) == {"en", "fr", "sw", "zh"}
    sizes = Counter(train=len(data.train), validation=len(data.validation["en"]), test=len(data.test["en"]))
    assert sum(sizes.values()) == 2490
    assert abs(sizes["train"] / 2490 - 0.6) < 0.05
    premises = [{pair.first for pair in part} for part in (data.train, data.validation["en"], data.test["en"])]
    assert not premises[0] & premises[1]
    assert not premises[0] & premises[2]
    assert not premises[1] & premises[2]
    english = [line.split("\t") for line in (real_data / "xnli/dev-en.tsv").read_text("utf-8").split("\n")]
    chinese = [line.split("\t") for line in (real_data / "xnli/dev-zh.tsv").read_text("utf-8").split("\n")]
    translation = {tuple(a[:2]): tuple(b[:2]) for a, b in zip(english, chinese, strict=True)}
    assert [translation[pair[:2]] for pair in data.test["en"]] == [pair[:2] for pair in data.test["zh"]]


def test_the_cut_of_dev_files_never_changes() -> None:
    assert [dev_part(str(i)) for i in range(8)] == ["train", "train", "test", "train", "train", "test", "test", "train"]
    counts = Counter(dev_part(str(i)) for i in range(5000))
    assert [round(counts[part] / 5000, 1) for part in PARTS] == [0.6, 0.2, 0.2]


@pytest.mark.parametrize(
    ("setting", "files", "options", "expected"),
    [
        ("transfer", ["dev-en.tsv"], {}, "no train files of xnli for en; expected train-{language}.tsv or"),
        ("transfer", ["dev-en.tsv"], {"named": {"train": "x.tsv"}}, "--train_files: x.tsv: no such file"),
        ("transfer", ["dev-de.tsv"], {"from_dev": True}, "train examples in de; setting transfer needs en; name its file"),
        (
            "translate-train-all",
            ["dev-en.tsv"],
            {"from_dev": True},
            "training examples in en alone; expected several",
        ),
        (
            "transfer",
            ["dev-en.tsv"],
            {"from_dev": True, "named": {"test": "x"}},
            "--from_dev and --test_files: expected",
        ),
        ("transfer", ["train-en.tsv", "dev-en.tsv"], {}, "no test files of xnli; expected test-{language}.tsv or"),
    ],
)
def test_what_is_missing_is_said_with_the_way_out(
    setting: str, files: list[str], options: dict[str, object], expected: str, tmp_path: Path
) -> None:
    folder_of(tmp_path, *files, content=ROWS * 40)
    with pytest.raises(InputError) as caught:
        load(Xnli(), setting, FileOptions(tmp_path, **{"named": {}, **options}))  # type: ignore[arg-type]
    assert expected in str(caught.value)


def test_an_empty_file_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    folder_of(tmp_path, "dev-en.tsv", content="")
    with pytest.raises(InputError, match=r"dev-en\.tsv: no dev examples in en"):
        load(Xnli(), "transfer", FileOptions(tmp_path, {}, from_dev=True))
    with pytest.raises(InputError, match="nowhere: no such folder"):
        load(Xnli(), "transfer", FileOptions(tmp_path / "nowhere", {}))


def test_published_folders_are_found_as_they_are_unpacked(tmp_path: Path) -> None:
    folder_of(tmp_path, "x-final/en/train.tsv", "x-final/de/translated_train.tsv", "x-final/de/test_2k.tsv")
    folder_of(tmp_path, "XNLI-1.0/xnli.test.tsv", "XNLI-MT-1.0/multinli/multinli.train.ur.tsv")
    assert [file.language for file in find(tmp_path, PawsX.patterns["train"])] == ["de", "en"]
    assert [file.language for file in find(tmp_path, PawsX.patterns["test"])] == ["de"]
    assert [file.language for file in find(tmp_path, Xnli.patterns["train"])] == ["ur"]
    assert [file.language for file in find(tmp_path, Xnli.patterns["test"])] == [None]
