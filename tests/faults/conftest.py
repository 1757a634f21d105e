"""What the fault tests share: a small recipe, undisturbed runs to compare with, the table of what each fault cost."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.faults.jobs import Recovery, Starter
from tests.integration.conftest import data, embedded, tiny_recipe  # noqa: F401  (fixtures: the small real corpus)

RECIPE = tiny_recipe(
    8,
    32,
    model={"num_layers": 1, "num_heads": 2, "ffn_size": 64},
    output={
        "log_every": 1,
        "save_every": 2,
        "keep_last": 3,
        "evaluate_every": 8,
        "held_out_pairs": 16,
        "dead_after_seconds": 5,
    },
)
NUM_STEPS = 40
RECOVERIES = pytest.StashKey[list[Recovery]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RECOVERIES] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The table: fault, steps lost, seconds from the restart's launch to its first step."""
    found = config.stash[RECOVERIES]
    if not found:
        return
    width = max(len(recovery.fault) for recovery in found)
    terminalreporter.section("what the faults cost")
    terminalreporter.write_line(f"{'fault':{width}}  steps lost  seconds to the first step after the restart")
    for recovery in found:
        lost = "-" if recovery.steps_lost is None else str(recovery.steps_lost)
        seconds = "-" if recovery.seconds is None else f"{recovery.seconds:.1f}"
        terminalreporter.write_line(f"{recovery.fault:{width}}  {lost:>10}  {seconds:>7}")


@pytest.fixture
def record(pytestconfig: pytest.Config) -> Callable[..., None]:
    """(fault, steps lost, seconds to the first step after the restart): a line of the table printed at the end."""

    def add(fault: str, steps_lost: int | None, seconds: float | None = None) -> None:
        pytestconfig.stash[RECOVERIES].append(Recovery(fault, steps_lost, seconds))

    return add


@pytest.fixture(scope="session")
def starter(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Starter:  # noqa: F811
    """Starts jobs of RECIPE."""
    folder = tmp_path_factory.mktemp("faults")
    recipe = folder / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    return Starter(recipe, data, folder)


def _undisturbed(starter: Starter, run: Path, num_ranks: int) -> Path:
    code, job = starter.finish(run, "output.keep_last=100", num_ranks=num_ranks)
    assert code == 0, job.text
    assert (run / "COMPLETE").is_file()
    return run


@pytest.fixture(scope="session")
def undisturbed(starter: Starter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one rank, with all its checkpoints."""
    return _undisturbed(starter, tmp_path_factory.mktemp("one") / "run", 1)


@pytest.fixture(scope="session")
def undisturbed_pair(starter: Starter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two ranks."""
    return _undisturbed(starter, tmp_path_factory.mktemp("two") / "run", 2)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
