"""Benchmarks that every variant of a comparison is fine-tuned on by `ernie-m finetune`."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ernie_m.ablation.jobs import python_m
from ernie_m.base.console import InputError


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
    found = []
    for part in (text or "").split(","):
        if not part.strip():
            continue
        task, equals, data = part.strip().partition("=")
        if not equals or not Path(data).is_dir():
            raise InputError(f"--finetune {part}: expected TASK=FOLDER with the benchmark's files, e.g. xnli=data/xnli")
        found.append(FineTuning(task, Path(data).resolve(), tuple(shlex.split(options))))
    return tuple(found)


def check(tunings: Sequence[FineTuning]) -> None:
    """Raise InputError for options and files that fine-tuning would refuse, hours later."""
    for tuning in tunings:
        checking = (*tuning.command(tuning.data, tuning.data), "--check")
        checked = subprocess.run(checking, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
        if checked.returncode:
            told = [line.removeprefix("error: ") for line in checked.stderr.splitlines() if line.startswith("error: ")]
            raise InputError(f"--finetune {tuning.task}: {told[-1] if told else checked.stderr[-300:]}")
