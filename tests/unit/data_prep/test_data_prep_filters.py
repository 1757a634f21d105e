"""Filters of the catalog: what each leaves out and keeps, at its borders; and what a catalog may say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prep_samples import contents, rows_of

from data_prep import filters
from data_prep.build import Options, build
from data_prep.catalog import read_catalog
from data_prep.clean import clean
from data_prep.filters import FILTERS, faults, language, read_filters
from data_prep.filters.measures import FEWEST_LETTERS, repeated_share
from data_prep.filters.stretch import Stretch
from data_prep.workers import Ranks
from ernie_m.base.console import InputError
from ernie_m.corpus.folder import Manifest

ENGLISH = "The house stands on a small hill behind the old church."
GERMAN = "Das Haus steht auf einem kleinen Hügel hinter der alten Kirche."
SWAHILI = "Nyumba hiyo iko juu ya kilima kidogo nyuma ya kanisa la zamani."


def left_out(
    name: str, limit: float, *sides: list[str], languages: str = "en de", documents: list[int] | None = None
) -> Any:
    """Indices of the lines that one filter leaves out."""
    count = len(sides[0])
    stretch = Stretch(sides, languages.split()[: len(sides)], np.array(documents or [1] * count))
    ((_, is_faulty),) = faults(stretch, ((name, limit),))
    return np.flatnonzero(is_faulty).tolist()


@pytest.mark.parametrize(
    ("name", "limit", "kept", "gone", "code"),
    [
        ("script", 0.5, ["ab..", "naïve", "a b c 123"], ["ab...", "42", "абв", "12:30, 5"], "en"),
        ("script", 0.5, ["абв", "русский Windows"], ["abc", "猫"], "ru"),
        ("script", 0.5, ["猫が好き", "カタカナ", "ひらがな OK"], ["neko ga", "кошка"], "ja"),
        ("script", 0.5, ["abc", "абв"], ["猫"], "sr"),
        ("script", 0.5, ["абв"], ["abc"], "sr-Cyrl"),
        ("script", 0.5, ["กิน้ำ"], ["kin"], "th"),
        ("script", 0.5, ["anything", "абв"], [], "qaa"),
        (
            "markup",
            0.2,
            [f"{ENGLISH} www.a.de", "a < b & c > d", "2 * 3"],
            ["see https://example.org/page", "<p>text</p>"],
            "en",
        ),
        ("markup", 0.2, ["write to us"], ["me@example.org", "&nbsp;&nbsp;x", "{{Infobox}}", "a || b || c"], "en"),
        ("repeats", 0.3, [ENGLISH, "no no no no"], ["buy it now " * 6, "买" * 50, "点击这里查看" * 10], "en"),
        ("copies", 1, ["a", "b"], ["a", "b"], "en"),
        ("copies", 2, ["a", "a"], ["a", "a"], "en"),
    ],
)
def test_each_filter_of_text_leaves_out_what_is_beyond_its_limit(
    name: str, limit: float, kept: list[str], gone: list[str], code: str
) -> None:
    found = left_out(name, limit, [*kept, *gone], languages=code)
    assert found == list(range(len(kept), len(kept) + len(gone)))


def test_copies_are_counted_document_by_document() -> None:
    assert left_out("copies", 1, ["a", "a", "a", "b", "a"], documents=[1, 1, 2, 2, 2]) == [1, 4]


@pytest.mark.parametrize(
    ("name", "limit", "pairs", "found"),
    [
        ("identical", 1, [("Paris 1.", "paris"), ("a", "b"), ("ABC", "abc!"), ("12", "13")], [0, 2, 3]),
        ("length_ratio", 2.0, [("abc", "abcdef"), ("abc", "abcdefg"), ("abcdefg", "abc")], [1, 2]),
        ("length_ratio", 2.0, [("猫坐在", "the cat sits there"), ("猫坐", "the cat sits there")], [1]),
        ("script", 0.5, [("good", "gut"), ("good", "42"), ("42", "gut")], [1, 2]),
    ],
)
def test_a_pair_is_left_out_as_a_whole(name: str, limit: float, pairs: list[tuple[str, str]], found: list[int]) -> None:
    source, target = map(list, zip(*pairs, strict=True))
    assert left_out(name, limit, source, target) == found


def test_the_share_of_repeats_counts_runs_of_words_and_of_letters_where_there_are_none() -> None:
    words = " ".join(f"word{number}" for number in range(12))
    assert repeated_share(words) == 0.0
    assert repeated_share(f"{words} {words}") == pytest.approx(
        10 / 22
    )  # 22 runs of 3 words, the last 10 for the second time
    letters = "".join(map(chr, range(0x4E00, 0x4E00 + 20)))
    assert repeated_share(letters * 2) == pytest.approx(13 / 33)
    for least in (0.1, 0.4, 0.5):  # a text that is passed over is never one above the limit
        text = f"{words} {words}"
        assert (repeated_share(text, least) > least) == (repeated_share(text) > least)


@pytest.mark.parametrize("seed", range(3))
def test_what_arrays_pass_over_no_filter_would_have_left_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    alphabet = ["a", "b", "猫", " ", " ", "\u3000", "\x1f", "\x85"]
    texts = ["".join(rng.choice(alphabet, size=rng.integers(0, 120))) for _ in range(300)]
    texts = [*texts, "", "", *(text for text in texts if rng.random() < 0.3), ""]
    documents = np.sort(rng.integers(0, 4, len(texts)))
    stretch = Stretch([texts], ["en"], documents)
    (side,) = stretch.characters
    assert side.words.tolist() == [len(text.split()) for text in texts]
    assert side.sums(side.are_spaces).tolist() == [sum(map(str.isspace, text)) for text in texts]
    repeated = [len(text) >= FEWEST_LETTERS and repeated_share(text) > 0.1 for text in texts]
    assert left_out("repeats", 0.1, texts) == np.flatnonzero(repeated).tolist() != []
    for limit in (1, 3):
        keys = list(zip(documents.tolist(), texts, strict=True))
        again = [at for at, key in enumerate(keys) if keys[:at].count(key) >= limit]
        assert left_out("copies", limit, texts, documents=documents.tolist()) == again
        assert again or limit > 1


def test_lines_of_another_language_are_left_out_and_short_ones_and_relatives_are_kept() -> None:
    pytest.importorskip("pycld2")
    lines = [ENGLISH, GERMAN, SWAHILI, "Guten Tag", f"{ENGLISH}\x00\ufdd0"]
    assert left_out("language", 0.5, lines, languages="en") == [1, 2]
    assert left_out("language", 0.5, lines, languages="sw") == [0, 1, 4]
    assert left_out("language", 0.5, [ENGLISH, ENGLISH], [GERMAN, ENGLISH]) == [1]
    assert left_out("language", 0.5, ["Ovo je vrlo lijepa kuća koja se nalazi na brdu."], languages="sr-Latn") == []
    assert left_out("language", 0.5, [ENGLISH, GERMAN], languages="qaa") == []  # not known: not judged
    assert language.codes_of("he") == ("iw",)
    assert language.codes_of("zh-Hant") == ("zh", "zh-Hant", "ja")


def test_a_package_that_is_missing_is_one_line_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "PACKAGE", "no_such_package")
    language.engine.cache_clear()
    chosen = read_filters("strict", 1, "c.yaml")
    with pytest.raises(
        InputError, match=r"`language` needs no_such_package.*pip install 'ernie-m\[filters\]'.*language: false"
    ):
        filters.require([chosen])
    filters.require([read_filters({"preset": "strict", "language": False}, 1, "c.yaml")])
    language.engine.cache_clear()


def test_strict_is_every_filter_that_fits_and_a_mapping_changes_it() -> None:
    alone, pairs = (dict(read_filters("strict", count, "c.yaml")) for count in (1, 2))
    assert {*alone, *pairs} == set(FILTERS)
    assert [*alone] == ["copies", "script", "markup", "repeats", "language"]
    assert [*pairs] == ["identical", "length_ratio", "script", "markup", "repeats", "language"]
    changed = dict(read_filters({"preset": "strict", "script": 0.7, "markup": False}, 1, "c.yaml"))
    assert changed == {**{name: limit for name, limit in alone.items() if name != "markup"}, "script": 0.7}
    assert read_filters(None, 1, "c.yaml") == read_filters("none", 1, "c.yaml") == ()
    assert read_filters({"identical": True, "script": 0.2}, 2, "c.yaml") == (("identical", 1.0), ("script", 0.2))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("srict", "filters is 'srict', expected none, strict or a mapping"),
        ({"scripts": 0.5}, "unknown filter `scripts`, did you mean `script`"),
        ({"script": 2}, r"filters.script is 2, expected a number above 0, up to 1, or false"),
        ({"script": True}, "filters.script is True, expected a number"),
        ({"identical": 0.5}, "filters.identical is 0.5, expected true, or false"),
        ({"preset": "lax"}, "filters.preset is 'lax', expected none or strict"),
        ([1], r"filters is \[1\]"),
    ],
)
def test_mistakes_in_filters_are_named(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"c.yaml: .*{message}|c.yaml: {message}"):
        read_filters(value, 1, "c.yaml")


def test_filters_stand_at_the_top_for_all_corpora_or_at_one(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "filters: strict\ncorpora:\n"
        "  - {name: a, format: cc100, path: a.txt, language: en}\n"
        "  - {name: b, format: cc100, path: b.txt, language: en, filters: {script: 0.1}}\n"
        "  - {name: c, format: tsv, path: c.tsv, languages: [en, de], filters: none, max_length_ratio: 3}\n"
    )
    first, second, third = (corpus.filters for corpus in read_catalog(path))
    assert first == read_filters("strict", 1, "")
    assert (second, third) == ((("script", 0.1),), (("length_ratio", 3.0),))


# ---- a whole build with every filter on


def filtered_catalog(folder: Path) -> Path:
    """Text and pairs in many chunks, with faults of each kind."""
    folder.mkdir()
    plain = [f"{ENGLISH[:-1]}, said number {number} of them." for number in range(150)]
    faulty = [GERMAN, "https://example.org/a/b/c more", "12:30 - 14:45 - 16:00", "buy it now " * 6, plain[0]]
    lines = [line for number, text in enumerate(plain) for line in (text, faulty[number % 5], *[""] * (number % 5 == 4))]
    (folder / "en.txt").write_text("\n".join(lines) + "\n")
    pairs = [f"{text}\t{GERMAN[:-1]} Nummer {number}." for number, text in enumerate(plain)]
    faults = ["Berlin\tBerlin", f"{ENGLISH}\t{SWAHILI}", f"{ENGLISH}\tHaus"]
    lines = [line for number, text in enumerate(pairs) for line in (text, faults[number % 3])]
    (folder / "p.tsv").write_text("\n".join(lines) + "\n")
    path = folder / "c.yaml"
    path.write_text(
        "filters: strict\nallow_held_out: true\ncorpora:\n"
        "  - {name: en, format: cc100, path: en.txt, language: en, deduplicate: true}\n"
        "  - {name: p, format: tsv, path: p.tsv, languages: [en, de]}\n"
    )
    return path


def test_a_build_counts_each_reason_and_is_the_same_on_two_ranks_and_after_a_stop(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pycld2")
    catalog, options = filtered_catalog(tmp_path / "raw"), Options(chunk_bytes=3000, allow_unknown=True)
    build(catalog, tokenizer, tmp_path / "one", options)
    text, pairs = Manifest.read(tmp_path / "one").corpora
    assert text.rejected == {
        "duplicate of an earlier line": 29,
        "less than 0.5 of it in its language": 30,
        "less than 0.5 of it in the language's script": 30,
        "more than 0.2 of it addresses or markup": 30,
        "more than 0.3 of it repeats itself": 30,
        "stands more than 1 times in its document": 1,
    }
    reasons = ("both sides are the same text", "length ratio above 4", "less than 0.5 of it in its language")
    assert pairs.rejected == dict.fromkeys(reasons, 50)
    assert len(rows_of(tmp_path / "one", "p", "train")) + len(rows_of(tmp_path / "one", "p", "held_out")) == 150
    assert text.filters == dict(read_filters("strict", 1, ""))
    report = json.loads((tmp_path / "one" / "report.json").read_text())["corpora"][0]["rejected"]
    assert report["less than 0.5 of it in its language"]["first"][0] == {"line": 2, "text": GERMAN}
    build(catalog, tokenizer, tmp_path / "two", options, Ranks(2))
    assert contents(tmp_path / "two") == contents(tmp_path / "one")

    calls = iter([clean] * 4)
    with monkeypatch.context() as patch:
        patch.setattr("data_prep.convert.clean", lambda *given: next(calls)(*given))
        with pytest.raises(StopIteration):
            build(catalog, tokenizer, tmp_path / "again", options)
    assert not (tmp_path / "again" / "manifest.json").exists()
    build(catalog, tokenizer, tmp_path / "again", options)
    assert contents(tmp_path / "again") == contents(tmp_path / "one")


def test_a_folder_built_with_other_filters_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    catalog = filtered_catalog(tmp_path / "raw")
    text = catalog.read_text().replace("strict", "{script: 0.5}")
    catalog.write_text(text)
    options = Options(chunk_bytes=3000, allow_unknown=True)
    build(catalog, tokenizer, tmp_path / "out", options)
    catalog.write_text(text.replace("0.5", "0.4"))
    with pytest.raises(InputError, match=r"of another plan: corpora\[0\].filters.script was 0.5 and is now 0.4"):
        build(catalog, tokenizer, tmp_path / "out", options)
