"""FreeDict's dictionaries: what of an entry translates what, how few are taken, and that no held-out word is trained on."""

from __future__ import annotations

import gzip
import random
import string
import time
from pathlib import Path

import pytest
from debian_packages import add_package, chosen, needs_dpkg, with_apt

from data_prep.catalog import read_catalog
from data_prep.chosen_by_hash import is_chosen
from data_prep.fetch import fetch, freedict
from data_prep.fetch.freedict import dictd
from data_prep.fetch.freedict.collecting import HELD_OUT_WORDS, OF_A_HEADWORD, OF_A_SENSE, Collected
from data_prep.fetch.freedict.entry import MOST_HEADWORDS, Entry, read
from ernie_m.base.console import InputError

BRETON = """\
bugaleaj /byɡalˈɛːaʃ/ <g> (bugaleajoù)
1. enfance, jeunesse n, aod (bord, rive de mer) [géo.]
      "eil bugaleaj"  - sénilité, grand âge
      "krouer-plant"  (krouerien-blant)  - obtenteur (de plante)
      "Noz eo, ganet eo."  - Voici la nuit, il est né.
      "hep troidigezh"
   Synonym: {bugaleerezh}
         Note: rare
2. enfantillage
L'état d'un enfant
 see: {bugel}
"""
WIKTIONARY = """\
Katze /ˈkat͡sə/ <n, fem>
котка 2.
in zahlreichen Rassen gezüchtetes Haustier
 3.
weibliches Exemplar
2. котарак
männliches Exemplar
1. Person Plural
"""


def test_translations_are_the_first_line_of_a_sense_and_examples_stand_in_quotes() -> None:
    assert read(BRETON) == Entry(
        ["bugaleaj"],
        [["enfance", "jeunesse", "aod"], ["enfantillage"]],
        [
            ("eil bugaleaj", "sénilité"),
            ("eil bugaleaj", "grand âge"),
            ("krouer-plant", "obtenteur"),
            ("Noz eo, ganet eo.", "Voici la nuit, il est né."),
        ],
    )
    assert read("pole /pˈole/ <interj>\n\nsorry!\n; my condolences!\n\n").senses == [["sorry!", "my condolences!"]]
    goes_on = "word\nmot, terme\n; {}\n2.\nparole\n"
    assert read(goes_on.format("Une phrase ici.")).senses == [["mot", "terme"], ["parole"]], "a sentence takes none away"
    assert read(goes_on.format("nom")).senses == [["mot", "terme", "nom"], ["parole"]]
    assert read("mgonjwa <n> (pl: {wagonjwa})\n1.\nsick person\n2.\npatient\n").senses == [["sick person"], ["patient"]]
    assert read("mitaa /mitˈaa/ <n>\n\n Plural of {mtaa}: street\n\n").senses == []


def test_definitions_in_the_language_of_the_headword_are_no_translations() -> None:
    assert read(WIKTIONARY).senses == [["котка"]]
    entry = read("abc /abc/\nPréfixe entraînant une mutation.\n")
    assert (entry.senses, entry.explanations) == ([], 1)
    entry = read("word\none two three four five six, short one\n")
    assert (entry.senses, entry.explanations) == ([["short one"]], 1)


@pytest.mark.parametrize(
    ("head", "line", "found"),
    [
        (
            " (tomber a. de) amoureux /amuʁˈø/",
            "karantez (kouezhañ e k. gant)",
            ("tomber amoureux de", "kouezhañ e karantez gant"),
        ),
        (" (s'a. de) amouracher", "orgediñ (ouzh)", ("s'amouracher de", "orgediñ")),
        (" (partic. p. présent) vers /vɛʁ/", "war-du", ("vers", "war-du")),
        ("boul /bˈul/", "poud (poudoù /(en)pˈaʊd(fr)/)", ("boul", "poud")),
        ("national <Adj>", "राष्ट्रीयकरण~करना", ("national", "राष्ट्रीयकरण करना")),
        ("Komm, wir gehen. /kˈɔm/", "Come on, let's go.", ("Komm, wir gehen.", "Come on, let's go.")),
    ],
)
def test_brackets_go_and_a_shortened_headword_is_written_out(head: str, line: str, found: tuple[str, str]) -> None:
    entry = read(f"{head}\n{line}\n")
    assert [(word, text) for word in entry.headwords for sense in entry.senses for text in sense] == [found]


