"""docs/architecture.png is drawn from the code: every room, every import between rooms."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ernie_m import ROOMS

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "draw_architecture.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_architecture", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["draw_architecture"] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


def test_the_script_draws_every_room_and_every_station(script: ModuleType, tmp_path: Path) -> None:
    script.main(tmp_path / "picture.png")
    assert 10_000 < (tmp_path / "picture.png").stat().st_size < 200_000
    texts = [text.get_text() for axis in script.picture().axes for text in axis.texts]
    for name in (*ROOMS, "data_prep"):
        assert name in texts, f"{name} is not drawn"
    assert all(station in texts for station, _, _ in script.WAY)


def test_the_dots_are_the_imports(script: ModuleType, tmp_path: Path) -> None:
    by_name = {room.name: room for room in script.rooms()}
    assert all(room.summary for room in by_name.values())
    for position, name in enumerate(ROOMS):
        assert by_name[name].imports <= {*ROOMS[:position]}
    assert by_name["data_prep"].imports == {"base", "corpus"}
    (tmp_path / "odd.py").write_text("def f():\n    from ernie_m.rows import batch\nimport ernie_m.runs.ranks, ernie_m\n")
    assert script.rooms_imported_by(tmp_path / "odd.py") == {"rows", "runs"}
    dots = [line for axis in script.picture().axes for line in axis.lines if line.get_marker() == "o"]
    assert len(dots) == sum(len(room.imports) for room in by_name.values())


def test_the_committed_picture_is_small() -> None:
    assert SCRIPT.with_name("architecture.png").stat().st_size < 200_000
