"""A storm: faults of many kinds, one after the other, on real text, two ranks of the real deepspeed and a tiny model.

    python -m tests.faults.storm --data FOLDER                       # all of them, about a quarter of an hour on two cores
    python -m tests.faults.storm --data FOLDER --only "SIGHUP,run folder moved"

FOLDER holds raw corpora: cc100/LANG.txt.xz and parallel/NAME.AA-BB.tmx.zip; the two smallest of each are built by data_prep.

1. An undisturbed run of two ranks tells what the losses are to be.
2. Each fault (storm_faults.py) strikes a copy of that run as it was at step AT, on disk or while it trains.
3. It is survived when the same command then ends with the losses of the undisturbed run, bit for bit (unless its line says
   otherwise), and COMPLETE; or refused when the job ends by one line that names what is wrong. All else is a FAULT.

Prints a table and exits with 1 when there is a FAULT. Faults that need root say so and are left out.
"""

from __future__ import annotations

import importlib
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ernie_m.base.command_line import nearest, run
from ernie_m.base.console import InputError
from tests.faults import jobs
from tests.faults.jobs import Job, Starter, cut_short
from tests.integration.conftest import ROOT, environment, tiny_recipe
from tests.integration.test_training import losses

NUM_STEPS, AT, SAVE_EVERY = 24, 12, 2
DEAD_AFTER = 12  # seconds: on a busy machine a rank may be slow
PATIENCE = 300.0
RECIPE = tiny_recipe(
    8,
    NUM_STEPS - 8,
    model={"num_layers": 1, "num_heads": 2, "ffn_size": 64, "dropout": 0.0, "attention_dropout": 0.0},  # any number of ranks
    output={
        "log_every": 1,
        "save_every": SAVE_EVERY,
        "keep_last": 3,
        "evaluate_every": 8,
        "held_out_pairs": 16,
        "dead_after_seconds": DEAD_AFTER,
    },
)
PAIR = re.compile(r".*\.([a-z]+)-([a-z]+)\.tmx\.zip")
MARK_FILE, UNDISTURBED = ".storm", "undisturbed"
KINDS = ("processes", "data", "runs", "run_files")
Outcome = tuple[str, str]
"""Verdict, and what the product did."""
SURVIVED, REFUSED, FAULT, LEFT_OUT = "survived", "refused", "FAULT", "left out"


class LeftOutError(Exception):
    """This machine cannot do such a fault."""


