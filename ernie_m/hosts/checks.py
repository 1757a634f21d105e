"""Judging what the hosts of a job said (ernie_m/hosts/examination.py): a table with a row a host, and what is wrong.

`CHECKS` are the table's columns. A check looks at one host's answers, and at all hosts' answers where they must agree (the
majority is right; in a tie the first host is). It returns a Finding: the cell's text and perhaps problems with remedies.
Nothing is asked here: everything is computed from Results.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ernie_m.hosts.examination import Results
from ernie_m.hosts.findings import Finding, Problem, fact, usual
from ernie_m.hosts.gpu_checks import check_gpus

MAX_SKEW_SECONDS = 1.0
"""Ages of heartbeats and times of saving are compared between hosts."""
MIN_OPEN_FILES = 1024
MIN_SHM_BYTES = 1 << 30
"""NCCL's ranks on one host talk through /dev/shm; containers give 64 MB unless asked for more."""
SLOW_LINK = 0.5
"""A link below this share of the median link is slow."""
UNLIMITED = -1


@dataclass(frozen=True)
class Report:
    """`cells[host][column]`: a text and whether it is a problem; `problems`: equal ones of several hosts are one entry."""

    cells: dict[str, dict[str, tuple[str, bool]]]
    problems: list[Problem]
    notes: list[Problem]

    def table(self) -> str:
        """One row a host, one column a check that was made anywhere; cells with a problem begin with an x."""
        columns = [name for name in CHECKS if any(name in row for row in self.cells.values())]
        lines = [["host", *columns]]
        for host, row in self.cells.items():
            cells = (row.get(name, ("-", False)) for name in columns)
            lines.append([host, *(f"x {text}".strip() if is_wrong else text for text, is_wrong in cells)])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def judge(results: Results, disk_bytes: int = 0) -> Report:
    """Make all checks; `disk_bytes`: what the run's checkpoints will take (0: unknown)."""
    cells: dict[str, dict[str, tuple[str, bool]]] = {host: {} for host in results}
    met: dict[tuple[str, str], list[str]] = {}
    noted: dict[tuple[str, str], list[str]] = {}
    for name, check in CHECKS.items():
        for host in results:
            if finding := check(host, results, disk_bytes):
                cells[host][name] = (finding.text, bool(finding.problems))
                for problem in finding.problems:
                    met.setdefault(problem, []).append(host)
                for note in finding.notes:
                    noted.setdefault(note, []).append(host)
    problems, notes = ([Problem(tuple(hosts), *said) for said, hosts in found.items()] for found in (met, noted))
    return Report(cells, problems, notes)


def check_ssh(host: str, results: Results, disk_bytes: int) -> Finding | None:
    """Is the agent there, over ssh without a password? Says what to do about the usual failures."""
    if "error" not in (answer := results[host].get("ssh", {})):
        return Finding(f"{answer['seconds']:.1f} s") if answer else None
    said = answer["error"]
    return Finding.wrong(said, next((remedy for part, remedy in SSH_REMEDIES.items() if part in said), SSH_REMEDIES[""]))


SSH_REMEDIES = {
    "resolve hostname": "no such name here: correct the hostfile, /etc/hosts or ~/.ssh/config",
    "Connection refused": "no ssh server on that port: start one, or give --ssh_port (to deepspeed too)",
    "timed out": "the host is down or a firewall drops ssh: take it out of the hostfile, or `deepspeed --exclude` it",
    "Permission denied": "no password may be asked: `ssh-copy-id` your key to that host",
    "Host key verification": "make the host known: log in with ssh once, or add `ssh-keyscan` of it to ~/.ssh/known_hosts",
    "No module named": "the package is not installed for that python: `pip install -e .` there, in the same folder",
    "No such file or directory": "this folder and this python must have the same paths on every host: share or copy them",
    "not found": "install what is named",
    "no answer within": "the host hangs, perhaps on a network file system: log in and look",
    "": "log in with ssh and look",
}
"""By a part of what ssh or the shell said."""


def check_clock(host: str, results: Results, disk_bytes: int) -> Finding | None:
    """Do the clocks agree, as far as the round trip's time allows to tell?"""
    if not (answer := results[host].get("clock")):
        return None
    ahead, text = answer["ahead"], f"{answer['ahead']:+.3f} s"
    if abs(ahead) - answer["round_trip"] / 2 <= MAX_SKEW_SECONDS:
        return Finding(text)
    way = "ahead of" if ahead > 0 else "behind"
    return Finding.wrong(f"its clock is {abs(ahead):.1f} s {way} this machine's", "run chrony or ntpd there", text)


