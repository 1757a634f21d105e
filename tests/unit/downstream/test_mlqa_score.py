"""Answers are normalised and scored as MLQA's own script does.

The expectations are outputs of mlqa_evaluation_v1.py of facebookresearch/MLQA (version 1.0) on these texts.
"""

from __future__ import annotations

import pytest

from ernie_m.base.console import InputError
from ernie_m.downstream.mlqa_score import MLQA, SQUAD, answer_score, normaliser

NORMALISED = [
    ("en", "The U.S.A.'s  a-priori  plan, an\xa0Answer", "usas apriori plan answer"),
    ("en", "A an THE theory; Athe", "theory athe"),
    ("en", "$1,200 (≈ €1 100)", "1200 ≈ €1 100"),
    ("en", "the\u200bend", "\u200bend"),
    ("en", "…", ""),
    ("es", "¿El Niño y las Niñas? unos, uno, lo", "niño y niñas uno lo"),
    ("es", "la\u2014una", "launa"),
    ("es", "UNA vez en los Ángeles", "vez en ángeles"),
    ("de", "Die Straße des 17. Juni, »einer« eines Ähnlichen", "straße 17 juni ähnlichen"),
    ("de", "deren, einmal, DAS", "deren einmal"),
    ("de", "GRÖẞE der ẞ", "größe ß"),
    ("de", "", ""),
    ("vi", "Những cái của Việt Nam là gì?", "việt nam gì"),
    ("vi", "chiếc-xe, CỦA", "chiếcxe"),
    ("ar", "الولايات المتحدة، وال", "ولايات متحدة و"),
    ("ar", "قال الرجل: «السلام»", "ق رجل سلام"),
    ("ar", "لا إله", "لا إله"),
    ("hi", "भारत का संविधान।", "भारत का संविधान"),
    ("hi", "१५ अगस्त, 1947 (India)", "१५ अगस्त 1947 india"),
    ("zh", "北京（2008年）奥运会 Olympic Games", "北 京 2008 年 奥 运 会 olympic games"),
    ("zh", "㐀龦鿿\u4e00\u9fa5abc", "㐀龦鿿 \u4e00 \u9fa5 abc"),
    ("zh", "A，the、B", "atheb"),
    ("zh", "3.14公里 約", "314 公 里 約"),
    ("zh", "「前鎮區」，高雄", "前 鎮 區 高 雄"),
    ("zh", "。", ""),
]
SCORED = [
    ("en", "the cat sat", "Cat sat down.", 0.8, False),
    ("en", "Paris, France", "paris", 0.6666666666666666, False),
    ("en", "...", "!", 0, True),
    ("en", "a a b b", "a b b b", 0.8, False),
    ("de", "die Mauer des Doms", "Mauer im Dom", 0.4, False),
    ("de", "ein Haus", "Haus", 1.0, True),
    ("es", "el perro negro", "un perro", 0.6666666666666666, False),
    ("vi", "là cái bàn gỗ", "bàn", 0.6666666666666666, False),
    ("ar", "في الولايات المتحدة", "الولايات المتحدة", 0.8, False),
    ("ar", "قال", "ق", 1.0, True),
    ("hi", "नई दिल्ली", "दिल्ली शहर", 0.5, False),
    ("zh", "北京大学", "北京的大学", 0.888888888888889, False),
    ("zh", "2008年奥运会", "2008 年 奥运会", 1.0, True),
    ("zh", "Olympic Games", "Olympic", 0.6666666666666666, False),
    ("zh", "，", "。", 0, True),
]


@pytest.mark.parametrize(("language", "text", "expected"), NORMALISED)
def test_texts_are_normalised_as_by_mlqas_script(language: str, text: str, expected: str) -> None:
    assert " ".join(normaliser(language)(text)) == expected


@pytest.mark.parametrize(("language", "predicted", "right", "f1", "exact"), SCORED)
def test_answers_are_scored_as_by_mlqas_script(language: str, predicted: str, right: str, f1: float, exact: bool) -> None:
    score = answer_score({"q": predicted}, {"q": [right]}, language)
    assert score.f1 == pytest.approx(100 * f1, abs=1e-9)
    assert score.exact_match == 100 * exact


def test_every_word_that_mlqas_script_takes_for_an_article_goes_and_only_those() -> None:
    """Its lists, probed word by word."""
    gone = {
        "en": "a an the",
        "es": "un una unos unas el la los las",
        "de": "ein eine einen einem eines einer der die das den dem des",
        "vi": "của là cái chiếc những",
        "hi": "",
        "zh": "",
    }
    words = {word for articles in gone.values() for word in articles.split()} | {"lo", "les", "uno", "eins", "dessen", "ال"}
    for language, articles in gone.items():
        kept = {word for word in words if normaliser(language)(word)}
        assert kept == words - set(articles.split()), language


def test_totals_take_the_best_answer_and_count_the_unanswered_as_wrong() -> None:
    answers = {"1": ["the cat", "a dog sat"], "2": ["York"], "3": ["x"]}
    score = answer_score({"1": "dog", "2": "New York!"}, answers, "en")
    assert (score.f1, score.exact_match) == (pytest.approx(44.444444444444436), 0.0)
    score = answer_score({"1": "dog", "2": "york", "3": "the"}, answers, "en")
    assert (score.f1, score.exact_match) == (pytest.approx(55.55555555555555), pytest.approx(33.333333333333336))


def test_any_of_the_answers_is_an_exact_match() -> None:
    for text in ("the Cat", "a dog"):
        assert answer_score({"1": text}, {"1": ["cat", "dog"]}, "en").exact_match == 100


def test_squads_rules_take_every_language_for_english_and_know_ascii_punctuation_alone() -> None:
    words = normaliser("el", SQUAD)
    assert words("Η «Αθήνα», the city!") == ["η", "«αθήνα»", "city"]
    assert normaliser("zh", SQUAD)("北京。大学") == ["北京。大学"]
    assert normaliser("de", SQUAD)("Die Mauer") == ["die", "mauer"]


@pytest.mark.parametrize(("language", "rules"), [("el", MLQA), ("EN", MLQA), ("en", "nltk")])
def test_a_language_without_rules_is_one_line(language: str, rules: str) -> None:
    with pytest.raises(InputError, match=r"has no normalisation for answers in|expected mlqa or squad"):
        normaliser(language, rules)
