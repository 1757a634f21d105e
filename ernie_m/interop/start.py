"""The weights of step 0. A resumed run reads its checkpoint alone.

1. `check_start`, before ranks are started and the run folder is touched: are the weights of `init_from` there, and do shape
   and vocabulary fit?
2. `step_zero`, on every rank: our own encoder drawn from the seed, or one of transformers with its weights; then, with
   `init_from`, those (`start_from`). All ranks must read the same bytes. What the weights lack stays as it was drawn: zero
   for language embeddings, random from the seed for a head.
3. `step_zero_again`, later, for tools: the same weights once more, or an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ernie_m.base.console import InputError, Progress
from ernie_m.base.run_files import START_FILE
from ernie_m.corpus.manifest import Manifest
from ernie_m.interop.architecture import Architecture, Device, Started, StepZero
from ernie_m.interop.build_model import architecture_of
from ernie_m.interop.source import Source, Target, open_source
from ernie_m.models.pretraining import PretrainingModel
from ernie_m.models.shape import Attention
from ernie_m.runs.ranks import Voters
from ernie_m.runs.run_folder import model_config

HASH_PIECE_MIB = 4  # of ernie_m.base.files.sha256_of


def check_start(init_from: str, target: Target, run: Path | None = None) -> Source:
    """What a new run would start from. Raises InputError when it does not fit, or lies in the run's own folder."""
    source = open_source(init_from, target)
    if run is not None and source.path.resolve().is_relative_to(run.resolve()):
        raise InputError(f"init_from: {init_from} lies in the run's own folder {run}; choose another --run")
    return source


def _digest(source: Source, shown: bool) -> str:
    if not shown:
        return source.tensors.sha256()
    progress = Progress("hashing weights", source.tensors.num_bytes() >> 20, "MiB")
    digest = source.tensors.sha256(lambda: progress.advance(HASH_PIECE_MIB))
    progress.close()
    return digest


def step_zero(
    architecture: Architecture,
    seed: int,
    init_from: str | None,
    target: Target,
    ranks: Voters,
    device: Device = "cpu",
    attention: Attention | None = None,
) -> StepZero:
    """The model of step 0, made for `device`, on every rank. A collective; raises InputError as `start_from`."""
    zero = architecture.step_zero(seed, target, ranks, device, attention)
    return replace(zero, started=start_from(init_from, target, zero.model, ranks)) if init_from else zero


def start_from(init_from: str, target: Target, model: PretrainingModel, ranks: Voters) -> Started:
    """Fill an initialised `model` (fp32, on the CPU) on every rank. A collective.

    Raises InputError on all ranks when a rank cannot read the weights, or reads other bytes than rank 0.
    """
    started, problem = None, None
    try:
        source = open_source(init_from, target)
        digest = _digest(source, shown=ranks.rank == 0)
        fresh = tuple(source.fill(model))
        started = Started(str(source.path), source.kind, digest, source.vocabulary, fresh, source.unused)
    except InputError as error:
        problem = str(error)
    except OSError as error:
        problem = f"init_from: {error.filename or init_from}: {error.strerror or error}"
    mine = started.sha256 if started else problem
    first = ranks.from_first(mine)
    if ranks.all_agree(started is not None and mine == first):
        assert started is not None
        return started
    if problem is None and mine != first:
        problem = f"init_from: {init_from}: other bytes here ({mine}) than rank 0 has ({first}); give all hosts the same"
    raise InputError(
        problem or f"init_from: {init_from}: other ranks cannot read it, or read other bytes; their lines say which",
        only_here=problem is not None and mine != first,
    )


def step_zero_again(run: Path, configuration: Mapping[str, Any], data: Path) -> StepZero:
    """What the run in folder `run` began with, once more; `data` is its data folder.

    Raises InputError when the weights that it started from are no longer there, or are not what they were.
    """
    manifest, recorded = Manifest.read(data), run / START_FILE
    architecture = architecture_of(model_config(configuration), manifest.specials, len(manifest.languages))
    target = Target.of(architecture.config, data, manifest)
    init_from = configuration.get("init_from")
    zero = step_zero(architecture, configuration["seed"], init_from, target, Voters(0, 1), attention="sdpa")
    before = json.loads(recorded.read_text(encoding="utf-8"))["sha256"] if recorded.is_file() else None
    if zero.started and before not in (None, zero.started.sha256):
        raise InputError(f"{zero.started.path}: other bytes than the run started from ({recorded})")
    return zero


def weights_of_start(run: Path, configuration: Mapping[str, Any], data: Path) -> tuple[dict[str, Tensor], Started]:
    """The weights of step 0 of a run that was started from some; `data` is its data folder.

    Raises InputError as `step_zero_again`, and for a run that started with weights drawn at random.
    """
    zero = step_zero_again(run, configuration, data)
    if zero.started is None:
        raise InputError(f"{run}: it started with weights drawn at random; expected a run with init_from or model.backbone")
    return zero.model.state_dict(), zero.started
