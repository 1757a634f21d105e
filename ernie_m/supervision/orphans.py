"""Processes of a job on this machine: found by their exact arguments, ended when they outlived their launcher.

`python -m ernie_m.supervision.orphans PROGRAM RUN` ends those of the machine it runs on; the supervisor calls it over ssh.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from itertools import pairwise
from pathlib import Path

from ernie_m.runs.job_defaults import TRAINING

SUPERVISORS = ("supervise.py", "ernie_m.commands.supervise")
"""A script, by its name in any folder, and a module."""
PROGRAMS = ("ernie-m", "ernie_m", "__main__.py")
"""What a word `supervise` follows where it is a supervisor's command."""


def processes_of(program: str | Path, run: Path) -> list[int]:
    """Ids of processes here that have exactly this program and this --run on their command line: ranks and launchers.

    program: path of a script, or TRAINING, a module. Paths are compared resolved, each against its process's own
    working folder. Supervisors (and what wraps them) have the same words on their command lines and are no part of the job.
    """
    found = []
    ours = _this_process_and_those_above()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = [os.fsdecode(word) for word in (process / "cmdline").read_bytes().split(b"\0")]
            if _is_supervisor(words):
                continue
            folder = Path(os.readlink(process / "cwd"))
            runs = [after for word, after in pairwise(words) if word == "--run"]
            runs += [word.removeprefix("--run=") for word in words if word.startswith("--run=")]
            if _any_is(runs, run, folder) and _runs(words, str(program), folder) and int(process.name) not in ours:
                found.append(int(process.name))
    return found


def end_orphans(program: str | Path, run: Path) -> list[int]:
    """kill -9 what is left of a job on this machine; returns the ids."""
    found = processes_of(program, run)
    for process in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return found


def members_of_group(group: int) -> list[int]:
    """Ids of the living processes of a process group; zombies do not count."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, group_of_it = _stat(process.name)[:3]
            if int(group_of_it) == group and state not in "ZX":
                found.append(int(process.name))
    return found


def _is_supervisor(words: list[str]) -> bool:
    by_command = ((Path(before).name, word) for before, word in pairwise(words))
    return any(Path(word).name in SUPERVISORS for word in words) or any(
        before in PROGRAMS and word == "supervise" for before, word in by_command
    )


def _runs(words: list[str], program: str, folder: Path) -> bool:
    """Whether the program is among the words: a module by its name, a script by its path."""
    if program == TRAINING:
        return program in words
    return _any_is([word for word in words if Path(word).name == Path(program).name], Path(program), folder)


def _this_process_and_those_above() -> set[int]:
    """Ids of this process and its ancestors: a script around the supervisor may have the same words as arguments."""
    found, process = set(), os.getpid()
    while process:
        found.add(process)
        process = int(_stat(process)[1])
    return found


def _stat(process: int | str) -> list[str]:
    """State, parent, group, ... of a process, as in /proc/PID/stat behind the name. Raises OSError when it is gone."""
    return (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()


def _any_is(words: list[str], path: Path, folder: Path) -> bool:
    wanted = os.path.realpath(path)
    return any(os.path.realpath(folder / word) == wanted for word in words)


if __name__ == "__main__":
    print(*end_orphans(sys.argv[1], Path(sys.argv[2])))
