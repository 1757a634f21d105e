"""Reads structs of Thrift's compact protocol (https://github.com/apache/thrift, doc/specs/thrift-compact-protocol.md).

Only what is wanted is kept, so that a long struct of a stranger takes no more memory than its bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

DEEPEST = 12
TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
INTEGERS = (4, 5, 6)

Wanted = Mapping[int, Any]
"""Fields of a struct to keep -> what to keep of their own fields, where they are structs or lists of such."""


class DamagedError(Exception):
    """What stands there is no such struct."""


class Compact:
    """Reads one value after the other; DamagedError where none stands."""

    def __init__(self, content: bytes | memoryview) -> None:
        self._content = content
        self.place = 0

    def fields(self) -> Iterator[tuple[int, int]]:
        """(number, kind) of each field of a struct. Whoever takes one reads its value before the next."""
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            yield number, head & 15

    def kinds(self, kind: int) -> Iterator[int]:
        """The kind of each value of a list, or of each key and value of a map, to be read likewise."""
        if kind == MAP:
            count = self.natural()
            both = self._byte() if count else 0
            for _ in range(count):
                yield both >> 4
                yield both & 15
        elif kind in (LIST, SET):
            head = self._byte()
            for _ in range(head >> 4 if head >> 4 != 15 else self.natural()):
                yield head & 15
        else:
            raise DamagedError

    def struct(self, wanted: Wanted, depth: int = 0) -> dict[int, Any]:
        """Field -> value, of those that are wanted."""
        if depth > DEEPEST:
            raise DamagedError
        found = {}
        for number, kind in self.fields():
            value = kind == TRUE if kind in (TRUE, FALSE) else self.value(kind, wanted.get(number), depth)
            if number in wanted:
                found[number] = value
        return found

    def value(self, kind: int, wanted: Wanted | None = None, depth: int = 0) -> Any:
        """A value, or whatever of one that is not wanted."""
        if kind in INTEGERS:
            return self._integer()
        if kind == STRUCT:
            return self.struct(wanted or {}, depth + 1)
        if kind in (BINARY, DOUBLE):
            return self.take(8 if kind == DOUBLE else self.natural())
        if kind in (TRUE, FALSE, BYTE):
            return self._byte()
        if depth > DEEPEST:
            raise DamagedError
        values = (self.value(one, wanted, depth + 1) for one in self.kinds(kind))
        return list(values) if wanted is not None else deque(values, maxlen=0)

    def _byte(self) -> int:
        if self.place >= len(self._content):
            raise DamagedError
        self.place += 1
        return self._content[self.place - 1]

    def take(self, length: int) -> Any:
        start, self.place = self.place, self.place + length
        if self.place > len(self._content):
            raise DamagedError
        return self._content[start : self.place]

    def natural(self) -> int:
        value, shift = 0, 0
        while (byte := self._byte()) > 127:
            value |= (byte & 127) << shift
            shift += 7
            if shift > 63:
                raise DamagedError
        return value | byte << shift

    def _integer(self) -> int:
        value = self.natural()
        return (value >> 1) ^ -(value & 1)
