"""benchmarks/gpu_day.py: a part that fails or is late costs no other its result, and the page and the exit code say so."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import gpu_day
import gpu_day_parts
import gpu_speed
import training_speed
import training_speed_runs
import wheels
from gpu_day import Day, Part
from gpu_day_parts import SMALL, PartFailed, Training, call, environment, tail

from ernie_m.corpus.folder import CorpusFolder

if TYPE_CHECKING:
    from training_speed_runs import Setup


def day_in(folder: Path) -> Day:
    return Day(SMALL, folder, folder / "page.md")


def test_parts_that_fail_are_late_or_break_leave_the_others_their_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(day: Day, seconds: float) -> str:
        return call(
            [sys.executable, "-c", "print('so far', flush=True); import time; time.sleep(60)"], 5, day.log("late"), {}
        )

    def failing(day: Day, seconds: float) -> str:
        raise PartFailed("three tests failed")

    def broken(day: Day, seconds: float) -> str:
        raise KeyError("what nobody thought of")

    def share(day: Day, seconds: float) -> str:
        day.shares.append(("a share of a ceiling", 0.42))
        return "measured 7"

    parts = {"late": late, "failing": failing, "broken": broken, "share": share}
    monkeypatch.setattr(gpu_day, "PARTS", {name: Part(20, do) for name, do in parts.items()})
    day = day_in(tmp_path)
    assert day.run([*parts]) == 1
    verdicts = {name: outcome.verdict for name, outcome in day.outcomes.items()}
    assert verdicts == {"late": "failed", "failing": "failed", "broken": "failed (KeyError)", "share": "ok"}
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    for text in ("out of time after 5 s", "so far", "three tests failed", "nobody thought of", "measured 7", "**42%**"):
        assert text in page
    assert "| failing | failed |" in page
    assert day_in(tmp_path).run(["share"]) == 0


def test_the_page_has_what_is_known_before_the_last_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def looks(day: Day, seconds: float) -> str:
        seen.append(day.page.read_text(encoding="utf-8"))
        return "done"

    monkeypatch.setattr(gpu_day, "PARTS", {"first": Part(9, lambda day, seconds: "known"), "looks": Part(9, looks)})
    assert day_in(tmp_path).run(["first", "looks"]) == 0
    assert "known" in seen[0]
    assert "| looks | not run yet |" in seen[0]


def test_the_page_explains_each_part_and_says_what_was_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gpu_day.WHAT.keys() == gpu_day.PARTS.keys()
    parts = {name: replace(part, do=lambda day, seconds: "1.00") for name, part in gpu_day.PARTS.items()}
    monkeypatch.setattr(gpu_day, "PARTS", parts)
    assert day_in(tmp_path).run(["ceilings", "data"]) == 0
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "Not asked for (--only): tests, training, speed, memory, profile, compile." in page
    assert gpu_day.WHAT["ceilings"] in page
    assert gpu_day.WHAT["speed"] not in page


def test_a_benchmark_that_breaks_off_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ends with missed targets is: its exit code is the same."""

    def ending(text: str) -> Callable[..., str]:
        def call(command: object, seconds: float, log: Path, variables: object) -> str:
            log.write_text(text, encoding="utf-8")
            raise PartFailed("exit code 1")

        return call

    day = day_in(tmp_path)
    day.data = tmp_path, tmp_path
    monkeypatch.setattr(gpu_day, "call", ending("verdicts mean little\nTraceback"))
    with pytest.raises(PartFailed, match="Traceback"):
        day.speed_of("zero")(60)
    monkeypatch.setattr(gpu_day, "call", ending(f"verdicts mean little\nMISSED\n{gpu_speed.ENDED}"))
    assert "MISSED" in day.speed_of("zero")(60)


def test_all_parts_together_take_no_longer_than_there_is_time() -> None:
    assert sum(part.seconds for part in gpu_day.PARTS.values()) <= 60 * gpu_day.MINUTES == 25 * 60
    assert gpu_day_parts.FULL.patience == 1


