"""YAML as plain values, with an end: no objects, no levels without number, no aliases that unfold to millions of values."""

from __future__ import annotations

from typing import Any

import yaml

MOST_CHARACTERS = 1 << 24
MOST_LEVELS = 50
MOST_VALUES = 10**6
"""With those that aliases stand for, each time that they do."""


class PlainLoader(yaml.SafeLoader):
    """A SafeLoader that raises YAMLError at a text beyond the limits, before anything is made of it."""

    def __init__(self, stream: str) -> None:
        if len(stream) > MOST_CHARACTERS:
            raise yaml.YAMLError(f"{len(stream):,} characters, expected at most {MOST_CHARACTERS:,}")
        super().__init__(stream)
        self._level = self._num_values = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        is_alias = self.check_event(yaml.AliasEvent)
        before = self._num_values
        self._level += 1
        if self._level > MOST_LEVELS:
            raise yaml.composer.ComposerError(None, None, f"more than {MOST_LEVELS} levels", mark)
        node = super().compose_node(parent, index)
        self._level -= 1
        if is_alias and id(node) not in self._sizes:
            raise yaml.composer.ComposerError(None, None, "an alias of what it stands in", mark)
        self._num_values += self._sizes[id(node)] if is_alias else 1
        self._sizes.setdefault(id(node), self._num_values - before)
        if self._num_values > MOST_VALUES:
            raise yaml.composer.ComposerError(None, None, f"more than {MOST_VALUES:,} values, aliases unfolded", mark)
        return node


def load_yaml(text: str, loader: type[PlainLoader] = PlainLoader) -> Any:
    """The content of a YAML text. Raises yaml.YAMLError, or ValueError for what looks like a date and is none."""
    return yaml.load(text, loader)  # a SafeLoader
