"""Where a job runs: DeepSpeed's (and Open MPI's) hostfile, `name slots=N` a line, and a free port to meet at."""

from __future__ import annotations

import re
import secrets
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ernie_m.base.console import InputError

_LINE = re.compile(r"(?P<host>\S+)\s+slots=(?P<slots>\d+)")
_NAME = re.compile(r"[A-Za-z0-9._:%@+-]+")


def read_hostfile(path: Path) -> dict[str, int]:
    """Host -> slots, in the file's order; raises InputError naming the line that is not `name slots=N`.

    DeepSpeed itself trains on the local machine when the file is missing, and prints a traceback when it is malformed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"hostfile {path}: no such file; deepspeed would silently train on this machine alone") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise InputError(f"hostfile {path}: not a text file; expected lines like `worker-1 slots=8`") from None
    hosts: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        found = _LINE.fullmatch(content)
        if not found or int(found["slots"]) == 0:
            raise InputError(
                f"hostfile {path}, line {number}: {content!r}; expected `name slots=N`, e.g. `worker-1 slots=8`"
            )
        if not _NAME.fullmatch(found["host"]):
            raise InputError(f"hostfile {path}, line {number}: {_odd_name(found['host'])}")
        if found["host"] in hosts:
            raise InputError(f"hostfile {path}, line {number}: {found['host']} is listed twice; give each host one line")
        hosts[found["host"]] = int(found["slots"])
    if not hosts:
        raise InputError(f"hostfile {path}: names no host; expected lines like `worker-1 slots=8`")
    return hosts


def _odd_name(host: str) -> str:
    """What is wrong with a host's name; deepspeed would pass it to ssh unchecked."""
    if host.startswith("\ufeff"):
        return "begins with a byte order mark, which deepspeed takes for part of the name; save it as UTF-8 without one"
    if "[" in host:
        return f"{host}: deepspeed expands no ranges; one line a host, names as of `scontrol show hostnames '{host}'`"
    return f"{host!r}: not the name of a host; expected letters, digits, dots and hyphens, one host a line"


def write_hostfile(path: Path, hosts: Mapping[str, int]) -> None:
    """Write `hosts` (host -> slots) in their order; `read_hostfile` gives them back."""
    path.write_text("".join(f"{host} slots={slots}\n" for host, slots in hosts.items()), encoding="utf-8")


def hosts_of_ranks(hosts: Mapping[str, int]) -> list[str]:
    """The host of each rank: launchers number the ranks host by host, in the hostfile's order."""
    return [host for host, slots in hosts.items() for _ in range(slots)]


def is_local(host: str) -> bool:
    """Whether a hostfile's name means this machine, so that no ssh is needed to start ranks on it."""
    return host in {"localhost", "127.0.0.1", "::1", socket.gethostname(), socket.getfqdn()}


def likely_port() -> int:
    """A TCP port that is probably free on any machine: below those that Linux gives to outgoing connections (from 32768).

    Ranks begin to listen seconds after the port was chosen. A port from 32768 on may belong to any program's connection by
    then.
    """
    return 20_000 + secrets.randbelow(10_000)


def free_port() -> int:
    """A port that nobody listens on now, on this machine."""
    while True:
        port = likely_port()
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return port
