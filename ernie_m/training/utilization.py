"""Where a run's time goes, and how much of what its devices can compute is used for real tokens.

1. `StepClock` says how many of a rank's seconds went into generation (BTMLM stage 1), waiting for rows, saving and
   evaluation; what remains are the steps themselves.
2. `matmul_peak` says what a device can do: by its data sheet or, without one, by a measurement at the start.
3. `RunCosts` turns seconds and counts since the last line into the numbers of the next one; `Meter` asks all ranks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from ernie_m.base.console import Choice
from ernie_m.base.devices import peak_of_board
from ernie_m.models.flops import needed_flops
from ernie_m.runs.metrics import TIME_SHARE

if TYPE_CHECKING:
    from ernie_m.models.shape import ModelConfig
    from ernie_m.runs.ranks import Ranks
    from ernie_m.training.recipe import TrainingConfig

T = TypeVar("T")
GENERATION, LOADING, SAVING, EVALUATION = ACTIVITIES = ("generation", "loading", "saving", "evaluation")
OUTSIDE_STEPS = (SAVING, EVALUATION)
NUM_SECONDS = 1 + len(ACTIVITIES)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SIZES = (256, 512, 1024, 2048, 4096)
MEASURING_SECONDS, TRIES = 0.25, 5
Now = Callable[[], float]


class StepClock:
    """A rank's seconds since the last reading: all, and those of each activity.

    On a GPU, generation is the time between two events in the device's queue. They are read when the clock is read, so no
    step waits for the device. All else is the host's time. On a CPU no second counts twice; on a GPU the device may
    generate while the host waits for rows.
    """

    def __init__(self, device: torch.device, now: Now = time.perf_counter) -> None:
        self._device, self._now = device, now
        self._seconds = dict.fromkeys(ACTIVITIES, 0.0)
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._started = now()

    @contextmanager
    def during(self, activity: str) -> Iterator[None]:
        """Count the block's time as `activity`. Waits first for what steps left in a GPU's queue: for rare ones only."""
        _wait_for(self._device)
        started = self._now()
        try:
            yield
        finally:
            self._seconds[activity] += self._now() - started

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Count the block's time on the device as generation."""
        if self._device.type != "cuda":
            with self.during(GENERATION):
                yield
            return
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        try:
            yield
        finally:
            last.record()
            self._events.append((first, last))

    def waiting(self, items: Iterable[T]) -> Iterator[T]:
        """The same items. The time until each one is there counts as loading."""
        iterator = iter(items)
        while True:
            started = self._now()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._seconds[LOADING] += self._now() - started
            yield item

    def read(self) -> np.ndarray:
        """Seconds since the last reading, fp64 [NUM_SECONDS]: all, then those of ACTIVITIES. Starts anew."""
        _wait_for(self._device)
        self._seconds[GENERATION] += sum(first.elapsed_time(last) for first, last in self._events) / 1000
        now = self._now()
        seconds = np.array([now - self._started, *self._seconds.values()])
        self._started, self._seconds = now, dict.fromkeys(ACTIVITIES, 0.0)
        self._events.clear()
        return seconds


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class RunCosts:
    """What the steps of a run cost: its model, its rows, and `peak`, the FLOP/s of all its devices together."""

    model: ModelConfig
    sequence_length: int
    rows_per_step: int
    peak: float

    def numbers(
        self, seconds: np.ndarray, tokens: Sequence[int], pairs: float, predicted: Mapping[str, float]
    ) -> dict[str, float]:
        """The numbers of a metrics line about some steps.

        `seconds` [ranks, NUM_SECONDS]: what each rank's clock read. `tokens`: real tokens of each step. `pairs`: those of
        query and key that the attention rule allows, in all steps. `predicted`: head -> predicted positions, in all steps.

        tokens_per_second  real tokens (all but padding) of all ranks, a second of rank 0's time outside of saving and
                           evaluation
        mfu                FLOPs of real tokens in the same time, as a share of the peak: 6 N a token, 12 L D a pair that
                           the attention rule lets one read (documents, not whole rows), its head's a prediction.
                           Generation is overhead, as recomputed activations are: it adds none.
        padding_share      of the steps' positions
        time_share/...     an activity's share of all the time, mean of the ranks
        slowest_loading    the share of the rank that waited longest for its rows: all others wait for it
        """
        num_real = sum(tokens)
        outside = sum(seconds[0, 1 + ACTIVITIES.index(name)] for name in OUTSIDE_STEPS)
        in_steps = max(float(seconds[0, 0] - outside), 1e-9)
        shares = seconds[:, 1:] / np.maximum(seconds[:, :1], 1e-9)
        flops = needed_flops(self.model, num_real, pairs, predicted)
        return {
            "tokens_per_second": num_real / in_steps,
            "mfu": flops / (in_steps * self.peak),
            "padding_share": 1 - num_real / (len(tokens) * self.rows_per_step * self.sequence_length),
            **{f"{TIME_SHARE}{name}": float(share) for name, share in zip(ACTIVITIES, shares.mean(0), strict=True)},
            "slowest_loading": float(shares[:, ACTIVITIES.index(LOADING)].max()),
        }


