"""Text of LibreOffice's packages: what translates each other, what is held out, and that nothing of it crosses."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from debian_packages import add_package, chosen, needs_dpkg, with_apt

from data_prep.catalog import read_catalog
from data_prep.fetch import fetch, packages
from data_prep.fetch.libreoffice.help_pages import paragraphs
from data_prep.fetch.libreoffice.messages import messages
from data_prep.fetch.libreoffice.reading import add_messages
from data_prep.fetch.packages import Package
from data_prep.fetch.places.near_copies import LEAST, NearCopies, words_of
from data_prep.fetch.places.splits import Splits
from ernie_m.base.console import InputError, Progress

PAGES = 200
LETTERS = "abcdefghijklmnopqr"


def test_paragraphs_have_their_ids_and_the_words_of_one_system() -> None:
    html = (
        '<h1 id="hd_id1">Open &amp; save</h1><p>no id</p><p id="par_id2">Press <span id="s"><span id="MAC">Cmd</span>'
        '<span id="x">Ctrl</span></span> and\n <b>S</b>.</p><p id="par_id3"> </p><div id="par_id4">no block</div>'
    )
    assert paragraphs(html) == {"hd_id1": "Open & save", "par_id2": "Press Ctrl and S."}


def _catalog_of(language: str, entries: dict[tuple[str, str], str]) -> bytes:
    catalog, content = Catalog(locale=language), io.BytesIO()
    for (context, english), translation in entries.items():
        catalog.add(english, translation, context=context)
    write_mo(content, catalog)
    return content.getvalue()


def test_messages_lose_the_marks_of_their_keys_and_know_their_window() -> None:
    content = _catalog_of("de", {("about|title", "~About  _this"): "Ü~ber dies", ("STR_X", "snake_case"): "Schlange"})
    found = {(m.window, m.english, m.translation) for m in messages(content)}
    assert found == {("about", "About this", "Über dies"), ("STR_X", "snakecase", "Schlange")}


def test_near_copies_are_those_that_a_comparison_with_all_finds() -> None:
    rng = random.Random(0)
    texts, asked = ([tuple(rng.choice(LETTERS) for _ in range(rng.randint(1, 9))) for _ in range(400)] for _ in range(2))

    def by_all(text: tuple[str, ...]) -> bool:
        sets = [(set(text), set(other)) for other in texts]
        return any(len(one & other) >= LEAST * len(one | other) for one, other in sets)

    found = NearCopies(texts)
    expected = [by_all(text) for text in asked]
    assert [found.has(text) for text in asked] == expected
    assert 0.1 < sum(expected) / len(expected) < 0.9


def test_a_text_is_in_the_same_split_whatever_else_is_there() -> None:
    rng = random.Random(0)
    reference = [(f"help/{n % PAGES}", " ".join(2 * rng.choice(LETTERS) for _ in range(4))) for n in range(3 * PAGES)]
    splits = Splits(reference)
    held_out = [text for page, text in reference if splits.of(page, text) == "held_out"]
    train = [text for page, text in reference if splits.of(page, text) == "train"]
    assert held_out
    assert len(train) > 5 * len(held_out)
    near = NearCopies(map(words_of, held_out))
    assert not any(near.has(words_of(text)) for text in train)
    trained_page = next(page for page, text in reference if splits.of(page, text) == "train")
    copy = max(held_out, key=lambda text: len(set(text.split()))) + " nobody"
    assert splits.of(trained_page, copy) is None, "nearly held-out text, which the reference has not"
    assert splits.of(trained_page, "Something else that nobody said") == "train"


SENTENCES = {
    "en": "The %s word opens its own page.",
    "de": "Das Wort %s öffnet eine Seite.",
    "br": "Ar ger %s a zigor ur bajenn.",
}


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an apt that has four packages: its `apt-get` and `apt-cache` go before the real ones."""
    folder = tmp_path_factory.mktemp("apt")
    word = [f"{'abcdefghij'[n % 10]}{'klmnopqrst'[n // 10 % 10]}{'uvwxyz'[n // 100]}" for n in range(PAGES)]
    for language, suffix in (("en", "en-us"), ("de", "de")):
        pages = {
            f"usr/share/libreoffice/help/{suffix}/text/p{n}.html": f'<p id="par_1">{SENTENCES[language] % w}</p>'.encode()
            for n, w in enumerate(word)
        }
        add_package(folder, f"libreoffice-help-{suffix}", pages)
    for language in ("en-gb", "de", "br"):
        entries = {(f"w{n}|a", f"Window {w} says one thing"): f"{language} {w} lavar un dra" for n, w in enumerate(word)}
        path = f"usr/lib/libreoffice/program/resource/{language}/LC_MESSAGES/sw.mo"
        add_package(folder, f"libreoffice-l10n-{language}", {path: _catalog_of("de", entries)})
    return with_apt(folder)


