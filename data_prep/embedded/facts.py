"""Language-independent facts: fact i is a pure function of (seed, i), made of CLDR codes and numbers, without a word.

1. `Draws` turns (seed, i) into as many small random numbers as a fact needs: one BLAKE2 digest, no generator state.
2. A `Clause` is one phrase in the abstract: a kind and its codes, e.g. ("variety", ("de", "CH")).
3. A `Fact` is two or three clauses and the way they are joined.

    fact(0, 5) -> ("variety", ("sv", "EG")), ("quantity", ("length-kilometer", 10))

The code lists are short on purpose: a word must come back often enough to be learned from a few ten thousand pairs, and a
sentence holds enough of them to be told from a thousand others. They favour names that differ from language to language
(Deutschland, Allemagne, Ujerumani) over those that look alike everywhere (Panama): a model that has learned nothing must
not find translations by spelling. All of them have names in every language of `LANGUAGES`.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from typing import NamedTuple, TypeVar


def _codes(text: str) -> tuple[str, ...]:
    return tuple(text.split())


TERRITORIES = _codes("AT BE BR CH CN CZ DE DK EG ES FI FR GB GR HU IN JP KR NL NO PL SE TR US")
LANGUAGE_NAMES = _codes("ar cs da de el en es fi fr hu ja ko nl pl ru sv tr zh")
CURRENCIES = _codes("CHF CZK EUR GBP HUF INR JPY PLN RUB USD")
UNITS = (
    "area-square-meter",
    "duration-century",
    "duration-minute",
    "duration-night",
    "length-kilometer",
    "length-light-year",
    "mass-kilogram",
    "mass-tonne",
    "volume-barrel",
    "volume-liter",
)
ZONES = _codes("Africa_Western America_Central Arabian Australia_Eastern China Europe_Central Japan Moscow")
PER_DURATIONS = ("duration-hour", "duration-day", "duration-week", "duration-month", "duration-year")
RELATIVE_FIELDS = ("day", "week", "month", "quarter", "year")
AMOUNTS = (3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20)
"""Without 1 and 2, which several languages write as words of their own (Chinese even with a special one before units)."""

WORD_KINDS = ("variety", "variety", "variety", "zone", "months", "currency_in")
NUMBER_KINDS = ("date", "quantity", "money", "rate", "relative")
Code = TypeVar("Code")
_FIRST_DAY = datetime.date(2000, 1, 1).toordinal()
_NUM_DAYS = 28 * 365 + 7
"""Twenty-eight years: every weekday meets every day of the year."""


class Draws:
    """Uniform small numbers from one digest of the key: the same key, the same numbers, on every machine."""

    def __init__(self, *key: object) -> None:
        digest = hashlib.blake2b(":".join(map(str, key)).encode(), digest_size=64).digest()
        self.pool = int.from_bytes(digest, "big")

    def below(self, end: int) -> int:
        """A number in 0..end-1."""
        assert self.pool >= end << 64, "too many draws from one digest"
        self.pool, number = divmod(self.pool, end)
        return number

    def one_of(self, choices: Sequence[Code]) -> Code:
        """An element of `choices`."""
        return choices[self.below(len(choices))]


class Clause(NamedTuple):
    """One phrase in the abstract: what kind it is, and the codes and numbers that fill it."""

    kind: str
    items: tuple


class Fact(NamedTuple):
    """A sentence in the abstract: its clauses in order, and the CLDR list style ("standard" or "or") that joins them."""

    clauses: tuple[Clause, ...]
    style: str


def fact(seed: int, index: int) -> Fact:
    """Fact `index` of the endless list that `seed` stands for."""
    draws = Draws("fact", seed, index)
    kinds = [draws.one_of(WORD_KINDS) for _ in range(1 + (draws.below(4) == 0))]
    kinds.append(draws.one_of(NUMBER_KINDS))
    for last in range(len(kinds) - 1, 0, -1):  # Fisher and Yates
        other = draws.below(last + 1)
        kinds[last], kinds[other] = kinds[other], kinds[last]
    clauses = tuple(_clause(kind, draws) for kind in kinds)
    return Fact(clauses, "or" if draws.below(4) == 0 else "standard")


def _clause(kind: str, draws: Draws) -> Clause:
    """A clause of one kind, with items drawn for it."""
    if kind == "variety":
        return Clause(kind, (draws.one_of(LANGUAGE_NAMES), draws.one_of(TERRITORIES)))
    if kind == "zone":
        return Clause(kind, (draws.one_of(ZONES),))
    if kind == "currency_in":
        return Clause(kind, (draws.one_of(CURRENCIES), draws.one_of(TERRITORIES)))
    if kind == "months":
        first = draws.below(12)
        return Clause(kind, (first + 1, (first + 1 + draws.below(11)) % 12 + 1))
    if kind == "date":
        return Clause(kind, (_FIRST_DAY + draws.below(_NUM_DAYS),))
    amount = draws.one_of(AMOUNTS)
    if kind == "quantity":
        return Clause(kind, (draws.one_of(UNITS), amount))
    if kind == "money":
        return Clause(kind, (draws.one_of(CURRENCIES), amount))
    if kind == "rate":
        return Clause(kind, (draws.one_of(CURRENCIES), draws.one_of(PER_DURATIONS), amount))
    assert kind == "relative", kind
    return Clause(kind, (draws.one_of(RELATIVE_FIELDS), draws.one_of(("past", "future")), amount))
