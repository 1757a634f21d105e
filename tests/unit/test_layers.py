"""Imports point down: the order of `ernie_m.ROOMS`, enforced on the syntax trees."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from ernie_m import ROOMS

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ernie_m", "data_prep")
WITHOUT_TORCH = ("base", "corpus", "rows", "supervision", "hosts")
HEAVY = {"torch", "transformers", "deepspeed"}


def dotted(path: Path) -> str:
    """The name that a file is imported by."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {dotted(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def imports_of(path: Path) -> set[str]:
    """Dotted names that a file imports, wherever in it; of `from a import b` a.b where that is a module, else a."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            both = (f"{node.module}.{alias.name}" for alias in node.names)
            names.update(name if name in FILES else str(node.module) for name in both)
    return names


IMPORTS = {name: imports_of(path) for name, path in FILES.items()}


def room_of(name: str) -> str | None:
    """The room of ernie_m that a dotted name lies in; None elsewhere, and for the package itself."""
    parts = name.split(".")
    return parts[1] if parts[0] == "ernie_m" and len(parts) > 1 else None


def tops(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_every_folder_is_a_room_and_no_module_stands_outside() -> None:
    inside = {path.name for path in (ROOT / "ernie_m").iterdir() if path.name != "__pycache__"}
    assert inside - {"__init__.py", "__main__.py", "py.typed", "shipped"} == set(ROOMS)
    assert not list((ROOT / "ernie_m" / "shipped").rglob("*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_is_for_what_comes_in_and_out_and_where_to_start(room: str) -> None:
    text = ast.get_docstring(ast.parse(FILES[f"ernie_m.{room}"].read_text(encoding="utf-8"))) or ""
    assert all(word in text for word in ("In:", "Out:", "Start")), text


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_down(room: str) -> None:
    below = {*ROOMS[: ROOMS.index(room) + 1]}
    modules = [name for name in FILES if room_of(name) == room]
    assert modules
    for name in modules:
        above = {imported for imported in IMPORTS[name] if room_of(imported) not in {None, *below}}
        assert not above, f"{name} imports {', '.join(sorted(above))}, from rooms above {room}"
        assert not tops(IMPORTS[name]) & {"data_prep", "launcher", "tests", "benchmarks"}, name


def test_there_are_no_circles_of_files() -> None:
    """Not even through imports inside functions."""
    order = list(TopologicalSorter({name: (names & {*FILES}) - {name} for name, names in IMPORTS.items()}).static_order())
    assert order.index("ernie_m.rows.batch") < order.index("ernie_m.rows.packing") < order.index("ernie_m.training.trainer")


def test_deepspeed_is_imported_in_one_place() -> None:
    paths = [*FILES.values(), *(ROOT / "launcher").rglob("*.py")]
    importing = [str(path.relative_to(ROOT)) for path in paths if "deepspeed" in tops(imports_of(path))]
    assert importing == ["ernie_m/training/deepspeed_adapter.py"]


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_what_needs_no_torch_starts_without(room: str) -> None:
    """What looks at a folder of a million shards stays small and quick; a doctor is called where torch may be broken."""
    modules = [name for name in FILES if room_of(name) == room]
    assert run_alone(f"import sys; sys.modules['torch'] = None; import {', '.join(modules)}") == ""


def test_what_stands_beside_a_training_for_days_needs_no_torch() -> None:
    modules = "ernie_m.runs.checkpoint, ernie_m.supervision.supervisor, ernie_m.training.watchdog"
    assert run_alone(f"import sys; sys.modules['torch'] = None; import {modules}") == ""


def test_what_a_command_line_is_checked_with_needs_no_torch() -> None:
    """--help and a mistyped option answer at once, of every command."""
    modules = [name for name in FILES if room_of(name) == "commands"]
    assert run_alone(f"import sys; sys.modules['torch'] = None; import {', '.join(modules)}") == ""


def test_training_loads_no_room_above_it() -> None:
    """No doctor, no ssh, no supervision on a rank; nor torch's compiler or transformers' models, seconds of every start."""
    above = {f"ernie_m.{room}" for room in ROOMS[ROOMS.index("training") + 1 :]}
    loaded = set(run_alone("import sys, ernie_m.training.trainer; print(*sys.modules)").split())
    assert "ernie_m.training" in loaded
    assert not loaded & above
    slow = loaded & {"torch._dynamo", "transformers.modeling_utils"}
    assert not slow or slow <= set(run_alone("import sys, deepspeed; print(*sys.modules)").split()), (
        "not by DeepSpeed's doing"
    )


def run_alone(program: str) -> str:
    """What a program prints in a Python of its own; fails where it does."""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_data_prep_needs_base_and_corpus_alone() -> None:
    modules = [name for name in FILES if name.startswith("data_prep")]
    assert len(modules) > 10
    for name in modules:
        above = {imported for imported in IMPORTS[name] if room_of(imported) not in (None, "base", "corpus")}
        assert not above, f"{name} imports {above}"
        assert not tops(IMPORTS[name]) & {*HEAVY, "launcher"}, name
