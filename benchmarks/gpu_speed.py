"""How fast is training on one GPU, in how much memory, beside Hugging Face's model; and what a GPU still has to decide.

    python benchmarks/gpu_speed.py --data DATA [--only step,attention] [--minutes 9.5]
    python benchmarks/gpu_speed.py --data DATA --device cpu --layers 2 --hidden 64 --length 64 --rows 4 --steps 2 \\
        --fp16_steps 20

DATA as for benchmarks/training_speed.py: text and pairs, V=250,002. Without sizes: large (24 x 1024), 64 rows of 512,
bf16, ZeRO 1, one micro-batch a step. Each measurement has a process of its own, and two steps of warm-up. One that finds
too little memory, fails or is out of time says so, and the rest goes on; --only asks for what was left. The parts, with
the seconds that each may take on an H200 (an estimate, mostly of starting processes; none was measured yet):

peak           best matrix product in bf16 and fp16, before and behind the rest (always; 2 x 25)
step           rows of MMLM: our step (loader, engine, clipping, fused Adam) in real tokens and useful FLOPs a second,
               beside XLMRobertaForMaskedLM with sdpa and torch's fused AdamW on the same rows, all in bf16 and by autocast,
               as many rows at a time as fit; peak memory, and of ours the planner's error; waiting for the loader (120)
btmlm          BTMLM's two stages against a step on the same rows without the first (35)
fp16           a training of --fp16_steps through launcher/pretrain.py, base, all objectives, dynamic loss scale (90)
attention      flex, sdpa with the dense mask and, where only documents are told apart, flash attention of variable length,
               on each objective's rows, forward and backward; the whole step with sdpa; what `auto` takes (100)
compile        torch.compile on the layers, in training and in BTMLM's generation without gradient; its own time (120)
zero           ZeRO 0, 2 and 3 beside 1 (90)
checkpointing  with activation checkpointing (30)
head           our cross entropy against torch's linear_cross_entropy and Liger's, if installed (40)

Exit code 1 when a target was missed or not measured. On CPU the verdicts mean nothing: it shows that all parts run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gpu_speed_runs
import torch
from apart import OUT_OF_MEMORY, answer, apart
from training_speed import GIB, H200_TOKENS, line, rate, useful_flops, waiting
from training_speed_peer import peer
from training_speed_runs import Result, Setup, btmlm, matmul_peak, ours

from ernie_m.base.table import table
from ernie_m.corpus.manifest import Manifest

RUNS: dict[str, Callable[..., Result]] = {
    run.__name__: run for run in (ours, peer, btmlm, matmul_peak, gpu_speed_runs.attention, gpu_speed_runs.heads)
}
PARTS = ("step", "btmlm", "fp16", "attention", "compile", "zero", "checkpointing", "head")
PEAK_AGAIN = 30.0  # seconds kept for it


def main() -> None:
    if sys.argv[1:2] == ["--inside"]:
        return answer(sys.argv[2], RUNS, Setup)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--hidden", type=int, default=1024, help="heads of 64, feed-forward of 4 x hidden")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rows", type=int, default=64, help="of a step (one micro-batch)")
    parser.add_argument("--steps", type=int, default=10, help="measured of each process, behind two of warm-up")
    parser.add_argument("--dropout", type=float, default=0.0, help="of hidden states, both sides (recipe large: 0)")
    parser.add_argument("--zero_stage", type=int, default=1, help="of ours where no other is named")
    parser.add_argument("--fp16_steps", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=9.5, help="nothing is begun that ends later")
    parser.add_argument("--only", default=",".join(PARTS))
    arguments = parser.parse_args()
    arguments.data = str(Path(arguments.data).resolve())
    parts = [part for part in arguments.only.split(",") if part != "peak"]
    if unknown := set(parts) - {*PARTS}:
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}; expected some of peak, {', '.join(PARTS)}")
    if not Path(arguments.data, "manifest.json").is_file():
        parser.error(f"--data {arguments.data}: no manifest.json there; expected a folder of `python -m data_prep build`")
    if arguments.hidden % 64:
        parser.error(f"--hidden {arguments.hidden}: expected a multiple of 64, the width of a head")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here; --device cpu runs everything at small size")
    setup = Setup(**{f.name: getattr(arguments, f.name) for f in fields(Setup) if hasattr(arguments, f.name)})
    raise SystemExit(Benchmark(setup, arguments.device, arguments.minutes, arguments.fp16_steps).run(parts))


ENDED = "-- all parts have ended"
"""The last line, whatever was measured."""


class Benchmark:
    """All measurements at one size."""

    def __init__(self, setup: Setup, device: str, minutes: float, fp16_steps: int) -> None:
        self.setup, self.fp16_steps = setup, fp16_steps
        self.ends = time.monotonic() + 60 * minutes
        self.on_gpu = device == "cuda"
        self.board = torch.cuda.get_device_name() if self.on_gpu else "CPU"
        self.vocab: int = Manifest.read(Path(setup.data)).vocab_size
        self.peaks = {"bf16": 0.0, "fp16": 0.0} if self.on_gpu else {"bf16": 0.0}
        self.kept: dict[str, Result | None] = {}
        self.figures: list[tuple[str, str, str, str]] = []
        self.rate_of_flops: float | None = None

    def run(self, parts: Sequence[str]) -> int:
        """Measure these parts; 1 when a target was missed or not measured."""
        setup = self.setup
        print(
            f"{self.board}, torch {torch.__version__}; {setup.layers} layers x {setup.hidden}, V={self.vocab:,}, "
            f"{setup.rows} rows x {setup.length}, dropout {setup.dropout:g}, ZeRO {setup.zero_stage}"
        )
        if not self.on_gpu or (setup.layers, setup.hidden, setup.length, self.vocab) != (24, 1024, 512, 250_002):
            print("this is not large at length 512 with V=250,002 on a GPU, which the targets are for: verdicts mean little")
        self.peak()
        for part in parts:
            begun = time.monotonic()
            print(f"-- {part}", flush=True)
            getattr(self, part)()
            print(f"   ({time.monotonic() - begun:.0f} s)", flush=True)
        self.ends += PEAK_AGAIN
        print("-- peak again", flush=True)
        self.peak()
        if "step" in parts:
            share = self.rate_of_flops / self.peaks["bf16"] if self.rate_of_flops and self.peaks["bf16"] else None
            self.target("useful FLOP/s of a step / measured bf16 matmul peak", share, least=0.5)
        if self.figures:
            print(table(("figure", "value", "target", "verdict"), self.figures))
        else:
            print("no figure of these parts has a target here")
        print(ENDED)
        return 0 if all(verdict == "ok" for *_, verdict in self.figures) else 1

    def target(self, what: str, value: float | None, least: float | None = None, most: float | None = None) -> None:
        """Note a figure (None: it could not be measured) and whether it is where it should be."""
        is_met = value is not None and (least is None or value >= least) and (most is None or value <= most)
        wanted = f">= {least:,g}" if least is not None else f"<= {most:,g}"
        shown = "-" if value is None else f"{value:,.3f}" if abs(value) < 1000 else f"{value:,.0f}"
        row = (what, shown, wanted, "ok" if is_met else "not measured" if value is None else "MISSED")
        if row not in self.figures:
            self.figures.append(row)

    # -- parts ---------------------------------------------------------------------------------------------------

    def peak(self) -> None:
        for precision in self.peaks:
            self.kept.pop(f"matmul_peak {precision}", None)  # measured again
            if result := self.measured("matmul_peak", precision):
                self.peaks[precision] = max(self.peaks[precision], result["flops"])
                best, usual = (result[key] / 1e12 for key in ("flops", "median"))
                print(f"matmul peak {precision}: {best:,.1f} TFLOP/s, median of tries {usual:,.1f}", flush=True)

    def step(self) -> None:
        mine = self.our_step("ours")
        theirs = {}
        for precision, words in (("bf16", "all in bf16"), ("autocast", "autocast over fp32")):
            if result := self.measured("peer", "MMLM", precision):
                theirs[precision] = result
                print(f"{line(f'peer, {words}', result)}, {result['rows_at_a_time']} rows at a time", flush=True)
        if mine:
            self.rate_of_flops = useful_flops(self.setup, mine)
            print(f"useful FLOP/s: ours {self.rate_of_flops / 1e12:,.2f} TFLOP/s; {mine['choices']}")
        best = max(map(rate, theirs.values()), default=None)
        self.target("real tokens/s on an H200", rate(mine) if mine else None, least=H200_TOKENS)
        self.target("real tokens/s, ours / the peer's faster", rate(mine) / best if mine and best else None, least=2.5)
        self.target("share of the time waiting for the loader", waiting(mine) if mine else None, most=0.01)

    def btmlm(self) -> None:
        self.target("BTMLM step / MMLM step on the same rows", self.stages("layers as they are"), most=1.35)

    def fp16(self) -> None:
        try:
            result = gpu_speed_runs.fp16(self.setup, self.fp16_steps, self.time_left(), self.environment())
        except subprocess.TimeoutExpired:
            result = {"problem": "no time left"}
        if problem := result.get("problem"):
            print(f"{problem}")
        else:
            scales = result["scales"]
            print(
                f"{self.fp16_steps} steps in fp16: loss {result['first']:.3f} -> {result['last']:.3f}, {result['skipped']} "
                f"updates left out, loss scale {scales[0]:g} -> {scales[-1]:g} (least {min(scales):g}), "
                f"{result['rate']:,.0f} real tokens/s"
            )
        fall, skipped = (result.get(key) for key in ("first", "skipped"))
        self.target("fp16: loss of the last tenth / the first", result["last"] / fall if fall else None, most=0.9)
        share = None if skipped is None else skipped / self.fp16_steps
        self.target("fp16: share of updates left out", share, most=0.05)

    def attention(self) -> None:
        if result := self.measured("attention"):
            rows = [
                (
                    *(row["objective"], str(row["rows"]), row["backend"], milliseconds(row.get("mask_seconds"))),
                    *(row.get("problem") or milliseconds(row["seconds"]), f"{row.get('difference', 0):.4f}"),
                )
                for row in result["rows"]
            ]
            print(table(("objective", "rows", "backend", "mask, ms", "a layer, ms", "difference"), rows))
            print(result["choice"])
        mine = self.our_step("whole step, auto")
        dense = self.our_step("whole step, sdpa", attention="sdpa")
        self.target("tokens/s of auto's backend / sdpa", rate(mine) / rate(dense) if mine and dense else None, least=0.98)

    def compile(self) -> None:
        plain = self.our_step("layers as they are")
        compiled = self.our_step("layers compiled", compiled=True)
        if plain and compiled:
            spent = sum(compiled["warm_up"]) - len(compiled["warm_up"]) * statistics.median(compiled["seconds"])
            print(f"compiled: {rate(compiled) / rate(plain):.3f} x the tokens/s, after {spent:.0f} s of compiling")
        for words, is_compiled in (("layers as they are", False), ("layers compiled", True)):
            self.stages(words, compiled=is_compiled)

    def zero(self) -> None:
        for stage in (0, 1, 2, 3):
            self.our_step(f"ZeRO {stage}", zero_stage=stage)

    def checkpointing(self) -> None:
        self.our_step("every layer kept")
        self.our_step("activation checkpointing", checkpointing=True)

    def head(self) -> None:
        if result := self.measured("heads"):
            rows = [
                (
                    *(row["head"], str(row["positions"]), row.get("problem") or milliseconds(row["seconds"])),
                    *(f"{row.get('memory', 0) / GIB:.2f}", f"{row.get('difference', 0):.1e}"),
                )
                for row in result["rows"]
            ]
            print(table(("head", "positions", "ms", "GiB beside", "difference"), rows))

    # -- how -----------------------------------------------------------------------------------------------------

    def our_step(self, words: str, **changes: Any) -> Result | None:
        """Our step on rows of MMLM, printed, with what the planner says of its memory."""
        setup, what = replace(self.setup, **changes), [f"{key} {value}" for key, value in changes.items()]
        result = self.measured("ours", "MMLM", "bf16", **changes)
        if result:
            error = gpu_speed_runs.planned(setup, result) / result["peak_memory"] - 1
            print(f"{line(words, result)}, planned {error:+.1%}", flush=True)
            if self.on_gpu:  # what a process takes on CPU says little of what was allocated
                self.target(f"the planner's error, {', '.join(what) or 'usual'}", abs(error), most=0.1)
        return result

    def stages(self, words: str, **changes: Any) -> float | None:
        """Time of a BTMLM step over that of its second stage alone."""
        result = self.measured("btmlm", "bf16", **changes)
        if result is None:
            return None
        both, alone = (statistics.median(result[name]) for name in ("BTMLM", "MMLM"))
        print(
            f"{words}: BTMLM step {both:.3f} s, the same rows without stage 1 {alone:.3f} s ({both / alone:.3f} x)",
            flush=True,
        )
        return both / alone

    def measured(self, run: str, *details: Any, **changes: Any) -> Result | None:
        """One of RUNS in a new process, once; None, with a line about it, where it gave nothing."""
        setup = replace(self.setup, **changes)
        key = key_of(run, details, self.setup, setup)
        if key not in self.kept:
            self.kept[key], problem = self.tried(run, setup, details)
            if problem:
                print(f"{key}: {problem}", flush=True)
                self.figures.append((key, "-", "", "not measured"))
        return self.kept[key]

    def tried(self, run: str, setup: Setup, details: Sequence[Any]) -> tuple[Result | None, str]:
        """The result, or what came instead of it."""
        try:
            done = apart(__file__, setup, run, *details, timeout=self.time_left(), env=self.environment())
        except subprocess.TimeoutExpired:
            return None, "no time left"
        if done.returncode:
            killed = "killed (out of memory? fewer --rows)" if done.returncode == -9 else "failed"
            return None, f"{killed}: {(done.stderr.strip().splitlines() or ['no message'])[-1][:300]}"
        result = json.loads(done.stdout.splitlines()[-1])
        if OUT_OF_MEMORY in result:
            return None, f"out of memory: {result[OUT_OF_MEMORY]}"
        return result, ""

    def time_left(self) -> float:
        return max(1.0, self.ends - PEAK_AGAIN - time.monotonic())

    def environment(self) -> dict[str, str]:
        """That of a child process; on CPU it sees no GPU."""
        hidden = {} if self.on_gpu else {"CUDA_VISIBLE_DEVICES": ""}
        return {**os.environ, **hidden, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def key_of(run: str, details: Sequence[Any], usual: Setup, setup: Setup) -> str:
    """A name for a measurement: what differs from the usual setup."""
    changed = [f"{f.name}={new}" for f in fields(Setup) if (new := getattr(setup, f.name)) != getattr(usual, f.name)]
    return " ".join([run, *map(str, details), *changed])


def milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.2f}"


if __name__ == "__main__":
    main()