@needs_dpkg
def test_pairs_text_and_held_out_pairs_come_with_a_catalog_and_do_not_cross(
    distribution: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen(distribution, monkeypatch)
    fetch(tmp_path, "libreoffice", "de,br")
    folder = tmp_path / "libreoffice"
    train = [line.split("\t") for line in (folder / "libreoffice.de-en.tsv").read_text(encoding="utf-8").splitlines()]
    held_out = (folder / "held_out" / "libreoffice.de-en.en").read_text(encoding="utf-8").splitlines()
    translations = (folder / "held_out" / "libreoffice.de-en.de").read_text(encoding="utf-8").splitlines()
    assert len(held_out) == len(translations) > 0
    both = [*zip(held_out, translations, strict=True), *map(tuple, train)]
    assert all(english.split()[1] == german.split()[2 if german.startswith("Das") else 1] for english, german in both)
    assert len(both) <= 16 + 2 * PAGES
    assert not set(held_out) & {english for english, _ in train}
    text = (folder / "libreoffice.en.txt").read_text(encoding="utf-8").splitlines()
    assert not set(held_out) & set(text)
    assert {"libreoffice.br-en", "libreoffice.held-out.br-en", "libreoffice.br"} <= {
        c.name for c in read_catalog(tmp_path / "catalog.yaml")
    }
    assert (folder / "held_out" / "libreoffice.br-de.br").read_text(encoding="utf-8"), "between languages other than English"

    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    fetch(tmp_path, "libreoffice", "de,br")
    assert before == {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}


@needs_dpkg
def test_a_language_without_a_package_and_a_machine_without_apt_are_told(
    distribution: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen(distribution, monkeypatch)
    with pytest.raises(
        InputError, match=r"--lang xx: Debian has no package libreoffice-l10n-xx; expected one of br, de, en-gb"
    ):
        fetch(tmp_path, "libreoffice", "xx")
    for wrong in ({"lang": None}, {"lang": "de", "mirror": "https://mirror.example.org"}):
        with pytest.raises(InputError, match=r"expected --lang, such as de,fr or de-fr, and neither --mirror nor --sha256"):
            fetch(tmp_path, "libreoffice", **wrong)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"--corpus libreoffice: apt-get is not here"):
        fetch(tmp_path, "libreoffice", "de")


@needs_dpkg
def test_a_broken_catalog_is_told_with_its_package(tmp_path: Path) -> None:
    path = "usr/lib/libreoffice/program/resource/de/LC_MESSAGES/sw.mo"
    add_package(tmp_path, "libreoffice-l10n-de", {path: _catalog_of("de", {("w|a", "One"): "Eins"})[:-3]})
    package = Package("libreoffice-l10n-de", "1:2", next(tmp_path.glob("*.deb")))
    with pytest.raises(
        InputError, match=r"/libreoffice-l10n-de_1%3a2_all.deb: sw.mo: not a catalog of gettext .*; remove it"
    ):
        add_messages({}, "de", package, Progress("reading", None, "pages"))


@needs_dpkg
def test_a_file_of_a_package_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "LARGEST_FILE", 1000)
    add_package(tmp_path, "some", {"usr/a": b"a" * 1000, "usr/b": b"b" * 1001})
    package = Package("some", "1:2", next(tmp_path.glob("*.deb")))
    assert [content for _, content in package.files("usr/a")] == [b"a" * 1000]
    with pytest.raises(InputError, match=r"/some_1%3a2_all.deb: ./usr/b has 1,001 bytes; expected 1,000 at most"):
        [*package.files("usr/b")]
