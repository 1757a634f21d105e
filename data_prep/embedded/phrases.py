"""Facts into words: every clause kind in every language, from the localized patterns of CLDR that Babel carries.

1. `Phrasebook(language)` holds one language's CLDR data. A clause is rendered once and remembered.
2. Each clause kind is a few lines that fill CLDR's own pattern: no word of a sentence is written in this file.
3. Digits become the language's own: Arabic, Devanagari and Thai ones, and Han numerals for Chinese and Japanese.

    ("variety", ("de", "CH"))               German (Switzerland)       немецкий (Швейцария)
    ("date", (731_657,))                    Wednesday, March 17        среда, 17 марта
    ("rate", ("JPY", "duration-week", 5))   5 Japanese yen per week    5 японских иен в неделю

Babel is imported when the first phrasebook opens; if it is missing, one line says so. Each phrasebook loads its own copy of
the data: Babel 2.18 resolves aliases in place, in structures that locales share, so a process that asked for Hebrew months
first would get Thai months in Hebrew.
"""

from __future__ import annotations

import datetime
import functools
import re
from typing import Any

from data_prep.embedded.facts import Clause, Fact
from ernie_m.base.console import InputError

LANGUAGES = ("en", "ar", "el", "fr", "hi", "ja", "ko", "ru", "sw", "th", "tr", "zh")
"""English first: every pair is English-centred. Ten scripts."""

ZERO_DIGITS = {"ar": "٠", "hi": "०", "th": "๐"}
"""Zero in the language's own digits (CLDR's "native" numbering systems arab, deva, thai)."""
HAN_NUMERALS = ("ja", "zh")
"""Languages whose numbers are written 三十一 (CLDR's "traditional" numbering systems jpan and hans)."""
FULL_STOPS = {"hi": "।", "ja": "。", "zh": "。", "th": ""}
"""The mark that ends a sentence, where it is not a full stop; Thai has none."""
WIDE_BRACKETS = {"zh": "{0}（{1}）"}
"""CLDR's localePattern where it is not "{0} ({1})"; Babel does not carry it."""

_FIELD = re.compile(r"'([^']*)'|([MLEcd])\2*")


def han_numeral(number: int) -> str:
    """1..99 in Han numerals: 3 -> 三, 10 -> 十, 15 -> 十五, 31 -> 三十一."""
    assert 1 <= number <= 99, number
    tens, ones = divmod(number, 10)
    ten = "" if tens == 0 else "十" if tens == 1 else "〇一二三四五六七八九"[tens] + "十"
    return ten + ("〇一二三四五六七八九"[ones] if ones else "")


