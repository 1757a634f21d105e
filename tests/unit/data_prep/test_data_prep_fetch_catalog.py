"""The catalogs of fetch: the one it writes beside the files, and the shipped one of ERNIE-M's data."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from test_data_prep_fetch_server import QUICK, Shop, get, named, stock

import data_prep
from data_prep import fetch as fetching
from data_prep.catalog import read_catalog, read_whole_catalog
from data_prep.connection import GaveUpError
from data_prep.fetch import OPUS_NAMES, catalog_file, cc100_listing, fetch, sources
from ernie_m.base.console import InputError

ERNIE_M = Path(data_prep.__file__).with_name("ernie_m_catalog.yaml")
ROMANISED = {"bn_rom", "hi_rom", "ta_rom", "te_rom", "ur_rom"}
BELOW_THE_96 = {"ff", "gn", "ig", "li", "ln", "ns", "qu", "rm", "sc", "ss", "wo", "yo", "zu"}
IN_PAIRS = {"ar", "bg", "de", "el", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh"}


OWN = "# mine\ncorpora:\n{0}- {{name: own, format: tsv, path: own.tsv, languages: [en, sw], held_out: 0}}  # a comment"


@pytest.mark.parametrize("indent", ["", "  ", "    "])
@pytest.mark.parametrize("end", ["", "\n", "\n\n# the end\n"])
def test_entries_are_added_to_a_users_catalog_which_stays_as_it_is(
    shop: Shop, tmp_path: Path, indent: str, end: str
) -> None:
    stock(shop, "/cc-100/sw.txt.xz")
    before = OWN.format(indent) + end
    (tmp_path / "catalog.yaml").write_text(before)
    get(shop, tmp_path, corpus="cc100", lang="sw")
    assert (tmp_path / "catalog.yaml").read_text().startswith(before)
    assert list(named(tmp_path)) == ["own", "cc100.sw"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["catalog.yaml", "cc100"]


def test_a_catalog_that_cannot_be_added_to_is_left_alone(tmp_path: Path) -> None:
    text = "corpora: [{name: own, format: cc100, path: own.txt, language: en}]\n"
    (tmp_path / "catalog.yaml").write_text(text)
    with pytest.raises(InputError, match=r"add by hand: - \{name: cc100\.sw, .*language: sw\}"):
        catalog_file.add(tmp_path / "catalog.yaml", [sources.cc100_files("sw")[0].entry])
    assert (tmp_path / "catalog.yaml").read_text() == text
    assert [file.name for file in tmp_path.iterdir()] == ["catalog.yaml"]


def test_a_file_under_another_name_is_not_named_again(shop: Shop, tmp_path: Path) -> None:
    stock(shop, "/cc-100/sw.txt.xz")
    text = "corpora:\n- {name: swahili, format: cc100, path: ./cc100/../cc100/sw.txt.xz, language: sw}\n"
    (tmp_path / "catalog.yaml").write_text(text)
    get(shop, tmp_path, corpus="cc100", lang="sw")
    assert (tmp_path / "catalog.yaml").read_text() == text


@pytest.mark.parametrize(
    "text", ["corpora:\n- {name: CC100.zh-hans, format: cc100, path: x, language: zh}\n", "corpora: 3\n"]
)
def test_a_catalog_in_the_way_is_said_before_the_download(shop: Shop, tmp_path: Path, text: str) -> None:
    stock(shop, "/cc-100/zh-Hans.txt.xz")
    (tmp_path / "catalog.yaml").write_text(text)
    with pytest.raises(InputError, match=r"the name cc100\.zh-Hans is taken|expected a list"):
        get(shop, tmp_path, corpus="cc100", lang="zh-Hans")
    assert shop.asked == []


def test_fetches_at_the_same_time_lose_no_entry(shop: Shop, tmp_path: Path) -> None:
    codes = ["sw", "am", "as", "br", "cy", "fy", "ga", "gd"]
    stock(shop, *(f"/cc-100/{code}.txt.xz" for code in codes))
    threads = [threading.Thread(target=get, args=(shop, tmp_path), kwargs={"corpus": "cc100", "lang": c}) for c in codes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(named(tmp_path)) == sorted(f"cc100.{code}" for code in codes)


# ---- the shipped catalog


def test_the_shipped_catalog_has_96_languages_and_14_pairs_with_english() -> None:
    corpora = read_catalog(ERNIE_M)
    mono = [corpus for corpus in corpora if len(corpus.languages) == 1]
    pairs = {corpus.languages for corpus in corpora if len(corpus.languages) == 2}
    assert len({corpus.languages[0] for corpus in mono}) == 96
    assert pairs == {("en", code) for code in IN_PAIRS}
    assert {code for pair in pairs for code in pair} <= {corpus.languages[0] for corpus in mono}
    assert {corpus.name for corpus in mono if corpus.languages == ("zh",)} == {"cc100.zh-Hans", "cc100.zh-Hant"}


def test_its_96_languages_are_those_that_its_head_says() -> None:
    """All of CC-100 but the second scripts that are left out and the 13 smallest."""
    codes = [corpus.files[0].name.removesuffix(".txt.xz") for corpus in read_catalog(ERNIE_M) if corpus.format == "cc100"]
    assert len(cc100_listing.SIZES) == 116
    assert set(codes) == set(cc100_listing.SIZES) - ROMANISED - {"my_zaw"} - BELOW_THE_96
    assert len(codes) == len(set(codes)) == 97
    assert max(cc100_listing.SIZES[code] for code in BELOW_THE_96) < min(cc100_listing.SIZES[code] for code in codes)
    assert f"{sum(cc100_listing.SIZES[code] for code in codes) / 2**30:.0f} GiB" in ERNIE_M.read_text(encoding="utf-8")


def test_every_entry_is_what_fetch_itself_would_write() -> None:
    lines = ERNIE_M.read_text(encoding="utf-8").splitlines()
    opus = {name.lower(): name for name in OPUS_NAMES}
    by_format = {"multiun": sources.multiun_file, "iitb": sources.iitb_file, "wikimatrix": sources.wikimatrix_file}
    for corpus in read_catalog(ERNIE_M):
        kind, path = corpus.format, corpus.files[0].relative_to(ERNIE_M.parent).as_posix()
        if kind == "cc100":
            entry = sources.cc100_files(corpus.name.removeprefix("cc100."))[0].entry
        elif kind == "moses":
            name = corpus.name.partition(".")[0]
            assert opus[name] == path.split("/")[1]
            assert path.endswith(f"/{'-'.join(sorted(corpus.languages))}.txt.zip")
            entry = sources.pair_entry(name, kind, corpus.languages, path)  # type: ignore[arg-type]
        else:
            entry = by_format[kind](*corpus.languages).entry
        assert f"  {catalog_file.line_of(entry)}" in lines
        assert sources.address_of(path) is not None
        assert kind != "wikimatrix" or set(corpus.languages) <= set(sources.WIKIMATRIX_LANGUAGES)


def test_the_shipped_catalog_is_fetched_by_language_and_a_lacking_file_stops_no_other(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stock(shop, "/cc-100/sw.txt.xz", "/OPUS-Tanzil/v1/moses/en-sw.txt.zip")
    stock(shop, "/laser/WikiMatrix/v1/WikiMatrix.en-sw.tsv.gz")
    with pytest.raises(InputError, match=r"1 of 4 files did not come.*OPUS-GlobalVoices/v2018q4/moses/en-sw\.txt\.zip"):
        get(shop, tmp_path, catalog="ernie_m", lang="sw")
    assert list(named(tmp_path)) == ["cc100.sw", "tanzil.en-sw", "wikimatrix.en-sw"]
    assert "[3/4]" in capsys.readouterr().err
    stock(shop, "/OPUS-GlobalVoices/v2018q4/moses/en-sw.txt.zip")
    get(shop, tmp_path, catalog="ernie_m", lang="sw")
    ours, theirs = read_catalog(tmp_path / "catalog.yaml"), {corpus.name: corpus for corpus in read_catalog(ERNIE_M)}
    assert len(ours) == 4
    for corpus in ours:
        expected = theirs[corpus.name]
        assert (corpus.format, corpus.languages, corpus.held_out) == (expected.format, expected.languages, expected.held_out)


def test_a_part_of_it_has_xnlis_languages_and_what_the_catalog_says_beside_its_corpora(shop: Shop, tmp_path: Path) -> None:
    stock(shop, "/cc-100/sw.txt.xz", "/OPUS-Tanzil/v1/moses/en-sw.txt.zip")
    stock(shop, "/laser/WikiMatrix/v1/WikiMatrix.en-sw.tsv.gz", "/OPUS-GlobalVoices/v2018q4/moses/en-sw.txt.zip")
    get(shop, tmp_path, catalog="ernie_m_15", lang="sw")
    written = read_whole_catalog(tmp_path / "catalog.yaml")
    assert [path.parent.name for path in written.exclude] == ["xnli", "conll", "mlqa", "pawsx", "tatoeba"]
    assert written.exclude == tuple(
        tmp_path / path.relative_to(ERNIE_M.parent) for path in read_whole_catalog(ERNIE_M).exclude
    )
    with pytest.raises(InputError, match=r"--lang br: .* has no such language"):
        get(shop, tmp_path, catalog="ernie_m_15", lang="br")
    chosen = [remote.entry for remote in fetching._of_catalog("ernie_m_15", [])[0]]
    whole = [remote.entry for remote in fetching._of_catalog("ernie_m", [])[0]]
    assert {code for entry in chosen for code in entry.get("languages", [entry.get("language")])} == {*IN_PAIRS, "en"}
    assert [entry for entry in whole if "languages" in entry] == [entry for entry in chosen if "languages" in entry]
    assert len([entry for entry in chosen if "language" in entry]) == 16


def test_a_users_catalog_keeps_its_own_keys(shop: Shop, tmp_path: Path) -> None:
    stock(shop, "/laser/WikiMatrix/v1/WikiMatrix.en-sw.tsv.gz")
    path = "wikimatrix/WikiMatrix.en-sw.tsv.gz"
    entry = f"{{name: w, format: wikimatrix, path: {path}, languages: [sw, en], threshold: 1.1, held_out: 0.2}}"
    (tmp_path / "my.yaml").write_text(f"corpora:\n- {entry}\n")
    get(shop, tmp_path / "raw", catalog=str(tmp_path / "my.yaml"))
    (corpus,) = read_catalog(tmp_path / "raw/catalog.yaml")
    assert (corpus.languages, corpus.threshold, corpus.held_out) == (("sw", "en"), 1.1, 0.2)
    (tmp_path / "my.yaml").write_text("corpora:\n- {name: w, format: tsv, path: own.tsv, languages: [sw, en]}\n")
    with pytest.raises(InputError, match=r"corpus w: fetch does not know own\.tsv, expected a path such as"):
        get(shop, tmp_path / "raw", catalog=str(tmp_path / "my.yaml"))


@pytest.mark.parametrize(("lang", "names"), [("en", ["cc100.en"]), ("hi", ["cc100.hi", "iitb.en-hi", "wikimatrix.en-hi"])])
def test_english_is_in_every_pair_and_brings_none(shop: Shop, tmp_path: Path, lang: str, names: list[str]) -> None:
    stock(shop, "/cc-100/en.txt.xz", "/cc-100/hi.txt.xz")
    stock(shop, "/iitb_parallel/iitb_corpus_download/parallel.tgz", "/laser/WikiMatrix/v1/WikiMatrix.en-hi.tsv.gz")
    get(shop, tmp_path, catalog="ernie_m", lang=lang)
    assert list(named(tmp_path)) == names


def test_a_server_that_is_gone_stops_no_other_either(shop: Shop, tmp_path: Path) -> None:
    stock(shop, "/cc-100/sw.txt.xz", "/cc-100/cy.txt.xz")
    shop.refusals = [503] * QUICK.tries
    with pytest.raises(InputError, match=r"1 of 2 files did not come.*sw\.txt\.xz: gave up"):
        get(shop, tmp_path, corpus="cc100", lang="sw,cy")
    assert list(named(tmp_path)) == ["cc100.cy"]
    shop.refusals = [503] * QUICK.tries
    with pytest.raises(GaveUpError):
        get(shop, tmp_path, corpus="cc100", lang="sw")


def test_the_disk_is_measured_for_all_files_before_the_first(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the published sizes; blown up here, so that no disk is large enough."""
    stock(shop, "/cc-100/sw.txt.xz", "/cc-100/cy.txt.xz")
    monkeypatch.setitem(cc100_listing.SIZES, "cy", 1 << 60)
    with pytest.raises(InputError, match="CC-100's files alone need about"):
        get(shop, tmp_path, corpus="cc100", lang="sw,cy")
    assert shop.asked == []
    get(shop, tmp_path, corpus="cc100", lang="sw")
    monkeypatch.setitem(cc100_listing.SIZES, "sw", 1 << 60)
    get(shop, tmp_path, corpus="cc100", lang="sw")  # what is whole needs no room


def test_a_mirror_that_is_none_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--mirror ftp://x: expected an address"):
        fetch(tmp_path / "raw", corpus="cc100", lang="sw", mirror="ftp://x")
    assert not (tmp_path / "raw").exists()
