"""Devices: memory, peak FLOP/s and links from their data sheets, and the shares of the peak that trainings reach.

Peaks are those of dense matrices, without sparsity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ernie_m.base.console import InputError

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """One rank's device. `memory`: bytes that it shows; `peaks`: precision -> FLOP/s; `link`, `network`: bytes/s.

    `link` is the speed between ranks of one host. `network` is the speed between hosts, for all ranks of a host together.
    `efficiency` and `attention`: the share of the peak that matrix products and attention reach on many rows.
    """

    name: str
    memory: float
    peaks: Mapping[str, float]
    bandwidth: float
    link: float
    network: float
    efficiency: float
    attention: float
    source: str
    half: str = "bf16"
    has_flex: bool = True

    @property
    def on_gpu(self) -> bool:
        return self.name != "cpu"

    @property
    def usable(self) -> float:
        """Bytes for the training: on a GPU the CUDA context, NCCL and cuBLAS take 1.5 GiB, fragmentation 4 %."""
        return self.memory * 0.96 - 1.5 * GIB if self.on_gpu else self.memory * 0.8


def _gpu(
    name: str, gib: float, tflops: Mapping[str, float], tb: float, link: float, network: float, *rest: object
) -> Device:
    peaks = {precision: value * 1e12 for precision, value in tflops.items()}
    return Device(name, gib * GIB, peaks, tb * 1e12, link * 1e9, network * 1e9 / 8, *rest)  # type: ignore[arg-type]


DEVICES = {
    device.name: device
    for device in (
        _gpu("V100-32GB", 31.7, {"fp16": 125, "fp32": 15.7}, 0.9, 150, 100, 0.72, 0.172,
             "55 TFLOP/s in all; DeepSpeed's fastest BERT-large, length 512, reached 53", "fp16", False),
        _gpu("A100-80GB", 79.1, {"bf16": 312, "fp16": 312, "fp32": 19.5}, 2.0, 300, 800, 0.77, 0.306,
             "157 TFLOP/s in all; Megatron-LM (arXiv 2104.04473) reached 137 with 1.7 B parameters"),
        _gpu("H100", 79.1, {"bf16": 989, "fp16": 989, "fp32": 67}, 3.35, 450, 3200, 0.66, 0.172,
             "35 % of the peak in all; a 760 M GPT at length 512 reached 40 %"),
        _gpu("H200", 139.8, {"bf16": 989, "fp16": 989, "fp32": 67}, 4.8, 450, 3200, 0.66, 0.172,
             "as an H100; an 8192^3 product measured 770-800 of 989 TFLOP/s"),
        Device("cpu", 16 * GIB, {"fp32": 0.175e12, "bf16": 0.7e12}, 20e9, 5e9, 1.25e9, 0.7, 0.35,
               "two cores with AVX-512, measured peak; one layer reaches 90 % of it", "fp32", False),
    )
}  # fmt: skip


def device_named(name: str) -> Device:
    """A device of the table; raises InputError with the known names for another one."""
    if name not in DEVICES:
        raise InputError(f"--gpu {name}: unknown; expected one of {', '.join(DEVICES)}")
    return DEVICES[name]


BOARDS = {
    r"V100-SXM2-\d+GB$": "V100-32GB",
    r"\bA100\b(?!.*MIG)": "A100-80GB",
    r"\bH100 80GB HBM3$": "H100",
    r"\bH200$": "H200",
}
"""What torch calls the boards whose data sheet the table has; others of the family (PCIe, NVL, MIG slices) reach less."""


def peak_of_board(board: str, precision: str) -> float | None:
    """FLOP/s of a GPU by the name that torch gives it ("NVIDIA H100 80GB HBM3"); None where the table does not know it."""
    names = (name for pattern, name in BOARDS.items() if re.search(pattern, board))
    return DEVICES[name].peaks.get(precision) if (name := next(names, None)) else None
