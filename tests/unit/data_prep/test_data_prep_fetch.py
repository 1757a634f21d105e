"""What `fetch` makes of a corpus and its languages, and what it says when there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_data_prep_fetch_server import Shop, get, named, stock

from data_prep.catalog import read_catalog
from data_prep.connection import NotFoundError
from ernie_m.base.console import InputError

OPUS_LANGUAGES = ["de", "en", "fr", "sr_Latn", "zh_cn", "zh_tw"]


def opus_has(shop: Shop, corpus: str, source: str, target: str, urls: list[str]) -> None:
    """OPUS's interface lists these files for a pair in this order, and none for the other order."""
    for pair, listed in [((source, target), urls), ((target, source), [])]:
        query = {"corpus": corpus, "source": pair[0], "target": pair[1], "preprocessing": "moses", "version": "latest"}
        items = [{"corpus": corpus, "latest": "True", "size": 1, "alignment_pairs": 9, "url": url} for url in listed]
        shop.answers[tuple(sorted(query.items()))] = json.dumps({"corpora": items}).encode()
    query = {"corpus": corpus, "languages": "True"}
    shop.answers[tuple(sorted(query.items()))] = json.dumps({"languages": OPUS_LANGUAGES}).encode()
    shop.answers[("corpora", "True"),] = json.dumps({"corpora": ["Tatoeba", "Tanzil"]}).encode()


