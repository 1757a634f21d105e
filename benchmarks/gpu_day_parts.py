"""What benchmarks/gpu_day.py does beside calling other programs: ceilings of a card, data, a training that is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gpu_speed_runs import FP16_ON_CPU, ROOT, timed
from training_speed_runs import DEVICE, DTYPES, Result, Setup, matmul_peak

from ernie_m.base.special_tokens import Specials
from ernie_m.corpus.folder import MANIFEST_FILE
from ernie_m.runs.checkpoint import committed_folders
from ernie_m.runs.metrics import read_metrics
from ernie_m.training.utilization import measured_peak

LOSS_CONTINUES = 0.05
"""A resumed run's mean loss over steps may differ so much, relatively, from the undisturbed one's."""


class PartFailed(Exception):  # noqa: N818 - no error of the program
    """A part did not give what it should; the text says what there is."""


@dataclass(frozen=True)
class Size:
    """How large everything is; each part may take `patience` times what it may on a card.

    `vocabulary`: of the benchmarks' data. At XLM-R's size the head is as large as in earnest, though the corpus has but the
    first few thousand pieces.
    """

    patience: float
    lines: int
    pairs: int
    vocabulary: int
    speed: tuple[str, ...]
    """Options of gpu_speed.py."""
    steps: int
    rows: int
    micro_rows: int
    bytes_copied: int


FULL = Size(1, 5000, 5000, 250_002, (), 500, 16, 8, 1 << 31)
SMALL_SPEED = ("--device", "cpu", "--layers", "2", "--hidden", "64", "--length", "64", "--rows", "4", "--steps", "2")
SMALL = Size(4, 60, 60, 8_000, SMALL_SPEED, 10, 9, 1, 1 << 24)
"""Enough to see every part run on a CPU; 9 micro-batches a step, which bf16 sums in fp32."""


# -- programs ------------------------------------------------------------------------------------------------------


def environment(on_gpu: bool) -> dict[str, str]:
    """Of a child process: this repository's code, nothing from the network; on CPU no GPU and one thread."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1", "PYTHONPATH": path}
    return {**os.environ, **quiet, **({} if on_gpu else {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"})}


def call(command: Sequence[object], seconds: float, log: Path, variables: Mapping[str, str]) -> str:
    """Run to the end, output to `log`; returns it. PartFailed when the exit code is not 0 or the time is over."""
    process = start(command, log, variables)
    try:
        code = process.wait(max(1.0, seconds))
    except subprocess.TimeoutExpired:
        raise PartFailed(f"out of time after {seconds:.0f} s\n{tail(log)}") from None
    finally:
        kill(process)
    if code:
        raise PartFailed(f"exit code {code}\n{tail(log)}")
    return log.read_text(encoding="utf-8", errors="replace")


def start(command: Sequence[object], log: Path, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """In a session of its own, so that `kill` ends all that it started."""
    with log.open("ab") as output:
        return subprocess.Popen(
            list(map(str, command)),
            cwd=ROOT,
            env=dict(variables),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def kill(process: subprocess.Popen[bytes]) -> None:
    """kill -9 the program and everything it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tail(log: Path, lines: int = 25) -> str:
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return "\n".join(text.splitlines()[-lines:])


# -- data ----------------------------------------------------------------------------------------------------------


def prepare(folder: Path, size: Size, seconds: float, log: Path, variables: Mapping[str, str]) -> tuple[Path, Path]:
    """(data as it is, the same under a larger vocabulary), from the embedded corpus: no network."""
    deadline = time.monotonic() + seconds
    raw, tokenizer, data, large = (folder / name for name in ("raw", "spm.model", "data", "data_large"))
    tool = [sys.executable, "-m", "data_prep"]
    for command in (
        ["embed", "--out", raw, "--lines", size.lines, "--pairs", size.pairs, "--held_out", 20],
        ["train-tokenizer", "--catalog", raw / "catalog.yaml", "--out", tokenizer, "--vocab_size", 2000],
        ["build", "--catalog", raw / "catalog.yaml", "--tokenizer", tokenizer, "--out", data],
        ["build", "--catalog", raw / "catalog.yaml", "--tokenizer", tokenizer, "--out", large],
    ):
        call([*tool, *command], deadline - time.monotonic(), log, variables)
    widen(large, size.vocabulary)
    return data, large


def widen(folder: Path, vocabulary: int) -> None:
    """Say of a data folder that its vocabulary has so many pieces: as many as XLM-R's, of which the text has the first."""
    content = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    wider = content | {"special_tokens": Specials.xlm_r(vocabulary).to_json()}
    (folder / MANIFEST_FILE).write_text(json.dumps(wider), encoding="utf-8")


# -- ceilings ------------------------------------------------------------------------------------------------------


def ceilings(setup: Setup, num_bytes: int) -> Result:
    """What the card can do: {"matmul <precision>": FLOP/s, "copy": bytes/s read and written, "adam": bytes/s of torch's
    fused Adam, the optimizer of ours (28 bytes a weight)}."""
    found: Result = {}
    for name, dtype in DTYPES.items():
        short = DEVICE.type == "cpu"
        found[f"matmul {name}"] = measured_peak(DEVICE, dtype)[0] if short else matmul_peak(setup, name)["flops"]
    source, target = (torch.zeros(num_bytes // 4, device=DEVICE) for _ in range(2))
    found["copy"] = 2 * num_bytes / _seconds(lambda: target.copy_(source))
    weight = torch.nn.Parameter(source[: len(source) // 4].clone())
    weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.AdamW([weight], lr=1e-4, fused=True)
    optimizer.step()
    found["adam"] = 28 * weight.numel() / _seconds(optimizer.step)
    return found


def _seconds(work: Callable[[], Any]) -> float:
    result = timed(work, tries=10)
    if "problem" in result:
        raise RuntimeError(result["problem"])
    return float(result["seconds"])


# -- a training that is killed -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """A pre-training of the recipe demo, all objectives, in a precision."""

    precision: str
    data: Path
    folder: Path
    size: Size
    on_gpu: bool

    def command(self, run: Path) -> list[object]:
        size = self.size
        program = ["launcher/pretrain.py"] if self.on_gpu or self.precision != "fp16" else ["-c", FP16_ON_CPU]
        batch = f"batch={{rows_per_step: {size.rows}, micro_batch_rows: {size.micro_rows}}}"
        return [
            *(sys.executable, *program, "--recipe", "demo", "--data", self.data, "--run", run, batch),
            f"stages=[{{steps: {size.steps}, rows: {{MMLM: 1, TLM: 1, CAMLM: 4, BTMLM: 1}}}}]",
            f"engine={{zero_stage: 1, precision: {self.precision}}}",
            f"optimizer={{peak_learning_rate: 1.0e-3, warmup_steps: {size.steps // 10}}}",
            f"output={{log_every: 10, save_every: {max(1, size.steps // 5)}, evaluate_every: 0}}",
        ]

    def check(self, seconds: float, variables: Mapping[str, str]) -> str:
        """An undisturbed run beside one that is killed and goes on; a line about both, or PartFailed."""
        deadline = time.monotonic() + seconds
        whole, killed = (self.folder / f"{self.precision}_{name}" for name in ("whole", "killed"))
        logs = [path.with_suffix(".log") for path in (whole, killed)]
        call(self.command(whole), deadline - time.monotonic(), logs[0], variables)
        self._kill_on_the_way(killed, deadline, logs[1], variables)
        call(self.command(killed), deadline - time.monotonic(), logs[1], variables)
        starts = [line for line in logs[1].read_text(errors="replace").splitlines() if line.startswith("starting ")]
        if len(starts) != 2 or not starts[1].startswith("starting at step "):
            raise PartFailed(f"the killed run did not go on: {starts}\n{tail(logs[1])}")
        return self._compared(losses(whole), losses(killed), starts[1], read_metrics(whole))

    def _kill_on_the_way(self, run: Path, deadline: float, log: Path, variables: Mapping[str, str]) -> None:
        """As soon as there is a checkpoint and a step behind it."""
        process = start(self.command(run), log, variables)
        try:
            while not committed_folders(run / "checkpoints") or len(losses(run)) <= self.size.steps // 2:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise PartFailed(f"the run to be killed ended first, or was too slow\n{tail(log)}")
                time.sleep(0.01)
        finally:
            kill(process)

    def _compared(self, whole: dict[int, float], killed: dict[int, float], start: str, lines: list[dict[str, Any]]) -> str:
        steps = self.size.steps
        if sorted(whole) != sorted(killed) or sorted(whole) != list(range(1, steps + 1)):
            raise PartFailed(f"{len(whole)} and {len(killed)} steps in the metrics of runs of {steps}")
        tenth = max(1, steps // 10)
        worst = max(abs(mean_from(killed, s, tenth) / mean_from(whole, s, tenth) - 1) for s in range(1, steps + 2 - tenth))
        first, last = mean_from(whole, 1, tenth), mean_from(whole, steps + 1 - tenth, tenth)
        scales = [line["loss_scale"] for line in lines if line.get("loss_scale") is not None]
        scaled = f", loss scale {scales[0]:g} -> {scales[-1]:g}" if scales else ""
        told = (
            f"{self.precision}: {steps} steps, CAMLM's loss {first:.3f} -> {last:.3f}{scaled}; killed with -9, went on "
            f"({start}); largest difference of {tenth} steps' mean from the undisturbed run {worst:.2%}"
        )
        if worst > LOSS_CONTINUES or last >= first:
            raise PartFailed(told + f" (expected at most {LOSS_CONTINUES:.0%}, and a loss that falls)")
        return told


def losses(run: Path) -> dict[int, float]:
    """Step -> CAMLM's loss, of what a run has written down."""
    return {line["step"]: line["loss/CAMLM"] for line in read_metrics(run) if "loss/CAMLM" in line}


def mean_from(values: Mapping[int, float], first: int, count: int) -> float:
    return statistics.mean(values[step] for step in range(first, first + count))
