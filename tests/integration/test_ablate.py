"""A whole comparison through the real launchers: stopped in the middle, it goes on; done, it does nothing again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from ernie_m.ablation.comparison import ComparisonPlan, run
from ernie_m.ablation.jobs import steps_done
from ernie_m.ablation.variants import scratch
from ernie_m.base.console import EXIT_STOPPED, InputError
from ernie_m.corpus.folder import CorpusFolder
from tests.integration.conftest import environment, tiny_recipe

STEPS = 24


def start(recipe: Path, data: Path, embedded: Path, gold: Path, to: Path) -> subprocess.Popen[str]:
    """`ernie-m ablate scratch` on the embedded corpus, two runs side by side, from a folder that is not the checkout."""
    options = {"recipe": recipe, "data": data, "to": to, "steps": STEPS, "jobs": 2, "pairs": 6}
    options |= {"held_out": embedded / "heldout", "gold": f"en-en={gold}"}
    words = [f"--{key}={value}" for key, value in options.items()]
    return subprocess.Popen(
        [sys.executable, "-m", "ernie_m", "ablate", "scratch", *words],
        cwd=recipe.parent,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def gold(tmp_path: Path) -> Path:
    """Sentences and themselves: every word is linked with itself in every layer."""
    path = tmp_path / "gold.txt"
    path.write_text("two days ||| two days ||| 0-0 1-1\nMonday ||| Monday ||| 0-0\n", encoding="utf-8")
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    output = {"log_every": 1, "save_every": 100, "evaluate_every": 0}
    path.write_text(yaml.safe_dump(tiny_recipe(18, 6, engine={"zero_stage": 0}, output=output)))
    return path


def test_a_comparison_is_stopped_goes_on_and_is_not_done_twice(
    recipe: Path, data: Path, embedded: Path, gold: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "compared"
    twin, full = (to / "runs" / f"tiny_{kind}_seed0" for kind in ("mmlm", "full"))

    first = start(recipe, data, embedded, gold, to)
    ends = time.monotonic() + 120
    while not (steps_done(twin) and steps_done(full)):
        assert first.poll() is None, first.communicate()[0]
        assert time.monotonic() < ends
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    told = first.communicate(timeout=120)[0]
    assert first.returncode == EXIT_STOPPED, told
    before = {run: steps_done(run) for run in (twin, full)}
    assert any(0 < steps < STEPS for steps in before.values()), before
    assert not list((to / "measures").iterdir())

    def again(*overrides: str, only: tuple[str, ...] = ()) -> dict[str, list[dict[str, Any]]]:
        """The same comparison in this process: its commands are started as before."""
        measured = {"held_out": embedded / "heldout", "pairs": 6, "gold": {"en-en": gold}}
        plan = ComparisonPlan(to, data, 1, side_by_side=2, only=only, **measured)
        vocab_size = CorpusFolder(data).manifest.vocab_size
        return run(scratch(str(recipe), STEPS, overrides, vocab_size), plan)

    capfd.readouterr()
    results = again()
    for folder, steps in before.items():
        if steps < STEPS:
            assert f"starting at step {steps}" in (to / "logs" / f"{folder.name}.log").read_text()
    for name in ("tiny_mmlm", "tiny_full"):
        (result,) = results[name]
        assert set(result["pairs"]) == {"gain", "perplexity/MMLM", "perplexity/TLM", "perplexity/CAMLM"}
        assert result["links"] == {"en-en": {"0": 0, "1": 0, "2": 0}}
        assert (to / "hugging_face" / f"{name}_seed0" / "config.json").is_file()
    assert results["tiny_full"][0]["step"] == STEPS
    assert "tiny_full_seed0: measuring" in capfd.readouterr().out

    assert again() == results
    assert capfd.readouterr().out == "", "nothing was started"
    assert again(only=("tiny_full",)) == {"tiny_full": results["tiny_full"]}
    with pytest.raises(InputError, match=r"--only full: expected some of tiny_mmlm, tiny_full"):
        again(only=("tiny_full", "full"))

    with pytest.raises(InputError, match=r"another recipe than now \(optimizer\.peak_learning_rate"):
        again("optimizer.peak_learning_rate=5e-4")
