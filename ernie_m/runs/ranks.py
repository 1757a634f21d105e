"""This process among its peers: rank, world size, device, and the few collectives we use.

Three process groups, so that no operation waits for an unrelated one:
- the default one carries tensors on the device (DeepSpeed uses it too);
- `host_sum` and `barrier` use gloo: what ranks decide together (counts of a step, requests to stop) does not wait for the
  device, and the device does not wait for it;
- `voters` have a gloo group with its own timeout: a thread commits a checkpoint while the training goes on, and a rank that
  cannot vote must not block it forever.
"""

from __future__ import annotations

import datetime
import socket
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ernie_m.base.console import Choice, InputError
from ernie_m.base.gpu_build import problem_of_build
from ernie_m.base.rank_facts import RankFacts

START_PATIENCE = 1800.0
"""Seconds that a start may take: reading a checkpoint from a slow disk, compiling."""
PEER_TIMEOUT = datetime.timedelta(seconds=START_PATIENCE + 300)
"""Of collectives, longer than any rank may keep the others waiting: the watchdog judges first."""
VOTE_TIMEOUT = datetime.timedelta(minutes=20)


class Voters:
    """Ranks that decide together about a checkpoint (ernie_m.runs.checkpoint_store)."""

    def __init__(self, rank: int, world_size: int, group: Any = None) -> None:
        self.rank, self.world_size, self._group = rank, world_size, group

    def all_agree(self, mine: bool) -> bool:
        """Whether every rank says yes; a collective. Raises RuntimeError when a rank is gone or late."""
        if self.world_size == 1:
            return mine
        votes = torch.tensor([0 if mine else 1])
        dist.all_reduce(votes, group=self._group)
        return votes.item() == 0

    def from_first(self, value: Any) -> Any:
        """Rank 0's value, on every rank; a collective."""
        return _from_first(value, self._group) if self.world_size > 1 else value


def _from_first(value: Any, group: Any) -> Any:
    values = [value]
    dist.broadcast_object_list(values, src=0, group=group)
    return values[0]


class Ranks:
    """Made once, after the default process group (ernie_m.training.engine.start_ranks)."""

    def __init__(self, facts: RankFacts | None = None, interface: Choice | None = None, address: str = "") -> None:
        """`facts` are the launcher's (default: this process's alone), `interface` is for people, `address` this host's."""
        facts = facts or RankFacts()
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.interface = interface or Choice("network interface", "none", "not chosen")
        self.address = address
        is_gpu = torch.cuda.is_available()
        self.device = torch.device("cuda", facts.local_rank) if is_gpu else torch.device("cpu")
        alone = self.world_size == 1
        self._host_group = None if alone else dist.new_group(backend="gloo", timeout=PEER_TIMEOUT)
        votes = None if alone else dist.new_group(backend="gloo", timeout=VOTE_TIMEOUT)
        self.voters = Voters(self.rank, self.world_size, votes)
        self._refuse_together(problem_of_device(self.device), _identity_of(self.device))
        if is_gpu:
            torch.cuda.set_device(self.device)
        self.launcher = facts.launcher.name if facts.launcher else "none"
        self.local_world_size = facts.local_world_size or self._count_here()

    def _refuse_together(self, problem: str | None, gpu: str | None) -> None:
        """Raise InputError on every rank when one has a problem, or two have the same GPU; a collective."""
        said = [(problem, gpu)]
        if self.world_size > 1:
            said = [(None, None)] * self.world_size
            dist.all_gather_object(said, (problem, gpu), group=self._host_group)
        first_of: dict[str, int] = {}
        for rank, (found, own) in enumerate(said):
            if found:
                raise InputError(found)
            if own is not None and (other := first_of.setdefault(own, rank)) != rank:
                raise InputError(f"ranks {other} and {rank} have the same GPU ({own}); start a rank for each GPU")

    def _count_here(self) -> int:
        """How many ranks are on this host, where the launcher does not say; a collective."""
        hosts: list[str] = [""] * self.world_size
        dist.all_gather_object(hosts, socket.gethostname(), group=self._host_group)
        return hosts.count(socket.gethostname())

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Element-wise sum over all ranks on the device, in place."""
        dist.all_reduce(tensor)
        return tensor

    def host_sum(self, values: np.ndarray) -> np.ndarray:
        """Element-wise sum of a host array over all ranks."""
        if self.world_size == 1:
            return values
        summed = torch.from_numpy(np.array(values))
        dist.all_reduce(summed, group=self._host_group)
        return summed.numpy()

    def all_agree(self, mine: bool) -> bool:
        """Whether every rank says yes; a collective."""
        return bool(self.host_sum(np.array([0 if mine else 1]))[0] == 0)

    def from_first(self, value: Any) -> Any:
        """Rank 0's value, on every rank; a collective."""
        return _from_first(value, self._host_group) if self.world_size > 1 else value

    def gather(self, mine: Any) -> list[Any] | None:
        """What all ranks have, in their order, on rank 0; None on the others. A collective."""
        if self.world_size == 1:
            return [mine]
        found = [None] * self.world_size if self.is_first else None
        dist.gather_object(mine, found, dst=0, group=self._host_group)
        return found

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.all_agree(True)

    def close(self) -> None:
        """Leave the process group in order."""
        self.barrier()
        dist.destroy_process_group()


def with_own_gpu(facts: RankFacts) -> RankFacts:
    """The facts of a process that sees one GPU: that is its own, whatever its rank. Slurm's --gpus-per-task makes it so."""
    sees_one = torch.cuda.is_available() and torch.cuda.device_count() == 1
    return replace(facts, local_rank=0) if sees_one else facts


def _identity_of(device: torch.device) -> str | None:
    """What tells this GPU from all others; None where torch does not say."""
    if device.type != "cuda" or (device.index or 0) >= torch.cuda.device_count():
        return None
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return None if uuid is None else f"{socket.gethostname()}, {uuid}"


def problem_of_device(device: torch.device) -> str | None:
    """Why this torch cannot work on that device of this machine, with what to install; None where it can."""
    if device.type != "cuda":
        return None
    if device.index is not None and device.index >= torch.cuda.device_count():
        left = f"{torch.cuda.device_count()} GPUs, none is left for its rank {device.index}"
        return f"{socket.gethostname()}: {left}; start fewer ranks there"
    built = torch.cuda.get_arch_list()
    problem = problem_of_build(torch.cuda.get_device_capability(device), built, torch.__version__)
    return f"{socket.gethostname()}, {torch.cuda.get_device_name(device)}: {'; '.join(problem)}" if problem else None


def this_device() -> torch.device:
    """The GPU of this process, else the CPU; raises InputError, with what to install, for a GPU that torch cannot use."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if problem := problem_of_device(device):
        raise InputError(problem)
    return device
