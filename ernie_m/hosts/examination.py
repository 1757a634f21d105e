"""Asks all hosts of a hostfile at the same time: one ssh session to each, with an agent at the other end.

1. ssh to EVERY host, without a password; deepspeed itself tries only the first, and fails later at the others.
2. clock, facts: what each host says about itself.
3. share: every host reads a file written here, and this one reads theirs.
4. route: the first host listens, where rank 0 will; the others connect to it.
5. ring: host i sends to host i + 1, all together, as an all-reduce does.
6. shard sizes, on the first host alone: it may be a million files.

The answers are plain data, Results, which ernie_m/hosts/checks.py judges. A question that fails gives {"error": line}.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ernie_m.base.console import InputError, Progress
from ernie_m.base.locks import lock
from ernie_m.hosts.host_agent import appears
from ernie_m.hosts.session import AGENT, HostError, HostSession, remote_agent

Results = dict[str, dict[str, Any]]
"""Host -> question -> answer; only what was asked."""

CLOCK_QUESTIONS = 5
STREAM_SECONDS, SILENT_SECONDS = 1.5, 5.0


@dataclass(frozen=True)
class Examination:
    """What to examine. `hosts` are names and slots; without `through_ssh` the only host is this machine."""

    hosts: Mapping[str, int]
    through_ssh: bool
    data: str | None = None
    shared: Path | None = None
    bandwidth: bool = False
    master_addr: str | None = None
    master_port: int = 29500
    ssh_options: tuple[str, ...] = ()
    """As pdsh's ssh gets them."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """The variables of this environment that ranks on other hosts will have."""


def examine(job: Examination) -> Results:
    """Ask all hosts everything; says on stderr how far it is when it takes longer than a few seconds."""
    try:
        return asyncio.run(_examine(job))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _command(host: str, job: Examination) -> list[str]:
    return remote_agent(host, job.ssh_options, job.environment) if job.through_ssh else list(AGENT)


async def _examine(job: Examination) -> Results:
    sessions = [HostSession(name, _command(name, job)) for name in job.hosts]
    results: Results = {name: {"slots": slots} for name, slots in job.hosts.items()}
    task = asyncio.current_task()
    assert task is not None
    for stopping in (signal.SIGTERM, signal.SIGHUP):  # temporary files must go, or no run starts in the folder
        asyncio.get_running_loop().add_signal_handler(stopping, task.cancel)
    try:
        await _asked_all("asking hosts", sessions, lambda session: _introduce(session, results[session.name], job))
        live = [session for session in sessions if "facts" in results[session.name]]
        if job.shared and live:
            await _share(job.shared, live, results)
        if len(sessions) > 1 and sessions[0] in live:
            await _route(job, sessions[0], live, results)
        if job.bandwidth and len(live) > 1:
            await _ring(live, results)
        if job.data and sessions[0] in live:
            results[sessions[0].name]["shards"] = await _shard_sizes(sessions[0], job.data)
    finally:
        await asyncio.gather(*(session.close() for session in sessions))
    return results


async def _asked_all(what: str, sessions: list[HostSession], ask: Callable[[HostSession], Any]) -> None:
    """Run `ask` on all sessions at once; every few seconds name those that have not answered."""
    awaited = [session.name for session in sessions]

    async def one(session: HostSession) -> None:
        await ask(session)
        awaited.remove(session.name)

    async def tell() -> None:
        while True:
            await asyncio.sleep(SILENT_SECONDS)
            names = ", ".join(awaited[:4]) + (" ..." if len(awaited) > 4 else "")
            print(f"{what}: {len(awaited)} of {len(sessions)} hosts to come: {names}", file=sys.stderr, flush=True)

    telling = asyncio.create_task(tell())
    try:
        await asyncio.gather(*map(one, sessions))
    finally:
        telling.cancel()


async def _introduce(session: HostSession, result: dict[str, Any], job: Examination) -> None:
    try:
        opened = await session.start()
        if job.through_ssh:
            result["ssh"], result["clock"] = opened, await _clock(session)
        result["facts"] = await session.ask("facts", data=job.data)
    except HostError as error:
        result["ssh"] = {"error": str(error)}
    except FileNotFoundError:
        result["ssh"] = {"error": "ssh: command not found on this machine"}


async def _clock(session: HostSession) -> dict[str, Any]:
    """Seconds that the other clock is ahead of this one: at the middle of the fastest of a few round trips."""
    best = {"round_trip": float("inf")}
    for _ in range(CLOCK_QUESTIONS):
        asked, started = time.time(), time.monotonic()
        there = (await session.ask("clock"))["time"]
        round_trip = time.monotonic() - started
        if round_trip < best["round_trip"]:
            best = {"round_trip": round_trip, "ahead": there - (asked + round_trip / 2)}
    return best


