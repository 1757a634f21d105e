"""Text that a vocabulary is fitted to: lines of a file, or lines in memory, under a name."""

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


@dataclass(frozen=True)
class FileLines:
    """The lines of a text file that are not empty, read anew each time; `.gz` and `.xz` are unpacked.

    A line ends at the line feed alone. Raises InputError for a file that is missing, broken or not UTF-8.
    """

    path: Path

    def __iter__(self) -> Iterator[str]:
        number = 0
        try:
            with damage_named(self.path, self.path.suffix), self._opened() as file:
                for line in file:
                    number += 1
                    if text := line.decode("utf-8").strip():
                        yield text
        except UnicodeDecodeError:
            raise InputError(f"{self.path}, line {number}: not UTF-8; convert the file") from None
        except (FileNotFoundError, IsADirectoryError):
            raise InputError(f"{self.path}: no such file; expected text, one a line") from None

    def _opened(self) -> IO[bytes]:
        file: IO[bytes] = OPENERS.get(self.path.suffix, open)(self.path, "rb")
        return file


@dataclass(frozen=True)
class Text:
    """A text and the name it has in tables, say a language code. `lines` can be gone through again and again."""

    name: str
    lines: Iterable[str]

    @staticmethod
    def of_file(path: str | Path) -> Text:
        """The lines of a file, under its path."""
        return Text(str(path), FileLines(Path(path).expanduser()))