def test_cc100_of_several_languages_is_fetched_and_named(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stock(shop, "/cc-100/sw.txt.xz", "/cc-100/no.txt.xz", "/cc-100/my_zaw.txt.xz")
    get(shop, tmp_path / "raw", corpus="cc100", lang="sw,no, my_zaw")
    assert named(tmp_path / "raw") == {
        "cc100.sw": (("sw",), "cc100/sw.txt.xz"),
        "cc100.no": (("no",), "cc100/no.txt.xz"),  # quoted: a bare no is false
        "cc100.my_zaw": (("my-Qaag",), "cc100/my_zaw.txt.xz"),
    }
    assert (tmp_path / "raw/cc100/sw.txt.xz").read_bytes() == shop.files["/cc-100/sw.txt.xz"]
    out = capsys.readouterr().out
    assert "catalog.yaml: - {name: cc100.sw, format: cc100, path: cc100/sw.txt.xz, language: sw}" in out
    assert out.count("fetched and whole, 1,017 bytes") == 2
    before, asked = (tmp_path / "raw/catalog.yaml").read_bytes(), len(shop.asked)
    get(shop, tmp_path / "raw", corpus="cc100", lang="sw")
    assert capsys.readouterr().out.count("already whole") == 1
    assert len(shop.asked) == asked
    assert (tmp_path / "raw/catalog.yaml").read_bytes() == before, "nothing may be named twice"


def test_chinese_is_one_language_whatever_the_corpus(shop: Shop, tmp_path: Path) -> None:
    stock(shop, "/cc-100/zh-Hans.txt.xz", "/cc-100/zh-Hant.txt.xz", "/OPUS-MultiUN/v1/moses/en-zh.txt.zip")
    stock(shop, "/OPUS-Tatoeba/v2/moses/en-zh_cn.txt.zip")
    opus_has(shop, "Tatoeba", "en", "zh_cn", ["https://object.pouta.csc.fi/OPUS-Tatoeba/v2/moses/en-zh_cn.txt.zip"])
    get(shop, tmp_path, corpus="cc100", lang="zh")
    get(shop, tmp_path, corpus="multiun", lang="zh")
    get(shop, tmp_path, corpus="tatoeba", lang="zh_cn")
    assert named(tmp_path) == {
        "cc100.zh-Hans": (("zh",), "cc100/zh-Hans.txt.xz"),
        "cc100.zh-Hant": (("zh",), "cc100/zh-Hant.txt.xz"),
        "multiun.en-zh": (("en", "zh"), "opus/MultiUN/v1/en-zh.txt.zip"),
        "tatoeba.en-zh_cn": (("en", "zh"), "opus/Tatoeba/v2/en-zh_cn.txt.zip"),
    }


def test_a_script_stays_in_the_catalog(shop: Shop, tmp_path: Path) -> None:
    stock(shop, "/OPUS-Tatoeba/v2/moses/en-sr_Latn.txt.zip")
    url = "https://object.pouta.csc.fi/OPUS-Tatoeba/v2/moses/en-sr_Latn.txt.zip"
    opus_has(shop, "Tatoeba", "en", "sr_Latn", [url])
    get(shop, tmp_path, corpus="tatoeba", lang="en-sr_Latn")
    assert named(tmp_path) == {"tatoeba.en-sr_Latn": (("en", "sr-Latn"), "opus/Tatoeba/v2/en-sr_Latn.txt.zip")}


@pytest.mark.parametrize("lang", ["de-en", "en-de", "de"])
def test_a_pair_may_be_given_in_either_order_and_keeps_it(shop: Shop, tmp_path: Path, lang: str) -> None:
    """Files have one order, the catalog has the user's."""
    stock(shop, "/laser/WikiMatrix/v1/WikiMatrix.de-en.tsv.gz", "/OPUS-Tatoeba/v2023-04-12/moses/de-en.txt.zip")
    host = "https://object.pouta.csc.fi/OPUS-Tatoeba/v2023-04-12/moses"
    opus_has(shop, "Tatoeba", "de", "en", [*[f"{host}/de-en.strict.txt.zip"] * 1000, f"{host}/de-en.txt.zip"])
    get(shop, tmp_path, corpus="wikimatrix", lang=lang)
    get(shop, tmp_path, corpus="Tatoeba", lang=lang)
    languages = ("de", "en") if lang == "de-en" else ("en", "de")
    assert named(tmp_path) == {
        f"wikimatrix.{'-'.join(languages)}": (languages, "wikimatrix/WikiMatrix.de-en.tsv.gz"),
        f"tatoeba.{'-'.join(languages)}": (languages, "opus/Tatoeba/v2023-04-12/de-en.txt.zip"),
    }


def test_iitb_needs_no_language(shop: Shop, tmp_path: Path) -> None:
    stock(shop, "/iitb_parallel/iitb_corpus_download/parallel.tgz")
    get(shop, tmp_path, corpus="iitb")
    assert named(tmp_path) == {"iitb.en-hi": (("en", "hi"), "iitb/parallel.tgz")}
    assert read_catalog(tmp_path / "catalog.yaml")[0].format == "iitb"


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"corpus": "cc100", "lang": "swz"}, r"--lang swz: CC-100 has no file swz\.txt\.xz, did you mean `sw`\?"),
        ({"corpus": "cc100", "lang": "swahili"}, "did you mean `sw`"),
        ({"corpus": "cc100", "lang": "en,qqqq"}, "expected one of af am ar"),
        ({"corpus": "cc100", "lang": "sw,,am"}, "expected codes with commas"),
        ({"corpus": "cc100"}, "--lang is missing"),
        ({"corpus": "cc10", "lang": "sw"}, "--corpus cc10: not known, did you mean `cc100`"),
        ({"corpus": "tatoba", "lang": "de"}, "did you mean `tatoeba`"),
        ({"corpus": "opus/../x", "lang": "de"}, "not known"),
        ({"corpus": "wikimatrix", "lang": "en"}, "--lang en: expected a pair such as de-en"),
        ({"corpus": "wikimatrix", "lang": "a-b-c"}, "--lang a-b-c: expected a pair"),
        ({"corpus": "iitb", "lang": "de"}, "IIT Bombay's corpus has en-hi alone"),
        ({"corpus": "cc100", "lang": "sw", "catalog": "ernie_m"}, "expected one of --corpus .* and --catalog"),
        ({}, "expected one of --corpus"),
        ({"catalog": "ernie"}, "--catalog ernie: not shipped; expected ernie_m, ernie_m_15"),
        ({"catalog": "gone.yaml"}, "gone.yaml: no such file"),
        ({"catalog": "ernie_m", "lang": "swz"}, "--lang swz: .* has no such language, did you mean `sw`"),
        ({"corpus": "cc100", "lang": "sw,am", "sha256": "0" * 64}, "and one file; these are 2 files"),
        ({"corpus": "cc100", "lang": "sw", "sha256": "12ab"}, "expected 64 hexadecimal digits"),
    ],
)
def test_mistakes_are_named_before_anything_is_asked_or_made(
    shop: Shop, tmp_path: Path, what: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        get(shop, tmp_path / "raw", **what)
    assert "\n" not in str(error.value)
    assert shop.asked == []
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize(
    ("corpus", "lang", "message"),
    [
        ("wikimatrix", "swa", r"no such file \(404\); WikiMatrix has no language `swa`, did you mean `sw`\?"),
        ("wikimatrix", "th", r"WikiMatrix has no language `th`, did you mean `"),
        ("wikimatrix", "sw-is", "WikiMatrix has both languages, but not this pair"),
        ("multiun", "zhs", "MultiUN has no language `zhs`, did you mean `zh`"),
        ("cc100", "sw", r"cc-100/sw\.txt\.xz: the server has no such file \(404\); look at its page"),
    ],
)
def test_a_404_names_the_nearest_language(shop: Shop, tmp_path: Path, corpus: str, lang: str, message: str) -> None:
    with pytest.raises(NotFoundError, match=message):
        get(shop, tmp_path, corpus=corpus, lang=lang)
    assert not (tmp_path / "catalog.yaml").exists()


def test_opus_says_what_it_has_instead(shop: Shop, tmp_path: Path) -> None:
    opus_has(shop, "Tatoeba", "de", "en", [])
    opus_has(shop, "Tatoeba", "en", "zh", [])
    opus_has(shop, "Tatoba", "de", "en", [])
    shop.answers[tuple(sorted({"corpus": "Tatoba", "languages": "True"}.items()))] = b'{"languages": []}'
    for corpus, lang, message in [
        ("Tatoeba", "zh", "no language `zh`, did you mean `zh_"),
        ("Tatoeba", "de", "has both languages, but no file of this pair"),
        ("opus/Tatoba", "de", "OPUS has no corpus Tatoba, did you mean `Tatoeba`"),
    ]:
        with pytest.raises(InputError, match=message):
            get(shop, tmp_path, corpus=corpus, lang=lang)


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"corpora": 3}', b""])
def test_another_answer_than_opuss_is_one_clear_line(shop: Shop, tmp_path: Path, answer: bytes) -> None:
    opus_has(shop, "Tatoeba", "en", "de", [])
    shop.answers = dict.fromkeys(shop.answers, answer)
    with pytest.raises(InputError, match=r"opusapi/\?corpus=Tatoeba.*: the answer"):
        get(shop, tmp_path, corpus="Tatoeba", lang="de")


