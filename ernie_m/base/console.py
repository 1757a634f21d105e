"""What a person at a terminal sees: one clear line for a mistake, progress with an ETA, a reason for each choice."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn, TextIO

from ernie_m.base.launchers import local_rank_of, rank_of

EXIT_STOPPED = 75
"""Saved and stopped on request (a signal, --exit_after): the same command goes on (EX_TEMPFAIL of sysexits.h)."""
EXIT_PEER_LOST = 76
"""Another rank died or hung; the newest checkpoint is whole."""


FIRST_SPEAKS = 10.0
"""Seconds that rank 0 has to print what all ranks refuse, before another does."""
NEXT_SPEAKS = 2.0
"""Seconds that each rank of a host has before the next one; a launcher looks every second for one that has ended."""


_NOT_PRINTABLE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but for tab and newline, marks that turn the direction of writing, halves of characters."""


MOST_TOLD = 8000
"""Characters of an error: what a stranger's file says in it may be long."""


def printable(text: str) -> str:
    """The text, with an escape for each character that would move the cursor, colour the terminal or turn a line around."""
    return _NOT_PRINTABLE.sub(lambda found: found.group().encode("unicode_escape", "surrogatepass").decode(), text)


def is_unicode(text: str) -> bool:
    """Whether the text has no half of a character (a lone surrogate): JSON may write one, no encoding can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class InputError(ValueError):
    """The user's mistake: the message says what is wrong, where, what was expected and the way out, in one line.

    With several ranks rank 0 prints it, and its launcher then ends the others; who is not ended prints it later. `only_here`
    says that other ranks do not meet this mistake: then the rank that meets it prints it at once. What a stranger's file or
    server says in it is printable.
    """

    def __init__(self, message: str, only_here: bool = False) -> None:
        super().__init__(printable(message if len(message) <= MOST_TOLD else f"{message[:MOST_TOLD]} ..."))
        self.only_here = only_here


@dataclass(frozen=True)
class Choice:
    """An automatic choice and its reason, e.g. Choice("attention", "sdpa", "no CUDA device; flex needs sm80")."""

    subject: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.value} ({self.reason})"


class SurvivingOutput:
    """A text stream that becomes /dev/null when its reader is gone: a rank must not die because it prints.

    When DeepSpeed's launcher is stopped, the ssh connection that ranks on other hosts write to ends too.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        self._stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - to the end of the process

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one line to stderr and exit."""
    print("error: " + printable(" ".join(message.split())), file=sys.stderr, flush=True)
    raise SystemExit(code)


def run_cleanly(main: Callable[[], object]) -> None:
    """Call `main`; an InputError becomes one line and exit code 2, a full disk or missing file one line and 3."""
    try:
        main()
    except InputError as error:
        rank = rank_of(os.environ)
        if rank and not error.only_here:
            with suppress(ValueError):  # outside the main thread
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
            # A launcher ends its ranks with the first one that ends. Whoever is still here met what rank 0 did not: its
            # host lacks a folder, for example.
            time.sleep(FIRST_SPEAKS + NEXT_SPEAKS * local_rank_of(os.environ))
        fail(f"rank {rank}: {error}" if rank else f"{error}")
    except OSError as error:
        fail(f"{error.filename or 'input/output'}: {reason_of(error)}", 3)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        rank, what = rank_of(os.environ), " ".join(str(error).split())[:200]
        fail(
            f"rank {rank}: out of memory ({type(error).__name__}{f': {what}' if what else ''}); take fewer rows at a time "
            "(batch.micro_batch_rows in pre-training, micro_batch in fine-tuning) or more memory",
            3,
        )
    except KeyboardInterrupt:
        fail("interrupted", 130)


_NO_MEMORY = ("out of memory", "can't allocate memory", "could not create a primitive", "cannot allocate memory")
"""Words of torch, oneDNN and the C library for an allocation that failed."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the host or on a device."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY)


def reason_of(error: OSError) -> str:
    """Why the file system refused.

    For a symbolic link to nowhere, and for a file in the place of a folder, the system's own text says that the file exists.
    """
    name = error.filename
    if isinstance(error, FileExistsError) and name and os.path.islink(name) and not os.path.exists(name):
        return f"a symbolic link to {os.readlink(name)}, which is not there; make that folder, or mount its disk"
    if isinstance(error, NotADirectoryError) or (isinstance(error, FileExistsError) and name and os.path.isfile(name)):
        return "a file is in the way, expected a folder; give another path, or move the file"
    return f"{error.strerror or error}"


def duration(seconds: float) -> str:
    """71 -> '1m11s'; 3700 -> '1h01m'."""
    whole = int(max(0.0, seconds))
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


class Progress:
    """A line that says how far a job is: on a terminal rewritten in place, elsewhere a fresh line now and then."""

    def __init__(self, what: str, total: int | None, unit: str, stream: TextIO | None = None, every: float = 5.0) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.stream = stream or sys.stderr
        self.is_terminal = self.stream.isatty()
        self.every = 0.2 if self.is_terminal else every
        self.started = self.shown = time.monotonic()
        self.done = 0
        self._first: tuple[int, float] | None = None

    def advance(self, amount: int, note: str = "") -> None:
        """Count `amount` more units; prints at most every `every` seconds."""
        self.done += amount
        now = time.monotonic()
        if self._first is None:
            self._first = self.done, now
        if now - self.shown >= self.every:
            self.shown = now
            self._print(note, now)

    def close(self, note: str = "") -> None:
        """Print the final state, if a line was printed before or the job was long."""
        now = time.monotonic()
        if self.is_terminal or now - self.started >= self.every:
            self._print(note, now, end="\n")

    def _print(self, note: str, now: float, end: str = "") -> None:
        rate = self.done / max(now - self.started, 1e-9) if end else self._rate(now)
        text = f"{self.what}: {self.done:,}"
        if self.total:
            text += f"/{self.total:,} {self.unit} ({100 * self.done / self.total:.0f} %)"
            text += f", ETA {duration((self.total - self.done) / rate)}" if rate else ""
        else:
            text += f" {self.unit}, {duration(now - self.started)}"
        text += (f", {rate:,.0f} {self.unit}/s" if rate else "") + f" {note}".rstrip()
        if self.is_terminal:
            self.stream.write("\r\x1b[K" + text + end)
        else:
            self.stream.write(text + "\n")
        self.stream.flush()

    def _rate(self, now: float) -> float:
        """Units a second behind the first count, which holds what is done once: compiling, an earlier run; 0: unknown."""
        done, since = self._first or (0, self.started)
        return (self.done - done) / max(now - since, 1e-9)
