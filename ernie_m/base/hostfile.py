"""Where a job runs: DeepSpeed's (and Open MPI's) hostfile, `name slots=N` a line; how a host is reached; a free port."""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from ernie_m.base.console import InputError
from ernie_m.base.files import read_small

_LINE = re.compile(r"(?P<host>\S+)\s+slots=(?P<slots>[0-9]+)")
_RANGES = re.compile(r"[A-Za-z0-9_.,\[\]-]+")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
MAX_NAME = 253
"""Characters of the longest name that DNS has."""
MAX_SLOTS, MAX_RANKS = 1024, 1 << 17
"""Of a host; of all hosts."""
_HELD: deque[socket.socket] = deque(maxlen=64)
"""What holds the ports that this process gave away."""


def read_hostfile(path: Path) -> dict[str, int]:
    """Host -> slots, in the file's order; raises InputError naming the line that is not `name slots=N`.

    DeepSpeed itself trains on the local machine when the file is missing, and prints a traceback when it is malformed.
    """
    try:
        text = read_small(path)
    except FileNotFoundError:
        raise InputError(f"hostfile {path}: no such file; deepspeed would silently train on this machine alone") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise InputError(f"hostfile {path}: not a text file; expected lines like `worker-1 slots=8`") from None
    hosts: dict[str, int] = {}
    seen: set[str] = set()
    for number, line in enumerate(text.split("\n"), start=1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        found = _LINE.fullmatch(content)
        slots = int(found["slots"][:9]) if found else 0
        if not found or not 1 <= slots <= MAX_SLOTS:
            most = f" and at most {MAX_SLOTS:,} slots" if slots else ""
            raise InputError(
                f"hostfile {path}, line {number}: {content[:80]!r}; expected `name slots=N`{most}, e.g. `worker-1 slots=8`"
            )
        check_host_name(found["host"], f"hostfile {path}, line {number}")
        if found["host"].lower() in seen:
            raise InputError(f"hostfile {path}, line {number}: {found['host']} is listed twice; give each host one line")
        hosts[found["host"]] = slots
        seen.add(found["host"].lower())  # names of hosts have no case
    if not hosts:
        raise InputError(f"hostfile {path}: names no host; expected lines like `worker-1 slots=8`")
    if sum(hosts.values()) > MAX_RANKS:
        raise InputError(f"hostfile {path}: {sum(hosts.values()):,} slots in all, expected at most {MAX_RANKS:,}")
    return hosts


def check_host_name(host: str, where: str) -> None:
    """Raise InputError, which begins with `where`, for what is no host's name or address.

    Names reach the command lines of ssh and pdsh. ssh runs a "name" like -oProxyCommand=..., pdsh reads exec:name as a way
    to start and -name as one to be left out. A colon is in IPv6 addresses alone.
    """
    if len(host) <= MAX_NAME and (_NAME.fullmatch(host) or _is_ipv6(host)):
        return
    if host.startswith("\ufeff"):
        odd = "begins with a byte order mark, which deepspeed takes for part of the name; save it as UTF-8 without one"
    elif host.startswith("-"):
        odd = f"{host[:80]!r}: ssh and pdsh take it for an option; expected the name of a host"
    elif "[" in host and _RANGES.fullmatch(host):
        odd = (
            f"{host[:80]}: deepspeed expands no ranges; one line a host, names as of `scontrol show hostnames '{host[:80]}'`"
        )
    elif "@" in host:
        odd = f"{host[:80]!r}: a name without a user is expected; `User` in ~/.ssh/config says who logs in there"
    else:
        odd = f"{host[:80]!r}: not the name of a host; expected letters, digits, dots and hyphens, one host a line"
    raise InputError(f"{where}: {odd}")


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.IPv6Address(host).scope_id is None
    except ValueError:
        return False


def ssh_command(host: str, options: Sequence[str], remote_command: str) -> list[str]:
    """The one command with which we reach another host; its shell runs `remote_command`. Never asks for a password.

    Raises InputError for what is no host's name. `options` come last: the first one that ssh is given counts.
    """
    check_host_name(host, "ssh")
    return ["ssh", "-o", "BatchMode=yes", *options, "--", host, remote_command]


def write_hostfile(path: Path, hosts: Mapping[str, int]) -> None:
    """Write `hosts` (host -> slots) in their order; `read_hostfile` gives them back. deepspeed and pdsh read it next."""
    for host in hosts:
        check_host_name(host, f"hostfile {path}")
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
    """A port that nobody listens on now, on this machine, and that no other call of this gives away meanwhile.

    This process goes on holding it, without listening: what listens by SO_REUSEADDR, as torch's store does, may take it.
    """
    while True:
        port, probe = likely_port(), socket.socket()
        try:
            probe.bind(("", port))
        except OSError:
            probe.close()
            continue
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # behind the bind, which others' ports must stop
        _HELD.append(probe)
        return port