def check_software(host: str, results: Results, disk_bytes: int) -> Finding | None:
    """Are all packages there, and of the versions that the other hosts have?"""
    if not (mine := _software(results[host])):
        return None
    problems = [
        (f"{name} is not installed", "`pip install -e .` there") for name, version in mine.items() if version is None
    ]
    torch = results[host]["facts"]["torch"]
    if mine["torch"] is not None and "error" in torch:
        problems.append((f"torch does not import: {torch['error']}", "install it anew there"))
    for name, version in mine.items():
        common = usual(_software(result).get(name) for result in results.values())
        if version not in (None, common):
            problems.append((f"{name} {version}, the others have {common}", "install the same version everywhere"))
    return Finding(f"torch {mine['torch'] or '-'}", tuple(problems))


def check_source(host: str, results: Results, disk_bytes: int) -> Finding | None:
    """Is the installed ernie_m the same everywhere?"""
    if not (mine := fact(results[host], "source")):
        return None
    if mine == usual(fact(result, "source") for result in results.values()):
        return Finding(mine[:8])
    return Finding.wrong("its ernie_m is another than the others'", "bring this folder to the same commit there", mine[:8])


def check_data(host: str, results: Results, disk_bytes: int) -> Finding | None:
    """Is the data folder there, the same everywhere, and (the first host looks) are its shards as long as they should be?"""
    if not (mine := fact(results[host], "data")):
        return None
    if error := mine.get("error") or results[host].get("shards", {}).get("error"):
        return Finding.wrong(f"data: {error}", "the data folder must lie under the same path everywhere; rebuild or copy it")
    others = [fact(result, "data") or {} for result in results.values()]
    text = mine["manifest"][:8]
    if any(mine[key] != usual(other.get(key) for other in others) for key in ("manifest", "tokenizer")):
        return Finding.wrong(f"data: manifest {text} is another than the others'", "copy the data folder again", text)
    return Finding(text)


def check_shared(host: str, results: Results, disk_bytes: int) -> Finding | None:
    """Does this host see what others write to the run folder, do they see what it writes, and is there room?"""
    if not (answer := results[host].get("share")):
        return None
    if "error" in answer:
        return Finding.wrong(f"shared folder: {answer['error']}", "mount one file system under that path on every host")
    if answer.get("lock"):
        return Finding.wrong(f"run folder: {answer['lock']}", "or two jobs could write to one run", "no lock")
    free = answer["free_bytes"]
    text = f"{free / 1e9:,.0f} GB free"
    if free >= disk_bytes:
        return Finding(text)
    message = f"{free / 1e9:,.1f} GB free at the run, its checkpoints need {disk_bytes / 1e9:,.1f} GB"
    return Finding.wrong(message, "free space, or keep fewer: output.keep_last", text)


def check_cores(host: str, results: Results, disk_bytes: int) -> Finding | None:
    """A core at least for each rank; on CPUs no more threads than cores."""
    if not (facts := results[host].get("facts")):
        return None
    cores, slots, asked = facts["cores"], results[host]["slots"], facts["omp_num_threads"]
    threads = int(asked) if asked and asked.isdigit() else None
    text = f"{cores / slots:.3g} a rank, OMP {threads or 'unset'}"
    if cores < slots:
        return Finding.wrong(f"{slots} ranks on {cores} cores", "fewer slots, or ask for more cores", text)
    computes = not facts["gpus"] and not facts["torch"].get("devices")
    if computes and slots > 1 and slots * (threads or cores) > cores:
        each = f"OMP_NUM_THREADS={threads}" if threads else f"OMP_NUM_THREADS is not set, so each takes all {cores}"
        remedy = f"set OMP_NUM_THREADS={cores // slots} here, `ernie-m supervise` passes it on; or in .deepspeed_env"
        return Finding.wrong(f"{slots} ranks on {cores} cores: {each}", remedy, text)
    return Finding(text)


