"""Bytes that one rank holds, part by part, at those moments of a step when memory use is highest.

1. What is always there (`standing`): weights, fp32 master weights, Adam's moments, DeepSpeed's bucket.
2. What a micro-batch adds: saved activations (`activation_bytes`), logits of one chunk (`logit_bytes`), gradients.
3. `moments` adds them up at BTMLM's generation, the head's backward, the last layer's backward, the embedding's backward
   and the optimizer's step; `peak` is the largest of these sums.

The formulas follow what the model, the loss and DeepSpeed 0.19 allocate (each names its source) and are tested against
allocations measured on CPU: tests/integration/test_planning_memory.py.

Legend: T tokens of a micro-batch, N its predicted positions, D hidden, F feed-forward, V vocabulary, P parameters,
W ranks, w bytes of a number in the training precision (fp32 4, bf16 and fp16 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ernie_m.models.size import parameter_count
from ernie_m.training.gradient_exchange import BUCKET_ELEMENTS

if TYPE_CHECKING:  # planning needs no torch, which these import
    from ernie_m.models.shape import ModelConfig

PARTS = ("weights", "optimizer", "gradients", "buckets", "activations", "logits", "temporary")
Memory = dict[str, float]
"""Bytes of each of PARTS."""

MOMENTS = ("update", "generation", "head", "last layer", "embedding")
"""When a rank may hold most."""
MAX_LOGITS = 1 << 28
"""Logits of a chunk of the head: ernie_m.models.loss.MAX_LOGITS (a test keeps them equal)."""
MAX_GENERATED = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Logits that generation makes at a time: ernie_m.models.loss.logits_at_a_time (a test keeps them equal)."""
LIVE_PARAMETERS = 10**9
"""ZeRO-3 keeps up to so many gathered weights (stage3_max_live_parameters and stage3_max_reuse_distance)."""


@dataclass(frozen=True)
class Sharding:
    """How the training state is spread: ranks, ZeRO stage, bytes w of a number, elements of DeepSpeed's bucket.

    `sum_width`: bytes of a number in the sum of the micro-batches' gradients (0: w). `overlaps`: gradients are sent during
    the backward, from two buckets. `reduces_wider`: they are sent as fp32, from memory beside the bucket.
    """

    num_ranks: int
    zero_stage: int
    width: int
    bucket_elements: int = BUCKET_ELEMENTS
    on_gpu: bool = True
    sum_width: int = 0
    overlaps: bool = False
    reduces_wider: bool = False

    @property
    def sums(self) -> int:
        return self.sum_width or self.width

    @property
    def bucket_bytes(self) -> float:
        """Bytes of each backward: with contiguous_gradients a whole bucket is allocated."""
        once = self.width * (1 + self.overlaps) + 4 * self.reduces_wider
        return float(once * self.bucket_elements) if self.zero_stage else 0.0


@dataclass(frozen=True)
class MicroBatch:
    """What one rank processes at a time: `rows` of `sequence_length` positions, `predicted` of which are predicted in all.

    `generating_rows` of them hold `placeholders` placeholders in all (BTMLM). `accumulates`: the step has several
    micro-batches.
    """

    rows: int
    sequence_length: int
    predicted: float
    generating_rows: float = 0
    placeholders: float = 0
    accumulates: bool = True

    @property
    def tokens(self) -> int:
        return self.rows * self.sequence_length


def total(memory: Memory) -> float:
    """Bytes in all."""
    return sum(memory.values())


def peak(model: ModelConfig, sharding: Sharding, batch: MicroBatch, sdpa: bool = True) -> tuple[str, Memory]:
    """The moment at which the sum of the parts is largest, and the parts then."""
    return max(moments(model, sharding, batch, sdpa), key=lambda moment: total(moment[1]))


def standing(num_parameters: int, sharding: Sharding) -> Memory:
    """What a rank holds between steps (ZeRO, arXiv 1910.02054, figure 1), and the bucket of each backward.

    Stages 1-3 keep an fp32 copy of this rank's share of the weights even in fp32; stage 0 does so in half precision only.
    """
    P, w, stage = num_parameters, sharding.width, sharding.zero_stage
    share = P / sharding.num_ranks if stage else P
    return {
        "weights": float(w * (share if stage == 3 else P)),
        "optimizer": float((12 if stage or w < 4 else 8) * share),
        "buckets": sharding.bucket_bytes,
    }


