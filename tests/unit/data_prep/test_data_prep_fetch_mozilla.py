"""Strings of Mozilla's language packs: what is text, and what stands at one place in two languages."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_prep.catalog import read_catalog
from data_prep.fetch import fetch, packages
from data_prep.fetch.mozilla import PACK, _suffix
from data_prep.fetch.mozilla.strings import fluent, properties
from ernie_m.base.console import InputError

FLUENT = """\
# a comment
-brand-name = Firefox
close = Close <strong>this</strong> window &amp; go
    .accesskey = C
    .label = Shut
long =
    A text that goes on

    in another line
after = { -brand-short-name } by { -vendor-short-name }
count = { $n ->
    [one] a tab
   *[other] { $n } tabs
}
name = Hello { $name }
last = The end
"""
PROPERTIES = "# no\nopen=&Open the fi&le\nlong = one \\\n   two\nfile = no %S here\numlaut : \\u00fcber\\ alles\nrd=R&D\n"


def test_messages_and_attributes_are_texts_and_what_is_filled_in_is_left_out() -> None:
    assert fluent(FLUENT, "Firefox") == {
        "close": "Close this window & go",
        "close.label": "Shut",
        "long": "A text that goes on in another line",
        "after": "Firefox by Mozilla",
        "last": "The end",
    }
    found = properties(PROPERTIES, "Firefox")
    assert found == {"open": "Open the file", "long": "one two", "umlaut": "über alles", "rd": "R&D"}


@pytest.mark.parametrize(
    ("language", "suffix"),
    [("br", "br"), ("es", "es-es"), ("sv", "sv-se"), ("zh", "zh-cn"), ("zh_Hant", "zh-tw"), ("en", "en-gb"), ("xx", None)],
)
def test_a_language_is_found_under_its_code_or_that_of_a_region(language: str, suffix: str | None) -> None:
    known = ["br", "es-ar", "es-es", "es-mx", "sv-se", "zh-cn", "zh-tw", "en-gb", "en-ca"]
    assert _suffix(language, known) == suffix


def pack(locale: str, texts: dict[str, str]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, text in texts.items():
            file.writestr(f"browser/localization/{locale}/{name}.ftl", text)
    return content.getvalue()


WORDS = [f"{a}{b}{c}" for a in "abcdefgh" for b in "klmno" for c in "uvwxyz"]
PACKS = {
    "en-gb": pack(
        "en-GB", {f"f{n}": f"a = The {word} word opens its page\nb = Only English {word}" for n, word in enumerate(WORDS)}
    ),
    "br": pack("br", {f"f{n}": f"a = Ar ger {word} a zigor\nz = netra" for n, word in enumerate(WORDS)}),
}


@pytest.fixture
def distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages of one program in two languages, already read; Debian's tools are tested with LibreOffice."""

    class Read(packages.Package):
        def files(self, pattern: str) -> Iterator[tuple[re.Match[str], bytes]]:
            assert pattern == PACK
            suffix = self.name.removeprefix("firefox-esr-l10n-")
            name = (
                f"usr/lib/firefox-esr/browser/extensions/langpack-{suffix.replace('gb', 'GB')}@firefox-esr.mozilla.org.xpi"
            )
            found = re.fullmatch(pattern, name)
            assert found
            yield found, PACKS[suffix]

        def told(self) -> dict[str, str]:
            return {"name": self.name}

    def available(prefix: str, folder: Path) -> set[str]:
        return set(PACKS) if prefix.startswith("firefox") else set()

    def bring(names: list[str], folder: Path) -> list[Any]:
        folder.mkdir(parents=True)
        return [Read(name, "1", folder / name) for name in names]

    monkeypatch.setattr(packages, "require_apt", lambda corpus: None)
    monkeypatch.setattr(packages, "available", available)
    monkeypatch.setattr(packages, "bring", bring)


@pytest.mark.usefixtures("distribution")
def test_strings_with_one_id_are_pairs_and_whole_files_are_held_out(tmp_path: Path) -> None:
    fetch(tmp_path, "mozilla", "br")
    trained = (tmp_path / "mozilla/mozilla.br-en.tsv").read_text("utf-8").splitlines()
    apart = (tmp_path / "mozilla/held_out/mozilla.br-en.br").read_text("utf-8").splitlines()
    assert all(re.fullmatch(r"The (\w+) word opens its page\tAr ger \1 a zigor", line) for line in trained)
    assert all(re.fullmatch(r"Ar ger \w+ a zigor", line) for line in apart)
    assert not {line.split()[2] for line in apart} & {line.split("\t")[1].split()[2] for line in trained}
    assert {entry.name for entry in read_catalog(tmp_path / "catalog.yaml")} >= {"mozilla.br", "mozilla.en", "mozilla.br-en"}
    with pytest.raises(InputError, match="--lang xx: Debian has no package firefox-esr-l10n-xx; expected one of br, en-gb"):
        fetch(tmp_path, "mozilla", "xx")


@pytest.mark.usefixtures("distribution")
def test_a_damaged_pack_is_named_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = PACKS["br"]
    place = whole.index(b"Ar ger")
    for damaged in (whole[:-100], whole[:place] + b"!" + whole[place + 1 :]):
        monkeypatch.setitem(PACKS, "br", damaged)
        with pytest.raises(InputError, match=r"firefox-esr-l10n-br: not a whole language pack .*remove it and give"):
            fetch(tmp_path / str(len(damaged)), "mozilla", "br")
        assert not (tmp_path / str(len(damaged)) / "catalog.yaml").exists()
