"""Defaults of a job: `deepspeed --hostfile hostfiles/v100x64 launcher/pretrain.py` is a whole command.

The same for all commands that speak of that job: pretrain, plan, doctor, supervise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ernie_m.base.console import Choice, InputError
from ernie_m.corpus.manifest import MANIFEST_FILE

RECIPE, DATA, RUNS, HOSTFILE = "large", "data", "runs", "hostfiles/v100x64"
TRAINING = "ernie_m.commands.pretrain"
"""The module that all ranks of a training run, from any folder: `deepspeed --module` takes it."""


@dataclass(frozen=True)
class JobNames:
    """Recipe, data and run folder of a job; `choices` names those that came from defaults."""

    recipe: str
    data: str
    run: str
    choices: tuple[Choice, ...]


def job_names(recipe: str | None, data: str | None, run: str | None) -> JobNames:
    """What was given; for the rest recipe large, data data/ and the run runs/RECIPE."""
    name = recipe or RECIPE
    defaults = {"recipe": RECIPE, "data": f"{DATA}/", "run": f"{RUNS}/{Path(name).stem}"}
    given = {"recipe": recipe, "data": data, "run": run}
    choices = tuple(Choice(key, defaults[key], f"--{key} is not given") for key in defaults if not given[key])
    return JobNames(name, data or defaults["data"], run or defaults["run"], choices)


def check_there(job: JobNames, recipe_problem: str | None) -> None:
    """Raise InputError with all that is missing, and a complete command; `recipe_problem`: what is wrong with its name."""
    problems = [recipe_problem] if recipe_problem else []
    if not (Path(job.data) / MANIFEST_FILE).is_file():
        what = f"has no {MANIFEST_FILE}" if Path(job.data).is_dir() else "no such folder"
        problems.append(f"--data {job.data}: {what}; expected one made by `python -m data_prep build --out {job.data} ...`")
    if problems:
        recipe = RECIPE if recipe_problem else job.recipe
        words = f"--module {TRAINING} --recipe {recipe} --data DATA --run {job.run}"
        raise InputError(f"{'; '.join(problems)}; a complete command: deepspeed --hostfile {HOSTFILE} {words}")