def activation_bytes(model: ModelConfig, batch: MicroBatch, width: int, sdpa: bool, on_gpu: bool) -> tuple[float, float]:
    """(bytes that all layers save for the backward, bytes held in addition while a layer is recomputed).

    What one layer saves for a token, in numbers of w bytes: its input D; query, key and value 3 D; attention's output D; the
    inputs of two norms 2 D; the feed-forward's input D; GELU's input F (its output is computed again:
    ernie_m.models.gelu_linear). This is equation 1 of Korthikanti et al. (arXiv 2205.05198) without dropout masks and
    attention matrix: 24 bytes instead of 34. In addition: fp32 statistics of two norms and of each head's softmax; SDPA's
    dense mask as a number per key, saved by every layer; for each dropout one byte a hidden number on GPUs (a mask), w on
    CPU (noise). With checkpointing a layer saves its input only, and one layer at a time is held in full.
    """
    T, D, S = batch.tokens, model.hidden_size, batch.sequence_length
    dropped = (1 if on_gpu else width) * D if model.dropout else 0
    layer = width * (8 * D + model.ffn_size) + 4 * (4 + model.num_heads) + 2 * dropped
    if sdpa:
        layer += width * S
    if model.attention_dropout:  # off the fast path: scores, weights and their dropout, for every head
        layer += 3 * width * model.num_heads * S
    embedding = width * D + 8 + dropped + 7 * 4 + (S if sdpa else 0)  # and the batch's seven integers, its bool mask
    if model.activation_checkpointing:
        return T * (embedding + model.num_layers * width * D), T * layer
    behind_attention = width * (3 * D + model.ffn_size) + 16 + 2 * dropped  # the last layer's of predicted ones alone
    return T * (embedding + model.num_layers * layer) - (T - batch.predicted) * behind_attention, 0.0


def logit_bytes(model: ModelConfig, predicted: float, width: int) -> tuple[float, float, float]:
    """Bytes of (logits, the sum of the weight's gradient over chunks, one chunk's gradient before it is added).

    Up to MAX_LOGITS there is one chunk; beyond that the gradients of chunks are added up in fp32.
    """
    D, V = model.hidden_size, model.vocab
    chunk = min(predicted, _chunk(model))
    many = 4.0 * V * D if predicted > chunk else 0.0
    return width * chunk * V + 4 * width * predicted * D, many, many if width < 4 else 0.0


def moments(model: ModelConfig, sharding: Sharding, batch: MicroBatch, sdpa: bool = True) -> Iterator[tuple[str, Memory]]:
    """The moments of a step at which a rank may hold most, each with its parts."""
    P, w, W, stage = parameter_count(model), sharding.width, sharding.num_ranks, sharding.zero_stage
    D, T = model.hidden_size, batch.tokens
    word_embedding = w * model.vocab * D
    fixed = dict.fromkeys(PARTS, 0.0) | standing(P, sharding)
    yield "update", fixed | _update(model, sharding)
    if stage == 3 and W > 1:
        fixed["weights"] += w * min(P, LIVE_PARAMETERS)  # gathered for the forward, kept for the backward
    # Stages 0 and 1 leave the gradient of all weights from one micro-batch to the next, 2 and 3 this rank's share of it.
    left = sharding.sums * (P if stage < 2 else P / W) if batch.accumulates else 0.0
    made = max(w * P, left) if stage < 2 else left + w * P / W
    saved, recomputed = activation_bytes(model, batch, w, sdpa, sharding.on_gpu)
    # The bucket is made at a step's first gradient, after the head of its first micro-batch; ZeRO-3's is never freed.
    early = fixed if batch.accumulates or stage == 3 else fixed | {"buckets": 0.0}
    logits, summed, cast = logit_bytes(model, batch.predicted, w)
    if batch.generating_rows:
        tokens = batch.generating_rows * batch.sequence_length
        hidden = tokens * (w * (8 * D + model.ffn_size) + (w + 1) * batch.sequence_length * sdpa)
        at_a_time = MAX_GENERATED["cuda" if sharding.on_gpu else "cpu"]
        generated = 4 * min(batch.placeholders * model.vocab, at_a_time)  # fp32 in any precision
        yield "generation", early | {"gradients": left, "activations": hidden, "logits": generated}
    in_head = early | {"gradients": left, "activations": saved}
    yield "head", in_head | {"logits": logits, "temporary": summed + cast + word_embedding}
    # The tied weight's gradient is kept beside the others until the embedding's own is added to it.
    whole = T * w * (model.ffn_size + 3 * D)
    last = {"gradients": left, "activations": saved + recomputed, "temporary": word_embedding + whole}
    yield "last layer", fixed | last
    adds_up = batch.accumulates and stage < 2 and sharding.sums == w  # autograd; GradientSums takes gradients away at once
    doubled = (2 if adds_up else 1) if sharding.on_gpu else adds_up or sharding.sums > w
    yield "embedding", fixed | {"gradients": made, "activations": 3.0 * T * w * D, "temporary": doubled * word_embedding}


def _update(model: ModelConfig, sharding: Sharding) -> Memory:
    """At Adam's step: the reduced gradient, also as fp32. Fused Adam needs no more."""
    P, w, stage = parameter_count(model), sharding.width, sharding.zero_stage
    if stage == 0:
        return {"gradients": w * P, "temporary": 4 * P if w < 4 else 0}
    share = P / sharding.num_ranks
    # Gradients of other ranks' weights are views of the bucket in stage 1; ZeRO-3 never frees its bucket.
    bucket_stays = stage == 3 or (stage == 1 and sharding.num_ranks > 1)
    bucket = sharding.bucket_bytes if bucket_stays else 0
    return {"gradients": (w if stage == 1 else sharding.sums) * share, "buckets": bucket, "temporary": 4 * share}


def _chunk(model: ModelConfig) -> int:
    return max(1, MAX_LOGITS // model.vocab)
