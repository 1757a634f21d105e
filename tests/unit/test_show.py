"""What a page says of a bitext: which sentences are translations of which, how often they are found, where they lie."""

from __future__ import annotations

import base64
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch

from ernie_m.base.console import InputError
from ernie_m.corpus.word_pairs import Dictionary
from ernie_m.interop.encoder import open_encoder
from ernie_m.models.word_translation import word_translation
from ernie_m.show import retrieval, sentence_map, word_map
from ernie_m.show.bitext_folder import AlignedSentences, BitextFolder, read_bitext, shared_sentences, translations
from ernie_m.show.figures import isolated
from ernie_m.show.retrieval import LEAST_SHARED, PooledStates
from tests.downstream_fixtures import tiny_encoder

__all__ = ["tiny_encoder"]

LANGUAGES = ("de", "en", "fr", "sw", "zh")
PAIRS = {"fr": range(60), "zh": range(35, 75), "sw": range(70, 80)}  # English sentences that each has a translation of
PLACES = {language: {n: i for i, n in enumerate(numbers)} for language, numbers in PAIRS.items()}


def write(folder: Path, **files: list[str]) -> None:
    for name, lines in files.items():
        (folder / name.replace("__", "-").replace("_", ".")).write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def bitext() -> BitextFolder:
    """Pairs with English that overlap in part, in another order each, and a text in two languages without English."""
    groups = [
        AlignedSentences(
            f"{language}-en", {"en": [f"en {n}" for n in numbers], language: [f"{language} {n}" for n in numbers]}
        )
        for language, numbers in PAIRS.items()
    ]
    return BitextFolder(
        (*groups, AlignedSentences("news", {"de": [f"de {n}" for n in range(25)], "sw": [f"sw' {n}" for n in range(25)]})),
        (),
    )


@pytest.fixture
def pooled(bitext: BitextFolder) -> PooledStates:
    """Random states that lie near those of the same meaning, so that some are found and some are not."""
    rng = np.random.default_rng(0)
    meanings = rng.normal(size=(200, 6))
    states = {}
    for number, group in enumerate(bitext.groups):
        for language, sentences in group.sentences.items():
            rows = [int(text.split()[1]) + (100 if group.name == "news" else 0) for text in sentences]
            noise = rng.normal(0, 0.8, (len(rows), 6))
            states[number, language] = torch.tensor(meanings[rows] + noise, dtype=torch.float32)
    return PooledStates(1, 2, states, {"fr": [(0.0, 0.5), (0.25, 0.25), (1.0, 0.5)], "zh": [(0.5, 0.5)] * 3})


def found_by_numpy(queries: np.ndarray, keys: np.ndarray) -> float:
    """Accuracy@1 sentence by sentence."""
    right = 0
    for i, query in enumerate(queries):
        cosines = [query @ key / np.linalg.norm(query) / np.linalg.norm(key) for key in keys]
        right += int(np.argmax(cosines) == i)
    return right / len(queries)


def test_cells_are_a_plain_numpy_computation(bitext: BitextFolder, pooled: PooledStates) -> None:
    languages = bitext.languages
    assert languages == ["en", "de", "fr", "sw", "zh"]
    cells = retrieval.cells(pooled, languages, shared_sentences(bitext))
    states = {key: value.numpy().astype(np.float64) for key, value in pooled.states.items()}
    in_both = [n for n in PAIRS["fr"] if n in PAIRS["zh"]]
    sides = {
        ("en", "fr"): (states[0, "en"], states[0, "fr"]),
        ("en", "zh"): (states[1, "en"], states[1, "zh"]),
        ("de", "sw"): (states[3, "de"], states[3, "sw"]),
        ("fr", "zh"): tuple(states[g, x][[PLACES[x][n] for n in in_both]] for g, x in ((0, "fr"), (1, "zh"))),
    }
    for a, b in permutations(languages, 2):
        cell = cells[languages.index(a), languages.index(b)]
        if (a, b) in sides:
            assert cell == pytest.approx(found_by_numpy(*sides[a, b]))
        elif (b, a) in sides:
            assert cell == pytest.approx(found_by_numpy(*reversed(sides[b, a])))
        else:
            assert np.isnan(cell), (a, b)
    assert np.isnan(np.diag(cells)).all()
    assert 0.1 < np.nanmin(cells) < np.nanmax(cells) < 1
    assert (np.triu(cells) != np.tril(cells).T)[np.isfinite(cells)].any(), "the two ways differ"


def test_languages_without_a_common_file_meet_over_english_alone(bitext: BitextFolder) -> None:
    shared = shared_sentences(bitext)
    assert {pair: len(s.places) for pair, s in shared.items()} == {
        ("en", "fr"): 60, ("en", "zh"): 40, ("en", "sw"): 10, ("de", "sw"): 25, ("fr", "zh"): 25, ("sw", "zh"): 5,
    }  # fmt: skip
    assert {pair for pair, s in shared.items() if s.over_english} == {("fr", "zh"), ("sw", "zh")}
    for (a, b), (place_a, place_b) in (((a, b), p) for (a, b), s in shared.items() for p in s.places):
        texts = [bitext.groups[group].sentences[x][line] for x, (group, line) in ((a, place_a), (b, place_b))]
        assert texts[0].split()[1] == texts[1].split()[1]
    counts = retrieval.counts(bitext.languages, shared)
    assert (counts == counts.T).all()
    assert counts[bitext.languages.index("sw"), bitext.languages.index("zh")] == 5 < LEAST_SHARED


