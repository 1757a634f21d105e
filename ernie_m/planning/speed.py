"""How long a step takes: matrix products, the optimizer's traffic and communication, one after another (no overlap).

    step = hardware FLOPs of a rank / (peak x efficiency)
         + bytes that gradients and Adam move / (memory bandwidth x 0.8)
         + bytes that ZeRO sends / bandwidth of the link x 0.8

Peaks are the vendors' data sheets, dense, without sparsity. Efficiencies are what others reached with encoders of this
size, all small operations included: they are anchors, not promises of this code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ernie_m.console import InputError
from ernie_m.objectives import INSERT, OBJECTIVES, CorruptionConfig
from ernie_m.planning.memory import MAX_LOGITS, MicroBatch

if TYPE_CHECKING:
    from ernie_m.model import ModelConfig

GIB = 2**30
REACHED = 0.8
"""Share of a link's or a memory's nominal bandwidth that long transfers reach."""


@dataclass(frozen=True)
class Device:
    """One rank's device. `memory`: bytes that it shows; `peaks`: precision -> FLOP/s; `link`, `network`: bytes/s.

    `link` is what a rank sends to others of its host, `network` what a host sends to others, all its ranks together.
    """

    name: str
    memory: float
    peaks: Mapping[str, float]
    bandwidth: float
    link: float
    network: float
    efficiency: float
    source: str
    half: str = "bf16"
    has_flex: bool = True

    @property
    def on_gpu(self) -> bool:
        return self.name != "cpu"

    @property
    def usable(self) -> float:
        """Bytes for the training: a GPU's less the CUDA context, NCCL and cuBLAS (1.5 GiB) and 4 % lost to fragments."""
        return self.memory * 0.96 - 1.5 * GIB if self.on_gpu else self.memory * 0.8


def _gpu(
    name: str, gib: float, tflops: Mapping[str, float], tb: float, link: float, network: float, *rest: object
) -> Device:
    peaks = {precision: value * 1e12 for precision, value in tflops.items()}
    return Device(name, gib * GIB, peaks, tb * 1e12, link * 1e9, network * 1e9 / 8, *rest)  # type: ignore[arg-type]


DEVICES = {
    device.name: device
    for device in (
        _gpu("V100-32GB", 31.7, {"fp16": 125, "fp32": 15.7}, 0.9, 150, 100, 0.42,
             "DeepSpeed's fastest BERT-large, length 512: 53 of 125 TFLOP/s", "fp16", False),
        _gpu("A100-80GB", 79.1, {"bf16": 312, "fp16": 312, "fp32": 19.5}, 2.0, 300, 800, 0.44,
             "Megatron-LM (arXiv 2104.04473), 1.7 B parameters: 137 of 312 TFLOP/s"),
        _gpu("H100", 79.1, {"bf16": 989, "fp16": 989, "fp32": 67}, 3.35, 450, 3200, 0.40,
             "a 760 M GPT at length 512, bf16: MFU 40 %"),
        _gpu("H200", 139.8, {"bf16": 989, "fp16": 989, "fp32": 67}, 4.8, 450, 3200, 0.40,
             "as an H100; an 8192^3 product measured 770-800 of 989 TFLOP/s"),
        Device("cpu", 16 * GIB, {"fp32": 0.175e12, "bf16": 0.7e12}, 20e9, 5e9, 1.25e9, 0.7,
               "two cores with AVX-512, measured peak; one layer reaches 90 % of it", "fp32", False),
    )
}  # fmt: skip


def device_named(name: str) -> Device:
    """A device of the table; raises InputError naming those there are."""
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


def trunk_flops(model: ModelConfig, sequence_length: int) -> float:
    """FLOPs of a token, forward and backward, through all layers: 6 N + 12 L D S, N their matrices' weights."""
    D, L = model.hidden_size, model.num_layers
    return 6.0 * L * (4 * D * D + 2 * D * model.ffn_size) + 12.0 * L * D * sequence_length


def head_flops(model: ModelConfig) -> float:
    """FLOPs of a *predicted* token, forward and backward, through the head: 6 (V D + D^2)."""
    return 6.0 * (model.vocab * model.hidden_size + model.hidden_size**2)


