"""A stand-in for training, started by the real launcher: acts out the behaviour that a plan gives for this start.

The plan is a JSON list beside the run folder, `plan.json`: one entry a start, the last one for all further ones, each
with "steps" (metrics and a checkpoint up to this step), "down" (hosts that ssh will not reach from now on), "lost" (ranks
named by an incident), "stop" (a last_stop.json), "complete", "obeys" (RUN/stop_requested), and "end": "exit N" or "hang".
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

RUN = Path(sys.argv[sys.argv.index("--run") + 1])


def main() -> None:
    rank = int(os.environ["RANK"])
    plan = json.loads((RUN.parent / "plan.json").read_text())
    number = sum('"event": "start"' in line for line in lines(RUN / "restarts.jsonl")) or 1
    act = plan[min(number, len(plan)) - 1]
    seen = {"argv": sys.argv[1:], "environ": dict(os.environ), "world_size": int(os.environ["WORLD_SIZE"])}
    (RUN.parent / f"seen-{number}-{rank}.json").write_text(json.dumps(seen))
    if rank == 0:
        act_as_first(act)
    deadline = time.monotonic() + 120
    while act["end"] == "hang" and time.monotonic() < deadline:
        if act.get("obeys") and (RUN / "stop_requested").exists():
            time.sleep(0.5)  # so that every rank has seen it
            if rank == 0:
                reason = (RUN / "stop_requested").read_text().strip()
                (RUN / "last_stop.json").write_text(json.dumps({"kind": "signal", "message": f"saved ({reason})"}))
                (RUN / "stop_requested").unlink()
            raise SystemExit(75)
        time.sleep(0.05)
    if rank:
        time.sleep(1)  # rank 0 has everything written when the launcher sees the first of us end
    raise SystemExit(int(act["end"].split()[1]))


def act_as_first(act: dict) -> None:
    """All that shows in the run folder."""
    RUN.mkdir(exist_ok=True)
    (RUN / "config.yaml").write_text("batch: {rows_per_step: 12, micro_batch_rows: 2}\n")
    for step in range(1, act.get("steps", 0) + 1):
        with (RUN / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "tokens": 10, "tokens_per_second": 100.0}) + "\n")
    if "steps" in act:
        folder = RUN / "checkpoints" / f"step_{act['steps']:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").write_text("{}")
    if "down" in act:
        (RUN.parent / "down").write_text("\n".join(act["down"]) + "\n")
    if "lost" in act:
        with (RUN / "incidents.jsonl").open("a") as file:
            file.write(json.dumps({"kind": "dead", "ranks": act["lost"], "message": f"ranks {act['lost']} died"}) + "\n")
    if "stop" in act:
        (RUN / "last_stop.json").write_text(json.dumps(act["stop"]))
    if act.get("complete"):
        (RUN / "COMPLETE").write_text("{}")


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
