"""Which numbers make sense: each number is declared with its range, which is checked wherever a value comes in.

    peak_learning_rate: Annotated[float, Range(above=0, most=10)] = 2e-4
    gradient_clipping: Annotated[float, Range(least=0, most=1e6, zero="no clipping")] = 1.0

A range has two ends. Below the lower one a value makes no sense; 0 is allowed only where `zero` says what it does. The upper
end is no advice; it is far above all use. A larger value is a typing error, or breaks something else later (memory, int32
indices, a wait of years). Infinity and NaN are in no range.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from ernie_m.base.console import InputError


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from `least` or above `above`, to `most` or below `below`. If `zero` says what 0 does, 0 is allowed too."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    zero: str = ""

    def __post_init__(self) -> None:
        assert (self.least is None) != (self.above is None), "one lower end"
        assert (self.most is None) != (self.below is None), "one upper end"
        assert not self._has(0) or self.zero, "0 is let in for a reason"

    def holds(self, value: Any) -> bool:
        """Whether `value` is a number in here."""
        if isinstance(value, bool) or not isinstance(value, Real):
            return False
        return self._has(value) or (value == 0 and bool(self.zero))

    def _has(self, value: Any) -> bool:
        rises = value >= self.least if self.least is not None else value > self.above
        return bool(rises and (value <= self.most if self.most is not None else value < self.below))

    def expected(self, is_whole: bool) -> str:
        """In words: 'a whole number from 1 to 1,000', 'a number above 0 and below 1, or 0 (no dropout)'."""
        low = f"from {shown(self.least)}" if self.least is not None else f"above {shown(self.above)}"
        up_to = " to" if self.least is not None else ", up to"
        high = f"{up_to} {shown(self.most)}" if self.most is not None else f" and below {shown(self.below)}"
        zero = (f"; 0: {self.zero}" if self._has(0) else f", or 0 ({self.zero})") if self.zero else ""
        return f"a {'whole ' * is_whole}number {low}{high}{zero}"


def shown(value: float | None) -> str:
    """1000000 -> '1,000,000'; 1e-05 -> '1e-05'."""
    return f"{int(value):,}" if value is not None and value == int(value) and abs(value) < 1e16 else f"{value:g}"


def described(hint: Any) -> tuple[Any, Range | None]:
    """The bare type of a type hint and its range, through Annotated and `| None`."""
    if typing.get_origin(hint) is typing.Annotated:
        base, *marks = typing.get_args(hint)
        return base, next((mark for mark in marks if isinstance(mark, Range)), None)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
        return described(parts[0]) if len(parts) == 1 else (hint, None)
    return hint, None


def number_of(text: str, hint: Any, name: str) -> str:
    """The number in `text`, from a command line, as type `hint`; raises InputError for no number, or one out of range."""
    base, allowed = described(hint)
    if allowed is None:
        return text
    try:
        value = base(text)
    except (ValueError, OverflowError):
        value = None
    if not allowed.holds(value):
        raise InputError(f"{name} {text}: expected {allowed.expected(base is int)}")
    return repr(value)


def faults(value: Any, hint: Any, key: str) -> Iterator[str]:
    """'key: value; expected ...' for each number in `value` that is out of its range, also inside lists and mappings."""
    base, allowed = described(hint)
    arguments = typing.get_args(base)
    if value is None:
        return
    if typing.get_origin(base) is dict and isinstance(value, Mapping):
        for name, item in value.items():
            yield from faults(item, arguments[1], f"{key}.{name}")
    elif typing.get_origin(base) is tuple and isinstance(value, tuple | list):
        for number, item in enumerate(value):
            yield from faults(item, arguments[0], f"{key}[{number}]")
    elif allowed is not None and not (allowed.holds(value) and (base is not int or isinstance(value, Integral))):
        yield f"{key}: {value!r}; expected {allowed.expected(base is int)}"
