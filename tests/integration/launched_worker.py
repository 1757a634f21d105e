"""A rank of test_launchers.py: joins the others as training does, and prints what it knows of itself as a line of JSON."""

from __future__ import annotations

import json
import sys

import torch

from ernie_m.base.console import run_cleanly
from ernie_m.training.engine import start_ranks


def main() -> None:
    ranks = start_ranks()
    total = int(ranks.sum(torch.ones(1)).item())
    known = (ranks.rank, ranks.world_size, ranks.local_world_size, ranks.launcher, total)
    sys.stdout.write(json.dumps(["known", *known]) + "\n")  # one write: lines of ranks must not mix
    sys.stdout.flush()
    ranks.close()


if __name__ == "__main__":
    run_cleanly(main)
