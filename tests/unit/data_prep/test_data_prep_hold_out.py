"""`hold-out`: pairs with English of any corpora, split so that no sentence crosses, in whichever language it stands."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from data_prep.catalog import read_catalog
from data_prep.fetch.places.near_copies import NearCopies, words_of
from data_prep.hold_out import hold_out
from ernie_m.base.console import InputError

SENTENCES = [f"{a}{b} {b}{c}u {c}o{a} {a}{c}" for a, b, c in product("bdfgklm", "aeiou", "nprstvz")]
ALMOST = [f"{sentence} {sentence.split()[0]}" for sentence in SENTENCES[::2]]
"""Other sentences of the same words: near copies."""


def catalog_of(folder: Path, more: str = "", **pairs: list[tuple[str, str]]) -> Path:
    """A catalog of pairs `xx_yy`, each a table; `more` stands in front of its corpora."""
    lines = [more, "corpora:"]
    for name, rows in pairs.items():
        (folder / f"{name}.tsv").write_text("".join(f"{first}\t{second}\n" for first, second in rows), encoding="utf-8")
        languages = name.replace("_", ", ")
        lines.append(f"  - {{name: {name}, format: tsv, path: {name}.tsv, languages: [{languages}]}}")
    (folder / "catalog.yaml").write_text("\n".join(lines) + "\n")
    return folder / "catalog.yaml"


def said(language: str, sentences: list[str]) -> list[str]:
    return [f"{language} {sentence.upper()}" for sentence in sentences]


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """English with German, in this order, French with English, and near copies of English sentences with Greek."""
    folder = tmp_path_factory.mktemp("split")
    catalog = catalog_of(
        folder,
        en_de=list(zip(SENTENCES, said("de", SENTENCES), strict=True)),
        fr_en=list(zip(said("fr", SENTENCES), SENTENCES, strict=True)),
        en_el=list(zip(ALMOST, said("el", ALMOST), strict=True)),
        de_fr=list(zip(said("de", SENTENCES), said("fr", SENTENCES), strict=True)),
    )
    hold_out(catalog, folder / "to", "few", False)
    return folder / "to"


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_nothing_like_a_held_out_sentence_is_trained_on_in_any_language(split: Path) -> None:
    held_out = NearCopies(words_of(text) for path in split.glob("few/held_out/*.en") for text in lines(path))
    tables = {path: [line.split("\t") for line in lines(path)] for path in split.glob("few/*.tsv")}
    assert {path.name for path in tables} == {"few.de-en.tsv", "few.en-fr.tsv", "few.el-en.tsv"}
    for rows in tables.values():
        assert len(rows) > 100
        assert not any(held_out.has(words_of(english)) for english, _ in rows)
    trained = {text for rows in tables.values() for row in rows for text in row}
    written = {text for path in split.glob("few/few.*.txt") for text in lines(path) if text}
    assert written == trained


def test_a_held_out_sentence_is_held_out_with_all_its_translations(split: Path) -> None:
    apart = {path.name: lines(path) for path in (split / "few/held_out").iterdir()}
    english = apart["few.de-en.en"]
    assert 3 <= len(english) < 0.1 * len(SENTENCES)
    assert apart["few.de-en.de"] == said("de", english)
    assert (apart["few.en-fr.en"], apart["few.en-fr.fr"]) == (english, said("fr", english))
    assert (apart["few.de-fr.de"], apart["few.de-fr.fr"]) == (said("de", english), said("fr", english))


def test_the_catalog_reads_what_was_written(split: Path) -> None:
    corpora = {corpus.name: corpus for corpus in read_catalog(split / "catalog.yaml")}
    assert corpora["few.held-out.en-fr"].held_out == 1
    assert corpora["few.en-fr"].languages == ("en", "fr")
    assert corpora["few.el"].languages == ("el",)
    assert not any("de-fr" in name for name in corpora), "no pair with English, passed over"


def test_the_first_translation_of_a_sentence_is_taken(tmp_path: Path) -> None:
    rows = [("one of all words", "eins"), ("one of all words", "zwei"), ("and two of them", "drei")]
    hold_out(catalog_of(tmp_path, en_de=rows), tmp_path / "to", "pairs", False)
    found = [*lines(tmp_path / "to/pairs/pairs.de-en.tsv")]
    assert [line.split("\t")[1] for line in found] == ["eins", "drei"]


def test_what_cannot_be_split_is_told_and_nothing_is_replaced(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"catalog\.yaml: no corpus of pairs with `en`"):
        hold_out(catalog_of(tmp_path, de_fr=[("eins", "un")]), tmp_path / "to", "pairs", False)
    catalog = catalog_of(tmp_path, en_de=[("one of all words", "eins")])
    with pytest.raises(InputError, match=r"--name \.\./x: expected letters, digits"):
        hold_out(catalog, tmp_path / "to", "../x", False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["catalog.yaml", "de_fr.tsv", "en_de.tsv"]
    hold_out(catalog, tmp_path / "to", "pairs", False)
    with pytest.raises(InputError, match=r"--to .*/to/pairs: exists and stays as it is"):
        hold_out(catalog_of(tmp_path, en_de=[("one of all words", "zwei")]), tmp_path / "to", "pairs", False)
    assert lines(tmp_path / "to/pairs/pairs.de-en.tsv") == ["one of all words\teins"]
    hold_out(catalog, tmp_path / "to", "pairs", True)
    assert lines(tmp_path / "to/pairs/pairs.de-en.tsv") == ["one of all words\tzwei"]


def test_english_of_any_region_is_english(tmp_path: Path) -> None:
    german, french = (list(zip(SENTENCES, said(code, SENTENCES), strict=True)) for code in ("de", "fr"))
    catalog = catalog_of(tmp_path, en_de=german, EN_fr=french)
    catalog.write_text(catalog.read_text().replace("[EN, fr]", "[EN_us, fr]"))
    hold_out(catalog, tmp_path / "to", "few", False)
    apart = tmp_path / "to/few/held_out"
    assert len(lines(apart / "few.en-fr.fr")) > 3
    assert lines(apart / "few.en-fr.en") == lines(apart / "few.de-en.en")
    assert lines(apart / "few.de-fr.de") == lines(apart / "few.de-en.de")


def test_what_a_catalog_holds_out_whole_is_not_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalog = catalog_of(tmp_path, en_de=[("one of all words", "eins")], en_fr=[("two of all words", "deux")])
    catalog.write_text(catalog.read_text().replace("[en, fr]", "[en, fr], held_out: 1"))
    hold_out(catalog, tmp_path / "to", "pairs", False)
    assert "en_fr: passed over, all of it is held out\n" in capsys.readouterr().out
    assert {path.name for path in tmp_path.glob("to/pairs/*.t*")} == {"pairs.de.txt", "pairs.en.txt", "pairs.de-en.tsv"}
    assert lines(tmp_path / "to/pairs/pairs.en.txt") == ["one of all words", ""]


def test_an_exclude_that_is_not_taken_over_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hold_out(catalog_of(tmp_path, "exclude: [eval/*]", en_de=[("one of all words", "eins")]), tmp_path / "to", "few", False)
    assert "catalog.yaml: `exclude` is not taken over; write it into" in capsys.readouterr().out


def test_a_split_does_not_stand_beside_the_pairs_it_is_made_of_nor_in_their_place(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, en_de=[("one of all words", "eins")])
    with pytest.raises(InputError, match=r"--to .*: its catalog\.yaml is --catalog and would name the pairs twice"):
        hold_out(catalog, tmp_path, "pairs", False)
    (tmp_path / "to/pairs").mkdir(parents=True)
    (tmp_path / "en_de.tsv").rename(tmp_path / "to/pairs/pairs.de-en.tsv")
    catalog.write_text(catalog.read_text().replace("en_de.tsv", "to/pairs/pairs.de-en.tsv"))
    with pytest.raises(InputError, match=r"en_de of .*catalog\.yaml lies in .*to/pairs; give another"):
        hold_out(catalog, tmp_path / "to", "pairs", True)
    assert lines(tmp_path / "to/pairs/pairs.de-en.tsv") == ["one of all words\teins"]


def test_a_new_split_does_not_leave_languages_of_an_old_one(tmp_path: Path) -> None:
    hold_out(catalog_of(tmp_path, en_de=[("one of all words", "eins")]), tmp_path / "to", "pairs", False)
    other = catalog_of(tmp_path, en_fr=[("one of all words", "un")])
    with pytest.raises(InputError, match=r"held_out/pairs\.de-en\.de is of other languages than en, fr"):
        hold_out(other, tmp_path / "to", "pairs", True)
    assert not (tmp_path / "to/pairs/pairs.en-fr.tsv").exists()
    hold_out(catalog_of(tmp_path, en_de=[("one", "eins")], en_fr=[("one", "un")]), tmp_path / "to", "pairs", True)


def test_a_name_for_which_there_is_no_room_is_told_before_anything_is_written(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, en_de=[("one of all words", "eins")])
    for name, told in (
        ("a" * 190, r"too long, .*held-out\.de-en; expected a shorter one"),
        ("catalog.yaml", "expected letters"),
    ):
        with pytest.raises(InputError, match=told):
            hold_out(catalog, tmp_path / "to", name, False)
    (tmp_path / "to").mkdir()
    taken = "corpora:\n  - {name: pairs.de, format: cc100, path: x.txt, language: de}\n"
    (tmp_path / "to/catalog.yaml").write_text(taken)
    with pytest.raises(InputError, match=r"the name pairs\.de is taken by"):
        hold_out(catalog, tmp_path / "to", "pairs", False)
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["catalog.yaml"]


def test_lines_that_are_no_pairs_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("one of all words", "eins"), ("two", "a\tb"), ("three", "")]
    hold_out(catalog_of(tmp_path, en_de=rows), tmp_path / "to", "pairs", False)
    assert "en_de: lines left out: 1 empty, 1 not 2 columns\n" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"corpus en_de: .*en_de\.tsv: no usable line \(2 not 2 columns\)"):
        hold_out(catalog_of(tmp_path, en_de=[("a", "b\tc"), ("d", "e\tf")]), tmp_path / "to", "others", False)
    assert not (tmp_path / "to/others").exists()


def test_a_file_without_a_line_is_not_named_in_the_catalog(tmp_path: Path) -> None:
    hold_out(catalog_of(tmp_path, en_de=[("two words", "zwei")]), tmp_path / "to", "pairs", False)
    assert [corpus.name for corpus in read_catalog(tmp_path / "to/catalog.yaml")] == ["pairs.de", "pairs.en"]
