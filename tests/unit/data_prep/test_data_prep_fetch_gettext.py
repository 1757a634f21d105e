"""Messages of gettext's catalogs: what a catalog says, what of it is text, which packages, locales and splits are taken."""

from __future__ import annotations

import gettext
import io
import struct
import tracemalloc
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from debian_packages import add_package, chosen, needs_dpkg, with_apt

from data_prep.catalog import read_catalog
from data_prep.fetch import fetch, packages
from data_prep.fetch.gettext_messages.package_sets import DEFAULT_SET, PACKAGE_SETS
from data_prep.fetch.gettext_messages.wording import MOST_CHARACTERS, texts
from data_prep.fetch.mo_files import MAGIC, Message, messages
from data_prep.fetch.places.near_copies import NearCopies, words_of
from data_prep.fetch.places.splits import Splits
from ernie_m.base.console import InputError


def catalog_of(entries: dict[tuple[str, str], str], charset: str = "utf-8") -> bytes:
    """A catalog of (context, English) -> translation."""
    catalog, content = Catalog(locale="de", charset=charset), io.BytesIO()
    for (context, english), translation in entries.items():
        catalog.add(english, translation, context=context or None)
    write_mo(content, catalog)
    return content.getvalue()


def test_a_catalog_is_read_as_the_standard_library_reads_it_in_any_encoding_and_byte_order() -> None:
    catalog, content = Catalog(locale="de"), io.BytesIO()
    catalog.add("b", "Ü")
    catalog.add("a", "A", context="menu|x")
    catalog.add(("one file", "many files"), ("eine Datei", "viele Dateien"))
    catalog.add("nothing", "")
    write_mo(content, catalog)
    found = [*messages(content.getvalue())]
    assert found == [Message("", "b", "Ü"), Message("menu|x", "a", "A"), Message("", "one file", "eine Datei")]
    library = gettext.GNUTranslations(io.BytesIO(content.getvalue()))
    assert all(
        (library.pgettext(m.context, m.english) if m.context else library.gettext(m.english)) == m.translation
        for m in found[:2]
    )
    assert library.ngettext("one file", "many files", 1) == found[2].translation
    assert [m.translation for m in messages(catalog_of({("", "ue"): "ü"}, "iso-8859-1"))] == ["ü"]
    little = catalog_of({("c", "word"): "Wort"})
    words = 7 + 4 * int.from_bytes(little[8:12], "little")
    swapped = b"".join(little[4 * n : 4 * n + 4][::-1] for n in range(words)) + little[4 * words :]
    assert {little[:4], swapped[:4]} == {*MAGIC}
    assert [*messages(swapped)] == [*messages(little)] == [Message("c", "word", "Wort")]


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"<html>",
        catalog_of({("", "word"): "Wort"})[:-4],
        catalog_of({("", "w"): "W"}).replace(b"charset=utf-8", b"charset=nutf8"),
        catalog_of({("", "w"): "+2AA-"}).replace(b"charset=utf-8", b"charset=utf-7"),
        catalog_of({("", "w"): r"\ud800"}).replace(b"charset=utf-8", b"charset=unicode_escape"),
        catalog_of({("", "w"): "W"}).replace(b"charset=utf-8", b"charset=undefined"),
        catalog_of({("", "w"): "a" * 70}).replace(b"charset=utf-8", b"charset=idna"),
        catalog_of({("", "w"): "W"}).replace(b"charset=utf-8", b"charset=punycode"),
    ],
)
def test_what_is_no_catalog_is_told(broken: bytes) -> None:
    with pytest.raises(ValueError, match=r"^not a catalog of gettext"):
        [*messages(broken)]


def test_messages_that_share_their_text_are_refused_before_they_fill_the_memory() -> None:
    count, text = 2000, 1 << 16
    begin = 20 + 16 * count
    tables = b"".join(struct.pack("<2I", text - number, begin) for number in range(count))
    bomb = struct.pack("<5I", 0x950412DE, 0, count, 20, 20 + 8 * count) + 2 * tables + b"a" * text
    tracemalloc.start()
    with pytest.raises(ValueError, match="they share their text"):
        [*messages(bomb)]
    assert tracemalloc.get_traced_memory()[1] < 16 * len(bomb)
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("english", "translation", "expected"),
    [
        ("_Open the fi_le...", "_Datei öffnen ...", ("Open the file...", "Datei öffnen ...")),
        ("Do&n't  &ask\nR&D", "&Nicht fragen", ("Don't ask R&D", "Nicht fragen")),
        ("Open &quot;x&quot; &amp; close", "<öffnen> &amp; zu", None),
        ("<b>Open</b> &quot;x&quot;", "<b>Öffne</b> &quot;x&quot;", ('Open "x"', 'Öffne "x"')),
        ("Save &region", "Region &not", ("Save region", "Region not")),
        ("File(_F)", "ファイル(_F)", ("File", "ファイル")),
        ("Copy <file>", "Kopiere <datei>", None),
        ("Open %s", "Öffne %s", None),
        ("Open it", "Öffne {name}", None),
        ("print $HOME", "zeige $HOME", None),
        ("use --help now", "nimm --help", None),
        ("an e-mail - sent", "eine E-Mail - gesandt", ("an e-mail - sent", "eine E-Mail - gesandt")),
        ("set my_long_name or a_b", "setze my_long_name oder a_b", None),
        ("keyboard|Up", "Hoch", None),
        ("/File/New", "/Datei/Neu", None),
        ("translator-credits", "Jemand aus Bonn", None),
        ("a" * (MOST_CHARACTERS + 1), "b", None),
        ("_", "&", ("_", "&")),
        ("<br>", "<br>", None),
    ],
)
def test_marks_of_keys_go_and_what_is_filled_in_is_left_out(
    english: str, translation: str, expected: tuple[str, str] | None
) -> None:
    assert texts(Message("", english, translation)) == expected


