"""The catalog is read strictly."""

from __future__ import annotations

from pathlib import Path

import pytest

import data_prep
from data_prep.catalog import FORMATS, read_catalog
from data_prep.filters import read_filters
from data_prep.near_duplicates import Near
from ernie_m.base.console import InputError

GOOD = {
    "cc100": "{name: a, format: cc100, path: en.txt.xz, language: en}",
    "moses": "{name: b, format: moses, source: a.de, target: a.en, languages: [de, en], held_out: 0}",
    "wikimatrix": "{name: c, format: wikimatrix, path: w.tsv.gz, languages: [en, fr], threshold: 1.1}",
}


def catalog(tmp_path: Path, *entries: str, head: str = "corpora:\n") -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(head + "".join(f"  - {entry}\n" for entry in entries), encoding="utf-8")
    return path


def test_the_example_shows_every_format() -> None:
    corpora = read_catalog(Path(data_prep.__file__).with_name("example_catalog.yaml"))
    assert {corpus.format for corpus in corpora} == set(FORMATS)
    by_name = {corpus.name: corpus for corpus in corpora}
    assert by_name["cc100.no"].languages == ("no",)
    assert dict(by_name["crawl.sw"].filters) == {**dict(read_filters("strict", 1, "")), "repeats": 0.5}
    assert by_name["crawl.sw"].deduplicate_near == Near()


@pytest.mark.parametrize("key", ["path", "exclude"])
def test_a_home_that_nobody_has_is_one_line(tmp_path: Path, key: str) -> None:
    path = "~nobody-of-this-name/a.txt"
    head = f"exclude: [{path}]\ncorpora:\n" if key == "exclude" else "corpora:\n"
    entry = GOOD["cc100"] if key == "exclude" else GOOD["cc100"].replace("en.txt.xz", path)
    with pytest.raises(InputError, match=r"~nobody-of-this-name/a\.txt: there is no home folder of ~nobody-of-this-name"):
        read_catalog(catalog(tmp_path, entry, head=head))


def test_values_defaults_and_relative_paths(tmp_path: Path) -> None:
    mono, moses, wiki = read_catalog(catalog(tmp_path, *GOOD.values()))
    assert (mono.languages, mono.files, mono.held_out) == (("en",), (tmp_path / "en.txt.xz",), 0.0)
    assert (moses.files, moses.held_out) == ((tmp_path / "a.de", tmp_path / "a.en"), 0.0)
    assert (wiki.languages, wiki.held_out, wiki.threshold) == (("en", "fr"), 0.005, 1.1)
    absolute = tmp_path / "elsewhere" / "x.txt"
    (corpus,) = read_catalog(catalog(tmp_path, f"{{name: a, format: cc100, path: {absolute}, language: en}}"))
    assert corpus.files == (absolute,)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{name: x, format: cc100, pth: a, language: en}", r"corpora\[0\] \(x\): unknown key `pth`, did you mean `path`\?"),
        ("{name: x, format: cc100, path: a, language: en, held_out: 2}", "held_out is 2, expected a number from 0"),
        ("{name: x, format: cc100, path: a, languages: [en, de]}", "unknown key `languages`, did you mean `language`"),
        ("{name: x, format: tsv, path: a, languages: [en, de], threshold: 1}", "unknown key `threshold`"),
        ("{name: x, format: mosses, path: a, languages: [en, de]}", "'mosses', did you mean `moses`"),
        ("{name: x, path: a, language: en}", "format is missing, expected one of cc100"),
        ("{format: cc100, path: a, language: en}", "name is missing"),
        ("{name: ../x, format: cc100, path: a, language: en}", r"name is '\.\./x'"),
        ("{name: x, format: cc100, language: en}", "has no file, expected the key path"),
        (
            "{name: x, format: moses, source: a, languages: [en, de]}",
            "has source, expected the key path or source and target",
        ),
        ("{name: x, format: moses, path: a, source: a, target: b, languages: [en, de]}", "has path and source and target"),
        ("{name: x, format: cc100, path: 7, language: en}", "path is 7"),
        ("{name: x, format: cc100, path: a, language: no}", 'write "no" in quotes'),
        ("{name: x, format: tsv, path: a, languages: [en, no]}", 'write "no" in quotes'),
        ("{name: x, format: cc100, path: a}", "language is missing"),
        ("{name: x, format: tsv, path: a, languages: [en]}", r"languages is \['en'\], expected two"),
        ("{name: x, format: tsv, path: a, languages: [en, en]}", "expected two different codes"),
        ("{name: x, format: tsv, path: a, languages: en}", "languages is 'en'"),
        ("{name: x, format: tsv, path: a, languages: [en, de], held_out: 5}", "held_out is 5, expected a number from 0"),
        ("{name: x, format: tsv, path: a, path: b, languages: [en, de]}", "the key `path` is given twice"),
        ("{name: x, format: cc100, path: a, language: en, deduplicate: Across}", "expected true or false or across"),
        ("just a text", "'just a text', expected a mapping"),
    ],
)
def test_mistakes_are_named_with_the_way_out(tmp_path: Path, entry: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_catalog(catalog(tmp_path, entry))
    assert str(tmp_path / "c.yaml") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_broken_catalog_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_catalog(tmp_path / "gone.yaml")
    for head, message in [
        ("corpora: [", "not a YAML file"),
        ("", "expected a mapping"),
        ("corpora: []", "expected a list"),
        ("corpra: []", "unknown key `corpra`, did you mean `corpora`"),
    ]:
        with pytest.raises(InputError, match=message) as error:
            read_catalog(catalog(tmp_path, head=head))
        assert "\n" not in str(error.value)


def test_names_that_share_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="given twice"):
        read_catalog(catalog(tmp_path, GOOD["cc100"], GOOD["cc100"].replace("name: a", "name: A")))


def test_spellings_of_a_language_are_one_language(tmp_path: Path) -> None:
    entries = [
        f"{{name: {n}, format: cc100, path: a, language: {c}}}"
        for n, c in zip("abcd", ["DE", "deu", "iw", "zh_cn"], strict=True)
    ]
    read = read_catalog(catalog(tmp_path, *entries, "{name: e, format: tsv, path: a, languages: [zh_tw, sr_Latn]}"))
    assert [corpus.languages for corpus in read] == [("de",), ("de",), ("he",), ("zh-CN",), ("zh-TW", "sr-Latn")]


@pytest.mark.parametrize("languages", ["[de, DEU]", "[iw, he]"])
def test_two_spellings_of_one_language_are_no_pair(tmp_path: Path, languages: str) -> None:
    with pytest.raises(InputError, match="expected two different codes"):
        read_catalog(catalog(tmp_path, f"{{name: x, format: tsv, path: a, languages: {languages}}}"))
