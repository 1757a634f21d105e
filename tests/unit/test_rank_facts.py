"""What each launcher says of ranks, as its own processes see it; the real ones: tests/integration/test_launchers.py."""

from __future__ import annotations

import importlib.util
import os
import re

import pytest
import torch
import torch.distributed as dist

from ernie_m.base.console import InputError
from ernie_m.base.launchers import rank_of
from ernie_m.base.rank_facts import check_meeting, command_that_works, rank_facts
from ernie_m.runs.meeting import set_meeting
from ernie_m.runs.ranks import Ranks, with_own_gpu

TORCH = {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
HYDRA = {"PMI_RANK": "9", "PMI_SIZE": "16", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "8"}
PALS = {"PMI_RANK": "9", "PMI_SIZE": "16", "PMI_LOCAL_RANK": "1", "PMI_LOCAL_SIZE": "8"}  # Cray's mpiexec
SRUN = {"SLURM_PROCID": "9", "SLURM_NTASKS": "16", "SLURM_LOCALID": "1", "SLURM_TASKS_PER_NODE": "8(x2)"}
PROXY = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0", "SLURM_TASKS_PER_NODE": "1(x2)"}
OMPI = {f"OMPI_COMM_WORLD_{k}": v for k, v in {"RANK": "9", "SIZE": "16", "LOCAL_RANK": "1", "LOCAL_SIZE": "8"}.items()}
MVAPICH = {f"MV2_COMM_WORLD_{k}": v for k, v in {"RANK": "9", "SIZE": "16", "LOCAL_RANK": "1", "LOCAL_SIZE": "8"}.items()}


@pytest.mark.parametrize(
    ("environment", "launcher"),
    [
        (TORCH | {"LOCAL_SIZE": "8", "CROSS_RANK": "1"}, "deepspeed"),
        (TORCH | {"LOCAL_WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "none"}, "torchrun"),
        (TORCH | {"LOCAL_WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "none"} | PROXY, "torchrun"),  # one task a host
        (TORCH | {"LOCAL_SIZE": "8"} | OMPI | PROXY, "deepspeed"),
        (OMPI, "Open MPI"),
        (OMPI | PROXY, "Open MPI"),  # mpirun inside Slurm: srun's numbers are those of its daemons
        (HYDRA | PROXY, "Hydra"),
        (PALS, "Hydra"),
        (PALS | OMPI, "Open MPI"),
        (MVAPICH, "MVAPICH"),
        (SRUN, "srun"),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "16", "SLURM_NTASKS": "64"}, "srun"),  # a step of a larger job
    ],
)
def test_every_launcher_is_understood(environment: dict[str, str], launcher: str) -> None:
    facts = rank_facts(environment)
    assert (facts.rank, facts.world_size, facts.local_rank, facts.local_world_size) == (9, 16, 1, 8)
    assert facts.launcher is not None
    assert facts.launcher.name == launcher
    assert rank_of(environment) == 9


def test_a_process_without_a_launcher_is_alone() -> None:
    facts = rank_facts({"WORLD_SIZE": "8", "SLURM_NTASKS": "4"})  # of an allocation, outside of srun
    assert (facts.rank, facts.world_size, facts.local_rank, facts.local_world_size) == (0, 1, 0, 1)
    assert facts.launcher is None


@pytest.mark.parametrize("said", [{}, {"SLURM_TASKS_PER_NODE": "8,7"}])
def test_ranks_of_a_host_that_no_launcher_counts_are_left_to_be_counted(said: dict[str, str]) -> None:
    assert rank_facts(TORCH).local_world_size is None
    assert rank_facts({k: v for k, v in SRUN.items() if k != "SLURM_TASKS_PER_NODE"} | said).local_world_size is None


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"RANK": "0"}, "RANK is set, but not WORLD_SIZE"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "RANK is set, but not LOCAL_RANK"),
        ({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK=2 of 2 ranks: expected 0 .. 1"),
        ({"RANK": "0", "WORLD_SIZE": "0", "LOCAL_RANK": "0"}, "RANK=0 of 0 ranks: expected 1 at least"),
        ({"RANK": "first", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK='first': expected a whole number"),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, "PMI_RANK is set, but not MPI_LOCALRANKID or PMI_LOCAL_RANK or SLURM_LOCALID"),
    ],
)
def test_a_launcher_that_says_half_is_refused(environment: dict[str, str], expected: str) -> None:
    with pytest.raises(InputError, match=re.escape(expected)):
        rank_facts(environment)


def test_tasks_of_srun_without_a_place_to_meet_are_refused_with_a_command_that_has_one() -> None:
    with pytest.raises(InputError, match=r"MASTER_ADDR=.*scontrol show hostnames.* MASTER_PORT=20042 srun -n 16 python "):
        check_meeting(rank_facts(SRUN), SRUN | {"SLURM_JOB_ID": "42", "SLURM_NNODES": "2"})
    with pytest.raises(InputError, match=r"MASTER_ADDR=127\.0\.0\.1 MASTER_PORT="):
        check_meeting(rank_facts(SRUN), SRUN | {"SLURM_NNODES": "1"})
    check_meeting(rank_facts(SRUN), SRUN | {"MASTER_ADDR": "a", "MASTER_PORT": "1"})
    check_meeting(rank_facts(OMPI), OMPI)  # MPI itself can be asked
    one = SRUN | {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}
    check_meeting(rank_facts(one), one)


@pytest.mark.parametrize("port", ["words", "0", "-1", "65536", "99999999999", "29500 "])
def test_a_place_to_meet_that_is_no_port_is_refused_by_its_name(port: str) -> None:
    with pytest.raises(InputError, match=f"^MASTER_PORT='{port}': expected a port from 1 to 65535"):
        check_meeting(rank_facts(TORCH), TORCH | {"MASTER_ADDR": "a", "MASTER_PORT": port})


@pytest.mark.parametrize("agent", ["True", "False"])
def test_a_rank_alone_meets_at_home_whatever_another_job_left(agent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for torchrun, whose store listens where it said."""
    left = {"MASTER_ADDR": "no.such.host", "MASTER_PORT": "words", "TORCHELASTIC_USE_AGENT_STORE": agent}
    monkeypatch.setattr(os, "environ", dict(left))
    set_meeting(rank_facts(left))
    assert (os.environ["MASTER_ADDR"] == "127.0.0.1") == os.environ["MASTER_PORT"].isdecimal() == (agent == "False")


def test_tasks_of_srun_with_a_pmi_are_told_what_works_under_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm's own PMI-2 sets PMI_RANK though there is no MPI: `srun -n 2 python ...` where MpiDefault=pmi2."""
    pmi = {"PMI_RANK": "1", "PMI_SIZE": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "2"}
    facts = rank_facts(pmi)
    assert (facts.rank, facts.world_size, facts.local_rank) == (1, 2, 1)
    check_meeting(rank_facts(pmi | TORCH), pmi | TORCH)
    assert "srun -n 2 python" in command_that_works(facts, pmi)
    inside = HYDRA | PROXY  # mpiexec inside Slurm: srun started its daemons alone
    assert command_that_works(rank_facts(inside), inside) == "start with torchrun"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(os, "environ", pmi)
    with pytest.raises(InputError, match=r"started by Hydra, but mpi4py is missing: .* MASTER_PORT=20000 srun -n 2 python"):
        set_meeting(facts)


def test_the_local_rank_that_deepspeed_compares_with_is_the_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    """mpirun starts one torchrun a host: Open MPI's local rank is the torchrun's, and DeepSpeed refuses two that differ."""
    inside = TORCH | {"LOCAL_WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "none"} | OMPI | {"OMPI_COMM_WORLD_LOCAL_RANK": "0"}
    monkeypatch.setattr(os, "environ", dict(inside))
    set_meeting(rank_facts(inside))
    assert os.environ["LOCAL_RANK"] == os.environ["OMPI_COMM_WORLD_LOCAL_RANK"] == "1"


@pytest.mark.parametrize(("num_gpus", "device"), [(8, 1), (1, 0), (0, 1)])
def test_a_process_that_sees_one_gpu_takes_it(num_gpus: int, device: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """srun --gpus-per-task=1: each task sees its own GPU alone, as the first one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    facts = with_own_gpu(rank_facts(SRUN))
    assert (facts.rank, facts.local_rank, facts.local_world_size) == (9, device, 8)
    assert facts.environment()["LOCAL_RANK"] == str(device), "DeepSpeed takes the device of that number"


def test_two_ranks_with_one_gpu_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when more tasks are started than there are GPUs, or all are told the same local rank."""
    ranks = object.__new__(Ranks)
    ranks.world_size, ranks._host_group = 3, None

    def gathering(said: list[tuple[str | None, str | None]]) -> None:
        monkeypatch.setattr(dist, "all_gather_object", lambda into, mine, group: into.__setitem__(slice(None), said))
        ranks._refuse_together(*said[0])

    gathering([(None, "a, GPU-1"), (None, "a, GPU-2"), (None, "b, GPU-1")])
    gathering([(None, None)] * 3)  # CPUs
    with pytest.raises(InputError, match=r"ranks 0 and 2 have the same GPU \(a, GPU-1\); start a rank for each GPU"):
        gathering([(None, "a, GPU-1"), (None, "a, GPU-2"), (None, "a, GPU-1")])
    with pytest.raises(InputError, match="no kernels"):
        gathering([(None, "a, GPU-1"), ("no kernels", None), (None, "a, GPU-1")])
