"""Exact match and F1 of extracted answers, as MLQA's own evaluation counts them.

Both compare normalised texts: lower case, no punctuation, no articles, single spaces. What an article and what a word
is depends on the language of the *context*, which is the language of the answer. The rules are those of
facebookresearch/MLQA's mlqa_evaluation_v1.py, with its oddities, so that scores are comparable:

    punctuation   Unicode's P categories and ASCII's symbols ($ + < = > ^ ` | ~ are symbols to Unicode)
    ar            the article is a prefix, but its letters go wherever they stand in a word, and leave a space
    zh            each of U+4E00..U+9FA5 is a word; what stands between them is split at spaces
    both empty    an exact match with an F1 of 0, for no word is shared

Languages that the script does not know (el, ru, th, tr ... of XQuAD) can be scored by SQuAD v1.1's script: English
articles, ASCII punctuation. It is another measure, so the user must ask for it.
"""

from __future__ import annotations

import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ernie_m.base.console import InputError

MLQA, SQUAD = "mlqa", "squad"
RULES = (MLQA, SQUAD)


def _any_word(words: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{words.replace(' ', '|')})\b")


ARTICLES: dict[str, re.Pattern[str] | None] = {
    "ar": re.compile("ال"),
    "de": _any_word("das dem den der des die ein eine einem einen einer eines"),
    "en": _any_word("a an the"),
    "es": _any_word("el la las los un una unas unos"),
    "hi": None,
    "vi": _any_word("chiếc cái của là những"),
    "zh": None,
}
"""MLQA's languages, and what is taken for an article in each."""
HAN = re.compile("([\u4e00-\u9fa5])")

_ASCII_PUNCTUATION = dict.fromkeys(map(ord, string.punctuation))
_PUNCTUATION = _ASCII_PUNCTUATION | {
    code: None for code in range(sys.maxunicode) if unicodedata.category(chr(code)).startswith("P")
}


@dataclass(frozen=True)
class AnswerScore:
    """Percentages over all questions; one without a prediction counts as wrong."""

    f1: float
    exact_match: float


def normaliser(language: str, rules: str = MLQA) -> Callable[[str], list[str]]:
    """The function text -> words for answers in `language`; raises InputError for a language the rules do not know."""
    if rules not in RULES:
        raise InputError(f"answer normalisation {rules}: expected {' or '.join(RULES)}")
    if rules == MLQA and language not in ARTICLES:
        raise InputError(
            f"MLQA's script has no normalisation for answers in `{language}`, only for {', '.join(ARTICLES)}; "
            f"leave it out, or give answer_rules={SQUAD}: the rules of SQuAD v1.1, which take every language for English"
        )
    article = ARTICLES["en" if rules == SQUAD else language]
    punctuation = _ASCII_PUNCTUATION if rules == SQUAD else _PUNCTUATION
    splits_han = rules == MLQA and language == "zh"

    def words(text: str) -> list[str]:
        text = text.lower().translate(punctuation)
        if article:
            text = article.sub(" ", text)
        return (HAN.sub(r" \1 ", text) if splits_han else text).split()

    return words


def answer_score(
    predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]], language: str, rules: str = MLQA
) -> AnswerScore:
    """Score question id -> predicted text against question id -> right texts (the best counts), all in `language`.

    Raises InputError for a language that `rules` do not know.
    """
    words = normaliser(language, rules)
    f1 = exact = 0.0
    for question, texts in answers.items():
        if question in predictions:
            predicted = words(predictions[question])
            right = [words(text) for text in texts]
            f1 += max(_overlap_f1(predicted, expected) for expected in right)
            exact += predicted in right
    total = len(answers)
    return AnswerScore(100 * f1 / total, 100 * exact / total)


def _overlap_f1(predicted: Iterable[str], expected: Iterable[str]) -> float:
    """Harmonic mean of precision and recall over words, as often as each stands there."""
    ours, theirs = Counter(predicted), Counter(expected)
    shared = (ours & theirs).total()
    return 2 * shared / (ours.total() + theirs.total()) if shared else 0.0
