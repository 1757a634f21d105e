"""The work of a step: FLOPs of a rank's share, and bytes that the optimizer and ZeRO move.

ernie_m.planning.step turns a micro-batch's work into seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ernie_m.base.devices import Device
from ernie_m.models.flops import behind_attention, head_flops, trunk_flops
from ernie_m.models.shape import SMALLEST_FLEX_HEAD, ModelConfig
from ernie_m.planning.memory import MAX_LOGITS, MicroBatch
from ernie_m.rows.corruption import CORRUPTIONS, CorruptionConfig
from ernie_m.rows.objective import CORRUPTED, LINKED, NEXT, Objective
from ernie_m.rows.objectives import OBJECTIVES

REACHED = 0.8
"""Share of a link's or a memory's nominal bandwidth that long transfers reach."""


def has_flex(model: ModelConfig, device: Device) -> bool:
    """Whether a job of this model on this device will attend by FlexAttention (see choose_attention)."""
    asked = model.attention in ("auto", "flex") and not model.attention_dropout
    return device.has_flex and asked and model.head_size >= SMALLEST_FLEX_HEAD


def predicted_share(rows: Mapping[str, float], corruption: CorruptionConfig) -> float:
    """Predicted tokens per position of a full row, over a mix of objectives (name -> share of rows)."""
    return sum(share * _asked_share(OBJECTIVES[name], corruption) for name, share in rows.items()) / sum(rows.values())


def _asked_share(objective: Objective, corruption: CorruptionConfig) -> float:
    """Of one objective, over the vocabulary. Of sentences a row has too few to count; each masked token may have a link."""
    m = corruption.mask_rate
    corrupted = m / (1 + m) if CORRUPTIONS[objective.corruption].appends else m  # appended masks are positions of their own
    shares = {CORRUPTED: corrupted, LINKED: corrupted, NEXT: len(objective.causal) / objective.num_sentences}
    return sum(shares.get(prediction.asked, 0.0) for prediction in objective.predictions)


def largest_micro_batch(rows: int, length: int, mix: Mapping[str, float], corruption: CorruptionConfig) -> MicroBatch:
    """Upper bounds for `rows` rows of a rank: as if all were of the objective that predicts most, and all of BTMLM.

    Rows of a step are ordered by objective, so a micro-batch can hold rows of one objective only.
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
