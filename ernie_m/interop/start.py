"""The weights of step 0. A resumed run reads its checkpoint alone.

1. `check_starts`, before ranks are started and the run folder is touched: are the weights there that the recipe names
   (`init_from`; of a model that translates `init_encoder` and `init_decoder`), and do shape and vocabulary fit?
2. `step_zero`, on every rank: our own model drawn from the seed, or an encoder of transformers with its weights; then those
   that are named (`start_from`, `start_side`). All ranks must read the same bytes. What the weights lack stays as it was
   drawn: zero for language embeddings, random from the seed for a head and for attention across.
3. `step_zero_again`, later, for tools: the same weights once more, or an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ernie_m.base.console import InputError, Progress
from ernie_m.base.files import HASHED_MIB, read_json
from ernie_m.base.run_files import START_FILE
from ernie_m.corpus.manifest import Manifest
from ernie_m.interop.architecture import Architecture, Device, Started, StepZero
from ernie_m.interop.build_model import architecture_of
from ernie_m.interop.sides import WordVectors, check_shared, open_side, parameters_of_side
from ernie_m.interop.source import SIDES, open_source
from ernie_m.interop.start_weights import INIT_FROM, Source, Target
from ernie_m.models.pretraining import PretrainingModel
from ernie_m.models.shape import Attention, ModelConfig
from ernie_m.models.translation import TranslationModel
from ernie_m.runs.ranks import Voters
from ernie_m.runs.run_folder import model_config


def check_start(start: str, target: Target, run: Path | None = None, key: str = INIT_FROM) -> Source | WordVectors:
    """What a new run would start from. Raises InputError when it does not fit, or lies in the run's own folder."""
    source = _opened(key, start, target)
    if run is not None and source.path.resolve().is_relative_to(run.resolve()):
        raise InputError(f"{key}: {start} lies in the run's own folder {run}; choose another --run")
    return source


def _opened(key: str, start: str, target: Target) -> Source | WordVectors:
    return open_side(start, target, key) if key in SIDES else open_source(start, target, key)


def starts_of(configuration: Mapping[str, Any]) -> dict[str, str]:
    """Key of a recipe or of a run's configuration -> what it starts from, where it names something."""
    return {key: configuration[key] for key in (INIT_FROM, *SIDES) if configuration.get(key)}


def check_starts(starts: Mapping[str, str], target: Target, run: Path | None = None) -> None:
    """`check_start` of each, and that they go together."""
    if isinstance(target.config, ModelConfig):
        check_shared(starts, target.config.decoder)
    for key, start in starts.items():
        check_start(start, target, run, key)


def _digest(source: Source | WordVectors, shown: bool) -> str:
    if not shown:
        return source.tensors.sha256()
    progress = Progress("hashing weights", source.tensors.num_bytes() >> 20, "MiB")
    digest = source.tensors.sha256(lambda: progress.advance(HASHED_MIB))
    progress.close()
    return digest


def step_zero(
    architecture: Architecture,
    seed: int,
    starts: Mapping[str, str],
    target: Target,
    ranks: Voters,
    device: Device = "cpu",
    attention: Attention | None = None,
) -> StepZero:
    """The model of step 0, made for `device`, on every rank; `starts`: of `starts_of`.

    A collective; raises InputError as `start_from`.
    """
    zero = architecture.step_zero(seed, target, ranks, device, attention)
    if INIT_FROM in starts:
        zero = replace(zero, started=start_from(starts[INIT_FROM], target, zero.model, ranks))
    sides = {key: start_side(key, starts[key], target, zero.model, ranks) for key in SIDES if key in starts}
    return replace(zero, sides=sides)


def start_from(init_from: str, target: Target, model: PretrainingModel, ranks: Voters) -> Started:
    """Fill an initialised `model` (fp32, on the CPU) on every rank. A collective.

    Raises InputError on all ranks when a rank cannot read the weights, or reads other bytes than rank 0.
    """
    return _filled(INIT_FROM, init_from, target, dict(model.named_parameters()), ranks)


def start_side(key: str, start: str, target: Target, model: PretrainingModel, ranks: Voters) -> Started:
    """The same for one side of a model that translates."""
    assert isinstance(model, TranslationModel)
    started = _filled(key, start, target, parameters_of_side(model, SIDES[key]), ranks)
    return replace(started, side=SIDES[key])


def _filled(key: str, start: str, target: Target, parameters: Mapping[str, Tensor], ranks: Voters) -> Started:
    started, problem = None, None
    try:
        source = _opened(key, start, target)
        digest = _digest(source, shown=ranks.rank == 0)
        fresh = tuple(source.fill_parameters(parameters))
        started = Started(str(source.path), source.kind, digest, source.vocabulary, fresh, source.unused)
    except InputError as error:
        problem = str(error) if str(error).startswith(f"{key}: ") else f"{key}: {error}"
    except OSError as error:
        problem = f"{key}: {error.filename or start}: {error.strerror or error}"
    mine = started.sha256 if started else problem
    first = ranks.from_first(mine)
    if ranks.all_agree(started is not None and mine == first):
        assert started is not None
        return started
    if problem is None and mine != first:
        problem = f"{key}: {start}: other bytes here ({mine}) than rank 0 has ({first}); give all hosts the same"
    raise InputError(
        problem or f"{key}: {start}: other ranks cannot read it, or read other bytes; their lines say which",
        only_here=problem is not None and mine != first,
    )


def step_zero_again(run: Path, configuration: Mapping[str, Any], data: Path) -> StepZero:
    """What the run in folder `run` began with, once more; `data` is its data folder.

    Raises InputError when the weights that it started from are no longer there, or are not what they were.
    """
    manifest, recorded = Manifest.read(data), run / START_FILE
    architecture = architecture_of(model_config(configuration), manifest.specials, len(manifest.languages))
    target = Target.of(architecture.config, data, manifest)
    starts = starts_of(configuration)
    zero = step_zero(architecture, configuration["seed"], starts, target, Voters(0, 1), attention="sdpa")
    before = read_json(recorded) if recorded.is_file() else {}
    for now, then in zip((zero.started, *zero.sides.values()), (before, *map(before.get, zero.sides)), strict=True):
        if now and then and then["sha256"] != now.sha256:
            raise InputError(f"{now.path}: other bytes than the run started from ({recorded})")
    return zero


def weights_of_start(run: Path, configuration: Mapping[str, Any], data: Path) -> tuple[dict[str, Tensor], Started]:
    """The weights of step 0 of a run that was started from some; `data` is its data folder.

    Raises InputError as `step_zero_again`, and for a run that started with weights drawn at random.
    """
    zero = step_zero_again(run, configuration, data)
    if zero.started is None:
        raise InputError(f"{run}: it started with weights drawn at random; expected a run with init_from or model.backbone")
    return zero.model.state_dict(), zero.started