def test_an_english_sentence_that_stands_twice_counts_once() -> None:
    groups = (
        AlignedSentences("a", {"en": ["Hi.", "Hi.", "No."], "fr": ["Salut.", "Bonjour.", "Non."]}),
        AlignedSentences("b", {"en": ["No.", "Hi."], "de": ["Nein.", "Hallo."]}),
    )
    shared = shared_sentences(BitextFolder(groups, ()))
    assert set(shared["de", "fr"].places) == {((1, 0), (0, 2)), ((1, 1), (0, 0))}
    meanings = translations(BitextFolder(groups, ()))
    assert meanings == [{"en": (0, 0), "fr": (0, 0), "de": (1, 1)}, {"en": (0, 2), "fr": (0, 2), "de": (1, 0)}]


def test_of_several_files_with_both_languages_the_largest_counts() -> None:
    small, large = ({"en": [f"{size} {n}" for n in range(size)], "fr": [f"f {n}" for n in range(size)]} for size in (2, 3))
    for groups in (
        (AlignedSentences("a", small), AlignedSentences("b", large)),
        (AlignedSentences("a", large), AlignedSentences("b", small)),
    ):
        shared = shared_sentences(BitextFolder(groups, ()))["en", "fr"]
        assert [groups[group].sentences is large for (group, _), _ in shared.places] == [True] * 3


def test_files_are_known_by_their_names(tmp_path: Path) -> None:
    write(tmp_path, tatoeba_cmn__eng_cmn=["一", "二"], tatoeba_cmn__eng_eng=["one", "two"])
    write(tmp_path, fr__en_fr=["un", " ", "trois"], fr__en_en=["one", "two", "three"], de__en_de=["eins"])
    write(tmp_path, news_en=["x", "y", "z"], news_sw=["a", "b", "c"], news_zh=["甲", "乙", "丙"], README_md=["#"])
    write(tmp_path, tatoeba_ara__eng_ara=["a"], tatoeba_ara__eng_eng=["b"])
    (tmp_path / "eng_Latn.devtest").write_text("one\ntwo\n")
    (tmp_path / "zho_Hans.devtest").write_text("一\n二\n")
    bitext = read_bitext(tmp_path, LANGUAGES, limit=10)
    assert {g.name: {language: len(s) for language, s in g.sentences.items()} for g in bitext.groups} == {
        "devtest": {"en": 2, "zh": 2},
        "fr-en": {"en": 2, "fr": 2},
        "news": {"en": 3, "sw": 3, "zh": 3},
        "tatoeba.cmn-eng": {"en": 2, "zh": 2},
    }
    assert next(g for g in bitext.groups if g.name == "fr-en").sentences == {"en": ["one", "three"], "fr": ["un", "trois"]}
    assert bitext.left_out == (
        "whose names tell no language: README.md",
        "in languages that the run does not have: ar",
        "without another side: de-en.de",
    )
    assert all(len(group) == 1 for group in read_bitext(tmp_path, LANGUAGES, limit=1).groups)


def test_files_that_are_not_aligned_are_one_clear_line(tmp_path: Path) -> None:
    write(tmp_path, news_en=["x", "y"], news_sw=["a"])
    with pytest.raises(InputError, match=r"news\.en has 2 lines, .*news\.sw 1; expected line-aligned files"):
        read_bitext(tmp_path, LANGUAGES, limit=10)
    write(tmp_path, news_sw=["", ""])
    with pytest.raises(InputError, match=r"news\.en: no line has text in all of en, sw"):
        read_bitext(tmp_path, LANGUAGES, limit=10)
    with pytest.raises(InputError, match=r"no aligned files in two languages of the run \(de, fr\); expected tatoeba"):
        read_bitext(tmp_path, ("fr", "de"), limit=10)


def test_the_sweep_is_a_mean_over_languages_and_both_ways(pooled: PooledStates) -> None:
    assert pooled.mean_sweep() == pytest.approx([(0.25 + 0.5) / 2, (0.25 + 0.5) / 2, (0.75 + 0.5) / 2])