def test_several_spellings_are_headwords_and_a_phrase_with_a_comma_is_one() -> None:
    assert read("jumuia, jumuiya /ɟˌumuˈia/ /ɟˌumuˈija/ <n>\ncommunity\n").headwords == ["jumuia", "jumuiya"]
    assert read("abi, abike\nx\n").headwords == ["abi", "abike"]
    assert read("kivi, paperi, sakset /kˈivɪ pˈaperɪ/\nrock, paper, scissors\n").senses == [["rock, paper, scissors"]]


@pytest.mark.parametrize(
    "text", ["gouelañ/gwelañ", "-bugel", "a = b", "1. ?", "x {y", "{＠系}roguelike", "rounds (of drinks"]
)
def test_what_is_not_clear_is_counted_and_left_out(text: str) -> None:
    entry = read(f"word\n{text}\n")
    assert (entry.senses, entry.unclear) == ([], 0 if " {" in text else 1)
    assert read(f"{text}\nword\n").headwords == []


def test_a_few_translations_of_a_headword_are_taken_in_both_directions() -> None:
    senses = [[f"s{sense}t{number}" for number in range(5)] for sense in range(4)]
    collected = Collected(("br", "fr"))
    collected.add(Entry(["ger"], senses), is_turned=False)
    collected.add(Entry(["Ger"], [["another"]]), is_turned=False)
    collected.add(Entry(["s0t0"], [["ger", "mot"]]), is_turned=True)
    collected.add(Entry(["GER"], [["ger"]]), is_turned=True)
    pairs = collected.pairs()
    found = [*pairs.by_split["train"], *pairs.by_split["held_out"]]
    words = {text for ger, text in found if ger == "ger"}
    assert words == {f"s{sense}t{number}" for sense in range(OF_A_HEADWORD // OF_A_SENSE) for number in range(OF_A_SENSE)}
    assert ("mot", "s0t0") in found, "in the order of the languages"
    assert dict(pairs.left_out) == {"unclear": 0, "explanations": 0, "beyond the first": 15, "repeats": 1, "same in both": 1}
    assert pairs.aligned == 20 + 1 + 2 + 1


def test_a_held_out_word_is_in_no_training_pair_whichever_languages_and_dictionary() -> None:
    rng = random.Random(0)
    words = ["".join(rng.choices(string.ascii_lowercase, k=6)) for _ in range(3000)]
    apart = {word for word in words if is_chosen(f"br {word}", HELD_OUT_WORDS)}
    assert 50 < len(apart) < 100
    for pair in (("br", "fr"), ("en", "br")):
        collected, is_turned = Collected(pair), pair[0] != "br"
        for word in words:
            collected.add(Entry([word], [[rng.choice(words).upper()]], [(f"{word} two", f"{word} 2")]), is_turned)
        split = collected.pairs().by_split
        ours = {name: [found[is_turned] for found in split[name]] for name in split}
        theirs = {name: [found[not is_turned] for found in split[name]] for name in split}
        both = len(split["held_out"]) / (len(split["held_out"]) + len(split["train"]))
        assert 0.04 < both < 0.1
        assert not {text.split()[0] for text in ours["train"]} & apart, "nor an example of it"
        assert {text.split()[0] for text in ours["held_out"]} >= apart
        others = {text for text in theirs["held_out"] if is_chosen(f"{pair[not is_turned]} {text.lower()}", HELD_OUT_WORDS)}
        assert len(others) > 30
        assert not others & {*theirs["train"]}


def test_the_index_says_where_an_entry_lies_and_nonsense_is_told() -> None:
    content = "info\nüne\none\ntwo\n2\n".encode()
    index = "00databaseinfo\tA\tF\ntwo\tO\tG\nüne\tF\tJ\none\tF\tJ\n"
    assert [*dictd.entries(index, content)] == ["üne\none\n", "two\n2\n"]
    assert dictd._number("BA") == 64
    with pytest.raises(ValueError, match="the index names byte 70 of 20"):
        [*dictd.entries("two\tBA\tG\n", content[:20])]
    with pytest.raises(ValueError, match="no number in base 64"):
        [*dictd.entries("two\t!\tG\n", content)]
    with pytest.raises(ValueError, match="has more than 11 digits"):
        dictd._number("B" * 12)
    assert [*dictd.entries("une\u2028deux\x0b\x85\tO\tG\n", content)] == ["two\n2\n"], "these end no line of an index"


def test_entries_that_overlap_or_are_too_long_are_refused_before_they_are_read() -> None:
    content = b"a" * 2 * dictd.LONGEST_ENTRY
    index = "".join(f"{n}\t{_digits(n)}\t{_digits(1000)}\n" for n in range(1000))
    with pytest.raises(ValueError, match=r"more than 4 times its .* bytes: they overlap"):
        next(dictd.entries(index, content))
    assert len([*dictd.entries("".join(index.splitlines(keepends=True)[:500]), content)]) == 500
    with pytest.raises(ValueError, match="an entry of 65,537 bytes; expected 65,536 at most"):
        next(dictd.entries(f"a\tA\t{_digits(dictd.LONGEST_ENTRY + 1)}\n", content))


@pytest.mark.parametrize(
    "text",
    [
        "(" * 25_000 + ")" * 25_000,
        "a" + " " * 50_000 + "a",
        "a, " * 20_000,
        "1" * 50_000 + ". a",
        "a" * 60_000,
    ],
    ids=["parentheses", "spaces", "commas", "digits", "letters"],
)
def test_an_entry_is_read_in_time_that_grows_as_it_does(text: str) -> None:
    begin = time.process_time()
    read(f"{text}\nword\n")
    read(f"word\n{text}\n")
    assert time.process_time() - begin < 10, "a fraction of a second; by the square of its length it would be many"


def test_headwords_are_not_multiplied_without_end() -> None:
    assert read(f"{', '.join(WORDS[:MOST_HEADWORDS])}\nmot\n").headwords == WORDS[:MOST_HEADWORDS]
    assert read(f"{', '.join(WORDS[: MOST_HEADWORDS + 1])}\nmot\n") == Entry([], unclear=1)


def test_a_dictionary_that_unpacks_to_too_much_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freedict, "LARGEST_CONTENT", 1000)
    assert freedict._unpacked(gzip.compress(b"a" * 1000)) == b"a" * 1000
    with pytest.raises(ValueError, match="it unpacks to more than 1,000 bytes"):
        freedict._unpacked(gzip.compress(b"a" * 1001))


WORDS = [f"{a}{b}{c}" for a in "bdfgklmn" for b in "aeiou" for c in "rst"]


def _digits(number: int) -> str:
    digits = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
    return (_digits(number // 64) if number > 63 else "") + digits[number % 64]


def _dictionary(name: str, entries: dict[str, str]) -> dict[str, bytes]:
    content, index = b"", ""
    for word, text in entries.items():
        entry = f"{word}\n{text}\n".encode()
        index += f"{word}\t{_digits(len(content))}\t{_digits(len(entry))}\n"
        content += entry
    path = f"usr/share/dictd/freedict-{name}"
    return {f"{path}.dict.dz": gzip.compress(content), f"{path}.index": index.encode()}


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("apt")
    there = {
        "bre-fra": {word: f"mot {word}, le {word}" for word in WORDS},
        "fra-bre": {f"mot {word}": word for word in WORDS[:10]} | {"un": "unan"},
        "swh-eng": {"mto": "river"},
        "eng-gle": {"x": "y"},
    }
    for name, entries in there.items():
        files = _dictionary(name, entries) if name != "eng-gle" else {"usr/share/dictd/freedict-eng-gle.index": b"x\t!\tB\n"}
        add_package(folder, f"dict-freedict-{name}", files)
    return with_apt(folder)


@needs_dpkg
def test_both_directions_become_pairs_and_held_out_pairs_with_a_catalog(
    distribution: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen(distribution, monkeypatch)
    fetch(tmp_path, "freedict", "br-fr,sw")
    folder = tmp_path / "freedict"
    train = [line.split("\t") for line in (folder / "freedict.br-fr.tsv").read_text("utf-8").splitlines()]
    sides = [(folder / f"held_out/freedict.br-fr.{code}").read_text("utf-8").splitlines() for code in ("br", "fr")]
    both = [*map(tuple, train), *zip(*sides, strict=True)]
    assert sorted(both) == sorted(
        [(word, f"{begin} {word}") for word in WORDS for begin in ("mot", "le")] + [("unan", "un")]
    )
    assert 0 < len(sides[0]) < len(train)
    assert (folder / "freedict.en-sw.tsv").read_text("utf-8") == "river\tmto\n"
    names = {corpus.name: corpus for corpus in read_catalog(tmp_path / "catalog.yaml")}
    assert {*names} == {"freedict.br-fr", "freedict.held-out.br-fr", "freedict.en-sw"}
    assert names["freedict.en-sw"].languages == ("en", "sw")
    assert (
        "br-fr                  251        0             0                 0             0       10"
        in capsys.readouterr().out
    )

    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    fetch(tmp_path, "freedict", "fr-br,sw-en,br-fr")
    fetch(tmp_path, "freedict", "BRE-fra")
    monkeypatch.setenv("APT", str(tmp_path))
    fetch(tmp_path, "freedict", "EN-swa")
    assert before == {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}, (
        "whichever spelling, with the packages that are here, and those of all commands are recorded"
    )


@needs_dpkg
def test_a_file_whose_columns_the_catalog_has_in_another_order_stays_as_it_is(
    distribution: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen(distribution, monkeypatch)
    (tmp_path / "freedict").mkdir()
    (tmp_path / "freedict/freedict.br-fr.tsv").write_text("mot\tger\n")
    entry = "{name: old, format: tsv, path: freedict/freedict.br-fr.tsv, languages: [fr, br], held_out: 0}"
    (tmp_path / "catalog.yaml").write_text(f"corpora:\n- {entry}\n")
    said = r"catalog.yaml: old has the languages fr, br, and freedict/freedict.br-fr.tsv would have br, fr; remove"
    with pytest.raises(InputError, match=said):
        fetch(tmp_path, "freedict", "br-fr")
    assert (tmp_path / "freedict/freedict.br-fr.tsv").read_text() == "mot\tger\n"
    (tmp_path / "catalog.yaml").write_text(f"corpora:\n- {entry.replace('[fr, br]', '[br-FR, fr]')}\n")
    fetch(tmp_path, "freedict", "br-fr")


@pytest.mark.parametrize(
    ("typed", "code"), [("ro", "rom"), ("ro_RO", "rom"), ("sw_KE", "swh"), ("sw", "swh"), ("br_FR", "bre"), ("de", "deu")]
)
def test_codes_of_dictionaries_are_those_of_the_language_whatever_its_region(typed: str, code: str) -> None:
    assert freedict._code(typed) == code


@needs_dpkg
@pytest.mark.parametrize(
    ("lang", "said"),
    [
        ("br-en", "--lang br-en: Debian has no package dict-freedict-bre-eng; expected one of br-fr$"),
        ("cy", "--lang en-cy: .* dict-freedict-eng-cym; no dictionary has cy; there are br, en, fr, ga, sw"),
        ("ga", r"dict-freedict-eng-gle_1%3a2_all.deb: not a dictionary of dictd \(KeyError\('dict.dz'\)\)"),
        ("en-ENG", "--lang en-ENG: both are en; expected a pair such as de-en"),
        ("ron", "--lang en-ro: Debian has no package dict-freedict-eng-rom; no dictionary has ro"),
        ("xxxx", "language 'xxxx': no such language; expected a code such as br or bre"),
    ],
)
def test_a_pair_without_a_dictionary_is_told_with_those_that_there_are(
    distribution: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lang: str, said: str
) -> None:
    chosen(distribution, monkeypatch)
    with pytest.raises(InputError, match=said):
        fetch(tmp_path, "freedict", lang)
