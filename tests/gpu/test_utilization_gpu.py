"""A GPU's own time in generation, told without waiting for it; and the peak of a board, measured."""

from __future__ import annotations

import time

import pytest
import torch

from ernie_m.base.devices import peak_of_board
from ernie_m.training.utilization import ACTIVITIES, StepClock, measured_peak

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


def test_generation_is_the_devices_time_and_nobody_waits_for_it() -> None:
    device = torch.device("cuda", 0)
    factor = torch.rand(8192, 8192, device=device)
    torch.mm(factor, factor)
    clock = StepClock(device)
    clock.read()
    begun = time.perf_counter()
    for _ in range(2):
        with clock.generating():
            for _ in range(10):
                torch.mm(factor, factor)
    queued = time.perf_counter() - begun
    seconds = dict(zip(("all", *ACTIVITIES), clock.read().tolist(), strict=True))
    assert queued < seconds["generation"] <= seconds["all"]
    assert seconds["generation"] > 0.8 * seconds["all"]
    assert clock.read()[1:].sum() == 0


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_measured_peak_is_near_what_the_data_sheet_says(precision: str) -> None:
    board = torch.cuda.get_device_name(0)
    known = peak_of_board(board, precision)
    if known is None:
        pytest.skip(f"the table has no {precision} of {board}")
    measured, _ = measured_peak(torch.device("cuda", 0), {"fp16": torch.float16, "bf16": torch.bfloat16}[precision])
    assert 0.4 * known < measured < 1.1 * known