def needed_flops(model: ModelConfig, sequence_length: int, tokens: float, predicted: float) -> float:
    """FLOPs that useful tokens in rows of `sequence_length` need, forward and backward: no padding, nothing twice."""
    return tokens * trunk_flops(model, sequence_length) + predicted * head_flops(model)


def predicted_share(rows: Mapping[str, float], corruption: CorruptionConfig) -> float:
    """Predicted positions per position of a full row, over a mix of objectives (name -> share of rows)."""
    m = corruption.mask_rate
    inserted = m / (1 + m)  # the masks are positions of their own
    by_name = {name: (inserted if objective.corruption == INSERT else m) for name, objective in OBJECTIVES.items()}
    return sum(share * by_name[name] for name, share in rows.items()) / sum(rows.values())


def largest_micro_batch(rows: int, length: int, mix: Mapping[str, float], corruption: CorruptionConfig) -> MicroBatch:
    """Bounds for `rows` rows of a rank: all of the objective that predicts most, and BTMLM in all where the mix has it.

    Micro-batches are dealt objective by objective, so a rank does meet rows of one kind only.
    """
    most = max(predicted_share({name: 1.0}, corruption) for name in mix)
    generating = rows if any(OBJECTIVES[name].is_pseudo_parallel for name in mix) else 0
    pseudo = corruption.pseudo_token_share / (1 + corruption.pseudo_token_share)
    return MicroBatch(rows, length, most * rows * length, generating, generating * length * pseudo)


@dataclass(frozen=True)
class Work:
    """One rank's share of a step: rows x positions in `micro_batches`, of which a share is predicted."""

    tokens: float
    sequence_length: int
    predicted_share: float
    generating_share: float
    pseudo_token_share: float
    micro_batches: int


def hardware_flops(model: ModelConfig, work: Work) -> float:
    """Those that it does: also what checkpointing and chunked logits compute again, and BTMLM's generation (a forward); not
    what the last layer leaves out behind its attention, where predicted positions (or placeholders) alone go on.
    """
    trunk, head, left_out = trunk_flops(model, work.sequence_length), head_flops(model), _behind_attention(model)
    trained = trunk - (1 - work.predicted_share) * left_out
    generated = work.generating_share * (trunk - (1 - work.pseudo_token_share) * left_out + work.pseudo_token_share * head)
    recomputed = trained if model.activation_checkpointing else 0.0
    if work.tokens * work.predicted_share / work.micro_batches > MAX_LOGITS // model.vocab:
        recomputed += work.predicted_share * head
    return work.tokens * (trained + work.predicted_share * head + (recomputed + generated) / 3)


def _behind_attention(model: ModelConfig) -> float:
    """FLOPs of a token, forward and backward, in one layer's output projection and feed-forward."""
    return 6.0 * model.hidden_size * (model.hidden_size + 2 * model.ffn_size)


def sent_bytes(num_parameters: int, num_ranks: int, zero_stage: int, width: int, micro_batches: int) -> float:
    """Bytes that each rank sends in a step (rings: all-reduce 2 (W-1)/W of the data, gather and scatter half of it).

    0  all-reduce of the gradient, once          1  the same (DeepSpeed's buckets), then gather the weights
    2  as 1, but reduced in every micro-batch    3  scatter the gradient, gather the weights twice, in every micro-batch
    """
    once = width * num_parameters * (num_ranks - 1) / num_ranks
    return once * {0: 2, 1: 3, 2: 2 * micro_batches + 1, 3: 3 * micro_batches}[zero_stage]


def communication_seconds(volume: float, device: Device, num_ranks: int, num_hosts: int) -> float:
    """Time to send `volume` bytes a rank: over the hosts' network where there are several, else inside the host."""
    if num_ranks == 1:
        return 0.0
    return volume / (REACHED * (device.network if num_hosts > 1 else device.link))


def optimizer_seconds(
    num_parameters: int, num_ranks: int, zero_stage: int, width: int, micro_batches: int, device: Device
) -> float:
    """Time of memory traffic: each micro-batch reads and writes gradients (3 w a weight), Adam its share (2 x 28 bytes)."""
    share = num_parameters / num_ranks if zero_stage else num_parameters
    moved = 3 * width * num_parameters * micro_batches + 56 * share
    return moved / (REACHED * device.bandwidth)
