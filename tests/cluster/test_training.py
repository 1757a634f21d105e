"""A job on two hosts through the real `deepspeed --hostfile`: it trains; it outlives a host that falls off the network."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from ernie_m.runs.metrics import read_metrics
from tests.cluster.hosts import LOGIN, ROOT, Cluster, eventually
from tests.integration.conftest import tiny_recipe
from tests.integration.test_training import losses, single

pytestmark = pytest.mark.cluster

# No dropout: its masks are drawn per rank, so losses would depend on the number of ranks.
RECIPE = tiny_recipe(
    20,
    20,
    model={"dropout": 0.0, "attention_dropout": 0.0},
    output={"log_every": 1, "save_every": 5, "evaluate_every": 20, "held_out_pairs": 16, "log_samples": True},
)
NUM_STEPS = 40
CUT_AT = 12
TOLERANCE = 1e-5
"""Largest difference of a mean loss, in nats: ranks sum in another order than one process does."""
BOUND_SECONDS = 120


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


@pytest.fixture(scope="module")
def undisturbed(reason: str | None, recipe: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as one process on this machine."""
    if reason:
        pytest.skip(reason)
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    finished = single(recipe, data, run)
    assert finished.returncode == 0, finished.stderr
    return run


@pytest.fixture
def pretrain(recipe: Path, data: Path, tmp_path: Path) -> tuple[str | Path, ...]:
    """The training command behind the launcher; its run folder is tmp_path/run."""
    return ("launcher/pretrain.py", "--recipe", recipe, "--data", data, "--run", tmp_path / "run")


def ranks(cluster: Cluster, name: str) -> list[int]:
    """Process ids of the ranks on a host."""
    lines = cluster.processes(name).items()
    return [pid for pid, line in lines if "launcher/pretrain.py" in line and "--local_rank=0" in line]


def wait_for_step(run: Path, step: int, job: subprocess.Popen[bytes], log: Path) -> None:
    def reached() -> bool:
        assert job.poll() is None, log.read_text()
        return any(line["step"] >= step for line in read_metrics(run))

    eventually(reached, 600, f"step {step}: {log}")


def sample_ledger(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]


def assert_same_run(run: Path, undisturbed: Path) -> None:
    """Every step once, of the same samples, with the same losses; the evaluations, too."""
    steps = list(range(1, NUM_STEPS + 1))
    assert [line["step"] for line in read_metrics(run) if "learning_rate" in line] == steps
    found, expected = losses(run), losses(undisturbed)
    assert list(found) == list(expected) == steps
    for step in steps:
        assert found[step] == pytest.approx(expected[step], abs=TOLERANCE), f"step {step}"
    assert [line["step"] for line in sample_ledger(run)] == steps
    assert sample_ledger(run) == sample_ledger(undisturbed)
    assert all(line["rows"] for line in sample_ledger(run))


def test_two_hosts_train_to_the_end_with_the_losses_of_one(
    cluster: Cluster, pretrain: tuple[str | Path, ...], undisturbed: Path, tmp_path: Path
) -> None:
    log, run = tmp_path / "deepspeed.log", tmp_path / "run"
    (cluster.home / ".deepspeed_env").write_text("EXPORTED=by .deepspeed_env\n")
    job = cluster.launch(cluster.hostfile(), *pretrain, log=log)
    wait_for_step(run, 1, job, log)
    for name in cluster.names:
        (rank,) = ranks(cluster, name)
        assert b"\0EXPORTED=by .deepspeed_env\0" in Path(f"/proc/{rank}/environ").read_bytes()
    assert ranks(cluster, LOGIN) == []
    assert job.wait(timeout=240) == 0, log.read_text()
    assert (run / "COMPLETE").is_file(), log.read_text()
    assert "2 ranks on cpu" in log.read_text()
    # Their names stand for 127.0.1.1 there, where gloo would listen if nobody chose for it.
    assert cluster.run("host-1", "getent", "hosts", "host-1").stdout.split()[0] == "127.0.1.1"
    assert "network interface: eth0 (10.77.0.2 leads to " in log.read_text()
    assert_same_run(run, undisturbed)


def test_the_command_alone_is_a_job(cluster: Cluster, data: Path, tmp_path: Path) -> None:
    """`deepspeed --hostfile hostfiles/v100x64 launcher/pretrain.py`, word for word, in a checkout of which only the numbers
    are other: recipes/large.yaml is a small model, and the hostfile names two hosts with a slot each."""
    checkout, log = tmp_path / "checkout", tmp_path / "deepspeed.log"
    shutil.copytree(ROOT / "launcher", checkout / "launcher", ignore=shutil.ignore_patterns("__pycache__"))
    links = {"symlinks": True, "ignore": shutil.ignore_patterns("__pycache__")}
    shutil.copytree(ROOT / "ernie_m", checkout / "ernie_m", **links)  # whose recipes are those of this checkout
    (checkout / "launcher" / "recipes" / "large.yaml").write_text(yaml.safe_dump(tiny_recipe(3, 3)))
    (checkout / "ds_configs").symlink_to(ROOT / "ds_configs")
    (checkout / "data").symlink_to(data)
    (checkout / "hostfiles").mkdir()
    shutil.copy(cluster.hostfile(), checkout / "hostfiles" / "v100x64")
    command = ("deepspeed", "--hostfile", "hostfiles/v100x64", "launcher/pretrain.py")
    job = cluster.start(LOGIN, *command, log=log, folder=checkout, environment={"PYTHONPATH": str(checkout)})
    assert job.wait(timeout=240) == 0, log.read_text()
    assert (checkout / "runs" / "large" / "COMPLETE").is_file(), log.read_text()
    for line in ("recipe: large (", "data: data/ (", "run: runs/large (", "2 ranks on cpu"):
        assert log.read_text().count(line) == 1, line


