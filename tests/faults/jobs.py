"""Training jobs for the fault tests: started on real ranks, watched with bounded waits, measured when they go on."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from ernie_m.base.hostfile import free_port
from ernie_m.runs.checkpoint import committed_folders, step_of, verify
from ernie_m.runs.metrics import read_metrics
from tests.integration.conftest import ROOT, environment

SCRIPT = Path(__file__).with_name("faulty_pretrain.py")
PATIENCE = 120.0  # seconds that anything here may take at most
ENDED_SECONDS = 60.0  # ... and that the processes of a job may outlive its launcher
_numbers = itertools.count()

Fault = dict[str, Any]


@dataclass(frozen=True)
class Recovery:
    """A line of the table: what a fault cost."""

    fault: str
    steps_lost: int | None
    seconds: float | None


@dataclass
class Job:
    """A started job. Its output goes into a file, so that nobody has to read along."""

    process: subprocess.Popen[bytes]
    run: Path
    log: Path
    launched: float = field(default_factory=time.monotonic)

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def errors(self) -> list[str]:
        """The lines by which it told why it ended."""
        return [line for line in self.text.splitlines() if line.startswith("error: ")]

    @property
    def first_step(self) -> int | None:
        """The step it goes on from; None while it is not that far."""
        found = re.search(r"^starting (?:at step (\d+)|from scratch)$", self.text, re.MULTILINE)
        return int(found[1] or 0) if found else None

    @property
    def last_step(self) -> int:
        """Steps that metrics.jsonl knows."""
        return max((line["step"] for line in read_metrics(self.run)), default=0)

    def until(self, condition: Callable[[], object], what: str, seconds: float | None = None) -> None:
        """Wait until `condition`; fails when the job ends before or the time is over."""
        seconds = seconds or PATIENCE
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"the job ended before {what}:\n{self.text}"
            assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}\n{self.text}"
            time.sleep(0.002)

    def goes_on(self) -> float:
        """Wait until it has made its first step; returns the seconds since it was launched."""
        self.until(lambda: self.first_step is not None, "its start")
        self.until(lambda: self.last_step > (self.first_step or 0), "its first step")
        return time.monotonic() - self.launched

    def processes(self) -> list[psutil.Process]:
        """Launchers and ranks."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def ranks(self) -> dict[int, psutil.Process]:
        """The ranks alone."""
        found = {}
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                for argument in process.cmdline():
                    if argument.startswith("--local_rank="):  # DeepSpeed's launcher gives it to each
                        found[int(argument.partition("=")[2])] = process
        return found

    def kill(self, victim: str) -> None:
        """kill -9: "rank 0", "rank 1", or "all", which are the ranks and the launcher."""
        ranks = self.ranks()
        victims = self.processes() if victim == "all" or not ranks else [ranks[int(victim.split()[1])]]
        for process in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def end(self) -> int:
        """Wait until every process of it is gone; returns the exit code."""
        try:
            code = self.process.wait(PATIENCE)
            deadline = time.monotonic() + ENDED_SECONDS
            while self.processes():
                assert time.monotonic() < deadline, f"processes outlive their job:\n{self.text}"
                time.sleep(0.02)
            return code
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Starter:
    """Starts jobs of one recipe on one data folder."""

    recipe: Path
    data: Path
    logs: Path

    def start(
        self,
        run: Path,
        *more: str,
        num_ranks: int = 1,
        faults: Sequence[Fault] = (),
        by_runner: bool = False,
        **variables: str,
    ) -> Job:
        """Start a job in a session of its own: one rank as plain python, more through DeepSpeed's launcher of a host.

        `by_runner`: the command `deepspeed`, which starts that launcher after some seconds of its own.
        """
        arguments = ["--recipe", self.recipe, "--data", self.data, "--run", run, *more]
        command = [sys.executable, SCRIPT, *arguments]
        if by_runner:
            deepspeed = str(Path(sys.executable).with_name("deepspeed"))
            command[:1] = [deepspeed, "--num_gpus", str(num_ranks), "--master_port", str(free_port())]
        elif num_ranks > 1:
            world = base64.urlsafe_b64encode(json.dumps({"localhost": list(range(num_ranks))}).encode()).decode()
            launcher = ["-m", "deepspeed.launcher.launch", f"--world_info={world}", "--master_addr=127.0.0.1"]
            command[1:1] = [*launcher, f"--master_port={free_port()}"]
        log = self.logs / f"{next(_numbers):03d}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                list(map(str, command)),
                cwd=ROOT,
                env={**environment(), "FAULTS": json.dumps(list(faults)), **variables},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Job(process, run, log)

    def finish(self, run: Path, *more: str, **how: Any) -> tuple[int, Job]:
        """Start a job and wait for its end: (exit code, job)."""
        job = self.start(run, *more, **how)
        return job.end(), job


def verified_steps(run: Path) -> list[int]:
    """Steps of all committed checkpoints, newest first; raises when one of them is not whole."""
    return [verify(folder).step for folder in committed_folders(run / "checkpoints")]


def cut_short(run: Path, to: Path, step: int, checkpoints: Path | None = None, kept: int = 5) -> Path:
    """A copy of a finished run as it was after `step` steps, with `kept` checkpoints; these elsewhere if so asked."""
    shutil.copytree(run, to, ignore=shutil.ignore_patterns("COMPLETE", "checkpoints"))
    if checkpoints is not None:
        checkpoints.mkdir()
        (to / "checkpoints").symlink_to(checkpoints)
    for folder in [f for f in committed_folders(run / "checkpoints") if step_of(f) <= step][:kept]:
        shutil.copytree(folder, to / "checkpoints" / folder.name)
    return to
