"""Benchmarks that every variant of a comparison is fine-tuned on by `ernie-m finetune`."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ernie_m.ablation.jobs import python_m
from ernie_m.base.command_line import listed, words_in
from ernie_m.base.console import InputError

OF_THE_COMPARISON = ("--model", "--data", "--to", "--check", "--help")
"""Options of `ernie-m finetune` that are not for --finetune_options."""


@dataclass(frozen=True)
class FineTuning:
    """A benchmark that every variant is fine-tuned on: command of `ernie-m finetune`, its data, more options."""

    task: str
    data: Path
    options: tuple[str, ...] = ()

    def command(self, model: Path, to: Path) -> tuple[str, ...]:
        """Fine-tunes `model`."""
        words = ("--model", model, "--data", self.data, "--to", to)
        return (*python_m("ernie_m", "finetune", self.task, *words), *self.options)


def fine_tunings(text: str | None, options: str) -> tuple[FineTuning, ...]:
    """'xnli=DIR,ner=DIR' and options for all of them; raises InputError for anything else."""
    found: dict[str, FineTuning] = {}
    words = words_in(options, "--finetune_options")
    if taken := [word for word in words if word.partition("=")[0] in OF_THE_COMPARISON]:
        raise InputError(f"--finetune_options {taken[0]}: the comparison says it of each run; leave it out")
    expected = "TASK=FOLDER with the benchmark's files, e.g. xnli=data/xnli"
    for part in listed("finetune", text, expected):
        task, equals, data = part.partition("=")
        if not equals or not Path(data).is_dir():
            raise InputError(f"--finetune {part}: expected {expected}")
        if task in found:
            raise InputError(f"--finetune {part}: a second folder for {task}; expected one a task")
        found[task] = FineTuning(task, Path(data).resolve(), words)
    if words and not found:
        raise InputError("--finetune is missing: expected TASK=FOLDER, which --finetune_options are for")
    return tuple(found.values())


def check(tunings: Sequence[FineTuning], to: Path) -> None:
    """Raise InputError for options and files that fine-tuning would refuse, hours later, below the comparison's folder."""
    for tuning in tunings:
        checking = (*tuning.command(to / "hugging_face", to / "fine_tuned"), "--check")
        checked = subprocess.run(checking, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
        if checked.returncode:
            told = [line.removeprefix("error: ") for line in checked.stderr.splitlines() if line.startswith("error: ")]
            raise InputError(f"--finetune {tuning.task}: {told[-1] if told else checked.stderr[-300:]}")