@pytest.mark.parametrize("lost", ["host-2", "host-1"])
def test_a_lost_host_ends_the_job_in_bounded_time_and_the_other_host_finishes_it(
    lost: str, cluster: Cluster, pretrain: tuple[str | Path, ...], undisturbed: Path, tmp_path: Path
) -> None:
    """By hand, without a supervisor: `deepspeed --exclude` goes on. host-1 holds rank 0 and the address to meet at."""
    (other,) = set(cluster.names) - {lost}
    log, run, hostfile = tmp_path / "deepspeed.log", tmp_path / "run", cluster.hostfile()
    job = cluster.launch(hostfile, *pretrain, log=log)
    wait_for_step(run, CUT_AT, job, log)
    cluster.cut(lost)
    cut_at = time.monotonic()
    job.wait(timeout=BOUND_SECONDS)
    for name in cluster.names:  # the lost one's ranks are still alive, cut off from those that could tell them
        rest = BOUND_SECONDS - (time.monotonic() - cut_at)
        eventually(lambda: not ranks(cluster, name), rest, f"the ranks of {name} end")  # noqa: B023
    assert not (run / "COMPLETE").exists()
    # the line that the launcher's terminal shows; RUN/incidents.jsonl may hold what the lost host said of this one
    assert f" on host {lost} gave no sign of life" in log.read_text()
    # --force_multi: a job of a single host would otherwise run where the launcher is, whatever the hostfile says
    again = cluster.launch(hostfile, "--exclude", lost, "--force_multi", *pretrain, log=log)
    wait_for_step(run, CUT_AT + 5, again, log)
    assert (len(ranks(cluster, other)), ranks(cluster, LOGIN)) == (1, [])
    again.wait(timeout=240)
    assert (run / "COMPLETE").is_file(), log.read_text()
    assert_same_run(run, undisturbed)


@pytest.mark.parametrize("lost", ["host-2", "host-1"])
def test_the_supervisor_goes_on_with_the_host_that_is_left(
    lost: str, cluster: Cluster, pretrain: tuple[str | Path, ...], undisturbed: Path, tmp_path: Path
) -> None:
    (other,) = set(cluster.names) - {lost}
    log, run = tmp_path / "supervise.log", tmp_path / "run"
    command = (sys.executable, "launcher/supervise.py", "--hostfile", cluster.hostfile(), "--max_restarts", "3", "--")
    supervisor = cluster.start(LOGIN, *command, *pretrain, "output.dead_after_seconds=20", log=log)
    wait_for_step(run, CUT_AT, supervisor, log)
    before = max(line["step"] for line in read_metrics(run))
    cluster.cut(lost)
    cut_at = time.monotonic()
    wait_for_step(run, before + 5, supervisor, log)
    assert time.monotonic() - cut_at < BOUND_SECONDS + 60, "a bounded end, and a start"
    assert (len(ranks(cluster, other)), ranks(cluster, LOGIN)) == (1, [])
    supervisor.wait(timeout=240)
    assert (run / "COMPLETE").is_file(), log.read_text()
    assert supervisor.returncode == 0
    assert_same_run(run, undisturbed)
    starts = [line for line in map(json.loads, (run / "restarts.jsonl").open()) if line["event"] == "start"]
    assert starts[0]["hosts"] == {"host-1": 1, "host-2": 1}
    assert starts[-1]["hosts"] == {other: 1}


def test_a_stop_signal_at_the_launcher_stops_the_ranks_of_all_hosts_in_order(
    cluster: Cluster, pretrain: tuple[str | Path, ...], undisturbed: Path, tmp_path: Path
) -> None:
    log, run, hostfile = tmp_path / "deepspeed.log", tmp_path / "run", cluster.hostfile()
    job = cluster.launch(hostfile, *pretrain, log=log)
    wait_for_step(run, CUT_AT, job, log)
    cluster.send_signal(job, signal.SIGTERM)
    job.wait(timeout=60)
    for name in cluster.names:
        eventually(lambda: not ranks(cluster, name), 60, f"the ranks of {name} end")  # noqa: B023
    stop = json.loads((run / "last_stop.json").read_text())
    done = max(line["step"] for line in read_metrics(run))
    assert (stop["kind"], stop["step"]) == ("signal", done), log.read_text()
    assert (run / "checkpoints" / f"step_{done:08d}" / "manifest.json").is_file(), "nothing is lost"
    again = cluster.launch(hostfile, *pretrain, log=log)
    again.wait(timeout=240)
    assert (run / "COMPLETE").is_file(), log.read_text()
    assert f"starting at step {done}" in log.read_text()
    assert_same_run(run, undisturbed)
