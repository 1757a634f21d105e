"""YAML as plain values, with an end: no objects, no levels without number, no aliases that unfold to millions of values."""

from __future__ import annotations

from typing import Any

import yaml

MOST_CHARACTERS = 1 << 21
MOST_LEVELS = 50
MOST_VALUES = 10**5
"""With those that aliases stand for, each time that they do."""


MOST_DIGITS = 1_000
SHOWN = 80
MERGE = "tag:yaml.org,2002:merge"


class PlainLoader(yaml.SafeLoader):
    """A SafeLoader that raises YAMLError at a key given twice, and beyond the limits before anything is made of the text."""

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
        if isinstance(node, yaml.MappingNode) and not is_alias:
            _refuse_twice(node)
        if is_alias and id(node) not in self._sizes:
            raise yaml.composer.ComposerError(None, None, "an alias of what it stands in", mark)
        self._num_values += self._sizes[id(node)] if is_alias else 1
        self._sizes.setdefault(id(node), self._num_values - before)
        if self._num_values > MOST_VALUES:
            raise yaml.composer.ComposerError(None, None, f"more than {MOST_VALUES:,} values, aliases unfolded", mark)
        return node

    def construct_yaml_int(self, node: Any) -> int:
        if len(node.value) > MOST_DIGITS:
            raise yaml.constructor.ConstructorError(None, None, f"a number of {len(node.value):,} digits", node.start_mark)
        return int(super().construct_yaml_int(node))


def _refuse_twice(node: yaml.MappingNode) -> None:
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
            if (key.tag, key.value) in seen:
                raise yaml.composer.ComposerError(
                    None, None, f"the key `{key.value[:SHOWN]}` is given twice", key.start_mark
                )
            seen.add((key.tag, key.value))


PlainLoader.add_constructor("tag:yaml.org,2002:int", PlainLoader.construct_yaml_int)


def load_yaml(text: str) -> Any:
    """The content of a YAML text. Raises yaml.YAMLError, or ValueError for what looks like a date and is none."""
    try:
        return yaml.load(text, PlainLoader)  # a SafeLoader
    except OverflowError as error:  # 59:59:59:... is a number in base 60
        raise yaml.YAMLError(str(error)) from None