def test_a_map_has_the_widest_known_sentences_first_and_all_languages(bitext: BitextFolder, pooled: PooledStates) -> None:
    points = sentence_map.chosen_points(bitext, a_language=8)
    count = {language: points.languages.count(language) for language in bitext.languages}
    assert all(count[language] >= 8 for language in ("de", "fr", "sw", "zh"))
    assert len(points) < 70
    more = sentence_map.chosen_points(bitext, a_language=30)
    assert all(more.languages.count(language) >= 30 for language in ("fr", "zh")), "English having enough stops no other"
    by_meaning: dict[int, set[str]] = {}
    for language, meaning, (group, line) in zip(points.languages, points.meanings, points.places, strict=True):
        by_meaning.setdefault(meaning, set()).add(bitext.groups[group].sentences[language][line].split()[1])
    assert all(len(numbers) == 1 for numbers in by_meaning.values()), "a meaning is one sentence in all its languages"
    widths = [points.meanings.count(meaning) for meaning in dict.fromkeys(points.meanings)]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] == 3
    texts = sentence_map.example_texts(points, bitext)
    assert len(texts) == sentence_map.EXAMPLES
    assert all(len({text.split()[1] for _, text in example}) == 1 < len(example) for example in texts)
    shown = [{language for language, _ in example} for example in texts]
    assert shown[0] | shown[1] == set(bitext.languages), "examples bring languages that were not shown yet"
    states = sentence_map.states_of(points, pooled)
    group, line = points.places[5]
    assert torch.equal(states[5], pooled.states[group, points.languages[5]][line])


def test_neighbours_are_counted_by_meaning_and_by_language(bitext: BitextFolder) -> None:
    points = sentence_map.Points(("en", "en", "fr", "fr"), (0, 1, 0, 1), ((0, 0),) * 4, ())
    translations_together = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.1, 0.9]])
    assert sentence_map.neighbours(points, translations_together) == (1.0, 0.0)
    assert sentence_map.neighbours(points, translations_together[[0, 2, 1, 3]]) == (0.0, 1.0)
    assert sentence_map.neighbours(points, 5 * translations_together[[0, 2, 1, 3]]) == (0.0, 1.0), "by cosine"


def test_a_projection_keeps_clusters_and_repeats_itself() -> None:
    rng = np.random.default_rng(1)
    centers = 4 * rng.normal(size=(3, 8))
    states = torch.tensor(np.concatenate([center + 0.3 * rng.normal(size=(12, 8)) for center in centers]))
    plane = sentence_map.projected(states.float())
    assert plane.shape == (36, 2)
    np.testing.assert_array_equal(plane, sentence_map.projected(states.float()))
    middles = plane.reshape(3, 12, 2).mean(axis=1)
    inside = np.linalg.norm(plane.reshape(3, 12, 2) - middles[:, None], axis=2).max()
    assert inside < min(np.linalg.norm(middles[i] - middles[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_a_heat_map_shows_each_number_and_what_it_is_over(bitext: BitextFolder, pooled: PooledStates) -> None:
    languages, shared = bitext.languages, shared_sentences(bitext)
    cells = retrieval.cells(pooled, languages, shared)
    address = retrieval.heat_maps({"before": cells, "after": cells}, languages, retrieval.counts(languages, shared))
    source = base64.b64decode(address.partition("base64,")[2]).decode("utf-8")
    assert source.count(">before<") == source.count(">after<") == 1
    percents = [f"{100 * cell:.0f}" for cell in cells[np.isfinite(cells)]]
    assert all(source.count(f">{percent}</text>") >= 2 * percents.count(percent) for percent in percents)
    assert source.count(">–</text>") == 2 * (20 - len(percents)), "the rest is empty, the diagonal apart"
    nothing = np.full((2, 2), np.nan)
    assert "base64" in retrieval.heat_maps({"": nothing}, ["en", "fr"], np.zeros((2, 2), int))


def test_labels_keep_scripts_apart_and_show_what_does_not_print() -> None:
    assert isolated("▁من") == "\u2068▁من\u2069"
    assert isolated("a\u0007\u2028") == "\u2068a‹U+0007›‹U+2028›\u2069"


# -- words -----------------------------------------------------------------------------------------------------------


def test_the_section_of_words_has_their_map_and_the_very_number_of_the_measure(tiny_encoder: Path) -> None:
    from transformers import AutoModel

    words = ["April", "two", "minutes", "hours", "day", "avril", "deux", "minute", "heures", "jour"]
    found = {"en-fr": Dictionary(tuple(words[:5]), tuple(words[5:])), "en-de": Dictionary(("two", "day"), ("zwei", "Tag"))}
    opened = open_encoder(tiny_encoder)
    section = word_map.section({"before": opened, "after": opened}, found)
    assert section["translation"].head == ("pair", "words", "before", "after")
    for row, dictionary in zip(section["translation"].rows, found.values(), strict=True):
        measured = word_translation(opened.model(AutoModel), opened.tokenizer, dictionary)
        assert row[2] == row[3] == f"{50 * sum(measured.ways):.1f} %"
    drawn = base64.b64decode(section["maps"].partition(",")[2]).decode()
    known = word_map.vectors(opened.model(AutoModel).get_input_embeddings().weight, opened.tokenizer, found["en-fr"]).words
    assert len(known) > 3
    assert all(drawn.count(f">{isolated(word)}<") == 2 for pair in known for word in pair), "once in each map"
    assert word_map.section({"before": opened, "after": opened}, found)["maps"] == section["maps"]


def test_what_the_map_of_words_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_map, "find_spec", lambda name: None)
    assert "scikit-learn, which lays out the map, is not installed" in word_map.dictionaries_of(None)  # type: ignore[arg-type]
