"""`init_from`: a run starts from given weights instead of random ones. A resumed run reads its checkpoint alone.

1. `check_start`, before ranks are started and the run folder is touched: are the weights there, and do shape and
   vocabulary fit?
2. `start_from`, on every rank: all must read the same bytes. Parameters that the weights do not have keep the values of
   Encoder.initialise: zero for language embeddings, random ones from the seed for a head.
3. `start_again`, later, for tools: the same weights once more, or an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ernie_m.base.console import InputError, Progress
from ernie_m.base.run_files import START_FILE
from ernie_m.corpus.manifest import Manifest
from ernie_m.interop.layout import LANGUAGES
from ernie_m.interop.source import Source, Target, open_source
from ernie_m.models.model import Encoder
from ernie_m.runs.ranks import Voters
from ernie_m.runs.run_folder import encoder_of

HASH_PIECE_MIB = 4  # of ernie_m.base.files.sha256_of
SHOWN = 4  # names of unused tensors


@dataclass(frozen=True)
class Started:
    """What a run was started from: for a file in its folder, and for the console."""

    path: str
    kind: str
    sha256: str
    vocabulary: str
    fresh: tuple[str, ...]
    """Our parameters that the weights do not have."""
    unused: tuple[str, ...]
    """Tensors of the weights that this encoder does not have."""

    def lines(self) -> list[str]:
        """For the console."""
        lines = [f"starting from {self.path} ({self.kind}, SHA-256 {self.sha256[:12]}...): {self.vocabulary}"]
        if LANGUAGES in self.fresh:
            lines.append("  starts anew: language embeddings, at zero")
        if any(name.startswith("heads.token.") for name in self.fresh):
            drawn = "its matrix drawn from the seed, biases zero, norm one"
            lines.append(f"  starts anew: the MLM head, {drawn}; its output matrix is the word embedding")
        if any(name.startswith("heads.sentence.") for name in self.fresh):
            lines.append("  starts anew: the sentence head, its projection drawn from the seed")
        if self.unused:
            more = f" and {len(self.unused) - SHOWN} more" if len(self.unused) > SHOWN else ""
            lines.append(f"  not used: {', '.join(self.unused[:SHOWN])}{more}")
        return lines


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


def start_from(init_from: str, target: Target, model: Encoder, ranks: Voters) -> Started:
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


def start_again(init_from: str, target: Target, model: Encoder, run: Path) -> Started:
    """Fill an initialised `model` with what the run in folder `run` started from.

    Raises InputError when that is no longer there, or is not what it was.
    """
    started, recorded = start_from(init_from, target, model, Voters(0, 1)), run / START_FILE
    if recorded.is_file() and json.loads(recorded.read_text(encoding="utf-8"))["sha256"] != started.sha256:
        raise InputError(f"init_from: {init_from}: other bytes than the run started from ({recorded})")
    return started


def weights_of_start(run: Path, configuration: Mapping[str, Any], data: Path) -> tuple[dict[str, Tensor], Started]:
    """The weights of step 0 of a run of our own encoder that has `init_from`; `data` is its data folder.

    Raises InputError as `start_again`, and for a run that started with weights drawn at random.
    """
    if not configuration.get("init_from"):
        raise InputError(f"{run}: it started with weights drawn at random; expected a run with init_from")
    model = encoder_of(dict(configuration), attention="sdpa").initialise(configuration["seed"])
    target = Target.of(model.config, data, Manifest.read(data))
    started = start_again(configuration["init_from"], target, model, run)
    return model.state_dict(), started
