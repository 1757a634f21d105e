"""Checks of the job as a whole, without other hosts: its batch, the disk space it needs, the environment of its ranks."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_m.base.console import InputError
from ernie_m.base.run_files import CHECKPOINTS_FOLDER
from ernie_m.base.secret_names import is_secret
from ernie_m.corpus.manifest import MANIFEST_FILE, Manifest
from ernie_m.hosts.findings import Problem
from ernie_m.models.shape import ModelConfig
from ernie_m.models.size import parameter_count, told_size
from ernie_m.runs.checkpoint import CHECKPOINT_BYTES, committed_folders
from ernie_m.supervision.deepspeed_job import INSTALL_PDSH, NO_PDSH
from ernie_m.supervision.environment import DEEPSPEED_EXPORTS, environment_files, exported

if TYPE_CHECKING:  # importing torch and deepspeed takes seconds, and a doctor is called where they may be broken
    from ernie_m.training.recipe import TrainingConfig

WEIGHT_BYTES = 4
"""Bytes of a parameter in an export."""


def disk_needed(config: TrainingConfig, shards: Mapping[str, Any], run: Path | None) -> int:
    """Bytes that a run still needs: the checkpoints it keeps and one more, without those that exist, and an export.

    `shards`: what the first host said of the data, if anything.
    """
    model, output = _counted(config, shards), config.output
    if model is None:
        return 0
    there = len(committed_folders(run / CHECKPOINTS_FOLDER)) if run else 0
    for_good = config.num_steps // output.keep_every if output.keep_every else 0
    checkpoints = max(1, output.keep_last + for_good + output.keep_best + 1 - there)
    return parameter_count(model) * (CHECKPOINT_BYTES * checkpoints + WEIGHT_BYTES)


def _counted(config: TrainingConfig, shards: Mapping[str, Any]) -> ModelConfig | None:
    """The shape that the recipe's model is counted by, with the data's vocabulary where that is known.

    None for a backbone that cannot be opened, which others report.
    """
    if isinstance(config.shape, ModelConfig):
        known = {"vocab_size": shards["vocab_size"], "num_languages": shards["languages"]} if "vocab_size" in shards else {}
        return replace(config.shape, **known)
    from ernie_m.interop.build_model import counted_shape

    with contextlib.suppress(InputError):
        return counted_shape(config.shape)
    return None


def recipe_problems(config: TrainingConfig, num_ranks: int, shards: Mapping[str, Any]) -> list[Problem]:
    """The recipe's batch must divide over the ranks, its model suit the data."""
    problems = []
    try:
        config.batch.accumulation_steps(num_ranks)
    except InputError as error:
        problems.append(Problem((), str(error), "or start on another number of ranks"))
    try:
        if "vocab_size" in shards and isinstance(config.shape, ModelConfig):
            config.shape.resolved(shards["vocab_size"], shards["languages"])
    except InputError as error:
        problems.append(Problem((), str(error), "take the recipe that belongs to this data"))
    return problems


def start_problems(config: TrainingConfig, data: Path | None, run: Path | None) -> list[Problem]:
    """What a run starts from and `model.backbone` must exist and fit. Not checked for a run that has a checkpoint."""
    is_given = config.init_from or config.init_encoder or config.init_decoder or not isinstance(config.shape, ModelConfig)
    if not is_given or (run and committed_folders(run / CHECKPOINTS_FOLDER)):
        return []
    from ernie_m.interop.build_model import architecture_of, check_fits
    from ernie_m.interop.start import check_starts, starts_of
    from ernie_m.interop.start_weights import Target
    from ernie_m.interop.weight_files import folder_of

    starts = starts_of(vars(config))
    try:
        if data is None or not (data / MANIFEST_FILE).is_file():
            for name in filter(None, (config.init_from, getattr(config.shape, "backbone", None))):
                folder_of(name)
            return []
        manifest = Manifest.read(data)
        architecture = architecture_of(config.shape, manifest.specials, len(manifest.languages))
        target = Target.of(architecture.config, data, manifest)
        check_fits(architecture, config.data, target)
        check_starts(starts, target, run)
    except InputError as error:
        key = next((key for key in starts if str(error).startswith(f"{key}:")), next(iter(starts), None))
        way_out = f"or train from random weights with {key}=null" if key else "or take another model.backbone"
        return [Problem((), str(error), way_out)]
    return []


def launch_problems() -> list[Problem]:
    """What would keep `deepspeed` with several hosts from starting on this machine."""
    problems = []
    if not shutil.which("pdsh"):
        problems.append(Problem((), NO_PDSH, INSTALL_PDSH))
    for path in environment_files(os.environ):
        for number, line in enumerate(_lines(path), start=1):
            if "=" not in line:
                message = f"{path}, line {number}: {line!r} has no '='; deepspeed stops with a traceback on it"
                problems.append(Problem((), message, "each line must be NAME=value: no blank lines, no comments"))
    return problems


def launch_notes(environment: Mapping[str, str], has_gpus: bool) -> list[Problem]:
    """Variables of this environment that ranks on other hosts will not have."""
    names = not_exported(environment, has_gpus)
    message = f"{', '.join(names)}: set here, but deepspeed does not pass them on"
    remedy = "`ernie-m supervise` does, or write them into .deepspeed_env as NAME=value"
    return [Problem((), message, remedy)] if names else []


def description(config: TrainingConfig | None, num_ranks: int, first: Mapping[str, Any]) -> list[str]:
    """Lines that describe the job: what the first host has installed, how the batch divides, what the data holds."""
    lines, shards = [], first.get("shards", {})
    if software := first.get("facts", {}).get("software"):
        lines.append("installed    " + ", ".join(f"{name} {version or '-'}" for name, version in software.items()))
    if config is not None:
        rows, micro = config.batch.rows_per_step, config.batch.micro_batch_rows
        steps, rest = divmod(rows, num_ranks * micro)
        split = f"{num_ranks} ranks x {micro} x {steps}" if not rest else f"does not divide over {num_ranks} ranks x {micro}"
        lines.append(f"batch        {rows} rows a step, {split}")
        if (model := _counted(config, shards)) is not None:
            lines.append(f"model        {told_size(model)}")
    if "tokens" in shards:
        lines.append("data         {languages} languages, {streams} streams, {tokens:,} tokens".format(**shards))
    return lines


def environment_of_ranks(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that an agent on another host gets, as ranks will: PYTHON*, which deepspeed sends, and OMP_NUM_THREADS.

    They stand on a command line, so no secret is among them.
    """
    listed = [line.rstrip().partition("=") for path in environment_files(os.environ) for line in _lines(path)]
    given = {**environment, **{name.strip(): value for name, equals, value in listed if equals}}
    chosen = {name: value for name, value in given.items() if name.startswith("PYTHON") or name == "OMP_NUM_THREADS"}
    return {name: value for name, value in chosen.items() if not is_secret(name, value)}


def not_exported(environment: Mapping[str, str], has_gpus: bool) -> list[str]:
    """Names of variables set here that matter to ranks and that deepspeed would not give them on other hosts.

    `ernie-m supervise` does: it owns the list (ernie_m/supervision/environment.py).
    """
    listed = {line.partition("=")[0].strip() for path in environment_files(os.environ) for line in _lines(path)}
    by_itself = (*DEEPSPEED_EXPORTS, *(("NCCL",) if has_gpus else ()))
    return sorted(name for name in exported(environment) if not name.startswith(by_itself) and name not in listed)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()