class Phrasebook:
    """One language: clauses and facts into its words."""

    def __init__(self, language: str) -> None:
        if language not in LANGUAGES:
            raise InputError(f"no embedded corpus in language {language!r}: expected one of {', '.join(LANGUAGES)}")
        try:
            from babel import Locale, localedata
        except ImportError:
            raise InputError(
                "the embedded corpus is made from Babel's CLDR data, which is missing: pip install babel"
            ) from None
        self.language = language
        self.plural_form = Locale.parse(language).plural_form
        self.cldr: Any = localedata.LocaleDataDict(_unshared(localedata, language))
        self.rendered: dict[Clause, str] = {}

    def sentence(self, fact: Fact) -> str:
        """The fact as one line of text."""
        return self.joined([self.phrase(clause) for clause in fact.clauses], fact.style) + FULL_STOPS.get(self.language, ".")

    def phrase(self, clause: Clause) -> str:
        """One clause in words; remembered."""
        text = self.rendered.get(clause)
        if text is None:
            try:
                text = getattr(self, clause.kind)(*clause.items)
            except KeyError as error:
                raise InputError(
                    f"the CLDR data of this Babel lack {error} for {self.language} ({clause.kind} {clause.items}): "
                    "expected those of Babel 2.17 or later; pip install --upgrade babel"
                ) from error
            text = self.rendered[clause] = text.strip()
        return text

    def joined(self, phrases: list[str], style: str) -> str:
        """A CLDR list: "A, B, and C", "A、B或C"."""
        patterns = self.cldr["list_patterns"][style]
        if len(phrases) == 2:
            return patterns["2"].replace("{0}", phrases[0]).replace("{1}", phrases[1])
        text = patterns["start"].replace("{0}", phrases[0]).replace("{1}", phrases[1])
        for phrase in phrases[2:-1]:
            text = patterns["middle"].replace("{0}", text).replace("{1}", phrase)
        return patterns["end"].replace("{0}", text).replace("{1}", phrases[-1])

    def number(self, number: int) -> str:
        """1..99 in the language's own digits."""
        if self.language in HAN_NUMERALS:
            return han_numeral(number)
        zero = ord(ZERO_DIGITS.get(self.language, "0"))
        return "".join(chr(zero + int(digit)) for digit in str(number))

    # One method a clause kind, named like the kind.

    def variety(self, language: str, territory: str) -> str:
        """German (Switzerland)"""
        pattern = WIDE_BRACKETS.get(self.language, "{0} ({1})")
        return pattern.format(self.cldr["languages"][language], self.cldr["territories"][territory])

    def currency_in(self, currency: str, territory: str) -> str:
        """Swiss franc (Germany)"""
        pattern = WIDE_BRACKETS.get(self.language, "{0} ({1})")
        return pattern.format(self.cldr["currency_names"][currency], self.cldr["territories"][territory])

    def zone(self, zone: str) -> str:
        """Japan Standard Time"""
        return self.cldr["meta_zones"][zone]["long"]["standard"]

    def months(self, first: int, last: int) -> str:
        """March – August"""
        formats = self.cldr["interval_formats"]
        parts = (formats["MMMM"] if "M" in formats.get("MMMM", {}) else formats["MMM"])["M"]
        return "".join(
            self._dated(part.replace("MMM", "LLL"), datetime.date(2000, month, 1))
            for part, month in zip(parts, (first, last), strict=True)
        )

    def date(self, ordinal: int) -> str:
        """Sunday, March 17"""
        skeletons = self.cldr["datetime_skeletons"]
        pattern = skeletons["MMMMEd"] if "MMMMEd" in skeletons else skeletons["MMMEd"]
        return self._dated(pattern.pattern, datetime.date.fromordinal(ordinal))

    def quantity(self, unit: str, amount: int) -> str:
        """5 square meters"""
        return self._counted(self._unit(unit, "other"), amount)

    def money(self, currency: str, amount: int) -> str:
        """5 Swiss francs"""
        form = self.plural_form(amount)
        names = self.cldr["currency_names_plural"].get(currency) or {}
        name = names.get(form) or names.get("other") or self.cldr["currency_names"][currency]
        return self._counted(self.cldr["currency_unit_patterns"], amount).replace("{1}", name)

    def rate(self, currency: str, duration: str, amount: int) -> str:
        """5 Swiss francs per week"""
        return self._unit(duration, "per")["per"].replace("{0}", self.money(currency, amount))

    def relative(self, field: str, direction: str, amount: int) -> str:
        """in 3 weeks, 3 weeks ago"""
        return self._counted(self.cldr["date_fields"][field][direction], amount)

    def _unit(self, unit: str, entry: str) -> Any:
        """A unit's long patterns or, where CLDR leaves those to inheritance, its short ones."""
        lengths = self.cldr["unit_patterns"][unit]
        return lengths["long"] if "long" in lengths and entry in lengths["long"] else lengths["short"]

    def _counted(self, patterns: Any, amount: int) -> str:
        """The pattern of the amount's plural form, with the amount in it."""
        form = self.plural_form(amount)
        return (patterns[form] if form in patterns else patterns["other"]).replace("{0}", self.number(amount))

    def _dated(self, pattern: str, day: datetime.date) -> str:
        """A CLDR date pattern with every month and weekday written out (M alone stays a number)."""

        def field(match: re.Match[str]) -> str:
            letters = match.group()
            if letters[0] == "'":
                return match.group(1)
            if letters[0] in "Ec":
                return self.cldr["days"]["format"]["wide"][day.weekday()]
            if letters[0] == "d":
                return self.number(day.day)
            if len(letters) < 3:
                return self.number(day.month)
            return self.cldr["months"]["format" if letters[0] == "M" else "stand-alone"]["wide"][day.month]

        return _FIELD.sub(field, pattern)


def _unshared(localedata: Any, language: str) -> Any:
    """A copy of one locale's data that no other locale shares: loaded without Babel's cache, which stays unchanged."""
    cache = getattr(localedata, "_cache", {})  # private: a Babel without it is taken as it is
    kept = dict(cache)
    cache.clear()
    try:
        return localedata.load(language)
    finally:
        cache.clear()
        cache.update(kept)


@functools.cache
def phrasebook(language: str) -> Phrasebook:
    """The one phrasebook of a language."""
    return Phrasebook(language)
