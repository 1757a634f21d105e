"""How fast is a training step, in how much memory, beside Hugging Face's model on the same machine, threads and text?

    python -m data_prep build --catalog my.yaml --tokenizer sentencepiece.bpe.model --out DATA
    python benchmarks/training_speed.py --data DATA [--threads 2] [--layers 12] [--rows 4] [--steps 5] [--only full,pairs]

DATA holds text and sentence pairs; for the targets with a vocabulary of 250,002 (XLM-R's tokenizer, or the padded model that
benchmarks/data_prep.py leaves in its --work). Everything runs in processes of their own, on the same cores, ours and the
peer's in turn; medians of steps. The parts of --only:

peak     the machine's fp32 and bf16 matmul peak, before and behind the rest (always measured)
full     rows of MMLM: our step (loader, engine, clipping, AdamW) against transformers' XLMRobertaForMaskedLM on the same
         rows with torch's AdamW and clipping; peak memory; useful FLOP/s against the peak; time waiting for the loader
pairs    our packed rows of TLM against the same pairs, --peer_pairs at a time, padded by transformers' MLM collator
bf16     our step of `full` in bf16 against fp32
btmlm    BTMLM's two stages against a step on the same rows without the first
loader   tokens/s and fill of one loader process, by objective: alone, as one rank of 64 (each prepares its own rows), and
         without plans kept from row to row; processes that an H200 takes; the peer's collator
profile  torch.profiler's tables of our step (no target; not in the default)

Real tokens are those that are not padding. Useful FLOPs: 6 x parameters of the layers + 12 x layers x width x length a
real token, 6 x (width x vocabulary + width^2) a predicted one. Exit code 1 when a target is missed. Run it on an idle
machine; Linux alone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from apart import answer, apart
from training_speed_peer import loader, peer
from training_speed_runs import Result, Setup, btmlm, matmul_peak, ours, profile

from ernie_m.corpus.folder import CorpusFolder, Manifest
from ernie_m.models.flops import needed_flops
from ernie_m.rows.objective import TOKEN

H200_TOKENS = 180_000  # a second: large, length 512, bf16, half of the measured matmul peak
PARTS = ("full", "pairs", "bf16", "btmlm", "loader")
RUNS: dict[str, Callable[..., Result]] = {run.__name__: run for run in (ours, peer, btmlm, profile, loader, matmul_peak)}
GIB = 1 << 30


def main() -> None:
    if sys.argv[1:2] == ["--inside"]:
        return answer(sys.argv[2], RUNS, Setup)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--threads", type=int, default=2, help="cores that every process is kept to")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=768, help="heads of 64, feed-forward of 4 x hidden")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rows", type=int, default=4, help="of a step (one micro-batch)")
    parser.add_argument("--steps", type=int, default=5, help="measured of each process, behind two of warm-up")
    parser.add_argument("--repeats", type=int, default=2, help="processes of each side, in turn")
    parser.add_argument("--dropout", type=float, default=0.0, help="of hidden states, both sides (recipe base: 0)")
    parser.add_argument("--zero_stage", type=int, default=0, help="of ours; one process has nothing to shard")
    parser.add_argument("--peer_pairs", type=int, default=32, help="pairs that the peer pads together; it accumulates")
    parser.add_argument("--loader_rows", type=int, default=2000)
    parser.add_argument("--only", default=",".join(PARTS))
    arguments = parser.parse_args()
    arguments.data = str(Path(arguments.data).resolve())
    setup = Setup(**{f.name: getattr(arguments, f.name) for f in fields(Setup) if hasattr(arguments, f.name)})
    parts = [part for part in arguments.only.split(",") if part != "peak"]
    if unknown := set(parts) - {*PARTS, "profile"}:
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}; expected some of peak, {', '.join(PARTS)}, profile")
    raise SystemExit(Benchmark(setup, arguments.threads, arguments.repeats).run(parts))


class Benchmark:
    """All measurements at one size."""

    def __init__(self, setup: Setup, threads: int, repeats: int) -> None:
        self.setup, self.threads, self.repeats = setup, threads, repeats
        self.cores = set(sorted(os.sched_getaffinity(0))[:threads])
        if len(self.cores) < threads:
            raise SystemExit(f"--threads {threads}: only {len(self.cores)} cores may be used here")
        self.vocab: int = Manifest.read(Path(setup.data)).vocab_size
        self.targets: list[tuple[str, bool]] = []
        self.peaks: dict[str, float] = {"fp32": 0.0, "bf16": 0.0}
        self.fp32_rate: float | None = None

    def run(self, parts: list[str]) -> int:
        """Measure these parts; 1 when a target was missed."""
        print(
            f"{self.threads} threads on cores {sorted(self.cores)} of {os.cpu_count()}, {processor()}, load "
            f"{os.getloadavg()[0]:.1f}; {self.setup.layers} layers x {self.setup.hidden}, V={self.vocab:,}, "
            f"{self.setup.rows} rows x {self.setup.length}, dropout {self.setup.dropout:g}, ZeRO {self.setup.zero_stage}"
        )
        if (self.setup.layers, self.setup.hidden, self.setup.length, self.vocab) != (12, 768, 512, 250_002):
            print("this is not base at length 512 with V=250,002: the targets were set for that, its verdicts mean little")
        self.peak()
        for part in parts:
            print(f"-- {part}", flush=True)
            getattr(self, part)()
        print("-- peak again", flush=True)
        self.peak()
        if self.fp32_rate is not None:
            self.target("useful FLOP/s against the fp32 matmul peak", self.fp32_rate / self.peaks["fp32"], least=0.7)
        for line, is_met in self.targets:
            print(f"{'ok    ' if is_met else 'MISSED'} {line}")
        return 0 if all(is_met for _, is_met in self.targets) else 1

    def target(self, what: str, value: float, least: float | None = None, most: float | None = None) -> None:
        """Note a figure and whether it is where it should be."""
        is_met = (least is None or value >= least) and (most is None or value <= most)
        wanted = f">= {least:g}" if least is not None else f"<= {most:g}"
        self.targets.append((f"{what}: {value:.3f} (target {wanted})", is_met))

    # -- parts ---------------------------------------------------------------------------------------------------

    def peak(self) -> None:
        for precision in self.peaks:
            flops = self.measured("matmul_peak", precision)["flops"]
            self.peaks[precision] = max(self.peaks[precision], flops)
            print(f"matmul peak {precision}: {flops / 1e9:,.0f} GFLOP/s")

    def full(self) -> None:
        mine, theirs = self.beside("MMLM")
        self.target("real tokens/s on full rows, ours / peer", rate(mine) / rate(theirs), least=2.0)
        self.target("peak memory, ours / peer", mine["peak_memory"] / theirs["peak_memory"], most=0.6)
        self.target("share of the time waiting for the loader, full rows", waiting(mine), most=0.01)
        self.fp32_rate = useful_flops(self.setup, mine)
        print(f"useful FLOP/s: ours {self.fp32_rate / 1e9:,.0f} GFLOP/s")

    def pairs(self) -> None:
        mine, theirs = self.beside("TLM")
        self.target("real tokens/s on real pairs, ours / peer", rate(mine) / rate(theirs), least=4.0)
        self.target("share of the time waiting for the loader, pairs", waiting(mine), most=0.01)

    def bf16(self) -> None:
        runs: dict[str, list[Result]] = {"fp32": [], "bf16": []}
        for _ in range(self.repeats):
            for precision in runs:
                runs[precision].append(self.measured("ours", "MMLM", precision))
        joint = {precision: joined(results) for precision, results in runs.items()}
        for precision, result in joint.items():
            share = useful_flops(self.setup, result) / self.peaks[precision]
            print(f"{line(f'ours, {precision}', result)}; {share:.0%} of the {precision} peak")
        if "avx512_bf16" in cpu_line("flags"):
            self.target("bf16 / fp32, ours", rate(joint["bf16"]) / rate(joint["fp32"]), least=1.5)
        else:
            print("no AVX512-BF16 in this processor: no target")

    def btmlm(self) -> None:
        result = self.measured("btmlm", "fp32")
        both, alone = (statistics.median(result[name]) for name in ("BTMLM", "MMLM"))
        print(f"BTMLM step {both:.2f} s ({spread(result['BTMLM'])}), the same rows without stage 1 {alone:.2f} s")
        self.target("BTMLM step / MMLM step on the same rows", both / alone, most=1.35)

    def loader(self) -> None:
        for objective in ("MMLM", "TLM", "CAMLM", "BTMLM"):
            result = self.measured("loader", objective)
            slowest = min(result[key] for key in ("rate", "rate_of_64", "rate_unplanned"))
            print(
                f"loader, one process, {objective}: {result['rate']:,.0f} real tokens/s, fill {result['fill']:.2%}; a "
                f"rank of 64 {result['rate_of_64']:,.0f}; every window planned anew {result['rate_unplanned']:,.0f}"
            )
            self.target(f"loader processes of {objective} that an H200 takes", math.ceil(H200_TOKENS / slowest), most=1)
            if "peer_rate" in result:
                print(
                    f"peer: transformers' MLM collator on the same pairs: {result['peer_rate']:,.0f} real tokens/s, "
                    f"fill {result['peer_fill']:.2%}"
                )
            if objective in ("TLM", "CAMLM"):
                self.target(f"packing fill, {objective} on real pairs", result["fill"], least=0.97)

    def profile(self) -> None:
        print(self.measured("profile", "MMLM", "fp32")["table"])

    # -- how -----------------------------------------------------------------------------------------------------

    def beside(self, objective: str) -> tuple[Result, Result]:
        """Ours and the peer, in turn, each in new processes."""
        mine, theirs = [], []
        for _ in range(self.repeats):
            mine.append(self.measured("ours", objective, "fp32"))
            theirs.append(self.measured("peer", objective))
        for name, results in (("ours", mine), ("peer, XLMRobertaForMaskedLM", theirs)):
            print(line(name, joined(results)), flush=True)
        return joined(mine), joined(theirs)

    def measured(self, name: str, *details: str) -> Any:
        """One of RUNS in a new process on our cores, and on no GPU."""
        environment = {"OMP_NUM_THREADS": str(self.threads), "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
        result = apart(
            __file__,
            self.setup,
            name,
            *details,
            preexec_fn=lambda: os.sched_setaffinity(0, self.cores),
            env={**os.environ, **environment, "TOKENIZERS_PARALLELISM": "false"},
        )
        if result.returncode:
            killed = " (killed: out of memory? fewer --rows)" if result.returncode == -9 else ""
            raise SystemExit(f"{name} {' '.join(details)} failed{killed}:\n{result.stderr[-3000:]}")
        return json.loads(result.stdout.splitlines()[-1])


def joined(results: list[Result]) -> Result:
    """Steps of several processes as one run; the largest memory."""
    keys = [key for key, value in results[0].items() if isinstance(value, list)]
    steps = {key: [value for result in results for value in result[key]] for key in keys}
    return {**steps, "peak_memory": max(result["peak_memory"] for result in results)}


def rate(result: Result) -> float:
    """Real tokens a second, median of steps."""
    return statistics.median(n / seconds for n, seconds in zip(result["tokens"], result["seconds"], strict=True))


def useful_flops(setup: Setup, result: Result) -> float:
    """Useful FLOP/s of our steps, median."""
    model = setup.model(CorpusFolder(setup.data))
    steps = zip(*(result[key] for key in ("tokens", "pairs", "predicted", "seconds")), strict=True)
    return statistics.median(needed_flops(model, n, pairs, {TOKEN: k}) / seconds for n, pairs, k, seconds in steps)


def waiting(result: Result) -> float:
    return sum(result["waiting"]) / sum(result["seconds"])


def line(name: str, result: Result) -> str:
    fill = sum(result["tokens"]) / sum(result["positions"])
    return (
        f"{name:28} {rate(result):8,.1f} real tokens/s, step {statistics.median(result['seconds']):.2f} s "
        f"({spread(result['seconds'])}), {fill:.1%} real tokens, peak memory {result['peak_memory'] / GIB:.2f} GiB"
    )


def spread(seconds: list[float]) -> str:
    return f"{min(seconds):.2f}-{max(seconds):.2f}"


def cpu_line(key: str) -> str:
    """This machine's first line of /proc/cpuinfo with this key."""
    lines = (text.partition(":") for text in Path("/proc/cpuinfo").read_text().splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == key), "unknown")


def processor() -> str:
    return cpu_line("model name")


if __name__ == "__main__":
    main()
