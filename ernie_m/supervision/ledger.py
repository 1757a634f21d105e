"""RUN/restarts.jsonl: a line for each start and each end of the job; and their totals."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_m.base.console import duration
from ernie_m.base.files import open_kept
from ernie_m.base.run_files import LEDGER_FILE
from ernie_m.runs.metrics import json_lines
from ernie_m.supervision.policy import Outcome
from ernie_m.supervision.run_state import is_started


class Ledger:
    """Appends to the ledger of a run; holds lines back until RUN is a run folder, and while the disk is full."""

    def __init__(self, run: Path) -> None:
        self.run, self.path = run, run / LEDGER_FILE
        self._waiting: list[str] = []
        self.attempts = sum(line.get("event") == "start" for line in read_ledger(run))
        """Starts so far, also under earlier supervisors."""

    def start(self, from_step: int, hosts: dict[str, int]) -> int:
        """Note a start; returns its number, counted from 1 over the whole life of the run."""
        self.attempts += 1
        self._write({"event": "start", "attempt": self.attempts, "hosts": hosts, "from_step": from_step})
        return self.attempts

    def end(self, outcome: Outcome, seconds: float, reason: str, dropped: dict[str, str]) -> None:
        """Note how the last start ended; `dropped` are the hosts (and why) that the next one will do without."""
        line = {"event": "end", "attempt": self.attempts, "seconds": round(seconds, 1), "exit_code": outcome.exit_code}
        steps = {"from_step": outcome.before.committed, "reached": outcome.after.reached}
        lost = {"committed": outcome.after.committed, "steps_lost": outcome.steps_lost}
        ranks = sorted({rank for incident in outcome.incidents for rank in incident.ranks})
        self._write(line | steps | lost | {"reason": reason, "lost_ranks": ranks, "dropped": dropped})

    def _write(self, line: dict[str, Any]) -> None:
        self._waiting.append(json.dumps({"time": round(time.time(), 3), **line}, ensure_ascii=False) + "\n")
        if not is_started(self.run):
            return
        try:
            with open(open_kept(self.path, os.O_WRONLY | os.O_APPEND), "a", encoding="utf-8") as file:
                file.write("".join(self._waiting))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:  # the job matters more than its ledger
            print(f"supervise: {self.path}: {error.strerror}; the lines are kept for later", file=sys.stderr, flush=True)
        else:
            self._waiting.clear()


def read_ledger(run: Path) -> list[dict[str, Any]]:
    """All whole lines of a run's ledger; none if there is no ledger."""
    return json_lines(run / LEDGER_FILE)


@dataclass(frozen=True)
class Summary:
    """Totals of one supervision."""

    restarts: int
    steps_lost: int
    wall_seconds: float
    kept_seconds: float
    """Time in steps that were kept: tokens / tokens a second of each line of metrics up to the newest checkpoint."""

    def __str__(self) -> str:
        goodput = 100 * min(1.0, self.kept_seconds / max(self.wall_seconds, 1e-9))
        return (
            f"{self.restarts} restarts, {self.steps_lost} steps lost; goodput {goodput:.0f} %: {duration(self.kept_seconds)}"
            f" of {duration(self.wall_seconds)} in steps that were kept (tokens / tokens_per_second of their metrics)"
        )
