"""The oldest releases that are tested are those that setup.py allows, and the workflow tests them."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
UNTESTED = {"torch", "mypy", "ruff", "types-pyyaml"}
"""torch has a release of its own in the Makefile; linters are taken at their newest."""


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def test_constraints_name_every_floor_and_lie_in_its_range() -> None:
    floors = dict(re.findall(r'"([\w-]+)>=([\d.]+)[^"]*"', (ROOT / "setup.py").read_text(encoding="utf-8")))
    pinned = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / "tests/oldest.txt").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(pinned) == {name.lower() for name in floors} - UNTESTED
    for name, version in pinned.items():
        floor = numbers(floors[name])
        assert numbers(version)[: len(floor)] == floor, f"{name}: setup.py allows {floors[name]}"


def test_the_workflow_runs_all_pythons_and_both_ends_of_the_releases_and_audits_what_is_locked() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]
    assert {"3.11", "3.12", "3.13"} <= set(matrix["python"])
    options = {entry["options"] for entry in matrix["include"]} | set(matrix["options"])
    assert options == {"", "LOCKED=", "CONSTRAINTS=tests/oldest.txt"}
    commands = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in commands
    assert any(command.startswith("make test ") for command in commands)
    assert any("pip_audit" in command and "-r locked/packages.txt" in command for command in commands)
