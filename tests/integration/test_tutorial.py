"""The tutorial's page is its script: every block of it runs, at a tiny size."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ernie_m.base.hostfile import free_port
from ernie_m.base.run_files import COMPLETE_FILE

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"SENTENCES": "150", "HELD_OUT": "20", "VOCABULARY": "2000", "STEPS": "6", "STEPS_2": "4", "STOP_AFTER": "1s"}


def test_every_block_of_the_tutorial_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    assert page.count("```bash\n") >= 8, "nothing was run"
    sizes = {**SIZES, "T": str(tmp_path), "PORT": str(free_port())}
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "run_tutorial.py"],
        env={**os.environ, **sizes},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / "run" / COMPLETE_FILE).is_file()
    assert len(list((tmp_path / "run" / "checkpoints").glob("step_*"))) > 1, "the first command was stopped on its way"
    assert (tmp_path / "hugging_face" / "config.json").is_file()
    commands = {line for line in page.splitlines() if line.startswith("python ")}
    assert commands, "the page has none"
    for command in commands:
        assert f"\n{command}\n" in done.stdout, f"not run: {command}"
