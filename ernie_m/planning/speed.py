"""What there is to do in a step, and devices to do it with: FLOPs, bytes that the optimizer and ZeRO move.

ernie_m.planning.step turns a micro-batch's work into seconds. Peaks are the vendors' data sheets, dense, without sparsity.
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
    `efficiency` and `attention`: shares of the peak that products of matrices and attention's reach on many rows.
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


def has_flex(model: ModelConfig, device: Device) -> bool:
    """Whether a job of this model on this device will attend by FlexAttention (ernie_m.attention.choose_attention)."""
    return device.has_flex and model.attention in ("auto", "flex") and not model.attention_dropout


def matrix_weights(model: ModelConfig) -> float:
    """N: weights of the layers' matrices."""
    return float(model.num_layers * (4 * model.hidden_size**2 + 2 * model.hidden_size * model.ffn_size))


def trunk_flops(model: ModelConfig, keys: float) -> float:
    """FLOPs of a token that reads so many keys, forward and backward, through all layers: 6 N + 12 L D keys."""
    return 6.0 * matrix_weights(model) + 12.0 * model.num_layers * model.hidden_size * keys


def head_flops(model: ModelConfig) -> float:
    """FLOPs of a *predicted* token, forward and backward, through the head: 6 (V D + D^2)."""
    return 6.0 * (model.vocab * model.hidden_size + model.hidden_size**2)


def needed_flops(model: ModelConfig, tokens: float, pairs: float, predicted: float) -> float:
    """FLOPs that useful tokens need, forward and backward: no padding, nothing twice, of attention the pairs that are read
    (ernie_m.read_pairs), not whole rows."""
    attention = pairs * 12.0 * model.num_layers * model.hidden_size
    return tokens * trunk_flops(model, 0) + attention + predicted * head_flops(model)


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
    """Those of dense rows: also what checkpointing and chunked logits compute again, and BTMLM's generation (a forward); not
    what the last layer leaves out behind its attention, where predicted positions (or placeholders) alone go on. Attention
    counts over whole rows, whatever its backend skips.
    """
    trunk, head, left_out = trunk_flops(model, work.sequence_length), head_flops(model), behind_attention(model)
    trained = trunk - (1 - work.predicted_share) * left_out
    generated = work.generating_share * (trunk - (1 - work.pseudo_token_share) * left_out + work.pseudo_token_share * head)
    recomputed = trained if model.activation_checkpointing else 0.0
    if work.tokens * work.predicted_share / work.micro_batches > MAX_LOGITS // model.vocab:
        recomputed += work.predicted_share * head
    return work.tokens * (trained + work.predicted_share * head + (recomputed + generated) / 3)


def behind_attention(model: ModelConfig) -> float:
    """FLOPs of a token, forward and backward, in one layer's output projection and feed-forward."""
    return 6.0 * model.hidden_size * (model.hidden_size + 2 * model.ffn_size)


def sent_bytes(
    num_parameters: int, num_ranks: int, zero_stage: int, width: int, micro_batches: int, reduced_width: int | None = None
) -> float:
    """Bytes that each rank sends in a step (rings: all-reduce 2 (W-1)/W of the data, gather and scatter half of it).

    0  all-reduce of the gradient, once          1  the same (DeepSpeed's buckets), then gather the weights
    2  as 1, but reduced in every micro-batch    3  scatter the gradient, gather the weights twice, in every micro-batch

    Weights travel with `width` bytes a number, gradients with `reduced_width` (the same where it is not given).
    """
    w, r, m = width, reduced_width or width, micro_batches
    return {0: 2 * r, 1: 2 * r + w, 2: 2 * r * m + w, 3: (r + 2 * w) * m}[zero_stage] * (
        num_parameters * (num_ranks - 1) / num_ranks
    )


def communication_seconds(volume: float, device: Device, num_ranks: int, num_hosts: int) -> float:
    """Time to send `volume` bytes a rank: over the hosts' network where there are several, else inside the host."""
    if num_ranks == 1:
        return 0.0
    return volume / (REACHED * (device.network if num_hosts > 1 else device.link))


def optimizer_seconds(
    num_parameters: int, num_ranks: int, zero_stage: int, width: int, sum_width: int, micro_batches: int, device: Device
) -> float:
    """Time of memory traffic: each micro-batch reads a gradient (w bytes a weight) and reads and writes their sum, Adam
    moves its share of the state (2 x 28 bytes)."""
    share = num_parameters / num_ranks if zero_stage else num_parameters
    moved = (width + 2 * sum_width) * num_parameters * micro_batches + 56 * share
    return moved / (REACHED * device.bandwidth)
