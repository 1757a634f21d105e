"""What each rank did, how fast, and in how much memory: ranks/rank-00003.json, brought up to date now and then."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from data_prep import work_folder
from data_prep.convert import Done, this_process
from data_prep.team import TEAM_SIZE, Team
from ernie_m.base.files import read_json, write_json

SECONDS_BETWEEN_WRITES = 30.0


class RankStats:
    """Gathered by the root of a team for all of its ranks; ranks of a machine are numbered as they first report."""

    def __init__(self, out: Path, team: Team) -> None:
        self.folder, self.first_rank = out / work_folder.RANKS_FOLDER, team.number * TEAM_SIZE
        self._ranks: dict[str, int] = {this_process(): 0}
        self._stats: dict[int, dict[str, Any]] = {}
        self._written = time.monotonic()

    def add(self, done: Done) -> None:
        """Count a chunk."""
        rank = self._ranks.setdefault(done.process, len(self._ranks))
        stats = self._stats.setdefault(rank, {"process": done.process, "chunks": 0, "seconds": 0.0})
        for key in ("rows", "tokens", "text_bytes", "seconds"):
            stats[key] = stats.get(key, 0) + getattr(done, key)
        stats["chunks"] += 1
        stats["peak_memory_bytes"] = done.peak_memory_bytes
        if time.monotonic() - self._written > SECONDS_BETWEEN_WRITES:
            self.write()

    def write(self) -> None:
        """Write a file a rank."""
        self._written = time.monotonic()
        self.folder.mkdir(exist_ok=True)
        for rank, stats in self._stats.items():
            number = self.first_rank + rank
            speed = float(stats["text_bytes"]) / max(float(stats["seconds"]), 1e-9)
            content = {**stats, "rank": number, "text_bytes_per_second": round(speed)}
            write_json(self.folder / f"rank-{number:05d}.json", content)


def peak_memory(out: Path) -> int:
    """Bytes that the largest rank of the last start has had."""
    stats = (read_json(path) for path in (out / work_folder.RANKS_FOLDER).glob("rank-*.json"))
    return max((int(rank["peak_memory_bytes"]) for rank in stats), default=0)
