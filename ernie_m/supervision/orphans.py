"""Processes of a job on this machine: found by their exact arguments, ended when they outlived their launcher.

`python -m ernie_m.supervision.orphans SCRIPT RUN` ends those of the machine it runs on; the supervisor calls it over ssh.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from itertools import pairwise
from pathlib import Path

SUPERVISOR = "supervise.py"


def processes_of(script: Path, run: Path) -> list[int]:
    """Ids of processes here that have exactly this script and this --run on their command line: ranks and launchers.

    Paths are compared resolved, each against its process's own working folder. Supervisors (and what wraps them) have
    the same words on their command lines and are no part of the job.
    """
    found = []
    ours = _this_process_and_those_above()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = [os.fsdecode(word) for word in (process / "cmdline").read_bytes().split(b"\0")]
            if any(Path(word).name == SUPERVISOR for word in words):
                continue
            folder = Path(os.readlink(process / "cwd"))
            runs = [after for word, after in pairwise(words) if word == "--run"]
            runs += [word.removeprefix("--run=") for word in words if word.startswith("--run=")]
            scripts = [word for word in words if Path(word).name == script.name]
            if _any_is(runs, run, folder) and _any_is(scripts, script, folder) and int(process.name) not in ours:
                found.append(int(process.name))
    return found


def end_orphans(script: Path, run: Path) -> list[int]:
    """kill -9 what is left of a job on this machine; returns the ids."""
    found = processes_of(script, run)
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
    print(*end_orphans(Path(sys.argv[1]), Path(sys.argv[2])))
