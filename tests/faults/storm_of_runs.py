"""Faults of the storm: the run folder as a whole, and its settings."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import yaml

from tests.faults.storm import AT, Outcome, Storm
from tests.faults.storm_faults import at_work, fault


@fault("run folder moved", "the run folder renamed under the running job; then resumed under its new name")
def _(storm: Storm) -> Outcome:
    job = at_work(storm)
    moved = job.run.rename(storm.folder / "moved")
    code = job.end()
    assert "Traceback" not in job.text, job.text[-300:]
    verdict, told = storm.survives(storm.start(moved))
    line = storm.shown(job.errors[0]) if job.errors else f"exit code {code}"
    return verdict, f"job: {line}; moved run {told}"


@fault("run folder copied", "the run folder copied at work, original and copy trained at once")
def _(storm: Storm) -> Outcome:
    first = at_work(storm)
    second = storm.start(Path(shutil.copytree(first.run, storm.folder / "copy")))
    results = [storm.survives(job) for job in (first, second)]
    return results[1]


@fault("run folder removed", "rm -r of the run folder under the running job; then the same command")
def _(storm: Storm) -> Outcome:
    job = at_work(storm)
    shutil.rmtree(job.run, ignore_errors=True)
    return storm.refused(job, str(job.run))


@fault("ranks 2-1-2-1", "stopped three times, on another number of ranks each time")
def _(storm: Storm) -> Outcome:
    run = storm.folder / "run"
    for ranks, step in ((2, 5), (1, 10), (2, 17)):
        stop = {"do": "SIGTERM", "in": "micro-batch", "step": step}
        job = storm.start(run, num_ranks=ranks, faults=[stop])
        job.end()
        assert (run / "last_stop.json").is_file(), job.text[-300:]
    return storm.survives(storm.start(run, num_ranks=1), exactly=False)


@fault("recipe changed", "another learning rate for the second start")
def _(storm: Storm) -> Outcome:
    return storm.refused(storm.start(storm.cut(), "optimizer.peak_learning_rate=2e-3"), "optimizer.peak_learning_rate")


@fault("seed changed", "another seed for the second start")
def _(storm: Storm) -> Outcome:
    return storm.refused(storm.start(storm.cut(), "seed=77"), "seed")


@fault("saved settings edited", "the seed in RUN/config.yaml changed by hand")
def _(storm: Storm) -> Outcome:
    run = storm.cut()
    saved = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**saved, "seed": 99}))
    return storm.refused(storm.start(run), "seed")


@fault("saved settings torn", "RUN/config.yaml cut in the middle of a line")
def _(storm: Storm) -> Outcome:
    run = storm.cut()
    os.truncate(run / "config.yaml", 217)
    return storm.refused(storm.start(run), str(run))


@fault("saved settings binary", "RUN/config.yaml of random bytes")
def _(storm: Storm) -> Outcome:
    run = storm.cut()
    (run / "config.yaml").write_bytes(bytes(range(256)))
    return storm.refused(storm.start(run), "config.yaml")


@fault("dates odd", "every file of run and data from 2040, every other one from 1980")
def _(storm: Storm) -> Outcome:
    run, data = storm.cut(), storm.own_data()
    for number, path in enumerate(sorted([*run.rglob("*"), *data.rglob("*")])):
        os.utime(path, ((315_532_800, 2_208_988_800)[number % 2],) * 2)
    return storm.survives(storm.start(run, data=data), at=AT)


@fault("run read-only", "the run folder on a read-only mount")
def _(storm: Storm) -> Outcome:
    run = storm.cut()
    storm.mount(run, "--bind", str(run))
    storm.mount(run, "-o", "remount,ro,bind")
    return storm.refused(storm.start(run), "run")


@fault("no inodes", "the run on a file system with bytes but no inode left")
def _(storm: Storm) -> Outcome:
    disk = storm.mount(storm.folder / "disk", "-t", "tmpfs", "-o", "nr_inodes=60", "tmpfs")
    run = storm.cut("disk/run")
    for number in range(60):
        try:
            (disk / f"{number}").touch()
        except OSError:
            break
    return storm.refused(storm.start(run), "No space left on device")


@fault("stale lock", "the lock of a job that is gone, with another host's name in it")
def _(storm: Storm) -> Outcome:
    run = storm.cut()
    (run / ".lock").write_text("process 1 on elsewhere; 00\n")
    return storm.survives(storm.start(run), at=AT)


@fault("lock a folder", "RUN/.lock is a folder")
def _(storm: Storm) -> Outcome:
    run = storm.cut()
    (run / ".lock").unlink(missing_ok=True)
    (run / ".lock").mkdir()
    return storm.refused(storm.start(run), ".lock")


@fault("run a dangling link", "--run is a link to nowhere")
def _(storm: Storm) -> Outcome:
    link = storm.folder / "link"
    link.symlink_to("/nowhere/run")
    return storm.refused(storm.start(link), "link")
