"""Every second of a run has one place, and its useful FLOPs are counted as the formula says."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from ernie_m.base.console import InputError
from ernie_m.base.devices import DEVICES, peak_of_board
from ernie_m.models.shape import ModelConfig
from ernie_m.rows.objective import TOKEN
from ernie_m.runs.ranks import Ranks
from ernie_m.training import utilization
from ernie_m.training.recipe import OutputConfig
from ernie_m.training.utilization import (
    ACTIVITIES,
    EVALUATION,
    SAVING,
    Meter,
    RunCosts,
    StepClock,
    matmul_peak,
    measured_peak,
)

CPU = torch.device("cpu")
BASE = ModelConfig(vocab_size=250_002)


class Clock:
    """Stands still but when told."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time

    def pass_seconds(self, seconds: float) -> None:
        self.time += seconds


def slow_rows(clock: Clock, waits: list[float]) -> Iterator[int]:
    for number, wait in enumerate(waits):
        clock.pass_seconds(wait)
        yield number


def named(seconds: np.ndarray) -> dict[str, float]:
    return dict(zip(("all", *ACTIVITIES), seconds.tolist(), strict=True))


def test_every_second_is_counted_where_it_went_and_none_twice() -> None:
    now = Clock()
    clock = StepClock(CPU, now)
    for _ in clock.waiting(slow_rows(now, [3.0, 0.5])):
        with clock.generating():
            now.pass_seconds(2.0)
        now.pass_seconds(10.0)  # forward and backward
    with clock.during(EVALUATION):
        now.pass_seconds(7.0)
    for _ in range(2):
        with clock.during(SAVING):
            now.pass_seconds(1.25)
    seconds = named(clock.read())
    assert seconds == {"all": 37.0, "generation": 4.0, "loading": 3.5, "saving": 2.5, "evaluation": 7.0}


def test_a_reading_starts_anew() -> None:
    now = Clock()
    clock = StepClock(CPU, now)
    rows = clock.waiting(slow_rows(now, [1.0, 2.0]))
    next(rows)
    assert named(clock.read())["loading"] == 1.0
    next(rows)
    now.pass_seconds(4.0)
    assert named(clock.read()) == {"all": 6.0, "generation": 0.0, "loading": 2.0, "saving": 0.0, "evaluation": 0.0}
    assert clock.read().tolist() == [0.0] * 5


def test_what_is_broken_off_is_counted_and_the_error_goes_on() -> None:
    now = Clock()
    clock = StepClock(CPU, now)

    def broken() -> Iterator[int]:
        now.pass_seconds(3.0)
        raise KeyError("torn")
        yield 0

    def all_of(rows: Iterator[int], activity: AbstractContextManager[None]) -> None:
        with activity:
            list(rows)

    for activity in (clock.generating(), clock.during(SAVING)):
        with pytest.raises(KeyError, match="torn"):
            all_of(broken(), activity)
    with pytest.raises(KeyError, match="torn"):
        next(clock.waiting(broken()))
    assert named(clock.read()) == {"all": 9.0, "generation": 3.0, "loading": 3.0, "saving": 3.0, "evaluation": 0.0}


def test_all_items_come_in_order_and_then_no_more() -> None:
    assert list(StepClock(CPU).waiting(range(5))) == [0, 1, 2, 3, 4]


def seconds_of(*ranks: dict[str, float]) -> np.ndarray:
    return np.array([[rank.get(name, 0.0) for name in ("all", *ACTIVITIES)] for rank in ranks])


def test_useful_flops_are_those_of_the_formula() -> None:
    """Base: 6 N a token, 12 L D a pair that is read, 6 (V D + D^2) a predicted token, written out."""
    costs = RunCosts(BASE, 512, rows_per_step=4, peak=1e12)
    numbers = costs.numbers(seconds_of({"all": 8.0, "generation": 3.0}), [1000, 900], 60_000, {TOKEN: 250})
    N = 12 * (4 * 768 * 768 + 2 * 768 * 3072)
    flops = 1900 * 6 * N + 60_000 * 12 * 12 * 768 + 250 * 6 * (250_002 * 768 + 768 * 768)
    assert numbers["mfu"] == pytest.approx(flops / 8.0 / 1e12, rel=1e-12)
    assert numbers["tokens_per_second"] == 1900 / 8.0
    assert numbers["padding_share"] == pytest.approx(1 - 1900 / (2 * 4 * 512), rel=1e-12)


def test_generation_is_time_and_no_useful_work_and_saving_and_evaluation_are_no_time_of_steps() -> None:
    costs = RunCosts(BASE, 512, rows_per_step=4, peak=1e12)
    spent = {"all": 10.0, "generation": 2.0, "loading": 1.0}
    plain = costs.numbers(seconds_of(spent), [2000], 10**6, {TOKEN: 300})
    paused = costs.numbers(seconds_of(spent | {"all": 16.0, "saving": 2.0, "evaluation": 4.0}), [2000], 10**6, {TOKEN: 300})
    for key in ("tokens_per_second", "mfu", "padding_share"):
        assert paused[key] == pytest.approx(plain[key], rel=1e-12)
    longer = costs.numbers(seconds_of(spent | {"all": 15.0, "generation": 7.0}), [2000], 10**6, {TOKEN: 300})
    assert longer["mfu"] == pytest.approx(plain["mfu"] * 10 / 15, rel=1e-12)
    shares = [paused[f"time_share/{name}"] for name in ACTIVITIES]
    assert shares == pytest.approx([2 / 16, 1 / 16, 2 / 16, 4 / 16])