def check_limits(host: str, results: Results, disk_bytes: int) -> Finding | None:
    """Open files; with several GPUs room in /dev/shm; with InfiniBand memory that may be locked."""
    if not (facts := results[host].get("facts")):
        return None
    files, shm, gpus = facts["nofile"], facts["shm_bytes"], min(results[host]["slots"], len(facts["gpus"]))
    problems = []
    if UNLIMITED != files < MIN_OPEN_FILES:
        problems.append(
            (f"ulimit -n is {files}, expected {MIN_OPEN_FILES} or more", "raise it in /etc/security/limits.conf")
        )
    if gpus > 1 and shm < MIN_SHM_BYTES:
        problems.append((f"/dev/shm has {shm / 2**20:.0f} MiB, NCCL wants 1 GiB", "docker: --shm-size=1g or --ipc=host"))
    if gpus and facts["infiniband"] and facts["memlock"] != UNLIMITED:
        problems.append(
            (f"InfiniBand, but ulimit -l is {facts['memlock'] // 1024} KiB", "set memlock unlimited in limits.conf")
        )
    return Finding(f"{'unlimited' if files == UNLIMITED else files} files, shm {shm / 2**30:.3g} GiB", tuple(problems))


def check_route(host: str, results: Results, disk_bytes: int) -> Finding | None:
    """Can it connect to where rank 0 will listen, and from which interface and address?"""
    if not (answer := results[host].get("route")):
        return None
    text = f"{answer.get('interface', '')} {answer.get('address', '')}".strip()
    remedy = "open the firewall between the hosts, or name an address that all reach: --master_addr (to deepspeed too)"
    failed = {address: error for address, error in answer["tried"].items() if error}
    problems = [(f"no connection to the first host at {address}: {error}", remedy) for address, error in failed.items()]
    if answer.get("port_is_taken"):
        problems.append((f"port {answer['port']} is in use, perhaps by another job", "take another --master_port"))
    return Finding(text, tuple(problems))


def check_name(host: str, results: Results, disk_bytes: int) -> Finding | None:
    """Which address does its own name have there? No other host reaches Debian's 127.0.1.1; training uses routes instead."""
    if not (name := fact(results[host], "own_name")) or len(results) == 1:
        return None
    addresses = ", ".join(name["addresses"]) or "nothing"
    if name["addresses"] and not name["loopback"]:
        return Finding(addresses)
    said = f"its own name {name['name']} stands for {addresses} there, which no other host can reach"
    own = (results[host].get("route") or {}).get("address", "its address")
    way = f"training binds to the interface towards the others; for other programs `{own} {name['name']}` in /etc/hosts"
    return Finding(addresses, notes=((said, way),))


def check_ring(host: str, results: Results, disk_bytes: int) -> Finding | None:
    """Is its link to the next host about as fast as the other links?"""
    if not (answer := results[host].get("ring")):
        return None
    if "error" in answer:
        return Finding.wrong(f"no stream to {answer['to']}: {answer['error']}", "open the firewall between the hosts")
    rates = [r["ring"]["gbit_per_second"] for r in results.values() if "gbit_per_second" in r.get("ring", {})]
    mine, median = answer["gbit_per_second"], statistics.median(rates)
    text = f"{mine:.3g} Gbit/s"
    if mine >= SLOW_LINK * median:
        return Finding(text)
    message = f"{text} to {answer['to']}, the median link has {median:.3g}"
    return Finding.wrong(message, "look at cable, switch port and interface of both, or leave one out", text)


CHECKS: Mapping[str, Callable[[str, Results, int], Finding | None]] = {
    "ssh": check_ssh,
    "clock": check_clock,
    "software": check_software,
    "source": check_source,
    "data": check_data,
    "GPUs": check_gpus,
    "run folder": check_shared,
    "cores": check_cores,
    "limits": check_limits,
    "route": check_route,
    "own name": check_name,
    "ring": check_ring,
}


def _software(result: Mapping[str, Any]) -> dict[str, str | None]:
    """Versions by name; None for a missing package, no key for what is unknown."""
    if not (facts := result.get("facts")):
        return {}
    known = {"CUDA of torch": facts["torch"].get("cuda"), "NCCL": facts["torch"].get("nccl")}
    known["driver"] = next((gpu["driver"] for gpu in facts["gpus"] if "driver" in gpu), None)
    return {**facts["software"], **{name: version for name, version in known.items() if version is not None}}
