"""The jobs of a comparison: commands as a user would type them, some at the same time. Finished ones are not repeated.

1. A job is a chain of parts: train, export, measure, fine-tune. A part says itself whether it is done.
2. `side_by_side` jobs run at the same time; the output of their parts goes to the job's own log.
3. A job that fails is left out and named at the end; the others go on. On SIGTERM, SIGUSR1 or Ctrl-C all jobs are asked to
   stop; a training saves first. So they are when this process is killed. The same command continues them.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from ernie_m.base.console import EXIT_STOPPED, InputError, Progress
from ernie_m.base.files import open_log, read_json, remove, write_json, written_atomically
from ernie_m.base.process_end import ending_with_us
from ernie_m.base.run_files import STOP_FILE
from ernie_m.supervision.run_state import last_step

LOOK_EVERY = 0.2  # seconds
TELL_EVERY = 30.0  # seconds between lines where there is no terminal


@dataclass(frozen=True)
class Part:
    """One command of a job. `run` and `num_steps` are those of a training, whose progress is shown."""

    what: str
    command: tuple[str, ...]
    marker: Path | None = None
    """Written when the command has succeeded, with the command in it. A part with a marker of the same command is done."""
    judges_itself: Callable[[], bool] | None = None
    """Whether it is done, for a command with a marker of its own."""
    replaces: Path | None = None
    """A folder that must not be there when the command starts: left by one that was killed."""
    run: Path | None = None
    num_steps: int = 0

    def is_done(self) -> bool:
        """Whether there is nothing to do."""
        if self.judges_itself is not None:
            return self.judges_itself()
        if self.marker is None or not self.marker.is_file():
            return False
        return bool(read_json(self.marker) == {"command": list(self.command)})

    def prepare(self) -> None:
        """Before the command starts."""
        if self.marker is not None:
            self.marker.unlink(missing_ok=True)
        if self.replaces is not None:
            remove(self.replaces)

    def succeeded(self) -> bool:
        """Note that the command ended with exit code 0; False if the part is not done nevertheless."""
        if self.marker is not None:
            write_json(self.marker, {"command": list(self.command)})
        return self.is_done()


@dataclass
class Job:
    """A chain of parts that depend on each other."""

    name: str
    parts: list[Part]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    steps_seen: int = 0
    problem: str = ""

    @property
    def present(self) -> Part:
        return self.parts[0]


@dataclass
class Jobs:
    """All jobs of a comparison; `environment` is that of their processes, which run in the folder of this one."""

    jobs: Sequence[Job]
    side_by_side: int
    environment: Mapping[str, str]
    _stop: signal.Signals | None = field(default=None, init=False)

    def run(self) -> None:
        """Do all that is not done; raises InputError naming the jobs that failed, SystemExit when asked to stop."""
        waiting = [job for job in self.jobs if _skip_done(job)]
        active: list[Job] = []
        total = sum(part.num_steps - steps_done(part.run) for job in waiting for part in job.parts if part.run)
        counts_steps = total > 0  # else nothing is left to train
        what = ("training", total, "steps") if counts_steps else ("work", len(waiting), "jobs")
        progress = Progress(*what, every=TELL_EVERY)
        for job in waiting:
            job.steps_seen = steps_done(job.present.run)
        with self._listening():
            while active or (waiting and self._stop is None):
                while waiting and len(active) < self.side_by_side and self._stop is None:
                    active.append(waiting.pop(0))
                    self._start(active[-1])
                time.sleep(LOOK_EVERY)
                for job in list(active):
                    ended = job.process is not None and job.process.poll() is not None
                    new_steps = _new_steps(job)
                    if ended and not self._goes_on(job):
                        active.remove(job)
                    progress.advance(new_steps if counts_steps else int(job not in active), self._note(active, waiting))
        progress.close()
        if self._stop is not None:
            print("stopped; the same command goes on", flush=True)
            raise SystemExit(EXIT_STOPPED)
        failed = [job for job in self.jobs if job.problem]
        if failed:
            more = f" ({len(failed) - 1} more failed: {', '.join(job.name for job in failed[1:])})" if failed[1:] else ""
            raise InputError(f"{failed[0].problem}{more}; the same command tries again and keeps what is done")

    def _start(self, job: Job) -> None:
        part = job.present
        for later in job.parts:  # later parts need what this one makes
            later.prepare()
        print(f"{job.name}: {part.what}", flush=True)
        with open_log(job.log) as log:
            log.write(f"\n$ {shlex.join(part.command)}\n".encode())
            job.process = subprocess.Popen(
                ending_with_us(part.command),
                env=dict(self.environment),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for us alone; a training is asked to save
            )

    def _goes_on(self, job: Job) -> bool:
        """After a part has ended: start the job's next part; returns whether there is one."""
        assert job.process is not None
        code, part = job.process.returncode, job.present
        job.process = None
        if part.run is not None:
            (part.run / STOP_FILE).unlink(missing_ok=True)  # else it would stop the next start as well
        if code or not part.succeeded():
            if self._stop is None:
                job.problem = f"{job.name}: {part.what} ended with exit code {code} ({_last_line(job.log)}); see {job.log}"
                print(f"failed: {job.problem}", flush=True)
            return False
        if self._stop is not None or not _skip_done(job):
            return False
        job.steps_seen = steps_done(job.present.run)
        self._start(job)
        return True

    def _note(self, active: Sequence[Job], waiting: Sequence[Job]) -> str:
        done = len(self.jobs) - len(active) - len(waiting)
        at_work = ", ".join(f"{job.name} {job.present.what}" for job in active)
        return f"({done} of {len(self.jobs)} jobs done; {at_work})"

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        before = {number: signal.signal(number, self._asked_to_stop) for number in numbers}
        try:
            yield
        finally:
            for job in self.jobs:  # an error of ours leaves no process behind
                if job.process is not None and job.process.poll() is None:
                    _ask_to_stop(job)
                    job.process.wait()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _asked_to_stop(self, number: int, frame: FrameType | None) -> None:
        is_first, self._stop = self._stop is None, signal.Signals(number)
        for job in self.jobs:
            if job.process is not None and job.process.poll() is None:
                _ask_to_stop(job) if is_first else os.killpg(job.process.pid, signal.SIGKILL)


def _ask_to_stop(job: Job) -> None:
    """Ask a training through its run folder, which reaches all of its ranks; any other part by a signal."""
    assert job.process is not None
    if job.present.run is not None and job.present.run.is_dir():
        with written_atomically(job.present.run / STOP_FILE) as aside:
            aside.write_text("the comparison was asked to stop\n", encoding="utf-8")
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.process.pid, signal.SIGTERM)


def _skip_done(job: Job) -> bool:
    """Drop the parts that are done; whether any is left."""
    while job.parts and job.present.is_done():
        job.parts.pop(0)
    return bool(job.parts)


def _new_steps(job: Job) -> int:
    if not job.parts or job.present.run is None:
        return 0
    before, job.steps_seen = job.steps_seen, max(job.steps_seen, steps_done(job.present.run))
    return job.steps_seen - before


def steps_done(run: Path | None) -> int:
    """The last step that a run has written to its metrics; 0 before that, and for None."""
    return 0 if run is None else last_step(run)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").split("\n") if line.strip()]
    told = [line for line in lines if line.startswith("error:")]
    return (told or lines or ["no output"])[-1]


def python_m(module: str, *words: object) -> tuple[str, ...]:
    """`python -m MODULE WORDS`, by this interpreter."""
    return (sys.executable, "-m", module, *map(str, words))
