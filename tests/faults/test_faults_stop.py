"""Requests to stop in every phase of a run: saved and stopped within a step, resumed bit for bit."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ernie_m.base.console import EXIT_STOPPED
from ernie_m.runs.metrics import read_metrics
from tests.faults.conftest import NUM_STEPS, RECIPE
from tests.faults.jobs import Fault, Starter, verified_steps
from tests.integration.test_training import losses

pytestmark = pytest.mark.faults

WARMUP_STEP, TRAINING_STEP, EVALUATED, GENERATION_STEP = 1, 5, 8, 11
EXIT_AFTER = 8  # seconds; the run waits for it in the step named
PHASES: dict[str, tuple[str, int | None, tuple[int, ...]]] = {  # place, step it is struck in, steps that may be saved
    "before the first step": ("start", None, (0,)),
    "warm-up": ("micro-batch", WARMUP_STEP, (WARMUP_STEP,)),  # in the first micro-batch of four: the step is dropped
    "training": ("micro-batch", TRAINING_STEP, (TRAINING_STEP,)),
    "evaluation": ("evaluation", EVALUATED - 1, (EVALUATED,)),
    "generation": ("generation", GENERATION_STEP, (GENERATION_STEP, GENERATION_STEP + 1)),
}


def gains(run: Path) -> set[int]:
    return {line["step"] for line in read_metrics(run) if "cross_lingual_gain" in line}


def stopped_in_order(run: Path, code: int, text: str, kind: str, steps: tuple[int, ...]) -> dict[str, Any]:
    """What last_stop.json says, when all is as it should be after a stop."""
    assert code == EXIT_STOPPED, text
    told = json.loads((run / "last_stop.json").read_text())
    assert told["kind"] == kind
    assert told["step"] in steps, text
    assert f"stopped at step {told['step']} (" in text
    assert "the same command goes on" in text
    assert verified_steps(run)[:1] == [told["step"]][: told["step"]]  # nothing to save before the first step
    assert max((line["step"] for line in read_metrics(run)), default=0) == told["step"]
    assert not (run / "COMPLETE").exists()
    return told


def stop_in_every_phase(starter: Starter, run: Path, name: str, record: Callable[..., None]) -> None:
    """A chain of starts, each stopped by the signal in the next phase, the last ones by a file and by the time."""
    last: tuple[str, int] | None = None

    def stopped(what: str, kind: str, fault: Fault, steps: tuple[int, ...], *more: str) -> dict[str, Any]:
        nonlocal last
        job = starter.start(run, *more, faults=[fault])
        code = job.end()
        told = stopped_in_order(run, code, job.text, kind, steps)
        assert job.first_step == (last[1] if last else 0), "a stop loses nothing"
        last = what, told["step"]
        return told

    for phase, (place, step, steps) in PHASES.items():
        told = stopped(phase, "signal", {"do": name, "in": place, "step": step}, steps)
        assert told["message"] == f"{name} was received"
        if phase == "evaluation":
            assert EVALUATED not in gains(run), "the measurement was to be cut short"
    touch = {"do": "touch", "in": "micro-batch", "step": 14, "argument": str(run / "stop_requested")}
    stopped("stop_requested", "signal", touch, (14, 15))
    assert not (run / "stop_requested").exists(), "it would stop the next start as well"
    wait = {"do": "sleep", "in": "micro-batch", "step": 17, "argument": EXIT_AFTER}
    told = stopped("--exit_after", "time", wait, tuple(range(14, 19)), "--exit_after", f"{EXIT_AFTER}s")
    job = starter.start(run)
    record(f"{name} x 5, stop_requested, --exit_after", 0, job.goes_on())
    assert job.end() == 0, job.text
    assert job.first_step == told["step"]


def test_a_run_stopped_in_every_phase_loses_nothing_and_ends_bit_identical(
    starter: Starter, undisturbed: Path, tmp_path: Path, record: Callable[..., None]
) -> None:
    assert RECIPE["optimizer"]["warmup_steps"] > WARMUP_STEP  # type: ignore[index]
    with ThreadPoolExecutor(2) as both:
        chains = [
            both.submit(stop_in_every_phase, starter, tmp_path / name, name, record) for name in ("SIGTERM", "SIGUSR1")
        ]
        for chain in chains:
            chain.result()
    for name in ("SIGTERM", "SIGUSR1"):
        assert losses(tmp_path / name) == losses(undisturbed)
        assert gains(tmp_path / name) == set(range(EVALUATED, NUM_STEPS + 1, EVALUATED))
        assert not (tmp_path / name / "last_stop.json").exists()


def test_a_launcher_that_is_told_to_stop_stops_all_ranks_with_a_checkpoint(
    starter: Starter, undisturbed_pair: Path, tmp_path: Path, record: Callable[..., None]
) -> None:
    """DeepSpeed's launcher passes SIGTERM on to one rank, waits for its end, then to the next; `deepspeed` itself passes on
    nothing, so it has to be the process group that is told, as batch systems and terminals do."""
    run = tmp_path / "run"

    def told_to_stop(step: int, by_runner: bool) -> int:
        go = tmp_path / f"go{step}"
        reached = {"do": "wait", "in": "micro-batch", "step": step, "rank": 1, "argument": str(go)}
        job = starter.start(run, num_ranks=2, faults=[reached], by_runner=by_runner)
        job.until(go.with_name(f"{go.name}.reached").exists, f"step {step}")
        if by_runner:
            os.killpg(job.process.pid, signal.SIGTERM)
        else:
            job.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        go.touch()
        assert job.end() != 0, job.text
        told = json.loads((run / "last_stop.json").read_text())
        assert told["kind"] == "signal", job.text
        assert told["step"] in (step, step + 1)
        assert verified_steps(run)[0] == told["step"]
        assert not (run / "incidents.jsonl").exists(), job.text
        return int(told["step"])

    first = told_to_stop(9, by_runner=False)
    second = told_to_stop(15, by_runner=True)
    assert second > first
    job = starter.start(run, num_ranks=2)
    record("SIGTERM to the launcher of two ranks", 0, job.goes_on())
    assert job.end() == 0, job.text
    assert job.first_step == second
    assert losses(run) == losses(undisturbed_pair)


def test_a_second_job_on_the_folder_is_refused_and_the_first_undisturbed(
    starter: Starter, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    first = starter.start(run, faults=[{"do": "wait", "in": "micro-batch", "step": 5, "argument": str(tmp_path / "go")}])
    first.until((tmp_path / "go.reached").exists, "step 5")
    latest = run / "checkpoints" / "latest"
    first.until(lambda: latest.read_text() == "step_00000004\n", "the end of its save, behind the training")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    code, second = starter.finish(run)
    assert code == 2, second.text
    (line,) = second.errors
    assert f"another job is at work in this run folder (process {first.process.pid} on " in line
    assert "Traceback" not in second.text
    code, second = starter.finish(run, "--from_scratch")
    assert code == 2, second.text
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    (tmp_path / "go").touch()
    assert first.end() == 0, first.text
    assert losses(run) == losses(undisturbed)