async def _answer_or_error(session: HostSession, name: str, /, **question: Any) -> dict[str, Any]:
    try:
        return await session.ask(name, **question)
    except HostError as error:
        return {"error": str(error)}


async def _share(folder: Path, live: list[HostSession], results: Results) -> None:
    """Every host reads what this one writes, and this one reads what every host wrote; no file is left."""
    token = secrets.token_hex(8)
    try:
        with contextlib.ExitStack() as lending:
            lent = lending.enter_context(_lent_folder(folder, token))
            held_here = lending.enter_context((lent / "lock").open("wb"))
            with contextlib.suppress(InputError):  # the hosts meet it too, and say so
                lock(held_here.fileno(), folder)
            write_here = lent / "here"
            write_here.write_text(token, encoding="utf-8")

            async def one(number: int, session: HostSession) -> None:
                name = f"host-{number}"
                answer = await _answer_or_error(session, "share", folder=str(lent), name=name, token=token)
                if "error" not in answer and not await asyncio.to_thread(appears, lent / name, f"{token} {name}"):
                    answer = {"error": f"what it writes to {folder} is not seen on this machine"}
                results[session.name]["share"] = answer

            numbers = {session.name: number for number, session in enumerate(live)}
            await _asked_all("shared folder", live, lambda session: one(numbers[session.name], session))
    except OSError as error:
        for session in live:
            results[session.name]["share"] = {"error": f"{error.filename} here: {error.strerror}"}


@contextlib.contextmanager
def _lent_folder(folder: Path, token: str) -> Iterator[Path]:
    """A temporary folder inside `folder`; afterwards all is as before, and `folder` is removed if it was made here."""
    folder = folder.absolute()
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lent = folder / f".doctor-{token}"
    try:
        lent.mkdir(parents=True)
        yield lent
    finally:
        shutil.rmtree(lent, ignore_errors=True)
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()


async def _route(job: Examination, first: HostSession, live: list[HostSession], results: Results) -> None:
    """All connect to the first host, at the port and the addresses where rank 0 may be told to listen.

    deepspeed takes the first address that `hostname -I` names there, `ernie-m supervise` the hostfile's name.
    """
    addresses = results[first.name]["facts"]["addresses"]
    candidates = [job.master_addr] if job.master_addr else [*addresses[:1], first.name]
    secret = secrets.token_hex(8)
    where = {"port": job.master_port, "names": candidates, "num_peers": len(live)}
    listening = await _answer_or_error(first, "listen", secret=secret, **where)

    async def one(session: HostSession) -> None:
        route = results[session.name]["route"] = {"tried": {}}
        for address in candidates:
            where = {"host": address, "port": listening.get("port", 0), "secret": secret}
            answer = await _answer_or_error(session, "connect", **where)
            route["tried"][address] = answer.pop("error", None)
            route.update({key: value for key, value in answer.items() if key not in route})

    await asyncio.gather(*map(one, live))
    results[first.name]["route"].update(port=job.master_port, port_is_taken=listening.get("is_taken", False))
    if addresses and not job.master_addr:
        results[first.name]["route"]["address"] = addresses[0]


async def _ring(live: list[HostSession], results: Results) -> None:
    """Each live host with a route sends to the next one of them, at the address it has towards the first host."""
    ring = [session for session in live if "address" in results[session.name].get("route", {})]
    secret = secrets.token_hex(8)
    own = {session.name: [results[session.name]["route"]["address"]] for session in ring}
    doors = await asyncio.gather(
        *(_answer_or_error(session, "listen", port=0, secret=secret, names=own[session.name]) for session in ring)
    )

    async def send(number: int) -> None:
        following = (number + 1) % len(ring)
        where = {"host": results[ring[following].name]["route"]["address"], "port": doors[following].get("port", 0)}
        answer = await _answer_or_error(ring[number], "stream", secret=secret, seconds=STREAM_SECONDS, **where)
        results[ring[number].name]["ring"] = {"to": ring[following].name, **answer}

    if len(ring) > 1:
        await asyncio.gather(*map(send, range(len(ring))))


async def _shard_sizes(first: HostSession, data: str) -> dict[str, Any]:
    progress = Progress("sizes of shards", None, "shards")

    def tell(done: int, total: int) -> None:
        progress.total = total
        progress.advance(done - progress.done)

    try:
        return await first.ask("shard_sizes", tell, data=data)
    except HostError as error:
        return {"error": str(error)}
    finally:
        progress.close()
