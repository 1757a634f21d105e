"""Real ranks without the wait: forked off a process that has imported torch and DeepSpeed already.

Each is a process of its own with the environment that a launcher gives, and runs the real Trainer. What the launcher itself
does is tested elsewhere (conftest.start_ranks); here a job of four ranks starts in a second instead of fifteen.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from ernie_m.base.hostfile import free_port
from tests.integration.conftest import ROOT
from tests.integration.scripts import fork_server


@dataclass(frozen=True)
class Job:
    """What a job is started with; `overrides` are pretrain's key.path=value."""

    recipe: Path
    data: Path
    run: Path
    num_ranks: int = 1
    overrides: tuple[str, ...] = ()
    exit_after: float | None = None
    pretend_fp16: bool = False  # DeepSpeed refuses fp16 on CPU unless told that it is supported

    def text(self) -> str:
        """All that the ranks printed."""
        return "".join(path.read_text() for path in sorted(self.run.parent.glob(f"{self.run.name}.rank*.txt")))


def _rank(job: Job, rank: int, port: int) -> None:
    """What one rank does."""
    from ernie_m.base.config import build, merge_overrides, read_recipe
    from ernie_m.training.recipe import TrainingConfig
    from ernie_m.training.trainer import Trainer

    output = os.open(job.run.with_name(f"{job.run.name}.rank{rank}.txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job.num_ranks, "LOCAL_WORLD_SIZE": job.num_ranks}
    os.environ.update(
        {name: str(number) for name, number in numbers.items()}, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    if job.pretend_fp16:
        from deepspeed.accelerator import get_accelerator

        type(get_accelerator()).is_fp16_supported = lambda self: True
    config = build(TrainingConfig, merge_overrides(read_recipe(job.recipe), job.overrides), str(job.recipe))
    Trainer(config, job.data, job.run, ROOT / "ds_configs", exit_after=job.exit_after).run()


class ForkedRanks:
    """Starts jobs; each call waits for its end."""

    def __init__(self) -> None:
        os.environ["OMP_NUM_THREADS"] = "1"  # the fork server is started with it
        self._context = fork_server()

    def finish(self, job: Job, timeout: float = 240) -> None:
        """Run a job to its end; its run folder says which."""
        ranks = self._start(job)
        self._join(ranks, time.monotonic() + timeout)

    def kill(self, job: Job, when: Callable[[], bool], timeout: float = 240) -> None:
        """kill -9 all ranks of a job as soon as `when()`, or let it end before that."""
        ranks, deadline = self._start(job), time.monotonic() + timeout
        while not when() and any(rank.is_alive() for rank in ranks):
            assert time.monotonic() < deadline, job.text()
            time.sleep(0.005)
        for rank in ranks:
            rank.kill()
        self._join(ranks, deadline)

    def _start(self, job: Job) -> list[BaseProcess]:
        port = free_port()
        ranks: list[BaseProcess] = [
            self._context.Process(target=_rank, args=(job, number, port)) for number in range(job.num_ranks)
        ]
        for rank in ranks:
            rank.start()
        return ranks

    @staticmethod
    def _join(ranks: list[BaseProcess], deadline: float) -> None:
        for rank in ranks:
            rank.join(max(0.1, deadline - time.monotonic()))
        late = [rank for rank in ranks if rank.is_alive()]
        for rank in late:
            rank.kill()
        assert not late, f"{len(late)} ranks did not end"
