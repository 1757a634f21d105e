"""The supervisor with real launchers, ranks, signals and kills: training itself, and scripted ends that it seldom meets."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ernie_m.runs.job_defaults import TRAINING
from ernie_m.runs.metrics import read_metrics
from ernie_m.supervision.deepspeed_job import PRETRAIN
from ernie_m.supervision.ledger import read_ledger
from ernie_m.supervision.orphans import processes_of
from tests.integration.conftest import ROOT, environment
from tests.integration.test_training import RECIPE

SCRIPT = Path("launcher/pretrain.py")
SCRIPTED = Path("tests/integration/scripted_training.py")
NUM_STEPS = 60
# Behaves as a login on another host would: none of our environment, the command line read by a shell once more.
SSH = """#!/bin/bash
printf '%s\\n' "$@" >> "{down}.words"
while getopts "2axl:o:p:" option; do :; done
shift $((OPTIND - 1)); host=$1; shift
grep -qx "$host" "{down}" 2>/dev/null && exit 255
exec env -i PATH="$PATH" HOME="$HOME" ERNIE_M_HOST="$host" bash -c "$*"
"""


class Supervised:
    """A started supervisor whose output is kept."""

    def __init__(
        self, script: Path | str, run: Path, options: list[Any], arguments: list[Any], more: dict[str, str]
    ) -> None:
        self.script, self.run = script, run
        self.output = run.parent / "output"
        command = [sys.executable, "launcher/supervise.py", *options, "--", script, "--run", run, *arguments]
        env = environment() | {"DS_ACCELERATOR": "cpu"} | more
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                list(map(str, command)), cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def text(self) -> str:
        return self.output.read_text()

    def exit_code(self) -> int:
        return self.process.wait(timeout=240)

    def wait_until(self, holds: Any) -> None:
        deadline = time.monotonic() + 180
        while not holds():
            assert self.process.poll() is None, self.text
            assert time.monotonic() < deadline, self.text
            time.sleep(0.02)

    def job(self) -> list[int]:
        """Launchers and ranks that live now."""
        return processes_of(TRAINING if self.script == PRETRAIN else ROOT / self.script, self.run)

    def end(self) -> None:
        for process in [self.process.pid, *self.job()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait(timeout=30)


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Any]:
    """Start a supervisor on tmp_path/run; nothing of it outlives the test."""
    started = []

    def start(script: Path | str, options: list[Any], arguments: list[Any] | None = None, **more: str) -> Supervised:
        started.append(Supervised(script, tmp_path / "run", options, arguments or [], more))
        return started[-1]

    yield start
    for supervised in started:
        supervised.end()


def plan(folder: Path, *acts: dict[str, Any]) -> None:
    (folder / "plan.json").write_text(json.dumps(acts))


def ends(run: Path) -> list[dict[str, Any]]:
    return [line for line in read_ledger(run) if line["event"] == "end"]


@pytest.mark.faults
def test_training_whose_ranks_are_killed_at_random_moments_is_brought_to_its_end(
    data: Path, supervise: Any, tmp_path: Path
) -> None:
    recipe = tmp_path / "tiny.yaml"
    stages = [{"steps": NUM_STEPS, "rows": {"MMLM": 1, "TLM": 1, "CAMLM": 1}}]
    output = {"log_every": 1, "save_every": 8, "evaluate_every": 0}
    recipe.write_text(yaml.safe_dump(RECIPE | {"stages": stages, "output": output}))
    job = supervise(PRETRAIN, ["--num_ranks", 2, "--linger", 20], ["--recipe", recipe, "--data", data])
    chance = random.Random(4)
    for first, last in ((9, 15), (20, 32)):
        at = chance.randrange(first, last)
        job.wait_until(lambda at=at: any(line["step"] >= at for line in read_metrics(tmp_path / "run")))
        ranks = [p for p in job.job() if b"--local_rank=" in Path(f"/proc/{p}/cmdline").read_bytes()]
        assert len(ranks) == 2
        os.kill(chance.choice(ranks), signal.SIGKILL)
        starts = len(read_ledger(tmp_path / "run"))
        job.wait_until(lambda starts=starts: len(read_ledger(tmp_path / "run")) >= starts + 2)
    assert job.exit_code() == 0, job.text
    assert (tmp_path / "run" / "COMPLETE").is_file()
    assert [line["step"] for line in read_metrics(tmp_path / "run") if "tokens" in line] == list(range(1, NUM_STEPS + 1))
    ledger = read_ledger(tmp_path / "run")
    assert [(line["event"], line["attempt"]) for line in ledger] == [(e, n) for n in (1, 2, 3) for e in ("start", "end")]
    assert [line["hosts"] for line in ledger if line["event"] == "start"] == [{"localhost": 2}] * 3
    first, second, third = ends(tmp_path / "run")
    assert first["from_step"] == 0
    for end, following in ((first, second), (second, third)):
        assert end["committed"] % 8 == 0
        assert end["committed"] <= following["from_step"] <= end["reached"]
        assert end["steps_lost"] == end["reached"] - end["committed"]
    assert (third["reached"], third["steps_lost"], third["reason"]) == (NUM_STEPS, 0, "complete")
    lost = first["steps_lost"] + second["steps_lost"]
    assert f"supervise: 2 restarts, {lost} steps lost; goodput" in job.text
    assert f"from checkpoint of step {third['from_step']}" in job.text
    assert job.job() == []


def test_a_mistake_ends_at_once_without_a_restart(data: Path, supervise: Any, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    job = supervise(SCRIPT, ["--num_ranks", 1], ["--recipe", recipe, "--data", data, "optimizer.warmup_steps=many"])
    assert job.exit_code() == 2, job.text
    assert job.text.count("supervise: start ") == 1
    assert "expected a whole number" in job.text
    assert not (tmp_path / "run").exists(), "an empty folder of another's making would be refused the next time"


def test_what_was_refused_in_mid_run_is_not_tried_again(supervise: Any, tmp_path: Path) -> None:
    message = "step 7: the loss is not finite"
    plan(tmp_path, {"steps": 3, "stop": {"kind": "refused", "message": message}, "end": "exit 1"})
    job = supervise(SCRIPTED, ["--num_ranks", 1])
    assert job.exit_code() == 2, job.text
    assert message in job.text
    assert [line["reason"] for line in ends(tmp_path / "run")] == [message]


@pytest.mark.faults
def test_a_job_that_gets_nowhere_is_given_up(supervise: Any, tmp_path: Path) -> None:
    plan(tmp_path, {"end": "exit 1"}, {"end": "exit 0"})
    job = supervise(SCRIPTED, ["--num_ranks", 1, "--no_progress_limit", 2])
    assert job.exit_code() == 4, job.text
    assert "2 starts in a row reached no new step" in job.text
    assert [line["exit_code"] for line in ends(tmp_path / "run")] == [1, 0]


def test_a_signal_to_the_supervisor_makes_the_job_save_and_stop(supervise: Any, tmp_path: Path) -> None:
    plan(tmp_path, {"steps": 5, "end": "hang", "obeys": True})
    job = supervise(SCRIPTED, ["--num_ranks", 2])
    job.wait_until(lambda: (tmp_path / "run" / "checkpoints").exists() and (tmp_path / "seen-1-1.json").exists())
    job.process.send_signal(signal.SIGUSR1)
    assert job.exit_code() == 75, job.text
    assert "saved (SIGUSR1 to the supervisor)" in job.text
    assert not (tmp_path / "run" / "stop_requested").exists()
    assert job.job() == []


def test_a_job_that_does_not_stop_when_asked_is_ended(supervise: Any, tmp_path: Path) -> None:
    plan(tmp_path, {"steps": 5, "end": "hang"})
    job = supervise(SCRIPTED, ["--num_ranks", 1, "--grace", 0.5])
    job.wait_until(lambda: (tmp_path / "run" / "checkpoints").exists())
    job.process.send_signal(signal.SIGTERM)
    assert job.exit_code() == 75, job.text
    assert "not stopped in time" in job.text
    assert not (tmp_path / "run" / "stop_requested").exists(), "it would stop the next start"
    assert job.job() == []


def test_a_finished_job_that_lingers_is_ended_and_a_second_supervisor_refused(supervise: Any, tmp_path: Path) -> None:
    plan(tmp_path, {"steps": 5, "complete": True, "end": "hang"})
    job = supervise(SCRIPTED, ["--num_ranks", 1, "--linger", 5])
    job.wait_until(lambda: (tmp_path / "run" / "COMPLETE").exists())
    (tmp_path / "run" / "COMPLETE").rename(tmp_path / "kept")
    second = subprocess.run(
        [sys.executable, "launcher/supervise.py", "--", str(SCRIPTED), "--run", str(tmp_path / "run")],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    (tmp_path / "kept").rename(tmp_path / "run" / "COMPLETE")
    assert second.returncode == 2
    assert "already trained by process" in second.stderr
    assert job.exit_code() == 0, job.text
    assert "lingers 5 s" in job.text
    assert job.job() == []


@pytest.mark.faults
@pytest.mark.skipif(shutil.which("pdsh") is None, reason="pdsh is not installed")
def test_hosts_that_vanish_or_keep_failing_are_left_out_and_the_others_go_on(supervise: Any, tmp_path: Path) -> None:
    """Three hosts behind the real deepspeed and pdsh; only ssh is a stand-in, which runs their shells here."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text(SSH.format(down=tmp_path / "down"))
    (tmp_path / "bin" / "ssh").chmod(0o755)
    (tmp_path / "hosts").write_text("north slots=1\neast slots=1\nwest slots=1\n")
    plan(
        tmp_path,
        {"steps": 2, "down": ["east"], "end": "exit 1"},
        {"steps": 4, "lost": [1], "end": "exit 1"},
        {"steps": 6, "complete": True, "end": "exit 0"},
    )
    odd = ["stages=[{steps: 3, rows: {TLM: 1}}]", "name=$HOME", "a='b' \"c\" `d` 100% \\n", "{x,y}*%h", "plain"]
    path = f"{tmp_path / 'bin'}{os.pathsep}{environment()['PATH']}"
    set_here = {"NCCL_ODD": "a $HOME \"b\" 'c' %h `d` \\", "OMP_NUM_THREADS": "3", "HF_TOKEN": "secret", "OURS": "yes"}
    set_here["ASKED_TOKEN"] = 'kn\'own $HOME to "ranks" `alone` %h'
    export = ["--export", "OURS,ASKED_TOKEN"]
    options = ["--hostfile", tmp_path / "hosts", "--host_failures", 1, *export, "--master_addr", "127.0.0.1"]
    job = supervise(SCRIPTED, options, odd, PATH=path, **set_here)
    assert job.exit_code() == 0, job.text
    starts = [line["hosts"] for line in read_ledger(tmp_path / "run") if line["event"] == "start"]
    assert [list(hosts) for hosts in starts] == [["north", "east", "west"], ["north", "west"], ["north"]], job.text
    assert [line["dropped"] for line in ends(tmp_path / "run")] == [
        {"east": "no answer through ssh"},
        {"west": "failed 1 times within 1000 steps"},
        {},
    ]
    for number, hosts in enumerate(starts, start=1):
        for rank, host in enumerate(hosts):
            seen = json.loads((tmp_path / f"seen-{number}-{rank}.json").read_text())
            assert seen["world_size"] == len(hosts)
            assert seen["environ"]["ERNIE_M_HOST"] == host
            assert {name: seen["environ"].get(name) for name in set_here} == {**set_here, "HF_TOKEN": None}
            assert seen["argv"][1:] == ["--run", str(tmp_path / "run"), *odd]
    words = (tmp_path / "down.words").read_text() + job.text
    assert "NCCL_ODD" in words
    assert "ASKED_TOKEN" not in words
    assert "kn'own" not in words