class Meter:
    """A rank's clock and the run's costs; `numbers` puts the seconds of all ranks together."""

    def __init__(self, costs: RunCosts, ranks: Ranks) -> None:
        self.clock, self._costs, self._ranks = StepClock(ranks.device), costs, ranks

    @classmethod
    def of(cls, config: TrainingConfig, model: ModelConfig, precision: str, ranks: Ranks) -> Meter:
        """For a run of `config` with the resolved `model`; rank 0 prints the peak that it takes. A collective."""
        ranks.barrier()  # ranks that share a machine measure its peak together
        peak, choice = matmul_peak(ranks.device, precision, config.output.peak_tflops)
        if ranks.is_first:
            print(choice, flush=True)
        total = float(ranks.host_sum(np.array([peak]))[0])
        return cls(RunCosts(model, config.data.sequence_length, config.batch.rows_per_step, total), ranks)

    def numbers(self, tokens: Sequence[int], pairs: float, predicted: Mapping[str, float]) -> dict[str, float]:
        """RunCosts.numbers of the steps since the last call, over all ranks. A collective."""
        seconds = np.zeros((self._ranks.world_size, NUM_SECONDS))
        seconds[self._ranks.rank] = self.clock.read()
        return self._costs.numbers(self._ranks.host_sum(seconds), tokens, pairs, predicted)


def matmul_peak(device: torch.device, precision: str, tflops: float | None) -> tuple[float, Choice]:
    """FLOP/s that matrix products reach on `device` in `precision`, with the reason.

    `tflops` when given, else the board's data sheet, else a short measurement.
    """
    if tflops is not None:
        return tflops * 1e12, _choice(tflops * 1e12, "asked for")
    board = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    if board is not None and (known := peak_of_board(board, precision)) is not None:
        return known, _choice(known, f"data sheet of {board}, {precision}")
    measured, size = measured_peak(device, DTYPES[precision])
    where = board or f"CPU with {torch.get_num_threads()} threads"
    return measured, _choice(measured, f"products of {size} x {size} in {precision}, measured on this {where}")


def _choice(peak: float, reason: str) -> Choice:
    return Choice("matmul peak of a rank, for MFU", f"{peak / 1e12:.3g} TFLOP/s", reason)


def measured_peak(device: torch.device, dtype: torch.dtype, now: Now = time.perf_counter) -> tuple[float, int]:
    """Best FLOP/s of square products, and the largest size tried. Takes MEASURING_SECONDS at most, on a GPU after warm-up.

    Larger products come closer to the peak, so the size doubles while time is left. torch's own random generator is not
    used.
    """
    generator = torch.Generator(device).manual_seed(0)

    def seconds_of(size: int) -> float:
        factor = torch.rand(size, size, generator=generator, device=device).to(dtype)
        best = float("inf")
        for _ in range(TRIES):  # the first warms up
            _wait_for(device)
            begun = now()
            torch.mm(factor, factor.t())
            _wait_for(device)
            best = min(best, now() - begun)
        return max(best, 1e-9)

    seconds_of(SIZES[0])  # libraries are loaded with the first product
    ends, peak, size = now() + MEASURING_SECONDS, 0.0, 0
    for size in SIZES:
        seconds = seconds_of(size)
        peak = max(peak, 2 * size**3 / seconds)
        if now() + 8 * TRIES * seconds > ends:
            break
    return peak, size
