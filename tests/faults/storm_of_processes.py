"""Faults of the storm: processes, and what the machine gives them."""

from __future__ import annotations

import os
import resource
import signal
import socket
import time

import psutil

from tests.faults import jobs
from tests.faults.faulty_pretrain import fill
from tests.faults.storm import AT, DEAD_AFTER, Outcome, Storm, changed
from tests.faults.storm_faults import at_work, fault


@fault("launcher SIGKILL", "kill -9 of `deepspeed`, then the same command while its ranks live on, and once more")
def _(storm: Storm) -> Outcome:
    job = at_work(storm, by_runner=True)
    job.process.kill()
    job.process.wait()
    second = storm.start(job.run)
    if second.end() == 0:  # the ranks had gone with it
        return storm.survives(second)
    assert any("another job is at work" in line for line in second.errors), second.text[-300:]
    job.end()
    verdict, told = storm.survives(storm.start(job.run))
    return verdict, f"second command refused while ranks lived on; then {told}"


@fault("node launcher SIGKILL", "kill -9 of deepspeed.launcher.launch, the parent of the ranks")
def _(storm: Storm) -> Outcome:
    job = at_work(storm)
    job.process.kill()
    job.end()
    return storm.survives(storm.start(job.run))


@fault("SIGHUP", "SIGHUP to the whole process group: the terminal was closed")
def _(storm: Storm) -> Outcome:
    job = at_work(storm, by_runner=True)
    os.killpg(job.process.pid, signal.SIGHUP)
    return storm.ends_and_goes_on(job)


@fault("Ctrl-C twice", "SIGINT to the process group, twice within half a second")
def _(storm: Storm) -> Outcome:
    job = at_work(storm, by_runner=True)
    for _ in range(2):
        os.killpg(job.process.pid, signal.SIGINT)
        time.sleep(0.5)
    return storm.ends_and_goes_on(job)


@fault("rank SIGSTOP long", "SIGSTOP of rank 1 for longer than dead_after_seconds, never continued")
def _(storm: Storm) -> Outcome:
    job = at_work(storm)
    job.ranks()[1].suspend()
    return storm.ends_and_goes_on(job, "rank 1", by_error=True)


@fault("rank SIGSTOP short", "SIGSTOP of rank 1 for 2 s, then SIGCONT")
def _(storm: Storm) -> Outcome:
    job = at_work(storm)
    rank = job.ranks()[1]
    rank.suspend()
    time.sleep(2)
    rank.resume()
    return storm.survives(job, at=AT)


@fault("all SIGSTOP", "SIGSTOP of ranks and launcher for 16 s (a suspended machine), then SIGCONT")
def _(storm: Storm) -> Outcome:
    job = at_work(storm)
    for number in (signal.SIGSTOP, signal.SIGCONT):
        os.killpg(job.process.pid, number)
        time.sleep(DEAD_AFTER + 4 if number == signal.SIGSTOP else 0)
    if job.end() == 0:
        return storm.survives(job, at=AT)
    return storm.ends_and_goes_on(job)


@fault("rank SIGSEGV", "SIGSEGV of rank 0, as of a broken library")
def _(storm: Storm) -> Outcome:
    job = at_work(storm)
    job.ranks()[0].send_signal(signal.SIGSEGV)
    return storm.ends_and_goes_on(job, "rank 0")


@fault("no more memory", "RLIMIT_AS of rank 1 set to what it has: its next allocation fails")
def _(storm: Storm) -> Outcome:
    job = at_work(storm)
    rank = job.ranks()[1]
    rank.rlimit(psutil.RLIMIT_AS, (rank.memory_info().vms,) * 2)
    if job.end() == 0:
        return storm.survives(job, at=AT)
    return storm.ends_and_goes_on(job, "rank 1")


@fault("few open files", "a limit of 24 open files a process")
def _(storm: Storm) -> Outcome:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    run = storm.cut()
    resource.setrlimit(resource.RLIMIT_NOFILE, (24, before[1]))
    try:
        job = storm.start(run)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    if job.process.wait(jobs.PATIENCE) == 0:
        return storm.survives(job, at=AT)
    return storm.refused(job, "24 files", "ulimit -n")


@fault("port taken", "somebody listens on the master port")
def _(storm: Storm) -> Outcome:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with changed(jobs, "free_port", lambda: taken.getsockname()[1]):
            job = storm.start(storm.cut())
        return storm.refused(job, str(taken.getsockname()[1]))


@fault("TMPDIR full", "TMPDIR on a file system without a free byte")
def _(storm: Storm) -> Outcome:
    disk = storm.mount(storm.folder / "disk", "-t", "tmpfs", "-o", "size=64k", "tmpfs")
    fill(str(disk))
    return storm.survives(storm.start(storm.cut(), TMPDIR=str(disk)), at=AT)


@fault("ASCII terminal", "LC_ALL=C, output in ASCII, TZ unknown")
def _(storm: Storm) -> Outcome:
    variables = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "TZ": "Nowhere/Else"}
    return storm.survives(storm.start(storm.cut(), **variables), at=AT)  # type: ignore[arg-type]
