"""Values of a catalog's keys, each checked where it is read: an InputError says the key, the value and what was expected."""

from __future__ import annotations

from typing import Any

from data_prep.limits import Limits
from ernie_m.base.command_line import nearest
from ernie_m.base.config import build
from ernie_m.base.console import InputError

MOST_CHARACTERS = 10**9  # offsets in Arrow's texts are 32 bits
SHOWN = 200  # characters of a wrong value


def refuse_unknown(entry: dict[Any, Any], allowed: list[str], where: str) -> None:
    """Raise InputError for a key that is not allowed."""
    for key in entry:
        if key not in allowed:
            hint = nearest(str(key), allowed) or ","
            raise InputError(f"{where}: unknown key `{key}`{hint} expected only {', '.join(allowed)}")


def number(entry: dict[str, Any], key: str, default: float, bounds: tuple[float, float], where: str) -> float:
    """A number within `bounds`, ends included."""
    value = entry.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not bounds[0] <= value <= bounds[1]:
        raise InputError(f"{where}: {key} is {shown(value)}, expected a number from {bounds[0]:g} to {bounds[1]:g}")
    return float(value)


def whole(entry: dict[str, Any], key: str, default: int, where: str) -> int:
    """A whole number from 1 on."""
    value = entry.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_CHARACTERS:
        raise InputError(f"{where}: {key} is {shown(value)}, expected a whole number from 1 to {MOST_CHARACTERS}")
    return value


def text(entry: dict[str, Any], key: str, default: str, where: str) -> str:
    """A text that is not empty."""
    value = entry.get(key, default)
    if not isinstance(value, str) or not value:
        raise InputError(f"{where}: {key} is {shown(value)}, expected a name such as {default}")
    return value


def choice(entry: dict[str, Any], key: str, choices: tuple[str, ...], where: str) -> str:
    """One of some words, the first by default."""
    value = entry.get(key, choices[0])
    if value not in choices:
        raise InputError(f"{where}: {key} is {shown(value)}, expected {', '.join(choices[:-1])} or {choices[-1]}")
    return str(value)


def flag(entry: dict[str, Any], key: str, where: str, more: str = "") -> bool:
    """True or false; `more`: what else is allowed, for the message."""
    value = entry.get(key, False)
    if not isinstance(value, bool):
        raise InputError(f"{where}: {key} is {shown(value)}, expected true or false{more}")
    return value


def limits(entry: dict[str, Any], where: str) -> Limits:
    """How far the files of a corpus are believed."""
    value = entry.get("limits", {})
    if not isinstance(value, dict):
        raise InputError(f"{where}: limits is {shown(value)}, expected a mapping such as {{expansion: 5000}}")
    return build(Limits, value, where, "limits.")


def shown(value: Any) -> str:
    """A value, for a message."""
    text = "missing" if value is None else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