@dataclass
class Storm:
    """What a fault is given: a starter of jobs, the undisturbed run, and a folder of its own."""

    starter: Starter
    undisturbed: Path
    folder: Path
    mounts: list[Path] = field(default_factory=list)

    def cut(self, name: str = "run", step: int = AT) -> Path:
        """A copy of the undisturbed run as it was at `step`."""
        return cut_short(self.undisturbed, self.folder / name, step, kept=3)

    def own_data(self) -> Path:
        """A copy of the data that may be damaged."""
        return Path(shutil.copytree(self.starter.data, self.folder / "data"))

    def start(self, where: Path, *more: str, data: Path | None = None, num_ranks: int = 2, **how: Any) -> Job:
        """The command, on two ranks."""
        starter = Starter(self.starter.recipe, data or self.starter.data, self.starter.logs)
        return starter.start(where, *more, num_ranks=num_ranks, **how)

    def survives(self, job: Job, at: int | None = None, exactly: bool = True) -> Outcome:
        """The job ends as the undisturbed run, having gone on from `at` where that is given."""
        code = job.end()
        assert code == 0, f"exit code {code}: {_tail(job)}"
        assert (job.run / "COMPLETE").is_file(), "no COMPLETE"
        assert at is None or job.first_step == at, f"went on from {job.first_step}, not {at}"
        found, expected = losses(job.run), losses(self.undisturbed)
        assert found.keys() == expected.keys(), "other steps than the undisturbed run"
        different = [step for step in expected if not _alike(found[step], expected[step], exactly)]
        assert not different, f"other losses from step {different[0]} on"
        return SURVIVED, f"went on from step {job.first_step}; losses {'equal' if exactly else 'within 1e-4'}; COMPLETE"

    def refused(self, job: Job, *parts: str) -> Outcome:
        """The job ends by one line, or by one of each rank that found its own; all of `parts` stand in each."""
        code = job.end()
        assert code != 0, "ended with exit code 0"
        assert not _has_traceback(job.text), f"exit code {code} and a traceback: {_tail(job)}"
        assert job.errors, f"exit code {code} without an error line: {_tail(job)}"
        lines = sorted(set(job.errors))
        speakers = [re.match(r"error: rank \d+: |", line)[0] for line in lines]  # type: ignore[index]
        assert len(speakers) == len(set(speakers)), f"{len(lines)} lines, of a rank more than one: {' / '.join(lines)}"
        missing = [part for part in parts if any(part not in line for line in lines)]
        assert not missing, f"does not name {missing[0]}: {lines[0]}"
        return REFUSED, f"exit code {code}: {self.shown(lines[0])}"

    def ends_and_goes_on(self, job: Job, *parts: str, by_error: bool = False) -> Outcome:
        """The struck job ends by itself (with `parts` in what it printed); the same command then survives."""
        code = job.end()
        assert code != 0 or (job.run / "COMPLETE").is_file(), "ended with exit code 0 and is not complete"
        text = "\n".join(job.errors) if by_error else job.text
        missing = [part for part in parts if part not in text]
        assert not missing, f"ended (exit code {code}) without naming {missing[0]}: {_tail(job)}"
        assert not _has_traceback(job.text), f"exit code {code} and a traceback: {_tail(job)}"
        last = next((line for line in reversed(job.text.splitlines()) if line.startswith(("error: ", "stopped at"))), "")
        verdict, told = self.survives(self.start(job.run))
        return verdict, f"ended with {code}{': ' + self.shown(last) if last else ''}; then {told}"

    def shown(self, line: str) -> str:
        """A line without the folders of this storm."""
        return line.replace(f"{self.folder}/", "").replace(f"{self.starter.data.parent}/", "")

    def mount(self, where: Path, *options: str) -> Path:
        """A file system of its own at `where`, unmounted when the fault is over."""
        where.mkdir(parents=True, exist_ok=True)
        if subprocess.run(["mount", *options, str(where)], capture_output=True, check=False).returncode:
            raise LeftOutError("needs root and mount")
        self.mounts.append(where)
        return where

    def clean_up(self) -> None:
        """Take the mounts and copies away."""
        for where in reversed(self.mounts):
            subprocess.run(["umount", "--lazy", str(where)], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class Struck:
    """A line of the table."""

    name: str
    what: str
    verdict: str
    told: str
    seconds: float


def _alike(found: Any, expected: Any, exactly: bool) -> bool:
    if exactly:
        return bool(found == expected)
    # also absolute: a gain is the difference of two losses, near 0 at first
    close = [math.isclose(found[key], expected[key], rel_tol=1e-4, abs_tol=1e-4) for key in expected if key in found]
    return found.keys() == expected.keys() and all(close)


def _tail(job: Job) -> str:
    lines = [line for line in job.text.splitlines() if line.strip()]
    telling = [line for line in lines if re.match(r"(\w+\.)*\w*(Error|Exception)\b|error:|alarm:", line)]
    return " | ".join((telling or lines)[-2:])[-300:]


@contextmanager
def changed(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute with another value within the block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def prepare(raw: Path, to: Path) -> Starter:
    """Build the two smallest texts and pairs of `raw` with data_prep; raises InputError when there are none."""

    def smallest(pattern: str) -> list[Path]:
        found = sorted(raw.glob(pattern), key=lambda path: (path.stat().st_size, path.name))[:2]
        if not found:
            raise InputError(f"--data {raw}: no {pattern}; expected raw corpora, see --help")
        return found

    texts = [(path, [path.name.partition(".")[0]]) for path in smallest("cc100/*.txt.xz")]
    pairs = [(path, list(found.groups())) for path in smallest("parallel/*.tmx.zip") if (found := PAIR.fullmatch(path.name))]
    corpora: list[dict[str, Any]] = [
        {"name": f"m.{codes[0]}", "format": "cc100", "path": str(path.resolve()), "language": codes[0]}
        for path, codes in texts
    ]
    corpora += [
        {"name": f"p.{'-'.join(codes)}", "format": "tmx", "path": str(path.resolve()), "languages": codes, "held_out": 0.02}
        for path, codes in pairs
    ]
    catalog, model = to / "catalog.yaml", to / "spm.model"
    catalog.write_text(yaml.safe_dump({"corpora": corpora}))
    recipe = to / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    if not model.is_file():
        prep("train-tokenizer", "--catalog", catalog, "--out", model, "--vocab_size", 4000, "--max_sentences", 8000)
    if not (to / "data" / "manifest.json").is_file():
        prep("build", "--catalog", catalog, "--tokenizer", model, "--out", to / "data", "--shard_mb", 1)
    (to / "logs").mkdir(exist_ok=True)
    return Starter(recipe, to / "data", to / "logs")


def _has_traceback(text: str) -> bool:
    """Whether a program of ours ended with one; DeepSpeed's runner, the parent, answers Ctrl-C with its own."""
    blocks = text.split("Traceback (most recent call last):")[1:]
    return any("/bin/deepspeed" not in block.split("\n", 2)[1] for block in blocks)


def prep(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A command of data_prep that has to succeed."""
    command = [sys.executable, "-m", "data_prep", *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result


def strike(name: str, what: str, act: Callable[[Storm], Outcome], storm: Storm) -> Struck:
    """Let one fault happen and say what came of it."""
    started = time.monotonic()
    try:
        verdict, told = act(storm)
    except LeftOutError as error:
        verdict, told = LEFT_OUT, str(error)
    except Exception as error:  # the table goes on
        told = " ".join((str(error) if isinstance(error, AssertionError) else repr(error)).split())
        verdict, told = FAULT, storm.shown(told)
    finally:
        with suppress(OSError):
            storm.clean_up()
    return Struck(name, what, verdict, told[:400], time.monotonic() - started)


def storm(*, data: str, only: str = "", to: str = "") -> None:
    """Run the faults and print the table.

    Args:
        data: folder with raw corpora: cc100/LANG.txt.xz and parallel/NAME.AA-BB.tmx.zip
        only: names of faults with commas between them; all without it
        to: folder for data, runs and logs, used again when given again; without it a temporary one, deleted at the end
    """
    for kind in KINDS:
        importlib.import_module(f"tests.faults.storm_of_{kind}")
    from tests.faults.storm_faults import FAULTS

    wanted = [name.strip() for name in only.split(",") if name.strip()] or list(FAULTS)
    for name in wanted:
        if name not in FAULTS:
            raise InputError(
                f"--only {name}: no such fault{nearest(name, FAULTS) or ';'} expected some of {', '.join(FAULTS)}"
            )
    folder = Path(to) if to else Path(tempfile.mkdtemp(prefix="storm"))
    if to and folder.exists() and any(folder.iterdir()) and not (folder / MARK_FILE).is_file():
        raise InputError(f"--to {folder}: not empty, and not of a storm (no {MARK_FILE}); give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK_FILE).touch()
    jobs.PATIENCE = PATIENCE
    try:
        starter = prepare(Path(data), folder)
        code, job = starter.finish(folder / UNDISTURBED, "output.keep_last=100", num_ranks=2, by_runner=True)
        assert code == 0, job.text  # a run that is COMPLETE has nothing to do
        struck = []
        for number, name in enumerate(wanted, start=1):
            what, act = FAULTS[name]
            own = folder / f"fault_{number:02d}"
            shutil.rmtree(own, ignore_errors=True)
            own.mkdir()
            found = strike(name, what, act, Storm(starter, folder / UNDISTURBED, own))
            struck.append(found)
            print(f"| {found.name} | {found.what} | {found.told} | {found.verdict} | {found.seconds:.0f} |", flush=True)
    finally:
        if not to:
            shutil.rmtree(folder, ignore_errors=True)
    counts = {verdict: sum(line.verdict == verdict for line in struck) for verdict in (SURVIVED, REFUSED, FAULT, LEFT_OUT)}
    print(f"{len(struck)} faults: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    if counts[FAULT]:
        raise SystemExit(1)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run(storm, "tests.faults.storm")
