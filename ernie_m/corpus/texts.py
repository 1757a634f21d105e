"""Lines of text that a person names: all lines of a file, in their places, or those that a vocabulary is fitted to.

A line ends at the line feed alone, since text may hold U+2028 and the like. A carriage return before it and a byte order
mark at the beginning are the editor's, not the text's. A file whose name ends in `.gz` or `.xz` is unpacked.
"""

from __future__ import annotations

import contextlib
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ernie_m.base.console import InputError

OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}


@contextlib.contextmanager
def damage_named(path: object, kind: str, of_its_library: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn each error of a damaged packed file into one InputError that names it; `of_its_library`: further such errors."""
    damage: tuple[type[Exception], ...] = (EOFError, lzma.LZMAError, zlib.error, *of_its_library)
    try:
        yield
    except damage as error:
        reason = str(error)
    except OSError as error:
        if error.errno is not None:  # the disk's; gzip and bz2 tell damage without a number
            raise
        reason = str(error)
    else:
        return
    raise InputError(f"{path}: truncated, damaged or no {kind} file ({reason}); download it again")


@contextlib.contextmanager
def unpacked(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a text file, of its content where it is packed. Raises InputError for a packed one that is damaged."""
    with damage_named(path, path.suffix), OPENERS.get(path.suffix, open)(path, "rb") as file:
        yield file


def read_lines(path: Path, expected: str = "text, a sentence a line") -> list[str]:
    """The lines of a file, or of a pipe that the shell made, without their ends. `expected` is told where there is none.

    Raises InputError for a file that is missing, a folder, damaged, or not UTF-8.
    """
    if path.is_dir():
        raise InputError(f"{path}: a folder; expected a file of {expected}")
    try:
        with unpacked(path) as file:
            return lines_of(file.read(), str(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected {expected}") from None


def lines_of(content: bytes, name: str) -> list[str]:
    """The lines of a text without their ends. Raises InputError for one that is not UTF-8, with its name and the line."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{name}, line {line}: not UTF-8; convert the text (a packed one is read as .gz or .xz)") from None
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


@dataclass(frozen=True)
class FileLines:
    """The lines of a text file that are not empty, read anew each time.

    Raises InputError for a file that is missing, broken or not UTF-8.
    """

    path: Path

    def __iter__(self) -> Iterator[str]:
        number = 0
        try:
            with unpacked(self.path) as file:
                for line in file:
                    number += 1
                    if text := line.decode("utf-8" if number > 1 else "utf-8-sig").strip():
                        yield text
        except UnicodeDecodeError:
            raise InputError(f"{self.path}, line {number}: not UTF-8; convert the file") from None
        except (FileNotFoundError, IsADirectoryError):
            raise InputError(f"{self.path}: no such file; expected text, one a line") from None


@dataclass(frozen=True)
class Text:
    """A text and the name it has in tables, say a language code. `lines` can be gone through again and again."""

    name: str
    lines: Iterable[str]

    @staticmethod
    def of_file(path: str | Path) -> Text:
        """The lines of a file, under its path."""
        return Text(str(path), FileLines(Path(path).expanduser()))
