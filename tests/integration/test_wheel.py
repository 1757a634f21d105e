"""The package as its users install it: a wheel in an environment of its own, used from a folder that is not the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ernie_m.commands.choice import COMMANDS
from tests.integration.conftest import ROOT, environment, tiny_recipe

SOURCES = (
    "ernie_m",
    "data_prep",
    "ds_configs",
    "hostfiles",
    "launcher",
    "setup.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)
PACKAGES = ("ernie_m", "data_prep")
NO_NETWORK = ("--no-index", "--no-deps", "--disable-pip-version-check", "--quiet")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of a copy of the sources: building leaves files beside them."""
    copy, to = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    pip("wheel", *NO_NETWORK, "--no-build-isolation", "--wheel-dir", to, copy)
    (path,) = to.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel; what it requires is that of this environment, whose own ernie_m is not seen there."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    pip("--python", folder / "bin" / "python", "install", *NO_NETWORK, wheel)
    (packages,) = folder.glob("lib/python*/site-packages")
    ours = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "required.pth").write_text("".join(f"{path}\n" for path in ours))  # files .pth in these are not read
    deepspeed = Path(sys.executable).with_name("deepspeed").read_text().splitlines(keepends=True)
    script = folder / "bin" / "deepspeed"
    script.write_text("".join([f"#!{folder}/bin/python\n", *deepspeed[1:]]))  # as pip would have written it there
    script.chmod(0o755)
    return folder


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Run:
    """Call a program of that environment in an empty folder, as from its own shell."""
    given = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    given |= {"PATH": f"{installed / 'bin'}{os.pathsep}{given['PATH']}", "DS_ACCELERATOR": "cpu"}

    def call(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [str(installed / "bin" / words[0]), *map(str, words[1:])]
        return subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, timeout=240, check=False)

    return call


def pip(*words: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", *map(str, words)], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        found = {name for name in content.namelist() if ".dist-info/" not in name}
    expected = {
        str((Path(folder) / file).relative_to(ROOT))
        for package in PACKAGES
        for folder, _, files in os.walk(ROOT / package, followlinks=True)
        for file in files
        if Path(folder).name != "__pycache__"  # Python's, and numba's
    }
    assert found == expected
    assert {"ernie_m/shipped/recipes/large.yaml", "ernie_m/shipped/ds_configs/zero1_fp16.json", "ernie_m/py.typed"} <= found


def test_every_command_explains_itself_far_from_the_checkout(run: Run, installed: Path) -> None:
    program = "import ernie_m, data_prep; print(ernie_m.__file__, data_prep.__file__, sep='\\n')"
    places = run("python", "-c", program).stdout.splitlines()
    assert len(places) == 2
    assert all(Path(place).is_relative_to(installed) for place in places), "else the checkout is tested"
    listed = run("ernie-m")
    assert listed.returncode == 0, listed.stderr
    assert run("python", "-m", "ernie_m").stdout == listed.stdout
    for name in COMMANDS:
        assert f"    {name} " in listed.stdout
        shown = run("ernie-m", name, "--help")
        assert shown.returncode == 0, shown.stderr
        assert f"ernie-m {name}" in shown.stdout + shown.stderr
    planned = run("ernie-m", "plan", "--recipe", "base")
    assert planned.returncode == 0, planned.stderr
    assert "hostfile: hostfiles/v100x64 (--hostfile is not given)" in planned.stdout


def test_a_training_of_two_ranks_far_from_the_checkout_is_complete_and_exported(
    run: Run, data: Path, tmp_path: Path
) -> None:
    output = {"log_every": 1, "save_every": 5, "evaluate_every": 0}
    changes = tiny_recipe(3, 2, engine={"zero_stage": 1}, output=output)
    overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    trained = run("ernie-m", "supervise", "--num_ranks=2", "--", "pretrain", "--recipe=demo", "--data", data, *overrides)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert (tmp_path / "runs" / "demo" / "COMPLETE").is_file(), trained.stdout
    assert "2 ranks on cpu" in trained.stdout
    exported = run("ernie-m", "export", "--run", "runs/demo", "--to", "exported")
    assert exported.returncode == 0, exported.stderr
    assert "exported step 5 of runs/demo" in exported.stdout
