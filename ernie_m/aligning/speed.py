"""How long a step takes here: a few steps of the recipe, with AdamW, on this process's own rows; nothing is kept of them."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from ernie_m.base.console import Progress
from ernie_m.corpus.folder import CorpusFolder
from ernie_m.interop.build_model import architecture_of
from ernie_m.interop.start_weights import Target
from ernie_m.models.pseudo_parallel import fill_placeholders
from ernie_m.rows.batch import LossRequest
from ernie_m.rows.dataloader import PretrainingData, to_device
from ernie_m.rows.objectives import LOSS_INDEX
from ernie_m.rows.schedule import Schedule
from ernie_m.runs.ranks import Voters, this_device
from ernie_m.training.engine import choose_precision
from ernie_m.training.recipe import TrainingConfig
from ernie_m.training.utilization import DTYPES

STEPS = 3  # of each stage, behind one that is not counted


def seconds_a_step(config: TrainingConfig, data: Path, rank: int, world_size: int) -> float:
    """Mean over the stages, each as long as its steps say."""
    folder, device = CorpusFolder(data), this_device()
    architecture = architecture_of(config.shape, folder.manifest.specials, len(folder.manifest.languages))
    target = Target.of(architecture.config, data, folder.manifest)
    model = architecture.step_zero(config.seed, target, Voters(0, 1), device).model
    model = model.to(device).to(DTYPES[choose_precision(config.engine.precision, device).value])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-12)
    scales_L = torch.ones(len(LOSS_INDEX), device=device)
    total = 0.0
    progress = Progress("measuring the speed", len(config.stages) * (STEPS + 1), "steps")
    for stage in config.stages:
        schedule = Schedule((stage,), config.batch.rows_per_step)
        source = PretrainingData(folder, config.data, schedule, config.seed)
        request = LossRequest(scales_L, len(source.metrics))
        taken = []
        for step in range(STEPS + 1):
            started = time.monotonic()
            for batch in source.step(min(step, stage.steps - 1), rank, world_size, config.batch.micro_batch_rows):
                rows = to_device(batch, device)
                loss, _ = model(fill_placeholders(model, rows), request)
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize()
            taken.append(time.monotonic() - started)
            progress.advance(1)
        total += sorted(taken[1:])[STEPS // 2] * stage.steps / config.num_steps
    progress.close()
    return total
