"""The result of a check of one host, and helpers that read hosts' answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """A cell of the table; `problems` are (what is wrong, what to do) pairs, `notes` are harmless ones."""

    text: str
    problems: tuple[tuple[str, str], ...] = ()
    notes: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def wrong(message: str, remedy: str, text: str = "") -> Finding:
        """A finding of one problem."""
        return Finding(text, ((message, remedy),))


@dataclass(frozen=True)
class Problem:
    """Something wrong on these hosts (none: with the job as a whole)."""

    hosts: tuple[str, ...]
    message: str
    remedy: str

    def __str__(self) -> str:
        where = f"{', '.join(self.hosts)}: " if self.hosts else ""
        return f"{where}{self.message}; {self.remedy}"


def fact(result: Mapping[str, Any], key: str) -> Any:
    return result.get("facts", {}).get(key)


def usual(values: Iterable[Any]) -> Any:
    """The most frequent value, the first of several; None if there is none."""
    counted = Counter(value for value in values if value is not None)
    return counted.most_common(1)[0][0] if counted else None
