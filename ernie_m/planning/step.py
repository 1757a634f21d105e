"""Seconds of a step, kernel by kernel: a roofline for each kind of work of a micro-batch, then what comes once a step.

    products        FLOPs of the layers' matrices / (peak x efficiency)
    attention       FLOPs of the pairs that its backend computes / (peak x efficiency of attention)
    elementwise     bytes that norms, GELU and sums move / bandwidth, or the time to start so many small kernels
    head            FLOPs of the output matrix / (peak x efficiency), a third more if logits are computed again
    cross entropy   bytes of the passes over the logits / bandwidth
    output matrix   bytes that its gradient moves, for any number of rows / bandwidth

The constants come from an analysis of the kernels of `large` at 32 rows of 512 on V100, A100 and H100 (docs/log/speed.md).
The bytes are the same on all three. DEVICES names the published measurements that the sums agree with. No GPU has run this
code.

Few rows are slow because small kernels then take as long to start as to run, and each micro-batch moves the output
matrix's gradient and the sum of all gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ernie_m.base.devices import Device
from ernie_m.models import flops
from ernie_m.models.size import parameter_count
from ernie_m.planning import speed
from ernie_m.planning.memory import MAX_LOGITS
from ernie_m.planning.speed import REACHED, Work
from ernie_m.training.gradient_exchange import GradientExchange

if TYPE_CHECKING:
    from ernie_m.models.shape import ModelConfig

FLEX_BLOCKS = 0.62
"""Share of a row's pairs in the blocks of 128 x 128 that flex does not skip, for documents of 30 to 80 tokens."""
HIDDEN_NUMBERS = 14
"""Times that each of D + F numbers of a token and layer passes through memory, forward and backward."""
SMALL_KERNELS, START = 45, 10e-6
"""Kernels of a layer beside products and attention, forward and backward; seconds that eager torch takes to start one."""
LOGIT_BYTES = 70
"""Bytes that pass through memory for each logit: fp32 sums over slices, then the gradient in its place."""


@dataclass(frozen=True)
class Spread:
    """How a step is spread: ranks (each with `device`) on hosts, ZeRO stage, precision (numbers of `width` bytes)."""

    device: Device
    num_ranks: int
    num_hosts: int
    zero_stage: int
    precision: str
    width: int
    exchange: GradientExchange

    @property
    def sum_width(self) -> int:
        return 4 if self.exchange.sums.value == "fp32" else self.width

    @property
    def reduced_width(self) -> int:
        return 4 if self.exchange.reduction.value == "fp32" else self.width

    def sending_seconds(self, volume: float) -> float:
        return speed.communication_seconds(volume, self.device, self.num_ranks, self.num_hosts)


def micro_batch_seconds(model: ModelConfig, work: Work, device: Device, precision: str, width: int) -> dict[str, float]:
    """Seconds of each kind of work in one micro-batch: forward, backward, generation and recomputation."""
    T, D, L = work.tokens / work.micro_batches, model.hidden_size, model.num_layers
    p, q, g = work.predicted_share, work.pseudo_token_share, work.generating_share
    peak, bandwidth = device.peaks[precision], REACHED * device.bandwidth
    again = 4 / 3 if model.activation_checkpointing else 1.0  # a forward is a third
    matrices, left_out = 6 * flops.matrix_weights(model), flops.behind_attention(model)
    products = again * (matrices - (1 - p) * left_out) + g / 3 * (matrices - (1 - q) * left_out)
    skips = speed.has_flex(model, device)
    pairs = T * work.sequence_length * (FLEX_BLOCKS if skips else 1.0)
    chunks = -(-int(T * p) // max(1, MAX_LOGITS // model.vocab))
    head = p * (4 / 3 if chunks > 1 else 1) + g * q / 3
    summed = 18 * chunks if chunks > 1 else width  # of several chunks in fp32
    moved = HIDDEN_NUMBERS * width * L * T * (D + model.ffn_size) / bandwidth
    return {
        "products": T * products / (peak * device.efficiency),
        "attention": (again + g / 3) * 12 * L * D * pairs / (peak * device.attention),
        "elementwise": (again + g / 3) * max(moved, L * SMALL_KERNELS * START if device.on_gpu else 0.0),
        "head": T * head * flops.head_flops(model) / (peak * device.efficiency),
        "cross entropy": LOGIT_BYTES * T * (p + g * q / 3) * model.vocab / bandwidth,
        "output matrix": (summed + 4 * width) * model.vocab * D / bandwidth,
    }


def hidden_seconds(model: ModelConfig, num_parameters: int, spread: Spread, computing: float) -> float:
    """Communication that a step of one micro-batch does beside its backward (two thirds of the computing): gradients of all
    but the tied word embedding, which is ready last."""
    if not spread.exchange.overlaps:
        return 0.0
    early = num_parameters - model.vocab * model.hidden_size
    reduced = speed.sent_bytes(early, spread.num_ranks, 0, spread.reduced_width, 1)
    return min(spread.sending_seconds(reduced), computing * 2 / 3)


def step_seconds(model: ModelConfig, work: Work, spread: Spread) -> tuple[float, float, float]:
    """Seconds of a step: computing, optimizer, and communication that is not hidden behind computing."""
    P, m, device = parameter_count(model), work.micro_batches, spread.device
    computing = m * sum(micro_batch_seconds(model, work, device, spread.precision, spread.width).values())
    stage = spread.zero_stage
    optimizer = speed.optimizer_seconds(P, spread.num_ranks, stage, spread.width, spread.sum_width, m, device)
    volume = speed.sent_bytes(P, spread.num_ranks, stage, spread.width, m, spread.reduced_width)
    sending = spread.sending_seconds(volume) - hidden_seconds(model, P, spread, computing)
    return computing, optimizer, sending