def test_texts_of_a_program_are_held_out_one_by_one() -> None:
    reference = [("gedit", f"{a}{b} {b}{c} {c}{a}") for a in "abcdefgh" for b in "klmnopqr" for c in "stuvwxyz"]
    splits = Splits(reference, by_text=True)
    found = [splits.of("gedit", english) for _, english in reference]
    assert 0.03 < found.count("held_out") / len(found) < 0.07
    assert found == [splits.of("another", english) for _, english in reference], "whichever program says it"
    held_out = NearCopies(
        words_of(english) for (_, english), split in zip(reference, found, strict=True) if split == "held_out"
    )
    assert not any(
        held_out.has(words_of(english)) for (_, english), split in zip(reference, found, strict=True) if split == "train"
    )


WORDS = [f"{a}{b}{c}" for a in "bdfgklmn" for b in "aeiou" for c in "rst"]


def _messages_in(language: str, words: list[str]) -> dict[tuple[str, str], str]:
    return {
        ("menu" if n % 2 else "", f"_Open the {word} window"): f"{language} _{word} zo digor" for n, word in enumerate(words)
    }


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("apt")
    locale = "usr/share/locale/{}/LC_MESSAGES/{}.mo".format
    files = {
        locale("de", "gedit"): catalog_of(_messages_in("de", WORDS)),
        locale("br", "gedit"): catalog_of(_messages_in("br", WORDS[:60]) | {("noun", "Same words twice"): "br br br"}),
        locale("br_FR", "gedit"): catalog_of(_messages_in("region", WORDS)),
        locale("cy_GB", "gedit"): catalog_of(_messages_in("cy", WORDS) | {("verb", "Same words twice"): "cy cy cy"}),
        locale("gd", "gedit"): b"no catalog",
        locale("sr@latin", "gedit"): catalog_of(_messages_in("sr", WORDS)),
        locale("zh_TW", "gedit"): catalog_of(_messages_in("tw", WORDS)),
        locale("zh_CN", "gedit"): catalog_of(_messages_in("cn", WORDS)),
        "usr/share/doc/gedit/br/LC_MESSAGES.txt": b"no",
        locale("zh_TW", "traditional"): catalog_of(_messages_in("tw", [f"{word}x" for word in WORDS])),
    }
    add_package(folder, "gedit-common", files)
    add_package(
        folder,
        "mine",
        {"usr/lib/mine/locale/ga/LC_MESSAGES/mine.mo": catalog_of(_messages_in("ga", WORDS))},
    )
    return with_apt(folder)


