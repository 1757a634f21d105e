"""Run by one process: what is taken from DeepSpeed's inside, for ZeRO 0-3 and each precision, and what happens without.

Writes {"0 fp32": {"taken at the start": [...], "taken later": [...], "refusals": {"Class.attribute": line}}, ...,
"patience": {process group: seconds}}.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from deepspeed.accelerator import get_accelerator

from ernie_m.base.console import InputError
from ernie_m.corpus.folder import CorpusFolder
from ernie_m.models.model import Encoder
from ernie_m.models.shape import ModelConfig
from ernie_m.rows.batch import LossRequest
from ernie_m.rows.dataloader import DataConfig, PretrainingData, to_device
from ernie_m.rows.objectives import LOSS_INDEX
from ernie_m.rows.schedule import Schedule, StageConfig
from ernie_m.runs.checkpoint import rank_file
from ernie_m.runs.fragments import FragmentReader, write_tensors
from ernie_m.training import deepspeed_adapter
from ernie_m.training.engine import BatchConfig, Engine, EngineConfig, start_ranks
from ernie_m.training.optimizer import OptimizerConfig

COMBINATIONS = [(z, p) for z in range(4) for p in ("fp32", "bf16", "fp16") if (z, p) != (0, "fp16")]
ROWS = 2


@contextmanager
def recorded(names: set[tuple[type, str]]) -> Iterator[None]:
    """Collect the class and name of each attribute taken."""
    real = deepspeed_adapter.taken

    def noting(owner: Any, name: str) -> Any:
        if not isinstance(owner, ModuleType):
            names.add((type(owner), name))
        return real(owner, name)

    deepspeed_adapter.taken = noting
    yield
    deepspeed_adapter.taken = real


@contextmanager
def renamed(cls: type, hidden: str) -> Iterator[None]:
    """A DeepSpeed whose `cls` has no attribute `hidden` from the moment on when it has made an engine."""
    initialize, own = deepspeed_adapter.deepspeed.initialize, cls.__dict__.get("__getattribute__")
    get: Callable[[Any, str], Any] = cls.__getattribute__

    def without(self: Any, name: str) -> Any:
        if name == hidden:
            raise AttributeError(name)
        return get(self, name)

    def initialize_and_rename(**arguments: Any) -> Any:
        made = initialize(**arguments)
        cls.__getattribute__ = without  # type: ignore[method-assign,assignment]
        return made

    deepspeed_adapter.deepspeed.initialize = initialize_and_rename
    try:
        yield
    finally:
        deepspeed_adapter.deepspeed.initialize = initialize
        if own is None:
            del cls.__getattribute__
        else:
            cls.__getattribute__ = own  # type: ignore[method-assign]


def patience_of_groups() -> dict[str, float]:
    """Seconds after which the collectives of each process group give up: the default one, and all that were made since."""
    groups = torch.distributed.distributed_c10d._world.pg_names.items()
    backends = {name: group._get_backend(torch.device("cpu")) for group, name in groups}  # type: ignore[attr-defined]
    return {name: backend.options._timeout.total_seconds() for name, backend in backends.items()}


def main(data: Path, output: Path) -> None:
    type(get_accelerator()).is_fp16_supported = lambda self: True  # DeepSpeed refuses it on CPU unless told so
    ranks, corpus = start_ranks(), CorpusFolder(data)
    rows = PretrainingData(
        corpus, DataConfig(sequence_length=64), Schedule((StageConfig(steps=1, rows={"MMLM": 1}),), ROWS), seed=3
    )
    shape = ModelConfig(num_layers=1, hidden_size=16, num_heads=2, ffn_size=16, dropout=0.0)
    shape = shape.resolved(corpus.manifest.vocab_size, len(corpus.manifest.languages))

    def engine_of(zero_stage: int, precision: Any) -> Engine:
        return Engine(
            Encoder(shape).initialise(0),
            ranks,
            Path(__file__).resolve().parents[2] / "ds_configs",
            EngineConfig(zero_stage=zero_stage, precision=precision),
            OptimizerConfig(),
            BatchConfig(rows_per_step=ROWS, micro_batch_rows=ROWS),
        )

    def used(engine: Engine, folder: Path) -> None:
        """A step, a save and a restore of it."""
        (batch,) = rows.step(0, 0, 1, ROWS)
        request = LossRequest(torch.full((len(LOSS_INDEX),), 1e-3), len(rows.metrics))
        engine.forward_backward(to_device(batch, ranks.device), request)
        assert engine.update(1e-4)
        assert engine.num_parameters > 1e4
        assert (engine.loss_scale is not None) == (engine.precision.value == "fp16")
        folder.mkdir()
        tensors = {key: view for fragment in engine.fragments() for key, view in fragment.tensors()}
        assert sum(view.numel() for view in tensors.values()) == 3 * engine.num_parameters, "weights and both moments"
        write_tensors(folder / rank_file(0), tensors)
        counters = engine.counters()
        made_one_itself = (engine.zero_stage, engine.precision.value) == (0, "bf16")  # on gradients of zero
        assert counters["updates"] == 1 + made_one_itself
        engine.restore(FragmentReader(folder), counters)

    found = {}
    for zero_stage, precision in COMBINATIONS:
        at_start: set[tuple[type, str]] = set()
        later: set[tuple[type, str]] = set()
        with recorded(at_start):
            engine = engine_of(zero_stage, precision)
        with recorded(later):
            used(engine, output.with_name(f"{zero_stage}_{precision}"))
        refusals = {}
        for cls, name in sorted(at_start, key=str):
            with renamed(cls, name):
                try:
                    engine_of(zero_stage, precision)
                    refusals[f"{cls.__name__}.{name}"] = "started without"
                except InputError as error:
                    refusals[f"{cls.__name__}.{name}"] = str(error)
        found[f"{zero_stage} {precision}"] = {
            "taken at the start": sorted(f"{cls.__name__}.{name}" for cls, name in at_start),
            "taken later": sorted(f"{cls.__name__}.{name}" for cls, name in later),
            "refusals": refusals,
        }
    output.write_text(json.dumps(found | {"patience": patience_of_groups()}), encoding="utf-8")
    ranks.close()


if __name__ == "__main__":
    main(Path(sys.argv[-2]), Path(sys.argv[-1]))
