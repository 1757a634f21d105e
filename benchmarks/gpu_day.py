"""The day a GPU is there: everything about it that no test without one can say, in one command and one page.

    make wheels                          # where there is a network: packages but torch, into wheels/
    make gpu                             # on the machine with the card, offline, its own torch; at most 25 minutes
    make gpu SIZE=small                  # the same on a CPU at small size: shows that every part runs
    python benchmarks/gpu_day.py --only ceilings,tests

The parts, each with a time of its own; one that fails or is late is named on the page and costs the others nothing:

ceilings   the card's best matrix products, copies and fused Adam
data       a corpus, a tokenizer and shards, from Unicode CLDR (all later parts need it, but for tests and ceilings)
tests      pytest tests/gpu
training   in fp16 and bf16: an undisturbed run beside one that kill -9 ends and that goes on
speed      gpu_speed.py: steps beside the peer's, BTMLM, attention, head; our shares of the ceilings
memory     gpu_speed.py: ZeRO 0-3 and checkpointing, the plan's memory against the measured peak
profile    a step by kernel (torch.profiler)
compile    gpu_speed.py: what torch.compile of the layers would gain

The page, benchmarks/results/gpu_CARD_DATE.md, is written anew after each part. Exit code 1 when one did not do well.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from apart import OUT_OF_MEMORY, answer, apart
from gpu_day_parts import FULL, LOSS_CONTINUES, SMALL, PartFailed, Size, Training, call, ceilings, environment, prepare
from gpu_speed import ENDED
from training_speed_runs import Result, Setup, profile

from ernie_m.base.table import table

ROOT = Path(__file__).resolve().parents[1]
OK, MINUTES = "ok", 25.0
RUNS: dict[str, Callable[..., Result]] = {"ceilings": ceilings, "profile": profile}
LARGE = {"layers": 24, "hidden": 1024, "length": 512, "rows": 32, "steps": 5}
TINY = {"layers": 2, "hidden": 64, "length": 64, "rows": 4, "steps": 2}


@dataclass
class Outcome:
    """What came of a part: OK or what went wrong, in a word; its seconds; what it says."""

    verdict: str
    seconds: float
    text: str


class Day:
    """All parts at one size, on the card that is there or on the CPU."""

    def __init__(self, size: Size, folder: Path, page: Path, minutes: float = MINUTES) -> None:
        self.size, self.folder, self.page = size, folder, page
        self.on_gpu = size is FULL
        self.board = torch.cuda.get_device_name() if self.on_gpu else "CPU"
        self.variables = environment(self.on_gpu)
        self.ends = time.monotonic() + 60 * minutes * size.patience
        self.data: tuple[Path, Path] | None = None
        self.ceiling: Result = {}
        self.shares: list[tuple[str, float]] = []
        self.outcomes: dict[str, Outcome] = {}

    def run(self, parts: Sequence[str]) -> int:
        """These parts, one after another; 1 when one did not do well."""
        for name in parts:
            print(f"-- {name}", flush=True)
            begun = time.monotonic()
            try:
                verdict, text = OK, PARTS[name].do(self, min(self.seconds_of(name), self.ends - begun))
            except PartFailed as error:
                verdict, text = "failed", str(error)
            except Exception as error:  # whatever it is, the other parts' results are worth as much
                verdict, text = f"failed ({type(error).__name__})", str(error)
            self.outcomes[name] = Outcome(verdict, time.monotonic() - begun, text)
            self.page.write_text(self.as_page(parts), encoding="utf-8")
            print(f"{text}\n   {verdict}, {self.outcomes[name].seconds:.0f} s", flush=True)
        print(f"page: {self.page}")
        return 0 if all(outcome.verdict == OK for outcome in self.outcomes.values()) else 1

    def as_page(self, parts: Sequence[str]) -> str:
        """Markdown: what ran where, a table of the parts, then what each says."""
        rows = [
            (name, f"{found.verdict}", f"{found.seconds:.0f}", f"{self.seconds_of(name):.0f}")
            if (found := self.outcomes.get(name))
            else (name, "not run yet", "", f"{self.seconds_of(name):.0f}")
            for name in parts
        ]
        lines = [f"# {self.board}, {datetime.date.today()}", "", *self.machine(), ""]
        lines += [f"- {what}: **{share:.0%}**" for what, share in self.shares] + [""]
        if left_out := [name for name in PARTS if name not in parts]:
            lines += [f"Not asked for (--only): {', '.join(left_out)}.", ""]
        lines += ["| part | | seconds | of |", "|---|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
        for name, found in self.outcomes.items():
            lines += ["", f"## {name}: {found.verdict}", "", WHAT.get(name, ""), "", "```", found.text.strip(), "```"]
        return "\n".join(lines) + "\n"

    def seconds_of(self, name: str) -> float:
        return PARTS[name].seconds * self.size.patience

    def machine(self) -> list[str]:
        asked = ["git", "rev-parse", "--short", "HEAD"]
        try:
            commit = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
        except OSError:  # a bare machine has no git
            commit = ""
        size = "full size" if self.size is FULL else "small size: shows that all parts run, its figures mean nothing"
        return [
            f"`make gpu` at commit {commit or 'unknown'}, {size}; Python {platform.python_version()}, "
            f"torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}."
        ]

    # -- parts -----------------------------------------------------------------------------------------------------

    def do_ceilings(self, seconds: float) -> str:
        self.ceiling = self.inside("ceilings", seconds, self.size.bytes_copied)
        units = {"copy": (1e9, "GB/s"), "adam": (1e9, "GB/s")}
        rows = []
        for name, value in self.ceiling.items():
            scale, unit = units.get(name, (1e12, "TFLOP/s"))
            rows.append((name, f"{value / scale:,.2f} {unit}"))
        self.shares.append(("fused Adam, of a copy's bandwidth", self.ceiling["adam"] / self.ceiling["copy"]))
        return table(("ceiling", "measured"), rows)

    def do_data(self, seconds: float) -> str:
        self.data = prepare(self.folder, self.size, seconds, self.log("data"), self.variables)
        return "prepared: " + ", ".join(path.name for path in self.data)

    def do_tests(self, seconds: float) -> str:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "tests/gpu",
            "-rsfE",
            "-p",
            "no:cacheprovider",
            "--tb=short",
            "--no-header",
        ]
        words = ["-vv", "--durations=5"] if self.on_gpu else ["-q"]
        text = call([*command, *words], seconds, self.log("tests"), self.variables)
        has_run = re.search(r"\d+ passed", text)
        if self.on_gpu and not has_run:
            raise PartFailed("no test of tests/gpu ran\n" + text[-2000:])
        told = "" if has_run else "Without a GPU they are collected and skipped; none ran.\n"
        return told + "\n".join(text.splitlines()[-120:])

    def do_training(self, seconds: float) -> str:
        told, failed = [], False
        for precision in ("fp16", "bf16"):
            training = Training(precision, self.prepared()[0], self.folder, self.size, self.on_gpu)
            try:
                told.append(training.check(seconds / 2, self.variables))
            except PartFailed as error:
                told.append(f"{precision}: {error}")
                failed = True
        if failed:
            raise PartFailed("\n".join(told))
        return "\n".join(told)

    def speed_of(self, parts: str) -> Callable[[float], str]:
        """A part that is some of gpu_speed.py's; missed targets are findings, only what was not measured is a failure."""

        def do(seconds: float) -> str:
            options = [*self.size.speed, "--minutes", f"{(seconds - 30) / 60:.2f}", "--only", parts]
            command = [sys.executable, "benchmarks/gpu_speed.py", "--data", self.prepared()[1], *options]
            log = self.log(f"speed {parts}")
            try:
                call(command, seconds + 30, log, self.variables)
            except PartFailed as error:
                if ENDED not in log.read_text(encoding="utf-8", errors="replace"):
                    raise PartFailed(f"{error}\n{log.read_text(encoding='utf-8', errors='replace')[-6000:]}") from None
            text = log.read_text(encoding="utf-8", errors="replace")
            if found := re.search(r"(useful FLOP/s of a step / measured bf16 matmul peak) +([\d.]+)", text):
                self.shares.append((found[1], float(found[2])))
            if "not measured" in text:
                raise PartFailed(text[-6000:])
            return text

        return do

    def do_profile(self, seconds: float) -> str:
        result = self.inside("profile", seconds, "MMLM", "bf16")
        return str(result["table"])

    # -- how -------------------------------------------------------------------------------------------------------

    def inside(self, run: str, seconds: float, *details: object) -> Result:
        """One of RUNS in a process of its own."""
        shape = LARGE if self.on_gpu else TINY
        data = str(self.data[1]) if self.data else ""
        setup = Setup(data=data, dropout=0.0, zero_stage=1, **shape)  # type: ignore[arg-type]
        try:
            done = apart(__file__, setup, run, *details, timeout=max(1.0, seconds), env=self.variables)
        except subprocess.TimeoutExpired:
            raise PartFailed(f"out of time after {seconds:.0f} s") from None
        if done.returncode:
            raise PartFailed(f"exit code {done.returncode}\n{done.stderr[-3000:]}")
        result = json.loads(done.stdout.splitlines()[-1])
        if OUT_OF_MEMORY in result:
            raise PartFailed(f"out of memory: {result[OUT_OF_MEMORY]}")
        return dict(result)

    def prepared(self) -> tuple[Path, Path]:
        if self.data is None:
            raise PartFailed("there is no data; the part before it says why, or was not asked for")
        return self.data

    def log(self, name: str) -> Path:
        return self.folder / f"{name.replace(' ', '_').replace(',', '_')}.log"