def test_what_a_part_started_ends_with_its_time(tmp_path: Path) -> None:
    sleep = "[sys.executable, '-c', 'import time; time.sleep(60)']"
    child = f"import subprocess, sys; print(subprocess.Popen({sleep}).pid, flush=True)"
    with pytest.raises(PartFailed, match="out of time after 5 s"):
        call([sys.executable, "-c", f"{child}; import time; time.sleep(60)"], 5, tmp_path / "log", environment(on_gpu=False))
    pid, deadline = int(tail(tmp_path / "log")), time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(PartFailed, match=r"exit code 3\nwhy"):
        call([sys.executable, "-c", "print('why'); raise SystemExit(3)"], 60, tmp_path / "other", environment(on_gpu=False))


def test_a_training_that_does_not_go_on_as_it_was_is_found(tmp_path: Path) -> None:
    training = Training("fp16", tmp_path, tmp_path, replace(SMALL, steps=20), on_gpu=False)
    whole = {step: 9.0 - 0.1 * step for step in range(1, 21)}
    lines = [{"loss_scale": 65536.0}, {"loss_scale": 32768.0}]
    told = training._compared(whole, dict(whole), "starting at step 8", lines)
    assert "loss scale 65536 -> 32768" in told
    assert "9.000" not in told
    assert "difference of 2 steps' mean from the undisturbed run 0.00%" in told
    with pytest.raises(PartFailed, match="20 and 19 steps"):
        training._compared(whole, {step: value for step, value in whole.items() if step != 9}, "", lines)
    started_over = whole | dict.fromkeys(range(9, 21), 9.0)
    with pytest.raises(PartFailed, match="expected at most 5%"):
        training._compared(whole, started_over, "", lines)
    flat = dict.fromkeys(whole, 9.0)
    with pytest.raises(PartFailed, match="a loss that falls"):
        training._compared(flat, flat, "", lines)


def test_ceilings_are_measured_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_day_parts, "measured_peak", lambda device, dtype: (1e12, 256))
    setup: Setup | None = None
    found = gpu_day_parts.ceilings(setup, 1 << 20)  # type: ignore[arg-type]
    assert found["matmul bf16"] == 1e12
    assert found["copy"] > 0
    assert found["adam"] > 0


def test_wheels_hold_all_that_is_required_but_torch() -> None:
    found = wheels.closure(wheels.NEEDED)
    assert {wheels.name_of(name) for name in wheels.NEEDED} <= set(found)
    assert {"tokenizers", "huggingface-hub", "einops"} <= set(found), "what is required in turn"
    assert not any(wheels.WITH_TORCH.fullmatch(name) for name in found)
    setup = (Path(wheels.__file__).resolve().parents[1] / "setup.py").read_text(encoding="utf-8")
    required = json.loads("[" + setup.split("install_requires=[")[1].split("]")[0].strip().rstrip(",") + "]")
    assert {wheels.name_of(text) for text in required} - {"torch"} <= set(found)


def test_benchmarks_open_data_of_a_wider_vocabulary(
    corpus_folder: CorpusFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the day makes it of a small tokenizer's: the parts that measure speed and memory read it."""
    folder = shutil.copytree(corpus_folder.folder, tmp_path / "data")
    gpu_day_parts.widen(folder, 250_002)
    shape = {"layers": 1, "hidden": 64, "length": 64, "rows": 2, "steps": 1, "dropout": 0.0, "zero_stage": 1}
    setup = training_speed_runs.Setup(data=str(folder), **shape)  # type: ignore[arg-type]
    assert setup.model(CorpusFolder(folder)).vocab_size == 250_002
    assert gpu_speed.Benchmark(setup, "cpu", 1.0, 1).vocab == 250_002
    assert training_speed.Benchmark(setup, 1, 1).vocab == 250_002
    (batch,) = setup.pretraining_data("CAMLM").step(0, 0, 1, 2)
    assert int(batch.input_ids_BS.max()) == 250_001, "its mask"
