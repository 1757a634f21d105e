"""A comparison as jobs: for every variant and seed the commands that train, export, measure and fine-tune it.

TO/recipes/VARIANT.yaml        each variant's recipe                TO/logs/      output of all commands
TO/runs/VARIANT_seedN/         pre-training                         TO/done/      which commands are done
TO/hugging_face/VARIANT_seedN/ its export                           TO/measures/  its measures
TO/fine_tuned/VARIANT_seedN/TASK/
TO/cells/VARIANT_seedN.json    what it measured, to be kept (ernie_m.ablation.cells)
TO/results.json, results.md, *.png
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ernie_m.ablation import cells
from ernie_m.ablation.fine_tuning import FineTuning, check
from ernie_m.ablation.jobs import Job, Jobs, Part, python_m
from ernie_m.ablation.measures import check_sets
from ernie_m.ablation.variants import PAPER_SETTINGS, Variant
from ernie_m.base.config import differing_keys, read_recipe
from ernie_m.base.console import InputError
from ernie_m.base.files import read_json, sha256_of, written_atomically
from ernie_m.base.hostfile import free_port
from ernie_m.base.locks import exclusive
from ernie_m.base.run_files import LOCK_FILE
from ernie_m.base.shipped import DS_CONFIGS
from ernie_m.corpus.folder import CorpusFolder
from ernie_m.runs.job_defaults import TRAINING
from ernie_m.training.trainer import Trainer

FOLDERS = ("recipes", "runs", "hugging_face", "logs", "done", "measures", "cells")
RESULTS = ("fine_tuned", "results.json", "results.md", "comparison.png", "pseudo_share.png")


@dataclass(frozen=True)
class ComparisonPlan:
    """All that a comparison is run with."""

    to: Path
    data: Path
    seeds: int
    side_by_side: int = 1
    """Jobs at work at the same time."""
    deepspeed: tuple[str, ...] = ()
    """Options of the deepspeed launcher, e.g. --num_gpus 8; empty: one process without it."""
    held_out: Path | None = None
    tatoeba: Path | None = None
    pairs: int = 200
    gold: Mapping[str, Path] = field(default_factory=dict)
    """Names and files of gold links."""
    fine_tuning: tuple[FineTuning, ...] = field(default=())
    finished: Path | None = None
    """Folder of cells that were finished elsewhere."""
    only: tuple[str, ...] = ()
    """Variants that are run here; empty: all."""

    def chosen(self, variants: Sequence[Variant]) -> list[Variant]:
        """Those of `only`; raises InputError for names that are none of theirs."""
        names = [variant.name for variant in variants]
        if unknown := [name for name in self.only if name not in names]:
            raise InputError(f"--only {unknown[0]}: expected some of {', '.join(names)}")
        return [variant for variant in variants if not self.only or variant.name in self.only]

    def job_names(self, variant: Variant) -> list[str]:
        """The names of its runs, one a seed."""
        return [cells.Cell(variant, seed).name for seed in range(self.seeds)]

    @property
    def measured_by(self) -> dict[str, Any]:
        """What the figures of a cell depend on, besides its recipe and the data: no places of files, but their content."""
        folders = {"held_out": self.held_out, "tatoeba": self.tatoeba}
        sets = {name: digest(sorted(of.iterdir())) if of else None for name, of in folders.items()}
        gold = {name: digest([path]) for name, path in sorted(self.gold.items())}
        tuned = {of.task: list(of.options) for of in self.fine_tuning}
        return {"pairs": self.pairs, **sets, "gold": gold, "fine_tuning": tuned}


def digest(files: Sequence[Path]) -> str:
    """16 hex digits of the names and contents of files."""
    told = "\n".join(f"{path.name} {sha256_of(path)}" for path in files if path.is_file())
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def run(variants: Sequence[Variant], plan: ComparisonPlan) -> dict[str, list[dict[str, Any]]]:
    """Run what is not done yet; returns the results of each variant asked for, one a seed. All run their first seed first.

    Raises InputError, before anything starts, for recipes that do not fit the data and for runs of other recipes in TO.
    """
    chosen = plan.chosen(variants)
    check(plan.fine_tuning, plan.to)
    check_sets(plan.held_out, plan.tatoeba, CorpusFolder(plan.data).manifest.languages)
    claim(variants, plan)
    jobs = [_job(variant, seed, plan) for seed in range(plan.seeds) for variant in chosen]
    do(jobs, plan)
    return {variant.name: [_collected(plan, name) for name in plan.job_names(variant)] for variant in chosen}


def run_cells(
    variants: Sequence[Variant], plan: ComparisonPlan, making: Sequence[Job] | None
) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """As `run`, but for cells that are finished elsewhere and variants that are not asked for here.

    `making`: jobs that make the data; None: nothing is run, what is finished is put together. Returns the results of all
    variants that have any, and remarks on what is there. A cell's file is written when the command ends or stops.
    """
    wanted, chosen = [cells.Cell(variant, seed) for seed in range(plan.seeds) for variant in variants], plan.chosen(variants)
    by = plan.measured_by if making is not None else None
    found = cells.read(plan.finished, wanted, by) if plan.finished else {}
    here = [cell for cell in wanted if cell.name not in found and cell.variant in chosen]
    if making is None and not (found or cells.read(plan.to / "cells", wanted, by)):
        where = plan.finished or plan.to / "cells"
        raise InputError(f"no finished cell in {where}; --source or --data names the data to run some")
    if making is not None and here:
        check(plan.fine_tuning, plan.to)
    claim(variants, plan)
    if making is not None and here:
        do(making, plan)
        _do_cells(here, plan, plan.measured_by)
    found |= cells.read(plan.to / "cells", wanted, by)
    results = {v.name: [found[name]["result"] for name in plan.job_names(v) if name in found] for v in variants}
    return {name: of_seeds for name, of_seeds in results.items() if of_seeds}, cells.remarks(found, wanted)


def _do_cells(here: Sequence[cells.Cell], plan: ComparisonPlan, by: Mapping[str, Any]) -> None:
    check_sets(plan.held_out, plan.tatoeba, CorpusFolder(plan.data).manifest.languages)
    jobs = {cell.name: _job(cell.variant, cell.seed, plan) for cell in here}
    parts = {name: [*job.parts] for name, job in jobs.items()}  # jobs drop what is done
    try:
        do([*jobs.values()], plan)
    finally:
        for cell in here:
            if all(part.is_done() for part in parts[cell.name]):
                cells.write(plan.to / "cells", cell, by, plan.data, _collected(plan, cell.name))


def claim(variants: Sequence[Variant], plan: ComparisonPlan) -> None:
    """Make TO the folder of this comparison; it is recognised by the recipes in it.

    Raises InputError when it is that of another one, or holds files under our names that we did not write.
    """
    wanted = {recipe_file(plan, variant): variant.recipe for variant in variants}
    found = sorted((plan.to / FOLDERS[0]).glob("*.yaml"))
    there = [name for name in (*FOLDERS, *RESULTS) if (plan.to / name).exists()]
    if there and not found:
        raise InputError(f"{plan.to} holds {there[0]}, and no recipes of a comparison; give another folder with --to")
    for path in found:
        if path not in wanted:
            raise InputError(f"{plan.to} is of another comparison, with {path.name}; give another folder with --to")
        if differing := differing_keys(read_recipe(path), wanted[path]):
            told = "; ".join(differing[:3])
            raise InputError(f"{path}: another recipe than now ({told}); give another folder with --to, or the same recipe")
    for name in FOLDERS:
        (plan.to / name).mkdir(parents=True, exist_ok=True)
    for path, recipe in wanted.items():
        with written_atomically(path) as aside:
            aside.write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), encoding="utf-8")


def do(jobs: Sequence[Job], plan: ComparisonPlan) -> None:
    """Run jobs; those that run at the same time share this machine's cores. Raises InputError where others are at work."""
    cores = len(os.sched_getaffinity(0))
    threads = str(max(1, cores // plan.side_by_side))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {"OMP_NUM_THREADS": threads, **os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}
    with exclusive(plan.to / LOCK_FILE, "another comparison is at work in this folder"):
        Jobs(jobs, plan.side_by_side, environment).run()


def recipe_file(plan: ComparisonPlan, variant: Variant) -> Path:
    """Where a variant's recipe is written."""
    return plan.to / "recipes" / f"{variant.name}.yaml"


def _job(variant: Variant, seed: int, plan: ComparisonPlan) -> Job:
    name = cells.Cell(variant, seed).name
    folder, measures = plan.to / "hugging_face" / name, plan.to / "measures" / f"{name}.json"
    by = [word for key in ("held_out", "tatoeba") if (path := getattr(plan, key)) for word in (f"--{key}", path)]
    if plan.gold:
        by += ["--gold", ",".join(f"{gold}={path}" for gold, path in plan.gold.items())]
    data = ["--data", plan.data]
    measure = ["measure", "--hugging_face", folder, "--output", measures, *data, "--pairs", plan.pairs, *by]
    recipe = ["--recipe", recipe_file(plan, variant)]
    if variant.is_trained:
        run = plan.to / "runs" / name
        parts = [training_part(variant, seed, plan, run, [*recipe, *data])]
        export = python_m("ernie_m", "export", "--run", run, "--to", folder)
        parts.append(Part("export", export, plan.to / "done" / f"{name}.export.json", replaces=folder))
        replaces = None
        measure += ["--run", run]
    else:
        parts = []
        replaces = folder  # which measuring writes
        measure += [*recipe, "--seed", seed]
    measuring = python_m("ernie_m", "ablate", *measure)
    parts.append(Part("measuring", measuring, plan.to / "done" / f"{name}.measure.json", replaces=replaces))
    for tuning in plan.fine_tuning:
        command = tuning.command(folder, plan.to / "fine_tuned" / name / tuning.task)
        parts.append(Part(f"fine-tuning on {tuning.task}", command, plan.to / "done" / f"{name}.{tuning.task}.json"))
    return Job(name, parts, plan.to / "logs" / f"{name}.log")


def training_part(variant: Variant, seed: int, plan: ComparisonPlan, run: Path, recipe: Sequence[object]) -> Part:
    """The pre-training of a variant; `recipe`: the words that name recipe and data.

    Raises InputError for a recipe that does not fit the data, and for a run folder of another one.
    """
    words = [*recipe, "--run", run, f"seed={seed}"]
    command = python_m("ernie_m", "pretrain", *words)
    if plan.deepspeed:
        launcher = Path(sys.executable).parent / "deepspeed"
        command = tuple(map(str, [launcher, "--master_port", free_port(), *plan.deepspeed, "--module", TRAINING, *words]))
    config = replace(variant.config, seed=seed)

    def is_complete() -> bool:
        try:
            return Trainer(config, plan.data, run, DS_CONFIGS).run_folder.is_complete
        except InputError as error:
            raise InputError(f"{error} (a comparison: take another --to)") from None

    is_complete()  # so that all errors show before the first one starts
    return Part("training", command, judges_itself=is_complete, run=run, num_steps=variant.num_steps)


def _collected(plan: ComparisonPlan, name: str) -> dict[str, Any]:
    result = dict(read_json(plan.to / "measures" / f"{name}.json"))
    tuned = {of.task: _scores_of(plan.to / "fine_tuned" / name / of.task / "results.json") for of in plan.fine_tuning}
    result["fine_tuned"] = {task: _first_average(content) for task, content in tuned.items()}
    result["gap"] = {task: (content.get("gap") or {}).get("mean") for task, content in tuned.items()}
    result["as_in_the_paper"] = [
        task
        for task, content in tuned.items()
        if content["setting"] == PAPER_SETTINGS.get(task) and content["not_the_papers_data"] is None
    ]
    return result


def _scores_of(path: Path) -> dict[str, Any]:
    """What fine-tuning wrote; raises InputError where it scored nothing."""
    content = dict(read_json(path)) if path.is_file() else {}
    if "average" not in content:
        raise InputError(f"{path}: no scores, as where no test file has labels; expected --finetune of labelled ones")
    return content


def _first_average(content: Mapping[str, Any]) -> float:
    """Mean over languages and seeds of a benchmark's first metric, in percent."""
    first = next(iter(content["average"].values()))
    return float(first["mean"] if isinstance(first, dict) else first)
