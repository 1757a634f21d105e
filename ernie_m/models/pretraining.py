"""The model that is pre-trained: a backbone with heads. The backbone computes states, the heads the losses.

Ranks call only `forward`: ZeRO-3 gathers weights there.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ernie_m.base.console import Choice
from ernie_m.models.head import Head, Targets
from ernie_m.models.heads import TokenHead
from ernie_m.models.loss import metric_sums, weighted_loss
from ernie_m.models.shape import ModelConfig
from ernie_m.models.tied_gradient import TiedGradient, tied_gradient
from ernie_m.rows.batch import Generation, LossRequest, PackedBatch, Sources
from ernie_m.rows.objective import TOKEN

T = TypeVar("T")
AllAgree = Callable[[bool], bool]
"""Whether every rank says yes; a collective."""
Generate = Callable[[Any, PackedBatch[Tensor]], Tensor]
"""(model, batch) -> what the model writes for it, in the forward of the model."""


def alone(mine: bool) -> bool:
    """Where there are no other ranks."""
    return mine


class PretrainingModel(nn.Module):
    """A backbone, with its `hidden_states`, and the heads that its objectives need."""

    heads: nn.ModuleDict
    backbone_prefix = ""
    """How the names of the backbone's parameters begin."""
    shape: ModelConfig
    """For counting FLOPs; of another backbone than ours, the shape of ours that computes as much."""

    @property
    @abstractmethod
    def choices(self) -> tuple[Choice, ...]:
        """What was chosen automatically, with reasons."""

    @abstractmethod
    def compile_for(self, batch: PackedBatch[Tensor]) -> None:
        """Compile the kernels for training on micro-batches of this shape: minutes with flex, nothing without it."""

    @property
    @abstractmethod
    def num_layers(self) -> int:
        """Layers of the backbone, L."""

    @abstractmethod
    def hidden_states(
        self,
        batch: PackedBatch[Tensor],
        layer: int | None = None,
        wanted_N: Tensor | None = None,
        tied: TiedGradient | None = None,
    ) -> Tensor:
        """Hidden states [B, S, D] after `layer` (0: embeddings; None: the last).

        `wanted_N`: flat positions in B x S; then only their states, [N, D]. `tied`: the object that the token head gets in
        the same forward.
        """

    @property
    def token_head(self) -> TokenHead:
        """The head that predicts tokens; BTMLM's generation uses it too."""
        return cast(TokenHead, self.heads[TOKEN])

    def forward(
        self, batch: PackedBatch[Tensor], request: LossRequest | None = None, generate: Generate | None = None
    ) -> tuple[Tensor, Tensor] | Tensor:
        """With a request: (loss, summed nll fp64 [M]). Without: BTMLM's generation, pseudo tokens int32 [K].

        With `generate`: what that gives for this model and batch.
        """
        if generate is not None:
            return generate(self, batch)
        if request is None:
            assert batch.generation is not None
            first = stage_1(batch, batch.generation)
            return self.token_head(self.hidden_states(first, wanted_N=batch.generation.placeholders_K))
        with torch.set_grad_enabled(torch.is_grad_enabled() and request.trains_backbone):
            tied = tied_gradient(batch.input_ids_BS) if TOKEN in self.heads else None
            targets = self._targets(batch)
            wanted = [head.wants(asked) for head, asked in zip(self._heads, targets, strict=True)]
            states_ND = self.hidden_states(batch, wanted_N=_joined(wanted), tied=tied)
        if not request.trains_backbone:
            states_ND.requires_grad_()  # it goes no further; ZeRO-3 frees a head's weights when its input has a gradient
        parts = states_ND.split([len(positions) for positions in wanted])
        nll_N = _joined([head(*part, tied) for head, *part in zip(self._heads, parts, targets, strict=True)])
        weighted_N = nll_N if request.weights_M is None else nll_N * request.weights_M[batch.metric_N.long()]
        loss = weighted_loss(weighted_N, batch.loss_N, request.scales_L)
        return loss, metric_sums(nll_N, batch.metric_N, request.num_metrics)

    @property
    def _heads(self) -> list[Head]:
        return cast(list[Head], [*self.heads.values()])

    def _targets(self, batch: PackedBatch[Tensor]) -> list[Targets]:
        """What each head must predict. Every head runs, on its own predictions."""
        sizes = [batch.head_sizes.get(name, 0) for name in self.heads]
        assert sum(sizes) == len(batch.predicted_N), f"predictions for {dict(batch.head_sizes)}, heads {[*self.heads]}"
        sources = _split(batch.sources, [*self.heads], sizes)
        columns = zip(batch.predicted_N.split(sizes), batch.labels_N.split(sizes), sources, strict=True)
        row_length = batch.input_ids_BS.shape[1]
        return [Targets(positions, labels, row_length, batch, read) for positions, labels, read in columns]


def _split(
    sources: Sources[Tensor] | None, heads: Sequence[str], num_predictions: Sequence[int]
) -> list[Sources[Tensor] | None]:
    """The sources of each head's predictions; None for a head whose predictions have none."""
    if sources is None:
        return [None] * len(heads)
    counts = sources.counts_N.split([*num_predictions])
    positions = sources.positions_P.split([sources.sizes.get(head, 0) for head in heads])
    own = zip(positions, counts, strict=True)
    return [Sources(*parts, sources.sizes) if len(parts[0]) else None for parts in own]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([*parts]) if len(parts) > 1 else parts[0]


@contextlib.contextmanager
def without_training(model: nn.Module) -> Iterator[None]:
    """No gradient and no dropout inside the block; the model's mode is restored after it."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def shares(
    rows: Sequence[T], padding: T, rows_at_a_time: int, rank: int, world_size: int, poll: Callable[[], None]
) -> Iterator[list[T]]:
    """This rank's rows, a forward at a time; every rank has as many forwards. `poll` is called before each."""
    together = world_size * rows_at_a_time
    padded = [*rows, *[padding] * (-len(rows) % together)]
    for start in range(0, len(padded), together):
        poll()
        yield padded[start : start + together][rank::world_size]


def stage_1(batch: PackedBatch[Tensor], generation: Generation[Tensor]) -> PackedBatch[Tensor]:
    """The rows with placeholders as BTMLM's generation reads them: not corrupted, with `generation_reads`."""
    rows = generation.rows_R.long()
    return replace(
        batch,
        input_ids_BS=generation.input_ids_RS,
        reads_BS=generation.reads_RS,
        **{
            name: getattr(batch, name)[rows]
            for name in ("position_ids_BS", "language_BS", "document_BS", "group_BS", "horizon_BS")
        },
    )
