"""The embedded corpus: the same bytes from the same seed, the same fact in every language, nothing held out seen before."""

from __future__ import annotations

import builtins
import datetime
import gzip
import hashlib
import io
import lzma
import re
import subprocess
import sys
import tarfile
import unicodedata
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("babel", reason="the embedded corpus needs Babel")

from babel import Locale, lists, numbers, units
from babel.dates import format_timedelta

from data_prep.embedded import LANGUAGES, LAYOUTS, embed, sentence, write_embedded_corpus
from data_prep.embedded.corpus_files import NOISE_SHARE, THRESHOLD, first_index, held_out, scored_pairs
from data_prep.embedded.facts import AMOUNTS, CURRENCIES, LANGUAGE_NAMES, TERRITORIES, UNITS, Clause, Draws, Fact, fact
from data_prep.embedded.phrases import Phrasebook, han_numeral, phrasebook
from data_prep.sides import sides
from ernie_m.base.console import InputError

LINES, PAIRS, HELD_OUT = 40, 30, 10
FIRST_FACT = ((("money", ("CHF", 3)), ("variety", ("en", "GR")), ("months", (6, 8))), "standard")
FACTS_DIGEST = "5258e32cc0e09067"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_embedded_corpus(folder, seed=3, lines_per_language=LINES, pairs_per_language=PAIRS, held_out_pairs=HELD_OUT)
    return folder


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def catalog(folder: Path) -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((folder / "catalog.yaml").read_text(encoding="utf-8"))["corpora"]


def lines_of(content: bytes) -> list[str]:
    text = content.decode()
    assert text.endswith("\n")
    return text[:-1].split("\n")


