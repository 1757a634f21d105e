"""The job of a command that leaves things out: the same in all commands, said, and what is missing told at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ernie_m.base.console import InputError
from ernie_m.base.shipped import RECIPES
from ernie_m.runs.job_defaults import TRAINING, check_there, job_names
from ernie_m.supervision.deepspeed_job import JobCommand
from tests.integration.conftest import ROOT, environment


def call(script: str, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "launcher" / script), *map(str, arguments)]
    given = environment() | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=given, capture_output=True, text=True, timeout=120, check=False)


def test_what_is_left_out_is_large_data_and_a_run_of_the_recipes_name() -> None:
    job = job_names(None, None, None)
    assert (job.recipe, job.data, job.run) == ("large", "data/", "runs/large")
    assert [choice.subject for choice in job.choices] == ["recipe", "data", "run"]
    job = job_names("mine/tiny.yaml", "d", None)
    assert (job.recipe, job.data, job.run) == ("mine/tiny.yaml", "d", "runs/tiny")
    assert [choice.subject for choice in job.choices] == ["run"]
    assert job_names("r", "d", "x").choices == ()


def test_all_that_is_missing_is_told_at_once_with_a_complete_command(tmp_path: Path) -> None:
    done = call("pretrain.py", "--recipe", "lrge", cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    for part in (
        "recipe lrge",
        "known recipes: align, ",
        "--data data/: no such folder",
        "a complete command: deepspeed ",
    ):
        assert part in line
    assert not (tmp_path / "runs").exists()


def test_the_command_alone_says_what_it_takes(tmp_path: Path) -> None:
    done = call("pretrain.py", cwd=tmp_path)
    assert [line.split(" (")[0] for line in done.stdout.splitlines()] == ["recipe: large", "data: data/", "run: runs/large"]
    assert "--recipe large --data DATA --run runs/large" in done.stderr
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match=r"has no manifest\.json"):
        check_there(job_names(None, str(tmp_path / "data"), None), None)


def test_plan_and_supervise_take_the_same_job(tmp_path: Path) -> None:
    planned = call("plan.py", "--hostfile", ROOT / "hostfiles" / "v100x64", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.startswith("recipe: large (")
    command = JobCommand.of([])
    assert command.words == (TRAINING, "--run", "runs/large")
    assert JobCommand.of(["pretrain", "--recipe=base"]).words == (TRAINING, "--run", "runs/base", "--recipe=base")
    assert [choice.subject for choice in command.choices] == ["command", "recipe", "data", "run"]
    assert JobCommand.of(["launcher/pretrain.py", "--recipe=base", "a.b=1"]).run == Path("runs/base")
    given = ["launcher/pretrain.py", "--recipe", "base", "--data", "d", "--run", "r"]
    assert (JobCommand.of(given).words, JobCommand.of(given).choices) == (tuple(given), ())


@pytest.mark.parametrize("words", [["--run", "~/x"], ["--run=~/x"], ["--run", "a", "--run=~/x"]])
def test_the_supervisor_watches_the_folder_that_the_ranks_take(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    command = JobCommand.of(["launcher/pretrain.py", *words])
    assert command.run == Path("/home/somebody/x")
    assert not any("~" in word for word in command.words)


def test_every_recipe_is_named_in_the_help(tmp_path: Path) -> None:
    said = call("pretrain.py", "--help", cwd=tmp_path)
    text = " ".join((said.stdout + said.stderr).split())
    text += " exp1 exp2 exp3 exp4 exp5" if "exp1 .. exp5" in text else ""
    assert [path.stem for path in RECIPES.glob("*.yaml") if path.stem not in text] == []