def _read(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()


def _first_words(path: Path) -> set[tuple[str, ...]]:
    return {tuple(text.split()[0] for text in line.split("\t")) for line in _read(path)}


@needs_dpkg
def test_messages_of_the_packages_that_apt_has_become_pairs_text_and_held_out_pairs(
    distribution: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_all = len(PACKAGE_SETS[DEFAULT_SET])
    chosen(distribution, monkeypatch)
    fetch(tmp_path, "gettext", "EN-bre,cy,zh,zh_Hant,br-cy")
    assert f"1 of {in_all} packages of {DEFAULT_SET} are offered here\n" in capsys.readouterr().out
    folder = tmp_path / "gettext"
    train = [tuple(line.split("\t")) for line in _read(folder / "gettext.br-en.tsv")]
    apart = [*zip(*(_read(folder / f"held_out/gettext.br-en.{code}") for code in ("en", "br")), strict=True)]
    expected = [(f"Open the {word} window", f"br {word} zo digor") for word in WORDS[:60]]
    assert sorted(train + apart) == sorted([*expected, ("Same words twice", "br br br")])
    assert 0 < len(apart) < len(train)
    text = _read(folder / "gettext.en.txt")
    assert not {english for english, _ in apart} & {*text}
    assert _first_words(folder / "gettext.cy-en.tsv") == {("Open", "cy"), ("Same", "cy")}
    assert _first_words(folder / "gettext.en-zh.tsv") == {("Open", "cn")}
    assert _first_words(folder / "gettext.en-zh_Hant.tsv") == {("Open", "tw")}
    assert _first_words(folder / "gettext.br-cy.tsv") == {("br", "cy")}
    assert "Same words twice" in text
    assert "br br br\tcy cy cy" not in _read(folder / "gettext.br-cy.tsv"), "of two contexts"
    assert {corpus.name for corpus in read_catalog(tmp_path / "catalog.yaml")} >= {
        "gettext.br",
        "gettext.br-cy",
        "gettext.held-out.br-en",
    }

    before = {path.name: path.read_bytes() for path in (folder / "held_out").iterdir() if path.name.endswith((".br", ".en"))}
    fetch(tmp_path, "gettext", "br")
    assert all((folder / "held_out" / name).read_bytes() == content for name, content in before.items()), (
        "as with other languages"
    )
    capsys.readouterr()
    with pytest.raises(
        InputError,
        match=r"--lang gd: none of the packages has a message in it; they have br, br_FR, cy_GB, de, gd, zh_CN, zh_TW$",
    ):
        fetch(tmp_path, "gettext", "gd")
    assert "gedit in gd is passed over: not a catalog of gettext" in capsys.readouterr().err


@needs_dpkg
def test_a_package_that_is_here_is_read_again_when_apt_has_it_no_more_and_others_go_to_another_folder(
    distribution: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen(distribution, monkeypatch)
    fetch(tmp_path, "gettext", "cy", packages="mine,gedit-common")
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    for lang, others, said in (
        ("cy", "gedit-common", r"/gettext: its files are made of 2 packages, with mine, and these are 1; give another --to"),
        ("br", None, r"/gettext: its files are made of 2 packages, with mine, and these are 1; give another --to"),
    ):
        with pytest.raises(InputError, match=said):
            fetch(tmp_path, "gettext", lang, packages=others)
    monkeypatch.setenv("APT", str(tmp_path))
    fetch(tmp_path, "gettext", "cy", packages="gedit-common,mine")
    assert before == {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    (tmp_path / "gettext/packages.json").write_text("[3]")
    with pytest.raises(InputError, match=r"packages.json: expected a list of packages with their names; give another --to"):
        fetch(tmp_path, "gettext", "cy", packages="gedit-common,mine")


@needs_dpkg
def test_default_packages_that_are_here_are_counted_as_offered(
    distribution: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen(distribution, monkeypatch)
    fetch(tmp_path / "to", "gettext", "cy")
    monkeypatch.setenv("APT", str(tmp_path))
    fetch(tmp_path / "to", "gettext", "cy")
    assert packages.available("gedit-", tmp_path / "to/gettext/packages") == {"common"}


@needs_dpkg
def test_a_set_of_packages_is_read_beside_single_ones_and_says_how_many_of_it_there_are(
    distribution: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen(distribution, monkeypatch)
    monkeypatch.setitem(PACKAGE_SETS, "everyday", ("mine", "not-here"))
    fetch(tmp_path / "both", "gettext", "cy,ga", packages="everyday,gedit-common")
    assert "1 of 2 packages of everyday are offered here\n" in capsys.readouterr().out
    assert {*packages.recorded(tmp_path / "both/gettext")} == {"mine", "gedit-common"}
    fetch(tmp_path / "one", "gettext", "ga", packages="everyday")
    assert {*packages.recorded(tmp_path / "one/gettext")} == {"mine"}


def test_no_package_stands_in_a_set_twice() -> None:
    assert {*PACKAGE_SETS} >= {DEFAULT_SET, "everyday"}
    assert all(len({*names}) == len(names) > 20 for names in PACKAGE_SETS.values())


@needs_dpkg
def test_packages_of_ones_own_are_read_in_place_of_the_default_ones(
    distribution: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen(distribution, monkeypatch)
    fetch(tmp_path, "gettext", "ga", packages="mine")
    apart = len(_read(tmp_path / "gettext/held_out/gettext.en-ga.ga"))
    assert 0 < apart == len(WORDS) - len(_read(tmp_path / "gettext/gettext.en-ga.tsv")) < 20, "also without the reference"
    assert not [*(tmp_path / "gettext/packages").glob("gedit*")]
    monkeypatch.setenv("APT", str(tmp_path))
    with pytest.raises(InputError, match=r"--packages windows: apt offers none of its \d+ packages; .*`apt-get update`"):
        fetch(tmp_path, "gettext", "ga")
    monkeypatch.setenv("APT", str(distribution))
    with pytest.raises(
        InputError,
        match="--packages absent: apt offers no such package; expected a package of Debian or one of the sets windows, ",
    ):
        fetch(tmp_path, "gettext", "ga", packages="mine,absent")
    with pytest.raises(InputError, match="--packages mine: --corpus freedict takes none; its packages follow from --lang"):
        fetch(tmp_path, "freedict", "br-fr", packages="mine")
    with pytest.raises(InputError, match="--packages mine: expected with --corpus gettext alone"):
        fetch(tmp_path, "cc100", "br", packages="mine")
    with pytest.raises(
        InputError, match="--packages mine,: expected names with commas between them, such as gedit-common,vlc-l10n"
    ):
        fetch(tmp_path, "gettext", "br", packages="mine,")