def texts(folder: Path, entry: dict[str, Any]) -> dict[str, list[str]]:
    """The sentences of a catalog entry by language, read with the standard library alone."""
    content, kind = (folder / entry["path"]).read_bytes(), entry["format"]
    if kind == "cc100":
        return {entry["language"]: [line for line in lines_of(lzma.decompress(content)) if line]}
    first, second = entry["languages"]
    if kind in ("moses", "multiun"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {code: lines_of(archive.read(f"{entry['name']}.{code}")) for code in (first, second)}
    if kind == "iitb":
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
            members = {code: tar.extractfile(f"parallel/{entry['name']}.{code}") for code in (first, second)}
            return {code: lines_of(member.read()) for code, member in members.items() if member}
    if kind == "tmx":
        if entry["path"].endswith(".zip"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                content = archive.read(archive.namelist()[0])
        elif entry["path"].endswith(".gz"):
            content = gzip.decompress(content)
        found: dict[str, list[str]] = {first: [], second: []}
        for variant in ElementTree.fromstring(content).iter("tuv"):
            found[variant.attrib["{http://www.w3.org/XML/1998/namespace}lang"]].append(variant.findtext("seg") or "")
        return found
    columns = list(zip(*(line.split("\t") for line in lines_of(gzip.decompress(content))), strict=True))
    return {first: list(columns[-2]), second: list(columns[-1])}


def ascii_digits(text: str, language: str) -> str:
    """Every number in ASCII digits, by Unicode's own account of what a character counts for."""

    def ascii_number(match: re.Match[str]) -> str:
        if match.group().isdecimal():
            return str(int(match.group()))  # int() reads the digits of every script
        tens, ten, ones = match.group().rpartition("十")
        return str(int(len(ten) * unicodedata.numeric(tens or "一") * 10 + unicodedata.numeric(ones or "〇")))

    return re.sub(r"\d+|[一二三四五六七八九十]+" if language in ("ja", "zh") else r"\d+", ascii_number, text)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_gives_others(corpus: Path, tmp_path: Path) -> None:
    embed(str(tmp_path / "again"), seed=3, lines=LINES, pairs=PAIRS, held_out=HELD_OUT)
    write_embedded_corpus(tmp_path / "other", seed=4, lines_per_language=3, pairs_per_language=3, held_out_pairs=3)
    first, again = digests(corpus), digests(tmp_path / "again")
    assert first == again
    assert len(first) == len(LANGUAGES) + len(LAYOUTS) * 3 + 1
    other = digests(tmp_path / "other")
    assert {name for name in other if other[name] == first[name]} == {"catalog.yaml"}


def test_facts_do_not_drift_between_versions() -> None:
    assert fact(0, 0) == FIRST_FACT
    known = hashlib.sha256(repr([fact(1, index) for index in range(200)]).encode()).hexdigest()
    assert known[:16] == FACTS_DIGEST


def test_a_sentence_does_not_depend_on_what_was_read_before() -> None:
    script = """if True:
        from babel import Locale
        assert Locale.parse("he").months["stand-alone"]["wide"][3]  # Babel 2.18 then gives Thai months in Hebrew
        from data_prep.embedded import sentence
        print(*(sentence(0, index, "th") for index in range(99)), sep="|")
    """
    after_hebrew = subprocess.run([sys.executable, "-X", "utf8", "-c", script], capture_output=True, check=True).stdout
    thai = after_hebrew.decode().rstrip("\n")
    assert not any("HEBREW" in unicodedata.name(character) for character in thai)
    assert thai.split("|") == [sentence(0, index, "th") for index in range(99)]


def test_a_dozen_languages_in_five_scripts() -> None:
    scripts = {
        unicodedata.name(character).split()[0]
        for language in LANGUAGES
        for character in "".join(sentence(0, index, language) for index in range(20))
        if character.isalpha()
    }
    assert len(LANGUAGES) >= 12
    assert scripts >= {"LATIN", "CYRILLIC", "GREEK", "ARABIC", "DEVANAGARI", "THAI", "CJK", "KATAKANA", "HANGUL"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_phrases_agree_with_babel(language: str) -> None:
    book, locale = phrasebook(language), Locale.parse(language)

    def phrase(kind: str, *items: object) -> str:
        return ascii_digits(book.phrase(Clause(kind, items)), language)

    for currency in CURRENCIES:
        expected = numbers.format_currency(7, currency, format_type="name", locale=locale, currency_digits=False)
        assert phrase("money", currency, 7) == ascii_digits(expected, language)
        assert phrase("rate", currency, "duration-week", 7).count(expected) == 1
    for amount in AMOUNTS:
        delta = datetime.timedelta(weeks=amount)
        future = format_timedelta(delta, granularity="week", threshold=9999, add_direction=True, locale=locale)
        past = format_timedelta(-delta, granularity="week", threshold=9999, add_direction=True, locale=locale)
        assert (phrase("relative", "week", "future", amount), phrase("relative", "week", "past", amount)) == (future, past)
    num_long = 0
    for unit in UNITS:  # Babel does not inherit: where long equals short, its long is "5 length-inch"
        long, short = (units.format_unit(5, unit, length, locale=locale) for length in ("long", "short"))
        num_long += phrase("quantity", unit, 5) == long
        assert phrase("quantity", unit, 5) in (long, short)
    assert num_long >= 3
    for month in range(1, 13):
        day = datetime.date(2024, month, 17)
        dated = phrase("date", day.toordinal())
        assert "17" in dated
        assert ascii_digits(locale.days["format"]["wide"][day.weekday()], language) in dated
        assert ascii_digits(locale.months["format"]["wide"][month], language) in dated
    variety = book.phrase(Clause("variety", ("pl", "JP")))
    assert locale.languages["pl"] in variety
    assert locale.territories["JP"] in variety
    for style in ("standard", "or"):
        for num_items in (2, 3, 4, 5):
            items = list("ABCDE"[:num_items])
            assert book.joined(items, style) == lists.format_list(items, style, locale=locale)


def test_a_sentence_holds_every_clause_of_its_fact_in_every_language() -> None:
    for index in range(50):
        clauses = fact(0, index).clauses
        assert 2 <= len(clauses) <= 3
        for language in LANGUAGES:
            text = sentence(0, index, language)
            assert all(phrasebook(language).phrase(clause) in text for clause in clauses)
            assert not set(text) & set("\t\n\r")


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_are_the_language_s_own(language: str) -> None:
    book = phrasebook(language)
    for kind, codes in (("languages", LANGUAGE_NAMES), ("territories", TERRITORIES), ("currency_names", CURRENCIES)):
        names = [book.cldr[kind][code] for code in codes]
        assert len(set(names)) == len(names)
        if language not in ("en", "fr", "sw", "tr"):
            assert not any("LATIN" in unicodedata.name(letter) for letter in "".join(names) if letter.isalpha())


def test_han_numerals() -> None:
    assert [han_numeral(number) for number in (3, 10, 12, 20, 31, 99)] == ["三", "十", "十二", "二十", "三十一", "九十九"]
    assert [ascii_digits(han_numeral(number), "ja") for number in range(1, 20)] == [str(number) for number in range(1, 20)]


def test_draws_are_uniform() -> None:
    counts = [0] * 7
    for key in range(7000):
        counts[Draws("test", key).below(7)] += 1
    assert all(abs(count - 1000) < 150 for count in counts)


def test_every_catalogued_file_reads_back(corpus: Path) -> None:
    entries = catalog(corpus)
    assert {entry["format"] for entry in entries} == {"cc100", "moses", "tmx", "wikimatrix", "multiun", "iitb", "tsv"}
    on_disk = {str(path.relative_to(corpus)) for part in ("cc100", "parallel") for path in (corpus / part).iterdir()}
    assert {entry["path"] for entry in entries} == on_disk
    for entry in entries:
        columns = texts(corpus, entry)
        if entry["format"] == "cc100":
            assert len(columns[entry["language"]]) == LINES
            continue
        (other,) = set(entry["languages"]) - {"en"}
        start = first_index("parallel", other)
        pairs = {(sentence(3, start + i, other), sentence(3, start + i, "en")) for i in range(PAIRS)}
        read = set(zip(columns[other], columns["en"], strict=True))
        assert pairs <= read if entry["format"] == "wikimatrix" else pairs == read


def test_documents_are_a_few_sentences_long(corpus: Path) -> None:
    text = lzma.decompress((corpus / "cc100" / "el.txt.xz").read_bytes()).decode()
    sizes = [len(document.rstrip("\n").split("\n")) for document in text.split("\n\n")]
    assert sum(sizes) == LINES
    assert all(5 <= size <= 10 for size in sizes[:-1])
    assert len(sizes) >= 4


def test_noise_scores_below_the_threshold_and_is_misaligned(corpus: Path) -> None:
    (entry,) = (entry for entry in catalog(corpus) if entry["name"] == "WikiMatrix.en-fr")
    rows = [line.split("\t") for line in lines_of(gzip.decompress((corpus / entry["path"]).read_bytes()))]
    start = first_index("parallel", "fr")
    true_pairs = {(sentence(3, start + i, "en"), sentence(3, start + i, "fr")) for i in range(PAIRS)}
    assert [float(score) for score, _, _ in rows] == sorted((float(score) for score, _, _ in rows), reverse=True)
    assert {(en, fr) for score, en, fr in rows if float(score) >= entry["threshold"]} == true_pairs
    assert len(rows) > PAIRS
    many = scored_pairs(0, "fr", [("a", "b")] * 950)
    assert sum(score < THRESHOLD for score, _ in many) == round(1000 * NOISE_SHARE)
    translations = {sentence(0, first_index("noise", "fr") + i, "en"): i for i in range(100)}
    for score, (french, english) in many:
        if score < THRESHOLD:
            assert french != sentence(0, first_index("noise", "fr") + translations[english], "fr")


def test_held_out_sentences_occur_in_no_training_file(corpus: Path) -> None:
    training: dict[str, set[str]] = {language: set() for language in LANGUAGES}
    for entry in catalog(corpus):
        for language, column in texts(corpus, entry).items():
            training[language].update(column)
    assert min(map(len, training.values())) >= LINES
    for other in LAYOUTS:
        columns = {code: lines_of((corpus / "heldout" / f"{other}-en.{code}").read_bytes()) for code in (other, "en")}
        for code, column in columns.items():
            assert len(set(column)) == HELD_OUT
            assert not set(column) & training[code]


def test_a_held_out_fact_whose_text_is_known_is_passed_over() -> None:
    start, nothing = first_index("held out", "tr"), {"tr": set[str](), "en": set[str]()}
    fresh = [next(pairs) for pairs in [held_out(0, "tr", nothing)] for _ in range(4)]
    known = {"tr": {sentence(0, start + 1, "tr")}, "en": {sentence(0, start, "en")}}
    pairs = held_out(0, "tr", known)
    assert [next(pairs), next(pairs)] == fresh[2:]


def test_index_ranges_do_not_overlap() -> None:
    starts = [first_index(p, lang) for p in ("monolingual", "parallel", "noise", "held out") for lang in LANGUAGES]
    assert starts == [10**9 * i for i in range(len(starts))]


def test_a_corpus_may_hold_nothing_out(tmp_path: Path) -> None:
    write_embedded_corpus(tmp_path, lines_per_language=2, pairs_per_language=2, held_out_pairs=0)
    assert (tmp_path / "catalog.yaml").is_file()
    assert not any(path.stat().st_size for path in (tmp_path / "heldout").iterdir())


def test_mistakes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="language 'xx': expected one of en, ar"):
        sentence(0, 0, "xx")
    with pytest.raises(InputError, match="pairs is 0: expected a whole number"):
        write_embedded_corpus(tmp_path, lines_per_language=1, pairs_per_language=0)
    with pytest.raises(InputError, match=r"lack 'QQ' for fr \(zone"):
        Phrasebook("fr").sentence(Fact((Clause("zone", ("QQ",)),), "or"))
    real_import = builtins.__import__

    def without_babel(name: str, *rest: Any) -> Any:
        if name.startswith("babel"):
            raise ImportError(name)
        return real_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_babel)
    with pytest.raises(InputError, match="pip install babel"):
        Phrasebook("fr")


@pytest.mark.parametrize("name", ["catalog.yaml", "cc100/th.txt.xz", "heldout/el-en.el", "parallel/parallel.tgz"])
def test_files_of_other_content_stay_unless_told(name: str, corpus: Path, tmp_path: Path) -> None:
    sizes = {"lines_per_language": LINES, "pairs_per_language": PAIRS, "held_out_pairs": HELD_OUT}
    write_embedded_corpus(tmp_path, seed=3, **sizes)
    write_embedded_corpus(tmp_path, seed=3, **sizes)  # the same bytes: nothing is lost
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=f"{name}: exists and stays as it is"):
        write_embedded_corpus(tmp_path, seed=3, **sizes)
    assert (tmp_path / name).read_text() == "mine"
    write_embedded_corpus(tmp_path, seed=3, overwrite=True, **sizes)
    assert digests(tmp_path) == digests(corpus)


def test_sides_replace_no_file_unless_told(corpus: Path, tmp_path: Path) -> None:
    taken = tmp_path / "CLDR.en-tr.tr.txt"
    taken.write_text("mine")
    with pytest.raises(InputError, match=r"--to .*CLDR\.en-tr\.tr\.txt: exists and stays as it is"):
        sides(catalog=str(corpus / "catalog.yaml"), to=str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [taken.name]
    sides(catalog=str(corpus / "catalog.yaml"), to=str(tmp_path), overwrite=True)
    assert taken.read_text() != "mine"
