"""Where the ranks of a job meet, and through which network interface."""

from __future__ import annotations

import datetime
import importlib.util
import os
import resource
import socket

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not in torch's list of names

from ernie_m.base.console import Choice, InputError
from ernie_m.base.hostfile import free_port
from ernie_m.base.network import interface_of, is_loopback, meeting_address, own_address_towards, own_addresses
from ernie_m.base.rank_facts import RankFacts, check_meeting, command_that_works

LEAST_OPEN_FILES = 128
"""Files that a process must be able to open: libraries, shards, connections to a few ranks. The doctor asks for 1,024."""
MEETING_TIMEOUT = datetime.timedelta(minutes=30)
INTERFACE = "network interface"
DEEPSPEED_COMPARES = "OMPI_COMM_WORLD_LOCAL_RANK"
"""DeepSpeed ends in a traceback where it differs from LOCAL_RANK, as it does for torchrun inside mpirun."""
INTERFACE_VARIABLES = {"gloo": "GLOO_SOCKET_IFNAME", "NCCL": "NCCL_SOCKET_IFNAME"}


def set_meeting(facts: RankFacts) -> None:
    """Put rank, world size and the place to meet into the environment, where torch and DeepSpeed look for them.

    Raises InputError where several ranks were started and nothing says where they meet, and for a limit of open files that
    would fail within.
    """
    check_meeting(facts, os.environ)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if most != resource.RLIM_INFINITY and most < LEAST_OPEN_FILES:
        raise InputError(f"this process may open {most} files (ulimit -n), too few to train; expected 1,024: ulimit -n 1024")
    is_told = bool(os.environ.get("MASTER_ADDR") and os.environ.get("MASTER_PORT"))
    meets_nobody = facts.world_size == 1 and not _agent_has_store()  # then what another job left there does not matter
    if meets_nobody or not is_told:
        address, port = _ask_mpi(facts) if facts.world_size > 1 else ("127.0.0.1", free_port())
        os.environ.update(MASTER_ADDR=address, MASTER_PORT=str(port))
    told = facts.environment()
    if DEEPSPEED_COMPARES in os.environ:
        told[DEEPSPEED_COMPARES] = told["LOCAL_RANK"]
    os.environ.update(told)


def _ask_mpi(facts: RankFacts) -> tuple[str, int]:
    """An address and a free port of rank 0, sent to all ranks by MPI; raises InputError where mpi4py is missing."""
    launcher, otherwise = facts.launcher.name if facts.launcher else "", command_that_works(facts, os.environ)
    if importlib.util.find_spec("mpi4py") is None:
        raise InputError(f"started by {launcher}, but mpi4py is missing: pip install mpi4py, or {otherwise}")
    from mpi4py import MPI

    if (found := MPI.COMM_WORLD.Get_size()) != facts.world_size:
        raise InputError(
            f"{launcher} started {facts.world_size} ranks, but mpi4py sees {found}: it is built for another MPI; install it "
            f"for this one (pip install --no-binary mpi4py mpi4py), or {otherwise}"
        )
    reached = ["127.0.0.1"] if facts.local_world_size == facts.world_size else own_addresses()
    mine = (reached[0] if reached else socket.gethostname(), free_port()) if facts.rank == 0 else None
    address, port = MPI.COMM_WORLD.bcast(mine, root=0)
    return address, port


def choose_interface(facts: RankFacts) -> tuple[Choice, str]:
    """Bind gloo and NCCL to the network interface that leads to the meeting address; call it before any process group.

    Returns the choice, and this host's address for the other ranks ("": there are none).

    By itself gloo takes the address of the host's own name. On Debian that is 127.0.1.1, which no other host can reach. What
    the user has set stays. This is a collective where the ranks may be on several hosts.
    """
    if facts.world_size == 1:
        return Choice(INTERFACE, "none", "one rank"), ""
    address, towards = _own_address(facts)
    return _bound_to(address, towards), address


def _bound_to(address: str, towards: str) -> Choice:
    interface = interface_of(address)
    if not interface:
        return Choice(INTERFACE, "gloo's and NCCL's own choice", f"none has {address}, from which {towards} is reached")
    several = not is_loopback(address)
    unset = [name for name, variable in INTERFACE_VARIABLES.items() if not os.environ.get(variable)]
    chosen = [name for name in unset if several or name == "gloo"]
    asked = [f"{variable}={os.environ[variable]}" for n, variable in INTERFACE_VARIABLES.items() if n not in unset]
    os.environ.update({INTERFACE_VARIABLES[name]: interface for name in chosen})
    if not chosen:
        return Choice(INTERFACE, os.environ[INTERFACE_VARIABLES["gloo"]], f"asked for by {' and '.join(asked)}")
    given = f"; {' and '.join(asked)} as asked for" if asked else ""
    return Choice(INTERFACE, interface, f"{address} leads to {towards}, for {' and '.join(chosen)}{given}")


def _own_address(facts: RankFacts) -> tuple[str, str]:
    """This host's address for its peers, and what it leads to: the meeting address or, on that host itself, another host."""
    meeting = meeting_address()
    try:
        address = own_address_towards(meeting)
    except OSError as error:
        raise InputError(f"MASTER_ADDR {meeting}: no route there from {socket.gethostname()} ({error})", True) from None
    if facts.local_world_size == facts.world_size:
        return address, meeting
    store = TCPStore(
        meeting,
        int(os.environ["MASTER_PORT"]),
        is_master=facts.rank == 0 and not _agent_has_store(),
        timeout=MEETING_TIMEOUT,
        wait_for_workers=False,
        multi_tenant=True,
    )
    _STORES.append(store)
    key = f"ernie_m/address/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{{}}"
    store.set(key.format(facts.rank), "" if is_loopback(address) else address)
    if is_loopback(address):  # the name of the place to meet is this host's own
        for rank in range(facts.world_size):
            if other := store.get(key.format(rank)).decode():
                return own_address_towards(other), other
    return address, meeting


def _agent_has_store() -> bool:
    """Whether torchrun itself listens at the place to meet."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


_STORES: list[TCPStore] = []
"""Kept open: rank 0's serves the process group as well, which takes the same port."""