@pytest.mark.parametrize(
    "url",
    [
        "file:///OPUS-Tatoeba/v1/moses/de-en.txt.zip",
        "https://h/OPUS-Tatoeba/../moses/de-en.txt.zip",
        "https://h/OPUS-Tatöba/v1/moses/de-en.txt.zip",
        None,
    ],
)
def test_a_strange_address_of_opus_is_not_followed(shop: Shop, tmp_path: Path, url: str | None) -> None:
    opus_has(shop, "Tatoeba", "en", "de", [url])  # type: ignore[list-item]
    with pytest.raises(InputError, match="no file of this pair"):
        get(shop, tmp_path, corpus="Tatoeba", lang="de")
    assert all("opusapi" in path for path, _ in shop.asked)


def test_a_busy_interface_of_opus_is_asked_again(shop: Shop, tmp_path: Path) -> None:
    stock(shop, "/OPUS-Tatoeba/v1/moses/de-en.txt.zip")
    opus_has(shop, "Tatoeba", "de", "en", ["https://h/OPUS-Tatoeba/v1/moses/de-en.txt.zip"])
    shop.refusals = [503, 502]
    get(shop, tmp_path, corpus="Tatoeba", lang="de-en")
    assert list(named(tmp_path)) == ["tatoeba.de-en"]