@dataclass(frozen=True)
class Part:
    """Seconds that it may take, and what it does with them: returns its text, or raises PartFailed."""

    seconds: float
    do: Callable[[Day, float], str]


WHAT = {
    "ceilings": (
        "What the device reaches at best, which the shares above are of: products of large matrices in each "
        "precision; a copy, bytes read and written; torch's fused AdamW, 28 bytes a weight."
    ),
    "data": (
        "A parallel corpus generated from Unicode CLDR, as shards: once as it is, once said to have as many "
        "pieces as XLM-R's vocabulary, so that the head is as large as in earnest."
    ),
    "tests": "pytest tests/gpu. Each skipped test has its reason at the end.",
    "training": (
        "Recipe demo, all objectives, in two precisions: an undisturbed run, and one that kill -9 ends and "
        "that goes on from its checkpoint. A mean loss over a tenth of the steps may differ by "
        f"{LOSS_CONTINUES:.0%} between them."
    ),
    "speed": (
        "benchmarks/gpu_speed.py; its first line has the model. Real tokens are all but padding. Useful FLOPs "
        "are those that real tokens need: 6 a parameter, 12 L D a pair that attention reads, the head's where "
        "something is predicted. The peer is transformers' XLMRobertaForMaskedLM with torch's fused AdamW on "
        "the same rows. Attention: its mask, built once a micro-batch; a layer, forward and backward; "
        "difference, the largest from sdpa's output. Head: GiB beside its inputs."
    ),
    "memory": (
        "The same step under ZeRO 0 to 3, and with activation checkpointing. Planned: the planner's memory "
        "against the measured peak; on a CPU that is the whole process, so it says little."
    ),
    "profile": "A step of MMLM in bf16 by kernel, from torch.profiler: where its time goes.",
    "compile": (
        "The same step, and BTMLM's, with layers under torch.compile, which training does not use: what it would gain."
    ),
}
"""What the figures of each part are, for the page."""
PARTS = {
    "ceilings": Part(60, Day.do_ceilings),
    "data": Part(120, Day.do_data),
    "tests": Part(400, Day.do_tests),
    "training": Part(300, Day.do_training),
    "speed": Part(280, lambda day, seconds: day.speed_of("step,btmlm,attention,head")(seconds)),
    "memory": Part(150, lambda day, seconds: day.speed_of("zero,checkpointing")(seconds)),
    "profile": Part(60, Day.do_profile),
    "compile": Part(130, lambda day, seconds: day.speed_of("compile")(seconds)),
}
"""The most telling first: 1,500 s in all, which is what there is."""


def main() -> None:
    if sys.argv[1:2] == ["--inside"]:
        return answer(sys.argv[2], RUNS, Setup)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("full", "small"), default="full", help="small: on the CPU")
    parser.add_argument("--only", default=",".join(PARTS), help="some of the parts, in their order")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of all parts together; on a CPU four times as many")
    parser.add_argument("--to", type=Path, default=ROOT / "benchmarks/results", help="folder for the page")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",")
    if unknown := set(wanted) - {*PARTS}:
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}; expected some of {', '.join(PARTS)}")
    if arguments.size == "full" and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; --size small (make gpu SIZE=small) runs every part on the CPU")
    arguments.to.mkdir(parents=True, exist_ok=True)
    board = torch.cuda.get_device_name() if arguments.size == "full" else "CPU"
    page = arguments.to / f"gpu_{re.sub(r'[^A-Za-z0-9]+', '-', board)}_{datetime.date.today()}.md"
    with tempfile.TemporaryDirectory(prefix="gpu_day_") as folder:
        day = Day(FULL if arguments.size == "full" else SMALL, Path(folder), page, arguments.minutes)
        raise SystemExit(day.run([name for name in PARTS if name in wanted]))


if __name__ == "__main__":
    main()
