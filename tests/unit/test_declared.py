"""What the code imports is declared in setup.py, and what is locked is what setup.py allows."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
OURS = {
    "ernie_m",
    "data_prep",
    "tests",
    *(path.stem for name in ("tests", "benchmarks") for path in (ROOT / name).rglob("*.py")),
}
PEERS = {"datasets", "datatrove", "liger_kernel", "apex", "sacrebleu"}
"""What a benchmark compares with or counts scores by, and what a GPU may bring: asked for where it is there."""


def declared() -> dict[str, list[Requirement]]:
    """Extra ("": always installed) -> its requirements, as setup.py says them."""
    (call,) = (
        node
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setup"
    )
    said = {word.arg: word.value for word in call.keywords}
    extras = ast.literal_eval(said["extras_require"])
    return {
        extra: [*map(Requirement, lines)]
        for extra, lines in {"": ast.literal_eval(said["install_requires"]), **extras}.items()
    }


def imported(*folders: str) -> dict[str, str]:
    """Package from elsewhere -> a file that imports it."""
    found: dict[str, str] = {}
    for path in (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [str(node.module)]
            else:
                continue
            for top in {module.partition(".")[0] for module in modules}:
                if top not in sys.stdlib_module_names and top not in OURS | PEERS:
                    found.setdefault(top, str(path.relative_to(ROOT)))
    return found


@pytest.fixture(scope="module")
def distributions() -> dict[str, set[str]]:
    """Package -> the distributions that bring it."""
    return {name: {canonicalize_name(other) for other in found} for name, found in packages_distributions().items()}


@pytest.mark.parametrize(
    ("folders", "extras"),
    [
        (
            ("ernie_m", "data_prep", "launcher"),
            ("", "align", "demo", "filters", "finetune", "show", "tensorboard", "translation", "wandb", "remote", "mpi"),
        ),
        (("tests", "benchmarks", "docs"), ("", "dev")),
    ],
)
def test_every_import_is_declared(
    folders: tuple[str, ...], extras: tuple[str, ...], distributions: dict[str, set[str]]
) -> None:
    names = {canonicalize_name(requirement.name) for extra in extras for requirement in declared()[extra]}
    found = imported(*folders)
    assert {"numpy", "torch"} <= found.keys()
    lost = {package: path for package, path in found.items() if not distributions.get(package, {package}) & names}
    assert not lost, f"not in setup.py: {lost}"


def test_what_an_extra_brings_is_what_tests_have_too() -> None:
    by_name = {canonicalize_name(requirement.name): requirement for requirement in declared()["dev"]}
    for extra, requirements in declared().items():
        for requirement in requirements if extra else ():
            assert str(by_name[canonicalize_name(requirement.name)]) == str(requirement), extra


def locked(name: str) -> dict[str, list[tuple[Version, int]]]:
    """Distribution -> the releases of a lock file, one or one for each of several Pythons, and how many hashes each has."""
    found: dict[str, list[tuple[Version, int]]] = {}
    for entry in re.split(r"\n(?=[a-z0-9])", (ROOT / "locked" / name).read_text(encoding="utf-8")):
        if pinned := re.match(r"([a-z0-9._-]+)==([^\s;]+)", entry):
            hashes = len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry))
            found.setdefault(canonicalize_name(pinned[1]), []).append((Version(pinned[2]), hashes))
    return found


def test_the_lock_is_of_what_setup_py_allows_with_a_hash_for_each_file() -> None:
    """Renewed by `make lock`, without torch: its build differs from machine to machine."""
    packages, tools = locked("packages.txt"), locked("tools.txt")
    for requirement in [*declared()[""], *declared()["dev"]]:
        name = canonicalize_name(requirement.name)
        if name == "torch":
            continue
        assert name in packages, f"{name}: not locked; make lock"
        for version, _ in packages[name]:
            assert requirement.specifier.contains(version, prereleases=True), (
                f"{requirement}: {version} is locked; make lock"
            )
    assert all(hashes for found in (packages, tools) for releases in found.values() for _, hashes in releases)
    assert {"pip", "setuptools"} <= tools.keys()
    assert all(packages[name] == tools[name] for name in packages.keys() & tools.keys())
    assert not [name for name in packages if re.fullmatch(r"torch|triton|nvidia-.*|cuda-.*|sympy", name)]


def test_the_lock_names_no_host() -> None:
    for name in ("packages.txt", "tools.txt"):
        text = (ROOT / "locked" / name).read_text(encoding="utf-8")
        assert not re.search(r"://|--index|--extra-index|--find-links|--trusted-host| @ ", text)
