"""Ranks that cannot meet say where they tried to."""

from __future__ import annotations

import socket
import subprocess
import sys

from tests.integration.conftest import ROOT, environment

MEET = """
from ernie_m.base.console import run_cleanly
from ernie_m.training.engine import start_ranks
run_cleanly(start_ranks)
"""


def test_a_port_that_is_taken_is_named_with_the_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        meeting = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        result = subprocess.run(
            [sys.executable, "-c", MEET],
            cwd=ROOT,
            env={**environment(), **meeting},
            capture_output=True,
            text=True,
            check=False,
        )
    assert result.returncode == 2, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert f"127.0.0.1:{port}" in line
    assert "--master_port" in line
    assert "Traceback" not in result.stderr


def test_a_limit_of_open_files_that_would_fail_within_is_told_at_the_start() -> None:
    result = subprocess.run(
        ["bash", "-c", 'ulimit -n 100 && exec "$0" -c "$1"', sys.executable, MEET],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    assert [line for line in result.stderr.splitlines() if line.startswith("error: ")] == [
        "error: this process may open 100 files (ulimit -n), too few to train; expected 1,024: ulimit -n 1024"
    ]
