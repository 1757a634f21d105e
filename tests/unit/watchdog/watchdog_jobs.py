"""Jobs whose ranks are real processes under a watchdog, each on a host of its own name."""

from __future__ import annotations

import datetime
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ernie_m.base.hostfile import free_port
from ernie_m.training.watchdog import Watchdog

WORLD = 3
LIMIT = 25  # seconds until a test gives up waiting
Body = Callable[[int, Watchdog, Path], object]


def until(*files: Path) -> None:
    deadline = time.monotonic() + LIMIT
    while not all(file.exists() for file in files):
        assert time.monotonic() < deadline, f"waited for {files}"
        time.sleep(0.01)


def go_on(watchdog: Watchdog, seconds: float = 1000) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        watchdog.progress("step 7")
        time.sleep(0.01)


def meet_by_gloo(rank: int, folder: Path) -> None:
    limit = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/gloo", rank=rank, world_size=WORLD, timeout=limit)


class Job:
    """Ranks of one job, each a process on a host of its own name; `ended` waits for them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.ranks: list[Any] = []

    def start(self, body: Body, world: int = WORLD, **settings: Any) -> None:
        """Returns when all ranks watch each other and enter `body`."""
        for rank in range(world):
            process = multiprocessing.get_context("fork").Process(target=self._be, args=(rank, body, world, settings))
            process.start()
            self.ranks.append(process)
        until(*(self.folder / f"up{rank}" for rank in range(world)))

    def _be(self, rank: int, body: Body, world: int, settings: dict[str, Any]) -> None:
        os.environ["ERNIE_M_HOST"] = f"node-{'abc'[rank]}"
        printed = os.open(self.folder / f"printed{rank}", os.O_WRONLY | os.O_CREAT)
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        sys.stdout = sys.stderr = os.fdopen(printed, "w")
        code: Any = 0
        try:
            watchdog = Watchdog(rank, world, "127.0.0.1", self.port, self.folder, job="test", **settings)
            (self.folder / f"up{rank}").touch()
            until(*(self.folder / f"up{rank}" for rank in range(world)))
            body(rank, watchdog, self.folder)
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stderr.flush()
        os._exit(code)

    def ended(self, *ranks: int) -> tuple[list[int], str]:
        """Exit codes of these ranks and what they printed, together."""
        for rank in ranks:
            self.ranks[rank].join(LIMIT)
        printed = "".join((self.folder / f"printed{rank}").read_text() for rank in ranks)
        return [self.ranks[rank].exitcode for rank in ranks], printed

    def incidents(self) -> list[dict]:
        file = self.folder / "incidents.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def incident(self, kind: str, ranks: list[int], *seen_by: int) -> str:
        """The message of the only incident, which is this one."""
        incidents = self.incidents()
        assert [(found["kind"], found["ranks"]) for found in incidents] == [(kind, ranks)]
        assert incidents[0]["seen_by"] in seen_by
        assert incidents[0]["hosts"] == [f"node-{'abc'[rank]}" for rank in ranks]
        assert abs(incidents[0]["time"] - time.time()) < 60
        return str(incidents[0]["message"])


def all_but(rank: int) -> list[int]:
    return [other for other in range(WORLD) if other != rank]


def seconds_in(message: str) -> int:
    return int(message.partition(" s (last: ")[0].rpartition(" ")[2])