def test_shares_are_means_of_ranks_and_the_slowest_loader_shows() -> None:
    costs = RunCosts(BASE, 512, rows_per_step=4, peak=1e12)
    ranks = [{"all": 10.0, "loading": 0.0, "saving": 1.0}, {"all": 20.0, "loading": 12.0, "saving": 2.0}]
    numbers = costs.numbers(seconds_of(*ranks), [2000], 10**6, {TOKEN: 300})
    assert numbers["time_share/loading"] == pytest.approx(0.3)
    assert numbers["time_share/saving"] == pytest.approx(0.1)
    assert numbers["slowest_loading"] == pytest.approx(0.6)
    assert numbers["tokens_per_second"] == pytest.approx(2000 / 9), "rank 0's time"


def test_no_time_at_all_divides_by_nothing() -> None:
    numbers = RunCosts(BASE, 512, 4, 1e12).numbers(np.zeros((1, 5)), [2048], 10**6, {TOKEN: 300})
    assert all(np.isfinite(value) for value in numbers.values())
    assert numbers["padding_share"] == 0


def two_ranks_numbers(rank: int, folder: Path) -> None:
    """One of two ranks: 10 and 20 seconds, of which it saves 1 and 8."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/gloo", rank=rank, world_size=2)
    meter, now = Meter(RunCosts(BASE, 512, 4, 1e12), Ranks()), Clock()
    meter.clock = StepClock(CPU, now)
    with meter.clock.during(SAVING):
        now.pass_seconds((1.0, 8.0)[rank])
    now.pass_seconds((9.0, 12.0)[rank])
    (folder / f"{rank}.json").write_text(json.dumps(meter.numbers([900], 10_000, {TOKEN: 100})))


def test_two_ranks_say_the_same_of_both(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=two_ranks_numbers, args=(rank, tmp_path)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
        process.kill()
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["time_share/saving"] == pytest.approx((1 / 10 + 8 / 20) / 2)
    assert first["tokens_per_second"] == pytest.approx(900 / 9), "rank 0's time"


@pytest.mark.parametrize(
    ("board", "row"),
    [
        ("Tesla V100-SXM2-32GB", "V100-32GB"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100-PCIE-40GB", "A100-80GB"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
    ],
)
def test_boards_have_the_peaks_of_their_data_sheet(board: str, row: str) -> None:
    for precision in ("fp32", "bf16", "fp16"):
        assert peak_of_board(board, precision) == DEVICES[row].peaks.get(precision)
    assert peak_of_board(board, "fp16")


@pytest.mark.parametrize(
    "board",
    [
        "Tesla V100-PCIE-32GB",
        "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
        "NVIDIA H100 PCIe",
        "NVIDIA H100 NVL",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA H200 NVL",
        "NVIDIA GH200 480GB",
        "NVIDIA GeForce RTX 4090",
        "cpu",
    ],
)
def test_a_board_with_another_data_sheet_is_not_taken_for_its_relative(board: str) -> None:
    assert peak_of_board(board, "fp16") is None


def test_the_peak_is_the_one_asked_for_or_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    peak, choice = matmul_peak(CPU, "fp32", 1.5)
    assert peak == 1.5e12
    assert "1.5 TFLOP/s (asked for)" in str(choice)
    monkeypatch.setattr(utilization, "measured_peak", lambda device, dtype: (0.25e12, 1024))
    peak, choice = matmul_peak(CPU, "bf16", None)
    assert peak == 0.25e12
    assert "0.25 TFLOP/s (products of 1024 x 1024 in bf16, measured on this CPU with" in str(choice)


@pytest.mark.parametrize("tflops", [0, -1.0])
def test_a_peak_that_cannot_be_is_refused(tflops: float) -> None:
    with pytest.raises(InputError, match=r"peak_tflops: .*expected a number above 0, up to"):
        OutputConfig(peak_tflops=tflops)


def test_a_measured_peak_is_of_real_products_and_draws_nothing_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock goes on by 10 ms a product: larger ones come out faster, until the time is used up."""
    now, product, sizes = Clock(), torch.mm, []

    def timed_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        now.pass_seconds(0.010)
        sizes.append(a.shape[0])
        assert a.dtype == b.dtype == torch.bfloat16
        return product(a, b)

    monkeypatch.setattr(torch, "mm", timed_product)
    before = torch.get_rng_state()
    peak, size = measured_peak(CPU, torch.bfloat16, now)
    assert torch.equal(torch.get_rng_state(), before)
    assert size == max(sizes) == 256, "five products of 512 could take 400 ms"
    assert peak == pytest.approx(2 * 256**3 / 0.010)

    sizes.clear()
    monkeypatch.setattr(utilization, "MEASURING_SECONDS", 0.52)
    peak, size = measured_peak(CPU, torch.bfloat16, now)
    assert size == max(sizes) == 1024
    assert peak == pytest.approx(2 * 1024**3 / 0.010)
    assert len(sizes) == 5 * 4, "a warm-up, then three sizes"


def test_the_costs_follows_the_model() -> None:
    """Twice the layers, twice the trunk; the head stays."""
    seconds = seconds_of({"all": 1.0})
    small, deep = (RunCosts(replace(BASE, num_layers=n), 512, 4, 1e12) for n in (12, 24))
    trunk = [y.numbers(seconds, [1000], 80_000, {TOKEN: 0})["mfu"] for y in (small, deep)]
    head = [
        y.numbers(seconds, [1000], 80_000, {TOKEN: 100})["mfu"] - without
        for y, without in zip((small, deep), trunk, strict=True)
    ]
    assert trunk[1] == pytest.approx(2 * trunk[0])
    assert head[0] == pytest.approx(head[1])
